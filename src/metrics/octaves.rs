//! Durations by powers of two: the buckets that Prometheus gets.

use std::array;
use std::time::Duration;

/// The first octave has all durations below 2 to the power of this, in µs.
pub(super) const FIRST_BITS: usize = 6;

/// The last octave but one ends at 2 to the power of this, in µs, which is 67 s; the last one has all that is longer.
pub(super) const LAST_BITS: usize = 26;

const OCTAVES: usize = LAST_BITS - FIRST_BITS + 2;

/// Durations by octave, at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OctaveTimes {
    counts: [u64; OCTAVES],
    sum: Duration,
}

impl OctaveTimes {
    /// Of these numbers of durations in each octave, and of the sum of all.
    pub(super) fn new(counts: impl IntoIterator<Item = u64>, sum: Duration) -> Self {
        let mut counts = counts.into_iter();
        Self { counts: array::from_fn(|_| counts.next().unwrap_or(0)), sum }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The number of durations in each octave, with the octave's upper bound in seconds.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bound = |at: usize| match at + 1 < OCTAVES {
            true => Duration::from_micros(1 << (FIRST_BITS + at)).as_secs_f64(),
            false => f64::INFINITY,
        };
        self.counts.iter().enumerate().map(|(at, count)| (bound(at), *count)).collect()
    }
}
