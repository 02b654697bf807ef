//! The load that `make bench` can't get from a package: requests at fixed times, many idle clients,
//! and slow backends; and that of `make soak`. All on 127.0.0.1.

mod idle;
mod open;
mod relay;
mod soak;
mod wire;

use std::error::Error;
use std::process::ExitCode;

const USAGE: &str = "\
load open PORT REFERENCE_PORT CONNECTIONS RATE SECONDS COMMAND...
    sends the command RATE times a second over CONNECTIONS, whether replies come or not, and compares
    each with what the Redis on REFERENCE_PORT says; prints latencies as JSON
load idle PORT REFERENCE_PORT CLIENTS COMMAND...
    connects CLIENTS, each of which sends a PING and the command; prints \"ready\", and holds them
    until its input ends
load relay PORT REDIS_PORT MICROSECONDS
    a Redis that takes so long for each GET or HGETALL, one after the other; until its input ends
load soak --lb 127.0.0.1:PORT --backend 127.0.0.1:PORT... [--clients N] [--replies N] [--seconds N]
    fills the backends; then clients (500) send the balancer random pipelines, compare every byte of
    the replies and leave at random, until so many replies (100,000,000) were right or so much time
    (3600) is over; fails if a reply was wrong or a session was dropped";

fn main() -> ExitCode {
    // The kernel may wake us 50 µs late otherwise. Threads inherit it.
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
        ["relay", port, redis, delay] => relay::run(port.parse()?, redis.parse()?, delay.parse()?),
        ["soak", flags @ ..] => soak::run(&soak::Plan::from_flags(flags)?),
        _ => Err(USAGE.into()),
    }
}
