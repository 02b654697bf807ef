//! Copies of the counters at one moment, and what was counted between two moments.

use std::array;

use super::{BackendMetrics, ByProtocol, Metrics, Refusal, STATUS_CLASSES};
use crate::net::protocol::WireProtocol;

/// Counts of all clients together, without those of backends.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Requests that were answered without a backend.
    pub answered_here: ByProtocol<u64>,
    /// Clients whose protocol became known.
    pub connections: ByProtocol<u64>,
    /// Bytes that clients have sent.
    pub received_bytes: ByProtocol<u64>,
    /// Bytes that clients were sent.
    pub sent_bytes: ByProtocol<u64>,
    /// HTTP responses by the class of their status, in the order of [`STATUS_CLASSES`].
    pub responses: [u64; STATUS_CLASSES.len()],
    /// Refused requests by their reason, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Clients that were refused because there are too many.
    pub turned_away: u64,
    /// Answers that a failing backend cut off.
    pub cut: u64,
    /// Reads that the near cache answered.
    pub cache_hits: u64,
    /// Reads that it could have answered, and did not.
    pub cache_misses: u64,
}

/// Counts of one backend.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BackendCounts {
    /// Requests that it has answered.
    pub requests: ByProtocol<u64>,
    /// Attempts that failed.
    pub errors: u64,
    /// Error replies to Redis clients.
    pub error_replies: u64,
    /// Failed attempts that were made again on another backend.
    pub retries: u64,
    /// Reads that the near cache answered with what it keeps of this backend.
    pub cache_hits: u64,
    /// Bytes that have come from it, with the answers to health checks.
    pub received_bytes: u64,
    /// Bytes that have gone to it, with health checks.
    pub sent_bytes: u64,
}

/// Counts of which the difference to an earlier copy says what was counted in between.
pub trait Since {
    /// Subtracts `earlier`, an earlier copy of the same counts.
    fn since(&self, earlier: &Self) -> Self;
}

impl Since for u64 {
    fn since(&self, earlier: &Self) -> Self {
        self.saturating_sub(*earlier)
    }
}

impl<const N: usize> Since for [u64; N] {
    fn since(&self, earlier: &Self) -> Self {
        array::from_fn(|at| self[at].since(&earlier[at]))
    }
}

impl Since for ByProtocol<u64> {
    fn since(&self, earlier: &Self) -> Self {
        Self { http: self.http.since(&earlier.http), resp: self.resp.since(&earlier.resp) }
    }
}

impl Since for Counts {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            answered_here: self.answered_here.since(&earlier.answered_here),
            connections: self.connections.since(&earlier.connections),
            received_bytes: self.received_bytes.since(&earlier.received_bytes),
            sent_bytes: self.sent_bytes.since(&earlier.sent_bytes),
            responses: self.responses.since(&earlier.responses),
            refused: self.refused.since(&earlier.refused),
            turned_away: self.turned_away.since(&earlier.turned_away),
            cut: self.cut.since(&earlier.cut),
            cache_hits: self.cache_hits.since(&earlier.cache_hits),
            cache_misses: self.cache_misses.since(&earlier.cache_misses),
        }
    }
}

impl Since for BackendCounts {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.since(&earlier.requests),
            errors: self.errors.since(&earlier.errors),
            error_replies: self.error_replies.since(&earlier.error_replies),
            retries: self.retries.since(&earlier.retries),
            cache_hits: self.cache_hits.since(&earlier.cache_hits),
            received_bytes: self.received_bytes.since(&earlier.received_bytes),
            sent_bytes: self.sent_bytes.since(&earlier.sent_bytes),
        }
    }
}

impl BackendCounts {
    /// The requests of both protocols.
    pub fn all_requests(&self) -> u64 {
        self.requests.http + self.requests.resp
    }

    /// Adds the counts of another backend.
    pub fn add(&mut self, other: &Self) {
        // Without `..`: none may be forgotten.
        let Self {
            requests,
            errors,
            error_replies,
            retries,
            cache_hits,
            received_bytes,
            sent_bytes,
        } = other;
        self.requests.http += requests.http;
        self.requests.resp += requests.resp;
        self.errors += errors;
        self.error_replies += error_replies;
        self.retries += retries;
        self.cache_hits += cache_hits;
        self.received_bytes += received_bytes;
        self.sent_bytes += sent_bytes;
    }
}

impl Counts {
    /// The number of requests that were refused for this reason.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize]
    }
}

impl Metrics {
    /// A copy of all counts as they are now.
    pub fn counts(&self) -> Counts {
        let refused =
            |why| self.refused(WireProtocol::Http, why) + self.refused(WireProtocol::Resp, why);
        let ByProtocol { http, resp } = &self.traffic;
        Counts {
            answered_here: self.answered_here.get(),
            connections: self.connections.get(),
            received_bytes: ByProtocol { http: http.received_bytes(), resp: resp.received_bytes() },
            sent_bytes: ByProtocol { http: http.sent_bytes(), resp: resp.sent_bytes() },
            responses: STATUS_CLASSES.map(|(class, _)| self.responses(class)),
            refused: Refusal::ALL.map(refused),
            turned_away: self.turned_away.get(),
            cut: self.cut.http.get() + self.cut.resp.get(),
            cache_hits: self.cache.hits.get(),
            cache_misses: self.cache.misses.get(),
        }
    }
}

impl BackendMetrics {
    /// A copy of all counts as they are now.
    pub fn counts(&self) -> BackendCounts {
        let answered = &self.answered;
        BackendCounts {
            requests: ByProtocol { http: answered.http.count(), resp: answered.resp.count() },
            errors: self.errors.get(),
            error_replies: self.error_replies.get(),
            retries: self.retries.get(),
            cache_hits: self.cache_hits.get(),
            received_bytes: self.traffic.received_bytes(),
            sent_bytes: self.traffic.sent_bytes(),
        }
    }
}
