//! How many reads may be sent again because a backend was silent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that pay for one retry: one request in five may be sent again.
const PRICE: u64 = 5;

/// What is there at the beginning, in budget.
const FLOOR: u64 = 64;

/// A token bucket: when all backends are slow, sending everything twice would make them slower.
#[derive(Debug)]
pub struct RetryBudget {
    /// In fifths of a retry.
    tokens: AtomicU64,
    most: u64,
}

impl RetryBudget {
    /// Holds at most `most` budget, and at least 64: each client that waits for a backend when it
    /// fails may need one.
    pub fn new(most: usize) -> Self {
        let most = (most as u64).max(FLOOR) * PRICE;
        Self { tokens: AtomicU64::new(FLOOR * PRICE), most }
    }

    /// A request is made.
    pub fn deposit(&self) {
        // Most of the time it is full. A little more than that does no harm.
        if self.tokens.load(Ordering::Relaxed) < self.most {
            self.tokens.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests may be sent again.
    pub fn left(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed) / PRICE
    }

    /// Whether a request may be sent again.
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
