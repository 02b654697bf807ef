//! Which connections of a backend are shared by all its clients of one mode.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::shared::SharedConnection;
use super::{Backend, Mode, PooledConnection};
use crate::sync::lock;

/// So many connections are shared, each by the clients of one mode, and one in eight of those that
/// there may be; clients of other modes have their own.
const MAX_SHARED: usize = 4;

/// How often it is looked whether the shared connections are quiet.
const QUIET_STEP: Duration = Duration::from_micros(500);

impl Backend {
    /// The shared connection of that mode, if there is one.
    pub fn shared(&self, mode: Mode) -> Option<Arc<SharedConnection>> {
        lock(&self.shared).iter().find(|shared| shared.mode == mode).cloned()
    }

    /// Keeps a connection, all replies on which have been read to the end: for all, where there is
    /// no shared one of its mode yet, else for the next request.
    pub fn keep_or_share(self: &Arc<Self>, mut connection: PooledConnection) {
        connection.rest();
        let mut shared = lock(&self.shared);
        let is_wanted = shared.len() < (self.max_connections / 8).min(MAX_SHARED)
            && shared.iter().all(|shared| shared.mode != connection.mode);
        // With the lock held: whoever closes all does so either before or behind this.
        if !is_wanted || connection.has_buffered() || !connection.permit.is_current() {
            drop(shared);
            return connection.keep();
        }
        match SharedConnection::start(self, connection) {
            Ok(new) => shared.push(new),
            Err(error) => log::debug!("{}: no thread to share a connection: {error}", self.name()),
        }
    }

    /// Lets a shared connection end when all is answered that was sent on it; another may take its
    /// place meanwhile.
    pub fn retire_shared(&self, retired: &Arc<SharedConnection>) {
        self.forget_shared(retired);
        retired.retire();
    }

    /// Waits until nothing is under way on its shared connections, for at most `max_wait`: what is sent
    /// afterwards keeps nobody waiting who came before.
    pub fn await_quiet(&self, max_wait: Duration) {
        let began = Instant::now();
        let is_quiet = || lock(&self.shared).iter().all(|shared| shared.is_idle());
        while !is_quiet() && began.elapsed() < max_wait {
            thread::sleep(QUIET_STEP);
        }
    }

    /// A shared connection has ended.
    pub(super) fn forget_shared(&self, ended: &Arc<SharedConnection>) {
        lock(&self.shared).retain(|shared| !Arc::ptr_eq(shared, ended));
    }
}
