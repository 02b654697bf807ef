//! Durations counted in buckets, by any number of threads at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::octaves::{FIRST_BITS, LAST_BITS, OctaveTimes};

/// Buckets reach up to 2^26 µs, which is 67 s; one more holds all longer times.
const MAX_BITS: usize = LAST_BITS;

/// Counts durations, in microseconds.
///
/// Each octave (from a power of two to the next) has 2 to the power of `BITS` buckets: so a bucket is at most that part
/// as wide as the times in it.
#[derive(Debug)]
pub struct LogHistogram<const BITS: usize> {
    buckets: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

/// Counts durations to within 3 %, in 3 KiB.
pub type Histogram = LogHistogram<4>;

/// Counts durations to within 13 %, in less than 1 KiB.
pub type CoarseHistogram = LogHistogram<2>;

impl<const BITS: usize> Default for LogHistogram<BITS> {
    fn default() -> Self {
        let buckets = (0..buckets::<BITS>()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum_micros: AtomicU64::new(0) }
    }
}

impl<const BITS: usize> LogHistogram<BITS> {
    /// Counts `count` events that took this time.
    pub fn add(&self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket::<BITS>(micros)].fetch_add(count, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros.saturating_mul(count), Ordering::Relaxed);
    }

    /// A copy of all that was counted so far.
    pub fn times(&self) -> LogTimes<BITS> {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        LogTimes { counts, sum_micros: self.sum_micros.load(Ordering::Relaxed) }
    }

    /// How many events were counted so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// A copy of a [`LogHistogram`] at some moment, or the difference between two.
#[derive(Debug, Clone, Default)]
pub struct LogTimes<const BITS: usize> {
    /// By bucket; buckets after the end are empty.
    counts: Vec<u64>,
    sum_micros: u64,
}

/// A copy of a [`Histogram`].
pub type Times = LogTimes<4>;

/// A copy of a [`CoarseHistogram`].
pub type CoarseTimes = LogTimes<2>;

/// The same as [`LogTimes`] in little memory, if they are few.
#[derive(Debug)]
pub struct SparseTimes {
    /// The buckets that are not empty.
    counts: Box<[(u16, u64)]>,
    sum_micros: u64,
}

impl<const BITS: usize> LogTimes<BITS> {
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

    /// The same in little memory.
    pub fn sparse(&self) -> SparseTimes {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let counts = filled.map(|(bucket, count)| (bucket as u16, *count)).collect();
        SparseTimes { counts, sum_micros: self.sum_micros }
    }

    /// Adds times of the same histogram.
    pub fn add(&mut self, more: &SparseTimes) {
        self.counts.resize(self.counts.len().max(buckets::<BITS>()), 0);
        for (bucket, count) in &more.counts {
            self.counts[usize::from(*bucket)] += count;
        }
        self.sum_micros += more.sum_micros;
    }

    /// The time within which this share of all events, from 0 to 1, was over, give or take half a bucket's width;
    /// `None` if there are no events.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        let bounds = [bucket, bucket + 1].map(lower_bound::<BITS>);
        Some(Duration::from_micros((bounds[0] + bounds[1]) / 2))
    }

    /// The same events by powers of two of microseconds.
    pub fn octaves(&self) -> OctaveTimes {
        let mut rest = self.counts.iter().enumerate().peekable();
        let octaves = (FIRST_BITS..=MAX_BITS).map(|bits| {
            let mut count = 0;
            while let Some((_, more)) = rest.next_if(|(at, _)| lower_bound::<BITS>(*at) < 1 << bits)
            {
                count += more;
            }
            count
        });
        let mut octaves: Vec<u64> = octaves.collect();
        octaves.push(rest.map(|(_, count)| count).sum());
        OctaveTimes::new(octaves, self.sum())
    }
}

/// The number of buckets.
const fn buckets<const BITS: usize>() -> usize {
    ((MAX_BITS - BITS + 1) << BITS) + 1
}

/// The bucket that counts this time.
fn bucket<const BITS: usize>(micros: u64) -> usize {
    let octave = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS as u32 + 1);
    let within = (micros >> octave) as usize;
    (((octave as usize) << BITS) + within).min(buckets::<BITS>() - 1)
}

/// The shortest time that this bucket counts.
fn lower_bound<const BITS: usize>(bucket: usize) -> u64 {
    let octave = (bucket >> BITS).saturating_sub(1);
    ((bucket - (octave << BITS)) as u64) << octave
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(micros: impl IntoIterator<Item = u64>) -> Times {
        let histogram = Histogram::default();
        micros.into_iter().for_each(|micros| histogram.add(Duration::from_micros(micros), 1));
        histogram.times()
    }

    fn check_buckets<const BITS: usize>() {
        let last = buckets::<BITS>() - 1;
        for at in 0..last {
            let (first, next) = (lower_bound::<BITS>(at), lower_bound::<BITS>(at + 1));
            let widest = (first >> BITS).max(1);
            assert!(first < next && next - first <= widest, "{at}: {first} to {next}");
            assert_eq!((bucket::<BITS>(first), bucket::<BITS>(next - 1)), (at, at));
        }
        assert_eq!(bucket::<BITS>(u64::MAX), last);
    }

    #[test]
    fn each_bucket_begins_where_the_one_before_ends() {
        check_buckets::<4>();
        check_buckets::<2>();
    }

    #[test]
    fn sparse_times_are_the_same_times() {
        let (times, mut sum) = (counted([3, 900, 900, 1 << 40]), counted([3]));
        sum.add(&times.sparse());
        assert_eq!((sum.count(), sum.sum()), (5, times.sum() + Duration::from_micros(3)));
        assert_eq!(sum.octaves(), times.clone().with(&counted([3])).octaves());
        let mut none = Times::default();
        none.add(&times.sparse());
        assert_eq!(none.octaves(), times.octaves());
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
