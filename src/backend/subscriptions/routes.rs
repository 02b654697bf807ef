//! Which subscriber gets the messages of which channel on one connection.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::Subscription;

/// The subscribers `S` of each channel and pattern. A name is carried from when it is announced until nobody wants it.
#[derive(Debug)]
pub struct Routes<S> {
    kinds: [HashMap<Arc<[u8]>, Route<S>>; 3],
}

#[derive(Debug)]
struct Route<S> {
    /// Number of subscriptions that the server has not confirmed.
    pending: usize,
    /// Subscribers by their numbers, in order: finding one among ten thousand takes a few steps.
    subscribers: Vec<(u64, S)>,
}

impl<S> Default for Routes<S> {
    fn default() -> Self {
        Self { kinds: Default::default() }
    }
}

impl<S> Routes<S> {
    pub fn is_empty(&self) -> bool {
        self.kinds.iter().all(HashMap::is_empty)
    }

    /// Takes note that a subscription is asked for.
    pub fn announce(&mut self, kind: Subscription, name: &Arc<[u8]>) {
        let new = || Route { pending: 0, subscribers: Vec::new() };
        let kind = &mut self.kinds[kind as usize];
        match kind.get_mut(name) {
            Some(route) => route.pending += 1,
            None => kind.entry(Arc::clone(name)).or_insert_with(new).pending = 1,
        }
    }

    /// Takes note that a subscription is confirmed, of this subscriber, or that it won't be. Returns whether nobody wants
    /// the name any more.
    pub fn settle(
        &mut self,
        kind: Subscription,
        name: &[u8],
        subscriber: Option<(u64, S)>,
    ) -> bool {
        self.change(kind, name, |route| {
            route.pending -= 1;
            if let Some((id, subscriber)) = subscriber
                && let Err(at) = route.position(id)
            {
                route.subscribers.insert(at, (id, subscriber));
            }
        })
    }

    /// Ends a subscription; returns whether nobody wants the name any more.
    pub fn remove(&mut self, kind: Subscription, name: &[u8], id: u64) -> bool {
        self.change(kind, name, |route| {
            if let Ok(at) = route.position(id) {
                route.subscribers.remove(at);
            }
        })
    }

    fn change(
        &mut self,
        kind: Subscription,
        name: &[u8],
        change: impl FnOnce(&mut Route<S>),
    ) -> bool {
        let Some(route) = self.kinds[kind as usize].get_mut(name) else { return false };
        change(route);
        let is_unused = route.pending == 0 && route.subscribers.is_empty();
        if is_unused {
            self.kinds[kind as usize].remove(name);
        }
        is_unused
    }

    /// The subscribers of a channel, or of a pattern.
    pub fn subscribers(&self, kind: Subscription, name: &[u8]) -> impl Iterator<Item = &S> {
        let route = self.kinds[kind as usize].get(name);
        route.into_iter().flat_map(|route| &route.subscribers).map(|(_, subscriber)| subscriber)
    }
}

impl<S> Route<S> {
    /// The place of this subscriber, or the one that it would have.
    fn position(&self, id: u64) -> Result<usize, usize> {
        self.subscribers.binary_search_by_key(&id, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Subscription::{Channel, Pattern};

    fn subscribers(routes: &Routes<char>, name: &str) -> String {
        routes.subscribers(Channel, name.as_bytes()).collect()
    }

    #[test]
    fn a_name_is_carried_until_the_last_subscriber_has_left() {
        let (mut routes, name) = (Routes::default(), Arc::from(*b"news"));
        for (id, subscriber) in [(3, 'c'), (1, 'a'), (2, 'b'), (2, 'b')] {
            routes.announce(Channel, &name);
            assert!(!routes.settle(Channel, &name, Some((id, subscriber))));
        }
        assert_eq!(subscribers(&routes, "news"), "abc");
        assert!(!routes.remove(Channel, &name, 2) && !routes.remove(Channel, &name, 2));
        assert!(!routes.remove(Pattern, &name, 3), "it is no pattern");
        assert_eq!(subscribers(&routes, "news"), "ac");
        assert!(!routes.remove(Channel, &name, 1));
        assert!(routes.remove(Channel, &name, 3) && routes.is_empty());
        assert!(!routes.remove(Channel, &name, 3), "it is told once");
    }

    #[test]
    fn a_name_that_is_asked_for_is_carried_and_brings_nothing_before_it_is_confirmed() {
        let (mut routes, name) = (Routes::default(), Arc::from(*b"news"));
        routes.announce(Channel, &name);
        assert!(!routes.settle(Channel, &name, Some((1, 'a'))));
        routes.announce(Channel, &name);
        assert!(!routes.remove(Channel, &name, 1), "another has asked for it");
        assert_eq!(subscribers(&routes, "news"), "");
        assert!(routes.settle(Channel, &name, None), "it was refused");
        assert!(routes.is_empty());
    }
}
