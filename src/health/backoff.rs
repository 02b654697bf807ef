//! How long a backend stays out of service that fails again and again, though its checks pass.
//!
//! Checks are short. A network that loses large packets, or a server that answers `PING` and stalls on reads, passes
//! them all. If each passed check brought such a backend back, clients' reads would meet it again every second. So it
//! is ejected, as Envoy's outlier detection does it: each time for longer than the time before.

use std::time::{Duration, Instant};

/// Time for which a backend is ejected the second time; the first time, one passed check brings it back. It doubles
/// each time. (Envoy's `base_ejection_time` is 30 s: there a backend must fail five times in a row first.)
pub const BASE_EJECTION_TIME: Duration = Duration::from_secs(1);

/// Longest time for which a backend is ejected. (Envoy's `max_ejection_time` is 300 s.) A backend that was repaired
/// should be back before somebody looks for the reason.
pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(60);

/// Time in service, without a further failure, after which the earlier ones are forgotten. It is as long as the
/// longest ejection, so that a backend that fails at most half of the time gets its share.
pub const FORGET_FAILURES_AFTER: Duration = Duration::from_secs(60);

/// Returns for how long a backend is out of service that has failed so often.
pub fn ejection_time(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => BASE_EJECTION_TIME
            .saturating_mul(1u32.checked_shl(more - 2).unwrap_or(u32::MAX))
            .min(MAX_EJECTION_TIME),
    }
}

/// Count of failures that is forgotten after [`FORGET_FAILURES_AFTER`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    count: u32,
    /// The last failure, or the last return into service.
    last: Option<Instant>,
}

impl Backoff {
    /// Returns how many failures are not forgotten.
    pub fn count(&self, now: Instant) -> u32 {
        let is_remembered =
            |last: &Instant| now.saturating_duration_since(*last) < FORGET_FAILURES_AFTER;
        self.last.filter(is_remembered).map_or(0, |_| self.count)
    }

    /// Counts one more.
    pub fn failed(&mut self, now: Instant) {
        *self = Self { count: self.count(now).saturating_add(1), last: Some(now) };
    }

    /// Takes note that the backend is in service again: only from now on failures can be forgotten.
    pub fn returned(&mut self, now: Instant) {
        if self.count > 0 {
            self.last = Some(now);
        }
    }
}

/// The reads that have failed on a backend while its checks passed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadFailures {
    backoff: Backoff,
    doubt: Doubt,
}

/// Why a backend is `suspect`, as far as failed reads are the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Doubt {
    /// They are not: it is not suspect, or its checks fail as well.
    #[default]
    None,
    /// A read has failed. The next check tells whether checks notice it.
    Unchecked,
    /// A check has passed all the same: the failure is counted.
    Counted,
}

impl ReadFailures {
    /// Returns how often reads failed while checks passed, as far as that is not forgotten.
    pub fn count(&self, now: Instant) -> u32 {
        self.backoff.count(now)
    }

    /// Takes note that a read has failed on a backend that was up.
    pub fn read_failed(&mut self) {
        self.doubt = Doubt::Unchecked;
    }

    /// Takes note that a check has failed: checks notice what is wrong.
    pub fn check_failed(&mut self) {
        if self.doubt == Doubt::Unchecked {
            self.doubt = Doubt::None;
        }
    }

    /// Takes note that a check has passed while the backend is suspect. Returns for how long it is ejected from the
    /// moment when it became suspect.
    ///
    /// `least_of_peers` is the least count of the others that are up, `None` if none is. What all suffer from is no
    /// reason to eject one of them, and the last one that serves is never ejected.
    pub fn check_passed(&mut self, least_of_peers: Option<u32>, now: Instant) -> Duration {
        if self.doubt == Doubt::Unchecked {
            self.doubt = Doubt::Counted;
            self.backoff.failed(now);
        }
        match (self.doubt, least_of_peers) {
            (Doubt::Counted, Some(least)) => {
                ejection_time(self.backoff.count.saturating_sub(least))
            }
            _ => Duration::ZERO,
        }
    }

    /// Takes note that the backend's state is another now, and whether it is up.
    pub fn state_changed(&mut self, is_up: bool, now: Instant) {
        self.doubt = Doubt::None;
        if is_up {
            self.backoff.returned(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_ejection_is_twice_as_long_as_the_one_before_up_to_a_bound() {
        let times = [0, 0, 1, 2, 4, 8, 16, 32, 60, 60].map(seconds);
        for (failures, time) in (0..).zip(times) {
            assert_eq!(ejection_time(failures), time, "{failures}");
        }
        assert_eq!(ejection_time(u32::MAX), MAX_EJECTION_TIME);
    }

    /// Reads fail, the backend is ejected, and comes back, so often.
    fn fail(failures: &mut ReadFailures, times: u32, least: Option<u32>, now: Instant) -> Duration {
        let mut last = Duration::ZERO;
        for _ in 0..times {
            failures.read_failed();
            last = failures.check_passed(least, now);
            assert_eq!(failures.check_passed(least, now), last, "one failure counts once");
            failures.state_changed(true, now);
        }
        last
    }

    #[test]
    fn only_reads_that_fail_between_passed_checks_count_and_only_beside_peers_that_are_better() {
        let now = Instant::now();
        for (times, least, time) in [
            (1, Some(0), 0),
            (2, Some(0), 1),
            (5, Some(0), 8),
            // No other is up.
            (5, None, 0),
            // The best of the others is not much better.
            (5, Some(1), 4),
            (5, Some(4), 0),
            (5, Some(9), 0),
        ] {
            let mut failures = ReadFailures::default();
            let last = fail(&mut failures, times, least, now);
            assert_eq!(last, seconds(time), "{times} {least:?}");
        }
        let mut failures = ReadFailures::default();
        for _ in 0..5 {
            failures.read_failed();
            failures.check_failed();
            assert_eq!(failures.check_passed(Some(0), now), Duration::ZERO);
        }
        assert_eq!(failures.count(now), 0, "checks have noticed it");
        fail(&mut failures, 4, Some(0), now);
        assert_eq!(failures.check_passed(Some(0), now), Duration::ZERO, "no read has failed");
    }

    #[test]
    fn failures_are_forgotten_after_a_minute_in_service() {
        let began = Instant::now();
        let mut failures = ReadFailures::default();
        fail(&mut failures, 7, Some(0), began);
        failures.read_failed();
        assert_eq!(failures.check_passed(Some(0), began), MAX_EJECTION_TIME);
        // It is away for as long, which is no time in service.
        let returned = began + MAX_EJECTION_TIME;
        failures.state_changed(true, returned);
        let later = |time| returned + FORGET_FAILURES_AFTER - seconds(1) + time;
        assert_eq!(failures.count(later(Duration::ZERO)), 8);
        assert_eq!(failures.count(later(seconds(1))), 0);
        failures.read_failed();
        let time = failures.check_passed(Some(0), later(seconds(1)));
        assert_eq!((time, failures.count(later(seconds(1)))), (Duration::ZERO, 1));
    }
}
