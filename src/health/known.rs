//! The memory of a backend: its proofs, the keys that it had, and the counts that others compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::backoff::ReadFailures;
use crate::backend::{Keys, Report};

/// Time after which unchanged numbers of keys are believed, also where all servers were restarted and agree
/// on nothing that was known before.
pub const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Result of the comparison of one database, of a server that has to prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completeness {
    /// The result.
    pub grade: Grade,
    /// Number of its keys.
    pub has: u64,
    /// Number of keys that it should have.
    pub of: u64,
}

/// How complete a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// It has the keys that it should have.
    Complete,
    /// It has about the keys that it should have, and gets more.
    Growing,
    /// It has most of its keys, and no server that is up has more.
    LastResort,
    /// It lacks keys.
    Incomplete,
}

impl Completeness {
    /// Returns whether there is anything to read in the database, now or later.
    pub fn has_data(self) -> bool {
        self.has > 0 || self.grade != Grade::Complete
    }
}

impl fmt::Display for Completeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grade, has, of } = self;
        match grade {
            Grade::Complete => write!(f, "it has {has} keys"),
            Grade::Growing => write!(f, "it has {has} of {of} keys, and gets more"),
            Grade::LastResort | Grade::Incomplete => write!(f, "it has {has} of {of} keys"),
        }
    }
}

/// A set of databases in one word. All databases with numbers from 63 on share a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Databases(u64);

impl Databases {
    /// All of them.
    pub const ALL: Self = Self(u64::MAX);

    /// Returns the set of this one.
    pub fn of(database: i64) -> Self {
        Self(1 << database.clamp(0, 63))
    }

    /// Returns the set with these [`bits`](Self::bits).
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns it as a number, for an atomic.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Returns whether it has one of the others.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Returns the union with the others.
    pub fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// The databases that clients have read so far. All backends share it.
#[derive(Debug, Default)]
pub struct DatabasesInUse(AtomicU64);

impl DatabasesInUse {
    /// Takes note that this one is read.
    pub fn note(&self, databases: Databases) {
        // Nearly always it is known. Then no other core's cache line is taken away.
        if !self.get().has(databases) {
            self.0.fetch_or(databases.bits(), Ordering::Relaxed);
        }
    }

    /// Returns all of them.
    pub fn get(&self) -> Databases {
        Databases::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Reason why a server has to prove that it has its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No process of it was ever accepted.
    FirstMet,
    /// Another process answers than the one that was accepted.
    Restarted,
    /// The accepted process has a history that does not continue the one that was accepted.
    FilledAnew,
    /// It is a replica whose link was down at the last check and is up now.
    LinkWasDown,
    /// It said that its data are not there.
    WasNotReady,
    /// It was accepted without another server to compare with, or as a last resort, and has fewer keys
    /// than one that is up.
    HasFewer,
    /// It was no server to read from.
    WasUnserved,
    /// It was in maintenance, and not checked.
    Maintenance,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstMet => "it was not there before",
            Self::Restarted => "it was restarted or replaced by another server",
            Self::FilledAnew => "it was filled anew by its primary",
            Self::LinkWasDown => "its link to its primary was down",
            Self::WasNotReady => "its data were not there",
            Self::HasFewer => "it has fewer keys than others",
            Self::WasUnserved => "it could not be served from",
            Self::Maintenance => "it was in maintenance",
        })
    }
}

/// An accepted server process, and the history of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its `run_id`.
    pub run_id: Arc<str>,
    /// Its `master_replid`.
    pub replication_id: Arc<str>,
}

impl Identity {
    /// Returns the identity of the server that gave this report.
    pub fn of(report: &Report) -> Self {
        Self {
            run_id: Arc::clone(&report.run_id),
            replication_id: Arc::clone(&report.replication_id),
        }
    }

    /// Returns whether the report is of this process, and of data that continue these.
    pub(super) fn goes_on_in(&self, report: &Report) -> bool {
        self.run_id == report.run_id
            && (!report.is_replica || report.continues(&self.replication_id))
    }
}

/// The number of keys that a server had in each database, and when it was last seen to serve these.
#[derive(Debug, Clone, Default)]
pub struct Remembered(pub(super) BTreeMap<u32, (u64, Instant)>);

impl Remembered {
    /// Takes note that it serves these keys now, but for the databases that are `left_out`.
    pub fn note(&mut self, keys: &Keys, now: Instant, left_out: impl Fn(u32) -> bool) {
        let known: BTreeSet<u32> = self.0.keys().copied().chain(keys.databases()).collect();
        for number in known.into_iter().filter(|number| !left_out(*number)) {
            match keys.count(number) {
                0 => _ = self.0.remove(&number),
                count => _ = self.0.insert(number, (count, now)),
            }
        }
    }

    /// Returns the number that counts now.
    pub(super) fn count(&self, database: u32, now: Instant, forget_after: Duration) -> u64 {
        match self.0.get(&database) {
            Some((count, at)) if now.saturating_duration_since(*at) <= forget_after => *count,
            _ => 0,
        }
    }
}

/// Result of a server's last check that was answered.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The server's answers.
    pub report: Report,
    /// Since when the numbers of its keys are about the same.
    pub keys_since: Instant,
}

/// The memory of a server.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The accepted process.
    pub accepted: Option<Identity>,
    /// When a process was accepted for the first time.
    pub first_accepted: Option<Instant>,
    /// Whether it serves now: its state is up or suspect.
    pub is_serving: bool,
    /// Whether it is up.
    pub is_up: bool,
    /// The reads that have failed on it while its checks passed.
    pub read_failures: ReadFailures,
    /// Whether its last check was answered.
    pub answers: bool,
    /// Reason why nothing may be read from it before it has proved itself, if so.
    pub must_prove: Option<Cause>,
    /// The databases in which it has not proved itself.
    pub unproven: BTreeMap<u32, Unproven>,
    /// The keys that it had when it served last.
    pub remembered: Remembered,
    /// The last check that was answered.
    pub seen: Option<Seen>,
    /// When a check was judged last.
    pub judged: Option<Instant>,
}

/// A database in which a server has not proved itself.
#[derive(Debug, Clone, Copy)]
pub struct Unproven {
    /// The result of the last check.
    pub completeness: Completeness,
    /// Number of checks in a row in which it was complete.
    pub good: u32,
    /// Number of checks in a row in which it got no more keys.
    pub still: u32,
}

impl Unproven {
    /// Begins with the first result.
    pub fn new(completeness: Completeness) -> Self {
        Self { completeness, good: 0, still: 0 }
    }

    /// Takes note of the next check's result.
    pub fn note(&mut self, found: Completeness) {
        let next = |count: u32, goes_on| if goes_on { count.saturating_add(1) } else { 0 };
        self.good = next(self.good, found.grade == Grade::Complete);
        self.still = next(self.still, found.has <= self.completeness.has);
        self.completeness = found;
    }

    /// Returns whether it is read from all the same.
    pub fn is_read(&self) -> bool {
        self.completeness.grade == Grade::LastResort
    }
}

impl Known {
    /// Returns whether its keys in this database are all that there are: the accepted process goes on,
    /// and has nothing to prove there.
    fn is_proven(&self, database: u32) -> bool {
        let goes_on = self.accepted.as_ref().zip(self.seen.as_ref());
        self.must_prove.is_none()
            && !self.unproven.contains_key(&database)
            && goes_on.is_some_and(|(accepted, seen)| accepted.goes_on_in(&seen.report))
    }

    /// Returns how many keys it serves in this database, if it is proven there.
    pub(super) fn serves(&self, database: u32) -> Option<u64> {
        let keys = self.seen.as_ref()?.report.keys.as_ref()?;
        (self.is_serving && self.is_proven(database) && keys.knows(database))
            .then(|| keys.count(database))
    }

    /// Returns how many keys of this database it stands for while no server serves it: those that it has,
    /// if it can be believed, else those that it had.
    pub(super) fn stands_for(&self, database: u32, now: Instant, forget_after: Duration) -> u64 {
        let believed = self.seen.as_ref().filter(|seen| {
            let is_settled = now.saturating_duration_since(seen.keys_since) >= SETTLE_TIME;
            let goes_on = self.accepted.as_ref().is_some_and(|id| id.goes_on_in(&seen.report));
            let is_good = goes_on && !self.unproven.contains_key(&database);
            let is_ready = seen.report.not_ready.is_none() && seen.report.unserved.is_none();
            self.answers && is_ready && (is_good || is_settled)
        });
        match believed.and_then(|seen| seen.report.keys.as_ref()) {
            Some(keys) if keys.knows(database) => keys.count(database),
            _ => self.remembered.count(database, now, forget_after),
        }
    }
}
