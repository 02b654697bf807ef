//! A connection to a backend, and what is sent and read on it.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::BackendError;
use super::socket::{PatientSocket, Timeouts, WaitPolicy};
use crate::net::backend_stream::BackendStream;
use crate::resp::{Framer, command, reply};

/// A connection is kept for so long without being looked at before it is used again.
const UNWATCHED_TIME: Duration = Duration::from_millis(1);

/// Whoever has waited for a connection for long has at least so long for the reply.
const MIN_PATIENCE: Duration = Duration::from_millis(50);

/// What one connection reads from a backend at a time.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// A connection to a backend, set up (`AUTH`, `SELECT`, `HELLO`) and with finite timeouts.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<PatientSocket>,
    /// How long it may usually be silent.
    timeout: Duration,
    run_id: Option<Arc<str>>,
    /// The version of its backend's commands that its server knows.
    commands_version: u64,
    /// When it was kept for another request.
    kept_at: Instant,
}

impl Connection {
    /// Over this stream; nothing is set up yet.
    pub fn new(stream: BackendStream, timeouts: &Arc<Timeouts>, wait_policy: WaitPolicy) -> Self {
        let socket = PatientSocket::new(stream, Arc::clone(timeouts), wait_policy);
        let reader = BufReader::with_capacity(READ_BUFFER_BYTES, socket);
        Self {
            reader,
            timeout: timeouts.timeout,
            run_id: None,
            commands_version: 0,
            kept_at: Instant::now(),
        }
    }

    /// What its server calls itself; `None` where its user may not ask.
    pub fn run_id(&self) -> Option<&Arc<str>> {
        self.run_id.as_ref()
    }

    /// Remembers which server this leads to.
    pub fn set_run_id(&mut self, run_id: Option<Arc<str>>) {
        self.run_id = run_id;
    }

    /// The version of its backend's commands that its server knows.
    pub fn commands_version(&self) -> u64 {
        self.commands_version
    }

    /// Remembers which version of its backend's commands its server knows.
    pub fn set_commands_version(&mut self, version: u64) {
        self.commands_version = version;
    }

    /// How it waits from now on; `waited` of its usual timeout is over already.
    pub fn set_wait_policy(&mut self, wait_policy: WaitPolicy, waited: Duration) {
        let socket = self.reader.get_mut();
        socket.set_wait_policy(wait_policy);
        let usual = socket.usual_timeout();
        self.timeout = usual.saturating_sub(waited).max(MIN_PATIENCE.min(usual));
    }

    /// Finds out, within its usual timeout, whether the backend answers at all.
    pub fn probe(&mut self) -> Result<(), BackendError> {
        let wait_policy = self.reader.get_ref().wait_policy();
        self.set_wait_policy(WaitPolicy::Probe(Instant::now() + self.timeout), Duration::ZERO);
        let sent = self.send(&command("PING").into_bytes());
        let answered = sent.and_then(|()| Ok(reply::simple(&mut self.reader)?));
        self.set_wait_policy(wait_policy, Duration::ZERO);
        match answered {
            // Whatever it says, it speaks.
            Ok(_) | Err(BackendError::Redis(_)) => Ok(()),
            Err(error) => Err(error.of_probe()),
        }
    }

    /// Sends `commands` and waits for the first byte of the reply.
    pub fn send(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        let socket = self.reader.get_mut();
        socket.expect_silence(self.timeout)?;
        if let Some(open) = socket.open_read() {
            open.note_sent();
        }
        socket.write_all(commands)?;
        self.next_byte().map(|_| ())
    }

    /// Its stream, for those who wait in their own way.
    pub fn stream(&self) -> &Arc<BackendStream> {
        self.reader.get_ref().stream()
    }

    /// It is kept for another request: the one before has been answered.
    pub fn rest(&mut self) {
        self.reader.get_mut().set_wait_policy(WaitPolicy::QUICK);
        self.kept_at = Instant::now();
    }

    /// Whether it has ended, or brought what nobody asked for, while it was kept. One that is used
    /// all the time is not looked at: that costs a system call.
    pub fn is_spoilt(&self) -> bool {
        self.kept_at.elapsed() > UNWATCHED_TIME && self.stream().has_input()
    }

    /// The replies, as they arrive.
    pub fn replies(&mut self) -> &mut impl BufRead {
        &mut self.reader
    }

    /// Waits for the first byte of the next frame, and leaves it there.
    pub fn next_byte(&mut self) -> Result<u8, BackendError> {
        let next = self.reader.fill_buf()?.first().copied();
        next.ok_or_else(|| BackendError::Lost(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Whether there are bytes that were received and not read yet.
    pub fn has_buffered(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Reads one reply into `held`, as raw bytes, while it is at most `max` bytes long. False when
    /// it is longer: then its beginning is in `held`, and the rest is still to be read.
    pub fn hold(&mut self, held: &mut Vec<u8>, max: usize) -> Result<bool, BackendError> {
        let mut framer = Framer::new();
        while !framer.is_done() {
            if held.len() > max {
                return Ok(false);
            }
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let used = framer.feed(available)?;
            held.extend_from_slice(&available[..used]);
            self.reader.consume(used);
        }
        Ok(true)
    }
}
