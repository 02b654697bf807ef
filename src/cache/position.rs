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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendId;

    #[test]
    fn a_stamp_counts_until_its_key_or_all_keys_are_invalid_or_its_time_is_up() {
        let (position, versions) = (Position::new(), Versions::new(1024));
        let place = |number: u64| versions.place(BackendId::new(1), &number.to_le_bytes());
        let own = place(0);
        let other = (1..).map(place).find(|other| *other != own).expect("another place");
        let stamp = position.stamp(&versions, own, 10);
        assert!(stamp.is_current(&position, &versions, 9));
        assert!(!stamp.is_current(&position, &versions, 10), "its time is up");
        versions.raise(other);
        assert!(stamp.is_current(&position, &versions, 9));
        versions.raise(own);
        assert!(!stamp.is_current(&position, &versions, 9), "its key is invalid");
        let stamp = position.stamp(&versions, own, 10);
        position.flush();
        assert!(!stamp.is_current(&position, &versions, 9), "all keys are");
    }

    #[test]
    fn a_tracker_counts_while_it_was_checked_a_short_time_ago() {
        let position = Position::new();
        assert!(!position.is_recent(5, 10), "never checked");
        position.answered(5, true);
        assert!(position.is_recent(15, 10));
        position.answered(16, false);
        assert!(!position.is_recent(16, 10), "an answer alone is no check");
        assert_eq!(position.as_of(), 16);
        position.answered(8, false);
        assert_eq!(position.as_of(), 16, "it never goes back");
    }
}
