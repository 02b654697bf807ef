//! How far a tracker has come, and until when what was read on its connection counts.

use super::versions::{Place, Versions};
use crate::sync::atomic::{AtomicU64, Ordering};

/// How far a tracker has come. Times are nanoseconds of the cache's clock.
///
/// The thread that reads the connection writes it, in the order in which things come. Others look at a [`Stamp`] after
/// the moment that they need is reached, and so see all invalidations up to that.
#[derive(Debug)]
pub struct Position {
    /// When the newest command was sent that is answered.
    as_of: AtomicU64,
    /// When the newest `INFO` was sent that is answered.
    checked_as_of: AtomicU64,
    /// How often all keys were invalidated.
    flushes: AtomicU64,
}

impl Position {
    /// Returns the position of a tracker that has heard nothing.
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { as_of: zero(), checked_as_of: zero(), flushes: zero() }
    }

    /// Returns when the newest command was sent that is answered.
    pub fn as_of(&self) -> u64 {
        self.as_of.load(Ordering::Acquire)
    }

    /// Returns what is found, and whether this position was at `since` or later before that. In this order: what has
    /// come by `since` shows in the stamp of what is found.
    pub fn look_up<T>(&self, since: u64, find: impl FnOnce() -> T) -> (bool, T) {
        let is_reached = self.as_of() >= since;
        (is_reached, find())
    }

    /// Returns whether the server was asked, and has answered, whether all is as before, within the last `max_silence`.
    pub fn is_recent(&self, now: u64, max_silence: u64) -> bool {
        let checked = self.checked_as_of.load(Ordering::Acquire);
        checked > 0 && now.saturating_sub(checked) <= max_silence
    }

    /// Takes note that a command is answered, which was sent then.
    pub fn answered(&self, sent_at: u64, is_check: bool) {
        if is_check {
            self.checked_as_of.fetch_max(sent_at, Ordering::AcqRel);
        }
        self.as_of.fetch_max(sent_at, Ordering::AcqRel);
    }

    /// Takes note that all keys are invalid.
    pub fn flush(&self) {
        self.flushes.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the stamp of a reply that is made now.
    pub fn stamp(&self, versions: &Versions, place: Place, ends_at: u64) -> Stamp {
        let flushes = self.flushes.load(Ordering::Acquire);
        Stamp { place, version: versions.get(place), flushes, ends_at }
    }
}

/// The position of a tracker at which a reply was made, and when its time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Where invalidations of its key are counted.
    place: Place,
    /// How many there had been.
    version: u64,
    /// How often all keys had been invalidated.
    flushes: u64,
    /// When it ends, whatever comes.
    ends_at: u64,
}

impl Stamp {
    /// Returns whether nothing has come since that makes what has it doubtful.
    pub fn is_current(&self, position: &Position, versions: &Versions, now: u64) -> bool {
        now < self.ends_at && *self == position.stamp(versions, self.place, self.ends_at)
    }

    /// Returns it with an end that is no later than this.
    pub fn until(self, ends_at: u64) -> Self {
        Self { ends_at: self.ends_at.min(ends_at), ..self }
    }
}
