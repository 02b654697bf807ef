//! A connection on loan from its backend's pool.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::connection::Connection;
use super::pool::Permit;
use super::{BackendError, Mode, Refuser, WaitPolicy};

/// A connection to a backend, in use by one client.
#[derive(Debug)]
pub struct PooledConnection {
    pub(super) link: Connection,
    /// What it is set up for. Whoever changes that on the connection changes it here.
    pub mode: Mode,
    pub(super) permit: Permit<Mode, Connection>,
    pub(super) refuser: Refuser,
}

impl PooledConnection {
    /// What its server refuses that others may answer.
    pub fn refuser(&self) -> &Refuser {
        &self.refuser
    }

    /// Keeps it for the next request of its mode. All replies on it must have been read to the end;
    /// one with more bytes than were asked for is closed.
    pub fn keep(mut self) {
        if !self.link.has_buffered() {
            self.link.rest();
            self.permit.give_back(self.mode, self.link);
        }
    }

    /// Whether somebody waits for a connection to its backend.
    pub fn is_wanted(&self) -> bool {
        self.permit.is_wanted()
    }

    /// Why it can't be.
    pub fn no_room(&self) -> BackendError {
        BackendError::NoConnection(self.permit.max_open())
    }

    /// Makes it one client's own for as long as it likes; false when too many are.
    pub fn pin(&mut self) -> bool {
        self.set_wait_policy(WaitPolicy::QUICK, Duration::ZERO);
        self.permit.pin()
    }
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.link
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.link
    }
}
