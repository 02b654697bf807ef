//! The near cache over HTTP.

use std::thread;
use std::time::Duration;

use crate::support::balancer::{Answer, Balancer};
use crate::support::near_cache::{hits, info_number, warm, warm_http, with_cache};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

const LONG: &str = "60s";

/// Commands that a server has run, without those of checks.
fn reads_of(server: &RedisServer) -> u64 {
    ["get", "hgetall", "hget", "type", "memory|usage", "exists", "strlen", "pttl", "lrange"]
        .iter()
        .map(|command| info_number(server, "commandstats", &format!("cmdstat_{command}:calls=")))
        .sum()
}

fn fill(server: &RedisServer) {
    server.command(&["SET", "string", "value"]);
    server.command(&["HSET", "hash", "a", "1", "b", "2"]);
    server.command(&["RPUSH", "list", "one", "two"]);
}

/// What depends on neither the time nor the cache.
fn essence(answer: &Answer) -> (u16, Vec<u8>, Option<String>, Option<String>, Option<String>) {
    let header = |name| answer.header(name).map(str::to_owned);
    let body = answer.body.clone();
    (answer.status, body, header("etag"), header("content-type"), header("x-served-by"))
}

#[test]
fn hits_over_http_are_the_answers_of_the_server_and_say_that_they_are_kept() {
    let server = RedisServer::start();
    fill(&server);
    let lb = with_cache(&[&server], LONG, &[]);
    let uncached = Balancer::start_with(&[&server], &["--cache", "0B"]);
    let mut client = lb.client();
    for path in ["/string", "/hash", "/list"] {
        let first = client.get(path);
        assert_eq!(first.header("age"), None);
        assert_eq!(first.header("x-cache"), Some("miss"), "{path}");
        let hit = warm_http(&mut client, path);
        let (reads, counted) = (reads_of(&server), hits(&lb));
        let again = client.get(path);
        assert_eq!((reads_of(&server), hits(&lb)), (reads, counted + 1), "{path}");
        assert_eq!(again.header("x-cache"), Some("hit"));
        let expected = essence(&uncached.get(path));
        for answer in [first, hit, again] {
            assert_eq!(essence(&answer), expected, "{path}");
        }
    }
    let age = || client_age(&lb, "/string");
    assert!(age() < 60);
    thread::sleep(Duration::from_millis(1100));
    wait_until("it is older", || age() >= 1);
}

fn client_age(lb: &Balancer, path: &str) -> u64 {
    let answer = lb.get(path);
    assert_eq!(answer.header("x-cache"), Some("hit"));
    answer.header("age").and_then(|age| age.parse().ok()).expect("an Age in seconds")
}

#[test]
fn conditional_requests_and_head_need_no_server_and_see_writes() {
    let server = RedisServer::start();
    fill(&server);
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = lb.client();
    for (path, write) in
        [("/string", "SET string new"), ("/hash", "HSET hash a 3"), ("/list", "RPUSH list three")]
    {
        let hit = warm_http(&mut client, path);
        let etag = hit.header("etag").expect("an ETag").to_owned();
        let conditional = format!("If-None-Match: {etag}");
        let ask = || lb.request("GET", path, &[&conditional]);
        let reads = reads_of(&server);
        let answer = ask();
        assert_eq!((answer.status, answer.body.len()), (304, 0));
        assert_eq!(answer.header("etag"), Some(&etag[..]));
        assert_eq!(answer.header("x-cache"), Some("hit"));
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.head().expect("a head");
        assert_eq!((head.status, head.header("etag")), (200, Some(&etag[..])));
        assert_eq!(head.header("content-length"), hit.header("content-length"));
        assert_eq!(reads_of(&server), reads, "{path}");
        RespClient::connect(server.port()).call(write);
        wait_until("the new value is answered", || ask().status == 200);
        let new = ask();
        assert_ne!(new.header("etag"), Some(&etag[..]));
    }
}

#[test]
fn a_missing_key_is_kept_as_missing_until_it_is_made() {
    let server = RedisServer::start();
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = lb.client();
    // One that begins alike tells which type they have.
    server.command(&["SET", "key:0", "0"]);
    client.get("/key:0");
    for write in ["SET key:1 1", "SET key:2 2", "DEL key:1"] {
        let path = format!("/{}", write.split(' ').nth(1).expect("a key"));
        let before = warm_http(&mut client, &path).status;
        let reads = reads_of(&server);
        assert_eq!(client.get(&path).status, before);
        assert_eq!(reads_of(&server), reads);
        RespClient::connect(server.port()).call(write);
        let after = if before == 404 { 200 } else { 404 };
        wait_until(&format!("{write} is seen"), || client.get(&path).status == after);
    }
}

#[test]
fn a_value_over_both_protocols_is_right_in_each() {
    let server = RedisServer::start();
    fill(&server);
    let lb = with_cache(&[&server], LONG, &[]);
    let (mut http, mut redis) = (lb.client(), RespClient::connect(lb.port()));
    for round in 0..3 {
        let value = format!("value{round}");
        server.command(&["SET", "string", &value]);
        wait_until("the value is seen", || http.get("/string").json() == value.as_str());
        warm_http(&mut http, "/string");
        let reply = warm(&lb, &mut redis, "GET string");
        assert_eq!(reply, format!("$6\r\n{value}\r\n"));
        assert_eq!(http.get("/string").json(), value.as_str());
    }
}

#[test]
fn keys_that_begin_alike_are_kept_whatever_their_types() {
    let server = RedisServer::start();
    fill(&server);
    server.command(&["SET", "other:1", "value"]);
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = lb.client();
    // Then the server is tracked.
    warm_http(&mut client, "/other:1");
    let mut are_hits = || {
        ["/string", "/hash", "/list"]
            .map(|path| client.get(path).header("x-cache") == Some("hit"))
            .iter()
            .all(|is_hit| *is_hit)
    };
    assert!((0..100).any(|_| are_hits()), "a guess that was wrong keeps them out");
}

#[test]
fn each_answer_names_the_backend_whose_value_it_is() {
    let servers = [(); 2].map(|()| RedisServer::start());
    for server in &servers {
        server.command(&["SET", "key", &server.address()]);
    }
    let lb = with_cache(&servers.each_ref(), LONG, &[]);
    let mut seen = [0; 2];
    let mut kept = 0;
    for _ in 0..60 {
        let answer = lb.get("/key");
        assert_eq!(answer.json(), answer.served_by());
        let number = servers.iter().position(|server| server.address() == answer.served_by());
        seen[number.expect("one of them")] += 1;
        kept += u32::from(answer.header("x-cache") == Some("hit"));
    }
    assert!(seen.iter().all(|&count| count > 20), "{seen:?}");
    assert!(kept > 30, "{kept}");
}
