//! Subscriptions: a backend's connection of the session's own, watched together with the client's.
//! When it is lost, another takes its place: messages in between may be lost, as in Redis itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::replies::{ForwardError, Tried, first_word};
use super::reply_writer::{Check, ReplyWriter};
use crate::backend::PooledConnection;
use crate::health::Member;
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
    ) -> Tried<bool> {
        while *confirmed < count {
            let Some(what) = self.relay(writer)? else { return Ok(false) };
            *confirmed += usize::from(what == word);
        }
        Ok(true)
    }

    /// Passes the next frame on, and returns its first word; none of an error.
    fn relay(&mut self, writer: &mut ReplyWriter) -> Tried<Option<Vec<u8>>> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        writer.relay_checked(&mut self.connection, false, Check::Server, |piece| {
            head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES - head.len())]);
        })?;
        writer.deliver_if_full(Some(&self.connection))?;
        Ok(push_word(&head).map(<[u8]>::to_vec))
    }

    /// Gets messages in another protocol from now on.
    pub fn greet(&mut self, hello: &[u8], writer: &mut ReplyWriter) -> Tried {
        self.connection.send(hello)?;
        while self.connection.next_byte()? == b'>' {
            self.relay(writer)?;
        }
        writer.relay(&mut self.connection, true).map(|_| ())
    }

    /// Passes on what has arrived.
    pub fn relay_messages(&mut self, writer: &mut ReplyWriter) -> Tried {
        loop {
            self.relay(writer)?;
            if !self.connection.has_buffered() {
                return writer.deliver().map_err(ForwardError::Client);
            }
        }
    }
}

/// The first word of a confirmation or a message; none of an error.
fn push_word(frame: &[u8]) -> Option<&[u8]> {
    (!frame.starts_with(b"-")).then(|| first_word(frame))
}

/// Reads a number of confirmations, and moves what else comes into `messages`. Returns an error reply, if
/// there is one.
pub fn skip_confirmations(
    connection: &mut PooledConnection,
    mut confirmations: usize,
    messages: &mut Vec<u8>,
) -> Tried<Option<Vec<u8>>> {
    while confirmations > 0 {
        let begin = messages.len();
        if !connection.hold(messages, MAX_RESUBSCRIBE_BYTES)? {
            return Err(resp::Error::TooLong.into());
        }
        let Some(what) = push_word(&messages[begin..]) else {
            return Ok(Some(messages.split_off(begin)));
        };
        if SUBSCRIBED.contains(&what) {
            confirmations -= 1;
            messages.truncate(begin);
        }
    }
    Ok(None)
}

pub fn encode(name: &[u8], names: &[&[u8]]) -> Vec<u8> {
    resp::command(name).args(names).into_bytes()
}

/// Commands that subscribe, and the words of confirmations, by the kind of the subscription.
pub const SUBSCRIBE: [&[u8]; 3] = [b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"];
pub const SUBSCRIBED: [&[u8]; 3] = [b"subscribe", b"psubscribe", b"ssubscribe"];
pub const UNSUBSCRIBED: [&[u8]; 3] = [b"unsubscribe", b"punsubscribe", b"sunsubscribe"];
