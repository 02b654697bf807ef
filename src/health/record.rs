//! What the state of one backend rests on, without a lock or a clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use log::warn;

use super::BackendState;
use super::known::{Cause, Databases, Identity, Known, Standing, Unproven};
use super::summary::Change;
use crate::backend::{Keys, Report};

/// The changes that are kept of each backend.
pub(super) const MAX_CHANGES: usize = 32;

/// A server whose databases are complete in part serves these when the others have got no more keys in
/// so many checks: until then it may be being loaded.
pub(super) const STILL_CHECKS: u32 = 10;

/// A difference between servers is warned about when it has lasted for so long: what clients write
/// does not arrive everywhere at the same moment.
const DIFFERENCE_TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Record {
    pub state: BackendState,
    pub reason: String,
    pub since: Instant,
    pub known: Known,
    /// What the numbers of its keys are about, since `seen.keys_since`.
    pub settled_keys: Option<Keys>,
    /// Checks in a row.
    pub good: u32,
    pub bad: u32,
    pub last_failure: String,
    /// When a request has failed last.
    pub failed_at: Option<Instant>,
    /// Until then a good check does not clear a failure.
    pub distrusted_until: Option<Instant>,
    /// When the last check that was answered began.
    pub answered: Option<Instant>,
    /// Since when others have notably more keys, and whether that was warned about.
    pub differs_since: Option<Instant>,
    pub difference: Option<String>,
    pub was_warned: bool,
    /// The databases that must not be read, as the log has it.
    pub logged_unread: Databases,
    /// Whether it is read from though it lacks some keys.
    pub is_last_resort: bool,
    /// Why it is stale, if it is.
    pub stale: Option<String>,
    /// Whether the backend was removed: then no check and no failure changes anything.
    pub is_removed: bool,
    pub changes: VecDeque<Change>,
}

/// What came of the comparison of a server that has to prove itself.
pub(super) enum Proof {
    /// It has proved itself.
    Accepted,
    /// It has nothing to prove as a whole, and something in some databases.
    Serving,
    /// Nothing is read from it.
    Held(Cause),
}

impl Unproven {
    /// Whether it is read from all the same.
    pub fn is_read(&self) -> bool {
        matches!(self.standing, Standing::LastResort { .. })
    }
}

impl Record {
    /// What is known of it now.
    pub fn known(&self) -> Known {
        Known {
            is_serving: matches!(self.state, BackendState::Up | BackendState::Suspect),
            answers: self.bad == 0,
            ..self.known.clone()
        }
    }

    /// Since when the numbers of its keys are about those of this report.
    pub fn settle(&mut self, report: &Report, now: Instant) -> Instant {
        let same_process =
            self.known.seen.as_ref().filter(|seen| {
                seen.report.run_id == report.run_id && seen.report.not_ready.is_none()
            });
        let since = same_process.map(|seen| seen.keys_since);
        let is_settled = match (&self.settled_keys, &report.keys) {
            (Some(settled), Some(keys)) => {
                let elapsed = since.map(|since| now.saturating_duration_since(since));
                keys.keeps(settled, elapsed.unwrap_or_default())
            }
            (None, None) => true,
            _ => false,
        };
        match since.filter(|_| is_settled) {
            Some(since) => since,
            None => {
                self.settled_keys.clone_from(&report.keys);
                now
            }
        }
    }

    /// Counts how often in a row its databases were found good.
    pub fn prove(
        &mut self,
        cause: Option<Cause>,
        databases: &BTreeMap<u32, Standing>,
        relevant: &BTreeSet<u32>,
        rise: u32,
    ) -> Proof {
        let known = &mut self.known;
        let was_held = known.must_prove.is_some();
        if cause.is_some() && !was_held {
            self.good = 0;
            known.unproven.clear();
        }
        let needed = match cause {
            Some(cause) if !was_held && cause.is_of_same_process() => 1,
            _ => rise,
        };
        for (number, standing) in databases {
            let new = Unproven::new(*standing);
            known.unproven.entry(*number).or_insert(new).note(*standing);
        }
        let is_proven = |database: &Unproven| database.good >= needed;
        let may_be_read = |number: &u32| {
            known.unproven.get(number).is_none_or(|one| is_proven(one) || one.is_read())
        };
        let is_good =
            |number: &u32| databases.get(number).is_none_or(|standing| standing.is_good());
        let can_be_read = relevant.is_empty() || relevant.iter().any(may_be_read);
        // One that is being loaded may have all of one database before it has any of the next.
        let is_still = |number: &u32| {
            known.unproven.get(number).is_none_or(|database| database.still >= STILL_CHECKS)
        };
        let is_loaded =
            needed == 1 || databases.keys().all(|number| may_be_read(number) || is_still(number));
        match relevant.is_empty() || relevant.iter().any(is_good) {
            true if cause.is_some() => self.good += 1,
            true => {}
            false => self.good = 0,
        }
        match cause {
            Some(_) if self.good >= needed && can_be_read && is_loaded => {
                known.unproven.retain(|_, database| !is_proven(database));
                Proof::Accepted
            }
            Some(cause) => Proof::Held(cause),
            None if can_be_read => {
                known.unproven.retain(|_, database| !is_proven(database));
                Proof::Serving
            }
            None => Proof::Held(Cause::HasFewer),
        }
    }

    /// The process that gave this report is the one that may be read from, and this is what it has.
    pub fn accept_identity(&mut self, report: &Report, now: Instant) {
        let known = &mut self.known;
        known.accepted = Some(Identity::of(report));
        known.first_accepted.get_or_insert(now);
        if let Some(keys) = &report.keys {
            let unproven = &known.unproven;
            known
                .remembered
                .note(keys, now, |number| unproven.contains_key(&number) || !keys.knows(number));
        }
    }

    /// The databases that must not be read.
    pub fn unread(&self) -> Databases {
        if self.known.must_prove.is_some() {
            return Databases::ALL;
        }
        let unread = self.known.unproven.iter().filter(|(_, database)| !database.is_read());
        let unread = unread.map(|(number, _)| Databases::of(i64::from(*number)));
        unread.fold(Databases::NONE, Databases::with)
    }

    /// The first database that is read though it lacks some keys, with what it has of what it should
    /// have.
    pub fn last_resort(&self) -> Option<(u32, u64, u64)> {
        let may_be_read = self.known.must_prove.is_none();
        self.known.unproven.iter().filter(|_| may_be_read).find_map(|(number, database)| {
            match database.standing {
                Standing::LastResort { has, of } => Some((*number, has, of)),
                _ => None,
            }
        })
    }

    /// Which databases are not read from it while it is up, and why.
    pub fn exceptions(&self) -> Option<String> {
        let unread = self.known.unproven.iter().filter(|(_, database)| !database.is_read());
        let in_words = |(number, database): (&u32, &Unproven)| {
            format!("database {number} ({})", standing_in_words(database.standing))
        };
        let unread: Vec<String> = unread.take(MAX_SHOWN_DATABASES).map(in_words).collect();
        (!unread.is_empty())
            .then(|| format!("not read from in some databases: {}", unread.join(", ")))
    }

    /// What there is to be said of a server that is up.
    pub fn while_up(&self, report: &Report) -> String {
        let mut text = keys_in_words(report);
        let resort = self.last_resort().map(|(number, has, of)| {
            format!("read from as a last resort: database {number} has {has} of {of} keys")
        });
        let stale =
            self.stale.as_ref().map(|why| format!("read from only while no other is up: {why}"));
        let more = [resort, stale, self.exceptions(), self.difference.clone()];
        for more in more.into_iter().flatten() {
            text += "; ";
            text += &more;
        }
        text
    }

    /// How far the proof has come, in words: where it lacks most.
    pub fn progress(&self, report: &Report) -> String {
        let databases = self.known.unproven.values();
        let lacking =
            databases.filter(|database| !matches!(database.standing, Standing::Complete { .. }));
        let missing = |database: &&Unproven| match database.standing {
            Standing::Incomplete { has, of }
            | Standing::Growing { has, of }
            | Standing::LastResort { has, of } => of.saturating_sub(has),
            Standing::Complete { .. } => 0,
        };
        match lacking.max_by_key(missing) {
            Some(database) => standing_in_words(database.standing),
            None => keys_in_words(report),
        }
    }

    /// Why nothing may be read from it, for a client.
    pub fn refusal(&self) -> String {
        match self.known.must_prove {
            Some(Cause::WasUnserved) => format!("not served: {}", self.reason),
            _ => format!("syncing: {}", self.reason),
        }
    }

    /// Others have notably more keys, or no more.
    pub fn note_difference(&mut self, name: &str, difference: Option<String>, now: Instant) {
        match &difference {
            None => {
                self.differs_since = None;
                self.was_warned = false;
            }
            Some(difference) => {
                let since = *self.differs_since.get_or_insert(now);
                if !self.was_warned && now.saturating_duration_since(since) >= DIFFERENCE_TIME {
                    self.was_warned = true;
                    warn!("{name} has fewer keys than others, and is read from: {difference}");
                }
            }
        }
        self.difference = difference;
    }
}

/// The most databases that are named in one reason.
const MAX_SHOWN_DATABASES: usize = 4;

pub(super) fn standing_in_words(standing: Standing) -> String {
    match standing {
        Standing::Complete { has } => format!("it has {has} keys"),
        Standing::Growing { has, of } => format!("it has {has} of {of} keys, and gets more"),
        Standing::LastResort { has, of } | Standing::Incomplete { has, of } => {
            format!("it has {has} of {of} keys")
        }
    }
}

pub(super) fn keys_in_words(report: &Report) -> String {
    let role = if report.is_replica { "a replica" } else { "a primary" };
    match &report.keys {
        Some(keys) => format!("{role} with {keys} keys"),
        None => format!("{role} that does not say how many keys it has"),
    }
}
