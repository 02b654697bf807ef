//! What is kept of one read, and until when it counts.

use std::hash::{Hash, Hasher};
use std::mem::size_of;

use quick_cache::Equivalent;

use super::position::Stamp;
use crate::resp::Protocol;

/// Most bytes of one entry with its key.
pub const MAX_ENTRY_BYTES: usize = 64 * 1024;

/// About what the store takes for an entry besides its bytes: its place in the tables, counts, and what the allocator
/// rounds up.
const OVERHEAD_BYTES: usize = 96;

/// The name of an entry: a read of one backend, in one database, as one tracker knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryKey {
    /// Number of the tracker.
    pub tracker: u64,
    /// Number of the command in the table of those that are cached.
    pub command: u8,
    /// The command's arguments, encoded as they are sent.
    pub args: Box<[u8]>,
}

/// An [`EntryKey`] whose bytes are elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct EntryRef<'a> {
    pub tracker: u64,
    pub command: u8,
    pub args: &'a [u8],
}

impl EntryRef<'_> {
    pub fn to_key(self) -> EntryKey {
        EntryKey { tracker: self.tracker, command: self.command, args: self.args.into() }
    }
}

impl EntryKey {
    fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { tracker: self.tracker, command: self.command, args: &self.args }
    }
}

impl Hash for EntryRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.tracker << 8 | u64::from(self.command));
        state.write(self.args);
    }
}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl Equivalent<EntryKey> for EntryRef<'_> {
    fn equivalent(&self, key: &EntryKey) -> bool {
        (self.tracker, self.command) == (key.tracker, key.command) && *self.args == *key.args
    }
}

/// A finished answer to an HTTP request for a value.
#[derive(Debug)]
pub struct Page {
    /// Status of the response.
    pub status: u16,
    /// Digest for its ETag, where it gets one.
    pub digest: Option<u64>,
    /// The body.
    pub body: Box<[u8]>,
}

/// What is kept of a read.
#[derive(Debug)]
pub enum Content {
    /// The whole reply, in RESP2, and in RESP3 where that differs.
    Reply { resp2: Box<[u8]>, resp3: Option<Box<[u8]>> },
    /// A finished HTTP answer.
    Page(Page),
    /// Nothing: the reply is an error, or too long. It is not asked for again while the entry counts.
    Unfit,
}

/// What is kept of one read.
#[derive(Debug)]
pub struct Entry {
    pub(super) stamp: Stamp,
    /// When it was asked for, in nanoseconds of the cache's clock.
    pub(super) asked_at: u64,
    pub(super) content: Content,
}

impl Entry {
    /// The reply in a client's protocol; `None` if there is none.
    pub fn reply(&self, protocol: Protocol) -> Option<&[u8]> {
        match &self.content {
            Content::Reply { resp3: Some(resp3), .. } if protocol == Protocol::Resp3 => Some(resp3),
            Content::Reply { resp2, .. } => Some(resp2),
            Content::Page(_) | Content::Unfit => None,
        }
    }

    /// The finished HTTP answer, if it is one.
    pub fn page(&self) -> Option<&Page> {
        match &self.content {
            Content::Page(page) => Some(page),
            _ => None,
        }
    }

    /// How much memory it takes with its key.
    pub fn bytes(&self, key: &EntryKey) -> usize {
        let content = match &self.content {
            Content::Reply { resp2, resp3 } => {
                resp2.len() + resp3.as_ref().map_or(0, |it| it.len())
            }
            Content::Page(page) => page.body.len(),
            Content::Unfit => 0,
        };
        size_of::<Self>() + size_of::<EntryKey>() + key.args.len() + content + OVERHEAD_BYTES
    }
}
