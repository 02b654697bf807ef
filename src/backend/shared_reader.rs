//! The thread that reads a shared connection and gives the replies to the clients.

use std::collections::VecDeque;
use std::io::{self, PipeWriter, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{BackendError, is_timeout};
use super::reply_router::{Progress, Replies};
use super::shared::{Entry, IncompleteReply, LineHead, SharedConnection, SharedFailure};
use super::{Backend, PooledConnection, unable};
use crate::metrics::{CommandId, Completion, Outcome};
use crate::net::protocol::WireProtocol;
use crate::resp::{self, Framer, Protocol};

/// Longest reply that is held until it is whole, so that another backend can still give it: a string of
/// 64 KiB with the bytes that RESP puts around it.
pub(crate) const HELD_REPLY_BYTES: usize = 64 * 1024 + 64;

/// Longest reply that is read and dropped. With a longer one, all clients are better off on a new connection.
const MAX_SKIPPED_BYTES: usize = 1024 * 1024;

/// Most bytes that are read from a backend at a time.
const READ_BYTES: usize = 64 * 1024;

/// Time between two looks whether a silent connection is over.
const IDLE_STEP: Duration = Duration::from_secs(1);

/// Time after which a connection that no client has used is closed.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// Stack of the thread that reads, in bytes.
const STACK_BYTES: usize = 256 * 1024;

/// Reason why a shared connection ends.
enum CloseReason {
    /// It is not needed any more, or no longer of use.
    Stale,
    /// The backend has closed it, or it broke between replies.
    Lost,
    /// The bytes that came are no reply or no answer, or the connection broke within a reply.
    Failed(BackendError),
    /// A reply came that answers no command that was written: only the backend is to blame.
    UnexpectedReply,
}

impl From<resp::Error> for CloseReason {
    fn from(error: resp::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The state of the thread that reads one shared connection.
pub(super) struct Reader {
    backend: Arc<Backend>,
    shared: Arc<SharedConnection>,
    /// Holds the connection's place in the pool.
    _connection: PooledConnection,
    /// The entries that the next replies answer.
    entries: VecDeque<Entry>,
    /// Bytes that were read and not given to a client.
    buffer: Vec<u8>,
    /// End of these bytes in the buffer.
    end: usize,
    next: NextReplies,
    /// Wakes the waiting threads when it is dropped.
    wake_writer: Option<PipeWriter>,
}

/// State of the next replies in the buffer, which answer the first entry.
#[derive(Default)]
struct NextReplies {
    /// Start of the first of them.
    start: usize,
    /// End of the whole ones.
    whole: usize,
    /// End of the part of the next one that was looked at.
    seen: usize,
    /// Finds the end of the next one.
    framer: Framer,
    /// Summary of the whole ones.
    replies: Replies,
    /// How long the first took to begin.
    time: Option<Duration>,
    /// When the first bytes came of the next one, if that is incomplete.
    incomplete_since: Option<Instant>,
    /// Bytes of a long reply that were dropped; 0 if the reply is not long.
    skipped: usize,
    /// Whether client threads have to be woken.
    must_wake: bool,
}

impl Reader {
    /// Starts the thread.
    pub fn start(
        backend: Arc<Backend>,
        shared: Arc<SharedConnection>,
        connection: PooledConnection,
    ) -> io::Result<()> {
        shared.stream.set_read_timeout(IDLE_STEP)?;
        let reader = Self {
            wake_writer: shared.renew_wake_pipe(),
            backend,
            shared,
            _connection: connection,
            entries: VecDeque::new(),
            buffer: vec![0; HELD_REPLY_BYTES + READ_BYTES],
            end: 0,
            next: NextReplies::default(),
        };
        let thread = thread::Builder::new().name("replies".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || reader.run()).map(|_| ())
    }

    fn run(mut self) {
        let reason = loop {
            if let Err(error) = self.read() {
                break self.reason_of(error);
            }
            match self.hand_out() {
                Ok(answered) => {
                    let shared = &self.shared;
                    match shared.pipeline.answered(answered, |bytes| shared.write(bytes)) {
                        Ok(false) => {}
                        Ok(true) => break CloseReason::Stale,
                        Err(error) => break self.reason_of(error),
                    }
                }
                Err(reason) => break reason,
            }
        };
        self.finish(reason);
    }

    /// Reads some bytes.
    ///
    /// # Errors
    /// When the connection has ended, or no client needs it any more.
    fn read(&mut self) -> io::Result<()> {
        loop {
            let read = (&*self.shared.stream).read(&mut self.buffer[self.end..]);
            if self.shared.is_retired() && !self.is_awaited() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.shared.note_received(length);
                    self.end += length;
                    return Ok(());
                }
                Err(error) if is_timeout(&error) => {
                    let timeouts = &self.backend.timeouts;
                    let max_silence = match self.shared.pipeline.is_idle() {
                        true => MAX_IDLE_TIME,
                        // No client waits for so long.
                        false => timeouts.timeout().max(timeouts.read_timeout()) * 2,
                    };
                    if self.shared.heard_at().elapsed() > max_silence {
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether any client still waits for its reply here.
    fn is_awaited(&self) -> bool {
        let asked = |entry: &Entry| (Arc::clone(&entry.router), entry.ticket);
        let untaken: Vec<_> =
            self.shared.pipeline.look(|entries| entries.iter().map(asked).collect());
        let mut all = self.entries.iter().map(asked).chain(untaken);
        all.any(|(router, ticket)| router.is_waiting(ticket))
    }

    /// Returns the reason for an end with this error. Between replies, it says nothing of the backend.
    fn reason_of(&self, error: io::Error) -> CloseReason {
        if self.shared.is_abandoned() {
            return CloseReason::Stale;
        }
        if self.is_within_reply() && !is_timeout(&error) {
            CloseReason::Failed(error.into())
        } else {
            CloseReason::Lost
        }
    }

    /// Whether a part of the next reply has come.
    fn is_within_reply(&self) -> bool {
        self.end > self.next.whole || self.next.skipped > 0
    }

    /// Gives each client its replies; returns how many entries are answered.
    fn hand_out(&mut self) -> Result<usize, CloseReason> {
        let now = Instant::now();
        let mut done = 0;
        while self.next.seen < self.end {
            let next = &mut self.next;
            if next.is_between_replies() && self.buffer[next.seen] == b'>' {
                return Err(end_of_push(self.shared.mode.protocol));
            }
            if self.entries.is_empty() {
                self.shared.pipeline.take_written(&mut self.entries);
            }
            let Some(entry) = self.entries.front_mut() else {
                return Err(CloseReason::UnexpectedReply);
            };
            next.time.get_or_insert_with(|| now.saturating_duration_since(entry.began));
            next.seen += next.framer.feed(&self.buffer[next.seen..self.end])?;
            if !next.framer.is_done() {
                break;
            }
            if next.framer.kind() == Some(b'>') {
                // It had attributes.
                return Err(end_of_push(self.shared.mode.protocol));
            }
            if let Err(error) = next.end_reply(&self.buffer, &self.backend) {
                if error.refusal().is_none() {
                    return Err(CloseReason::Failed(error));
                }
                // The refusal concerns no other client. This one's further replies are dropped.
                next.give_some(entry, &self.buffer, &self.backend);
                _ = entry.router.fail(entry.ticket, SharedFailure::Backend(error));
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
        if std::mem::take(&mut self.next.must_wake) {
            self.wake_writer = self.shared.renew_wake_pipe();
        }
        self.tell_head(now);
        Ok(done)
    }

    /// Tells the clients' threads how far the replies have come.
    fn tell_head(&mut self, now: Instant) {
        let front = self.entries.front();
        let incomplete = front.filter(|_| self.is_within_reply()).map(|entry| IncompleteReply {
            router: Arc::clone(&entry.router),
            since: self.next.incomplete_since.unwrap_or(now),
        });
        let oldest = front.map(|entry| (entry.began, entry.received));
        self.next.incomplete_since = incomplete.as_ref().map(|incomplete| incomplete.since);
        self.shared.set_head(LineHead { oldest, incomplete });
    }

    /// Moves the rest to the buffer's beginning. If the rest is long, its client gets the whole replies in
    /// it, and a reply that is long itself is dropped.
    fn make_room(&mut self) -> Result<(), CloseReason> {
        let next = &mut self.next;
        if let Some(entry) = self.entries.front_mut() {
            let length = (self.end - next.whole) as u64 + next.framer.announced_bytes();
            let is_long = length > HELD_REPLY_BYTES as u64;
            if is_long || self.end - next.start > HELD_REPLY_BYTES {
                next.give_some(entry, &self.buffer, &self.backend);
            }
            if next.skipped > 0 || is_long {
                if next.skipped == 0 {
                    // It fails where the client has taken its commands back.
                    let _ = entry.router.fail(entry.ticket, SharedFailure::LongReply);
                    next.must_wake |= entry.protocol == WireProtocol::Http;
                }
                next.skip()?;
            }
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

    /// Tells the clients whose commands are not answered.
    fn finish(mut self, reason: CloseReason) {
        self.shared.pipeline.close_and_take(&mut self.entries);
        self.shared.set_head(LineHead::default());
        self.backend.forget_shared(&self.shared);
        self.shared.stream.shutdown();
        if let Some(entry) = self.entries.front_mut() {
            self.next.give_some(entry, &self.buffer, &self.backend);
        }
        let is_lost =
            matches!(reason, CloseReason::Lost | CloseReason::Failed(BackendError::Lost(_)));
        // Only the first client's reply shows that something is wrong: its session counts the failure.
        // Without such a client, it is counted here.
        let uncounted = match reason {
            CloseReason::Failed(error) => match self.entries.pop_front() {
                Some(first) => first.router.fail(first.ticket, SharedFailure::Backend(error)).err(),
                None => Some(SharedFailure::Backend(error)),
            },
            CloseReason::UnexpectedReply => {
                let error = resp::Error::Protocol("a reply that nobody asked for");
                Some(SharedFailure::Backend(error.into()))
            }
            CloseReason::Stale | CloseReason::Lost => None,
        };
        if let Some(SharedFailure::Backend(error)) = uncounted {
            self.backend.metrics.errors.add_one();
            self.backend.failed(&error);
        }
        for Entry { router, ticket, .. } in self.entries {
            let failure = if is_lost { SharedFailure::Lost } else { SharedFailure::Stale };
            // It fails where the client has taken its commands back.
            let _ = router.fail(ticket, failure);
        }
    }
}

/// Returns the reason for the end at a push, which answers no command. In RESP3 a server may send one at
/// any time; the commands that wait are sent on another connection.
fn end_of_push(protocol: Protocol) -> CloseReason {
    match protocol {
        Protocol::Resp3 => CloseReason::Stale,
        Protocol::Resp2 => resp::Error::Protocol("a push, in RESP2").into(),
    }
}

/// Counts replies to one client.
fn complete(entry: &Entry, replies: &Replies, backend: &Backend) {
    let answered = Completion {
        protocol: entry.protocol,
        // They may be several.
        command: CommandId::default(),
        status: None,
        backend: Some(&backend.metrics),
        count: replies.answered as u64 - replies.errors,
        time: replies.slowest,
        outcome: Outcome::Answered,
    };
    let times = &backend.all_metrics.command_times;
    times.add_sent(&entry.sent, entry.commands, replies.answered, replies.slowest);
    if answered.count > 0 {
        backend.all_metrics.complete(&answered);
    }
    if replies.errors > 0 {
        let (count, outcome) = (replies.errors, Outcome::ErrorReply);
        backend.all_metrics.complete(&Completion { count, outcome, ..answered });
    }
}

impl NextReplies {
    /// Returns whether the next byte begins a frame.
    fn is_between_replies(&self) -> bool {
        self.seen == self.whole && self.skipped == 0
    }

    /// Takes note that one more reply is whole.
    ///
    /// # Errors
    /// When it says that the server can't answer, which is no answer. It stays the next one then.
    fn end_reply(&mut self, buffer: &[u8], backend: &Backend) -> Result<(), BackendError> {
        let reply = &buffer[self.whole..self.seen];
        if self.framer.kind() == Some(b'-') {
            unable::check_answer(reply, &*backend.timeouts.supervisor)?;
            self.replies.errors += 1;
        }
        self.replies.longest = self.replies.longest.max(reply.len());
        self.pass_over();
        Ok(())
    }

    /// Goes on after the reply that has just ended.
    fn pass_over(&mut self) {
        self.replies.answered += 1;
        self.whole = self.seen;
        self.incomplete_since = None;
        if std::mem::take(&mut self.skipped) > 0 {
            self.start = self.seen;
        }
        self.framer = Framer::new();
    }

    /// Drops the bytes of a long reply that have come.
    fn skip(&mut self) -> Result<(), CloseReason> {
        self.skipped += self.seen - self.start;
        (self.start, self.whole) = (self.seen, self.seen);
        let length = self.skipped as u64 + self.framer.announced_bytes();
        if length > MAX_SKIPPED_BYTES as u64 { Err(CloseReason::Stale) } else { Ok(()) }
    }

    /// Gives the whole replies to their client, before the others of their entry have come.
    fn give_some(&mut self, entry: &mut Entry, buffer: &[u8], backend: &Backend) {
        let answered = self.replies.answered;
        if answered > 0 {
            self.give(entry, buffer, backend);
            entry.commands -= answered;
        }
    }

    /// Gives the whole replies to their client.
    fn give(&mut self, entry: &Entry, buffer: &[u8], backend: &Backend) {
        let time = self.time.unwrap_or_default();
        backend.metrics.short_reads.add(time, 1);
        let replies = Replies { slowest: time, ..std::mem::take(&mut self.replies) };
        let bytes = &buffer[self.start..self.whole];
        let progress = entry.router.deliver(entry.ticket, bytes, &replies, || {
            // An HTTP request is counted when its response is made.
            if entry.protocol == WireProtocol::Resp {
                complete(entry, &replies, backend);
            }
        });
        // A Redis client's thread looks now and then: so it needs no second system call to wait.
        self.must_wake |= progress == Progress::Stopped && entry.protocol == WireProtocol::Http;
        self.start = self.whole;
    }
}
