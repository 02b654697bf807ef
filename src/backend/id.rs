//! The identity of a backend.

use std::fmt;

/// Identity of a backend. It is never given to another backend of the process, so the memory of a backend
/// that was removed is never mistaken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(u32);

impl BackendId {
    /// Returns the identity with this number. Numbers are given out in ascending order, from 0.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
