//! One Redis server behind us: its address, its idle connections, and one exchange with it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
#[cfg(unix)]
use std::{os::unix::net::UnixStream, path::Path};

use redis::ConnectionAddr;

use crate::address::BackendAddress;
use crate::large::LargeReads;
use crate::lock::lock;
use crate::resp::{self, Framer, reply};

/// Idle connections that are kept to one backend; more are closed when their reply is read.
pub const MAX_IDLE_CONNECTIONS: usize = 128;

/// How long an idle connection is kept; what is used now and then stays.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

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
        !matches!(self, Self::Changed | Self::Busy)
    }

    /// Whether no connection to it could be made or kept.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unresolved(_) | Self::Connect(_) | Self::Lost(_))
    }

    /// Whether the backend was too slow, rather than out of reach.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Busy)
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

/// One Redis server: where it is, and the idle connections to it.
#[derive(Debug)]
pub struct Backend {
    address: BackendAddress,
    timeout: Duration,
    /// What the name in the address means: written by the resolver alone, read by each dial.
    resolved: Mutex<Result<Vec<SocketAddr>, String>>,
    /// Last in, first out, so that those in use stay warm and the rest can go.
    idle: Mutex<Vec<Connection>>,
    failing: AtomicBool,
    /// Whose turn it is to read a large value.
    pub large_reads: LargeReads,
}

impl Backend {
    /// A backend to which nothing is connected yet. `timeout` bounds each connect, and the silence
    /// before and within each reply.
    pub fn new(address: BackendAddress, timeout: Duration) -> Self {
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
            resolved: Mutex::new(resolved),
            idle: Mutex::new(Vec::new()),
            failing: AtomicBool::new(false),
            large_reads: LargeReads::default(),
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
                    self.close_idle();
                }
            }
            Err(error) if resolved.is_err() => *resolved = Err(error.to_string()),
            Err(_) => {}
        }
    }

    /// Sends `commands` on an idle connection, or a new one, and waits for the first byte of the
    /// reply.
    ///
    /// An idle connection that turns out closed is stale, which says nothing of the backend: then,
    /// once, a new one is made.
    pub fn request(&self, commands: &[u8]) -> Result<Connection, BackendError> {
        let idle = lock(&self.idle).pop();
        if let Some(mut connection) = idle {
            match connection.send(commands) {
                Ok(()) => return Ok(connection),
                Err(error) => {
                    self.close_idle();
                    if !matches!(error, BackendError::Lost(_)) {
                        return Err(error);
                    }
                }
            }
        }
        let mut connection = self.dial()?;
        connection.send(commands)?;
        Ok(connection)
    }

    /// Keeps a connection for the next request. All replies on it must have been read to the end;
    /// one with more bytes than were asked for is closed.
    pub fn keep(&self, mut connection: Connection) {
        if !connection.reader.buffer().is_empty() {
            return;
        }
        connection.kept_at = Instant::now();
        let mut idle = lock(&self.idle);
        // The oldest are at the bottom.
        let expired = idle.partition_point(|kept| kept.kept_at.elapsed() > MAX_IDLE_TIME);
        let expired: Vec<Connection> = idle.drain(..expired).collect();
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(connection);
        }
        drop(idle);
        drop(expired);
    }

    /// When one idle connection is broken or leads to the wrong server, the others are or do too.
    fn close_idle(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        drop(idle);
    }

    /// Remembers whether the last exchange failed; true when that is news, so that each change is
    /// logged once.
    pub fn set_failing(&self, failing: bool) -> bool {
        self.failing.load(Ordering::Relaxed) != failing
            && self.failing.swap(failing, Ordering::Relaxed) != failing
    }

    fn dial(&self) -> Result<Connection, BackendError> {
        let socket = self.connect()?;
        let mut connection = Connection {
            reader: BufReader::with_capacity(READ_BUFFER_BYTES, socket),
            timeout: self.timeout,
            read_timeout: self.timeout,
            kept_at: Instant::now(),
        };
        let mut setup = redis::Pipeline::new();
        if let Some(password) = self.address.password() {
            let user = self.address.username();
            setup.add_command(redis::cmd("AUTH").arg(user).arg(password).to_owned());
        }
        if self.address.database() != 0 {
            setup.add_command(redis::cmd("SELECT").arg(self.address.database()).to_owned());
        }
        if setup.is_empty() {
            return Ok(connection);
        }
        connection.send(&setup.get_packed_pipeline())?;
        for _ in setup.cmd_iter() {
            reply::simple(&mut connection.reader)?;
        }
        Ok(connection)
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

/// A connection to a backend, set up (`AUTH`, `SELECT`) and with finite timeouts.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<Socket>,
    /// How long it may usually be silent.
    timeout: Duration,
    /// How long it may be silent now, as the socket knows it.
    read_timeout: Duration,
    /// When it became idle.
    kept_at: Instant,
}

impl Connection {
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
        match self.reader.fill_buf()? {
            [] => Err(BackendError::Lost(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// The replies, as they arrive.
    pub fn replies(&mut self) -> &mut impl BufRead {
        &mut self.reader
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
