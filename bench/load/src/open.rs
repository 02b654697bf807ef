//! Requests at fixed times, whether replies come or not: so a server that stalls is measured by all
//! that would have asked meanwhile, not by the one that waits.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire;

/// How long replies are waited for after the last request.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// When each request that has no reply yet was to be sent.
    due: VecDeque<Instant>,
    /// How much of the reply to the first of them has come.
    matched: usize,
}

/// Returns latencies in milliseconds as a JSON object.
pub fn run(plan: &Plan) -> Result<String, Box<dyn Error>> {
    if plan.connections == 0 || !(1.0..=1e7).contains(&(plan.rate * plan.seconds)) {
        return Err("there must be a connection, and from 1 to 10,000,000 requests".into());
    }
    let total = (plan.rate * plan.seconds) as usize;
    let mut connections = (0..plan.connections)
        .map(|_| Connection::open(plan.port))
        .collect::<Result<Vec<_>, _>>()?;
    let mut latencies = Vec::with_capacity(total);
    let mut delays = Vec::with_capacity(total);
    let start = Instant::now();
    let at = |number: usize| start + Duration::from_secs_f64(number as f64 / plan.rate);
    let deadline = at(total) + PATIENCE;
    let mut sent = 0;
    while latencies.len() < total {
        let now = Instant::now();
        if now > deadline {
            break;
        }
        while sent < total && at(sent) <= now {
            let connection = &mut connections[sent % plan.connections];
            connection.send(&plan.request, at(sent))?;
            delays.push(at(sent).elapsed());
            sent += 1;
        }
        let wake = if sent < total { at(sent) } else { deadline };
        for number in ready(&connections, wake)? {
            let connection = &mut connections[number];
            connection.flush()?;
            connection.receive(&plan.expected, &mut latencies)?;
        }
    }
    let unanswered = total - latencies.len();
    // Who had no reply has waited until now at least.
    latencies.extend(connections.iter().flat_map(|c| c.due.iter().map(Instant::elapsed)));
    latencies.sort_unstable();
    delays.sort_unstable();
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

/// The value of which `part` of all are not greater.
fn milliseconds(sorted: &[Duration], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// Waits until `wake` for connections that can be read from or, if there is need, written to.
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
        latencies: &mut Vec<Duration>,
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
            let (piece, behind) = rest.split_at(wanted.len().min(rest.len()));
            if piece != &wanted[..piece.len()] {
                return Err("a reply is not what Redis says".into());
            }
            rest = behind;
            self.matched += piece.len();
            if self.matched == expected.len() {
                self.matched = 0;
                let due = self.due.pop_front().ok_or("a reply that was not asked for")?;
                latencies.push(due.elapsed());
            }
        }
        Ok(())
    }
}
