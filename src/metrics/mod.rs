//! Counters of clients, requests, refusals and failures, and histograms of how long backends took.

pub mod cache;
mod commands;
mod counts;
mod histogram;
mod octaves;
mod striped;
pub mod tls;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use self::cache::CacheMetrics;
pub use self::commands::{CommandId, CommandTimes, HTTP_KINDS, SentCommands};
pub use self::counts::{BackendCounts, Counts, Since};
pub use self::histogram::{CoarseTimes, Histogram, LogTimes, SparseTimes, Times};
pub use self::octaves::OctaveTimes;
use self::striped::Striped;
use self::tls::TlsMetrics;
pub use self::traffic::Traffic;
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
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// It took too long to arrive.
    TooSlow,
    /// The command, or the method of HTTP, does not exist.
    UnknownCommand,
    /// The command, the method of HTTP, or the host exists and is not served.
    NotServed,
    /// No backend could answer.
    Unanswered,
    /// No backend has data that are as fresh as it asks for.
    TooStale,
    /// The client has to log in, or could not.
    NotLoggedIn,
    /// The user may not do this.
    NotPermitted,
    /// The user is over one of its limits.
    Throttled,
}

impl Refusal {
    pub const ALL: [Self; 10] = [
        Self::Write,
        Self::BadRequest,
        Self::TooSlow,
        Self::UnknownCommand,
        Self::NotServed,
        Self::Unanswered,
        Self::TooStale,
        Self::NotLoggedIn,
        Self::NotPermitted,
        Self::Throttled,
    ];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::BadRequest => "bad_request",
            Self::TooSlow => "too_slow",
            Self::UnknownCommand => "unknown_command",
            Self::NotServed => "not_served",
            Self::Unanswered => "unanswered",
            Self::TooStale => "too_stale",
            Self::NotLoggedIn => "not_logged_in",
            Self::NotPermitted => "not_permitted",
            Self::Throttled => "throttled",
        }
    }
}

/// How a command or request ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The client gets what it asked for.
    #[default]
    Answered,
    /// The client gets an error reply: the backend's, or ours to a command that it may send.
    ErrorReply,
    /// The client gets an error of ours instead of what it asked for.
    Refused(Refusal),
    /// The client gets nothing, and its connection is closed.
    Closed(Refusal),
    /// The reply broke off because of a backend.
    Cut,
}

/// A command or request that is over, or several of one client that were answered together.
#[derive(Debug)]
pub struct Completion<'a> {
    /// Protocol of the client.
    pub protocol: WireProtocol,
    /// The Redis command, or the kind of HTTP request, as it is timed; of none for those that are timed together with
    /// others, or not at all.
    pub command: CommandId,
    /// The status of the response, over HTTP.
    pub status: Option<u16>,
    /// Counters of the backend that answered; `None` for an answer of our own.
    pub backend: Option<&'a BackendMetrics>,
    /// Number of commands.
    pub count: u64,
    /// Time from the try on the backend that answered until its reply began.
    pub time: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Metrics of one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// Requests that it has answered, by how long it took until the reply began.
    pub answered: ByProtocol<Histogram>,
    /// Replies on shared connections, and health checks, by how long they took to begin. They should take as long
    /// on one backend as on another.
    pub short_reads: Histogram,
    /// Attempts that failed: it could not be reached, was silent, or could not answer.
    pub errors: Counter,
    /// Failed attempts that were made again on another backend.
    pub retries: Counter,
    /// Error replies to Redis clients.
    pub error_replies: Counter,
    /// Reads that the near cache answered with what it keeps of this backend.
    pub cache_hits: Counter,
    /// Reads that kept it busy, and have ended.
    pub slow_reads: Counter,
    /// Bytes of our connections to it, with health checks.
    pub traffic: Arc<Traffic>,
    /// Health checks that it answered, whatever it said.
    pub answered_checks: Counter,
    /// Health checks that it did not answer.
    pub failed_checks: Counter,
}

/// One more than the highest first digit of a status.
const RESPONSE_CLASSES: usize = 6;

/// The first digits of the statuses that we send, with their names.
pub const STATUS_CLASSES: [(usize, &str); 4] = [(2, "2xx"), (3, "3xx"), (4, "4xx"), (5, "5xx")];

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
    /// Clients that were refused because their address has too many.
    pub limited_by_address: Counter,
    /// Connections that were closed because they did not begin with a PROXY header.
    pub without_proxy_header: Counter,
    /// TLS towards clients.
    pub tls: TlsMetrics,
    /// Idle HTTP clients that were closed to make room for others.
    pub closed_idle: Counter,
    /// Requests that were answered without a backend.
    pub answered_here: ByProtocol<Counter>,
    /// Answers that a failing backend cut off.
    pub cut: ByProtocol<Counter>,
    /// HTTP requests for keys.
    pub http_keys: Counter,
    /// HTTP requests for listings.
    pub http_listings: Counter,
    /// The near cache.
    pub cache: CacheMetrics,
    /// How long backends took over each Redis command, and each kind of HTTP request.
    pub command_times: CommandTimes,
    /// Bytes of the clients whose protocol is known.
    pub traffic: ByProtocol<Arc<Traffic>>,
    /// HTTP responses by the first digit of their status.
    responses: Striped<RESPONSE_CLASSES>,
    refused: ByProtocol<[Counter; Refusal::ALL.len()]>,
}

impl Metrics {
    /// Counts commands or requests that are over. This comes before the client can have the reply, so
    /// that the counts agree with the client's own.
    pub fn complete(&self, completion: &Completion) {
        let Completion { protocol, count, outcome, .. } = *completion;
        match (outcome, completion.backend) {
            (Outcome::Cut, _) => self.cut.of(protocol).add(count),
            (Outcome::Closed(_), _) => {}
            (_, Some(backend)) => {
                backend.answered.of(protocol).add(completion.time, count);
                self.command_times.add(completion.command, completion.time, count);
            }
            (_, None) => self.answered_here.of(protocol).add(count),
        }
        if let Some(status) = completion.status.filter(|_| outcome != Outcome::Cut) {
            let class = usize::from(status / 100).min(RESPONSE_CLASSES - 1);
            self.responses.add(class, count);
        }
        match (outcome, completion.backend) {
            (Outcome::Refused(why) | Outcome::Closed(why), _) => {
                self.refused.of(protocol)[why as usize].add(count);
            }
            (Outcome::ErrorReply, Some(backend)) => backend.error_replies.add(count),
            _ => {}
        }
    }

    /// How many HTTP responses had a status with this first digit.
    pub fn responses(&self, class: usize) -> u64 {
        self.responses.get(class.min(RESPONSE_CLASSES - 1))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_where_it_belongs() {
        let why = Refusal::Write;
        let cases = [
            // Outcome, by a backend, [answered by it, its errors, answered here, refused, cut].
            (Outcome::Answered, true, [2, 0, 0, 0, 0]),
            (Outcome::Answered, false, [0, 0, 2, 0, 0]),
            (Outcome::ErrorReply, true, [2, 2, 0, 0, 0]),
            (Outcome::ErrorReply, false, [0, 0, 2, 0, 0]),
            (Outcome::Refused(why), true, [2, 0, 0, 2, 0]),
            (Outcome::Refused(why), false, [0, 0, 2, 2, 0]),
            (Outcome::Closed(why), false, [0, 0, 0, 2, 0]),
            (Outcome::Cut, true, [0, 0, 0, 0, 2]),
        ];
        for (outcome, is_by_backend, expected) in cases {
            let (metrics, backend) = (Metrics::default(), BackendMetrics::default());
            metrics.complete(&Completion {
                protocol: WireProtocol::Resp,
                command: CommandId::default(),
                status: Some(404),
                backend: is_by_backend.then_some(&backend),
                count: 2,
                time: Duration::from_millis(1),
                outcome,
            });
            let counted = [
                backend.answered.resp.count(),
                backend.error_replies.get(),
                metrics.answered_here.resp.get(),
                metrics.refused(WireProtocol::Resp, why),
                metrics.cut.resp.get(),
            ];
            assert_eq!(counted, expected, "{outcome:?}");
            assert_eq!(metrics.answered_here.http.get() + metrics.cut.http.get(), 0);
            let responses = STATUS_CLASSES.map(|(class, _)| metrics.responses(class));
            let expected = if outcome == Outcome::Cut { 0 } else { 2 };
            assert_eq!(responses, [0, 0, expected, 0]);
        }
    }
}
