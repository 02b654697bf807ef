//! Values over HTTP that are answered from the near cache.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::balanced::HttpRead;
use super::response::{
    AnsweredBy, Caching, SentResponse, add_backend_headers, add_timing, begin, complete,
};
use super::shared_read::{is_read_at_once, write_reply};
use crate::backend::Class;
use crate::balance::Balancer;
use crate::cache::{Cache, CachedRead, Entry, Found, Page, ReadElsewhere, Tracker};
use crate::health::Member;
use crate::http;
use crate::http::target::KeyQuery;
use crate::metrics::Outcome;
use crate::resp::value_type::ValueType;
use crate::resp::{CommandBuilder, CommandParser, Protocol, command};
use crate::session::client::Client;

/// What one HTTP connection knows of the near cache.
#[derive(Default)]
pub(super) struct CachedReads {
    /// What came by another connection than a tracker's.
    elsewhere: ReadElsewhere,
}

/// An answer from the cache, or one that was just read for it.
struct Answer {
    entry: Arc<Entry>,
    /// How long the backend took, if it was asked.
    time: Option<Duration>,
}

impl CachedReads {
    /// Answers a read of a value from the near cache.
    ///
    /// # Errors
    /// Returns the read where it has to go to a backend.
    pub fn respond(
        &mut self,
        client: &mut Client,
        mut read: Box<HttpRead>,
    ) -> Result<(Box<HttpRead>, SentResponse), Box<HttpRead>> {
        let balancer = client.balancer;
        let Some(cache) = balancer.cache.as_ref() else { return Err(read) };
        let since = self.elsewhere.since();
        let answer = look_up(cache, balancer, &mut read, since);
        let Some((backend, answer)) = answer else {
            self.elsewhere.note();
            return Err(read);
        };
        let sent = send(client, cache, &read, &backend, &answer);
        Ok((read, sent))
    }
}

/// The answer to a read from the near cache, and its backend; `None` where it has to go to a backend.
fn look_up(
    cache: &Arc<Cache>,
    balancer: &Balancer,
    read: &mut HttpRead,
    since: Option<Instant>,
) -> Option<(Arc<Member>, Answer)> {
    let is_usual = read.caller.rights.is_none()
        && read.max_staleness.is_any()
        && balancer.config().demo_delay.is_zero();
    let query = read.whole_value().filter(|_| is_usual)?;
    let backends = balancer.backends();
    let database = query.database;
    let serves = |id| backends.get(id).is_some_and(|backend| backend.serves_in(database));
    let lease = balancer.table.lease(Instant::now(), serves)?;
    let backend = lease.backend_if_up().and_then(|id| backends.get(id)).cloned();
    let answer = backend.and_then(|backend| {
        let mode = backend.mode_in(database);
        // Whoever asks for databases that there are not must have none tracked.
        if database.is_some() && mode != backend.own_mode() {
            backend.shared(mode)?;
        }
        let tracker = cache.tracker(&backend, mode.database, &query.key)?;
        let answer = page(cache, &tracker, query, since)
            .or_else(|| value(cache, balancer, &tracker, read, query, since));
        match &answer {
            Some(Answer { time: None, .. }) => {
                cache.note_hot(tracker.database, &query.key);
                cache.metrics().hits.add_one();
                backend.metrics.cache_hits.add_one();
            }
            _ if cache.is_excluded(&query.key) => {}
            _ => cache.metrics().misses.add_one(),
        }
        Some((backend, answer?))
    });
    // Without an answer, the read goes where it has been counted already.
    read.lease = Some(lease);
    answer
}

/// The finished answer, if it is there.
fn page(
    cache: &Cache,
    tracker: &Tracker,
    query: &KeyQuery,
    since: Option<Instant>,
) -> Option<Answer> {
    let Found::Hit(entry) = cache.page(tracker, &query.key, since) else { return None };
    Some(Answer { entry, time: None })
}

/// The answer that is made of the value, which is there or is read for the cache.
fn value(
    cache: &Cache,
    balancer: &Balancer,
    tracker: &Tracker,
    read: &HttpRead,
    query: &KeyQuery,
    since: Option<Instant>,
) -> Option<Answer> {
    let began = Instant::now();
    let find = |command, may_fill| find(cache, balancer, tracker, (command, may_fill), since);
    let value_type = match tracker.member.type_hints.of(tracker.database, &query.key) {
        Some(hint) => hint,
        None => named_type(
            &find(command("TYPE").arg(&query.key), read.profile.class == Class::Quick)?.0,
        )?,
    };
    let may_fill = is_read_at_once(value_type, &read.profile);
    let (entry, is_kept) = find(value_type.read_command(&query.key), may_fill)?;
    let mut response = begin(io::sink(), &read.request, balancer);
    let reply = entry.reply(Protocol::Resp2)?;
    let digest = write_reply(value_type, reply, query, &mut response)?;
    let page = Page { status: response.sent_status(), digest, body: response.held_body()?.into() };
    let entry = cache.keep_page(tracker, &query.key, &entry, page);
    let time = (!is_kept).then(|| began.elapsed());
    Some(Answer { entry, time })
}

/// What the cache has of a read, or what is read for it now if it `may_fill`, and whether it was there.
fn find(
    cache: &Cache,
    balancer: &Balancer,
    tracker: &Tracker,
    (command, may_fill): (CommandBuilder, bool),
    since: Option<Instant>,
) -> Option<(Arc<Entry>, bool)> {
    let bytes = command.into_bytes();
    let mut parser = CommandParser::new(usize::MAX);
    let Ok((_, Some(command))) = parser.parse(&bytes) else { return None };
    let (_, policy) = balancer.policy();
    let cached = policy.shape(&command).cached(&command)?;
    let cached_read = CachedRead::of(&command, cached, &policy);
    match cache.get(tracker, &cached_read, since) {
        Found::Hit(entry) => Some((entry, true)),
        Found::Miss if may_fill => Some((cache.fill(tracker, &cached_read, since, true)?, false)),
        Found::Miss | Found::Nothing => None,
    }
}

/// The type that a reply of `TYPE` names.
fn named_type(entry: &Entry) -> Option<ValueType> {
    let reply = entry.reply(Protocol::Resp2)?;
    let name = reply.strip_prefix(b"+")?.strip_suffix(b"\r\n")?;
    ValueType::from_name(std::str::from_utf8(name).ok()?)
}

/// Sends an answer, and counts it.
fn send(
    client: &mut Client,
    cache: &Cache,
    read: &HttpRead,
    backend: &Member,
    answer: &Answer,
) -> SentResponse {
    let balancer = client.balancer;
    client.socket.note_lease(read.lease.as_ref());
    let mut response = begin(&mut *client, &read.request, balancer);
    let sent = answer.entry.page().map_or(Ok(()), |page| {
        response.status(page.status);
        let caching = Caching::of(balancer);
        match answer.time {
            None => {
                let age = cache.age(&answer.entry).as_secs();
                add_backend_headers(&mut response, backend, caching.hit(age));
            }
            Some(time) => {
                add_backend_headers(&mut response, backend, caching);
                let answered = Instant::now();
                if let Some(asked) = answered.checked_sub(time) {
                    add_timing(&mut response, backend, read.began, asked);
                    response.answered(answered);
                }
            }
        }
        response.header("Content-Type", http::JSON);
        response.write_all(&page.body)?;
        response.settle(read.validators(page.digest));
        let message = response.held_message();
        let (backend, kind) = (&backend.metrics, read.query.kind());
        let answered_by = answer.time.map(|time| AnsweredBy { backend, kind, time });
        complete(&balancer.metrics, answered_by, response.sent_status(), Outcome::Answered);
        response.writer().write_all(&message)?;
        response.writer().flush()
    });
    let mut log = SentResponse::from_backend(backend, &response);
    log.cut = sent.err().map(|error| error.to_string());
    log.keep_alive &= log.cut.is_none();
    client.socket.note_lease(None);
    log
}
