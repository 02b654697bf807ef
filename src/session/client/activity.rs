//! The wait that a session's thread is in. The acceptor reads it when it needs a place for another client.
//!
//! The session's thread notes it at each wait for its client, in one atomic word of its own: nothing is
//! locked. The acceptor changes the word in one way: to [`Activity::Leaving`], by a compare-and-swap from
//! what it has read. So a request that arrives at that moment is seen by one of both: either the client
//! keeps its place, or the session finds that this request is its last.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Number of low bits that hold the kind of an activity. The others hold microseconds.
const KIND_BITS: u32 = 3;

/// Times are counted from here.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the time as activities hold it.
pub fn now() -> Duration {
    BEGAN.elapsed()
}

/// The wait that a session's thread is in, if it waits for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It works, or waits for a backend or for its client to read.
    Busy,
    /// It waits since then for the next command of a Redis client, which keeps its place: pools of connections
    /// rely on that.
    Idle(Duration),
    /// It waits for a request since then, and its client can make room for another: it is between two
    /// HTTP requests.
    Spare(Duration),
    /// It waits since then for the client's first bytes.
    Silent(Duration),
    /// It waits since then for the rest of an HTTP request's head, or of what tells the protocol.
    Head(Duration),
    /// The client has to make room: the session ends after the request that has arrived, if there is one.
    Leaving,
}

impl Activity {
    fn to_word(self) -> u64 {
        let (kind, since) = match self {
            Self::Busy => (0, Duration::ZERO),
            Self::Idle(since) => (1, since),
            Self::Spare(since) => (2, since),
            Self::Head(since) => (3, since),
            Self::Silent(since) => (4, since),
            Self::Leaving => (5, Duration::ZERO),
        };
        (since.as_micros() as u64) << KIND_BITS | kind
    }

    fn from_word(word: u64) -> Self {
        let since = Duration::from_micros(word >> KIND_BITS);
        match word & ((1 << KIND_BITS) - 1) {
            0 => Self::Busy,
            1 => Self::Idle(since),
            2 => Self::Spare(since),
            3 => Self::Head(since),
            4 => Self::Silent(since),
            _ => Self::Leaving,
        }
    }
}

/// The activity of one session.
#[derive(Debug, Default)]
pub struct ActivityCell(AtomicU64);

impl ActivityCell {
    /// Returns the activity of this moment.
    pub fn get(&self) -> Activity {
        Activity::from_word(self.0.load(Ordering::SeqCst))
    }

    /// Notes the wait that the session's thread begins or ends. A client that has to leave stays so.
    pub fn set(&self, activity: Activity) {
        let next =
            |now| (Activity::from_word(now) != Activity::Leaving).then_some(activity.to_word());
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    /// Makes the client leave, unless its session has gone on from what was `seen`; returns whether it
    /// has to leave by that.
    pub fn make_leave(&self, seen: Activity) -> bool {
        let (seen, leaving) = (seen.to_word(), Activity::Leaving.to_word());
        self.0.compare_exchange(seen, leaving, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_is_read_as_it_was_noted_and_leaving_is_final() {
        let cell = ActivityCell::default();
        assert_eq!(cell.get(), Activity::Busy);
        let times = [Duration::ZERO, Duration::from_millis(7), Duration::from_secs(1 << 30)];
        for time in times {
            for activity in [
                Activity::Idle(time),
                Activity::Spare(time),
                Activity::Head(time),
                Activity::Silent(time),
                Activity::Busy,
            ] {
                cell.set(activity);
                assert_eq!(cell.get(), activity);
            }
        }
        let seen = Activity::Spare(times[1]);
        assert!(!cell.make_leave(seen), "it is busy");
        cell.set(seen);
        assert!(cell.make_leave(seen) && !cell.make_leave(seen));
        cell.set(Activity::Busy);
        assert_eq!(cell.get(), Activity::Leaving);
    }
}
