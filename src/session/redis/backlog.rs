//! What a Redis client sends while it takes no replies.

use std::io;
use std::time::{Duration, Instant};

use crate::memory::{self, Share};
use crate::net::client_stream::ClientStream;

/// How many bytes are read at a time.
const STEP_BYTES: usize = 64 * 1024;

/// Time after which a client is closed that takes no reply while no more may be read of it. It would wait for us
/// for as long as we wait for it.
const MAX_DEADLOCK: Duration = Duration::from_secs(3);

/// Bytes of a client that wait for it to take its replies. A client that sends a long pipeline before it reads a reply
/// would else wait for us while we wait for it.
pub struct Backlog<'a> {
    bytes: Vec<u8>,
    /// Number of bytes that are read while the client takes no replies (`--client-backlog`).
    max_bytes: usize,
    /// Number of these bytes, and of those that were moved last.
    taken_in: usize,
    share: Share<'a>,
    /// Whether the client has shut down its sending side: nothing more will come from it.
    pub is_half_closed: bool,
}

impl<'a> Backlog<'a> {
    pub fn new(max_bytes: usize, share: Share<'a>) -> Self {
        Self { bytes: Vec::new(), max_bytes, taken_in: 0, share, is_half_closed: false }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether more can come, and be read.
    pub fn is_open(&self) -> bool {
        !self.is_half_closed && self.taken_in < self.max_bytes
    }

    /// Reads what has come. `others` is what the client holds beside these bytes: the replies that it does not take.
    pub fn fill_from(&mut self, client: &ClientStream, others: usize) -> io::Result<()> {
        self.bytes.reserve(STEP_BYTES);
        self.hold(others)?;
        match client.read_now(&mut self.bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(0) => self.is_half_closed = true,
            read => self.taken_in += read?,
        }
        Ok(())
    }

    /// Counts what the client holds while it takes no replies: `others`, and these bytes.
    pub fn hold(&mut self, others: usize) -> io::Result<()> {
        Ok(self.share.set(self.bytes.capacity() + others)?)
    }

    /// Returns the error for a client that has taken nothing since `since`, waits for us to read more, and may not
    /// send more.
    pub fn check_deadlock(&self, client: &ClientStream, since: Instant) -> io::Result<()> {
        let is_full = !self.is_half_closed && self.taken_in >= self.max_bytes;
        if !is_full || since.elapsed() < MAX_DEADLOCK || client.arrived_bytes() == 0 {
            return Ok(());
        }
        let sent = memory::size(self.taken_in);
        let why = format!("takes no replies, and has sent {sent} since (--client-backlog)");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// The client has taken all replies: it holds no more than these bytes.
    pub fn release_others(&mut self) {
        // Less is never refused.
        let _ = self.hold(0);
    }

    /// Moves all to the end of `input`. Returns false when that is nothing.
    pub fn move_to(&mut self, input: &mut Vec<u8>) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        self.taken_in = bytes.len();
        let is_more = !bytes.is_empty();
        match input.is_empty() {
            true if is_more => *input = bytes,
            _ => input.extend_from_slice(&bytes),
        }
        is_more
    }
}
