//! Responses that we make without a backend.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::SystemTime;

use log::Level;

use super::browse::{self, Frame};
use super::sent_response::{SentResponse, complete};
use crate::http::{self, ErrorBody, Request, ResponseWriter, target};
use crate::metrics::{Outcome, Refusal};
use crate::session::client::{Client, Endpoint};

/// A response that we make without a backend.
pub(super) struct LocalResponse<'a> {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Body<'a>,
}

enum Body<'a> {
    Empty,
    /// A content type and a document.
    Bytes(&'static str, Cow<'static, [u8]>),
    Error(Box<ErrorBody<'a>>),
}

impl<'a> LocalResponse<'a> {
    fn new(status: u16, body: Body<'a>) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    /// A response without a body.
    pub fn empty(status: u16) -> Self {
        Self::new(status, Body::Empty)
    }

    pub fn redirect(to: &'static str) -> Self {
        Self::empty(302).with_header("Location", to)
    }

    /// An HTML document with its `Content-Security-Policy`.
    pub fn page(html: &'static [u8], policy: &'static str) -> Self {
        Self::new(200, Body::Bytes(http::HTML, Cow::Borrowed(html)))
            .with_header("Cache-Control", "no-cache")
            .with_header("Content-Security-Policy", policy)
            .with_header("Referrer-Policy", "no-referrer")
    }

    pub fn text(status: u16, text: &'static str) -> Self {
        let body = Cow::Borrowed(text.as_bytes());
        Self::new(status, Body::Bytes("text/plain; charset=utf-8", body))
    }

    /// A document that is made for this request.
    pub fn document(content_type: &'static str, bytes: Vec<u8>) -> Self {
        Self::new(200, Body::Bytes(content_type, Cow::Owned(bytes)))
            .with_header("Cache-Control", "no-cache")
    }

    pub fn error(status: u16, why: impl Into<Cow<'a, str>>) -> Self {
        Self::error_body(status, ErrorBody::new(why))
    }

    pub fn error_body(status: u16, error: ErrorBody<'a>) -> Self {
        Self::new(status, Body::Error(Box::new(error)))
    }

    /// An error that may be over in a second.
    pub fn unavailable(why: impl Into<Cow<'a, str>>) -> Self {
        Self::error(503, why).with_header("Retry-After", "1")
    }

    pub fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends the response to a request for data, and counts it.
    pub fn send_for_data(self, client: &mut Client, request: &Request) -> SentResponse {
        self.send_counted(client, request, Outcome::Answered)
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

    fn send_counted(
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
        match self.body {
            Body::Empty => {}
            Body::Bytes(content_type, bytes) => {
                response.header("Content-Type", content_type);
                response.write_all(&bytes)?;
            }
            Body::Error(error) => {
                response.header("Vary", "Accept");
                response.header("Cache-Control", "no-cache");
                match frame {
                    Some(frame) => {
                        browse::write_error_page(frame, self.status, &error, &mut response)?;
                    }
                    None => response.json(error.as_ref())?,
                }
            }
        }
        response.finish(None)?;
        Ok(response.keeps_alive())
    }
}
