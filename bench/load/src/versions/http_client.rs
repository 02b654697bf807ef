//! Clients that read over HTTP.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::check::{Checker, Failure, Reply, Seen, Source};
use super::history::Content;
use super::keys::{self, VERSIONED};
use super::writer::wall_ms;
use super::{READS_PER_COLD_ONE, choose_key, repeat, seen};
use crate::soak::Random;
use crate::wire;

/// Average number of requests in a session.
const REQUESTS_PER_SESSION: usize = 2000;

/// One of this many requests is of a key that expires.
const REQUESTS_PER_EXPIRING: usize = 10;

struct Client<'a> {
    checker: &'a Checker,
    seen: Seen,
    random: Random,
    /// The last ETag of each path, and what it stood for.
    etags: HashMap<String, (String, Content)>,
}

struct Response {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

pub fn run(lb: u16, checker: &Checker, is_over: &AtomicBool) {
    let mut client =
        Client { checker, seen: seen(checker), random: Random::new(), etags: HashMap::new() };
    repeat(checker, is_over, || client.session(lb, is_over));
}

impl Client<'_> {
    fn session(&mut self, lb: u16, is_over: &AtomicBool) -> io::Result<()> {
        let mut stream = BufReader::new(wire::connect_with_timeout(lb)?);
        self.seen.clear();
        while !is_over.load(Ordering::Relaxed) && self.random.below(REQUESTS_PER_SESSION) > 0 {
            match self.random.below(REQUESTS_PER_EXPIRING) {
                0 => self.read_expiring(&mut stream)?,
                _ => self.read(&mut stream)?,
            }
        }
        Ok(())
    }

    fn read_expiring(&mut self, stream: &mut BufReader<TcpStream>) -> io::Result<()> {
        let path = keys::expiring_name(self.random.below(keys::EXPIRING));
        let sent_ms = wall_ms();
        let response = ask(stream, &path, None)?;
        match response.status {
            200 | 404 => self.checker.check_expiring(sent_ms, &response.body, path.as_bytes()),
            _ => self.fail(Failure::ErrorReply, &path, &response),
        }
        Ok(())
    }

    fn read(&mut self, stream: &mut BufReader<TcpStream>) -> io::Result<()> {
        let key = choose_key(&mut self.random, VERSIONED, READS_PER_COLD_ONE);
        let field = if keys::is_hash(key) && self.random.below(4) == 0 { "?field=a" } else { "" };
        let path = keys::name(key) + field;
        let known = self.etags.get(&path).filter(|_| self.random.below(2) == 0).cloned();
        let etag = known.as_ref().map(|(etag, _)| etag.as_str());
        let sent = Instant::now();
        let response = ask(stream, &path, etag)?;
        let content = match (response.status, keys::number_after(b"g=", &response.body), known) {
            (200, Ok(Some(state)), _) => Content::Written(state),
            (404, ..) => Content::Absent,
            (304, _, Some((_, content))) => content,
            (200 | 304, ..) => {
                self.fail(Failure::Impossible, &path, &response);
                return Ok(());
            }
            _ => {
                self.fail(Failure::ErrorReply, &path, &response);
                return Ok(());
            }
        };
        if let Some(etag) = response.headers.get("etag") {
            self.etags.insert(path.clone(), (etag.clone(), content));
        }
        let backend = response.headers.get("x-served-by").and_then(|name| self.seen.backend(name));
        let age = response.headers.get("age").map(|age| age.parse::<u64>());
        let source = match (response.headers.get("x-cache").map(String::as_str), age) {
            (Some("hit"), Some(Ok(_))) if response.status == 304 => Source::HttpHit304,
            (Some("hit"), Some(Ok(_))) => Source::HttpHit,
            (Some("miss"), None) => Source::HttpMiss,
            _ => {
                self.fail(Failure::WrongHead, &path, &response);
                return Ok(());
            }
        };
        if backend.is_none() {
            self.fail(Failure::WrongHead, &path, &response);
        }
        let request = path.as_bytes();
        self.checker.check(&mut self.seen, &Reply { source, backend, key, content, sent, request });
        Ok(())
    }

    fn fail(&self, failure: Failure, path: &str, response: &Response) {
        let Response { status, headers, body } = response;
        let text = format!("/{path}: {status} {headers:?} {}", body.escape_ascii());
        self.checker.fail(failure, &text);
    }
}

fn ask(stream: &mut BufReader<TcpStream>, path: &str, etag: Option<&str>) -> io::Result<Response> {
    let condition = etag.map_or(String::new(), |etag| format!("If-None-Match: {etag}\r\n"));
    let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let status_line = line(stream)?;
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status: {status_line:?}")))?;
    let mut headers = HashMap::new();
    loop {
        let line = line(stream)?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if status != 304 {
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let length = length.ok_or_else(|| io::Error::other(format!("no length: {headers:?}")))?;
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
    }
    Ok(Response { status, headers, body })
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}
