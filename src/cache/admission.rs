//! Which keys are worth keeping: those that are asked for again within a while.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time within which a key has to be asked for twice.
const A_WHILE: Duration = Duration::from_secs(60);

/// Low bits of a place, which say when its key was asked for last: seconds after the start, plus 1; 0 for never.
/// The others are of the key's hash.
const TIME_BITS: u32 = 32;

/// Table of the keys that were asked for a short time ago. A key takes the place of another with the same hash, so a
/// scan over any number of keys, each asked for once, fills nothing. Takes no lock.
#[derive(Debug)]
pub struct Admission {
    places: Box<[AtomicU64]>,
    hashes: RandomState,
}

impl Admission {
    /// Returns a table with so many places, a power of two, of 8 bytes each.
    pub fn new(places: usize) -> Self {
        debug_assert!(places.is_power_of_two());
        Self {
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
            hashes: RandomState::new(),
        }
    }

    /// Returns whether the key was asked for within the last minute, and takes note that it is now, so long after the
    /// start.
    pub fn is_asked_again(&self, database: i64, key: &[u8], now: Duration) -> bool {
        let hash = self.hashes.hash_one((database, key));
        let place = &self.places[hash as usize & (self.places.len() - 1)];
        let (tag, time) = (hash >> TIME_BITS, now.as_secs() + 1);
        let last = place.swap(tag << TIME_BITS | time, Ordering::Relaxed);
        let last_time = last & ((1 << TIME_BITS) - 1);
        last >> TIME_BITS == tag && last_time != 0 && time <= last_time + A_WHILE.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_asked_again_within_a_while_in_the_same_database() {
        let seen = Admission::new(64);
        let at = Duration::from_secs;
        assert!(!seen.is_asked_again(0, b"key", at(0)), "the first time");
        assert!(seen.is_asked_again(0, b"key", at(0)));
        assert!(seen.is_asked_again(0, b"key", at(60)));
        assert!(!seen.is_asked_again(0, b"key", at(121)), "the last time was too long ago");
        assert!(!seen.is_asked_again(1, b"key", at(121)), "in another database");
    }

    #[test]
    fn a_scan_admits_nothing() {
        let seen = Admission::new(64);
        for number in 0..10_000 {
            let key = format!("key:{number}");
            assert!(!seen.is_asked_again(0, key.as_bytes(), Duration::from_secs(1)), "{key}");
        }
    }
}
