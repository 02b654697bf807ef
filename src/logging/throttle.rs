//! Lines of the log that others can cause: one comes now and then, and the others are counted.

use std::time::{Duration, Instant};

use crate::sync::{Mutex, lock};

/// Shortest time between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets a line of one kind pass now and then.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    passed_at: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Of lines that have not come yet.
    pub const fn new() -> Self {
        Self(Mutex::new(State { passed_at: None, held_back: 0 }))
    }

    /// Returns whether a line may pass now: the end of its text, which tells how many were held back since the last.
    pub fn pass(&self, now: Instant) -> Option<String> {
        let mut state = lock(&self.0);
        if state.passed_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            state.held_back += 1;
            return None;
        }
        state.passed_at = Some(now);
        Some(match std::mem::take(&mut state.held_back) {
            0 => String::new(),
            count => format!(" ({count} more since the last such line)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
