//! Load generator for `make bench`, `make soak` and `make cache-soak`: open-loop requests, idle clients, slow backends
//! and verified random sessions, all on 127.0.0.1.

mod idle;
mod mixed;
mod open;
mod relay;
mod soak;
mod versions;
mod wire;

use std::error::Error;
use std::process::ExitCode;

const USAGE: &str = "\
load open PORT REFERENCE_PORT CONNECTIONS RATE SECONDS COMMAND...
    open loop: sends COMMAND at RATE requests a second over CONNECTIONS connections without waiting
    for replies, compares each reply with that of the Redis server on REFERENCE_PORT, and prints
    latencies in milliseconds as JSON
load idle PORT REFERENCE_PORT CLIENTS COMMAND...
    connects CLIENTS clients, each of which sends PING and COMMAND, prints \"ready\", and keeps the
    connections open until standard input ends
load mixed PORT CONNECTIONS SECONDS HOT_PERCENT HOT_KEYS
    closed loop: each connection reads, and waits for the reply; HOT_PERCENT of the reads are of the keys
    hot:0 to hot:HOT_KEYS, which must have one value, the others of keys that are not there; prints the
    rate and latencies as JSON
load relay PORT REDIS_PORT MICROSECONDS
    slow backend: passes commands on to the Redis server on REDIS_PORT, but answers one GET or
    HGETALL at a time and delays each by MICROSECONDS, until standard input ends
load soak --lb 127.0.0.1:PORT --backend 127.0.0.1:PORT... [--tls-ca FILE] [--clients N] [--replies N]
    [--seconds N]
    fills the backends, then lets clients (default 500) send random pipelines to the balancer, compare
    every byte of the replies and disconnect at random, until enough replies (default 100,000,000)
    are verified or the time (default 3600) is over; fails if a reply was wrong or a session was
    dropped
load cache --lb PORT --primary PORT --backend NAME=PORT... [--relay PORT=PORT]... [--clients N]
    [--reads N] [--seconds N] [--max-silence-ms N] [--faults 1]
    raises the versions of keys on the primary in every way, while clients (default 50) read them through
    a balancer with a cache; fails if a reply is older than one that its session has seen, or than
    promised. NAME is the balancer's name for the server on PORT; a relay listens on the first PORT and
    passes bytes on to the server on the second. Faults end, hold up and black-hole tracking
    connections, and freeze servers";

fn main() -> ExitCode {
    // By default the kernel may wake a thread 50 µs late. New threads inherit this setting.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["open", port, reference, connections, rate, seconds, command @ ..]
            if !command.is_empty() =>
        {
            let expected = wire::ask(reference.parse()?, command)?;
            let plan = open::Plan {
                port: port.parse()?,
                connections: connections.parse()?,
                rate: rate.parse()?,
                seconds: seconds.parse()?,
                request: wire::command(command),
                expected,
            };
            println!("{}", open::run(&plan)?);
            Ok(())
        }
        ["idle", port, reference, clients, command @ ..] if !command.is_empty() => {
            let expected = wire::ask(reference.parse()?, command)?;
            idle::run(port.parse()?, clients.parse()?, command, &expected)
        }
        ["mixed", port, connections, seconds, hot_percent, hot_keys] => {
            let plan = mixed::Plan {
                port: port.parse()?,
                connections: connections.parse()?,
                seconds: seconds.parse()?,
                hot_percent: hot_percent.parse()?,
                hot_keys: hot_keys.parse()?,
            };
            println!("{}", mixed::run(&plan)?);
            Ok(())
        }
        ["relay", port, redis, delay] => relay::run(port.parse()?, redis.parse()?, delay.parse()?),
        ["soak", flags @ ..] => soak::run(&soak::Plan::from_flags(flags)?),
        ["cache", flags @ ..] => versions::run(&versions::Plan::from_flags(flags)?),
        _ => Err(USAGE.into()),
    }
}
