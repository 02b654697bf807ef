//! What was counted in the last minute, from copies of counts that only grow, of which one is taken a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::metrics::{LogTimes, SparseTimes};

/// The age of a copy from which on the minute begins with it, or with a later one. Copies come a second apart, give or
/// take a little: so with the present as the end, the minute is 59 to 60 s long, and as much longer as no copy was
/// taken while it began.
const AGE: Duration = Duration::from_millis(58_500);

/// Counts as they were in each second of the last minute.
#[derive(Debug)]
pub(super) struct CountsOfMinute<C> {
    /// When the minute began, and the counts at that time.
    begin: (Instant, C),
    later: VecDeque<(Instant, C)>,
}

impl<C> CountsOfMinute<C> {
    /// Begins with these counts.
    pub fn new(at: Instant, counts: C) -> Self {
        Self { begin: (at, counts), later: VecDeque::new() }
    }

    /// Adds a copy of the counts.
    pub fn add(&mut self, at: Instant, counts: C) {
        while let Some(next) = take_old(&mut self.later, at) {
            self.begin = next;
        }
        self.later.push_back((at, counts));
    }

    /// When the minute began, and the counts at that time.
    pub fn begin(&self) -> &(Instant, C) {
        &self.begin
    }
}

/// Times as they were in each second of the last minute.
#[derive(Debug, Default)]
pub(super) struct TimesOfMinute<const BITS: usize> {
    /// All that was before the minute.
    before: LogTimes<BITS>,
    /// The newest copy.
    last: LogTimes<BITS>,
    /// The times between two copies each, with the moment of the later one.
    seconds: VecDeque<(Instant, SparseTimes)>,
}

impl<const BITS: usize> TimesOfMinute<BITS> {
    /// Adds a copy of the times.
    pub fn add(&mut self, at: Instant, times: LogTimes<BITS>) {
        while let Some((_, oldest)) = take_old(&mut self.seconds, at) {
            self.before.add(&oldest);
        }
        self.seconds.push_back((at, times.since(&self.last).sparse()));
        self.last = times;
    }

    /// The times of the minute that ends now.
    pub fn until(&self, now: &LogTimes<BITS>) -> LogTimes<BITS> {
        now.since(&self.before)
    }
}

/// Takes the oldest copy if the minute does not begin before it.
fn take_old<T>(copies: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<(Instant, T)> {
    let is_old = |copy: &&(Instant, T)| now.saturating_duration_since(copy.0) >= AGE;
    copies.front().filter(is_old)?;
    copies.pop_front()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn counts_and_times_are_of_the_same_minute() {
        let (histogram, began) = (Histogram::default(), Instant::now());
        let mut counts = CountsOfMinute::new(began, 0);
        let mut times = TimesOfMinute::default();
        // From 201 s on the process stands still for 30 s.
        for second in (1..=200).chain(231..400) {
            for (count, time) in [(2, 1), (1, 1000)] {
                histogram.add(Duration::from_millis(time), count);
            }
            let (so_far, now) = (histogram.count(), began + Duration::from_secs(second));
            let (begin, before) = counts.begin();
            assert_eq!(times.until(&histogram.times()).count(), so_far - before, "{second}");
            let seconds = (now - *begin).as_secs();
            match second {
                ..=200 => assert_eq!((seconds, so_far - before), (second.min(60), seconds * 3)),
                231 => assert_eq!(seconds, 90),
                290 => assert_eq!((seconds, so_far - before), (90, 60 * 3)),
                _ => assert!(seconds == 60 || (232..291).contains(&second), "{second}: {seconds}"),
            }
            counts.add(now, so_far);
            times.add(now, histogram.times());
        }
    }
}
