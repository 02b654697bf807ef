//! One pipelined connection that many clients' threads send on. A thread of its own reads the replies
//! and gives them to the clients.
//!
//! It is for the usual case alone: short reads whose replies are short. Where anything else turns up,
//! clients take back what is not answered (see [`ReplyRouter`]) and ask on connections of their own.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{BackendError, is_timeout};
use super::pipeline::Pipeline;
use super::reply_router::{Progress, Replies, ReplyRouter};
use super::{Backend, Mode, PooledConnection, Timeouts};
use crate::metrics::{Completion, Outcome};
use crate::net::backend_stream::BackendStream;
use crate::net::protocol::WireProtocol;
use crate::resp::{Framer, Protocol};
use crate::sync::{Mutex, lock};

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
    /// The backend has ended the connection: it may have died of what was not answered.
    Gone,
    /// The backend has failed.
    Failed(BackendError),
    /// The next reply is longer than [`HELD_REPLY_BYTES`]: it is for a connection of the client's
    /// own, where nobody waits behind it.
    Long,
}

/// What a client's thread and its router say of each other.
pub type ClientReplyRouter = ReplyRouter<Unserved>;

/// Commands of one client that were sent with each other.
pub struct Entry {
    /// Where their replies go.
    pub router: Arc<ClientReplyRouter>,
    /// Address of the client.
    pub client: SocketAddr,
    /// What the client speaks.
    pub protocol: WireProtocol,
    /// As the router gave it out.
    pub ticket: u64,
    /// How many there are.
    pub commands: usize,
    /// When they were sent.
    pub began: Instant,
}

/// Rings when a client's thread has to see to what it has sent on a shared connection, and is over
/// then. All who wait there hear it, and look whether it is for them: that is rare, and so an idle
/// client needs no descriptor of its own to be woken by.
#[derive(Debug)]
pub struct Alarm(Option<PipeReader>);

impl Alarm {
    /// It rings when what is returned beside it is dropped.
    fn new() -> (Arc<Self>, Option<PipeWriter>) {
        // Without descriptors those who wait look up now and then.
        let (reader, bell) = io::pipe().ok().unzip();
        (Arc::new(Self(reader)), bell)
    }

    /// Ready to be read once it has rung; `None` where it can't ring.
    pub fn pipe(&self) -> Option<&PipeReader> {
        self.0.as_ref()
    }
}

/// A connection that any client may send on.
pub struct SharedConnection {
    /// What it is set up for.
    pub mode: Mode,
    /// The version of its backend's commands that its server knows.
    commands_version: u64,
    stream: Arc<BackendStream>,
    pipeline: Pipeline<Entry>,
    /// What rings next.
    alarm: Mutex<Arc<Alarm>>,
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
    pub fn start(backend: &Arc<Backend>, connection: PooledConnection) -> io::Result<Arc<Self>> {
        let stream = Arc::clone(connection.stream());
        stream.set_read_timeout(IDLE_STEP)?;
        let (alarm, bell) = Alarm::new();
        let shared = Arc::new(Self {
            alarm: Mutex::new(alarm),
            mode: connection.mode,
            commands_version: connection.commands_version(),
            stream,
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
            bell,
        };
        let thread = thread::Builder::new().name("replies".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || reader.run())?;
        Ok(shared)
    }

    /// What rings next. Whoever hears that one has rung takes the next before it looks what it is.
    pub fn alarm(&self) -> Arc<Alarm> {
        Arc::clone(&lock(&self.alarm))
    }

    /// The version of its backend's commands that its server knows: what was judged by another must
    /// not be sent here.
    pub fn commands_version(&self) -> u64 {
        self.commands_version
    }

    /// Sends a client's commands; false when that is not possible here (any more). Commands that
    /// were sent and are not answered get their router told so.
    pub fn send(&self, entry: Entry, commands: &[u8]) -> bool {
        match self.pipeline.push(entry, commands, |bytes| (&*self.stream).write_all(bytes)) {
            Ok(is_sent) => is_sent,
            Err(_) => {
                // The reader finds the end, and tells all.
                self.stream.shutdown();
                true
            }
        }
    }

    /// Why what was sent at `since` is not waited for any longer, if so.
    pub fn silence(&self, since: Instant, timeouts: &Timeouts) -> Option<BackendError> {
        match timeouts.may_wait(self.heard_at().max(since).elapsed()) {
            Ok(true) => None,
            Ok(false) => Some(BackendError::TimedOut),
            Err(error) => Some(error.into()),
        }
    }

    /// Whether nothing is under way on it.
    pub(super) fn is_idle(&self) -> bool {
        self.pipeline.is_idle()
    }

    /// Since when nothing was heard on it.
    fn heard_at(&self) -> Instant {
        self.since + Duration::from_millis(self.heard_at.load(Ordering::Relaxed))
    }

    /// Takes no more commands, and ends when all are answered.
    pub(super) fn retire(&self) {
        if self.pipeline.close() {
            self.stream.shutdown();
        }
    }
}

/// Why a shared connection ends.
enum End {
    /// It is not needed any more, or no longer of use.
    Stale,
    /// The backend has closed it, or it broke between replies.
    Gone,
    /// What came is no reply or no answer, or the connection broke within one.
    Failed(BackendError),
    /// A reply came that answers no command that was written: nobody is to blame but the backend.
    Surplus,
}

/// What a backend is blamed for that sends more replies than it was sent commands.
fn surplus() -> BackendError {
    crate::resp::Error::Protocol("a reply that nobody asked for").into()
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
    _connection: PooledConnection,
    /// Those to whom the next replies go.
    entries: VecDeque<Entry>,
    /// What was read and not given to a client, …
    buffer: Vec<u8>,
    /// … up to here.
    end: usize,
    next: NextReplies,
    /// Rings the alarm when it is dropped.
    bell: Option<PipeWriter>,
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
    /// Whether a client's thread that can hear it is to be woken.
    is_alarming: bool,
}

impl Reader {
    fn run(mut self) {
        let end = loop {
            match self.read() {
                Ok(true) => {}
                Ok(false) => break End::Gone,
                Err(error) => break self.end_of(error),
            }
            match self.hand_out() {
                Ok(answered) => {
                    let write = |bytes: &[u8]| (&*self.shared.stream).write_all(bytes);
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

    /// Reads some; false when nobody needs more. While nothing comes, looks whether all is over.
    ///
    /// # Errors
    /// When the connection has ended.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            match (&*self.shared.stream).read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    let time = self.shared.since.elapsed();
                    self.shared.heard_at.store(time.as_millis() as u64, Ordering::Relaxed);
                    self.end += length;
                    return Ok(true);
                }
                Err(error) if is_timeout(&error) => {
                    let silent = self.shared.heard_at().elapsed();
                    let wait_policy = match self.shared.pipeline.is_idle() {
                        true => MAX_IDLE_TIME,
                        // Nobody waits for so long.
                        false => self.backend.timeouts().longest(),
                    };
                    if silent > wait_policy {
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
        let is_within_reply = self.end > self.next.whole || self.next.skipped > 0;
        if is_within_reply { End::Failed(error.into()) } else { End::Gone }
    }

    /// Gives each client what has come for it; returns how many entries are done.
    fn hand_out(&mut self) -> Result<usize, End> {
        let now = Instant::now();
        let mut done = 0;
        while self.next.seen < self.end {
            let next = &mut self.next;
            if next.is_between_replies() && self.buffer[next.seen] == b'>' {
                return Err(self.shared.end_of_push());
            }
            if self.entries.is_empty() {
                self.shared.pipeline.take_written(&mut self.entries);
            }
            let Some(entry) = self.entries.front_mut() else {
                return Err(End::Surplus);
            };
            next.time.get_or_insert_with(|| now.saturating_duration_since(entry.began));
            next.seen += next.framer.feed(&self.buffer[next.seen..self.end])?;
            if !next.framer.is_done() {
                break;
            }
            if next.framer.kind() == Some(b'>') {
                // It had attributes.
                return Err(self.shared.end_of_push());
            }
            if let Err(error) = next.end_reply(&self.buffer, &self.backend) {
                if error.refusal().is_none() {
                    return Err(End::Failed(error));
                }
                // That concerns nobody else: what comes for this client is dropped from here on.
                next.give_some(entry, &self.buffer, &self.backend);
                _ = entry.router.fail(entry.ticket, Unserved::Failed(error));
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
        if std::mem::take(&mut self.next.is_alarming) {
            let (alarm, bell) = Alarm::new();
            *lock(&self.shared.alarm) = alarm;
            self.bell = bell;
        }
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
                // A client that took its commands back does not care.
                let _ = entry.router.fail(entry.ticket, Unserved::Long);
                next.is_alarming |= entry.protocol == WireProtocol::Http;
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
        self.shared.pipeline.close_and_take(&mut self.entries);
        self.backend.forget_shared(&self.shared);
        self.shared.stream.shutdown();
        if let Some(entry) = self.entries.front_mut() {
            self.next.give_some(entry, &self.buffer, &self.backend);
        }
        let is_gone = matches!(end, End::Gone | End::Failed(BackendError::Lost(_)));
        // Only the first one's reply shows that something is wrong: its session counts the failure.
        let untold = match (end, self.entries.pop_front()) {
            (End::Failed(error), Some(first)) => {
                match first.router.fail(first.ticket, Unserved::Failed(error)) {
                    Err(Unserved::Failed(error)) => Some(error),
                    _ => None,
                }
            }
            (End::Failed(error), None) => Some(error),
            (end, first) => {
                self.entries.extend(first);
                matches!(end, End::Surplus).then(surplus)
            }
        };
        if let Some(error) = untold {
            self.backend.metrics.errors.add_one();
            self.backend.failed(&error);
        }
        for Entry { router, ticket, .. } in self.entries {
            let unserved = if is_gone { Unserved::Gone } else { Unserved::Stale };
            // A client that took its commands back does not care.
            let _ = router.fail(ticket, unserved);
        }
    }
}

impl SharedConnection {
    /// How it ends when a push has come: it is nobody's reply. In RESP3 a server may send one at any
    /// time; what waits is asked on another connection.
    fn end_of_push(&self) -> End {
        match self.mode.protocol {
            Protocol::Resp3 => End::Stale,
            Protocol::Resp2 => crate::resp::Error::Protocol("a push, in RESP2").into(),
        }
    }
}

/// Counts replies to one client.
fn count_answers(entry: &Entry, replies: &Replies<Unserved>, bytes: usize, backend: &Backend) {
    let answered = Completion {
        client: entry.client,
        protocol: entry.protocol,
        what: b"",
        backend: Some(&backend.metrics),
        count: replies.answered as u64 - replies.errors,
        bytes: bytes as u64,
        time: replies.slowest,
        outcome: Outcome::Answered,
    };
    if answered.count > 0 {
        backend.all_metrics.complete(&answered);
    }
    if replies.errors > 0 {
        let (count, outcome) = (replies.errors, Outcome::ErrorReply);
        backend.all_metrics.complete(&Completion { count, bytes: 0, outcome, ..answered });
    }
}

impl NextReplies {
    /// Whether the next byte begins a frame.
    fn is_between_replies(&self) -> bool {
        self.seen == self.whole && self.skipped == 0
    }

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
        let mut replies = std::mem::take(&mut self.replies);
        replies.slowest = self.time.unwrap_or_default();
        let bytes = &buffer[self.start..self.whole];
        let progress = entry.router.deliver(entry.ticket, bytes, &replies, || {
            // An HTTP request is counted when its answer is made.
            if entry.protocol == WireProtocol::Resp {
                count_answers(entry, &replies, bytes.len(), backend);
            }
        });
        // Redis clients' threads look up now and then: they need no other call to wait for commands.
        self.is_alarming |= progress == Progress::Stopped && entry.protocol == WireProtocol::Http;
        self.start = self.whole;
    }
}
