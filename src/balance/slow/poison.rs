//! Reads that have killed servers: they are refused, and reads like them get one try.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::ReadKey;
use crate::sync::{Mutex, lock};

/// Time that a server needs to die of a read. One that dies sooner died of something else: a process that is
/// being ended still takes in bytes for a moment.
const MIN_TIME_TO_KILL: Duration = Duration::from_millis(20);

/// How long a read that has killed two servers is refused, and reads like it get one try.
const POISON_TIME: Duration = Duration::from_secs(60);

/// Limit of reads that are remembered; the oldest make room.
const MAX_POISONS: usize = 256;

/// Relation of a read to those that have killed servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poisoned {
    /// Its exact bytes have killed two servers: it is refused.
    Itself,
    /// One of its kind has: it gets one try.
    ItsKind,
}

/// The reads that have killed two servers within the last minute.
#[derive(Debug, Default)]
pub struct Poison {
    /// Their number, which is 0 most of the time: then no lock is taken.
    count: AtomicUsize,
    reads: Mutex<Vec<(ReadKey, Instant)>>,
}

impl Poison {
    /// Whether a server may have died of a read that had been unanswered for this time.
    pub fn is_long_enough(time: Duration) -> bool {
        time >= MIN_TIME_TO_KILL
    }

    /// Adds a read: two servers have died while it was unanswered, and nothing else was.
    pub fn add(&self, read: ReadKey, now: Instant) {
        let mut reads = lock(&self.reads);
        reads.retain(|(known, at)| known.exact != read.exact && now - *at < POISON_TIME);
        if reads.len() == MAX_POISONS {
            reads.remove(0);
        }
        reads.push((read, now));
        self.count.store(reads.len(), Ordering::Release);
    }

    /// Whether a read has killed servers, or one of its kind has.
    pub fn lookup(&self, read: &ReadKey, now: Instant) -> Option<Poisoned> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut reads = lock(&self.reads);
        reads.retain(|(_, at)| now.saturating_duration_since(*at) < POISON_TIME);
        self.count.store(reads.len(), Ordering::Release);
        let known = || reads.iter().map(|(known, _)| known);
        if known().any(|known| known.exact == read.exact) {
            return Some(Poisoned::Itself);
        }
        known().any(|known| known.kind == read.kind).then_some(Poisoned::ItsKind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: u64, exact: u64) -> ReadKey {
        ReadKey { kind, exact, is_fast: false }
    }

    #[test]
    fn its_bytes_are_refused_and_its_kind_gets_one_try_for_a_minute() {
        let (poison, now) = (Poison::default(), Instant::now());
        assert_eq!(poison.lookup(&read(1, 1), now), None);
        poison.add(read(1, 1), now);
        assert_eq!(poison.lookup(&read(1, 1), now), Some(Poisoned::Itself));
        assert_eq!(poison.lookup(&read(1, 2), now), Some(Poisoned::ItsKind));
        assert_eq!(poison.lookup(&read(2, 3), now), None);
        assert_eq!(poison.lookup(&read(1, 1), now + POISON_TIME), None);
    }

    #[test]
    fn no_more_than_a_bounded_number_is_remembered() {
        let (poison, now) = (Poison::default(), Instant::now());
        (0..=MAX_POISONS as u64).for_each(|number| poison.add(read(number, number), now));
        assert_eq!(poison.lookup(&read(0, 0), now), None, "the oldest made room");
        assert_eq!(poison.lookup(&read(1, 1), now), Some(Poisoned::Itself));
    }
}
