//! A connection to a backend: connects, reads and writes with timeouts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::client_stream::ByteCounter;
use super::poll;
use super::tls::session::{ReadWait, TlsSession};
use super::tls::{TlsError, TlsSummary};

/// Length of a silence after which the kernel probes a connection.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// Time between two probes of the kernel.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of unanswered probes after which the kernel gives a connection up.
const KEEPALIVE_PROBES: u32 = 3;

/// Number of timeouts after which bytes that are sent and not acknowledged have not reached the server.
/// It is more than one, as networks lose packets.
#[cfg(target_os = "linux")]
const UNREACHABLE_TIMEOUTS: u32 = 2;

/// A connection that we have made to a backend, over TCP or a Unix socket.
///
/// Any thread may write, or end it, while one thread reads.
#[derive(Debug)]
pub struct BackendStream {
    socket: Socket,
    tls: Option<Box<BackendSession>>,
    counter: Option<Arc<dyn ByteCounter>>,
}

/// TLS as a backend's address asks for it.
#[derive(Debug, Clone)]
pub struct BackendTls {
    /// Certificates and versions.
    pub config: Arc<ClientConfig>,
    /// The name that the backend's certificate has to have.
    pub server_name: ServerName<'static>,
}

/// A TLS session, and the timeouts of its socket.
#[derive(Debug)]
struct BackendSession {
    session: TlsSession,
    read_timeout_nanos: AtomicU64,
    write_timeout: Duration,
}

impl BackendSession {
    fn read_timeout(&self) -> Duration {
        Duration::from_nanos(self.read_timeout_nanos.load(Ordering::Relaxed))
    }

    fn set_read_timeout(&self, timeout: Duration) {
        self.read_timeout_nanos.store(timeout.as_nanos() as u64, Ordering::Relaxed);
    }

    fn start(
        socket: &Socket,
        tls: &BackendTls,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Self, TlsError> {
        let connection = ClientConnection::new(Arc::clone(&tls.config), tls.server_name.clone())?;
        let session = TlsSession::handshake(socket, connection, &[], deadline)?;
        let this =
            Self { session, read_timeout_nanos: AtomicU64::default(), write_timeout: timeout };
        this.set_read_timeout(timeout);
        Ok(this)
    }

    /// Writes as a socket does: waits until some bytes are taken, for the timeout at most.
    fn write(&self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        let deadline = Instant::now() + self.write_timeout;
        loop {
            let sent = self.session.send_now(socket, bytes)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if sent > 0 || bytes.is_empty() {
                return Ok(sent);
            }
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            poll(&mut [PollFd::new(socket, PollFlags::OUT)], left)?;
        }
    }
}

impl BackendStream {
    /// Connects to an address within `wait`, a TLS handshake included. Each later operation may take `timeout`.
    ///
    /// # Errors
    /// As the system says, or with a [`TlsError`].
    pub(crate) fn connect(
        address: SocketAddr,
        wait: Duration,
        timeout: Duration,
        tls: Option<&BackendTls>,
    ) -> io::Result<Self> {
        let deadline = Instant::now() + wait;
        let socket = connected(Domain::for_address(address), &address.into(), wait, timeout)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_TIME)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_PROBES),
        )?;
        // The kernel of a server that is busy acknowledges what we send. A server that can't be
        // reached has no kernel that does.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(timeout * UNREACHABLE_TIMEOUTS))?;
        let tls = match tls {
            Some(tls) => Some(Box::new(BackendSession::start(&socket, tls, deadline, timeout)?)),
            None => None,
        };
        Ok(Self { socket, tls, counter: None })
    }

    /// Connects to a Unix socket within `wait`. Each later operation may take `timeout`.
    pub(crate) fn connect_unix(path: &Path, wait: Duration, timeout: Duration) -> io::Result<Self> {
        let socket = connected(Domain::UNIX, &SockAddr::unix(path)?, wait, timeout)?;
        Ok(Self { socket, tls: None, counter: None })
    }

    /// Tells `counter` from now on how many bytes go over it: within TLS those that are encrypted.
    pub(crate) fn count_by(&mut self, counter: Arc<dyn ByteCounter>) {
        self.counter = Some(counter);
    }

    /// Sets how long a read may wait.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.set_read_timeout(timeout);
        }
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Returns what the TLS handshake has come to; `None` in plain text.
    pub(crate) fn tls(&self) -> Option<TlsSummary> {
        self.tls.as_ref().map(|tls| tls.session.summary())
    }

    /// Returns whether bytes have arrived, or the end.
    pub(crate) fn has_input(&self) -> bool {
        if let Some(tls) = &self.tls {
            return tls.session.has_input(&self.socket);
        }
        let peeked = recv(&self.socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Err(Errno::AGAIN))
    }

    /// Waits for `timeout` at most until bytes arrive, or the end; returns whether they have.
    pub(crate) fn wait_for_input(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut left = if self.has_plain_text() { Duration::ZERO } else { timeout };
        loop {
            let mut polled = [self.input()];
            let is_ready = poll(&mut polled, left).is_ok() && !polled[0].revents().is_empty();
            if self.is_input(is_ready) {
                return true;
            }
            left = deadline.saturating_duration_since(Instant::now());
            if !is_ready || left.is_zero() {
                return false;
            }
        }
    }

    /// Whether there is something to read that no longer is in the socket.
    pub(super) fn has_plain_text(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.plain_bytes() > 0)
    }

    /// Whether there is something to read, if the socket says so or not: bytes of TLS may come to nothing.
    pub(super) fn is_input(&self, is_ready: bool) -> bool {
        match &self.tls {
            Some(tls) => (is_ready || self.has_plain_text()) && tls.session.has_input(&self.socket),
            None => is_ready,
        }
    }

    /// Ends the connection for all threads that use it.
    pub(crate) fn shutdown(&self) {
        // It fails where the connection has ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Returns the event of `poll` that tells that there is something to read.
    pub(super) fn input(&self) -> PollFd<'_> {
        PollFd::new(&self.socket, PollFlags::IN)
    }
}

/// Returns a connected socket with timeouts.
fn connected(
    domain: Domain,
    address: &SockAddr,
    wait: Duration,
    timeout: Duration,
) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    // A Unix socket's plain connect would wait for as long as the server's backlog is full.
    socket.connect_timeout(address, wait)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket)
}

impl Read for &BackendStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &self.tls {
            Some(tls) => {
                let wait = ReadWait::SocketTimeout(tls.read_timeout());
                tls.session.read_slice(&self.socket, buffer, wait)
            }
            None => (&self.socket).read(buffer),
        };
        if let (Ok(bytes), Some(counter)) = (&read, &self.counter) {
            counter.received(*bytes);
        }
        read
    }
}

impl Write for &BackendStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &self.tls {
            Some(tls) => tls.write(&self.socket, bytes),
            None => (&self.socket).write(bytes),
        };
        if let (Ok(bytes), Some(counter)) = (&written, &self.counter) {
            counter.sent(*bytes);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::super::tls::test_support::configs;
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(10);

    /// What holds whatever carries the bytes.
    fn try_out(stream: &BackendStream, mut server: impl Read + Write) {
        assert!(!stream.has_input() && !stream.wait_for_input(SHORT));
        stream.set_read_timeout(SHORT).expect("a timeout");
        let mut buffer = [0; 4];
        assert!((&*stream).read(&mut buffer).is_err(), "nothing has come");
        (&*stream).write_all(b"ping").expect("room");
        server.read_exact(&mut buffer).expect("bytes");
        server.write_all(&buffer).expect("room");
        assert!(stream.wait_for_input(LONG) && stream.has_input());
        assert_eq!((&*stream).read(&mut buffer).expect("bytes"), 4);
        assert_eq!(&buffer, b"ping");
        stream.shutdown();
        // It is no orderly end of TLS.
        assert_eq!(server.read(&mut buffer).unwrap_or(0), 0, "the end");
        assert!(stream.wait_for_input(LONG) && stream.has_input(), "the end");
    }

    #[test]
    fn bytes_go_both_ways_over_tcp_over_tls_and_over_a_path() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let stream = BackendStream::connect(address, LONG, LONG, None).expect("a connection");
        try_out(&stream, listener.accept().expect("a connection").0);

        let (server_config, client_config) = configs();
        let server_name = ServerName::from(address.ip());
        let server = thread::spawn(move || {
            let socket = listener.accept().expect("a connection").0;
            let server = rustls::ServerConnection::new(server_config).expect("a server");
            let mut server = rustls::StreamOwned::new(server, socket);
            server.conn.complete_io(&mut server.sock).expect("a handshake");
            server
        });
        let tls = BackendTls { config: client_config, server_name };
        let stream = BackendStream::connect(address, LONG, LONG, Some(&tls)).expect("TLS");
        assert_eq!(stream.tls().expect("TLS").version, "TLSv1.3");
        try_out(&stream, server.join().expect("no panic"));

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("redis.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let stream = BackendStream::connect_unix(&path, LONG, LONG).expect("a connection");
        try_out(&stream, listener.accept().expect("a connection").0);
    }
}
