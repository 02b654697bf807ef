//! Responses that we make without a backend, what all responses from a backend have in common, and what
//! the log says of both.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::Level;

use super::browse::{self, Frame};
use crate::backend::Backend;
use crate::balance::Balancer;
use crate::health::Member;
use crate::http::{ErrorBody, Request, ResponseWriter, target};
use crate::logging::access_log::{Event, HttpRequest, Text};
use crate::metrics::{BackendMetrics, Completion, Metrics, Outcome, Refusal};
use crate::net::protocol::WireProtocol;
use crate::session::client::{Client, Endpoint};

/// A response that we make without a backend.
#[derive(Default)]
pub(super) struct LocalResponse {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    text: Cow<'static, str>,
    /// Written in place of the text.
    error: Option<Box<ErrorBody<'static>>>,
}

impl LocalResponse {
    /// A response without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// A document of this `Content-Type`.
    pub fn document(
        status: u16,
        content_type: &'static str,
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        let text = text.into();
        Self { status, text, ..Self::default() }.with_header("Content-Type", content_type)
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

    /// Sends the response to a request for data that is refused, and counts it.
    pub fn send_refusal(self, client: &mut Client, request: &Request) -> SentResponse {
        let reason = match self.status {
            405 => Refusal::Write,
            403 | 503 | 504 => Refusal::Unanswered,
            _ => Refusal::BadRequest,
        };
        self.send_counted(client, request, Outcome::Refused(reason))
    }

    /// Sends the response to a request for data, and counts it.
    pub fn send_counted(
        self,
        client: &mut Client,
        request: &Request,
        outcome: Outcome,
    ) -> SentResponse {
        let (metrics, target) = (&client.balancer.metrics, request.target.as_bytes());
        complete(metrics, client.address, target, None, client.answer_bytes, outcome);
        self.send(client, request, Level::Info)
    }

    pub fn send(self, client: &mut Client, request: &Request, level: Level) -> SentResponse {
        let is_page = client.endpoint == Endpoint::Public
            && target::wants_html(&request.target, request.accepts_html);
        let frame = is_page.then(|| Frame::new(&client.balancer.config));
        let keep_alive = !client.balancer.is_draining();
        let response = ResponseWriter::new(&mut *client, request, keep_alive, SystemTime::now);
        let status = self.status;
        let keep_alive = self.write(response, frame).unwrap_or(false);
        SentResponse { status, backend: None, keep_alive, level, cut: None }
    }

    /// Writes the response; returns whether the connection can carry another. An error becomes a
    /// page if there is a frame.
    fn write<W: Write>(
        self,
        mut response: ResponseWriter<W>,
        frame: Option<Frame>,
    ) -> io::Result<bool> {
        response.status(self.status);
        for (name, value) in self.headers {
            response.header(name, value);
        }
        match &self.error {
            None => response.write_all(self.text.as_bytes())?,
            Some(error) => {
                response.header("Vary", "Accept");
                response.header("Cache-Control", "no-cache");
                write_error(frame, self.status, error, &mut response)?;
            }
        }
        response.finish(None)?;
        Ok(response.keeps_alive())
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
            backend: Some(backend.health.shared_name()),
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
        began: Instant,
        bytes: u64,
    ) {
        balancer.access_log.write_at(self.level, || {
            Event::Request(HttpRequest {
                client,
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

/// Counts a request that is over. If a backend has answered it, `answered_by` is that and the time
/// until its reply began.
pub(super) fn complete(
    metrics: &Metrics,
    client: SocketAddr,
    target: &[u8],
    answered_by: Option<(&BackendMetrics, Duration)>,
    bytes: u64,
    outcome: Outcome,
) {
    let (backend, time) = answered_by.unzip();
    metrics.complete(&Completion {
        client,
        protocol: WireProtocol::Http,
        what: target,
        backend,
        count: 1,
        bytes,
        time: time.unwrap_or_default(),
        outcome,
    });
}

/// Adds the headers of every response from a backend.
pub(super) fn add_backend_headers<W: Write>(response: &mut ResponseWriter<W>, backend: &Backend) {
    response.header("X-Served-By", header_value(backend.name()));
    response.header("Cache-Control", "no-cache");
    response.header("Vary", "Accept");
}

/// The path of a Unix socket can contain what a header can't.
fn header_value(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
