//! The state machine of one backend. Its checks and failed reads change the state.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use log::{error, info, warn};

use super::known::{Cause, DatabasesInUse, Known, Seen, Unproven};
use super::record::{Proof, Record, keys_in_words};
use super::rule::{self, Facts, Verdict};
use super::{BackendState, LastCheck, ShownState, StateListener};
use crate::backend::Report;
use crate::config::LiveConfig;
use crate::sync::{Mutex, lock};

/// Time for which a backend is `suspect` at least, after a failure that its checks don't notice.
const DISTRUST_TIME: Duration = Duration::from_secs(5);

/// The state of one backend, and the reasons for it.
#[derive(Debug)]
pub struct Health {
    /// The backend's name.
    pub(crate) name: Arc<str>,
    pub(super) listener: Box<dyn StateListener>,
    pub(super) config: LiveConfig,
    pub(super) in_use: Arc<DatabasesInUse>,
    /// Lock-free copy of [`Record::unread`], read on every request.
    pub(super) unread: AtomicU64,
    /// Whether a slow read of ours runs on it. Then it answers no checks, which says nothing.
    pub(super) is_busy: AtomicBool,
    /// How often it ceased to be up.
    times_left_up: AtomicU64,
    pub(super) record: Mutex<Record>,
}

impl Health {
    /// Returns the health of a backend that counts as down until it is checked.
    pub fn new(
        name: &str,
        listener: Box<dyn StateListener>,
        config: LiveConfig,
        in_use: Arc<DatabasesInUse>,
        now: Instant,
    ) -> Arc<Self> {
        let reason = "not checked yet".to_owned();
        let last_failure = reason.clone();
        let since = Some(now);
        let record =
            Record { since, shown_since: since, reason, last_failure, ..Record::default() };
        Arc::new(Self {
            name: name.into(),
            listener,
            config,
            in_use,
            unread: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            times_left_up: AtomicU64::new(0),
            record: Mutex::new(record),
        })
    }

    /// Returns how often it ceased to be up. Takes no lock.
    pub fn times_left_up(&self) -> u64 {
        self.times_left_up.load(Ordering::Acquire)
    }

    /// Sets whether a slow read of ours runs on it. While one does, silence makes it `suspect` at most.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Release);
    }

    /// Checks that a connection to this server process may be used.
    ///
    /// # Errors
    /// With the reason why it may not.
    pub fn admit(&self, run_id: &str, now: Instant) -> Result<(), String> {
        let mut record = lock(&self.record);
        if record.known.must_prove.is_none() {
            let cause = match &record.known.accepted {
                Some(accepted) if *accepted.run_id == *run_id => return Ok(()),
                Some(_) => Cause::Restarted,
                None => Cause::FirstMet,
            };
            record.good = 0;
            self.hold(&mut record, cause, format!("{cause}; its keys are not counted yet"), now);
        }
        Err(record.refusal())
    }

    /// Takes note of a client's request that has just been sent there and has failed.
    pub fn failed(&self, error: &dyn fmt::Display, now: Instant) {
        self.count_failure(&mut lock(&self.record), error, now);
    }

    /// Takes note of a client's read that was sent at `sent_at` and has failed.
    pub fn read_failed(&self, error: &dyn fmt::Display, sent_at: Instant, now: Instant) {
        let mut record = lock(&self.record);
        // A read that was sent before the backend came back tells of the trouble before.
        let is_old = record.since.is_some_and(|since| sent_at < since);
        if record.state != BackendState::Up || !is_old {
            self.count_failure(&mut record, error, now);
        }
    }

    fn count_failure(&self, record: &mut Record, error: &dyn fmt::Display, now: Instant) {
        if record.is_out() {
            return;
        }
        record.last_failure = error.to_string();
        record.failed_at = Some(now);
        if record.state == BackendState::Up {
            let why = record.last_failure.clone();
            self.change(record, BackendState::Suspect, why, false, now);
            record.read_failures.read_failed();
        }
    }

    /// Sets whether its short reads are much slower than those of the others, with the reason in words.
    pub fn set_slow(&self, is_slow: bool, why: &str, now: Instant) {
        let mut record = lock(&self.record);
        if record.state != BackendState::Up || record.slow.is_some() == is_slow {
            return;
        }
        record.slow = is_slow.then(|| why.to_owned());
        self.listener.set_slow(is_slow, now);
        self.announce(&mut record, why.to_owned(), now);
    }

    /// Takes note that the last failure is of a kind that checks don't notice.
    pub fn distrust_checks(&self, now: Instant) {
        lock(&self.record).distrusted_until = Some(now + DISTRUST_TIME);
    }

    /// Takes note of when the last check was, and how long it took.
    pub fn note_check(&self, check: LastCheck) {
        lock(&self.record).last_check = Some(check);
    }

    /// Takes note of a failed check. In case of `is_silence`, the backend can be reached and is silent.
    pub fn check_failed(&self, error: &dyn fmt::Display, is_silence: bool, now: Instant) {
        let mut record = lock(&self.record);
        if record.is_out() {
            return;
        }
        self.listener.set_silent(is_silence);
        record.last_failure = error.to_string();
        record.read_failures.check_failed();
        record.good = 0;
        // A server that is busy with a read of ours answers when that is over.
        if !(is_silence && self.is_busy()) {
            record.bad = record.bad.saturating_add(1);
        }
        let why = record.last_failure.clone();
        match record.state {
            BackendState::Down => {
                record.reason.clone_from(&why);
                // Before the first check it counts as down, and nobody knows.
                if record.outages.note(true, now) {
                    record.note_change(why, SystemTime::now());
                }
            }
            _ if record.bad >= self.config.get().fall => {
                self.change(&mut record, BackendState::Down, why, false, now)
            }
            BackendState::Up => self.change(&mut record, BackendState::Suspect, why, false, now),
            BackendState::Suspect | BackendState::Syncing => {}
        }
    }

    /// Takes note of the answer to the first check at the start, when the reports of the `others` are all that
    /// there is to compare with. `now` is the same for all of them, so that none is a newcomer to another.
    pub fn accept_first(&self, report: &Report, others: &[&Report], now: Instant) {
        let mut record = lock(&self.record);
        if record.is_out() {
            return;
        }
        record.settled_keys.clone_from(&report.keys);
        record.known.seen = Some(Seen { report: report.clone(), keys_since: now });
        record.known.judged = Some(now);
        match rule::judge_first(report, others, self.in_use.get()) {
            Verdict::Unserved(why) => self.refuse(&mut record, why, now),
            Verdict::NotReady { why, .. } => self.hold(&mut record, Cause::WasNotReady, why, now),
            Verdict::Serve { .. } => {
                self.accept(&mut record, report, now, keys_in_words(report), false)
            }
            Verdict::Prove { cause, databases, .. } => {
                let new = |(number, found)| (number, Unproven::new(found));
                record.known.unproven = databases.into_iter().map(new).collect();
                match cause {
                    Some(cause) => {
                        let why = format!("{cause}; {}", record.progress(report));
                        self.hold(&mut record, cause, why, now);
                    }
                    None => self.accept(&mut record, report, now, keys_in_words(report), false),
                }
            }
        }
        self.note_limits(&mut record, report, now);
    }

    /// Takes note of a check that `began` then and was answered `now`, and applies the rule's verdict. The
    /// rule compares with the `others`.
    pub fn check_answered(&self, report: &Report, began: Instant, now: Instant, others: &[Known]) {
        let mut record = lock(&self.record);
        if record.is_out() {
            return;
        }
        self.listener.set_silent(false);
        record.bad = 0;
        record.answered = Some(began);
        match self.judge(&mut record, report, now, others) {
            Verdict::Unserved(why) => self.refuse(&mut record, why, now),
            Verdict::NotReady { why, cause } => {
                record.good = 0;
                record.known.unproven.clear();
                let why = match cause {
                    Some(cause) if cause != Cause::WasNotReady => format!("{cause}; {why}"),
                    _ => why,
                };
                self.hold(&mut record, cause.unwrap_or(Cause::WasNotReady), why, now);
            }
            Verdict::Serve { warning } => {
                record.note_difference(&self.name, warning, now);
                self.serve(&mut record, report, began, now, others);
            }
            Verdict::Prove { cause, databases, relevant } => {
                match record.prove(cause, &databases, &relevant, self.config.get().rise) {
                    Proof::Accepted => {
                        self.accept_proven(&mut record, report, began, now, others);
                    }
                    Proof::Serving => self.serve(&mut record, report, began, now, others),
                    Proof::Held(cause) => {
                        let mut why = format!("{cause}; {}", record.progress(report));
                        if record.good > 0 {
                            why += &format!(
                                " in {} of {} checks",
                                record.good,
                                self.config.get().rise
                            );
                        }
                        self.hold(&mut record, cause, why, now);
                    }
                }
            }
        }
        self.note_limits(&mut record, report, now);
    }

    /// Judges a report, and notes it as the last one.
    fn judge(
        &self,
        record: &mut Record,
        report: &Report,
        now: Instant,
        others: &[Known],
    ) -> Verdict {
        let keys_since = record.settle(report, now);
        let before = record.known();
        let verdict = rule::judge(&Facts {
            now,
            report,
            keys_since,
            before: &before,
            others,
            in_use: self.in_use.get(),
            forget_after: self.config.get().forget_after,
        });
        if before.seen.is_some_and(|seen| seen.report.run_id != report.run_id) {
            record.good = 0;
            record.known.unproven.clear();
        }
        record.known.seen = Some(Seen { report: report.clone(), keys_since });
        record.known.judged = Some(now);
        verdict
    }

    /// Accepts a server that has proved itself.
    fn accept_proven(
        &self,
        record: &mut Record,
        report: &Report,
        began: Instant,
        now: Instant,
        others: &[Known],
    ) {
        if record.known.must_prove.is_none() {
            record.good = 0;
            record.accept_identity(report, now);
            return self.serve(record, report, began, now, others);
        }
        let unproven = &record.known.unproven;
        let how = match unproven.values().any(Unproven::is_read) {
            _ if unproven.is_empty() => "it is complete",
            true => "it has most of its keys, and no server that has more is up",
            false => "it is complete but for some databases",
        };
        let why = format!("{how}; {}", keys_in_words(report));
        self.accept(record, report, now, why, true);
    }

    /// Returns whether it was removed.
    pub fn is_removed(&self) -> bool {
        lock(&self.record).is_removed
    }

    /// Takes the backend out for good: it was removed from those that are balanced.
    pub fn remove(&self, now: Instant) {
        let mut record = lock(&self.record);
        record.is_removed = true;
        record.last_failure = "removed".to_owned();
        self.change(&mut record, BackendState::Down, "it was removed".to_owned(), false, now);
    }

    /// Applies a good check to a server that has nothing to prove as a whole.
    fn serve(
        &self,
        record: &mut Record,
        report: &Report,
        began: Instant,
        now: Instant,
        others: &[Known],
    ) {
        match record.state {
            BackendState::Up => record.accept_identity(report, now),
            // A check may have been answered before the failure.
            BackendState::Suspect
                if record.failed_at.is_some_and(|failed_at| began < failed_at) => {}
            BackendState::Suspect if record.distrusted_until.is_some_and(|until| began < until) => {
            }
            BackendState::Suspect => {
                if !self.ejects(record, others, now) {
                    let was_ejected = record.is_ejected;
                    self.accept(record, report, now, "it answers again".to_owned(), was_ejected);
                }
            }
            BackendState::Down | BackendState::Syncing => {
                record.good += 1;
                if record.good >= self.config.get().rise {
                    let why = format!("it answers again; {}", keys_in_words(report));
                    self.accept(record, report, now, why, true);
                }
            }
        }
    }

    /// Applies a passed check to a suspect backend: returns whether it stays ejected all the same.
    fn ejects(&self, record: &mut Record, others: &[Known], now: Instant) -> bool {
        let up = others.iter().filter(|other| other.is_up);
        let least = up.map(|other| other.read_failures.count(now)).min();
        let time = record.read_failures.check_passed(least, now);
        let is_over = record.since.is_none_or(|since| now.saturating_duration_since(since) >= time);
        if !is_over && !record.is_ejected {
            record.is_ejected = true;
            record.ejections += 1;
            let why = format!(
                "for {time:?}, as its reads have failed {} times while its checks passed; the last: {}",
                record.read_failures.count(now),
                record.last_failure
            );
            self.announce(record, why, now);
        }
        !is_over
    }

    /// Publishes in which databases it is read from, and whether it is a second choice.
    fn note_limits(&self, record: &mut Record, report: &Report, now: Instant) {
        let unread = record.unread();
        self.unread.store(unread.bits(), Ordering::Release);
        if record.known.must_prove.is_none() && record.logged_unread != unread {
            record.logged_unread = unread;
            match record.exceptions() {
                Some(exceptions) => warn!("{} is {exceptions}", self.name),
                None => info!("{} is read from in all databases", self.name),
            }
        }
        let resort = record.last_resort();
        if let Some((number, has, of)) = resort
            && !record.is_last_resort
        {
            error!(
                "{} is read from as a last resort: its database {number} has {has} of {of} keys, \
                 and no server that has more is up",
                self.name
            );
        }
        record.is_last_resort = resort.is_some();
        self.set_stale(record, report.stale.clone(), now);
    }

    /// Takes note between two checks of why it is stale, if it is.
    pub fn note_stale(&self, stale: Option<String>, now: Instant) {
        let mut record = lock(&self.record);
        if !record.is_out() {
            self.set_stale(&mut record, stale, now);
        }
    }

    fn set_stale(&self, record: &mut Record, stale: Option<String>, now: Instant) {
        if record.stale.is_some() != stale.is_some() {
            match &stale {
                Some(why) => warn!("{} is read from only while no other is up: {why}", self.name),
                None => info!("{} has its primary's writes again", self.name),
            }
        }
        record.stale = stale;
        let is_second_choice = record.stale.is_some() || record.is_last_resort;
        self.listener.set_second_choice(is_second_choice, now);
    }

    /// Reads nothing from it from now on, for this reason.
    fn hold(&self, record: &mut Record, cause: Cause, reason: String, now: Instant) {
        record.known.must_prove = Some(cause);
        match record.state {
            BackendState::Syncing => record.reason = reason,
            _ => self.change(record, BackendState::Syncing, reason, false, now),
        }
    }

    /// Takes it out of service, as it is no server to read from.
    fn refuse(&self, record: &mut Record, reason: String, now: Instant) {
        record.good = 0;
        record.known.unproven.clear();
        record.known.must_prove = Some(Cause::WasUnserved);
        record.last_failure.clone_from(&reason);
        if record.state != BackendState::Down || record.reason != reason {
            self.change(record, BackendState::Down, reason, false, now);
        }
    }

    /// Brings it up.
    fn accept(
        &self,
        record: &mut Record,
        report: &Report,
        now: Instant,
        why: String,
        slowly: bool,
    ) {
        record.known.must_prove = None;
        record.accept_identity(report, now);
        record.good = 0;
        self.change(record, BackendState::Up, why, slowly, now);
    }

    pub(super) fn change(
        &self,
        record: &mut Record,
        state: BackendState,
        reason: String,
        slowly: bool,
        now: Instant,
    ) {
        if record.state == BackendState::Up && state != BackendState::Up {
            self.times_left_up.fetch_add(1, Ordering::Release);
        }
        record.state = state;
        record.since = Some(now);
        record.is_ejected = false;
        record.read_failures.state_changed(state == BackendState::Up, now);
        if matches!(state, BackendState::Down | BackendState::Syncing)
            && record.slow.take().is_some()
        {
            self.listener.set_slow(false, now);
        }
        self.announce(record, reason, now);
        self.unread.store(record.unread().bits(), Ordering::Release);
        self.listener.set_state(state, slowly, now);
    }

    /// Tells of the state that is shown from now on, and keeps it among the changes.
    pub(super) fn announce(&self, record: &mut Record, reason: String, now: Instant) {
        record.reason.clone_from(&reason);
        record.shown_since = Some(now);
        record.outages.note(record.shown_state() == ShownState::Down, now);
        self.listener.announce(record.note_change(reason, SystemTime::now()));
    }
}
