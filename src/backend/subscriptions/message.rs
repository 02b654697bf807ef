//! A message as it is kept for subscribers: once for all that speak one protocol.

use std::sync::Arc;

use super::subscribers::{Kept, Subscribers};
use crate::policy::Subscription;
use crate::resp::Protocol;

/// The bytes of one frame, counted in the memory of all subscribers until the last one has taken them.
#[derive(Debug)]
pub struct Message {
    bytes: Box<[u8]>,
    _kept: Kept,
}

impl Message {
    /// Keeps a frame.
    pub fn new(bytes: Box<[u8]>, subscribers: &Arc<Subscribers>) -> Arc<Self> {
        let kept = Kept::new(subscribers, bytes.len());
        Arc::new(Self { bytes, _kept: kept })
    }

    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One frame of a server in the forms that subscribers want, each made when the first wants it.
pub struct MessageForms<'a> {
    frame: &'a [u8],
    subscribers: &'a Arc<Subscribers>,
    made: [Option<Arc<Message>>; 2],
}

impl<'a> MessageForms<'a> {
    /// Of a message, in either protocol.
    pub fn new(frame: &'a [u8], subscribers: &'a Arc<Subscribers>) -> Self {
        Self { frame, subscribers, made: [None, None] }
    }

    /// The form for a client of this protocol: an array or a push. They differ in the first byte.
    pub fn of(&mut self, protocol: Protocol) -> Arc<Message> {
        let (index, kind) = match protocol {
            Protocol::Resp2 => (0, b'*'),
            Protocol::Resp3 => (1, b'>'),
        };
        let made = self.made[index].get_or_insert_with(|| {
            let mut bytes: Box<[u8]> = self.frame.into();
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            Message::new(bytes, self.subscribers)
        });
        Arc::clone(made)
    }
}

/// A frame of a connection that carries subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push<'a> {
    /// A message, with the channel or the pattern by which it came.
    Message(Subscription, &'a [u8]),
    /// The confirmation of a subscription.
    Subscribed(Subscription),
    /// The confirmation of the end of a subscription.
    Unsubscribed(Subscription),
    /// The reply to a `PING`.
    Pong,
}

impl<'a> Push<'a> {
    /// Reads a frame that is an array or a push; `None` for one of another kind.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        use Subscription::{Channel, Pattern, Shard};
        let line = frame.iter().position(|&byte| byte == b'\n')?;
        let (word, rest) = bulk(&frame[line + 1..])?;
        let message = |kind| Some(Self::Message(kind, bulk(rest)?.0));
        match word {
            b"message" => message(Channel),
            b"pmessage" => message(Pattern),
            b"smessage" => message(Shard),
            b"subscribe" => Some(Self::Subscribed(Channel)),
            b"psubscribe" => Some(Self::Subscribed(Pattern)),
            b"ssubscribe" => Some(Self::Subscribed(Shard)),
            b"unsubscribe" => Some(Self::Unsubscribed(Channel)),
            b"punsubscribe" => Some(Self::Unsubscribed(Pattern)),
            b"sunsubscribe" => Some(Self::Unsubscribed(Shard)),
            b"pong" => Some(Self::Pong),
            _ => None,
        }
    }
}

/// The bulk string that begins here, and the bytes after it.
fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = bytes.iter().position(|&byte| byte == b'\r')?;
    let length = std::str::from_utf8(bytes[..line].strip_prefix(b"$")?).ok()?.parse().ok()?;
    let text = bytes.get(line + 2..)?;
    Some((text.get(..length)?, text.get(length + 2..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBudget;

    #[test]
    fn frames_are_told_apart() {
        use Subscription::{Channel, Pattern, Shard};
        for (frame, expected) in [
            (
                "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n",
                Some(Push::Message(Channel, b"news")),
            ),
            (
                ">4\r\n$8\r\npmessage\r\n$4\r\nn\r\n*\r\n$4\r\nnews\r\n$1\r\nx\r\n",
                Some(Push::Message(Pattern, b"n\r\n*")),
            ),
            ("*3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$1\r\nx\r\n", Some(Push::Message(Shard, b""))),
            ("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", Some(Push::Subscribed(Channel))),
            ("*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n", Some(Push::Unsubscribed(Pattern))),
            ("*2\r\n$4\r\npong\r\n$0\r\n\r\n", Some(Push::Pong)),
            ("*1\r\n$5\r\nother\r\n", None),
            ("*0\r\n", None),
            ("*1\r\n:1\r\n", None),
        ] {
            assert_eq!(Push::parse(frame.as_bytes()), expected, "{frame:?}");
        }
    }

    #[test]
    fn each_protocol_has_its_form_which_is_made_once() {
        let subscribers = Subscribers::new(Arc::new(MemoryBudget::new(1 << 20)));
        let mut forms = MessageForms::new(b"*1\r\n$1\r\na\r\n", &subscribers);
        let [first, again] = [(); 2].map(|()| forms.of(Protocol::Resp3));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(first.bytes(), b">1\r\n$1\r\na\r\n");
        assert_eq!(forms.of(Protocol::Resp2).bytes(), b"*1\r\n$1\r\na\r\n");
        drop((forms, first, again));
        assert_eq!(subscribers.kept_bytes(), 0, "what nobody wants is not kept");
    }
}
