//! A client's connection as its session uses it: how long the client may be idle, how slowly it may
//! read, and how the connection ends.

mod activity;
mod linger;
mod socket;
mod spool;

use std::io::{self, PipeReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

pub use self::activity::{Activity, now};
pub(super) use self::socket::Occupation;
pub use self::socket::{ClientInfo, ClientList, ClientSocket, Doing};
pub(super) use self::spool::MAX_SPOOLED_BYTES;
use self::spool::Spool;
use crate::backend::Backend;
use crate::balance::{Balancer, Phase};
use crate::memory::{Holder, Share};
use crate::net::client_stream::ClientStream;
use crate::net::tls::TlsError;

/// A client that takes fewer bytes a second of an answer than this, on average, is cut off once the
/// client timeout is over: it holds a thread, a lease, and a reply in a backend's memory.
const MIN_BYTES_A_SECOND: f64 = 1024.0;

/// Why a client is cut off that takes nothing.
const NOT_READING: &str = "does not read its replies";

/// At the end of the process, how long idle connections stay open, twice: first for clients that are
/// about to ask for something, then for sessions to end of themselves.
pub const IDLE_GRACE: Duration = Duration::from_millis(500);

/// Shortest time between two looks at a client that takes nothing.
const MIN_STALL_STEP: Duration = Duration::from_millis(10);

/// Longest time between two looks at a client that takes nothing while it holds up no other.
const MAX_STALL_STEP: Duration = Duration::from_secs(1);

/// How long a client of the admin address may be idle, or not read: others wait for its place.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time from the first to the last byte of a request's head, or of what tells the protocol.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// That time at the admin address, and the longest silence of a new client there: probes and scrapers
/// send a request in one piece, as soon as they are connected.
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// Room for a read at first: an idle client holds no more.
const PIECE_BYTES: usize = 512;

/// Room for the read after one that has filled [`PIECE_BYTES`]: more is likely to have come.
const LARGE_PIECE_BYTES: usize = 4096;

/// How often a session's thread looks up while reads of its client are in flight on a shared connection.
///
/// The thread that reads the shared connection gives the replies to the client itself: to wake the
/// session's thread for each would cost two more switches between threads. Meanwhile the session's
/// thread waits for the client's next bytes. So nothing wakes it when the backend falls silent, when
/// the connection breaks, or when the client's socket takes only a part of a reply. That is why it
/// reads with this timeout, looks after each whether there is something to do, and reads again. (An
/// HTTP session, whose client sends nothing before it has its answer, also waits for an alarm.)
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The address of ours that a client has connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Data is read here.
    Public,
    /// Only what is about the balancer is served here, over HTTP.
    Admin,
}

/// Time between two looks at a client that takes nothing.
pub(super) fn stall_step(max_stall: Duration) -> Duration {
    (max_stall / 4).max(MIN_STALL_STEP)
}

/// A client's address, and whether it is still there.
#[derive(Clone, Copy)]
pub(super) struct ClientHandle<'a> {
    pub address: SocketAddr,
    stream: &'a ClientStream,
}

impl ClientHandle<'_> {
    /// Whether the client has left, or at least sends no more.
    pub fn is_gone(self) -> bool {
        self.stream.is_gone()
    }
}

/// A client's connection, with its timeouts.
pub(super) struct Client<'a> {
    pub balancer: &'a Balancer,
    pub socket: &'a Arc<ClientSocket>,
    pub address: SocketAddr,
    pub endpoint: Endpoint,
    pub idle_timeout: Duration,
    /// Longest time from the first to the last byte of a request's head.
    pub head_timeout: Duration,
    /// While the client has to log in: since when. It makes room for others all that time, whatever it sends.
    pub has_to_log_in_since: Option<Instant>,
    /// Whether it keeps its place while it is idle, also when others need one.
    pub keeps_place: bool,
    /// Whether nothing was read from it yet.
    is_new: bool,
    /// Room for the next read.
    piece: usize,
    /// When the first bytes of the answer were written, or it was begun if none are.
    answer_began: Instant,
    /// How many bytes of the answer are written; those that are kept are among them.
    pub answer_bytes: u64,
    /// How many bytes the client was sent in all.
    pub sent_bytes: u64,
    /// The backend whose connection is held while the answer is written, and how long the client may
    /// take nothing once others wait for that.
    pub held: Option<(Arc<Backend>, Duration)>,
    /// What the client's socket has not taken yet, if anything.
    spool: Option<Box<Spool<'a>>>,
}

impl<'a> Client<'a> {
    pub fn new(socket: &'a Arc<ClientSocket>, endpoint: Endpoint, balancer: &'a Balancer) -> Self {
        let client_timeout = balancer.config().client_timeout;
        let (idle_timeout, head_timeout) = match endpoint {
            Endpoint::Public => (client_timeout, HEAD_TIMEOUT),
            Endpoint::Admin => (client_timeout.min(ADMIN_TIMEOUT), ADMIN_HEAD_TIMEOUT),
        };
        Self {
            balancer,
            socket,
            address: socket.address(),
            endpoint,
            idle_timeout,
            head_timeout,
            has_to_log_in_since: None,
            keeps_place: false,
            is_new: true,
            piece: PIECE_BYTES,
            answer_began: Instant::now(),
            answer_bytes: 0,
            sent_bytes: 0,
            held: None,
            spool: None,
        }
    }

    pub fn stream(&self) -> &'a ClientStream {
        &self.socket.stream
    }

    /// A new share in what the client makes us hold.
    pub fn share(&self) -> Share<'a> {
        Share::new(&self.balancer.memory, Arc::clone(self.socket) as Arc<dyn Holder>)
    }

    pub fn handle(&self) -> ClientHandle<'a> {
        ClientHandle { address: self.address, stream: self.stream() }
    }

    /// Begins to count the bytes of another answer.
    pub fn begin_answer(&mut self) {
        self.answer_began = Instant::now();
        self.answer_bytes = 0;
    }

    /// When the first bytes of the answer were written; `None` while there are none.
    pub fn answer_began(&self) -> Option<Instant> {
        (self.answer_bytes > 0).then_some(self.answer_began)
    }

    /// Reads the client's next request, for which it may be idle; 0 at the end.
    pub fn read_more(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        // In this order: either the phase shows here, or this in `end_if_idle`.
        let idle = match self.has_to_log_in_since {
            Some(since) => Activity::Spare(now().saturating_sub(since.elapsed())),
            None if self.keeps_place => Activity::Idle(now()),
            None if self.is_new => Activity::Silent(now()),
            None => Activity::Spare(now()),
        };
        self.socket.activity.set(idle);
        let mut timeout = self.idle_timeout;
        if self.is_new && self.endpoint == Endpoint::Admin {
            timeout = timeout.min(self.head_timeout);
        }
        if self.balancer.has_reached(Phase::Closing) {
            timeout = timeout.min(IDLE_GRACE);
        }
        let read = self.read_within(timeout, buffer);
        self.socket.activity.set(Activity::Busy);
        read
    }

    /// Reads more of a head whose first byte came at `since`; 0 at the end.
    pub fn read_head(&mut self, since: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.socket.activity.set(Activity::Head(now().saturating_sub(since.elapsed())));
        let read = self.read_until(since + self.head_timeout, buffer);
        self.socket.activity.set(Activity::Busy);
        read
    }

    /// Goes on in TLS. `received` are the client's first bytes, which came at `since`.
    pub fn start_tls(
        &mut self,
        config: &Arc<ServerConfig>,
        received: &[u8],
        since: Instant,
    ) -> Result<(), TlsError> {
        self.socket.activity.set(Activity::Head(now().saturating_sub(since.elapsed())));
        let started = self.stream().start_tls(config, received, since + self.head_timeout);
        self.socket.activity.set(Activity::Busy);
        // The first request may have come with the end of the handshake.
        self.is_new = true;
        started
    }

    /// Reads what comes until `deadline`; 0 at the end.
    pub fn read_until(&mut self, deadline: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Some(since) = self.has_to_log_in_since {
            self.socket.activity.set(Activity::Head(now().saturating_sub(since.elapsed())));
        }
        let read = self.read_within(left.max(Duration::from_millis(1)), buffer);
        self.socket.activity.set(Activity::Busy);
        read
    }

    /// Reads the bytes that come within `timeout`, unless the pipe is closed before; 0 at the end.
    pub fn read_beside(
        &mut self,
        wake_pipe: Option<&PipeReader>,
        timeout: Duration,
        buffer: &mut Vec<u8>,
    ) -> io::Result<usize> {
        if let Some(wake_pipe) = wake_pipe
            && !self.stream().wait_for_input_or_pipe(wake_pipe, timeout)?
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.read_within(timeout, buffer)
    }

    /// Reads what comes within `timeout`; 0 at the end.
    pub fn read_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        // Not by way of the stack, whose pages would be the thread's from then on.
        make_room(buffer, self.piece);
        let stream = self.stream();
        // A new client's first request has mostly come already.
        let length = match std::mem::take(&mut self.is_new) {
            true => stream.read_now(buffer).or_else(|_| stream.read(buffer, timeout))?,
            false => stream.read(buffer, timeout)?,
        };
        self.piece = if length < PIECE_BYTES { PIECE_BYTES } else { LARGE_PIECE_BYTES };
        Ok(length)
    }

    /// Reads about `max` bytes, of those that have arrived.
    pub fn read_what_is_there(&mut self, buffer: &mut Vec<u8>, max: usize) {
        make_room(buffer, max);
        // The next read will tell what is wrong, or that there is nothing.
        let _ = self.stream().read_now(buffer);
    }

    /// How many bytes are kept that the client's socket has not taken.
    pub fn kept_bytes(&self) -> usize {
        self.spool.as_ref().map_or(0, |spool| spool.len())
    }

    /// How many bytes of the answer the client's socket has taken.
    pub fn taken_bytes(&self) -> u64 {
        self.answer_bytes.saturating_sub(self.kept_bytes() as u64)
    }

    /// Whether the client's socket has not taken all that it was given.
    pub fn is_behind(&self) -> bool {
        self.spool.is_some()
    }

    /// Gives the client bytes without waiting for it: what its socket does not take is kept.
    pub fn send_or_keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_kept()?;
        self.sent_bytes += bytes.len() as u64;
        let sent = match &self.spool {
            None => self.stream().send_now(bytes)?,
            Some(_) => 0,
        };
        if sent == bytes.len() {
            return Ok(());
        }
        let share = self.share();
        let spool = self.spool.get_or_insert_with(|| Box::new(Spool::new(share)));
        spool.push(&bytes[sent..]).map_err(io::Error::other)
    }

    fn send_kept(&mut self) -> io::Result<()> {
        let stream = self.stream();
        let Some(spool) = &mut self.spool else { return Ok(()) };
        spool.send(stream)?;
        if spool.len() == 0 {
            self.spool = None;
        }
        Ok(())
    }

    /// Waits until no more than `max` bytes are kept. Each step of the wait is `wait`.
    pub fn wait_until_kept(
        &mut self,
        max: usize,
        mut wait: impl FnMut(&ClientStream, Stall) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut began = None;
        while let Some(spool) = self.spool.as_ref().filter(|spool| spool.len() > max) {
            spool.check_pace(self.idle_timeout)?;
            let time = began.get_or_insert_with(Instant::now).elapsed();
            let nothing_taken_for = spool.nothing_taken_for().min(time);
            wait(self.stream(), Stall { time, nothing_taken_for })?;
            self.send_kept()?;
        }
        Ok(())
    }

    /// Waits until the client has taken enough: all, unless a backend's connection is held meanwhile.
    fn wait_for_client(&mut self) -> io::Result<()> {
        let held = self.held.clone();
        let max = if held.is_some() { MAX_SPOOLED_BYTES } else { 0 };
        let step = stall_step(self.idle_timeout).min(MAX_STALL_STEP);
        self.wait_until_kept(max, |stream, stall| match &held {
            None => stream.wait_for_room(step),
            Some((backend, max_stall)) => {
                check_stall(stall.time, *max_stall, || backend.is_wanted())?;
                stream.wait_for_room(stall_step(*max_stall))
            }
        })
    }
}

/// Makes room for a read. A buffer grows by a quarter, not to twice its length: a read may fill all of its room.
pub(super) fn make_room(buffer: &mut Vec<u8>, bytes: usize) {
    if buffer.capacity() - buffer.len() < bytes {
        buffer.reserve_exact(bytes.max(buffer.len() / 4));
    }
}

/// A wait for a client that does not take what is kept for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    /// How long we wait.
    pub time: Duration,
    /// How long the client has taken nothing meanwhile.
    pub nothing_taken_for: Duration,
}

/// Fails if a client has stalled us for so long while others wait for what we hold.
pub(super) fn check_stall(
    stalled: Duration,
    max_stall: Duration,
    is_wanted: impl FnOnce() -> bool,
) -> io::Result<()> {
    match stalled >= max_stall && is_wanted() {
        true => Err(io::Error::new(io::ErrorKind::TimedOut, NOT_READING)),
        false => Ok(()),
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The first bytes may have taken a backend long, which is not the client's fault.
        if self.answer_bytes > 0
            && is_too_slow(self.taken_bytes(), self.answer_began.elapsed(), self.idle_timeout)
        {
            return Err(too_slow());
        }
        self.send_or_keep(bytes)?;
        if self.answer_bytes == 0 {
            self.answer_began = Instant::now();
        }
        self.answer_bytes += bytes.len() as u64;
        if self.is_behind() {
            self.wait_for_client()?;
        }
        Ok(bytes.len())
    }

    /// Waits until the client has taken all.
    fn flush(&mut self) -> io::Result<()> {
        if self.is_behind() { self.wait_for_client() } else { Ok(()) }
    }
}

/// Error of a client that reads, but too little.
fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "reads too slowly")
}

/// Whether a client that has taken so many bytes in `time` is cut off.
fn is_too_slow(bytes: u64, time: Duration, idle_timeout: Duration) -> bool {
    time > idle_timeout && (bytes as f64) < time.as_secs_f64() * MIN_BYTES_A_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_too_slow_once_its_timeout_is_over_and_it_has_taken_little() {
        let timeout = Duration::from_secs(10);
        for (bytes, seconds, expected) in [
            (1, 10, false),
            (1, 11, true),
            (11 * 1024 - 1, 11, true),
            (11 * 1024, 11, false),
            (1 << 40, 1_000_000, false),
        ] {
            let time = Duration::from_secs(seconds);
            assert_eq!(is_too_slow(bytes, time, timeout), expected, "{bytes} in {time:?}");
        }
    }

    #[test]
    fn a_client_that_takes_nothing_is_looked_at_four_times_but_not_all_the_time() {
        assert_eq!(stall_step(Duration::from_secs(1)), Duration::from_millis(250));
        assert_eq!(stall_step(Duration::ZERO), MIN_STALL_STEP);
    }
}
