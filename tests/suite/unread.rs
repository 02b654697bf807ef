//! Clients that ask for large values and do not read them, or not yet: they stall nobody, and neither the
//! servers nor the balancer hold much for them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::support::balancer::{Answer, Balancer};
use crate::support::data::Data;
use crate::support::observe::{leases, peak_memory_mib};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::verify::{Crowd, Habits, Kind};
use crate::support::yardstick::Yardstick;
use crate::support::{seed, wait_until};

/// Twice as much as the kernel takes for a client that does not read.
const VALUE_BYTES: usize = 8_000_000;

/// Long replies that a server may hold at a time: eight in turns, and those of which nobody knew that they
/// are long.
const MAX_LONG_REPLIES: usize = 20;

const OVER_REDIS: &str = "GET large\r\n";
const OVER_HTTP: &str = "GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Clients of both protocols. Those of Redis count the keys of a database, and not of that with the value.
fn kinds() -> [Kind; 6] {
    let redis = |batch, protocol| Kind::Redis { batch, protocol, database: 1 };
    let http = |batch, keep_alive| Kind::Http { batch, keep_alive };
    [redis(1, 2), redis(4, 3), redis(100, 2), http(1, true), http(4, true), http(1, false)]
}

/// A value in which no two pieces are alike.
fn value() -> String {
    let numbers = (0..).map(|number| format!("{number:08} ")).flat_map(String::into_bytes);
    String::from_utf8(numbers.take(VALUE_BYTES).collect()).expect("digits")
}

fn server_with(value: &str) -> RedisServer {
    let server = RedisServer::start();
    server.command(&["SET", "large", value]);
    server
}

/// Clients that have asked for the value.
fn ask(lb: &Balancer, count: usize, request: &str) -> Vec<TcpStream> {
    let asking = |_| {
        let mut client = lb.connect();
        client.write_all(request.as_bytes()).expect("lb reads");
        client
    };
    (0..count).map(asking).collect()
}

/// Whether the reply has begun, or the connection has ended.
fn has_begun(client: &TcpStream) -> bool {
    client.set_nonblocking(true).expect("a socket");
    let peeked = client.peek(&mut [0]);
    client.set_nonblocking(false).expect("a socket");
    !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Reads the whole answer, and panics unless it is the value.
fn expect_value(mut client: TcpStream, request: &str, value: &str) {
    if request == OVER_REDIS {
        let reply = RespClient::new(client).reply();
        assert!(reply == format!("${VALUE_BYTES}\r\n{value}\r\n").into_bytes(), "{}", reply.len());
        return;
    }
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an end in good order");
    let answer = Answer::parse(&bytes);
    assert!(answer.is_whole && answer.json() == serde_json::json!(value), "{}", answer.status);
}

/// The memory that a server uses for its clients.
fn client_bytes(server: &RedisServer) -> usize {
    let info: String = redis::from_redis_value(server.command(&["INFO", "memory"])).expect("text");
    let line = info.lines().find_map(|line| line.strip_prefix("mem_clients_normal:"));
    line.and_then(|number| number.parse().ok()).expect("a number")
}

fn clients_that_do_not_read_stall_nobody(request: &str) {
    let (data, value) = (Arc::new(Data::new()), value());
    let server = server_with(&value);
    data.load(&server);
    // Fewer than there are clients that do not read.
    let lb = Balancer::start_with(&[&server], &["--backend-connections", "40"]);
    let crowd = Crowd::start(lb.port(), &data, &kinds(), Habits::default(), seed());
    let is_warm = || crowd.report().of_each.iter().all(|&right| right > 0);
    wait_until("others are served", is_warm);
    // From now on it is known that the reply is long.
    ask(&lb, 1, request).into_iter().for_each(|client| expect_value(client, request, &value));
    let yardstick = Yardstick::start();
    let mut lazy = ask(&lb, 50, request);
    let mut most = 0;
    wait_until("all answers have begun", || {
        most = most.max(client_bytes(&server));
        lazy.iter().all(has_begun)
    });
    let report = crowd.finish();
    assert!(report.is_clean(), "{report}");
    yardstick.assert_below(report.longest_stall(), Duration::from_millis(1300), "one read");
    assert!(most < MAX_LONG_REPLIES * VALUE_BYTES, "Redis held {most} bytes");
    for client in lazy.drain(..5) {
        expect_value(client, request, &value);
    }
    drop(lazy);
    wait_until("nothing is leased", || leases(&lb) == [0]);
}

#[test]
fn http_clients_that_do_not_read_large_values_stall_nobody() {
    clients_that_do_not_read_stall_nobody(OVER_HTTP);
}

#[test]
fn redis_clients_that_do_not_read_large_values_stall_nobody() {
    clients_that_do_not_read_stall_nobody(OVER_REDIS);
}

#[test]
fn clients_that_read_later_get_all_though_they_share_few_connections() {
    let value = value();
    let server = server_with(&value);
    server.command(&["SET", "a", "1"]);
    for request in [OVER_REDIS, OVER_HTTP] {
        let arguments = ["--backend-connections", "2", "--backend-timeout", "10s"];
        let lb = Balancer::start_with(&[&server], &arguments);
        let later = ask(&lb, 6, request);
        wait_until("all answers have begun", || later.iter().all(has_begun));
        assert_eq!(RespClient::connect(lb.port()).call("GET a"), "$1\r\n1\r\n");
        later.into_iter().for_each(|client| expect_value(client, request, &value));
    }
}

#[test]
fn what_clients_do_not_take_is_within_the_memory_budget() {
    let server = server_with(&value());
    server.command(&["SET", "a", "1"]);
    for request in [OVER_REDIS, OVER_HTTP] {
        let lb = Balancer::start_with(&[&server], &["--max-memory", "32MiB"]);
        let lazy = ask(&lb, 20, request);
        wait_until("all answers have begun", || lazy.iter().all(has_begun));
        wait_until("those that hold most are closed", || {
            lb.log().contains("the most of all clients, which together may hold 32 MiB")
        });
        assert_eq!(RespClient::connect(lb.port()).call("GET a"), "$1\r\n1\r\n");
        assert!(peak_memory_mib(&lb) < 32 + 64, "{} MiB", peak_memory_mib(&lb));
    }
}
