//! Counters that many threads count in at once, each in memory that hardly any other thread writes.

use std::array;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Number of stripes: threads beyond share them.
const STRIPES: usize = 32;

/// Number of the next thread that counts.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
}

/// A number of the thread that calls: threads get them in turn.
pub(super) fn thread_number() -> usize {
    // It has no destructor, so it is there as long as the thread is.
    NUMBER.try_with(|number| *number).unwrap_or_default()
}

/// Counters of one stripe. Processors fetch two lines of 64 bytes together.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe<const N: usize>([AtomicU64; N]);

/// `N` numbers that only grow.
///
/// A thread counts in a stripe that it has to itself, or shares with few, so that threads don't take a processor's
/// cache line from each other. To read one means to add up all stripes.
#[derive(Debug)]
pub struct Striped<const N: usize>(Box<[Stripe<N>]>);

impl<const N: usize> Default for Striped<N> {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Stripe(array::from_fn(|_| AtomicU64::new(0)))).collect())
    }
}

impl<const N: usize> Striped<N> {
    /// Counts so many more at this place, which is below `N`.
    pub fn add(&self, at: usize, count: u64) {
        self.0[thread_number() % STRIPES].0[at].fetch_add(count, Ordering::Relaxed);
    }

    /// The count at this place, which is below `N`, since the start of the process.
    pub fn get(&self, at: usize) -> u64 {
        self.0.iter().map(|stripe| stripe.0[at].load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together() {
        let striped: Striped<3> = Striped::default();
        std::thread::scope(|scope| {
            for _ in 0..STRIPES + 3 {
                scope.spawn(|| (0..100).for_each(|n| striped.add(n % 2, 2)));
            }
        });
        let all = 100 * (STRIPES as u64 + 3);
        assert_eq!([0, 1, 2].map(|at| striped.get(at)), [all, all, 0]);
    }
}
