//! Large values: whole, in bounded memory, and no burden to others.

use std::io::{Read, Write};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::support::balancer::{Answer, Balancer};
use crate::support::redis::RedisServer;

const MIB: usize = 1024 * 1024;

/// The most memory that the process has held so far.
#[cfg(target_os = "linux")]
fn peak_bytes(lb: &Balancer) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lb.pid())).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its peak");
    let kib: usize = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB");
    kib * 1024
}

#[cfg(not(target_os = "linux"))]
fn peak_bytes(_: &Balancer) -> usize {
    0
}

fn fill_hash(server: &RedisServer, fields: usize) {
    let mut connection = server.connect();
    for start in (0..fields).step_by(1000) {
        let mut command = redis::cmd("HSET");
        command.arg("hash");
        for field in start..start + 1000 {
            command.arg(format!("field:{field}")).arg(format!("value:{}", field * 7));
        }
        command.exec(&mut connection).expect("HSET");
    }
}

fn check_hash(json: &serde_json::Value, fields: usize) {
    let object = json.as_object().expect("an object");
    assert_eq!(object.len(), fields);
    for field in (0..fields).step_by(997) {
        assert_eq!(object[&format!("field:{field}")], format!("value:{}", field * 7));
    }
}

#[test]
fn a_string_of_many_megabytes_arrives_whole_as_json_and_raw() {
    let server = RedisServer::start();
    // Longer than what is kept for a client that reads slowly, as on a busy machine.
    let text = "naïve café 😀 \"quoted\"\n".repeat(5 * MIB);
    let binary = [text.as_bytes(), b"\xff"].concat();
    let mut connection = server.connect();
    redis::cmd("SET").arg("text").arg(&text).exec(&mut connection).expect("SET");
    redis::cmd("SET").arg("binary").arg(&binary).exec(&mut connection).expect("SET");
    let lb = Balancer::start(&[&server]);
    let raw = lb.get("/binary?format=raw");
    assert!(raw.is_whole && raw.body == binary, "raw");
    assert!(lb.get("/text").json() == serde_json::json!(text));
    let json = lb.get("/binary").json();
    let encoded = json["base64"].as_str().expect("base64").as_bytes();
    assert_eq!(encoded.len(), binary.len().div_ceil(3) * 4);
    assert!(peak_bytes(&lb) < (64 + 32) * MIB, "{} bytes", peak_bytes(&lb));
}

/// Reads slowly at first, so that every reader is under way at the same time.
fn read_slowly(lb: &Balancer, path: &str, all_under_way: &Barrier) -> Answer {
    let mut stream = lb.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("lb reads");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    let mut bytes = vec![0; 1];
    stream.read_exact(&mut bytes).expect("the answer begins");
    all_under_way.wait();
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..length]);
        if bytes.len() < MIB {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Answer::parse(&bytes)
}

#[test]
fn many_slow_readers_of_a_large_hash_get_it_whole_and_take_no_more_memory_than_that() {
    const READERS: usize = 30;
    const FIELDS: usize = 100_000;
    let servers = [(); 3].map(|()| RedisServer::start());
    servers.iter().for_each(|server| fill_hash(server, FIELDS));
    let lb = Balancer::start(&servers.each_ref());
    let all_under_way = Barrier::new(READERS);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let answer = read_slowly(&lb, "/hash", &all_under_way);
                assert!(answer.status == 200 && answer.is_whole, "{}", answer.status);
                check_hash(&answer.json(), FIELDS);
            });
        }
    });
    // Each of the answers has 3 MiB, which their sockets do not take at once.
    assert!(peak_bytes(&lb) < (READERS * 4 + 32) * MIB, "{} bytes", peak_bytes(&lb));
}

#[test]
fn a_client_that_stops_reading_is_cut_off_and_holds_nobody_up() {
    let server = RedisServer::start();
    server.command(&["SET", "large", &"x".repeat(30 * MIB)]);
    server.command(&["SET", "small", "1"]);
    let lb = Balancer::start_with(&[&server], &["--client-timeout", "5s"]);
    let mut stuck = lb.connect();
    stuck.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("lb reads");
    stuck.read_exact(&mut [0; 1]).expect("the answer begins");
    assert_eq!(lb.get("/small").json(), serde_json::json!("1"));
    let is_cut_off = || lb.log().contains("cut: the client");
    assert!(!is_cut_off(), "the other client did not wait for that");
    crate::support::wait_until("it is cut off", is_cut_off);
    let mut rest = Vec::new();
    // Whether this ends in an error or not, it must end before the whole has come.
    let _ = stuck.read_to_end(&mut rest);
    assert!(rest.len() < 30 * MIB);
    assert!(lb.log().trim_end().contains(&format!("{}=0", server.address())));
}

#[test]
fn half_of_a_large_answer_never_looks_whole() {
    for (version, is_reset) in [("HTTP/1.1", false), ("HTTP/1.0", true)] {
        let mut server = RedisServer::start();
        server.command(&["SET", "large", &"x".repeat(50 * MIB)]);
        let lb = Balancer::start_with(&[&server], &["--log-leases"]);
        let mut stream = lb.connect();
        write!(stream, "GET /large?format=raw {version}\r\nHost: localhost\r\n\r\n").expect("sent");
        let mut bytes = vec![0; 1];
        stream.read_exact(&mut bytes).expect("the answer begins");
        server.kill();
        let end = stream.read_to_end(&mut bytes);
        assert!(bytes.len() < 50 * MIB, "the server was killed in the middle");
        assert_eq!(end.is_err(), is_reset, "{version}: {end:?}");
        assert!(!bytes.ends_with(b"\r\n0\r\n\r\n"), "{version}");
        crate::support::wait_until("no lease is left", || {
            lb.log().contains(&format!("{}=0 cut:", server.address()))
        });
    }
}
