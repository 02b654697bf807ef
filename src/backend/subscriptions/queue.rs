//! The messages that one subscriber has still to take, and when it is cut off for that.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::Message;

/// Most bytes that a subscriber may leave; with more it is cut off. As in Redis (the hard limit of
/// `client-output-buffer-limit pubsub`).
const MAX_UNTAKEN_BYTES: usize = 32 * 1024 * 1024;

/// Bytes that a subscriber may leave for [`MAX_LONG_TIME`]. As in Redis (the soft limit).
const MAX_LONG_BYTES: usize = 8 * 1024 * 1024;

/// Time for which a subscriber may leave more than [`MAX_LONG_BYTES`]. As in Redis (the soft limit).
const MAX_LONG_TIME: Duration = Duration::from_secs(60);

/// Bytes that a message counts for beside its own: its place in the queue. Many short messages are as heavy as a few
/// long ones.
pub const PLACE_BYTES: usize = 16;

/// Places that an empty queue keeps: ten thousand subscribers that are level hold little.
const KEPT_PLACES: usize = 4;

/// Most bytes that are given to a socket at a time, of several messages together.
const PIECE_BYTES: usize = 64 * 1024;

/// Most bytes that one subscriber is given in its turn: others wait.
const TURN_BYTES: usize = 1024 * 1024;

/// The messages that one subscriber has still to take.
#[derive(Debug)]
pub struct MessageQueue {
    messages: VecDeque<Arc<Message>>,
    /// Number of bytes of the first message that the client has taken.
    start: usize,
    /// Number of bytes that the client has still to take.
    bytes: usize,
    /// Since when these are more than [`MAX_LONG_BYTES`].
    long_since: Option<Instant>,
    /// When the client has taken some last, or had nothing to take.
    taken_at: Instant,
}

impl MessageQueue {
    pub fn new(now: Instant) -> Self {
        Self { messages: VecDeque::new(), start: 0, bytes: 0, long_since: None, taken_at: now }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, message: Arc<Message>, now: Instant) {
        if self.is_empty() {
            self.taken_at = now;
        }
        self.bytes += message.bytes().len();
        self.messages.push_back(message);
        self.note_length(now);
    }

    /// Why the subscriber is cut off, if it is. It is as well if it takes nothing for `client_timeout`.
    pub fn reason_to_cut_off(
        &self,
        client_timeout: Duration,
        now: Instant,
    ) -> Option<&'static str> {
        let held = self.bytes + self.len() * PLACE_BYTES;
        let since = |at: Instant| now.saturating_duration_since(at);
        reason_to_cut_off(Untaken {
            bytes: held,
            long_for: self.long_since.map_or(Duration::ZERO, since),
            nothing_taken_for: if self.is_empty() { Duration::ZERO } else { since(self.taken_at) },
            client_timeout,
        })
    }

    /// Gives the client what it takes at once, by way of `piece`.
    pub fn send(
        &mut self,
        piece: &mut Vec<u8>,
        now: Instant,
        send_now: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut given = 0;
        while let Some(first) = self.messages.front()
            && given < TURN_BYTES
        {
            let rest = &first.bytes()[self.start..];
            let (offered, sent) = match self.messages.len() == 1 || rest.len() >= PIECE_BYTES {
                true => (rest.len(), send_now(rest)?),
                false => {
                    piece.clear();
                    self.copy_to(piece, PIECE_BYTES);
                    (piece.len(), send_now(piece)?)
                }
            };
            self.drop_first(sent, now);
            given += sent;
            if sent < offered {
                break;
            }
        }
        Ok(())
    }

    /// Moves the first `max` bytes, at most, to the end of `out`; returns how many.
    pub fn take(&mut self, out: &mut Vec<u8>, max: usize, now: Instant) -> usize {
        let before = out.len();
        self.copy_to(out, max);
        let taken = out.len() - before;
        self.drop_first(taken, now);
        taken
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.taken_at);
    }

    fn copy_to(&self, out: &mut Vec<u8>, max: usize) {
        let (mut left, mut start) = (max, self.start);
        for message in &self.messages {
            let bytes = &message.bytes()[start..];
            let bytes = &bytes[..bytes.len().min(left)];
            out.extend_from_slice(bytes);
            left -= bytes.len();
            start = 0;
            if left == 0 {
                break;
            }
        }
    }

    /// Drops bytes that the client has taken.
    fn drop_first(&mut self, bytes: usize, now: Instant) {
        if bytes == 0 {
            return;
        }
        self.bytes -= bytes;
        self.start += bytes;
        while let Some(first) = self.messages.front()
            && self.start >= first.bytes().len()
        {
            self.start -= first.bytes().len();
            self.messages.pop_front();
        }
        if self.messages.is_empty() {
            self.messages.shrink_to(KEPT_PLACES);
        }
        self.taken_at = now;
        self.note_length(now);
    }

    fn note_length(&mut self, now: Instant) {
        match self.bytes + self.len() * PLACE_BYTES > MAX_LONG_BYTES {
            true => _ = self.long_since.get_or_insert(now),
            false => self.long_since = None,
        }
    }
}

/// What a subscriber has not taken.
#[derive(Debug, Clone, Copy)]
struct Untaken {
    bytes: usize,
    /// How long it has been more than [`MAX_LONG_BYTES`].
    long_for: Duration,
    /// How long the client has taken nothing of it.
    nothing_taken_for: Duration,
    client_timeout: Duration,
}

fn reason_to_cut_off(untaken: Untaken) -> Option<&'static str> {
    match untaken {
        Untaken { bytes, .. } if bytes > MAX_UNTAKEN_BYTES => {
            Some("it has not taken 32 MiB of its messages")
        }
        Untaken { long_for, .. } if long_for >= MAX_LONG_TIME => {
            Some("it has left more than 8 MiB of its messages for 60 s")
        }
        Untaken { nothing_taken_for, client_timeout, .. }
            if nothing_taken_for >= client_timeout =>
        {
            Some("it takes none of its messages")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::subscribers::Subscribers;
    use super::*;
    use crate::memory::MemoryBudget;

    const MIB: usize = 1024 * 1024;

    fn queue_of(messages: &[&[u8]], now: Instant) -> MessageQueue {
        let subscribers = Subscribers::new(Arc::new(MemoryBudget::new(1 << 30)));
        let mut queue = MessageQueue::new(now);
        messages
            .iter()
            .for_each(|&bytes| queue.push(Message::new(bytes.into(), &subscribers), now));
        queue
    }

    #[test]
    fn a_subscriber_is_cut_off_by_the_bounds_of_redis_or_after_its_timeout() {
        let seconds = Duration::from_secs;
        let timeout = seconds(330);
        for (bytes, long_for, nothing_taken_for, is_cut_off) in [
            (0, 0, 0, false),
            (32 * MIB, 59, 59, false),
            (32 * MIB + 1, 0, 0, true),
            (9 * MIB, 60, 0, true),
            (1, 0, 329, false),
            (1, 0, 330, true),
        ] {
            let (long_for, nothing_taken_for) = (seconds(long_for), seconds(nothing_taken_for));
            let untaken = Untaken { bytes, long_for, nothing_taken_for, client_timeout: timeout };
            assert_eq!(reason_to_cut_off(untaken).is_some(), is_cut_off, "{untaken:?}");
        }
    }

    #[test]
    fn bytes_are_given_in_order_whatever_the_socket_takes() {
        let messages: Vec<Vec<u8>> = (0..50).map(|number| vec![b'a' + number; 7]).collect();
        let borrowed: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let expected = messages.concat();
        for most in [1, 3, 7, 8, 1000] {
            let now = Instant::now();
            let mut queue = queue_of(&borrowed, now);
            let got = std::cell::RefCell::new(Vec::new());
            while !queue.is_empty() {
                let send = |bytes: &[u8]| {
                    let sent = bytes.len().min(most);
                    got.borrow_mut().extend_from_slice(&bytes[..sent]);
                    Ok(sent)
                };
                queue.send(&mut Vec::new(), now, send).expect("a socket");
                queue.take(&mut got.borrow_mut(), 2, now);
            }
            assert!(got.into_inner() == expected, "{most}");
            assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn much_that_is_left_counts_from_when_it_became_much() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let long = Duration::from_secs(3600);
        let mut queue = queue_of(&[&vec![b'x'; 9 * MIB]], began);
        assert_eq!(queue.reason_to_cut_off(long, at(59)), None);
        assert!(queue.reason_to_cut_off(long, at(60)).is_some());
        queue.take(&mut Vec::new(), 2 * MIB, at(59));
        assert_eq!(queue.reason_to_cut_off(long, at(600)), None);
    }
}
