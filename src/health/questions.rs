//! The questions about a backend's health.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::known::{Databases, Known, Unproven};
use super::record::{STILL_CHECKS, keys_in_words};
use super::{BackendState, Change, Health, ShownState, Summary};
use crate::backend::Report;
use crate::sync::lock;

impl Health {
    /// Returns its state.
    pub fn state(&self) -> BackendState {
        lock(&self.record).state
    }

    /// Returns its state as it is shown.
    pub fn shown_state(&self) -> ShownState {
        lock(&self.record).shown_state()
    }

    /// Returns whether its short reads count as much slower than those of the others.
    pub fn is_slow(&self) -> bool {
        lock(&self.record).slow.is_some()
    }

    /// Returns its state, with all that is shown beside it.
    pub fn summary(&self, now: Instant) -> Summary {
        let record = lock(&self.record);
        let seen = record.known.seen.as_ref().map(|seen| &seen.report);
        let (reason, is_telling) = match (record.state, seen) {
            // The number of its keys changes while it is up.
            (BackendState::Up, Some(report)) => {
                let reason = record.while_up(report);
                let is_telling = reason != keys_in_words(report);
                (reason, is_telling)
            }
            _ => (record.reason.clone(), true),
        };
        Summary {
            state: record.shown_state(),
            admin: record.admin,
            state_for: now.saturating_duration_since(record.shown_since.unwrap_or(now)),
            reason,
            is_telling,
            keys: record.keys(),
            is_replica: seen.map(|report| report.is_replica),
            lag: seen.and_then(|report| report.lag),
            ejections: record.ejections,
            times_down: record.outages.count,
            down_time: record.outages.time(now),
            last_check: record.last_check,
            progress: record.progress_of_sync(),
            entered: record.entered,
        }
    }

    /// Returns the last changes of its state, the newest last.
    pub fn changes(&self) -> Vec<Change> {
        lock(&self.record).changes.iter().cloned().collect()
    }

    /// Returns the memory of it, with which the checks of others compare.
    pub fn known(&self) -> Known {
        lock(&self.record).known()
    }

    /// Returns whether it should be checked more often than usual, though it is up: it may get other data
    /// at any moment, is about to have all of a database, or is a last resort.
    pub fn is_to_be_watched(&self) -> bool {
        let record = lock(&self.record);
        let Known { seen, unproven, .. } = &record.known;
        let is_getting_better = |one: &Unproven| one.good > 0 || one.still < STILL_CHECKS;
        record.is_last_resort
            || seen.as_ref().is_some_and(|seen| seen.report.is_cut_off)
            || unproven.values().any(is_getting_better)
    }

    /// Returns whether it is read from only while no other is up, because its data are old.
    pub(super) fn is_stale(&self) -> bool {
        lock(&self.record).stale.is_some()
    }

    /// Returns the report of its last check that was answered, if it is a replica whose link is down, or a primary
    /// that has to prove itself.
    pub(super) fn report_in_trouble(&self) -> Option<Report> {
        let record = lock(&self.record);
        let report = &record.known.seen.as_ref()?.report;
        let is_unproven = !report.is_replica && record.known.must_prove.is_some();
        (report.is_cut_off || is_unproven).then(|| report.clone())
    }

    /// Returns whether it said at its last check that it is a replica.
    pub fn is_replica(&self) -> bool {
        self.last_report(|report| report.is_replica)
    }

    /// Returns the rights that its user lacked at the last check.
    pub fn lacking_rights(&self) -> Vec<&'static str> {
        self.last_report(|report| report.lacks.clone())
    }

    fn last_report<T: Default>(&self, read: impl FnOnce(&Report) -> T) -> T {
        lock(&self.record).known.seen.as_ref().map(|seen| read(&seen.report)).unwrap_or_default()
    }

    /// Returns when it ceased to be up, if it was and is no more.
    pub fn left_up(&self) -> Option<Instant> {
        let record = lock(&self.record);
        let has_left = record.state != BackendState::Up && record.known.accepted.is_some();
        record.since.filter(|_| has_left)
    }

    /// Returns since when it is up, if it is.
    pub fn up_since(&self) -> Option<Instant> {
        let record = lock(&self.record);
        record.since.filter(|_| record.state == BackendState::Up)
    }

    /// Returns whether it is not up and checks may bring it up.
    pub fn may_come_up(&self) -> bool {
        let record = lock(&self.record);
        record.state != BackendState::Up && !record.is_out()
    }

    /// Returns whether a slow read of ours runs on it.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Returns the reason why it is not up, if it is not.
    pub fn trouble(&self) -> Option<String> {
        let record = lock(&self.record);
        match record.state {
            BackendState::Up => None,
            BackendState::Syncing => Some(format!("syncing: {}", record.reason)),
            BackendState::Suspect | BackendState::Down => Some(record.last_failure.clone()),
        }
    }

    /// Returns whether it has answered a check that began then or later.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        lock(&self.record).answered.is_some_and(|began| began >= then)
    }

    /// Returns whether this database may be read from it, and notes that it is in use. Takes no lock.
    pub fn serves(&self, database: i64) -> bool {
        let database = Databases::of(database);
        self.in_use.note(database);
        // Each connection was admitted once. This is for reasons that were found later.
        !Databases::from_bits(self.unread.load(Ordering::Acquire)).has(database)
    }

    /// Returns the reason why this database must not be read from it, if so.
    pub fn refusal(&self, database: i64) -> Option<String> {
        if self.serves(database) {
            return None;
        }
        let record = lock(&self.record);
        if record.is_removed {
            return Some("removed".to_owned());
        }
        if record.known.must_prove.is_some() {
            return Some(record.refusal());
        }
        let is_it = |number| Databases::of(i64::from(number)) == Databases::of(database);
        let (number, found) = record.unread_databases().find(|(number, _)| is_it(*number))?;
        Some(format!("database {number} is incomplete: {found}"))
    }

    /// Returns the reason why this database must not be read from it, if it is up all the same.
    pub fn refusal_while_up(&self, database: i64) -> Option<String> {
        let refusal = self.refusal(database)?;
        (self.state() == BackendState::Up).then_some(refusal)
    }
}
