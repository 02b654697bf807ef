//! What one client has subscribed to, and the replies that confirm it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::names;
use crate::backend::subscriptions::{
    KINDS, NamesOfKind, NamesShare, Recipient, Subscriber, SubscriptionConnection,
};
use crate::health::Member;
use crate::net::client_stream::ClientStream;
use crate::policy::Subscription;
use crate::resp::{Protocol, write};
use crate::session::client::ClientSocket;

/// Words of confirmations, by the kind of the subscription.
const SUBSCRIBED: [&[u8]; 3] = [b"subscribe", b"psubscribe", b"ssubscribe"];
const UNSUBSCRIBED: [&[u8]; 3] = [b"unsubscribe", b"punsubscribe", b"sunsubscribe"];

impl Recipient for ClientSocket {
    fn stream(&self) -> &ClientStream {
        &self.stream
    }

    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn cut_off(&self) {
        self.cut_off_subscriber();
    }
}

/// Channels, patterns, and channels of shards.
#[derive(Debug, Clone, Default)]
pub struct Names([HashSet<Arc<[u8]>>; 3]);

impl Names {
    /// How many there are of each kind.
    pub fn counts(&self) -> [usize; 3] {
        self.0.each_ref().map(HashSet::len)
    }

    /// Memory that they take.
    pub fn held_bytes(&self) -> usize {
        names::held_bytes(self.iter().map(|(_, name)| name.len()))
    }

    pub fn of(&self, kind: Subscription) -> &HashSet<Arc<[u8]>> {
        &self.0[kind as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (Subscription, &Arc<[u8]>)> + Clone {
        KINDS.into_iter().flat_map(|kind| self.of(kind).iter().map(move |name| (kind, name)))
    }

    /// The confirmations for a client that subscribes to more, and the memory that the new names take.
    pub fn confirmations(
        &self,
        kind: Subscription,
        more: &[Arc<[u8]>],
        protocol: Protocol,
    ) -> (Vec<u8>, usize) {
        let (mut confirmations, mut new) = (Vec::new(), HashSet::new());
        for name in more {
            if !self.of(kind).contains(name) {
                new.insert(&**name);
            }
            let count = self.shown_count(kind) + new.len();
            confirm(&mut confirmations, SUBSCRIBED[kind as usize], Some(name), count, protocol);
        }
        (confirmations, names::held_bytes(new.into_iter().map(<[u8]>::len)))
    }

    pub fn insert(&mut self, kind: Subscription, more: &[Arc<[u8]>]) {
        self.0[kind as usize].extend(more.iter().cloned());
    }

    /// Removes names, or all of a kind where none is named; returns those that were there, and the confirmations for the
    /// client.
    pub fn remove(
        &mut self,
        kind: Subscription,
        names: &[&[u8]],
        protocol: Protocol,
    ) -> (Vec<Arc<[u8]>>, Vec<u8>) {
        let all: Vec<Arc<[u8]>> = match names {
            [] => self.of(kind).iter().cloned().collect(),
            _ => Vec::new(),
        };
        let all: Vec<&[u8]> = all.iter().map(|name| &**name).collect();
        let names = if names.is_empty() { &all[..] } else { names };
        let (mut removed, mut confirmations) = (Vec::new(), Vec::new());
        let word = UNSUBSCRIBED[kind as usize];
        for name in names {
            removed.extend(self.0[kind as usize].take(*name));
            confirm(&mut confirmations, word, Some(name), self.shown_count(kind), protocol);
        }
        if names.is_empty() {
            confirm(&mut confirmations, word, None, self.shown_count(kind), protocol);
        }
        (removed, confirmations)
    }

    /// The number of subscriptions that a confirmation tells: channels and patterns count together.
    fn shown_count(&self, kind: Subscription) -> usize {
        let [channels, patterns, shards] = self.counts();
        if kind == Subscription::Shard { shards } else { channels + patterns }
    }

    /// All of them, as parts of an order. Channels of shards have one each: a node of a Cluster takes only those of one
    /// slot together.
    pub fn parts(&self) -> Vec<NamesOfKind> {
        let mut parts = Vec::new();
        for kind in KINDS {
            let names = self.of(kind);
            match kind {
                Subscription::Shard => {
                    parts.extend(names.iter().map(|name| (kind, vec![Arc::clone(name)])));
                }
                _ if names.is_empty() => {}
                _ => parts.push((kind, names.iter().cloned().collect())),
            }
        }
        parts
    }
}

fn confirm(out: &mut Vec<u8>, word: &[u8], name: Option<&[u8]>, count: usize, protocol: Protocol) {
    write::push(out, 3, protocol);
    write::bulk(out, word);
    match name {
        Some(name) => write::bulk(out, name),
        None => write::null(out, protocol),
    }
    write::integer(out, count as i64);
}

/// The subscriptions of a client.
pub struct Subscriptions {
    /// The client's side, into which its messages come.
    pub subscriber: Arc<Subscriber>,
    /// The connection that carries them, and its backend.
    pub connection: Arc<SubscriptionConnection>,
    pub backend: Arc<Member>,
    pub names: Names,
    /// The memory for the names.
    pub share: NamesShare,
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.connection.leave(&self.subscriber, self.names.iter());
        self.subscriber.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<[u8]>> {
        names.iter().map(|name| Arc::from(name.as_bytes())).collect()
    }

    fn text(confirmations: Vec<u8>) -> String {
        String::from_utf8(confirmations).expect("text")
    }

    #[test]
    fn confirmations_count_channels_and_patterns_together_and_shards_alone() {
        use Subscription::{Channel, Pattern, Shard};
        let mut all = Names::default();
        let resp2 = Protocol::Resp2;
        let mut add = |kind, more: &[&str], protocol| {
            let (confirmations, bytes) = all.confirmations(kind, &names(more), protocol);
            let before = all.held_bytes();
            all.insert(kind, &names(more));
            assert_eq!(all.held_bytes() - before, bytes);
            text(confirmations)
        };
        let twice = add(Channel, &["a", "a"], resp2);
        assert_eq!(twice, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n".repeat(2));
        assert!(add(Pattern, &["p"], resp2).ends_with(":2\r\n"));
        let shard = add(Shard, &["s"], Protocol::Resp3);
        assert_eq!(shard, ">3\r\n$10\r\nssubscribe\r\n$1\r\ns\r\n:1\r\n");
        let (removed, confirmed) = all.remove(Channel, &[b"none", b"a"], resp2);
        assert_eq!(removed, names(&["a"]));
        assert_eq!(
            text(confirmed),
            "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnone\r\n:2\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n"
        );
        let (removed, confirmed) = all.remove(Channel, &[], resp2);
        assert!(removed.is_empty());
        assert_eq!(text(confirmed), "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:1\r\n");
        let (removed, confirmed) = all.remove(Shard, &[], resp2);
        assert_eq!(removed, names(&["s"]));
        assert_eq!(text(confirmed), "*3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n");
        assert_eq!(all.counts(), [0, 1, 0]);
    }

    #[test]
    fn an_order_has_one_part_for_each_kind_and_for_each_shard() {
        use Subscription::{Channel, Shard};
        let mut all = Names::default();
        all.insert(Channel, &names(&["a", "b"]));
        all.insert(Shard, &names(&["s", "t"]));
        let kinds: Vec<_> =
            all.parts().into_iter().map(|(kind, names)| (kind, names.len())).collect();
        assert_eq!(kinds, [(Channel, 2), (Shard, 1), (Shard, 1)]);
    }
}
