//! Open-loop load: requests are sent at fixed times, whether or not earlier replies have arrived.
//!
//! Latency counts from the time at which a request was due, so a stall of the server counts for every
//! request that it delays (no coordinated omission).

use std::collections::VecDeque;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire;

/// How long to wait for replies after the last request.
const LAST_REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Latencies are counted in nanoseconds, up to ten minutes.
const MAX_NANOSECONDS: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

pub struct Plan {
    pub port: u16,
    pub connections: usize,
    pub rate: f64,
    pub seconds: f64,
    pub request: Vec<u8>,
    pub expected: Vec<u8>,
}

struct Connection {
    socket: TcpStream,
    unsent: VecDeque<u8>,
    /// Due time of each request that has no reply yet.
    due: VecDeque<Instant>,
    /// Bytes received so far of the reply to the first of them.
    matched: usize,
}

/// Runs the plan and returns latencies in milliseconds as a JSON object.
pub fn run(plan: &Plan) -> Result<String, Box<dyn Error>> {
    if plan.connections == 0 || !(1.0..=1e7).contains(&(plan.rate * plan.seconds)) {
        return Err("CONNECTIONS must be positive, RATE × SECONDS from 1 to 10,000,000".into());
    }
    let total = (plan.rate * plan.seconds) as usize;
    let mut connections = (0..plan.connections)
        .map(|_| Connection::open(plan.port))
        .collect::<Result<Vec<_>, _>>()?;
    let mut latencies = Histogram::new_with_bounds(1, MAX_NANOSECONDS, SIGNIFICANT_DIGITS)?;
    let mut delays = latencies.clone();
    let start = Instant::now();
    let at = |number: usize| start + Duration::from_secs_f64(number as f64 / plan.rate);
    let deadline = at(total) + LAST_REPLY_TIMEOUT;
    let mut sent = 0;
    while latencies.len() < total as u64 {
        let now = Instant::now();
        if now > deadline {
            break;
        }
        while sent < total && at(sent) <= now {
            let connection = &mut connections[sent % plan.connections];
            connection.send(&plan.request, at(sent))?;
            record(&mut delays, at(sent).elapsed());
            sent += 1;
        }
        let wake = if sent < total { at(sent) } else { deadline };
        for number in ready(&connections, wake)? {
            let connection = &mut connections[number];
            connection.flush()?;
            connection.receive(&plan.expected, &mut latencies)?;
        }
    }
    let unanswered = total as u64 - latencies.len();
    // An unanswered request has waited at least until now.
    connections.iter().flat_map(|c| &c.due).for_each(|due| record(&mut latencies, due.elapsed()));
    Ok(format!(
        "{{\"requests\": {total}, \"unanswered\": {unanswered}, \"p50\": {:.4}, \"p99\": {:.4}, \
         \"p99.9\": {:.4}, \"max\": {:.4}, \"sent_late_p99\": {:.4}}}",
        milliseconds(&latencies, 0.5),
        milliseconds(&latencies, 0.99),
        milliseconds(&latencies, 0.999),
        milliseconds(&latencies, 1.0),
        milliseconds(&delays, 0.99),
    ))
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(time.as_nanos() as u64);
}

fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}

/// Waits until `wake` for connections that can be read from or, where bytes are unsent, written to.
fn ready(connections: &[Connection], wake: Instant) -> Result<Vec<usize>, Box<dyn Error>> {
    let mut sockets: Vec<PollFd> = connections
        .iter()
        .map(|connection| {
            let out =
                if connection.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            PollFd::new(&connection.socket, PollFlags::IN | out)
        })
        .collect();
    let left = wake.saturating_duration_since(Instant::now());
    poll(&mut sockets, Some(&Timespec::try_from(left)?))?;
    let events = sockets.iter().enumerate().filter(|(_, socket)| !socket.revents().is_empty());
    Ok(events.map(|(number, _)| number).collect())
}

impl Connection {
    fn open(port: u16) -> Result<Connection, Box<dyn Error>> {
        let socket = wire::connect(port)?;
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, unsent: VecDeque::new(), due: VecDeque::new(), matched: 0 })
    }

    fn send(&mut self, request: &[u8], due: Instant) -> Result<(), Box<dyn Error>> {
        self.due.push_back(due);
        self.unsent.extend(request);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        while !self.unsent.is_empty() {
            match self.socket.write(self.unsent.as_slices().0) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        expected: &[u8],
        latencies: &mut Histogram<u64>,
    ) -> Result<(), Box<dyn Error>> {
        let mut bytes = [0; 64 * 1024];
        let mut rest = match self.socket.read(&mut bytes) {
            Ok(0) => return Err("a connection was closed".into()),
            Ok(length) => &bytes[..length],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        while !rest.is_empty() {
            let wanted = &expected[self.matched..];
            let (piece, remainder) = rest.split_at(wanted.len().min(rest.len()));
            if piece != &wanted[..piece.len()] {
                return Err("a reply differs from that of Redis".into());
            }
            rest = remainder;
            self.matched += piece.len();
            if self.matched == expected.len() {
                self.matched = 0;
                let due = self.due.pop_front().ok_or("received a reply without a request")?;
                record(latencies, due.elapsed());
            }
        }
        Ok(())
    }
}
