//! A token bucket: how fast something may be used, as a value that takes the time from its caller.

use std::time::{Duration, Instant};

/// Longest time, in seconds, for which a bucket stays overdrawn: one reply of any length blocks nobody for longer.
const MAX_DEBT_SECONDS: f64 = 60.0;

/// A token bucket. It holds what may be used within one second, and may be overdrawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenBucket {
    per_second: f64,
    /// Below zero while it is overdrawn.
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket into which so many tokens come a second.
    pub fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second.max(1) as f64;
        Self { per_second, tokens: per_second, at: now }
    }

    /// Takes the tokens of which `wanted` are used at once. Returns how long the caller has to wait before it
    /// uses them: until all that were taken so far have come in.
    ///
    /// # Errors
    /// The wait would be longer than `max_wait`. Nothing is taken, and the result is after which time to ask again.
    pub fn take(
        &mut self,
        wanted: u64,
        max_wait: Duration,
        now: Instant,
    ) -> Result<Duration, Duration> {
        self.fill(now);
        let left = self.tokens - wanted as f64;
        let wait = Duration::from_secs_f64((-left / self.per_second).max(0.0));
        match wait.checked_sub(max_wait) {
            Some(excess) if !excess.is_zero() => Err(excess),
            _ => {
                self.tokens = left;
                Ok(wait)
            }
        }
    }

    /// Takes tokens that were used already.
    pub fn charge(&mut self, used: u64, now: Instant) {
        self.fill(now);
        self.tokens = (self.tokens - used as f64).max(-self.per_second * MAX_DEBT_SECONDS);
    }

    /// Gives tokens back that were taken and are not used.
    pub fn give_back(&mut self, unused: u64) {
        self.tokens = (self.tokens + unused as f64).min(self.per_second);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_worth_is_free_then_takers_wait_in_turn_and_then_they_are_refused() {
        let began = Instant::now();
        let mut bucket = TokenBucket::new(10, began);
        let millis = |result: Result<Duration, Duration>| match result {
            Ok(wait) => wait.as_millis() as i64,
            Err(excess) => -(excess.as_millis() as i64),
        };
        // When (ms), how many are wanted, the wait in ms; below zero: refused, for so long.
        for (at, wanted, expected) in [
            (0, 10, 0),
            (0, 1, 100),
            (0, 1, 200),
            (0, 8, 1000),
            (0, 1, -100),
            (100, 1, 1000),
            (100, 5, -500),
            // The debt of 11 is paid after 1.2 s; a whole second later the bucket is full, and not fuller.
            (1200, 0, 0),
            (9000, 10, 0),
            (9000, 1, 100),
            // Time that runs backwards changes nothing.
            (8000, 1, 200),
        ] {
            let now = began + Duration::from_millis(at);
            assert_eq!(millis(bucket.take(wanted, SECOND, now)), expected, "{at} ms, {wanted}");
        }
    }

    #[test]
    fn what_was_used_already_makes_the_next_wait() {
        let began = Instant::now();
        let mut bucket = TokenBucket::new(1000, began);
        bucket.charge(1500, began);
        assert_eq!(bucket.take(0, SECOND, began), Ok(SECOND / 2));
        bucket.charge(5000, began);
        assert_eq!(bucket.take(0, SECOND, began), Err(Duration::from_millis(4500)));
        assert_eq!(bucket.take(0, SECOND, began + 6 * SECOND), Ok(Duration::ZERO));
        bucket.charge(u64::MAX, began + 6 * SECOND);
        assert_eq!(bucket.take(0, SECOND, began + 6 * SECOND), Err(59 * SECOND));
        assert_eq!(bucket.take(0, SECOND, began + 66 * SECOND), Ok(Duration::ZERO));
        bucket.give_back(1_000_000);
        assert_eq!(bucket.take(1000, Duration::ZERO, began + 66 * SECOND), Ok(Duration::ZERO));
    }
}
