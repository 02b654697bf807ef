//! What a client of the Redis protocol is given: replies are gathered and sent many at a time.

use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use super::memory::{Budget, Share};
use super::script::{self, Witness};
use super::{ForwardError, IDLE_CAPACITY_BYTES, UNWANTED_PUSH};
use crate::backend::{HELD_REPLY_BYTES, PooledConnection, check_server, inability, said};
use crate::metrics::Refusal;
use crate::net::client_stream::ClientStream;
use crate::net::protocol::WireProtocol;
use crate::resp::{self, Framer};
use crate::session::client::{Client, stall_step};

/// Whole replies are sent once there are so many bytes of them, or nothing else is to be done.
const GATHERED_BYTES: usize = 64 * 1024;

/// A client that sends a long pipeline before it reads a reply would wait for us while we wait for
/// it: so its commands are taken in while it takes no replies, up to so many bytes of one client, …
const MAX_BACKLOG_BYTES: usize = 16 * 1024 * 1024;
/// … and so many of all clients together. Beyond, it has to read first.
static BACKLOGS: Budget = Budget::new(48 * 1024 * 1024);

/// How much of it is read at a time.
const BACKLOG_STEP_BYTES: usize = 64 * 1024;

const NOT_READING: &str = "does not read its replies";

/// The replies on their way to a client.
pub struct ReplyWriter<'a> {
    pub client: Client<'a>,
    /// A client that takes longer over [`GATHERED_BYTES`] is cut off if others wait for a connection
    /// to the backend whose reply it does not take.
    max_stall: Duration,
    /// How many replies were errors.
    pub errors: u64,
    /// What was not sent yet: whole replies, and behind them perhaps the beginning of one.
    out: Vec<u8>,
    backlog: Backlog,
    /// Whether the client has ended its endpoint.
    is_half_closed: bool,
}

impl<'a> ReplyWriter<'a> {
    pub fn new(client: Client<'a>, max_stall: Duration) -> Self {
        Self {
            client,
            max_stall,
            errors: 0,
            out: Vec::new(),
            backlog: Backlog::new(),
            is_half_closed: false,
        }
    }

    /// Counts a command that gets an error of ours.
    pub fn count_refusal(&mut self, why: Refusal) {
        self.errors += 1;
        let metrics = &self.client.balancer.metrics;
        metrics.answered_here.resp.add_one();
        metrics.refuse(WireProtocol::Resp, why);
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Where a reply of our own is written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Sends what is gathered when that is much.
    pub fn deliver_if_full(&mut self) -> io::Result<()> {
        if self.is_full() { self.deliver() } else { Ok(()) }
    }

    /// The same while we hold a connection that others may want.
    pub fn deliver_if_full_beside(
        &mut self,
        connection: Option<&PooledConnection>,
    ) -> Result<(), ForwardError> {
        if !self.is_full() {
            return Ok(());
        }
        self.deliver_while(|| !connection.is_some_and(|connection| connection.is_wanted()))
            .map_err(ForwardError::Client)
    }

    /// Whether there is much to send.
    pub fn is_full(&self) -> bool {
        self.out.len() >= GATHERED_BYTES
    }

    /// Takes the next reply in, to be sent with others; or reads it only, where it `is_silent`. One
    /// that is long is sent meanwhile.
    pub fn relay(
        &mut self,
        connection: &mut PooledConnection,
        is_silent: bool,
    ) -> Result<Relayed, ForwardError> {
        self.relay_checked(connection, is_silent, Check::Answer, |_| {})
    }

    /// Takes the next message of a subscription in, as [`relay`](Self::relay) does a reply, and shows
    /// `look` each piece of it. What its server refuses, the client is told.
    pub fn relay_message(
        &mut self,
        connection: &mut PooledConnection,
        look: impl FnMut(&[u8]),
    ) -> Result<Relayed, ForwardError> {
        self.relay_checked(connection, false, Check::Server, look)
    }

    /// Takes in the reply to a script, which `command` has called and with which nothing else is
    /// under way. A script can return any error: one that says that the server can't answer is
    /// believed when the server says so to a script that does nothing, too.
    pub fn relay_from_script(
        &mut self,
        connection: &mut PooledConnection,
        is_silent: bool,
        command: &[u8],
    ) -> Result<Relayed, ForwardError> {
        let mut was_repeated = false;
        loop {
            let (start, errors) = (self.out.len(), self.errors);
            let mut reply = Vec::new();
            let passed = self.relay_checked(connection, is_silent, Check::None, |piece| {
                let is_error = reply.first().or(piece.first()) == Some(&b'-');
                reply.extend_from_slice(if is_error { piece } else { &[] });
            })?;
            let error = said(&reply).filter(|_| passed == Relayed::Error);
            let Some(claimed) = error.and_then(|error| inability(&error)) else {
                return Ok(passed);
            };
            self.out.truncate(start);
            self.errors = errors;
            let is_own = match script::witness(connection, command, claimed)? {
                Witness::Confirms => {
                    connection.check_answer(&reply)?;
                    // All servers refuse it.
                    true
                }
                // It may have been true a moment ago: asked again, only a script says so again.
                Witness::Denies => was_repeated,
            };
            if is_own {
                if !is_silent {
                    self.out.extend_from_slice(&reply);
                }
                self.errors += 1;
                return Ok(passed);
            }
            connection.send(command)?;
            was_repeated = true;
        }
    }

    fn relay_checked(
        &mut self,
        connection: &mut PooledConnection,
        is_silent: bool,
        check: Check,
        look: impl FnMut(&[u8]),
    ) -> Result<Relayed, ForwardError> {
        let start = self.out.len();
        let mut frame = ReplyInFlight { start, is_silent, check, passed: Relayed::Whole };
        let passed = self.relay_frame(connection, &mut frame, look);
        if is_silent || (passed.is_err() && !frame.is_partly_sent()) {
            self.out.truncate(frame.start);
        }
        passed.map_err(|failure| match failure {
            ForwardError::Backend(error) if frame.is_partly_sent() => ForwardError::Cut(error),
            failure => failure,
        })?;
        Ok(frame.passed)
    }

    fn relay_frame(
        &mut self,
        connection: &mut PooledConnection,
        frame: &mut ReplyInFlight,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), ForwardError> {
        let mut framer = Framer::new();
        loop {
            let from = connection.replies();
            let available = from.fill_buf()?;
            if available.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let used = framer.feed(available)?;
            // Only a subscription brings pushes.
            if framer.kind() == Some(b'>') && frame.check != Check::Server {
                return Err(resp::Error::Protocol(UNWANTED_PUSH).into());
            }
            look(&available[..used]);
            self.out.extend_from_slice(&available[..used]);
            from.consume(used);
            if framer.is_done() {
                if let (Some(b'-'), Relayed::Whole) = (framer.kind(), frame.passed) {
                    let reply = &self.out[frame.start..];
                    match frame.check {
                        Check::Answer => connection.check_answer(reply)?,
                        Check::Server => check_server(reply)?,
                        Check::None => {}
                    }
                    frame.passed = Relayed::Error;
                    self.errors += 1;
                }
                return Ok(());
            }
            if self.out.len() - frame.start > HELD_REPLY_BYTES {
                self.relay_piece(connection, frame)?;
            }
        }
    }

    /// Makes room behind the beginning of a long reply.
    fn relay_piece(
        &mut self,
        connection: &PooledConnection,
        frame: &mut ReplyInFlight,
    ) -> Result<(), ForwardError> {
        frame.passed = Relayed::InPieces;
        if frame.is_silent {
            self.out.truncate(frame.start);
            return Ok(());
        }
        frame.start = 0;
        self.deliver_while(|| !connection.is_wanted()).map_err(ForwardError::Client)
    }

    /// Sends all that is gathered. The client has to take it within its timeout.
    pub fn deliver(&mut self) -> io::Result<()> {
        self.deliver_while(|| true)
    }

    /// The same, but as soon as not `may_stall`, the client has to take it at once.
    fn deliver_while(&mut self, may_stall: impl Fn() -> bool) -> io::Result<()> {
        let mut sent = 0;
        let mut since: Option<Instant> = None;
        while sent < self.out.len() {
            let length = self.client.stream().send_now(&self.out[sent..])?;
            sent += length;
            if length == 0 {
                let stalled = since.get_or_insert_with(Instant::now).elapsed();
                let is_over = stalled >= self.client.idle_timeout;
                if is_over || (stalled >= self.max_stall && !may_stall()) {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, NOT_READING));
                }
                self.wait_for_room()?;
            }
        }
        self.out.clear();
        self.out.shrink_to(IDLE_CAPACITY_BYTES);
        Ok(())
    }

    /// Waits a moment for the client's socket to take more, and takes in what the client sends.
    fn wait_for_room(&mut self) -> io::Result<()> {
        let (stream, step) = (self.client.stream(), stall_step(self.max_stall));
        if self.is_half_closed || !self.backlog.has_room() {
            return stream.wait_for_room(step);
        }
        if stream.wait_for_room_or_input(step)? {
            self.is_half_closed = self.backlog.fill_from(stream)?;
        }
        Ok(())
    }

    /// Whether something was taken in while the client took no replies.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.bytes.is_empty()
    }

    /// What the client sent while it took no replies is moved behind what is left in `input`;
    /// false when that is nothing.
    pub fn take_backlog(&mut self, input: &mut Vec<u8>) -> bool {
        self.backlog.move_to(input)
    }

    /// Whether nothing more will come from the client.
    pub fn is_half_closed(&self) -> bool {
        self.is_half_closed
    }
}

/// A reply that is being passed on.
struct ReplyInFlight {
    /// Where in what is not sent yet it begins.
    start: usize,
    is_silent: bool,
    check: Check,
    passed: Relayed,
}

/// Which errors are a server's failure to answer, and no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Those of a server that can't answer anybody, or not this.
    Answer,
    /// Those of a server that can't answer anybody.
    Server,
    /// None.
    None,
}

impl ReplyInFlight {
    /// Whether the client has got, or was about to get, some of it.
    fn is_partly_sent(&self) -> bool {
        self.passed == Relayed::InPieces && !self.is_silent
    }
}

/// How a reply was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// It was held until it was whole.
    Whole,
    /// The same, and it is an error.
    Error,
    /// It was too long for that.
    InPieces,
}

/// Bytes of a client that wait for it to take its replies.
struct Backlog {
    bytes: Vec<u8>,
    /// These bytes, and those that were moved last.
    share: Share,
}

impl Backlog {
    fn new() -> Self {
        Self { bytes: Vec::new(), share: Share::of(&BACKLOGS) }
    }

    fn has_room(&self) -> bool {
        self.share.bytes() < MAX_BACKLOG_BYTES && BACKLOGS.has_room()
    }

    /// Returns whether the client has ended its endpoint.
    fn fill_from(&mut self, client: &ClientStream) -> io::Result<bool> {
        self.bytes.reserve(BACKLOG_STEP_BYTES);
        match client.read_now(&mut self.bytes) {
            Ok(more) => {
                self.share.set(self.share.bytes() + more);
                Ok(more == 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn move_to(&mut self, input: &mut Vec<u8>) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        self.share.set(bytes.len());
        input.extend_from_slice(&bytes);
        !bytes.is_empty()
    }
}
