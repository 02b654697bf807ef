//! HTTP reads that go by a shared connection: the same answers as in the usual way, whatever is found
//! there and however the backend, or the client, behaves meanwhile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::balancer::Balancer;
use crate::support::client::Client;
use crate::support::observe::{leases, metric};
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::wait_until;

/// Nearly as long as a reply may be that is held until it is whole.
const LARGE_BYTES: usize = 60_000;

/// With `a:N` as strings.
fn filled() -> RedisServer {
    let server = RedisServer::start();
    for number in 0..10 {
        server.command(&["SET", &format!("a:{number}"), &format!("value {number}")]);
    }
    server.command(&["SET", "a:large", &"x".repeat(LARGE_BYTES)]);
    server
}

/// How often `TYPE` was called: once for each read that is none of these.
fn looks(server: &RedisServer) -> usize {
    let stats: String =
        redis::cmd("INFO").arg("commandstats").query(&mut server.connect()).expect("stats");
    let calls = stats.split("cmdstat_type:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

/// Reads `key` until its like go by a shared connection, to each server.
fn warm_up<'a>(lb: &Balancer, servers: impl IntoIterator<Item = &'a RedisServer>, key: &str) {
    let servers: Vec<_> = servers.into_iter().collect();
    let all_looks = || servers.iter().map(|server| looks(server)).sum::<usize>();
    wait_until("reads go by a shared connection", || {
        let before = all_looks();
        // They take turns.
        servers.iter().for_each(|_| drop(lb.get(&format!("/{key}"))));
        all_looks() == before
    });
}

#[test]
fn a_read_whose_like_was_read_is_one_command() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    lb.get("/a:0");
    let before = looks(&server);
    for number in 0..10 {
        assert_eq!(lb.get(&format!("/a:{number}")).json(), format!("value {number}"));
    }
    assert_eq!(looks(&server), before);
    wait_until("no lease is left", || leases(&lb) == [0]);
}

/// What a key may hold whose like are strings, or streams.
const ODD: [&[&str]; 11] = [
    &["SET", "KEY", "a string"],
    &["SET", "KEY", "\u{1}\"\\é"],
    &["SETRANGE", "KEY", "59999", "x"],
    &["SETRANGE", "KEY", "199999", "x"],
    &["RPUSH", "KEY", "x", "y"],
    &["HSET", "KEY", "f", "1"],
    &["SADD", "KEY", "m"],
    &["ZADD", "KEY", "1.5", "m"],
    &["XADD", "KEY", "1-1", "f", "v"],
    &["XGROUP", "CREATE", "KEY", "empty", "$", "MKSTREAM"],
    // None at all.
    &["DEL", "KEY"],
];

#[test]
fn answers_are_those_of_reads_that_look_first() {
    let server = filled();
    let quick = Balancer::start(&[&server]);
    // Who is held is read in the usual way.
    let usual = Balancer::start_with(&[&server], &["--demo-delay", "1ms"]);
    let requests = [
        "GET /KEY HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "HEAD /KEY HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /KEY HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\n\r\n",
        "GET /KEY HTTP/1.0\r\n\r\n",
        "GET /KEY HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ];
    for (family, (store, request, like)) in ODD
        .iter()
        .flat_map(|store| requests.map(|request| (store, request)))
        .flat_map(|(store, request)| {
            [&["SET", "KEY", "s"][..], &["XADD", "KEY", "1-1", "f", "v"]]
                .map(|like| (*store, request, like))
        })
        .enumerate()
    {
        let (like_key, key) = (format!("{family}:like"), format!("{family}:odd"));
        let with = |command: &[&str], key: &str| -> Vec<String> {
            command.iter().map(|word| word.replace("KEY", key)).collect()
        };
        server.command(&with(like, &like_key));
        server.command(&with(store, &key));
        warm_up(&quick, [&server], &like_key);
        let request = request.replace("KEY", &key);
        let (quick, usual) = (ask(&quick, &request), ask(&usual, &request));
        assert_eq!(undated(&quick), undated(&usual), "{request} of {store:?} among {like:?}");
    }
}

/// All that comes for one request.
fn ask(lb: &Balancer, request: &str) -> String {
    let mut stream = lb.connect();
    stream.write_all(request.as_bytes()).expect("lb reads");
    // Where the connection would go on, this ends it.
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and the end");
    String::from_utf8_lossy(&answer).into_owned()
}

fn undated(answer: &str) -> String {
    let lines = answer.split_inclusive("\r\n");
    lines
        .filter(|line| !line.starts_with("Date: ") && !line.starts_with("Server-Timing: "))
        .collect()
}

#[test]
fn wherever_a_shared_connection_fails_the_read_is_answered() {
    let servers = [filled(), filled()];
    let relays = servers.each_ref().map(Relay::start);
    let lb =
        Balancer::start_at(&relays.each_ref().map(Relay::address), &["--backend-timeout", "200ms"]);
    let reply_length = "$7\r\nvalue 5\r\n".len();
    for fault in [Fault::Reset, Fault::Close, Fault::Garbage, Fault::Silence, Fault::Slices(100)] {
        for at in [0, 1, 4, reply_length - 1] {
            warm_up(&lb, &servers, "a:1");
            let rule = Rule::new(fault).asked("a:5\r\n").after(at).times(1);
            relays.iter().for_each(|relay| relay.add(&rule));
            let answer = lb.get("/a:5");
            assert_eq!(answer.json(), "value 5", "{fault:?} at {at}: {answer:?}");
            assert_eq!(rule.happened(), 1, "{fault:?} at {at}");
            relays.iter().for_each(Relay::clear);
        }
    }
    wait_until("no lease is left", || leases(&lb) == [0, 0]);
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    warm_up(&lb, [&server], "a:1");
    let mut client = lb.client();
    for round in 0..50 {
        // Some at once, some while the one before is under way.
        for number in 0..5 {
            client.send(get(number));
        }
        client.send((5..10).map(get).collect::<String>());
        for number in 0..10 {
            let answer = client.answer().expect("an answer");
            assert_eq!(answer.json(), format!("value {number}"), "in round {round}");
        }
    }
}

fn get(number: usize) -> String {
    format!("GET /a:{number} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[test]
fn a_client_that_takes_little_at_a_time_gets_all() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    warm_up(&lb, [&server], "a:1");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(2048).expect("a small buffer");
    let address: std::net::SocketAddr = ([127, 0, 0, 1], lb.port()).into();
    socket.connect(&address.into()).expect("lb accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut client = Client::new(stream);
    for key in ["a:large", "a:1"] {
        client.send(format!("GET /{key} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        // Others go on meanwhile.
        for _ in 0..20 {
            assert_eq!(lb.get("/a:2").json(), "value 2");
        }
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.json(), lb.get(&format!("/{key}")).json());
    }
}

#[test]
fn clients_that_leave_at_once_leave_nothing_behind() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    warm_up(&lb, [&server], "a:1");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..200 {
                    let mut client = lb.client();
                    let key = number % 10;
                    client.send(get(key));
                    if number % 2 == 0 {
                        drop(client);
                    } else {
                        let answer = client.answer().expect("an answer");
                        assert_eq!(answer.json(), format!("value {key}"));
                    }
                }
            });
        }
    });
    wait_until("no lease is left", || leases(&lb) == [0]);
}

#[test]
fn who_guessed_wrong_reads_again_at_once_and_pays_for_retries_once() {
    const READS: usize = 25;
    let server = filled();
    let lb = Balancer::start(&[&server]);
    for number in 0..2 * READS {
        server.command(&["SET", &format!("like:{number}:a"), "x"]);
        match number % 2 {
            0 => server.command(&["RPUSH", &format!("like:{number}:b"), "x"]),
            _ => server.command(&["SETRANGE", &format!("like:{number}:b"), "199999", "x"]),
        };
    }
    warm_up(&lb, [&server], "a:1");
    for is_long in [false, true] {
        let mut client = lb.client();
        let budget = metric(&lb, "redis_lb_retry_budget");
        let mut fastest = Duration::MAX;
        for number in (0..2 * READS).filter(|number| (number % 2 == 1) == is_long) {
            for key in ["a", "b"] {
                let began = Instant::now();
                client
                    .send(format!("GET /like:{number}:{key} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                assert_eq!(client.answer().expect("an answer").status, 200);
                if key == "b" {
                    fastest = fastest.min(began.elapsed());
                }
            }
        }
        // A thread that looks up every 20 ms would need half of that on average.
        assert!(fastest < Duration::from_millis(10), "{fastest:?}");
        let paid = metric(&lb, "redis_lb_retry_budget") - budget;
        assert!(paid <= (2 * READS) as f64 / 5.0 + 1.0, "{paid} for {READS} pairs of reads");
    }
}
