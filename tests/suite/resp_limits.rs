//! What a Redis client may do at most, and what it can't do to others.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::observe::{leases, peak_memory_mib};
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;
use crate::support::yardstick::Yardstick;

fn server() -> RedisServer {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    server
}

#[test]
fn who_is_idle_for_too_long_is_closed_unless_it_has_subscribed() {
    let server = server();
    let lb = Balancer::start_with(&[&server], &["--client-timeout", "1s"]);
    let [mut idle, mut subscriber] = [(); 2].map(|()| RespClient::connect(lb.port()));
    subscriber.call("SUBSCRIBE news");
    let began = Instant::now();
    assert_eq!(idle.call("GET a"), "$1\r\n1\r\n");
    assert!(idle.is_closed());
    assert!(began.elapsed().as_millis() >= 900, "{:?}", began.elapsed());
    thread::sleep(Duration::from_millis(500));
    server.command(&["PUBLISH", "news", "x"]);
    assert_eq!(subscriber.reply(), b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n");
    assert_eq!(leases(&lb), [1]);
}

#[test]
fn a_command_that_never_ends_is_refused_behind_the_replies_before_it() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
    sessions[1].call("SUBSCRIBE news");
    for session in &mut sessions {
        session.send_raw("*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\n");
        session.reply();
    }
    for session in &mut sessions {
        let refusal = String::from_utf8(session.reply()).expect("text");
        assert!(refusal.starts_with("-ERR Protocol error: "), "{refusal}");
        assert!(session.is_closed());
    }
}

#[test]
fn an_argument_may_be_as_long_as_allowed() {
    let server = server();
    let lb = Balancer::start_with(&[&server], &["--max-argument-mib", "1"]);
    let longest = vec![b'x'; 1024 * 1024];
    let mut session = RespClient::connect(lb.port());
    let echoed = session.command(&[b"ECHO", &longest[..]]);
    assert!(echoed.len() == longest.len() + "$1048576\r\n\r\n".len());
    assert_eq!(session.command(&[b"EXISTS", &longest[..]]), b":0\r\n");
    session.send_raw("*2\r\n$4\r\nECHO\r\n$1048577\r\n");
    assert_eq!(session.reply(), b"-ERR Protocol error: invalid bulk length\r\n");
    assert!(session.is_closed());
}

#[test]
fn values_of_ten_mebibytes_come_whole() {
    let server = server();
    let value: Vec<u8> = (0..10 * 1024 * 1024).map(|number: u32| (number % 251) as u8).collect();
    server.command(&[&b"SET"[..], b"value", &value]);
    server.command(&[&b"RPUSH"[..], b"list", &value[..3_000_000], b"", &value[..70_000]]);
    let lb = Balancer::start(&[&server]);
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut session = RespClient::connect(lb.port());
        let mut direct = RespClient::connect(server.port());
        for session in [&mut session, &mut direct] {
            session.call(hello);
            session.send_raw(b"*2\r\n$3\r\nGET\r\n$5\r\nvalue\r\n".repeat(3));
            session.send(&["LRANGE", "list", "0", "-1"]);
            session.send(&["GET", "a"]);
        }
        for _ in 0..5 {
            assert!(session.reply() == direct.reply(), "another reply");
        }
    }
    assert!(peak_memory_mib(&lb) < 50, "{} MiB", peak_memory_mib(&lb));
}

#[test]
fn who_never_reads_is_cut_off_and_costs_others_nothing() {
    let server = server();
    server.command(&["SETRANGE", "large", "4000000", "x"]);
    let arguments = ["--client-timeout", "2s"];
    let lb = Balancer::start_with(&[&server], &arguments);
    let mut lazy: Vec<RespClient> = (0..5).map(|_| RespClient::connect(lb.port())).collect();
    for session in &mut lazy {
        session.send_raw(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(20));
    }
    wait_until("all five have asked", || leases(&lb) == [5]);
    let mut other = RespClient::connect(lb.port());
    let yardstick = Yardstick::start();
    let mut slowest = Duration::ZERO;
    for _ in 0..300 {
        let began = Instant::now();
        assert_eq!(other.call("GET a"), "$1\r\n1\r\n");
        slowest = slowest.max(began.elapsed());
    }
    yardstick.assert_below(slowest, Duration::from_secs(1), "one read");
    wait_until("they are cut off", || {
        // So that this one is not idle.
        other.call("PING");
        leases(&lb) == [1]
    });
    wait_until("it is logged", || lb.log().contains("does not read its replies"));
    assert!(peak_memory_mib(&lb) < 50, "{} MiB", peak_memory_mib(&lb));
}

#[test]
fn who_does_not_read_yields_its_connection_to_those_who_wait_for_one() {
    let server = server();
    server.command(&["SETRANGE", "large", "20000000", "x"]);
    let arguments = ["--backend-connections", "2", "--backend-timeout", "5s"];
    let lb = Balancer::start_with(&[&server], &arguments);
    for request in ["GET large\r\n", "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut lazy = [(); 2].map(|()| lb.connect());
        for client in &mut lazy {
            client.write_all(request.as_bytes()).expect("lb reads");
            client.peek(&mut [0]).expect("its answer has begun");
        }
        assert_eq!(RespClient::connect(lb.port()).call("GET a"), "$1\r\n1\r\n", "{request}");
    }
}

#[test]
fn one_who_does_not_read_leaves_others_room_for_their_pipelines() {
    let server = server();
    server.command(&["SETRANGE", "large", "20000000", "x"]);
    let lb = Balancer::start(&[&server]);
    let mut pipeline = encode(&["GET", "large"]);
    pipeline.extend(encode(&["ECHO", &"x".repeat(100_000)]).repeat(600));
    // More than there may be of all clients, and as much as one may have.
    let [mut hog, mut other] = [(); 2].map(|()| lb.connect());
    hog.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    assert!(hog.write_all(&pipeline).is_err(), "all of it was taken");
    other.write_all(&pipeline[..15_000_000]).expect("there is room for it");
}

#[test]
fn a_pipeline_may_be_written_whole_before_a_reply_is_read() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let mut pipeline = Vec::new();
    for number in 0..100_000 {
        pipeline.extend(encode(&["ECHO", &number.to_string()]));
        pipeline.extend(encode(&["GETRANGE", "a", "0", &number.to_string()]));
    }
    session.send_raw(&pipeline);
    for number in 0..100_000 {
        let number = number.to_string();
        assert_eq!(session.reply(), format!("${}\r\n{number}\r\n", number.len()).as_bytes());
        assert_eq!(session.reply(), b"$1\r\n1\r\n");
    }
    assert!(peak_memory_mib(&lb) < 60, "{} MiB", peak_memory_mib(&lb));
}

#[test]
fn a_pipeline_whose_client_ends_its_side_is_answered_to_the_end() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut stream = lb.connect();
    stream.write_all(&b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".repeat(50_000)).expect("lb reads");
    stream.shutdown(std::net::Shutdown::Write).expect("a connection");
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).expect("an end");
    assert_eq!(replies.len(), "$1\r\n1\r\n".len() * 50_000);
}

#[test]
fn a_transaction_that_is_too_long_is_aborted_and_the_session_goes_on() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let get = format!("GET {}", "x".repeat(512 * 1024));
    session.call("MULTI");
    for _ in 0..127 {
        assert_eq!(session.call(&get), "+QUEUED\r\n");
    }
    assert_eq!(session.call(&get), "-ERR at most 64 MiB may be queued after MULTI\r\n");
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(session.call("EXEC"), aborted);
    session.call("MULTI");
    for _ in 0..127 {
        assert_eq!(session.call(&get), "+QUEUED\r\n");
    }
    assert_eq!(session.call("EXEC"), format!("*127\r\n{}", "$-1\r\n".repeat(127)));
    assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
}

#[test]
fn sessions_that_want_more_connections_than_there_may_be_take_turns() {
    let server = server();
    let arguments = ["--backend-connections", "2", "--backend-timeout", "10s"];
    let lb = Balancer::start_with(&[&server], &arguments);
    thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| {
                let mut session = RespClient::connect(lb.port());
                for _ in 0..50 {
                    assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
                }
            });
        }
    });
}

#[test]
fn more_watchers_than_there_may_be_are_told_so_and_reads_go_on() {
    let server = server();
    for bound in ["2", "3", "4", "8"] {
        let lb = Balancer::start_with(&[&server], &["--backend-connections", bound]);
        let mut watchers: Vec<RespClient> = Vec::new();
        let mut late = loop {
            let mut session = RespClient::connect(lb.port());
            match &*session.call("WATCH a") {
                "+OK\r\n" => watchers.push(session),
                reply => {
                    assert_eq!(reply, "-ERR too many clients watch keys: try again later\r\n");
                    break session;
                }
            }
        };
        assert!(!watchers.is_empty());
        assert_eq!(late.call("GET a"), "$1\r\n1\r\n");
        assert!(lb.get("/a").status == 200);
        drop(watchers.pop());
        wait_until("one has left", || late.call("WATCH a") == "+OK\r\n");
    }
}

fn too_long_name(what: &str) -> Vec<u8> {
    format!("-ERR {what} can have at most 64 KiB\r\n").into_bytes()
}

#[test]
fn a_name_may_be_as_long_as_allowed() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let longest = "n".repeat(64 * 1024);
    let longer = "x".repeat(64 * 1024 + 1);
    assert_eq!(session.command(&["CLIENT", "SETNAME", &longest]), b"+OK\r\n");
    for option in ["lib-name", "lib-ver"] {
        assert_eq!(session.command(&["CLIENT", "SETINFO", option, &longest]), b"+OK\r\n");
        let refusal = session.command(&["CLIENT", "SETINFO", option, &longer]);
        assert_eq!(refusal, too_long_name(option));
    }
    let refusal = session.command(&["CLIENT", "SETNAME", &longer]);
    assert_eq!(refusal, too_long_name("Client names"));
    let refusal = session.command(&["HELLO", "2", "SETNAME", &longer]);
    assert_eq!(refusal, too_long_name("Client names"));
    // What it had it keeps.
    let info = session.call("CLIENT INFO");
    assert!(info.contains(&format!(" name={longest} ")) && !info.contains(&longer));
    assert!(session.command(&["HELLO", "3", "SETNAME", "short"]).starts_with(b"%"));
    assert_eq!(session.call("CLIENT GETNAME"), "$5\r\nshort\r\n");
}

#[test]
fn long_names_take_no_memory() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let before = peak_memory_mib(&lb);
    let long = "n".repeat(4 * 1024 * 1024);
    let mut sessions: Vec<RespClient> = Vec::new();
    for _ in 0..40 {
        let mut session = RespClient::connect(lb.port());
        for command in [
            &["CLIENT", "SETNAME", &long][..],
            &["CLIENT", "SETINFO", "lib-name", &long],
            &["CLIENT", "SETINFO", "lib-ver", &long],
        ] {
            assert!(session.command(command).starts_with(b"-"));
        }
        sessions.push(session);
    }
    // They would be 480; what the allocator keeps of what came and went is less.
    assert!(peak_memory_mib(&lb) < before + 250, "{} MiB", peak_memory_mib(&lb));
}

#[test]
fn config_get_takes_so_many_patterns() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let patterns = |count| [vec!["CONFIG", "GET", "save"], vec!["none"; count - 1_usize]].concat();
    assert_eq!(session.command(&patterns(1000)), b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n");
    let refusal = "-ERR CONFIG GET takes at most 1000 patterns\r\n";
    assert_eq!(String::from_utf8_lossy(&session.command(&patterns(1001))), refusal);
    assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
}

const TOO_MANY_WATCHED: &[u8] = b"-ERR too many watched keys for one client\r\n";

#[test]
fn a_client_may_watch_so_many_keys() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let watch = |keys: std::ops::Range<usize>| {
        let mut command = vec!["WATCH".to_owned()];
        command.extend(keys.map(|number| format!("key:{number}")));
        command
    };
    assert_eq!(session.command(&watch(0..16_385)), TOO_MANY_WATCHED);
    // All of one session count together. (Redis itself would take seconds for as many as may be.)
    assert_eq!(session.command(&watch(0..1000)), b"+OK\r\n");
    assert_eq!(session.command(&watch(1000..16_385)), TOO_MANY_WATCHED);
    assert_eq!(session.command(&watch(0..1000)), b"+OK\r\n");
    // What was watched before still is.
    server.command(&["SET", "key:3", "touched"]);
    session.call("MULTI");
    session.call("GET a");
    assert_eq!(session.call("EXEC"), "*-1\r\n");
    let long = "x".repeat(1024 * 1024);
    assert_eq!(session.command(&["WATCH", &long, "y"]), TOO_MANY_WATCHED);
    for end in ["UNWATCH", "MULTI\r\nDISCARD", "MULTI\r\nEXEC", "RESET"] {
        assert_eq!(session.command(&["WATCH", &long]), b"+OK\r\n", "before {end}");
        assert_eq!(session.command(&["WATCH", "y"]), TOO_MANY_WATCHED);
        assert_eq!(session.command(&["WATCH", &long]), b"+OK\r\n");
        end.split("\r\n").for_each(|command| _ = session.call(command));
    }
    assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
}

/// What SCAN and its like are asked for, with a page of how many elements.
#[test]
fn no_scan_is_a_keys() {
    let server = RedisServer::start();
    for kind in ["HSET hash", "SADD set", "ZADD zset", "MSET"] {
        let mut command: Vec<String> = kind.split(' ').map(str::to_owned).collect();
        for number in 0..30_000 {
            match kind {
                "SADD set" => {}
                "ZADD zset" => command.push(number.to_string()),
                _ => command.push(format!("key:{number}")),
            }
            command.push(format!("element:{number}"));
        }
        server.command(&command);
    }
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let mut direct = RespClient::connect(server.port());
    for (scan, strings_each) in
        [("SCAN", 1), ("HSCAN hash", 2), ("SSCAN set", 1), ("ZSCAN zset", 2)]
    {
        let (mut cursor, mut pages, mut all) = ("0".to_owned(), 0, 0);
        while pages == 0 || cursor != "0" {
            let page = session.call(&format!("{scan} {cursor} MATCH * COUNT 1000000000"));
            let mut lines = page.split("\r\n").skip(2);
            lines.next().expect("a cursor").clone_into(&mut cursor);
            let count = lines.next().and_then(|line| line.strip_prefix('*')).expect("an array");
            let count = count.parse::<usize>().expect("a number") / strings_each;
            // A bucket is never divided.
            assert!(count < 10_100, "{scan}: {count}");
            (pages, all) = (pages + 1, all + count);
        }
        assert!(pages >= 3 && all >= 30_000, "{scan}: {all} in {pages}");
        for wrong in ["x", "0", "-1", "+20000", "020000", "99999999999999999999", ""] {
            let wrong = format!("{scan} 0 COUNT {wrong}");
            assert_eq!(session.call(&wrong), direct.call(&wrong), "{wrong}");
        }
        let wrong = format!("{scan} 0 COUNT");
        assert_eq!(session.call(&wrong), direct.call(&wrong));
        // So no COUNT gets by there.
        session.call("MULTI");
        let refusal = session.call(&format!("{scan} 0 COUNT 1000000000"));
        assert!(refusal.contains("not served inside MULTI"), "{refusal}");
        session.call("DISCARD");
    }
}

/// Redis compares each key with all that are watched already.
#[test]
fn whoever_watches_many_keys_holds_nobody_up() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let keys = (0..5120).map(|number| format!("key:{number}"));
    session.send(&[vec!["WATCH".to_owned()], keys.collect()].concat());
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let calls = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let (mut other, mut calls) = (RespClient::connect(server.port()), 0);
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(other.call("GET a"), "$1\r\n1\r\n");
                calls += 1;
            }
            calls
        });
        assert_eq!(session.reply(), b"+OK\r\n");
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        other.join().expect("no panic")
    });
    // Between each two steps of 128 keys there is room for others.
    assert!(calls > 20, "{calls} calls");
    let stats = format!("{:?}", server.command(&["INFO", "commandstats"]));
    assert!(stats.contains("cmdstat_watch:calls=40,"), "{stats}");
}

#[test]
fn a_watch_of_which_a_part_fails_watches_nothing() {
    let server = server();
    server.command(&["ACL", "SETUSER", "reader", "on", ">p", "~key:*", "+@all"]);
    let address = format!("redis://reader:p@{}", server.address());
    let lb = Balancer::start_at(&[address], &[]);
    let mut session = RespClient::connect(lb.port());
    let mut watch = vec!["WATCH".to_owned()];
    watch.extend((0..300).map(|number| format!("key:{number}")));
    watch.push("forbidden".to_owned());
    let refusal = String::from_utf8_lossy(&session.command(&watch)).into_owned();
    assert!(refusal.starts_with("-NOPERM"), "{refusal}");
    server.command(&["SET", "key:1", "touched"]);
    for words in ["MULTI", "GET key:1", "EXEC"] {
        session.send(&words.split(' ').collect::<Vec<_>>());
    }
    session.reply();
    session.reply();
    assert_eq!(session.reply(), b"*1\r\n$7\r\ntouched\r\n");
    assert_eq!(session.command(&watch[..301]), b"+OK\r\n");
}
