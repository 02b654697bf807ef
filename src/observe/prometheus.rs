//! The metrics for Prometheus: the text at `/-/metrics`, in the form that is asked for.
//!
//! No label holds text of a client: protocols, reasons and states are ours, backends come from the
//! configuration, and commands are those that backends know.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

use super::certificates;
use super::families::{Families, Labels, Rows};
use super::process::{self, Usage};
use super::source_status::SourceStatus;
use super::zone_status::ZoneStatus;
use crate::backend::pool;
use crate::balance::Balancer;
use crate::health::{Lag, Member, ShownState, Summary};
use crate::http::MetricsForm;
use crate::logging;
use crate::login::UserUsage;
use crate::metrics::cache::{CacheMetrics, CacheSummary};
use crate::metrics::{ByProtocol, Counter, Refusal, STATUS_CLASSES, Traffic};
use crate::net::protocol::WireProtocol;

/// Commands whose latencies are told: those with most replies.
const MAX_TIMED_COMMANDS: usize = 50;

/// Label for the backend of requests that the balancer answers itself.
const NO_BACKEND: &str = "none";

const PROTOCOLS: [(WireProtocol, &str); 2] =
    [(WireProtocol::Http, "http"), (WireProtocol::Resp, "resp")];

/// Returns the `Content-Type` of the text in this form.
pub fn content_type(form: MetricsForm) -> &'static str {
    match form {
        MetricsForm::Classic => prometheus_text::CONTENT_TYPE,
        MetricsForm::OpenMetrics0 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
        MetricsForm::OpenMetrics1 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
    }
}

/// Encodes all metrics as they are now. Fails only if the encoder does.
pub fn text(balancer: &Balancer, form: MetricsForm) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("redis_lb");
    registry.register_collector(Box::new(own_families(balancer)));
    let mut process = Registry::default();
    process.register_collector(Box::new(process_families(balancer)));
    let mut text = String::new();
    if form == MetricsForm::Classic {
        prometheus_text::encode(&mut text, &registry)?;
        prometheus_text::encode(&mut text, &process)?;
        return Ok(text);
    }
    text::encode_registry(&mut text, &registry)?;
    text::encode_registry(&mut text, &process)?;
    text::encode_eof(&mut text)?;
    Ok(text)
}

fn own_families(balancer: &Balancer) -> Families {
    let members = balancer.shown_backends();
    let figures = |member| BackendFigures::of(member, balancer);
    let backends: Vec<_> = members.iter().map(figures).collect();
    let mut families = Families::default();
    add_balancer(&mut families, balancer);
    add_clients(&mut families, balancer);
    add_listener(&mut families, balancer);
    add_requests(&mut families, balancer, &backends);
    add_traffic(&mut families, balancer);
    add_times(&mut families, balancer, &backends);
    add_backends(&mut families, balancer, &backends);
    add_checks(&mut families, &backends);
    add_settings(&mut families, balancer, &members, &backends);
    add_sources(&mut families, balancer);
    add_slow_reads(&mut families, balancer, &backends);
    add_memory(&mut families, balancer);
    add_cache(&mut families, balancer, &backends);
    add_users(&mut families, balancer);
    add_reloads(&mut families, balancer);
    add_connections(&mut families, balancer, &backends);
    families
}

/// Figures of a backend that belong together.
struct BackendFigures {
    member: Arc<Member>,
    health: Summary,
    lag: Lag,
    connections: pool::Counts,
}

impl BackendFigures {
    fn of(member: &Arc<Member>, balancer: &Balancer) -> Self {
        let (member, now) = (Arc::clone(member), Instant::now());
        let health = member.health.summary(now);
        let lag = balancer.replication.lag(member.id, now);
        Self { connections: member.pool.counts(), health, lag, member }
    }
}

fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Labels {
    labels.map(|(name, value)| (name, value.to_owned())).into()
}

fn by_protocol(counters: &ByProtocol<Counter>) -> Rows {
    let row = |(protocol, name)| (labels([("protocol", name)]), counters.of(protocol).get());
    Rows::Counters(PROTOCOLS.map(row).into())
}

/// A gauge for each backend that has a value.
fn gauges(backends: &[BackendFigures], value: impl Fn(&BackendFigures) -> Option<f64>) -> Rows {
    let row = |backend: &BackendFigures| {
        Some((labels([("backend", backend.member.name())]), value(backend)?))
    };
    Rows::Gauges(backends.iter().filter_map(row).collect())
}

fn counters(backends: &[BackendFigures], count: impl Fn(&Member) -> u64) -> Rows {
    let row = |backend: &BackendFigures| {
        (labels([("backend", backend.member.name())]), count(&backend.member))
    };
    Rows::Counters(backends.iter().map(row).collect())
}

fn add_balancer(to: &mut Families, balancer: &Balancer) {
    let version = labels([("version", env!("CARGO_PKG_VERSION"))]);
    to.add("build", "The version that runs", Rows::Info(version));
    let uptime = balancer.began.elapsed().as_secs_f64();
    to.add("uptime_seconds", "Time since the start of the process", Rows::gauge(uptime));
    let is_ready = f64::from(balancer.is_ready());
    to.add("ready", "1 if /-/ready says READY, else 0", Rows::gauge(is_ready));
    let help = "Lines that the log could not take in time";
    to.add("log_lines_dropped", help, Rows::counter(logging::dropped_lines()));
}

fn add_clients(to: &mut Families, balancer: &Balancer) {
    let metrics = &balancer.metrics;
    let clients = [
        ("http", &metrics.clients.http),
        ("resp", &metrics.clients.resp),
        ("new", &metrics.new_clients),
    ];
    let clients = clients.map(|(protocol, count)| {
        (labels([("protocol", protocol)]), count.load(Ordering::Relaxed) as f64)
    });
    let help = "Connected clients, by protocol; new: it is not known yet";
    to.add("clients", help, Rows::Gauges(clients.into()));
    let max = balancer.config().max_clients as f64;
    to.add("max_clients", "The limit of clients", Rows::gauge(max));
    let help = "Clients that have connected since the start, by protocol";
    to.add("connections", help, by_protocol(&metrics.connections));
    let help = "Clients that were refused because there are too many";
    to.add("turned_away_clients", help, Rows::counter(metrics.turned_away.get()));
    let help = "Idle HTTP clients that were closed to make room for others";
    to.add("closed_idle_clients", help, Rows::counter(metrics.closed_idle.get()));
}

/// TLS towards clients, and who is refused before anything is asked.
fn add_listener(to: &mut Families, balancer: &Balancer) {
    let metrics = &balancer.metrics;
    let help = "Clients that were refused because their address has too many";
    let count = metrics.limited_by_address.get();
    to.add("turned_away_by_address_clients", help, Rows::counter(count));
    let help = "Connections that were closed because they began with no PROXY header";
    let count = metrics.without_proxy_header.get();
    to.add("without_proxy_header_connections", help, Rows::counter(count));
    let clients = metrics
        .tls
        .clients()
        .map(|(version, count)| (labels([("version", version)]), count as f64));
    to.add("tls_clients", "Connected clients that speak TLS", Rows::Gauges(clients.collect()));
    let handshakes = metrics.tls.handshakes().map(|(version, is_resumed, count)| {
        (labels([("version", version), ("resumed", &is_resumed.to_string())]), count)
    });
    let help =
        "TLS sessions with clients that have begun; resumed: with the keys of an earlier one";
    to.add("tls_sessions", help, Rows::Counters(handshakes.collect()));
    let failures = metrics.tls.failures();
    let failures = failures.map(|(reason, count)| (labels([("reason", reason)]), count));
    let help = "Clients with which TLS was not agreed on";
    to.add("tls_failures", help, Rows::Counters(failures.collect()));
    let expiries = certificates::watched(balancer).into_iter().map(|certificate| {
        let at = certificate.validity.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        (labels([("certificate", &certificate.name)]), at.as_secs_f64())
    });
    let help = "When the certificate, or one that has signed it, expires, in Unix time";
    to.add("tls_certificate_expiry_timestamp_seconds", help, Rows::Gauges(expiries.collect()));
}

fn add_requests(to: &mut Families, balancer: &Balancer, backends: &[BackendFigures]) {
    let metrics = &balancer.metrics;
    let row = |protocol, backend: &str, count| {
        (labels([("protocol", protocol), ("backend", backend)]), count)
    };
    let by_backends = backends.iter().flat_map(|BackendFigures { member, .. }| {
        let count = |protocol| member.metrics.answered.of(protocol).count();
        PROTOCOLS.map(|(protocol, name)| row(name, member.name(), count(protocol)))
    });
    let here = |protocol| metrics.answered_here.of(protocol).get();
    let here = PROTOCOLS.map(|(protocol, name)| row(name, NO_BACKEND, here(protocol)));
    let help = "HTTP requests and Redis commands that were answered, by the backend; none: by the \
                balancer itself. Requests below /-/ do not count";
    to.add("requests", help, Rows::Counters(by_backends.chain(here).collect()));
    let refused = PROTOCOLS.into_iter().flat_map(|(protocol, name)| {
        Refusal::ALL.map(|why| {
            let labels = labels([("protocol", name), ("reason", why.name())]);
            (labels, metrics.refused(protocol, why))
        })
    });
    let help = "Requests that were not answered with what they asked for";
    to.add("refusals", help, Rows::Counters(refused.collect()));
    let help = "Answers that broke off because a backend failed";
    to.add("cut_answers", help, by_protocol(&metrics.cut));
    let commands = balancer.policy().1.counts().into_iter();
    let commands = commands.map(|(name, count)| (vec![("command", name)], count));
    to.add("commands", "Redis commands that clients sent", Rows::Counters(commands.collect()));
}

/// What goes to clients and comes from them.
fn add_traffic(to: &mut Families, balancer: &Balancer) {
    let metrics = &balancer.metrics;
    let responses =
        STATUS_CLASSES.map(|(class, name)| (labels([("class", name)]), metrics.responses(class)));
    let help =
        "HTTP answers by the class of their status. Those to requests below /-/ do not count";
    to.add("http_responses", help, Rows::Counters(responses.into()));
    let bytes = |count: fn(&Traffic) -> u64| {
        let row =
            |(protocol, name)| (labels([("protocol", name)]), count(metrics.traffic.of(protocol)));
        Rows::Counters(PROTOCOLS.map(row).into())
    };
    let help = "Bytes that clients have sent, within TLS those that are encrypted";
    to.add("received_bytes", help, bytes(Traffic::received_bytes));
    let help = "Bytes that clients were sent, within TLS those that are encrypted";
    to.add("sent_bytes", help, bytes(Traffic::sent_bytes));
}

/// How long backends take.
fn add_times(to: &mut Families, balancer: &Balancer, backends: &[BackendFigures]) {
    let times = backends.iter().flat_map(|BackendFigures { member, .. }| {
        PROTOCOLS.map(|(protocol, name)| {
            let labels = labels([("protocol", name), ("backend", member.name())]);
            (labels, member.metrics.answered.of(protocol).times().octaves())
        })
    });
    let help = "From the choice of the backend until its reply began, over HTTP until ours began; \
                commands that were sent together share the time of the first";
    to.add("request_duration", help, Rows::Durations(times.collect()));
    let commands = balancer.metrics.command_times.busiest(MAX_TIMED_COMMANDS).into_iter();
    let commands = commands.map(|(name, times)| (vec![("command", name)], times));
    let help = "That time by the Redis command, or kind of HTTP request: the 50 to which backends have replied most often";
    to.add("command_duration", help, Rows::Durations(commands.collect()));
}

/// Health checks, and what became of them.
fn add_checks(to: &mut Families, backends: &[BackendFigures]) {
    let checks = backends.iter().flat_map(|BackendFigures { member, .. }| {
        let metrics = &member.metrics;
        let results = [("answered", &metrics.answered_checks), ("failed", &metrics.failed_checks)];
        results.map(|(result, count)| {
            (labels([("backend", member.name()), ("result", result)]), count.get())
        })
    });
    let help = "Health checks; failed: the backend did not answer as a Redis server does";
    to.add("backend_checks", help, Rows::Counters(checks.collect()));
    let changes = backends.iter().flat_map(|BackendFigures { member, health, .. }| {
        ShownState::ALL.into_iter().zip(health.entered).map(|(state, count)| {
            (labels([("backend", member.name()), ("state", state.name())]), count)
        })
    });
    let help = "How often the state of the backend has changed to this one";
    to.add("backend_state_changes", help, Rows::Counters(changes.collect()));
}

fn add_backends(to: &mut Families, balancer: &Balancer, backends: &[BackendFigures]) {
    let states = backends.iter().flat_map(|BackendFigures { member, health, .. }| {
        ShownState::ALL.map(|state| {
            let labels = labels([("backend", member.name()), ("state", state.name())]);
            (labels, f64::from(health.state == state))
        })
    });
    let help = "1 for the state that the backend is in, else 0";
    to.add("backend_state", help, Rows::Gauges(states.collect()));
    let leases = |backend: &BackendFigures| Some(balancer.table.leases(backend.member.id) as f64);
    to.add("backend_leases", "Current leases", gauges(backends, leases));
    let keys = gauges(backends, |backend| backend.health.keys.map(|keys| keys as f64));
    to.add("backend_keys", "Keys at the last check", keys);
    let help = "How long before the last check a replica had heard from its primary";
    let lag = gauges(backends, |backend| backend.health.lag.map(|lag| lag.as_secs_f64()));
    to.add("backend_lag_seconds", help, lag);
    let help = "Bytes of its primary's writes that a replica lacked at the last sample, at least";
    let bytes = gauges(backends, |backend| backend.lag.bytes.map(|bytes| bytes as f64));
    to.add("backend_lag_bytes", help, bytes);
    let help = "How old the data of the backend are at most";
    let staleness = |backend: &BackendFigures| Some(backend.lag.staleness?.as_secs_f64());
    to.add("backend_staleness_seconds", help, gauges(backends, staleness));
    let errors = counters(backends, |backend| backend.metrics.errors.get());
    to.add("backend_errors", "Tries on the backend that failed", errors);
    let help = "Tries that failed and were made again on another backend";
    to.add("backend_retries", help, counters(backends, |backend| backend.metrics.retries.get()));
    let ejections = backends.iter().map(|BackendFigures { member, health, .. }| {
        (labels([("backend", member.name())]), health.ejections)
    });
    let help = "How often the backend was ejected: its reads failed while its checks passed";
    to.add("backend_ejections", help, Rows::Counters(ejections.collect()));
    let help = "Replies to Redis clients that are errors, such as WRONGTYPE";
    let replies = counters(backends, |backend| backend.metrics.error_replies.get());
    to.add("backend_error_replies", help, replies);
}

/// What the configuration and the operator want of backends, and how much goes to other zones.
fn add_settings(
    to: &mut Families,
    balancer: &Balancer,
    members: &[Arc<Member>],
    backends: &[BackendFigures],
) {
    let settings = |backend: &BackendFigures| backend.member.settings.effective();
    let weight = |backend: &BackendFigures| Some(f64::from(settings(backend).weight));
    to.add("backend_weight", "The weight that holds", gauges(backends, weight));
    let is_backup = |backend: &BackendFigures| Some(f64::from(settings(backend).is_backup));
    to.add("backend_backup", "1 if the backend is a backup, else 0", gauges(backends, is_backup));
    let never_read = |backend: &BackendFigures| Some(f64::from(settings(backend).is_never_read));
    let help = "1 if the backend is checked and not read from, else 0";
    to.add("backend_never_read", help, gauges(backends, never_read));
    let by_zone = backends.iter().filter_map(|backend| {
        let (settings, answered) = (settings(backend), &backend.member.metrics.answered);
        let count = answered.http.count() + answered.resp.count();
        let across = balancer.is_across(&settings).to_string();
        let zone = settings.zone?;
        let name = backend.member.name();
        Some((labels([("backend", name), ("zone", &zone), ("across", &across)]), count))
    });
    let help = "Requests that backends with a zone answered; across: another zone than --zone";
    to.add("zone_requests", help, Rows::Counters(by_zone.collect()));
    let recent = balancer.history.recent(&balancer.reading(members), u64::MAX);
    let across = ZoneStatus::of(balancer, members, &recent.backends).across_share;
    let help = "Part of the requests in the last minute that other zones than --zone answered";
    let share = across.map(|share| (Labels::new(), share));
    to.add("across_zones_ratio", help, Rows::Gauges(share.into_iter().collect()));
}

/// What the sources of backends have found.
fn add_sources(to: &mut Families, balancer: &Balancer) {
    let sources = SourceStatus::all(balancer);
    let rows = |value: fn(&SourceStatus) -> f64| {
        let row = |source: &SourceStatus| (labels([("source", &source.name)]), value(source));
        Rows::Gauges(sources.iter().map(row).collect())
    };
    let help = "1 if the source of backends has given a list when it was asked last, else 0";
    to.add("source_up", help, rows(|source| f64::from(u8::from(source.error.is_none()))));
    let help = "Servers in the last list of the source";
    to.add("source_servers", help, rows(|source| source.servers.len() as f64));
}

fn add_slow_reads(to: &mut Families, balancer: &Balancer, backends: &[BackendFigures]) {
    let slow = balancer.slow_lane.snapshot();
    let help = "Reads that kept a backend busy and have ended";
    to.add("slow_reads", help, Rows::counter(slow.ended));
    let help = "Those of them that kept this backend busy";
    let slow_reads = counters(backends, |backend| backend.metrics.slow_reads.get());
    to.add("backend_slow_reads", help, slow_reads);
    let help = "How long these kept their backends busy";
    to.add("slow_reads_busy", help, Rows::Seconds(slow.busy_time.as_secs_f64()));
    let help = "Reads that keep a backend busy now";
    to.add("slow_reads_running", help, Rows::gauge(slow.running.len() as f64));
    let help = "Reads that wait for a backend that may be kept busy";
    to.add("slow_reads_waiting", help, Rows::gauge(slow.waiting as f64));
}

fn add_memory(to: &mut Families, balancer: &Balancer) {
    let memory = &balancer.memory;
    let help = "Memory that clients make lb hold, as --max-memory counts it";
    to.add("client_memory_bytes", help, Rows::gauge(memory.held_bytes() as f64));
    let help = "The limit of this memory";
    to.add("client_memory_max_bytes", help, Rows::gauge(memory.max_bytes() as f64));
    let help = "Clients that were closed because they held the most when that was too much";
    to.add("client_memory_closed", help, Rows::counter(memory.closed.get()));
}

/// The near cache. Without one, all is zero.
fn add_cache(to: &mut Families, balancer: &Balancer, backends: &[BackendFigures]) {
    let CacheSummary { bytes, max_bytes, entries, .. } =
        balancer.cache_summary(0).unwrap_or_default();
    let help = "Memory that the near cache takes, with its keys";
    to.add("cache_bytes", help, Rows::gauge(bytes as f64));
    to.add("cache_max_bytes", "The limit of this memory", Rows::gauge(max_bytes as f64));
    to.add("cache_entries", "Replies that the near cache holds", Rows::gauge(entries as f64));
    let CacheMetrics { hits, misses, fills, invalidations, flushes, evictions } =
        &balancer.metrics.cache;
    for (name, help, counter) in [
        ("cache_hits", "Reads that were answered from the near cache", hits),
        ("cache_misses", "Reads that could have been answered from it, and were not", misses),
        ("cache_fills", "Reads that were made to fill it", fills),
        ("cache_invalidations", "Keys that backends have said were changed", invalidations),
        ("cache_flushes", "How often all entries of a backend were dropped at once", flushes),
        ("cache_evictions", "Entries that made room for others", evictions),
    ] {
        to.add(name, help, Rows::counter(counter.get()));
    }
    let help = "Reads that were answered from what the near cache holds of the backend";
    let hits = counters(backends, |backend| backend.metrics.cache_hits.get());
    to.add("backend_cache_hits", help, hits);
}

/// What users do. Their names come from the configuration.
fn add_users(to: &mut Families, balancer: &Balancer) {
    let help = "Logins that failed, by protocol";
    to.add("failed_logins", help, by_protocol(&balancer.logins.failures));
    let usages = balancer.logins.usages();
    let counters = |count: fn(&UserUsage) -> u64| {
        let row =
            |(name, usage): &(String, Arc<UserUsage>)| (labels([("user", name)]), count(usage));
        Rows::Counters(usages.iter().map(row).collect())
    };
    let clients = usages.iter();
    let clients = clients.map(|(name, usage)| (labels([("user", name)]), usage.clients() as f64));
    let help = "Clients that are logged in, by user";
    to.add("user_clients", help, Rows::Gauges(clients.collect()));
    let help = "Clients that were refused because their user has as many as it may have";
    to.add("user_refused_clients", help, counters(|usage| usage.refused_clients.get()));
    let help = "Requests that waited or were refused because their user is over a limit";
    to.add("user_throttled_requests", help, counters(|usage| usage.throttled.get()));
}

fn add_reloads(to: &mut Families, balancer: &Balancer) {
    let record = balancer.reloads.record();
    let help = "Whether the last reload of the configuration was taken over";
    let is_good = record.refused.is_none();
    to.add("config_last_reload_successful", help, Rows::gauge(f64::from(u8::from(is_good))));
    let help = "When the configuration that is in effect was read, in Unix time";
    let loaded_at = record.loaded_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    to.add("config_loaded_timestamp_seconds", help, Rows::gauge(loaded_at.as_secs_f64()));
}

fn add_connections(to: &mut Families, balancer: &Balancer, backends: &[BackendFigures]) {
    let connections = backends.iter().flat_map(|BackendFigures { member, connections, .. }| {
        let pool::Counts { open, idle, .. } = *connections;
        [("idle", idle), ("busy", open - idle)].map(|(state, count)| {
            (labels([("backend", member.name()), ("state", state)]), count as f64)
        })
    });
    let help = "Connections to the backend";
    to.add("backend_connections", help, Rows::Gauges(connections.collect()));
    let waiting = gauges(backends, |backend| Some(backend.connections.waiting as f64));
    to.add("backend_connection_waiters", "Clients that wait for a connection", waiting);
    let max = gauges(backends, |backend| Some(backend.connections.max as f64));
    to.add("backend_max_connections", "The limit of connections", max);
    let help = "Reads that may still be sent again because a backend is silent";
    to.add("retry_budget", help, Rows::gauge(balancer.retry_budget.left() as f64));
}

/// The process's figures, under the names that Prometheus has for all processes.
fn process_families(balancer: &Balancer) -> Families {
    let usage = Usage::now();
    let mut to = Families::default();
    to.add("process_cpu", "Processor time", Rows::Seconds(usage.cpu_seconds));
    let started_at = balancer.began_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let help = "When the process began, in Unix time";
    to.add("process_start_time_seconds", help, Rows::gauge(started_at.as_secs_f64()));
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory in RAM", usage.resident_bytes),
        ("process_threads", "Threads", usage.threads),
        ("process_open_fds", "Open file descriptors", process::open_descriptors()),
        ("process_max_fds", "The limit of file descriptors", process::max_descriptors()),
    ] {
        if let Some(value) = value {
            to.add(name, help, Rows::gauge(value as f64));
        }
    }
    to
}
