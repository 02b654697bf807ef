//! The rule that decides whether a server may be read from, and in which databases.
//!
//! [`judge`] is a pure function of its [`Facts`]. [`Health`](super::Health) applies its verdict, and counts the
//! checks in a row in which a server has proved itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::danger::{self, Danger};
use super::known::{Cause, Completeness, Databases, Grade, Known, SETTLE_TIME};
use crate::backend::{Keys, Report, STEADY_KEYS_AT_ONCE, is_below_half, lacks};

/// Time for which the numbers of keys must not change before a server that has only most of its keys is read
/// from as a last resort.
pub(super) const LAST_RESORT_SETTLE_TIME: Duration = Duration::from_secs(1);

/// Share of the keys that a last resort must have, in percent.
pub(super) const LAST_RESORT_PERCENT: u64 = 90;

/// A database that grows by more than one in so many keys between two checks is still being filled.
const GROWTH_PART: u64 = 100;

/// The facts of a verdict.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The time.
    pub now: Instant,
    /// The report of this check.
    pub report: &'a Report,
    /// Since when the numbers of its keys are about the same.
    pub keys_since: Instant,
    /// The memory of the server before this check.
    pub before: &'a Known,
    /// The memory of the other servers.
    pub others: &'a [Known],
    /// The databases that clients read.
    pub in_use: Databases,
    /// How long the number of a server's keys counts while it is away.
    pub forget_after: Duration,
}

/// Meaning of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is no server to read from: it is down, for this reason.
    Unserved(String),
    /// It says itself that its data are not there.
    NotReady {
        /// Its words.
        why: String,
        /// Reason why it will have to prove itself, if there is another.
        cause: Option<Cause>,
    },
    /// It has nothing to prove. If others have notably more keys, that is worth a warning.
    Serve {
        /// The database, and the numbers of keys.
        warning: Option<String>,
    },
    /// It has to prove itself.
    Prove {
        /// Reason, if that concerns the whole server; `None` if it concerns these databases.
        cause: Option<Cause>,
        /// The results for these databases.
        databases: BTreeMap<u32, Completeness>,
        /// The databases that matter: while none of these can be read, nothing is read.
        relevant: BTreeSet<u32>,
    },
}

/// Judges a check of a server.
pub fn judge(facts: &Facts) -> Verdict {
    let Facts { report, before, .. } = facts;
    if let Some(why) = report.unserved {
        return Verdict::Unserved(why.to_string());
    }
    let cause = doubt(before, report);
    if let Some(why) = &report.not_ready {
        return Verdict::NotReady { why: why.clone(), cause };
    }
    if danger::of_replica(report, facts.others) == Danger::Certain {
        let why = "its primary, which has lost its data, fills it anew".to_owned();
        return Verdict::NotReady { why, cause };
    }
    let all = facts.all_databases();
    let in_doubt: BTreeSet<u32> = match cause {
        Some(_) => all.clone(),
        None => {
            let has_far_fewer = |number: &u32| facts.has_far_fewer_than_a_newcomer(*number);
            let unproven = before.unproven.keys().copied();
            unproven.chain(all.iter().copied().filter(has_far_fewer)).collect()
        }
    };
    if cause.is_none() && in_doubt.is_empty() {
        return Verdict::Serve { warning: facts.difference(&all) };
    }
    let found: BTreeMap<u32, Completeness> =
        all.iter().map(|number| (*number, facts.completeness(*number))).collect();
    let has_data = found.iter().filter(|(_, found)| found.has_data());
    let relevant = relevant(has_data.map(|(number, _)| *number).collect(), facts.in_use);
    let databases = found.into_iter().filter(|(number, _)| in_doubt.contains(number)).collect();
    Verdict::Prove { cause, databases, relevant }
}

/// Judges the first check at the start. All data that are there are accepted, but for databases that have less
/// than half of the keys of others that are ready.
pub fn judge_first(report: &Report, others: &[&Report], in_use: Databases) -> Verdict {
    if let Some(why) = report.unserved {
        return Verdict::Unserved(why.to_string());
    }
    if let Some(why) = &report.not_ready {
        return Verdict::NotReady { why: why.clone(), cause: None };
    }
    let Some(keys) = &report.keys else { return Verdict::Serve { warning: None } };
    let is_ready = |other: &&&Report| other.not_ready.is_none() && other.unserved.is_none();
    let mut fullest = Keys::default();
    others.iter().filter(is_ready).filter_map(|other| other.keys.as_ref()).for_each(|keys| {
        fullest.merge(keys);
    });
    let databases: BTreeMap<u32, Completeness> = fullest
        .databases()
        .filter(|number| keys.knows(*number))
        .map(|number| (number, keys.count(number), fullest.count(number)))
        .filter(|(_, has, of)| is_below_half(*has, *of))
        .map(|(number, has, of)| (number, Completeness { grade: Grade::Incomplete, has, of }))
        .collect();
    if databases.is_empty() {
        return Verdict::Serve { warning: None };
    }
    let all: BTreeSet<u32> = fullest.databases().chain(keys.databases()).collect();
    let relevant = relevant(all, in_use);
    let is_held = relevant.iter().all(|number| databases.contains_key(number));
    Verdict::Prove { cause: is_held.then_some(Cause::HasFewer), databases, relevant }
}

/// Returns the databases that matter: those that clients read, or all if clients read none of them.
fn relevant(all: BTreeSet<u32>, in_use: Databases) -> BTreeSet<u32> {
    let is_used = |number: &u32| in_use.has(Databases::of(i64::from(*number)));
    let used: BTreeSet<u32> = all.iter().copied().filter(is_used).collect();
    if used.is_empty() { all } else { used }
}

/// Returns the reason why the whole server has to prove itself, if it has to.
///
/// An accepted process that goes on has nothing to prove: clients deleted the keys that it lacks.
fn doubt(before: &Known, report: &Report) -> Option<Cause> {
    if let Some(cause) = before.must_prove {
        return Some(cause);
    }
    let Some(accepted) = &before.accepted else { return Some(Cause::FirstMet) };
    if accepted.run_id != report.run_id {
        return Some(Cause::Restarted);
    }
    if !accepted.goes_on_in(report) {
        return Some(Cause::FilledAnew);
    }
    let was_cut_off = before.seen.as_ref().is_some_and(|seen| seen.report.is_cut_off);
    (was_cut_off && report.is_replica && !report.is_cut_off).then_some(Cause::LinkWasDown)
}

impl Facts<'_> {
    /// Returns all databases in which some server has, or had, keys.
    fn all_databases(&self) -> BTreeSet<u32> {
        let of_known = |known: &Known| {
            let seen = known.seen.as_ref().and_then(|seen| seen.report.keys.as_ref());
            let seen: Vec<u32> = seen.into_iter().flat_map(Keys::databases).collect();
            let unproven = known.unproven.keys().copied();
            let remembered = known.remembered.0.keys().copied();
            unproven.chain(remembered).chain(seen).collect::<Vec<u32>>()
        };
        let own = self.report.keys.iter().flat_map(Keys::databases);
        let known = self.others.iter().chain([self.before]).flat_map(of_known);
        own.chain(known).collect()
    }

    /// Returns the number of keys of the fullest other server that serves this database.
    fn served_by_others(&self, database: u32) -> Option<u64> {
        self.others.iter().filter_map(|other| other.serves(database)).max()
    }

    /// Compares this database with the keys that the server should have: those that others serve or, if none
    /// does, those that were there not long ago.
    fn completeness(&self, database: u32) -> Completeness {
        let Some(keys) = self.report.keys.as_ref().filter(|keys| keys.knows(database)) else {
            return Completeness { grade: Grade::Complete, has: 0, of: 0 };
        };
        let has = keys.count(database);
        let served = self.served_by_others(database);
        let of = served.unwrap_or_else(|| self.expected(database, has));
        let is_most = has.saturating_mul(100) >= of.saturating_mul(LAST_RESORT_PERCENT) && has > 0;
        let kept_for = self.now.saturating_duration_since(self.keys_since);
        let is_last_resort = served.is_none() && is_most && kept_for >= LAST_RESORT_SETTLE_TIME;
        let grade = match lacks(has, of) {
            true if is_last_resort => Grade::LastResort,
            true => Grade::Incomplete,
            false if self.is_being_filled(database, has, of) => Grade::Growing,
            false => Grade::Complete,
        };
        Completeness { grade, has, of }
    }

    /// Returns the number of keys of a complete server while no server serves this database: those of before,
    /// until they are forgotten, or until all servers have agreed on another number for some time.
    fn expected(&self, database: u32, has: u64) -> u64 {
        let stands_for = |other: &Known| other.stands_for(database, self.now, self.forget_after);
        let others = self.others.iter().map(stands_for).max().unwrap_or(0);
        let is_settled = self.now.saturating_duration_since(self.keys_since) >= SETTLE_TIME;
        let goes_on = self.before.accepted.as_ref().is_some_and(|id| id.goes_on_in(self.report));
        let own = match is_settled || (goes_on && !self.before.unproven.contains_key(&database)) {
            true => has,
            false => self.before.remembered.count(database, self.now, self.forget_after),
        };
        others.max(own)
    }

    /// Returns whether it gets notably more keys, and is not read from yet. If it has as many as it should
    /// have, a few more may be keys that clients add everywhere.
    fn is_being_filled(&self, database: u32, has: u64, of: u64) -> bool {
        let Known { seen, must_prove, unproven, .. } = self.before;
        if must_prove.is_none() && !unproven.contains_key(&database) {
            return false;
        }
        let seen = seen.as_ref().filter(|seen| seen.report.run_id == self.report.run_id);
        let Some(before) = seen.and_then(|seen| seen.report.keys.as_ref()) else { return false };
        let before = before.count(database);
        let steady = if has >= of { STEADY_KEYS_AT_ONCE } else { 0 };
        has > before + steady.max(before / GROWTH_PART)
    }

    /// Returns whether another server was accepted for the first time after this one, and has more than
    /// twice as many keys.
    fn has_far_fewer_than_a_newcomer(&self, database: u32) -> bool {
        let Some(keys) = self.report.keys.as_ref().filter(|keys| keys.knows(database)) else {
            return false;
        };
        let Some(judged) = self.before.judged else { return false };
        let newcomers =
            self.others.iter().filter(|other| other.first_accepted.is_some_and(|at| at > judged));
        let most = newcomers.filter_map(|other| other.serves(database)).max();
        most.is_some_and(|most| is_below_half(keys.count(database), most))
    }

    /// Says where others have notably more keys.
    fn difference(&self, all: &BTreeSet<u32>) -> Option<String> {
        let keys = self.report.keys.as_ref()?;
        let is_used = |number: &u32| self.in_use.has(Databases::of(i64::from(*number)));
        let known = all.iter().filter(|number| is_used(number) && keys.knows(**number));
        known
            .filter_map(|number| {
                Some((number, keys.count(*number), self.served_by_others(*number)?))
            })
            .find(|(_, has, most)| lacks(*has, *most))
            .map(|(number, has, most)| {
                format!("database {number} has {has} keys, that of another server {most}")
            })
    }
}
