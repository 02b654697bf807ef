//! What is asked about a backend's health.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::BackendState;
use super::health::Health;
use super::known::{Databases, Known, Unproven};
use super::record::{STILL_CHECKS, standing_in_words};
use super::summary::{Change, Summary};
use crate::backend::Keys;
use crate::sync::lock;

impl Health {
    /// How it is.
    pub fn state(&self) -> BackendState {
        lock(&self.record).state
    }

    /// What is known of it.
    pub fn summary(&self, now: Instant) -> Summary {
        let record = lock(&self.record);
        let seen = record.known.seen.as_ref().map(|seen| &seen.report);
        Summary {
            state: record.state,
            state_for: now.saturating_duration_since(record.since),
            // Keys come and go while it is up.
            reason: match (record.state, seen) {
                (BackendState::Up, Some(report)) => record.while_up(report),
                _ => record.reason.clone(),
            },
            keys: seen.and_then(|report| report.keys.as_ref()).map(Keys::total),
            is_replica: seen.map(|report| report.is_replica),
            lag: seen.and_then(|report| report.lag),
        }
    }

    /// The last changes, the newest last.
    pub fn changes(&self) -> Vec<Change> {
        lock(&self.record).changes.iter().cloned().collect()
    }

    /// What is known of it: what the checks of others compare with.
    pub fn known(&self) -> Known {
        lock(&self.record).known()
    }

    /// Whether it should be looked at more often than usual, though it is up: it may get other data
    /// at any moment, is about to have all of a database, or is to make room for one that has more.
    pub fn is_to_be_watched(&self) -> bool {
        let record = lock(&self.record);
        let Known { seen, unproven, .. } = &record.known;
        let is_getting_better = |one: &Unproven| one.good > 0 || one.still < STILL_CHECKS;
        record.is_last_resort
            || seen.as_ref().is_some_and(|seen| seen.report.is_cut_off)
            || unproven.values().any(is_getting_better)
    }

    /// Whether it said at its last check that it is a replica.
    pub fn is_replica(&self) -> bool {
        let record = lock(&self.record);
        record.known.seen.as_ref().is_some_and(|seen| seen.report.is_replica)
    }

    /// When it ceased to be up, if it was and is no more.
    pub fn left_up(&self) -> Option<Instant> {
        let record = lock(&self.record);
        (record.state != BackendState::Up && record.known.accepted.is_some())
            .then_some(record.since)
    }

    /// The rights that its user lacked at the last check.
    pub fn lacking_rights(&self) -> Vec<&'static str> {
        let record = lock(&self.record);
        record.known.seen.as_ref().map(|seen| seen.report.lacks.clone()).unwrap_or_default()
    }

    /// Whether a slow read runs on it.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// What is wrong with it, if anything is.
    pub fn trouble(&self) -> Option<String> {
        let record = lock(&self.record);
        match record.state {
            BackendState::Up => None,
            BackendState::Syncing => Some(format!("syncing: {}", record.reason)),
            BackendState::Suspect | BackendState::Down => Some(record.last_failure.clone()),
        }
    }

    /// Whether it has answered a check that began after that.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        lock(&self.record).answered.is_some_and(|began| began >= then)
    }

    /// Since when it is up, if it is.
    pub fn up_since(&self) -> Option<Instant> {
        let record = lock(&self.record);
        (record.state == BackendState::Up).then_some(record.since)
    }

    /// Whether this database may be read from it, without a lock. Notes that it is asked for.
    pub fn serves(&self, database: i64) -> bool {
        let database = Databases::of(database);
        self.in_use.note(database);
        // Each connection has been admitted: this is for what came to light later.
        !Databases::from_bits(self.unread.load(Ordering::Acquire)).has(database)
    }

    /// Why this database must not be read from it, if so.
    pub fn refusal(&self, database: i64) -> Option<String> {
        if self.serves(database) {
            return None;
        }
        let record = lock(&self.record);
        if record.known.must_prove.is_some() {
            return Some(record.refusal());
        }
        let in_words = |(number, database): (&u32, &Unproven)| {
            let progress = standing_in_words(database.standing);
            format!("database {number} is incomplete: {progress}")
        };
        let unread = record.known.unproven.iter().filter(|(_, database)| !database.is_read());
        let it = |number: &u32| Databases::of(i64::from(*number)) == Databases::of(database);
        unread.filter(|(number, _)| it(number)).map(in_words).next()
    }

    /// Why this database must not be read from it, if it is up all the same.
    pub fn refusal_while_up(&self, database: i64) -> Option<String> {
        let refusal = self.refusal(database)?;
        (self.state() == BackendState::Up).then_some(refusal)
    }
}
