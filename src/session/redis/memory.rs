//! Memory that Redis clients may hold beyond what each has anyway.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::net::client_stream::ClientStream;

/// Number of bytes that each buffer of a client keeps while it is idle.
pub const IDLE_CAPACITY_BYTES: usize = 1024;

/// A bound for all clients together.
pub struct Budget {
    max_bytes: usize,
    held_bytes: AtomicUsize,
}

impl Budget {
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes, held_bytes: AtomicUsize::new(0) }
    }

    /// Whether some of it is left.
    pub fn has_room(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) < self.max_bytes
    }
}

/// Part of a budget that one client holds, until it is dropped.
pub struct Share {
    budget: &'static Budget,
    /// How much it is.
    pub bytes: usize,
}

impl Share {
    pub fn of(budget: &'static Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Makes it this much, whether there is room or not.
    pub fn set(&mut self, bytes: usize) {
        self.budget.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

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
    /// Whether the client has shut down its sending side: nothing more will come from it.
    pub is_half_closed: bool,
}

impl Backlog {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), share: Share::of(&BACKLOGS), is_half_closed: false }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether more can come, and be taken in.
    pub fn is_open(&self) -> bool {
        !self.is_half_closed && self.share.bytes < MAX_BACKLOG_BYTES && BACKLOGS.has_room()
    }

    pub fn fill_from(&mut self, client: &ClientStream) -> io::Result<()> {
        self.bytes.reserve(BACKLOG_STEP_BYTES);
        match client.read_now(&mut self.bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(0) => self.is_half_closed = true,
            read => self.share.set(self.share.bytes + read?),
        }
        Ok(())
    }

    /// Moves all to the end of `input`. Returns false when that is nothing.
    pub fn move_to(&mut self, input: &mut Vec<u8>) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        self.share.set(bytes.len());
        input.extend_from_slice(&bytes);
        !bytes.is_empty()
    }
}

/// The most names that one client may have a server look out for: channels, patterns, or watched keys.
const MAX_NAMES: usize = 16 * 1024;

/// The most that they may take together.
const MAX_NAME_BYTES: usize = 1024 * 1024;

/// Whether a client that has the names `there` may have `more`.
pub fn have_room<'t, 'm>(
    there: impl IntoIterator<Item = &'t Vec<u8>>,
    more: impl IntoIterator<Item = &'m [u8]>,
) -> bool {
    let lengths = there.into_iter().map(Vec::len).chain(more.into_iter().map(<[u8]>::len));
    let (count, bytes) = lengths.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length));
    count <= MAX_NAMES && bytes <= MAX_NAME_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_number_and_in_bytes() {
        let name = b"n".to_vec();
        let long = vec![b'n'; MAX_NAME_BYTES];
        let names = |count| std::iter::repeat_n(&name, count);
        let more = |count| std::iter::repeat_n(&name[..], count);
        for (there, added, is_room) in [
            (0, MAX_NAMES, true),
            (0, MAX_NAMES + 1, false),
            (MAX_NAMES, 0, true),
            (MAX_NAMES - 1, 1, true),
            (MAX_NAMES, 1, false),
        ] {
            assert_eq!(have_room(names(there), more(added)), is_room, "{there} {added}");
        }
        assert!(have_room([], [&long[..]]));
        assert!(!have_room([&long], [&name[..]]));
        assert!(!have_room([], [&long[..], b"n"]));
        assert!(have_room([&long], [&b""[..]]));
    }
}
