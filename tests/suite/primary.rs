//! Backends that a primary names.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::observe::{reads_of, wait_for_up};
use crate::support::redis::{RedisServer, free_port, replica_of};
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

fn primary(data: &Data) -> RedisServer {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    data.load(&primary);
    primary
}

fn url(server: &RedisServer, query: &str) -> String {
    format!("primary://{}{query}", server.address())
}

#[test]
fn replicas_come_and_go_and_another_becomes_the_primary_and_no_read_fails() {
    let data = Arc::new(Data::new());
    let a = primary(&data);
    let delay = ["--repl-diskless-sync-delay", "0"];
    let (b, mut c) = (replica_of(&a, &delay), replica_of(&a, &delay));
    let lb = Balancer::start_at(&[url(&a, "")], &[]);
    wait_for_up(&lb, &[&a, &b, &c]);
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed());
    let d = replica_of(&a, &delay);
    wait_for_up(&lb, &[&a, &b, &c, &d]);
    c.kill();
    wait_for_up(&lb, &[&a, &b, &d]);
    // An operator makes b the primary.
    let port = b.port().to_string();
    b.command(&["REPLICAOF", "NO", "ONE"]);
    for other in [&a, &d] {
        other.command(&["REPLICAOF", "127.0.0.1", &port]);
    }
    wait_until("b is read from last", || {
        let status = lb.get("/-/status.json").json();
        let backends = status["backends"].as_array().expect("a list");
        let is_last = |server: &RedisServer| {
            let is_it = |one: &serde_json::Value| one["name"] == server.address();
            backends.iter().any(|one| is_it(one) && one["backup"] == true)
        };
        is_last(&b) && !is_last(&a) && !is_last(&d)
    });
    wait_for_up(&lb, &[&a, &b, &d]);
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 500, "{report}\n{}", lb.log());
}

/// The configured server dies, a replica takes its place, and it comes back as a primary of its own.
#[test]
fn a_replaced_primary_that_comes_back_alone_is_not_taken_for_the_primary() {
    let data = Arc::new(Data::new());
    let mut a = primary(&data);
    let delay = ["--repl-diskless-sync-delay", "0"];
    let (b, c) = (replica_of(&a, &delay), replica_of(&a, &delay));
    let lb = Balancer::start_at(&[url(&a, "?read=all")], &[]);
    wait_for_up(&lb, &[&a, &b, &c]);
    a.save();
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed());
    a.kill();
    b.command(&["REPLICAOF", "NO", "ONE"]);
    c.command(&["REPLICAOF", "127.0.0.1", &b.port().to_string()]);
    wait_for_up(&lb, &[&b, &c]);
    a.restart();
    let sources = || lb.get("/-/status.json").json()["sources"][0].clone();
    let before = reads_of(&a);
    wait_until("it is asked again", || sources()["answered_seconds"].as_f64() > Some(1.0));
    wait_until("it has been asked", || sources()["answered_seconds"].as_f64() < Some(1.0));
    wait_for_up(&lb, &[&b, &c]);
    let report = crowd.finish();
    assert!(report.is_clean(), "{report}\n{}", lb.log());
    assert_eq!(reads_of(&a), before);
}

#[test]
fn announced_addresses_are_rewritten_and_phantoms_left_out() {
    let data = Data::new();
    let primary = primary(&data);
    let port = free_port().to_string();
    // The primary names the replica by an address that exists nowhere.
    let announced = ["--replica-announce-ip", "192.0.2.7", "--replica-announce-port", &port];
    let replica = replica_of(&primary, &announced);
    // It never says on which port it listens.
    let mut phantom = TcpStream::connect(primary.address()).expect("a connection");
    phantom.write_all(b"PSYNC ? -1\r\n").expect("it takes that");
    let names = || {
        let text = primary.command(&["INFO", "replication"]);
        redis::from_redis_value::<String>(text).expect("text")
    };
    wait_until("it has two replicas", || {
        names().contains("192.0.2.7") && names().contains(",port=0,")
    });
    let rule = format!("192.0.2.7:{port}=127.0.0.1:{}", replica.port());
    let before = reads_of(&primary);
    let arguments = ["--rewrite-address", &rule];
    let lb = Balancer::start_at(&[url(&primary, "?read=replicas")], &arguments);
    wait_for_up(&lb, &[&primary, &replica]);
    for _ in 0..20 {
        let answer = lb.get("/hash:5:1");
        assert_eq!((answer.status, answer.served_by()), (200, replica.address().as_str()));
    }
    assert_eq!(reads_of(&primary), before);
}

#[test]
fn lb_check_asks_sources_and_names_what_is_wrong_with_them() {
    let data = Data::new();
    let primary = primary(&data);
    let replica = replica_of(&primary, &[]);
    let sentinel = crate::support::sentinel::Sentinel::start_with(&primary, 1, "");
    let check = |url: &str| {
        let lb = env!("CARGO_BIN_EXE_lb");
        let output = std::process::Command::new(lb).args(["check", "--backend", url]).output();
        let output = output.expect("lb runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    wait_until("the Sentinel knows the replica", || sentinel.list("REPLICAS").len() == 1);
    let right = [url(&primary, ""), format!("sentinel://{}/mine", sentinel.address())];
    for url in right {
        wait_until("both are found, and all is well", || {
            let (code, text) = check(&url);
            code == Some(0) && text.contains(": 2 servers") && text.contains(&replica.address())
        });
    }
    let nobody = free_port();
    for (url, reason) in [
        (format!("sentinel://{}/other", sentinel.address()), "No such master with that name"),
        (format!("sentinel://{}/mine", primary.address()), "unknown command"),
        (format!("sentinel://127.0.0.1:{nobody}/mine"), "refused"),
        (format!("primary://{}", sentinel.address()), "does not say its role"),
        (format!("primary://127.0.0.1:{nobody}"), "refused"),
    ] {
        let (code, text) = check(&url);
        assert_eq!(code, Some(1), "{url}: {text}");
        assert!(text.contains("names no servers") && text.contains(reason), "{url}: {text}");
    }
}
