//! Reads large values one at a time from each backend.
//!
//! Redis answers no client while it makes a reply of many megabytes, and it makes all replies that were
//! asked for before it sends any. A few at once look like a dead server to every client. In turns, the
//! silence stays short.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock};

/// Longest time that a client waits for its turn.
pub const TURN_WAIT: Duration = Duration::from_secs(120);

/// Queue for the large values of one backend. `S` is the survey of a value, made by the first pass over it:
/// clients that wait for one value share it.
#[derive(Debug)]
pub struct LargeValueQueue<S> {
    state: Mutex<QueueState<S>>,
    over: Condvar,
}

#[derive(Debug)]
struct QueueState<S> {
    is_taken: bool,
    last: Option<Surveyed<S>>,
    /// When the backend was found silent for longer than a large value takes.
    silent_at: Option<Instant>,
}

impl<S> Default for LargeValueQueue<S> {
    fn default() -> Self {
        let state = QueueState { is_taken: false, last: None, silent_at: None };
        Self { state: Mutex::new(state), over: Condvar::new() }
    }
}

impl<S> QueueState<S> {
    fn is_silent_since(&self, asked: Instant) -> bool {
        self.silent_at.is_some_and(|at| at >= asked)
    }
}

/// A survey, and the command that read its value.
#[derive(Debug)]
struct Surveyed<S> {
    command: Vec<u8>,
    began: Instant,
    survey: Arc<S>,
}

impl<S> LargeValueQueue<S> {
    /// Waits for our turn to send `command`; `None` when that takes too long, or when the backend turns
    /// out to be silent meanwhile: then the others need not wait in vain as well.
    pub fn turn<'a>(&'a self, command: &'a [u8]) -> Option<Turn<'a, S>> {
        let asked = Instant::now();
        let (mut state, wait) = self
            .over
            .wait_timeout_while(lock(&self.state), TURN_WAIT, |state| {
                state.is_taken && !state.is_silent_since(asked)
            })
            .unwrap_or_else(PoisonError::into_inner);
        if wait.timed_out() || state.is_silent_since(asked) {
            return None;
        }
        state.is_taken = true;
        Some(Turn { reads: self, command, asked })
    }
}

/// One client's turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a, S> {
    reads: &'a LargeValueQueue<S>,
    command: &'a [u8],
    asked: Instant,
}

impl<S> Turn<'_, S> {
    /// Returns a survey of the same value that began during our wait: it is as good as our own.
    pub fn survey(&self) -> Option<Arc<S>> {
        let state = lock(&self.reads.state);
        let last = state.last.as_ref()?;
        (last.command == self.command && last.began >= self.asked).then(|| Arc::clone(&last.survey))
    }

    /// Takes note that the backend did not answer in the time that the value may take. Clients that wait
    /// give up.
    pub fn give_up(&self) {
        lock(&self.reads.state).silent_at = Some(Instant::now());
        self.reads.over.notify_all();
    }

    /// Leaves our survey, begun at `began`, to the clients that wait.
    pub fn share(&self, began: Instant, survey: &Arc<S>) {
        let survey = Arc::clone(survey);
        lock(&self.reads.state).last =
            Some(Surveyed { command: self.command.to_vec(), began, survey });
    }
}

impl<S> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        lock(&self.reads.state).is_taken = false;
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
        assert!(!lock(&reads.state).is_taken);
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
