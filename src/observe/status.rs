//! The data of the status page. `docs/MONITORING.md` describes each field.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::backend_status::{
    BackendStatus, HistoryStatus, Latency, Requests, SlowReads, rounded, shown,
};
use super::cache_status::{CacheStatus, MAX_HOTTEST};
use super::certificates::{self, CertificateStatus};
use super::last_minute::{LastMinute, Refused, Responses};
use super::process::Usage;
use super::source_status::SourceStatus;
use super::verdict::Verdict;
use super::zone_status::ZoneStatus;
use crate::balance::history::{RecentOfBackend, RecentOfCommand};
use crate::balance::{Balancer, MAX_SHOWN_CHANGES, Phase};
use crate::health::{Member, ShownState};
use crate::logging;
use crate::metrics::ByProtocol;
use crate::sync::lock;

/// Commands that are shown: the most frequent ones of the last minute.
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
    verdict: Verdict,
    configuration: ConfigurationStatus,
    clients: Clients,
    connections: ByProtocol<u64>,
    requests: Requests,
    refused: Refused,
    responses: Responses,
    received_bytes: ByProtocol<u64>,
    sent_bytes: ByProtocol<u64>,
    cut_answers: u64,
    errors: u64,
    error_replies: u64,
    retries: u64,
    last_minute: LastMinute,
    log_lines_dropped: u64,
    process: Usage,
    memory: Memory,
    cache: Option<CacheStatus>,
    certificates: Vec<CertificateStatus>,
    zone: ZoneStatus,
    backends: Vec<BackendStatus>,
    removed_backends: Vec<String>,
    sources: Vec<SourceStatus>,
    history: HistoryStatus,
    changes: Vec<ChangeStatus>,
    commands: Vec<CommandStatus>,
    slow_reads: SlowReads,
}

/// The configuration that is in effect.
#[derive(Debug, Serialize)]
struct ConfigurationStatus {
    file: Option<String>,
    loaded_at: String,
    reloads: u64,
    failed_reloads: u64,
    refused: Option<RefusedReload>,
}

/// The last reload, which was not taken over.
#[derive(Debug, Serialize)]
struct RefusedReload {
    at: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Clients {
    http: usize,
    resp: usize,
    new: usize,
    max: usize,
}

/// The part of the status about backends.
#[derive(Debug, Serialize)]
pub(crate) struct Backends {
    backends: Vec<BackendStatus>,
    removed_backends: Vec<String>,
    sources: Vec<SourceStatus>,
}

/// The memory that clients make lb hold.
#[derive(Debug, Serialize)]
struct Memory {
    held_bytes: usize,
    max_bytes: usize,
    closed_clients: u64,
}

#[derive(Debug, Serialize)]
struct ChangeStatus {
    at: String,
    backend: String,
    state: ShownState,
    reason: String,
}

#[derive(Debug, Serialize)]
struct CommandStatus {
    name: String,
    count: u64,
    last_minute: LastMinuteOfCommand,
}

/// How often clients have sent a command in the last minute, how often backends have answered it, and how long they
/// took over it.
#[derive(Debug, Serialize)]
struct LastMinuteOfCommand {
    count: u64,
    answered: u64,
    latency_ms: Latency,
}

impl Status {
    /// The status as it is now, with the samples of the history after number `since`. Slow reads, and the cache, are
    /// shown with their keys if it `shows_keys`.
    pub fn of(balancer: &Balancer, since: u64, shows_keys: bool) -> Self {
        let metrics = &balancer.metrics;
        let members = balancer.shown_backends();
        let reading = balancer.reading(&members);
        let recent = balancer.history.recent(&reading, since);
        let (counts, of_backends) = (&reading.counts, &recent.total_of_backends);
        let now = Instant::now();
        let overlay = lock(&balancer.overlay).clone();
        let status = |(member, recent): (&Arc<Member>, &RecentOfBackend)| {
            let is_added = overlay.has_added(member.name());
            let leases = balancer.table.leases(member.id);
            let lag = balancer.replication.lag(member.id, now);
            let cache_refused = balancer.cache_refusal(member.id);
            BackendStatus::of(member, is_added, leases, &lag, cache_refused, recent, now)
        };
        let backends: Vec<_> = members.iter().zip(&recent.backends).map(status).collect();
        let states: Vec<_> = backends.iter().map(BackendStatus::standing).collect();
        let phase = balancer.phase();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: shown(SystemTime::now()),
            listen: balancer.config().listen.to_string(),
            uptime_seconds: balancer.began.elapsed().as_secs_f64(),
            phase,
            ready: balancer.is_ready(),
            verdict: Verdict::of(phase, &states),
            configuration: ConfigurationStatus::of(balancer),
            clients: Clients::of(balancer),
            connections: counts.connections,
            requests: Requests {
                http: counts.answered_here.http + of_backends.requests.http,
                resp: counts.answered_here.resp + of_backends.requests.resp,
                per_second: rounded(recent.per_second),
            },
            refused: Refused::of(counts),
            responses: Responses::of(counts),
            received_bytes: counts.received_bytes,
            sent_bytes: counts.sent_bytes,
            cut_answers: counts.cut,
            errors: of_backends.errors,
            error_replies: of_backends.error_replies,
            retries: of_backends.retries,
            last_minute: LastMinute::of(&recent, balancer.cache.is_some()),
            log_lines_dropped: logging::dropped_lines(),
            process: Usage::now(),
            memory: Memory::of(balancer),
            cache: balancer
                .cache_summary(MAX_HOTTEST)
                .map(|summary| CacheStatus::of(summary, &metrics.cache, shows_keys)),
            certificates: certificates::statuses(balancer, SystemTime::now()),
            zone: ZoneStatus::of(balancer, &members, &recent.backends),
            backends,
            removed_backends: overlay.removed,
            sources: SourceStatus::all(balancer),
            history: HistoryStatus::of(&recent),
            changes: changes(balancer),
            commands: commands(recent.commands),
            slow_reads: SlowReads::of(balancer, shows_keys),
        }
    }
}

impl Clients {
    fn of(balancer: &Balancer) -> Self {
        let metrics = &balancer.metrics;
        let clients = [&metrics.new_clients, &metrics.clients.http, &metrics.clients.resp];
        let [new, http, resp] = clients.map(|count| count.load(Ordering::Relaxed));
        Self { http, resp, new, max: balancer.config().max_clients }
    }
}

impl Memory {
    fn of(balancer: &Balancer) -> Self {
        Self {
            held_bytes: balancer.memory.held_bytes(),
            max_bytes: balancer.memory.max_bytes(),
            closed_clients: balancer.memory.closed.get(),
        }
    }
}

impl Status {
    /// Returns the part about backends.
    pub(crate) fn of_backends(self) -> Backends {
        let Self { backends, removed_backends, sources, .. } = self;
        Backends { backends, removed_backends, sources }
    }
}

impl ConfigurationStatus {
    fn of(balancer: &Balancer) -> Self {
        let record = balancer.reloads.record();
        let refused = record.refused.map(|(at, reason)| RefusedReload { at: shown(at), reason });
        Self {
            file: balancer.config().config_file.as_ref().map(|file| file.display().to_string()),
            loaded_at: shown(record.loaded_at),
            reloads: record.done,
            failed_reloads: record.failed,
            refused,
        }
    }
}

fn changes(balancer: &Balancer) -> Vec<ChangeStatus> {
    let changes = balancer.changes(MAX_SHOWN_CHANGES).into_iter();
    let changes = changes.map(|(backend, change)| ChangeStatus {
        at: shown(change.at),
        backend: backend.to_string(),
        state: change.state,
        reason: change.reason,
    });
    changes.collect()
}

/// The commands and the kinds of HTTP requests that were sent most often in the last minute; of equals, those that were
/// sent most often since the start.
fn commands(mut recent: Vec<RecentOfCommand>) -> Vec<CommandStatus> {
    recent.sort_by(|a, b| (b.sent, b.total, &a.name).cmp(&(a.sent, a.total, &b.name)));
    recent.truncate(MAX_COMMANDS);
    let status = |RecentOfCommand { name, total, sent, times }: RecentOfCommand| CommandStatus {
        name: name.to_string(),
        count: total,
        last_minute: LastMinuteOfCommand {
            count: sent,
            answered: times.count(),
            latency_ms: Latency::of(&times),
        },
    };
    recent.into_iter().map(status).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_has_just_become_hot_is_shown() {
        let command = |number: u64, total, sent| RecentOfCommand {
            name: format!("command{number}").into(),
            total,
            sent,
            times: Default::default(),
        };
        let mut all: Vec<_> =
            (0..MAX_COMMANDS as u64).map(|n| command(n, 1_000_000 + n, 0)).collect();
        all.push(command(99, 5, 5));
        let shown = commands(all);
        assert_eq!(shown.len(), MAX_COMMANDS);
        assert_eq!([&*shown[0].name, &*shown[1].name], ["command99", "command19"]);
        assert!(shown.iter().all(|command| command.name != "command0"), "it is the rarest");
    }
}
