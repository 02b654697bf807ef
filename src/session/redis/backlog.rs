//! What a Redis client sends while it takes no replies.

use std::io;
use std::time::Duration;

use crate::memory::Share;
use crate::net::client_stream::ClientStream;
use crate::session::client::make_room;
use crate::text::figures::size;

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
    /// Number of bytes that are read in any case: those of a transaction, which would be held all the same.
    pub min_bytes: usize,
    /// Number of these bytes, and of those that were moved last.
    taken_in: usize,
    share: Share<'a>,
    /// Whether the client has shut down its sending side: nothing more will come from it.
    pub is_half_closed: bool,
}

impl<'a> Backlog<'a> {
    pub fn new(max_bytes: usize, share: Share<'a>) -> Self {
        let (bytes, is_half_closed) = (Vec::new(), false);
        Self { bytes, max_bytes, min_bytes: 0, taken_in: 0, share, is_half_closed }
    }

    /// Whether bytes of the client, or its end, were taken in while it did not take its replies.
    pub fn has_taken_in(&self) -> bool {
        !self.bytes.is_empty() || self.is_half_closed
    }

    /// Whether more can come, and be read.
    pub fn is_open(&self) -> bool {
        !self.is_half_closed && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.taken_in >= self.max_bytes.max(self.min_bytes)
    }

    /// Reads what has come.
    pub fn fill_from(&mut self, client: &ClientStream) -> io::Result<()> {
        make_room(&mut self.bytes, STEP_BYTES);
        self.share.set(self.bytes.capacity())?;
        match client.read_now(&mut self.bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(0) => self.is_half_closed = true,
            read => self.taken_in += read?,
        }
        Ok(())
    }

    /// Returns the error for a client that has taken nothing for this time, waits for us to read more, and may not
    /// send more.
    pub fn check_deadlock(
        &self,
        client: &ClientStream,
        nothing_taken_for: Duration,
    ) -> io::Result<()> {
        let is_stuck = !self.is_half_closed && self.is_full();
        if !is_stuck || nothing_taken_for < MAX_DEADLOCK || client.arrived_bytes() == 0 {
            return Ok(());
        }
        let sent = size(self.taken_in as u64);
        let why = format!("takes no replies, and has sent {sent} since (--client-backlog)");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// Moves all to the end of `input`. Returns false when that is nothing.
    pub fn move_to(&mut self, input: &mut Vec<u8>) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        // The session counts them from now on.
        self.share.clear();
        self.taken_in = bytes.len();
        let is_more = !bytes.is_empty();
        match input.is_empty() {
            true if is_more => *input = bytes,
            _ => input.extend_from_slice(&bytes),
        }
        is_more
    }
}
