//! Subscriptions: a backend's connection of the session's own, watched together with the client's.
//! When it is lost, another takes its place: messages in between may be lost, as in Redis itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::errors::ForwardError;
use super::replies::first_word;
use super::reply_writer::ReplyWriter;
use crate::backend::PooledConnection;
use crate::health::Member;
use crate::policy::Subscription;
use crate::resp;

/// The most that comes on a new connection while it takes the place of another: confirmations, and
/// messages between them.
const MAX_RESUBSCRIBE_BYTES: usize = 16 * 1024 * 1024;

/// So much of a frame tells what it is.
const HEAD_BYTES: usize = 40;

/// Names to which a client has subscribed, and the connection on which its messages come.
pub struct Subscriptions {
    pub connection: PooledConnection,
    pub backend: Arc<Member>,
    /// When that became the connection.
    pub since: Instant,
    /// Channels, patterns, shard channels.
    pub names: Names,
}

pub type Names = [HashSet<Vec<u8>>; 3];

impl Subscriptions {
    /// How many channels, patterns and shard channels there are.
    pub fn counts(&self) -> [usize; 3] {
        [self.names[0].len(), self.names[1].len(), self.names[2].len()]
    }

    /// Passes confirmations on until there were `count` of `word`, and messages between them, and
    /// counts them in `confirmed`. False when an error came instead.
    pub fn confirm(
        &mut self,
        word: &[u8],
        count: usize,
        confirmed: &mut usize,
        writer: &mut ReplyWriter,
    ) -> Result<bool, ForwardError> {
        while *confirmed < count {
            match self.relay(writer)? {
                Received::Error => return Ok(false),
                Received::Push(what) if what == word => *confirmed += 1,
                Received::Push(_) => {}
            }
        }
        Ok(true)
    }

    /// Passes the next frame on.
    pub fn relay(&mut self, writer: &mut ReplyWriter) -> Result<Received, ForwardError> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        writer.relay_message(&mut self.connection, |piece| {
            head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES - head.len())]);
        })?;
        writer.deliver_if_full_beside(Some(&self.connection))?;
        Ok(Received::from_head(&head))
    }

    /// Gets messages in another protocol from now on.
    pub fn greet(&mut self, hello: &[u8], writer: &mut ReplyWriter) -> Result<(), ForwardError> {
        self.connection.send(hello)?;
        while self.connection.next_byte()? == b'>' {
            self.relay(writer)?;
        }
        writer.relay(&mut self.connection, true).map(|_| ())
    }

    /// Passes on what has arrived.
    pub fn relay_messages(&mut self, writer: &mut ReplyWriter) -> Result<(), ForwardError> {
        loop {
            self.relay(writer)?;
            if !self.connection.has_buffered() {
                return writer.deliver().map_err(ForwardError::Client);
            }
        }
    }
}

/// A frame of a subscription's connection.
pub enum Received {
    Error,
    /// A confirmation or a message, by its first word.
    Push(Vec<u8>),
}

impl Received {
    fn from_head(head: &[u8]) -> Self {
        if head.first() == Some(&b'-') {
            return Self::Error;
        }
        Self::Push(first_word(head).to_vec())
    }
}

/// Reads a number of confirmations, and moves what else comes into `messages`. Returns an error reply, if
/// there is one.
pub fn skip_confirmations(
    connection: &mut PooledConnection,
    mut confirmations: usize,
    messages: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, ForwardError> {
    while confirmations > 0 {
        let begin = messages.len();
        if !connection.hold(messages, MAX_RESUBSCRIBE_BYTES)? {
            return Err(resp::Error::TooLong.into());
        }
        match Received::from_head(&messages[begin..]) {
            Received::Error => return Ok(Some(messages.split_off(begin))),
            Received::Push(what) if SUBSCRIBED.contains(&&what[..]) => {
                confirmations -= 1;
                messages.truncate(begin);
            }
            Received::Push(_) => {}
        }
    }
    Ok(None)
}

pub fn encode(name: &[u8], names: &[&[u8]]) -> Vec<u8> {
    resp::command(name).args(names).into_bytes()
}

pub const SUBSCRIBE: [&[u8]; 3] = [b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"];
const SUBSCRIBED: [&[u8]; 3] = [b"subscribe", b"psubscribe", b"ssubscribe"];

pub fn index(kind: Subscription) -> usize {
    match kind {
        Subscription::Channel => 0,
        Subscription::Pattern => 1,
        Subscription::Shard => 2,
    }
}

pub fn subscribed(kind: Subscription) -> &'static [u8] {
    SUBSCRIBED[index(kind)]
}

pub fn unsubscribed(kind: Subscription) -> &'static [u8] {
    [&b"unsubscribe"[..], b"punsubscribe", b"sunsubscribe"][index(kind)]
}
