//! A client's connection: accepts, reads and writes with timeouts.

use std::io::{self, PipeReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::{ServerConfig, ServerConnection};
use socket2::{SockRef, TcpKeepalive};

use super::backend_stream::BackendStream;
use super::poll;
use super::tls::session::{ReadWait, TlsSession};
use super::tls::{TlsError, TlsSummary};

/// Flags of a last `send`: the bytes and the end of our side go in one packet, where the system can do
/// that.
#[cfg(target_os = "linux")]
const BEFORE_END: SendFlags = SendFlags::MORE;
#[cfg(not(target_os = "linux"))]
const BEFORE_END: SendFlags = SendFlags::empty();

/// Number of unanswered probes after which the kernel gives a client up. The time between two is this
/// part of the silence before the first. Both are as in Redis (`anetKeepAlive`).
const KEEPALIVE_PROBES: u32 = 3;

/// Shortest time between two probes: the kernel counts in seconds.
const MIN_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// The event by which `poll` reports that the other end sends no more.
#[cfg(target_os = "linux")]
const PEER_END: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const PEER_END: PollFlags = PollFlags::HUP;

/// Receiver of the numbers of bytes that go to clients, or a backend, and come from them.
pub trait ByteCounter: std::fmt::Debug + Send + Sync {
    /// Takes note that so many have come.
    fn received(&self, bytes: usize);
    /// Takes note that so many have gone.
    fn sent(&self, bytes: usize);
}

/// A connection that a client has made to us.
///
/// Any thread may write, end it, or look at its state, while one thread reads. Bytes from several
/// threads go out in the order of their calls, so the threads agree on that order among themselves.
#[derive(Debug)]
pub struct ClientStream {
    socket: TcpStream,
    read_timeout: LastTimeout,
    /// Set once the client has begun to speak TLS.
    tls: OnceLock<Box<TlsSession>>,
    /// Whether the client is to see the end as an error.
    resets: AtomicBool,
    /// What counts the bytes from some moment on.
    counter: OnceLock<Arc<dyn ByteCounter>>,
}

/// The timeout that a socket has. It is remembered, as to set it costs a system call.
#[derive(Debug, Default)]
struct LastTimeout(AtomicU64);

impl LastTimeout {
    /// Calls `set` if the socket has another timeout.
    fn change(
        &self,
        timeout: Duration,
        set: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        let nanoseconds = timeout.as_nanos() as u64;
        if self.0.load(Ordering::Relaxed) != nanoseconds {
            set(Some(timeout))?;
            self.0.store(nanoseconds, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl ClientStream {
    /// Prepares a socket so that [`accept`](Self::accept) never waits once it listens. A client that is
    /// silent for `keepalive` is probed, unless that is zero.
    ///
    /// # Errors
    /// When the system refuses an option.
    pub(crate) fn prepare(listener: SockRef, keepalive: Duration) -> io::Result<()> {
        // Other processes may have this socket, and the flag holds for all of them. They need it: a
        // process that was woken for a client that another has accepted must not wait for the next.
        listener.set_nonblocking(true)?;
        // On Linux a socket inherits the options that are set when its client connects.
        set_options(listener, keepalive)
    }

    /// Accepts the next client; returns its stream and its address. `keepalive` is that of
    /// [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// With `WouldBlock` when no client waits, or as `accept` fails.
    pub(crate) fn accept(
        listener: &TcpListener,
        keepalive: Duration,
    ) -> io::Result<(Self, SocketAddr)> {
        let (socket, address) = listener.accept()?;
        if cfg!(not(target_os = "linux")) {
            socket.set_nonblocking(false)?;
            // It fails where the client has left already, which the first read finds.
            let _ = set_options(SockRef::from(&socket), keepalive);
        }
        let (read_timeout, tls) = (LastTimeout::default(), OnceLock::new());
        let (resets, counter) = (AtomicBool::new(false), OnceLock::new());
        Ok((Self { socket, read_timeout, tls, resets, counter }, address))
    }

    /// Has the bytes counted from now on, and those that were received before. Within TLS, those that are encrypted count.
    pub(crate) fn count_bytes(&self, counter: Arc<dyn ByteCounter>, received: usize) {
        counter.received(received);
        // The protocol, by which they are counted, is found out once.
        let _ = self.counter.set(counter);
    }

    /// Goes on in TLS, after a handshake that may take until `deadline`. `received` are the first bytes of the client,
    /// which were read already. Only the thread that reads may call it, before anything was sent.
    ///
    /// # Errors
    /// When the handshake fails. The client has been told why, as far as TLS tells it.
    pub(crate) fn start_tls(
        &self,
        config: &Arc<ServerConfig>,
        received: &[u8],
        deadline: Instant,
    ) -> Result<(), TlsError> {
        let connection = ServerConnection::new(Arc::clone(config))?;
        let session = TlsSession::handshake(&self.socket, connection, received, deadline)?;
        // It is set once at most: nothing but a ClientHello in plain text leads here.
        let _ = self.tls.set(Box::new(session));
        Ok(())
    }

    /// Returns what the TLS handshake has come to; `None` in plain text.
    pub(crate) fn tls(&self) -> Option<TlsSummary> {
        self.tls.get().map(|tls| tls.summary())
    }

    /// Returns our address that the client has connected to.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Reads into the spare capacity of `buffer` the bytes that come within `timeout`; 0 at the end.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>, timeout: Duration) -> io::Result<usize> {
        let read = self.read_uncounted(buffer, timeout);
        self.count_received(read)
    }

    fn read_uncounted(&self, buffer: &mut Vec<u8>, timeout: Duration) -> io::Result<usize> {
        self.read_timeout.change(timeout, |timeout| self.socket.set_read_timeout(timeout))?;
        if let Some(tls) = self.tls.get() {
            return tls.read(&self.socket, buffer, ReadWait::SocketTimeout(timeout));
        }
        loop {
            match recv(&self.socket, spare_capacity(buffer), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                read => return Ok(read?.1),
            }
        }
    }

    /// Reads into the spare capacity of `buffer` the bytes that have arrived; 0 at the end.
    ///
    /// # Errors
    /// With `WouldBlock` when nothing has arrived.
    pub(crate) fn read_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.count_received(match self.tls.get() {
            Some(tls) => tls.read(&self.socket, buffer, ReadWait::Now),
            None => recv(&self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT)
                .map(|(_, length)| length)
                .map_err(io::Error::from),
        })
    }

    fn count_received(&self, read: io::Result<usize>) -> io::Result<usize> {
        if let (Ok(length @ 1..), Some(counter)) = (&read, self.counter.get()) {
            counter.received(*length);
        }
        read
    }

    /// Returns how many bytes have arrived and are not read. Those of TLS that are not decrypted count as they are.
    pub(crate) fn arrived_bytes(&self) -> usize {
        let plain = self.tls.get().map_or(0, |tls| tls.plain_bytes());
        plain + rustix::io::ioctl_fionread(&self.socket).map_or(0, |length| length as usize)
    }

    /// Sends without waiting; returns how many of `bytes` the client has taken. The others have to be offered again,
    /// before any other bytes.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, SendFlags::empty())
    }

    /// Sends without waiting, and ends our side if the client has taken all.
    pub(crate) fn send_last(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.send(bytes, BEFORE_END)?;
        if sent == bytes.len() {
            // It fails where the client is gone already.
            let _ = self.end_output();
        }
        Ok(sent)
    }

    fn send(&self, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
        let sent = match self.tls.get() {
            Some(tls) => tls.send_now(&self.socket, bytes)?,
            None => match send(&self.socket, bytes, SendFlags::DONTWAIT | flags) {
                Err(Errno::AGAIN | Errno::INTR) => 0,
                sent => sent?,
            },
        };
        if let Some(counter) = self.counter.get().filter(|_| sent > 0) {
            counter.sent(sent);
        }
        Ok(sent)
    }

    /// Waits for `timeout` at most until the client takes more.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> io::Result<()> {
        self.wait(PollFlags::OUT, timeout).map(|_| ())
    }

    /// Waits for `timeout` at most until the client takes more, or sends; returns whether it has sent.
    pub(crate) fn wait_for_room_or_input(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = if self.has_plain_text() { Duration::ZERO } else { timeout };
        let ready = self.wait(PollFlags::OUT | PollFlags::IN, timeout)?;
        Ok(self.is_input(ready.contains(PollFlags::IN)))
    }

    /// Waits for `timeout` at most until the kernel has sent all to the client, or that sends; returns whether the
    /// kernel has. Call it only before the end of our side.
    pub(crate) fn wait_for_all_sent_or_input(&self, timeout: Duration) -> io::Result<bool> {
        // From now on there is room only if nothing is left to be sent.
        #[cfg(target_os = "linux")]
        SockRef::from(&self.socket).set_tcp_notsent_lowat(1)?;
        let timeout = if self.has_plain_text() { Duration::ZERO } else { timeout };
        Ok(self.wait(PollFlags::OUT | PollFlags::IN, timeout)?.contains(PollFlags::OUT))
    }

    fn wait(&self, events: PollFlags, timeout: Duration) -> io::Result<PollFlags> {
        let mut polled = [PollFd::new(&self.socket, events)];
        poll(&mut polled, timeout)?;
        Ok(polled[0].revents())
    }

    /// Waits for `timeout` at most until the client sends, or the pipe is closed or written to; returns
    /// whether there is something to read from the client.
    pub(crate) fn wait_for_input_or_pipe(
        &self,
        pipe: &PipeReader,
        timeout: Duration,
    ) -> io::Result<bool> {
        Ok(self.wait_beside(PollFd::new(pipe, PollFlags::IN), timeout)?.0)
    }

    /// Waits for `timeout` at most until the client or the backend sends; returns which of them has
    /// something to read.
    pub(crate) fn wait_for_input_or_backend(
        &self,
        backend: &BackendStream,
        timeout: Duration,
    ) -> io::Result<(bool, bool)> {
        let timeout = if backend.has_plain_text() { Duration::ZERO } else { timeout };
        let (client, other) = self.wait_beside(backend.input(), timeout)?;
        Ok((client, backend.is_input(other)))
    }

    /// Waits for `timeout` at most until the client sends; returns whether there is something to read.
    pub(crate) fn wait_for_input(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = if self.has_plain_text() { Duration::ZERO } else { timeout };
        let ready = self.wait(PollFlags::IN, timeout)?;
        Ok(self.is_input(!ready.is_empty()))
    }

    /// Returns the event of `poll` that tells that there is something to read.
    pub(crate) fn input(&self) -> PollFd<'_> {
        PollFd::new(&self.socket, PollFlags::IN)
    }

    fn wait_beside(&self, other: PollFd, timeout: Duration) -> io::Result<(bool, bool)> {
        let timeout = if self.has_plain_text() { Duration::ZERO } else { timeout };
        let mut polled = [self.input(), other];
        poll(&mut polled, timeout)?;
        Ok((self.is_input(!polled[0].revents().is_empty()), !polled[1].revents().is_empty()))
    }

    /// Whether there is something to read that no longer is in the socket.
    fn has_plain_text(&self) -> bool {
        self.tls.get().is_some_and(|tls| tls.plain_bytes() > 0)
    }

    /// Whether there is something to read, if the socket says so or not: bytes of TLS may come to nothing.
    fn is_input(&self, is_ready: bool) -> bool {
        match self.tls.get() {
            Some(tls) => (is_ready || tls.plain_bytes() > 0) && tls.has_input(&self.socket),
            None => is_ready,
        }
    }

    /// Returns whether the client has left, or at least sends no more.
    pub(crate) fn is_gone(&self) -> bool {
        let ready = self.wait(PEER_END, Duration::ZERO);
        ready.is_ok_and(|ready| ready.intersects(PEER_END | PollFlags::HUP | PollFlags::ERR))
    }

    /// Sets whether the client sees the end of the connection as an error, whatever the reason.
    pub(crate) fn reset_on_close(&self, reset: bool) {
        self.resets.store(reset, Ordering::Relaxed);
        // It fails where the client is gone already.
        let _ = SockRef::from(&self.socket).set_linger(reset.then_some(Duration::ZERO));
    }

    /// Ends the reading side, which wakes the thread that reads. Bytes that have arrived are still read.
    pub(crate) fn end_input(&self) {
        // It fails where the client is gone already.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Ends our side: the client reads the bytes that were sent, then the end.
    pub(crate) fn end_output(&self) -> io::Result<()> {
        self.say_end();
        self.socket.shutdown(Shutdown::Write)
    }

    /// Ends the connection at once, for all threads that use it.
    pub(crate) fn shutdown(&self) {
        // It fails where the client is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl ClientStream {
    /// Tells a client of TLS that this is an orderly end, and no attacker's.
    fn say_end(&self) {
        if let Some(tls) = self.tls.get() {
            tls.close(&self.socket);
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if !self.resets.load(Ordering::Relaxed) {
            self.say_end();
        }
    }
}

/// Waits for `timeout` at most until one of these clients takes more; returns which of them do. Those that are `None` are
/// not waited for.
pub(crate) fn wait_for_any_room(
    streams: Vec<Option<&ClientStream>>,
    timeout: Duration,
) -> Vec<bool> {
    let polled = streams.iter().flatten();
    let mut polled: Vec<_> =
        polled.map(|stream| PollFd::new(&stream.socket, PollFlags::OUT)).collect();
    if poll(&mut polled, timeout).is_err() {
        // The kernel lacks memory: it is tried without being asked.
        std::thread::sleep(timeout);
        return vec![true; streams.len()];
    }
    let mut polled = polled.iter().map(|polled| !polled.revents().is_empty());
    streams.iter().map(|stream| stream.is_some() && polled.next().unwrap_or(false)).collect()
}

/// Sets the options of each client's socket.
fn set_options(socket: SockRef, keepalive: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if keepalive.is_zero() {
        return socket.set_keepalive(false);
    }
    let interval = (keepalive / KEEPALIVE_PROBES).max(MIN_KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(keepalive)
            .with_interval(interval)
            .with_retries(KEEPALIVE_PROBES),
    )
}

#[cfg(test)]
#[path = "client_stream_tests.rs"]
mod tests;
