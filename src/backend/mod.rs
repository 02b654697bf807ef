//! One Redis server: its address, the connections to it, and the meaning of its answers.

mod advice;
mod check;
mod commands;
mod connection;
mod dial;
mod error;
mod id;
mod key_sample;
mod kill;
pub(crate) mod large_values;
mod links;
mod mode_uses;
mod pace;
pub(crate) mod pipeline;
pub(crate) mod pool;
pub(crate) mod reply_router;
mod report;
pub(crate) mod shared;
mod shared_reader;
mod socket;
mod stranger;
pub(crate) mod subscriptions;
mod supervisor;
#[cfg(test)]
mod test_support;
mod type_hints;
mod unable;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;

pub(crate) use self::advice::{advice_on_failure, advice_on_unserved};
pub(crate) use self::check::{info, read_server_info};
pub(crate) use self::connection::STALE_TIME;
pub use self::connection::{Connection, PooledConnection};
use self::dial::ServerInfo;
pub use self::error::BackendError;
pub(crate) use self::error::{LEFT_BUSY, LEFT_DOWN, STUCK, is_timeout};
pub use self::id::BackendId;
use self::large_values::LargeValueQueue;
pub use self::links::AnnouncedReplica;
#[cfg(test)]
pub use self::links::Links;
use self::mode_uses::ModeUses;
use self::pool::{Permit, Pool};
pub use self::report::{Keys, Report, Unserved};
pub(crate) use self::report::{STEADY_KEYS_AT_ONCE, is_below_half, lacks};
use self::shared::SharedConnection;
pub(crate) use self::shared_reader::HELD_REPLY_BYTES;
pub use self::socket::{Timeouts, WaitPolicy};
pub(crate) use self::stranger::Stranger;
use self::subscriptions::SubscriptionConnection;
pub use self::supervisor::{Class, PendingRead, Supervisor};
use self::type_hints::TypeHints;
pub(crate) use self::unable::{Inability, check_server, inability, is_not_permitted, said};
use crate::config::address::BackendAddress;
use crate::metrics::{BackendMetrics, Metrics};
use crate::net::tls::expiry::Validity;
use crate::policy::CommandTable;
use crate::render::json::Survey;
use crate::resp::Protocol;
use crate::sync::{Mutex, lock};

/// Most bytes of a reply to `INFO`.
const MAX_INFO_BYTES: u64 = 1024 * 1024;

/// Pause after this machine could make no connection. It is tried again for half of the time that a read
/// may wait for a connection.
const LOCAL_WAIT: Duration = Duration::from_millis(10);

/// The settings of a connection: it serves any client of its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// The selected database.
    pub database: i64,
    /// The version of the protocol that replies are in.
    pub protocol: Protocol,
}

impl Mode {
    /// Returns a number that differs for each mode.
    pub fn context(self) -> u64 {
        let protocol = u64::from(self.protocol == Protocol::Resp3);
        (self.database as u64) << 1 | protocol
    }
}

/// One Redis server: its address, what is known of it, and the connections to it.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: BackendId,
    /// Its URL.
    pub(crate) address: BackendAddress,
    /// Its counters and times.
    pub(crate) metrics: BackendMetrics,
    /// Counters of the whole process, which count what its shared connections answer.
    all_metrics: Arc<Metrics>,
    /// The limits of each wait for it.
    pub(crate) timeouts: Arc<Timeouts>,
    /// The addresses that its name stands for, or the reason why there are none. The resolver alone
    /// writes, each dial reads.
    resolved: Mutex<Result<Vec<SocketAddr>, String>>,
    /// Whether these addresses have changed since the last check.
    has_moved: AtomicBool,
    /// The connections to it.
    pub(crate) pool: Arc<Pool<Mode, Connection>>,
    /// Connections that many clients send on, one for each mode.
    shared: Mutex<Vec<Arc<SharedConnection>>>,
    /// How often all connections were closed.
    times_closed: AtomicU64,
    /// The connection that carries the subscriptions of all clients.
    subscriptions: Mutex<Option<Arc<SubscriptionConnection>>>,
    /// Which modes have a connection that is shared.
    mode_uses: Mutex<ModeUses>,
    /// The certificate that its server has shown last, and when that is valid.
    certificate: Mutex<Option<(CertificateDer<'static>, Validity)>>,
    server: Mutex<ServerInfo>,
    /// Counts the changes of [`commands`](Self::commands).
    commands_version: AtomicU64,
    /// The types that its values probably have.
    pub(crate) type_hints: TypeHints,
    /// Queue of the clients that ask for values which are known to be large.
    pub(crate) large_values: Arc<LargeValueQueue<Survey>>,
}

impl Backend {
    /// Returns a backend without connections. `timeouts` bound each connect, the silence before and
    /// within each reply, and the wait for one of the `max_connections`.
    pub fn new(
        id: BackendId,
        address: BackendAddress,
        timeouts: Timeouts,
        max_connections: usize,
        all_metrics: Arc<Metrics>,
    ) -> Self {
        let resolved = match (address.unix_path(), address.host().parse::<IpAddr>()) {
            (Some(_), _) => Ok(Vec::new()),
            (None, Ok(ip)) => Ok(vec![SocketAddr::new(ip, address.port())]),
            (None, Err(_)) => Err("not yet looked up".to_owned()),
        };
        Self {
            id,
            address,
            metrics: BackendMetrics::default(),
            all_metrics,
            timeouts: Arc::new(timeouts),
            resolved: Mutex::new(resolved),
            has_moved: AtomicBool::new(false),
            pool: Pool::new(max_connections),
            shared: Mutex::default(),
            subscriptions: Mutex::default(),
            times_closed: AtomicU64::new(0),
            mode_uses: Mutex::default(),
            certificate: Mutex::default(),
            server: Mutex::default(),
            commands_version: AtomicU64::new(0),
            type_hints: TypeHints::default(),
            large_values: Arc::default(),
        }
    }

    /// Returns `HOST:PORT`, or the path of its Unix socket.
    pub fn name(&self) -> &str {
        self.address.name()
    }

    /// Returns the `run_id` of its server, once a connection has been made.
    pub fn run_id(&self) -> Option<Arc<str>> {
        lock(&self.server).run_id.clone()
    }

    /// Returns the commands that its server knows.
    pub fn commands(&self) -> Option<Arc<CommandTable>> {
        lock(&self.server).commands.clone()
    }

    /// Returns a number that changes whenever [`commands`](Self::commands) does.
    pub fn commands_version(&self) -> u64 {
        self.commands_version.load(Ordering::Acquire)
    }

    /// Returns the mode of our own requests, in the database of the backend's URL.
    pub fn own_mode(&self) -> Mode {
        Mode { database: self.address.database(), protocol: Protocol::Resp2 }
    }

    /// Returns the mode of our own requests in this database, or that of the backend's URL if it is `None`.
    pub fn mode_in(&self, database: Option<i64>) -> Mode {
        let own = self.own_mode();
        Mode { database: database.unwrap_or(own.database), ..own }
    }

    /// Sends `commands` on an idle connection of that mode, or a new one, and waits for the first
    /// byte of the reply. A stale connection is replaced once, as `backend/connection.rs` tells.
    ///
    /// Nothing is sent if `may_send` refuses the connection: another server, with other commands, may have
    /// been found at the address meanwhile.
    pub fn request(
        &self,
        mode: Mode,
        commands: &[u8],
        wait_policy: WaitPolicy,
        may_send: impl Fn(&Connection) -> bool,
    ) -> Result<PooledConnection, BackendError> {
        self.ensure_readable(mode)?;
        let none = || BackendError::NoConnection(self.pool.max_open());
        let timeout = self.timeouts.timeout();
        let max_wait = match &wait_policy {
            WaitPolicy::LastResort(_) => wait_policy.left().unwrap_or_default(),
            _ => timeout,
        };
        let began = Instant::now();
        loop {
            let left = max_wait.saturating_sub(began.elapsed());
            let (permit, idle) = self.pool.take(mode, left).ok_or_else(none)?;
            // It may have changed during the wait.
            self.ensure_readable(mode)?;
            let waited = permit.waited;
            match self.send_on(idle, mode, permit, commands, &wait_policy, &may_send) {
                // Another connection may be free in a moment, or the thing that this machine lacks.
                Err(BackendError::Local(_)) if began.elapsed() < max_wait / 2 => {
                    thread::sleep(LOCAL_WAIT);
                }
                // The backend had less time than it is due.
                Err(BackendError::TimedOut)
                    if waited > timeout / 20 && !wait_policy.needs_probe() =>
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
        wait_policy: &WaitPolicy,
        may_send: &impl Fn(&Connection) -> bool,
    ) -> Result<PooledConnection, BackendError> {
        let (waited, needs_probe) = (permit.waited, wait_policy.needs_probe());
        let idle = idle.filter(|idle| self.is_current(idle) && !idle.is_spoilt());
        if let Some(connection) = idle {
            let connection = PooledConnection { connection, mode, permit, turn: None };
            let mut connection = connection.prepared(wait_policy, may_send)?;
            let probed = if needs_probe { connection.probe() } else { Ok(()) };
            let is_probed = needs_probe && probed.is_ok();
            let began = Instant::now();
            match probed.and_then(|()| connection.send(commands)) {
                Ok(()) => return Ok(connection),
                Err(BackendError::Lost(_)) if !is_probed && began.elapsed() < STALE_TIME => {
                    self.close_pooled();
                    permit = connection.permit;
                }
                Err(error) => return Err(error),
            }
        }
        let permit = permit.renewed();
        let began = Instant::now();
        let connection = match needs_probe {
            // Making the connection shows whether the backend answers.
            true => {
                self.dial(mode, self.probing_policy(), waited).map_err(BackendError::of_probe)?
            }
            false => self.dial(mode, wait_policy.clone(), waited)?,
        };
        let connection = PooledConnection { connection, mode, permit, turn: None };
        let mut connection = connection.prepared(wait_policy, may_send)?;
        if !needs_probe {
            connection.set_wait_policy(wait_policy.clone(), waited + began.elapsed());
        }
        connection.send(commands)?;
        Ok(connection)
    }

    /// Returns whether a client waits for a connection, or for its turn at a large value.
    pub fn is_wanted(&self) -> bool {
        self.pool.counts().waiting > 0 || self.large_values.is_wanted()
    }

    /// Takes note of a read that has failed, which is a failure of the backend.
    pub fn failed(&self, error: &BackendError) {
        self.timeouts.supervisor.failed(error);
    }

    /// Takes note of a refusal with these words. Returns true when all backends that can be asked refuse
    /// the command: then the refusal is the answer.
    pub fn refuses(&self, error: &str) -> bool {
        self.timeouts.supervisor.refuses(error)
    }

    fn ensure_readable(&self, mode: Mode) -> Result<(), BackendError> {
        let refusal = self.timeouts.supervisor.refusal(mode.database);
        refusal.map_or(Ok(()), |why| Err(BackendError::Syncing(why)))
    }

    /// Returns the policy of a request that shows whether the backend answers at all.
    pub fn probing_policy(&self) -> WaitPolicy {
        WaitPolicy::Probe(Instant::now() + self.timeouts.timeout())
    }

    /// Closes the idle connections now, and those in use when they are given back.
    pub fn close_all(&self) {
        self.times_closed.fetch_add(1, Ordering::Release);
        self.close_pooled();
    }

    /// Closes connections as [`close_all`](Self::close_all) does, of a server that is still the same.
    fn close_pooled(&self) {
        self.pool.close_all();
        for shared in lock(&self.shared).drain(..) {
            shared.retire();
        }
    }

    /// Returns how often all connections were closed, because they may lead to another server.
    pub fn times_closed(&self) -> u64 {
        self.times_closed.load(Ordering::Acquire)
    }

    /// Returns whether the server of this connection knows the commands that the backend is known for:
    /// requests that were judged by [`commands`](Self::commands) may be sent on it.
    pub fn is_current(&self, connection: &Connection) -> bool {
        connection.commands_version == self.commands_version()
    }
}
