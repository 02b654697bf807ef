//! What shows from outside: the balancer's own account, its memory, whole conversations.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::balancer::Balancer;
use super::redis::RedisServer;
use super::resp::{RespClient, encode};

/// How many leases each backend has, as `INFO` says.
pub fn leases(lb: &Balancer) -> Vec<usize> {
    numbers(lb, "leases")
}

/// How many connections each backend has, as `INFO` says.
pub fn connections(lb: &Balancer) -> Vec<usize> {
    numbers(lb, "connections")
}

fn numbers(lb: &Balancer, what: &str) -> Vec<usize> {
    backends(lb, what).iter().map(|count| count.parse().expect("a count")).collect()
}

/// The state of each backend, as `INFO` says.
pub fn states(lb: &Balancer) -> Vec<String> {
    backends(lb, "state")
}

fn backends(lb: &Balancer, what: &str) -> Vec<String> {
    let info = RespClient::connect(lb.port()).call("INFO balancer");
    let lines = info.lines().filter_map(|line| line.strip_prefix("lb_backend")?.split_once(':'));
    lines
        .filter_map(|(_, fields)| {
            fields.split(',').find_map(|field| field.strip_prefix(what)?.strip_prefix('='))
        })
        .map(str::to_owned)
        .collect()
}

/// How many clients a server has, without the one that asks and the one that checks.
pub fn clients_of(server: &RedisServer) -> usize {
    client_list(server).lines().filter(|client| !client.contains(" cmd=dbsize ")).count() - 1
}

/// All connections to a server, those of checks among them, but not the one that asks.
pub fn connections_to(server: &RedisServer) -> usize {
    client_list(server).lines().count() - 1
}

fn client_list(server: &RedisServer) -> String {
    redis::from_redis_value(server.command(&["CLIENT", "LIST"])).expect("text")
}

/// The sum of a metric's values, as `/-/metrics` has them.
pub fn metric(lb: &Balancer, name: &str) -> f64 {
    let text = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    let of_name = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    of_name
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0))
        .sum()
}

/// The most memory that the balancer has had so far, in MiB.
pub fn peak_memory_mib(lb: &Balancer) -> usize {
    memory_mib(lb, "VmHWM:")
}

/// The memory that the balancer has now, in MiB.
pub fn resident_memory_mib(lb: &Balancer) -> usize {
    memory_mib(lb, "VmRSS:")
}

fn memory_mib(lb: &Balancer, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lb.pid())).expect("Linux");
    let value = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    value.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

/// All that a server says to these commands, up to the end of the connection; the last is QUIT.
pub fn transcript(port: u16, commands: &[&str]) -> String {
    let mut bytes: Vec<u8> =
        commands.iter().flat_map(|words| encode(&words.split(' ').collect::<Vec<_>>())).collect();
    bytes.extend(encode(&["QUIT"]));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(&bytes).expect("the server reads");
    // Redis forgets a QUIT to which no reply is wanted.
    stream.shutdown(Shutdown::Write).expect("a connection");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end");
    said.escape_ascii().to_string().replace("\\r\\n", "\n")
}

/// How many `HGETALL`s a server has answered.
pub fn reads_of(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]);
    let stats: String = redis::from_redis_value(stats).expect("text");
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
    let count = line.and_then(|line| line.split(',').next());
    count.map_or(0, |count| count.parse().expect("a number"))
}

/// Waits until these servers, and no others, are backends that are up.
pub fn wait_for_up(lb: &Balancer, servers: &[&RedisServer]) {
    super::wait_until("all of them are up", || {
        let status = lb.get("/-/status.json").json();
        let backends = status["backends"].as_array().expect("a list");
        let is_up = |server: &&RedisServer| {
            let is_it = |backend: &serde_json::Value| {
                backend["name"] == server.address() && backend["state"] == "up"
            };
            backends.iter().any(is_it)
        };
        backends.len() == servers.len() && servers.iter().all(is_up)
    });
}
