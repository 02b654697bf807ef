//! The backend's side of a session: its lease, the connection of a WATCH, and failing over.

use std::net::SocketAddr;
use std::sync::Arc;

use log::info;

use super::{Ended, Failure};
use crate::backend::{Backend, BackendError, Connection, Link, Mode};
use crate::balance::Lease;
use crate::balancer::Balancer;

/// So many clients have a connection of their own that the others are kept for reads.
pub const TOO_MANY_PINNED: &str = "ERR too many clients watch or subscribe: try again later";

/// What a WATCH has left.
#[derive(Default)]
pub enum Watch {
    #[default]
    None,
    /// The connection that watches.
    Held(Connection),
    /// It watches, and is in use at the moment.
    InUse,
    /// Its backend failed: nobody knows whether a key was touched.
    Lost,
}

/// Where commands are sent.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub backend: &'a Backend,
    pub mode: Mode,
    /// They are not sent if this is no longer the version of the backends' commands; `None` for
    /// those that are not judged by these.
    pub commands_version: Option<u64>,
}

/// Why nothing came of what was to be done on a backend.
pub enum Unanswered {
    /// Each backend has failed; this says how.
    AllFailed(String),
    /// A backend knows other commands than those by which it was judged what to send.
    OtherCommands,
    /// The session is over.
    Ended(Ended),
}

/// A session's way to the backends.
pub struct Upstream<'a> {
    balancer: &'a Balancer,
    /// Taken when a backend is needed first, and kept.
    lease: Option<Lease>,
    pub watch: Watch,
}

impl<'a> Upstream<'a> {
    pub fn new(balancer: &'a Balancer) -> Self {
        Self { balancer, lease: None, watch: Watch::None }
    }

    /// The leased backend.
    pub fn backend(&self) -> Option<&'a Arc<Backend>> {
        self.lease.as_ref().map(|lease| &self.balancer.backends[lease.backend()])
    }

    /// Does `work` on the session's backend and, when that fails, on the others, each once.
    pub fn with_failover<T>(
        &mut self,
        client: SocketAddr,
        mut work: impl FnMut(&mut Self, &Backend) -> Result<T, Failure>,
    ) -> Result<T, Unanswered> {
        let mut failures = Vec::new();
        let mut tried = vec![false; self.balancer.backends.len()];
        while let Some(index) = self.leased_index(&tried, client) {
            let backend = &self.balancer.backends[index];
            let outcome = work(self, backend);
            note(backend, outcome.as_ref().err());
            match outcome {
                Ok(done) => return Ok(done),
                Err(Failure::Backend(BackendError::OtherCommands)) => {
                    return Err(Unanswered::OtherCommands);
                }
                Err(Failure::Backend(error)) => {
                    failures.push(format!("{}: {error}", backend.name()));
                    tried[index] = true;
                    self.lease = None;
                    self.lose_watch();
                }
                Err(Failure::Cut(error)) => {
                    let why = format!("{} failed within a reply: {error}", backend.name());
                    return Err(Unanswered::Ended(Ended::Cut(why)));
                }
                Err(failure @ Failure::Client(_)) => return Err(Unanswered::Ended(failure.into())),
            }
        }
        Err(Unanswered::AllFailed(format!("no backend could answer: {}", failures.join("; "))))
    }

    /// The index of the leased backend; takes a lease where there is none.
    fn leased_index(&mut self, tried: &[bool], client: SocketAddr) -> Option<usize> {
        if self.lease.is_none() {
            let in_order = self.balancer.log_order();
            let lease = self.balancer.table.lease(|backend| !tried[backend])?;
            let backend = &self.balancer.backends[lease.backend()];
            info!("{} reads from {} {}", client, backend.name(), self.balancer.counts());
            drop(in_order);
            self.lease = Some(lease);
        }
        self.lease.as_ref().map(Lease::backend)
    }

    /// Sends `commands` and waits for the reply to begin: on the connection that watches, or one
    /// from the pool.
    pub fn send(&mut self, target: Target, commands: &[u8]) -> Result<Connection, BackendError> {
        if let Some(mut connection) = self.take_watching() {
            match connection.send(commands) {
                Ok(()) => {
                    self.watch = Watch::InUse;
                    return Ok(connection);
                }
                // Closed meanwhile, which says nothing of the backend.
                Err(BackendError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let now = || self.balancer.commands_version();
        let may_send = |_: &Link| target.commands_version.is_none_or(|version| version == now());
        target.backend.request_if(target.mode, commands, may_send)
    }

    /// Takes the connection that watches. Until it is back, the watch counts as lost.
    fn take_watching(&mut self) -> Option<Connection> {
        let is_watching = matches!(self.watch, Watch::Held(_));
        match is_watching.then(|| std::mem::replace(&mut self.watch, Watch::Lost))? {
            Watch::Held(connection) => Some(connection),
            _ => None,
        }
    }

    /// Keeps the connection that watches; false, and it is closed, when too many clients do so.
    pub fn watch_with(&mut self, mut connection: Connection) -> bool {
        let is_pinned = connection.pin();
        if is_pinned {
            self.watch = Watch::Held(connection);
        }
        is_pinned
    }

    /// With its connection goes what is known of the watched keys.
    fn lose_watch(&mut self) {
        if !matches!(self.watch, Watch::None) {
            self.watch = Watch::Lost;
        }
    }

    /// Nothing is watched any more. A connection that may still watch is of no use to others.
    pub fn forget_watch(&mut self) {
        self.watch = Watch::None;
    }

    /// All replies have been read: the connection goes back to where it came from.
    pub fn release(&mut self, connection: Connection) {
        match self.watch {
            Watch::InUse => self.watch = Watch::Held(connection),
            _ => connection.keep(),
        }
    }
}

/// Lets the backend know what this says of it.
pub fn note(backend: &Backend, failure: Option<&Failure>) {
    match failure {
        Some(Failure::Backend(error) | Failure::Cut(error)) if error.is_failure() => {
            backend.note(Some(error));
        }
        // What others do with it, or what became of the client, says nothing of the backend.
        Some(_) => {}
        None => backend.note(None),
    }
}
