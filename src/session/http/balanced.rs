//! A request for data, and a read that goes from backend to backend until one has answered.
//!
//! A response can start again on another backend as long as the client has got no byte of it. So
//! [`ResponseWriter`] holds the first 64 KiB of a body, with its head. If the backend fails before
//! that is full, what it has said is thrown away, the client notices nothing, and the next backend
//! is asked. A longer body is sent while it is read. If the backend fails then, the connection is
//! cut, so that half a response is never taken for a whole one.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::browse::{self, Frame};
use super::exchange::{HTTP_READ_BYTES, ReadError, ReadOutcome};
use super::freshness::{self, MaxStaleness, TooOld};
use super::json::{write_listing, write_value, write_values};
use super::response::{
    AnsweredBy, Caching, LocalResponse, SentResponse, add_backend_headers, add_timing, begin,
    complete, write_error,
};
use super::rights::{Caller, Rights};
use crate::backend::{BackendError, Class, is_not_permitted};
use crate::balance::failover::{Attempt, Failover};
use crate::balance::slow::{
    self, Kinds, LaneError, LaneOutcome, OpenRead, ReadInfo, ReadKey, ReadProfile,
};
use crate::balance::{Balancer, Lease};
use crate::health::{BackendState, Member};
use crate::http::target::{Format, KeyQuery, KeysQuery, PageQuery};
use crate::http::{BackendFailure, ErrorBody, Request, ResponseWriter, Version};
use crate::logging::access_log::Event;
use crate::memory::Share;
use crate::metrics::{CommandId, Outcome, Refusal};
use crate::session::client::{Client, ClientHandle};

/// How often a read starts again because the value changed while it was read.
const MAX_CHANGES: usize = 30;

/// A request for data, until it is answered.
pub(super) struct HttpRead {
    pub request: Request,
    pub caller: Caller,
    pub query: ReadQuery,
    /// When the request had arrived.
    pub began: Instant,
    /// The lease of the first attempt, if it was taken already.
    pub lease: Option<Lease>,
    /// The name under which the slow lane knows the read, unless every server answers it at once.
    pub key: Option<ReadKey>,
    /// What is known of how long the read takes.
    pub profile: ReadProfile,
    /// The greatest age of the data that may answer it.
    pub max_staleness: MaxStaleness,
    /// How old the data are at most that answer it, if its response has to say that.
    pub staleness: Option<Duration>,
}

impl HttpRead {
    /// Returns what is asked for, if it is the whole value of a key, as JSON.
    pub fn whole_value(&self) -> Option<&KeyQuery> {
        let ReadQuery::Key(query, None) = &self.query else { return None };
        let is_whole = query.format == Format::Json
            && query.field.is_none()
            && self.request.version != Version::Http09;
        is_whole.then_some(query)
    }

    /// Returns what a response with this digest is validated by, for [`ResponseWriter::settle`].
    pub fn validators(&self, digest: Option<u64>) -> Option<(u64, Option<&str>)> {
        digest.map(|digest| (digest, self.request.if_none_match.as_deref()))
    }
}

/// What a client wants to read.
#[derive(Debug)]
pub(super) enum ReadQuery {
    /// A key's value. If there is no such key, the page of keys, if there is one.
    Key(KeyQuery, Option<PageQuery>),
    /// The values of several keys.
    Keys(KeysQuery),
    /// A page of keys with their values.
    Page(PageQuery),
}

impl ReadQuery {
    /// Whether it has a cursor, which means something to one backend only.
    pub fn has_cursor(&self) -> bool {
        match self {
            Self::Page(page) | Self::Key(_, Some(page)) => page.cursor.is_some(),
            Self::Key(key, None) => key.cursor.is_some(),
            Self::Keys(_) => false,
        }
    }

    /// Returns the kind of request as which it is timed.
    pub fn kind(&self) -> CommandId {
        match self {
            Self::Key(..) | Self::Keys(_) => CommandId::HTTP_KEYS,
            Self::Page(_) => CommandId::HTTP_LISTINGS,
        }
    }

    /// Returns the database that is named, if one is.
    pub fn database(&self) -> Option<i64> {
        match self {
            Self::Key(KeyQuery { database, .. }, _)
            | Self::Keys(KeysQuery { database, .. })
            | Self::Page(PageQuery { database, .. }) => *database,
        }
    }

    /// Returns the name under which the slow lane knows it; `None` if every server answers it at once.
    pub fn read_key(&self, kinds: &Kinds) -> Option<ReadKey> {
        let database = self.database().map_or(Vec::new(), |number| number.to_le_bytes().to_vec());
        match self {
            Self::Key(query, _) if query.field.is_some() || query.is_raw() => None,
            // Pages for people show a bounded part of a value.
            Self::Key(KeyQuery { format: Format::Html, .. }, _) => None,
            Self::Page(PageQuery { format: Format::Html, .. }) => None,
            Self::Key(query, _) => Some(kinds.http_key("value", &query.key, &database, 1)),
            Self::Keys(query) => {
                let first = query.keys.first().map_or(&[][..], Vec::as_slice);
                let rest = [query.keys.join(&0), database].concat();
                Some(kinds.http_key("values", first, &rest, query.keys.len()))
            }
            Self::Page(query) => {
                let pattern = query.pattern.as_deref().unwrap_or_default();
                let position = query.cursor.as_ref().map_or(0, |cursor| cursor.position);
                let rest = [&position.to_le_bytes()[..], &database].concat();
                Some(kinds.http_key("listing", pattern, &rest, 1))
            }
        }
    }

    /// Returns its name in the log.
    pub fn label(&self) -> String {
        match self {
            Self::Key(query, _) => slow::shown(b"GET", &query.key),
            Self::Keys(query) => slow::shown(b"GET keys", &query.keys.join(&b' ')),
            Self::Page(query) => {
                slow::shown(b"listing", query.pattern.as_deref().unwrap_or_default())
            }
        }
    }

    /// Reads from one backend, and writes the response, all but its end. Returns the digest for its
    /// ETag, if it gets one.
    pub fn read_from<W: Write>(
        &self,
        attempt: &Attempt,
        peer: ClientHandle,
        frame: Frame,
        response: &mut ResponseWriter<W>,
        memory: &mut Share,
        rights: Option<&Rights>,
    ) -> Result<Option<u64>, ReadError> {
        let is_html = match self {
            Self::Key(KeyQuery { format, .. }, _) | Self::Page(PageQuery { format, .. }) => {
                *format == Format::Html
            }
            // They are data, also for a browser.
            Self::Keys(_) => false,
        };
        let frame = is_html.then_some(frame);
        let mut write_page = |page, response: &mut ResponseWriter<W>| match frame {
            Some(frame) => {
                browse::write_listing_page(attempt, peer, page, frame, response, memory, rights)
            }
            None => write_listing(attempt, peer, page, response, memory, rights),
        };
        let outcome = match (self, frame) {
            (Self::Page(page), _) => write_page(page, response),
            (Self::Key(key, _), Some(frame)) => {
                browse::write_key_page(attempt, peer, key, frame, response, rights)
            }
            (Self::Key(key, _), None) => write_value(attempt, peer, key, response, rights),
            (Self::Keys(keys), _) => write_values(attempt, peer, keys, response, rights),
        };
        let outcome = match (outcome, self) {
            (Ok(ReadOutcome::Refused(404, _)), Self::Key(_, Some(page))) => {
                write_page(page, response)
            }
            (outcome, _) => outcome,
        };
        let (status, error) = match outcome {
            Ok(ReadOutcome::Written(digest)) => return Ok(digest),
            Ok(ReadOutcome::Refused(status, error)) => (status, error),
            Err(error @ ReadError::KeysTooLong) => (400, ErrorBody::new(error.to_string())),
            Err(error) => return Err(error),
        };
        write_error(frame, status, &error, response)?;
        Ok(None)
    }
}

/// Reads from the backend that has the fewest leases, and from others if it fails; sends the response.
pub(super) fn send_balanced(
    client: &mut Client,
    read: &mut HttpRead,
    failover: Failover,
) -> SentResponse {
    let balancer = client.balancer;
    // The end of the connection ends the body then: if it is cut, that must look like an error.
    let ends_with_connection = read.request.version != Version::Http11;
    if ends_with_connection {
        client.stream().reset_on_close(true);
    }
    let balanced = BalancedRead {
        balancer,
        peer: client.handle(),
        first_lease: read.lease.take(),
        read,
        failover,
        memory: client.share(),
        staleness: None,
        response: begin(&mut *client, &read.request, balancer),
        changes: 0,
        is_held: false,
    };
    let sent = balanced.run();
    if ends_with_connection && sent.as_ref().map_or(true, |sent| sent.cut.is_none()) {
        client.stream().reset_on_close(false);
    }
    sent.unwrap_or_else(|refusal| refusal.send_refusal(client, &read.request))
}

/// A lease of the backend that is tried, and the read's entry in the slow lane if it is not quick.
type Place = (Lease, Option<Arc<OpenRead>>);

struct BalancedRead<'a, 'c, 'r> {
    balancer: &'a Balancer,
    peer: ClientHandle<'c>,
    read: &'r HttpRead,
    failover: Failover<'a>,
    /// The memory that it takes.
    memory: Share<'a>,
    /// How old the data of the attempt are at most, if the response has to say that.
    staleness: Option<Duration>,
    response: ResponseWriter<&'r mut Client<'c>>,
    /// The lease that was taken before, until an attempt has used it.
    first_lease: Option<Lease>,
    /// How often the value has changed while it was read.
    changes: usize,
    /// Whether `--demo-delay` has held the request.
    is_held: bool,
}

impl BalancedRead<'_, '_, '_> {
    /// Sends the response of the first backend that answers. Returns the response to be sent if no
    /// backend could answer, or the read is refused.
    fn run(mut self) -> Result<SentResponse, LocalResponse> {
        loop {
            self.failover.forgive();
            let Some((attempt, lease)) = self.next_attempt()? else {
                // A backend that is up, but must not be read from in this database, is not waited for, nor is one
                // whose data are too old.
                let is_waiting = self.refusals().is_empty() && self.too_old().is_empty();
                match is_waiting && self.failover.wait() {
                    true => continue,
                    false => return Err(self.no_backend_answered()),
                }
            };
            let read = self.read_from(&attempt);
            self.response.writer().socket.note_lease(None);
            match read {
                Err(ReadError::OtherBackend) => {
                    self.failover.pass_over(&attempt);
                    self.response.restart();
                }
                Err(ReadError::Backend(error)) if !self.response.is_sent() => {
                    self.response.restart();
                    self.note_failed(&attempt, error)?;
                }
                read => {
                    // The backend has done its part: what the client has still to take is kept by us.
                    drop(lease);
                    return Ok(self.finish(&attempt, read));
                }
            }
        }
    }

    /// Takes a lease for the next attempt; `None` if no backend is left, or no time.
    fn next_attempt(&mut self) -> Result<Option<(Attempt, Lease)>, LocalResponse> {
        let (lease, open) = loop {
            let Some((lease, open)) = self.place()? else { return Ok(None) };
            let Some(backend) = lease.backend() else { return Ok(None) };
            // The wait for a place may have been long.
            if let Some(staleness) = self.read.max_staleness.admit(backend, self.balancer) {
                self.staleness = staleness;
                break (lease, open);
            }
        };
        let delay = self.balancer.config().demo_delay;
        if !std::mem::replace(&mut self.is_held, true) && !delay.is_zero() {
            // With its lease, so that the table can be watched.
            self.balancer.access_log.write(|| Event::Held { seconds: delay.as_secs_f64() });
            thread::sleep(delay);
        }
        self.response.writer().socket.note_lease(Some(&lease));
        let attempt = lease
            .backend()
            .and_then(|backend| self.failover.attempt(backend, open, Instant::now()));
        Ok(attempt.map(|attempt| (attempt, lease)))
    }

    /// Takes a lease of a backend that may be tried. A read that is not quick also gets its place in
    /// the slow lane.
    fn place(&mut self) -> Result<Option<Place>, LocalResponse> {
        let first = self.first_lease.take();
        let Self { balancer, failover, read, peer, .. } = &*self;
        let backends = balancer.backends();
        let serves = |backend| {
            backends.get(backend).is_some_and(|backend| backend.serves_in(read.query.database()))
                && read.max_staleness.allows(backend, balancer)
        };
        let first = first.filter(|lease| {
            lease.backend().is_some_and(|backend| read.max_staleness.allows(backend, balancer))
        });
        // A read that `--demo-delay` holds is no reason to keep others away.
        if failover.class() == Class::Quick || !balancer.config().demo_delay.is_zero() {
            let may_serve = |backend| failover.may_try(backend) && serves(backend);
            let lease = first.or_else(|| balancer.table.lease(Instant::now(), may_serve));
            return Ok(lease.map(|lease| (lease, None)));
        }
        let preferred = first.as_ref().and_then(Lease::backend);
        let info = ReadInfo {
            class: failover.class(),
            keys: read.key.into_iter().collect(),
            label: read.query.label(),
            is_alone: false,
            context: None,
        };
        match failover.begin(info, preferred, serves, || peer.is_gone()) {
            Ok(LaneOutcome::Open(open)) => {
                let backend = open.backend();
                let another = || balancer.table.lease(Instant::now(), |other| other == backend);
                let lease = first.filter(|_| preferred == Some(backend)).or_else(another);
                Ok(lease.map(|lease| (lease, Some(open))))
            }
            // Two requests never share a reply.
            Ok(LaneOutcome::Answered(_)) | Err(LaneError::NoBackend) => Ok(None),
            Err(error) => Err(LocalResponse::unavailable(error.to_string())),
        }
    }

    /// Reads from one backend and writes the response, all but its end.
    fn read_from(&mut self, attempt: &Attempt) -> Result<(), ReadError> {
        self.memory.set(HTTP_READ_BYTES).map_err(io::Error::from)?;
        let (balancer, response) = (self.balancer, &mut self.response);
        let frame = Frame::new(&balancer.config(), self.read.query.database());
        add_backend_headers(response, &attempt.backend, Caching::of(balancer));
        add_timing(response, &attempt.backend, self.read.began, attempt.began);
        freshness::add_header(response, self.staleness);
        let max_stall = balancer.config().backend_timeout / 2;
        response.writer().held = Some((Arc::clone(&attempt.backend.backend), max_stall));
        let (HttpRead { query, caller, .. }, memory) = (self.read, &mut self.memory);
        let rights = caller.rights.as_ref();
        let result = query.read_from(attempt, self.peer, frame, response, memory, rights);
        response.writer().held = None;
        // A client that knows that the connection goes on may have sent its next request already.
        if balancer.is_draining() && !response.is_sent() {
            response.close();
        }
        // A long response to HEAD is complete with its head, whatever comes after.
        if result.is_ok() || response.is_done() {
            let until = response.writer().answer_began().unwrap_or_else(Instant::now);
            response.answered(until);
            response.settle(self.read.validators(result.as_ref().ok().copied().flatten()));
            let time = until.saturating_duration_since(attempt.began);
            let (backend, kind) = (&attempt.backend.metrics, self.read.query.kind());
            self.complete(Some(AnsweredBy { backend, kind, time }), Outcome::Answered);
        }
        result.map(|_| ())
    }

    /// Notes a failed attempt. Returns the response to be sent if there must not be another.
    fn note_failed(&mut self, attempt: &Attempt, error: BackendError) -> Result<(), LocalResponse> {
        if matches!(error, BackendError::Changed) && self.changes < MAX_CHANGES {
            self.changes += 1;
            return Ok(());
        }
        let database = self.read.query.database();
        if let Some(why) = database.and_then(|number| no_such_database(number, attempt, &error)) {
            return Err(LocalResponse::error(400, why));
        }
        let refusal = error.refusal().map(str::to_owned);
        let refusal = refusal.filter(|refusal| attempt.backend.refuses(refusal));
        self.failover.failed(attempt, error, Instant::now());
        if let Some(refusal) = refusal {
            let status = if is_not_permitted(&refusal) { 403 } else { 503 };
            return Err(LocalResponse::error(status, refusal));
        }
        if self.failover.is_over() {
            let poisonous = self.failover.refusal().map(LocalResponse::unavailable);
            return Err(poisonous.unwrap_or_else(|| self.no_backend_answered()));
        }
        Ok(())
    }

    /// Sends the end of the response, unless it has to be cut.
    fn finish(mut self, attempt: &Attempt, read: Result<(), ReadError>) -> SentResponse {
        let finished = match read {
            Ok(()) => self.response.finish().map_err(ReadError::Client),
            Err(error) => {
                let is_complete = self.response.is_done();
                if let ReadError::Backend(error) = &error {
                    Failover::count_failure(attempt, error);
                    if !is_complete {
                        self.complete(None, Outcome::Cut);
                    }
                }
                if is_complete { Ok(()) } else { Err(error) }
            }
        };
        SentResponse {
            keep_alive: finished.is_ok() && self.response.keeps_alive(),
            cut: finished.err().map(|error| error.to_string()),
            ..SentResponse::from_backend(&attempt.backend, &self.response)
        }
    }

    /// Counts the request, before the end of its response.
    fn complete(&self, answered_by: Option<AnsweredBy>, outcome: Outcome) {
        complete(&self.balancer.metrics, answered_by, self.response.sent_status(), outcome);
    }

    /// Returns why backends that were not tried are up, but must not be read from in this database.
    fn refusals(&self) -> Vec<(Arc<Member>, String)> {
        let database = self.read.query.database();
        self.failover.refusals(|backend| Some(backend.mode_in(database).database))
    }

    /// Returns the backends that were not tried because their data are too old for the request.
    fn too_old(&self) -> Vec<TooOld> {
        let backends = self.balancer.backends();
        let is_left = |backend: &&Arc<Member>| {
            let is_up = backend.health.state() == BackendState::Up;
            let is_served = backend.serves_in(self.read.query.database());
            is_up && is_served && self.failover.may_try(backend.id)
        };
        self.read.max_staleness.too_old(backends.iter().filter(is_left), self.balancer)
    }

    /// Returns the response after every backend has failed, or was not the one to which the query's
    /// cursor belongs.
    fn no_backend_answered(&self) -> LocalResponse {
        let failover = &self.failover;
        if let Some(trouble) = BackendError::local_trouble(failover.failures()) {
            return LocalResponse::unavailable(trouble);
        }
        let too_old = if failover.is_over() { Vec::new() } else { self.too_old() };
        let all_unreachable = failover.failures().all(BackendError::is_unreachable);
        let is_too_stale = !too_old.is_empty();
        let (status, why): (_, Cow<str>) = if is_too_stale {
            (503, self.read.max_staleness.error(&too_old).into())
        } else if failover.failures().any(BackendError::is_timeout) {
            (504, "no backend answered in time".into())
        } else if self.read.query.has_cursor() && failover.was_anyone_asked() && all_unreachable {
            let why = "the backend of this cursor is gone or was restarted; start again without it";
            (410, why.into())
        } else if all_unreachable {
            (503, "no backend can be reached".into())
        } else {
            (503, "no backend could answer".into())
        };
        let too_old = too_old.into_iter().map(|one| (Arc::clone(&one.backend), one.reason()));
        let troubles = failover.troubles().into_iter().chain(self.refusals()).chain(too_old);
        let failures = troubles.map(|(backend, error)| {
            let backend = backend.name().to_owned().into();
            BackendFailure { backend, error }
        });
        let error = ErrorBody { backends: failures.collect(), ..ErrorBody::new(why) };
        let response = LocalResponse::error_body(status, error);
        let response = if is_too_stale { response.because(Refusal::TooStale) } else { response };
        if status == 410 { response } else { response.with_header("Retry-After", "1") }
    }
}

/// Returns what to tell a client whose database the backend does not have.
fn no_such_database(number: i64, attempt: &Attempt, error: &BackendError) -> Option<String> {
    const ERRORS: [&str; 3] = [
        "ERR DB index is out of range",
        "ERR invalid DB index",
        "ERR SELECT is not allowed in cluster mode",
    ];
    let BackendError::Redis(said) = error else { return None };
    let is_it = ERRORS.iter().any(|error| said.starts_with(error));
    let name = attempt.backend.name();
    is_it.then(|| format!("db={number}: {name} has no such database ({said})"))
}
