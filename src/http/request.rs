//! The head of one request, checked more strictly than HTTP asks: a request that two servers could
//! read in two ways (RFC 9112, section 11.2, request smuggling) is refused.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::accept::{prefers_html, ranges};
use super::authorization::Authorization;
use super::encoding::Encoding;
use super::metrics_form::MetricsForm;
use super::target::{self, Query};

/// Longest request line, with its line end. RFC 9112 asks for at least 8000; a key takes three times its length where
/// each of its bytes is encoded.
pub(super) const MAX_REQUEST_LINE_BYTES: usize = 64 * 1024;

/// Most bytes of all header lines together.
pub(super) const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Most header lines.
const MAX_HEADERS: usize = 100;

/// Greatest age of data that a client may ask for: a day, as for the flags that are times.
const MAX_STALENESS_SECONDS: f64 = 24.0 * 60.0 * 60.0;

/// What is wrong with `Max-Staleness`.
const WRONG_STALENESS: &str =
    "Max-Staleness must be a number of seconds from 0 to 86400, such as 0.5, and be there once";

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
    /// The parameters of the target, or what is wrong with them.
    pub query: Result<Query, String>,
    /// The version of HTTP.
    pub version: Version,
    /// The host that the client asks for: an absolute target's, else that of `Host`.
    pub host: Option<String>,
    /// `Authorization`: who asks.
    pub authorization: Option<Authorization>,
    /// `Origin`: the web page that asks. Two of them are joined, which is the origin of no page.
    pub origin: Option<String>,
    /// `X-Forwarded-For`, with all of its lines joined.
    pub forwarded_for: Option<String>,
    /// `If-None-Match`, with all of its lines joined.
    pub if_none_match: Option<String>,
    /// `Max-Staleness`: the greatest age of the data that may answer, or what is wrong with it.
    pub max_staleness: Result<Option<Duration>, &'static str>,
    /// Whether `Accept` prefers HTML to JSON: browsers do; clients that take anything, like curl, don't.
    pub accepts_html: bool,
    /// The form of the metrics that `Accept` wants most; for paths below `/-/` alone.
    pub metrics_form: MetricsForm,
    /// How `Accept-Encoding` prefers the body, unless it is as it is.
    pub encoding: Option<Encoding>,
    /// Whether the client wants to keep the connection.
    pub keep_alive: bool,
    /// Whether a body follows. We never read it, but close the connection.
    pub has_body: bool,
}

impl Request {
    /// Whether it asks what it may ask.
    pub(crate) fn is_options(&self) -> bool {
        self.method_name == "OPTIONS"
    }

    /// Whether the response, or an error, is for a person to read: `format` goes before what the client
    /// accepts. This is decided nowhere else.
    pub(crate) fn wants_html(&self) -> bool {
        let named = self.query.as_ref().ok().and_then(Query::names_html);
        named.unwrap_or(self.accepts_html)
    }
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
        query: Query::of(&target),
        target,
        version: Version::Http09,
        host,
        authorization: None,
        origin: None,
        forwarded_for: None,
        if_none_match: None,
        max_staleness: Ok(None),
        accepts_html: false,
        metrics_form: MetricsForm::default(),
        encoding: None,
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
    let header_host = headers.only("host")?.map(checked_host).transpose()?;
    if header_host.is_none() && version == Version::Http11 {
        return Err(RequestError::Malformed("Host is missing"));
    }
    let metrics_form = match target::is_admin(&target) {
        true => MetricsForm::wanted(ranges(headers.all("accept"))),
        false => MetricsForm::default(),
    };
    Ok(Request {
        method,
        method_name,
        query: Query::of(&target),
        target,
        version,
        host: target_host.or(header_host),
        // Whatever it is: where there are no users, it does not matter.
        authorization: headers.only_bytes("authorization")?.map(Authorization::new),
        origin: headers.joined("origin"),
        forwarded_for: headers.joined("x-forwarded-for"),
        if_none_match: headers.joined("if-none-match"),
        max_staleness: headers.max_staleness(),
        metrics_form,
        accepts_html: prefers_html(ranges(headers.all("accept"))),
        encoding: Encoding::preferred(ranges(headers.all("accept-encoding"))),
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
    // What a request comes by says whether it is in TLS; the scheme does not.
    let rest_after = |scheme: &str| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let Some(rest) = rest_after("http://").or_else(|| rest_after("https://")) else {
        return Err(RequestError::Malformed("a request target begins with / or http://"));
    };
    let host_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((Some(checked_host(host)?), format!("{slash}{path}")))
}

/// The headers of a request.
struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }

    /// Returns the value of a header that may occur only once.
    fn only(&self, name: &'static str) -> Result<Option<&'a str>, RequestError> {
        let text = |value| {
            std::str::from_utf8(value)
                .map_err(|_| RequestError::Malformed("a header that is not UTF-8"))
        };
        self.only_bytes(name)?.map(text).transpose()
    }

    /// Like [`only`](Self::only), for a value that may not be UTF-8.
    fn only_bytes(&self, name: &'static str) -> Result<Option<&'a [u8]>, RequestError> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            Some(_) => {
                Err(RequestError::Malformed("a header that may occur only once occurs twice"))
            }
            None => Ok(first),
        }
    }

    /// Returns all values of a list header as one list. An ETag may contain bytes that are not UTF-8;
    /// then it is none of ours.
    fn joined(&self, name: &'static str) -> Option<String> {
        let values: Vec<_> = self.all(name).map(String::from_utf8_lossy).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Returns the items of a list header, but for those that are not UTF-8: we know none like that.
    fn items(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let items = self.all(name).flat_map(|list| list.split(|byte| *byte == b','));
        items.filter_map(|item| std::str::from_utf8(item).ok()).map(str::trim)
    }

    /// Returns the greatest age of data that the client wants; an error if it says that twice or wrongly.
    fn max_staleness(&self) -> Result<Option<Duration>, &'static str> {
        let mut values = self.all("max-staleness");
        let Some(value) = values.next() else { return Ok(None) };
        let seconds = std::str::from_utf8(value).ok().filter(|_| values.next().is_none());
        seconds.and_then(decimal_seconds).map(Some).ok_or(WRONG_STALENESS)
    }

    /// Whether the client wants to keep the connection.
    fn keep_alive(&self, version: Version) -> bool {
        let says =
            |option| self.items("connection").any(|listed| listed.eq_ignore_ascii_case(option));
        !says("close") && (version == Version::Http11 || says("keep-alive"))
    }

    /// Whether a body follows.
    fn has_body(&self, version: Version) -> Result<bool, RequestError> {
        let length = self.only("content-length")?;
        let coding = self.only("transfer-encoding")?;
        match (length, coding) {
            (None, None) => Ok(false),
            (Some(_), Some(_)) => {
                Err(RequestError::Malformed("Content-Length together with Transfer-Encoding"))
            }
            (Some(length), None) => match length.parse::<u64>() {
                Ok(number) if length.bytes().all(|b| b.is_ascii_digit()) => Ok(number > 0),
                _ => Err(RequestError::Malformed("a Content-Length that is no number")),
            },
            (None, Some(coding))
                if version == Version::Http11 && coding.eq_ignore_ascii_case("chunked") =>
            {
                Ok(true)
            }
            (None, Some(_)) => {
                Err(RequestError::Malformed("a Transfer-Encoding other than chunked"))
            }
        }
    }
}

/// Returns the time, if it is a decimal number of seconds that is not too large.
fn decimal_seconds(text: &str) -> Option<Duration> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit());
    let seconds: f64 = text.parse().ok().filter(|_| is_decimal)?;
    (seconds <= MAX_STALENESS_SECONDS).then(|| Duration::from_secs_f64(seconds))
}

/// Returns the host if it is `HOST` or `HOST:PORT` (RFC 9110, section 7.2).
fn checked_host(host: &str) -> Result<String, RequestError> {
    let name = host_without_port(host);
    let port = host.strip_prefix(name).unwrap_or_default();
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            digits.is_empty() || (digits.parse::<u16>().is_ok() && !digits.starts_with('+'))
        });
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b)),
    };
    match is_port && is_name && !name.is_empty() {
        true => Ok(host.to_owned()),
        false => Err(RequestError::Malformed("a Host that is not HOST or HOST:PORT")),
    }
}

/// Returns the host of `HOST:PORT`; an IPv6 address keeps its brackets.
fn host_without_port(host: &str) -> &str {
    let name_end = match host.find(']') {
        Some(bracket) if host.starts_with('[') => bracket + 1,
        _ => host.find(':').unwrap_or(host.len()),
    };
    &host[..name_end]
}

/// Returns the name in `HOST:PORT` as it is compared: without port and final dot, in lower case.
pub fn host_name(host: &str) -> Cow<'_, str> {
    let name = host_without_port(host.trim()).trim_end_matches('.');
    match name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        true => name.into(),
        false => name.to_lowercase().into(),
    }
}

/// Whether a [`host_name`] can only mean this machine.
pub fn is_local_host(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.ends_with(".localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
