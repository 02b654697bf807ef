//! Parts of the status about backends: their figures, their history, and slow reads.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::last_minute::LastMinuteOfBackend;
use super::verdict::severity;
use crate::backend::pool;
use crate::balance::Balancer;
use crate::balance::history::{self, Recent, RecentOfBackend, Sample};
use crate::balance::slow;
use crate::health::{Admin, Lag, LastCheck, Member, Progress, ShownState};
use crate::metrics::LogTimes;

#[derive(Debug, Serialize)]
pub(super) struct Requests {
    pub http: u64,
    pub resp: u64,
    pub per_second: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct BackendStatus {
    name: String,
    role: Option<&'static str>,
    state: ShownState,
    severity: usize,
    admin: Admin,
    reason: String,
    telling: bool,
    since: String,
    state_seconds: f64,
    weight: u16,
    overrides: OverrideStatus,
    backup: bool,
    zone: Option<String>,
    never_read: bool,
    leases: usize,
    share: Option<f64>,
    requests: Requests,
    errors: u64,
    error_replies: u64,
    retries: u64,
    ejections: u64,
    cache_hits: u64,
    received_bytes: u64,
    sent_bytes: u64,
    cache_refused: Option<String>,
    lag_seconds: Option<f64>,
    lag_bytes: Option<u64>,
    lag_is_at_least: bool,
    staleness_seconds: Option<f64>,
    keys: Option<u64>,
    syncing: Option<Progress>,
    times_down: u64,
    down_seconds: f64,
    last_check: Option<CheckStatus>,
    last_minute: LastMinuteOfBackend,
    latency_ms: Latency,
    connections: pool::Counts,
}

/// What was set at run time, besides `admin`.
#[derive(Debug, Serialize)]
struct OverrideStatus {
    added: bool,
    weight: Option<u16>,
}

/// The last health check.
#[derive(Debug, Serialize)]
struct CheckStatus {
    at: String,
    seconds_ago: f64,
    took_ms: f64,
    answered: bool,
}

/// Quantiles of times; `None` if there are none.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct HistoryStatus {
    interval_seconds: u64,
    last: u64,
    backends: Vec<BackendHistory>,
}

/// The samples of one backend, a list for each of their fields; `None` where it was not there.
#[derive(Debug, Serialize)]
struct BackendHistory {
    leases: Vec<Option<usize>>,
    requests: Vec<Option<u64>>,
    errors: Vec<Option<u64>>,
    p99_ms: Vec<Option<f64>>,
    state: Vec<Option<ShownState>>,
}

#[derive(Debug, Serialize)]
pub(super) struct SlowReads {
    ended: u64,
    busy_seconds: f64,
    waiting: usize,
    running: Vec<SlowReadStatus>,
    recent: Vec<SlowReadStatus>,
}

#[derive(Debug, Serialize)]
struct SlowReadStatus {
    read: String,
    backend: String,
    seconds: f64,
}

impl BackendStatus {
    pub fn of(
        backend: &Member,
        is_added: bool,
        leases: usize,
        lag: &Lag,
        cache_refused: Option<String>,
        recent: &RecentOfBackend,
        now: Instant,
    ) -> Self {
        let health = backend.health.summary(now);
        let settings = backend.settings.effective();
        let counts = &recent.total;
        Self {
            name: backend.name().to_owned(),
            role: health.role(),
            state: health.state,
            severity: severity(health.state),
            admin: health.admin,
            weight: settings.weight,
            overrides: OverrideStatus {
                added: is_added,
                weight: backend.settings.weight_override(),
            },
            backup: settings.is_backup,
            zone: settings.zone,
            never_read: settings.is_never_read,
            reason: health.reason,
            telling: health.is_telling,
            since: shown_ago(health.state_for),
            state_seconds: rounded(health.state_for.as_secs_f64()),
            leases,
            share: recent.share,
            requests: Requests {
                http: counts.requests.http,
                resp: counts.requests.resp,
                per_second: rounded(recent.per_second),
            },
            errors: counts.errors,
            error_replies: counts.error_replies,
            retries: counts.retries,
            ejections: health.ejections,
            cache_hits: counts.cache_hits,
            received_bytes: counts.received_bytes,
            sent_bytes: counts.sent_bytes,
            cache_refused,
            lag_seconds: health.lag.map(|lag| lag.as_secs_f64()),
            lag_bytes: lag.bytes,
            lag_is_at_least: lag.is_at_least,
            staleness_seconds: lag.staleness.map(|time| time.as_millis() as f64 / 1000.0),
            keys: health.keys,
            syncing: health.progress,
            times_down: health.times_down,
            down_seconds: rounded(health.down_time.as_secs_f64()),
            last_check: health.last_check.map(|check| CheckStatus::of(&check, now)),
            last_minute: LastMinuteOfBackend::of(recent),
            latency_ms: Latency::of(&recent.times),
            connections: backend.pool.counts(),
        }
    }

    /// Its state, and whether it is read from at all.
    pub fn standing(&self) -> (ShownState, bool) {
        (self.state, !self.never_read)
    }
}

impl CheckStatus {
    fn of(check: &LastCheck, now: Instant) -> Self {
        let ago = now.saturating_duration_since(check.ended_at);
        Self {
            at: shown_ago(ago),
            seconds_ago: rounded(ago.as_secs_f64()),
            took_ms: millis(check.time),
            answered: check.is_answered,
        }
    }
}

impl Latency {
    pub fn of<const BITS: usize>(times: &LogTimes<BITS>) -> Self {
        let percentile = |share| times.percentile(share).map(millis);
        Self { p50: percentile(0.5), p99: percentile(0.99), p99_9: percentile(0.999) }
    }
}

impl HistoryStatus {
    pub fn of(recent: &Recent) -> Self {
        fn list<T>(samples: &[Option<Sample>], of: impl Fn(&Sample) -> T) -> Vec<Option<T>> {
            samples.iter().map(|sample| sample.as_ref().map(&of)).collect()
        }
        let backends =
            recent.backends.iter().map(|RecentOfBackend { samples, .. }| BackendHistory {
                leases: list(samples, |sample| sample.leases),
                requests: list(samples, |sample| sample.requests),
                errors: list(samples, |sample| sample.errors),
                p99_ms: samples.iter().map(|sample| sample.as_ref()?.p99.map(millis)).collect(),
                state: list(samples, |sample| sample.state),
            });
        Self {
            interval_seconds: history::INTERVAL.as_secs(),
            last: recent.number,
            backends: backends.collect(),
        }
    }
}

impl SlowReads {
    pub fn of(balancer: &Balancer, shows_keys: bool) -> Self {
        let slow::Snapshot { ended, busy_time, waiting, running, recent } =
            balancer.slow_lane.snapshot();
        let backends = balancer.backends();
        let name = |id| backends.get(id).map_or("", |backend| backend.name()).to_owned();
        let status = |read: slow::RunningRead| SlowReadStatus {
            read: match shows_keys {
                true => read.label,
                false => slow::without_key(&read.label).to_owned(),
            },
            backend: name(read.backend),
            seconds: millis(read.time) / 1000.0,
        };
        Self {
            ended,
            busy_seconds: millis(busy_time) / 1000.0,
            waiting,
            running: running.into_iter().map(status).collect(),
            recent: recent.into_iter().map(status).collect(),
        }
    }
}

/// The time as text; of one before 1970, as on a machine that does not know the time, the beginning of 1970.
pub(super) fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// The moment so long ago.
fn shown_ago(ago: Duration) -> String {
    shown(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Rounds to a tenth.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Converts to milliseconds, rounded to a thousandth.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_does_not_know_the_time_has_one_all_the_same() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(60);
        assert_eq!(shown(before), "1970-01-01T00:00:00.000Z");
    }
}
