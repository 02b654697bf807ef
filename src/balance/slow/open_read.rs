//! A read that is not quick, from the moment when it may be sent until it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::kinds::ReadKey;
use super::lane::SlowLane;
use super::lane_state::{Open, SharedAnswer};
use crate::backend::{BackendId, PendingRead};
use crate::sync::lock;

/// A read that is not quick, on its backend.
///
/// It counts as unanswered there until it is dropped. If its session gave it up ([`leave`](Self::leave)), it
/// counts until the server answers a check.
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

    /// Whether it was known to be slow when it began: quick reads have left its server.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Time since it was sent.
    pub fn unanswered_for(&self, now: Instant) -> Duration {
        self.lane.with_open(self, |open| open.runs_for(now)).unwrap_or_default()
    }

    /// What it is known by.
    pub fn keys(&self) -> Vec<ReadKey> {
        self.lane.with_open(self, |open| open.keys.clone()).unwrap_or_default()
    }

    /// Notes that the reply to all that was sent has begun: Redis writes replies when the work is done.
    pub fn reply_began(&self) {
        self.stop_clock(true);
    }

    /// Notes that the reply to a part of it has begun: its server is free until more of it is sent.
    pub fn partial_reply_began(&self) {
        self.stop_clock(false);
    }

    fn stop_clock(&self, is_whole: bool) {
        self.has_begun.store(true, Ordering::Relaxed);
        let now = Instant::now();
        let known = self.lane.with_open(self, |open| {
            let time = open.runs_for(now);
            open.answered_after = Some(time);
            (open.keys.clone(), open.had_company, time)
        });
        let Some((keys, had_company, time)) = known else { return };
        if is_whole {
            let is_alone = keys.len() == 1 && !had_company;
            keys.iter().for_each(|key| self.lane.kinds.record_answer(key, time, is_alone));
        }
        self.lane.publish(&mut lock(&self.lane.state), self.backend);
        self.lane.changed.notify_all();
    }

    /// Leaves its whole reply for those that wait and have asked for the same, if the reply has a context.
    pub fn share(&self, reply: &[u8]) {
        let mut state = lock(&self.lane.state);
        // While no read waits, none can have been asked before this one was sent.
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

    /// Whether its own client, too, sends nothing to that backend meanwhile that is not quick.
    pub fn is_alone(&self) -> bool {
        self.lane.with_open(self, |open| open.is_one_by_one).unwrap_or(false)
    }

    /// What it asks, for the log.
    pub fn label(&self) -> String {
        self.lane.with_open(self, |open| open.label.clone()).unwrap_or_default()
    }

    /// Takes back what its kind was blamed for: its server answers others.
    pub fn clear_blame(&self) {
        self.keys().iter().for_each(|key| self.lane.kinds.clear_blame(key));
    }

    /// Gives it up while its server may still be at work on it: it stays on the server's list until that
    /// answers a check.
    pub fn leave(&self, now: Instant) {
        self.lane.with_open(self, |open| {
            if open.sent_at.is_some() && open.is_unanswered() {
                open.left_at = Some(now);
            }
        });
        self.lane.publish(&mut lock(&self.lane.state), self.backend);
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
            self.lane.publish(&mut lock(&self.lane.state), self.backend);
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
            [key] if !had_company => lane.kinds.mark_slow(key),
            // It could be any of them: next time each is measured alone.
            keys => keys.iter().for_each(|key| lane.kinds.measure_alone(key)),
        }
        lane.publish(&mut lock(&lane.state), self.backend);
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
            self.lane.remove(&mut state, at, Instant::now());
        }
    }
}
