//! Counters of the near cache, and what it says of itself.

use super::Counter;

/// What the near cache has done since the start of the process.
#[derive(Debug, Default)]
pub struct CacheMetrics {
    /// Reads that were answered from the cache.
    pub hits: Counter,
    /// Reads that could have been answered from the cache, and were not.
    pub misses: Counter,
    /// Reads that were made to fill the cache.
    pub fills: Counter,
    /// Keys that backends have said were changed.
    pub invalidations: Counter,
    /// How often all entries of a backend were dropped at once.
    pub flushes: Counter,
    /// Entries that made room for others.
    pub evictions: Counter,
}

/// What the near cache holds at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheSummary {
    /// Bytes of all entries, with their keys.
    pub bytes: u64,
    /// Most bytes that it may hold (`--cache`).
    pub max_bytes: u64,
    /// How many replies it holds.
    pub entries: u64,
    /// The keys that are read most, the hottest first.
    pub hottest: Vec<HotKey>,
}

/// A key that is read often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotKey {
    /// Its database.
    pub database: i64,
    /// The key.
    pub key: Vec<u8>,
    /// Estimate of how often it was read lately. Older reads count less.
    pub reads: u64,
}
