//! One read's way through the backends: which one is tried next, for how long, and when to give up.
//!
//! A read may be sent again as long as its client has not received a byte of the reply. Each backend is tried
//! once. One that a health check has found good after its failure may be tried again, but there are never
//! more than three tries for each backend.
//!
//! - A backend refuses, resets the connection, or can't be reached: each of the others is tried.
//! - A backend is silent: that may be the read's own fault. A quick read leaves after `--backend-timeout`
//!   and is of unknown class from then on. A read of unknown class, or a slow one, stays until
//!   `--read-timeout`, and is then tried nowhere else (see [`slow`](crate::balance::slow)).
//! - A connection is lost: the server may have died of the read, so the read goes on alone. If the next
//!   server dies as well, the read ends there (see [`Poison`]).
//! - No backend is up: those that are down or suspect are tried, within 900 ms in all. Then the read waits
//!   a moment for one to come up, unless the outage has lasted for long.
//!
//! Whether a silent backend is left costs the [retry budget](super::retry_budget); the backend's
//! connections ask for that ([`Supervisor`](crate::backend::Supervisor)). A retry is counted at the backend
//! where the try before has failed.

use std::fmt::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Balancer;
use super::slow::{LaneError, LaneOutcome, OpenRead, Poison, ReadInfo, ReadProfile};
use crate::backend::{BackendError, BackendId, Class, PendingRead, WaitPolicy};
use crate::health::{BackendState, Member};
use crate::policy::Script;

/// Time for all tries of a read while no backend is up: such a read fails within a second.
pub const LAST_RESORT_TIME: Duration = Duration::from_millis(900);

/// Part of [`LAST_RESORT_TIME`] that is left for a try when waiting for a backend ends.
const TIME_TO_TRY: Duration = Duration::from_millis(200);

/// Age of an outage from which on no read waits for its end.
const MAX_OUTAGE: Duration = Duration::from_secs(10);

/// Time that is left for other backends, at least, after a try on one that was up.
const SECOND_WIND: Duration = Duration::from_millis(400);

/// Tries for each backend, at most: a backend that a check finds good is tried again.
const MAX_TRIES: usize = 3;

/// How often a waiting read looks for a backend that is up.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// How long a slow read waits for unanswered reads on its backend before it is sent.
const MAX_QUIET_WAIT: Duration = Duration::from_millis(10);

/// Silence after which a script is surely the one that runs, and does not wait for another.
///
/// While a script runs for longer than `busy-reply-threshold` (5 s by default), Redis answers `-BUSY` to
/// everything else, other scripts included.
const BUSY_REPLY_TIME: Duration = Duration::from_millis(5500);

/// One read's way through the backends.
pub struct Failover<'a> {
    balancer: &'a Balancer,
    /// End of all tries on backends that are not up.
    deadline: Instant,
    profile: ReadProfile,
    /// Whether a backend that was up has been silent: the read may be the reason.
    has_met_silence: bool,
    /// `run_id` of the process that was tried last, if it may die of the read.
    asked: Option<Arc<str>>,
    /// The backend that may have died of the read.
    may_have_killed: Option<Arc<Member>>,
    /// Reason why no other backend is tried.
    end: Option<End>,
    tried: Vec<Tried>,
    /// Number of all tries, forgiven ones included.
    tries: usize,
    /// The backend on which the last try has failed, until the next try.
    failed_on: Option<Arc<Member>>,
}

/// Why a read goes to no other backend.
enum End {
    /// It may be slow, and its time is up.
    TimedOut,
    /// Servers have died of it; the text names them.
    Kills(String),
}

/// A try that has failed.
struct Tried {
    backend: BackendId,
    began: Instant,
    /// `None` for a backend that was passed over: it had nothing to say.
    failure: Option<BackendError>,
}

/// A try on one backend.
#[derive(Clone)]
pub struct Attempt {
    /// The backend.
    pub backend: Arc<Member>,
    /// Knowledge about how long the read takes.
    pub class: Class,
    /// The read's entry in the slow lane; `None` for a quick read.
    pub open: Option<Arc<OpenRead>>,
    /// When the try began.
    pub began: Instant,
    wait_policy: WaitPolicy,
}

impl Attempt {
    /// How long the try waits for the backend.
    pub fn wait_policy(&self) -> WaitPolicy {
        self.wait_policy.clone()
    }

    /// Whether the read may be the reason for its backend's silence: not once its reply has begun.
    fn may_be_cause(&self) -> bool {
        self.class != Class::Quick && !self.open.as_ref().is_some_and(|open| open.has_begun())
    }

    /// Whether the backend was not up, and so had less time than others: that says nothing of the read.
    fn is_hurried(&self) -> bool {
        !matches!(self.wait_policy, WaitPolicy::Read { .. })
    }
}

impl<'a> Failover<'a> {
    /// Way of a new request, which pays its part of a retry.
    pub fn new(balancer: &'a Balancer, profile: ReadProfile, now: Instant) -> Self {
        balancer.retry_budget.deposit();
        Self::resumed(balancer, profile, now)
    }

    /// Way of a request that has paid already: it was sent on a shared connection before.
    pub fn resumed(balancer: &'a Balancer, profile: ReadProfile, now: Instant) -> Self {
        Self {
            balancer,
            deadline: now + LAST_RESORT_TIME,
            profile,
            has_met_silence: false,
            asked: None,
            may_have_killed: None,
            end: None,
            tried: Vec::new(),
            tries: 0,
            failed_on: None,
        }
    }

    /// With `has_just_failed`, tries only backends that are up: a read of the same client has just failed
    /// because none was.
    pub fn at_once(mut self, has_just_failed: bool, now: Instant) -> Self {
        if has_just_failed {
            self.deadline = now;
        }
        self
    }

    /// Returns what is known so far of how long the read takes.
    pub fn class(&self) -> Class {
        let may_be_slow = self.has_met_silence || self.is_alone();
        if may_be_slow { self.profile.class.max(Class::Unknown) } else { self.profile.class }
    }

    /// Whether nothing may be sent beside the read: a server may have died of it, or of one like it.
    pub fn is_alone(&self) -> bool {
        self.may_have_killed.is_some() || self.profile.has_one_try
    }

    /// Way of the reads that were sent together with this one, and are as suspect.
    pub fn for_the_rest(&self, now: Instant) -> Self {
        let may_have_killed = self.may_have_killed.clone();
        Self { may_have_killed, ..Self::resumed(self.balancer, self.profile, now) }
    }

    /// Waits until a read that is not quick may be sent, and says where.
    ///
    /// # Errors
    /// As [`SlowLane::begin`](crate::balance::slow::SlowLane::begin).
    pub fn begin(
        &self,
        info: ReadInfo,
        preferred: Option<BackendId>,
        may_try: impl Fn(BackendId) -> bool,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<LaneOutcome, LaneError> {
        let is_alone = info.is_alone || self.is_alone();
        let info = ReadInfo { class: self.class(), is_alone, ..info };
        let may_try = |backend| self.may_try(backend) && may_try(backend);
        let outcome = self.balancer.slow_lane.begin(&info, preferred, may_try, is_client_gone)?;
        if let LaneOutcome::Open(open) = &outcome
            && open.is_slow()
            && let Some(backend) = self.balancer.backend(open.backend())
        {
            backend.await_quiet(MAX_QUIET_WAIT);
        }
        Ok(outcome)
    }

    /// Whether this backend is still to be tried.
    pub fn may_try(&self, backend: BackendId) -> bool {
        !self.tried.iter().any(|tried| tried.backend == backend)
    }

    /// Lets backends be tried again that a check has found good since they failed.
    pub fn forgive(&mut self) {
        let backends = self.balancer.backends();
        if self.tries < MAX_TRIES * backends.len() {
            let up_since = |tried: &Tried| backends.get(tried.backend)?.health.up_since();
            self.tried.retain(|tried| up_since(tried).is_none_or(|since| since <= tried.began));
        }
    }

    /// Begins a try on this backend; `None` when there is no time left for it.
    pub fn attempt(
        &mut self,
        backend: BackendId,
        open: Option<Arc<OpenRead>>,
        now: Instant,
    ) -> Option<Attempt> {
        let wait_policy = self.wait_policy(backend, &open, now)?;
        let backend = self.balancer.backend(backend)?;
        if let Some(failed) = self.failed_on.take() {
            failed.metrics.retries.add_one();
        }
        if !self.profile.is_fast {
            self.asked = backend.run_id();
        }
        Some(Attempt { backend, class: self.class(), open, began: now, wait_policy })
    }

    /// A try that began in another way, on a backend that was up.
    pub fn past_attempt(
        &self,
        backend: Arc<Member>,
        began: Instant,
        open: Option<Arc<OpenRead>>,
    ) -> Attempt {
        let wait_policy = patient(self.profile.class, &open);
        Attempt { backend, class: self.profile.class, open, began, wait_policy }
    }

    fn wait_policy(
        &self,
        backend: BackendId,
        open: &Option<Arc<OpenRead>>,
        now: Instant,
    ) -> Option<WaitPolicy> {
        let table = &self.balancer.table;
        let state = table.state(backend);
        // A server that runs a slow read of ours will answer: that is no outage.
        if state == BackendState::Up || (state == BackendState::Suspect && table.is_busy(backend)) {
            return Some(patient(self.class(), open));
        }
        let is_only_one = self.tried.len() + 1 >= table.backend_count();
        (now < self.deadline).then_some(match is_only_one {
            true => WaitPolicy::Until(self.deadline),
            false => WaitPolicy::LastResort(self.deadline),
        })
    }

    /// A try has failed before the client received a byte of the reply.
    pub fn failed(&mut self, attempt: &Attempt, error: BackendError, now: Instant) {
        Self::count_failure(attempt, &error);
        if !attempt.is_hurried() {
            // The read itself may be the reason for the silence.
            let is_silence = matches!(error, BackendError::TimedOut);
            self.has_met_silence |= is_silence;
            if is_silence && attempt.may_be_cause() {
                self.end = Some(End::TimedOut);
            }
            // The try may have taken long: another backend may come up in a moment.
            self.deadline = self.deadline.max(now + SECOND_WIND);
        }
        self.after_failure(attempt, &error, now);
        self.failed_on = Some(Arc::clone(&attempt.backend));
        self.add(attempt, Some(error));
    }

    /// The only possible try of an EXEC has failed, on the connection that watches keys.
    pub fn failed_alone(&mut self, attempt: &Attempt, error: &BackendError, now: Instant) {
        self.asked = attempt.backend.run_id();
        self.after_failure(attempt, error, now);
    }

    /// Ends what the failed read may have left behind on its server: a script, blame, or a busy server.
    fn after_failure(&mut self, attempt: &Attempt, error: &BackendError, now: Instant) {
        match error {
            BackendError::TimedOut if attempt.may_be_cause() && !attempt.is_hurried() => {
                self.end_script(attempt, now);
            }
            BackendError::Lost(_) => self.lost(attempt, now),
            _ => {}
        }
        match (&attempt.open, error) {
            (Some(open), BackendError::Stuck) => open.clear_blame(),
            // The server may still be at work on it.
            (Some(open), BackendError::TimedOut | BackendError::Lost(_)) => open.leave(now),
            _ => {}
        }
    }

    /// Ends a script whose time is up: it could keep its server busy for ever.
    fn end_script(&self, attempt: &Attempt, now: Instant) {
        let (Some(script), Some(open)) = (self.profile.script, &attempt.open) else { return };
        let silent = open.unanswered_for(now);
        if silent < self.balancer.config().read_timeout {
            return;
        }
        thread::sleep(BUSY_REPLY_TIME.saturating_sub(silent));
        let deadline = Instant::now() + self.balancer.config().check_timeout;
        let name = attempt.backend.name();
        match attempt.backend.kill_script(script == Script::Function, deadline) {
            Ok(()) => log::warn!("ended a script on {name}: it ran for longer than --read-timeout"),
            Err(error) => log::warn!("a script may still run on {name}: it was not ended: {error}"),
        }
    }

    /// The connection to this backend was lost while the read was unanswered there.
    pub fn connection_lost(&mut self, backend: &Arc<Member>) {
        if !self.profile.is_fast {
            self.may_have_killed.get_or_insert_with(|| Arc::clone(backend));
        }
    }

    /// A try has lost its connection. A first server that may have died of the read makes the read suspect;
    /// a second one that has died ends its way.
    fn lost(&mut self, attempt: &Attempt, now: Instant) {
        let (true, Some(open)) = (self.is_alone(), &attempt.open) else {
            return self.connection_lost(&attempt.backend);
        };
        if self.profile.is_fast
            || !Poison::is_long_enough(open.unanswered_for(now))
            || !attempt.backend.has_died(self.asked.as_ref())
        {
            return;
        }
        open.keys().into_iter().for_each(|key| self.balancer.poison.add(key, now));
        let killed = self.may_have_killed.iter().chain([&attempt.backend]);
        let killed: Vec<_> = killed.map(|backend| backend.name()).collect();
        let names = killed.join(" and ");
        let label = open.label();
        log::error!("{names} died while working on {label}: it is not sent to another server");
        self.end = Some(End::Kills(format!("{names} died while working on it")));
    }

    /// Notes that a backend is not the one that can answer.
    pub fn pass_over(&mut self, attempt: &Attempt) {
        self.add(attempt, None);
    }

    fn add(&mut self, attempt: &Attempt, failure: Option<BackendError>) {
        self.tries += 1;
        self.tried.push(Tried { backend: attempt.backend.id, began: attempt.began, failure });
    }

    /// Counts a failed try, and tells the backend's health if the error says something of it.
    pub fn count_failure(attempt: &Attempt, error: &BackendError) {
        attempt.backend.metrics.errors.add((!error.is_local()).into());
        // After a wait that was short, or that the read itself may have caused, silence says nothing.
        let is_meaningful = !matches!(error, BackendError::TimedOut)
            || (!attempt.may_be_cause() && !attempt.is_hurried());
        if error.is_failure() && is_meaningful {
            attempt.backend.failed(error);
        }
    }

    /// Returns the backends that could still be tried and are up, but must not be read from in the database
    /// that the read would have there, with the reasons.
    pub fn refusals(
        &self,
        database: impl Fn(&Member) -> Option<i64>,
    ) -> Vec<(Arc<Member>, String)> {
        let backends = self.balancer.backends();
        let left = backends.iter().filter(|backend| self.may_try(backend.id));
        let refusal = |backend: &Member| backend.health.refusal_while_up(database(backend)?);
        left.filter_map(|backend| Some((Arc::clone(backend), refusal(backend)?))).collect()
    }

    /// Whether the read goes to no other backend.
    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Why only this read is refused, while those that were sent with it go on.
    pub fn refusal(&self) -> Option<String> {
        match &self.end {
            Some(End::Kills(why)) => {
                Some(format!("this read is not sent to another server: {why}"))
            }
            _ => None,
        }
    }

    /// Waits a moment for a backend to come up after all have failed; returns whether one has.
    pub fn wait(&mut self) -> bool {
        let table = &self.balancer.table;
        loop {
            self.forgive();
            let (now, backends) = (Instant::now(), self.balancer.backends());
            if table.best(|backend| self.may_try(backend)) == BackendState::Up {
                return true;
            }
            let is_hopeful = table.outage(now).is_none_or(|outage| outage < MAX_OUTAGE)
                && backends.iter().any(|backend| backend.health.may_come_up());
            if !is_hopeful || self.deadline.saturating_duration_since(now) <= TIME_TO_TRY {
                return false;
            }
            thread::sleep(WAIT_STEP);
        }
    }

    /// Each backend that could not answer, with the reason.
    pub fn troubles(&self) -> Vec<(Arc<Member>, String)> {
        let trouble = |backend: &Arc<Member>| {
            let trouble = match self.tried.iter().find(|tried| tried.backend == backend.id) {
                Some(tried) => tried.failure.as_ref().map(BackendError::to_string),
                None => backend.health.trouble(),
            };
            trouble.map(|trouble| (Arc::clone(backend), trouble))
        };
        self.balancer.backends().iter().filter_map(trouble).collect()
    }

    /// Whether a backend was tried at all.
    pub fn was_anyone_asked(&self) -> bool {
        self.tries > 0
    }

    /// The errors of all tries that are not forgiven.
    pub fn failures(&self) -> impl Iterator<Item = &BackendError> {
        self.tried.iter().filter_map(|tried| tried.failure.as_ref())
    }

    /// Error text that says of each backend why it could not answer.
    pub fn error(&self) -> String {
        let mut text = "no backend could answer".to_owned();
        for (at, (backend, trouble)) in self.troubles().into_iter().enumerate() {
            let separator = if at == 0 { ": " } else { "; " };
            // Writing to a String can't fail.
            _ = write!(text, "{separator}{}: {trouble}", backend.name());
        }
        text
    }
}

/// How long a backend that serves is waited for.
fn patient(class: Class, open: &Option<Arc<OpenRead>>) -> WaitPolicy {
    let open = open.clone().map(|open| open as Arc<dyn PendingRead>);
    WaitPolicy::Read { class, open }
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
