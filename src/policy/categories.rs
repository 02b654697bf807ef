//! The categories of commands, by which rules of users name many commands at once.

/// All categories of Redis 8, those of its modules included. Servers that lack one have no command in it.
const NAMES: [&str; 29] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
    "json",
    "search",
    "tdigest",
    "cms",
    "bloom",
    "cuckoo",
    "topk",
    "timeseries",
];

/// A set of categories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Categories(u32);

impl Categories {
    /// The one category of this name, in upper or lower case.
    pub fn named(name: &[u8]) -> Option<Self> {
        let number = NAMES.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()))?;
        Some(Self(1 << number))
    }

    /// The set of these names; unknown ones are left out, because no rule can name them.
    pub fn of<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        names.filter_map(Self::named).fold(Self::default(), Self::with)
    }

    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter()
    }
}
