//! A queue for large values: each backend is asked for one at a time.
//!
//! Redis serves no other client while it makes a reply of many megabytes, and it makes all replies that
//! were asked for before it sends the first. A few at once look like a dead server. One at a time keeps
//! the silence short.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock};

/// Longest time for which a client waits for its turn.
pub const TURN_WAIT: Duration = Duration::from_secs(120);

/// Queue for the large values of one backend. `S` is what the first pass over a value finds; clients that
/// wait for one value share it.
#[derive(Debug)]
pub struct LargeValueQueue<S> {
    state: Mutex<QueueState<S>>,
    over: Condvar,
}

#[derive(Debug)]
struct QueueState<S> {
    taken: bool,
    last: Option<Surveyed<S>>,
    /// When the backend was last silent for longer than a large value takes.
    silent_at: Option<Instant>,
}

impl<S> Default for LargeValueQueue<S> {
    fn default() -> Self {
        let state = QueueState { taken: false, last: None, silent_at: None };
        Self { state: Mutex::new(state), over: Condvar::new() }
    }
}

impl<S> QueueState<S> {
    fn is_silent_since(&self, asked: Instant) -> bool {
        self.silent_at.is_some_and(|at| at >= asked)
    }
}

/// What the first pass over a value found.
#[derive(Debug)]
struct Surveyed<S> {
    command: Vec<u8>,
    began: Instant,
    survey: Arc<S>,
}

impl<S> LargeValueQueue<S> {
    /// Waits until it is our turn to send `command`. Returns `None` if that takes too long, or if the
    /// backend turns out to be silent: what one client has awaited in vain, the next need not await.
    pub fn turn<'a>(&'a self, command: &'a [u8]) -> Option<Turn<'a, S>> {
        let asked = Instant::now();
        let (mut state, wait) = self
            .over
            .wait_timeout_while(lock(&self.state), TURN_WAIT, |state| {
                state.taken && !state.is_silent_since(asked)
            })
            .unwrap_or_else(PoisonError::into_inner);
        if wait.timed_out() || state.is_silent_since(asked) {
            return None;
        }
        state.taken = true;
        Some(Turn { reads: self, command, asked })
    }
}

/// One client's turn, which ends when it is dropped.
#[derive(Debug)]
pub struct Turn<'a, S> {
    reads: &'a LargeValueQueue<S>,
    command: &'a [u8],
    asked: Instant,
}

impl<S> Turn<'_, S> {
    /// Returns a survey of our reply that another client began while we waited: it is as good as ours.
    pub fn survey(&self) -> Option<Arc<S>> {
        let state = lock(&self.reads.state);
        let last = state.last.as_ref()?;
        (last.command == self.command && last.began >= self.asked).then(|| Arc::clone(&last.survey))
    }

    /// Notes that the backend did not answer in the time that the value may take. Nobody else waits then.
    pub fn give_up(&self) {
        lock(&self.reads.state).silent_at = Some(Instant::now());
        self.reads.over.notify_all();
    }

    /// Leaves our survey, which began at `began`, to those who wait.
    pub fn share(&self, began: Instant, survey: &Arc<S>) {
        let survey = Arc::clone(survey);
        lock(&self.reads.state).last =
            Some(Surveyed { command: self.command.to_vec(), began, survey });
    }
}

impl<S> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        lock(&self.reads.state).taken = false;
        self.reads.over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn nobody_gets_a_turn_while_another_has_it() {
        let reads = LargeValueQueue::<()>::default();
        let first = reads.turn(b"a").expect("nobody else is here");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _turn = reads.turn(b"a").expect("the others are soon over");
                    assert!(is_over.load(Ordering::SeqCst));
                });
            }
            is_over.store(true, Ordering::SeqCst);
            drop(first);
        });
        assert!(!lock(&reads.state).taken);
    }

    #[test]
    fn when_the_backend_is_silent_those_who_wait_are_told_at_once() {
        let reads = LargeValueQueue::<()>::default();
        let first = reads.turn(b"a").expect("nobody else is here");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| reads.turn(b"a").is_none());
            while !second.is_finished() {
                // Again and again, as it may not have asked yet the first time.
                first.give_up();
                std::thread::yield_now();
            }
            assert!(second.join().expect("no panic"));
        });
        drop(first);
        assert!(reads.turn(b"a").is_some(), "later it may be better");
    }

    #[test]
    fn a_survey_serves_those_who_asked_before_it_began() {
        let reads = LargeValueQueue::default();
        let turn_of = |command, asked| Turn { reads: &reads, command, asked };
        let survey = 7;
        let before = Instant::now();
        let began = before + Duration::from_millis(1);
        turn_of(b"a", before).share(began, &Arc::new(survey));
        assert!(turn_of(b"a", before).survey().is_some());
        assert!(turn_of(b"b", before).survey().is_none(), "another value");
        assert!(turn_of(b"a", began + Duration::from_millis(1)).survey().is_none(), "too old");
    }
}
