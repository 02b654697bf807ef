//! The databases that clients read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::known::Databases;

/// The databases that clients read, as far as they are known; shared by all backends.
#[derive(Debug, Default)]
pub struct DatabasesInUse(AtomicU64);

impl DatabasesInUse {
    /// Notes that this one is read.
    pub fn note(&self, databases: Databases) {
        // Nearly always it is known: then nobody else's cache line is taken away.
        if !self.get().has(databases) {
            self.0.fetch_or(databases.bits(), Ordering::Relaxed);
        }
    }

    /// All of them.
    pub fn get(&self) -> Databases {
        Databases::from_bits(self.0.load(Ordering::Relaxed))
    }
}
