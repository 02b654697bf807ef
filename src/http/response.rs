//! One answer: held whole while it is short, streamed when it is not.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::SystemTime;

use httpdate::HttpDate;
use serde::Serialize;

use super::{Method, Request, Version};

/// A body up to this length is held: it gets a `Content-Length` and an `ETag`, and until it is
/// written the read can still be tried on another backend.
pub const HELD_BODY_BYTES: usize = 64 * 1024;

/// The `Content-Type` of JSON.
pub const JSON: &str = "application/json; charset=utf-8";

/// The `Content-Type` of HTML.
pub const HTML: &str = "text/html; charset=utf-8";

/// What a longer body is sent in.
const CHUNK_BYTES: usize = 16 * 1024;

/// Room that is made for headers, for the head, and for a short body.
const USUAL_HEADERS: usize = 8;
const USUAL_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseState {
    /// Nothing has been sent.
    Held,
    /// Head and some of the body have been sent.
    Streaming,
    /// To HEAD: the head has been sent, and no body follows.
    Done,
}

/// The answer to one request; its body is what is written to it.
pub struct ResponseWriter<W: Write> {
    out: W,
    version: Version,
    head_only: bool,
    keep_alive: bool,
    status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Vec<u8>,
    state: ResponseState,
}

impl<W: Write> ResponseWriter<W> {
    /// An answer to `request`, 200 until said otherwise. `keep_alive` says whether we want to go on
    /// with the connection; the request may not.
    pub fn new(out: W, request: &Request, keep_alive: bool) -> Self {
        let keep_alive = keep_alive && request.keep_alive && !request.has_body;
        Self::with(out, request.version, request.method == Method::Head, keep_alive)
    }

    /// An answer to what could not be read as a request; the connection closes behind it.
    pub fn to_no_request(out: W) -> Self {
        Self::with(out, Version::Http11, false, false)
    }

    fn with(out: W, version: Version, head_only: bool, keep_alive: bool) -> Self {
        let mut headers = Vec::with_capacity(USUAL_HEADERS);
        headers.push(("X-Content-Type-Options", "nosniff".into()));
        Self {
            out,
            version,
            head_only,
            keep_alive,
            status: 200,
            headers,
            body: Vec::with_capacity(USUAL_BYTES),
            state: ResponseState::Held,
        }
    }

    /// What it is written to.
    pub fn writer(&mut self) -> &mut W {
        &mut self.out
    }

    /// Sets the status.
    pub fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// Adds a header.
    pub fn header(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        self.headers.push((name, value.into()));
    }

    /// Forgets status, body and all headers but those that every answer has, for another try.
    /// Only while nothing has been [sent](Self::is_sent).
    pub fn restart(&mut self) {
        self.status = 200;
        self.headers.truncate(1);
        self.body.clear();
    }

    /// The connection ends behind this answer, and the client is told so if its head is still held.
    pub fn close(&mut self) {
        self.keep_alive = false;
    }

    /// Whether the client has been given a byte.
    pub fn is_sent(&self) -> bool {
        self.state != ResponseState::Held
    }

    /// Whether an answer to HEAD turned out long and was sent: writing more body is an error, and
    /// a success all the same.
    pub fn is_done(&self) -> bool {
        self.state == ResponseState::Done
    }

    /// Whether the connection can carry another request behind this answer.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// The status as it was or will be sent.
    pub fn sent_status(&self) -> u16 {
        self.status
    }

    /// Adds a small JSON document as the body.
    pub fn json(&mut self, json: &impl Serialize) -> io::Result<()> {
        self.header("Content-Type", JSON);
        serde_json::to_writer_pretty(&mut *self, json)?;
        self.write_all(b"\n")
    }

    /// Sends what is still to be sent. `validators` are the digest of the value and the request's
    /// `If-None-Match`: they make an ETag, and 304 of a body that the client has.
    pub fn finish(&mut self, validators: Option<(u64, Option<&str>)>) -> io::Result<()> {
        match self.state {
            ResponseState::Held => self.finish_held(validators)?,
            ResponseState::Streaming => {
                self.send_chunk()?;
                if self.version == Version::Http11 {
                    self.out.write_all(b"0\r\n\r\n")?;
                }
            }
            ResponseState::Done => {}
        }
        Ok(())
    }

    fn finish_held(&mut self, validators: Option<(u64, Option<&str>)>) -> io::Result<()> {
        let length = self.body.len();
        let mut etag = None;
        if let Some((digest, if_none_match)) = validators {
            let etag = etag.insert(format!("W/\"{digest:016x}-{length:x}\""));
            if if_none_match.is_some_and(|list| matches(list, etag)) {
                self.status = 304;
                self.body.clear();
            }
        }
        // 204 never has a length, 304 could only have the 200's (RFC 9110, section 8.6).
        let length = Some(length).filter(|_| ![204, 304].contains(&self.status));
        let mut message = self.head(etag.as_deref(), length);
        if !self.head_only {
            message.append(&mut self.body);
        }
        self.state = ResponseState::Done;
        self.out.write_all(&message)
    }

    /// How much of the body is gathered before some of it is sent.
    fn room(&self) -> usize {
        if self.state == ResponseState::Held { HELD_BODY_BYTES } else { CHUNK_BYTES }
    }

    fn start_streaming(&mut self) -> io::Result<()> {
        if self.version == Version::Http11 {
            self.header("Transfer-Encoding", "chunked");
        } else {
            self.keep_alive = false;
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
        if self.body.is_empty() {
            return Ok(());
        }
        if self.version == Version::Http11 {
            write!(self.out, "{:x}\r\n", self.body.len())?;
            self.body.extend_from_slice(b"\r\n");
        }
        self.out.write_all(&self.body)?;
        self.body.clear();
        Ok(())
    }

    /// Status line and headers; nothing for HTTP/0.9, which has none.
    fn head(&self, etag: Option<&str>, length: Option<usize>) -> Vec<u8> {
        if self.version == Version::Http09 {
            return Vec::new();
        }
        let mut head = Vec::with_capacity(USUAL_BYTES + self.body.len());
        // Writing to a Vec can't fail.
        let _ = self.write_head(&mut head, etag, length);
        head
    }

    fn write_head(
        &self,
        head: &mut Vec<u8>,
        etag: Option<&str>,
        length: Option<usize>,
    ) -> io::Result<()> {
        let date = HttpDate::from(SystemTime::now());
        write!(head, "HTTP/1.1 {} {}\r\nDate: {date}\r\n", self.status, reason(self.status))?;
        for (name, value) in &self.headers {
            for part in [name, ": ", value, "\r\n"] {
                head.extend_from_slice(part.as_bytes());
            }
        }
        if let Some(etag) = etag {
            write!(head, "ETag: {etag}\r\n")?;
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
        // All of them: a writer in between (base64's) takes a partial write for the end.
        let mut left = bytes;
        while !left.is_empty() {
            if self.state == ResponseState::Done {
                return Err(io::Error::other("the answer is complete"));
            }
            if self.body.len() >= self.room() {
                match self.state {
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

/// Whether one of the tags in an `If-None-Match` is `etag` (weak comparison, RFC 9110, 8.8.3.2).
fn matches(list: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    list.split(',').any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        500 => "Internal Server Error",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse;

    fn answered(request: &str, body: &[u8], etag: Option<(u64, Option<&str>)>) -> (String, bool) {
        let (request, _) = parse(request.as_bytes()).expect("valid").expect("complete");
        let mut out = Vec::new();
        let mut answer = ResponseWriter::new(&mut out, &request, true);
        let keeps_alive = match answer.write_all(body) {
            Ok(()) => {
                answer.finish(etag).expect("a Vec takes all");
                answer.keeps_alive()
            }
            Err(_) => answer.is_done() && answer.keeps_alive(),
        };
        (String::from_utf8(out).expect("text"), keeps_alive)
    }

    #[test]
    fn a_short_body_has_its_length_and_etag() {
        let (text, keeps_alive) =
            answered("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"hello", Some((0xab, None)));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{text}");
        assert!(text.contains("\r\nContent-Length: 5\r\n"), "{text}");
        assert!(text.contains("\r\nETag: W/\"00000000000000ab-5\"\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhello"), "{text}");
        assert!(keeps_alive);
    }

    #[test]
    fn a_body_that_the_client_has_is_not_sent_again() {
        for tags in ["*", "\"x\", W/\"00000000000000ab-5\"", "\"00000000000000ab-5\""] {
            let (text, _) =
                answered("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"hello", Some((0xab, Some(tags))));
            assert!(text.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{text}");
            assert!(!text.contains("Content-Length") && text.ends_with("\r\n\r\n"), "{text}");
        }
    }

    #[test]
    fn a_long_body_is_chunked_and_its_pieces_give_the_whole() {
        for length in [HELD_BODY_BYTES + 1, HELD_BODY_BYTES + CHUNK_BYTES, 1_000_000] {
            for written_at_once in [1, 7, CHUNK_BYTES, length] {
                check_chunks(&b"0123456789abcdef".repeat(length / 16 + 1), written_at_once);
            }
        }
    }

    fn check_chunks(body: &[u8], written_at_once: usize) {
        let (request, _) = parse(b"GET / HTTP/1.0\r\n\r\n").expect("valid").expect("complete");
        let mut out = Vec::new();
        let mut answer =
            ResponseWriter::new(&mut out, &Request { version: Version::Http11, ..request }, true);
        for piece in body.chunks(written_at_once) {
            answer.write_all(piece).expect("a Vec takes all");
        }
        answer.finish(None).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("text");
        let (head, mut rest) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("Transfer-Encoding: chunked") && !head.contains("Content-Length"));
        let mut joined = String::new();
        loop {
            let (size, tail) = rest.split_once("\r\n").expect("a chunk's size");
            let size = usize::from_str_radix(size, 16).expect("hexadecimal");
            joined.push_str(&tail[..size]);
            assert_eq!(&tail[size..size + 2], "\r\n");
            rest = &tail[size + 2..];
            if size == 0 {
                break;
            }
        }
        assert!(rest.is_empty() && joined.as_bytes() == body);
    }

    #[test]
    fn older_versions_get_what_they_understand() {
        let body = b"x".repeat(HELD_BODY_BYTES + 1);
        let (text, keeps_alive) =
            answered("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &body, None);
        assert!(text.contains("Connection: close\r\n\r\nxxx") && !text.contains("chunked"));
        assert!(!keeps_alive);
        let (text, keeps_alive) =
            answered("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"hi", None);
        assert!(text.contains("Connection: keep-alive\r\n") && keeps_alive);
        assert_eq!(answered("GET /\r\n", b"hi", None), ("hi".to_owned(), false));
        assert_eq!(answered("GET /\r\n", &body, None).0.as_bytes(), body);
    }

    #[test]
    fn head_is_told_the_same_without_the_body() {
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (text, keeps_alive) = answered(head, b"hello", None);
        assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"));
        assert!(keeps_alive);
        let (text, keeps_alive) = answered(head, &b"x".repeat(HELD_BODY_BYTES + 1), None);
        assert!(text.contains("chunked\r\n") && text.ends_with("\r\n\r\n") && keeps_alive);
    }
}
