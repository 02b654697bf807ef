//! What an operator sets at run time: a backend is drained, taken into maintenance, or ready again.

use std::time::Instant;

use log::info;

use super::known::Cause;
use super::record::{IN_MAINTENANCE, Record, SET_BY_OPERATOR};
use super::{Admin, BackendState, Health};
use crate::sync::lock;

impl Health {
    /// Sets what an operator wants of the backend. Returns false if it was so before, or the backend was removed.
    ///
    /// A backend that leaves maintenance has to prove itself in fresh checks, as a new one.
    pub fn set_admin(&self, admin: Admin, now: Instant) -> bool {
        let mut record = lock(&self.record);
        if record.is_removed || record.admin == admin {
            return false;
        }
        let was = std::mem::replace(&mut record.admin, admin);
        self.listener.set_admin(admin, now);
        match (was, admin) {
            (_, Admin::Maint) => self.enter_maintenance(&mut record, now),
            (Admin::Maint, _) => {
                let why = format!("{}; not checked since", Cause::Maintenance);
                record.last_failure.clone_from(&why);
                self.change(&mut record, BackendState::Down, why, false, now);
            }
            _ if record.state == BackendState::Up => {
                self.announce(&mut record, SET_BY_OPERATOR.to_owned(), now);
            }
            (_, Admin::Drain) => info!("{} is draining: {SET_BY_OPERATOR}", self.name),
            _ => info!("{} is no longer draining: {SET_BY_OPERATOR}", self.name),
        }
        true
    }

    fn enter_maintenance(&self, record: &mut Record, now: Instant) {
        record.known.must_prove = Some(Cause::Maintenance);
        record.known.unproven.clear();
        (record.good, record.bad) = (0, 0);
        record.stale = None;
        record.is_last_resort = false;
        record.last_failure = IN_MAINTENANCE.to_owned();
        self.listener.set_second_choice(false, now);
        self.listener.set_silent(false);
        self.change(record, BackendState::Down, SET_BY_OPERATOR.to_owned(), false, now);
    }

    /// Returns what an operator wants of it.
    pub fn admin(&self) -> Admin {
        lock(&self.record).admin
    }

    /// Returns why clients have to leave it, if that is so because of an operator or the configuration.
    pub fn departure(&self) -> Option<&'static str> {
        let record = lock(&self.record);
        match record.admin {
            _ if record.is_removed => Some("it was removed"),
            Admin::Maint => Some("it is in maintenance"),
            Admin::Drain => Some("it is draining"),
            Admin::Ready => None,
        }
    }
}
