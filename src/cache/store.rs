//! The entries of all backends, within a bound of bytes.

use std::sync::Arc;

use quick_cache::sync::Cache as Entries;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::entry::{Entry, EntryKey, EntryRef, MAX_ENTRY_BYTES};
use crate::metrics::Metrics;

/// Usual size of an entry, by which the tables are laid out first.
const USUAL_ENTRY_BYTES: u64 = 512;

/// Number of entries that have gone and are remembered, as a part of those that are there.
const GHOST_PART: f64 = 0.1;

/// Least bytes of each part of the store, which has a lock of its own.
const MIN_SHARD_BYTES: u64 = 16 * MAX_ENTRY_BYTES as u64;

/// Most parts.
const MAX_SHARDS: u64 = 64;

/// The entries. One that nobody asks for makes room for others first.
#[derive(Debug)]
pub struct Store {
    entries: Entries<EntryKey, Arc<Entry>, Bytes, DefaultHashBuilder, Evictions>,
}

/// Weighs entries in bytes.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<EntryKey, Arc<Entry>> for Bytes {
    fn weight(&self, key: &EntryKey, entry: &Arc<Entry>) -> u64 {
        entry.bytes(key) as u64
    }
}

/// Counts the entries that make room for others.
#[derive(Debug, Clone)]
struct Evictions(Arc<Metrics>);

impl Lifecycle<EntryKey, Arc<Entry>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: EntryKey, _: Arc<Entry>) {
        self.0.cache.evictions.add_one();
    }
}

impl Store {
    /// Returns an empty store for so many bytes.
    pub fn new(max_bytes: u64, metrics: Arc<Metrics>) -> Self {
        let shards = (max_bytes / MIN_SHARD_BYTES).clamp(1, MAX_SHARDS);
        let options = OptionsBuilder::new()
            .shards(shards as usize)
            .estimated_items_capacity((max_bytes / USUAL_ENTRY_BYTES) as usize)
            .weight_capacity(max_bytes)
            // What it remembers of entries that have gone takes room beside them.
            .ghost_allocation(GHOST_PART)
            .build()
            .expect("both capacities are set");
        let (hashes, evictions) = (DefaultHashBuilder::default(), Evictions(metrics));
        Self { entries: Entries::with_options(options, Bytes, hashes, evictions) }
    }

    pub fn get(&self, key: &EntryRef) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// Keeps an entry, if it is not too long.
    pub fn insert(&self, key: EntryKey, entry: Arc<Entry>) {
        if entry.bytes(&key) <= MAX_ENTRY_BYTES {
            self.entries.insert(key, entry);
        }
    }

    /// Drops all entries of one tracker.
    pub fn drop_all_of(&self, tracker: u64) {
        self.entries.retain(|key, _| key.tracker != tracker);
    }

    /// Number of bytes that all entries take, those included that count no more.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
