//! Which servers are read from, and who decides it.

use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::observe::{leases, states};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

const KEYS: usize = 50;

fn filled() -> RedisServer {
    let server = RedisServer::start();
    fill(&server);
    server
}

fn fill(server: &RedisServer) {
    let mut pipe = redis::pipe();
    (0..KEYS).for_each(|number| _ = pipe.set(format!("key:{number}"), number));
    pipe.exec(&mut server.connect()).expect("the server takes them");
}

fn wait_for(lb: &Balancer, wanted: &[&str]) {
    wait_until(&format!("the states are {wanted:?}"), || states(lb) == wanted);
}

fn info(lb: &Balancer) -> String {
    RespClient::connect(lb.port()).call("INFO balancer")
}

#[test]
fn idle_sessions_move_to_a_backend_that_returns_unless_they_are_pinned() {
    for (argument, level) in [("--slow-start=1s", [4, 4]), ("--no-rebalance", [8, 0])] {
        let mut servers = [filled(), filled()];
        let lb = Balancer::start_with(&servers.each_ref(), &[argument]);
        servers[1].kill();
        wait_for(&lb, &["up", "down"]);
        let mut sessions = [(); 8].map(|()| RespClient::connect(lb.port()));
        sessions
            .iter_mut()
            .for_each(|session| assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n"));
        assert_eq!(leases(&lb), [8, 0]);
        servers[1].restart();
        fill(&servers[1]);
        wait_for(&lb, &["up", "up"]);
        wait_until("they have moved", || leases(&lb) == level);
        sessions
            .iter_mut()
            .for_each(|session| assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n"));
        assert_eq!(leases(&lb), level);
    }
}

#[test]
fn a_server_that_is_filled_anew_is_not_read_from_by_a_session_that_watches_there_either() {
    let servers = [filled(), filled()];
    let empty = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let lb = Balancer::start_with(&servers.each_ref(), &["--check-interval", "100ms"]);
    let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
    for session in &mut sessions {
        assert_eq!(session.call("WATCH key:1"), "+OK\r\n");
    }
    servers[0].command(&["REPLICAOF", "127.0.0.1", &empty.port().to_string()]);
    wait_until("it is emptied", || servers[0].command(&["DBSIZE"]) == redis::Value::Int(0));
    wait_for(&lb, &["syncing", "up"]);
    assert!(info(&lb).contains("it has 0 of 50 keys"), "{}", info(&lb));
    for session in &mut sessions {
        assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
        session.call("MULTI");
        session.call("GET key:1");
    }
    let mut execs = sessions.each_mut().map(|session| session.call("EXEC"));
    execs.sort();
    assert_eq!(execs, ["*-1\r\n", "*1\r\n$1\r\n1\r\n"]);
    fill(&empty);
    wait_for(&lb, &["up", "up"]);
}

#[test]
fn servers_that_were_all_restarted_empty_are_believed_after_a_while_and_not_while_they_are_filled()
{
    let mut servers = [filled(), filled()];
    let lb = Balancer::start(&servers.each_ref());
    let mut session = RespClient::connect(lb.port());
    for refills in [true, false] {
        servers.iter_mut().for_each(RedisServer::kill);
        let began = Instant::now();
        servers.iter_mut().for_each(RedisServer::restart);
        wait_for(&lb, &["syncing", "syncing"]);
        let error = session.call("GET key:1");
        assert!(
            error.starts_with("-ERR no backend could answer") && error.contains("of 50 keys"),
            "{error}"
        );
        if refills {
            servers.iter().for_each(fill);
        }
        wait_for(&lb, &["up", "up"]);
        let expected = if refills { "$1\r\n1\r\n" } else { "$-1\r\n" };
        assert_eq!(session.call("GET key:1"), expected);
        assert!(refills || began.elapsed() > Duration::from_secs(4));
    }
}

#[test]
fn an_empty_server_that_was_there_first_is_held_once_a_full_one_is_there() {
    let (mut empty, mut full) = (RedisServer::start(), filled());
    empty.kill();
    full.kill();
    let lb = Balancer::start_with(&[&empty, &full], &["--check-interval", "100ms"]);
    assert_eq!(states(&lb), ["down", "down"]);
    empty.restart();
    wait_for(&lb, &["up", "down"]);
    full.restart();
    fill(&full);
    wait_for(&lb, &["syncing", "up"]);
    fill(&empty);
    wait_for(&lb, &["up", "up"]);
    // From now on one may be loaded with more, and puts nobody out.
    let mut pipe = redis::pipe();
    (0..10 * KEYS).for_each(|number| _ = pipe.set(format!("more:{number}"), number));
    pipe.exec(&mut full.connect()).expect("the server takes them");
    wait_until("its keys are counted", || info(&lb).contains("keys=550"));
    assert_eq!(states(&lb), ["up", "up"]);
}

#[test]
fn a_slow_read_on_the_only_server_is_waited_for() {
    let server = filled();
    let arguments = ["--backend-timeout", "100ms", "--allow-scripts"];
    let lb = Balancer::start_with(&[&server], &arguments);
    let mut session = RespClient::connect(lb.port());
    let spin = "local t = redis.call('TIME') local e = t[1] * 1000000 + t[2] + 800000 \
        repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > e return 7";
    assert_eq!(String::from_utf8_lossy(&session.command(&["EVAL_RO", spin, "0"])), ":7\r\n");
}
