//! What a client sends while it does not take its replies.

use std::io;

use super::memory::{Budget, Share};
use crate::net::client_stream::ClientStream;

/// Number of bytes that are taken in of one client while it takes no replies. A client that sends a long
/// pipeline before it reads a reply would else wait for us while we wait for it.
const MAX_BACKLOG_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that are taken in of all clients together. Beyond, a client has to read first.
static BACKLOGS: Budget = Budget::new(48 * 1024 * 1024);

/// How much of it is read at a time.
const BACKLOG_STEP_BYTES: usize = 64 * 1024;

/// Bytes of a client that wait for it to take its replies.
pub struct Backlog {
    bytes: Vec<u8>,
    /// These bytes, and those that were moved last.
    share: Share,
}

impl Backlog {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), share: Share::of(&BACKLOGS) }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn has_room(&self) -> bool {
        self.share.bytes() < MAX_BACKLOG_BYTES && BACKLOGS.has_room()
    }

    /// Returns whether the client has ended its endpoint.
    pub fn fill_from(&mut self, client: &ClientStream) -> io::Result<bool> {
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

    pub fn move_to(&mut self, input: &mut Vec<u8>) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        self.share.set(bytes.len());
        input.extend_from_slice(&bytes);
        !bytes.is_empty()
    }
}
