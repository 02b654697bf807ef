//! Writes the lines that requests and sessions leave in the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;

use super::entry::{Entry, Leases};
pub use super::entry::{Event, HttpRequest, Session, Text};
use super::writer;

/// Returns the number of leases of each backend, by name.
type CountLeases = dyn Fn() -> Vec<(Arc<str>, usize)> + Send + Sync;

/// Writes an entry for each event, with the leases of all backends at that moment.
pub struct AccessLog {
    count_leases: Box<CountLeases>,
    is_quiet: AtomicBool,
}

impl AccessLog {
    /// Returns a log that writes nothing if it `is_quiet`.
    pub fn new(
        count_leases: impl Fn() -> Vec<(Arc<str>, usize)> + Send + Sync + 'static,
        is_quiet: bool,
    ) -> Self {
        Self { count_leases: Box::new(count_leases), is_quiet: AtomicBool::new(is_quiet) }
    }

    /// Sets whether it writes nothing.
    pub fn set_quiet(&self, is_quiet: bool) {
        self.is_quiet.store(is_quiet, Ordering::Relaxed);
    }

    /// Writes the event that `make` returns, if the log wants it.
    pub fn write(&self, make: impl FnOnce() -> Event) {
        self.write_at(Level::Info, make);
    }

    /// Writes the event that `make` returns at this level, if the log wants it.
    pub fn write_at(&self, level: Level, make: impl FnOnce() -> Event) {
        if self.is_quiet.load(Ordering::Relaxed) || !log::log_enabled!(level) {
            return;
        }
        let event = make();
        writer::queue_entry(level, || Entry { event, leases: Leases((self.count_leases)()) });
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("is_quiet", &self.is_quiet).finish_non_exhaustive()
    }
}
