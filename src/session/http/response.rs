//! Responses that we make without a backend: errors, and the paths below `/-/`, which show the balancer's
//! own state. Also what all responses from a backend have in common, and what the log says of each.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use log::Level;

use super::browse::{self, Frame};
use super::conversation::route;
use super::cors;
use super::rights::Caller;
use crate::backend::Backend;
use crate::balance::Balancer;
use crate::health::Member;
use crate::http::target::{AdminTarget, Query, Target};
use crate::http::{self, ErrorBody, Request, ResponseWriter, ServerTiming};
use crate::logging::access_log::{Event, HttpRequest, Text};
use crate::metrics::{BackendMetrics, CommandId, Completion, Metrics, Outcome, Refusal};
use crate::net::protocol::WireProtocol;
use crate::observe::prometheus;
use crate::observe::status::Status;
use crate::render::html;
use crate::session::client::{Client, Endpoint};

const TEXT: &str = "text/plain; charset=utf-8";

const STYLE: &str =
    concat!(include_str!("../../web/base.css"), include_str!("../../web/status.css"));
const SCRIPT: &str = include_str!("../../web/status.js");

/// The status page, in one document: it loads nothing else.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = include_str!("../../web/status.html").replacen("/* style */", STYLE, 1);
    page.replacen("/* script */", SCRIPT, 1)
});

/// The status page at the admin address, where no data is: without the link to the data.
static ADMIN_PAGE: LazyLock<String> = LazyLock::new(|| PAGE.replacen(DATA_LINK, "", 1));

const DATA_LINK: &str = "<a class=\"button\" href=\"/\">Browse the data</a>";

/// The description of all that is served over HTTP.
const OPEN_API: &str = include_str!("../../../docs/openapi.json");

/// Allows the page's own style and script, and its requests to us; nothing else.
static POLICY: LazyLock<String> =
    LazyLock::new(|| html::content_security_policy(STYLE, Some(SCRIPT)));

/// A response that we make without a backend.
#[derive(Default)]
pub(super) struct LocalResponse {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    text: Cow<'static, str>,
    /// Written in place of the text.
    error: Option<Box<ErrorBody<'static>>>,
    /// Whether it may not be kept without asking again.
    is_made_now: bool,
    /// Reason of a refusal, if its status does not tell.
    why: Option<Refusal>,
}

impl LocalResponse {
    /// A response without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// A document of this `Content-Type`.
    pub fn document(status: u16, kind: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self { status, text, ..Self::default() }.with_header("Content-Type", kind)
    }

    pub fn error(status: u16, why: impl Into<Cow<'static, str>>) -> Self {
        Self::error_body(status, ErrorBody::new(why))
    }

    pub fn error_body(status: u16, error: ErrorBody<'static>) -> Self {
        Self { status, error: Some(Box::new(error)), ..Self::default() }
    }

    /// An error that may be over in a second.
    pub fn unavailable(why: impl Into<Cow<'static, str>>) -> Self {
        Self::error(503, why).with_header("Retry-After", "1")
    }

    pub fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Has caches ask again each time.
    fn made_now(self) -> Self {
        Self { is_made_now: true, ..self }
    }

    /// Whether it says what is wrong.
    pub fn is_error(&self) -> bool {
        self.error.is_some()
    }

    /// Names the reason of a refusal.
    pub fn because(self, why: Refusal) -> Self {
        Self { why: Some(why), ..self }
    }

    /// Sends the response to a request for data that is refused, and counts it.
    pub fn send_refusal(self, client: &mut Client, request: &Request) -> SentResponse {
        let reason = match (self.why, self.status) {
            (Some(why), _) => why,
            (None, 405) => refused_method(&request.method_name),
            (None, 421) => Refusal::NotServed,
            (None, 403 | 503 | 504) => Refusal::Unanswered,
            (None, _) => Refusal::BadRequest,
        };
        self.send_as(client, request, Outcome::Refused(reason))
    }

    /// Sends the response to a request for data, and counts that as this outcome.
    pub fn send_as(self, client: &mut Client, request: &Request, outcome: Outcome) -> SentResponse {
        complete(&client.balancer.metrics, None, self.status, outcome);
        self.send(client, request, Level::Info)
    }

    pub fn send(self, client: &mut Client, request: &Request, level: Level) -> SentResponse {
        let is_page = client.endpoint == Endpoint::Public && request.wants_html();
        let database = request.query.as_ref().ok().and_then(Query::names_database);
        let frame = is_page.then(|| Frame::new(&client.balancer.config(), database));
        let (balancer, caching) = (client.balancer, Caching::of(client.balancer));
        let mut response = begin(&mut *client, request, balancer);
        let status = self.status;
        let is_sent = self.write_to(frame, caching, &mut response).is_ok();
        let keep_alive = is_sent && response.keeps_alive();
        SentResponse { status, backend: None, keep_alive, level, cut: None }
    }

    fn write_to<W: Write>(
        self,
        frame: Option<Frame>,
        caching: Caching,
        response: &mut ResponseWriter<W>,
    ) -> io::Result<()> {
        response.status(self.status);
        for (name, value) in self.headers {
            response.header(name, value);
        }
        match &self.error {
            None => {
                if self.is_made_now {
                    caching.add_headers(response);
                }
                response.write_all(self.text.as_bytes())?;
            }
            Some(error) => {
                caching.add_headers(response);
                write_error(frame, self.status, error, response)?;
            }
        }
        response.finish()
    }
}

/// Begins the response to a request, with what is the same for all of them.
pub(super) fn begin<W: Write>(out: W, request: &Request, balancer: &Balancer) -> ResponseWriter<W> {
    let keep_alive = !balancer.is_draining();
    let mut response = ResponseWriter::new(out, request, keep_alive, SystemTime::now);
    let config = balancer.config();
    cors::add_headers(&mut response, request, &config);
    if config.http.no_compression {
        response.compress_nothing();
    }
    response.keep_headers();
    response
}

/// Returns the whole response to a probe for which there is no place among the clients of this endpoint.
/// `None` if the bytes are no complete request for `/-/health` or `/-/ready`, or these are not served
/// here.
pub fn probe_response(head: &[u8], endpoint: Endpoint, balancer: &Balancer) -> Option<Vec<u8>> {
    let (request, _) = http::parse(head).ok()??;
    let config = &balancer.config();
    let Ok(Target::Admin(target)) = route(&request, config, endpoint) else { return None };
    let is_served = endpoint == Endpoint::Admin || config.admin_listen.is_none();
    if !is_served || !matches!(target, AdminTarget::Health | AdminTarget::Ready) {
        return None;
    }
    let mut bytes = Vec::new();
    let mut response = begin(&mut bytes, &request, balancer);
    response.close();
    let caching = Caching::of(balancer);
    admin_response(&request, &target, balancer, endpoint, false)
        .write_to(None, caching, &mut response)
        .ok()?;
    Some(bytes)
}

/// Returns the response to a request for the balancer's own state, which came in on this endpoint.
pub(super) fn admin_response(
    request: &Request,
    target: &AdminTarget,
    balancer: &Balancer,
    endpoint: Endpoint,
    shows_keys: bool,
) -> LocalResponse {
    let config = &balancer.config();
    if endpoint == Endpoint::Public {
        if config.admin_listen.is_some() {
            let why = "/-/ is served at another address here (--admin-listen)";
            return LocalResponse::error(404, why);
        }
        if config.no_status && matches!(target, AdminTarget::Page | AdminTarget::Status { .. }) {
            return LocalResponse::error(404, "the status page is turned off here (--no-status)");
        }
    }
    match target {
        AdminTarget::Page => {
            let page = if endpoint == Endpoint::Admin { &ADMIN_PAGE } else { &PAGE };
            LocalResponse::document(200, http::HTML, page.as_str())
                .made_now()
                .with_header("Content-Security-Policy", &POLICY)
                .with_header("Referrer-Policy", "no-referrer")
        }
        AdminTarget::Status { since } => {
            let json = serde_json::to_string(&Status::of(balancer, *since, shows_keys));
            made_now(http::JSON, json.map(|json| json + "\n"))
        }
        AdminTarget::Metrics => {
            let form = request.metrics_form;
            made_now(prometheus::content_type(form), prometheus::text(balancer, form))
        }
        AdminTarget::OpenApi => LocalResponse::document(200, http::JSON, OPEN_API).made_now(),
        AdminTarget::Ping => LocalResponse::document(200, TEXT, "PONG\n"),
        AdminTarget::Health => LocalResponse::document(200, TEXT, "OK\n"),
        AdminTarget::Ready if balancer.is_ready() => LocalResponse::document(200, TEXT, "READY\n"),
        AdminTarget::Ready => LocalResponse::document(503, TEXT, "NOT READY\n"),
        AdminTarget::Unknown => {
            let why = "nothing is here; the status page is at /-/, and a key that begins with -/ is at \
                       /%2D/…";
            LocalResponse::error(404, why)
        }
    }
}

/// A document that is made for this request.
fn made_now(content_type: &'static str, made: Result<String, impl Display>) -> LocalResponse {
    match made {
        Ok(text) => LocalResponse::document(200, content_type, text).made_now(),
        Err(error) => LocalResponse::error(500, error.to_string()),
    }
}

/// Sets the status and writes an error: as a page if there is a frame, else as JSON.
pub(super) fn write_error<W: Write>(
    frame: Option<Frame>,
    status: u16,
    error: &ErrorBody,
    response: &mut ResponseWriter<W>,
) -> io::Result<()> {
    response.status(status);
    match frame {
        Some(frame) => browse::write_error_page(frame, status, error, response),
        None => response.json(error),
    }
}

/// A response that was sent, for the log.
pub(super) struct SentResponse {
    pub status: u16,
    /// The name of the backend that has answered.
    pub backend: Option<Arc<str>>,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
    /// Level of the line in the log.
    pub level: Level,
    /// What went wrong after the first byte of the response.
    pub cut: Option<String>,
}

impl SentResponse {
    /// A response that this backend has answered.
    pub fn from_backend<W: Write>(backend: &Member, response: &ResponseWriter<W>) -> Self {
        Self {
            status: response.sent_status(),
            backend: Some(Arc::clone(&backend.health.name)),
            keep_alive: response.keeps_alive(),
            level: Level::Info,
            cut: None,
        }
    }

    /// Writes the request's line in the log.
    pub fn log(
        &self,
        balancer: &Balancer,
        client: SocketAddr,
        request: &Request,
        caller: &Caller,
        began: Instant,
        bytes: u64,
    ) {
        balancer.access_log.write_at(self.level, || {
            Event::Request(HttpRequest {
                client,
                forwarded_for: balancer
                    .config()
                    .http
                    .forwarded_client(client.ip(), request.forwarded_for.as_deref()),
                user: caller.shown_user(),
                method: Text::cut(&request.method_name),
                target: Text::cut(&request.target),
                status: self.status,
                backend: self.backend.as_deref().map(str::to_owned),
                ms: began.elapsed().as_micros() as f64 / 1000.0,
                bytes,
                cut: self.cut.clone(),
            })
        });
    }
}

/// Methods that don't change anything, as far as they are not served, and those that are about the connection.
const READING_METHODS: [&str; 8] =
    ["OPTIONS", "TRACE", "CONNECT", "PRI", "PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// Methods that change something.
const WRITING_METHODS: [&str; 14] = [
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "COPY",
    "MOVE",
    "MKCOL",
    "LOCK",
    "UNLOCK",
    "PROPPATCH",
    "LINK",
    "UNLINK",
    "MERGE",
    "ACL",
];

/// The reason for which a request with a method that is not served counts as refused.
fn refused_method(name: &str) -> Refusal {
    match name {
        _ if WRITING_METHODS.contains(&name) => Refusal::Write,
        _ if READING_METHODS.contains(&name) => Refusal::NotServed,
        _ => Refusal::UnknownCommand,
    }
}

/// How a backend has answered a request.
pub(super) struct AnsweredBy<'a> {
    pub backend: &'a BackendMetrics,
    /// The kind of the request.
    pub kind: CommandId,
    /// Time until the reply began.
    pub time: Duration,
}

/// Counts a request that is over, with the status of its response.
pub(super) fn complete(
    metrics: &Metrics,
    answered_by: Option<AnsweredBy>,
    status: u16,
    outcome: Outcome,
) {
    let answered_by = answered_by.as_ref();
    metrics.complete(&Completion {
        protocol: WireProtocol::Http,
        command: answered_by.map_or(CommandId::default(), |by| by.kind),
        status: Some(status),
        backend: answered_by.map(|by| by.backend),
        count: 1,
        time: answered_by.map_or(Duration::ZERO, |by| by.time),
        outcome,
    });
}

/// Has a response to a request that has arrived at `began` tell how long it and this backend took, which was asked at
/// `asked`.
pub(super) fn add_timing<W: Write>(
    response: &mut ResponseWriter<W>,
    backend: &Member,
    began: Instant,
    asked: Instant,
) {
    let backend = Arc::clone(&backend.health.name);
    let answered = None;
    response.timing(ServerTiming { began, asked, answered, backend, clock: Instant::now });
}

/// Adds the headers of every response from a backend.
pub(super) fn add_backend_headers<W: Write>(
    response: &mut ResponseWriter<W>,
    backend: &Backend,
    caching: Caching,
) {
    // The path of a Unix socket can contain what a header can't.
    let is_shown = |c: char| c.is_ascii_graphic();
    let name = backend.name();
    match name.chars().all(is_shown) {
        true => response.header("X-Served-By", name),
        false => response.header("X-Served-By", &name.replace(|c| !is_shown(c), "?")),
    }
    match caching.age {
        Some(age) => {
            response.header("X-Cache", "hit");
            response.header("Age", &age.to_string());
        }
        None if caching.has_near_cache => response.header("X-Cache", "miss"),
        None => {}
    }
    caching.add_headers(response);
}

/// What caches are told: to ask again each time, and where there are users, that a response is for one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caching {
    is_private: bool,
    /// Whether there is a near cache, which might have answered.
    has_near_cache: bool,
    /// The seconds since a near cache's answer was read from its backend.
    age: Option<u64>,
}

impl Caching {
    pub fn of(balancer: &Balancer) -> Self {
        Self {
            is_private: balancer.logins.are_configured(),
            has_near_cache: balancer.cache.is_some(),
            age: None,
        }
    }

    /// For an answer from the near cache, which was read so many seconds ago.
    pub fn hit(self, age: u64) -> Self {
        Self { age: Some(age), ..self }
    }

    fn add_headers<W: Write>(self, response: &mut ResponseWriter<W>) {
        let (control, vary) = match self.is_private {
            true => ("private, no-cache", "Accept, Accept-Encoding, Authorization"),
            false => ("no-cache", "Accept, Accept-Encoding"),
        };
        response.header("Cache-Control", control);
        response.header("Vary", vary);
    }
}
