//! The memory that clients make the balancer hold: one bound for all of them, whatever they send.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::observe::{leases, metric, peak_memory_mib, resident_memory_mib};
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

const MIB: usize = 1024 * 1024;

/// What the process takes besides the budget: its own memory, and what it takes until a client is closed.
const OTHER_MIB: usize = 64;

#[test]
fn heads_that_do_not_end_count_as_memory_of_their_clients() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let held = || metric(&lb, "redis_lb_client_memory_bytes") as usize;
    let clients = flood(&lb, 20, format!("GET /{}", "a".repeat(60_000)).as_bytes());
    wait_until("the heads are counted", || held() >= 20 * 56 * 1024);
    drop(clients);
    wait_until("what they held is given back", || held() == 0);
}

/// Connects clients that send this as far as it is taken, read nothing, and stay.
fn flood(lb: &Balancer, clients: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let send = || {
        let mut stream = lb.connect();
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        // Those that are closed, or may send no more, stay as they are.
        let _ = stream.write_all(bytes);
        stream
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// A command with a thousand names, each time others.
fn names(command: &str, turns: usize) -> Vec<u8> {
    let name = |turn, number| format!("{turn}:{number}:{}", "n".repeat(50));
    let turn = |turn| {
        let names = (0..1000).map(|number| name(turn, number));
        encode(&[command.to_owned()].into_iter().chain(names).collect::<Vec<_>>())
    };
    (0..turns).flat_map(turn).collect()
}

#[test]
fn whatever_clients_send_memory_stays_bounded_and_others_are_served() {
    let data = Arc::new(Data::new());
    let servers = [(); 3].map(|()| RedisServer::start());
    servers.iter().for_each(|server| data.load(server));
    // The floods keep the processors busy, which is no reason to give a server up.
    let patient = ["--backend-timeout", "5s", "--check-timeout", "5s"];
    let arguments = [&["--max-memory", "32MiB", "--quiet"][..], &patient].concat();
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed());
    wait_until("each reads", || crowd.report().of_each.iter().all(|&right| right > 20));
    let (idle_mib, mut clients) = (resident_memory_mib(&lb), KINDS.len());
    let endless = [b"*1048576\r\n".to_vec(), b"$0\r\n\r\n".repeat(1_048_575)].concat();
    let half = [b"*2\r\n$4\r\nECHO\r\n$16000000\r\n".to_vec(), vec![b'x'; 15_000_000]].concat();
    let unread = encode(&["ECHO".to_owned(), "e".repeat(4_000_000)]).repeat(4);
    let queued =
        [b"MULTI\r\n".to_vec(), encode(&["GET".to_owned(), "m".repeat(60_000)]).repeat(32)]
            .concat();
    for (what, count, bytes) in [
        ("arguments without end", 10, endless),
        ("arguments that do not arrive whole", 8, half),
        ("replies that are not read", 12, unread),
        ("commands after MULTI", 30, queued),
        ("subscriptions", 30, names("SUBSCRIBE", 24)),
        ("watched keys", 30, names("WATCH", 24)),
    ] {
        let closed = metric(&lb, "redis_lb_client_memory_closed_total");
        let streams = flood(&lb, count, &bytes);
        clients += count;
        // Names alone close nobody: there are no more of them than half of the memory holds.
        let are_refused = || {
            let mut client = RespClient::connect(lb.port());
            client.send_raw(names("SUBSCRIBE", 1));
            client.reply().starts_with(b"-ERR too many subscriptions of all clients")
        };
        wait_until(what, || {
            metric(&lb, "redis_lb_client_memory_closed_total") > closed
                || (what == "subscriptions" && are_refused())
        });
        drop(streams);
        let bound = 32 + OTHER_MIB + clients * 32 / 1024;
        let peak = peak_memory_mib(&lb);
        assert!(peak < bound, "{what}: {peak} MiB, where {bound} are allowed");
    }
    assert!(lb.log().contains("(--max-memory)"), "the log says who was closed, and why");
    wait_until("it is given back", || metric(&lb, "redis_lb_client_memory_bytes") < MIB as f64);
    let (bound, resident) = (idle_mib + 32, || resident_memory_mib(&lb));
    wait_until(&format!("{} MiB go below {bound} MiB", resident()), || resident() < bound);
    let report = crowd.finish();
    assert!(report.is_clean(), "{report}");
    wait_until("no lease is left", || leases(&lb).iter().all(|&leases| leases == 0));
}

/// A client that has sent a command but for its last bytes, and these.
fn begun(lb: &Balancer, mib: usize) -> (RespClient, Vec<u8>) {
    let before = metric(lb, "redis_lb_client_memory_bytes");
    let mut client = RespClient::connect(lb.port());
    let (sent, left) = (mib * MIB, 1000);
    client.send_raw(format!("*2\r\n$4\r\nECHO\r\n${}\r\n{}", sent + left, "x".repeat(sent)));
    let held = || metric(lb, "redis_lb_client_memory_bytes") - before;
    let closed = || metric(lb, "redis_lb_client_memory_closed_total");
    wait_until("it is read", || held() >= sent as f64 || closed() > 0.0);
    (client, [vec![b'y'; left], b"\r\n".to_vec()].concat())
}

#[test]
fn the_client_that_holds_most_is_closed_and_those_that_hold_less_go_on() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--max-memory", "48MiB"]);
    let (mut large, _) = begun(&lb, 8);
    let mut others = Vec::new();
    while metric(&lb, "redis_lb_client_memory_closed_total") == 0.0 {
        assert!(others.len() < 20, "nobody is closed");
        others.push(begun(&lb, 3));
    }
    wait_until("the largest is closed", || large.is_closed());
    for (client, rest) in &mut others {
        client.send_raw(rest);
        assert!(client.reply().starts_with(b"$"), "it is served");
    }
    let warning = |line: &&str| line.contains("closed 127.0.0.1:") && line.contains("--max-memory");
    let log = lb.log();
    assert_eq!(log.lines().filter(warning).count(), 1, "{log}");
    wait_until("its session says so", || lb.log().contains("it held too much memory"));
}

#[test]
fn a_client_that_sends_on_and_takes_no_reply_is_closed_within_seconds() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--client-backlog", "1MiB"]);
    let mut client = lb.connect();
    client.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let (began, pings) = (Instant::now(), b"PING\r\n".repeat(100_000));
    let ended = loop {
        match client.write_all(&pings) {
            Ok(()) => assert!(began.elapsed() < Duration::from_secs(60), "it is never closed"),
            Err(error) => break error,
        }
    };
    assert_ne!(ended.kind(), io::ErrorKind::WouldBlock, "it waited for us for 20 s");
    let why = "takes no replies, and has sent";
    wait_until("the log says why", || {
        lb.log().contains(why) && lb.log().contains("--client-backlog")
    });
}

#[test]
fn a_pipeline_within_the_backlog_is_answered_to_a_client_that_reads_after_all_is_sent() {
    let server = RedisServer::start();
    server.command(&["SET", "k", "v"]);
    let lb = Balancer::start_with(&[&server], &["--max-memory", "64MiB"]);
    let mut client = RespClient::connect(lb.port());
    client.send_raw(b"GET k\r\n".repeat(1_000_000));
    for _ in 0..1_000_000 {
        assert_eq!(client.reply(), b"$1\r\nv\r\n");
    }
}
