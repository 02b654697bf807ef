//! What the subscribers of all backends share: the memory for their messages and names, and the list of those that are
//! behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::slow::SlowList;
use crate::memory::MemoryBudget;

/// Part of `--max-memory`, as its denominator, that messages may take which subscribers have not taken. Over it,
/// those that are most behind are cut off. Most of the budget is left for clients that read.
const MESSAGES_PART: usize = 4;

/// Part of `--max-memory`, as its denominator, that the names of all subscriptions may take. Over it, more are refused:
/// names alone close no client.
const NAMES_PART: usize = 2;

/// What the subscribers of all backends share.
#[derive(Debug)]
pub struct Subscribers {
    budget: Arc<MemoryBudget>,
    /// Bytes of messages that are kept, and of their places in queues.
    kept: AtomicUsize,
    /// Bytes of names, which count in the memory of their clients.
    names: AtomicUsize,
    pub(super) slow: SlowList,
}

impl Subscribers {
    /// Nobody has subscribed yet.
    pub fn new(budget: Arc<MemoryBudget>) -> Arc<Self> {
        let (kept, names) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { budget, kept, names, slow: SlowList::default() })
    }

    /// How many bytes of messages are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// By how many bytes more is kept than may be.
    pub(super) fn excess_bytes(&self) -> usize {
        self.kept_bytes().saturating_sub(self.budget.max_bytes() / MESSAGES_PART)
    }
}

/// Bytes that are kept for subscribers, as long as this lives.
#[derive(Debug)]
pub(super) struct Kept {
    subscribers: Arc<Subscribers>,
    bytes: usize,
}

impl Kept {
    /// Counts so many bytes.
    pub fn new(subscribers: &Arc<Subscribers>, bytes: usize) -> Self {
        let mut kept = Self { subscribers: Arc::clone(subscribers), bytes: 0 };
        kept.set(bytes);
        kept
    }

    /// Makes it this many bytes.
    pub fn set(&mut self, bytes: usize) {
        let Subscribers { budget, kept, .. } = &*self.subscribers;
        match bytes.checked_sub(self.bytes) {
            Some(0) => {}
            Some(more) => {
                kept.fetch_add(more, Ordering::Relaxed);
                budget.add_common(more);
            }
            None => {
                kept.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
                budget.give_back_common(self.bytes - bytes);
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The memory for the names of one client, as a part of what those of all clients may take.
#[derive(Debug)]
pub struct NamesShare {
    subscribers: Arc<Subscribers>,
    bytes: usize,
}

impl NamesShare {
    /// Of a client without names.
    pub fn new(subscribers: &Arc<Subscribers>) -> Self {
        Self { subscribers: Arc::clone(subscribers), bytes: 0 }
    }

    /// Adds so many bytes; false, and adds nothing, where all clients together would have too many.
    pub fn add(&mut self, bytes: usize) -> bool {
        let Subscribers { budget, names, .. } = &*self.subscribers;
        let max = budget.max_bytes() / NAMES_PART;
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= max);
        let is_added = names.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        self.bytes += if is_added { bytes } else { 0 };
        is_added
    }

    /// Adds what another share of the client has.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives so many bytes back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.subscribers.names.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for NamesShare {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_clients_have_one_bound() {
        let subscribers = Subscribers::new(Arc::new(MemoryBudget::new(100)));
        let [mut first, mut second] = [(); 2].map(|()| NamesShare::new(&subscribers));
        assert!(first.add(30) && second.add(20));
        assert!(!first.add(1) && !second.add(usize::MAX));
        first.shrink(20);
        assert!(second.add(20) && !second.add(1));
        drop(second);
        assert!(first.add(40));
    }

    #[test]
    fn kept_messages_count_in_the_budget_until_they_are_taken() {
        let budget = Arc::new(MemoryBudget::new(100));
        let subscribers = Subscribers::new(Arc::clone(&budget));
        let mut kept = Kept::new(&subscribers, 30);
        assert_eq!((budget.held_bytes(), subscribers.excess_bytes()), (30, 5));
        kept.set(20);
        assert_eq!((budget.held_bytes(), subscribers.excess_bytes()), (20, 0));
        drop(kept);
        assert_eq!((budget.held_bytes(), subscribers.kept_bytes()), (0, 0));
    }
}
