//! One client's conversation, on a thread of its own.

mod http;
mod redis;

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv};
use socket2::SockRef;

use crate::backend::Backend;
use crate::backend::shared::Alarm;
use crate::balance::{Balancer, Phase};
use crate::metrics::Presence;
use crate::net::protocol::WireProtocol;

/// A client that takes less than this of an answer, on average, is cut off once it has had the
/// client timeout: it holds a thread, a lease, and a reply in a backend's memory.
const MIN_BYTES_A_SECOND: f64 = 1024.0;

/// At the end of the process, how long idle connections are left open, twice: first for clients that
/// are about to ask for something, then for sessions to end of themselves.
pub const IDLE_GRACE: Duration = Duration::from_millis(500);

/// How long a connection lingers behind a refusal, so that the client gets to read it.
const LINGER: Duration = Duration::from_secs(1);

/// How much a lingering connection still reads.
const LINGER_BYTES: usize = 256 * 1024;

/// A client that takes nothing is not looked at more often.
const MIN_STALL_STEP: Duration = Duration::from_millis(10);

/// How long a client of the admin address may be idle, or not read: others wait for its place.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a Redis client is told that has come to the wrong address.
const ONLY_HTTP: &[u8] = b"-ERR this address serves HTTP alone, below /-/\r\n";

/// What a read has room for at first: an idle client holds no more, …
const PIECE_BYTES: usize = 512;
/// … and behind one that filled this, as there may be more like it.
const LARGE_PIECE_BYTES: usize = 4096;

/// How long those may take from the first to the last.
const DETECTION_TIME: Duration = Duration::from_secs(10);

/// While what a client asked for is under way on a shared connection, its thread looks so often
/// whether it has to see to that.
const TICK: Duration = Duration::from_millis(20);

/// How much of what a client has sent is taken in at a time.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// Which of our addresses a client has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Where data is read.
    Public,
    /// Where only what is about the balancer is served, over HTTP.
    Admin,
}

/// A client's socket, and what is to be known to end it from outside.
#[derive(Debug)]
pub struct ClientSocket {
    /// Blocking.
    pub stream: TcpStream,
    /// Whether we wait for the client to ask for something, and owe it nothing.
    is_idle: AtomicBool,
}

impl ClientSocket {
    /// Of a client that has just come.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, is_idle: AtomicBool::new(false) }
    }

    /// Ends the wait for a client that asks for nothing. What it has sent already is still read.
    pub fn end_if_idle(&self) {
        if self.is_idle.load(Ordering::SeqCst) {
            // A client that is gone already needs no end.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
    }
}

/// Talks to one client until it or we have had enough.
///
/// # Errors
/// When the client's socket can't be set up; whatever happens later only ends the conversation.
pub fn serve(
    socket: &Arc<ClientSocket>,
    address: SocketAddr,
    endpoint: Endpoint,
    balancer: &Arc<Balancer>,
) -> io::Result<()> {
    let mut presence = (endpoint == Endpoint::Public).then(|| Presence::new(&balancer.metrics));
    let mut client = Client::new(socket, address, endpoint, balancer)?;
    let mut begun = Vec::new();
    if !matches!(client.read_more(&mut begun), Ok(1..)) {
        return Ok(());
    }
    let since = Instant::now();
    let deadline = since + DETECTION_TIME;
    let protocol = loop {
        match WireProtocol::detect(&begun) {
            Some(protocol) => break protocol,
            None if matches!(client.read_until(deadline, &mut begun), Ok(1..)) => {}
            None => break WireProtocol::Resp,
        }
    };
    if let Some(presence) = &mut presence {
        presence.speaks(protocol);
    }
    match protocol {
        WireProtocol::Http => http::converse(client, begun, since, balancer),
        WireProtocol::Resp if endpoint == Endpoint::Admin => {
            client.write_all(ONLY_HTTP)?;
            client.linger();
        }
        WireProtocol::Resp => redis::converse(client, begun, since, balancer),
    }
    Ok(())
}

/// Sets what holds for each client's socket, or for a listener on Linux, whose clients inherit it.
///
/// # Errors
/// When the system refuses.
pub fn set_options<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)
}

/// Waits a moment, a part of `max_stall`, until the client's socket takes more.
fn wait_for_room(socket: &TcpStream, max_stall: Duration) -> io::Result<()> {
    let mut polled = [PollFd::new(socket, PollFlags::OUT)];
    match poll(&mut polled, Some(&poll_timeout(stall_step(max_stall)))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How often a client that takes nothing is looked at.
fn stall_step(max_stall: Duration) -> Duration {
    (max_stall / 4).max(MIN_STALL_STEP)
}

/// A timeout as `poll` takes it.
fn poll_timeout(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 })
}

/// Who asks, and whether it still does.
#[derive(Clone, Copy)]
struct ClientHandle<'a> {
    address: SocketAddr,
    socket: &'a TcpStream,
}

impl ClientHandle<'_> {
    /// Whether the client has left, or has at least ended its endpoint.
    fn is_gone(self) -> bool {
        #[cfg(target_os = "linux")]
        let end = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let end = PollFlags::HUP;
        let mut polled = [PollFd::new(self.socket, end)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_over = end | PollFlags::HUP | PollFlags::ERR;
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(is_over)
    }
}

/// A client's socket, with its timeouts.
struct Client<'a> {
    balancer: &'a Balancer,
    handle: &'a Arc<ClientSocket>,
    socket: &'a TcpStream,
    is_idle: &'a AtomicBool,
    address: SocketAddr,
    endpoint: Endpoint,
    idle_timeout: Duration,
    /// Whether nothing was read from it yet.
    is_new: bool,
    /// What the socket has for timeouts, if they were needed already.
    read_timeout: Option<Duration>,
    has_write_timeout: bool,
    /// What the next read has room for, at least.
    piece: usize,
    /// When the answer that is being written began, and how much of it is written.
    answer_began: Instant,
    answer_bytes: u64,
    /// The backend whose connection is held while the answer is written, and how long the client may
    /// take nothing once others wait for that.
    held: Option<(Arc<Backend>, Duration)>,
}

impl<'a> Client<'a> {
    fn new(
        client: &'a Arc<ClientSocket>,
        address: SocketAddr,
        endpoint: Endpoint,
        balancer: &'a Balancer,
    ) -> io::Result<Self> {
        let ClientSocket { stream: socket, is_idle } = &**client;
        let timeout = match endpoint {
            Endpoint::Public => balancer.config.client_timeout,
            Endpoint::Admin => balancer.config.client_timeout.min(ADMIN_TIMEOUT),
        };
        // On Linux it has what the listener has.
        if cfg!(not(target_os = "linux")) {
            set_options(socket)?;
        }
        Ok(Self {
            balancer,
            handle: client,
            socket,
            is_idle,
            address,
            endpoint,
            idle_timeout: timeout,
            is_new: true,
            read_timeout: None,
            has_write_timeout: false,
            piece: PIECE_BYTES,
            answer_began: Instant::now(),
            answer_bytes: 0,
            held: None,
        })
    }

    /// Who asks.
    fn handle(&self) -> ClientHandle<'a> {
        ClientHandle { address: self.address, socket: self.socket }
    }

    /// From now on the bytes of another answer are counted.
    fn begin_answer(&mut self) {
        self.answer_began = Instant::now();
        self.answer_bytes = 0;
    }

    /// When the first bytes of the answer were written; `None` while there are none.
    fn answer_began(&self) -> Option<Instant> {
        (self.answer_bytes > 0).then_some(self.answer_began)
    }

    /// Reads what is there, or waits for it as long as a client may be idle; 0 at the end.
    fn read_more(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        // In this order: either the phase shows here, or this in `end_if_idle`.
        self.is_idle.store(true, Ordering::SeqCst);
        let timeout = match self.balancer.has_reached(Phase::Closing) {
            true => self.idle_timeout.min(IDLE_GRACE),
            false => self.idle_timeout,
        };
        let read = self.read_within(timeout, buffer);
        self.is_idle.store(false, Ordering::SeqCst);
        read
    }

    /// The same, until `deadline`.
    fn read_until(&mut self, deadline: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.read_within(left.max(Duration::from_millis(1)), buffer)
    }

    /// Takes in what has arrived, without waiting, up to `max` bytes.
    fn read_what_is_there(&mut self, buffer: &mut Vec<u8>, max: usize) {
        buffer.reserve(max);
        // What is wrong, or that there is nothing, the next read will tell.
        let _ = recv(self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT);
    }

    /// Reads what comes within `timeout`, unless the alarm rings before.
    fn read_beside(
        &mut self,
        alarm: Option<&Alarm>,
        timeout: Duration,
        buffer: &mut Vec<u8>,
    ) -> io::Result<usize> {
        if let Some(pipe) = alarm.and_then(Alarm::pipe) {
            let mut polled =
                [PollFd::new(self.socket, PollFlags::IN), PollFd::new(pipe, PollFlags::IN)];
            match poll(&mut polled, Some(&poll_timeout(timeout))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if polled[0].revents().is_empty() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.read_within(timeout, buffer)
    }

    fn read_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        // Not by way of the stack, whose pages would be the thread's from then on.
        buffer.reserve(self.piece);
        // What a new client asks for has mostly come already.
        let length = match std::mem::take(&mut self.is_new) {
            true => self.read_first(timeout, buffer)?,
            false => self.read_patiently(timeout, buffer)?,
        };
        self.piece = if length < PIECE_BYTES { PIECE_BYTES } else { LARGE_PIECE_BYTES };
        Ok(length)
    }

    fn read_first(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match recv(self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT) {
            Ok((_, length)) => Ok(length),
            Err(_) => self.read_patiently(timeout, buffer),
        }
    }

    fn read_patiently(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        // Setting it costs a system call: most reads want what the one before them wanted.
        if self.read_timeout != Some(timeout) {
            self.socket.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        loop {
            match recv(self.socket, spare_capacity(buffer), RecvFlags::empty()) {
                // A signal is not for us.
                Err(Errno::INTR) => {}
                read => return Ok(read?.1),
            }
        }
    }

    /// Ends our side and reads on for a moment: a socket that is closed with unread bytes is reset,
    /// and the answer that is still on its way is lost.
    fn linger(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let (mut total, mut scrap) = (0, Vec::new());
        while let Ok(length @ 1..) = self.read_until(deadline, &mut scrap) {
            total += length;
            scrap.clear();
            // At the end of the process what the client sends is no fault of its own.
            if total > LINGER_BYTES && !self.balancer.has_reached(Phase::Closing) {
                break;
            }
        }
    }

    /// Writes some of it, and waits for that as long as the client may not read.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some((backend, max_stall)) = &self.held else {
            if !self.has_write_timeout {
                self.socket.set_write_timeout(Some(self.idle_timeout))?;
                self.has_write_timeout = true;
            }
            return self.socket.write(bytes);
        };
        let began = Instant::now();
        loop {
            match rustix::net::send(self.socket, bytes, SendFlags::DONTWAIT) {
                Ok(length) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let stalled = began.elapsed();
                    let is_over = stalled >= self.idle_timeout;
                    if is_over || (stalled >= *max_stall && backend.is_wanted()) {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "does not read"));
                    }
                    wait_for_room(self.socket, *max_stall)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the end of the connection, whatever brings it about, is an error to the client. It
    /// must be where it would else look like the end of the answer.
    fn reset_on_close(&self, reset: bool) {
        // If it can't be set, the client is gone already.
        let _ = SockRef::from(self.socket).set_linger(reset.then_some(Duration::ZERO));
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let seconds = self.answer_began.elapsed().as_secs_f64();
        let is_slow = (self.answer_bytes as f64) < seconds * MIN_BYTES_A_SECOND;
        // The first bytes may have taken a backend long; that is not the client's fault.
        if is_slow && self.answer_bytes > 0 && seconds > self.idle_timeout.as_secs_f64() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "reads too slowly"));
        }
        let written = self.write_some(bytes)?;
        if self.answer_bytes == 0 {
            self.answer_began = Instant::now();
        }
        self.answer_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
