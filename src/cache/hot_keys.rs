//! The keys that are read most, of which only a bounded sample is kept.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi 2005): each place counts one key. A key that has no place takes that of
//! the key with the fewest reads, and its count. So a key that is read more often than one in `PLACES` reads has a
//! place, and counts are too high at most by the smallest one. Reads that are long ago count for less and less.

use std::time::{Duration, Instant};

pub use crate::metrics::cache::HotKey;
use crate::sync::{Mutex, lock};

/// Number of keys that are counted: several times what is shown, so that those which are shown are counted well.
const PLACES: usize = 64;

/// Longest key that is counted, so that all together take 64 KiB. Longer ones are left out: of a key that is cut,
/// two may look alike.
const MAX_KEY_BYTES: usize = 1024;

/// Time in which a read comes to count half as much: after an hour, it is one of 64.
const HALF_LIFE: Duration = Duration::from_secs(10 * 60);

/// Reads that each call of [`HotKeys::note`] stands for: the caller samples one hit of so many.
pub const SAMPLED_READS: u64 = 64;

/// A bounded sample of the keys that are read most.
#[derive(Debug)]
pub struct HotKeys(Mutex<Places>);

#[derive(Debug)]
struct Places {
    keys: Vec<HotKey>,
    /// Until when reads have been halved.
    halved_at: Instant,
}

impl Default for HotKeys {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl HotKeys {
    /// Creates a sample that has seen no reads.
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Places { keys: Vec::new(), halved_at: now }))
    }

    /// Counts a read of this key, which stands for [`SAMPLED_READS`].
    pub fn note(&self, database: i64, key: &[u8]) {
        self.note_at(database, key, Instant::now());
    }

    /// Returns the keys that are read most, at most `max`, the hottest first.
    pub fn hottest(&self, max: usize) -> Vec<HotKey> {
        self.hottest_at(max, Instant::now())
    }

    fn note_at(&self, database: i64, key: &[u8], now: Instant) {
        if key.len() > MAX_KEY_BYTES {
            return;
        }
        let mut places = lock(&self.0);
        places.decay(now);
        places.count(database, key);
    }

    fn hottest_at(&self, max: usize, now: Instant) -> Vec<HotKey> {
        let mut places = lock(&self.0);
        places.decay(now);
        let mut keys = places.keys.clone();
        drop(places);
        keys.sort_by(|one, other| {
            let order = |key: &HotKey| (key.reads, std::cmp::Reverse(key.database));
            order(other).cmp(&order(one)).then_with(|| one.key.cmp(&other.key))
        });
        keys.truncate(max);
        keys
    }
}

impl Places {
    fn count(&mut self, database: i64, key: &[u8]) {
        let is_it = |own: &&mut HotKey| own.database == database && own.key == key;
        if let Some(own) = self.keys.iter_mut().find(is_it) {
            own.reads += SAMPLED_READS;
            return;
        }
        let new = |reads| HotKey { database, key: key.to_owned(), reads: reads + SAMPLED_READS };
        if self.keys.len() < PLACES {
            self.keys.push(new(0));
        } else if let Some(coldest) = self.keys.iter_mut().min_by_key(|own| own.reads) {
            *coldest = new(coldest.reads);
        }
    }

    /// Halves the reads once for each half-life that has passed, and forgets keys that have none left.
    fn decay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.halved_at);
        let times =
            (passed.as_nanos() / HALF_LIFE.as_nanos()).min(u128::from(u64::BITS - 1)) as u32;
        if times == 0 {
            return;
        }
        // After so many, all are zero whatever the rest of the time.
        self.halved_at =
            if times == u64::BITS - 1 { now } else { self.halved_at + HALF_LIFE * times };
        self.keys.iter_mut().for_each(|own| own.reads >>= times);
        self.keys.retain(|own| own.reads >= SAMPLED_READS / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hot: &HotKeys, max: usize, now: Instant) -> Vec<String> {
        let keys = hot.hottest_at(max, now).into_iter();
        keys.map(|key| {
            format!("{}:{}={}", key.database, String::from_utf8_lossy(&key.key), key.reads)
        })
        .collect()
    }

    #[test]
    fn the_keys_that_are_read_most_come_first_whatever_their_database() {
        let now = Instant::now();
        for (reads, max, expected) in [
            (&[][..], 3, &[][..]),
            (&[(0, "a")], 3, &["0:a=64"]),
            (&[(0, "a"), (0, "b"), (0, "b")], 3, &["0:b=128", "0:a=64"]),
            (&[(0, "a"), (1, "a"), (1, "a")], 3, &["1:a=128", "0:a=64"]),
            (&[(0, "b"), (0, "a"), (1, "a")], 2, &["0:a=64", "0:b=64"]),
            (&[(0, "a"), (0, "b"), (0, "b")], 1, &["0:b=128"]),
            (&[(0, "a")], 0, &[]),
        ] {
            let hot = HotKeys::new(now);
            reads.iter().for_each(|(database, key)| hot.note_at(*database, key.as_bytes(), now));
            assert_eq!(names(&hot, max, now), expected, "{reads:?}");
        }
    }

    #[test]
    fn a_hot_key_keeps_its_place_among_any_number_of_others() {
        let (hot, now) = (HotKeys::new(Instant::now()), Instant::now());
        for round in 0..10_000 {
            hot.note_at(0, format!("cold:{round}").as_bytes(), now);
            if round % 20 == 0 {
                hot.note_at(0, b"hot", now);
            }
        }
        let all = hot.hottest_at(usize::MAX, now);
        assert_eq!(all.len(), PLACES);
        assert_eq!(all[0].key, b"hot");
        let (reads, most) = (500 * SAMPLED_READS, 10_500 / PLACES as u64 * SAMPLED_READS);
        assert!((reads..=reads + most).contains(&all[0].reads), "{}", all[0].reads);
    }

    #[test]
    fn what_was_hot_an_hour_ago_goes() {
        let start = Instant::now();
        let hot = HotKeys::new(start);
        (0..100).for_each(|_| hot.note_at(0, b"then", start));
        for (minutes, expected) in [(9, 6400), (10, 3200), (29, 1600), (60, 100), (70, 50), (80, 0)]
        {
            let now = start + Duration::from_secs(60 * minutes);
            let reads = hot.hottest_at(1, now).first().map_or(0, |key| key.reads);
            assert_eq!(reads, expected, "after {minutes} minutes");
        }
        let much_later = start + Duration::from_secs(60 * 60 * 24 * 365);
        hot.note_at(0, b"now", much_later);
        assert_eq!(names(&hot, 9, much_later), ["0:now=64"]);
    }

    #[test]
    fn an_hour_is_enough_for_another_key_to_be_hotter() {
        let start = Instant::now();
        let hot = HotKeys::new(start);
        (0..1000).for_each(|_| hot.note_at(0, b"then", start));
        let later = start + Duration::from_secs(60 * 60);
        (0..20).for_each(|_| hot.note_at(0, b"now", later));
        assert_eq!(names(&hot, 1, later), ["0:now=1280"]);
    }

    #[test]
    fn keys_that_are_too_long_are_left_out() {
        let (hot, now) = (HotKeys::new(Instant::now()), Instant::now());
        hot.note_at(0, &[b'a'; MAX_KEY_BYTES], now);
        hot.note_at(0, &[b'b'; MAX_KEY_BYTES + 1], now);
        let keys = hot.hottest_at(9, now);
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].key, [b'a'; MAX_KEY_BYTES]);
    }
}
