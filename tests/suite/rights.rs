//! Redis users for the balancer, with no more rights than docs/SECURITY.md says.

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

const FOR_HTTP: &str = "+@read +info +ping +select ~*";
const FOR_REDIS_CLIENTS: &str = "+command +hello +echo +time +multi +exec +watch +unwatch \
    +subscribe +psubscribe +ssubscribe +unsubscribe +punsubscribe +sunsubscribe &* \
    +eval_ro +evalsha_ro +fcall_ro";
const FOR_ENDING_SCRIPTS: &str = "+script|kill +function|kill";

/// In front of a server as a user with these rights.
fn start(rights: &str) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let rule = format!("ACL SETUSER reader reset on >secret {rights}");
    server.command(&rule.split_whitespace().collect::<Vec<_>>());
    let address = format!("redis://reader:secret@{}", server.address());
    let lb = Balancer::start_at(&[address], &["--allow-scripts"]);
    (server, lb)
}

#[test]
fn the_rights_for_both_protocols_suffice_for_both() {
    let (server, lb) = start(&format!("{FOR_HTTP} {FOR_REDIS_CLIENTS} {FOR_ENDING_SCRIPTS}"));
    assert_eq!(lb.get("/a").json(), "1");
    assert_eq!(lb.get("/").json()["data"]["a"], "1");
    let mut session = RespClient::connect(lb.port());
    let mut direct = RespClient::connect(server.port());
    for command in [
        "GET a",
        "TYPE a",
        "SELECT 1",
        "DBSIZE",
        "SELECT 0",
        "WATCH a",
        "MULTI",
        "GET a",
        "PING",
        "ECHO b",
        "EXEC",
        "WATCH a",
        "UNWATCH",
        "EVAL_RO return{KEYS[1],redis.call('GET',KEYS[1])} 1 a",
        "SUBSCRIBE b",
        "PSUBSCRIBE c*",
        "SSUBSCRIBE d",
        "UNSUBSCRIBE b",
        "PUNSUBSCRIBE c*",
        "SUNSUBSCRIBE d",
        "SCAN 0",
    ] {
        let (through, expected) = (session.call(command), direct.call(command));
        // A cursor says which server it is of.
        let is_same =
            through == expected || command == "SCAN 0" && through.ends_with("$1\r\na\r\n");
        assert!(is_same, "{command}: {through}");
    }
    assert!(session.call("HELLO 3").starts_with('%'));
    assert_eq!(session.call("HGETALL none"), "%0\r\n");
    assert!(session.call("SUBSCRIBE b").starts_with('>'));
    assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
    assert!(session.call("TIME").starts_with("*2\r\n"));
    assert!(!lb.log().contains("|kill"), "{}", lb.log());
}

#[test]
fn a_missing_right_to_end_scripts_is_named_at_the_start() {
    for (rights, missing) in [
        ("", "+script|kill +function|kill"),
        ("+script|kill", "+function|kill"),
        ("+function|kill", "+script|kill"),
    ] {
        let (_server, lb) = start(&format!("{FOR_HTTP} {FOR_REDIS_CLIENTS} {rights}"));
        let warning = format!("has not the right {missing}, ");
        wait_until("a warning", || lb.log().contains(&warning));
    }
}

#[test]
fn the_rights_for_http_suffice_for_it_and_a_redis_client_is_told_what_is_missing() {
    let (_server, lb) = start(FOR_HTTP);
    assert_eq!(lb.get("/a").json(), "1");
    assert_eq!(lb.get("/").json()["data"]["a"], "1");
    let refusal = RespClient::connect(lb.port()).call("GET a");
    assert!(refusal.starts_with("-ERR ") && refusal.contains("COMMAND"), "{refusal}");
    assert!(refusal.contains("user"), "{refusal}");
}
