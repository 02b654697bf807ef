//! Writes a response: held whole while it is short, streamed once it is long. The body of errors.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Instant, SystemTime};

use httpdate::HttpDate;
use serde::Serialize;

use super::encoding::{Encoding, MIN_ENCODED_BYTES, StreamEncoder, looks_compressed};
use super::etag::ETag;
use super::timing::ServerTiming;
use super::{Method, Request, Version};
use crate::render::json::TextOrBase64;

/// Longest body that is held. A held body gets a `Content-Length` and an `ETag`, and until it is sent
/// the read can be tried on another backend.
const HELD_BODY_BYTES: usize = 64 * 1024;

/// The `Content-Type` of JSON.
pub(crate) const JSON: &str = "application/json; charset=utf-8";

/// The `Content-Type` of HTML.
pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// Size of the chunks in which a longer body is sent.
const CHUNK_BYTES: usize = 16 * 1024;

/// The headers that every response has.
const FIRST_HEADERS: &[u8] = b"X-Content-Type-Options: nosniff\r\n";

/// Initial room for headers, and for a short body.
const USUAL_BYTES: usize = 512;

/// Room for what a head has beside [`headers`](ResponseWriter::headers): status, date, ETag, times, length.
const HEAD_BYTES: usize = 320;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseState {
    /// Nothing has been sent.
    Held,
    /// The head and some of the body have been sent.
    Streaming,
    /// The head has been sent, and no more of the body will be.
    Done,
}

/// Writes the response to one request. The bytes that are written to it become the body.
pub struct ResponseWriter<W: Write> {
    out: W,
    clock: fn() -> SystemTime,
    version: Version,
    head_only: bool,
    keep_alive: bool,
    status: u16,
    /// The lines of the headers that are known so far.
    headers: Vec<u8>,
    /// How many bytes of them are the same for each attempt.
    lasting: usize,
    /// Times that the response tells.
    timing: Option<ServerTiming>,
    body: Vec<u8>,
    /// How the client would have a longer body.
    encoding: Option<Encoding>,
    /// Compresses a body that is streamed.
    encoder: Option<Box<StreamEncoder>>,
    /// Whether a body that is too long to be held is an error.
    is_held_only: bool,
    /// How the held body is sent, once that is decided.
    form: Option<Form>,
    state: ResponseState,
}

/// How a held body is sent.
#[derive(Debug, Clone, Copy)]
struct Form {
    etag: Option<ETag>,
    encoding: Option<Encoding>,
}

impl<W: Write> ResponseWriter<W> {
    /// Begins a response to `request`, with status 200. `keep_alive` says whether we want to keep the
    /// connection; the request may not allow it. `clock` tells the time for the `Date` header.
    pub fn new(out: W, request: &Request, keep_alive: bool, clock: fn() -> SystemTime) -> Self {
        let keep_alive = keep_alive && request.keep_alive && !request.has_body;
        let head_only = request.method == Method::Head;
        let (version, encoding) = (request.version, request.encoding);
        Self { version, head_only, keep_alive, encoding, ..Self::to_no_request(out, clock) }
    }

    /// Begins a response to bytes that are no request; the connection closes after it.
    pub(crate) fn to_no_request(out: W, clock: fn() -> SystemTime) -> Self {
        let mut headers = Vec::with_capacity(USUAL_BYTES);
        headers.extend_from_slice(FIRST_HEADERS);
        Self {
            out,
            clock,
            version: Version::Http11,
            head_only: false,
            keep_alive: false,
            status: 200,
            headers,
            lasting: FIRST_HEADERS.len(),
            timing: None,
            body: Vec::with_capacity(USUAL_BYTES),
            encoding: None,
            encoder: None,
            is_held_only: false,
            form: None,
            state: ResponseState::Held,
        }
    }

    /// Returns the writer that gets the response.
    pub fn writer(&mut self) -> &mut W {
        &mut self.out
    }

    /// Sets the status.
    pub fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// Adds a header.
    pub fn header(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.headers.extend_from_slice(part.as_bytes());
        }
    }

    /// Keeps the headers so far for each attempt.
    pub(crate) fn keep_headers(&mut self) {
        self.lasting = self.headers.len();
    }

    /// Has the response tell these times.
    pub(crate) fn timing(&mut self, timing: ServerTiming) {
        self.timing = Some(timing);
    }

    /// Notes that the backend has answered, if the response tells when.
    pub(crate) fn answered(&mut self, at: Instant) {
        if let Some(timing) = &mut self.timing {
            timing.answered.get_or_insert(at);
        }
    }

    /// Makes a body that is too long to be held an error of the write. Else it would be streamed.
    pub(crate) fn hold_only(&mut self) {
        self.is_held_only = true;
    }

    /// Drops status, body and all headers but those that are kept, for another attempt.
    /// Only allowed while nothing has been [sent](Self::is_sent).
    pub fn restart(&mut self) {
        self.status = 200;
        self.headers.truncate(self.lasting);
        self.timing = None;
        self.form = None;
        self.body.clear();
    }

    /// Closes the connection after this response. The client is told if the head has not been sent.
    pub fn close(&mut self) {
        self.keep_alive = false;
    }

    /// Sends the body as it is, whatever the client accepts.
    pub(crate) fn compress_nothing(&mut self) {
        self.encoding = None;
    }

    /// Returns how many bytes of the [settled](Self::settle) body are to be compressed before any of it can be sent.
    pub(crate) fn bytes_to_compress(&self) -> usize {
        self.form.and_then(|form| form.encoding).map_or(0, |_| self.body.len())
    }

    /// How a body is sent that begins with what is held of it.
    fn encoding_of_body(&self) -> Option<Encoding> {
        let has_head = self.version != Version::Http09;
        let is_long = self.body.len() >= MIN_ENCODED_BYTES;
        self.encoding.filter(|_| has_head && is_long && !looks_compressed(&self.body))
    }

    /// Whether a byte has been sent to the client.
    pub fn is_sent(&self) -> bool {
        self.state != ResponseState::Held
    }

    /// Whether the response is complete. That makes writing more of the body an error, which is no
    /// failure when a `HEAD` asks for a long body.
    pub fn is_done(&self) -> bool {
        self.state == ResponseState::Done
    }

    /// Whether the connection can carry another request after this response.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Returns the status as it was or will be sent.
    pub fn sent_status(&self) -> u16 {
        self.status
    }

    /// Adds a small JSON document as the body.
    pub fn json(&mut self, json: &impl Serialize) -> io::Result<()> {
        self.header("Content-Type", JSON);
        self.json_body(json)
    }

    /// Writes a small JSON document, whose `Content-Type` is set already.
    pub(crate) fn json_body(&mut self, json: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *self, json)?;
        self.write_all(b"\n")
    }

    /// Returns the body as far as it was written; `None` once some of it has been sent.
    pub(crate) fn held_body(&self) -> Option<&[u8]> {
        (self.state == ResponseState::Held).then_some(&*self.body)
    }

    /// Decides how a held body is sent, once it is whole: its encoding, and its ETag if `validators` are given. These are the
    /// digest of the value and the request's `If-None-Match`: the response becomes a 304 if the client has this body.
    pub(crate) fn settle(&mut self, validators: Option<(u64, Option<&str>)>) {
        if self.state != ResponseState::Held {
            return;
        }
        let (length, mut encoding) = (self.body.len(), self.encoding_of_body());
        let etag = validators.map(|(digest, _)| ETag { digest, length, encoding });
        if let (Some(etag), Some((_, Some(list)))) = (etag, validators)
            && etag.is_in(list)
        {
            self.status = 304;
            self.body.clear();
            encoding = None;
        }
        self.form = Some(Form { etag, encoding });
    }

    /// Sends the rest, in the form that is settled; without an ETag if none is.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.state {
            ResponseState::Held => {
                let message = self.held_message();
                self.out.write_all(&message)?;
            }
            ResponseState::Streaming => {
                if let Some(mut encoder) = self.encoder.take() {
                    let mut end = encoder.encode(&self.body)?;
                    end.extend(encoder.finish()?);
                    self.body = end;
                }
                self.send_chunk()?;
                if self.version == Version::Http11 {
                    self.out.write_all(b"0\r\n\r\n")?;
                }
            }
            ResponseState::Done => {}
        }
        self.out.flush()
    }

    /// Ends a response of which nothing has been sent, as [`finish`](Self::finish) does. Returns it for the caller to
    /// send.
    pub(crate) fn held_message(&mut self) -> Vec<u8> {
        if self.form.is_none() {
            self.settle(None);
        }
        let Form { mut etag, encoding } =
            self.form.take().unwrap_or(Form { etag: None, encoding: None });
        if let Some(encoding) = encoding {
            match encoding.compress(&self.body) {
                Ok(compressed) => {
                    self.body = compressed;
                    self.header("Content-Encoding", encoding.name());
                }
                // There is no memory for it.
                Err(_) => etag = etag.map(|etag| ETag { encoding: None, ..etag }),
            }
        }
        // 204 never has a length, 304 could only have the 200's (RFC 9110, section 8.6).
        let length = Some(self.body.len()).filter(|_| ![204, 304].contains(&self.status));
        let mut message = self.head(etag, length);
        if !self.head_only {
            message.extend_from_slice(&self.body);
        }
        self.state = ResponseState::Done;
        message
    }

    /// Returns the number of bytes that are gathered before some are sent.
    fn room(&self) -> usize {
        if self.state == ResponseState::Held { HELD_BODY_BYTES } else { CHUNK_BYTES }
    }

    fn start_streaming(&mut self) -> io::Result<()> {
        if self.version == Version::Http11 {
            self.header("Transfer-Encoding", "chunked");
        } else {
            self.keep_alive = false;
        }
        // Without memory for it, the body goes as it is.
        let encoder = |encoding| Some((encoding, StreamEncoder::new(encoding).ok()?));
        if let Some((encoding, encoder)) = self.encoding_of_body().and_then(encoder) {
            self.header("Content-Encoding", encoding.name());
            self.encoder = Some(Box::new(encoder)).filter(|_| !self.head_only);
        }
        let head = self.head(None, None);
        self.state = if self.head_only { ResponseState::Done } else { ResponseState::Streaming };
        self.out.write_all(&head)?;
        if self.head_only {
            return Err(io::Error::other("HEAD has no body"));
        }
        self.send_chunk()?;
        self.body.shrink_to(CHUNK_BYTES);
        Ok(())
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        let encoded =
            self.encoder.as_mut().map(|encoder| encoder.encode(&self.body)).transpose()?;
        let chunk = encoded.as_ref().unwrap_or(&self.body);
        // The compressor may keep all of it. An empty chunk would be the end.
        if !chunk.is_empty() {
            let is_chunked = self.version == Version::Http11;
            if is_chunked {
                write!(self.out, "{:x}\r\n", chunk.len())?;
            }
            self.out.write_all(chunk)?;
            if is_chunked {
                self.out.write_all(b"\r\n")?;
            }
        }
        self.body.clear();
        Ok(())
    }

    /// Returns the status line and the headers, with room for the body; nothing for HTTP/0.9, which has no head.
    fn head(&self, etag: Option<ETag>, length: Option<usize>) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD_BYTES + self.headers.len() + self.body.len());
        if self.version == Version::Http09 {
            return head;
        }
        // Writing to a Vec can't fail.
        let _ = self.write_head(&mut head, etag, length);
        head
    }

    fn write_head(
        &self,
        head: &mut Vec<u8>,
        etag: Option<ETag>,
        length: Option<usize>,
    ) -> io::Result<()> {
        let date = HttpDate::from((self.clock)());
        write!(head, "HTTP/1.1 {} {}\r\nDate: {date}\r\n", self.status, reason(self.status))?;
        head.extend_from_slice(&self.headers);
        if let Some(etag) = etag {
            write!(head, "ETag: {etag}\r\n")?;
        }
        if let Some(timing) = &self.timing {
            timing.write_to(head)?;
        }
        if let Some(length) = length {
            write!(head, "Content-Length: {length}\r\n")?;
        }
        match (self.keep_alive, self.version) {
            (false, _) => head.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => head.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, _) => {}
        }
        head.extend_from_slice(b"\r\n");
        Ok(())
    }
}

impl<W: Write> Write for ResponseWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Takes all bytes, because a writer in between (base64's) takes a partial write for the end.
        let mut left = bytes;
        while !left.is_empty() {
            if self.state == ResponseState::Done {
                return Err(io::Error::other("the response is complete"));
            }
            if self.body.len() >= self.room() {
                match self.state {
                    ResponseState::Held if self.is_held_only => {
                        return Err(io::Error::other("the body is too long to be held"));
                    }
                    ResponseState::Held => self.start_streaming()?,
                    _ => self.send_chunk()?,
                }
            }
            let (now, later) = left.split_at(left.len().min(self.room() - self.body.len()));
            self.body.extend_from_slice(now);
            left = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

/// The body of every error response, as JSON.
#[derive(Debug, Default, Serialize)]
pub struct ErrorBody<'a> {
    /// What is wrong and what to do.
    pub(crate) error: Cow<'a, str>,
    /// The requested key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<TextOrBase64<'a>>,
    /// The requested field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<TextOrBase64<'a>>,
    /// The value's type, as `TYPE` names it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// The backends that were tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) backends: Vec<BackendFailure<'a>>,
}

/// How one backend failed.
#[derive(Debug, Serialize)]
pub(crate) struct BackendFailure<'a> {
    /// Name of the backend: never with a password.
    pub(crate) backend: Cow<'a, str>,
    /// Reason why it did not answer.
    pub(crate) error: String,
}

impl<'a> ErrorBody<'a> {
    /// Creates an error that one sentence explains.
    pub fn new(error: impl Into<Cow<'a, str>>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }

    /// Creates an error about a key, or a field of it.
    pub(crate) fn about(
        key: &'a [u8],
        field: Option<&'a [u8]>,
        error: impl Into<Cow<'a, str>>,
    ) -> Self {
        let (key, field) = (Some(TextOrBase64(key)), field.map(TextOrBase64));
        Self { key, field, ..Self::new(error) }
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
