//! A read on its way to the cache, which all who ask for the same wait for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::KeyHash;
use super::entry::{Entry, EntryKey};
use super::versions::Place;
use crate::resp::Resp2Form;
use crate::sync::{Condvar, Mutex, lock, wait};

/// A read that was sent on a tracker's connection, after a `PTTL` of its key.
#[derive(Debug)]
pub struct Fill {
    /// The name of the entry that it makes.
    pub key: EntryKey,
    /// The hash of its Redis key.
    pub hash: KeyHash,
    /// How its reply in RESP3 becomes that in RESP2.
    pub form: Resp2Form,
    /// Where invalidations of its key are counted.
    pub place: Place,
    /// When it was sent, in nanoseconds of the cache's clock: its reply is no older.
    pub sent_at: u64,
    /// How long its reply counts at most.
    pub max_time: Duration,
    state: Mutex<FillState>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct FillState {
    is_done: bool,
    entry: Option<Arc<Entry>>,
}

impl Fill {
    pub fn new(
        key: EntryKey,
        hash: KeyHash,
        form: Resp2Form,
        place: Place,
        sent_at: u64,
        max_time: Duration,
    ) -> Self {
        let (state, done) = (Mutex::default(), Condvar::new());
        Self { key, hash, form, place, sent_at, max_time, state, done }
    }

    /// Takes note of how it ended; `None` where there is no reply to give away.
    pub fn finish(&self, entry: Option<Arc<Entry>>) {
        *lock(&self.state) = FillState { is_done: true, entry };
        self.done.notify_all();
    }

    /// Waits for its end, for `time` at most.
    ///
    /// # Errors
    /// When the time is up.
    pub fn wait(&self, time: Duration) -> Result<Option<Arc<Entry>>, TimeIsUp> {
        let deadline = Instant::now() + time;
        let mut state = lock(&self.state);
        while !state.is_done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TimeIsUp);
            }
            state = wait(&self.done, state, left);
        }
        Ok(state.entry.clone())
    }
}

/// Nothing has come in time.
#[derive(Debug, PartialEq, Eq)]
pub struct TimeIsUp;
