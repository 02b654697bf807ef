//! One read's way through the backends: which may be tried next, for how long, and when to give up.
//!
//! A backend that refuses or resets costs nothing: every other is tried. Silence may be the read's
//! own fault: it is met by one more try, which waits for long and puts the blame on nobody. With no
//! backend up, those that are not are tried, in a hurry, and one that comes up soon is waited for.

use std::fmt::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, BackendError, Patience};
use crate::balance::Standing;
use crate::balancer::Balancer;

/// With no backend up, a read fails within a second: after so long no other is tried, …
const LAST_RESORT_TIME: Duration = Duration::from_millis(850);
/// … and up to here one is waited for, …
const WAIT_TIME: Duration = Duration::from_millis(700);
/// … unless none has been up for so long.
const MAX_OUTAGE: Duration = Duration::from_secs(10);

/// How often it is looked whether one is up again.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// One read's way through the backends.
pub struct Failover<'a> {
    balancer: &'a Balancer,
    began: Instant,
    is_script: bool,
    /// Whether a try has met silence.
    was_silent: bool,
    /// Those that were tried, and their failures; `None` for one that had nothing to say.
    tried: Vec<(usize, Option<BackendError>)>,
}

/// A try on one backend.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// The backend.
    pub backend: &'a Backend,
    /// How long it is waited for.
    pub patience: Patience,
}

impl<'a> Failover<'a> {
    /// For a request that is made now. A script may be what keeps a backend silent.
    pub fn new(balancer: &'a Balancer, is_script: bool) -> Self {
        balancer.replays.pay();
        Self { balancer, began: Instant::now(), is_script, was_silent: false, tried: Vec::new() }
    }

    /// Whether this backend has not been tried yet.
    pub fn may_try(&self, backend: usize) -> bool {
        !self.tried.iter().any(|(tried, _)| *tried == backend)
    }

    /// The next try, on this backend; `None` when there is no time left for it.
    pub fn attempt(&self, backend: usize) -> Option<Attempt<'a>> {
        let patience = self.patience(backend)?;
        Some(Attempt { backend: &self.balancer.backends[backend], patience })
    }

    fn patience(&self, backend: usize) -> Option<Patience> {
        if self.balancer.table.standing(backend) == Standing::Ready {
            return Some(match (self.was_silent, self.is_script) {
                (true, _) => Patience::Second,
                (false, true) => Patience::Script,
                (false, false) => Patience::First,
            });
        }
        let left = LAST_RESORT_TIME.checked_sub(self.began.elapsed())?;
        let others = self.balancer.backends.len().saturating_sub(self.tried.len()).max(1);
        Some(Patience::Until(Instant::now() + left / others as u32))
    }

    /// A try has failed, before the client got a byte of the answer.
    pub fn failed(&mut self, backend: usize, patience: Patience, error: BackendError) {
        self.note(backend, patience, &error);
        self.was_silent |= matches!(error, BackendError::TimedOut);
        self.tried.push((backend, Some(error)));
    }

    /// A backend has turned out not to be the one that can answer.
    pub fn pass_over(&mut self, backend: usize) {
        self.tried.push((backend, None));
    }

    /// Lets the backend know what an error says of it.
    pub fn note(&self, backend: usize, patience: Patience, error: &BackendError) {
        let is_first = matches!(patience, Patience::First | Patience::Script);
        // Who waited for long, or not for long enough, knows nothing of a backend that was silent.
        if error.is_failure() && (is_first || !matches!(error, BackendError::TimedOut)) {
            self.balancer.backends[backend].health.failed(error);
        }
    }

    /// Whether the second try has met silence, too: then the read is to blame, and no other backend
    /// shall suffer from it.
    pub fn is_over(&self) -> bool {
        let silent = |error: &&BackendError| matches!(error, BackendError::TimedOut);
        self.failures().filter(silent).count() >= 2
            && self.balancer.table.best(|_| true) == Standing::Ready
    }

    /// With all tried, waits a moment for a backend to come up; true when one has.
    pub fn wait(&mut self) -> bool {
        let table = &self.balancer.table;
        loop {
            let is_hopeful = table.unready_for().is_some_and(|outage| outage < MAX_OUTAGE);
            if !is_hopeful || self.began.elapsed() >= WAIT_TIME {
                return false;
            }
            thread::sleep(WAIT_STEP);
            if table.best(|_| true) == Standing::Ready {
                self.tried.clear();
                return true;
            }
        }
    }

    /// What is wrong with each backend that was of no help, by name.
    pub fn troubles(&self) -> Vec<(&'a str, String)> {
        let backends = self.balancer.backends.iter().enumerate();
        let trouble = |(index, backend): (usize, &'a Arc<Backend>)| {
            let trouble = match self.tried.iter().find(|(tried, _)| *tried == index) {
                Some((_, error)) => error.as_ref().map(BackendError::to_string),
                None => backend.health.trouble(),
            };
            trouble.map(|trouble| (backend.name(), trouble))
        };
        backends.filter_map(trouble).collect()
    }

    /// How the tries have failed.
    pub fn failures(&self) -> impl Iterator<Item = &BackendError> {
        self.tried.iter().filter_map(|(_, error)| error.as_ref())
    }

    /// The same in a sentence.
    pub fn error(&self) -> String {
        let mut text = "no backend could answer".to_owned();
        for (at, (name, trouble)) in self.troubles().into_iter().enumerate() {
            // Writing to a String can't fail.
            let _ = write!(text, "{}{name}: {trouble}", if at == 0 { ": " } else { "; " });
        }
        text
    }
}
