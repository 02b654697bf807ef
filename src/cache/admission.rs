//! Keys that were asked for a short time ago: one that is asked for again is worth keeping.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time for which a key is known: within it, a key has to be asked for twice.
const WINDOW: Duration = Duration::from_secs(60);

/// Low bits of a place, which say when its key was asked for last: seconds after the start, plus 1; 0 for never.
/// The others are of the key's hash.
const TIME_BITS: u32 = 32;

/// Table of the keys that were noted a short time ago. A key takes the place of another with the same hash, so a scan over any
/// number of keys, each asked for once, fills nothing. Takes no lock.
#[derive(Debug)]
pub struct RecentKeys {
    places: Box<[AtomicU64]>,
}

/// The hash of a key, for all tables of a cache.
#[derive(Debug, Clone, Copy)]
pub struct KeyHash(u64);

impl KeyHash {
    /// Hashes a key of a database.
    pub fn of(database: i64, key: &[u8], hashes: &RandomState) -> Self {
        Self(hashes.hash_one((database, key)))
    }
}

impl RecentKeys {
    /// Returns a table with so many places, a power of two, of 8 bytes each.
    pub fn new(places: usize) -> Self {
        debug_assert!(places.is_power_of_two());
        Self { places: (0..places).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Notes a key, so long after the start, and returns whether it had been noted within the last minute.
    pub fn note(&self, key: KeyHash, now: Duration) -> bool {
        let (tag, time) = (key.0 >> TIME_BITS, now.as_secs() + 1);
        let last = self.place(key).swap(tag << TIME_BITS | time, Ordering::Relaxed);
        is_recent(last, tag, time)
    }

    /// Returns whether a key was noted within the last minute.
    pub fn knows(&self, key: KeyHash, now: Duration) -> bool {
        let last = self.place(key).load(Ordering::Relaxed);
        is_recent(last, key.0 >> TIME_BITS, now.as_secs() + 1)
    }

    fn place(&self, key: KeyHash) -> &AtomicU64 {
        &self.places[key.0 as usize & (self.places.len() - 1)]
    }
}

fn is_recent(last: u64, tag: u64, time: u64) -> bool {
    let last_time = last & ((1 << TIME_BITS) - 1);
    last >> TIME_BITS == tag && last_time != 0 && time <= last_time + WINDOW.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_within_a_minute_in_the_same_database() {
        let (recent, hashes) = (RecentKeys::new(64), RandomState::new());
        let at = Duration::from_secs;
        let [key, other] = [0, 1].map(|database| KeyHash::of(database, b"key", &hashes));
        assert!(!recent.knows(key, at(0)) && !recent.note(key, at(0)), "the first time");
        assert!(recent.knows(key, at(0)) && recent.note(key, at(0)));
        assert!(recent.note(key, at(60)));
        assert!(!recent.note(key, at(121)), "the last time was too long ago");
        assert!(!recent.note(other, at(121)), "in another database");
    }

    #[test]
    fn a_scan_admits_nothing() {
        let (recent, hashes) = (RecentKeys::new(64), RandomState::new());
        for number in 0..10_000 {
            let key = format!("key:{number}");
            let hash = KeyHash::of(0, key.as_bytes(), &hashes);
            assert!(!recent.note(hash, Duration::from_secs(1)), "{key}");
        }
    }
}
