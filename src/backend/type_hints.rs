//! Type hints: a key's value probably has the type of the last value whose key began alike. A right
//! hint saves a read one of its two round trips.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHasher;

use crate::resp::value_type::ValueType;

/// Number of prefixes that are remembered. A new one takes the place of another.
const SLOTS: usize = 256;

/// Number of short values that must follow a long value, or a wrong hint, before there is a hint again:
/// a read that follows a wrong hint is made twice.
const SHORT_AFTER_A_LONG: u64 = 1000;

const KIND_BITS: u32 = 8;
const WAIT_BITS: u32 = 16;
/// The types of one server's values by database and by the prefixes of their keys, up to the last `:`.
#[derive(Debug)]
pub struct TypeHints {
    /// Each holds, from its low bits on: the number of a type, plus 1; how many short values must come
    /// before it is a hint; the rest of the prefix's hash.
    slots: [AtomicU64; SLOTS],
}

impl Default for TypeHints {
    fn default() -> Self {
        Self { slots: [const { AtomicU64::new(0) }; SLOTS] }
    }
}

impl TypeHints {
    /// Returns the type that this key's value probably has, if the value is probably short.
    pub fn of(&self, database: i64, key: &[u8]) -> Option<ValueType> {
        let (slot, tag) = self.slot(database, key);
        let held = slot.load(Ordering::Relaxed);
        let is_it = held >> (KIND_BITS + WAIT_BITS) == tag && wait(held) == 0;
        ValueType::ALL.get((held as u8).checked_sub(1).filter(|_| is_it)? as usize).copied()
    }

    /// Notes that the hint for this key was wrong, or its value long.
    pub fn distrust(&self, database: i64, key: &[u8]) {
        if let Some(kind) = self.of(database, key) {
            self.note(database, key, kind, true);
        }
    }

    /// Notes the type of this key's value.
    pub fn note(&self, database: i64, key: &[u8], kind: ValueType, is_long: bool) {
        let (slot, tag) = self.slot(database, key);
        let held = slot.load(Ordering::Relaxed);
        let is_known = held >> (KIND_BITS + WAIT_BITS) == tag;
        let wait = match is_long {
            true => SHORT_AFTER_A_LONG,
            false if is_known => wait(held).saturating_sub(1),
            false => 0,
        };
        let number =
            ValueType::ALL.iter().position(|known| *known == kind).map_or(0, |at| at as u64 + 1);
        let new = (tag << WAIT_BITS | wait) << KIND_BITS | number;
        if new != held {
            slot.store(new, Ordering::Relaxed);
        }
    }

    fn slot(&self, database: i64, key: &[u8]) -> (&AtomicU64, u64) {
        let prefix = key.iter().rposition(|&byte| byte == b':').map_or(&[][..], |at| &key[..at]);
        let mut hasher = FxHasher::default();
        hasher.write_i64(database);
        hasher.write(prefix);
        let hash = hasher.finish();
        let tag = hash >> (KIND_BITS + WAIT_BITS);
        (&self.slots[hash as usize % SLOTS], tag)
    }
}

fn wait(held: u64) -> u64 {
    held >> KIND_BITS & ((1 << WAIT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_begin_alike_are_of_one_type() {
        let type_hints = TypeHints::default();
        assert_eq!(type_hints.of(0, b"actor:1"), None);
        type_hints.note(0, b"actor:1", ValueType::Hash, false);
        assert_eq!(type_hints.of(0, b"actor:2"), Some(ValueType::Hash));
        assert_eq!(type_hints.of(0, b"film:1"), None);
        assert_eq!(type_hints.of(1, b"actor:2"), None);
        type_hints.note(0, b"actor:3", ValueType::Set, false);
        assert_eq!(type_hints.of(0, b"actor:2"), Some(ValueType::Set));
    }

    #[test]
    fn after_a_long_value_there_is_no_hint_for_long() {
        let type_hints = TypeHints::default();
        type_hints.note(0, b"a:1", ValueType::List, true);
        for _ in 0..SHORT_AFTER_A_LONG {
            assert_eq!(type_hints.of(0, b"a:2"), None);
            type_hints.note(0, b"a:2", ValueType::List, false);
        }
        assert_eq!(type_hints.of(0, b"a:2"), Some(ValueType::List));
    }
}
