//! Bytes of an answer that the client's socket has not taken yet.
//!
//! A backend's connection, and the reply that the backend holds for it, must not wait for a client that reads
//! slowly or not at all. So the reply is read as fast as the backend sends it; what the client's socket does not
//! take at once is kept here. It counts in the memory of the client, and the client takes it at its own pace after
//! the connection has gone back to the pool.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::{NOT_READING, is_too_slow, too_slow};
use crate::memory::{OutOfMemory, Share};
use crate::net::client_stream::ClientStream;

/// Most bytes that are kept of one client's answer. A client that leaves more than this holds up the
/// connection of its backend, and is cut off when others wait for that. Long values are seldom longer, and a
/// few clients alone don't use up the usual memory budget.
pub const MAX_SPOOLED_BYTES: usize = 64 * 1024 * 1024;

/// Size of a piece in which bytes are kept: memory is taken as they come, and given back as they go.
const PIECE_BYTES: usize = 64 * 1024;

/// Bytes that a client has still to take.
pub(super) struct Spool<'a> {
    pieces: VecDeque<Vec<u8>>,
    /// Number of bytes of the first piece that the client has taken.
    start: usize,
    /// Number of bytes that the client has still to take.
    length: usize,
    share: Share<'a>,
    began: Instant,
    /// Number of bytes that the client has taken since then.
    taken: u64,
    /// When it has taken some last.
    taken_at: Instant,
}

impl<'a> Spool<'a> {
    /// An empty one, whose memory is counted in this share.
    pub fn new(share: Share<'a>) -> Self {
        let now = Instant::now();
        let pieces = VecDeque::new();
        Self { pieces, start: 0, length: 0, share, began: now, taken: 0, taken_at: now }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Keeps bytes after those that are there.
    ///
    /// # Errors
    /// When all clients together hold too much, and this one the most.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), OutOfMemory> {
        while !bytes.is_empty() {
            let room = self.pieces.back().map_or(0, |last| PIECE_BYTES - last.len());
            let (now, later) = bytes.split_at(bytes.len().min(room));
            match self.pieces.back_mut() {
                Some(last) if room > 0 => last.extend_from_slice(now),
                _ => {
                    self.share.set((self.pieces.len() + 1) * PIECE_BYTES)?;
                    self.pieces.push_back(Vec::with_capacity(PIECE_BYTES));
                }
            }
            self.length += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Gives the client what it takes at once.
    pub fn send(&mut self, client: &ClientStream) -> io::Result<()> {
        while let Some(first) = self.pieces.front() {
            let sent = client.send_now(&first[self.start..])?;
            if sent == 0 {
                return Ok(());
            }
            self.start += sent;
            self.length -= sent;
            self.taken += sent as u64;
            self.taken_at = Instant::now();
            if self.start == first.len() {
                self.start = 0;
                self.pieces.pop_front();
                self.share.set(self.pieces.len() * PIECE_BYTES).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// How long the client has taken nothing.
    pub fn nothing_taken_for(&self) -> Duration {
        self.taken_at.elapsed()
    }

    /// Fails if the client takes nothing for its timeout, or too little over a longer time.
    pub fn check_pace(&self, timeout: Duration) -> io::Result<()> {
        if self.nothing_taken_for() >= timeout {
            return Err(io::Error::new(io::ErrorKind::TimedOut, NOT_READING));
        }
        if is_too_slow(self.taken, self.began.elapsed(), timeout) {
            Err(too_slow())
        } else {
            Ok(())
        }
    }
}
