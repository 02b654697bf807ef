//! What was counted in the last minute, from copies of counts that only grow, of which one is taken a second.

use std::collections::VecDeque;
use std::time::Instant;

use crate::metrics::{LogTimes, SparseTimes};

/// Copies that are kept. With the present as the end, the oldest is 59 to 60 s old.
const COPIES: usize = 60;

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
        if self.later.len() == COPIES - 1
            && let Some(next) = self.later.pop_front()
        {
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
    /// The seconds between two copies each.
    seconds: VecDeque<SparseTimes>,
}

impl<const BITS: usize> TimesOfMinute<BITS> {
    /// Adds a copy of the times.
    pub fn add(&mut self, times: LogTimes<BITS>) {
        if self.seconds.len() == COPIES - 1
            && let Some(oldest) = self.seconds.pop_front()
        {
            self.before.add(&oldest);
        }
        self.seconds.push_back(times.since(&self.last).sparse());
        self.last = times;
    }

    /// The times of the minute that ends now.
    pub fn until(&self, now: &LogTimes<BITS>) -> LogTimes<BITS> {
        now.since(&self.before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn counts_and_times_are_of_the_same_minute() {
        let (histogram, began) = (Histogram::default(), Instant::now());
        let mut counts = CountsOfMinute::new(began, 0);
        let mut times = TimesOfMinute::default();
        for second in 0..200 {
            for (count, time) in [(2, 1), (1, 1000)] {
                histogram.add(Duration::from_millis(time), count);
            }
            let (so_far, now) = (histogram.count(), began + Duration::from_secs(second + 1));
            let (begin, before) = counts.begin();
            assert_eq!(times.until(&histogram.times()).count(), so_far - before, "{second}");
            let seconds = (now - *begin).as_secs();
            assert_eq!((seconds, so_far - before), ((second + 1).min(60), seconds * 3));
            counts.add(now, so_far);
            times.add(histogram.times());
        }
    }
}
