//! The reasons for the state of one backend, without a lock or a clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use super::backoff::ReadFailures;
use super::known::{Cause, Completeness, Databases, Grade, Identity, Known, Unproven};
use super::{Admin, BackendState, Change, LastCheck, Progress, ShownState};
use crate::backend::{Keys, Report};

/// Number of changes that are kept of each backend.
pub(super) const MAX_CHANGES: usize = 32;

/// Number of checks without more keys after which a server is not being loaded. If some of its databases are
/// complete, it serves these then.
pub(super) const STILL_CHECKS: u32 = 10;

/// Time after which a difference between servers is worth a warning. Writes don't arrive everywhere at
/// the same moment.
const DIFFERENCE_TIME: Duration = Duration::from_secs(10);

/// The state of one backend, and the reasons for it.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub state: BackendState,
    pub reason: String,
    /// When this state began.
    pub since: Option<Instant>,
    /// When the state began that is shown.
    pub shown_since: Option<Instant>,
    pub read_failures: ReadFailures,
    /// Whether it is ejected: it is suspect, and a passed check alone does not bring it back.
    pub is_ejected: bool,
    /// How often it was ejected.
    pub ejections: u64,
    /// Reason why its short reads count as slow, if they do.
    pub slow: Option<String>,
    pub known: Known,
    /// About the numbers of its keys since `seen.keys_since`.
    pub settled_keys: Option<Keys>,
    /// Good checks in a row.
    pub good: u32,
    /// Failed checks in a row.
    pub bad: u32,
    pub last_failure: String,
    /// When a request failed last.
    pub failed_at: Option<Instant>,
    /// Until then a good check does not clear a failure.
    pub distrusted_until: Option<Instant>,
    /// When the last check that was answered began.
    pub answered: Option<Instant>,
    /// Since when others have notably more keys.
    pub differs_since: Option<Instant>,
    /// Where others have notably more keys, in words.
    pub difference: Option<String>,
    /// Whether the log has warned of this difference.
    pub was_warned: bool,
    /// The databases that must not be read, as the log said last.
    pub logged_unread: Databases,
    /// Whether it is read from though it lacks some keys.
    pub is_last_resort: bool,
    /// Reason why it is stale, if it is.
    pub stale: Option<String>,
    /// Whether the backend was removed: then no check and no failure changes anything.
    pub is_removed: bool,
    /// What an operator wants of it.
    pub admin: Admin,
    /// The state that was shown last.
    pub shown: ShownState,
    /// How often its state has changed to each of [`ShownState::ALL`].
    pub entered: [u64; ShownState::ALL.len()],
    pub changes: VecDeque<Change>,
    pub outages: Outages,
    pub last_check: Option<LastCheck>,
}

/// The times at which a backend was shown as down.
#[derive(Debug, Default)]
pub(super) struct Outages {
    /// How many there were.
    pub count: u64,
    /// How long those lasted that are over.
    ended: Duration,
    /// When the present one began.
    since: Option<Instant>,
}

impl Outages {
    /// Takes note of whether it is down from now on. Returns whether it is since now.
    pub fn note(&mut self, is_down: bool, now: Instant) -> bool {
        match (self.since, is_down) {
            (None, true) => {
                self.count += 1;
                self.since = Some(now);
                return true;
            }
            (Some(_), false) => {
                self.ended = self.time(now);
                self.since = None;
            }
            _ => {}
        }
        false
    }

    /// Returns how long all of them have lasted so far.
    pub fn time(&self, now: Instant) -> Duration {
        let present = self.since.map(|since| now.saturating_duration_since(since));
        self.ended + present.unwrap_or_default()
    }
}

/// Reason for a state that was set at run time.
pub(super) const SET_BY_OPERATOR: &str = "set by an operator";

/// Reason why nothing is read from a backend in maintenance.
pub(super) const IN_MAINTENANCE: &str = "in maintenance";

/// Result of a check for a server that has to prove itself.
pub(super) enum Proof {
    /// It has proved itself.
    Accepted,
    /// It has nothing to prove as a whole, and something in some databases.
    Serving,
    /// Nothing is read from it.
    Held(Cause),
}

impl Record {
    /// Returns the memory of it, with its present state.
    pub fn known(&self) -> Known {
        Known {
            is_serving: matches!(self.state, BackendState::Up | BackendState::Suspect),
            is_up: self.state == BackendState::Up,
            read_failures: self.read_failures,
            answers: self.bad == 0 && self.admin != Admin::Maint,
            ..self.known.clone()
        }
    }

    /// Returns its state as it is shown.
    pub fn shown_state(&self) -> ShownState {
        match self.state {
            _ if self.admin == Admin::Maint => ShownState::Maint,
            BackendState::Up if self.admin == Admin::Drain => ShownState::Draining,
            BackendState::Up if self.slow.is_some() => ShownState::Slow,
            BackendState::Suspect if self.is_ejected => ShownState::Ejected,
            state => state.into(),
        }
    }

    /// Takes note of the state that is shown from now on, for this reason.
    pub fn note_change(&mut self, reason: String, at: SystemTime) -> &Change {
        let state = self.shown_state();
        let before = std::mem::replace(&mut self.shown, state);
        self.entered[state as usize] += 1;
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
        }
        let keys = self.keys();
        self.changes.push_back(Change { at, state, before, reason, keys });
        // It was added last.
        &self.changes[self.changes.len() - 1]
    }

    /// Returns the keys of all its databases at the last check; `None` while unknown.
    pub fn keys(&self) -> Option<u64> {
        self.known.seen.as_ref().and_then(|seen| seen.report.keys.as_ref()).map(Keys::total)
    }

    /// Returns since when the numbers of its keys are about those of this report.
    pub fn settle(&mut self, report: &Report, now: Instant) -> Instant {
        let same_process =
            self.known.seen.as_ref().filter(|seen| {
                seen.report.run_id == report.run_id && seen.report.not_ready.is_none()
            });
        let since = same_process.map(|seen| seen.keys_since);
        let last = same_process.and_then(|seen| seen.report.keys.as_ref());
        let is_settled = match (&self.settled_keys, &report.keys) {
            (Some(settled), Some(keys)) => {
                let elapsed = |since: Option<Instant>| {
                    since.map(|since| now.saturating_duration_since(since)).unwrap_or_default()
                };
                // What clients may change in a long time, only a primary changes at once.
                let is_steady = |last| keys.keeps(last, elapsed(self.known.judged));
                keys.keeps(settled, elapsed(since)) && last.is_none_or(is_steady)
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

    /// Counts the checks in a row in which its databases were good.
    pub fn prove(
        &mut self,
        cause: Option<Cause>,
        databases: &BTreeMap<u32, Completeness>,
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
            // The accepted process goes on, and was in service: one good comparison suffices.
            Some(Cause::FilledAnew | Cause::LinkWasDown) if !was_held => 1,
            _ => rise,
        };
        for (number, found) in databases {
            known.unproven.entry(*number).or_insert(Unproven::new(*found)).note(*found);
        }
        let is_proven = |database: &Unproven| database.good >= needed;
        let may_be_read = |number: &u32| {
            known.unproven.get(number).is_none_or(|one| is_proven(one) || one.is_read())
        };
        let is_good = |number: &u32| {
            let found = databases.get(number);
            found.is_none_or(|found| matches!(found.grade, Grade::Complete | Grade::LastResort))
        };
        let can_be_read = relevant.is_empty() || relevant.iter().any(may_be_read);
        // A server that is being loaded has all of one database before it has any of the next.
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

    /// Accepts the process that gave this report, and remembers its keys.
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

    /// Returns whether checks and failures change nothing: it was removed, or is in maintenance.
    pub fn is_out(&self) -> bool {
        self.is_removed || self.admin == Admin::Maint
    }

    /// Returns the databases that must not be read.
    pub fn unread(&self) -> Databases {
        if self.is_removed || self.known.must_prove.is_some() {
            return Databases::ALL;
        }
        let unread = self.unread_databases().map(|(number, _)| Databases::of(i64::from(number)));
        unread.fold(Databases::default(), Databases::with)
    }

    /// Returns the databases that must not be read while the others may.
    pub fn unread_databases(&self) -> impl Iterator<Item = (u32, Completeness)> {
        let unread = self.known.unproven.iter().filter(|(_, database)| !database.is_read());
        unread.map(|(number, database)| (*number, database.completeness))
    }

    /// Returns the first database that is read though it lacks some keys, the number of keys that it has,
    /// and the number that it should have.
    pub fn last_resort(&self) -> Option<(u32, u64, u64)> {
        let may_be_read = self.known.must_prove.is_none();
        let mut unproven = self.known.unproven.iter().filter(|_| may_be_read);
        let (number, database) = unproven.find(|(_, database)| database.is_read())?;
        Some((*number, database.completeness.has, database.completeness.of))
    }

    /// Returns which databases are not read from it while it is up, and the reasons.
    pub fn exceptions(&self) -> Option<String> {
        let in_words = |(number, found)| format!("database {number} ({found})");
        let unread: Vec<String> =
            self.unread_databases().take(MAX_SHOWN_DATABASES).map(in_words).collect();
        (!unread.is_empty())
            .then(|| format!("not read from in some databases: {}", unread.join(", ")))
    }

    /// Describes a server that is up.
    pub fn while_up(&self, report: &Report) -> String {
        let mut text = keys_in_words(report);
        let drained = (self.admin == Admin::Drain).then_some(SET_BY_OPERATOR);
        for first in [self.slow.as_deref(), drained].into_iter().flatten() {
            text = format!("{first}; {text}");
        }
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

    /// Describes the progress of the proof: the database that lacks most.
    pub fn progress(&self, report: &Report) -> String {
        let found = self.known.unproven.values().map(|database| database.completeness);
        let lacking = found.filter(|found| found.grade != Grade::Complete);
        match lacking.max_by_key(|found| found.of.saturating_sub(found.has)) {
            Some(found) => found.to_string(),
            None => keys_in_words(report),
        }
    }

    /// Returns how far it is with its data, as a number, while it is syncing and that is known.
    pub fn progress_of_sync(&self) -> Option<Progress> {
        let report = &self.known.seen.as_ref()?.report;
        let found = self.known.unproven.values().map(|database| database.completeness);
        let most = found.max_by_key(|found| found.of.saturating_sub(found.has));
        let keys = most.map(|most| Progress { has: most.has, of: most.of, unit: "keys" });
        let bytes = report.loaded_bytes.map(|(has, of)| Progress { has, of, unit: "bytes" });
        keys.or(bytes).filter(|_| self.state == BackendState::Syncing)
    }

    /// Returns the reason why nothing may be read from it, for a client.
    pub fn refusal(&self) -> String {
        match self.known.must_prove {
            Some(Cause::WasUnserved) => format!("not served: {}", self.reason),
            _ if self.admin == Admin::Maint => IN_MAINTENANCE.to_owned(),
            _ => format!("syncing: {}", self.reason),
        }
    }

    /// Takes note where others have notably more keys, if they do.
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

/// Most databases that are named in one reason.
const MAX_SHOWN_DATABASES: usize = 4;

pub(super) fn keys_in_words(report: &Report) -> String {
    let role = if report.is_replica { "a replica" } else { "a primary" };
    match &report.keys {
        Some(keys) => format!("{role} with {keys} keys"),
        None => format!("{role} that does not say how many keys it has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_counted_and_their_time_is_added_up() {
        let (mut outages, began) = (Outages::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        for (second, is_down) in
            [(1, false), (2, true), (3, true), (5, false), (6, false), (9, true)]
        {
            outages.note(is_down, at(second));
        }
        assert_eq!((outages.count, outages.time(at(13))), (2, Duration::from_secs(3 + 4)));
    }
}
