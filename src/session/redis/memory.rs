//! Memory that all Redis clients together may hold beyond what each has anyway.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of bytes that each buffer of a client keeps while it is idle.
pub const IDLE_CAPACITY_BYTES: usize = 1024;

/// A bound for all clients together.
pub struct Budget {
    max_bytes: usize,
    held_bytes: AtomicUsize,
}

impl Budget {
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes, held_bytes: AtomicUsize::new(0) }
    }

    /// Whether some of it is left.
    pub fn has_room(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) < self.max_bytes
    }
}

/// Part of a budget that one client holds, until it is dropped.
pub struct Share {
    budget: &'static Budget,
    bytes: usize,
}

impl Share {
    pub fn of(budget: &'static Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it this much, whether there is room or not.
    pub fn set(&mut self, bytes: usize) {
        self.budget.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}
