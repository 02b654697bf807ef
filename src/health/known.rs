//! What is known of a backend: what it has proved, what it had, and what others compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Keys, Report};

/// Servers that were all restarted, and agree on nothing that was known before, are believed when the
/// numbers of their keys have kept for this long.
pub const SETTLE_TIME: Duration = Duration::from_secs(5);

/// How a database of a server is that has to prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has what it should have.
    Complete {
        /// Its keys.
        has: u64,
    },
    /// It has about what it should have, and gets more.
    Growing {
        /// Its keys.
        has: u64,
        /// Those that it should have.
        of: u64,
    },
    /// It has most of its keys, and nobody who is up has more.
    LastResort {
        /// Its keys.
        has: u64,
        /// Those that it should have.
        of: u64,
    },
    /// It lacks keys.
    Incomplete {
        /// Its keys.
        has: u64,
        /// Those that it should have.
        of: u64,
    },
}

impl Standing {
    /// The keys that it has.
    pub fn has(self) -> u64 {
        match self {
            Self::Complete { has }
            | Self::Growing { has, .. }
            | Self::LastResort { has, .. }
            | Self::Incomplete { has, .. } => has,
        }
    }

    /// Whether there is anything to be read in it.
    pub(super) fn has_data(self) -> bool {
        match self {
            Self::Complete { has } => has > 0,
            _ => true,
        }
    }

    /// Whether it may be read from once that was so often enough.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Complete { .. } | Self::LastResort { .. })
    }
}

/// A set of databases in a word. Those with numbers from 63 on are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Databases(u64);

impl Databases {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// All of them.
    pub const ALL: Self = Self(u64::MAX);

    /// This one.
    pub fn of(database: i64) -> Self {
        Self(1 << database.clamp(0, 63))
    }

    /// With what [`bits`](Self::bits) has returned.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a number, for an atomic one.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether one of these is in it.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// All that are in one or the other.
    pub fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// Why a server has to prove that it has its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No process of it was ever accepted.
    FirstMet,
    /// Another process answers than the one that was accepted.
    Restarted,
    /// The same process has a history that does not continue the one that was accepted.
    FilledAnew,
    /// It is a replica whose link was down at the last check and is up now.
    LinkWasDown,
    /// It has said that its data are not there.
    WasNotReady,
    /// It was accepted when no other was there to be compared with, or as a last resort, and has fewer
    /// keys than one that is up.
    HasFewer,
    /// It was no server that can be served from.
    WasUnserved,
}

impl Cause {
    /// Whether one good comparison suffices: the accepted process goes on, and was not out of service.
    pub fn is_of_same_process(self) -> bool {
        matches!(self, Self::FilledAnew | Self::LinkWasDown)
    }
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
        })
    }
}

/// The server process, and the history of its data, that may be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its `run_id`.
    pub run_id: Arc<str>,
    /// Its `master_replid`.
    pub replication_id: Arc<str>,
}

impl Identity {
    /// That of the server which gave this report.
    pub fn of(report: &Report) -> Self {
        Self {
            run_id: Arc::clone(&report.run_id),
            replication_id: Arc::clone(&report.replication_id),
        }
    }

    /// Whether the report is of that process, and of data that continue these.
    pub(super) fn goes_on_in(&self, report: &Report) -> bool {
        self.run_id == report.run_id
            && (!report.is_replica || report.continues(&self.replication_id))
    }
}

/// How many keys a server had in each database, and when it was last seen to serve these.
#[derive(Debug, Clone, Default)]
pub struct Remembered(pub(super) BTreeMap<u32, (u64, Instant)>);

impl Remembered {
    /// It serves these now, but for the databases that are `left_out`.
    pub fn note(&mut self, keys: &Keys, now: Instant, left_out: impl Fn(u32) -> bool) {
        let known: BTreeSet<u32> = self.0.keys().copied().chain(keys.databases()).collect();
        for number in known.into_iter().filter(|number| !left_out(*number)) {
            match keys.count(number) {
                0 => _ = self.0.remove(&number),
                count => _ = self.0.insert(number, (count, now)),
            }
        }
    }

    /// What counts of it now.
    pub(super) fn count(&self, database: u32, now: Instant, forget_after: Duration) -> u64 {
        match self.0.get(&database) {
            Some((count, at)) if now.saturating_duration_since(*at) <= forget_after => *count,
            _ => 0,
        }
    }
}

/// What the last check of a server that was answered has found.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it said.
    pub report: Report,
    /// Since when the numbers of its keys are about the same.
    pub keys_since: Instant,
}

/// What is known of a server.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The process that may be read from.
    pub accepted: Option<Identity>,
    /// When one was accepted for the first time.
    pub first_accepted: Option<Instant>,
    /// Whether it serves now: its state is up or suspect.
    pub is_serving: bool,
    /// Whether its last check was answered.
    pub answers: bool,
    /// Why nothing may be read from it before it has proved itself, if so.
    pub must_prove: Option<Cause>,
    /// The databases in which it has not proved itself.
    pub unproven: BTreeMap<u32, Unproven>,
    /// What it had when it served last.
    pub remembered: Remembered,
    /// The last check that it has answered.
    pub seen: Option<Seen>,
    /// When a check of it was judged last.
    pub judged: Option<Instant>,
}

/// A database in which a server has not proved itself.
#[derive(Debug, Clone, Copy)]
pub struct Unproven {
    /// How it was at the last check.
    pub standing: Standing,
    /// In how many checks running it was complete.
    pub good: u32,
    /// In how many checks running it has got no more keys.
    pub still: u32,
}

impl Unproven {
    /// Met for the first time.
    pub fn new(standing: Standing) -> Self {
        Self { standing, good: 0, still: 0 }
    }

    /// The next check has found this.
    pub fn note(&mut self, standing: Standing) {
        self.good = if matches!(standing, Standing::Complete { .. }) {
            self.good.saturating_add(1)
        } else {
            0
        };
        self.still =
            if standing.has() > self.standing.has() { 0 } else { self.still.saturating_add(1) };
        self.standing = standing;
    }
}

impl Known {
    /// Whether what it has in this database is what there is to be had: the accepted process goes on,
    /// and has nothing to prove there.
    fn is_proven(&self, database: u32) -> bool {
        let goes_on = self.accepted.as_ref().zip(self.seen.as_ref());
        self.must_prove.is_none()
            && !self.unproven.contains_key(&database)
            && goes_on.is_some_and(|(accepted, seen)| accepted.goes_on_in(&seen.report))
    }

    /// How many keys it serves in this database, if it is proven there.
    pub(super) fn serves(&self, database: u32) -> Option<u64> {
        let keys = self.seen.as_ref()?.report.keys.as_ref()?;
        (self.is_serving && self.is_proven(database) && keys.knows(database))
            .then(|| keys.count(database))
    }

    /// How many keys of this database it stands for while nobody serves it: those that it has, where
    /// it can be believed, else those that it had.
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
