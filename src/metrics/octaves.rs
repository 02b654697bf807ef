//! Durations counted by powers of two: the buckets that Prometheus gets.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first octave has all durations below 2 to the power of this, in µs.
pub(super) const FIRST_BITS: usize = 6;

/// The last octave but one ends at 2 to the power of this, in µs, which is 67 s; the last one has all that is longer.
pub(super) const LAST_BITS: usize = 26;

const OCTAVES: usize = LAST_BITS - FIRST_BITS + 2;

/// Counts durations by octave. It takes a few cache lines: less than a [`Histogram`](super::Histogram), which is
/// more exact.
#[derive(Debug)]
pub(super) struct OctaveHistogram {
    counts: [AtomicU64; OCTAVES],
    sum_micros: AtomicU64,
}

impl Default for OctaveHistogram {
    fn default() -> Self {
        Self { counts: array::from_fn(|_| AtomicU64::new(0)), sum_micros: AtomicU64::new(0) }
    }
}

impl OctaveHistogram {
    /// Counts `count` events that took this time.
    pub fn add(&self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts[octave(micros)].fetch_add(count, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros.saturating_mul(count), Ordering::Relaxed);
    }

    /// Adds all that was counted so far to `times`.
    pub fn add_to(&self, times: &mut OctaveTimes) {
        for (to, count) in times.counts.iter_mut().zip(&self.counts) {
            *to += count.load(Ordering::Relaxed);
        }
        times.sum += Duration::from_micros(self.sum_micros.load(Ordering::Relaxed));
    }
}

/// The octave of a time.
fn octave(micros: u64) -> usize {
    let bits = (u64::BITS - micros.leading_zeros()) as usize;
    bits.saturating_sub(FIRST_BITS).min(OCTAVES - 1)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_octave_below_whose_bound_it_is() {
        for (micros, bound) in [
            (0, 64),
            (63, 64),
            (64, 128),
            (127, 128),
            (128, 256),
            ((1 << 26) - 1, 1 << 26),
            (1 << 26, u64::MAX),
            (u64::MAX, u64::MAX),
        ] {
            let (histogram, mut times) = (OctaveHistogram::default(), OctaveTimes::default());
            histogram.add(Duration::from_micros(micros), 3);
            histogram.add_to(&mut times);
            let found = times.buckets().into_iter().find(|(_, count)| *count > 0);
            let expected = match bound {
                u64::MAX => f64::INFINITY,
                micros => micros as f64 / 1_000_000.0,
            };
            assert_eq!(found, Some((expected, 3)), "{micros}");
            assert_eq!(times.count(), 3);
        }
    }
}
