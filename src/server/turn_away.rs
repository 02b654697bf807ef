//! Clients over the limit: they are told so, and probes among them are answered.
//!
//! One thread does that for all clients of an address, so that they cost no thread each. It attends to
//! some at the same time: clients that say nothing keep nobody waiting. Health and readiness need no
//! place among the clients, so a probe is answered here, whatever others do.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::balance::Balancer;
use crate::net::client_stream::ClientStream;
use crate::net::poll;
use crate::net::protocol::WireProtocol;
use crate::session::{self, Endpoint};

/// Longest time for one client over the limit to say what it wants, and to take the answer.
const TURN_AWAY_TIME: Duration = Duration::from_millis(20);

/// Longest wait for the bytes of these clients, before a look for more clients.
const STEP: Duration = Duration::from_millis(2);

/// Room for what such a client says. The head of a probe fits.
const RECEIVED_BYTES: usize = 1024;

/// How requests begin that are answered here.
const PROBES: [&[u8]; 4] = [b"GET /-/health", b"GET /-/ready", b"HEAD /-/health", b"HEAD /-/ready"];

const HTTP_FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Content-Length: 51\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\r\n\
    {\n  \"error\": \"too many clients: try again later\"\n}\n";
const RESP_FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// Queue of the thread that turns clients away.
pub(super) struct TurnAway(SyncSender<ClientStream>);

/// Answers the clients over the limit.
struct Attendant {
    endpoint: Endpoint,
    balancer: Arc<Balancer>,
}

/// A client over the limit.
struct Visitor {
    stream: ClientStream,
    since: Instant,
    received: Vec<u8>,
    is_answered: bool,
}

impl TurnAway {
    /// Starts the thread for the clients of one address, of whom at most `max` are there at a time.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(endpoint: Endpoint, balancer: &Arc<Balancer>, max: usize) -> io::Result<Self> {
        let attendant = Attendant { endpoint, balancer: Arc::clone(balancer) };
        // A quarter of them wait in the queue, another quarter may come when half of them are there.
        let batch = max / 4;
        let (queue, waiting) = sync_channel(batch);
        let work = move || attendant.attend_to_all(&waiting, (max / 2).max(1), batch.max(1));
        thread::Builder::new().name("full".to_owned()).spawn(work)?;
        Ok(Self(queue))
    }

    /// Leaves a client to the thread. Waits for a moment when too many have come at once.
    pub fn turn_away(&self, client: ClientStream) {
        // The thread ends with the queue.
        let _ = self.0.send(client);
    }
}

impl Visitor {
    fn new(stream: ClientStream) -> Self {
        let received = Vec::with_capacity(RECEIVED_BYTES);
        Self { stream, since: Instant::now(), received, is_answered: false }
    }

    fn send(&mut self, answer: &[u8]) {
        // A new socket takes this at once. Whatever fails, the client is closed, which it understands.
        let _ = self.stream.send_last(answer);
        self.is_answered = true;
    }
}

impl Attendant {
    /// Attends to the clients in the queue, `max` at a time, until the queue is closed and empty. It takes
    /// up to `batch` more at once.
    fn attend_to_all(&self, queue: &Receiver<ClientStream>, max: usize, batch: usize) {
        let mut visitors: Vec<Visitor> = Vec::new();
        loop {
            if visitors.is_empty() {
                let Ok(client) = queue.recv() else { return };
                visitors.push(Visitor::new(client));
            }
            visitors.extend(queue.try_iter().take(batch).map(Visitor::new));
            while visitors.len() > max {
                // Those that are answered make room for the others, then those that came first.
                let leaves = visitors.iter().position(|visitor| visitor.is_answered);
                self.attend(&mut visitors.remove(leaves.unwrap_or(0)), true);
            }
            let mut inputs: Vec<_> =
                visitors.iter().map(|visitor| visitor.stream.input()).collect();
            // If that fails, each is looked at all the same.
            let _ = poll(&mut inputs, STEP);
            visitors.retain_mut(|visitor| {
                let is_late = visitor.since.elapsed() >= TURN_AWAY_TIME;
                self.attend(visitor, is_late)
            });
        }
    }

    /// Reads what a client has sent, and answers it if that suffices; returns whether it stays.
    ///
    /// A client that has not said in time what it speaks gets no answer: one in the wrong protocol would
    /// be an error of its own, where the end of the connection is understood by all. A client that was
    /// answered stays until it closes: closed with unread bytes, the socket would be reset and the answer
    /// lost.
    fn attend(&self, visitor: &mut Visitor, is_late: bool) -> bool {
        let is_there = match visitor.stream.read_now(&mut visitor.received) {
            Ok(length) => length > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        let is_over = is_late || !is_there;
        if !visitor.is_answered {
            let is_all = is_over || visitor.received.len() >= RECEIVED_BYTES;
            let probe = |head: &[u8]| session::probe_response(head, self.endpoint, &self.balancer);
            match answer_to(&visitor.received, is_all, probe) {
                Some(Answer::Full(answer)) => {
                    self.count();
                    visitor.send(answer);
                }
                Some(Answer::Probe(answer)) => visitor.send(&answer),
                None if is_over => self.count(),
                None => {}
            }
        }
        if visitor.is_answered {
            visitor.received.clear();
        }
        !is_over
    }

    /// Counts a client that is turned away, before it can know.
    fn count(&self) {
        if self.endpoint == Endpoint::Public {
            self.balancer.metrics.turned_away.add_one();
        }
    }
}

/// The answer to a client over the limit.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// There is no place for it.
    Full(&'static [u8]),
    /// It needs no place.
    Probe(Vec<u8>),
}

/// Returns the answer to a client over the limit, by the bytes that it has sent; `None` while they don't
/// tell what it wants. `is_all` says that no more are waited for. `probe` answers a whole request for
/// health or readiness.
fn answer_to(
    received: &[u8],
    is_all: bool,
    probe: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<Answer> {
    match WireProtocol::detect(received)? {
        WireProtocol::Resp => Some(Answer::Full(RESP_FULL)),
        WireProtocol::Http if may_be_probe(received) => match probe(received) {
            None if is_all => Some(Answer::Full(HTTP_FULL)),
            answer => answer.map(Answer::Probe),
        },
        WireProtocol::Http => Some(Answer::Full(HTTP_FULL)),
    }
}

/// Returns whether a request that begins with these bytes may be one for health or readiness.
fn may_be_probe(received: &[u8]) -> bool {
    let line = received.strip_prefix(b"\r\n").unwrap_or(received);
    PROBES.iter().any(|probe| line.starts_with(probe) || probe.starts_with(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: &str = "GET /-/health HTTP/1.1\r\n\r\n";

    fn answer(received: &str, is_all: bool) -> Option<Answer> {
        let probe = |head: &[u8]| head.ends_with(b"\r\n\r\n").then(|| b"OK".to_vec());
        answer_to(received.as_bytes(), is_all, probe)
    }

    #[test]
    fn a_client_over_the_limit_is_answered_in_its_protocol_or_not_at_all() {
        let (http, resp) = (Some(Answer::Full(HTTP_FULL)), Some(Answer::Full(RESP_FULL)));
        for (received, now, at_the_end) in [
            ("GET /key HTTP/1.1\r\n", &http, &http),
            ("GET /-/metrics HTTP/1.1\r\n", &http, &http),
            ("GET /", &None, &http),
            ("\r\nGET /-/he", &None, &http),
            (&HEALTH[..HEALTH.len() - 2], &None, &http),
            ("*1\r\n$4\r\nPING\r\n", &resp, &resp),
            ("*", &resp, &resp),
            ("GET key\r\n", &resp, &resp),
            ("", &None, &None),
            ("GET", &None, &None),
            ("\r\n", &None, &None),
        ] {
            assert_eq!(answer(received, false), *now, "{received:?}");
            assert_eq!(answer(received, true), *at_the_end, "{received:?}");
        }
    }

    #[test]
    fn a_probe_over_the_limit_is_answered() {
        for head in [HEALTH, "HEAD /-/ready?from=a HTTP/1.1\r\n\r\n", "\r\nGET /-/ready\r\n\r\n"] {
            assert_eq!(answer(head, false), Some(Answer::Probe(b"OK".to_vec())), "{head:?}");
        }
    }

    #[test]
    fn the_fixed_answer_has_the_length_that_it_names() {
        let text = std::str::from_utf8(HTTP_FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    }
}
