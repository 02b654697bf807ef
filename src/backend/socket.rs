//! The socket to a backend, and how long it is waited for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
#[cfg(unix)]
use std::{
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    path::Path,
};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::error::is_timeout;
use super::supervisor::{Class, PendingRead, Supervisor};

/// The kernel probes a connection that was silent for so long, …
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// … so often, …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and gives it up after so many probes without an answer.
#[cfg(unix)]
const KEEPALIVE_PROBES: u32 = 3;

/// Who waits for longer than usual looks so often whether that is still worth while.
const LONG_WAIT_STEP: Duration = Duration::from_millis(100);

/// What is sent and not acknowledged for so many backend timeouts has not reached the server: several, as
/// networks lose packets.
#[cfg(target_os = "linux")]
const UNREACHABLE_PARTS: u32 = 2;

/// How long a try waits for a backend that is silent.
#[derive(Debug, Clone)]
pub enum WaitPolicy {
    /// A read's try on a backend that serves: as [`decide`](crate::balance::slow::decide) says.
    Read {
        /// What is known of the read.
        class: Class,
        /// That it is unanswered there, for one that is not quick.
        open: Option<Arc<dyn PendingRead>>,
    },
    /// Until then, as long as nobody finds the backend to have failed.
    Probe(Instant),
    /// A try on a backend that is not up: until then, or until another is.
    LastResort(Instant),
    /// Until then.
    Until(Instant),
}

impl WaitPolicy {
    /// That of a read which is answered at once.
    pub const QUICK: Self = Self::Read { class: Class::Quick, open: None };

    /// Whether the backend has to answer a PING first: the read may be why it is silent then, and
    /// would else be blamed for what was before it.
    pub fn needs_probe(&self) -> bool {
        matches!(self, Self::Read { class: Class::Unknown | Class::Slow, .. })
    }
}

/// How long one backend is waited for, and who decides when that is over.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// The judge of the backend.
    pub supervisor: Arc<dyn Supervisor>,
    /// `--backend-timeout`: how long a backend may usually be silent.
    pub timeout: Duration,
    /// `--read-timeout`: how long it may be silent when there is no other.
    pub read_timeout: Duration,
}

impl Timeouts {
    /// Bound on every wait for a reply.
    pub fn longest(&self) -> Duration {
        self.timeout.max(self.read_timeout) * 2
    }

    /// Whether a quick read that was met by silence for so long is to wait on.
    ///
    /// # Errors
    /// As [`Supervisor::may_wait`].
    pub fn may_wait(&self, silent: Duration) -> io::Result<bool> {
        if silent < self.timeout {
            return Ok(true);
        }
        self.supervisor.may_wait(Class::Quick, silent, true)
    }
}

/// A socket that waits as long as its user's wait_policy lasts.
#[derive(Debug)]
pub struct PatientSocket {
    socket: Arc<Socket>,
    timeouts: Arc<Timeouts>,
    wait_policy: WaitPolicy,
    /// A silence up to here says nothing.
    usual: Duration,
    /// The socket's own timeout.
    step: Duration,
}

impl PatientSocket {
    /// A silence of the backend timeout ends each wait, until that is changed.
    pub fn new(socket: Socket, timeouts: Arc<Timeouts>, wait_policy: WaitPolicy) -> Self {
        let usual = timeouts.timeout;
        Self { socket: Arc::new(socket), timeouts, wait_policy, usual, step: usual }
    }

    /// From now on it waits like this.
    pub fn set_wait_policy(&mut self, wait_policy: WaitPolicy) {
        self.wait_policy = wait_policy;
    }

    /// The socket itself, for those who wait in their own way.
    pub fn shared(&self) -> Arc<Socket> {
        Arc::clone(&self.socket)
    }

    /// How it waits.
    pub fn wait_policy(&self) -> WaitPolicy {
        self.wait_policy.clone()
    }

    /// The read that is unanswered here, where it is not quick.
    pub fn open_read(&self) -> Option<&dyn PendingRead> {
        match &self.wait_policy {
            WaitPolicy::Read { open, .. } => open.as_deref(),
            _ => None,
        }
    }

    /// Whether bytes, or the end, have come.
    pub fn has_something(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(self.as_fd(), &mut [0; 1], flags);
        !matches!(peeked, Err(Errno::AGAIN))
    }

    /// How long a backend may usually be silent.
    pub fn usual_timeout(&self) -> Duration {
        self.timeouts.timeout
    }

    /// A request goes out for which a silence up to `usual` says nothing.
    pub fn expect_silence(&mut self, usual: Duration) -> io::Result<()> {
        self.usual = usual;
        let step = match &self.wait_policy {
            WaitPolicy::Until(deadline) => left(*deadline),
            WaitPolicy::Probe(_) | WaitPolicy::LastResort(_) => usual.min(LONG_WAIT_STEP),
            // That it is overdue is to be noticed in time.
            WaitPolicy::Read { open: Some(_), .. } => usual.min(LONG_WAIT_STEP),
            WaitPolicy::Read { .. } => usual,
        };
        self.set_step(step)
    }

    fn set_step(&mut self, step: Duration) -> io::Result<()> {
        // A system call, which most requests can do without.
        if self.step != step {
            self.socket.set_read_timeout(step)?;
            self.step = step;
        }
        Ok(())
    }

    /// Whether to wait on, with nothing heard for so long.
    ///
    /// # Errors
    /// When the backend answers others meanwhile: the connection is broken, or the read is a slow one
    /// of a kind that holds up nobody else.
    fn may_wait(&mut self, silent: Duration) -> io::Result<bool> {
        let supervisor = &self.timeouts.supervisor;
        let may_wait = match &self.wait_policy {
            WaitPolicy::Until(deadline) => Instant::now() < *deadline,
            WaitPolicy::Probe(deadline) => Instant::now() < *deadline && supervisor.is_up(),
            WaitPolicy::LastResort(deadline) => {
                let is_unusual = silent >= self.usual;
                let may_wait = supervisor.may_wait_as_last_resort(silent, is_unusual)?;
                may_wait && Instant::now() < *deadline
            }
            WaitPolicy::Read { class, open } => {
                if let Some(open) = open {
                    open.note_silence(silent);
                }
                // What has begun to be answered keeps its server busy no more.
                let has_begun = open.as_ref().is_some_and(|open| open.has_begun());
                let class = if has_begun { Class::Quick } else { *class };
                // A connection that was waited for left the backend less time than it is due.
                let is_due = self.usual >= self.timeouts.timeout;
                silent < self.usual || supervisor.may_wait(class, silent, is_due)?
            }
        };
        if may_wait {
            self.set_step(match &self.wait_policy {
                WaitPolicy::Until(deadline) => left(*deadline),
                WaitPolicy::Probe(deadline) | WaitPolicy::LastResort(deadline) => {
                    left(*deadline).min(LONG_WAIT_STEP)
                }
                WaitPolicy::Read { .. } => LONG_WAIT_STEP,
            })?;
        }
        Ok(may_wait)
    }
}

/// The time until then, as a socket can take it.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

impl Read for PatientSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let WaitPolicy::Until(deadline) = self.wait_policy
            && Instant::now() >= deadline
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut silent = Duration::ZERO;
        loop {
            let read = (&*self.socket).read(buffer);
            match &read {
                Err(error) if is_timeout(error) => {
                    silent += self.step;
                    if !self.may_wait(silent)? {
                        return read;
                    }
                }
                // By a signal to our process: says nothing about the backend.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return read,
            }
        }
    }
}

impl Write for PatientSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut silent = Duration::ZERO;
        loop {
            let written = (&*self.socket).write(bytes);
            match &written {
                Err(error) if is_timeout(error) => {
                    silent += self.timeouts.timeout;
                    if !self.may_wait(silent)? {
                        return written;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
impl AsFd for PatientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Either kind of socket.
#[derive(Debug)]
pub enum Socket {
    /// To an address.
    Tcp(TcpStream),
    /// To a path.
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// How long a read waits.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(Some(timeout)),
            #[cfg(unix)]
            Self::Unix(socket) => socket.set_read_timeout(Some(timeout)),
        }
    }

    /// Ends the connection for all who use it.
    pub fn shutdown(&self) {
        // One that has ended already needs no end.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            #[cfg(unix)]
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => (&*socket).read(buffer),
            #[cfg(unix)]
            Socket::Unix(socket) => (&*socket).read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => (&*socket).write(bytes),
            #[cfg(unix)]
            Socket::Unix(socket) => (&*socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects within `wait`; each later operation may take `timeout`.
pub fn connect_tcp(
    address: SocketAddr,
    wait: Duration,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, wait)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(unix)]
    let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
    let options = socket2::SockRef::from(&socket);
    options.set_tcp_keepalive(&keepalive)?;
    // A server that is busy has a kernel that acknowledges what we send; one that can't be reached has
    // none.
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(timeout * UNREACHABLE_PARTS))?;
    Ok(socket)
}

/// The same for a path.
#[cfg(unix)]
pub fn connect_unix(path: &Path, wait: Duration, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // std's connect has no timeout, and waits while the server's backlog is full.
    socket.connect_timeout(&socket2::SockAddr::unix(path)?, wait)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket.into())
}
