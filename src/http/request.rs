//! The head of one request, checked more strictly than HTTP asks: a request that two servers could
//! read in two ways (RFC 9112, section 11.2, request smuggling) is refused.

use std::borrow::Cow;

use super::headers::Headers;
use super::host::checked_host;

/// Longest request line, with its line end. RFC 9112 asks for at least 8000.
pub(crate) const MAX_REQUEST_LINE_BYTES: usize = 16 * 1024;

/// Most bytes of all header lines together.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Most header lines.
const MAX_HEADERS: usize = 100;

/// Error for a request that is refused. The connection is closed after it, because the bytes that
/// follow can't be trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// Status 400: the request is malformed.
    #[error("bad request: {0}")]
    Malformed(&'static str),
    /// Status 414: the request line is too long.
    #[error("the request line is longer than {MAX_REQUEST_LINE_BYTES} bytes")]
    LineTooLong,
    /// Status 431: the headers are too long or too many.
    #[error("the headers are longer than {MAX_HEADER_BYTES} bytes or more than {MAX_HEADERS}")]
    HeadersTooLarge,
}

impl RequestError {
    /// Returns the status that answers it.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::LineTooLong => 414,
            Self::HeadersTooLarge => 431,
        }
    }
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: as `GET`, but without the body.
    Head,
    /// Any other method: we serve none of them.
    Other,
}

/// The version of HTTP that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/0.9: `GET /path` and nothing else, answered with the bare body.
    Http09,
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    Http11,
}

/// A request whose head is complete and valid.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, as far as we tell methods apart.
    pub method: Method,
    /// The method as sent, for the log.
    pub method_name: Cow<'static, str>,
    /// Path and query, still percent-encoded: begins with `/` (or is `*`, or the address of a
    /// `CONNECT`).
    pub target: String,
    /// The version of HTTP.
    pub version: Version,
    /// The host that the client asks for: an absolute target's, else that of `Host`.
    pub host: Option<String>,
    /// `If-None-Match`, with all of its lines joined.
    pub if_none_match: Option<String>,
    /// Whether `Accept` names `text/html`. Browsers do; clients that take anything, like curl, don't.
    pub accepts_html: bool,
    /// Whether the client wants to keep the connection.
    pub keep_alive: bool,
    /// Whether a body follows. We never read it, but close the connection.
    pub has_body: bool,
}

/// Reads one request from the beginning of `bytes`. Returns it and the length of its head, or `None`
/// while the head is incomplete.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, RequestError> {
    // An empty line before the request line is ignored (RFC 9112, section 2.2).
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &bytes[skipped..];
    let Some(line_end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return incomplete(bytes, bytes.len() > MAX_REQUEST_LINE_BYTES, RequestError::LineTooLong);
    };
    if line_end >= MAX_REQUEST_LINE_BYTES {
        return Err(RequestError::LineTooLong);
    }
    if let Some(target) = http09_target(&bytes[..line_end]) {
        return match bytes.len() == line_end + 1 {
            true => Ok(Some((http09(target)?, skipped + bytes.len()))),
            false => Err(RequestError::Malformed("a request line without a version")),
        };
    }
    let headers = &bytes[line_end + 1..];
    let head_end = if headers.starts_with(b"\r\n") {
        line_end + 3
    } else if let Some(at) = headers.windows(4).position(|window| window == b"\r\n\r\n") {
        line_end + 1 + at + 4
    } else {
        let is_too_long = headers.len() > MAX_HEADER_BYTES;
        return incomplete(bytes, is_too_long, RequestError::HeadersTooLarge);
    };
    if head_end - line_end > MAX_HEADER_BYTES {
        return Err(RequestError::HeadersTooLarge);
    }
    let request = http1(&bytes[..head_end])?;
    Ok(Some((request, skipped + head_end)))
}

/// Returns the target of `GET /path`, a request line without a version.
fn http09_target(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let target = line.strip_prefix(b"GET ")?;
    (!target.is_empty() && !target.contains(&b' ')).then_some(target)
}

fn http09(target: &[u8]) -> Result<Request, RequestError> {
    let text = std::str::from_utf8(target).ok().filter(|text| !text.contains(char::is_control));
    let text = text.ok_or(RequestError::Malformed("a request target that is no URL"))?;
    let (host, target) = split_target(Method::Get, text)?;
    Ok(Request {
        method: Method::Get,
        method_name: "GET".into(),
        target,
        version: Version::Http09,
        host,
        if_none_match: None,
        accepts_html: false,
        keep_alive: false,
        has_body: false,
    })
}

fn http1(head: &[u8]) -> Result<Request, RequestError> {
    let mut headers = room_for_headers(check_line_ends(head)?);
    let mut parsed = httparse::Request::new(&mut headers);
    if parsed.parse(head)?.is_partial() {
        return Err(RequestError::Malformed("an incomplete head"));
    }
    let version = match parsed.version {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    };
    let (method, method_name) = match parsed.method.unwrap_or_default() {
        "GET" => (Method::Get, "GET".into()),
        "HEAD" => (Method::Head, "HEAD".into()),
        other => (Method::Other, other.to_owned().into()),
    };
    let headers = Headers(parsed.headers);
    let (target_host, target) = split_target(method, parsed.path.unwrap_or_default())?;
    let header_host = headers.host(version)?;
    Ok(Request {
        method,
        method_name,
        target,
        version,
        host: target_host.or(header_host),
        if_none_match: headers.joined("if-none-match"),
        accepts_html: headers.accepts_html(),
        keep_alive: headers.keep_alive(version),
        has_body: headers.has_body(version)?,
    })
}

/// Refuses an incomplete head that is too long, or that nothing can make valid: so a client that
/// speaks TLS, for example, gets its error at once.
fn incomplete<T>(
    begun: &[u8],
    is_too_long: bool,
    too_long: RequestError,
) -> Result<Option<T>, RequestError> {
    let mut headers = room_for_headers(check_line_ends(begun)?);
    let begun = begun.strip_suffix(b"\r").unwrap_or(begun);
    httparse::Request::new(&mut headers).parse(begun)?;
    if is_too_long { Err(too_long) } else { Ok(None) }
}

/// Makes room for a head of this many lines. It is not on the stack, whose pages the thread would
/// keep from then on.
fn room_for_headers<'h>(lines: usize) -> Vec<httparse::Header<'h>> {
    vec![httparse::EMPTY_HEADER; lines.min(MAX_HEADERS)]
}

/// Checks that every line ends in CRLF and that there is no other CR, which some servers take for a
/// line end. Returns the number of complete lines.
fn check_line_ends(head: &[u8]) -> Result<usize, RequestError> {
    let (mut lines, mut previous) = (0, 0);
    for &byte in head {
        if (byte == b'\n') != (previous == b'\r') {
            return Err(RequestError::Malformed("a line must end with CRLF, and only there"));
        }
        lines += usize::from(byte == b'\n');
        previous = byte;
    }
    Ok(lines)
}

impl From<httparse::Error> for RequestError {
    fn from(error: httparse::Error) -> Self {
        Self::Malformed(match error {
            httparse::Error::TooManyHeaders => return Self::HeadersTooLarge,
            httparse::Error::HeaderName => "an invalid header name, or a folded header",
            httparse::Error::HeaderValue => "a control character in a header",
            httparse::Error::Version => "a version other than HTTP/1.0 and HTTP/1.1",
            _ => "a request line that is not METHOD TARGET VERSION",
        })
    }
}

/// Splits an absolute target (RFC 9112, section 3.2.2) into host and path.
fn split_target(method: Method, target: &str) -> Result<(Option<String>, String), RequestError> {
    if target.contains('#') {
        return Err(RequestError::Malformed("a fragment (#) in the request target"));
    }
    if method == Method::Other || target.starts_with('/') {
        return Ok((None, target.to_owned()));
    }
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    if scheme.is_none() {
        return Err(RequestError::Malformed("a request target begins with / or http://"));
    }
    let rest = &target[7..];
    let host_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((Some(checked_host(host)?), format!("{slash}{path}")))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
