//! What a client of the Redis protocol is given: replies are gathered and sent many at a time.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::time::Duration;

use super::backlog::Backlog;
use super::batch::IDLE_CAPACITY_BYTES;
use super::replies::{ForwardError, Given, Tried, UNWANTED_PUSH, witness};
use crate::backend::{Backend, HELD_REPLY_BYTES, PooledConnection, inability, said};
use crate::metrics::{CommandId, Completion, Outcome, Refusal};
use crate::net::protocol::WireProtocol;
use crate::policy::scripts;
use crate::resp::{self, Framer};
use crate::session::client::{Client, MAX_SPOOLED_BYTES, check_stall, stall_step};

/// Beginning of the error of a server that has no script with a digest.
const NO_SCRIPT: &str = "NOSCRIPT ";

/// Number of bytes of whole replies that are sent at once, also while there is more to do.
pub const GATHERED_BYTES: usize = 64 * 1024;

/// The replies on their way to a client.
pub struct ReplyWriter<'a> {
    pub client: Client<'a>,
    /// A client that takes longer over [`GATHERED_BYTES`] is cut off if others wait for a connection
    /// to the backend whose reply it does not take.
    pub max_stall: Duration,
    /// Replies that the client was given so far.
    pub given: Given,
    /// Bytes that were not sent yet: whole replies, and after them perhaps the beginning of one.
    pub out: Vec<u8>,
    pub backlog: Backlog<'a>,
}

impl ReplyWriter<'_> {
    /// Counts a command that is over. A backend that answered it comes with the time until its reply
    /// began, which counts for `command`.
    pub fn complete(
        &self,
        command: CommandId,
        answered_by: Option<(&Backend, Duration)>,
        outcome: Outcome,
    ) {
        let (backend, time) = answered_by.unzip();
        self.client.balancer.metrics.complete(&Completion {
            protocol: WireProtocol::Resp,
            command,
            status: None,
            backend: backend.map(|backend| &backend.metrics),
            count: 1,
            time: time.unwrap_or_default(),
            outcome,
        });
    }

    /// Counts a command that gets an error of ours.
    pub fn count_refusal(&mut self, why: Refusal) {
        self.given.errors += 1;
        self.complete(CommandId::default(), None, Outcome::Refused(why));
    }

    /// Sends what is gathered when that is much, while we may hold a connection that others may want.
    pub fn deliver_if_full(&mut self, held: Option<&PooledConnection>) -> Tried {
        if !self.is_full() {
            return Ok(());
        }
        match held {
            Some(connection) => self.deliver_beside(connection),
            None => self.deliver(),
        }
        .map_err(ForwardError::Client)
    }

    /// Whether there is much to send.
    pub fn is_full(&self) -> bool {
        self.out.len() >= GATHERED_BYTES
    }

    /// Takes the next reply in, to be sent with others; or reads it only, where it `is_silent`. One
    /// that is long is sent meanwhile.
    pub fn relay(&mut self, connection: &mut PooledConnection, is_silent: bool) -> Tried<Relayed> {
        self.relay_watched(connection, is_silent, true, |_| {})
    }

    /// Takes in the reply to a script, which `command` has called and with which nothing else is
    /// under way. A script can return any error: one that says that the server can't answer is
    /// believed when the server says so to a script that does nothing, too.
    pub fn relay_from_script(
        &mut self,
        connection: &mut PooledConnection,
        is_silent: bool,
        command: &[u8],
    ) -> Tried<Relayed> {
        let mut command = Cow::Borrowed(command);
        let mut was_repeated = false;
        loop {
            let (start, given) = (self.out.len(), self.given);
            let mut reply = Vec::new();
            let passed = self.relay_watched(connection, is_silent, false, |piece| {
                let is_error = reply.first().or(piece.first()) == Some(&b'-');
                reply.extend_from_slice(if is_error { piece } else { &[] });
            })?;
            let error = said(&reply).filter(|_| passed == Relayed::Error).unwrap_or_default();
            if is_lacking(&error, &command) {
                self.out.truncate(start);
                self.given = given;
                let whole = self.client.balancer.scripts.whole(&command);
                command = Cow::Owned(whole.ok_or(ForwardError::NoScript(error))?);
                connection.send(&command)?;
                continue;
            }
            let Some(claimed) = inability(&error) else { return Ok(passed) };
            self.out.truncate(start);
            self.given = given;
            let is_confirmed = witness(connection, &command, claimed)?;
            if is_confirmed {
                connection.check_answer(&reply)?;
            }
            // All servers refuse it. Or the script has made it up: it may have been true a moment ago,
            // but asked again, only a script says so again.
            if is_confirmed || was_repeated {
                if !is_silent {
                    self.out.extend_from_slice(&reply);
                }
                self.given.errors += 1;
                return Ok(passed);
            }
            connection.send(&command)?;
            was_repeated = true;
        }
    }

    /// Takes the next reply in, as [`relay`](Self::relay) does, and shows `look` each piece of it. An error is the
    /// client's unless `is_checked`.
    pub fn relay_watched(
        &mut self,
        connection: &mut PooledConnection,
        is_silent: bool,
        is_checked: bool,
        look: impl FnMut(&[u8]),
    ) -> Tried<Relayed> {
        let start = self.out.len();
        let mut frame = ReplyInFlight { start, is_silent, is_checked, passed: Relayed::Whole };
        let passed = self.relay_frame(connection, &mut frame, look);
        // The client has got, or was about to get, some of it.
        let is_partly_sent = frame.passed == Relayed::InPieces && !is_silent;
        if is_silent || (passed.is_err() && !is_partly_sent) {
            self.out.truncate(frame.start);
        }
        passed.map_err(|failure| match failure {
            ForwardError::Backend(error) if is_partly_sent => ForwardError::Cut(error),
            failure => failure,
        })?;
        Ok(frame.passed)
    }

    fn relay_frame(
        &mut self,
        connection: &mut PooledConnection,
        frame: &mut ReplyInFlight,
        mut look: impl FnMut(&[u8]),
    ) -> Tried {
        let mut framer = Framer::new();
        loop {
            let from = connection.replies();
            let available = from.fill_buf()?;
            if available.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let used = framer.feed(available)?;
            if framer.kind() == Some(b'>') {
                return Err(resp::Error::Protocol(UNWANTED_PUSH).into());
            }
            look(&available[..used]);
            self.out.extend_from_slice(&available[..used]);
            from.consume(used);
            self.given.bytes += if frame.is_silent { 0 } else { used as u64 };
            if framer.is_done() {
                if let (Some(b'-'), Relayed::Whole) = (framer.kind(), frame.passed) {
                    if frame.is_checked {
                        connection.check_answer(&self.out[frame.start..])?;
                    }
                    frame.passed = Relayed::Error;
                    self.given.errors += 1;
                }
                return Ok(());
            }
            if self.out.len() - frame.start > HELD_REPLY_BYTES {
                // Room for the rest of a long reply.
                frame.passed = Relayed::InPieces;
                if frame.is_silent {
                    self.out.truncate(frame.start);
                } else {
                    frame.start = 0;
                    self.deliver_beside(connection).map_err(ForwardError::Client)?;
                }
            }
        }
    }

    /// Whether the client has all replies so far.
    pub fn is_delivered(&self) -> bool {
        self.out.is_empty() && !self.client.is_behind()
    }

    /// Sends all that is gathered, and waits until the client has taken it.
    pub fn deliver(&mut self) -> io::Result<()> {
        self.send_or_keep()?;
        self.wait_until_taken()
    }

    /// Waits until the client has taken what was kept for it.
    pub fn wait_until_taken(&mut self) -> io::Result<()> {
        self.wait_until_kept(0, || false)
    }

    /// Sends all that is gathered while this connection is held, which waits for no client: what the client
    /// does not take is kept, unless that is too much.
    fn deliver_beside(&mut self, held: &PooledConnection) -> io::Result<()> {
        self.send_or_keep()?;
        self.wait_until_kept(MAX_SPOOLED_BYTES, || held.is_wanted())
    }

    fn send_or_keep(&mut self) -> io::Result<()> {
        self.client.send_or_keep(&self.out)?;
        self.out.clear();
        self.out.shrink_to(IDLE_CAPACITY_BYTES);
        Ok(())
    }

    /// Waits until at most `max` bytes are kept for the client. Once others want what we hold meanwhile
    /// (`is_wanted`), the client has to take some at once. What it sends is taken in.
    fn wait_until_kept(&mut self, max: usize, is_wanted: impl Fn() -> bool) -> io::Result<()> {
        let Self { client, backlog, max_stall, .. } = self;
        let step = stall_step(*max_stall);
        client.wait_until_kept(max, |stream, stall| {
            check_stall(stall.time, *max_stall, &is_wanted)?;
            backlog.check_deadlock(stream, stall.nothing_taken_for)?;
            if !backlog.is_open() {
                return stream.wait_for_room(step);
            }
            match stream.wait_for_room_or_input(step)? {
                true => backlog.fill_from(stream),
                false => Ok(()),
            }
        })
    }
}

/// Whether an error says that the server lacks the script that the command names. What a script says that was sent
/// whole is its own.
fn is_lacking(error: &str, command: &[u8]) -> bool {
    error.starts_with(NO_SCRIPT) && scripts::names_digest(command)
}

/// A reply that is being passed on.
struct ReplyInFlight {
    /// Where in what is not sent yet it begins.
    start: usize,
    is_silent: bool,
    /// Whether an error may be a server's failure to answer.
    is_checked: bool,
    passed: Relayed,
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
