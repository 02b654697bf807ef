//! How much of something there is a second, from counts that only grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time that a rate is about, less half a second: readings come a second apart, give or take a little.
const WINDOW: Duration = Duration::from_millis(4500);

/// A count as it was in the last five seconds.
#[derive(Debug, Default)]
pub(super) struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Adds a reading of the count.
    pub fn add(&mut self, at: Instant, count: u64) {
        let is_old = |then: &(Instant, u64)| at.saturating_duration_since(then.0) >= WINDOW;
        while self.0.get(1).is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.push_back((at, count));
    }

    /// How much there was a second between the readings of the window, however far apart they are; 0 before there are
    /// two.
    pub fn per_second(&self) -> f64 {
        let [Some((begin, before)), Some((end, count))] = [self.0.front(), self.0.back()] else {
            return 0.0;
        };
        let seconds = end.saturating_duration_since(*begin).as_secs_f64();
        if seconds > 0.0 { count.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_goes_by_the_time_between_the_readings() {
        let began = Instant::now();
        let mut rate = Rate::default();
        rate.add(began, 100);
        assert_eq!(rate.per_second(), 0.0);
        let mut after = |seconds: f64, count| {
            rate.add(began + Duration::from_secs_f64(seconds), count);
            rate.per_second()
        };
        assert_eq!(after(1.0, 110), 10.0);
        (2..=9).for_each(|second| _ = after(f64::from(second), 100 + second as u64 * 10));
        assert_eq!(after(10.0, 300), 30.0, "over five seconds");
        // The process stood still for a minute.
        assert_eq!(after(70.0, 900), 10.0);
        assert_eq!(after(71.0, 910), 10.0);
    }
}
