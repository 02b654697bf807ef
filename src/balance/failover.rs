//! One read's way through the backends: which may be tried next, for how long, and when to give up.
//!
//! After a backend that refuses or resets, every other is tried. Silence may be the read's own fault: a
//! quick read that met it is tried once more, and stays there as one that may be slow; any other stays
//! where it is (see [`slow`](crate::balance::slow)). With no backend up, those that are not are tried, in a hurry,
//! and one that comes up soon is waited for.

use std::fmt::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Balancer;
use super::slow::{Begun, LaneError, OpenRead, Poison, ReadInfo, ReadTraits};
use crate::backend::{BackendError, BackendId, Class, PendingRead, WaitPolicy};
use crate::health::{BackendState, Member};
use crate::policy::Script;

/// With no backend up, a read fails within a second: after so long no other is tried, …
pub const LAST_RESORT_TIME: Duration = Duration::from_millis(900);
/// … and one is waited for until so long before that, …
const TIME_TO_TRY: Duration = Duration::from_millis(200);
/// … unless none has been up for so long.
const MAX_OUTAGE: Duration = Duration::from_secs(10);

/// A try on a backend that was up leaves at least so much time for others.
const SECOND_WIND: Duration = Duration::from_millis(400);

/// A read is tried so often for each backend, at most: those that a check finds good are tried again.
const MAX_TRIES: usize = 3;

/// How often it is looked whether one is up again.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// How long a slow read waits for what is under way on its backend to be answered, before it is sent.
const MAX_QUIET_WAIT: Duration = Duration::from_millis(10);

/// A server that runs a script for longer than its `busy-reply-threshold`, 5 s unless configured
/// otherwise, answers `-BUSY` to others; and so it does to a script that waits for another.
const BUSY_REPLY_TIME: Duration = Duration::from_millis(5500);

/// One read's way through the backends.
pub struct Failover<'a> {
    balancer: &'a Balancer,
    /// With no backend up, nothing is tried from then on.
    deadline: Instant,
    traits: ReadTraits,
    /// Whether a try has met silence: then the read may be why.
    has_met_silence: bool,
    /// The process that was asked last, where it may die of the read.
    asked: Option<Arc<str>>,
    /// The backend that may have died of it.
    may_have_killed: Option<Arc<Member>>,
    /// Why no other backend is to be tried, if so.
    end: Option<End>,
    /// What was tried, and is not to be tried again.
    tried: Vec<Tried>,
    /// How many tries there were.
    tries: usize,
    /// The backend on which the last try has failed, until there is another.
    failed_on: Option<Arc<Member>>,
}

/// Why a read goes to no other backend.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// It may be slow, and its time is up.
    TimedOut,
    /// It kills backends; this says which.
    Kills(String),
}

/// A backend that was tried.
struct Tried {
    backend: BackendId,
    /// When the try began: one that a check has found good since may be tried again.
    began: Instant,
    /// `None` for one that had nothing to say.
    failure: Option<BackendError>,
}

/// A try on one backend.
#[derive(Clone)]
pub struct Attempt {
    /// The backend.
    pub backend: Arc<Member>,
    /// What is known of the read by now.
    pub class: Class,
    /// That it is unanswered there, for a read that is not quick.
    pub open: Option<Arc<OpenRead>>,
    hurry: Hurry,
    /// When it began.
    pub began: Instant,
}
/// How long a try on a backend that is not up may take.
#[derive(Clone, Copy)]
enum Hurry {
    /// It is up.
    None,
    /// Until then, or until another is up.
    LastResort(Instant),
    /// Until then: that another is up is of no use.
    Until(Instant),
}

impl Attempt {
    /// How long it is waited for.
    pub fn wait_policy(&self) -> WaitPolicy {
        match self.hurry {
            Hurry::None => {
                let open = self.open.clone().map(|open| open as Arc<dyn PendingRead>);
                WaitPolicy::Read { class: self.class, open }
            }
            Hurry::LastResort(deadline) => WaitPolicy::LastResort(deadline),
            Hurry::Until(deadline) => WaitPolicy::Until(deadline),
        }
    }

    /// Whether the read may be why its backend is silent: not once its reply has begun.
    fn may_be_why(&self) -> bool {
        self.class != Class::Quick && !self.open.as_ref().is_some_and(|open| open.has_begun())
    }

    fn is_hurried(&self) -> bool {
        !matches!(self.hurry, Hurry::None)
    }
}

impl<'a> Failover<'a> {
    /// For a request that is made now.
    pub fn new(balancer: &'a Balancer, traits: ReadTraits) -> Self {
        balancer.retry_budget.deposit();
        Self::resumed(balancer, traits)
    }

    /// For a request that was made before, in another way, and has paid for its retries then.
    pub fn resumed(balancer: &'a Balancer, traits: ReadTraits) -> Self {
        Self {
            balancer,
            deadline: Instant::now() + LAST_RESORT_TIME,
            traits,
            has_met_silence: false,
            asked: None,
            may_have_killed: None,
            end: None,
            tried: Vec::new(),
            tries: 0,
            failed_on: None,
        }
    }

    /// Where its client's reads have just failed as no backend was up, its own fail at once as long as
    /// none is.
    pub fn at_once(mut self, has_just_failed: bool) -> Self {
        if has_just_failed {
            self.deadline = Instant::now();
        }
        self
    }

    /// What is known of the read by now.
    pub fn class(&self) -> Class {
        let may_be_slow = self.has_met_silence || self.is_alone();
        if may_be_slow { self.traits.class.max(Class::Unknown) } else { self.traits.class }
    }

    /// Whether nothing may be sent beside the read: a backend may have died of it, or of its like.
    pub fn is_alone(&self) -> bool {
        self.may_have_killed.is_some() || self.traits.has_one_try
    }

    /// For what was sent with the read, and shares the suspicion.
    pub fn for_the_rest(&self) -> Self {
        let may_have_killed = self.may_have_killed.clone();
        Self { may_have_killed, ..Self::resumed(self.balancer, self.traits) }
    }

    /// Waits until a read that is not quick may be sent, and where.
    ///
    /// # Errors
    /// As [`SlowLane::begin`](crate::balance::slow::SlowLane::begin).
    pub fn begin(
        &self,
        info: ReadInfo,
        preferred: Option<BackendId>,
        may_try: impl Fn(BackendId) -> bool,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<Begun, LaneError> {
        let is_alone = info.is_alone || self.is_alone();
        let info = ReadInfo { class: self.class(), is_alone, ..info };
        let may_try = |backend| self.may_try(backend) && may_try(backend);
        let begun = self.balancer.slow_lane.begin(&info, preferred, may_try, is_client_gone)?;
        if let Begun::Open(open) = &begun
            && open.is_slow()
            && let Some(backend) = self.balancer.backend(open.backend())
        {
            backend.await_quiet(MAX_QUIET_WAIT);
        }
        Ok(begun)
    }

    /// Whether this backend is still to be tried.
    pub fn may_try(&self, backend: BackendId) -> bool {
        !self.tried.iter().any(|tried| tried.backend == backend)
    }

    /// Forgets the failures of backends that a check has found good since.
    pub fn forgive(&mut self) {
        let backends = self.balancer.backends();
        if self.tries < MAX_TRIES * backends.len() {
            let up_since = |tried: &Tried| backends.get(tried.backend)?.health.up_since();
            self.tried.retain(|tried| up_since(tried).is_none_or(|since| since <= tried.began));
        }
    }

    /// The next try, on this backend; `None` when there is no time left for it.
    pub fn attempt(&mut self, backend: BackendId, open: Option<Arc<OpenRead>>) -> Option<Attempt> {
        let began = Instant::now();
        let hurry = self.hurry(backend, began)?;
        let backend = self.balancer.backend(backend)?;
        if let Some(failed) = self.failed_on.take() {
            failed.metrics.retries.add_one();
        }
        if !self.traits.is_fast {
            self.asked = backend.run_id();
        }
        Some(Attempt { backend, class: self.class(), open, hurry, began })
    }

    /// Takes note that the only try has failed, which was made where a client watches.
    pub fn failed_alone(&mut self, attempt: &Attempt, error: &BackendError) {
        self.asked = attempt.backend.run_id();
        match error {
            BackendError::TimedOut if attempt.may_be_why() => self.end_script(attempt),
            BackendError::Lost(_) => self.lost(attempt),
            _ => {}
        }
        Self::leave(attempt, error);
    }

    /// A read that may still be worked on keeps its server busy.
    fn leave(attempt: &Attempt, error: &BackendError) {
        match (&attempt.open, error) {
            (Some(open), BackendError::Stuck) => open.clear_blame(),
            (Some(open), BackendError::TimedOut | BackendError::Lost(_)) => open.leave(),
            _ => {}
        }
    }

    /// The try that was made on this backend at `began`, while it was up.
    pub fn made(
        &self,
        backend: Arc<Member>,
        began: Instant,
        open: Option<Arc<OpenRead>>,
    ) -> Attempt {
        Attempt { backend, class: self.traits.class, open, hurry: Hurry::None, began }
    }

    fn hurry(&self, backend: BackendId, now: Instant) -> Option<Hurry> {
        let table = &self.balancer.table;
        let state = table.state(backend);
        // A server that runs a slow read will answer: that is no outage.
        if state == BackendState::Up || (state == BackendState::Suspect && table.is_busy(backend)) {
            return Some(Hurry::None);
        }
        let deadline = self.deadline;
        let is_only_one = self.tried.len() + 1 >= self.balancer.backends().len();
        (now < deadline).then_some(match is_only_one {
            true => Hurry::Until(deadline),
            false => Hurry::LastResort(deadline),
        })
    }

    /// A try has failed, before the client got a byte of the answer.
    pub fn failed(&mut self, attempt: &Attempt, error: BackendError) {
        Self::note(attempt, &error);
        let now = Instant::now();
        // A hurried try says nothing of the read.
        if !attempt.is_hurried() {
            // The read itself may be the reason for the silence.
            let is_silence = matches!(error, BackendError::TimedOut);
            self.has_met_silence |= is_silence;
            if is_silence && attempt.may_be_why() {
                self.end = Some(End::TimedOut);
                self.end_script(attempt);
            }
            // It was up when it was tried, which took its time: others may be again in a moment.
            self.deadline = self.deadline.max(now + SECOND_WIND);
        }
        if matches!(error, BackendError::Lost(_)) {
            self.lost(attempt);
        }
        Self::leave(attempt, &error);
        self.failed_on = Some(Arc::clone(&attempt.backend));
        self.add(attempt, Some(error));
    }

    /// A script whose time is up is ended, or it would keep its server busy for ever.
    fn end_script(&self, attempt: &Attempt) {
        let (Some(script), Some(open)) = (self.traits.script, &attempt.open) else { return };
        if open.unanswered_for() < self.balancer.config.read_timeout {
            return;
        }
        // One that waits behind a stranger's is told so after that time: ours was silent for longer.
        thread::sleep(BUSY_REPLY_TIME.saturating_sub(open.unanswered_for()));
        let deadline = Instant::now() + self.balancer.config.check_timeout;
        let name = attempt.backend.name();
        match attempt.backend.kill_script(script == Script::Function, deadline) {
            Ok(()) => log::warn!("ended a script on {name}: it ran for longer than --read-timeout"),
            Err(error) => log::warn!("a script may still run on {name}: it was not ended: {error}"),
        }
    }

    /// The connection to this backend has ended on which the read was unanswered: the backend may have
    /// died of it.
    pub fn note_lost(&mut self, backend: &Arc<Member>) {
        if !self.traits.is_fast {
            self.may_have_killed.get_or_insert_with(|| Arc::clone(backend));
        }
    }

    /// A connection was lost on which the read was unanswered: its server may have died of it.
    fn lost(&mut self, attempt: &Attempt) {
        if self.traits.is_fast {
            return;
        }
        let is_suspect = self.may_have_killed.is_some() || self.traits.has_one_try;
        let (true, Some(open)) = (is_suspect, &attempt.open) else {
            return self.note_lost(&attempt.backend);
        };
        if !Poison::is_long_enough(open.unanswered_for())
            || !attempt.backend.has_died(self.asked.as_ref())
        {
            return;
        }
        open.keys().into_iter().for_each(|key| self.balancer.poison.note(key, Instant::now()));
        let killed = self.may_have_killed.iter().chain([&attempt.backend]);
        let killed: Vec<_> = killed.map(|backend| backend.name()).collect();
        let names = killed.join(" and ");
        log::error!(
            "{names} died while working on {}: it is not sent to another server",
            open.label()
        );
        self.end = Some(End::Kills(format!("{names} died while working on it")));
    }

    /// A backend has turned out not to be the one that can answer.
    pub fn pass_over(&mut self, attempt: &Attempt) {
        self.add(attempt, None);
    }

    fn add(&mut self, attempt: &Attempt, failure: Option<BackendError>) {
        self.tries += 1;
        self.tried.push(Tried { backend: attempt.backend.id, began: attempt.began, failure });
    }

    /// Counts a try that has failed, and lets the backend know what the error says of it.
    pub fn note(attempt: &Attempt, error: &BackendError) {
        attempt.backend.metrics.errors.add((!error.is_local()).into());
        // Whoever may be slow, or did not wait for long enough, knows nothing of a backend that was silent.
        let knows = !attempt.may_be_why() && !attempt.is_hurried();
        if error.is_failure() && (knows || !matches!(error, BackendError::TimedOut)) {
            attempt.backend.failed(error);
        }
    }

    /// Whether no other backend shall suffer from the read.
    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Why it is refused alone, while what was sent with it goes on.
    pub fn refusal(&self) -> Option<String> {
        match &self.end {
            Some(End::Kills(why)) => {
                Some(format!("this read is not sent to another server: {why}"))
            }
            _ => None,
        }
    }

    /// With all tried, waits a moment for a backend to come up; true when one has.
    pub fn wait(&mut self) -> bool {
        let table = &self.balancer.table;
        loop {
            self.forgive();
            let (now, backends) = (Instant::now(), self.balancer.backends());
            if table.best(|backend| self.may_try(backend)) == BackendState::Up {
                return true;
            }
            let is_hopeful = table.outage(now).is_none_or(|outage| outage < MAX_OUTAGE)
                && backends.iter().any(|backend| backend.health.up_since().is_none());
            let left = self.deadline.saturating_duration_since(now);
            if !is_hopeful || left <= TIME_TO_TRY {
                return false;
            }
            thread::sleep(WAIT_STEP);
        }
    }

    /// What is wrong with each backend that was of no help.
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

    /// How the tries have failed.
    pub fn failures(&self) -> impl Iterator<Item = &BackendError> {
        self.tried.iter().filter_map(|tried| tried.failure.as_ref())
    }

    /// What is wrong with each backend, in a sentence.
    pub fn error(&self) -> String {
        let mut text = "no backend could answer".to_owned();
        for (at, (backend, trouble)) in self.troubles().into_iter().enumerate() {
            // Writing to a String can't fail.
            let _ =
                write!(text, "{}{}: {trouble}", if at == 0 { ": " } else { "; " }, backend.name());
        }
        text
    }
}
