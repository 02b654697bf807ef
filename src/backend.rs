//! One Redis server behind us: its address, what is known of it, and one exchange with it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
#[cfg(unix)]
use std::{
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    path::Path,
};

use log::{info, warn};
use redis::ConnectionAddr;

use crate::address::BackendAddress;
use crate::large::LargeReads;
use crate::lock::lock;
use crate::policy::CommandTable;
use crate::pool::{Permit, Pool};
use crate::resp::{self, Framer, Protocol, reply};

/// The most that `INFO server` may say.
const MAX_INFO_BYTES: u64 = 64 * 1024;

/// The most that `COMMAND` may say; Redis 7 says a quarter of a megabyte.
const MAX_COMMANDS_BYTES: usize = 16 * 1024 * 1024;

/// A backend may be silent for one second more for each so many bytes that a value is made of.
const BYTES_A_SECOND_OF_PATIENCE: u64 = 32 * 1024 * 1024;

/// The most that it may be silent longer than usual, however large the value.
const MAX_PATIENCE: Duration = Duration::from_secs(30);

/// What of an error's text is passed on, in characters.
const MAX_ERROR_CHARS: usize = 200;

/// What one connection reads from a backend at a time.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// The kernel probes a connection that was silent for so long, …
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// … so often, …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and gives it up after so many probes without an answer.
#[cfg(unix)]
const KEEPALIVE_PROBES: u32 = 3;

/// Why a backend did not answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Its name could not be resolved to an address (yet).
    #[error("its name does not resolve: {0}")]
    Unresolved(String),
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It said nothing for as long as the backend timeout, before or within a reply.
    #[error("timed out")]
    TimedOut,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// It sent bytes that are no Redis reply.
    #[error("{0}")]
    Protocol(String),
    /// It answered with an error.
    #[error("answered: {0}")]
    Redis(String),
    /// Others are reading large values from it, and their turns took longer than
    /// [`TURN_WAIT`](crate::large::TURN_WAIT).
    #[error("timed out behind other large values")]
    Busy,
    /// All connections that there may be to it are in use (`--backend-connections`).
    #[error("timed out waiting for a connection: all {0} are in use")]
    NoConnection(usize),
    /// Its commands are not those by which what is to be sent was judged.
    #[error("the commands that it knows have changed")]
    OtherCommands,
    /// The value changed between the two passes over it.
    #[error("the value changed while it was read")]
    Changed,
}

impl BackendError {
    /// Whether nothing is wrong with the backend: what was asked for is being written.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Changed)
    }

    /// Whether this says something of the backend, not of what others do with it.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Changed | Self::Busy | Self::NoConnection(_) | Self::OtherCommands)
    }

    /// Whether no connection to it could be made or kept.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unresolved(_) | Self::Connect(_) | Self::Lost(_))
    }

    /// Whether the backend was too slow, rather than out of reach.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Busy | Self::NoConnection(_))
    }
}

impl From<io::Error> for BackendError {
    fn from(error: io::Error) -> Self {
        if is_timeout(&error) { Self::TimedOut } else { Self::Lost(error) }
    }
}

impl From<resp::Error> for BackendError {
    fn from(error: resp::Error) -> Self {
        match error {
            resp::Error::Io(error) => error.into(),
            resp::Error::Redis(text) => {
                let plain = |c: char| if c.is_control() { '?' } else { c };
                Self::Redis(text.chars().take(MAX_ERROR_CHARS).map(plain).collect())
            }
            resp::Error::Protocol(_) | resp::Error::TooLong => Self::Protocol(error.to_string()),
        }
    }
}

/// What a connection is set up for: connections serve whoever wants one of their mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// The selected database.
    pub database: i64,
    /// The version of the protocol that replies are in.
    pub protocol: Protocol,
}

/// One Redis server: where it is, what it is, and the connections to it.
#[derive(Debug)]
pub struct Backend {
    address: BackendAddress,
    timeout: Duration,
    max_connections: usize,
    /// What the name in the address means: written by the resolver alone, read by each dial.
    resolved: Mutex<Result<Vec<SocketAddr>, String>>,
    pool: Arc<Pool<Mode, Link>>,
    failing: AtomicBool,
    server: Mutex<Server>,
    /// Counts the changes of what [`commands`](Self::commands) returns.
    commands_version: AtomicU64,
    /// Whose turn it is to read a large value over HTTP.
    pub large_reads: LargeReads,
    /// Whose turn it is among the Redis clients whose last reply was long.
    pub long_replies: LargeReads,
}

/// The process that answers at a backend's address, as far as its newest connection tells.
#[derive(Debug, Clone, Default)]
struct Server {
    /// What it calls itself, anew each time it starts; `None` while unknown.
    run_id: Option<Arc<str>>,
    /// What its `COMMAND` says; `None` while unknown, or when its user may not ask.
    commands: Option<Arc<CommandTable>>,
}

impl Backend {
    /// A backend to which nothing is connected yet. `timeout` bounds each connect, the silence
    /// before and within each reply, and the wait for one of the `max_connections`.
    pub fn new(address: BackendAddress, timeout: Duration, max_connections: usize) -> Self {
        let resolved = match address.endpoint() {
            ConnectionAddr::Tcp(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => Ok(vec![SocketAddr::new(ip, *port)]),
                Err(_) => Err("not yet looked up".to_owned()),
            },
            _ => Ok(Vec::new()),
        };
        Self {
            address,
            timeout,
            max_connections,
            resolved: Mutex::new(resolved),
            pool: Pool::new(max_connections),
            failing: AtomicBool::new(false),
            server: Mutex::default(),
            commands_version: AtomicU64::new(0),
            large_reads: LargeReads::default(),
            long_replies: LargeReads::default(),
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
                let addresses = Ok(addresses.collect());
                let has_moved = *resolved != addresses;
                *resolved = addresses;
                drop(resolved);
                if has_moved {
                    self.pool.close_all();
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

    /// Sends `commands` on an idle connection of that mode, or a new one, and waits for the first
    /// byte of the reply.
    ///
    /// An idle connection that turns out closed is stale, which says nothing of the backend: then,
    /// once, a new one is made.
    pub fn request(&self, mode: Mode, commands: &[u8]) -> Result<Connection, BackendError> {
        self.request_if(mode, commands, |_| true)
    }

    /// The same, but sends only if, with the connection there, `may_send`: another server, with
    /// other commands, may have been found at the address meanwhile.
    pub fn request_if(
        &self,
        mode: Mode,
        commands: &[u8],
        may_send: impl Fn(&Link) -> bool,
    ) -> Result<Connection, BackendError> {
        let none = || BackendError::NoConnection(self.max_connections);
        let (mut permit, idle) = self.pool.take(mode, self.timeout).ok_or_else(none)?;
        if let Some(link) = idle {
            let mut connection = Connection { link, mode, permit };
            if !may_send(&connection) {
                connection.keep();
                return Err(BackendError::OtherCommands);
            }
            match connection.send(commands) {
                Ok(()) => return Ok(connection),
                Err(BackendError::Lost(_)) => {
                    // When one idle connection is broken, the others are too.
                    self.pool.close_all();
                    permit = connection.permit.renewed();
                }
                Err(error) => return Err(error),
            }
        }
        let mut connection = Connection { link: self.dial(mode)?, mode, permit };
        if !may_send(&connection) {
            connection.keep();
            return Err(BackendError::OtherCommands);
        }
        connection.send(commands)?;
        Ok(connection)
    }

    /// Asks whether it is there.
    pub fn ping(&self) -> Result<(), BackendError> {
        let ping = redis::cmd("PING").get_packed_command();
        let mut connection = self.request(self.own_mode(), &ping)?;
        reply::simple(connection.replies())?;
        connection.keep();
        Ok(())
    }

    /// Whether somebody waits for a connection.
    pub fn is_wanted(&self) -> bool {
        self.pool.is_wanted()
    }

    /// Whether there is an idle connection of this mode.
    pub fn has_idle(&self, mode: Mode) -> bool {
        self.pool.has_idle(mode)
    }

    /// The connections to it that are open.
    pub fn open_connections(&self) -> usize {
        self.pool.open()
    }

    /// Remembers whether the last exchange failed; true when that is news, so that each change is
    /// logged once.
    pub fn set_failing(&self, failing: bool) -> bool {
        self.failing.load(Ordering::Relaxed) != failing
            && self.failing.swap(failing, Ordering::Relaxed) != failing
    }

    /// Remembers how an exchange with it ended, and logs its first failure and its return.
    pub fn note(&self, failure: Option<&BackendError>) {
        if self.set_failing(failure.is_some()) {
            match failure {
                Some(error) => warn!("{} failed: {error}", self.name()),
                None => info!("{} answers again", self.name()),
            }
        }
    }

    /// Whether the last exchange that says something of it failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Makes a connection and sets it up. Finds out which server it leads to, and, when that is
    /// another than before, which commands that knows.
    fn dial(&self, mode: Mode) -> Result<Link, BackendError> {
        let socket = self.connect()?;
        let mut link = Link {
            reader: BufReader::with_capacity(READ_BUFFER_BYTES, socket),
            timeout: self.timeout,
            read_timeout: self.timeout,
            run_id: None,
        };
        let mut setup = redis::Pipeline::new();
        if let Some(password) = self.address.password() {
            setup.cmd("AUTH").arg(self.address.username()).arg(password);
        }
        setup.cmd("INFO").arg("server");
        if mode.database != 0 {
            setup.cmd("SELECT").arg(mode.database);
        }
        link.send(&setup.get_packed_pipeline())?;
        if self.address.password().is_some() {
            reply::simple(&mut link.reader)?;
        }
        link.run_id = read_run_id(&mut link.reader)?;
        if mode.database != 0 {
            reply::simple(&mut link.reader)?;
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

    /// Asks a server that was not there before what commands it knows.
    fn meet(&self, link: &mut Link) -> Result<(), BackendError> {
        if link.run_id.is_some() && link.run_id == self.run_id() {
            return Ok(());
        }
        link.send(&redis::cmd("COMMAND").get_packed_command())?;
        let mut reply = Vec::new();
        if !link.hold(&mut reply, MAX_COMMANDS_BYTES)? {
            return Err(resp::Error::TooLong.into());
        }
        let commands = match reply::no_error(&reply) {
            Ok(()) => Some(Arc::new(CommandTable::parse(&reply).map_err(resp::Error::Protocol)?)),
            // HTTP needs no more than a user who may read.
            Err(resp::Error::Redis(text)) if is_not_allowed(&text) => None,
            Err(error) => return Err(error.into()),
        };
        let mut server = lock(&self.server);
        server.run_id.clone_from(&link.run_id);
        if server.commands != commands {
            server.commands = commands;
            self.commands_version.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    fn connect(&self) -> Result<Socket, BackendError> {
        #[cfg(unix)]
        if let ConnectionAddr::Unix(path) = self.address.endpoint() {
            return connect_unix(path, self.timeout).map(Socket::Unix).map_err(connect_error);
        }
        let addresses = lock(&self.resolved).clone().map_err(BackendError::Unresolved)?;
        let mut last = BackendError::Unresolved("no address".to_owned());
        for address in &addresses {
            // One that swallows packets must not use up the time of the next.
            match connect_tcp(*address, self.timeout / addresses.len() as u32, self.timeout) {
                Ok(socket) => return Ok(Socket::Tcp(socket)),
                Err(error) => last = connect_error(error),
            }
        }
        Err(last)
    }
}

/// Reads what `INFO server` says of its run id; `None` where its user may not ask.
pub fn read_run_id(from: &mut impl BufRead) -> Result<Option<Arc<str>>, resp::Error> {
    let info = match reply::bytes(from, MAX_INFO_BYTES) {
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => return Ok(None),
        info => info?,
    };
    let info = String::from_utf8_lossy(&info);
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(run_id.map(|run_id| run_id.trim().into()))
}

/// Whether a command is one that our user must not use, or that was renamed.
fn is_not_allowed(error: &str) -> bool {
    error.starts_with("NOPERM") || error.starts_with("ERR unknown command")
}

/// A connection to a backend, in use by one client.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    /// What it is set up for. Whoever changes that on the connection changes it here.
    pub mode: Mode,
    permit: Permit<Mode, Link>,
}

impl Connection {
    /// Keeps it for the next request of its mode. All replies on it must have been read to the end;
    /// one with more bytes than were asked for is closed.
    pub fn keep(self) {
        if self.link.reader.buffer().is_empty() {
            self.permit.give_back(self.mode, self.link);
        }
    }

    /// Whether somebody waits for a connection to its backend.
    pub fn is_wanted(&self) -> bool {
        self.permit.is_wanted()
    }

    /// Makes it one client's own for as long as it likes; false when too many are.
    pub fn pin(&mut self) -> bool {
        self.permit.pin()
    }
}

impl Deref for Connection {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// A connection to a backend, set up (`AUTH`, `SELECT`, `HELLO`) and with finite timeouts.
#[derive(Debug)]
pub struct Link {
    reader: BufReader<Socket>,
    /// How long it may usually be silent.
    timeout: Duration,
    /// How long it may be silent now, as the socket knows it.
    read_timeout: Duration,
    run_id: Option<Arc<str>>,
}

impl Link {
    /// What its server calls itself; `None` where its user may not ask.
    pub fn run_id(&self) -> Option<&Arc<str>> {
        self.run_id.as_ref()
    }

    /// Sends `commands` and waits for the first byte of the reply.
    pub fn send(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        self.send_within(commands, self.timeout)
    }

    /// The same for a value of about `value_bytes`, which takes a backend longer to begin and,
    /// when others ask for such values too, to go on with.
    pub fn send_for_large(
        &mut self,
        commands: &[u8],
        value_bytes: u64,
    ) -> Result<(), BackendError> {
        let more = Duration::from_secs(1 + value_bytes / BYTES_A_SECOND_OF_PATIENCE);
        self.send_within(commands, self.timeout + more.min(MAX_PATIENCE))
    }

    fn send_within(&mut self, commands: &[u8], silence: Duration) -> Result<(), BackendError> {
        if self.read_timeout != silence {
            match self.reader.get_ref() {
                Socket::Tcp(socket) => socket.set_read_timeout(Some(silence)),
                #[cfg(unix)]
                Socket::Unix(socket) => socket.set_read_timeout(Some(silence)),
            }?;
            self.read_timeout = silence;
        }
        self.reader.get_mut().write_all(commands)?;
        self.next_byte().map(|_| ())
    }

    /// The replies, as they arrive.
    pub fn replies(&mut self) -> &mut impl BufRead {
        &mut self.reader
    }

    /// Waits for the first byte of the next frame, and leaves it there.
    pub fn next_byte(&mut self) -> Result<u8, BackendError> {
        let next = self.reader.fill_buf()?.first().copied();
        next.ok_or_else(|| BackendError::Lost(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Whether there are bytes that were received and not read yet.
    pub fn has_buffered(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Reads one reply into `held`, as raw bytes, while it is at most `max` bytes long. False when
    /// it is longer: then its beginning is in `held`, and the rest is still to be read.
    pub fn hold(&mut self, held: &mut Vec<u8>, max: usize) -> Result<bool, BackendError> {
        let mut framer = Framer::new();
        while !framer.is_done() {
            if held.len() > max {
                return Ok(false);
            }
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let used = framer.feed(available)?;
            held.extend_from_slice(&available[..used]);
            self.reader.consume(used);
        }
        Ok(true)
    }
}

#[cfg(unix)]
impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.reader.get_ref() {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            #[cfg(unix)]
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            #[cfg(unix)]
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(address: SocketAddr, wait: Duration, timeout: Duration) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, wait)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(unix)]
    let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
    socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    Ok(socket)
}

#[cfg(unix)]
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // std's connect has no timeout, and waits while the server's backlog is full.
    socket.connect_timeout(&socket2::SockAddr::unix(path)?, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket.into())
}

fn connect_error(error: io::Error) -> BackendError {
    if is_timeout(&error) { BackendError::TimedOut } else { BackendError::Connect(error) }
}

/// A socket's timeout shows as either kind, by platform.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
