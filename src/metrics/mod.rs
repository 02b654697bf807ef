//! What is counted: clients, requests, refusals, failures, and how long backends took.

mod completion;
mod histogram;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use self::completion::{Completion, Outcome};
pub use self::histogram::{Histogram, Times};
use crate::net::protocol::WireProtocol;

/// Counts up from the start of the process, for any number of threads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of something for each protocol.
#[derive(Debug, Default)]
pub struct ByProtocol<T> {
    /// HTTP's.
    pub http: T,
    /// The Redis protocol's.
    pub resp: T,
}

impl<T> ByProtocol<T> {
    /// That of one protocol.
    pub fn of(&self, protocol: WireProtocol) -> &T {
        match protocol {
            WireProtocol::Http => &self.http,
            WireProtocol::Resp => &self.resp,
        }
    }
}

/// Why a request was not answered with what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would write.
    Write,
    /// It is malformed.
    BadRequest,
    /// It is a command that does not exist.
    UnknownCommand,
    /// It is a command that we keep from readers.
    NotServed,
    /// No backend could answer.
    Unanswered,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Write, Self::BadRequest, Self::UnknownCommand, Self::NotServed, Self::Unanswered];

    /// As a label has it.
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

/// What one backend has done.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// The requests that it has answered, and how long it took until the reply began.
    pub answered: ByProtocol<Histogram>,
    /// Tries that failed: it could not be reached, was silent, or could not answer.
    pub errors: Counter,
    /// Those of them that were made again on another backend.
    pub retries: Counter,
    /// Replies to Redis clients that are errors.
    pub error_replies: Counter,
}

/// What all clients together have done, beside what backends did for them.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Clients that are connected and have not said yet what they speak.
    pub new_clients: AtomicUsize,
    /// Clients that are connected.
    pub clients: ByProtocol<AtomicUsize>,
    /// Clients that ever said what they speak.
    pub connections: ByProtocol<Counter>,
    /// Clients that were told that there are too many.
    pub turned_away: Counter,
    /// Requests that were answered without a backend.
    pub answered_here: ByProtocol<Counter>,
    /// Answers that broke off because of a backend.
    pub cut: ByProtocol<Counter>,
    /// What HTTP clients asked for: keys.
    pub http_keys: Counter,
    /// Listings.
    pub http_listings: Counter,
    refused: ByProtocol<[Counter; Refusal::ALL.len()]>,
}

impl Metrics {
    /// How many there were.
    pub fn refused(&self, protocol: WireProtocol, why: Refusal) -> u64 {
        self.refused.of(protocol)[why as usize].get()
    }

    /// The clients that are connected.
    pub fn all_clients(&self) -> usize {
        let ByProtocol { http, resp } = &self.clients;
        [&self.new_clients, http, resp].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl BackendMetrics {
    /// The times of both protocols.
    pub fn times(&self) -> Times {
        self.answered.http.times().with(&self.answered.resp.times())
    }
}

/// Counts a client as long as it lives.
#[derive(Debug)]
pub struct Presence<'a> {
    metrics: &'a Metrics,
    counted: &'a AtomicUsize,
}

impl<'a> Presence<'a> {
    /// Of a client that has just come.
    pub fn new(metrics: &'a Metrics) -> Self {
        metrics.new_clients.fetch_add(1, Ordering::Relaxed);
        Self { metrics, counted: &metrics.new_clients }
    }

    /// It has said what it speaks.
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
