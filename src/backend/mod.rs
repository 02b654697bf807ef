//! One Redis server behind us: its address, what is known of it, and one exchange with it.

mod check;
mod commands;
mod connection;
mod dial;
mod error;
mod id;
mod kill;
pub mod large_values;
mod names;
mod pipeline;
pub mod pool;
mod pooled;
pub mod reply_router;
mod report;
pub mod shared;
mod sharing;
mod socket;
mod supervisor;
pub mod type_hints;
mod unable;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;

pub use self::check::read_run_id;
pub use self::connection::Connection;
use self::dial::ServerInfo;
pub use self::error::BackendError;
pub(crate) use self::error::{LEFT_BUSY, STUCK, is_local, is_timeout};
pub use self::id::BackendId;
use self::large_values::LargeValueQueue;
use self::pool::{Permit, Pool};
pub use self::pooled::PooledConnection;
pub use self::report::{Keys, Report};
pub(crate) use self::report::{STEADY_KEYS_AT_ONCE, is_below_half, lacks};
pub use self::shared::HELD_REPLY_BYTES;
use self::shared::SharedConnection;
pub use self::socket::{Timeouts, WaitPolicy};
pub use self::supervisor::{Class, PendingRead, Supervisor};
use self::type_hints::TypeHints;
pub use self::unable::{Inability, Refuser, inability, is_not_permitted, said};
use crate::config::address::BackendAddress;
use crate::metrics::{BackendMetrics, Metrics};
use crate::policy::CommandTable;
use crate::render::json::Survey;
use crate::resp::Protocol;
use crate::sync::{Mutex, lock};

/// The most that `INFO` may say.
const MAX_INFO_BYTES: u64 = 1024 * 1024;

/// A connection that was idle and is lost so soon after something was sent on it had ended before. Later, the
/// server may have died of what was sent.
pub const STALE_TIME: Duration = Duration::from_millis(20);

/// Where this machine can make no connection, it is tried again so often, for half of the time that a
/// read may wait for one.
const LOCAL_WAIT: Duration = Duration::from_millis(10);

/// What a connection is set up for: connections serve whoever wants one of their mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// The selected database.
    pub database: i64,
    /// The version of the protocol that replies are in.
    pub protocol: Protocol,
}

impl Mode {
    /// A number for each mode.
    pub fn context(self) -> u64 {
        let protocol = u64::from(self.protocol == Protocol::Resp3);
        (self.database as u64) << 1 | protocol
    }
}

/// One Redis server: where it is, what it is, and the connections to it.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: BackendId,
    address: BackendAddress,
    /// What it has done.
    pub metrics: BackendMetrics,
    /// Counters of the whole process, which count what its shared connections answer.
    all_metrics: Arc<Metrics>,
    timeouts: Arc<Timeouts>,
    max_connections: usize,
    refuser: Refuser,
    /// What the name in the address means: written by the resolver alone, read by each dial.
    resolved: Mutex<Result<Vec<SocketAddr>, String>>,
    /// Whether that has changed since the last check.
    has_moved: AtomicBool,
    pool: Arc<Pool<Mode, Connection>>,
    /// Connections that many clients send on, one for each mode.
    shared: Mutex<Vec<Arc<SharedConnection>>>,
    server: Mutex<ServerInfo>,
    /// Counts the changes of what [`commands`](Self::commands) returns.
    commands_version: AtomicU64,
    /// What types its values probably have.
    pub type_hints: TypeHints,
    /// Whose turn it is to read a large value over HTTP.
    pub large_reads: LargeValueQueue<Survey>,
    /// Whose turn it is among the Redis clients whose last reply was long.
    pub long_replies: LargeValueQueue<()>,
}

impl Backend {
    /// Backend to which nothing is connected yet. `timeouts` bound each connect, the silence before and
    /// within each reply, and the wait for one of the `max_connections`.
    pub fn new(
        id: BackendId,
        address: BackendAddress,
        timeouts: Timeouts,
        max_connections: usize,
        all_metrics: Arc<Metrics>,
    ) -> Self {
        let resolved = match address.endpoint() {
            ConnectionAddr::Tcp(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => Ok(vec![SocketAddr::new(ip, *port)]),
                Err(_) => Err("not yet looked up".to_owned()),
            },
            _ => Ok(Vec::new()),
        };
        Self {
            id,
            address,
            metrics: BackendMetrics::default(),
            all_metrics,
            refuser: Refuser::new(Arc::clone(&timeouts.supervisor)),
            timeouts: Arc::new(timeouts),
            max_connections,
            resolved: Mutex::new(resolved),
            has_moved: AtomicBool::new(false),
            pool: Pool::new(max_connections),
            shared: Mutex::default(),
            server: Mutex::default(),
            commands_version: AtomicU64::new(0),
            type_hints: TypeHints::default(),
            large_reads: LargeValueQueue::default(),
            long_replies: LargeValueQueue::default(),
        }
    }

    /// Its URL.
    pub fn address(&self) -> &BackendAddress {
        &self.address
    }

    /// `HOST:PORT`, or the path of its Unix socket.
    pub fn name(&self) -> &str {
        self.address.name()
    }

    /// What its server calls itself, once a connection has been made.
    pub fn run_id(&self) -> Option<Arc<str>> {
        lock(&self.server).run_id.clone()
    }

    /// The commands that its server knows.
    pub fn commands(&self) -> Option<Arc<CommandTable>> {
        lock(&self.server).commands.clone()
    }

    /// Changes whenever [`commands`](Self::commands) does.
    pub fn commands_version(&self) -> u64 {
        self.commands_version.load(Ordering::Acquire)
    }

    /// The mode of the requests that are ours, in the database of the backend's URL.
    pub fn own_mode(&self) -> Mode {
        Mode { database: self.address.database(), protocol: Protocol::Resp2 }
    }

    /// Sends `commands` on an idle connection of that mode, or a new one, and waits for the first
    /// byte of the reply.
    ///
    /// An idle connection that turns out closed is stale, which says nothing of the backend: then,
    /// once, a new one is made.
    pub fn request(
        &self,
        mode: Mode,
        commands: &[u8],
        wait_policy: WaitPolicy,
    ) -> Result<PooledConnection, BackendError> {
        self.request_if(mode, commands, wait_policy, |_| true)
    }

    /// The same, but sends only if, with the connection there, `may_send`: another server, with
    /// other commands, may have been found at the address meanwhile.
    pub fn request_if(
        &self,
        mode: Mode,
        commands: &[u8],
        wait_policy: WaitPolicy,
        may_send: impl Fn(&Connection) -> bool,
    ) -> Result<PooledConnection, BackendError> {
        self.ensure_readable(mode)?;
        let none = || BackendError::NoConnection(self.max_connections);
        let max_wait = match &wait_policy {
            WaitPolicy::LastResort(deadline) => deadline.saturating_duration_since(Instant::now()),
            _ => self.timeouts.timeout,
        };
        let began = Instant::now();
        loop {
            let left = max_wait.saturating_sub(began.elapsed());
            let (permit, idle) = self.pool.take(mode, left).ok_or_else(none)?;
            // It may have changed while we waited.
            self.ensure_readable(mode)?;
            let waited = permit.waited();
            match self.send_on(idle, mode, permit, commands, wait_policy.clone(), &may_send) {
                // The connection of another may be free in a moment, or what this machine lacks.
                Err(BackendError::Local(_)) if began.elapsed() < max_wait / 2 => {
                    thread::sleep(LOCAL_WAIT);
                }
                // The backend had less time than it is due.
                Err(BackendError::TimedOut)
                    if waited > self.timeouts.timeout / 20 && !wait_policy.needs_probe() =>
                {
                    return Err(none());
                }
                sent => return sent,
            }
        }
    }

    fn send_on(
        &self,
        idle: Option<Connection>,
        mode: Mode,
        mut permit: Permit<Mode, Connection>,
        commands: &[u8],
        wait_policy: WaitPolicy,
        may_send: &impl Fn(&Connection) -> bool,
    ) -> Result<PooledConnection, BackendError> {
        let waited = permit.waited();
        let idle = idle.filter(|link| self.is_current(link) && !link.is_spoilt());
        if idle.is_none() {
            permit = permit.renewed();
        }
        if let Some(link) = idle {
            let mut connection = self.connection(link, mode, permit);
            if !may_send(&connection) {
                connection.keep();
                return Err(BackendError::OtherCommands);
            }
            connection.set_wait_policy(wait_policy.clone(), waited);
            let probed = if wait_policy.needs_probe() { connection.probe() } else { Ok(()) };
            let is_probed = wait_policy.needs_probe() && probed.is_ok();
            let began = Instant::now();
            match probed.and_then(|()| connection.send(commands)) {
                Ok(()) => return Ok(connection),
                Err(BackendError::Lost(_)) if !is_probed && began.elapsed() < STALE_TIME => {
                    // When one idle connection is broken, the others are too.
                    self.close_all();
                    permit = connection.permit.renewed();
                }
                Err(error) => return Err(error),
            }
        }
        let link = match wait_policy.needs_probe() {
            // Whoever makes a connection finds out whether the backend answers.
            true => {
                self.dial(mode, self.probing_policy(), waited).map_err(BackendError::of_probe)?
            }
            false => self.dial(mode, wait_policy.clone(), waited)?,
        };
        let mut connection = self.connection(link, mode, permit);
        if !may_send(&connection) {
            connection.keep();
            return Err(BackendError::OtherCommands);
        }
        connection.set_wait_policy(wait_policy, waited);
        connection.send(commands)?;
        Ok(connection)
    }

    fn connection(
        &self,
        link: Connection,
        mode: Mode,
        permit: Permit<Mode, Connection>,
    ) -> PooledConnection {
        PooledConnection { link, mode, permit, refuser: self.refuser.clone() }
    }

    /// Takes note of a read that has failed on it, which is a failure of the backend.
    pub fn failed(&self, error: &BackendError) {
        self.timeouts.supervisor.failed(error);
    }

    /// What its server refuses that others may answer.
    pub fn refuser(&self) -> &Refuser {
        &self.refuser
    }

    fn ensure_readable(&self, mode: Mode) -> Result<(), BackendError> {
        self.timeouts
            .supervisor
            .refusal(mode.database)
            .map_or(Ok(()), |why| Err(BackendError::Syncing(why)))
    }

    /// That of something which shows whether it answers at all.
    pub fn probing_policy(&self) -> WaitPolicy {
        WaitPolicy::Probe(Instant::now() + self.timeouts.timeout)
    }

    /// Whether somebody waits for a connection.
    pub fn is_wanted(&self) -> bool {
        self.pool.is_wanted()
    }

    /// Whether there is an idle connection of this mode.
    pub fn has_idle(&self, mode: Mode) -> bool {
        self.pool.has_idle(mode)
    }

    /// Closes the connections that nobody uses, and those in use as soon as they are given back.
    pub fn close_all(&self) {
        self.pool.close_all();
        for shared in lock(&self.shared).drain(..) {
            shared.retire();
        }
    }

    /// Whether the server that this leads to knows the commands that the backend is known for: what
    /// was judged by [`commands`](Self::commands) may be sent on it.
    pub fn is_current(&self, link: &Connection) -> bool {
        link.commands_version() == self.commands_version()
    }

    /// How long it is waited for.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The connections to it.
    pub fn connections(&self) -> pool::Counts {
        self.pool.counts()
    }
}
