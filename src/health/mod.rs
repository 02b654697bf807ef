//! What is known of how a backend is: its one owner, asked and told by whoever deals with it.
//!
//! `up` serves. `suspect` has just failed, and serves when none is up; one good check clears it.
//! `down` has failed `fall` checks, and serves when there is nothing better; `rise` good ones bring
//! it back. `syncing` answers, but may lack data: nothing is ever read from it before it has proved,
//! in `rise` checks running, that it has what the others have.
//!
//! [`rule::judge`] decides what a check means; this module applies the verdict.

pub mod checker;
mod report;
pub mod rule;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use log::{error, info, warn};

pub use self::report::{Keys, Report};
use self::rule::{Cause, Facts, Identity, Seen, Standing, Unproven, Verdict};
pub use self::rule::{Databases, Known};
pub use crate::balance::BackendState;
use crate::balance::ConnectionTable;
use crate::sync::{Mutex, lock};

/// The changes that are kept of each backend.
const MAX_CHANGES: usize = 32;

/// A server whose databases are complete in part serves these when the others have got no more keys in
/// so many checks: until then it may be being loaded.
const STILL_CHECKS: u32 = 10;

/// A difference between servers is warned about when it has lasted for so long: what clients write
/// does not arrive everywhere at the same moment.
const DIFFERENCE_TIME: Duration = Duration::from_secs(10);

/// The databases that clients read, as far as they are known; shared by all backends.
#[derive(Debug, Default)]
pub struct DatabasesInUse(AtomicU64);

impl DatabasesInUse {
    /// Notes that this one is read.
    pub fn note(&self, databases: Databases) {
        // Nearly always it is known: then nobody else's cache line is taken away.
        if !self.get().has(databases) {
            self.0.fetch_or(databases.bits(), Ordering::Relaxed);
        }
    }

    /// All of them.
    pub fn get(&self) -> Databases {
        Databases::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// When a server counts as away, back, and forgotten.
#[derive(Debug, Clone, Copy)]
pub struct HealthSettings {
    /// Failed checks in a row until it is down.
    pub fall: u32,
    /// Good checks in a row until it is up again.
    pub rise: u32,
    /// How long the keys that a server had count while it is away.
    pub forget_after: Duration,
}

/// A backend that has failed in a way which its checks don't notice is `suspect` for so long.
const DISTRUST_TIME: Duration = Duration::from_secs(5);

/// A change of state that was.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it came about.
    pub at: SystemTime,
    /// What the state has been since.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
}

/// What is known of a backend, to be shown.
#[derive(Debug, Clone)]
pub struct Summary {
    /// How it is.
    pub state: BackendState,
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

/// One backend's state, and what it rests on.
#[derive(Debug)]
pub struct Health {
    name: String,
    backend: usize,
    table: Arc<ConnectionTable>,
    settings: HealthSettings,
    in_use: Arc<DatabasesInUse>,
    /// The databases that must not be read, as [`Databases`] has them: a copy of what the record says,
    /// read on every request without a lock.
    unread: AtomicU64,
    /// Whether a slow read of ours runs on it: then it answers no checks, which says nothing.
    is_busy: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    state: BackendState,
    reason: String,
    since: Instant,
    known: Known,
    /// What the numbers of its keys are about, since `seen.keys_since`.
    settled_keys: Option<Keys>,
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
    /// Since when others have notably more keys, and whether that was warned about.
    differs_since: Option<Instant>,
    difference: Option<String>,
    was_warned: bool,
    /// The databases that must not be read, as the log has it.
    logged_unread: Databases,
    /// Whether it is read from though it lacks some keys.
    is_last_resort: bool,
    /// Why it is stale, if it is.
    stale: Option<String>,
    changes: VecDeque<Change>,
}

impl Health {
    /// Of the backend with this index in `table`; it counts as down until it was checked.
    pub fn new(
        name: &str,
        backend: usize,
        table: Arc<ConnectionTable>,
        settings: HealthSettings,
        in_use: Arc<DatabasesInUse>,
    ) -> Arc<Self> {
        let record = Record {
            state: BackendState::Down,
            reason: "not checked yet".to_owned(),
            since: Instant::now(),
            known: Known::default(),
            settled_keys: None,
            good: 0,
            bad: 0,
            last_failure: "not checked yet".to_owned(),
            failed_at: None,
            distrusted_until: None,
            answered: None,
            differs_since: None,
            difference: None,
            was_warned: false,
            logged_unread: Databases::NONE,
            is_last_resort: false,
            stale: None,
            changes: VecDeque::new(),
        };
        Arc::new(Self {
            name: name.to_owned(),
            backend,
            table,
            settings,
            in_use,
            unread: AtomicU64::new(0),
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
    pub fn state(&self) -> BackendState {
        lock(&self.record).state
    }

    /// What is known of it.
    pub fn summary(&self) -> Summary {
        let record = lock(&self.record);
        let seen = record.known.seen.as_ref().map(|seen| &seen.report);
        Summary {
            state: record.state,
            state_for: record.since.elapsed(),
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

    /// Whether one of the eligible backends is up that is fresher, or has more keys: then nobody should
    /// stay here.
    pub fn is_outranked(&self, eligible: impl Fn(usize) -> bool) -> bool {
        self.table.is_outranked(self.backend, eligible)
    }

    /// Whether there is no other backend.
    pub fn is_alone(&self) -> bool {
        self.table.backend_count() == 1
    }

    /// Whether another backend is up and runs no slow read: one to which a read can go.
    pub fn has_better(&self) -> bool {
        self.table.has_free(|backend| backend != self.backend)
    }

    /// Whether another backend is up, whatever it runs.
    pub fn has_other(&self) -> bool {
        self.table.serving().iter().any(|backend| *backend != self.backend)
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

    /// Whether a connection to this server process may be used; if not, why.
    pub fn admit(&self, run_id: &str) -> Result<(), String> {
        let mut record = lock(&self.record);
        if record.known.must_prove.is_none() {
            let cause = match &record.known.accepted {
                Some(accepted) if *accepted.run_id == *run_id => return Ok(()),
                Some(_) => Cause::Restarted,
                None => Cause::FirstMet,
            };
            record.good = 0;
            self.hold(&mut record, cause, format!("{cause}; its keys are not counted yet"));
        }
        Err(record.refusal())
    }

    /// A live request has failed on it.
    pub fn failed(&self, error: &dyn fmt::Display) {
        let mut record = lock(&self.record);
        record.last_failure = error.to_string();
        record.failed_at = Some(Instant::now());
        if record.state == BackendState::Up {
            let why = record.last_failure.clone();
            self.change(&mut record, BackendState::Suspect, why, false);
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
            BackendState::Down => record.reason = why,
            _ if record.bad >= self.settings.fall => {
                self.change(&mut record, BackendState::Down, why, false)
            }
            BackendState::Up => self.change(&mut record, BackendState::Suspect, why, false),
            BackendState::Suspect | BackendState::Syncing => {}
        }
    }

    /// The first check of all was answered, and `others` by other servers: what is there is what there
    /// is to be had.
    /// `now` is the same for all of them: none is a newcomer to another.
    pub fn accept_first(&self, report: &Report, others: &[&Report], now: Instant) {
        let mut record = lock(&self.record);
        record.settled_keys.clone_from(&report.keys);
        record.known.seen = Some(Seen { report: report.clone(), keys_since: now });
        record.known.judged = Some(now);
        match rule::judge_first(report, others, self.in_use.get()) {
            Verdict::Unserved(why) => self.refuse(&mut record, why),
            Verdict::NotReady { why, .. } => self.hold(&mut record, Cause::WasNotReady, why),
            Verdict::Serve { .. } => {
                self.accept(&mut record, report, now, keys_in_words(report), false)
            }
            Verdict::Prove { cause, databases, .. } => {
                let new = |(number, standing)| (number, Unproven::new(standing));
                record.known.unproven = databases.into_iter().map(new).collect();
                match cause {
                    Some(cause) => {
                        let why = format!("{cause}; {}", record.progress(report));
                        self.hold(&mut record, cause, why);
                    }
                    None => self.accept(&mut record, report, now, keys_in_words(report), false),
                }
            }
        }
        self.note_limits(&mut record, report);
    }

    /// A check that `began` then was answered. Decides what that means, given what is known of the
    /// `others`.
    pub fn check_answered(&self, report: &Report, began: Instant, others: &[Known]) {
        let now = Instant::now();
        let mut record = lock(&self.record);
        self.table.set_silent(self.backend, false);
        record.bad = 0;
        record.answered = Some(began);
        let keys_since = record.settle(report, now);
        let before = record.known();
        let verdict = rule::judge(&Facts {
            now,
            report,
            keys_since,
            before: &before,
            others,
            in_use: self.in_use.get(),
            forget_after: self.settings.forget_after,
        });
        if before.seen.is_some_and(|seen| seen.report.run_id != report.run_id) {
            record.good = 0;
            record.known.unproven.clear();
        }
        record.known.seen = Some(Seen { report: report.clone(), keys_since });
        record.known.judged = Some(now);
        match verdict {
            Verdict::Unserved(why) => self.refuse(&mut record, why),
            Verdict::NotReady { why, cause } => {
                record.good = 0;
                record.known.unproven.clear();
                let why = match cause {
                    Some(cause) if cause != Cause::WasNotReady => format!("{cause}; {why}"),
                    _ => why,
                };
                self.hold(&mut record, cause.unwrap_or(Cause::WasNotReady), why);
            }
            Verdict::Serve { warning } => {
                record.note_difference(&self.name, warning, now);
                self.serve(&mut record, report, began, now);
            }
            Verdict::Prove { cause, databases, relevant } => {
                match record.prove(cause, &databases, &relevant, self.settings.rise) {
                    Proof::Accepted => {
                        let unproven = &record.known.unproven;
                        let how = match unproven.values().any(Unproven::is_read) {
                            _ if unproven.is_empty() => "it is complete",
                            true => "it has most of its keys, and no server that has more is up",
                            false => "it is complete but for some databases",
                        };
                        let why = format!("{how}; {}", keys_in_words(report));
                        match record.known.must_prove {
                            Some(_) => self.accept(&mut record, report, now, why, true),
                            None => {
                                record.good = 0;
                                record.accept_identity(report, now);
                                self.serve(&mut record, report, began, now);
                            }
                        }
                    }
                    Proof::Serving => self.serve(&mut record, report, began, now),
                    Proof::Held(cause) => {
                        let mut why = format!("{cause}; {}", record.progress(report));
                        if record.good > 0 {
                            why += &format!(" in {} of {} checks", record.good, self.settings.rise);
                        }
                        self.hold(&mut record, cause, why);
                    }
                }
            }
        }
        self.note_limits(&mut record, report);
    }

    /// It has nothing to prove, as a whole: whether it is up is a matter of whether it answers.
    fn serve(&self, record: &mut Record, report: &Report, began: Instant, now: Instant) {
        match record.state {
            BackendState::Up => record.accept_identity(report, now),
            // A check may have been answered before the failure.
            BackendState::Suspect
                if record.failed_at.is_some_and(|failed_at| began < failed_at) => {}
            BackendState::Suspect if record.distrusted_until.is_some_and(|until| began < until) => {
            }
            BackendState::Suspect => {
                self.accept(record, report, now, "it answers again".to_owned(), false)
            }
            BackendState::Down | BackendState::Syncing => {
                record.good += 1;
                if record.good >= self.settings.rise {
                    let why = format!("it answers again; {}", keys_in_words(report));
                    self.accept(record, report, now, why, true);
                }
            }
        }
    }

    /// Lets others know in which databases it is read from, and how gladly.
    fn note_limits(&self, record: &mut Record, report: &Report) {
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
        if record.stale.is_some() != report.stale.is_some() {
            match &report.stale {
                Some(why) => warn!("{} is read from only while no other is up: {why}", self.name),
                None => info!("{} hears from its primary again", self.name),
            }
        }
        record.stale.clone_from(&report.stale);
        self.table.set_second_choice(self.backend, record.stale.is_some() || record.is_last_resort);
    }

    /// Nothing is read from it from now on, for this reason.
    fn hold(&self, record: &mut Record, cause: Cause, reason: String) {
        record.known.must_prove = Some(cause);
        self.unread.store(Databases::ALL.bits(), Ordering::Release);
        match record.state {
            BackendState::Syncing => record.reason = reason,
            _ => self.change(record, BackendState::Syncing, reason, false),
        }
    }

    /// It is no server that can be served from.
    fn refuse(&self, record: &mut Record, reason: String) {
        record.good = 0;
        record.known.unproven.clear();
        record.known.must_prove = Some(Cause::WasUnserved);
        self.unread.store(Databases::ALL.bits(), Ordering::Release);
        record.last_failure.clone_from(&reason);
        if record.state != BackendState::Down || record.reason != reason {
            self.change(record, BackendState::Down, reason, false);
        }
    }

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
        self.unread.store(record.unread().bits(), Ordering::Release);
        record.good = 0;
        self.change(record, BackendState::Up, why, slowly);
    }

    fn change(&self, record: &mut Record, state: BackendState, reason: String, slowly: bool) {
        match state {
            BackendState::Up => info!("{} is up: {reason}", self.name),
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

/// What came of the comparison of a server that has to prove itself.
enum Proof {
    /// It has proved itself.
    Accepted,
    /// It has nothing to prove as a whole, and something in some databases.
    Serving,
    /// Nothing is read from it.
    Held(Cause),
}

impl Unproven {
    /// Whether it is read from all the same.
    fn is_read(&self) -> bool {
        matches!(self.standing, Standing::LastResort { .. })
    }
}

impl Record {
    /// What is known of it now.
    fn known(&self) -> Known {
        Known {
            is_serving: matches!(self.state, BackendState::Up | BackendState::Suspect),
            answers: self.bad == 0,
            ..self.known.clone()
        }
    }

    /// Since when the numbers of its keys are about those of this report.
    fn settle(&mut self, report: &Report, now: Instant) -> Instant {
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
    fn prove(
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
    fn accept_identity(&mut self, report: &Report, now: Instant) {
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
    fn unread(&self) -> Databases {
        if self.known.must_prove.is_some() {
            return Databases::ALL;
        }
        let unread = self.known.unproven.iter().filter(|(_, database)| !database.is_read());
        let unread = unread.map(|(number, _)| Databases::of(i64::from(*number)));
        unread.fold(Databases::NONE, Databases::with)
    }

    /// The first database that is read though it lacks some keys, with what it has of what it should
    /// have.
    fn last_resort(&self) -> Option<(u32, u64, u64)> {
        let may_be_read = self.known.must_prove.is_none();
        self.known.unproven.iter().filter(|_| may_be_read).find_map(|(number, database)| {
            match database.standing {
                Standing::LastResort { has, of } => Some((*number, has, of)),
                _ => None,
            }
        })
    }

    /// Which databases are not read from it while it is up, and why.
    fn exceptions(&self) -> Option<String> {
        let unread = self.known.unproven.iter().filter(|(_, database)| !database.is_read());
        let in_words = |(number, database): (&u32, &Unproven)| {
            format!("database {number} ({})", standing_in_words(database.standing))
        };
        let unread: Vec<String> = unread.take(MAX_SHOWN_DATABASES).map(in_words).collect();
        (!unread.is_empty())
            .then(|| format!("not read from in some databases: {}", unread.join(", ")))
    }

    /// What there is to be said of a server that is up.
    fn while_up(&self, report: &Report) -> String {
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
    fn progress(&self, report: &Report) -> String {
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
    fn refusal(&self) -> String {
        match self.known.must_prove {
            Some(Cause::WasUnserved) => format!("not served: {}", self.reason),
            _ => format!("syncing: {}", self.reason),
        }
    }

    /// Others have notably more keys, or no more.
    fn note_difference(&mut self, name: &str, difference: Option<String>, now: Instant) {
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

fn standing_in_words(standing: Standing) -> String {
    match standing {
        Standing::Complete { has } => format!("it has {has} keys"),
        Standing::Growing { has, of } => format!("it has {has} of {of} keys, and gets more"),
        Standing::LastResort { has, of } | Standing::Incomplete { has, of } => {
            format!("it has {has} of {of} keys")
        }
    }
}

fn keys_in_words(report: &Report) -> String {
    let role = if report.is_replica { "a replica" } else { "a primary" };
    match &report.keys {
        Some(keys) => format!("{role} with {keys} keys"),
        None => format!("{role} that does not say how many keys it has"),
    }
}
