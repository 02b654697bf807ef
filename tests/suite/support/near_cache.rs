//! A balancer with a near cache, and what it and its servers say of that.

use super::balancer::{Answer, Balancer};
use super::client::Client;
use super::redis::RedisServer;
use super::resp::RespClient;
use super::wait_until;

/// In front of these servers, with a cache that trusts a silent server for so long.
pub fn with_cache(servers: &[&RedisServer], max_silence: &str, more: &[&str]) -> Balancer {
    let cache = ["--cache", "16MiB", "--cache-max-silence", max_silence];
    Balancer::start_with(servers, &[&cache, more].concat())
}

/// One of the numbers in the section of INFO about the cache.
pub fn cache_info(lb: &Balancer, field: &str) -> u64 {
    let info = RespClient::connect(lb.port()).call("INFO cache");
    let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {field} in {info}"))
}

pub fn hits(lb: &Balancer) -> u64 {
    cache_info(lb, "cache_hits")
}

/// How often a server has run this command.
pub fn calls(server: &RedisServer, command: &str) -> u64 {
    info_number(server, "commandstats", &format!("cmdstat_{command}:calls="))
}

/// The number after `begin` in a section of a server's INFO; zero if it is not there.
pub fn info_number(server: &RedisServer, section: &str, begin: &str) -> u64 {
    let info = server.command(&["INFO", section]);
    let info: String = redis::from_redis_value(info).expect("text");
    let rest = info.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or("0");
    let number = rest.split(',').next().unwrap_or_default();
    number.parse().unwrap_or_else(|_| panic!("no number: {rest}"))
}

/// Reads until the reply comes from the cache.
pub fn warm(lb: &Balancer, client: &mut RespClient, words: &str) -> String {
    let mut reply = String::new();
    wait_until(&format!("{words} is answered from the cache"), || {
        let before = hits(lb);
        reply = client.call(words);
        hits(lb) > before
    });
    reply
}

/// Reads over HTTP until the answer comes from the cache.
pub fn warm_http(client: &mut Client, path: &str) -> Answer {
    let mut answer = client.get(path);
    wait_until(&format!("{path} is answered from the cache"), || {
        answer = client.get(path);
        answer.header("x-cache") == Some("hit")
    });
    answer
}

/// Reads until the reply is this one.
pub fn wait_for_reply(client: &mut RespClient, words: &str, expected: &str) {
    let mut reply = String::new();
    wait_until(&format!("{words} is {expected:?}"), || {
        reply = client.call(words);
        reply == expected
    });
}

/// The clients of a server whose keys are tracked, by their numbers.
pub fn tracking_clients(server: &RedisServer) -> Vec<String> {
    let list: String = redis::from_redis_value(server.command(&["CLIENT", "LIST"])).expect("text");
    let field = |line: &str, name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)).map(str::to_owned)
    };
    let tracking =
        list.lines().filter(|line| field(line, "flags=").is_some_and(|flags| flags.contains('t')));
    tracking.filter_map(|line| field(line, "id=")).collect()
}
