//! Transactions of many commands, as client libraries make of long pipelines.

use std::thread;

use crate::support::balancer::Balancer;
use crate::support::observe::metric;
use crate::support::redis::{RedisServer, three_servers};
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

const MIB: usize = 1024 * 1024;

/// A server with small values, which keeps no more than this of what a client does not read.
fn server(max_unread: &str) -> RedisServer {
    let limit = format!("normal {max_unread} 0 0");
    let server = RedisServer::start_with(&["--client-output-buffer-limit", &limit]);
    let mut pipe = redis::pipe();
    (0..100).for_each(|number| _ = pipe.set(format!("key:{number}"), number));
    pipe.exec(&mut server.connect()).expect("the server takes them");
    server
}

/// A transaction of so many reads, and the reply to its EXEC.
fn transaction(count: usize) -> (Vec<u8>, Vec<u8>) {
    let mut sent = encode(&["MULTI"]);
    let mut reply = format!("*{count}\r\n").into_bytes();
    for number in 0..count {
        let value = (number % 100).to_string();
        sent.extend(encode(&["GET", &format!("key:{value}")]));
        reply.extend(format!("${}\r\n{value}\r\n", value.len()).bytes());
    }
    sent.extend(encode(&["EXEC"]));
    (sent, reply)
}

/// Reads the replies to so many queued commands, and that to EXEC.
fn check(session: &mut RespClient, count: usize, expected: &[u8]) {
    assert_eq!(session.reply(), b"+OK\r\n");
    for number in 0..count {
        assert_eq!(session.reply(), b"+QUEUED\r\n", "{number}");
    }
    assert!(session.reply() == expected, "the reply to EXEC");
}

#[test]
fn a_long_transaction_is_run_although_its_client_reads_nothing_before_it_has_sent_all() {
    let server = server("64mb");
    // More replies than sockets hold, and then more than is read of a client otherwise that takes none.
    let count = 400_000;
    let (sent, reply) = transaction(count);
    let lb = Balancer::start_with(&[&server], &["--client-backlog", "1MiB"]);
    let mut session = RespClient::connect(lb.port());
    session.send_raw(&sent);
    check(&mut session, count, &reply);
    wait_until("it is given back", || metric(&lb, "redis_lb_client_memory_bytes") < MIB as f64);
}

#[test]
fn a_server_need_not_hold_the_replies_to_queued_commands() {
    // The reply to EXEC is shorter, and those to the commands are longer.
    let server = server("1mb");
    let count = 150_000;
    let mut sent = encode(&["MULTI"]);
    sent.extend(encode(&["EXISTS", "nothing"]).repeat(count));
    sent.extend(encode(&["EXEC"]));
    let reply = [format!("*{count}\r\n").into_bytes(), b":0\r\n".repeat(count)].concat();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    session.send_raw(&sent);
    check(&mut session, count, &reply);
}

#[test]
fn a_server_that_fails_within_a_long_transaction_leaves_it_to_another() {
    let servers = [server("64mb"), server("64mb")];
    let count = 20_000;
    let (sent, reply) = transaction(count);
    // Within the replies to the first piece, to later ones, and just before that to EXEC.
    for after in [3, 50_000, 9 * count - 100, 9 * count + 5] {
        let rule = Rule::new(Fault::Close).asked("MULTI").after(after).times(1);
        let relay = Relay::with(&servers[0], &rule);
        let backends = [relay.address(), servers[1].address()];
        let lb = Balancer::start_at(&backends, &[]);
        // Two of them: one begins at each server.
        let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
        for session in &mut sessions {
            session.send_raw(&sent);
            check(session, count, &reply);
        }
        assert_eq!(rule.happened(), 1, "{after}");
    }
}

#[test]
fn what_is_queued_counts_as_it_comes_and_is_given_back() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let held = || metric(&lb, "redis_lb_client_memory_bytes");
    let queued = [encode(&["MULTI"]), encode(&["GET", "nothing"]).repeat(8 * MIB / 30)].concat();
    for end in ["DISCARD", "RESET", "EXEC", ""] {
        let mut session = RespClient::connect(lb.port());
        let reader = session.stream().try_clone().expect("a socket");
        thread::scope(|scope| {
            let replies = scope.spawn(|| {
                let mut reader = RespClient::new(reader);
                (0..8 * MIB / 30 + 1).for_each(|_| assert_ne!(reader.reply()[0], b'-'));
            });
            session.send_raw(&queued);
            replies.join().expect("no panic");
        });
        wait_until("it is counted", || held() > 7e6);
        match end {
            "" => drop(session),
            end => assert!(!session.call(end).starts_with('-'), "{end}"),
        }
        wait_until("it is given back", || held() < MIB as f64);
    }
    assert_eq!(metric(&lb, "redis_lb_client_memory_closed_total"), 0.0);
}

#[test]
fn a_transaction_for_which_there_is_no_memory_ends_its_session() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--max-memory", "16MiB"]);
    let mut session = RespClient::connect(lb.port());
    let queued = encode(&["GET", &"x".repeat(1000)]).repeat(24 * 1024);
    let _ = session.try_send_raw([encode(&["MULTI"]), queued].concat());
    wait_until("it is closed", || metric(&lb, "redis_lb_client_memory_closed_total") == 1.0);
    assert!(lb.log().contains("(--max-memory)"));
    assert_eq!(RespClient::connect(lb.port()).call("GET nothing"), "$-1\r\n");
}
