//! Checks each backend in a thread of its own, over a connection of its own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::danger::{self, Danger};
use super::other_keys::{KeyComparison, OTHER_KEYS};
use super::{Admin, BackendState, Known, LastCheck, Member, Replication};
use crate::backend::{
    BackendError, BackendId, Connection, Report, advice_on_failure, advice_on_unserved,
};
use crate::config::LagBounds;

/// Time between two checks of a backend that is not up, and between two looks whether a backend needs to be
/// checked at once.
const FAST_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two checks of a primary that is about to empty a replica, and of that replica.
const DANGER_INTERVAL: Duration = Duration::from_millis(10);

/// Time between two lookups of a backend's name, so that a backend that moves is found.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two warnings that this machine can't check a backend.
const LOCAL_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Part of the interval by which it varies, so that the checks of several balancers don't coincide.
const JITTER: f64 = 0.1;

/// Time after the loss of another backend for which replicas are checked as often as a backend that is not
/// up: it may be their primary, which empties them if it comes back empty.
const ALERT_TIME: Duration = Duration::from_secs(60);

/// The settings of checks.
#[derive(Debug, Clone, Copy)]
pub struct CheckSettings {
    /// Time from one check to the next, while all is well.
    pub interval: Duration,
    /// Deadline for the answers to one check.
    pub timeout: Duration,
    /// What a replica may lack to be read from beside others. The bound of time is also the longest silence of its
    /// primary.
    pub lag: LagBounds,
    /// Longest time between two samples of a replica's offset, and of its primary's; `None` if checks are enough.
    pub sample_interval: Option<Duration>,
}

/// All backends, for the checker of one.
pub trait Peers: Send + Sync {
    /// Returns the backends that are balanced now.
    fn members(&self) -> Vec<Arc<Member>>;

    /// Returns the settings of checks as they are now.
    fn check_settings(&self) -> CheckSettings;

    /// Returns how far all backends are in the histories of their writes.
    fn replication(&self) -> &Replication;

    /// Takes note that a backend was checked.
    fn checked(&self);

    /// Takes note that all were checked for the first time, or that the time for that is over.
    fn all_checked(&self);
}

/// Time after the check timeout in which a first result is still waited for: a server that says nothing is told so by
/// the end of its check.
const FIRST_GRACE: Duration = Duration::from_millis(100);

/// Starts to check all backends. Returns when it is known which of them can serve: soon after the check timeout
/// at the latest.
pub fn start(peers: &Arc<dyn Peers>) {
    let (to_us, first_checks) = channel();
    // The checkers go on when these are dropped at the end.
    let mut starts = Vec::new();
    let members = peers.members();
    for (member, place) in members.iter().zip(1..) {
        let (start, started) = channel();
        starts.push(start);
        let first = FirstRound { place, of: members.len() as u32, results: to_us.clone(), started };
        let checker = Checker::new(Arc::clone(member), Arc::clone(peers));
        spawn("check", move || checker.run(Some(first)));
    }
    drop(to_us);
    accept_first(&members, &first_checks, peers.check_settings().timeout);
    peers.all_checked();
}

/// Starts to check a backend that has joined the others.
pub fn watch(member: Arc<Member>, peers: Arc<dyn Peers>) {
    spawn("check", move || Checker::new(member, peers).run(None));
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        warn!("cannot start a thread to {name} a backend: {error}");
    }
}

type CheckResult = Result<Report, BackendError>;

/// The round of checks with which all checkers begin together.
struct FirstRound {
    /// The backend's place among the others, from 1.
    place: u32,
    of: u32,
    results: Sender<(BackendId, CheckResult)>,
    /// Ends when all results have been considered; nothing is ever sent on it.
    started: Receiver<()>,
}

/// Accepts the servers that answer at the start, but for databases that have far fewer keys than elsewhere.
fn accept_first(
    members: &[Arc<Member>],
    results: &Receiver<(BackendId, CheckResult)>,
    timeout: Duration,
) {
    let deadline = Instant::now() + timeout + FIRST_GRACE;
    let mut reports = Vec::new();
    let mut unheard: Vec<&Arc<Member>> = members.iter().collect();
    while !unheard.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((id, result)) = results.recv_timeout(left) else { break };
        let Some(at) = unheard.iter().position(|member| member.id == id) else { continue };
        let member = unheard.swap_remove(at);
        match result {
            Ok(report) => {
                if let Some(why) = report.unserved {
                    let advice = advice_on_unserved(why);
                    warn!("{} can't be served from: {why}. {advice}", member.name());
                }
                reports.push((member, report));
            }
            Err(error) if error.is_local() => {
                warn!("{} can't be checked yet: {error}", member.name());
            }
            Err(error) => note_first_failure(member, &error, timeout),
        }
    }
    for member in unheard {
        let error = match member.has_name() {
            true => BackendError::Unresolved("no answer of the resolver yet".to_owned()),
            false => BackendError::TimedOut,
        };
        note_first_failure(member, &error, timeout);
    }
    let now = Instant::now();
    for (member, report) in &reports {
        let others = reports.iter().filter(|(other, _)| other.id != member.id);
        let others: Vec<&Report> = others.map(|(_, report)| report).collect();
        member.health.accept_first(report, &others, now);
    }
}

fn note_first_failure(member: &Member, error: &BackendError, timeout: Duration) {
    warn_of_failure(member, error, timeout);
    member.health.check_failed(error, error.is_timeout(), Instant::now());
}

/// Warns that a backend has never answered, with what to do about it.
fn warn_of_failure(member: &Member, error: &BackendError, timeout: Duration) {
    let (name, advice) = (member.name(), advice_on_failure(error, &member.address, timeout));
    let what = match error {
        BackendError::Stranger(_) => "is no Redis server",
        _ => "does not answer yet",
    };
    let error = error.to_string();
    warn!("{name} {what}: {}. {advice}", error.trim_end_matches('.'));
}

/// Checks one backend.
struct Checker {
    member: Arc<Member>,
    peers: Arc<dyn Peers>,
    connection: Option<Connection>,
    comparison: KeyComparison,
    /// Since when a replica is about to be emptied, if so.
    danger_since: Option<Instant>,
    /// When the last check began.
    last: Instant,
    /// When the offset was asked for last, by a check or a sample.
    sampled: Instant,
    /// Whether the last check found a replica, and the history of its data.
    place: Option<(bool, Arc<str>)>,
    /// When the log warned last that this machine can't check.
    warned_at: Option<Instant>,
    /// Whether the server ended the connection of the last check right after it.
    ends_at_once: bool,
    /// Whether no check has had a result yet that the log knows of.
    is_unknown: bool,
}

impl Checker {
    fn new(member: Arc<Member>, peers: Arc<dyn Peers>) -> Self {
        Self {
            member,
            peers,
            connection: None,
            comparison: KeyComparison::default(),
            danger_since: None,
            last: Instant::now(),
            sampled: Instant::now(),
            place: None,
            warned_at: None,
            ends_at_once: false,
            is_unknown: true,
        }
    }

    /// Checks the backend until it is removed, with the others in the first round if there is one.
    fn run(mut self, first: Option<FirstRound>) {
        self.member.resolve();
        if self.member.has_name() {
            let member = Arc::clone(&self.member);
            spawn("resolve", move || keep_resolved(&member));
        }
        let mut next = Instant::now();
        if let Some(first) = first {
            self.is_unknown = false;
            let result = self.check(next);
            if let Err(late) = first.results.send((self.member.id, result)) {
                self.judge(late.0.1, next);
            }
            _ = first.started.recv();
            // Each checker goes on at another moment.
            next = Instant::now() + self.peers.check_settings().interval * first.place / first.of;
        }
        loop {
            self.wait_until(next);
            self.sit_out_maintenance();
            if self.member.health.is_removed() {
                self.peers.replication().forget(self.member.id);
                return;
            }
            let began = Instant::now();
            let result = self.check(began);
            self.judge(result, began);
            let jitter = 1.0 + JITTER * (fastrand::f64() - 0.5);
            next = Instant::now() + self.peers.check_settings().interval.mul_f64(jitter);
        }
    }

    fn check(&mut self, began: Instant) -> CheckResult {
        let CheckSettings { timeout, lag, .. } = self.peers.check_settings();
        self.last = began;
        self.sampled = began;
        // Another server may be at the address by now. A new connection leads to that one.
        if self.member.health.state() != BackendState::Up {
            self.connection = None;
        }
        let is_connected = self.connection.is_some();
        let mut result = self.member.check(&mut self.connection, began + timeout, lag.time);
        // What keeps this machine from checking is no check.
        if !result.as_ref().is_err_and(BackendError::is_local) {
            let ended_at = Instant::now();
            let (time, is_answered) = (ended_at - began, result.is_ok());
            self.member.health.note_check(LastCheck { ended_at, time, is_answered });
        }
        match &mut result {
            Ok(report) => {
                self.member.metrics.answered_checks.add_one();
                self.place = Some((report.is_replica, Arc::clone(&report.replication_id)));
                self.note_position(report, began, lag);
            }
            Err(error) => self.note_failed(error),
        }
        // It is a short read as well, of a backend that may get no other.
        if is_connected && result.is_ok() {
            self.member.metrics.short_reads.add(began.elapsed(), 1);
        }
        result
    }

    /// Takes note of how far the data of the backend are, and whether it lacks too much.
    fn note_position(&self, report: &mut Report, began: Instant, bounds: LagBounds) {
        let (replication, now) = (self.peers.replication(), Instant::now());
        replication.note(self.member.id, report, began, now);
        let is_stale = self.member.health.is_stale();
        let excess = || replication.lag(self.member.id, now).excess(bounds, is_stale);
        report.stale = report.stale.take().or_else(excess);
    }

    /// Asks for the offset between two checks. Returns false if the backend should be checked now.
    fn sample(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else { return true };
        let CheckSettings { timeout, lag, .. } = self.peers.check_settings();
        let began = Instant::now();
        self.sampled = began;
        match self.member.sample(&mut connection, began + timeout, lag.time) {
            Ok(mut report) => {
                self.connection = Some(connection);
                let place = Some((report.is_replica, Arc::clone(&report.replication_id)));
                if place != self.place || report.is_cut_off || report.not_ready.is_some() {
                    return false;
                }
                self.note_position(&mut report, began, lag);
                self.member.health.note_stale(report.stale, Instant::now());
                true
            }
            Err(error) => {
                self.note_failed(&error);
                self.judge(Err(error), began);
                false
            }
        }
    }

    /// Takes note that it has failed a check, and that its offset is not known now, unless the reason is on this machine.
    fn note_failed(&self, error: &BackendError) {
        if !error.is_local() {
            self.member.metrics.failed_checks.add_one();
            self.peers.replication().note_failed(self.member.id);
        }
    }

    /// Returns whether the offset has to be asked for before the next look.
    fn is_sample_due(&self) -> bool {
        let interval = self.peers.check_settings().sample_interval;
        let is_due = |interval| self.sampled.elapsed() + FAST_INTERVAL > interval;
        interval.is_some_and(is_due) && self.peers.replication().is_compared(self.member.id)
    }

    fn judge(&mut self, result: CheckResult, began: Instant) {
        let result = result.map(|report| self.with_other_keys(report));
        let health = &self.member.health;
        match result {
            Ok(report) => {
                let others: Vec<Known> =
                    self.others().iter().map(|other| other.health.known()).collect();
                health.check_answered(&report, began, Instant::now(), &others);
                // It is the wrong kind of server: no session may go on reading from it.
                if report.unserved.is_some() {
                    self.member.close_all();
                }
            }
            // This says nothing of the backend.
            Err(error) if error.is_local() => {
                if self.warned_at.is_none_or(|at| at.elapsed() > LOCAL_WARNING_INTERVAL) {
                    self.warned_at = Some(Instant::now());
                    warn!("{} can't be checked: {error}", self.member.name());
                }
            }
            Err(error) => {
                // One that has joined is down already, so no change of its state says so.
                if self.is_unknown {
                    warn_of_failure(&self.member, &error, self.peers.check_settings().timeout);
                }
                let is_silence = error.is_timeout() || error.is_script();
                health.check_failed(&error, is_silence, Instant::now());
                if health.state() == BackendState::Down {
                    self.member.close_all();
                }
            }
        }
        self.is_unknown = false;
        self.peers.checked();
    }

    /// Notes in a report that the data are not there, if the server has to prove itself and has other keys than those that
    /// serve.
    fn with_other_keys(&mut self, mut report: Report) -> Report {
        let (before, others) = (self.member.health.known(), self.others());
        let timeout = self.peers.check_settings().timeout;
        let (comparison, connection) = (&mut self.comparison, &mut self.connection);
        if comparison.has_other_keys((&report, &before), connection, &others, timeout) {
            report.not_ready = Some(OTHER_KEYS.to_owned());
        }
        report
    }

    fn others(&self) -> Vec<Arc<Member>> {
        let mut members = self.peers.members();
        members.retain(|other| other.id != self.member.id);
        members
    }

    /// Returns whether the backend may get other data, or none, at any moment.
    fn is_to_be_watched(&self) -> bool {
        let health = &self.member.health;
        let has_just_gone = |other: &Arc<Member>| {
            other.health.left_up().is_some_and(|since| since.elapsed() < ALERT_TIME)
        };
        health.is_to_be_watched()
            || (health.is_replica() && self.others().iter().any(has_just_gone))
    }

    /// Returns whether it is a replica that is about to be emptied, or the primary that is about to do that.
    ///
    /// After a minute it counts no more: then something keeps them from each other.
    fn is_in_danger(&mut self) -> bool {
        if !self.has_danger() {
            self.danger_since = None;
            return false;
        }
        self.danger_since.get_or_insert_with(Instant::now).elapsed() < ALERT_TIME
    }

    fn has_danger(&self) -> bool {
        let Some(report) = self.member.health.report_in_trouble() else { return false };
        let others: Vec<Known> = self.others().iter().map(|other| other.health.known()).collect();
        match report.is_replica {
            true => danger::of_replica(&report, &others) > Danger::None,
            false => danger::is_by_primary(&report, &others),
        }
    }

    /// Waits until `next`, or until there is a reason to check at once: something is wrong with the
    /// backend, or it has ended our connection.
    fn wait_until(&mut self, next: Instant) {
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let interval = if self.is_in_danger() { DANGER_INTERVAL } else { FAST_INTERVAL };
            let is_news = self.pause(left.min(interval)) && self.is_end_news();
            let health = &self.member.health;
            // A server that seems to be busy may have lost the connection of the slow read.
            let is_up = health.state() == BackendState::Up && !health.is_busy();
            let is_good = is_up && !is_news && !self.is_to_be_watched();
            if left <= interval || !is_good || (self.is_sample_due() && !self.sample()) {
                return;
            }
        }
    }

    /// Waits while the backend is in maintenance, without a connection to it.
    fn sit_out_maintenance(&mut self) {
        while self.member.health.admin() == Admin::Maint && !self.member.health.is_removed() {
            self.connection = None;
            self.peers.replication().forget(self.member.id);
            thread::sleep(FAST_INTERVAL);
        }
    }

    /// Returns whether the end of our connection says something. It does not if the server ends each of them
    /// right after its check.
    fn is_end_news(&mut self) -> bool {
        let is_at_once = self.last.elapsed() < FAST_INTERVAL;
        if is_at_once {
            thread::sleep(FAST_INTERVAL);
        }
        !(std::mem::replace(&mut self.ends_at_once, is_at_once) && is_at_once)
    }

    /// Waits for `time` at most; returns true when the backend has ended our connection meanwhile.
    fn pause(&mut self, time: Duration) -> bool {
        let Some(connection) = &self.connection else {
            thread::sleep(time);
            return false;
        };
        let has_ended = connection.stream().wait_for_input(time);
        match has_ended {
            true => self.connection = None,
            false => self.ends_at_once = false,
        }
        has_ended
    }
}

fn keep_resolved(member: &Member) {
    while !member.health.is_removed() {
        thread::sleep(RESOLVE_INTERVAL);
        member.resolve();
    }
}
