//! Tells the log when no backend is left to read from, and when one is back.

use std::sync::Arc;
use std::time::Instant;

use log::Level;

use super::table::ConnectionTable;
use crate::backend::BackendId;
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
    pub fn look(&self, changed: BackendId, name: &str, now: Instant) {
        // The look is within the lock: so the last change is followed by a look that sees it.
        let mut state = lock(&self.state);
        match (*state, self.table.can_serve(|_| true)) {
            (Availability::Served, true)
            | (Availability::Unknown | Availability::Out(_), false) => {}
            (Availability::Unknown, true) => *state = Availability::Served,
            (Availability::Served, false) => {
                *state = Availability::Out(now);
                self.log.write(Level::Error, Event::Outage { message: NONE_IS_LEFT });
            }
            // Another one is back, whose own look follows.
            (Availability::Out(_), true) if !self.table.can_serve(|id| id == changed) => {}
            (Availability::Out(since), true) => {
                *state = Availability::Served;
                let seconds = now.saturating_duration_since(since).as_secs_f64();
                let backend = name.to_owned();
                self.log.write(Level::Info, Event::Recovery { backend, seconds });
            }
        }
    }

    /// Takes note that all backends were checked at the start: one should be there.
    pub fn begin(&self, now: Instant) {
        let mut state = lock(&self.state);
        if matches!(*state, Availability::Unknown) && !self.table.can_serve(|_| true) {
            *state = Availability::Out(now);
            self.log.write(Level::Error, Event::Outage { message: NONE_ANSWERS });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::BackendState;
    use crate::logging::access_log::{AccessLog, AccessLogSettings};

    #[test]
    fn the_backend_that_is_back_is_told_and_not_the_one_whose_look_comes_first() {
        let now = Instant::now();
        let table = ConnectionTable::new(Duration::ZERO, now);
        let [down, back] = [1, 2].map(BackendId::new);
        [down, back].into_iter().for_each(|id| table.add(id));
        let settings = AccessLogSettings { is_quiet: true, has_leases: false };
        let outages = Outages::new(&table, AccessLog::new(Vec::new, settings).states());
        let is_out = || matches!(*lock(&outages.state), Availability::Out(_));
        outages.begin(now);
        table.set_state(back, BackendState::Up, false, now);
        outages.look(down, "down", now);
        assert!(is_out());
        outages.look(back, "back", now);
        assert!(!is_out());
    }
}
