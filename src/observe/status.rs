//! All that the status page shows, as it is now. `docs/STATUS.md` describes each field.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::backend::pool;
use crate::balance::history::{self, Recent, RecentOfBackend, Sample};
use crate::balance::slow;
use crate::balance::{Balancer, Phase};
use crate::health::BackendState;
use crate::health::{Change, Member};
use crate::logging;
use crate::metrics::{ByProtocol, Counter, Refusal, Times};
use crate::net::protocol::WireProtocol;
use crate::observe::process::Usage;

/// Changes of state that are shown.
const MAX_CHANGES: usize = 32;

/// Commands that are shown, the busiest.
const MAX_COMMANDS: usize = 20;

/// The document at `/-/status.json`.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    at: String,
    listen: String,
    uptime_seconds: f64,
    phase: Phase,
    ready: bool,
    clients: Clients,
    connections: Counts,
    requests: Requests,
    refused: Refused,
    cut_answers: u64,
    log_lines_dropped: u64,
    process: Usage,
    backends: Vec<BackendStatus>,
    history: HistoryStatus,
    changes: Vec<ChangeStatus>,
    commands: Vec<CommandStatus>,
    slow_reads: SlowReads,
}

#[derive(Debug, Serialize)]
struct Clients {
    http: usize,
    resp: usize,
    new: usize,
    max: usize,
}

#[derive(Debug, Serialize)]
struct Counts {
    http: u64,
    resp: u64,
}

#[derive(Debug, Serialize)]
struct Requests {
    http: u64,
    resp: u64,
    per_second: f64,
}

#[derive(Debug, Serialize)]
struct Refused {
    writes: u64,
    bad_requests: u64,
    unknown_commands: u64,
    not_served: u64,
    unanswered: u64,
    too_many_clients: u64,
}

#[derive(Debug, Serialize)]
struct BackendStatus {
    name: String,
    role: Option<&'static str>,
    state: BackendState,
    reason: String,
    since: String,
    state_seconds: f64,
    leases: usize,
    share: Option<f64>,
    requests: Requests,
    errors: u64,
    error_replies: u64,
    retries: u64,
    lag_seconds: Option<f64>,
    keys: Option<u64>,
    latency_ms: Latency,
    connections: pool::Counts,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
}

#[derive(Debug, Serialize)]
struct HistoryStatus {
    interval_seconds: u64,
    last: u64,
    backends: Vec<BackendHistory>,
}

#[derive(Debug, Serialize)]
struct BackendHistory {
    leases: Vec<usize>,
    requests: Vec<u64>,
    errors: Vec<u64>,
    p99_ms: Vec<Option<f64>>,
    state: Vec<BackendState>,
}

#[derive(Debug, Serialize)]
struct ChangeStatus {
    at: String,
    backend: String,
    state: BackendState,
    reason: String,
}

#[derive(Debug, Serialize)]
struct CommandStatus {
    name: String,
    count: u64,
}

#[derive(Debug, Serialize)]
struct SlowReads {
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

impl SlowReads {
    fn of(balancer: &Balancer) -> Self {
        let slow::Snapshot { ended, busy_time, waiting, running, recent } =
            balancer.slow_lane.snapshot();
        let backends = balancer.backends();
        let name = |id| backends.get(id).map_or("", |backend| backend.name()).to_owned();
        let status = |read: slow::RunningRead| SlowReadStatus {
            read: read.label,
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

impl Status {
    /// As it is now, with the samples of the history behind number `since`.
    pub fn of(balancer: &Balancer, since: u64) -> Self {
        let metrics = &balancer.metrics;
        let members = balancer.backends();
        let recent = balancer.history.recent(&balancer.reading(&members), since);
        let clients = [&metrics.new_clients, &metrics.clients.http, &metrics.clients.resp];
        let [new, http, resp] = clients.map(|count| count.load(Ordering::Relaxed));
        let now = Instant::now();
        let status = |(member, recent): (&Arc<Member>, &RecentOfBackend)| {
            BackendStatus::of(member, balancer.table.leases(member.id), recent, now)
        };
        let backends: Vec<_> = members.iter().zip(&recent.backends).map(status).collect();
        let answered = |here: &Counter, of: fn(&Requests) -> u64| {
            here.get() + backends.iter().map(|backend| of(&backend.requests)).sum::<u64>()
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: shown(SystemTime::now()),
            listen: balancer.config.listen.to_string(),
            uptime_seconds: balancer.began.elapsed().as_secs_f64(),
            phase: balancer.phase(),
            ready: balancer.is_ready(),
            clients: Clients { http, resp, new, max: balancer.config.max_clients },
            connections: Counts::of(&metrics.connections),
            requests: Requests {
                http: answered(&metrics.answered_here.http, |requests| requests.http),
                resp: answered(&metrics.answered_here.resp, |requests| requests.resp),
                per_second: rounded(recent.per_second),
            },
            refused: Refused::of(balancer),
            cut_answers: metrics.cut.http.get() + metrics.cut.resp.get(),
            log_lines_dropped: logging::dropped_lines(),
            process: Usage::now(),
            backends,
            history: HistoryStatus::of(&recent),
            changes: changes(balancer),
            commands: commands(balancer),
            slow_reads: SlowReads::of(balancer),
        }
    }
}

impl Counts {
    fn of(counters: &ByProtocol<Counter>) -> Self {
        Self { http: counters.http.get(), resp: counters.resp.get() }
    }
}

impl Refused {
    fn of(balancer: &Balancer) -> Self {
        let metrics = &balancer.metrics;
        let count = |why| {
            let of = |protocol| metrics.refused(protocol, why);
            of(WireProtocol::Http) + of(WireProtocol::Resp)
        };
        Self {
            writes: count(Refusal::Write),
            bad_requests: count(Refusal::BadRequest),
            unknown_commands: count(Refusal::UnknownCommand),
            not_served: count(Refusal::NotServed),
            unanswered: count(Refusal::Unanswered),
            too_many_clients: metrics.turned_away.get(),
        }
    }
}

impl BackendStatus {
    fn of(backend: &Member, leases: usize, recent: &RecentOfBackend, now: Instant) -> Self {
        let health = backend.health.summary(now);
        let answered = &backend.metrics.answered;
        let since = SystemTime::now().checked_sub(health.state_for);
        Self {
            name: backend.name().to_owned(),
            role: health.role(),
            state: health.state,
            reason: health.reason,
            since: shown(since.unwrap_or(SystemTime::UNIX_EPOCH)),
            state_seconds: rounded(health.state_for.as_secs_f64()),
            leases,
            share: recent.share,
            requests: Requests {
                http: answered.http.count(),
                resp: answered.resp.count(),
                per_second: rounded(recent.per_second),
            },
            errors: backend.metrics.errors.get(),
            error_replies: backend.metrics.error_replies.get(),
            retries: backend.metrics.retries.get(),
            lag_seconds: health.lag.map(|lag| lag.as_secs_f64()),
            keys: health.keys,
            latency_ms: Latency::of(&recent.times),
            connections: backend.connections(),
        }
    }
}

impl Latency {
    fn of(times: &Times) -> Self {
        let percentile = |share| times.percentile(share).map(millis);
        Self { p50: percentile(0.5), p99: percentile(0.99), p99_9: percentile(0.999) }
    }
}

impl HistoryStatus {
    fn of(recent: &Recent) -> Self {
        let backends = recent.backends.iter().map(|backend| BackendHistory::of(&backend.samples));
        Self {
            interval_seconds: history::INTERVAL.as_secs(),
            last: recent.number,
            backends: backends.collect(),
        }
    }
}

impl BackendHistory {
    fn of(samples: &[Sample]) -> Self {
        Self {
            leases: samples.iter().map(|sample| sample.leases).collect(),
            requests: samples.iter().map(|sample| sample.requests).collect(),
            errors: samples.iter().map(|sample| sample.errors).collect(),
            p99_ms: samples.iter().map(|sample| sample.p99.map(millis)).collect(),
            state: samples.iter().map(|sample| sample.state).collect(),
        }
    }
}

fn changes(balancer: &Balancer) -> Vec<ChangeStatus> {
    let changes = balancer.changes(MAX_CHANGES).into_iter();
    changes.map(|(backend, change)| ChangeStatus::of(&backend, change)).collect()
}

impl ChangeStatus {
    fn of(backend: &Member, change: Change) -> Self {
        let backend = backend.name().to_owned();
        Self { at: shown(change.at), backend, state: change.state, reason: change.reason }
    }
}

fn commands(balancer: &Balancer) -> Vec<CommandStatus> {
    let mut commands: Vec<_> = counted_commands(balancer)
        .into_iter()
        .map(|(name, count)| CommandStatus { name, count })
        .collect();
    commands.sort_by(|a, b| (Reverse(a.count), &a.name).cmp(&(Reverse(b.count), &b.name)));
    commands.truncate(MAX_COMMANDS);
    commands
}

/// How often each command was asked for, and what stands for commands over HTTP.
fn counted_commands(balancer: &Balancer) -> Vec<(String, u64)> {
    let mut counts = balancer.policy().1.counts();
    let metrics = &balancer.metrics;
    let over_http = [("GET /KEY", &metrics.http_keys), ("GET / (listing)", &metrics.http_listings)];
    for (name, counter) in over_http {
        if counter.get() > 0 {
            counts.push((name.to_owned(), counter.get()));
        }
    }
    counts
}

fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// To a tenth.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Milliseconds, to a thousandth.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
