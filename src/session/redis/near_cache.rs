//! Reads of a session that are answered from the near cache.

use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::session::Session;
use crate::backend::Class;
use crate::cache::{Cache, CachedRead, Entry, Found, ReadElsewhere, Tracker};
use crate::health::Member;
use crate::metrics::{CommandId, Completion, Outcome};
use crate::net::protocol::WireProtocol;
use crate::policy::Shape;
use crate::policy::cacheable::{CachedCommand, CachedKind};
use crate::resp::{Command, Protocol, write};

/// Most keys of one command whose replies are put together from those to each key.
const MAX_PARTS: usize = 128;

/// What a session knows of the near cache.
#[derive(Default)]
pub struct NearCache {
    /// The tracker of its backend and database.
    tracker: Weak<Tracker>,
    /// Where reads go in the usual way, while commands are handled that have arrived together.
    place: Option<Place>,
    /// Whether more commands have arrived after the one at hand.
    pub has_more: bool,
    /// The commands that were handled in another way. The session may know more than its tracker.
    elsewhere: ReadElsewhere,
    /// Whether replies from the cache were given to the client that are not delivered yet.
    has_given: bool,
    /// Hits that are not counted yet.
    hits: u64,
    /// Those of them at the place.
    place_hits: u64,
}

impl NearCache {
    /// Whether replies from the cache were given to the client since the last time.
    pub fn take_has_given(&mut self) -> bool {
        mem::take(&mut self.has_given)
    }

    /// A command is handled here, or in a transaction. The session's backend or database may be another after it.
    pub fn note_other(&mut self) {
        self.elsewhere.note();
        self.leave_place();
    }

    fn leave_place(&mut self) {
        if let Some(place) = self.place.take() {
            place.backend.metrics.cache_hits.add(mem::take(&mut self.place_hits));
        }
    }
}

/// The session's backend, and the tracker of that and of the session's database.
struct Place {
    backend: Arc<Member>,
    tracker: Arc<Tracker>,
}

/// One lookup of a command, or of a part of it.
struct Lookup<'a> {
    cache: &'a Cache,
    tracker: &'a Tracker,
    since: Option<Instant>,
    /// Whether an answer is of use. Else what is asked for is only read for the cache.
    may_answer: bool,
}

impl Session<'_> {
    /// Answers a command from the near cache. Returns false where it has to go to a backend.
    ///
    /// Nothing comes from there while a command before it is unanswered: the reply to that would be newer.
    pub(super) fn answer_from_cache(&mut self, command: &Command, shape: Shape) -> bool {
        let Some(cache) = &self.balancer.cache else { return false };
        let is_asked = !self.is_silent && self.subscriptions.is_none();
        let is_answered = is_asked
            && shape
                .cached(command)
                .is_some_and(|cached| self.look_up(cache, command, shape, cached));
        if !is_answered {
            self.near_cache.elsewhere.note();
        }
        is_answered
    }

    fn look_up(
        &mut self,
        cache: &Arc<Cache>,
        command: &Command,
        shape: Shape,
        cached: CachedCommand,
    ) -> bool {
        let key = command.arg(1).unwrap_or_default();
        let Some(place) = self.place(cache, key) else { return false };
        let may_answer = self.batch.is_empty() && !self.in_flight.is_under_way();
        // Without an answer, nobody has to wait for it.
        let since = if may_answer { self.near_cache.elsewhere.since() } else { None };
        let lookup = Lookup { cache, tracker: &place.tracker, since, may_answer };
        let is_answered = match cached.kind {
            CachedKind::One => self.answer_one_key(&lookup, &place.backend, command, shape, cached),
            CachedKind::Mget | CachedKind::ExistsOfMany => {
                self.answer_keys(&lookup, command, cached)
            }
        };
        self.near_cache.place = Some(place);
        is_answered
    }

    /// Returns the session's backend and its tracker, where reads go there in the usual way.
    fn place(&mut self, cache: &Arc<Cache>, key: &[u8]) -> Option<Place> {
        // Taken out rather than shared: each count of references that is raised for a hit is one that all threads write.
        if let Some(place) = self.near_cache.place.take() {
            return Some(place);
        }
        let backend = self.upstream.usual_backend(self.writer.client.address)?;
        let database = self.mode.database;
        let is_its = |tracker: &Arc<Tracker>| {
            tracker.member.id == backend.id && tracker.database == database && !tracker.is_over()
        };
        let tracker = match self.near_cache.tracker.upgrade().filter(is_its) {
            Some(tracker) => tracker,
            None => {
                let tracker = cache.tracker(&backend, database, key)?;
                self.near_cache.tracker = Arc::downgrade(&tracker);
                tracker
            }
        };
        Some(Place { backend, tracker })
    }

    /// Answers a command whose reply is kept as it is. Reads it for the cache if it is asked for again.
    fn answer_one_key(
        &mut self,
        lookup: &Lookup,
        backend: &Member,
        command: &Command,
        shape: Shape,
        cached: CachedCommand,
    ) -> bool {
        let Some(key) = command.arg(1) else { return false };
        let read = CachedRead::of(command, cached, &self.policy);
        match lookup.cache.get(lookup.tracker, &read, lookup.since) {
            Found::Hit(entry) if lookup.may_answer => {
                self.give_hit(lookup, key, |out, protocol| {
                    out.extend_from_slice(entry.reply(protocol).unwrap_or_default());
                })
            }
            Found::Miss if self.may_fill(command, shape) => {
                // What has arrived after it is not held up.
                let waits = lookup.may_answer && !self.near_cache.has_more;
                lookup.cache.metrics().misses.add_one();
                let began = Instant::now();
                let entry = lookup.cache.fill(lookup.tracker, &read, lookup.since, waits);
                entry.is_some_and(|entry| self.give_fill(shape, backend, &entry, began.elapsed()))
            }
            Found::Hit(_) | Found::Miss => {
                lookup.cache.metrics().misses.add_one();
                false
            }
            Found::Nothing => false,
        }
    }

    /// Whether a command may be read for the cache: it is quick, and its reply is short, as far as is known. It was judged
    /// by the commands of all servers that are tracked.
    fn may_fill(&self, command: &Command, shape: Shape) -> bool {
        let is_quick = self
            .balancer
            .profile(command, shape)
            .is_ok_and(|(profile, _)| profile.class == Class::Quick && !profile.has_one_try);
        is_quick && self.is_judged() && !self.balancer.long_replies.is_known(command.bytes())
    }

    /// Whether the session's policy is made of what all servers have said of their commands by now.
    fn is_judged(&self) -> bool {
        self.commands_version == self.balancer.commands_version()
    }

    /// Answers a command about several keys from what is kept of each, if all is. What is not is read for the cache.
    fn answer_keys(&mut self, lookup: &Lookup, command: &Command, cached: CachedCommand) -> bool {
        let keys = command.arg_count() - 1;
        if keys > MAX_PARTS
            || !lookup.may_answer
            || !lookup.cache.reach(lookup.tracker, lookup.since)
        {
            return false;
        }
        let cached_part = CachedCommand { kind: CachedKind::One, ..cached };
        let part = |index: usize| CachedRead {
            command: cached_part,
            arg_count: 2,
            args: command.encoded_args(index, index),
            key: command.arg(index).unwrap_or_default(),
            max_time: Duration::MAX,
        };
        let mut entries = Vec::with_capacity(keys);
        for index in 1..=keys {
            match lookup.cache.get(lookup.tracker, &part(index), lookup.since) {
                Found::Hit(entry) => entries.push(entry),
                Found::Miss if self.is_judged() => {
                    _ = lookup.cache.fill(lookup.tracker, &part(index), lookup.since, false);
                }
                Found::Miss | Found::Nothing => {}
            }
        }
        if entries.len() < keys || !lookup.cache.are_current(lookup.tracker, &entries) {
            lookup.cache.metrics().misses.add_one();
            return false;
        }
        let key = command.arg(1).unwrap_or_default();
        self.give_hit(lookup, key, |out, protocol| {
            write_parts(out, cached.kind, protocol, &entries);
        })
    }

    /// Gives the client a reply from the cache.
    fn give_hit(
        &mut self,
        lookup: &Lookup,
        key: &[u8],
        write_reply: impl FnOnce(&mut Vec<u8>, Protocol),
    ) -> bool {
        let before = self.writer.out.len();
        write_reply(&mut self.writer.out, self.mode.protocol);
        self.writer.given.bytes += (self.writer.out.len() - before) as u64;
        let near = &mut self.near_cache;
        near.has_given = true;
        near.hits += 1;
        near.place_hits += 1;
        lookup.cache.note_hot(lookup.tracker.database, key);
        true
    }

    /// Gives the client a reply that has just been read for the cache.
    fn give_fill(&mut self, shape: Shape, backend: &Member, entry: &Entry, time: Duration) -> bool {
        let Some(reply) = entry.reply(self.mode.protocol) else { return false };
        self.writer.out.extend_from_slice(reply);
        self.writer.given.bytes += reply.len() as u64;
        let answered_by = Some((&**backend, time));
        self.writer.complete(shape.id, answered_by, Outcome::Answered);
        true
    }

    /// Counts the hits so far, before the client has the replies.
    pub(super) fn count_hits(&mut self) {
        let near = &mut self.near_cache;
        near.leave_place();
        let Some(cache) = self.balancer.cache.as_ref().filter(|_| near.hits > 0) else { return };
        let count = mem::take(&mut near.hits);
        cache.metrics().hits.add(count);
        self.balancer.metrics.complete(&Completion {
            protocol: WireProtocol::Resp,
            command: CommandId::default(),
            status: None,
            backend: None,
            count,
            time: Duration::ZERO,
            outcome: Outcome::Answered,
        });
    }
}

/// Writes the reply to a command about several keys, made of those to each key.
fn write_parts(out: &mut Vec<u8>, kind: CachedKind, protocol: Protocol, entries: &[Arc<Entry>]) {
    let replies = entries.iter().map(|entry| entry.reply(protocol).unwrap_or_default());
    match kind {
        CachedKind::One | CachedKind::Mget => {
            write::array(out, entries.len());
            replies.for_each(|reply| out.extend_from_slice(reply));
        }
        CachedKind::ExistsOfMany => {
            write::integer(out, replies.filter(|reply| *reply == b":1\r\n").count() as i64);
        }
    }
}
