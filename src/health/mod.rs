//! What is known of how a backend is: its one owner, asked and told by whoever deals with it.
//!
//! `up` serves. `suspect` has just failed, and serves when none is up; one good check clears it.
//! `down` has failed `fall` checks, and serves when there is nothing better; `rise` good ones bring
//! it back. `syncing` answers, but may lack data: nothing is ever read from it before it has proved,
//! in `rise` checks running, that it has what the others have.

mod report;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

pub use self::report::{Keys, Report};
use crate::balance::ConnectionTable;
pub use crate::balance::State;
use crate::lock::{Mutex, lock};

/// The changes that are kept of each backend.
const MAX_CHANGES: usize = 32;

/// A server that is about complete may not grow by more than one in so many keys between two
/// checks.
const GROWTH_PART: u64 = 100;

/// A backend that has failed in a way which its checks don't notice is `suspect` for so long.
const DISTRUST_TIME: Duration = Duration::from_secs(5);

/// A change of state that was.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it came about.
    pub at: SystemTime,
    /// What the state has been since.
    pub state: State,
    /// Why, in words.
    pub reason: String,
}

/// What is known of a backend, to be shown.
#[derive(Debug, Clone)]
pub struct Summary {
    /// How it is.
    pub state: State,
    /// For how long.
    pub state_for: Duration,
    /// Why; what it still lacks, while it is syncing.
    pub reason: String,
    /// The keys of all its databases at the last check; `None` while unknown.
    pub keys: Option<u64>,
    /// Whether it said at the last check that it is a replica; `None` while unknown.
    pub is_replica: Option<bool>,
    /// How long before that check a replica had heard from its primary.
    pub lag: Option<Duration>,
}

impl Summary {
    /// Its part in replication; `None` while unknown.
    pub fn role(&self) -> Option<&'static str> {
        self.is_replica.map(|is_replica| if is_replica { "replica" } else { "primary" })
    }
}

/// What the checks of others compare with.
#[derive(Debug, Clone)]
pub struct Census {
    /// Whether what it has is what there is to be had.
    pub is_accepted: bool,
    /// Whether it has answered its last check, and has what it is to have by its own account.
    pub answers: bool,
    /// Whether it is the process that was accepted last: what it lacks, it was told to forget.
    pub is_same_process: bool,
    /// The keys at its last check.
    pub keys: Option<Keys>,
    /// Since when there are about so many.
    pub keys_since: Instant,
    /// The keys when it was up last.
    pub accepted_keys: Option<Keys>,
}

/// One backend's state, and what it rests on.
#[derive(Debug)]
pub struct Health {
    name: String,
    backend: usize,
    table: Arc<ConnectionTable>,
    fall: u32,
    rise: u32,
    /// The same as in the record, for those in a hurry.
    must_prove: AtomicBool,
    /// Whether a slow read of ours runs on it: then it answers no checks, which says nothing.
    is_busy: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    state: State,
    reason: String,
    since: Instant,
    /// The process that may be read from.
    accepted: Option<Arc<str>>,
    /// How many keys it had at the last check that found it up.
    accepted_keys: Option<Keys>,
    /// Nothing may be read before it has shown its data, and why it has to.
    must_prove: bool,
    cause: &'static str,
    /// What the last check that was answered has said, and since when its keys are about
    /// `settled_keys`.
    seen: Option<(Report, Instant)>,
    settled_keys: Option<Keys>,
    /// The keys that the same process had at the check before.
    previous_keys: Option<Keys>,
    /// Checks in a row.
    good: u32,
    bad: u32,
    last_failure: String,
    /// When a request has failed last.
    failed_at: Option<Instant>,
    /// Until then a good check does not clear a failure.
    distrusted_until: Option<Instant>,
    /// When the last check that was answered began.
    answered: Option<Instant>,
    /// It was accepted before all others were there to be compared with.
    is_provisional: bool,
    changes: VecDeque<Change>,
}

/// Why a server that was accepted has to prove itself.
const RESTARTED: &str = "it was restarted or replaced by another server";
const FIRST_MET: &str = "it was not there before";
const HAS_LOST_KEYS: &str = "more than half of its keys are gone";
const HAS_FAR_FEWER: &str = "it has far fewer keys than others";
/// It says itself what is the matter.
const NOT_READY: &str = "";

impl Health {
    /// Of the backend with this index in `table`; it counts as down until it was checked.
    pub fn new(
        name: &str,
        backend: usize,
        table: Arc<ConnectionTable>,
        fall: u32,
        rise: u32,
    ) -> Arc<Self> {
        let record = Record {
            state: State::Down,
            reason: "not checked yet".to_owned(),
            since: Instant::now(),
            accepted: None,
            accepted_keys: None,
            must_prove: false,
            cause: "",
            seen: None,
            settled_keys: None,
            previous_keys: None,
            good: 0,
            bad: 0,
            last_failure: "not checked yet".to_owned(),
            failed_at: None,
            distrusted_until: None,
            answered: None,
            is_provisional: false,
            changes: VecDeque::new(),
        };
        Arc::new(Self {
            name: name.to_owned(),
            backend,
            table,
            fall,
            rise,
            must_prove: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            record: Mutex::new(record),
        })
    }

    /// The backend's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a slow read of ours runs on it from now on: while one does, silence makes it `suspect`
    /// at most.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Release);
    }

    /// How it is.
    pub fn state(&self) -> State {
        lock(&self.record).state
    }

    /// What is known of it.
    pub fn summary(&self) -> Summary {
        let record = lock(&self.record);
        let seen = record.seen.as_ref().map(|(report, _)| report);
        Summary {
            state: record.state,
            state_for: record.since.elapsed(),
            // Keys come and go while it is up.
            reason: match (record.state, seen) {
                (State::Up, Some(report)) => keys_in_words(report),
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

    /// What the checks of others compare with.
    pub fn census(&self) -> Census {
        let record = lock(&self.record);
        let (report, keys_since) = match &record.seen {
            Some((report, since)) => (Some(report), *since),
            None => (None, record.since),
        };
        Census {
            is_accepted: matches!(record.state, State::Up | State::Suspect),
            answers: record.bad == 0 && report.is_some_and(|seen| seen.not_ready.is_none()),
            is_same_process: report
                .is_some_and(|seen| record.accepted.as_ref() == Some(&seen.run_id)),
            keys: report.and_then(|report| report.keys.clone()),
            keys_since,
            accepted_keys: record.accepted_keys.clone(),
        }
    }

    /// Whether there is no other backend.
    pub fn is_alone(&self) -> bool {
        self.table.backend_count() == 1
    }

    /// Whether another backend is up and runs no slow read: one to which a read can go.
    pub fn has_better(&self) -> bool {
        self.table.has_free(|backend| backend != self.backend)
    }

    /// Whether a slow read runs on it.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Whether the checks have found all backends silent, those included that run no slow read.
    pub fn are_all_frozen(&self) -> bool {
        self.table.are_all_frozen()
    }

    /// What is wrong with it, if anything is.
    pub fn trouble(&self) -> Option<String> {
        let record = lock(&self.record);
        match record.state {
            State::Up => None,
            State::Syncing => Some(format!("syncing: {}", record.reason)),
            State::Suspect | State::Down => Some(record.last_failure.clone()),
        }
    }

    /// Whether it has answered a check that began after that.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        lock(&self.record).answered.is_some_and(|began| began >= then)
    }

    /// Since when it is up, if it is.
    pub fn up_since(&self) -> Option<Instant> {
        let record = lock(&self.record);
        (record.state == State::Up).then_some(record.since)
    }

    /// Why nothing may be read from it, if so.
    pub fn refusal(&self) -> Option<String> {
        // Each connection has been admitted: this is for what came to light later.
        if !self.must_prove.load(Ordering::Acquire) {
            return None;
        }
        let record = lock(&self.record);
        record.must_prove.then(|| record.reason.clone())
    }

    /// Whether a connection to this server process may be used; if not, why.
    pub fn admit(&self, run_id: &str) -> Result<(), String> {
        let mut record = lock(&self.record);
        if !record.must_prove {
            if record.accepted.as_deref() == Some(run_id) {
                return Ok(());
            }
            let cause = if record.accepted.is_some() { RESTARTED } else { FIRST_MET };
            record.good = 0;
            self.hold(&mut record, cause, "its keys are not counted yet");
        }
        Err(record.reason.clone())
    }

    /// A live request has failed on it.
    pub fn failed(&self, error: &dyn fmt::Display) {
        let mut record = lock(&self.record);
        record.last_failure = error.to_string();
        record.failed_at = Some(Instant::now());
        if record.state == State::Up {
            let why = record.last_failure.clone();
            self.change(&mut record, State::Suspect, why, false);
        }
    }

    /// The live request that has failed last did so in a way which checks don't notice.
    pub fn distrust_checks(&self) {
        lock(&self.record).distrusted_until = Some(Instant::now() + DISTRUST_TIME);
    }

    /// A check has failed; `is_silence` where the backend can be reached and says nothing.
    pub fn check_failed(&self, error: &dyn fmt::Display, is_silence: bool) {
        let mut record = lock(&self.record);
        self.table.set_silent(self.backend, is_silence);
        record.last_failure = error.to_string();
        record.good = 0;
        // A server that is busy with a read of ours answers when that is over.
        if !(is_silence && self.is_busy()) {
            record.bad = record.bad.saturating_add(1);
        }
        let why = record.last_failure.clone();
        match record.state {
            State::Down => record.reason = why,
            _ if record.bad >= self.fall => self.change(&mut record, State::Down, why, false),
            State::Up => self.change(&mut record, State::Suspect, why, false),
            State::Suspect | State::Syncing => {}
        }
    }

    /// The first check of all was answered: what is there is what there is to be had.
    pub fn accept_first(&self, report: Report) {
        let mut record = lock(&self.record);
        record.settled_keys.clone_from(&report.keys);
        record.seen = Some((report.clone(), Instant::now()));
        match &report.not_ready {
            Some(why) => self.hold(&mut record, NOT_READY, why),
            None => self.accept(&mut record, &report, keys_in_words(&report), false),
        }
    }

    /// Whether it was accepted before all others were there to be compared with: then one that has
    /// far more keys still puts it out.
    pub fn set_provisional(&self, is_provisional: bool) {
        lock(&self.record).is_provisional = is_provisional;
    }

    /// The same, but it has far fewer keys than others.
    pub fn hold_first(&self, report: Report, fullest: &Keys) {
        let progress = progress(&report, Some(fullest));
        let mut record = lock(&self.record);
        record.seen = Some((report, Instant::now()));
        self.hold(&mut record, HAS_FAR_FEWER, &progress);
    }

    /// A check that `began` then was answered. What that means is for [`judge`](Self::judge) to say:
    /// this is what others, and we, compare with.
    pub fn check_answered(&self, report: &Report, began: Instant) {
        let mut record = lock(&self.record);
        self.table.set_silent(self.backend, false);
        record.bad = 0;
        record.answered = Some(began);
        record.previous_keys = None;
        let now = Instant::now();
        let since = match record.seen.take() {
            Some((seen, since)) if seen.run_id == report.run_id => {
                record.previous_keys = seen.keys;
                since
            }
            _ => {
                record.good = 0;
                record.settled_keys = None;
                now
            }
        };
        let is_settled = match (&record.settled_keys, &report.keys) {
            (Some(settled), Some(keys)) => !keys.lacks(settled) && !settled.lacks(keys),
            (None, None) => true,
            _ => false,
        };
        if !is_settled {
            record.settled_keys.clone_from(&report.keys);
        }
        record.seen = Some((report.clone(), if is_settled { since } else { now }));
    }

    /// Decides what an answered check that `began` then means. `reference` is what a complete server
    /// has.
    pub fn judge(&self, report: &Report, began: Instant, reference: Option<&Keys>) {
        let mut record = lock(&self.record);
        let previous = record.previous_keys.clone();
        let doubt = record.doubt(report);
        if let Some(why) = &report.not_ready {
            record.good = 0;
            return self.hold(&mut record, doubt.unwrap_or(NOT_READY), why);
        }
        let has_far_fewer = record.is_provisional
            && report.keys.as_ref().zip(reference).is_some_and(|(k, r)| k.is_below_half_of(r));
        if let Some(cause) = doubt.or(has_far_fewer.then_some(HAS_FAR_FEWER)) {
            if !record.must_prove {
                record.good = 0;
            }
            return self.prove(&mut record, cause, report, previous.as_ref(), reference);
        }
        match record.state {
            State::Up => record.accepted_keys.clone_from(&report.keys),
            // A check may have been answered before the failure.
            State::Suspect if record.failed_at.is_some_and(|failed_at| began < failed_at) => {}
            State::Suspect if record.distrusted_until.is_some_and(|until| began < until) => {}
            State::Suspect => {
                self.accept(&mut record, report, "it answers again".to_owned(), false)
            }
            State::Down | State::Syncing => {
                record.good += 1;
                if record.good >= self.rise {
                    let why = format!("it answers again; {}", keys_in_words(report));
                    self.accept(&mut record, report, why, true);
                }
            }
        }
    }

    /// A server that has to is compared with what it should have.
    fn prove(
        &self,
        record: &mut Record,
        cause: &'static str,
        report: &Report,
        previous: Option<&Keys>,
        reference: Option<&Keys>,
    ) {
        match is_complete(report, previous, reference) {
            true => record.good += 1,
            false => record.good = 0,
        }
        if record.good >= self.rise {
            let why = format!("it is complete; {}", keys_in_words(report));
            return self.accept(record, report, why, true);
        }
        let mut progress = progress(report, reference);
        if record.good > 0 {
            progress += &format!(" in {} of {} checks", record.good, self.rise);
        }
        self.hold(record, cause, &progress);
    }

    /// Nothing is read from it from now on.
    fn hold(&self, record: &mut Record, cause: &'static str, progress: &str) {
        record.must_prove = true;
        self.must_prove.store(true, Ordering::Release);
        record.cause = cause;
        let reason = match cause {
            NOT_READY => progress.to_owned(),
            _ => format!("{cause}; {progress}"),
        };
        match record.state {
            State::Syncing => record.reason = reason,
            _ => self.change(record, State::Syncing, reason, false),
        }
    }

    fn accept(&self, record: &mut Record, report: &Report, why: String, slowly: bool) {
        record.accepted = Some(Arc::clone(&report.run_id));
        record.accepted_keys.clone_from(&report.keys);
        record.must_prove = false;
        self.must_prove.store(false, Ordering::Release);
        record.good = 0;
        self.change(record, State::Up, why, slowly);
    }

    fn change(&self, record: &mut Record, state: State, reason: String, slowly: bool) {
        match state {
            State::Up => info!("{} is up: {reason}", self.name),
            _ => warn!("{} is {state}: {reason}", self.name),
        }
        record.state = state;
        record.reason.clone_from(&reason);
        record.since = Instant::now();
        if record.changes.len() == MAX_CHANGES {
            record.changes.pop_front();
        }
        record.changes.push_back(Change { at: SystemTime::now(), state, reason });
        self.table.set_state(self.backend, state, slowly);
    }
}

impl Record {
    /// Why a server has to prove that it has its data, if it has to.
    fn doubt(&self, report: &Report) -> Option<&'static str> {
        if self.must_prove {
            return Some(self.cause);
        }
        match &self.accepted {
            None => return Some(FIRST_MET),
            Some(accepted) if *accepted != report.run_id => return Some(RESTARTED),
            Some(_) => {}
        }
        let keys = report.keys.as_ref().zip(self.accepted_keys.as_ref());
        let has_lost = keys.is_some_and(|(now, before)| now.is_below_half_of(before));
        (has_lost && report.not_ready.is_none()).then_some(HAS_LOST_KEYS)
    }
}

/// Whether it has what it should have, and does not grow any more.
fn is_complete(report: &Report, previous: Option<&Keys>, reference: Option<&Keys>) -> bool {
    let (Some(keys), Some(reference)) = (&report.keys, reference) else { return true };
    if keys.lacks(reference) {
        return false;
    }
    let (now, before) = (keys.total(), previous.map_or(keys.total(), Keys::total));
    // Where there are as many as there should be, clients may be adding more everywhere.
    let may_grow = if now >= reference.total() { before / GROWTH_PART } else { 0 };
    now <= before + may_grow
}

fn progress(report: &Report, reference: Option<&Keys>) -> String {
    match (&report.keys, reference) {
        (Some(keys), Some(reference)) => format!("it has {keys} of {reference} keys"),
        _ => keys_in_words(report),
    }
}

fn keys_in_words(report: &Report) -> String {
    let role = if report.is_replica { "a replica" } else { "a primary" };
    match &report.keys {
        Some(keys) => format!("{role} with {keys} keys"),
        None => format!("{role} that does not say how many keys it has"),
    }
}
