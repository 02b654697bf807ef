//! Closed-loop reads, some of keys that are read again and again, the others of keys that are read once.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};

use crate::wire;

/// Latencies are counted in nanoseconds, up to a minute.
const MAX_NANOSECONDS: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

pub struct Plan {
    pub port: u16,
    pub connections: usize,
    pub seconds: f64,
    /// Share of the hot keys among the reads.
    pub hot_percent: u64,
    pub hot_keys: u64,
}

struct Connection {
    socket: TcpStream,
    sent: Instant,
    expected: Vec<u8>,
    received: Vec<u8>,
}

/// Runs the plan and returns the rate, and latencies in milliseconds, as a JSON object.
pub fn run(plan: &Plan) -> Result<String, Box<dyn Error>> {
    let hot = wire::ask(plan.port, &["GET", "hot:0"])?;
    let mut latencies = Histogram::<u64>::new_with_bounds(1, MAX_NANOSECONDS, SIGNIFICANT_DIGITS)?;
    let start = Instant::now();
    let mut number = start.elapsed().as_nanos() as u64;
    let mut next = |connection: &mut Connection| -> std::io::Result<()> {
        number += 1;
        // Spread evenly, without a generator of random numbers.
        let is_hot = number * 61 % 100 < plan.hot_percent;
        let key = match is_hot {
            true => format!("hot:{}", number % plan.hot_keys),
            false => format!("cold:{}:{number}", std::process::id()),
        };
        connection.expected = if is_hot { hot.clone() } else { b"$-1\r\n".to_vec() };
        connection.received.clear();
        connection.sent = Instant::now();
        connection.socket.write_all(&wire::command(&["GET", &key]))
    };
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        let socket = wire::connect_with_timeout(plan.port)?;
        let (expected, received) = (Vec::new(), Vec::new());
        let mut connection = Connection { socket, sent: start, expected, received };
        next(&mut connection)?;
        connections.push(connection);
    }
    let time = Duration::from_secs_f64(plan.seconds);
    while start.elapsed() < time {
        for number in ready(&connections)? {
            let connection = &mut connections[number];
            if connection.receive()? {
                latencies.saturating_record(connection.sent.elapsed().as_nanos() as u64);
                next(connection)?;
            }
        }
    }
    let requests = latencies.len();
    Ok(format!(
        "{{\"requests\": {requests}, \"rate\": {:.1}, \"p50\": {:.4}, \"p99\": {:.4}}}",
        requests as f64 / start.elapsed().as_secs_f64(),
        latencies.value_at_quantile(0.5) as f64 / 1e6,
        latencies.value_at_quantile(0.99) as f64 / 1e6,
    ))
}

fn ready(connections: &[Connection]) -> Result<Vec<usize>, Box<dyn Error>> {
    let mut sockets: Vec<PollFd> = connections
        .iter()
        .map(|connection| PollFd::new(&connection.socket, PollFlags::IN))
        .collect();
    poll(&mut sockets, None)?;
    let events = sockets.iter().enumerate().filter(|(_, socket)| !socket.revents().is_empty());
    Ok(events.map(|(number, _)| number).collect())
}

impl Connection {
    /// Reads what has come; returns whether the reply is whole.
    fn receive(&mut self) -> Result<bool, Box<dyn Error>> {
        let mut bytes = [0; 4096];
        let length = self.socket.read(&mut bytes)?;
        if length == 0 {
            return Err("a connection was closed".into());
        }
        self.received.extend_from_slice(&bytes[..length]);
        if !self.expected.starts_with(&self.received) {
            return Err("a reply differs from that of Redis".into());
        }
        Ok(self.received.len() == self.expected.len())
    }
}
