//! Which reads are quick, slow, or of unknown class: learned from how long reads of the same kind took.
//!
//! The table is 4096 buckets of four atomics, without a lock. Kinds that are known well push out kinds that
//! were seen once; a kind that was pushed out is unknown again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::Class;
use crate::config::LiveConfig;
use crate::policy::{self, Script};
use crate::resp::Command;

/// Limit of arguments up to which a command that the servers flag `fast` is taken to be quick. It takes a short
/// time for each of them.
pub const MAX_FAST_ARGUMENTS: usize = 64;

/// Quick answers in a row that make a kind quick.
const QUICK_ANSWERS: u64 = 20;

/// Part of the backend timeout, as its denominator, within which an answer is quick.
const QUICK_PART: u32 = 10;

/// Part of the backend timeout, as its denominator, after which an unanswered read is slow.
const SLOW_PART: u32 = 2;

/// How long a kind, or one exact command, counts as slow.
const SLOW_TIME: Duration = Duration::from_secs(10 * 60);

/// Buckets of the table, which takes 128 KiB.
const BUCKETS: usize = 4096;

/// Entries in each bucket.
const WAYS: usize = 4;

/// How much of a key the log shows.
const MAX_SHOWN_KEY_BYTES: usize = 64;

/// Layout of an entry, from the low bits on: the quick answers in a row, whether it has to be measured
/// alone, when it was slow (seconds after the start, plus 1; 0 for never), and a part of the hash.
const STREAK_BITS: u32 = 5;
const ALONE_BITS: u32 = 1;
const SLOW_AT_BITS: u32 = 30;
const TAG_BITS: u32 = 64 - STREAK_BITS - ALONE_BITS - SLOW_AT_BITS;

/// Knowledge about a read before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadProfile {
    /// Knowledge about how long it takes.
    pub class: Class,
    /// Whether the servers flag all of it `fast`: no server dies of such a read.
    pub is_fast: bool,
    /// Whether it gets one try: a read of its kind has killed servers.
    pub has_one_try: bool,
    /// The kind of script that it runs, if it runs one.
    pub script: Option<Script>,
}

impl ReadProfile {
    /// Profile of a read that every server answers at once.
    pub const QUICK: Self =
        Self { class: Class::Quick, is_fast: true, has_one_try: false, script: None };

    /// Profile of two reads that are sent together.
    pub fn with(self, other: Self) -> Self {
        Self {
            class: self.class.max(other.class),
            is_fast: self.is_fast && other.is_fast,
            has_one_try: self.has_one_try || other.has_one_try,
            script: self.script.or(other.script),
        }
    }
}

/// Identity of a read and of its kind. Cheap to copy: hashes, no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadKey {
    /// Hash of its kind: command, beginning of the key, magnitude of the number of arguments.
    pub kind: u64,
    /// Hash of its exact bytes.
    pub exact: u64,
    /// Whether the servers flag it `fast`, and it has few arguments.
    pub is_fast: bool,
}

impl ReadKey {
    /// The key of several reads that are answered as one.
    pub fn with(self, other: Self) -> Self {
        let join = |a: u64, b: u64| a.rotate_left(5) ^ b;
        Self {
            kind: join(self.kind, other.kind),
            exact: join(self.exact, other.exact),
            is_fast: self.is_fast && other.is_fast,
        }
    }
}

/// Evidence about a kind, from the answer to one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Observation {
    /// It was quick once more.
    Quick,
    /// Nothing: it may have waited for another read.
    None,
    /// It is slow, or a read beside it was: next time it is measured alone.
    MeasureAlone,
    /// It was not quick, and not slow either.
    Late,
    /// It is slow.
    Slow,
}

/// Evidence about a kind from an answer after `time`.
///
/// A server may be silent for `timeout`. `is_alone` means that no other read that is not quick was unanswered
/// on that server meanwhile.
fn observe(time: Duration, timeout: Duration, class: Class, is_alone: bool) -> Observation {
    let is_slow = time >= timeout / SLOW_PART;
    match (is_alone, class) {
        _ if time < timeout / QUICK_PART => Observation::Quick,
        (false, _) if is_slow => Observation::MeasureAlone,
        (false, _) => Observation::None,
        // The server may have been silent for another reason: once is no proof.
        (true, Class::Quick) => Observation::Late,
        (true, _) if is_slow => Observation::Slow,
        (true, _) => Observation::Late,
    }
}

/// Table of the kinds of reads, and of exact commands that were slow. Bounded: what is
/// forgotten is unknown again.
#[derive(Debug)]
pub struct Kinds {
    entries: Box<[AtomicU64]>,
    hashes: RandomState,
    began: Instant,
    config: LiveConfig,
    /// When an exact command was marked slow last, as in the entries. While that counts, each command is
    /// looked up.
    exact_at: AtomicU64,
}

impl Kinds {
    /// Empty table.
    pub fn new(config: &LiveConfig) -> Self {
        Self {
            entries: (0..BUCKETS * WAYS).map(|_| AtomicU64::new(0)).collect(),
            hashes: RandomState::new(),
            began: Instant::now(),
            config: config.clone(),
            exact_at: AtomicU64::new(0),
        }
    }

    /// How long a read that is not quick may keep its server silent until it counts as slow.
    pub fn slow_after(&self) -> Duration {
        self.config.get().backend_timeout / SLOW_PART
    }

    /// Whether a read is quick without a look at the table, as most are.
    pub fn is_surely_quick(&self, arguments: usize, is_flagged_fast: bool) -> bool {
        is_flagged_fast && arguments <= MAX_FAST_ARGUMENTS && !self.has_exact()
    }

    /// The key of a Redis command. `key` is the number of the argument that tells its kind: its first key, or
    /// its script.
    pub fn key(&self, command: &Command, key: usize, is_flagged_fast: bool) -> ReadKey {
        let arguments = command.arg_count();
        let name = command.name();
        let key = command.arg(key).unwrap_or_default();
        // Scripts that begin alike may do different things.
        let beginning = if policy::is_script(command) { key } else { beginning(key) };
        ReadKey {
            kind: self.kind(name, beginning, arguments),
            exact: self.hash(&[b"exact"], command.bytes()),
            is_fast: is_flagged_fast && arguments <= MAX_FAST_ARGUMENTS,
        }
    }

    /// The key of an HTTP read; `what` is asked of this Redis key, the first of so many.
    pub fn http_key(&self, what: &str, key: &[u8], rest: &[u8], count: usize) -> ReadKey {
        ReadKey {
            kind: self.kind(what.as_bytes(), beginning(key), count),
            exact: self.hash(&[what.as_bytes(), key], rest),
            is_fast: false,
        }
    }

    fn kind(&self, name: &[u8], beginning: &[u8], arguments: usize) -> u64 {
        let mut lower = [0; 32];
        let name = &name[..name.len().min(lower.len())];
        lower[..name.len()].copy_from_slice(name);
        lower.make_ascii_lowercase();
        let magnitude = match arguments {
            ..=MAX_FAST_ARGUMENTS => 0,
            many => many.ilog2() as u8,
        };
        self.hash(&[&lower[..name.len()], &[magnitude]], beginning)
    }

    fn hash(&self, parts: &[&[u8]], last: &[u8]) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        for part in parts.iter().copied().chain([last]) {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }

    /// Returns what is known of how long a read takes.
    pub fn class(&self, read: &ReadKey) -> Class {
        if self.has_exact() && self.find(read.exact).is_some_and(|entry| self.is_slow(entry)) {
            return Class::Slow;
        }
        if read.is_fast {
            return Class::Quick;
        }
        match self.find(read.kind) {
            Some(entry) if self.is_slow(entry) => Class::Slow,
            Some(entry) if streak(entry) >= QUICK_ANSWERS && !must_be_alone(entry) => Class::Quick,
            _ => Class::Unknown,
        }
    }

    /// Returns what is known of several reads that are answered as one. Known by `together` alone if they were
    /// late together, otherwise as the slowest of them, too.
    pub fn class_together(&self, together: &ReadKey, each: &[ReadKey]) -> Class {
        let was_late = self.find(together.kind).is_some_and(|entry| streak(entry) == 0);
        let slowest = || each.iter().map(|read| self.class(read)).max();
        match self.class(together) {
            Class::Unknown if !was_late => slowest().unwrap_or(Class::Unknown),
            class => class,
        }
    }

    /// Whether nothing of its kind has been answered yet.
    pub fn is_new(&self, read: &ReadKey) -> bool {
        !read.is_fast && self.find(read.kind).is_none()
    }

    /// Whether it is sent while no other read that is not quick is unanswered on its server: last time it
    /// was not clear which of them was slow.
    pub fn is_measured_alone(&self, read: &ReadKey) -> bool {
        !read.is_fast && self.find(read.kind).is_some_and(must_be_alone)
    }

    /// Learns from an answer after `time`; `is_alone` as in [`observe`].
    pub fn record_answer(&self, read: &ReadKey, time: Duration, is_alone: bool) {
        if read.is_fast && time < self.slow_after() {
            return;
        }
        let observation =
            observe(time, self.config.get().backend_timeout, self.class(read), is_alone);
        match observation {
            Observation::Slow => self.mark_slow(read),
            _ if read.is_fast => {}
            // The kind is no longer new.
            Observation::None => self.change(read.kind, |entry| entry),
            Observation::Quick => self.change(read.kind, |entry| {
                let more = (streak(entry) + 1).min(QUICK_ANSWERS);
                // After enough quick answers, one at a time, the kind is slow no more; the exact command is.
                let slow_at = if more == QUICK_ANSWERS { 0 } else { slow_at(entry) };
                pack(more, false, slow_at)
            }),
            Observation::MeasureAlone => self.measure_alone(read),
            Observation::Late => self.change(read.kind, |entry| pack(0, false, slow_at(entry))),
        }
    }

    /// Marks a read, and its kind, as slow: it has kept its server silent for too long, and nothing else can
    /// be the reason.
    pub fn mark_slow(&self, read: &ReadKey) {
        let now = self.now();
        if !read.is_fast {
            self.change(read.kind, |_| pack(0, false, now));
        }
        self.exact_at.store(now, Ordering::Relaxed);
        self.change(read.exact, |_| pack(0, false, now));
    }

    /// Takes back that a read and its kind are slow: a broken connection was the reason.
    pub fn clear_blame(&self, read: &ReadKey) {
        if self.find(read.exact).is_some() {
            self.change(read.exact, |_| pack(0, false, 0));
        }
        if !read.is_fast {
            self.change(read.kind, |entry| pack(streak(entry), false, 0));
        }
    }

    /// Has a kind measured alone next time: one of several reads has kept their server silent, and it could
    /// be any of them.
    pub fn measure_alone(&self, read: &ReadKey) {
        if !read.is_fast {
            self.change(read.kind, |entry| pack(streak(entry), true, slow_at(entry)));
        }
    }

    /// Whether an exact command counts as slow.
    fn has_exact(&self) -> bool {
        let at = self.exact_at.load(Ordering::Relaxed);
        at > 0 && self.now().saturating_sub(at) < SLOW_TIME.as_secs()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_secs() + 1
    }

    fn is_slow(&self, entry: u64) -> bool {
        let at = slow_at(entry);
        at > 0 && self.now().saturating_sub(at) < SLOW_TIME.as_secs()
    }

    fn bucket(&self, hash: u64) -> &[AtomicU64] {
        let bucket = hash as usize % BUCKETS;
        &self.entries[bucket * WAYS..][..WAYS]
    }

    fn find(&self, hash: u64) -> Option<u64> {
        let entries = self.bucket(hash).iter().map(|entry| entry.load(Ordering::Relaxed));
        entries.filter(|&entry| entry != 0).find(|&entry| tag(entry) == tag(hash))
    }

    /// Changes what is held of a hash. A race with another change loses one of the two, no more.
    fn change(&self, hash: u64, change: impl Fn(u64) -> u64) {
        let bucket = self.bucket(hash);
        let held = |place: &AtomicU64| place.load(Ordering::Relaxed);
        let is_it = |entry: u64| entry != 0 && tag(entry) == tag(hash);
        let place = bucket.iter().find(|place| is_it(held(place)));
        // Kinds that are known best stay: kinds that were seen once take each other's places.
        let least = || bucket.iter().min_by_key(|place| self.worth(held(place)));
        let Some(place) = place.or_else(least) else { return };
        let old = held(place);
        let known = if is_it(old) { old } else { 0 };
        let changed = change(known) | (tag(hash) << (64 - TAG_BITS));
        if changed != old {
            place.store(changed, Ordering::Relaxed);
        }
    }

    fn worth(&self, entry: u64) -> u64 {
        match entry {
            0 => 0,
            slow if self.is_slow(slow) => QUICK_ANSWERS + 1,
            other => 1 + streak(other),
        }
    }
}

/// The part that keys of one kind have in common: up to the last `:`. A key without one is cut before the
/// digits at its end.
fn beginning(key: &[u8]) -> &[u8] {
    match key.iter().rposition(|&byte| byte == b':') {
        Some(at) => &key[..=at],
        None => {
            let digits = key.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            if digits < key.len() { &key[..key.len() - digits] } else { key }
        }
    }
}

/// Text that shows a read in the log and on pages: its command, and where its key begins.
pub fn shown(name: &[u8], key: &[u8]) -> String {
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_SHOWN_KEY_BYTES)]);
    let text = String::from_utf8_lossy(&key[..key.len().min(MAX_SHOWN_KEY_BYTES)]).into_owned();
    format!("{} {}", name.to_ascii_uppercase(), crate::logging::escaped(&text))
}

/// Returns the part of such a text that names no key: the command, or what stands for it.
pub fn without_key(label: &str) -> &str {
    label.split(' ').next().unwrap_or_default()
}

fn tag(hash: u64) -> u64 {
    hash >> (64 - TAG_BITS)
}

fn streak(entry: u64) -> u64 {
    entry & ((1 << STREAK_BITS) - 1)
}

fn must_be_alone(entry: u64) -> bool {
    entry >> STREAK_BITS & 1 == 1
}

fn slow_at(entry: u64) -> u64 {
    entry >> (STREAK_BITS + ALONE_BITS) & ((1 << SLOW_AT_BITS) - 1)
}

fn pack(streak: u64, is_alone: bool, slow_at: u64) -> u64 {
    let slow_at = slow_at.min((1 << SLOW_AT_BITS) - 1);
    streak | u64::from(is_alone) << STREAK_BITS | slow_at << (STREAK_BITS + ALONE_BITS)
}

#[cfg(test)]
#[path = "kinds_tests.rs"]
mod tests;
