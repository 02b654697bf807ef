//! One read's way through the backends: which may be tried next, for how long, and when to give up.
//!
//! After a backend that refuses or resets every other is tried. Silence may be the read's own fault:
//! it is met by one more try, which waits for long and puts the blame on nobody; that of a script by
//! none. With no backend up, those that are not are tried, in a hurry, and one that comes up soon is
//! waited for.

use std::fmt::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, BackendError, Patience};
use crate::balance::State;
use crate::balancer::Balancer;

/// With no backend up, a read fails within a second: after so long no other is tried, …
const LAST_RESORT_TIME: Duration = Duration::from_millis(900);
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

/// One read's way through the backends.
pub struct Failover<'a> {
    balancer: &'a Balancer,
    /// With no backend up, nothing is tried from then on.
    deadline: Instant,
    is_script: bool,
    /// How many tries have met silence.
    silences: u32,
    /// What was tried, and is not to be tried again.
    tried: Vec<Tried>,
    /// How many tries there were.
    tries: usize,
    /// The index of the backend on which the last try has failed, until there is another.
    failed_on: Option<usize>,
}

/// A backend that was tried.
struct Tried {
    backend: usize,
    /// When the try began: one that a check has found good since may be tried again.
    began: Instant,
    /// `None` for one that had nothing to say.
    failure: Option<BackendError>,
}

/// A try on one backend.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// The index of the backend.
    pub index: usize,
    /// The backend.
    pub backend: &'a Arc<Backend>,
    /// How long it is waited for.
    pub patience: Patience,
    /// When it begins.
    pub began: Instant,
}

impl<'a> Failover<'a> {
    /// For a request that is made now. A script may be what keeps a backend silent.
    pub fn new(balancer: &'a Balancer, is_script: bool) -> Self {
        balancer.replays.pay();
        let deadline = Instant::now() + LAST_RESORT_TIME;
        Self {
            balancer,
            deadline,
            is_script,
            silences: 0,
            tried: Vec::new(),
            tries: 0,
            failed_on: None,
        }
    }

    /// Whether this backend is still to be tried.
    pub fn may_try(&self, backend: usize) -> bool {
        !self.tried.iter().any(|tried| tried.backend == backend)
    }

    /// Forgets the failures of backends that a check has found good since.
    pub fn forgive(&mut self) {
        let backends = &self.balancer.backends;
        if self.tries < MAX_TRIES * backends.len() {
            let up_since = |tried: &Tried| backends[tried.backend].health.up_since();
            self.tried.retain(|tried| up_since(tried).is_none_or(|since| since <= tried.began));
        }
    }

    /// The next try, on this backend; `None` when there is no time left for it.
    pub fn attempt(&mut self, index: usize) -> Option<Attempt<'a>> {
        let patience = self.patience(index)?;
        let backends = &self.balancer.backends;
        if let Some(failed) = self.failed_on.take() {
            backends[failed].metrics.replays.add_one();
        }
        let backend = &backends[index];
        Some(Attempt { index, backend, patience, began: Instant::now() })
    }

    fn patience(&self, backend: usize) -> Option<Patience> {
        let state = self.balancer.table.state(backend);
        if state == State::Up {
            return Some(match (self.silences > 0, self.is_script) {
                (true, _) => Patience::Second,
                (false, true) => Patience::Script,
                (false, false) => Patience::First,
            });
        }
        let deadline = self.deadline;
        let is_only_one = self.tried.len() + 1 >= self.balancer.backends.len();
        (Instant::now() < deadline).then_some(match is_only_one {
            // That another is up is of no use.
            true => Patience::Until(deadline),
            false => Patience::LastResort(deadline),
        })
    }

    /// A try has failed, before the client got a byte of the answer.
    pub fn failed(&mut self, attempt: Attempt, error: BackendError) {
        Self::note(attempt, &error);
        // A hurried try says nothing of the read.
        let is_hurried = matches!(attempt.patience, Patience::LastResort(_) | Patience::Until(_));
        if !is_hurried {
            self.silences += error.is_silence() as u32;
            // It was up when it was tried, which took its time: others may be again in a moment.
            self.deadline = self.deadline.max(Instant::now() + SECOND_WIND);
        }
        self.failed_on = Some(attempt.index);
        self.add(attempt, Some(error));
    }

    /// A backend has turned out not to be the one that can answer.
    pub fn pass_over(&mut self, attempt: Attempt) {
        self.add(attempt, None);
    }

    fn add(&mut self, attempt: Attempt, failure: Option<BackendError>) {
        self.tries += 1;
        self.tried.push(Tried { backend: attempt.index, began: attempt.began, failure });
    }

    /// Counts a try that has failed, and lets the backend know what the error says of it.
    pub fn note(attempt: Attempt, error: &BackendError) {
        attempt.backend.metrics.errors.add((!error.is_local()).into());
        let is_first = matches!(attempt.patience, Patience::First | Patience::Script);
        // Who waited for long, or not for long enough, knows nothing of a backend that was silent.
        if error.is_failure() && (is_first || !matches!(error, BackendError::TimedOut)) {
            attempt.backend.failed(error);
        }
    }

    /// Whether the second try has met silence, too, or the first of a script: then the read is to
    /// blame, and no other backend shall suffer from it.
    pub fn is_over(&self) -> bool {
        self.silences >= 2 || (self.silences == 1 && self.is_script && !self.was_stuck())
    }

    fn was_stuck(&self) -> bool {
        self.failures().any(|error| matches!(error, BackendError::Stuck))
    }

    /// With all tried, waits a moment for a backend to come up; true when one has.
    pub fn wait(&mut self) -> bool {
        let (table, backends) = (&self.balancer.table, &self.balancer.backends);
        loop {
            self.forgive();
            if table.best(|backend| self.may_try(backend)) == State::Up {
                return true;
            }
            let is_hopeful = table.outage().is_none_or(|outage| outage < MAX_OUTAGE)
                && backends.iter().any(|backend| backend.health.up_since().is_none());
            let left = self.deadline.saturating_duration_since(Instant::now());
            if !is_hopeful || left <= TIME_TO_TRY {
                return false;
            }
            thread::sleep(WAIT_STEP);
        }
    }

    /// What is wrong with each backend that was of no help, by name.
    pub fn troubles(&self) -> Vec<(&'a str, String)> {
        let backends = self.balancer.backends.iter().enumerate();
        let trouble = |(index, backend): (usize, &'a Arc<Backend>)| {
            let trouble = match self.tried.iter().find(|tried| tried.backend == index) {
                Some(tried) => tried.failure.as_ref().map(BackendError::to_string),
                None => backend.health.trouble(),
            };
            trouble.map(|trouble| (backend.name(), trouble))
        };
        backends.filter_map(trouble).collect()
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
        for (at, (name, trouble)) in self.troubles().into_iter().enumerate() {
            // Writing to a String can't fail.
            let _ = write!(text, "{}{name}: {trouble}", if at == 0 { ": " } else { "; " });
        }
        text
    }
}
