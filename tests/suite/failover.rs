//! What clients see while backends fail, and when all of them do.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::balancer::Balancer;
use crate::support::redis::{RedisServer, free_port};
use crate::support::wait_until;

fn three_servers() -> [RedisServer; 3] {
    let servers = [(); 3].map(|()| RedisServer::start());
    servers.iter().for_each(fill);
    servers
}

fn fill(server: &RedisServer) {
    server.command(&["HSET", "actor:1", "first_name", "Mara"]);
}

#[test]
fn readers_see_no_error_while_one_then_two_of_three_backends_are_killed() {
    let mut servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let agent = ureq::agent();
                while !stop.load(Ordering::Relaxed) {
                    let mut answer = agent.get(lb.url("/actor:1")).call().expect("200");
                    let body = answer.body_mut().read_to_string().expect("a whole body");
                    assert_eq!(body, "{\n  \"first_name\": \"Mara\"\n}\n");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more_answers = || {
            let seen = answers.load(Ordering::Relaxed);
            wait_until("readers go on", || answers.load(Ordering::Relaxed) > seen + 500);
        };
        more_answers();
        servers[0].kill();
        more_answers();
        servers[1].kill();
        more_answers();
        stop.store(true, Ordering::Relaxed);
    });
    // A read that was under way may end well after the first that failed, so not exactly two.
    let failures = lb.log().matches(" is suspect: ").count();
    assert!((2..20).contains(&failures), "one line a failure, not one a read: {failures}");
}

#[test]
fn when_all_are_gone_the_answer_is_503_and_names_each_and_service_returns_without_a_restart() {
    let mut servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    assert_eq!(lb.get("/actor:1").status, 200);
    servers.iter_mut().for_each(RedisServer::kill);
    let answer = lb.get("/actor:1");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let failed = answer.json()["backends"].as_array().expect("a list").clone();
    for server in &servers {
        let entry = failed.iter().find(|entry| entry["backend"] == server.address());
        let error = entry.expect("each backend is named")["error"].as_str().expect("text");
        assert!(error.contains("refused"), "{error}");
    }
    servers.iter_mut().for_each(RedisServer::restart);
    servers.iter().for_each(fill);
    for _ in 0..6 {
        assert_eq!(lb.get("/actor:1").status, 200);
    }
}

#[test]
fn started_before_its_backends_it_warns_and_serves_once_they_come() {
    let mut server = RedisServer::start();
    server.kill();
    let gone = format!("127.0.0.1:{}", free_port());
    let lb = Balancer::start_at(&[server.address(), gone], &[]);
    wait_until("a warning", || lb.log().contains("no backend answers"));
    assert_eq!(lb.get("/actor:1").status, 503);
    server.restart();
    fill(&server);
    assert_eq!(lb.get("/actor:1").status, 200);
}

#[test]
fn a_silent_backend_costs_its_timeout_and_no_answer() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--backend-timeout", "300ms"]);
    servers[0].freeze();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(lb.get("/actor:1").status, 200);
    }
    assert!(began.elapsed().as_millis() >= 300, "one of three turns was the silent one's");
    servers[1].freeze();
    servers[2].freeze();
    let answer = lb.get("/actor:1");
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["backends"].as_array().map(Vec::len), Some(3));
    assert!(answer.json()["backends"][0]["error"].as_str().expect("text").contains("timed out"));
    servers.iter().for_each(RedisServer::thaw);
    assert_eq!(lb.get("/actor:1").status, 200);
}

#[test]
fn a_backend_that_cannot_answer_is_no_answer() {
    let good = RedisServer::start();
    fill(&good);
    let locked = RedisServer::start_with(&["--requirepass", "secret"]);
    // A replica without its primary that is told not to serve old data.
    let orphan = RedisServer::start_with(&["--replica-serve-stale-data", "no"]);
    orphan.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let lb = Balancer::start(&[&good, &locked, &orphan]);
    for _ in 0..6 {
        let answer = lb.get("/actor:1");
        assert_eq!((answer.status, answer.served_by()), (200, good.address().as_str()));
    }
    let lb = Balancer::start(&[&locked, &orphan]);
    let answer = lb.get("/actor:1");
    assert_eq!(answer.status, 503);
    let text = String::from_utf8(answer.body).expect("text");
    assert!(text.contains("NOAUTH") && text.contains("MASTERDOWN"), "{text}");
}

#[test]
fn passwords_databases_and_sockets_in_an_address_are_used_and_never_shown() {
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let mut direct = redis::Client::open(format!("redis://:hunter2@{}/3", server.address()))
        .and_then(|client| client.get_connection())
        .expect("a login");
    redis::cmd("SET").arg("a").arg("in three").exec(&mut direct).expect("SET");
    let by_name = format!("redis://:hunter2@localhost:{}/3", server.port());
    let by_socket = format!("redis+unix://{}?db=3&pass=hunter2", server.socket().display());
    for (address, name) in [
        (format!("redis://default:hunter2@{}/3", server.address()), server.address()),
        (by_name, format!("localhost:{}", server.port())),
        (by_socket, server.socket().display().to_string()),
    ] {
        let lb = Balancer::start_at(&[address], &[]);
        wait_until("the name is looked up", || lb.get("/a").status == 200);
        let answer = lb.get("/a");
        assert_eq!((answer.json(), answer.served_by()), ("in three".into(), name.as_str()));
        assert!(!lb.log().contains("hunter2") && !format!("{answer:?}").contains("hunter2"));
    }
}

/// What a new connection is asked before a client's commands, and a sound answer to each.
const GREETINGS: [(&[u8], &[u8]); 3] = [
    // A health check asks for more than one thing.
    (b"DBSIZE", b"+PONG\r\n$10\r\nrun_id:abc\r\n:0\r\n"),
    (b"INFO", b"$10\r\nrun_id:abc\r\n"),
    (b"COMMAND", b"*1\r\n*3\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n"),
];

/// A server whose connections each go to `talk`.
fn fake(talk: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let talk = talk.clone();
            thread::spawn(move || talk(stream));
        }
    });
    port
}

/// The sound answer to a question of [`GREETINGS`]; `None` to anything else.
fn greeting(asked: &[u8]) -> Option<&'static [u8]> {
    let is_asked = |name: &[u8]| asked.windows(name.len()).any(|word| word == name);
    GREETINGS.iter().find(|(name, _)| is_asked(name)).map(|(_, answer)| *answer)
}

/// A server that answers a connection's first bytes with `reply` and closes; the first after the
/// greetings, when it `greets`.
fn impostor(reply: Vec<u8>, greets: bool) -> u16 {
    fake(move |mut stream| {
        // Whatever fails here, the balancer sees a broken backend, as it should.
        let mut asked = [0; 1024];
        while let Ok(length) = stream.read(&mut asked) {
            match greeting(&asked[..length]).filter(|_| greets) {
                Some(answer) => drop(stream.write_all(answer)),
                None => return drop(stream.write_all(&reply)),
            }
        }
    })
}

#[test]
fn what_is_no_redis_reply_harms_nobody() {
    let good = RedisServer::start();
    fill(&good);
    let type_and_size = b"+hash\r\n:100\r\n".to_vec();
    for reply in [
        b"".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"+O".to_vec(),
        format!("+{}\r\n:1\r\n", "é€".repeat(100)).into_bytes(),
        b"+hash\r\n$9223372036854775807\r\nabc".to_vec(),
        [&type_and_size[..], b"*4294967295\r\n$1\r\na\r\n"].concat(),
        [&type_and_size[..], b"*99999999999999\r\n"].concat(),
        [&type_and_size[..], b"*2\r\n$-5\r\n"].concat(),
        [&type_and_size[..], b"*1\r\n*1\r\n*1\r\n"].concat(),
        [&type_and_size[..], b"*2\r\n$9223372036854775807\r\nabc"].concat(),
        vec![b'+'; 100_000],
        vec![b'\n'; 100],
    ] {
        for greets in [true, false] {
            let impostor = format!("127.0.0.1:{}", impostor(reply.clone(), greets));
            let lb = Balancer::start_at(&[impostor.clone(), good.address()], &[]);
            let shown = String::from_utf8_lossy(&reply[..reply.len().min(40)]).into_owned();
            for path in ["/actor:1", "/actor:1", "/", "/?limit=1"] {
                let answer = lb.get(path);
                let served = (answer.status, answer.served_by().to_owned());
                // A type that we don't know is an answer; everything else is none.
                assert!(
                    served == (200, good.address()) || served == (415, impostor.clone()),
                    "{shown}: {answer:?}"
                );
            }
            assert!(!lb.log().contains("panicked"), "{shown}: {}", lb.log());
        }
    }
}

/// A server that answers a look at a key with a short string, and GET with `reply`, and goes on.
fn scripted(reply: &'static [u8]) -> u16 {
    fake(move |mut stream| {
        let mut asked = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut asked) {
            let asked = &asked[..length];
            let has = |name: &[u8]| asked.windows(name.len()).any(|word| word == name);
            // Behind a first read the value is asked for together with the look.
            let mut replies = Vec::new();
            if has(b"TYPE") || !has(b"GET") {
                replies.extend(greeting(asked).unwrap_or(b"+string\r\n:50\r\n"));
            }
            if has(b"GET") {
                replies.extend(reply);
            }
            let _ = stream.write_all(&replies);
        }
    })
}

#[test]
fn bytes_that_nobody_asked_for_are_no_answer_to_the_next_client() {
    let port = scripted(b"$5\r\nhello\r\n+string\r\n:50\r\n$6\r\nSTOLEN\r\n");
    let lb = Balancer::start_at(&[format!("127.0.0.1:{port}")], &[]);
    for _ in 0..6 {
        assert_eq!(lb.get("/key").json(), "hello");
    }
}

#[test]
fn large_reads_that_wait_for_a_frozen_backend_go_elsewhere_together() {
    let servers = [(); 2].map(|()| RedisServer::start());
    for server in &servers {
        server.command(&["SETRANGE", "large", "20000000", "x"]);
    }
    // Half of them go to the frozen one: its timeout once is 3 s, one after the other 24 s. No check
    // is due meanwhile.
    let arguments = ["--backend-timeout", "3s", "--check-interval", "60s"];
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let began = Instant::now();
    servers[0].freeze();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let answer = lb.get("/large?format=raw");
                assert!(answer.status == 200 && answer.is_whole);
            });
        }
    });
    assert!(
        began.elapsed().as_secs() < 15,
        "not one timeout after the other: {:?}",
        began.elapsed()
    );
}
