//! Durations counted in buckets, by any number of threads at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::octaves::{FIRST_BITS, LAST_BITS, OctaveTimes};

/// Buckets in each octave (from a power of two to the next): a bucket is at most a sixteenth as wide
/// as the times in it.
const BUCKETS_IN_OCTAVE: usize = 1 << OCTAVE_BITS;
const OCTAVE_BITS: usize = 4;

/// Buckets reach up to 2^26 µs, which is 67 s; one more holds all longer times.
const MAX_BITS: usize = LAST_BITS;

const BUCKETS: usize = (MAX_BITS - OCTAVE_BITS + 1) * BUCKETS_IN_OCTAVE + 1;

/// Counts durations, in microseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_micros: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts `count` events that took this time.
    pub fn add(&self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(count, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros.saturating_mul(count), Ordering::Relaxed);
    }

    /// A copy of all that was counted so far.
    pub fn times(&self) -> Times {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Times { counts, sum_micros: self.sum_micros.load(Ordering::Relaxed) }
    }

    /// How many events were counted so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// A copy of a [`Histogram`] at some moment, or the difference between two.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// By bucket; buckets after the end are empty.
    counts: Vec<u64>,
    sum_micros: u64,
}

impl Times {
    /// How many events there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all times.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// Adds the times of another histogram.
    pub fn with(mut self, other: &Self) -> Self {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.sum_micros += other.sum_micros;
        self
    }

    /// Subtracts `earlier`, a copy of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().chain(std::iter::repeat(&0));
        let counts = self.counts.iter().zip(before).map(|(now, then)| now.saturating_sub(*then));
        let sum_micros = self.sum_micros.saturating_sub(earlier.sum_micros);
        Self { counts: counts.collect(), sum_micros }
    }

    /// The time within which this share of all events, from 0 to 1, was over, give or take 3 %; `None`
    /// if there are no events.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros((lower_bound(bucket) + lower_bound(bucket + 1)) / 2))
    }

    /// The same events by powers of two of microseconds.
    pub fn octaves(&self) -> OctaveTimes {
        let mut rest = self.counts.iter().enumerate().peekable();
        let octaves = (FIRST_BITS..=MAX_BITS).map(|bits| {
            let mut count = 0;
            while let Some((_, more)) = rest.next_if(|(at, _)| lower_bound(*at) < 1 << bits) {
                count += more;
            }
            count
        });
        let mut octaves: Vec<u64> = octaves.collect();
        octaves.push(rest.map(|(_, count)| count).sum());
        OctaveTimes::new(octaves, self.sum())
    }
}

/// The bucket that counts this time.
fn bucket(micros: u64) -> usize {
    let octave = (u64::BITS - micros.leading_zeros()).saturating_sub(OCTAVE_BITS as u32 + 1);
    let within = (micros >> octave) as usize;
    (octave as usize * BUCKETS_IN_OCTAVE + within).min(BUCKETS - 1)
}

/// The shortest time that this bucket counts.
fn lower_bound(bucket: usize) -> u64 {
    let octave = (bucket / BUCKETS_IN_OCTAVE).saturating_sub(1);
    ((bucket - octave * BUCKETS_IN_OCTAVE) as u64) << octave
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(micros: impl IntoIterator<Item = u64>) -> Times {
        let histogram = Histogram::default();
        micros.into_iter().for_each(|micros| histogram.add(Duration::from_micros(micros), 1));
        histogram.times()
    }

    #[test]
    fn each_bucket_begins_where_the_one_before_ends() {
        for at in 0..BUCKETS - 1 {
            let (first, next) = (lower_bound(at), lower_bound(at + 1));
            assert!(first < next && next - first <= (first / 16).max(1), "{at}: {first} to {next}");
            assert_eq!((bucket(first), bucket(next - 1)), (at, at));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_within_three_percent() {
        let times = counted(1..=100_000);
        for (share, expected) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let micros = times.percentile(share).expect("some").as_micros() as f64;
            assert!((micros / expected - 1.0).abs() < 0.035, "{share}: {micros}");
        }
        assert_eq!(counted([7]).percentile(0.99), Some(Duration::from_micros(7)));
        assert_eq!(counted([]).percentile(0.5), None);
    }

    #[test]
    fn octaves_hold_each_time_once() {
        let times = counted([0, 63, 64, 127, 128, (1 << 26) - 1, 1 << 26, u64::MAX / 4]);
        let octaves = times.octaves();
        let counts: Vec<u64> = octaves.buckets().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts[..3], [2, 2, 1]);
        assert_eq!(counts[counts.len() - 2..], [1, 2]);
        assert_eq!((times.count(), octaves.count(), octaves.sum()), (8, 8, times.sum()));
    }

    #[test]
    fn what_is_between_two_moments_is_their_difference() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_millis(1), 1);
        let earlier = histogram.times();
        histogram.add(Duration::from_millis(8), 1);
        let since = histogram.times().since(&earlier);
        assert_eq!((since.count(), since.sum()), (1, Duration::from_millis(8)));
        assert_eq!(histogram.times().since(&Times::default()).count(), 2);
        assert_eq!(earlier.clone().with(&since).count(), histogram.count());
    }
}
