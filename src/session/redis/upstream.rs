//! The backend's side of a session: its lease, the connection of a WATCH, and failing over.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::replies::{Answered, ForwardError, SessionEnd, Tried, Unanswered};
use crate::backend::{
    Backend, BackendError, BackendId, Class, Connection, Mode, PooledConnection, STALE_TIME,
};
use crate::balance::failover::{Attempt, Failover};
use crate::balance::slow::{LaneError, LaneOutcome, ReadInfo, ReadProfile};
use crate::balance::{Backends, Balancer, Lease};
use crate::health::Member;
use crate::logging::access_log::Event;
use crate::session::client::{ClientHandle, ClientSocket};

/// So many clients have a connection of their own that the others are kept for reads.
pub const TOO_MANY_PINNED: &str = "ERR too many clients watch keys: try again later";

/// State that a WATCH has left.
#[derive(Default)]
pub enum Watch {
    #[default]
    None,
    /// The connection that watches, and its backend.
    Held(Box<PooledConnection>, BackendId),
    /// It watches, and is in use at the moment.
    InUse(BackendId),
    /// Its backend failed: nobody knows whether a key was touched.
    Lost,
}

/// Where commands are sent.
#[derive(Clone, Copy)]
pub struct SendTarget<'a> {
    pub attempt: &'a Attempt,
    pub mode: Mode,
    /// The version of the backends' commands by which they were judged: they are not sent to a server
    /// with others. `None` for those that are not judged by these.
    pub commands_version: Option<u64>,
}

/// How all have failed; `refusals` are those of backends that were not tried.
fn all_failed(failover: &Failover, refusals: &str) -> Unanswered {
    let local = BackendError::local_trouble(failover.failures());
    Unanswered::AllFailed(local.unwrap_or_else(|| failover.error() + refusals))
}

/// A session's way to the backends.
pub struct Upstream<'a> {
    balancer: &'a Balancer,
    /// The client's, where others can see which lease it has.
    socket: &'a ClientSocket,
    /// Taken when a backend is needed first, and kept.
    lease: Option<Lease>,
    /// The backend that was used last: the lease may be another's by now.
    last_used: Option<BackendId>,
    /// Whether the lease may move, as the table knows it.
    may_move: bool,
    pub watch: Watch,
    /// The keys that it was asked to watch.
    pub watched_keys: HashSet<Vec<u8>>,
    /// The database that the session reads; `None` while it asks for nothing that is in one.
    pub database: Option<i64>,
}

impl<'a> Upstream<'a> {
    pub fn new(balancer: &'a Balancer, socket: &'a ClientSocket) -> Self {
        Self {
            balancer,
            socket,
            lease: None,
            last_used: None,
            may_move: false,
            watch: Watch::None,
            watched_keys: HashSet::new(),
            database: Some(0),
        }
    }

    /// The leased backend.
    pub fn backend(&self) -> Option<Arc<Member>> {
        self.balancer.backend(self.lease.as_ref()?.backend()?)
    }

    /// Does `work` on the session's backend and, when that fails, on others. What every server answers
    /// at once.
    pub fn with_failover<T>(
        &mut self,
        client: ClientHandle,
        work: impl FnMut(&mut Self, &Attempt) -> Tried<T>,
    ) -> Answered<T> {
        let mut failover = Failover::new(self.balancer, ReadProfile::QUICK, Instant::now());
        self.go_on(&mut failover, client, |_| ReadInfo::default(), work)
    }

    /// Runs `work` on the session's backend, or, for a read that is not quick, where the slow lane allows
    /// it. On failure it tries others. `info` is told whether the read goes alone.
    pub fn go_on<T>(
        &mut self,
        failover: &mut Failover,
        client: ClientHandle,
        info: impl Fn(bool) -> ReadInfo,
        mut work: impl FnMut(&mut Self, &Attempt) -> Tried<T>,
    ) -> Answered<T> {
        let mut no_script = None;
        loop {
            failover.forgive();
            let Some((attempt, _lease)) = self.attempt(failover, client, &info)? else {
                if let Some(error) = no_script {
                    return Err(Unanswered::from(error));
                }
                let refusals = self.refusals(failover);
                // One that is up, and must not be read from in this database, is not waited for.
                match refusals.is_empty() && failover.wait() {
                    true => continue,
                    false => return Err(all_failed(failover, &refusals)),
                }
            };
            match work(self, &attempt) {
                Ok(done) => return Ok(done),
                Err(ForwardError::Backend(BackendError::OtherCommands)) => {
                    return Err(Unanswered::OtherCommands);
                }
                Err(ForwardError::Backend(error)) => {
                    failover.failed(&attempt, error, Instant::now());
                    self.lose_watch();
                    if let Some(why) = failover.refusal() {
                        return Err(Unanswered::refused(&why));
                    }
                    if failover.is_over() {
                        return Err(all_failed(failover, ""));
                    }
                }
                Err(ForwardError::Cut(error)) => {
                    Failover::count_failure(&attempt, &error);
                    let name = attempt.backend.name();
                    let why = format!("{name} failed within a reply: {error}");
                    return Err(SessionEnd::Cut(why).into());
                }
                Err(ForwardError::Client(error)) => return Err(SessionEnd::from(error).into()),
                // Another server may have it. The keys are watched here only.
                Err(ForwardError::NoScript(error)) if self.watched_backend().is_some() => {
                    return Err(error.into());
                }
                Err(ForwardError::NoScript(error)) => {
                    failover.pass_over(&attempt);
                    no_script = Some(error);
                }
            }
        }
    }

    /// The next try, with a lease that counts it where that is not on the session's own backend. `None`
    /// where no backend is left.
    fn attempt(
        &mut self,
        failover: &mut Failover,
        client: ClientHandle,
        info: impl Fn(bool) -> ReadInfo,
    ) -> Answered<Option<(Attempt, Option<Lease>)>> {
        let Some(own) = self.reselect(failover, client.address) else { return Ok(None) };
        if failover.class() == Class::Quick {
            return Ok(failover.attempt(own, None, Instant::now()).map(|attempt| (attempt, None)));
        }
        // Only there is known whether a key was touched.
        let watched = self.watched_backend();
        let backends = self.balancer.backends();
        let may_try = |backend| {
            watched.is_none_or(|watched| watched == backend) && self.serves(&backends, backend)
        };
        match failover.begin(info(failover.is_alone()), Some(own), may_try, || client.is_gone()) {
            Ok(LaneOutcome::Answered(answer)) => Err(Unanswered::Shared(answer)),
            Ok(LaneOutcome::Open(open)) => {
                let backend = open.backend();
                let lease = || self.balancer.table.lease(Instant::now(), |other| other == backend);
                let lease = if backend == own { None } else { lease() };
                Ok(failover
                    .attempt(backend, Some(open), Instant::now())
                    .map(|attempt| (attempt, lease)))
            }
            Err(LaneError::NoBackend) => Ok(None),
            Err(LaneError::ClientLeft) => {
                Err(SessionEnd::Gone("left while its read waited".to_owned()).into())
            }
            Err(error) => Err(Unanswered::refused(&error.to_string())),
        }
    }

    /// Whether the session's database may be read from this backend.
    fn serves(&self, backends: &Backends, backend: BackendId) -> bool {
        self.database.is_none_or(|database| {
            backends.get(backend).is_some_and(|backend| backend.health.serves(database))
        })
    }

    /// Which backends could still be tried and are up, but must not be read from in the session's
    /// database, as the end of an error.
    fn refusals(&self, failover: &Failover) -> String {
        let refusals = failover.refusals(|_| self.database).into_iter();
        refusals.map(|(backend, refusal)| format!("; {}: {refusal}", backend.name())).collect()
    }

    /// The index of the backend to be used now; takes a lease where there is none.
    fn reselect(&mut self, failover: &Failover, client: SocketAddr) -> Option<BackendId> {
        let backends = self.balancer.backends();
        if let Some(watched) = self.watched_backend() {
            // Only there is known whether a key was touched.
            if failover.may_try(watched) && self.serves(&backends, watched) {
                return Some(watched);
            }
            self.lose_watch();
        }
        let now = Instant::now();
        let may_try = |backend| failover.may_try(backend) && self.serves(&backends, backend);
        let backend = match &self.lease {
            Some(lease) => lease.reselect(now, may_try)?,
            None => {
                let lease = self.balancer.table.lease(now, may_try)?;
                self.socket.note_lease(Some(&lease));
                self.lease.insert(lease).backend()?
            }
        };
        self.note_use(backend, client);
        Some(backend)
    }

    fn note_use(&mut self, backend: BackendId, client: SocketAddr) {
        if self.last_used.replace(backend) != Some(backend) {
            let name = |backend: Arc<Member>| backend.name().to_owned();
            let backend = self.balancer.backend(backend).map_or_else(String::new, name);
            self.balancer.access_log.write(|| Event::Reads { client, backend });
        }
    }

    /// The session's backend where nothing is to be known but that: it is up, and nothing is watched.
    /// Takes a lease where there is none.
    pub fn usual_backend(&mut self, client: SocketAddr) -> Option<Arc<Member>> {
        let backends = self.balancer.backends();
        if self.lease.is_none() {
            let serves = |backend| self.serves(&backends, backend);
            self.lease = self.balancer.table.lease(Instant::now(), serves);
            self.socket.note_lease(self.lease.as_ref());
        }
        let backend = self.lease.as_ref()?.backend_if_up()?;
        if !matches!(self.watch, Watch::None) || !self.serves(&backends, backend) {
            return None;
        }
        self.note_use(backend, client);
        backends.get(backend).cloned()
    }

    /// Whether the session's lease may go to another backend while nothing is asked: not while it
    /// watches, or `is_subscriber`.
    pub fn update_may_move(&mut self, is_subscriber: bool) {
        let is_watching = matches!(self.watch, Watch::Held(..));
        let may_move = !self.balancer.config().no_rebalance && !is_watching && !is_subscriber;
        if let Some(lease) = &self.lease
            && self.may_move != may_move
        {
            lease.set_may_move(may_move);
            self.may_move = may_move;
        }
    }

    /// Sends `commands` and waits for the reply to begin: on the connection that watches, or one
    /// from the pool.
    pub fn send(
        &mut self,
        target: SendTarget,
        commands: &[u8],
    ) -> Result<PooledConnection, BackendError> {
        let backend = &target.attempt.backend;
        let wait_policy = target.attempt.wait_policy();
        let now = || self.balancer.commands_version();
        let is_judged = |connection: &Connection| {
            target.commands_version.is_none_or(|version| {
                // In this order: the connection's server is among those that are known.
                backend.is_current(connection) && version == now()
            })
        };
        if let Watch::Held(watching, _) = &self.watch
            && !is_judged(watching)
        {
            if backend.is_current(watching) {
                return Err(BackendError::OtherCommands);
            }
            // Another server is there by now.
            self.watch = Watch::Lost;
        }
        if let Some(mut connection) = self.take_watching() {
            connection.set_wait_policy(wait_policy.clone(), Duration::ZERO);
            let began = Instant::now();
            match connection.send(commands) {
                Ok(()) => return Ok(connection),
                // Closed meanwhile, which says nothing of the backend.
                Err(BackendError::Lost(_)) if began.elapsed() < STALE_TIME => {
                    self.watch = Watch::Lost;
                }
                // The watch is lost with this try.
                Err(error) => return Err(error),
            }
        }
        backend.request(target.mode, commands, wait_policy, is_judged)
    }

    /// Whether keys are watched on the connection that is in use.
    pub fn is_watching(&self) -> bool {
        matches!(self.watch, Watch::InUse(_))
    }

    /// The backend that watches.
    fn watched_backend(&self) -> Option<BackendId> {
        match self.watch {
            Watch::Held(_, backend) => Some(backend),
            _ => None,
        }
    }

    /// Takes the connection that watches.
    fn take_watching(&mut self) -> Option<PooledConnection> {
        let backend = self.watched_backend()?;
        let watch = std::mem::replace(&mut self.watch, Watch::InUse(backend));
        let Watch::Held(connection, _) = watch else { return None };
        Some(*connection)
    }

    /// The session has a connection of its own to this backend: its lease is there, and stays there
    /// until [`update_may_move`](Self::update_may_move) says otherwise.
    pub fn pin_lease(&mut self, backend: BackendId) {
        if let Some(lease) = &self.lease {
            lease.pin(backend);
            self.may_move = false;
        }
    }

    /// With its connection goes what is known of the watched keys.
    fn lose_watch(&mut self) {
        if !matches!(self.watch, Watch::None) {
            self.watch = Watch::Lost;
        }
    }

    /// Takes the state of the watch; nothing is watched any more.
    pub fn take_watch(&mut self) -> Watch {
        self.watched_keys = HashSet::new();
        std::mem::take(&mut self.watch)
    }

    /// All replies have been read: the connection goes back to where it came from.
    pub fn release(&mut self, mut connection: PooledConnection) {
        connection.turn = None;
        connection.rest();
        match self.watch {
            Watch::InUse(backend) => self.watch = Watch::Held(Box::new(connection), backend),
            _ => connection.keep(),
        }
    }

    /// Gives back a connection like [`release`](Self::release). One from the pool may become a shared one.
    pub fn release_or_share(&mut self, connection: PooledConnection, backend: &Arc<Backend>) {
        match self.watch {
            Watch::InUse(_) => self.release(connection),
            _ => backend.keep_or_share(connection),
        }
    }
}
