//! One pipelined connection to a backend that many clients share. It is the fast path: most requests are
//! short, and so are the replies.
//!
//! A client's thread sends its commands here and goes on to wait for its client. A thread that reads the
//! connection (`shared_reader`) finds the end of each reply and gives the bytes to the client itself, without
//! waking the client's thread. So a request wakes one thread, and many requests share one write and one
//! read at the backend.
//!
//! Writing ([`Pipeline`]): the first sender writes at once. While its write is unanswered, later senders only
//! append their bytes, and the reader writes these when all that was written is answered. Entries and bytes are
//! added under one lock, and nothing is written while something is on the wire. So the bytes are in the
//! order of the entries, and no bytes are forgotten: while some wait, a reply is to come.
//!
//! Answering ([`ReplyRouter`]): a reply belongs to the first entry whose bytes are written. A client's thread can
//! take its unanswered commands back at any time; replies that come for them later go nowhere. So each
//! command is answered once, either here or by the client's thread.
//!
//! Anything unusual leaves the fast path: the connection ends, a reply says that the server can't answer,
//! the server is silent, too slow or down, a reply is longer than [`HELD_REPLY_BYTES`](super::HELD_REPLY_BYTES), or
//! takes long while others wait for theirs after it, the client does not read. Then the client's thread takes its
//! commands back and sends them on a connection of its own, to another backend if this one has failed. The reader
//! never waits for a client. Silence and slowness are noticed by the clients' threads, which look up every few
//! milliseconds while they wait ([`SharedConnection::reason_to_leave`]).
//!
//! A shared connection begins as one from the pool that has just served a read well, and keeps its place in the
//! pool. [`Backend::close_all`] ends it with the others.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::BackendError;
use super::pace;
use super::pipeline::Pipeline;
use super::reply_router::ReplyRouter;
use super::shared_reader::Reader;
use super::{Backend, Class, Mode, PooledConnection, Timeouts};
use crate::metrics::SentCommands;
use crate::net::backend_stream::BackendStream;
use crate::net::protocol::WireProtocol;
use crate::sync::{Mutex, lock};

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;

/// Most connections of a backend that are shared, each by the clients of one mode. Clients of other modes
/// have connections of their own; `mode_uses` says which modes these are.
const MAX_SHARED: usize = 4;

/// One in so many of a backend's connections may be shared.
const SHARED_PART: usize = 8;

/// How long a reply may be incomplete while other clients wait for theirs after it; or how long those may wait
/// while replies come one after the other, and too slowly.
///
/// A reply of 64 KiB, the longest that is held here, comes in less over any link of more than 5 Mbit/s. The others
/// lose no more than this, and open a connection: that costs them less than a longer wait.
const LONG_REPLY_TIME: Duration = Duration::from_millis(100);

/// Time between two looks whether the shared connections are quiet.
const QUIET_STEP: Duration = Duration::from_micros(500);

/// Reason why commands that were sent on a shared connection are not answered there.
#[derive(Debug)]
pub(crate) enum SharedFailure {
    /// The connection has ended, which says nothing of the backend.
    Stale,
    /// The backend has ended the connection: it may have died of the commands.
    Lost,
    /// The backend has failed.
    Backend(BackendError),
    /// The next reply is longer than [`HELD_REPLY_BYTES`](super::HELD_REPLY_BYTES). It needs a connection of
    /// the client's own, where no other client waits for it to end.
    LongReply,
}

/// The router of one client.
pub(crate) type ClientReplyRouter = ReplyRouter<SharedFailure>;

/// Commands of one client that were sent together.
pub(crate) struct Entry {
    /// The receiver of their replies.
    pub router: Arc<ClientReplyRouter>,
    /// The client's protocol.
    pub protocol: WireProtocol,
    /// The router's ticket for the commands.
    pub ticket: u64,
    /// Number of commands that are not answered.
    pub commands: usize,
    /// All of its commands, as they are timed.
    pub sent: SentCommands,
    /// When they were sent.
    pub began: Instant,
    /// Number of bytes that had been received on the connection by then.
    pub received: u64,
}

/// The place in the line to which the replies have come.
#[derive(Default)]
pub(super) struct LineHead {
    /// When the commands were sent that are answered next, and the bytes that had been received by then; `None`
    /// when the reader has taken none from the pipeline.
    pub oldest: Option<(Instant, u64)>,
    /// The reply that is incomplete.
    pub incomplete: Option<IncompleteReply>,
}

/// A reply whose first bytes have come.
pub(super) struct IncompleteReply {
    /// The client whose reply it is.
    pub router: Arc<ClientReplyRouter>,
    /// When its first bytes came.
    pub since: Instant,
}

/// A connection that any client may send on.
pub(crate) struct SharedConnection {
    /// The mode that it is set up for.
    pub mode: Mode,
    /// The version of its backend's commands that its server knows. Requests that were judged by another
    /// version must not be sent here.
    pub commands_version: u64,
    pub(super) stream: Arc<BackendStream>,
    pub(super) pipeline: Pipeline<Entry>,
    /// The pipe that is closed at the next wake-up.
    wake_pipe: Mutex<Option<Arc<PipeReader>>>,
    /// When it became shared; times are counted from here.
    since: Instant,
    /// When bytes came last, in milliseconds.
    heard_at: AtomicU64,
    /// How often commands were sent here.
    uses: AtomicU64,
    /// Number of bytes that have been received.
    received: AtomicU64,
    head: Mutex<LineHead>,
    /// Whether it takes no more commands.
    is_retired: AtomicBool,
    /// Whether a client's thread has ended it.
    is_abandoned: AtomicBool,
}

impl std::fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedConnection").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl SharedConnection {
    /// Makes a connection a shared one of its backend.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn start(backend: &Arc<Backend>, connection: PooledConnection) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Self {
            mode: connection.mode,
            commands_version: connection.commands_version,
            stream: Arc::clone(connection.stream()),
            pipeline: Pipeline::new(),
            wake_pipe: Mutex::default(),
            since: Instant::now(),
            heard_at: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            received: AtomicU64::new(0),
            head: Mutex::default(),
            is_retired: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
        });
        Reader::start(Arc::clone(backend), Arc::clone(&shared), connection)?;
        Ok(shared)
    }

    /// Returns a pipe that is closed when a client's thread has to go on with its commands here; `None`
    /// without file descriptors.
    ///
    /// All threads that wait on this connection share the pipe, so that an idle client needs no descriptor
    /// of its own. They wake up together, which is rare, and each looks at its own commands. A thread takes the
    /// next pipe before it looks, so that it misses no wake-up.
    pub fn wake_pipe(&self) -> Option<Arc<PipeReader>> {
        lock(&self.wake_pipe).clone()
    }

    /// Puts a new pipe in the place of the one that is closed when what this returns is dropped.
    pub(super) fn renew_wake_pipe(&self) -> Option<PipeWriter> {
        // Without descriptors, waiting threads look now and then.
        let (reader, writer) = io::pipe().ok().unzip();
        *lock(&self.wake_pipe) = reader.map(Arc::new);
        writer
    }

    /// Sends a client's commands. Returns false when that is not possible here (any more). If true, the
    /// router is told of each command, whether it is answered or not.
    pub fn send(&self, entry: Entry, commands: &[u8]) -> bool {
        self.uses.fetch_add(1, Ordering::Relaxed);
        match self.pipeline.push(entry, commands, |bytes| self.write(bytes)) {
            Ok(is_sent) => is_sent,
            Err(_) => {
                // The reader finds the end, and tells all routers.
                self.stream.shutdown();
                true
            }
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self.stream).write_all(bytes)
    }

    /// Returns the reason why a client's commands, the first of which was sent at `since`, are not waited for any
    /// longer, if so.
    ///
    /// The line as a whole is judged: as long as replies come fast enough, each gets its turn.
    fn reason_to_leave(
        &self,
        router: &Arc<ClientReplyRouter>,
        since: Instant,
        timeouts: &Timeouts,
    ) -> Option<SharedFailure> {
        let (supervisor, timeout) = (&timeouts.supervisor, timeouts.timeout());
        let mut silent = since.elapsed();
        if silent >= LONG_REPLY_TIME.min(timeout) && self.is_held_up(router) {
            return Some(SharedFailure::Stale);
        }
        if silent >= timeout {
            let oldest = lock(&self.head).oldest;
            silent = self.silence(oldest.or_else(|| self.oldest_untaken())).unwrap_or_default();
        }
        if silent < timeout && supervisor.is_up() {
            return None;
        }
        match supervisor.may_wait(Class::Quick, silent, timeout) {
            Ok(true) => None,
            Ok(false) => Some(SharedFailure::Backend(BackendError::TimedOut)),
            Err(error) => Some(SharedFailure::Backend(error.into())),
        }
    }

    /// Whether another client's reply comes while the line does not move, or moves too slowly.
    fn is_held_up(&self, router: &Arc<ClientReplyRouter>) -> bool {
        let head = lock(&self.head);
        let Some(incomplete) = &head.incomplete else { return false };
        !Arc::ptr_eq(&incomplete.router, router)
            && (incomplete.since.elapsed() >= LONG_REPLY_TIME
                || self.silence(head.oldest).is_some_and(|silent| silent >= LONG_REPLY_TIME))
    }

    /// Returns the silence to which the wait for the oldest unanswered commands amounts.
    fn silence(&self, oldest: Option<(Instant, u64)>) -> Option<Duration> {
        let (began, received_before) = oldest?;
        let since_bytes = self.heard_at().max(began).elapsed();
        Some(pace::silence(began.elapsed(), self.received() - received_before, since_bytes))
    }

    /// When the oldest commands were sent that the reader has not taken, and the bytes that had been received by
    /// then.
    fn oldest_untaken(&self) -> Option<(Instant, u64)> {
        self.pipeline.look(|entries| entries.front().map(|entry| (entry.began, entry.received)))
    }

    /// Takes note of the place in the line to which the replies have come.
    pub(super) fn set_head(&self, head: LineHead) {
        // The old one may hold the last of a client, and is dropped without the lock.
        let _old = std::mem::replace(&mut *lock(&self.head), head);
    }

    /// Takes note that so many bytes have come.
    pub(super) fn note_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.heard_at.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns the number of bytes that have been received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns when bytes came last.
    pub(super) fn heard_at(&self) -> Instant {
        self.since + Duration::from_millis(self.heard_at.load(Ordering::Relaxed))
    }

    /// Takes no more commands, and ends when all are answered, or nobody waits for them any more.
    pub(super) fn retire(&self) {
        let is_idle = self.pipeline.close();
        self.is_retired.store(true, Ordering::Release);
        if is_idle {
            self.stream.shutdown();
        }
    }

    /// Ends now. All clients send their commands elsewhere; the backend has failed none of them.
    fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.retire();
        self.stream.shutdown();
    }

    /// Returns whether it takes no more commands.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Returns whether a client's thread has ended it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }
}

impl Backend {
    /// Returns the shared connection of that mode, if there is one.
    pub(crate) fn shared(&self, mode: Mode) -> Option<Arc<SharedConnection>> {
        lock(&self.shared).iter().find(|shared| shared.mode == mode).cloned()
    }

    /// Shares a connection, all replies on which have been read to the end, if its mode has no shared one
    /// yet; else keeps it for the next request.
    pub fn keep_or_share(self: &Arc<Self>, mut connection: PooledConnection) {
        connection.turn = None;
        connection.rest();
        let mut shared = lock(&self.shared);
        // With the lock held: `close_all` comes either before this, or after the connection is listed.
        let is_fit = !connection.has_buffered() && connection.permit.is_current();
        if !is_fit || !self.has_place(&mut shared, connection.mode) {
            drop(shared);
            return connection.keep();
        }
        match SharedConnection::start(self, connection) {
            Ok(new) => shared.push(new),
            Err(error) => {
                log::debug!(
                    "{}: cannot start a thread to share a connection: {error}",
                    self.name()
                );
            }
        }
    }

    /// Returns whether a connection of this mode is to be shared. The connection of a mode that is used less
    /// may end for that.
    fn has_place(&self, shared: &mut Vec<Arc<SharedConnection>>, mode: Mode) -> bool {
        if shared.iter().any(|shared| shared.mode == mode) {
            return false;
        }
        if shared.len() < (self.pool.max_open() / SHARED_PART).min(MAX_SHARED) {
            return true;
        }
        let uses = shared.iter().map(|shared| (shared.mode, shared.uses.load(Ordering::Relaxed)));
        let gives = lock(&self.mode_uses).ask_in_vain(mode, uses, Instant::now());
        let place = gives.and_then(|gives| shared.iter().position(|shared| shared.mode == gives));
        place.map(|place| shared.swap_remove(place).retire()).is_some()
    }

    /// Returns the reason why a client's commands on a shared connection, the first of which was sent at `since`,
    /// are not waited for any longer, if so. The connection then takes no more commands. It goes on only for a
    /// client whose long reply holds up the others.
    pub(crate) fn leave_shared(
        &self,
        shared: &Arc<SharedConnection>,
        router: &Arc<ClientReplyRouter>,
        since: Instant,
    ) -> Option<SharedFailure> {
        let reason = shared.reason_to_leave(router, since, &self.timeouts)?;
        self.forget_shared(shared);
        match reason {
            SharedFailure::Stale => shared.retire(),
            _ => shared.abandon(),
        }
        Some(reason)
    }

    /// Takes a shared connection that has ended off the list.
    pub(super) fn forget_shared(&self, ended: &Arc<SharedConnection>) {
        lock(&self.shared).retain(|shared| !Arc::ptr_eq(shared, ended));
    }

    /// Waits for `max_wait` at most until nothing is under way on the shared connections. A slow read that
    /// is sent then keeps no earlier command waiting.
    pub fn await_quiet(&self, max_wait: Duration) {
        let began = Instant::now();
        let is_quiet = || lock(&self.shared).iter().all(|shared| shared.pipeline.is_idle());
        while !is_quiet() && began.elapsed() < max_wait {
            thread::sleep(QUIET_STEP);
        }
    }
}
