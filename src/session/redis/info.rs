//! INFO: a backend's answer, with a section about the balancer.

use std::fmt::Write;
use std::time::Instant;

use super::errors::SessionEnd;
use super::session::Session;
use crate::balance::Balancer;
use crate::resp::{self, Command, reply, write};

/// The name of our section.
const SECTION: &[u8] = b"balancer";

/// The changes of state that are shown.
const MAX_CHANGES: usize = 16;

/// Sections that include ours.
const WHOLE: [&[u8]; 3] = [b"all", b"default", b"everything"];

impl Session<'_> {
    #[inline(never)]
    pub(super) fn info(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let is_ours = |section: &&[u8]| section.eq_ignore_ascii_case(SECTION);
        let is_whole = |section: &[u8]| WHOLE.iter().any(|w| section.eq_ignore_ascii_case(w));
        let sections: Vec<&[u8]> = command.args().skip(1).collect();
        let shows_ours = sections.is_empty()
            || sections.iter().any(|section| is_ours(section) || is_whole(section));
        let theirs: Vec<_> = sections.iter().filter(|section| !is_ours(section)).collect();
        let mut text = Vec::new();
        if sections.is_empty() || !theirs.is_empty() {
            self.run_batch()?;
            match self.short_exchange(&resp::command("INFO").args(theirs).into_bytes()) {
                Ok(reply) => match reply::string(&reply) {
                    Some(theirs) => text.extend_from_slice(theirs),
                    None => {
                        self.answer_raw(&reply);
                        return Ok(());
                    }
                },
                Err(unanswered) => return self.unanswered(unanswered),
            }
        }
        if shows_ours {
            if !text.is_empty() {
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(section(self.balancer).as_bytes());
        }
        let protocol = self.mode.protocol;
        self.answer(|out| write::text(out, &text, protocol));
        Ok(())
    }
}

/// Our section. Its names begin with `lb_`: clients join all sections into one table.
fn section(balancer: &Balancer) -> String {
    let mut text = String::from("# Balancer\r\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a String can't fail.
        let _ = write!(text, "lb_{name}:{value}\r\n");
    };
    line("version", &env!("CARGO_PKG_VERSION"));
    line("uptime_in_seconds", &balancer.began.elapsed().as_secs());
    line("clients", &balancer.metrics.all_clients());
    let (backends, now) = (balancer.backends(), Instant::now());
    line("backends", &backends.len());
    for (index, backend) in backends.iter().enumerate() {
        let (health, leases) = (backend.health.summary(now), balancer.table.leases(backend.id));
        let role = health.role().unwrap_or("primary");
        let value = format!(
            "address={},state={},role={role},leases={leases},connections={},keys={},since={},reason={}",
            backend.name(),
            health.state,
            backend.pool.counts().open,
            health.keys.map_or("unknown".to_owned(), |keys| keys.to_string()),
            health.state_for.as_secs(),
            plain(&health.reason),
        );
        line(&format!("backend{index}"), &value);
    }
    let slow = balancer.slow_lane.snapshot();
    line("slow_reads", &slow.ended);
    line("slow_reads_busy_seconds", &format!("{:.3}", slow.busy_time.as_secs_f64()));
    line("slow_reads_running", &slow.running.len());
    line("slow_reads_waiting", &slow.waiting);
    for (index, read) in slow.running.iter().chain(&slow.recent).enumerate() {
        let value = format!(
            "read={},address={},seconds={:.3},running={}",
            plain(&read.label),
            backends.get(read.backend).map_or("", |backend| backend.name()),
            read.time.as_secs_f64(),
            u8::from(index < slow.running.len()),
        );
        line(&format!("slow_read{index}"), &value);
    }
    for (index, (backend, change)) in balancer.changes(MAX_CHANGES).iter().enumerate() {
        let at = humantime::format_rfc3339_seconds(change.at);
        let reason = plain(&change.reason);
        let name = backend.name();
        let value = format!("at={at},address={name},state={},reason={reason}", change.state);
        line(&format!("change{index}"), &value);
    }
    text
}

/// In a list of fields, a comma begins the next.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == ',' || c.is_control() { ';' } else { c }).collect()
}
