//! How fast a reply has to come. The rule is one for both protocols and for both kinds of connection,
//! shared and pooled.

use std::time::Duration;

/// Fewest bytes a second, on average, in which a reply has to come once the backend timeout is over.
///
/// At half of it, the longest reply that is held until it is whole (64 KiB) would take four seconds, in which
/// another backend could have given it a hundred times. A slow link over which backends are still of use
/// carries a hundred times as much, so that some hundred long replies at once don't fall below it.
pub(super) const MIN_BYTES_A_SECOND: u64 = 32 * 1024;

/// Part of the backend timeout that a reply has from its first byte on, at least, if it was waited for long: one in
/// so many. In 200 ms, with the usual second, a short reply is whole even over a slow link.
const LEAST_PART: u32 = 5;

/// Returns the silence that is as bad as waiting for so long while so many bytes have come: all of the time if
/// they are too few, else the time since the last of them.
pub(super) fn silence(waited: Duration, bytes: u64, since_bytes: Duration) -> Duration {
    if is_enough(waited, bytes) { since_bytes } else { waited }
}

fn is_enough(waited: Duration, bytes: u64) -> bool {
    bytes as f64 >= waited.as_secs_f64() * MIN_BYTES_A_SECOND as f64
}

/// The bytes of a reply that come on a connection, and the time that they take. Time in which nobody reads
/// them does not count: then the client is slow, not the backend.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time that was waited since the reply was due, or since it was last fast enough.
    waited: Duration,
    /// Bytes that came in that time.
    bytes: u64,
    /// Time that was waited since bytes came last.
    since_bytes: Duration,
    /// Whether any have come.
    has_begun: bool,
    /// Time that the first of a reply took which may take long.
    work: Duration,
}

impl Pace {
    /// Goes on to the next reply, without which the one before is of no use: they have their time together.
    pub fn go_on(&mut self) {
        (self.has_begun, self.since_bytes) = (false, Duration::ZERO);
    }

    /// Takes note of a wait.
    pub fn note_wait(&mut self, time: Duration) {
        self.waited += time;
        self.since_bytes += time;
    }

    /// Takes note that bytes have come. The time until the first of a reply that `may_take_long` is the work of
    /// the backend, and no bytes are missed in it.
    pub fn note_bytes(&mut self, bytes: usize, may_take_long: bool) {
        if may_take_long && !self.has_begun {
            self.work = std::mem::take(&mut self.waited);
        }
        self.has_begun = true;
        self.since_bytes = Duration::ZERO;
        self.bytes += bytes as u64;
    }

    /// Whether bytes of the reply have come.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Returns how long nothing has come.
    pub fn since_bytes(&self) -> Duration {
        self.since_bytes
    }

    /// Returns the [`silence`] to which the wait amounts. After each `period` in which the bytes were enough, they
    /// are counted anew.
    pub fn silence(&mut self, period: Duration) -> Duration {
        let work = self.work.min(period - period / LEAST_PART);
        if !is_enough(self.waited, self.bytes) {
            return self.waited + work;
        }
        if self.waited + work >= period {
            (self.waited, self.work, self.bytes) = (Duration::ZERO, Duration::ZERO, 0);
        }
        self.since_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_reply_that_trickles_is_as_bad_as_none() {
        for (milliseconds, bytes, is_enough) in [
            (1000, 0, false),
            (1000, 1, false),
            (1000, 200, false),
            (1000, 5000, false),
            (1000, 32 * 1024 - 1, false),
            (1000, 32 * 1024, true),
            (1000, 100_000, true),
            (2000, 32 * 1024, false),
            (30_000, 3_000_000, true),
            (600_000, 3_000_000, false),
            (500, 16 * 1024, true),
        ] {
            let waited = Duration::from_millis(milliseconds);
            let since_bytes = Duration::from_millis(300);
            let expected = if is_enough { since_bytes } else { waited };
            assert_eq!(silence(waited, bytes, since_bytes), expected, "{bytes} in {waited:?}");
        }
    }

    #[test]
    fn bytes_that_came_fast_do_not_pay_for_a_trickle_after_them() {
        let mut pace = Pace::default();
        pace.note_bytes(10_000_000, false);
        for _ in 0..2 {
            pace.note_wait(SECOND / 2);
            pace.note_bytes(1, false);
        }
        assert_eq!(pace.silence(SECOND), Duration::ZERO, "they came within this second");
        for _ in 0..2 {
            pace.note_wait(SECOND / 2);
            pace.note_bytes(1, false);
        }
        assert_eq!(pace.silence(SECOND), SECOND);
        assert_eq!(pace.since_bytes(), Duration::ZERO);
    }

    #[test]
    fn bytes_that_came_fast_do_not_pay_for_silence_after_them() {
        let mut pace = Pace::default();
        pace.note_bytes(10_000_000, false);
        pace.note_wait(SECOND);
        assert_eq!(pace.silence(SECOND), SECOND);
    }

    #[test]
    fn replies_that_belong_together_have_one_time() {
        let mut pace = Pace::default();
        pace.note_wait(SECOND / 2);
        pace.note_bytes(1, false);
        pace.go_on();
        assert!(!pace.has_begun() && pace.since_bytes().is_zero());
        pace.note_wait(SECOND / 2);
        assert_eq!(pace.silence(SECOND), SECOND);
    }

    #[test]
    fn bytes_are_missed_from_the_first_on_if_the_backend_may_have_worked_for_long() {
        for (may_take_long, work, bytes, waited, silence) in [
            (false, 1000, 1, 0, 1000),
            (true, 1000, 1, 0, 0),
            // What is left of its time, or a fifth of all, is its time from then on.
            (true, 300, 1, 700, 1000),
            (true, 9000, 1, 200, 1000),
            (true, 9000, 7000, 200, 200),
        ] {
            let mut pace = Pace::default();
            pace.note_wait(Duration::from_millis(work));
            assert!(!pace.has_begun());
            pace.note_bytes(bytes, may_take_long);
            assert!(pace.has_begun());
            pace.note_wait(Duration::from_millis(waited));
            let found = pace.silence(SECOND).as_millis();
            assert_eq!(found, silence, "{bytes} bytes after {work} ms, and {waited} ms");
        }
    }
}
