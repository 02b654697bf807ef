//! The near cache when the connections on which it hears of writes, or the servers themselves, fail.

use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::near_cache::{calls, hits, tracking_clients, wait_for_reply, warm, with_cache};
use crate::support::observe::states;
use crate::support::redis::{RedisServer, replica_of};
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::RespClient;
use crate::support::wait_until;

const LONG: &str = "60s";

/// The bound of the tests that wait for it.
const SHORT: &str = "300ms";
const BOUND: Duration = Duration::from_millis(300);

#[test]
fn writes_are_seen_though_the_tracking_connection_was_killed_just_before() {
    let server = RedisServer::start();
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    for round in 0..5 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        server.command(&["SET", "key", &old]);
        wait_for_reply(&mut client, "GET key", &format!("$4\r\n{old}\r\n"));
        warm(&lb, &mut client, "GET key");
        let mut writer = RespClient::connect(server.port());
        let tracking = tracking_clients(&server);
        assert!(!tracking.is_empty());
        for id in tracking {
            assert_eq!(writer.call(&format!("CLIENT KILL ID {id}")), ":1\r\n");
        }
        assert_eq!(writer.call(&format!("SET key {new}")), "+OK\r\n");
        wait_for_reply(&mut client, "GET key", &format!("$4\r\n{new}\r\n"));
        // And it is cached anew.
        assert_eq!(warm(&lb, &mut client, "GET key"), format!("$4\r\n{new}\r\n"));
    }
}

#[test]
fn nothing_is_answered_for_longer_than_the_bound_when_the_tracking_connection_falls_silent() {
    let server = RedisServer::start();
    let relay = Relay::start(&server);
    // Some bytes after it was opened.
    let silence = Rule::new(Fault::Silence).asked("TRACKING").after(4000).times(1);
    relay.add(&silence);
    let lb =
        Balancer::start_at(&[relay.address()], &["--cache", "16MiB", "--cache-max-silence", SHORT]);
    let mut client = RespClient::connect(lb.port());
    server.command(&["SET", "key", "old"]);
    server.command(&["SET", "filler", &"x".repeat(5000)]);
    warm(&lb, &mut client, "GET key");
    wait_until("it falls silent", || {
        client.call("GET filler");
        silence.happened() > 0
    });
    server.command(&["SET", "key", "new"]);
    let written = Instant::now();
    loop {
        let sent = written.elapsed();
        if client.call("GET key") == "$3\r\nnew\r\n" {
            break;
        }
        assert!(sent < BOUND, "old after {sent:.1?}");
    }
    assert_eq!(warm(&lb, &mut client, "GET key"), "$3\r\nnew\r\n");
}

#[test]
fn nothing_is_answered_for_longer_than_the_bound_when_a_server_freezes() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    // Health checks notice nothing.
    let arguments = ["--check-interval", "60s", "--check-timeout", "30s"];
    let lb = with_cache(&[&server], SHORT, &arguments);
    let mut client = RespClient::connect(lb.port());
    warm(&lb, &mut client, "GET key");
    server.freeze();
    let frozen = Instant::now();
    loop {
        let sent = frozen.elapsed();
        client.send(&["GET", "key"]);
        if !client.has_reply_within(BOUND / 2) {
            break;
        }
        assert_eq!(client.reply(), b"$5\r\nvalue\r\n");
        if sent >= BOUND {
            server.thaw();
            panic!("answered {sent:.1?} after the server froze");
        }
    }
    server.thaw();
    assert_eq!(client.reply(), b"$5\r\nvalue\r\n");
    warm(&lb, &mut client, "GET key");
}

#[test]
fn a_server_that_is_gone_or_has_other_data_after_a_restart_answers_nothing_from_the_cache() {
    let mut server = RedisServer::start();
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    server.command(&["SET", "key", "old"]);
    warm(&lb, &mut client, "GET key");
    server.save();
    server.kill();
    wait_until("reads fail", || client.call("GET key").starts_with('-'));
    let before = hits(&lb);
    assert!(client.call("GET key").starts_with('-'));
    assert_eq!(hits(&lb), before);
    server.restart();
    server.command(&["SET", "key", "new"]);
    wait_until("it serves again", || {
        let reply = client.call("GET key");
        assert_ne!(reply, "$3\r\nold\r\n");
        reply == "$3\r\nnew\r\n"
    });
    assert_eq!(warm(&lb, &mut client, "GET key"), "$3\r\nnew\r\n");
}

#[test]
fn a_backend_that_is_not_up_answers_nothing_from_the_cache() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    primary.command(&["SET", "key", "old"]);
    let mut follows = replica_of(&primary, &[]);
    let other = replica_of(&primary, &[]);
    let lb = with_cache(&[&follows], LONG, &["--check-interval", "100ms"]);
    let mut client = RespClient::connect(lb.port());
    wait_for_reply(&mut client, "GET key", "$3\r\nold\r\n");
    warm(&lb, &mut client, "GET key");
    // It is emptied and filled again: the connection stays, and what was kept does not.
    primary.command(&["SET", "key", "new"]);
    wait_for_reply(&mut client, "GET key", "$3\r\nnew\r\n");
    warm(&lb, &mut client, "GET key");
    other.command(&["REPLICAOF", "NO", "ONE"]);
    other.command(&["SET", "key", "other"]);
    follows.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    wait_for_reply(&mut client, "GET key", "$5\r\nother\r\n");
    follows.kill();
    wait_until("it is down", || states(&lb) == ["down"]);
    let (before, reads) = (hits(&lb), calls(&other, "get"));
    assert!(client.call("GET key").starts_with('-'));
    assert_eq!((hits(&lb), calls(&other, "get")), (before, reads));
}
