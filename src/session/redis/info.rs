//! INFO: the sections of the session's backend, and our own.

use std::fmt::{Display, Write};
use std::time::Instant;

use super::replies::Answered;
use super::session::Session;
use crate::balance::{Balancer, slow};
use crate::metrics::cache::{CacheMetrics, CacheSummary};
use crate::resp::{self, Command, reply, write};

/// The changes of state that are shown.
const MAX_CHANGES: usize = 16;

/// A section of ours, by its name; it shows keys to those who may see all.
type Section = (&'static str, fn(&Balancer, bool) -> String);

/// Our own sections.
const SECTIONS: [Section; 2] = [("balancer", balancer_section), ("cache", cache_section)];

/// Names that include all sections.
const WITH_ALL: [&str; 3] = ["all", "default", "everything"];

impl Session<'_> {
    #[inline(never)]
    pub(super) fn info(&mut self, command: &Command) -> Answered {
        let asked: Vec<&[u8]> = command.args().skip(1).collect();
        let is_asked = |name: &str| asked.iter().any(|it| it.eq_ignore_ascii_case(name.as_bytes()));
        let is_theirs = |asked: &&&[u8]| {
            !SECTIONS.iter().any(|(name, _)| asked.eq_ignore_ascii_case(name.as_bytes()))
        };
        let has_all = asked.is_empty() || WITH_ALL.iter().any(|name| is_asked(name));
        let theirs: Vec<_> = asked.iter().filter(is_theirs).collect();
        let mut text = Vec::new();
        if asked.is_empty() || !theirs.is_empty() {
            self.run_batch()?;
            let reply = self.short_exchange(&resp::command("INFO").args(theirs).into_bytes())?;
            let Some(theirs) = reply::string(&reply) else {
                self.answer_raw(&reply);
                return Ok(());
            };
            text = self.with_own_role(theirs);
        }
        let shows_keys = self.login.key_filter().is_none();
        for (_, section) in SECTIONS.iter().filter(|(name, _)| has_all || is_asked(name)) {
            if !text.is_empty() {
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(section(self.balancer, shows_keys).as_bytes());
        }
        let protocol = self.mode.protocol;
        self.answer(|out| write::text(out, &text, protocol));
        Ok(())
    }
}

/// The section about the balancer. Its names begin with `lb_`: clients join all sections into one table.
fn balancer_section(balancer: &Balancer, shows_keys: bool) -> String {
    let mut text = String::from("# Balancer\r\n");
    let mut line = |name: &str, value: &dyn Display| {
        // Writing to a String can't fail.
        let _ = write!(text, "lb_{name}:{value}\r\n");
    };
    line("version", &env!("CARGO_PKG_VERSION"));
    line("uptime_in_seconds", &balancer.began.elapsed().as_secs());
    line("clients", &balancer.metrics.all_clients());
    let memory = &balancer.memory;
    line("client_memory", &memory.held_bytes());
    line("client_memory_max", &memory.max_bytes());
    line("client_memory_closed", &memory.closed.get());
    let (backends, now) = (balancer.backends(), Instant::now());
    line("backends", &backends.len());
    for (index, backend) in backends.iter().enumerate() {
        let (health, leases) = (backend.health.summary(now), balancer.table.leases(backend.id));
        let role = health.role().unwrap_or("primary");
        let lag = balancer.replication.lag(backend.id, now);
        let value = format!(
            "address={},state={},role={role},leases={leases},connections={},keys={},lag_bytes={},\
             staleness={},since={},reason={}",
            backend.name(),
            health.state,
            backend.pool.counts().open,
            or_unknown(health.keys),
            or_unknown(lag.bytes),
            or_unknown(lag.staleness.map(|time| time.as_millis() as f64 / 1000.0)),
            health.state_for.as_secs(),
            plain(&health.reason),
        );
        line(&format!("backend{index}"), &value);
    }
    let lane = balancer.slow_lane.snapshot();
    line("slow_reads", &lane.ended);
    line("slow_reads_busy_seconds", &format!("{:.3}", lane.busy_time.as_secs_f64()));
    line("slow_reads_running", &lane.running.len());
    line("slow_reads_waiting", &lane.waiting);
    for (index, read) in lane.running.iter().chain(&lane.recent).enumerate() {
        let value = format!(
            "read={},address={},seconds={:.3},running={}",
            plain(if shows_keys { &read.label } else { slow::without_key(&read.label) }),
            backends.get(read.backend).map_or("", |backend| backend.name()),
            read.time.as_secs_f64(),
            u8::from(index < lane.running.len()),
        );
        line(&format!("slow_read{index}"), &value);
    }
    for (index, (name, change)) in balancer.changes(MAX_CHANGES).iter().enumerate() {
        let at = humantime::format_rfc3339_seconds(change.at);
        let reason = plain(&change.reason);
        let value = format!("at={at},address={name},state={},reason={reason}", change.state);
        line(&format!("change{index}"), &value);
    }
    text
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or("unknown".to_owned(), |value| value.to_string())
}

/// In a list of fields, a comma begins the next.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == ',' || c.is_control() { ';' } else { c }).collect()
}

/// The section about the near cache, which shows no keys. Without a cache, all is zero.
fn cache_section(balancer: &Balancer, _: bool) -> String {
    let summary = balancer.cache_summary(0);
    let is_enabled = summary.is_some();
    let CacheSummary { bytes, max_bytes, entries, .. } = summary.unwrap_or_default();
    let CacheMetrics { hits, misses, fills, invalidations, flushes, evictions } =
        &balancer.metrics.cache;
    let lines = [
        ("enabled", u64::from(is_enabled)),
        ("bytes", bytes),
        ("max_bytes", max_bytes),
        ("entries", entries),
        ("hits", hits.get()),
        ("misses", misses.get()),
        ("fills", fills.get()),
        ("invalidations", invalidations.get()),
        ("flushes", flushes.get()),
        ("evictions", evictions.get()),
    ];
    let lines = lines.map(|(name, value)| format!("cache_{name}:{value}\r\n"));
    format!("# Cache\r\n{}", lines.concat())
}
