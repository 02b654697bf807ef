//! A connection to a backend, alone and on loan from the pool.
//!
//! A connection may have ended while it lay in the pool: its server was restarted, closed it after its
//! `timeout`, or a router in between forgot it. Such a stale connection says nothing of the backend now, and
//! it shows only when something is sent on it. So a connection that is lost within [`STALE_TIME`] of the
//! first byte is replaced by a new one, once, and no failure is counted: the same command is sent again. When
//! one is stale, the others of the pool are as well, so all are closed. Three rules keep that safe: only an
//! idle connection can be stale; one that has just answered a probe is not; and a connection that is lost
//! later than that may have died of the command, which then counts as the backend's failure.

use std::io::{self, BufRead, BufReader, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{BackendError, is_timeout};
use super::large_values::Turn;
use super::pool::{MAX_PINNED_PERCENT, MAX_WAITING_PERCENT, Permit};
use super::socket::{BackendSocket, Timeouts, WaitPolicy};
use super::stranger::Stranger;
use super::{Mode, unable};
use crate::net::backend_stream::BackendStream;
use crate::net::tls::TlsError;
use crate::render::json::Survey;
use crate::resp::{CommandBuilder, Framer, command, reply};

/// Time after a send within which the loss of an idle connection means that it had ended before. Later,
/// the server may have died of the command.
pub(crate) const STALE_TIME: Duration = Duration::from_millis(20);

/// Time for which a connection may lie idle without being looked at before it is used again.
const UNWATCHED_TIME: Duration = Duration::from_millis(1);

/// Least time for a reply, also after a long wait for the connection.
const MIN_REPLY_TIME: Duration = Duration::from_millis(50);

/// Most bytes that one connection reads from a backend at a time.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// A connection to a backend, set up (`AUTH`, `SELECT`, `HELLO`) and with finite timeouts.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<BackendSocket>,
    /// How long the backend may usually be silent here.
    timeout: Duration,
    /// The `run_id` of its server; `None` where our user may not ask.
    pub(crate) run_id: Option<Arc<str>>,
    /// The version of its backend's commands that its server knows.
    pub(crate) commands_version: u64,
    /// When it became idle.
    kept_at: Instant,
}

impl Connection {
    /// Wraps a stream on which nothing is set up yet.
    pub(super) fn new(
        stream: BackendStream,
        timeouts: &Arc<Timeouts>,
        wait_policy: WaitPolicy,
    ) -> Self {
        let socket = BackendSocket::new(stream, Arc::clone(timeouts), wait_policy);
        Self {
            reader: BufReader::with_capacity(READ_BUFFER_BYTES, socket),
            timeout: timeouts.timeout(),
            run_id: None,
            commands_version: 0,
            kept_at: Instant::now(),
        }
    }

    /// Sets how it waits from now on; `waited` of its usual timeout is over already.
    pub fn set_wait_policy(&mut self, wait_policy: WaitPolicy, waited: Duration) {
        let socket = self.reader.get_mut();
        socket.wait_policy = wait_policy;
        let usual = socket.timeouts.timeout();
        self.timeout = usual.saturating_sub(waited).max(MIN_REPLY_TIME.min(usual));
    }

    /// Finds out, within its usual timeout, whether the backend answers at all.
    pub(super) fn probe(&mut self) -> Result<(), BackendError> {
        let wait_policy = self.reader.get_ref().wait_policy.clone();
        self.set_wait_policy(WaitPolicy::Probe(Instant::now() + self.timeout), Duration::ZERO);
        let answered = self.ask(command("PING"));
        self.set_wait_policy(wait_policy, Duration::ZERO);
        match answered {
            // An error is an answer, too.
            Ok(_) | Err(BackendError::Redis(_)) => Ok(()),
            Err(error) => Err(error.of_probe()),
        }
    }

    /// Sends one command whose reply is a short text, and returns that.
    pub(super) fn ask(&mut self, command: CommandBuilder) -> Result<String, BackendError> {
        self.send(&command.into_bytes())?;
        Ok(reply::simple(&mut self.reader)?)
    }

    /// Sends `commands` and waits for the first byte of the reply.
    pub fn send(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        self.reader.get_mut().expect_reply(self.timeout)?;
        self.write(commands)
    }

    /// Sends one command whose reply may come much later, and waits for nothing.
    pub fn post(&mut self, command: &[u8]) -> Result<(), BackendError> {
        let socket = self.reader.get_mut();
        socket.expect_reply(self.timeout)?;
        match socket.write_all(command) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// Like [`send`](Self::send), for the next commands of a read that can't do without the replies before: the
    /// time of a quick read runs on.
    pub fn send_next(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        self.reader.get_mut().expect_next_reply(self.timeout)?;
        self.write(commands)
    }

    fn write(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        if let Err(error) = self.reader.get_mut().write_all(commands) {
            return Err(self.refusal(error));
        }
        self.next_byte().map(|_| ())
    }

    /// Returns why the server has ended a connection on which no more can be sent. It refuses our certificate only after
    /// the handshake (TLS 1.3), when we may be sending already.
    fn refusal(&mut self, error: io::Error) -> BackendError {
        if is_timeout(&error) || self.stream().tls().is_none() {
            return error.into();
        }
        match self.reader.fill_buf() {
            Err(refusal) if TlsError::of(&refusal).is_some() => refusal.into(),
            _ => error.into(),
        }
    }

    /// Returns its stream, for threads that wait in their own way.
    pub fn stream(&self) -> &Arc<BackendStream> {
        &self.reader.get_ref().stream
    }

    /// Prepares it to lie idle: all of its replies have been read.
    pub(crate) fn rest(&mut self) {
        self.reader.get_mut().wait_policy = WaitPolicy::QUICK;
        self.kept_at = Instant::now();
    }

    /// Returns whether it ended, or brought unexpected bytes, while it was idle. One that is used all the
    /// time is not looked at: that costs a system call.
    pub(super) fn is_spoilt(&self) -> bool {
        self.kept_at.elapsed() > UNWATCHED_TIME && self.stream().has_input()
    }

    /// Returns the replies as they arrive.
    pub fn replies(&mut self) -> &mut impl BufRead {
        &mut self.reader
    }

    /// Waits for the first byte of the next frame, and leaves it there.
    pub fn next_byte(&mut self) -> Result<u8, BackendError> {
        let next = self.reader.fill_buf()?.first().copied();
        next.ok_or_else(|| BackendError::Lost(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Fails if the answer that has begun is none of a Redis server: `kinds` are the first bytes of the replies that the
    /// first command may have.
    pub(super) fn expect_redis(&self, kinds: &[u8]) -> Result<(), BackendError> {
        Stranger::of(self.reader.buffer(), kinds)
            .map_or(Ok(()), |stranger| Err(BackendError::Stranger(stranger)))
    }

    /// Returns whether there are bytes that were received and not read yet.
    pub fn has_buffered(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Reads one reply into `held`, as raw bytes, while it is at most `max` bytes long. Returns false if
    /// it is longer: then its beginning is in `held`, and the rest is still to be read.
    pub fn hold(&mut self, held: &mut Vec<u8>, max: usize) -> Result<bool, BackendError> {
        let mut framer = Framer::new();
        while !framer.is_done() {
            if held.len() > max {
                return Ok(false);
            }
            self.next_byte()?;
            let available = self.reader.buffer();
            let used = framer.feed(available)?;
            held.extend_from_slice(&available[..used]);
            self.reader.consume(used);
        }
        Ok(true)
    }

    /// Fails if a whole reply is no answer, so that another server has to be asked.
    ///
    /// # Errors
    /// With the server's words, if it can't answer at all, or if it refuses this request and others may not.
    pub fn check_answer(&self, reply: &[u8]) -> Result<(), BackendError> {
        unable::check_answer(reply, &*self.reader.get_ref().timeouts.supervisor)
    }
}

/// A connection to a backend that one client uses, with its place in the pool.
#[derive(Debug)]
pub struct PooledConnection {
    pub(super) connection: Connection,
    /// The mode that it is set up for. Code that changes the mode on the connection changes it here.
    pub(crate) mode: Mode,
    pub(super) permit: Permit<Mode, Connection>,
    /// Its client's turn at a large value, until the reply has been read whole.
    pub(crate) turn: Option<Turn<Survey>>,
}

impl PooledConnection {
    /// Prepares it to wait as `wait_policy` says, if the commands may be sent on it; else keeps it.
    pub(super) fn prepared(
        mut self,
        wait_policy: &WaitPolicy,
        may_send: &impl Fn(&Connection) -> bool,
    ) -> Result<Self, BackendError> {
        if !may_send(&self) {
            self.keep();
            return Err(BackendError::OtherCommands);
        }
        let waited = self.permit.waited;
        self.set_wait_policy(wait_policy.clone(), waited);
        Ok(self)
    }

    /// Keeps it for the next request of its mode. All replies on it must have been read to the end;
    /// one with more bytes than that is closed.
    pub fn keep(mut self) {
        if !self.has_buffered() {
            self.rest();
            self.permit.give_back(self.mode, self.connection);
        }
    }

    /// Returns whether a client waits for a connection to its backend, or for the turn that this one has.
    pub fn is_wanted(&self) -> bool {
        self.permit.pool.counts().waiting > 0 || self.turn.as_ref().is_some_and(Turn::is_wanted)
    }

    /// Returns the error of one that can't be kept for as long as it is wanted.
    pub fn no_room(&self) -> BackendError {
        BackendError::NoConnection(self.permit.pool.max_open())
    }

    /// Makes it one client's own, or that of all subscribers, for as long as they like; false when too many are.
    pub fn pin(&mut self) -> bool {
        self.set_wait_policy(WaitPolicy::QUICK, Duration::ZERO);
        self.permit.pin(MAX_PINNED_PERCENT)
    }

    /// Makes it one client's own while that waits for a reply which may come much later; false when too many are.
    pub fn pin_to_wait(&mut self) -> bool {
        self.set_wait_policy(WaitPolicy::QUICK, Duration::ZERO);
        self.permit.pin(MAX_WAITING_PERCENT)
    }
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
