//! The metrics for Prometheus: the text at `/-/metrics`, in the OpenMetrics form.
//!
//! No label holds text of a client: protocols, reasons and states are ours, backends come from the
//! configuration, and commands are those that backends know.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::families::Families;
use super::process::Usage;
use crate::backend::pool;
use crate::balance::Balancer;
use crate::balance::slow;
use crate::health::BackendState;
use crate::health::{Member, Summary};
use crate::logging;
use crate::metrics::{Refusal, Times};
use crate::net::protocol::WireProtocol;

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label for the backend of requests that the balancer answers itself.
const NO_BACKEND: &str = "none";

/// The first bucket of latencies ends at 2 to the power of this, in µs.
const FIRST_OCTAVE: usize = 6;

const PROTOCOLS: [(WireProtocol, &str); 2] =
    [(WireProtocol::Http, "http"), (WireProtocol::Resp, "resp")];

const STATES: [BackendState; 4] =
    [BackendState::Up, BackendState::Suspect, BackendState::Down, BackendState::Syncing];

/// Encodes all metrics as they are now. Fails only if the encoder does.
pub fn text(balancer: &Balancer) -> Result<String, fmt::Error> {
    let snapshot = Snapshot::of(balancer);
    let mut registry = Registry::with_prefix("redis_lb");
    registry.register_collector(Box::new(snapshot));
    let mut process = Registry::default();
    process.register_collector(Box::new(Usage::now()));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    text::encode_registry(&mut text, &process)?;
    text::encode_eof(&mut text)?;
    Ok(text)
}

/// The values of all metrics at one moment.
#[derive(Debug)]
struct Snapshot {
    ready: bool,
    uptime_seconds: f64,
    clients: [(&'static str, usize); 3],
    max_clients: usize,
    connections: [(&'static str, u64); 2],
    answered_here: [(&'static str, u64); 2],
    refused: Vec<(&'static str, &'static str, u64)>,
    turned_away: u64,
    cut: [(&'static str, u64); 2],
    commands: Vec<(String, u64)>,
    retry_budget: u64,
    slow_reads: slow::Snapshot,
    backends: Vec<BackendSnapshot>,
}

#[derive(Debug)]
struct BackendSnapshot {
    name: String,
    health: Summary,
    leases: usize,
    answered: [(&'static str, Times); 2],
    errors: u64,
    error_replies: u64,
    retries: u64,
    connections: pool::Counts,
}

impl Snapshot {
    fn of(balancer: &Balancer) -> Self {
        let metrics = &balancer.metrics;
        let clients = &metrics.clients;
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let refused = PROTOCOLS.iter().flat_map(|&(protocol, name)| {
            Refusal::ALL.map(|why| (name, why.name(), metrics.refused(protocol, why)))
        });
        Self {
            ready: balancer.is_ready(),
            uptime_seconds: balancer.began.elapsed().as_secs_f64(),
            clients: [
                ("http", load(&clients.http)),
                ("resp", load(&clients.resp)),
                ("new", load(&metrics.new_clients)),
            ],
            max_clients: balancer.config.max_clients,
            connections: PROTOCOLS.map(|(p, name)| (name, metrics.connections.of(p).get())),
            answered_here: PROTOCOLS.map(|(p, name)| (name, metrics.answered_here.of(p).get())),
            refused: refused.collect(),
            turned_away: metrics.turned_away.get(),
            cut: PROTOCOLS.map(|(p, name)| (name, metrics.cut.of(p).get())),
            commands: balancer.policy().1.counts(),
            retry_budget: balancer.retry_budget.left(),
            slow_reads: balancer.slow_lane.snapshot(),
            backends: backends(balancer),
        }
    }
}

fn backends(balancer: &Balancer) -> Vec<BackendSnapshot> {
    let now = Instant::now();
    let snapshot = |backend: &Arc<Member>| BackendSnapshot {
        name: backend.name().to_owned(),
        health: backend.health.summary(now),
        leases: balancer.table.leases(backend.id),
        answered: PROTOCOLS.map(|(p, name)| (name, backend.metrics.answered.of(p).times())),
        errors: backend.metrics.errors.get(),
        error_replies: backend.metrics.error_replies.get(),
        retries: backend.metrics.retries.get(),
        connections: backend.pool.counts(),
    };
    balancer.backends().iter().map(snapshot).collect()
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Families(encoder);
        self.encode_balancer(&mut to)?;
        self.encode_clients(&mut to)?;
        self.encode_requests(&mut to)?;
        self.encode_backends(&mut to)?;
        self.encode_slow_reads(&mut to)?;
        self.encode_connections(&mut to)
    }
}

impl Snapshot {
    fn encode_balancer(&self, to: &mut Families) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The version that runs";
        let mut info = to.0.encode_descriptor("build", help, None, MetricType::Info)?;
        info.encode_info(&version)?;
        to.gauge("uptime_seconds", "Time since the start of the process", self.uptime_seconds)?;
        to.gauge("ready", "1 if /-/ready says READY, else 0", self.ready.into())?;
        let help = "Lines that the log could not take in time";
        to.counter("log_lines_dropped", help, logging::dropped_lines())
    }

    fn encode_clients(&self, to: &mut Families) -> fmt::Result {
        let of = |(name, count): &(&'static str, u64)| ([("protocol", *name)], *count);
        let clients = self.clients.map(|(name, count)| ([("protocol", name)], count as f64));
        let help = "Connected clients, by protocol; new: it is not known yet";
        to.gauges("clients", help, clients)?;
        to.gauge("max_clients", "The limit of clients", self.max_clients as f64)?;
        let help = "Clients that have connected since the start, by protocol";
        to.counters("connections", help, self.connections.iter().map(of))?;
        let help = "Clients that were refused because there are too many";
        to.counter("turned_away_clients", help, self.turned_away)
    }

    fn encode_requests(&self, to: &mut Families) -> fmt::Result {
        let labels = |protocol, backend| [("protocol", protocol), ("backend", backend)];
        let here = self.answered_here.iter();
        let here = here.map(|(protocol, count)| (labels(*protocol, NO_BACKEND), *count));
        let by_backends = self.backends.iter().flat_map(|backend| {
            let answered = backend.answered.iter();
            answered.map(|(protocol, times)| (labels(*protocol, &backend.name), times.count()))
        });
        let help = "HTTP requests and Redis commands that were answered, by the backend; none: by the \
                    balancer itself. Requests below /-/ do not count";
        to.counters("requests", help, by_backends.chain(here))?;
        let refused = self.refused.iter();
        let refused = refused
            .map(|(protocol, why, count)| ([("protocol", *protocol), ("reason", *why)], *count));
        let help = "Requests that were not answered with what they asked for";
        to.counters("refusals", help, refused)?;
        let cut = self.cut.iter().map(|(protocol, count)| ([("protocol", *protocol)], *count));
        to.counters("cut_answers", "Answers that broke off because a backend failed", cut)?;
        let commands = self.commands.iter();
        let commands = commands.map(|(name, count)| ([("command", name.as_str())], *count));
        to.counters("commands", "Redis commands that clients sent", commands)
    }

    fn encode_backends(&self, to: &mut Families) -> fmt::Result {
        self.encode_durations(to)?;
        let states = self.backends.iter().flat_map(|backend| {
            STATES.map(|state| {
                let labels = [("backend", backend.name.clone()), ("state", state.to_string())];
                (labels, f64::from(backend.health.state == state))
            })
        });
        to.gauges("backend_state", "1 for the state that the backend is in, else 0", states)?;
        let leases = self.gauges_of(|backend| Some(backend.leases as f64));
        to.gauges("backend_leases", "Current leases", leases)?;
        let keys = self.gauges_of(|backend| backend.health.keys.map(|keys| keys as f64));
        to.gauges("backend_keys", "Keys at the last check", keys)?;
        let lag = self.gauges_of(|backend| backend.health.lag.map(|lag| lag.as_secs_f64()));
        let help = "How long before the last check a replica had heard from its primary";
        to.gauges("backend_lag_seconds", help, lag)?;
        let help = "Tries on the backend that failed";
        to.counters("backend_errors", help, self.counters_of(|backend| backend.errors))?;
        let help = "Tries that failed and were made again on another backend";
        to.counters("backend_retries", help, self.counters_of(|backend| backend.retries))?;
        let help = "Replies to Redis clients that are errors, such as WRONGTYPE";
        to.counters(
            "backend_error_replies",
            help,
            self.counters_of(|backend| backend.error_replies),
        )
    }

    fn encode_durations(&self, to: &mut Families) -> fmt::Result {
        let help = "From the choice of the backend until its reply began, over HTTP until ours began; \
                    commands that were sent together share the time of the first";
        let (name, unit) = ("request_duration", Some(&Unit::Seconds));
        let mut family = to.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for backend in &self.backends {
            for (protocol, times) in &backend.answered {
                let labels = [("protocol", *protocol), ("backend", &backend.name)];
                let octaves = times.by_octave(FIRST_OCTAVE).into_iter();
                let mut buckets: Vec<_> =
                    octaves.map(|(bound, count)| (bound.as_secs_f64(), count)).collect();
                let within: u64 = buckets.iter().map(|(_, count)| count).sum();
                buckets.push((f64::INFINITY, times.count() - within));
                let (sum, count) = (times.sum().as_secs_f64(), times.count());
                let mut series = family.encode_family(&labels)?;
                series.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn encode_slow_reads(&self, to: &mut Families) -> fmt::Result {
        let slow::Snapshot { ended, busy_time, waiting, running, .. } = &self.slow_reads;
        to.counter("slow_reads", "Reads that kept a backend busy and have ended", *ended)?;
        let help = "How long these kept their backends busy";
        to.seconds("slow_reads_busy", help, busy_time.as_secs_f64())?;
        to.gauge("slow_reads_running", "Reads that keep a backend busy now", running.len() as f64)?;
        let help = "Reads that wait for a backend that may be kept busy";
        to.gauge("slow_reads_waiting", help, *waiting as f64)
    }

    fn encode_connections(&self, to: &mut Families) -> fmt::Result {
        let connections = self.backends.iter().flat_map(|backend| {
            let pool::Counts { open, idle, .. } = backend.connections;
            [("idle", idle), ("busy", open - idle)].map(|(state, count)| {
                ([("backend", backend.name.as_str()), ("state", state)], count as f64)
            })
        });
        to.gauges("backend_connections", "Connections to the backend", connections)?;
        let waiting = self.gauges_of(|backend| Some(backend.connections.waiting as f64));
        to.gauges("backend_connection_waiters", "Clients that wait for a connection", waiting)?;
        let max = self.gauges_of(|backend| Some(backend.connections.max as f64));
        to.gauges("backend_max_connections", "The limit of connections", max)?;
        let help = "Reads that may still be sent again because a backend is silent";
        to.gauge("retry_budget", help, self.retry_budget as f64)
    }

    /// One row for each backend that has a value.
    fn gauges_of(
        &self,
        value: impl Fn(&BackendSnapshot) -> Option<f64>,
    ) -> impl Iterator<Item = ([(&'static str, &str); 1], f64)> {
        let backends = self.backends.iter();
        backends.filter_map(move |backend| Some(([("backend", &*backend.name)], value(backend)?)))
    }

    fn counters_of(
        &self,
        value: impl Fn(&BackendSnapshot) -> u64,
    ) -> impl Iterator<Item = ([(&'static str, &str); 1], u64)> {
        self.backends.iter().map(move |backend| ([("backend", &*backend.name)], value(backend)))
    }
}
