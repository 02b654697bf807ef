//! One request's head, checked more strictly than HTTP asks: what two servers could read in two
//! ways (RFC 9112, section 11.2, request smuggling) is refused.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest request line, with its line end. RFC 9112 asks for at least 8000.
pub const MAX_REQUEST_LINE_BYTES: usize = 16 * 1024;

/// All header lines together.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The most header lines.
pub const MAX_HEADERS: usize = 100;

/// Why a request is refused. The connection is closed behind each: what follows can't be trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// 400
    #[error("bad request: {0}")]
    Malformed(&'static str),
    /// 414
    #[error("the request line is longer than {MAX_REQUEST_LINE_BYTES} bytes")]
    LineTooLong,
    /// 431
    #[error("the headers are longer than {MAX_HEADER_BYTES} bytes or more than {MAX_HEADERS}")]
    HeadersTooLarge,
}

impl RequestError {
    /// The status that answers it.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::LineTooLong => 414,
            Self::HeadersTooLarge => 431,
        }
    }
}

/// What a request asks us to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: as GET, without the body.
    Head,
    /// Any other method: none of them is served.
    Other,
}

/// The version that the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `GET /path` and nothing else; answered with the bare body.
    Http09,
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    Http11,
}

/// A request whose head is complete and sound.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, as far as it matters.
    pub method: Method,
    /// The method as sent, for the log.
    pub method_name: Cow<'static, str>,
    /// Path and query, still percent-encoded; begins with `/` (or is `*`, or `CONNECT`'s address).
    pub target: String,
    /// The version that the client speaks.
    pub version: Version,
    /// The host that the client believes to talk to; an absolute target's goes before `Host`.
    pub host: Option<String>,
    /// `If-None-Match`, all of its lines joined.
    pub if_none_match: Option<String>,
    /// Whether `Accept` names `text/html`, as browsers do; what takes anything, like curl, does not.
    pub accepts_html: bool,
    /// Whether the client wants to go on with this connection.
    pub keep_alive: bool,
    /// Whether a body follows. It is never read: the connection is closed instead.
    pub has_body: bool,
}

/// Reads one request from the beginning of `bytes`: the request and the length of its head, or
/// `None` when more bytes must come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, RequestError> {
    // RFC 9112, section 2.2: an empty line before the request line is ignored.
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &bytes[skipped..];
    let Some(line_end) = bytes.iter().position(|&byte| byte == b'\n') else {
        check_begun(bytes)?;
        return match bytes.len() > MAX_REQUEST_LINE_BYTES {
            true => Err(RequestError::LineTooLong),
            false => Ok(None),
        };
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
        check_begun(bytes)?;
        return match headers.len() > MAX_HEADER_BYTES {
            true => Err(RequestError::HeadersTooLarge),
            false => Ok(None),
        };
    };
    if head_end - line_end > MAX_HEADER_BYTES {
        return Err(RequestError::HeadersTooLarge);
    }
    let request = http1(&bytes[..head_end])?;
    Ok(Some((request, skipped + head_end)))
}

/// `GET /path`, and no version.
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

/// Refuses a head whose rest has not come yet when no rest can make it sound: who speaks TLS, say,
/// is told so at once.
fn check_begun(begun: &[u8]) -> Result<(), RequestError> {
    let mut headers = room_for_headers(check_line_ends(begun)?);
    let begun = begun.strip_suffix(b"\r").unwrap_or(begun);
    httparse::Request::new(&mut headers).parse(begun)?;
    Ok(())
}

/// For a head of so many lines. Not on the stack, whose pages would be the thread's from then on.
fn room_for_headers<'h>(lines: usize) -> Vec<httparse::Header<'h>> {
    vec![httparse::EMPTY_HEADER; lines.min(MAX_HEADERS)]
}

/// Every line ends in CRLF and no CR stands elsewhere: a bare one is a line end to some servers. Returns
/// how many lines have ended.
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
            httparse::Error::HeaderName => "a header name that is none, or a folded header",
            httparse::Error::HeaderValue => "a control character in a header",
            httparse::Error::Version => "a version other than HTTP/1.0 and HTTP/1.1",
            _ => "a request line that is not METHOD TARGET VERSION",
        })
    }
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }

    /// The value of a header that may come only once.
    fn only(&self, name: &'static str) -> Result<Option<&'a str>, RequestError> {
        let mut values = self.all(name);
        let first = values.next().map(text).transpose()?;
        match values.next() {
            Some(_) => Err(RequestError::Malformed("a header twice that may come once")),
            None => Ok(first),
        }
    }

    /// All values of a list header, as one list. An ETag may hold bytes that are not UTF-8; it is
    /// none of ours then.
    fn joined(&self, name: &'static str) -> Option<String> {
        let values: Vec<_> = self.all(name).map(String::from_utf8_lossy).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    fn host(&self, version: Version) -> Result<Option<String>, RequestError> {
        match self.only("host")? {
            None if version == Version::Http11 => Err(RequestError::Malformed("Host is missing")),
            None => Ok(None),
            Some(host) => checked_host(host).map(Some),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        let list = self.joined("connection").unwrap_or_default().to_ascii_lowercase();
        let says = |option| list.split(',').any(|said| said.trim() == option);
        !says("close") && (version == Version::Http11 || says("keep-alive"))
    }

    fn accepts_html(&self) -> bool {
        let list = self.joined("accept").unwrap_or_default();
        list.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
            let quality = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>())
            });
            is_html && quality.is_none_or(|quality| quality.is_ok_and(|quality| quality > 0.0))
        })
    }

    fn has_body(&self, version: Version) -> Result<bool, RequestError> {
        let length = self.only("content-length")?;
        let coding = self.only("transfer-encoding")?;
        match (length, coding) {
            (None, None) => Ok(false),
            (Some(_), Some(_)) => {
                Err(RequestError::Malformed("Content-Length together with Transfer-Encoding"))
            }
            (Some(length), None) => {
                let is_number = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                match length.parse::<u64>() {
                    Ok(length) if is_number => Ok(length > 0),
                    _ => Err(RequestError::Malformed("a Content-Length that is no number")),
                }
            }
            (None, Some(coding)) => {
                if version != Version::Http11 || !coding.eq_ignore_ascii_case("chunked") {
                    return Err(RequestError::Malformed("a Transfer-Encoding other than chunked"));
                }
                Ok(true)
            }
        }
    }
}

fn text(value: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(value).map_err(|_| RequestError::Malformed("a header that is not UTF-8"))
}

/// Splits an absolute target (RFC 9112, section 3.2.2) into its host and its path.
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

/// `HOST` or `HOST:PORT`, nothing else (RFC 9110, section 7.2).
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

/// The host of `HOST:PORT`; an IPv6 address keeps its brackets.
fn host_without_port(host: &str) -> &str {
    let name_end = match host.find(']') {
        Some(bracket) if host.starts_with('[') => bracket + 1,
        _ => host.find(':').unwrap_or(host.len()),
    };
    &host[..name_end]
}

/// The name in `HOST:PORT` as it is compared: without port and final dot, in lower case.
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
        || address.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Request {
        let (request, length) = parse(text.as_bytes()).expect(text).expect("complete");
        assert_eq!(length, text.len());
        request
    }

    fn refused(text: &str) -> RequestError {
        parse(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn ordinary_requests_are_understood() {
        let request = one("GET /actor:1?format=raw HTTP/1.1\r\nHost: localhost:1310\r\n\r\n");
        assert_eq!((request.method, request.version), (Method::Get, Version::Http11));
        assert_eq!(request.target, "/actor:1?format=raw");
        assert!(request.keep_alive && !request.has_body);
        assert_eq!(request.host.as_deref(), Some("localhost:1310"));

        assert!(!one("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(one("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert!(!one("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert_eq!(one("\r\nGET / HTTP/1.0\r\n\r\n").target, "/");
    }

    #[test]
    fn a_line_without_a_version_is_http09() {
        for line in ["GET /actor:1\r\n", "GET /actor:1\n"] {
            let request = one(line);
            assert_eq!(request.version, Version::Http09);
            assert_eq!(request.target, "/actor:1");
            assert!(!request.keep_alive);
        }
        refused("GET /actor:1\r\nHost: a\r\n\r\n");
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        let request = one("GET http://[::1]:80/a?b HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(request.host.as_deref(), Some("[::1]:80"));
        assert_eq!(request.target, "/a?b");
        assert_eq!(one("GET HTTP://h?key=a HTTP/1.0\r\n\r\n").target, "/?key=a");
    }

    #[test]
    fn an_incomplete_head_is_not_an_error_until_it_is_too_long() {
        let whole = "GET /a HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole.as_bytes()[..end]), Ok(None), "{:?}", &whole[..end]);
        }
        let long = "a".repeat(MAX_REQUEST_LINE_BYTES);
        assert_eq!(refused(&format!("GET /{long}")), RequestError::LineTooLong);
        assert_eq!(refused(&format!("GET /{long} HTTP/1.1\r\n")), RequestError::LineTooLong);
        let long = "a".repeat(MAX_HEADER_BYTES);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}");
        assert_eq!(refused(&head), RequestError::HeadersTooLarge);
        assert_eq!(refused(&format!("{head}\r\n\r\n")), RequestError::HeadersTooLarge);
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(
            refused(&format!("GET / HTTP/1.0\r\n{many}\r\n")),
            RequestError::HeadersTooLarge
        );
    }

    #[test]
    fn what_no_further_bytes_can_mend_is_refused_before_they_come() {
        for begun in
            ["\u{16}\u{3}\u{1}", "{", "GET /a\0", "GET /a\rb", "GET /a HTTP/3", "SSH-2.0-x\r\n"]
        {
            refused(begun);
        }
        for begun in ["", "\r", "\r\n\r", "G", "GET /a", "GET /a\r", "GET /a HTTP/1.1\r\nX"] {
            assert_eq!(parse(begun.as_bytes()), Ok(None), "{begun:?}");
        }
    }

    #[test]
    fn only_who_names_html_accepts_it() {
        for (accept, accepts) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/json, TEXT/HTML ; level=1 ; Q=0.1", true),
            ("application/json\r\nAccept: text/html", true),
            ("*/*", false),
            ("text/*", false),
            ("text/html;q=0", false),
            ("text/html;q=0.000", false),
            ("text/html;q=x", false),
            ("text/htmlx", false),
            ("", false),
        ] {
            let request = one(&format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"));
            assert_eq!(request.accepts_html, accepts, "{accept}");
        }
        assert!(!one("GET / HTTP/1.0\r\n\r\n").accepts_html);
    }

    #[test]
    fn header_values_need_not_be_utf8() {
        let head = b"GET / HTTP/1.0\r\nX: caf\xe9\r\nIf-None-Match: \"\xff\"\r\nConnection: Keep-Alive, \xff\r\n\r\n";
        let (request, _) = parse(head).expect("valid").expect("complete");
        assert!(request.keep_alive && request.if_none_match.is_some());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for headers in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\u{b}chunked",
            "X: a\r\n folded",
            " X: a",
            "X: a\rY: b",
            "X: a\nY: b",
            "X: a\0b",
            "X",
            ": a",
            "Host: b",
        ] {
            refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n"));
        }
        refused("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        refused("GET / HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn a_request_line_or_host_that_is_none_is_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET / HTTP/2.0",
            "GET / HTTP/1.10",
            "GET / http/1.1",
            "GET /\u{1} HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET a HTTP/1.1",
            "GET * HTTP/1.1",
            "GET ftp://h/ HTTP/1.1",
            "GET http:///a HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET http://u@h/ HTTP/1.1",
            "GET",
            "GET  /",
            "/ HTTP/1.1",
        ] {
            refused(&format!("{line}\r\nHost: a\r\n\r\n"));
        }
        for host in
            ["", ":1", "a b", "u@h", "a/b", "[::1", "h:x", "h:99999", "h:+1", "[x]", "a:1:2"]
        {
            refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        }
    }

    #[test]
    fn other_methods_are_told_apart_from_bad_requests() {
        assert_eq!(one("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").method, Method::Other);
        assert_eq!(one("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").method, Method::Other);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        assert!(one(post).has_body);
    }

    #[test]
    fn local_hosts_are_those_that_can_mean_only_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:1310",
            "127.9.9.9",
            "[::1]:1",
            "a.localhost",
            "Localhost.:1",
        ] {
            assert!(is_local_host(&host_name(host)), "{host}");
        }
        for host in
            ["", "example.org", "127.0.0.1.example.org", "10.0.0.1", "localhost.example", "[::2]"]
        {
            assert!(!is_local_host(&host_name(host)), "{host}");
        }
    }
}
