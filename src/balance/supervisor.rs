//! The answers to a backend's connections, made from its health and from how the others are.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::outages::Outages;
use super::refusals::RecentRefusals;
use super::retry_budget::RetryBudget;
use super::slow::{self, Decision, Situation, TimeLimits};
use super::subscribers::{self, Carrier, Departure};
use super::table::ConnectionTable;
use crate::backend::{BackendError, BackendId, Class, LEFT_BUSY, LEFT_DOWN, STUCK, Supervisor};
use crate::config::LiveConfig;
use crate::health::{Admin, BackendState, Change, Health, ShownState, StateListener};
use crate::logging::access_log::{Event, StateChange, StateLog};
use crate::policy::scripts::Scripts;

/// A read and a check that begin within this time of each other may be answered in any order.
const ORDER_MARGIN: Duration = Duration::from_millis(50);

/// Judge of one backend.
#[derive(Debug)]
pub(super) struct BackendSupervisor {
    pub id: BackendId,
    pub health: Arc<Health>,
    pub table: Arc<ConnectionTable>,
    pub retry_budget: Arc<RetryBudget>,
    pub refusals: Arc<RecentRefusals>,
    pub config: LiveConfig,
    pub scripts: Arc<Scripts>,
}

impl BackendSupervisor {
    fn situation(&self, class: Class, silent: Duration) -> Situation {
        Situation {
            class,
            silent,
            state: self.health.state(),
            is_server_busy: self.health.is_busy(),
            answers_checks: self.answers_checks(silent),
            has_better: self.table.has_better(self.id),
            has_other: self.table.has_other(self.id),
            is_only_server: self.table.backend_count() == 1,
            are_all_frozen: self.table.are_all_frozen(),
        }
    }

    /// Whether the backend has answered a check that began after the read was sent. Redis works on one
    /// command at a time: had the read arrived, its reply would be here.
    fn answers_checks(&self, silent: Duration) -> bool {
        let later = Instant::now().checked_sub(silent).map(|began| began + ORDER_MARGIN);
        later.is_some_and(|later| self.health.has_answered_since(later))
    }

    /// Tells the health that a read has met silence for this long, which is no fault of its own.
    fn silent(&self, silent: Duration) {
        let now = Instant::now();
        self.health.read_failed(&"timed out", now.checked_sub(silent).unwrap_or(now), now);
    }
}

impl Supervisor for BackendSupervisor {
    fn admit(&self, run_id: &str) -> Result<(), String> {
        self.health.admit(run_id, Instant::now())
    }

    fn refusal(&self, database: i64) -> Option<String> {
        self.health.refusal(database)
    }

    fn is_up(&self) -> bool {
        self.health.state() == BackendState::Up
    }

    fn failed(&self, error: &BackendError) {
        let now = Instant::now();
        self.health.failed(error, now);
        if error.is_unnoticed() {
            self.health.distrust_checks(now);
        }
    }

    fn may_wait(&self, class: Class, silent: Duration, usual: Duration) -> io::Result<bool> {
        let limits = TimeLimits::of(&self.config.get());
        let mut now = self.situation(class, silent);
        if usual >= limits.backend && slow::is_suspicious(&now, limits) {
            self.silent(silent);
            now.state = self.health.state();
        }
        if silent >= usual {
            // A backend that was due less time has had all of that.
            now.silent = now.silent.max(limits.backend);
        }
        match slow::decide(&now, limits) {
            Decision::Wait => Ok(true),
            Decision::Leave { is_free } => Ok(!(is_free || self.retry_budget.withdraw())),
            Decision::LeaveBusy => Err(LEFT_BUSY.into()),
            Decision::Stuck => {
                self.silent(silent);
                Err(STUCK.into())
            }
            Decision::LeaveDown => Err(LEFT_DOWN.into()),
            Decision::GiveUp => Ok(false),
        }
    }

    fn may_wait_as_last_resort(&self, silent: Duration, is_unusual: bool) -> io::Result<bool> {
        if is_unusual && self.answers_checks(silent) && self.table.has_other(self.id) {
            return Err(STUCK.into());
        }
        Ok(!(self.table.has_better(self.id) && self.retry_budget.withdraw()))
    }

    fn subscribers_leave(&self, silent: Duration, age: Duration) -> Option<BackendError> {
        let departure = subscribers::departure(&Carrier {
            state: self.health.state(),
            is_busy: self.health.is_busy(),
            silent,
            timeout: self.config.get().backend_timeout,
            age,
            has_better: self.table.has_better(self.id),
            is_outranked: self.table.is_outranked(self.id, |_| true),
        })?;
        if let Some(why) = self.health.departure() {
            return Some(BackendError::Departed(why));
        }
        Some(match departure {
            Departure::Out => BackendError::Unresponsive,
            Departure::Silent => BackendError::TimedOut,
            Departure::Outranked => subscribers::why_outranked(self.table.terms(self.id)),
        })
    }

    fn refuses(&self, error: &str) -> bool {
        self.refusals.refuses(self.id, &self.health.name, error, Instant::now())
    }

    fn scripts(&self) -> Vec<Arc<[u8]>> {
        self.scripts.sources()
    }
}

/// The row of one backend in the connection table, and the log of its states.
#[derive(Debug)]
pub(super) struct TableRow {
    pub table: Arc<ConnectionTable>,
    pub id: BackendId,
    /// The backend's name.
    pub name: Arc<str>,
    pub outages: Arc<Outages>,
    pub log: StateLog,
}

impl StateListener for TableRow {
    fn announce(&self, change: &Change) {
        let level = match change.state {
            ShownState::Up | ShownState::Draining | ShownState::Maint => Level::Info,
            _ => Level::Warn,
        };
        let change = StateChange {
            backend: self.name.to_string(),
            state: change.state.name(),
            before: change.before.name(),
            reason: change.reason.clone(),
            keys: change.keys,
        };
        self.log.write(level, Event::State(change));
    }

    fn set_state(&self, state: BackendState, slowly: bool, now: Instant) {
        self.table.set_state(self.id, state, slowly, now);
        self.outages.look(self.id, &self.name, now);
    }

    fn set_second_choice(&self, is_second_choice: bool, now: Instant) {
        self.table.set_second_choice(self.id, is_second_choice, now);
    }

    fn set_admin(&self, admin: Admin, now: Instant) {
        self.table.set_admin(self.id, admin, now);
    }

    fn set_slow(&self, is_slow: bool, now: Instant) {
        self.table.set_slow(self.id, is_slow, now);
    }

    fn set_silent(&self, is_silent: bool) {
        self.table.set_silent(self.id, is_silent);
    }
}
