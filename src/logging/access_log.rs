//! Writes the lines that requests, sessions and the states of backends leave in the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;

use super::entry::{Entry, Leases};
pub use super::entry::{Event, HttpRequest, Session, StateChange, Text};
use super::writer;

/// The target of lines about backends, by which `RUST_LOG` chooses them.
const STATES: &str = concat!("redis_lb", "::health");

/// Returns the number of leases of each backend, by name.
type CountLeases = dyn Fn() -> Vec<(Arc<str>, usize)> + Send + Sync;

/// What requests and sessions leave in the log.
#[derive(Debug, Clone, Copy)]
pub struct AccessLogSettings {
    /// Whether they leave nothing.
    pub is_quiet: bool,
    /// Whether each line has the leases of all backends at that moment.
    pub has_leases: bool,
}

/// Writes an entry for each event.
pub struct AccessLog {
    states: StateLog,
    is_quiet: AtomicBool,
    has_leases: AtomicBool,
}

impl AccessLog {
    /// Returns a log that counts leases so.
    pub fn new(
        count_leases: impl Fn() -> Vec<(Arc<str>, usize)> + Send + Sync + 'static,
        settings: AccessLogSettings,
    ) -> Self {
        let states = StateLog { count_leases: Arc::new(count_leases) };
        let log =
            Self { states, is_quiet: AtomicBool::default(), has_leases: AtomicBool::default() };
        log.configure(settings);
        log
    }

    /// Takes over other settings.
    pub fn configure(&self, settings: AccessLogSettings) {
        self.is_quiet.store(settings.is_quiet, Ordering::Relaxed);
        self.has_leases.store(settings.has_leases, Ordering::Relaxed);
    }

    /// Returns the log of the backends' states.
    pub fn states(&self) -> StateLog {
        self.states.clone()
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
        let has_leases = event.needs_leases() || self.has_leases.load(Ordering::Relaxed);
        self.states.queue(level, event, has_leases);
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("is_quiet", &self.is_quiet).finish_non_exhaustive()
    }
}

/// Writes an entry for each event about the states of backends.
#[derive(Clone)]
pub struct StateLog {
    count_leases: Arc<CountLeases>,
}

impl StateLog {
    /// Writes an event at this level, with the leases of all backends at that moment if it needs them.
    pub fn write(&self, level: Level, event: Event) {
        if log::log_enabled!(target: STATES, level) {
            let has_leases = event.needs_leases();
            self.queue(level, event, has_leases);
        }
    }

    fn queue(&self, level: Level, event: Event, has_leases: bool) {
        let leases = || has_leases.then(|| Leases((self.count_leases)()));
        writer::queue_entry(level, || Entry { event, leases: leases() });
    }
}

impl fmt::Debug for StateLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateLog").finish_non_exhaustive()
    }
}
