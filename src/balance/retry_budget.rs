//! The retry budget: how many reads may be sent again because a backend was silent.
//!
//! A token bucket: while all backends are slow, sending every read twice would make them slower.

use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens that a retry costs. Each request adds one: a fifth of them may be sent again.
const PRICE: u64 = 5;

/// Retries that a new budget has.
const INITIAL: u64 = 64;

/// The retries that are left.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: AtomicU64,
    most: u64,
}

impl RetryBudget {
    /// Budget of 64 retries that grows up to `most`, and to 64 at least: each client that waits for a failing
    /// backend may need one.
    pub fn new(most: usize) -> Self {
        let most = (most as u64).max(INITIAL) * PRICE;
        Self { tokens: AtomicU64::new(INITIAL * PRICE), most }
    }

    /// Adds what a new request pays.
    pub fn deposit(&self) {
        // It is full most of the time. Two threads may exceed the limit by a little, which does no harm.
        if self.tokens.load(Ordering::Relaxed) < self.most {
            self.tokens.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of retries that are left.
    pub fn left(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed) / PRICE
    }

    /// Takes a retry, if one is left; returns whether it was.
    pub fn withdraw(&self) -> bool {
        let take = |tokens: u64| tokens.checked_sub(PRICE);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget) -> usize {
        (0..100_000).take_while(|_| budget.withdraw()).count()
    }

    #[test]
    fn a_fifth_of_all_requests_may_be_sent_again_and_64_more() {
        let budget = RetryBudget::new(1000);
        assert_eq!(taken(&budget), 64);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(taken(&budget), 20);
    }

    #[test]
    fn what_was_not_used_is_kept_up_to_a_limit() {
        let budget = RetryBudget::new(1000);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!(taken(&budget), 1000);
    }
}
