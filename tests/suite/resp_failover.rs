//! What Redis clients see while backends fail: the right replies, as long as one can answer.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::SetOnDrop;
use crate::support::balancer::Balancer;
use crate::support::observe::{clients_of, connections, leases, states};
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

const KEYS: usize = 50;

fn filled() -> RedisServer {
    filled_with(&[])
}

fn filled_with(arguments: &[&str]) -> RedisServer {
    let server = RedisServer::start_with(arguments);
    fill(&server);
    server
}

fn fill(server: &RedisServer) {
    let mut pipe = redis::pipe();
    for number in 0..KEYS {
        pipe.set(format!("key:{number}"), format!("value {number}"));
    }
    pipe.exec(&mut server.connect()).expect("the server takes them");
}

/// Each says by a key which it is.
fn numbered() -> [RedisServer; 2] {
    ["0", "1"].map(|number| {
        let server = RedisServer::start();
        server.command(&["SET", "number", number]);
        server
    })
}

/// Reads all keys in one batch.
fn read_all(session: &mut RespClient) {
    let bytes: Vec<u8> =
        (0..KEYS).flat_map(|number| encode(&["GET", &format!("key:{number}")])).collect();
    session.send_raw(bytes);
    for number in 0..KEYS {
        let value = format!("value {number}");
        let reply = String::from_utf8_lossy(&session.reply()).into_owned();
        assert_eq!(reply, format!("${}\r\n{value}\r\n", value.len()));
    }
}

#[test]
fn a_session_goes_on_while_one_backend_after_the_other_is_killed() {
    let mut servers = [(); 3].map(|()| filled());
    let lb = Balancer::start(&servers.each_ref());
    let mut session = RespClient::connect(lb.port());
    read_all(&mut session);
    for server in &mut servers[..2] {
        server.kill();
        read_all(&mut session);
    }
}

#[test]
fn pipelines_get_every_reply_right_while_backends_are_killed() {
    let mut servers = [(); 3].map(|()| filled());
    let lb = Balancer::start(&servers.each_ref());
    let (is_over, batches) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        let readers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut session = RespClient::connect(lb.port());
                    while !is_over.load(Ordering::Relaxed) {
                        read_all(&mut session);
                        batches.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let more_batches = || {
            let seen = batches.load(Ordering::Relaxed);
            wait_until("readers go on", || batches.load(Ordering::Relaxed) > seen + 100);
        };
        more_batches();
        servers[0].kill();
        more_batches();
        servers[0].restart();
        fill(&servers[0]);
        servers[1].kill();
        more_batches();
        servers[2].kill();
        more_batches();
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("no error, no wrong reply"));
    });
}

#[test]
fn a_silent_backend_costs_its_timeout_and_no_reply() {
    let servers = [(); 2].map(|()| filled());
    // No check is due while this test runs: the silence is noticed by who reads.
    let arguments = ["--backend-timeout", "300ms", "--check-interval", "60s"];
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
    sessions.iter_mut().for_each(read_all);
    let failed_tries = || lb.get("/-/status.json").json()["backends"][0]["errors"].as_u64();
    assert_eq!(failed_tries(), Some(0));
    servers[0].freeze();
    let began = Instant::now();
    sessions.iter_mut().for_each(read_all);
    assert!(began.elapsed().as_millis() >= 300, "one of them had to wait");
    let failed = failed_tries();
    assert!(failed > Some(0), "one of them has tried");
    sessions.iter_mut().for_each(read_all);
    assert_eq!(failed_tries(), failed, "it reads elsewhere now");
}

#[test]
fn when_all_are_gone_each_is_named_and_the_session_goes_on_when_one_returns() {
    let mut servers = [(); 2].map(|()| filled());
    let lb = Balancer::start(&servers.each_ref());
    let mut session = RespClient::connect(lb.port());
    read_all(&mut session);
    servers.iter_mut().for_each(RedisServer::kill);
    session.send_raw(
        [encode(&["GET", "key:1"]), encode(&["PING"]), encode(&["GET", "key:2"])].concat(),
    );
    for is_ours in [false, true, false] {
        let reply = String::from_utf8(session.reply()).expect("text");
        if is_ours {
            assert_eq!(reply, "+PONG\r\n");
            continue;
        }
        assert!(reply.starts_with("-ERR no backend could answer: "), "{reply}");
        assert!(servers.iter().all(|server| reply.contains(&server.address())), "{reply}");
    }
    for command in ["SELECT 1", "INFO", "HELLO 3", "SCAN 0", "WATCH a", "SUBSCRIBE a"] {
        let reply = session.call(command);
        assert!(reply.starts_with("-ERR no backend could answer: "), "{command}: {reply}");
    }
    servers[1].restart();
    fill(&servers[1]);
    read_all(&mut session);
    assert_eq!(session.call("GET none"), "$-1\r\n", "database and protocol are as before");
}

#[test]
fn a_server_that_was_never_there_is_not_waited_for_by_each_command() {
    let server = RedisServer::start();
    server.freeze();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let began = Instant::now();
    session.send_raw(encode(&["PING"]).repeat(60));
    (0..60).for_each(|_| assert_eq!(session.reply(), b"+PONG\r\n"));
    // Each would wait for a second.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_would_write_on_a_server_that_returns_with_other_commands_is_not_sent() {
    for (before, last) in [(&["GET key:1"][..], "GET key:1"), (&["MULTI", "GET none"], "EXEC")] {
        let mut server = filled();
        let lb = Balancer::start_with(&[&server], &["--backend-timeout", "25s"]);
        let mut session = RespClient::connect(lb.port());
        for command in before {
            session.call(command);
        }
        server.kill();
        restart_with_write_as(&mut server, "GET", "INCR");
        // A refusal: had it waited for a reply, the client would have given up before, after 20 s.
        let reply = session.call(last);
        assert!(reply.starts_with('-'), "{last}: {reply}");
        assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(0), "{last}: {reply}");
    }
}

#[test]
fn what_would_write_on_a_server_that_returns_is_not_sent_over_anothers_connection() {
    let mut servers = numbered();
    let lb = Balancer::start_with(&servers.each_ref(), &["--backend-timeout", "500ms"]);
    let [mut waiting, mut other] = [(); 2].map(|()| RespClient::connect(lb.port()));
    if waiting.call("GET number") == bulk("1") {
        servers.swap(0, 1);
    }
    other.call("GET number");
    let [frozen, returned] = &mut servers;
    returned.kill();
    restart_with_write_as(returned, "EXISTS", "DEL");
    returned.command(&["SET", "key", "value"]);
    frozen.freeze();
    waiting.send(&["EXISTS", "key"]);
    // Meets the server anew, and leaves a connection for whoever comes from the frozen one.
    assert_eq!(other.call("GET key"), bulk("value"));
    let reply = String::from_utf8(waiting.reply()).expect("text");
    assert!(reply.starts_with('-'), "{reply}");
    assert_eq!(other.call("GET key"), bulk("value"));
}

#[test]
fn what_is_under_way_is_judged_again_where_it_is_sent_next() {
    let mut servers = numbered();
    let lb = Balancer::start_with(&servers.each_ref(), &["--backend-timeout", "2s"]);
    let [mut waiting, mut other] = [(); 2].map(|()| RespClient::connect(lb.port()));
    // By then they go by shared connections.
    let mut read_both = || [&mut waiting, &mut other].map(|client| client.call("GET number"));
    let [of_waiting, of_other] = [(); 3].map(|()| read_both())[2].clone();
    assert_ne!(of_waiting, of_other);
    if of_waiting == bulk("1") {
        servers.swap(0, 1);
    }
    let [frozen, returned] = &mut servers;
    frozen.command(&["SET", "key", "value"]);
    returned.kill();
    restart_with_write_as(returned, "EXISTS", "DEL");
    returned.command(&["SET", "key", "value"]);
    frozen.freeze();
    let (exists, get) = (encode(&["EXISTS", "key"]), encode(&["GET", "key"]));
    waiting.send_raw(&exists);
    thread::sleep(Duration::from_millis(100));
    // Meets the server anew.
    assert_eq!(other.call("GET key"), bulk("value"));
    // More than may be under way at once, with a command that has come to be refused in between.
    const PAIRS: usize = 1500;
    waiting.send_raw([&get[..], &exists].concat().repeat(PAIRS));
    assert!(waiting.reply().starts_with(b"-"), "it went to a server where it is a write");
    for pair in 0..PAIRS {
        let reply = String::from_utf8(waiting.reply()).expect("text");
        assert_eq!(reply, bulk("value"), "in pair {pair}");
        assert!(waiting.reply().starts_with(b"-"), "in pair {pair}");
    }
    assert_eq!(other.call("GET key"), bulk("value"));
}

/// Starts a killed server again, where `read` is now another name of `write`.
fn restart_with_write_as(server: &mut RedisServer, read: &str, write: &str) {
    server.restart_with(&["--rename-command", read, "", "--rename-command", write, read]);
}

#[test]
fn a_pipeline_of_commands_that_are_slow_together_is_answered() {
    let server = RedisServer::start();
    let arguments = ["--backend-timeout", "300ms", "--allow-scripts"];
    let lb = Balancer::start_with(&[&server], &arguments);
    let mut session = RespClient::connect(lb.port());
    let script = "local function now() local t = redis.call('TIME') return t[1] * 1e6 + t[2] end
        local began = now() repeat until now() > began + 20000 return 1";
    session.send_raw(encode(&["EVAL_RO", script, "0"]).repeat(40));
    (0..40).for_each(|_| assert_eq!(String::from_utf8_lossy(&session.reply()), ":1\r\n"));
}

#[test]
fn what_only_looks_like_a_failure_is_passed_on() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--allow-scripts"]);
    let mut session = RespClient::connect(lb.port());
    let error = "return redis.error_reply('BUSY x')";
    session.send_raw([encode(&["EVAL_RO", error, "0"]), encode(&["GET", "none"])].concat());
    assert_eq!(session.reply(), b"-BUSY x\r\n");
    assert_eq!(session.reply(), b"$-1\r\n");
    // Pieces of a long value, one of which begins like an error.
    for shift in 0..6 {
        let value = format!("{}{}", "x".repeat(shift), "-BUSY ".repeat(15_000));
        server.command(&["SET", "value", &value]);
        assert!(session.call("GET value") == bulk(&value), "{shift}: another reply");
    }
}

/// Reads must come from `good` while `bad` answers something that is no answer.
fn assert_passed_over(bad: String, good: &RedisServer, why: &str) {
    let lb = Balancer::start_at(&[bad.clone(), good.address()], &[]);
    for _ in 0..4 {
        read_all(&mut RespClient::connect(lb.port()));
    }
    assert!(lb.log().contains(&bad));
    // Some servers close before they have read what they were asked: then their word may be lost.
    let info = || RespClient::connect(lb.port()).call("INFO balancer");
    wait_until("it is said why", || info().contains(why));
}

#[test]
fn a_backend_with_too_many_clients_or_without_our_password_is_passed_over() {
    let good = filled();
    let full = filled_with(&["--maxclients", "4"]);
    let mut others = Vec::new();
    loop {
        let mut other = RespClient::connect(full.port());
        match &*other.call("PING") {
            "+PONG\r\n" => others.push(other),
            reply => break assert!(reply.starts_with("-ERR max number of clients"), "{reply}"),
        }
    }
    assert_passed_over(full.address(), &good, "max number of clients reached");
    let locked = RedisServer::start_with(&["--requirepass", "secret"]);
    assert_passed_over(locked.address(), &good, "NOAUTH");
    let wrong = RedisServer::start_with(&["--requirepass", "secret"]);
    let lb =
        Balancer::start_at(&[format!("redis://:wrong@{}", wrong.address()), good.address()], &[]);
    (0..4).for_each(|_| read_all(&mut RespClient::connect(lb.port())));
    wait_until("it is logged", || lb.log().contains("WRONGPASS"));
    assert_passed_over(format!("127.0.0.1:{}", protected()), &good, "DENIED");
}

/// Says what a server in protected mode says to who comes from elsewhere.
fn protected() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whatever fails here, the balancer sees a broken backend, as it should.
            let _ = stream.write_all(b"-DENIED Redis is running in protected mode\r\n");
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    port
}

#[test]
fn a_replica_that_has_lost_its_primary_is_passed_over() {
    let good = filled();
    let orphan = filled_with(&["--replica-serve-stale-data", "no"]);
    let lb = Balancer::start(&[&orphan, &good]);
    let mut sessions = [(); 4].map(|()| RespClient::connect(lb.port()));
    sessions.iter_mut().for_each(read_all);
    orphan.command(&["REPLICAOF", "127.0.0.1", "1"]);
    sessions.iter_mut().for_each(read_all);
    wait_until("it is logged", || lb.log().contains("MASTERDOWN"));
    let alone = Balancer::start(&[&orphan]);
    let reply = RespClient::connect(alone.port()).call("GET key:1");
    assert!(
        reply.starts_with("-ERR no backend could answer: ") && reply.contains("MASTERDOWN"),
        "{reply}"
    );
}

#[test]
fn a_server_that_is_loading_its_data_is_passed_over_until_it_is_done() {
    let good = filled();
    let mut loading = filled();
    let mut pipe = redis::pipe();
    for number in 0..20_000 {
        pipe.set(format!("more:{number}"), "x").ignore();
    }
    pipe.exec(&mut good.connect()).expect("the server takes them");
    pipe.cmd("SAVE").exec(&mut loading.connect()).expect("the server takes them");
    let lb = Balancer::start(&[&loading, &good]);
    let mut sessions = [(); 4].map(|()| RespClient::connect(lb.port()));
    sessions.iter_mut().for_each(read_all);
    loading.kill();
    loading.restart_slowly();
    let mut direct = RespClient::connect(loading.port());
    assert!(direct.call("GET key:1").starts_with("-LOADING"));
    sessions.iter_mut().for_each(read_all);
    read_all(&mut RespClient::connect(lb.port()));
    assert!(direct.call("GET key:1").starts_with("-LOADING"), "it was loading all the time");
    wait_until("it is done", || direct.call("GET key:1").starts_with('$'));
    read_all(&mut RespClient::connect(lb.port()));
}

#[test]
fn a_server_busy_with_a_script_is_passed_over() {
    let good = filled();
    let busy = filled_with(&["--busy-reply-threshold", "20"]);
    let lb = Balancer::start(&[&busy, &good]);
    let mut sessions = [(); 4].map(|()| RespClient::connect(lb.port()));
    sessions.iter_mut().for_each(read_all);
    let mut spinning = RespClient::connect(busy.port());
    spinning.send(&["EVAL", "while true do end", "0"]);
    let mut direct = RespClient::connect(busy.port());
    wait_until("it is busy", || direct.call("GET key:1").starts_with("-BUSY"));
    sessions.iter_mut().for_each(read_all);
    read_all(&mut RespClient::connect(lb.port()));
    wait_until("it is logged", || lb.log().contains("BUSY"));
    assert_eq!(direct.call("SCRIPT KILL"), "+OK\r\n");
}

#[test]
fn a_reply_up_to_64_kib_that_breaks_off_comes_whole_from_another_backend() {
    let server = RedisServer::start();
    let value = "abcdefgh".repeat(7 * 1024);
    server.command(&["SET", "value", &value]);
    let expected = format!("${}\r\n{value}\r\n", value.len());
    for after in [0, 1, 7, 20_000, expected.len() - 1] {
        let relay = Relay::with(&server, &Rule::new(Fault::Close).asked("value").after(after));
        let lb = Balancer::start_at(&[relay.address(), server.address()], &[]);
        let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
        for session in &mut sessions {
            session.send_raw(
                [encode(&["GET", "none"]), encode(&["GET", "value"]), encode(&["STRLEN", "value"])]
                    .concat(),
            );
            assert_eq!(session.reply(), b"$-1\r\n");
            assert!(session.reply() == expected.as_bytes(), "{after}: another reply");
            assert_eq!(session.reply(), format!(":{}\r\n", value.len()).as_bytes());
        }
        assert!(relay.faults() > 0, "{after}");
    }
}

#[test]
fn a_longer_reply_that_breaks_off_ends_the_connection_with_no_wrong_byte() {
    let server = RedisServer::start();
    let value: String = (0..40_000).map(|number| format!("{number:05}")).collect();
    server.command(&["SET", "value", &value]);
    let expected = format!("$5\r\nfirst\r\n${}\r\n{value}\r\n", value.len());
    for after in [90_000, 150_000, 200_001] {
        let relay = Relay::with(&server, &Rule::new(Fault::Close).asked("value").after(after));
        let lb = Balancer::start_at(&[relay.address()], &[]);
        let mut stream = lb.connect();
        let commands = [encode(&["ECHO", "first"]), encode(&["GET", "value"]), encode(&["PING"])];
        stream.write_all(&commands.concat()).expect("lb reads");
        let mut came = Vec::new();
        stream.read_to_end(&mut came).expect("an end");
        assert!(came.len() > 64 * 1024 && came.len() < expected.len(), "{}", came.len());
        assert!(expected.as_bytes().starts_with(&came), "{after}: wrong bytes");
    }
}

#[test]
fn a_watch_whose_backend_dies_is_like_a_key_that_was_touched() {
    for (hello, null) in [(None, "*-1\r\n"), (Some("HELLO 3"), "_\r\n")] {
        let mut first = filled();
        let second = filled();
        let lb = Balancer::start(&[&first, &second]);
        let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
        for session in &mut sessions {
            hello.map(|hello| session.call(hello));
            assert_eq!(session.call("WATCH key:1"), "+OK\r\n");
        }
        first.kill();
        let mut execs = Vec::new();
        for session in &mut sessions {
            // One reads in between and finds out, one does not.
            read_all(session);
            for command in ["MULTI", "GET key:1"] {
                session.call(command);
            }
            execs.push(session.call("EXEC"));
            read_all(session);
        }
        execs.sort();
        let whole = "*1\r\n$7\r\nvalue 1\r\n";
        assert!(execs.contains(&null.to_owned()) && execs.contains(&whole.to_owned()), "{execs:?}");
    }
}

#[test]
fn a_watch_whose_backend_is_full_ends_with_null_and_leaves_no_trace() {
    let servers = numbered();
    let lb = Balancer::start_with(&servers.each_ref(), &["--slow-start", "0s"]);
    let mut session = RespClient::connect(lb.port());
    let first = session.call("GET number");
    let [watched, other] = if first == bulk("0") { [0, 1] } else { [1, 0] };
    session.call("WATCH number");
    session.call("HELLO 3");
    let mut direct = RespClient::connect(servers[watched].port());
    direct.call("CONFIG SET maxclients 2");
    assert!(session.call("SUBSCRIBE news").starts_with('>'));
    direct.call("CONFIG SET maxclients 1000");
    session.call("MULTI");
    session.call("GET number");
    assert_eq!(session.call("EXEC"), "_\r\n");
    assert_eq!(session.call("GET number"), bulk(&other.to_string()));
    drop((session, direct));
    wait_until("it has left", || leases(&lb) == [0, 0]);
    wait_until("both are up", || states(&lb) == ["up", "up"]);
    let mut sessions = [(); 6].map(|()| RespClient::connect(lb.port()));
    let mut numbers = sessions.each_mut().map(|session| {
        session.call("HELLO 3");
        let number = session.call("GET number");
        assert_eq!(session.call("GET number"), number);
        number
    });
    numbers.sort();
    assert_eq!(numbers, ["0", "0", "0", "1", "1", "1"].map(bulk));
    wait_until("it has the connections that it says", || {
        connections(&lb) == servers.each_ref().map(clients_of)
    });
}

#[test]
fn a_touched_key_that_was_watched_is_noticed() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    for is_touched in [false, true, false] {
        session.call("WATCH key:1 none");
        session.call("MULTI");
        session.call("GET key:2");
        if is_touched {
            server.command(&["SET", "none", "1"]);
        }
        let expected = if is_touched { "*-1\r\n" } else { "*1\r\n$7\r\nvalue 2\r\n" };
        assert_eq!(session.call("EXEC"), expected);
    }
}

#[test]
fn a_transaction_whose_backend_dies_is_done_whole_on_another() {
    let server = filled();
    // Within the replies to MULTI and what is queued, and within that to EXEC.
    for after in [0, 3, 16, 30] {
        let relay = Relay::with(&server, &Rule::new(Fault::Close).asked("EXEC").after(after));
        let lb = Balancer::start_at(&[relay.address(), server.address()], &[]);
        let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
        for session in &mut sessions {
            for command in ["MULTI", "GET key:1", "GET key:2"] {
                session.call(command);
            }
            assert_eq!(session.call("EXEC"), "*2\r\n$7\r\nvalue 1\r\n$7\r\nvalue 2\r\n", "{after}");
        }
        assert!(relay.faults() > 0, "{after}");
    }
}

/// Random commands and the replies to them, for a server that [`fill_for_chaos`] has filled.
struct Chaos {
    database: u8,
    commands: Vec<u8>,
    replies: Vec<String>,
}

impl Chaos {
    fn add(&mut self, command: &str, reply: impl Into<String>) {
        self.commands.extend(encode(&command.split(' ').collect::<Vec<_>>()));
        self.replies.push(reply.into());
    }

    fn add_silent(&mut self, command: &str) {
        self.add("CLIENT REPLY SKIP", "");
        self.add(command, "");
        self.replies.truncate(self.replies.len() - 2);
    }

    fn add_any(&mut self) {
        let here = format!("$1\r\n{}\r\n", self.database);
        let length = [10, 3000, 20_000, 65_000][fastrand::usize(0..4)];
        let value = bulk(&"v".repeat(length));
        match fastrand::u8(0..10) {
            0 => self.add("ECHO hello", bulk("hello")),
            1 => self.add("GET database", here),
            2 => self.add("HSCAN hash 0", "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n"),
            3 => self.add("SELECT 99", "-ERR DB index is out of range\r\n"),
            4 => self.add_silent(&format!("GET value:{length}")),
            5 => {
                self.database = fastrand::u8(0..3);
                self.add(&format!("SELECT {}", self.database), "+OK\r\n");
            }
            6 => {
                self.add("MULTI", "+OK\r\n");
                self.add("GET database", "+QUEUED\r\n");
                self.add("GET value:20000", "+QUEUED\r\n");
                self.add("EXEC", format!("*2\r\n{here}{}", bulk(&"v".repeat(20_000))));
            }
            _ => self.add(&format!("GET value:{length}"), value),
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn fill_for_chaos(server: &RedisServer) {
    let mut pipe = redis::pipe();
    for database in 0..3 {
        pipe.cmd("SELECT").arg(database).set("database", database).hset("hash", "f", "v");
        for length in [10, 3000, 20_000, 65_000] {
            pipe.set(format!("value:{length}"), "v".repeat(length));
        }
    }
    pipe.exec(&mut server.connect()).expect("the server takes them");
}

#[test]
fn wherever_connections_break_off_each_reply_is_right() {
    let servers = [(); 2].map(|()| RedisServer::start());
    servers.iter().for_each(fill_for_chaos);
    let breaks_off = Rule::new(Fault::Close).within(0..400_000);
    let relays = [(); 2].map(|()| Relay::with(&servers[0], &breaks_off));
    let backends = [relays[0].address(), servers[1].address(), relays[1].address()];
    let lb =
        Balancer::start_at(&backends, &["--backend-connections", "8", "--backend-timeout", "5s"]);
    let deadline = Instant::now() + Duration::from_secs(40);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // A session stays with the backend that has not failed, so there are many; and one that fails is
                // ejected for a while.
                while relays.iter().any(|relay| relay.faults() <= 5) && Instant::now() < deadline {
                    let mut session = RespClient::connect(lb.port());
                    let mut chaos =
                        Chaos { database: 0, commands: Vec::new(), replies: Vec::new() };
                    (0..60).for_each(|_| chaos.add_any());
                    session.send_raw(&chaos.commands);
                    for expected in &chaos.replies {
                        let reply = String::from_utf8(session.reply()).expect("text");
                        assert!(reply == *expected, "{reply:.100} instead of {expected:.100}");
                    }
                }
            });
        }
    });
    assert!(relays.iter().all(|relay| relay.faults() > 5), "nothing was tried");
}

#[test]
fn database_protocol_and_name_stay_when_the_backend_fails() {
    let mut servers = [(); 2].map(|()| RedisServer::start());
    let fill = |server: &RedisServer| {
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(3).hset("hash", "f", "v");
        pipe.exec(&mut server.connect()).expect("the server takes it");
    };
    servers.iter().for_each(fill);
    let lb = Balancer::start(&servers.each_ref());
    let mut session = RespClient::connect(lb.port());
    session.call("HELLO 3 SETNAME ann");
    session.call("SELECT 3");
    for server in &mut servers {
        server.kill();
        assert_eq!(session.call("HGETALL hash"), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
        assert_eq!(session.call("CLIENT GETNAME"), "$3\r\nann\r\n");
        server.restart();
        fill(server);
    }
}
