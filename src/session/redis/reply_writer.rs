//! What a client of the Redis protocol is given: replies are gathered and sent many at a time.

use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::errors::ForwardError;
use super::memory::IDLE_CAPACITY_BYTES;
use super::replies::UNWANTED_PUSH;
use super::script::{self, Witness};
use crate::backend::{Backend, HELD_REPLY_BYTES, PooledConnection, inability, said};
use crate::metrics::{Completion, Outcome, Refusal};
use crate::net::protocol::WireProtocol;
use crate::resp::{self, Framer};
use crate::session::client::{Client, stall_step};

/// Number of bytes of whole replies that are sent at once, also while there is more to do.
const GATHERED_BYTES: usize = 64 * 1024;

const NOT_READING: &str = "does not read its replies";

/// Replies that a client was given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given {
    /// How many were errors.
    pub errors: u64,
    /// Length of those that count for a command of their own.
    pub bytes: u64,
}

/// The replies on their way to a client.
pub struct ReplyWriter<'a> {
    pub client: Client<'a>,
    /// A client that takes longer over [`GATHERED_BYTES`] is cut off if others wait for a connection
    /// to the backend whose reply it does not take.
    max_stall: Duration,
    /// Replies that the client was given so far.
    pub given: Given,
    /// Bytes that were not sent yet: whole replies, and after them perhaps the beginning of one.
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
            given: Given::default(),
            out: Vec::new(),
            backlog: Backlog::new(),
            is_half_closed: false,
        }
    }

    /// Counts a command that is over. A backend that answered it comes with the time until its reply
    /// began.
    pub fn complete(
        &self,
        what: &[u8],
        answered_by: Option<(&Backend, Duration)>,
        bytes: u64,
        outcome: Outcome,
    ) {
        let (backend, time) = answered_by.unzip();
        self.client.balancer.metrics.complete(&Completion {
            client: self.client.address,
            protocol: WireProtocol::Resp,
            what,
            backend: backend.map(|backend| &backend.metrics),
            count: 1,
            bytes,
            time: time.unwrap_or_default(),
            outcome,
        });
    }

    /// Counts a command that gets an error of ours.
    pub fn count_refusal(&mut self, what: &[u8], why: Refusal) {
        self.given.errors += 1;
        self.complete(what, None, 0, Outcome::Refused(why));
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

    /// Sends what is gathered when that is much, while we hold a connection that others may want.
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
            let (start, given) = (self.out.len(), self.given);
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
            self.given = given;
            let is_own = match script::witness(connection, command, claimed)? {
                Witness::Confirms => {
                    connection.refuser().check_answer(&reply)?;
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
                self.given.errors += 1;
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
            self.given.bytes += if frame.is_silent { 0 } else { used as u64 };
            if framer.is_done() {
                if let (Some(b'-'), Relayed::Whole) = (framer.kind(), frame.passed) {
                    let reply = &self.out[frame.start..];
                    match frame.check {
                        Check::Answer => connection.refuser().check_answer(reply)?,
                        Check::Server => connection.refuser().check_server(reply)?,
                        Check::None => {}
                    }
                    frame.passed = Relayed::Error;
                    self.given.errors += 1;
                }
                return Ok(());
            }
            if self.out.len() - frame.start > HELD_REPLY_BYTES {
                self.relay_piece(connection, frame)?;
            }
        }
    }

    /// Makes room after the beginning of a long reply.
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

    /// Sends all that is gathered. Once it may not stall (`may_stall`), the client has to take it at once.
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
        !self.backlog.is_empty()
    }

    /// Moves what the client sent while it took no replies to the end of `input`. Returns false when that
    /// is nothing.
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
    /// It was held until it was whole, and is an error.
    Error,
    /// It was too long for that.
    InPieces,
}
