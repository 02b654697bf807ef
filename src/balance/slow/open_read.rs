//! A read that is not quick, from the moment when it may be sent until it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::kinds::ReadKey;
use super::lane::{SharedAnswer, SlowLane};
use super::lane_state::Open;
use crate::backend::{BackendId, PendingRead};
use crate::sync::lock;

/// A read that is not quick, on its backend: it counts as unanswered there until it is dropped, or, where
/// it was given up unanswered, until the server answers again.
#[derive(Debug)]
pub struct OpenRead {
    pub(super) lane: Arc<SlowLane>,
    pub(super) number: u64,
    pub(super) backend: BackendId,
    pub(super) is_slow: bool,
    pub(super) is_overdue: AtomicBool,
    pub(super) has_begun: AtomicBool,
}

impl OpenRead {
    /// The backend that it is sent to.
    pub fn backend(&self) -> BackendId {
        self.backend
    }

    /// Whether it was known to be slow when it began: others have left its server.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// How long it has been unanswered.
    pub fn unanswered_for(&self) -> Duration {
        let sent_at = self.lane.with_open(self, |open| open.sent_at).flatten();
        sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed())
    }

    /// What it is known by.
    pub fn keys(&self) -> Vec<ReadKey> {
        self.lane.with_open(self, |open| open.keys.clone()).unwrap_or_default()
    }

    /// Redis has just begun to answer what was sent last: all of it, as it writes replies when all is done.
    pub fn note_answer(&self) {
        self.note_begun(true);
    }

    /// Redis has just begun to answer a part of it: its server is at work on it no more, until more is
    /// sent.
    pub fn note_part(&self) {
        self.note_begun(false);
    }

    fn note_begun(&self, is_all: bool) {
        self.has_begun.store(true, Ordering::Relaxed);
        let known = self.lane.with_open(self, |open| {
            let time = open.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
            open.answered_after = Some(time);
            (open.keys.clone(), open.had_company, time)
        });
        let Some((keys, had_company, time)) = known else { return };
        if is_all {
            let is_alone = keys.len() == 1 && !had_company;
            keys.iter().for_each(|key| self.lane.kinds.note_answer(key, time, is_alone));
        }
        self.lane.show(&mut lock(&self.lane.state), self.backend);
        self.lane.changed.notify_all();
    }

    /// It was answered with this whole reply: where it has a context, that is good for those who wait and
    /// have asked the same.
    pub fn share(&self, reply: &[u8]) {
        let mut state = lock(&self.lane.state);
        // While nobody waits, nobody can have asked before it was sent.
        if !self.is_slow || state.waiting.is_empty() {
            return;
        }
        let Some(open) = state.find(self.number) else { return };
        let (&[key], Some(sent_at), Some(context)) = (&open.keys[..], open.sent_at, open.context)
        else {
            return;
        };
        let (backend, reply) = (self.backend, Arc::from(reply));
        state.last_answer =
            Some(SharedAnswer { exact: key.exact, context, sent_at, backend, reply });
        self.lane.changed.notify_all();
    }

    /// Whether nothing else that is not quick may be sent to its backend meanwhile, not even from its own
    /// client.
    pub fn is_alone(&self) -> bool {
        self.lane.with_open(self, |open| open.is_one_by_one).unwrap_or(false)
    }

    /// What it asks, for the log.
    pub fn label(&self) -> String {
        self.lane.with_open(self, |open| open.label.clone()).unwrap_or_default()
    }

    /// Its server answers others: it was not why nothing came of it.
    pub fn clear_blame(&self) {
        self.keys().iter().for_each(|key| self.lane.kinds.clear_blame(key));
    }

    /// Its client's thread gives it up, with the server perhaps still at work on it: it stays on the
    /// server's list until that answers a check.
    pub fn leave(&self) {
        self.lane.with_open(self, |open| {
            if open.sent_at.is_some() && open.is_unanswered() {
                open.left_at = Some(Instant::now());
            }
        });
        self.lane.show(&mut lock(&self.lane.state), self.backend);
    }
}

impl PendingRead for OpenRead {
    fn note_sent(&self) {
        self.has_begun.store(false, Ordering::Relaxed);
        let was_answered = self.lane.with_open(self, |open| {
            open.sent_at = Some(Instant::now());
            open.left_at = None;
            open.answered_after.take().is_some()
        });
        if was_answered == Some(true) {
            self.lane.show(&mut lock(&self.lane.state), self.backend);
        }
    }

    fn note_silence(&self, silent: Duration) {
        let lane = &self.lane;
        let is_usual = silent < lane.kinds.slow_after();
        if is_usual || self.has_begun() || self.is_overdue.load(Ordering::Relaxed) {
            return;
        }
        let blamed = lane.with_open(self, |open| {
            open.sent_at?;
            open.is_overdue = true;
            Some((open.had_company, open.keys.clone()))
        });
        let Some((had_company, keys)) = blamed.flatten() else { return };
        self.is_overdue.store(true, Ordering::Relaxed);
        match &keys[..] {
            [key] if !had_company => lane.kinds.note_slow(key),
            // Nobody knows which of them it was: next time each is measured alone.
            keys => keys.iter().for_each(|key| lane.kinds.note_shared_server(key)),
        }
        lane.show(&mut lock(&lane.state), self.backend);
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }
}

impl Drop for OpenRead {
    fn drop(&mut self) {
        let mut state = lock(&self.lane.state);
        let is_it = |open: &Open| open.number == self.number && open.left_at.is_none();
        if let Some(at) = state.opens.iter().position(is_it) {
            self.lane.remove(&mut state, at);
        }
    }
}
