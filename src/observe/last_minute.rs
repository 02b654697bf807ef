//! What was counted in the last minute, and refusals and responses by their kind, as the status shows them.

use std::time::Duration;

use serde::Serialize;

use super::backend_status::{Latency, rounded};
use crate::balance::history::{Recent, RecentOfBackend};
use crate::metrics::{BackendCounts, ByProtocol, Counts, Refusal};

/// The last minute of all clients and backends together, with the backends that are gone.
#[derive(Debug, Serialize)]
pub(super) struct LastMinute {
    /// How long it is: less than a minute if the process is younger.
    seconds: f64,
    requests: ByProtocol<u64>,
    connections: ByProtocol<u64>,
    refused: Refused,
    cut_answers: u64,
    responses: Responses,
    received_bytes: ByProtocol<u64>,
    sent_bytes: ByProtocol<u64>,
    cache: Option<CacheReads>,
    errors: u64,
    error_replies: u64,
    retries: u64,
    latency_ms: Latency,
}

/// The last minute of one backend.
#[derive(Debug, Serialize)]
pub(super) struct LastMinuteOfBackend {
    seconds: f64,
    requests: ByProtocol<u64>,
    errors: u64,
    error_replies: u64,
    retries: u64,
    cache_hits: u64,
    received_bytes: u64,
    sent_bytes: u64,
    latency_ms: Latency,
}

/// Requests that did not get what they asked for, and clients that were turned away.
#[derive(Debug, Serialize)]
pub(super) struct Refused {
    writes: u64,
    bad_requests: u64,
    too_slow: u64,
    unknown_commands: u64,
    not_served: u64,
    unanswered: u64,
    too_stale: u64,
    not_logged_in: u64,
    not_permitted: u64,
    throttled: u64,
    too_many_clients: u64,
}

/// HTTP responses by the class of their status.
#[derive(Debug, Serialize)]
pub(super) struct Responses {
    #[serde(rename = "2xx")]
    successes: u64,
    #[serde(rename = "3xx")]
    redirections: u64,
    #[serde(rename = "4xx")]
    client_errors: u64,
    #[serde(rename = "5xx")]
    server_errors: u64,
}

/// Reads that the near cache answered, and could have answered.
#[derive(Debug, Serialize)]
struct CacheReads {
    hits: u64,
    misses: u64,
}

impl LastMinute {
    pub fn of(recent: &Recent, has_cache: bool) -> Self {
        let Counts { answered_here, connections, received_bytes, sent_bytes, .. } = recent.counts;
        let of_backends = &recent.counts_of_backends;
        Self {
            seconds: seconds(recent.minute),
            requests: ByProtocol {
                http: answered_here.http + of_backends.requests.http,
                resp: answered_here.resp + of_backends.requests.resp,
            },
            connections,
            refused: Refused::of(&recent.counts),
            cut_answers: recent.counts.cut,
            responses: Responses::of(&recent.counts),
            received_bytes,
            sent_bytes,
            cache: has_cache.then_some(CacheReads {
                hits: recent.counts.cache_hits,
                misses: recent.counts.cache_misses,
            }),
            errors: of_backends.errors,
            error_replies: of_backends.error_replies,
            retries: of_backends.retries,
            latency_ms: Latency::of(&recent.times_of_backends),
        }
    }
}

impl LastMinuteOfBackend {
    pub fn of(recent: &RecentOfBackend) -> Self {
        let BackendCounts { requests, errors, error_replies, retries, cache_hits, .. } =
            recent.counts;
        Self {
            seconds: seconds(recent.minute),
            requests,
            errors,
            error_replies,
            retries,
            cache_hits,
            received_bytes: recent.counts.received_bytes,
            sent_bytes: recent.counts.sent_bytes,
            latency_ms: Latency::of(&recent.times),
        }
    }
}

impl Refused {
    pub fn of(counts: &Counts) -> Self {
        Self {
            writes: counts.refused(Refusal::Write),
            bad_requests: counts.refused(Refusal::BadRequest),
            too_slow: counts.refused(Refusal::TooSlow),
            unknown_commands: counts.refused(Refusal::UnknownCommand),
            not_served: counts.refused(Refusal::NotServed),
            unanswered: counts.refused(Refusal::Unanswered),
            too_stale: counts.refused(Refusal::TooStale),
            not_logged_in: counts.refused(Refusal::NotLoggedIn),
            not_permitted: counts.refused(Refusal::NotPermitted),
            throttled: counts.refused(Refusal::Throttled),
            too_many_clients: counts.turned_away,
        }
    }
}

impl Responses {
    pub fn of(counts: &Counts) -> Self {
        let [successes, redirections, client_errors, server_errors] = counts.responses;
        Self { successes, redirections, client_errors, server_errors }
    }
}

/// Seconds, rounded to a tenth.
fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64())
}
