//! One pipelined connection that many clients' threads send on. A thread of its own reads the replies
//! and gives them to the clients.
//!
//! It is for the usual case alone: short reads whose replies are short. Where anything else turns up,
//! clients take back what is not answered (see [`Outbox`]) and ask on connections of their own.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{BackendError, is_timeout};
use super::outbox::{Outbox, Replies};
use super::pipeline::Pipeline;
use super::socket::Socket;
use super::{Backend, Connection, Mode, Waits};
use crate::protocol::WireProtocol;
use crate::resp::Framer;

/// A reply up to this length is held until it is whole, so that another backend can still give it: a
/// string of 64 KiB with what RESP puts around it.
pub const HELD_REPLY_BYTES: usize = 64 * 1024 + 64;

/// What is left of a reply that turned out long is read to its end, up to so many bytes: beyond, all
/// are better off on a new connection.
const MAX_SKIPPED_BYTES: usize = 1024 * 1024;

/// How much is read from a backend at a time, at most.
const READ_BYTES: usize = 64 * 1024;

/// How often the thread of a connection on which nothing happens looks up.
const IDLE_STEP: Duration = Duration::from_secs(1);

/// One that nobody has used for so long is closed.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// The thread that reads has a stack of so many bytes.
const STACK_BYTES: usize = 256 * 1024;

/// Why a shared connection does not answer commands.
#[derive(Debug)]
pub enum Unserved {
    /// The connection has ended, which says nothing of the backend.
    Stale,
    /// The backend has failed.
    Failed(BackendError),
    /// The next reply is longer than [`HELD_REPLY_BYTES`]: it is for a connection of the client's
    /// own, where nobody waits behind it.
    Long,
}

/// What a client's thread and its outbox say of each other.
pub type ClientOutbox = Outbox<Unserved>;

/// Commands of one client that were sent with each other.
pub struct Entry {
    /// Where their replies go.
    pub outbox: Arc<ClientOutbox>,
    /// What the client speaks.
    pub protocol: WireProtocol,
    /// As the outbox gave it out.
    pub ticket: u64,
    /// How many there are.
    pub commands: usize,
    /// When they were sent.
    pub began: Instant,
}

/// A connection that any client may send on.
pub struct SharedConnection {
    /// What it is set up for.
    pub mode: Mode,
    socket: Arc<Socket>,
    pipeline: Pipeline<Entry>,
    /// When it became one; times are counted from here.
    since: Instant,
    /// When something came last, in milliseconds.
    heard_at: AtomicU64,
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
    pub fn start(backend: &Arc<Backend>, connection: Connection) -> io::Result<Arc<Self>> {
        let socket = connection.socket();
        socket.set_read_timeout(IDLE_STEP)?;
        let shared = Arc::new(Self {
            mode: connection.mode,
            socket,
            pipeline: Pipeline::new(),
            since: Instant::now(),
            heard_at: AtomicU64::new(0),
        });
        let reader = Reader {
            backend: Arc::clone(backend),
            shared: Arc::clone(&shared),
            _connection: connection,
            entries: VecDeque::new(),
            buffer: vec![0; HELD_REPLY_BYTES + READ_BYTES],
            end: 0,
            next: NextReplies::default(),
        };
        let thread = thread::Builder::new().name("replies".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || reader.run())?;
        Ok(shared)
    }

    /// Sends a client's commands; false when that is not possible here (any more). Commands that
    /// were sent and are not answered get their outbox told so.
    pub fn send(&self, entry: Entry, commands: &[u8]) -> bool {
        match self.pipeline.push(entry, commands, |bytes| (&*self.socket).write_all(bytes)) {
            Ok(is_sent) => is_sent,
            Err(_) => {
                // The reader finds the end, and tells all.
                self.socket.shutdown();
                true
            }
        }
    }

    /// Why what was sent at `since` is not waited for any longer, if so.
    pub fn silence(&self, since: Instant, waits: &Waits) -> Option<BackendError> {
        match waits.may_wait(self.heard_at().max(since).elapsed()) {
            Ok(true) => None,
            Ok(false) => Some(BackendError::TimedOut),
            Err(error) => Some(error.into()),
        }
    }

    /// Since when nothing was heard on it.
    fn heard_at(&self) -> Instant {
        self.since + Duration::from_millis(self.heard_at.load(Ordering::Relaxed))
    }

    /// Takes no more commands, and ends when all are answered.
    pub(super) fn retire(&self) {
        if self.pipeline.close() {
            self.socket.shutdown();
        }
    }
}

/// Why a shared connection ends.
enum End {
    /// It is not needed any more, was closed by the backend, or broke between replies.
    Stale,
    /// What came is no reply or no answer, or the connection broke within one.
    Failed(BackendError),
}

impl From<crate::resp::Error> for End {
    fn from(error: crate::resp::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The thread that reads one shared connection.
struct Reader {
    backend: Arc<Backend>,
    shared: Arc<SharedConnection>,
    /// Holds its place in the pool.
    _connection: Connection,
    /// Those to whom the next replies go.
    entries: VecDeque<Entry>,
    /// What was read and not given to a client, …
    buffer: Vec<u8>,
    /// … up to here.
    end: usize,
    next: NextReplies,
}

/// What is known of the next replies in the buffer, which are those of the first entry.
#[derive(Default)]
struct NextReplies {
    /// Where the first of them begins.
    start: usize,
    /// Where the whole ones end.
    whole: usize,
    /// Up to where the one behind those was looked at.
    seen: usize,
    /// The state of that one.
    framer: Framer,
    /// How many are whole, of how many commands, with what.
    replies: Replies<Unserved>,
    /// How long the first took to begin.
    time: Option<Duration>,
    /// How much of a long reply was dropped; 0 of one that is not long.
    skipped: usize,
}

impl Reader {
    fn run(mut self) {
        let end = loop {
            match self.read() {
                Ok(true) => {}
                Ok(false) => break End::Stale,
                Err(error) => break self.end_of(error),
            }
            match self.hand_out() {
                Ok(answered) => {
                    let write = |bytes: &[u8]| (&*self.shared.socket).write_all(bytes);
                    match self.shared.pipeline.answered(answered, write) {
                        Ok(false) => {}
                        Ok(true) => break End::Stale,
                        Err(error) => break self.end_of(error),
                    }
                }
                Err(end) => break end,
            }
        };
        self.finish(end);
    }

    /// Reads some; false when that is the end. While nothing comes, looks whether all is over.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            match (&*self.shared.socket).read(&mut self.buffer[self.end..]) {
                Ok(length) => {
                    let time = self.shared.since.elapsed();
                    self.shared.heard_at.store(time.as_millis() as u64, Ordering::Relaxed);
                    self.end += length;
                    return Ok(length > 0);
                }
                Err(error) if is_timeout(&error) => {
                    let silent = self.shared.heard_at().elapsed();
                    let patience = match self.shared.pipeline.is_idle() {
                        true => MAX_IDLE_TIME,
                        // Nobody waits for so long.
                        false => self.backend.waits().longest(),
                    };
                    if silent > patience {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn end_of(&self, error: io::Error) -> End {
        // Between replies it is a stale connection.
        if self.end > self.next.whole { End::Failed(error.into()) } else { End::Stale }
    }

    /// Gives each client what has come for it; returns how many entries are done.
    fn hand_out(&mut self) -> Result<usize, End> {
        let now = Instant::now();
        let mut done = 0;
        while self.next.seen < self.end {
            if self.entries.is_empty() {
                self.shared.pipeline.take(&mut self.entries);
            }
            let Some(entry) = self.entries.front_mut() else {
                let error = crate::resp::Error::Protocol("a reply that nobody asked for");
                return Err(error.into());
            };
            let next = &mut self.next;
            next.time.get_or_insert_with(|| now.saturating_duration_since(entry.began));
            next.seen += next.framer.feed(&self.buffer[next.seen..self.end])?;
            if !next.framer.is_done() {
                break;
            }
            if let Err(error) = next.end_reply(&self.buffer, &self.backend) {
                if error.refusal().is_none() {
                    return Err(End::Failed(error));
                }
                // That concerns nobody else: what comes for this client is dropped from here on.
                next.give_some(entry, &self.buffer, &self.backend);
                entry.outbox.fail(entry.ticket, Unserved::Failed(error));
                next.pass_over();
            }
            if next.replies.answered == entry.commands {
                next.give(entry, &self.buffer, &self.backend);
                next.time = None;
                self.entries.pop_front();
                done += 1;
            }
        }
        self.make_room()?;
        Ok(done)
    }

    /// Moves what is left to the buffer's beginning. Where that is much, its client is given those
    /// replies that are whole, and one that is long is dropped.
    fn make_room(&mut self) -> Result<(), End> {
        let next = &mut self.next;
        if let Some(entry) = self.entries.front_mut()
            && self.end - next.start > HELD_REPLY_BYTES
        {
            next.give_some(entry, &self.buffer, &self.backend);
        }
        if let Some(entry) = self.entries.front()
            && (next.skipped > 0 || self.end - next.start > HELD_REPLY_BYTES)
        {
            if next.skipped == 0 {
                entry.outbox.fail(entry.ticket, Unserved::Long);
            }
            next.skip()?;
        }
        let start = std::mem::take(&mut next.start);
        if start > 0 {
            self.buffer.copy_within(start..self.end, 0);
            next.whole -= start;
            next.seen -= start;
            self.end -= start;
        }
        Ok(())
    }

    /// Tells all whose commands are not answered.
    fn finish(mut self, end: End) {
        self.shared.pipeline.close();
        self.shared.pipeline.take(&mut self.entries);
        self.backend.forget_shared(&self.shared);
        self.shared.socket.shutdown();
        let mut unserved = match end {
            End::Failed(error) => Unserved::Failed(error),
            End::Stale => Unserved::Stale,
        };
        if let Some(entry) = self.entries.front_mut() {
            self.next.give_some(entry, &self.buffer, &self.backend);
        }
        for Entry { outbox, ticket, .. } in self.entries {
            // Only the first one's reply shows that something is wrong.
            outbox.fail(ticket, std::mem::replace(&mut unserved, Unserved::Stale));
        }
    }
}

impl NextReplies {
    /// One more reply is whole.
    ///
    /// # Errors
    /// When it says that the server can't answer, which is no answer: it is still the next one then.
    fn end_reply(&mut self, buffer: &[u8], backend: &Backend) -> Result<(), BackendError> {
        let reply = &buffer[self.whole..self.seen];
        if self.framer.kind() == Some(b'-') {
            backend.refuser().check_answer(reply)?;
            self.replies.errors += 1;
        }
        self.replies.longest = self.replies.longest.max(reply.len());
        self.pass_over();
        Ok(())
    }

    /// Goes on behind the reply that has just ended.
    fn pass_over(&mut self) {
        self.replies.answered += 1;
        self.whole = self.seen;
        if std::mem::take(&mut self.skipped) > 0 {
            self.start = self.seen;
        }
        self.framer = Framer::new();
    }

    /// Drops what has come of a long reply.
    fn skip(&mut self) -> Result<(), End> {
        self.skipped += self.seen - self.start;
        (self.start, self.whole) = (self.seen, self.seen);
        if self.skipped > MAX_SKIPPED_BYTES { Err(End::Stale) } else { Ok(()) }
    }

    /// Gives the whole ones to their client, ahead of the others of their entry.
    fn give_some(&mut self, entry: &mut Entry, buffer: &[u8], backend: &Backend) {
        if self.replies.answered > 0 {
            entry.commands -= self.replies.answered;
            self.give(entry, buffer, backend);
        }
    }

    /// Gives the whole ones to their client.
    fn give(&mut self, entry: &Entry, buffer: &[u8], backend: &Backend) {
        let replies = std::mem::take(&mut self.replies);
        let time = self.time.unwrap_or_default();
        entry.outbox.deliver(entry.ticket, &buffer[self.start..self.whole], &replies, || {
            // An HTTP request is counted when its answer is made.
            if entry.protocol == WireProtocol::Resp {
                backend.metrics.answer_many(WireProtocol::Resp, time, replies.answered);
                backend.metrics.error_replies.add(replies.errors);
            }
        });
        self.start = self.whole;
    }
}
