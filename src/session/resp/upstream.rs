//! The backend's side of a session: its lease, the connection of a WATCH, and failing over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Ended, Failure};
use crate::access_log::Event;
use crate::backend::{Backend, BackendError, Connection, Link, Mode};
use crate::balance::Lease;
use crate::balancer::Balancer;
use crate::failover::{Attempt, Failover};

/// So many clients have a connection of their own that the others are kept for reads.
pub const TOO_MANY_PINNED: &str = "ERR too many clients watch or subscribe: try again later";

/// What a WATCH has left.
#[derive(Default)]
pub enum Watch {
    #[default]
    None,
    /// The connection that watches, and the index of its backend.
    Held(Box<Connection>, usize),
    /// It watches, and is in use at the moment.
    InUse(usize),
    /// Its backend failed: nobody knows whether a key was touched.
    Lost,
}

/// Where commands are sent.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub attempt: Attempt<'a>,
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
    /// The backend that was used last: the lease may be another's by now.
    last_used: Option<usize>,
    /// Whether the lease may move, as the table knows it.
    may_move: bool,
    pub watch: Watch,
    /// The database that the session reads; `None` while it asks for nothing that is in one.
    pub database: Option<i64>,
}

impl<'a> Upstream<'a> {
    pub fn new(balancer: &'a Balancer) -> Self {
        Self {
            balancer,
            lease: None,
            last_used: None,
            may_move: false,
            watch: Watch::None,
            database: Some(0),
        }
    }

    /// The leased backend.
    pub fn backend(&self) -> Option<&'a Arc<Backend>> {
        self.lease.as_ref().map(|lease| &self.balancer.backends[lease.backend()])
    }

    /// Does `work` on the session's backend and, when that fails, on others. A script may be what
    /// keeps a backend silent.
    pub fn with_failover<T>(
        &mut self,
        client: SocketAddr,
        is_script: bool,
        work: impl FnMut(&mut Self, Attempt) -> Result<T, Failure>,
    ) -> Result<T, Unanswered> {
        self.go_on(Failover::new(self.balancer, is_script), client, work)
    }

    /// The same behind tries that have failed already.
    pub fn go_on<T>(
        &mut self,
        mut failover: Failover,
        client: SocketAddr,
        mut work: impl FnMut(&mut Self, Attempt) -> Result<T, Failure>,
    ) -> Result<T, Unanswered> {
        loop {
            failover.forgive();
            let index = self.settle(&failover, client);
            let Some(attempt) = index.and_then(|index| failover.attempt(index)) else {
                let refusals = self.refusals(&failover);
                // One that is up, and must not be read from in this database, is not waited for.
                match refusals.is_empty() && failover.wait() {
                    true => continue,
                    false => return Err(Unanswered::AllFailed(failover.error() + &refusals)),
                }
            };
            match work(self, attempt) {
                Ok(done) => return Ok(done),
                Err(Failure::Backend(BackendError::OtherCommands)) => {
                    return Err(Unanswered::OtherCommands);
                }
                Err(Failure::Backend(error)) => {
                    failover.failed(attempt, error);
                    self.lose_watch();
                    if failover.is_over() {
                        return Err(Unanswered::AllFailed(failover.error()));
                    }
                }
                Err(Failure::Cut(error)) => {
                    Failover::note(attempt, &error);
                    let name = attempt.backend.name();
                    let why = format!("{name} failed within a reply: {error}");
                    return Err(Unanswered::Ended(Ended::Cut(why)));
                }
                Err(failure @ Failure::Client(_)) => return Err(Unanswered::Ended(failure.into())),
            }
        }
    }

    /// Whether the session's database may be read from this backend.
    fn serves(&self, backend: usize) -> bool {
        let health = &self.balancer.backends[backend].health;
        self.database.is_none_or(|database| health.serves(database))
    }

    /// Which backends could still be tried and are up, but must not be read from in the session's
    /// database, as the end of an error.
    fn refusals(&self, failover: &Failover) -> String {
        let backends = self.balancer.backends.iter().enumerate();
        let left = backends.filter(|(index, _)| failover.may_try(*index));
        let refusals = left.filter_map(|(_, backend)| {
            let refusal = backend.health.refusal_while_up(self.database?)?;
            Some(format!("; {}: {refusal}", backend.name()))
        });
        refusals.collect()
    }

    /// The index of the backend to be used now; takes a lease where there is none.
    fn settle(&mut self, failover: &Failover, client: SocketAddr) -> Option<usize> {
        let may_try = |backend| failover.may_try(backend) && self.serves(backend);
        if let Some(watched) = self.watched_backend() {
            // Only there is known whether a key was touched.
            if may_try(watched) {
                return Some(watched);
            }
            self.lose_watch();
        }
        let may_try = |backend| failover.may_try(backend) && self.serves(backend);
        let now = match &self.lease {
            Some(lease) => lease.settle(may_try)?,
            None => {
                let lease = self.balancer.table.lease(may_try)?;
                self.lease.insert(lease).backend()
            }
        };
        self.note_use(now, client);
        Some(now)
    }

    fn note_use(&mut self, backend: usize, client: SocketAddr) {
        if self.last_used.replace(backend) != Some(backend) {
            let name = self.balancer.backends[backend].name();
            let event = || Event::Reads { client, backend: name.to_owned() };
            self.balancer.access_log.write(event);
        }
    }

    /// The index of the session's backend where nothing is to be known but that: it is up, and
    /// nothing is watched. Takes a lease where there is none.
    pub fn usual_backend(&mut self, client: SocketAddr) -> Option<usize> {
        if self.lease.is_none() {
            self.lease = self.balancer.table.lease(|backend| self.serves(backend));
        }
        let backend = self.lease.as_ref()?.backend_if_up()?;
        let is_usual = matches!(self.watch, Watch::None) && self.serves(backend);
        if is_usual {
            self.note_use(backend, client);
        }
        is_usual.then_some(backend)
    }

    /// Whether the session's lease may go to another backend while nothing is asked: not while it
    /// watches, or `is_subscriber`.
    pub fn update_may_move(&mut self, is_subscriber: bool) {
        let is_watching = matches!(self.watch, Watch::Held(..));
        let may_move = self.balancer.config.rebalance && !is_watching && !is_subscriber;
        if let Some(lease) = &self.lease
            && self.may_move != may_move
        {
            lease.set_may_move(may_move);
            self.may_move = may_move;
        }
    }

    /// Sends `commands` and waits for the reply to begin: on the connection that watches, or one
    /// from the pool.
    pub fn send(&mut self, target: Target, commands: &[u8]) -> Result<Connection, BackendError> {
        let Attempt { backend, patience, .. } = target.attempt;
        if let Some(mut connection) = self.take_watching() {
            connection.set_patience(patience, Duration::ZERO);
            match connection.send(commands) {
                Ok(()) => return Ok(connection),
                // Closed meanwhile, which says nothing of the backend.
                Err(BackendError::Lost(_)) => self.watch = Watch::Lost,
                Err(error) => {
                    self.watch = Watch::Lost;
                    return Err(error);
                }
            }
        }
        let now = || self.balancer.commands_version();
        let may_send = |_: &Link| target.commands_version.is_none_or(|version| version == now());
        backend.request_if(target.mode, commands, patience, may_send)
    }

    /// The index of the backend that watches.
    fn watched_backend(&self) -> Option<usize> {
        match self.watch {
            Watch::Held(_, backend) => Some(backend),
            _ => None,
        }
    }

    /// Takes the connection that watches.
    fn take_watching(&mut self) -> Option<Connection> {
        let backend = self.watched_backend()?;
        match std::mem::replace(&mut self.watch, Watch::InUse(backend)) {
            Watch::Held(connection, _) => Some(*connection),
            _ => None,
        }
    }

    /// Keeps the connection, to this backend, that watches; false, and it is closed, when too many
    /// clients do so.
    pub fn watch_with(&mut self, mut connection: Connection, backend: usize) -> bool {
        let is_pinned = connection.pin();
        if is_pinned {
            self.watch = Watch::Held(Box::new(connection), backend);
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
            Watch::InUse(backend) => self.watch = Watch::Held(Box::new(connection), backend),
            _ => connection.keep(),
        }
    }

    /// The same; where it came from the pool, others may send on it, too, from now on.
    pub fn release_or_share(&mut self, connection: Connection, backend: &Arc<Backend>) {
        match self.watch {
            Watch::InUse(_) => self.release(connection),
            _ => backend.keep_or_share(connection),
        }
    }
}
