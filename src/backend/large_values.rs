//! A queue for large values: each backend is asked for a few at a time.
//!
//! Redis keeps a reply in its memory until it is read, and serves no other client while it makes one of many
//! megabytes. It makes all replies that were asked for before it sends the first: a few at once look like a dead
//! server. So a client takes one of a few turns before it asks for a value that is known to be large, and keeps
//! it until the reply is read whole, which waits for no client. Of those with a turn, one asks at a time, which
//! keeps the silence short.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BackendError;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// A value of this length, or that takes its backend this much memory, is asked for in turns.
pub const LARGE_VALUE_BYTES: u64 = 1024 * 1024;

/// Most turns at one time. More would not read faster: the backend makes one reply at a time. It
/// bounds what Redis holds for us, to eight large values, and lets some go on while the network holds up others.
pub const MAX_TURNS: usize = 8;

/// Longest time for which a client waits for its turn.
pub const TURN_WAIT: Duration = Duration::from_secs(120);

/// Time between two looks whether a client that waits has left.
const LOOK_STEP: Duration = Duration::from_millis(250);

/// Queue for the large values of one backend. `S` is what the first pass over a value finds; clients that
/// wait for one value share it.
#[derive(Debug)]
pub struct LargeValueQueue<S> {
    state: Mutex<QueueState<S>>,
    /// Wakes those with a turn that wait until another's reply has begun.
    has_begun: Condvar,
}

#[derive(Debug)]
struct QueueState<S> {
    /// Number of turns that are taken.
    taken: usize,
    /// Whether a reply that was asked for has not begun.
    is_asking: bool,
    /// Clients that wait for a turn; first come, first served.
    waiting: VecDeque<Arc<Waiter>>,
    last: Option<Surveyed<S>>,
    /// When the backend was last silent for longer than a large value takes.
    silent_at: Option<Instant>,
}

/// What the first pass over a value found.
#[derive(Debug)]
struct Surveyed<S> {
    command: Vec<u8>,
    began: Instant,
    survey: Arc<S>,
}

#[derive(Debug, Default)]
struct Waiter {
    call: Mutex<Option<Call>>,
    called: Condvar,
}

/// End of a client's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// It is its turn.
    Turn,
    /// The backend is silent: what one client has awaited in vain, the next need not await.
    Silent,
}

impl Waiter {
    fn call(&self, call: Call) {
        *lock(&self.call) = Some(call);
        self.called.notify_one();
    }
}

/// Why a client gets no turn.
#[derive(Debug)]
pub enum NoTurn {
    /// The backend is silent, or the wait took too long.
    Backend(BackendError),
    /// The client has left.
    ClientLeft,
}

impl<S> Default for LargeValueQueue<S> {
    fn default() -> Self {
        let waiting = VecDeque::new();
        let state = QueueState { taken: 0, is_asking: false, waiting, last: None, silent_at: None };
        Self { state: Mutex::new(state), has_begun: Condvar::new() }
    }
}

impl<S> LargeValueQueue<S> {
    /// Takes a turn if one is free.
    pub fn try_turn(self: &Arc<Self>) -> Option<Turn<S>> {
        let asked = Instant::now();
        self.take(&mut lock(&self.state)).then(|| self.turn_of(asked))
    }

    /// Waits for a turn, for as long as the client is there.
    ///
    /// # Errors
    /// When the client has left, the wait took too long, or the backend turns out to be silent.
    pub fn turn(self: &Arc<Self>, is_client_gone: impl Fn() -> bool) -> Result<Turn<S>, NoTurn> {
        let asked = Instant::now();
        let mut state = lock(&self.state);
        if self.take(&mut state) {
            return Ok(self.turn_of(asked));
        }
        let waiter = Arc::new(Waiter::default());
        state.waiting.push_back(Arc::clone(&waiter));
        drop(state);
        let mut no_turn = NoTurn::Backend(BackendError::Busy);
        while asked.elapsed() < TURN_WAIT {
            let call = lock(&waiter.call);
            if call.is_some() || wait(&waiter.called, call, LOOK_STEP).is_some() {
                break;
            }
            if is_client_gone() {
                no_turn = NoTurn::ClientLeft;
                break;
            }
        }
        // Calls are made with the state locked: after this there is none.
        lock(&self.state).waiting.retain(|other| !Arc::ptr_eq(other, &waiter));
        match *lock(&waiter.call) {
            Some(Call::Turn) => Ok(self.turn_of(asked)),
            _ => Err(no_turn),
        }
    }

    /// Returns whether a client waits for a turn.
    pub fn is_wanted(&self) -> bool {
        !lock(&self.state).waiting.is_empty()
    }

    fn take(&self, state: &mut MutexGuard<QueueState<S>>) -> bool {
        let is_free = state.taken < MAX_TURNS;
        state.taken += usize::from(is_free);
        is_free
    }

    fn turn_of(self: &Arc<Self>, asked: Instant) -> Turn<S> {
        Turn { queue: Arc::clone(self), asked }
    }
}

/// One client's turn, which ends when it is dropped.
#[derive(Debug)]
pub struct Turn<S> {
    queue: Arc<LargeValueQueue<S>>,
    asked: Instant,
}

impl<S> Turn<S> {
    /// Returns a survey of the reply to `command` that another client began while we waited: it is as good
    /// as ours.
    pub fn survey(&self, command: &[u8]) -> Option<Arc<S>> {
        let state = lock(&self.queue.state);
        let last = state.last.as_ref()?;
        (last.command == command && last.began >= self.asked).then(|| Arc::clone(&last.survey))
    }

    /// Leaves our survey of the reply to `command`, which began at `began`, to those who wait.
    pub fn share(&self, command: &[u8], began: Instant, survey: &Arc<S>) {
        let survey = Arc::clone(survey);
        lock(&self.queue.state).last = Some(Surveyed { command: command.to_vec(), began, survey });
    }

    /// Returns whether a client waits for a turn.
    pub fn is_wanted(&self) -> bool {
        self.queue.is_wanted()
    }

    /// Calls `ask`, which asks for a reply and waits until it begins, while no other does so. If the backend
    /// does not answer in the time that a large value may take, nobody else waits for it either.
    ///
    /// # Errors
    /// Those of `ask`, and if others take too long.
    pub fn ask<T>(&self, ask: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
        self.wait_to_ask()?;
        let asked = ask();
        let mut state = lock(&self.queue.state);
        state.is_asking = false;
        if asked.as_ref().is_err_and(BackendError::is_unanswered) {
            state.silent_at = Some(Instant::now());
            state.waiting.drain(..).for_each(|waiter| waiter.call(Call::Silent));
            self.queue.has_begun.notify_all();
        }
        self.queue.has_begun.notify_one();
        asked
    }

    fn wait_to_ask(&self) -> Result<(), BackendError> {
        let began = Instant::now();
        let mut state = lock(&self.queue.state);
        while state.is_asking {
            state = wait(&self.queue.has_begun, state, LOOK_STEP);
            if state.silent_at.is_some_and(|at| at >= began) || began.elapsed() >= TURN_WAIT {
                return Err(BackendError::Busy);
            }
        }
        state.is_asking = true;
        Ok(())
    }
}

impl<S> Drop for Turn<S> {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.state);
        match state.waiting.pop_front() {
            // The turn is the other's from now on.
            Some(waiter) => waiter.call(Call::Turn),
            None => state.taken -= 1,
        }
    }
}

#[cfg(test)]
#[path = "large_values_tests.rs"]
mod tests;
