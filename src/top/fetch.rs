//! Asks a balancer for its status, over HTTP or by its control socket.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::document::{Document, Text};
use crate::config::top::{HttpSource, StatusSource};
use crate::http::target::NO_HISTORY;
use crate::net::backend_stream::BackendStream;

/// Longest wait for an answer, and for each of its steps.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Largest answer, in bytes: that of about a thousand backends.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Nobody answers.
    #[error("{}", reason(.0))]
    Unreachable(#[from] io::Error),
    /// The balancer wants a login, or another one.
    #[error(
        "it wants a login: lb top http://USER@HOST:PORT --password-file FILE, or its control socket (--control PATH)"
    )]
    NotLoggedIn,
    /// The user may not see the status.
    #[error("this user may not see its status: it needs the right to use INFO")]
    NotPermitted,
    /// There is no status page there.
    #[error(
        "no status page is there: --admin-listen has it elsewhere, or --no-status has turned it off, or this is no lb"
    )]
    NoStatusPage,
    /// It takes nothing that is plain, or it is no balancer.
    #[error("it takes no plain HTTP (status 400): write https://HOST:PORT if it speaks TLS")]
    PlainRefused,
    /// It has too many clients, or is about to end.
    #[error("it answers with status {0}")]
    Status(u16),
    /// It has ended, or has closed the connection, before all of it was sent.
    #[error("its answer broke off")]
    BrokenOff,
    /// What answers is no balancer.
    #[error("what answers there is no lb")]
    NoBalancer,
}

/// The words of an error, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it is silent".to_owned(),
        _ => Text::from(text).to_string(),
    }
}

/// Asks for the status.
///
/// # Errors
/// Nobody answers in time, or not with a status.
pub(super) fn fetch(source: &StatusSource) -> Result<Document, FetchError> {
    let deadline = Instant::now() + ANSWER_TIME;
    let (stream, request) = match source {
        StatusSource::Socket(path) => {
            let stream = BackendStream::connect_unix(path, ANSWER_TIME, ANSWER_TIME)?;
            (stream, format!("GET /status?since={NO_HISTORY} HTTP/1.0\r\n\r\n"))
        }
        StatusSource::Http(http) => (connect(http, deadline)?, request(http)),
    };
    // Where it is refused before all is written, the response says why.
    let _ = (&stream).write_all(request.as_bytes());
    let response = read(&stream, deadline)?;
    let (status, body) = parse(&response)?;
    match status {
        200 => Document::parse(body).map_err(|_| FetchError::NoBalancer),
        400 if is_plain(source) => Err(FetchError::PlainRefused),
        401 => Err(FetchError::NotLoggedIn),
        403 => Err(FetchError::NotPermitted),
        404 => Err(FetchError::NoStatusPage),
        other => Err(FetchError::Status(other)),
    }
}

/// Returns whether this is asked over HTTP without TLS.
fn is_plain(source: &StatusSource) -> bool {
    matches!(source, StatusSource::Http(http) if http.tls.is_none())
}

/// Connects to the first address of the host that accepts.
fn connect(http: &HttpSource, deadline: Instant) -> io::Result<BackendStream> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in (http.host.as_str(), http.port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match BackendStream::connect(address, left, ANSWER_TIME, http.tls.as_ref()) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// With HTTP/1.0 the body ends with the connection.
fn request(http: &HttpSource) -> String {
    let login = http.login.as_ref().map(|(user, password)| {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        format!("Authorization: Basic {encoded}\r\n")
    });
    let (host, login) = (http.authority(), login.unwrap_or_default());
    format!("GET /-/status.json?since={NO_HISTORY} HTTP/1.0\r\nHost: {host}\r\n{login}\r\n")
}

/// Reads to the end.
fn read(mut stream: &BackendStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut response, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(left)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(response),
            Ok(count) if response.len() + count <= MAX_ANSWER_BYTES => {
                response.extend_from_slice(&buffer[..count]);
            }
            Ok(_) => return Err(io::Error::other("its answer is too long")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // After a refusal the connection may be reset.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return if response.is_empty() { Err(error) } else { Ok(response) };
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns the status and the body of a response.
fn parse(response: &[u8]) -> Result<(u16, &[u8]), FetchError> {
    if !response.starts_with(b"HTTP/1.") {
        return Err(FetchError::NoBalancer);
    }
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = response.split_at(end.ok_or(FetchError::BrokenOff)?);
    let (head, body) = (String::from_utf8_lossy(head), &body[4..]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    match status {
        Some(_) if length.is_some_and(|length: usize| body.len() < length) => {
            Err(FetchError::BrokenOff)
        }
        Some(status) => Ok((status, body)),
        None => Err(FetchError::NoBalancer),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What comes of a server that answers with these bytes.
    fn answered(bytes: &'static [u8]) -> Result<Document, FetchError> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().expect("a client").0;
            let mut request = [0; 1024];
            let count = stream.read(&mut request).expect("a request");
            stream.write_all(bytes).expect("room");
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let login = Some(("reader".to_owned(), "secret".to_owned()));
        let http = HttpSource { host: "127.0.0.1".to_owned(), port, tls: None, login };
        let fetched = fetch(&StatusSource::Http(http));
        let request = server.join().expect("no panic");
        assert!(
            request.starts_with("GET /-/status.json?since=18446744073709551615 HTTP/1.0\r\n"),
            "{request}"
        );
        assert!(request.contains("\r\nAuthorization: Basic cmVhZGVyOnNlY3JldA==\r\n"), "{request}");
        fetched
    }

    #[test]
    fn an_answer_is_a_status_or_says_what_to_do() {
        let good = answered(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"version\": \"1\"}");
        assert_eq!(&*good.expect("a status").version, "1");
        for (bytes, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "https://"),
            (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "--password-file"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "INFO"),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "--admin-listen"),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503"),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", "no lb"),
            (b"-ERR unknown command\r\n", "no lb"),
            (b"", "no lb"),
            (b"HTTP/1.1 200 OK\r\nContent-Le", "broke off"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"version\": \"1\"", "broke off"),
        ] {
            let error = answered(bytes).expect_err("no status").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
