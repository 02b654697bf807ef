//! One Redis client's session: its lease, and what HELLO, CLIENT, SELECT and RESET make of it.

use crate::support::balancer::Balancer;
use crate::support::observe::{clients_of, connections, leases, transcript};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

#[test]
fn three_hundred_sessions_are_spread_evenly_and_hold_few_connections() {
    let servers = [(); 3].map(|()| RedisServer::start());
    let lb = Balancer::start_with(&servers.each_ref(), &["--backend-connections", "4"]);
    let mut sessions: Vec<RespClient> = (0..300).map(|_| RespClient::connect(lb.port())).collect();
    assert_eq!(leases(&lb), [0, 0, 0], "who has not read has no lease");
    for session in &mut sessions {
        assert_eq!(session.call("GET a"), "$-1\r\n");
    }
    assert_eq!(leases(&lb), [100, 100, 100]);
    assert!(connections(&lb).iter().all(|&count| count <= 4));
    for server in &servers {
        assert!(clients_of(server) <= 4, "{} connections", clients_of(server));
    }
    // A session that reads on keeps its lease.
    for session in &mut sessions {
        assert_eq!(session.call("GET a"), "$-1\r\n");
    }
    assert_eq!(leases(&lb), [100, 100, 100]);
    drop(sessions);
    wait_until("all leases are given back", || leases(&lb) == [0, 0, 0]);
}

#[test]
fn short_sessions_share_connections_whatever_their_protocol_and_database() {
    let server = RedisServer::start();
    let rule = "SETUSER reader on nopass ~* +@read +ping +select +command +hello";
    server.command(&["ACL"].into_iter().chain(rule.split(' ')).collect::<Vec<_>>());
    // One user may not ask INFO, and so not which server it is.
    for user in ["", "reader:x@"] {
        let lb = Balancer::start_at(&[format!("redis://{user}{}", server.address())], &[]);
        for mode in ["HELLO 3", "SELECT 3"] {
            let before = connections_received(&server);
            for _ in 0..300 {
                let mut session = RespClient::connect(lb.port());
                session.call(mode);
                session.call("GET a");
            }
            let count = connections_received(&server) - before;
            assert!(count < 15, "{user}, {mode}: {count} connections");
        }
    }
}

fn connections_received(server: &RedisServer) -> usize {
    let stats = RespClient::connect(server.port()).call("INFO stats");
    let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.and_then(|count| count.parse().ok()).expect("a count")
}

#[test]
fn a_session_reads_from_one_server_only() {
    let servers = [(); 3].map(|()| RedisServer::start());
    for (number, server) in servers.iter().enumerate() {
        server.command(&["SET", "number", &number.to_string()]);
    }
    let lb = Balancer::start(&servers.each_ref());
    let mut sessions = [(); 3].map(|()| RespClient::connect(lb.port()));
    let first: Vec<String> =
        sessions.iter_mut().map(|session| session.call("GET number")).collect();
    for _ in 0..20 {
        for (session, first) in sessions.iter_mut().zip(&first) {
            assert_eq!(session.call("GET number"), *first);
        }
    }
}

#[test]
fn whole_conversations_are_those_of_the_server() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "in 0"]);
    server.command(&["HSET", "hash", "field", "value"]);
    let lb = Balancer::start(&[&server]);
    let conversations: &[&[&str]] = &[
        // Which replies a client wants.
        &["CLIENT REPLY OFF", "GET a", "PING", "NO SUCH", "CLIENT REPLY ON", "GET a"],
        &["CLIENT REPLY OFF", "SELECT 99", "SELECT 1", "CLIENT REPLY ON", "GET a"],
        &["CLIENT REPLY OFF", "GET a", "CLIENT REPLY SKIP", "PING", "CLIENT REPLY ON", "PING"],
        &["CLIENT REPLY OFF", "MULTI", "GET a", "EXEC", "CLIENT REPLY ON", "GET a"],
        &["CLIENT REPLY OFF", "HELLO 3", "INFO server", "SCAN 0", "CLIENT REPLY ON", "GET none"],
        &["CLIENT REPLY OFF", "WATCH a", "UNWATCH", "CLIENT REPLY x", "CLIENT REPLY ON"],
        &["CLIENT REPLY OFF", "GET a"],
        &["CLIENT REPLY OFF", "RESET", "GET a"],
        &["GET a", "CLIENT REPLY SKIP", "GET a", "ECHO b", "GET a"],
        &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "GET a", "PING"],
        &["CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET a"],
        &["CLIENT REPLY SKIP", "SELECT 99", "SELECT 99", "GET a"],
        &["CLIENT REPLY SKIP", "MULTI", "GET a", "HGETALL hash", "EXEC"],
        &["CLIENT REPLY SKIP", "NO SUCH", "GET", "CLIENT REPLY x", "CLIENT REPLY"],
        &["CLIENT REPLY SKIP", "RESET", "GET a"],
        &["GET a", "QUIT", "GET a"],
        // Protocols and names.
        &["HELLO", "HELLO 3", "HGETALL hash", "GET none", "HELLO", "HELLO 2", "HGETALL hash"],
        &["HELLO 3 SETNAME bob", "CLIENT GETNAME", "HELLO 2 SETNAME ann", "CLIENT GETNAME"],
        &["HELLO 1", "HELLO 4", "HELLO x", "HELLO 3 SETNAME", "HELLO 3 x", "GET none"],
        &["HELLO 3 AUTH default x", "HELLO 2 AUTH ann x", "GET none"],
        &[
            "CLIENT GETNAME",
            "CLIENT SETNAME ann",
            "CLIENT GETNAME",
            "CLIENT SETNAME ",
            "CLIENT GETNAME",
        ],
        &["AUTH x", "AUTH default x", "AUTH ann x", "READONLY", "READWRITE"],
        // Databases.
        &[
            "GET a",
            "SELECT 99",
            "GET a",
            "SELECT 1",
            "GET a",
            "SELECT x",
            "SELECT -1",
            "SELECT 0",
            "GET a",
        ],
        // Back to the beginning.
        &["HELLO 3 SETNAME bob", "SELECT 1", "RESET", "CLIENT GETNAME", "GET a", "GET none"],
        &["MULTI", "GET a", "RESET", "EXEC", "GET a"],
        &["WATCH a", "RESET", "MULTI", "GET a", "EXEC"],
        // Transactions.
        &["MULTI", "GET a", "HGETALL hash", "GET hash", "EXEC", "EXEC", "DISCARD"],
        &["MULTI", "MULTI", "WATCH a", "GET a", "EXEC"],
        &["MULTI", "GET", "GET a", "EXEC", "GET a"],
        &["MULTI", "NO SUCH", "DISCARD", "GET a"],
        &["MULTI", "PING", "ECHO b", "DISCARD", "MULTI", "EXEC"],
        &["MULTI", "GET a", "QUIT"],
        &["WATCH a hash", "GET a", "MULTI", "GET a", "EXEC", "UNWATCH", "WATCH"],
        &["HELLO 3", "MULTI", "HGETALL hash", "GET none", "EXEC"],
    ];
    let mut differences = Vec::new();
    for commands in conversations {
        let [direct, through] =
            [server.port(), lb.port()].map(|port| without_ids(&transcript(port, commands)));
        if through != direct {
            differences.push(format!("{commands:?}\ndirect: {direct}\nthrough: {through}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A greeting says the client's id, which is another each time.
fn without_ids(transcript: &str) -> String {
    let mut shown = String::new();
    let mut is_id = false;
    for line in transcript.lines() {
        shown.push_str(if is_id { ":ID" } else { line });
        shown.push('\n');
        is_id = line == "id";
    }
    shown
}

#[test]
fn ids_are_distinct_and_stay() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let [mut one, mut other] = [(); 2].map(|()| RespClient::connect(lb.port()));
    let id = one.call("CLIENT ID");
    assert_ne!(other.call("CLIENT ID"), id);
    assert_eq!(one.call("SELECT 1"), "+OK\r\n");
    assert_eq!(one.call("CLIENT ID"), id);
    assert!(one.call("HELLO 3").contains(&format!("id\r\n{id}")), "HELLO says the same");
}

#[test]
fn client_info_has_every_field_of_the_server_as_clients_rely_on_them() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let fields = |port| {
        let info = RespClient::connect(port).call("CLIENT INFO");
        let words = info.split_whitespace().filter_map(|word| word.split_once('='));
        words.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let (direct, proxied) = (fields(server.port()), fields(lb.port()));
    assert!(proxied.starts_with(&direct), "direct: {direct:?}\nproxied: {proxied:?}");
}

#[test]
fn sessions_end_when_the_balancer_is_told_to() {
    let server = RedisServer::start();
    let mut lb = Balancer::start(&[&server]);
    let mut sessions = [(); 4].map(|()| RespClient::connect(lb.port()));
    for (session, command) in sessions.iter_mut().zip(["GET a", "SUBSCRIBE a", "WATCH a", "MULTI"])
    {
        session.call(command);
    }
    lb.signal("-TERM");
    assert!(lb.wait().success());
    assert!(sessions.iter_mut().all(RespClient::is_closed));
}
