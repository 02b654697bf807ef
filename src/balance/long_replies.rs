//! Which reads of Redis clients have had long replies, so that the next of them take turns.
//!
//! How long a reply is shows when it comes. The first time, it is read at once. From then on, for a while, the
//! exact read is known: it is sent alone, in its turn, and not on a shared connection.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time for which a read is known to have a long reply.
const KNOWN_TIME: Duration = Duration::from_secs(60);

/// Number of reads that are known at most. A new one takes the place of another with the same hash.
const READS: usize = 4096;

/// Low bits of an entry, which say when its reply came: seconds after the start, plus 1; 0 for never. The others
/// are of the hash.
const TIME_BITS: u32 = 32;

/// Table of the reads whose replies were long a short time ago. Takes 32 KiB, and no lock.
#[derive(Debug)]
pub struct LongReplies {
    entries: Box<[AtomicU64]>,
    hashes: RandomState,
    began: Instant,
    /// When a long reply came last, as in the entries. Without one, no read is looked up.
    last_at: AtomicU64,
}

impl Default for LongReplies {
    fn default() -> Self {
        Self {
            entries: (0..READS).map(|_| AtomicU64::new(0)).collect(),
            hashes: RandomState::new(),
            began: Instant::now(),
            last_at: AtomicU64::new(0),
        }
    }
}

impl LongReplies {
    /// Returns whether the reply to this command was long a short time ago.
    pub fn is_known(&self, command: &[u8]) -> bool {
        self.is_known_at(command, Instant::now)
    }

    fn is_known_at(&self, command: &[u8], now: impl FnOnce() -> Instant) -> bool {
        let last_at = self.last_at.load(Ordering::Relaxed);
        if last_at == 0 {
            return false;
        }
        let oldest = self.time(now()).saturating_sub(KNOWN_TIME.as_secs());
        if last_at <= oldest {
            return false;
        }
        let (place, tag) = self.place(command);
        let entry = place.load(Ordering::Relaxed);
        entry >> TIME_BITS == tag && entry & ((1 << TIME_BITS) - 1) > oldest
    }

    /// Takes note that the reply to this command was long.
    pub fn note(&self, command: &[u8]) {
        self.note_at(command, Instant::now());
    }

    fn note_at(&self, command: &[u8], now: Instant) {
        let now = self.time(now);
        let (place, tag) = self.place(command);
        place.store(tag << TIME_BITS | now, Ordering::Relaxed);
        self.last_at.store(now, Ordering::Relaxed);
    }

    fn time(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs().min((1 << TIME_BITS) - 2) + 1
    }

    fn place(&self, command: &[u8]) -> (&AtomicU64, u64) {
        let hash = self.hashes.hash_one(command);
        (&self.entries[hash as usize % READS], hash >> TIME_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_with_a_long_reply_is_known_for_a_while() {
        let reads = LongReplies::default();
        let at = |seconds| reads.began + Duration::from_secs(seconds);
        assert!(!reads.is_known_at(b"a", || at(0)));
        reads.note_at(b"a", at(10));
        for (command, seconds, expected) in [
            (&b"a"[..], 10, true),
            (b"b", 10, false),
            (b"a", 69, true),
            (b"a", 70, false),
            (b"a", 1_000_000, false),
        ] {
            let is_known = reads.is_known_at(command, || at(seconds));
            assert_eq!(is_known, expected, "{} at {seconds}", command.escape_ascii());
        }
    }
}
