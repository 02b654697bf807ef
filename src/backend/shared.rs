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
//! the server is silent, a reply is longer than [`HELD_REPLY_BYTES`](super::HELD_REPLY_BYTES), the client does not
//! read. Then the client's thread takes its commands back and sends them on a connection of its own, to another
//! backend if this one has failed. The reader never waits for a client.
//!
//! A shared connection begins as one from the pool that has just served a read well, and keeps its place in the
//! pool. [`Backend::close_all`] ends it with the others.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::BackendError;
use super::pipeline::Pipeline;
use super::reply_router::ReplyRouter;
use super::shared_reader::Reader;
use super::{Backend, Class, Mode, PooledConnection, Timeouts};
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
    /// Address of the client.
    pub client: SocketAddr,
    /// The client's protocol.
    pub protocol: WireProtocol,
    /// The router's ticket for the commands.
    pub ticket: u64,
    /// Number of commands.
    pub commands: usize,
    /// When they were sent.
    pub began: Instant,
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

    /// Returns the reason why commands that were sent at `since` are not waited for any longer, if so.
    pub fn silence(&self, since: Instant, timeouts: &Timeouts) -> Option<BackendError> {
        let silent = self.heard_at().max(since).elapsed();
        if silent < timeouts.timeout {
            return None;
        }
        match timeouts.supervisor.may_wait(Class::Quick, silent, true) {
            Ok(true) => None,
            Ok(false) => Some(BackendError::TimedOut),
            Err(error) => Some(error.into()),
        }
    }

    /// Takes note that bytes have come.
    pub(super) fn note_heard(&self) {
        self.heard_at.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns when bytes came last.
    pub(super) fn heard_at(&self) -> Instant {
        self.since + Duration::from_millis(self.heard_at.load(Ordering::Relaxed))
    }

    /// Takes no more commands, and ends when all are answered.
    pub(super) fn retire(&self) {
        if self.pipeline.close() {
            self.stream.shutdown();
        }
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
        if shared.len() < (self.pool.max_open / SHARED_PART).min(MAX_SHARED) {
            return true;
        }
        let uses = shared.iter().map(|shared| (shared.mode, shared.uses.load(Ordering::Relaxed)));
        let gives = lock(&self.mode_uses).ask_in_vain(mode, uses, Instant::now());
        let place = gives.and_then(|gives| shared.iter().position(|shared| shared.mode == gives));
        place.map(|place| shared.swap_remove(place).retire()).is_some()
    }

    /// Lets a shared connection end when all that was sent on it is answered. Another may take its place
    /// meanwhile.
    pub(crate) fn retire_shared(&self, retired: &Arc<SharedConnection>) {
        self.forget_shared(retired);
        retired.retire();
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
