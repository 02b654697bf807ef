//! The part of the status about the near cache.

use serde::Serialize;

use crate::logging::escaped;
use crate::metrics::cache::{CacheMetrics, CacheSummary, HotKey};
use crate::render::html;

/// Hottest keys that are shown.
pub(super) const MAX_HOTTEST: usize = 10;

/// Bytes of a key that are shown from its beginning, where keys say what they are about.
const SHOWN_BEGINNING_BYTES: usize = 40;

/// Bytes of a key that are shown from its end, where keys that begin alike differ.
const SHOWN_END_BYTES: usize = 24;

/// What stands for the rest of a key.
const CUT: char = '…';

#[derive(Debug, Serialize)]
pub(super) struct CacheStatus {
    bytes: u64,
    max_bytes: u64,
    entries: u64,
    hits: u64,
    misses: u64,
    fills: u64,
    invalidations: u64,
    flushes: u64,
    evictions: u64,
    /// `None` for those who may not see all keys.
    hottest: Option<Vec<HotKeyStatus>>,
}

#[derive(Debug, Serialize)]
struct HotKeyStatus {
    database: i64,
    key: String,
    reads: u64,
}

impl CacheStatus {
    /// The status of a cache that says this of itself, with its keys if it `shows_keys`.
    pub fn of(summary: CacheSummary, metrics: &CacheMetrics, shows_keys: bool) -> Self {
        let CacheSummary { bytes, max_bytes, entries, hottest } = summary;
        let hottest = shows_keys.then(|| hottest.into_iter().map(HotKeyStatus::of).collect());
        Self {
            bytes,
            max_bytes,
            entries,
            hits: metrics.hits.get(),
            misses: metrics.misses.get(),
            fills: metrics.fills.get(),
            invalidations: metrics.invalidations.get(),
            flushes: metrics.flushes.get(),
            evictions: metrics.evictions.get(),
            hottest,
        }
    }
}

impl HotKeyStatus {
    fn of(HotKey { database, key, reads }: HotKey) -> Self {
        Self { database, key: shown(&key), reads }
    }
}

/// Returns a key as text: a long one without its middle, bytes that are not UTF-8 and invisible characters as escapes.
fn shown(key: &[u8]) -> String {
    if key.len() <= SHOWN_BEGINNING_BYTES + SHOWN_END_BYTES {
        return text(key);
    }
    let beginning = html::cut(key, SHOWN_BEGINNING_BYTES);
    let end = &key[key.len() - SHOWN_END_BYTES..];
    // Without the rest of a character that was cut, which has three bytes more at most.
    let rest = end.iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count();
    let end = &end[rest..];
    format!("{}{CUT}{}", text(beginning), text(end))
}

fn text(bytes: &[u8]) -> String {
    let parts = bytes.utf8_chunks().map(|chunk| {
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        escaped(chunk.valid()) + &invalid.collect::<String>()
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_by_its_beginning_and_its_end() {
        let long = format!("{}{}", "a".repeat(60), "b".repeat(60));
        let cut = format!("{}…{}", "a".repeat(40), "b".repeat(24));
        let umlauts = "ü".repeat(50);
        for (key, expected) in [
            (&b"actor:1"[..], "actor:1"),
            (b"", ""),
            (&[b'a'; 64], &"a".repeat(64)),
            (long.as_bytes(), &cut),
            (
                &[b"a", umlauts.as_bytes()].concat(),
                &format!("a{}…{}", "ü".repeat(19), "ü".repeat(12)),
            ),
            (
                &[umlauts.as_bytes(), b"a"].concat(),
                &format!("{}…{}a", "ü".repeat(20), "ü".repeat(11)),
            ),
            (b"a\xff\x00b", "a\\xff\\0b"),
            ("\u{202e}<b>\r\n".as_bytes(), "\\u{202e}<b>\\r\\n"),
        ] {
            assert_eq!(shown(key), expected);
        }
    }

    #[test]
    fn those_who_may_not_see_all_keys_see_none() {
        let hottest = vec![HotKey { database: 0, key: b"secret".to_vec(), reads: 64 }];
        let summary = CacheSummary { hottest, ..CacheSummary::default() };
        for (shows_keys, expected) in [(true, true), (false, false)] {
            let status = CacheStatus::of(summary.clone(), &CacheMetrics::default(), shows_keys);
            let json = serde_json::to_string(&status).expect("JSON");
            assert_eq!(json.contains("secret"), expected, "{json}");
        }
    }
}
