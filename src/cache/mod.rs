//! The near cache (`--cache`): hot reads are answered by the thread that reads the command, without a backend.
//!
//! It is kept right by Redis' own invalidation messages, and it is never wrong by more than they take to arrive:
//!
//! - All that is kept was read on a *tracker's* connection (`tracker`), on which invalidations come in order with
//!   replies. The time to live of a key is asked for with its value. An invalidation between the two discards the
//!   value.
//! - An entry belongs to one tracker, and so to one connection to one backend. When that ends, none of its entries
//!   counts. Nor does any while the tracker has not been heard for `--cache-max-silence`, or its backend is not up.
//! - An invalidation raises the counter of its key (`versions`), which each entry remembers (`position::Stamp`). Nothing
//!   has to be found and removed.
//! - A client whose last reply came by another connection may know more than the tracker. It gets nothing from here
//!   before the tracker has got an answer to something that was sent after that reply (`Tracker::wait_for`).
//! - Only keys that are asked for again are read for the cache (`admission`), and reads that miss at the same time
//!   are asked for once (`fill`). Whoever waits in vain goes the usual way, which fails over.

mod admission;
mod check;
mod entry;
mod fill;
pub mod hot_keys;
mod position;
#[cfg(test)]
mod position_tests;
mod store;
mod tracker;
mod tracker_thread;
mod versions;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{info, warn};

use self::admission::{KeyHash, RecentKeys};
use self::entry::{Content, EntryRef, MAX_ENTRY_BYTES};
pub use self::entry::{Entry, Page};
use self::fill::Fill;
use self::hot_keys::{HotKeys, SAMPLED_READS};
use self::store::Store;
use self::tracker::Clock;
pub use self::tracker::Tracker;
use self::tracker_thread::End;
use self::versions::Versions;
use crate::backend::BackendId;
use crate::config::Config;
use crate::health::Member;
use crate::metrics::Metrics;
use crate::metrics::cache::{CacheMetrics, CacheSummary};
use crate::policy::Policy;
use crate::policy::cacheable::CachedCommand;
use crate::policy::users::KeyGlob;
use crate::resp::Command;
use crate::sync::{Mutex, lock};

/// How long a client waits at most until the tracker has come as far as the client, and then for a fill. A wait in vain is
/// the only one: the read goes the usual way, so that a server that is silent costs no more.
const MAX_WAIT: Duration = Duration::from_millis(50);

/// Time after which a tracker that has ended is begun again.
const RESTART_TIME: Duration = Duration::from_secs(1);

/// Time after which a server is asked again that has refused.
const REFUSED_TIME: Duration = Duration::from_secs(60);

/// Most trackers of a backend, each of one database.
const MAX_TRACKERS: usize = 4;

/// One in so many of a backend's connections may be a tracker's. The others serve reads.
const TRACKED_PART: usize = 8;

/// There is one counter of versions, and one place for a key that was asked for, for so many bytes of the cache.
const BYTES_A_COUNTER: u64 = 1024;

/// Number of keys that are known to have long replies, a power of two.
const LONG_KEYS: usize = 1024;

/// Least and most counters.
const MIN_COUNTERS: u64 = 1 << 10;
const MAX_COUNTERS: u64 = 1 << 20;

/// Number of the command under which finished HTTP answers are kept. No command has it.
const PAGE: u8 = u8::MAX;

/// Longest time to live of a reply with fields that may have one of their own.
const FIELD_TIME: Duration = Duration::from_secs(1);

/// The near cache of all backends.
#[derive(Debug)]
pub struct Cache {
    clock: Clock,
    max_silence: Duration,
    store: Store,
    versions: Versions,
    hashes: RandomState,
    /// Keys that were asked for a short time ago.
    asked: RecentKeys,
    /// Keys of which a reply was too long to be kept, a short time ago.
    too_long: RecentKeys,
    hot_keys: HotKeys,
    /// `--no-cache`
    excluded: Vec<KeyGlob>,
    /// `--cache`
    max_bytes: u64,
    /// Bytes of the tables.
    table_bytes: u64,
    metrics: Arc<Metrics>,
    trackers: Mutex<HashMap<(BackendId, i64), Tracking>>,
    /// Why backends can't be tracked.
    refusals: Mutex<HashMap<BackendId, String>>,
    next_number: AtomicU64,
}

/// What becomes of one database of one backend.
#[derive(Debug)]
enum Tracking {
    /// It is tracked, or about to be.
    By(Arc<Tracker>),
    /// It is not, until then.
    NotUntil(Instant),
}

/// One read that may be kept.
#[derive(Debug, Clone, Copy)]
pub struct CachedRead<'a> {
    /// The command.
    pub command: CachedCommand,
    /// Number of its arguments, its name included.
    pub arg_count: usize,
    /// Its arguments without the name, encoded as they are sent.
    pub args: &'a [u8],
    /// Its key.
    pub key: &'a [u8],
    /// How long its reply counts at most.
    pub max_time: Duration,
}

impl<'a> CachedRead<'a> {
    /// Returns what may be kept of a command that reads one key.
    pub fn of(command: &Command<'a>, cached: CachedCommand, policy: &Policy) -> Self {
        let has_field_ttl = cached.is_hash && policy.has_field_ttl();
        Self {
            command: cached,
            arg_count: command.arg_count(),
            args: command.encoded_args(1, command.arg_count() - 1),
            key: command.arg(1).unwrap_or_default(),
            max_time: if has_field_ttl { FIELD_TIME } else { Duration::MAX },
        }
    }
}

/// What a client may know that a tracker does not: replies that came to it by another connection.
#[derive(Debug, Default)]
pub struct ReadElsewhere {
    /// Whether such a reply may have come, or be to come, since [`since`](Self::since) was asked.
    is_new: bool,
    since: Option<Instant>,
}

impl ReadElsewhere {
    /// Takes note that a read goes another way.
    pub fn note(&mut self) {
        self.is_new = true;
    }

    /// Returns when the last such reply had come; `None` if there was none. All are answered that were noted.
    pub fn since(&mut self) -> Option<Instant> {
        if std::mem::take(&mut self.is_new) {
            self.since = Some(Instant::now());
        }
        self.since
    }
}

/// What the cache has for a client.
#[derive(Debug)]
pub enum Found {
    /// It was there.
    Hit(Arc<Entry>),
    /// It may be asked for, to be kept.
    Miss,
    /// The client has to ask the backend: this is not worth keeping, or can't be at the moment.
    Nothing,
}

impl Cache {
    /// Returns the cache as it is configured; `None` if it is off.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Option<Arc<Self>> {
        let max_bytes = config.cache_bytes;
        if max_bytes == 0 {
            return None;
        }
        let counters = (max_bytes / BYTES_A_COUNTER).clamp(MIN_COUNTERS, MAX_COUNTERS);
        let counters = counters.next_power_of_two() as usize;
        let table_bytes = ((2 * counters + LONG_KEYS) * size_of::<u64>()) as u64;
        Some(Arc::new(Self {
            clock: Clock(Instant::now()),
            max_silence: config.cache_max_silence,
            store: Store::new(max_bytes.saturating_sub(table_bytes), Arc::clone(&metrics)),
            versions: Versions::new(counters),
            hashes: RandomState::new(),
            asked: RecentKeys::new(counters),
            too_long: RecentKeys::new(LONG_KEYS),
            hot_keys: HotKeys::default(),
            excluded: config.no_cache.clone(),
            max_bytes,
            table_bytes,
            metrics,
            trackers: Mutex::default(),
            refusals: Mutex::default(),
            next_number: AtomicU64::new(0),
        }))
    }

    /// Returns the tracker of one database of a backend. Where there is none, one begins if the `key` is asked for again.
    /// `None` while it can't be tracked.
    pub fn tracker(
        self: &Arc<Self>,
        member: &Arc<Member>,
        database: i64,
        key: &[u8],
    ) -> Option<Arc<Tracker>> {
        let mut trackers = lock(&self.trackers);
        match trackers.get(&(member.id, database)) {
            Some(Tracking::By(tracker)) => return Some(Arc::clone(tracker)),
            Some(Tracking::NotUntil(until)) if Instant::now() < *until => return None,
            _ => {}
        }
        let is_tracked = |(id, tracking): (&(BackendId, i64), &Tracking)| {
            id.0 == member.id && matches!(tracking, Tracking::By(_))
        };
        let hash = KeyHash::of(database, key, &self.hashes);
        if !self.asked.note(hash, self.clock.0.elapsed()) {
            return None;
        }
        let max = MAX_TRACKERS.min(member.pool.max_open() / TRACKED_PART);
        if trackers.iter().filter(|row| is_tracked(*row)).count() >= max {
            return None;
        }
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let (clock, max_silence) = (self.clock, self.max_silence);
        let member = Arc::clone(member);
        let tracker = Tracker::new(number, member, database, clock, max_silence, MAX_WAIT);
        let tracker = Arc::new(tracker);
        let started = tracker_thread::start(self, &tracker);
        let row = match &started {
            Ok(()) => Tracking::By(Arc::clone(&tracker)),
            Err(_) => Tracking::NotUntil(Instant::now() + RESTART_TIME),
        };
        trackers.insert((tracker.member.id, database), row);
        drop(trackers);
        if let Err(error) = started {
            let name = tracker.member.name();
            warn!("{name}: cannot start a thread for the cache: {error}");
            return None;
        }
        Some(tracker)
    }

    /// A tracker has begun: its backend does not refuse.
    fn begun(&self, tracker: &Tracker) {
        lock(&self.refusals).remove(&tracker.member.id);
    }

    /// A tracker has ended.
    fn ended(&self, tracker: &Tracker, end: End) {
        self.store.drop_all_of(tracker.number);
        let (backend, name) = (tracker.member.id, tracker.member.name());
        let mut trackers = lock(&self.trackers);
        let row = trackers.get(&(backend, tracker.database));
        let is_listed =
            matches!(row, Some(Tracking::By(listed)) if listed.number == tracker.number);
        // Not where the backend has been forgotten meanwhile.
        if !is_listed {
            return;
        }
        let mut not_until = |time: Duration| {
            let row = Tracking::NotUntil(Instant::now() + time);
            trackers.insert((backend, tracker.database), row);
        };
        match end {
            End::Idle => _ = trackers.remove(&(backend, tracker.database)),
            End::Lost(why) => {
                not_until(RESTART_TIME);
                drop(trackers);
                self.metrics.cache.flushes.add_one();
                info!("{name}: the cache has lost it for a moment: {why}");
            }
            End::Refused(why) => {
                not_until(REFUSED_TIME);
                let known = lock(&self.refusals).insert(backend, why.clone());
                drop(trackers);
                if known.as_ref() != Some(&why) {
                    warn!("{name} is read without the cache: {why}");
                }
            }
        }
    }

    /// Returns why a backend is read without the cache, if it is.
    pub fn refusal(&self, backend: BackendId) -> Option<String> {
        lock(&self.refusals).get(&backend).cloned()
    }

    /// A backend is gone for good.
    pub fn forget(&self, backend: BackendId) {
        let mut trackers = lock(&self.trackers);
        trackers.retain(|(id, _), _| *id != backend);
        lock(&self.refusals).remove(&backend);
    }

    /// Looks a read up for a client whose last reply by another connection came at `since`, if one did. Waits a moment
    /// where the tracker may not have come so far.
    pub fn get(&self, tracker: &Tracker, read: &CachedRead, since: Option<Instant>) -> Found {
        // What is as long as half of an entry may be is not copied to find out.
        let is_kept = read.args.len() <= MAX_ENTRY_BYTES / 2 && !self.is_excluded(read.key);
        if !is_kept {
            return Found::Nothing;
        }
        self.look_up(tracker, &read.name(tracker), since)
    }

    /// Waits a moment until the tracker has come as far as a client's last reply by another connection. Returns whether it
    /// has.
    pub fn reach(&self, tracker: &Tracker, since: Option<Instant>) -> bool {
        tracker.wait_for(self.moment(since))
    }

    /// Reads for the cache what is asked for again, for all who ask for the same. Returns the entry if the caller is to
    /// wait for it, and it came in a moment.
    pub fn fill(
        &self,
        tracker: &Tracker,
        read: &CachedRead,
        since: Option<Instant>,
        waits: bool,
    ) -> Option<Arc<Entry>> {
        let now = Instant::now();
        let hash = KeyHash::of(tracker.database, read.key, &self.hashes);
        let is_wanted = tracker.may_serve(self.clock.nanos(now))
            && !self.too_long.knows(hash, now - self.clock.0)
            && self.asked.note(hash, now - self.clock.0);
        if !is_wanted {
            return None;
        }
        let place = self.versions.place(tracker.member.id, read.key);
        let (name, sent_at) = (read.name(tracker).to_key(), self.clock.nanos(now));
        let fill = Fill::new(name, hash, read.command.form, place, sent_at, read.max_time);
        let (fill, is_new) = tracker.join_fill(fill, self.moment(since))?;
        if is_new {
            self.metrics.cache.fills.add_one();
            tracker.send_fill(&fill, read);
        }
        if waits { tracker.wait_for_fill(&fill) } else { None }
    }

    /// The finished HTTP answer to a request for a value, if it is there. `request` stands for what was asked.
    pub fn page(&self, tracker: &Tracker, request: &[u8], since: Option<Instant>) -> Found {
        self.look_up(tracker, &page_name(tracker, request), since)
    }

    /// Keeps the HTTP answer that was made of an entry, and returns its own. It counts as long as that does.
    pub fn keep_page(
        &self,
        tracker: &Tracker,
        request: &[u8],
        made_of: &Entry,
        page: Page,
    ) -> Arc<Entry> {
        let Entry { stamp, asked_at, .. } = *made_of;
        let entry = Arc::new(Entry { stamp, asked_at, content: Content::Page(page) });
        self.store.insert(page_name(tracker, request).to_key(), Arc::clone(&entry));
        entry
    }

    /// Returns whether all of these entries count at this moment. If they were found one after the other before, there was
    /// a moment at which they all did.
    pub fn are_current<'a>(
        &self,
        tracker: &Tracker,
        entries: impl IntoIterator<Item = &'a Arc<Entry>>,
    ) -> bool {
        let now = self.clock.nanos(Instant::now());
        entries.into_iter().all(|entry| self.is_current(tracker, entry, now))
    }

    fn look_up(&self, tracker: &Tracker, name: &EntryRef, since: Option<Instant>) -> Found {
        let since = self.moment(since);
        let find = || self.current(tracker, name);
        let (is_reached, found) = tracker.position.look_up(since, find);
        let Some(entry) = found else { return Found::Miss };
        if matches!(entry.content, Content::Unfit) {
            return Found::Nothing;
        }
        if is_reached {
            return hit(tracker, entry);
        }
        if !tracker.wait_for(since) {
            return Found::Nothing;
        }
        // What the client may know of has come by now.
        self.current(tracker, name).map_or(Found::Miss, |entry| hit(tracker, entry))
    }

    /// The entry of this name, if it counts at this moment.
    fn current(&self, tracker: &Tracker, name: &EntryRef) -> Option<Arc<Entry>> {
        let entry = self.store.get(name)?;
        self.is_current(tracker, &entry, self.clock.nanos(Instant::now())).then_some(entry)
    }

    fn is_current(&self, tracker: &Tracker, entry: &Entry, now: u64) -> bool {
        tracker.may_serve(now) && entry.stamp.is_current(&tracker.position, &self.versions, now)
    }

    /// Whether `--no-cache` keeps a key out.
    pub fn is_excluded(&self, key: &[u8]) -> bool {
        self.excluded.iter().any(|pattern| pattern.matches(key))
    }

    /// A reply is too long to be kept: no read of its key is tried again for a while.
    fn note_too_long(&self, fill: &Fill) {
        self.too_long.note(fill.hash, self.clock.0.elapsed());
    }

    fn moment(&self, since: Option<Instant>) -> u64 {
        since.map_or(0, |since| self.clock.nanos(since))
    }

    /// Returns its counters.
    pub fn metrics(&self) -> &CacheMetrics {
        &self.metrics.cache
    }

    /// Takes note of a hit of a key, for the list of hot keys. The caller counts it.
    pub fn note_hot(&self, database: i64, key: &[u8]) {
        // At random: a client that asks for its keys in turn would show the same one each time.
        if fastrand::u64(..SAMPLED_READS) == 0 {
            self.hot_keys.note(database, key);
        }
    }

    /// Returns what it holds, with so many of the keys that are read most.
    pub fn summary(&self, hottest: usize) -> CacheSummary {
        CacheSummary {
            bytes: self.store.bytes() + self.table_bytes,
            max_bytes: self.max_bytes,
            entries: self.store.len() as u64,
            hottest: self.hot_keys.hottest(hottest),
        }
    }

    /// How long ago an entry was read from its backend.
    pub fn age(&self, entry: &Entry) -> Duration {
        Duration::from_nanos(self.clock.nanos(Instant::now()).saturating_sub(entry.asked_at))
    }
}

impl CachedRead<'_> {
    fn name(&self, tracker: &Tracker) -> EntryRef<'_> {
        EntryRef { tracker: tracker.number, command: self.command.number, args: self.args }
    }
}

fn page_name<'a>(tracker: &Tracker, request: &'a [u8]) -> EntryRef<'a> {
    EntryRef { tracker: tracker.number, command: PAGE, args: request }
}

fn hit(tracker: &Tracker, entry: Arc<Entry>) -> Found {
    // Most find it set, and need not write what others read.
    if !tracker.is_used.load(Ordering::Relaxed) {
        tracker.is_used.store(true, Ordering::Relaxed);
    }
    Found::Hit(entry)
}
