//! Counters of clients, requests, refusals and failures, and histograms of how long backends took.

mod completion;
mod histogram;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::Serialize;

pub use self::completion::{Completion, Outcome};
pub use self::histogram::{Histogram, Times};
use crate::net::protocol::WireProtocol;

/// A number that only grows; any number of threads may count at once.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Counts so many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count since the start of the process.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One value for each protocol.
#[derive(Debug, Default, Serialize)]
pub struct ByProtocol<T> {
    pub http: T,
    pub resp: T,
}

impl ByProtocol<Counter> {
    /// The counts as they are now.
    pub fn get(&self) -> ByProtocol<u64> {
        ByProtocol { http: self.http.get(), resp: self.resp.get() }
    }
}

impl<T> ByProtocol<T> {
    /// The value of one protocol.
    pub fn of(&self, protocol: WireProtocol) -> &T {
        match protocol {
            WireProtocol::Http => &self.http,
            WireProtocol::Resp => &self.resp,
        }
    }
}

/// Reason why a request did not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would write.
    Write,
    /// It is malformed.
    BadRequest,
    /// The command does not exist.
    UnknownCommand,
    /// The command exists and is not served.
    NotServed,
    /// No backend could answer.
    Unanswered,
}

impl Refusal {
    pub const ALL: [Self; 5] =
        [Self::Write, Self::BadRequest, Self::UnknownCommand, Self::NotServed, Self::Unanswered];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::BadRequest => "bad_request",
            Self::UnknownCommand => "unknown_command",
            Self::NotServed => "not_served",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Metrics of one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// Requests that it has answered, by how long it took until the reply began.
    pub answered: ByProtocol<Histogram>,
    /// Attempts that failed: it could not be reached, was silent, or could not answer.
    pub errors: Counter,
    /// Failed attempts that were made again on another backend.
    pub retries: Counter,
    /// Error replies to Redis clients.
    pub error_replies: Counter,
}

/// Metrics of all clients together, without those of backends.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connected clients whose protocol is not known yet.
    pub new_clients: AtomicUsize,
    /// Connected clients whose protocol is known.
    pub clients: ByProtocol<AtomicUsize>,
    /// Clients since the start of the process whose protocol became known.
    pub connections: ByProtocol<Counter>,
    /// Clients that were refused because there are too many.
    pub turned_away: Counter,
    /// Requests that were answered without a backend.
    pub answered_here: ByProtocol<Counter>,
    /// Answers that a failing backend cut off.
    pub cut: ByProtocol<Counter>,
    /// HTTP requests for keys.
    pub http_keys: Counter,
    /// HTTP requests for listings.
    pub http_listings: Counter,
    refused: ByProtocol<[Counter; Refusal::ALL.len()]>,
}

impl Metrics {
    /// How many requests were refused for this reason.
    pub fn refused(&self, protocol: WireProtocol, why: Refusal) -> u64 {
        self.refused.of(protocol)[why as usize].get()
    }

    /// How many clients are connected.
    pub fn all_clients(&self) -> usize {
        let ByProtocol { http, resp } = &self.clients;
        [&self.new_clients, http, resp].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl BackendMetrics {
    /// The times of requests of both protocols.
    pub fn times(&self) -> Times {
        self.answered.http.times().with(&self.answered.resp.times())
    }
}

/// Counts a client as connected until it is dropped.
#[derive(Debug)]
pub struct Presence<'a> {
    metrics: &'a Metrics,
    /// The gauge in which the client is counted now.
    counted: &'a AtomicUsize,
}

impl<'a> Presence<'a> {
    /// Counts a client that has just connected.
    pub fn new(metrics: &'a Metrics) -> Self {
        metrics.new_clients.fetch_add(1, Ordering::Relaxed);
        Self { metrics, counted: &metrics.new_clients }
    }

    /// Counts the client among those of its protocol, which is known now.
    pub fn speaks(&mut self, protocol: WireProtocol) {
        self.metrics.connections.of(protocol).add_one();
        let now = self.metrics.clients.of(protocol);
        now.fetch_add(1, Ordering::Relaxed);
        self.counted.fetch_sub(1, Ordering::Relaxed);
        self.counted = now;
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.counted.fetch_sub(1, Ordering::Relaxed);
    }
}
