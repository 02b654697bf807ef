//! The conversation with an HTTP client: requests in, answers out, one line a request in the log.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, info, log_enabled};

use super::Client;
use super::browse::{self, Frame};
use super::exchange::Failure;
use super::read::{self, Outcome};
use crate::backend::{BackendError, is_timeout};
use crate::balancer::Balancer;
use crate::failover::Failover;
use crate::http::target::{self, Target};
use crate::http::{
    self, Answer, BackendFailure, ErrorBody, Method, Request, RequestError, Version,
};

/// How long a request's head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a read is begun again because the value changed under it.
const MAX_CHANGES: usize = 30;

/// What of a request's method and target goes into the log, in characters.
const LOGGED_CHARS: usize = 256;

/// Answers requests until the client or we have had enough. `buffer` holds what it said so far,
/// and began `since`.
pub fn converse(mut client: Client, mut buffer: Vec<u8>, since: Instant, balancer: &Balancer) {
    let mut since = Some(since);
    loop {
        let (request, length) = match next_request(&mut client, &mut buffer, since.take()) {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(refusal) => return refuse(&mut client, &refusal),
        };
        buffer.drain(..length);
        let ended = answer(&mut client, &request, balancer);
        if !ended.keep_alive {
            // Half an answer must not get the end of a whole one.
            if ended.cut.is_none() {
                client.linger();
            }
            return;
        }
        // An empty line behind a request begins no other one.
        if buffer.is_empty() || buffer == b"\r\n" {
            // An idle client holds no buffer.
            buffer = Vec::new();
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

fn refuse(client: &mut Client, refusal: &Refusal) {
    let status = match refusal {
        Refusal::Request(error) => error.status(),
        Refusal::TooSlow => 408,
    };
    info!("{} refused: {status} {refusal}", client.address);
    let mut answer = Answer::to_no_request(&mut *client);
    answer.status(status);
    let sent = answer.json(&ErrorBody::new(refusal.to_string())).and_then(|()| answer.finish(None));
    if sent.is_ok() {
        client.linger();
    }
}

/// How one request ended, for the log.
struct Ended<'a> {
    status: u16,
    /// The backend that answered.
    backend: Option<&'a str>,
    keep_alive: bool,
    /// What went wrong behind the first byte of the answer.
    cut: Option<String>,
}

/// Answers one request.
fn answer<'a>(client: &mut Client, request: &Request, balancer: &'a Balancer) -> Ended<'a> {
    client.begin_answer();
    let began = Instant::now();
    let ended = match check(request, balancer) {
        Err(refused) => reply(client, request, balancer, refused),
        Ok(Target::Key(key, listing)) => {
            balanced(client, request, balancer, &read::Ask::Key(key, listing))
        }
        Ok(Target::Page(page)) => balanced(client, request, balancer, &read::Ask::Page(page)),
        Ok(Target::Ping) => reply(client, request, balancer, Reply::text(200, "PONG\n")),
        Ok(Target::Health) => reply(client, request, balancer, Reply::text(200, "OK\n")),
        Ok(Target::Ready) => reply(client, request, balancer, readiness(balancer)),
        Ok(Target::Favicon) => reply(client, request, balancer, Reply::empty(204)),
        Ok(Target::UnknownInternal) => {
            let why = "nothing is here; a key that begins with -/ is reached as /%2D/…";
            reply(client, request, balancer, Reply::error(404, why))
        }
    };
    // Counts and line in one go, so that the last line shows the last counts.
    let _in_order = log_enabled!(Level::Info).then(|| balancer.log_order());
    info!(
        "{} {} {} {} {} {:.3}ms {}{}",
        client.address,
        logged(&request.method_name),
        logged(&request.target),
        ended.status,
        ended.backend.unwrap_or("-"),
        began.elapsed().as_secs_f64() * 1000.0,
        balancer.counts(),
        ended.cut.as_ref().map(|why| format!(" cut: {why}")).unwrap_or_default(),
    );
    ended
}

fn logged(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_graphic() && c != '\\';
    if text.len() <= LOGGED_CHARS && text.chars().all(is_plain) {
        return text.into();
    }
    let mut shown: String = text.chars().take(LOGGED_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(LOGGED_CHARS).is_some() {
        shown.push('…');
    }
    shown.into()
}

/// What the request asks for, or the answer that refuses it.
fn check(request: &Request, balancer: &Balancer) -> Result<Target, Reply<'static>> {
    if request.method == Method::Other {
        let mut refused = Reply::error(405, "only GET and HEAD are served: nobody can write here");
        refused.header = Some(("Allow", "GET, HEAD"));
        return Err(refused);
    }
    if let Some(host) = &request.host {
        let config = &balancer.config;
        let name = http::host_name(host);
        // A web page elsewhere can make a browser ask us, under a name of its own.
        if config.listen.ip().is_loopback()
            && !http::is_local_host(&name)
            && !config.allow_hosts.contains(&name)
        {
            let why = "this Host is not served here; --allow-host NAME adds it";
            return Err(Reply::error(421, why));
        }
    }
    target::parse(&request.target, wants_html(request)).map_err(|why| Reply::error(400, why))
}

/// Whether a person is to read the answer.
fn wants_html(request: &Request) -> bool {
    target::wants_html(&request.target, request.accepts_html)
}

/// What the data browser's pages have around the data.
fn frame() -> Frame {
    Frame { shows_status_link: true }
}

/// An answer of our own, without a backend.
struct Reply<'a> {
    status: u16,
    header: Option<(&'static str, &'static str)>,
    body: Body<'a>,
}

enum Body<'a> {
    Empty,
    Text(&'static str),
    Error(Box<ErrorBody<'a>>),
}

impl<'a> Reply<'a> {
    fn empty(status: u16) -> Self {
        Self { status, header: None, body: Body::Empty }
    }

    fn text(status: u16, text: &'static str) -> Self {
        Self { status, header: None, body: Body::Text(text) }
    }

    fn error(status: u16, why: impl Into<Cow<'a, str>>) -> Self {
        Self { status, header: None, body: Body::Error(Box::new(ErrorBody::new(why))) }
    }
}

/// Whether new clients should be sent here.
fn readiness(balancer: &Balancer) -> Reply<'static> {
    match balancer.is_ready() {
        true => Reply::text(200, "READY\n"),
        false => Reply::text(503, "NOT READY\n"),
    }
}

fn reply<'a>(
    client: &mut Client,
    request: &Request,
    balancer: &Balancer,
    reply: Reply,
) -> Ended<'a> {
    let answer = Answer::new(&mut *client, request, !balancer.is_draining());
    let status = reply.status;
    let keep_alive = send(answer, reply, wants_html(request)).unwrap_or(false);
    Ended { status, backend: None, keep_alive, cut: None }
}

fn send<W: io::Write>(mut answer: Answer<W>, reply: Reply, html: bool) -> io::Result<bool> {
    answer.status(reply.status);
    if let Some((name, value)) = reply.header {
        answer.header(name, value);
    }
    match reply.body {
        Body::Empty => {}
        Body::Text(text) => {
            answer.header("Content-Type", "text/plain; charset=utf-8");
            io::Write::write_all(&mut answer, text.as_bytes())?;
        }
        Body::Error(error) if html => browse::error(frame(), reply.status, &error, &mut answer)?,
        Body::Error(error) => answer.json(error.as_ref())?,
    }
    answer.finish(None)?;
    Ok(answer.keeps_alive())
}

/// Reads from the backend that has the fewest leases, and from others when it fails, as long as the
/// client has not been given a byte.
fn balanced<'a>(
    client: &mut Client,
    request: &Request,
    balancer: &'a Balancer,
    ask: &read::Ask,
) -> Ended<'a> {
    let mut failover = Failover::new(balancer, false);
    let mut changes = 0;
    let mut is_first = true;
    let ends_with_connection = request.version != Version::Http11;
    if ends_with_connection {
        client.reset_on_close(true);
    }
    let mut answer = Answer::new(&mut *client, request, !balancer.is_draining());
    loop {
        failover.forgive();
        let lease = balancer.table.lease(|backend| failover.may_try(backend));
        let attempt = lease.as_ref().and_then(|lease| failover.attempt(lease.backend()));
        let (Some(_lease), Some(attempt)) = (lease, attempt) else {
            match failover.wait() {
                true => continue,
                false => break,
            }
        };
        if std::mem::take(&mut is_first) {
            demo_delay(balancer);
        }
        let backend = attempt.backend;
        answer.header("X-Served-By", header_value(backend.name()));
        answer.header("Cache-Control", "no-cache");
        answer.header("Vary", "Accept");
        answer.writer().held = Some((Arc::clone(backend), balancer.config.backend_timeout / 2));
        let outcome = read::answer(attempt, ask, frame(), &mut answer);
        answer.writer().held = None;
        // Who has been told that the connection goes on may have sent the next request already.
        if balancer.is_draining() && !answer.is_sent() {
            answer.close();
        }
        let written = match outcome {
            Ok(Outcome::Elsewhere) => {
                failover.pass_over(attempt);
                answer.restart();
                continue;
            }
            Err(Failure::Backend(error)) if !answer.is_sent() => {
                answer.restart();
                if error.is_change() && changes < MAX_CHANGES {
                    changes += 1;
                    continue;
                }
                failover.failed(attempt, error);
                if failover.is_over() {
                    break;
                }
                continue;
            }
            Ok(Outcome::Answered(digest)) => {
                let if_none_match = request.if_none_match.as_deref();
                answer.finish(digest.map(|digest| (digest, if_none_match))).map_err(Failure::Client)
            }
            Err(failure) => {
                if let Failure::Backend(error) = &failure {
                    Failover::note(attempt, error);
                }
                // The head of a long answer is all that HEAD asked for.
                if answer.is_done() { Ok(()) } else { Err(failure) }
            }
        };
        let ended = Ended {
            status: answer.sent_status(),
            backend: Some(backend.name()),
            keep_alive: written.is_ok() && answer.keeps_alive(),
            cut: written.err().map(|failure| failure.to_string()),
        };
        if ended.cut.is_none() && ends_with_connection {
            client.reset_on_close(false);
        }
        return ended;
    }
    client.reset_on_close(false);
    reply(client, request, balancer, unanswered(ask, &failover))
}

/// With `--demo-delay`, holds the request with its lease taken, so that the table can be watched.
fn demo_delay(balancer: &Balancer) {
    let delay = balancer.config.demo_delay;
    if !delay.is_zero() {
        let in_order = balancer.log_order();
        info!("held for {}: {}", humantime::format_duration(delay), balancer.counts());
        drop(in_order);
        thread::sleep(delay);
    }
}

/// A socket's path may hold what a header may not.
fn header_value(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Every backend has failed, or none is the one that the cursor belongs to.
fn unanswered<'a>(ask: &read::Ask, failover: &Failover<'a>) -> Reply<'a> {
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
    let troubles = failover.troubles().into_iter();
    let backends = troubles.map(|(backend, error)| BackendFailure { backend, error }).collect();
    let retry = (status != 410).then_some(("Retry-After", "1"));
    let error = ErrorBody { backends, ..ErrorBody::new(why) };
    Reply { status, header: retry, body: Body::Error(Box::new(error)) }
}
