//! One Redis server behind us: its address, what is known of it, and one exchange with it.

mod commands;
mod connection;
mod error;
mod kill;
pub mod large_values;
mod pipeline;
pub mod pool;
pub mod reply_router;
pub mod shared;
mod socket;
pub mod type_hints;
mod unable;

use std::io::{self, BufRead};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;

pub use self::connection::Connection;
pub use self::error::BackendError;
pub(crate) use self::error::{is_local, is_timeout};
use self::large_values::LargeValueQueue;
use self::pool::{Permit, Pool};
pub use self::shared::HELD_REPLY_BYTES;
use self::shared::SharedConnection;
pub use self::socket::{Timeouts, WaitPolicy};
use self::type_hints::TypeHints;
use self::unable::serves_reads;
pub use self::unable::{Inability, Refusals, Refuser, inability, is_not_permitted, said};
use crate::config::address::BackendAddress;
use crate::health::{Health, Keys, Report};
use crate::metrics::BackendMetrics;
use crate::net::backend_stream::BackendStream;
use crate::policy::CommandTable;
use crate::resp::{self, Protocol, reply};
use crate::sync::{Mutex, lock};

/// The most that `INFO` may say.
const MAX_INFO_BYTES: u64 = 1024 * 1024;

/// So many connections are shared, each by the clients of one mode, and one in eight of those that
/// there may be; clients of other modes have their own.
const MAX_SHARED: usize = 4;

/// A connection that was idle and is lost so soon after something was sent on it had ended before. Later, the
/// server may have died of what was sent.
pub const STALE_TIME: Duration = Duration::from_millis(20);

/// How often it is looked whether the shared connections are quiet.
const QUIET_STEP: Duration = Duration::from_micros(500);

/// However late it is, a connect has so long.
const MIN_CONNECT_TIME: Duration = Duration::from_millis(10);

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
    address: BackendAddress,
    /// How it is.
    pub health: Arc<Health>,
    /// What it has done.
    pub metrics: BackendMetrics,
    timeouts: Arc<Timeouts>,
    max_connections: usize,
    /// What its server refuses.
    refuser: Arc<Refuser>,
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
    pub large_reads: LargeValueQueue,
    /// Whose turn it is among the Redis clients whose last reply was long.
    pub long_replies: LargeValueQueue,
}

/// The process that answers at a backend's address, as far as its newest connection tells.
#[derive(Debug, Clone, Default)]
struct ServerInfo {
    /// What it calls itself, anew each time it starts; `None` while unknown.
    run_id: Option<Arc<str>>,
    /// What its `COMMAND` says; `None` while unknown, or when its user may not ask.
    commands: Option<Arc<CommandTable>>,
}

impl Backend {
    /// A backend to which nothing is connected yet. `waits` bound each connect, the silence before
    /// and within each reply, and the wait for one of the `max_connections`.
    pub fn new(
        address: BackendAddress,
        timeouts: Timeouts,
        max_connections: usize,
        refuser: Arc<Refuser>,
    ) -> Self {
        let resolved = match address.endpoint() {
            ConnectionAddr::Tcp(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => Ok(vec![SocketAddr::new(ip, *port)]),
                Err(_) => Err("not yet looked up".to_owned()),
            },
            _ => Ok(Vec::new()),
        };
        Self {
            address,
            health: Arc::clone(&timeouts.health),
            metrics: BackendMetrics::default(),
            timeouts: Arc::new(timeouts),
            max_connections,
            refuser,
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

    /// `HOST:PORT`, or the path of its Unix socket.
    pub fn name(&self) -> &str {
        self.address.name()
    }

    /// Whether its address holds a name, which may come to mean something else.
    pub fn has_name(&self) -> bool {
        matches!(self.address.endpoint(), ConnectionAddr::Tcp(host, _) if host.parse::<IpAddr>().is_err())
    }

    /// Looks its name up. May take as long as the system's resolver likes: never call it for a
    /// client. When it fails, the last good addresses stay.
    pub fn resolve(&self) {
        let ConnectionAddr::Tcp(host, port) = self.address.endpoint() else { return };
        let found = (host.as_str(), *port).to_socket_addrs();
        let mut resolved = lock(&self.resolved);
        match found {
            Ok(addresses) => {
                let mut addresses: Vec<SocketAddr> = addresses.collect();
                // Some name servers turn them round with each answer.
                addresses.sort();
                let addresses = Ok(addresses);
                let has_moved = *resolved != addresses;
                *resolved = addresses;
                drop(resolved);
                if has_moved {
                    self.has_moved.store(true, Ordering::Release);
                    self.close_all();
                }
            }
            Err(error) if resolved.is_err() => *resolved = Err(error.to_string()),
            Err(_) => {}
        }
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

    /// Whether the database of its URL may be read from it, without a lock.
    pub fn serves_own(&self) -> bool {
        self.health.serves(self.address.database())
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
        PooledConnection { link, mode, permit, refuser: Arc::clone(&self.refuser) }
    }

    /// A read has failed on it, as `error` says, which is a failure of the backend.
    pub fn failed(&self, error: &BackendError) {
        self.health.failed(error);
        if error.is_unnoticed() {
            self.health.distrust_checks();
        }
    }

    /// What its server refuses that others may answer.
    pub fn refuser(&self) -> &Refuser {
        &self.refuser
    }

    fn ensure_readable(&self, mode: Mode) -> Result<(), BackendError> {
        self.health.refusal(mode.database).map_or(Ok(()), |why| Err(BackendError::Syncing(why)))
    }

    /// Makes its server known, where that has not been met.
    pub fn introduce(&self) -> Result<(), BackendError> {
        let ping = redis::cmd("PING").get_packed_command();
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout);
        let mut connection = self.request(self.own_mode(), &ping, wait_policy)?;
        reply::simple(connection.replies())?;
        connection.keep();
        Ok(())
    }

    /// That of something which shows whether it answers at all.
    pub fn probing_policy(&self) -> WaitPolicy {
        WaitPolicy::Probe(Instant::now() + self.timeouts.timeout)
    }

    /// Whether the process that had this run id is gone. That it does not answer says nothing.
    pub fn has_died(&self, run_id: Option<&Arc<str>>) -> bool {
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout);
        match self.dial(self.own_mode(), wait_policy, Duration::ZERO) {
            Ok(link) => link.run_id() != run_id,
            Err(error) => !error.is_timeout() && !error.is_local(),
        }
    }

    /// Asks it how it is, on the connection that was `kept` for that. It has until `deadline`; a
    /// replica is to have heard from its primary within `max_lag`.
    pub fn check(
        &self,
        kept: &mut Option<Connection>,
        deadline: Instant,
        max_lag: Option<Duration>,
    ) -> Result<Report, BackendError> {
        let has_moved = self.has_moved.swap(false, Ordering::AcqRel);
        let wait_policy = WaitPolicy::Until(deadline);
        let mut link = match kept.take().filter(|_| !has_moved) {
            Some(link) => link,
            None => self.open(wait_policy.clone(), Duration::ZERO)?,
        };
        link.set_wait_policy(wait_policy, Duration::ZERO);
        let mut questions = redis::Pipeline::new();
        questions.cmd("PING").cmd("INFO").cmd("DBSIZE");
        link.send(&questions.get_packed_pipeline())?;
        let not_ready = match reply::simple(link.replies()) {
            Ok(_) => None,
            Err(resp::Error::Redis(text)) if is_not_allowed(&text) || serves_reads(&text) => None,
            Err(resp::Error::Redis(text)) if has_no_data(&text) => Some(text),
            Err(error) => return Err(error.into()),
        };
        let info = info(link.replies())?;
        let size = match reply::integer(link.replies()) {
            Ok(size) => size,
            Err(resp::Error::Redis(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let mut report = match info {
            Some(info) => Report::from_info(&info, max_lag),
            None => Report::default(),
        };
        report.not_ready = not_ready.or(report.not_ready);
        if report.run_id.is_empty() {
            report.lacks.push("+info");
        }
        if report.is_cluster_node {
            ask_of_cluster(&mut link, &mut report)?;
        }
        if report.keys.is_none() {
            let count = size.and_then(|count| u64::try_from(count).ok());
            report.keys = count.map(Keys::in_one_database);
        }
        link.set_run_id((!report.run_id.is_empty()).then(|| Arc::clone(&report.run_id)));
        // Where it does not say which server it is, each client finds out what it knows. What one knows
        // that is not served from limits nobody.
        if !report.run_id.is_empty() && report.unserved.is_none() {
            self.meet(&mut link)?;
        }
        *kept = Some(link);
        Ok(report)
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

    /// Timeouts until nothing is under way on its shared connections, for at most `max_wait`: what is sent
    /// afterwards keeps nobody waiting who came before.
    pub fn await_quiet(&self, max_wait: Duration) {
        let began = Instant::now();
        let is_quiet = || lock(&self.shared).iter().all(|shared| shared.is_idle());
        while !is_quiet() && began.elapsed() < max_wait {
            thread::sleep(QUIET_STEP);
        }
    }

    /// A shared connection has ended.
    fn forget_shared(&self, ended: &Arc<SharedConnection>) {
        lock(&self.shared).retain(|shared| !Arc::ptr_eq(shared, ended));
    }

    /// How long it is waited for.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The connections to it.
    pub fn connections(&self) -> pool::Counts {
        self.pool.counts()
    }

    /// Makes a connection and sets it up. Finds out which server it leads to: one that no check has
    /// accepted is not used, and of one that is new it asks which commands that knows.
    fn dial(
        &self,
        mode: Mode,
        wait_policy: WaitPolicy,
        waited: Duration,
    ) -> Result<Connection, BackendError> {
        let mut link = self.open(wait_policy, waited)?;
        let mut setup = redis::Pipeline::new();
        setup.cmd("INFO").arg("server");
        if mode.database != 0 {
            setup.cmd("SELECT").arg(mode.database);
        }
        link.send(&setup.get_packed_pipeline())?;
        let (run_id, is_cluster_node) = read_server_info(link.replies())?;
        self.health.admit(run_id.as_deref().unwrap_or_default()).map_err(BackendError::Syncing)?;
        link.set_run_id(run_id);
        if mode.database != 0 {
            reply::simple(link.replies())?;
        }
        if is_cluster_node {
            read_only(&mut link)?;
        }
        self.meet(&mut link)?;
        if mode.protocol == Protocol::Resp3 {
            link.send(&redis::cmd("HELLO").arg(3).get_packed_command())?;
            let mut greeting = Vec::new();
            link.hold(&mut greeting, MAX_INFO_BYTES as usize)?;
            reply::no_error(&greeting)?;
        }
        Ok(link)
    }

    /// Makes a connection and logs in.
    fn open(&self, wait_policy: WaitPolicy, waited: Duration) -> Result<Connection, BackendError> {
        let wait = match &wait_policy {
            WaitPolicy::Until(deadline)
            | WaitPolicy::Probe(deadline)
            | WaitPolicy::LastResort(deadline) => {
                deadline.saturating_duration_since(Instant::now())
            }
            _ => self.timeouts.timeout.saturating_sub(waited),
        };
        let wait = wait.clamp(MIN_CONNECT_TIME, self.timeouts.timeout.max(MIN_CONNECT_TIME));
        let mut link = Connection::new(self.connect(wait)?, &self.timeouts, wait_policy.clone());
        link.set_wait_policy(wait_policy, waited);
        if let Some(password) = self.address.password() {
            let mut auth = redis::cmd("AUTH");
            auth.arg(self.address.username()).arg(password);
            link.send(&auth.get_packed_command())?;
            reply::simple(link.replies()).map_err(|error| without(error, password))?;
        }
        Ok(link)
    }

    /// Asks a server that was not there before what commands it knows.
    fn meet(&self, link: &mut Connection) -> Result<(), BackendError> {
        let server = lock(&self.server);
        if link.run_id().is_some() && link.run_id() == server.run_id.as_ref() {
            link.set_commands_version(self.commands_version());
            return Ok(());
        }
        drop(server);
        let commands = commands::ask(link)?.map(Arc::new);
        let mut server = lock(&self.server);
        let is_other = server.run_id.is_some() && server.run_id.as_ref() != link.run_id();
        let has_changed = server.commands != commands;
        if is_other || (has_changed && server.commands.is_some()) {
            // Others may lead to the server that was there before.
            self.close_all();
        }
        server.run_id = link.run_id().cloned();
        if has_changed {
            server.commands = commands;
            self.commands_version.fetch_add(1, Ordering::Release);
        }
        // With the lock held: it is the version of this server's commands.
        link.set_commands_version(self.commands_version());
        Ok(())
    }

    fn connect(&self, wait: Duration) -> Result<BackendStream, BackendError> {
        let timeout = self.timeouts.timeout;
        if let ConnectionAddr::Unix(path) = self.address.endpoint() {
            return BackendStream::connect_unix(path, wait, timeout).map_err(connect_error);
        }
        let addresses = lock(&self.resolved).clone().map_err(BackendError::Unresolved)?;
        let mut last = BackendError::Unresolved("no address".to_owned());
        for address in &addresses {
            // One that swallows packets must not use up the time of the next.
            match BackendStream::connect(*address, wait / addresses.len() as u32, timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = connect_error(error),
            }
        }
        Err(last)
    }
}

fn connect_error(error: io::Error) -> BackendError {
    match error {
        error if is_local(&error) => BackendError::Local(error),
        error if is_timeout(&error) => BackendError::TimedOut,
        error => BackendError::Connect(error),
    }
}

/// The error without the password, which a server that does not know `AUTH` repeats.
fn without(error: resp::Error, password: &str) -> resp::Error {
    match error {
        resp::Error::Redis(text) if !password.is_empty() => {
            resp::Error::Redis(text.replace(password, "…"))
        }
        error => error,
    }
}

/// What `INFO` says; `None` where its user may not ask.
fn info(from: &mut impl BufRead) -> Result<Option<String>, resp::Error> {
    match reply::bytes(from, MAX_INFO_BYTES) {
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => Ok(None),
        Ok(info) => Ok(Some(String::from_utf8_lossy(&info).into_owned())),
        Err(error) => Err(error),
    }
}

/// Reads what `INFO server` says of its run id, `None` where its user may not ask, and whether it is a
/// node of a Cluster.
fn read_server_info(from: &mut impl BufRead) -> Result<(Option<Arc<str>>, bool), resp::Error> {
    let info = info(from)?.unwrap_or_default();
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Ok((field("run_id:").map(Arc::from), field("redis_mode:") == Some("cluster")))
}

/// Reads what `INFO server` says of its run id; `None` where its user may not ask.
pub fn read_run_id(from: &mut impl BufRead) -> Result<Option<Arc<str>>, resp::Error> {
    read_server_info(from).map(|(run_id, _)| run_id)
}

/// Lets a node of a Cluster answer reads on this connection also where it is a replica, which else
/// sends clients to its primary. False when its user may not ask for that: then a primary can still be
/// read from.
fn read_only(link: &mut Connection) -> Result<bool, BackendError> {
    link.send(&redis::cmd("READONLY").get_packed_command())?;
    match reply::simple(link.replies()) {
        Ok(_) => Ok(true),
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks a node of a Cluster whether it has all of the data, as far as its user may ask, and whether it
/// lets it read from replicas.
fn ask_of_cluster(link: &mut Connection, report: &mut Report) -> Result<(), BackendError> {
    link.send(&redis::cmd("CLUSTER").arg("INFO").get_packed_command())?;
    match reply::bytes(link.replies(), MAX_INFO_BYTES) {
        Ok(info) => report.add_cluster_info(&String::from_utf8_lossy(&info)),
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => {
            report.lacks.push("+cluster|info")
        }
        Err(error) => return Err(error.into()),
    }
    if !read_only(link)? {
        report.lacks.push("+readonly");
    }
    Ok(())
}

/// Whether a server says that it has no data to read (yet).
fn has_no_data(error: &str) -> bool {
    error.starts_with("LOADING") || error.starts_with("MASTERDOWN")
}

/// Whether a command is one that our user must not use, or that was renamed.
fn is_not_allowed(error: &str) -> bool {
    is_not_permitted(error) || error.starts_with("ERR unknown command")
}

/// A connection to a backend, in use by one client.
#[derive(Debug)]
pub struct PooledConnection {
    link: Connection,
    /// What it is set up for. Whoever changes that on the connection changes it here.
    pub mode: Mode,
    permit: Permit<Mode, Connection>,
    refuser: Arc<Refuser>,
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
