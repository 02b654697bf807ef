//! Whether there is a backend to read from: the log is told when none is left, and when one is back.

use std::sync::Arc;
use std::time::Instant;

use log::Level;

use super::table::ConnectionTable;
use crate::health::BackendState;
use crate::logging::access_log::{Event, StateLog};
use crate::sync::{Mutex, lock};

/// What the log says when the first checks have found no backend.
const NONE_ANSWERS: &str = "no backend answers: reads fail until one does";

/// What the log says when the last backend is gone.
const NONE_IS_LEFT: &str = "no backend is left: reads fail until one is back";

/// Notices outages: the times at which `/-/ready` says that there is no backend.
#[derive(Debug)]
pub(super) struct Outages {
    table: Arc<ConnectionTable>,
    log: StateLog,
    state: Mutex<Availability>,
}

/// What the log was told last.
#[derive(Debug, Clone, Copy)]
enum Availability {
    /// Nothing: no backend was there, and none was expected.
    Unknown,
    /// There is a backend.
    Served,
    /// There is none since then.
    Out(Instant),
}

impl Outages {
    pub fn new(table: &Arc<ConnectionTable>, log: StateLog) -> Arc<Self> {
        let table = Arc::clone(table);
        Arc::new(Self { table, log, state: Mutex::new(Availability::Unknown) })
    }

    /// Looks whether there is a backend, after the state of this one has changed.
    pub fn look(&self, changed: &str, now: Instant) {
        // The look is within the lock: so the last change is followed by a look that sees it.
        let mut state = lock(&self.state);
        match (*state, self.is_served()) {
            (Availability::Served, true)
            | (Availability::Unknown | Availability::Out(_), false) => {}
            (Availability::Unknown, true) => *state = Availability::Served,
            (Availability::Served, false) => {
                *state = Availability::Out(now);
                self.log.write(Level::Error, Event::Outage { message: NONE_IS_LEFT });
            }
            (Availability::Out(since), true) => {
                *state = Availability::Served;
                let seconds = now.saturating_duration_since(since).as_secs_f64();
                let backend = changed.to_owned();
                self.log.write(Level::Info, Event::Recovery { backend, seconds });
            }
        }
    }

    /// Takes note that all backends were checked at the start: one should be there.
    pub fn begin(&self, now: Instant) {
        let mut state = lock(&self.state);
        if matches!(*state, Availability::Unknown) && !self.is_served() {
            *state = Availability::Out(now);
            self.log.write(Level::Error, Event::Outage { message: NONE_ANSWERS });
        }
    }

    fn is_served(&self) -> bool {
        self.table.best(|_| true) <= BackendState::Suspect
    }
}
