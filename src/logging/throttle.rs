//! Lines of the log that others can cause: one comes now and then, and the others are counted.

use std::time::{Duration, Instant};

use crate::sync::{Mutex, lock};

/// Usual shortest time between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets a line of one kind pass now and then.
#[derive(Debug)]
pub(crate) struct Throttle {
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    passed_at: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Of lines that have not come yet.
    pub const fn new() -> Self {
        Self::every(PAUSE)
    }

    /// Of lines that have not come yet, and of which one may pass in each `pause`.
    pub const fn every(pause: Duration) -> Self {
        Self { pause, state: Mutex::new(State { passed_at: None, held_back: 0 }) }
    }

    /// Returns how many lines were held back since the last if another may pass now.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.passed_at.is_some_and(|at| now.saturating_duration_since(at) < self.pause) {
            state.held_back += 1;
            return None;
        }
        state.passed_at = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }

    /// Returns whether a line may pass now: the end of its text, which tells how many were held back since the last.
    pub fn pass(&self, now: Instant) -> Option<String> {
        Some(match self.admit(now)? {
            0 => String::new(),
            count => format!(" ({count} more since the last such line)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_left_out_and_counted() {
        let (throttle, began) = (Throttle::every(Duration::from_secs(1)), Instant::now());
        let at = |millis| throttle.admit(began + Duration::from_millis(millis));
        assert_eq!(
            [at(0), at(1), at(999), at(1000), at(2000)],
            [Some(0), None, None, Some(2), Some(0)]
        );
    }

    #[test]
    fn one_line_passes_in_a_while_and_the_others_are_counted() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.pass(now).as_deref(), Some(""));
        assert_eq!(throttle.pass(now), None);
        assert_eq!(throttle.pass(now + PAUSE / 2), None);
        let counted = throttle.pass(now + PAUSE);
        assert_eq!(counted.as_deref(), Some(" (2 more since the last such line)"));
        assert_eq!(throttle.pass(now + PAUSE * 2).as_deref(), Some(""));
    }
}
