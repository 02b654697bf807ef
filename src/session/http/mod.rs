//! The conversation with an HTTP client: requests in, answers out, one line a request in the log.

mod admin;
mod browse;
mod exchange;
mod page;
mod quick;
mod read;

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::Level;

use self::browse::Frame;
use self::exchange::ReadError;
use self::quick::{Question, QuickReads, Stage};
use self::read::{Ask, Outcome};
use crate::backend::{Backend, BackendError, Class, is_not_permitted, is_timeout};
use crate::balance::Balancer;
use crate::balance::Lease;
use crate::balance::failover::Failover;
use crate::balance::slow::{Begun, LaneError, OpenRead, ReadInfo, ReadTraits};
use crate::health::Member;
use crate::http::target::{self, Target};
use crate::http::{
    self, BackendFailure, ErrorBody, Method, Request, RequestError, ResponseWriter, Version,
};
use crate::logging::access_log::{self, Event, Text};
use crate::metrics;
use crate::net::protocol::WireProtocol;
use crate::session::TICK;
use crate::session::client::{Client, ClientHandle, Endpoint};

/// How long a request's head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a read is begun again because the value changed under it.
const MAX_CHANGES: usize = 30;

/// Answers requests until the client or we have had enough. `buffer` holds what it said so far,
/// and began `since`.
#[inline(never)]
pub fn converse(mut client: Client, mut buffer: Vec<u8>, since: Instant, balancer: &Arc<Balancer>) {
    let mut since = Some(since);
    let mut quick = QuickReads::new(client.socket, client.address, balancer);
    while see_to_answer(&mut client, &mut quick, &mut buffer, balancer) {
        let (request, length) = match next_request(&mut client, &mut buffer, since.take()) {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(refusal) => return refuse(&mut client, &refusal, balancer),
        };
        buffer.drain(..length);
        // An empty line behind a request begins no other one.
        let has_more = !(buffer.is_empty() || buffer == b"\r\n");
        if !has_more {
            // An idle client holds no buffer.
            buffer = Vec::new();
        }
        let quick = if has_more { None } else { Some(&mut quick) };
        if !answer(&mut client, request, quick, balancer) {
            return;
        }
    }
}

/// While a read is under way on a shared connection, waits for it to be answered and for the next
/// request, whichever comes first. Whether the conversation goes on.
fn see_to_answer(
    client: &mut Client,
    quick: &mut QuickReads,
    buffer: &mut Vec<u8>,
    balancer: &Balancer,
) -> bool {
    let (mut has_more, mut is_gone) = (false, false);
    loop {
        match quick.stage(has_more, balancer) {
            Stage::None => return true,
            Stage::UnderWay if has_more => {}
            Stage::UnderWay => match client.read_beside(quick.wake_pipe(), TICK, buffer) {
                Err(error) if is_timeout(&error) => quick.renew_wake_pipe(),
                // Who has asked is answered, and that noted, also behind its end.
                read => (has_more, is_gone) = (true, !matches!(read, Ok(1..))),
            },
            Stage::Answered { unsent, is_last } => {
                let is_sent = client.write_all(&unsent).is_ok();
                if is_sent && is_last && !is_gone {
                    client.linger();
                }
                return is_sent && !is_last;
            }
            Stage::Unanswered(question, failover) => {
                client.begin_answer();
                return ask(client, question, failover, balancer);
            }
        }
    }
}

/// Why there is no next request.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the request's head took longer than {} seconds", HEAD_TIMEOUT.as_secs())]
    TooSlow,
}

/// Waits for the next whole head; `None` when the client is gone, or idle for too long.
fn next_request(
    client: &mut Client,
    buffer: &mut Vec<u8>,
    since: Option<Instant>,
) -> Result<Option<(Request, usize)>, Refusal> {
    if buffer.is_empty() && !matches!(client.read_more(buffer), Ok(1..)) {
        return Ok(None);
    }
    let deadline = since.unwrap_or_else(Instant::now) + HEAD_TIMEOUT;
    let mut seen = 0;
    loop {
        // A head ends with a line, so bytes without a line end can't complete one; but the first
        // may show that none will come.
        let says_something = seen == 0
            || buffer[seen..].contains(&b'\n')
            || buffer.len() > http::MAX_REQUEST_LINE_BYTES;
        if says_something && let Some(next) = http::parse(buffer)? {
            return Ok(Some(next));
        }
        seen = buffer.len();
        match client.read_until(deadline, buffer) {
            Ok(1..) => {}
            Err(error) if Instant::now() >= deadline || is_timeout(&error) => {
                return Err(Refusal::TooSlow);
            }
            Ok(_) | Err(_) => return Ok(None),
        }
    }
}

fn refuse(client: &mut Client, refusal: &Refusal, balancer: &Balancer) {
    let status = match refusal {
        Refusal::Request(error) => error.status(),
        Refusal::TooSlow => 408,
    };
    let client_address = client.address;
    balancer.access_log.write(|| Event::Refused {
        client: client_address,
        status,
        reason: refusal.to_string(),
    });
    if client.endpoint == Endpoint::Public {
        balancer.metrics.answered_here.http.add_one();
        balancer.metrics.refuse(WireProtocol::Http, metrics::Refusal::BadRequest);
    }
    let mut answer = ResponseWriter::to_no_request(&mut *client, SystemTime::now);
    answer.status(status);
    let sent = answer.json(&ErrorBody::new(refusal.to_string())).and_then(|()| answer.finish(None));
    if sent.is_ok() {
        client.linger();
    }
}

/// How one request ended, for the log.
pub struct Ended {
    status: u16,
    /// The backend that answered.
    backend: Option<Arc<str>>,
    /// Whether the connection goes on behind it.
    pub keep_alive: bool,
    /// How much the line in the log matters.
    level: Level,
    /// What went wrong behind the first byte of the answer.
    pub cut: Option<String>,
}

impl Ended {
    /// With an answer that a backend gave.
    pub fn by<W: Write>(backend: &Member, answer: &ResponseWriter<W>) -> Self {
        Self {
            status: answer.sent_status(),
            backend: Some(Arc::clone(&backend.health.name)),
            keep_alive: answer.keeps_alive(),
            level: Level::Info,
            cut: None,
        }
    }
}

/// Answers one request, or asks for that by a quick way; whether the conversation goes on.
fn answer(
    client: &mut Client,
    request: Request,
    quick: Option<&mut QuickReads>,
    balancer: &Balancer,
) -> bool {
    client.begin_answer();
    let began = Instant::now();
    let wanted = match check(&request, balancer, client.endpoint) {
        Ok(Target::Key(key, listing)) => {
            balancer.metrics.http_keys.add_one();
            Ask::Key(key, listing)
        }
        Ok(Target::Page(page)) => {
            balancer.metrics.http_listings.add_one();
            Ask::Page(page)
        }
        ours => {
            let ended = answer_ourselves(client, &request, ours, balancer);
            return end(client, &request, began, &ended, balancer);
        }
    };
    let key = wanted.read_key(&balancer.slow_lane.kinds);
    let traits = match key.map_or(Ok(ReadTraits::QUICK), |key| balancer.traits_of(&key)) {
        Ok(traits) => traits,
        Err(why) => {
            let ended = reply_refusal(client, &request, balancer, LocalResponse::error(503, why));
            return end(client, &request, began, &ended, balancer);
        }
    };
    let question = Box::new(Question { request, ask: wanted, began, lease: None, key, traits });
    let left = match quick {
        Some(quick) => quick.ask(question),
        None => Some(question),
    };
    left.is_none_or(|question| {
        let failover = Failover::new(balancer, question.traits);
        ask(client, question, failover, balancer)
    })
}

/// Answers what needs no backend.
fn answer_ourselves<'a>(
    client: &mut Client,
    request: &Request,
    target: Result<Target, LocalResponse>,
    balancer: &Balancer,
) -> Ended {
    match target {
        Ok(Target::Admin(internal)) => {
            let answer = admin::reply(&internal, balancer, client.endpoint);
            // A page that looks every half second, and probes, would drown the rest.
            give(client, request, balancer, answer, Level::Debug)
        }
        Ok(_) => reply(client, request, balancer, LocalResponse::empty(204)),
        Err(refused) if client.endpoint == Endpoint::Admin || target::is_admin(&request.target) => {
            give(client, request, balancer, refused, Level::Debug)
        }
        Err(refused) => reply_refusal(client, request, balancer, refused),
    }
}

/// Asks backends, and answers; whether the conversation goes on.
fn ask<'a>(
    client: &mut Client,
    mut question: Box<Question>,
    failover: Failover<'a>,
    balancer: &'a Balancer,
) -> bool {
    let ended = balanced(client, &mut question, failover, balancer);
    end(client, &question.request, question.began, &ended, balancer)
}

/// Notes the end of a request; whether the conversation goes on.
fn end(
    client: &mut Client,
    request: &Request,
    began: Instant,
    ended: &Ended,
    balancer: &Balancer,
) -> bool {
    log(balancer, client.address, request, began, client.answer_bytes, ended);
    // Half an answer must not get the end of a whole one.
    if !ended.keep_alive && ended.cut.is_none() {
        client.linger();
    }
    ended.keep_alive
}

/// Writes the line that a request has in the log.
pub fn log(
    balancer: &Balancer,
    client: SocketAddr,
    request: &Request,
    began: Instant,
    bytes: u64,
    ended: &Ended,
) {
    balancer.access_log.write_at(ended.level, || {
        Event::Request(access_log::HttpRequest {
            client,
            method: Text::cut(&request.method_name),
            target: Text::cut(&request.target),
            status: ended.status,
            backend: ended.backend.as_deref().map(str::to_owned),
            ms: began.elapsed().as_micros() as f64 / 1000.0,
            bytes,
            cut: ended.cut.clone(),
        })
    });
}

/// What the request asks for, or the answer that refuses it.
fn check(
    request: &Request,
    balancer: &Balancer,
    endpoint: Endpoint,
) -> Result<Target, LocalResponse<'static>> {
    if request.method == Method::Other {
        let mut refused =
            LocalResponse::error(405, "only GET and HEAD are served: nobody can write here");
        refused.headers.push(("Allow", "GET, HEAD"));
        return Err(refused);
    }
    if let Some(host) = &request.host {
        let config = &balancer.config;
        let name = http::host_name(host);
        let listen = match endpoint {
            Endpoint::Public => config.listen,
            Endpoint::Admin => config.admin_listen.unwrap_or(config.listen),
        };
        // A web page elsewhere can make a browser ask us, under a name of its own.
        if listen.ip().is_loopback()
            && !http::is_local_host(&name)
            && config.allow_hosts.iter().all(|allowed| *allowed != name)
        {
            let why = "this Host is not served here; --allow-host NAME adds it";
            return Err(LocalResponse::error(421, why));
        }
    }
    match target::parse(&request.target, wants_html(request)) {
        Ok(target) if endpoint == Endpoint::Public || matches!(target, Target::Admin(_)) => {
            Ok(target)
        }
        Ok(Target::Page(_)) => Err(LocalResponse::redirect("/-/")),
        Ok(_) => Err(LocalResponse::error(404, "only /-/ is served at this address")),
        Err(why) => Err(LocalResponse::error(400, why)),
    }
}

/// Whether a person is to read the answer.
fn wants_html(request: &Request) -> bool {
    target::wants_html(&request.target, request.accepts_html)
}

/// What the data browser's pages have around the data.
fn frame(balancer: &Balancer) -> Frame {
    let config = &balancer.config;
    Frame { shows_status_link: config.status_address() == Some(config.listen) }
}

/// An answer of our own, without a backend.
pub struct LocalResponse<'a> {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Body<'a>,
}

enum Body<'a> {
    Empty,
    Bytes(&'static str, Cow<'static, [u8]>),
    Error(Box<ErrorBody<'a>>),
}

impl<'a> LocalResponse<'a> {
    fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Empty }
    }

    fn redirect(to: &'static str) -> Self {
        Self { headers: vec![("Location", to)], ..Self::empty(302) }
    }

    /// An HTML document, with what it may do.
    pub fn page(html: &'static [u8], policy: &'static str) -> Self {
        let headers = vec![
            ("Cache-Control", "no-cache"),
            ("Content-Security-Policy", policy),
            ("Referrer-Policy", "no-referrer"),
        ];
        let body = Body::Bytes(http::HTML, Cow::Borrowed(html));
        Self { status: 200, headers, body }
    }

    /// A short text.
    pub fn text(status: u16, text: &'static str) -> Self {
        let body = Body::Bytes("text/plain; charset=utf-8", Cow::Borrowed(text.as_bytes()));
        Self { status, headers: Vec::new(), body }
    }

    /// What was asked for, as it is now.
    pub fn bytes(content_type: &'static str, bytes: Vec<u8>) -> Self {
        let headers = vec![("Cache-Control", "no-cache")];
        Self { status: 200, headers, body: Body::Bytes(content_type, Cow::Owned(bytes)) }
    }

    /// What is wrong.
    pub fn error(status: u16, why: impl Into<Cow<'a, str>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Error(Box::new(ErrorBody::new(why))) }
    }
}

/// Gives an answer of ours to a request for data.
fn reply<'a>(
    client: &mut Client,
    request: &Request,
    balancer: &Balancer,
    reply: LocalResponse,
) -> Ended {
    balancer.metrics.answered_here.http.add_one();
    give(client, request, balancer, reply, Level::Info)
}

/// The same, where that is not what was asked for.
fn reply_refusal<'a>(
    client: &mut Client,
    request: &Request,
    balancer: &Balancer,
    refused: LocalResponse,
) -> Ended {
    let why = match refused.status {
        405 => metrics::Refusal::Write,
        403 | 503 | 504 => metrics::Refusal::Unanswered,
        _ => metrics::Refusal::BadRequest,
    };
    balancer.metrics.refuse(WireProtocol::Http, why);
    reply(client, request, balancer, refused)
}

fn give<'a>(
    client: &mut Client,
    request: &Request,
    balancer: &Balancer,
    reply: LocalResponse,
    level: Level,
) -> Ended {
    let is_page = client.endpoint == Endpoint::Public && wants_html(request);
    let answer =
        ResponseWriter::new(&mut *client, request, !balancer.is_draining(), SystemTime::now);
    let status = reply.status;
    let frame = is_page.then(|| frame(balancer));
    let keep_alive = send(answer, reply, frame).unwrap_or(false);
    Ended { status, backend: None, keep_alive, level, cut: None }
}

/// An error is a page in this frame where a person is to read it.
fn send<W: Write>(
    mut answer: ResponseWriter<W>,
    reply: LocalResponse,
    frame: Option<Frame>,
) -> io::Result<bool> {
    answer.status(reply.status);
    for (name, value) in reply.headers {
        answer.header(name, value);
    }
    match reply.body {
        Body::Empty => {}
        Body::Bytes(content_type, bytes) => {
            answer.header("Content-Type", content_type);
            answer.write_all(&bytes)?;
        }
        Body::Error(error) => {
            answer.header("Vary", "Accept");
            answer.header("Cache-Control", "no-cache");
            match frame {
                Some(frame) => browse::error(frame, reply.status, &error, &mut answer)?,
                None => answer.json(error.as_ref())?,
            }
        }
    }
    answer.finish(None)?;
    Ok(answer.keeps_alive())
}

/// Reads from the backend that has the fewest leases, and from others when it fails, as long as the
/// client has not been given a byte.
fn balanced(
    client: &mut Client,
    question: &mut Question,
    mut failover: Failover,
    balancer: &Balancer,
) -> Ended {
    let peer = client.handle();
    let mut changes = 0;
    let ends_with_connection = question.request.version != Version::Http11;
    if ends_with_connection {
        client.stream().reset_on_close(true);
    }
    let mut first_lease = question.lease.take();
    let Question { request, ask, .. } = &*question;
    let mut answer =
        ResponseWriter::new(&mut *client, request, !balancer.is_draining(), SystemTime::now);
    let mut is_first = true;
    let refusal = loop {
        failover.forgive();
        let (lease, open) = match place(&mut first_lease, &failover, question, peer, balancer) {
            Ok(place) => place,
            Err(error) => break Some(unavailable(error.to_string())),
        };
        if lease.is_some() && std::mem::take(&mut is_first) {
            demo_delay(balancer);
        }
        let backend = lease.as_ref().and_then(Lease::backend);
        let attempt = backend.and_then(|backend| failover.attempt(backend, open));
        let (Some(_lease), Some(attempt)) = (lease, attempt) else {
            // One that is up, and may not be read from in this database, is not waited for.
            match !refuses_while_up(balancer, &failover) && failover.wait() {
                true => continue,
                false => break None,
            }
        };
        let backend = &attempt.backend;
        begin(&mut answer, backend);
        answer.writer().held =
            Some((Arc::clone(&backend.backend), balancer.config.backend_timeout / 2));
        let outcome = read::answer(&attempt, ask, frame(balancer), &mut answer);
        answer.writer().held = None;
        // Who has been told that the connection goes on may have sent the next request already.
        if balancer.is_draining() && !answer.is_sent() {
            answer.close();
        }
        let is_answered = matches!(outcome, Ok(Outcome::Answered(_))) || answer.is_done();
        if is_answered {
            let until = answer.writer().answer_began().unwrap_or_else(Instant::now);
            let time = until.saturating_duration_since(attempt.began);
            backend.metrics.answer(WireProtocol::Http, time);
        }
        let written = match outcome {
            Ok(Outcome::Elsewhere) => {
                failover.pass_over(&attempt);
                answer.restart();
                continue;
            }
            Err(ReadError::Backend(error)) if !answer.is_sent() => {
                answer.restart();
                if matches!(error, BackendError::Changed) && changes < MAX_CHANGES {
                    changes += 1;
                    continue;
                }
                let refused = error.refusal().map(str::to_owned);
                let refused = refused.filter(|refusal| backend.refuses(refusal));
                failover.failed(&attempt, error);
                if let Some(refusal) = refused {
                    let status = if is_not_permitted(&refusal) { 403 } else { 503 };
                    break Some(LocalResponse::error(status, refusal));
                }
                if failover.is_over() {
                    break failover.refusal().map(unavailable);
                }
                continue;
            }
            Ok(Outcome::Answered(digest)) => {
                let if_none_match = request.if_none_match.as_deref();
                answer
                    .finish(digest.map(|digest| (digest, if_none_match)))
                    .map_err(ReadError::Client)
            }
            Err(failure) => {
                if let ReadError::Backend(error) = &failure {
                    Failover::note(&attempt, error);
                    if !is_answered {
                        balancer.metrics.cut.http.add_one();
                    }
                }
                // The head of a long answer is all that HEAD asked for.
                if is_answered { Ok(()) } else { Err(failure) }
            }
        };
        let ended = Ended {
            keep_alive: written.is_ok() && answer.keeps_alive(),
            cut: written.err().map(|failure| failure.to_string()),
            ..Ended::by(backend, &answer)
        };
        if ended.cut.is_none() && ends_with_connection {
            client.stream().reset_on_close(false);
        }
        return ended;
    };
    client.stream().reset_on_close(false);
    let reply = refusal.unwrap_or_else(|| unanswered(ask, &failover, balancer));
    reply_refusal(client, request, balancer, reply)
}

/// Where a read is tried next: a lease there, and, for one that is not quick, that it is unanswered
/// there. `None` where no backend is left.
type Place = (Option<Lease>, Option<Arc<OpenRead>>);

fn place(
    first_lease: &mut Option<Lease>,
    failover: &Failover,
    question: &Question,
    peer: ClientHandle,
    balancer: &Balancer,
) -> Result<Place, LaneError> {
    let backends = balancer.backends();
    let serves = |backend| backends.get(backend).is_some_and(|backend| backend.serves_own());
    // While it is held to be watched, a read is no reason to keep others away.
    if failover.class() == Class::Quick || !balancer.config.demo_delay.is_zero() {
        let may_serve = |backend| failover.may_try(backend) && serves(backend);
        let next = || balancer.table.lease(Instant::now(), may_serve);
        return Ok((first_lease.take().or_else(next), None));
    }
    let first = first_lease.take();
    let preferred = first.as_ref().and_then(Lease::backend);
    let keys = question.key.into_iter().collect();
    let label = question.ask.label();
    let info = ReadInfo { class: failover.class(), keys, label, is_alone: false, context: None };
    match failover.begin(info, preferred, serves, || peer.is_gone()) {
        // No two requests share an answer.
        Ok(Begun::Answered(_)) => Ok((None, None)),
        Ok(Begun::Open(open)) => {
            let backend = open.backend();
            let another = || balancer.table.lease(Instant::now(), |other| other == backend);
            let lease = first.filter(|_| preferred == Some(backend)).or_else(another);
            Ok((lease, Some(open)))
        }
        Err(LaneError::NoBackend) => Ok((None, None)),
        Err(error) => Err(error),
    }
}

/// What a client is told whose read may not be sent, or not again.
fn unavailable<'a>(why: String) -> LocalResponse<'a> {
    let mut reply = LocalResponse::error(503, why);
    reply.headers.push(("Retry-After", "1"));
    reply
}

/// Whether one that could still be tried is up, but must not be read from in this database.
fn refuses_while_up(balancer: &Balancer, failover: &Failover) -> bool {
    let backends = balancer.backends();
    let mut left = backends.iter().filter(|backend| failover.may_try(backend.id));
    left.any(|backend| backend.health.refusal_while_up(backend.own_mode().database).is_some())
}

/// Begins the answer of a backend.
pub fn begin<W: Write>(answer: &mut ResponseWriter<W>, backend: &Backend) {
    answer.header("X-Served-By", header_value(backend.name()));
    answer.header("Cache-Control", "no-cache");
    answer.header("Vary", "Accept");
}

/// With `--demo-delay`, holds the request with its lease taken, so that the table can be watched.
fn demo_delay(balancer: &Balancer) {
    let delay = balancer.config.demo_delay;
    if !delay.is_zero() {
        balancer.access_log.write(|| Event::Held { seconds: delay.as_secs_f64() });
        thread::sleep(delay);
    }
}

/// A socket's path may hold what a header may not.
fn header_value(name: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return name.to_owned();
    }
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Every backend has failed, or none is the one that the cursor belongs to.
fn unanswered(ask: &Ask, failover: &Failover, balancer: &Balancer) -> LocalResponse<'static> {
    if let Some(local) = BackendError::local_trouble(failover.failures()) {
        let mut reply = LocalResponse::error(503, local);
        reply.headers.push(("Retry-After", "1"));
        return reply;
    }
    let timed_out = failover.failures().any(BackendError::is_timeout);
    let (status, why) = match timed_out {
        true => (504, "no backend answered in time"),
        false
            if ask.has_cursor()
                && failover.was_anyone_asked()
                && failover.failures().all(BackendError::is_unreachable) =>
        {
            (410, "the backend of this cursor is gone or was restarted; start again without it")
        }
        false if failover.failures().all(BackendError::is_unreachable) => {
            (503, "no backend can be reached")
        }
        false => (503, "no backend could answer"),
    };
    let backends = balancer.backends();
    let refusals = backends.iter().filter_map(|backend| {
        let refusal = backend.health.refusal_while_up(backend.own_mode().database)?;
        failover.may_try(backend.id).then(|| (Arc::clone(backend), refusal))
    });
    let troubles = failover.troubles().into_iter().chain(refusals);
    let backends = troubles.map(|(backend, error)| BackendFailure {
        backend: backend.name().to_owned().into(),
        error,
    });
    let backends = backends.collect();
    let headers = if status == 410 { Vec::new() } else { vec![("Retry-After", "1")] };
    let error = ErrorBody { backends, ..ErrorBody::new(why) };
    LocalResponse { status, headers, body: Body::Error(Box::new(error)) }
}
