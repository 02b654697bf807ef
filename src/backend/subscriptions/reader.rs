//! The thread that reads a connection which carries subscriptions, and gives each message to those who want it.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::connection::{Sent, SubscriptionConnection};
use super::message::{MessageForms, Push};
use super::subscriber::Subscriber;
use super::subscribers::Kept;
use crate::backend::{
    Backend, BackendError, PooledConnection, WaitPolicy, check_server, is_timeout,
};
use crate::net::backend_stream::BackendStream;
use crate::policy::Subscription;
use crate::resp::{Error, Framer, command};

/// Longest message. No subscriber may leave more than this, so a longer one would reach nobody.
const MAX_FRAME_BYTES: u64 = 32 * 1024 * 1024;

/// Most bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;

/// Number of places in queues into which messages are put before those are sent. Messages that come close together are
/// given to a socket at once, and ten thousand subscribers wait for a few messages only.
const MAX_UNSENT: usize = 64 * 1024;

/// Time between two looks at the backend's state, and whether it is silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Parts of the backend timeout after each of which a quiet server is asked for a `PING`.
const PINGS_IN_TIMEOUT: u32 = 4;

/// Time after which a connection that nobody uses ends: a client that subscribes now and then finds it there.
const MAX_IDLE_TIME: Duration = Duration::from_secs(10);

/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 256 * 1024;

/// Reason for which a connection has ended.
enum End {
    /// Nobody used it.
    Idle,
    /// It could not be made.
    NotMade(BackendError),
    /// Its subscribers have to leave.
    Left(BackendError),
    /// It was lost.
    Lost(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(BackendError::from(error).to_string())
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Starts the thread of a connection.
///
/// # Errors
/// When there can be none.
pub fn start(backend: &Arc<Backend>, connection: &Arc<SubscriptionConnection>) -> io::Result<()> {
    let (backend, connection) = (Arc::clone(backend), Arc::clone(connection));
    let thread = thread::Builder::new().name("messages".to_owned()).stack_size(STACK_BYTES);
    let run = move || {
        let mut sent = VecDeque::new();
        let read = AssertUnwindSafe(|| match Reader::connect(&backend, &connection) {
            Ok(mut reader) => {
                let end = reader.run();
                sent = reader.sent;
                end
            }
            Err(error) => End::NotMade(error),
        });
        // Whatever happens, its subscribers go on elsewhere.
        let end = catch_unwind(read).unwrap_or_else(|_| End::Lost("an error of ours".to_owned()));
        finish(&backend, &connection, end, sent);
    };
    thread.spawn(run).map(|_| ())
}

fn finish(
    backend: &Backend,
    connection: &Arc<SubscriptionConnection>,
    end: End,
    sent: VecDeque<Sent>,
) {
    backend.forget_subscriptions(connection);
    let (is_failure, why) = match &end {
        End::Idle => (false, "nobody has used it".to_owned()),
        End::NotMade(error) => (error.is_failure(), error.to_string()),
        End::Left(error) => (error.is_unanswered(), error.to_string()),
        End::Lost(why) => (false, why.clone()),
    };
    // Of the sessions that hear of it, none counts it. Now they go elsewhere at once.
    if let End::NotMade(error) | End::Left(error) = &end
        && is_failure
    {
        backend.failed(error);
    }
    let had_subscribers = connection.close(&why, sent);
    if had_subscribers && !matches!(end, End::NotMade(_)) {
        let name = backend.name();
        warn!(
            "the subscribers of {name} leave it: {why}: messages may be lost until they have subscribed anew"
        );
    }
}

/// The state of the thread.
struct Reader<'a> {
    backend: &'a Backend,
    connection: &'a SubscriptionConnection,
    /// Holds the connection's place in the pool.
    _pooled: PooledConnection,
    stream: Arc<BackendStream>,
    /// The commands that the next replies answer.
    sent: VecDeque<Sent>,
    /// Number of confirmations of the first of them that have come.
    confirmed: usize,
    /// Bytes that were read; those up to `end` count.
    buffer: Vec<u8>,
    end: usize,
    /// Start of the next frame in it.
    start: usize,
    /// End of the part of it that was looked at.
    looked: usize,
    framer: Framer,
    /// The memory for a long message while it comes.
    kept: Kept,
    /// Subscribers that have messages in their queues which were not given to their sockets.
    due: Vec<Arc<Subscriber>>,
    /// Number of places in queues that were filled since all were sent.
    unsent: usize,
    /// Room for messages on their way to a socket.
    piece: Vec<u8>,
    /// Since when nothing has come.
    quiet_since: Instant,
    /// Since when the server has owed an answer.
    asked_since: Option<Instant>,
    looked_at: Instant,
    used_at: Instant,
    /// How often the backend's connections had been closed when this one was made.
    times_closed: u64,
}

impl<'a> Reader<'a> {
    fn connect(
        backend: &'a Backend,
        connection: &'a SubscriptionConnection,
    ) -> Result<Self, BackendError> {
        let times_closed = backend.times_closed();
        let wait_policy = WaitPolicy::Until(Instant::now() + backend.timeouts.timeout());
        let ping = command("PING").into_bytes();
        let mut pooled = backend.request(backend.own_mode(), &ping, wait_policy, |_| true)?;
        let mut reply = Vec::new();
        pooled.hold(&mut reply, READ_BYTES)?;
        // One that may not PING is a server as well.
        check_server(&reply)?;
        if !pooled.pin() {
            return Err(pooled.no_room());
        }
        let stream = Arc::clone(pooled.stream());
        stream.set_read_timeout(LOOK_INTERVAL)?;
        connection.begin(Arc::clone(&stream));
        let now = Instant::now();
        Ok(Self {
            backend,
            connection,
            _pooled: pooled,
            stream,
            sent: VecDeque::new(),
            confirmed: 0,
            buffer: Vec::new(),
            end: 0,
            start: 0,
            looked: 0,
            framer: Framer::new(),
            kept: Kept::new(&connection.subscribers, 0),
            due: Vec::new(),
            unsent: 0,
            piece: Vec::new(),
            quiet_since: now,
            asked_since: None,
            looked_at: now,
            used_at: now,
            times_closed,
        })
    }

    fn run(&mut self) -> End {
        loop {
            let step = self.read().and_then(|has_come| {
                if has_come {
                    let answered = self.handle_frames();
                    // What came before something wrong is given away.
                    self.send_due();
                    self.connection.note_answered(answered?);
                    self.quiet_since = Instant::now();
                }
                self.look_around()
            });
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Reads some bytes; returns whether any have come.
    fn read(&mut self) -> Result<bool, End> {
        if self.buffer.len() < self.end + READ_BYTES {
            // It grows with what has come, whatever length is announced.
            self.buffer.resize(self.end + READ_BYTES.max(self.end / 2), 0);
            let is_long = self.buffer.len() > 2 * READ_BYTES;
            self.kept.set(if is_long { self.buffer.len() } else { 0 });
        }
        match (&*self.stream).read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(End::Lost("the server has closed the connection".to_owned())),
            Ok(length) => {
                self.end += length;
                Ok(true)
            }
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Handles the frames that have come; returns how many commands are answered.
    fn handle_frames(&mut self) -> Result<usize, End> {
        let mut answered = 0;
        // Taken out, so that frames can be lent while the rest changes.
        let mut buffer = std::mem::take(&mut self.buffer);
        let handled = loop {
            if self.looked == self.end {
                break Ok(());
            }
            match self.framer.feed(&buffer[self.looked..self.end]) {
                Ok(used) => self.looked += used,
                Err(error) => break Err(error.into()),
            }
            if !self.framer.is_done() {
                break Ok(());
            }
            self.framer = Framer::new();
            let frame = &buffer[self.start..self.looked];
            self.start = self.looked;
            match self.handle(frame) {
                Ok(is_answered) => answered += usize::from(is_answered),
                Err(end) => break Err(end),
            }
        };
        buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.looked -= self.start;
        self.start = 0;
        if self.end == 0 && buffer.len() > 2 * READ_BYTES {
            buffer = Vec::new();
        }
        self.buffer = buffer;
        handled?;
        if self.end as u64 + self.framer.announced_bytes() > MAX_FRAME_BYTES {
            return Err(End::Lost("a message is longer than 32 MiB".to_owned()));
        }
        Ok(answered)
    }

    /// Handles a frame; returns whether a command is answered with it.
    fn handle(&mut self, frame: &[u8]) -> Result<bool, End> {
        match frame.first() {
            Some(b'*' | b'>') => match Push::parse(frame) {
                Some(Push::Message(kind, name)) => {
                    self.deliver(kind, name, frame);
                    Ok(false)
                }
                Some(Push::Subscribed(kind)) => self.confirm(kind, true),
                Some(Push::Unsubscribed(kind)) => self.confirm(kind, false),
                Some(Push::Pong) => self.reply(frame),
                None => Err(unexpected()),
            },
            _ => self.reply(frame),
        }
    }

    /// Puts a message into the queues of those who want it.
    fn deliver(&mut self, kind: Subscription, name: &[u8], frame: &[u8]) {
        let Self { connection, due, unsent, .. } = self;
        let now = Instant::now();
        let mut forms = MessageForms::new(frame, &connection.subscribers);
        connection.for_each_subscriber(kind, name, |subscriber| {
            *unsent += 1;
            if subscriber.push(now, |protocol| forms.of(protocol)) {
                due.push(Arc::clone(subscriber));
            }
        });
        if self.unsent >= MAX_UNSENT {
            self.send_due();
        }
    }

    /// Gives subscribers what was put into their queues.
    fn send_due(&mut self) {
        let now = Instant::now();
        for subscriber in self.due.drain(..) {
            subscriber.send(&mut self.piece, now);
        }
        self.unsent = 0;
    }

    fn next_sent(&mut self) -> Result<&Sent, End> {
        if self.sent.is_empty() {
            self.connection.pipeline.take_written(&mut self.sent);
        }
        self.sent.front().ok_or_else(unexpected)
    }

    /// Takes a confirmation; returns whether it is the last of its command.
    fn confirm(&mut self, of: Subscription, is_more: bool) -> Result<bool, End> {
        let count = match self.next_sent()? {
            Sent::Subscribe { kind, count, .. } if is_more && *kind == of => *count,
            Sent::Unsubscribe { kind, count } if !is_more && *kind == of => *count,
            // A node of a Cluster ends subscriptions to shards that it gives away.
            _ => return Err(unexpected()),
        };
        self.confirmed += 1;
        let is_last = self.confirmed == count;
        if is_last {
            self.end_command();
        }
        Ok(is_last)
    }

    /// Takes a reply that answers a command as a whole.
    fn reply(&mut self, reply: &[u8]) -> Result<bool, End> {
        match self.next_sent()? {
            Sent::Subscribe { request, .. } if reply.starts_with(b"-") => request.refuse(reply),
            Sent::Subscribe { .. } => return Err(unexpected()),
            // Where we may not unsubscribe, or PING, nothing follows from that.
            Sent::Unsubscribe { .. } | Sent::Ping => {}
        }
        self.end_command();
        Ok(true)
    }

    fn end_command(&mut self) {
        self.confirmed = 0;
        if let Some(Sent::Subscribe { request, is_last: true, .. }) = self.sent.pop_front() {
            self.connection.answered(&request);
        }
    }

    /// Does what is due now and then.
    fn look_around(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_at) < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked_at = now;
        let (timeouts, connection) = (&self.backend.timeouts, self.connection);
        if self.backend.times_closed() != self.times_closed {
            return Err(End::Lost("connections to it may lead elsewhere".to_owned()));
        }
        let is_idle = connection.pipeline.is_idle();
        let quiet = now.saturating_duration_since(self.quiet_since);
        let is_in_doubt = !timeouts.supervisor.is_up();
        if is_idle && (is_in_doubt || quiet >= timeouts.timeout() / PINGS_IN_TIMEOUT) {
            connection.ping();
            self.asked_since = Some(now);
        } else if is_idle {
            self.asked_since = None;
        }
        let asked_since = *self.asked_since.get_or_insert(now);
        let silent = now.saturating_duration_since(self.quiet_since.max(asked_since));
        let age = now.saturating_duration_since(connection.since);
        if let Some(error) = timeouts.supervisor.subscribers_leave(silent, age) {
            return Err(End::Left(error));
        }
        self.end_if_unused(now)
    }

    fn end_if_unused(&mut self, now: Instant) -> Result<(), End> {
        if !self.connection.is_unused() {
            self.used_at = now;
        }
        let is_long = now.saturating_duration_since(self.used_at) > MAX_IDLE_TIME;
        if is_long && self.connection.end_if_unused() { Err(End::Idle) } else { Ok(()) }
    }
}

fn unexpected() -> End {
    End::Lost("a reply that nobody asked for, or none of a subscription".to_owned())
}
