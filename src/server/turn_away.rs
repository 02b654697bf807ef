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
use crate::net::proxy_protocol;
use crate::session::{DENIAL_BYTES, DENIAL_TIME, Denial, DenialAnswer, Endpoint, denial_answer};

/// Longest wait for the bytes of these clients, before a look for more clients.
const STEP: Duration = Duration::from_millis(2);

/// Queue of the thread that turns clients away.
pub(super) struct TurnAway(SyncSender<(ClientStream, Denial)>);

/// Answers the clients over the limit.
struct Attendant {
    endpoint: Endpoint,
    balancer: Arc<Balancer>,
}

/// A client over the limit.
struct Visitor {
    stream: ClientStream,
    denial: Denial,
    since: Instant,
    received: Vec<u8>,
    /// Whether a proxy's header comes before anything else.
    has_header: bool,
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
    pub fn turn_away(&self, client: ClientStream, why: Denial) {
        // The thread ends with the queue.
        let _ = self.0.send((client, why));
    }
}

impl Visitor {
    /// Takes a proxy's header from what was received; returns whether the client's own bytes come next. An error means
    /// that they never do.
    fn take_header(&mut self) -> Result<bool, ()> {
        if !self.has_header {
            return Ok(true);
        }
        let Some(header) = proxy_protocol::parse(&self.received).map_err(|_| ())? else {
            return Ok(false);
        };
        self.received.drain(..header.length);
        self.has_header = false;
        Ok(true)
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
    fn attend_to_all(&self, queue: &Receiver<(ClientStream, Denial)>, max: usize, batch: usize) {
        let mut visitors: Vec<Visitor> = Vec::new();
        loop {
            if visitors.is_empty() {
                let Ok(client) = queue.recv() else { return };
                visitors.push(self.visitor(client));
            }
            visitors.extend(queue.try_iter().take(batch).map(|client| self.visitor(client)));
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
                let is_late = visitor.since.elapsed() >= DENIAL_TIME;
                self.attend(visitor, is_late)
            });
        }
    }

    fn visitor(&self, (stream, denial): (ClientStream, Denial)) -> Visitor {
        let has_header = self.endpoint == Endpoint::Public && self.balancer.config().proxy_protocol;
        let header_bytes = if has_header { proxy_protocol::MAX_BYTES } else { 0 };
        let received = Vec::with_capacity(header_bytes + DENIAL_BYTES);
        Visitor { stream, denial, since: Instant::now(), received, has_header, is_answered: false }
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
            let Ok(is_past_header) = visitor.take_header() else {
                self.balancer.metrics.without_proxy_header.add_one();
                return false;
            };
            let is_all = is_over || visitor.received.len() >= DENIAL_BYTES;
            let (denial, received) = (visitor.denial, &visitor.received);
            let answer = || denial_answer(denial, received, is_all, self.endpoint, &self.balancer);
            match is_past_header.then(answer).flatten() {
                Some(DenialAnswer::Denied(answer)) => {
                    self.count(denial);
                    visitor.send(&answer);
                }
                Some(DenialAnswer::Probe(answer)) => visitor.send(&answer),
                None if is_over => self.count(denial),
                None => {}
            }
        }
        if visitor.is_answered {
            visitor.received.clear();
        }
        !is_over
    }

    /// Counts a client that is turned away, before it can know. One whose address has too many is counted already.
    fn count(&self, denial: Denial) {
        if self.endpoint == Endpoint::Public && denial == Denial::Full {
            self.balancer.metrics.turned_away.add_one();
        }
    }
}
