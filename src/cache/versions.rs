//! Which keys have changed: counters that invalidations raise.

use std::hash::{BuildHasher, RandomState};

use crate::backend::BackendId;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Fixed table of counters, one for all keys with the same hash. An invalidation raises the counter of its key,
/// in whatever database the key was changed, since Redis does not say. What was read before counts no more then: the
/// key's entries, and those of the few others with the same hash, which are read again.
///
/// So an invalidation takes no lock, and needs no list of a key's entries.
#[derive(Debug)]
pub struct Versions {
    counters: Box<[AtomicU64]>,
    hashes: RandomState,
}

/// The counter of a key of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

impl Versions {
    /// Returns a table with so many counters, a power of two, of 8 bytes each.
    pub fn new(counters: usize) -> Self {
        debug_assert!(counters.is_power_of_two());
        let counters = (0..counters).map(|_| AtomicU64::new(0)).collect();
        Self { counters, hashes: RandomState::new() }
    }

    /// Returns the place of a key.
    pub fn place(&self, backend: BackendId, key: &[u8]) -> Place {
        let hash = self.hashes.hash_one((backend, key));
        Place(hash as u32 & (self.counters.len() - 1) as u32)
    }

    /// Returns how often keys of this place were invalidated.
    pub fn get(&self, place: Place) -> u64 {
        self.counters[place.0 as usize].load(Ordering::Acquire)
    }

    /// Takes note of an invalidation.
    pub fn raise(&self, place: Place) {
        self.counters[place.0 as usize].fetch_add(1, Ordering::AcqRel);
    }
}
