//! Requests that no well-behaved client sends: what is refused, what is served all the same, and
//! that `lb` is none the worse for either.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::wait_until;

/// Follows each request of a table: it shows whether the connection goes on, and that nothing but
/// it is taken for a second request.
const SECOND: &[u8] = b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The status of [`SECOND`].
const SECOND_STATUS: u16 = 204;

/// Goes before what, at the beginning of a connection, would be the Redis protocol: after a
/// request it is HTTP.
const FIRST: &[u8] = b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The status of [`FIRST`].
const FIRST_STATUS: u16 = 204;

fn start() -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    server.command(&["HSET", "actor:1", "first_name", "Mara", "last_name", "Ellingworth"]);
    server.command(&["SET", "greeting", "hello"]);
    let lb = Balancer::start_with(&[&server], &["--log-leases"]);
    (server, lb)
}

/// The request line, with sound headers after it.
fn with_line(line: &[u8]) -> Vec<u8> {
    [line, b"\r\nHost: localhost\r\n\r\n"].concat()
}

/// A request with this line, after [`FIRST`].
fn with_later_line(line: &[u8]) -> Vec<u8> {
    [FIRST, &with_line(line)].concat()
}

/// A sound request with one more header, or several.
fn with_header(header: &[u8]) -> Vec<u8> {
    [b"GET /actor:1 HTTP/1.1\r\nHost: localhost\r\n", header, b"\r\n\r\n"].concat()
}

/// A sound request whose only header is this one.
fn with_host(header: &[u8]) -> Vec<u8> {
    [b"GET /actor:1 HTTP/1.1\r\n", header, b"\r\n\r\n"].concat()
}

/// A request whose body is not framed well, or that is no business of a body.
fn with_body(method: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("{method} /actor:1 HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}").into()
}

fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 400 { text } else { format!("{}… ({} bytes)", &text[..200], bytes.len()) }
}

/// Sends each request with [`SECOND`] after it; all must get these answers and then the end.
fn all_get(lb: &Balancer, expected: &[u16], requests: impl IntoIterator<Item = Vec<u8>>) {
    let mut wrong = String::new();
    for request in requests {
        let mut client = lb.client();
        client.send([&request, SECOND].concat());
        let statuses = client.statuses();
        if statuses != expected {
            wrong += &format!("{statuses:?} for {}\n", shown(&request));
        }
    }
    assert!(wrong.is_empty(), "instead of {expected:?}:\n{wrong}");
    assert_unharmed(lb);
}

/// Still serving, no thread has died, no lease is counted that nobody holds.
fn assert_unharmed(lb: &Balancer) {
    assert!(lb.talk(b"GET /-/ping HTTP/1.0\r\n\r\n").ends_with(b"\r\n\r\nPONG\n"));
    assert_eq!(lb.get("/actor:1").json()["first_name"], "Mara");
    assert_eq!(lb.get("/the-last-one").status, 404);
    let mut log = String::new();
    wait_until("the last request is logged", || {
        log = lb.log();
        log.lines().last().is_some_and(|line| line.contains("/the-last-one"))
    });
    assert!(log.trim_end().ends_with("=0"), "a lease is left");
    assert!(!log.contains("panicked"));
    assert!(!log.contains(" failed: "), "a backend has seen what it should not");
}

#[test]
fn a_request_line_that_is_none_is_refused_and_the_connection_closed() {
    let (_server, lb) = start();
    let lines: [&[u8]; 29] = [
        b"GET /actor:1",
        b"GET /actor:1 ",
        b"GET /actor:1  HTTP/1.1",
        b"GET /actor:1 HTTP/1.1 ",
        b"GET /actor:1 HTTP/1.1\t",
        b"GET /actor:1 HTTP/1.1 x",
        b"GET /actor:1\tHTTP/1.1",
        b"GET /actor 1 HTTP/1.1",
        b"GET /act\tor HTTP/1.1",
        b"GET /act\0or HTTP/1.1",
        b"GET /act\x7for HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /..\xc0\xaf..\xc0\xafkey HTTP/1.1",
        b"GET /actor:1#first HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET http:/actor:1 HTTP/1.1",
        b"GET http:///actor:1 HTTP/1.1",
        b"GET http://user@localhost/actor:1 HTTP/1.1",
        b"GET http://localhost:port/actor:1 HTTP/1.1",
        b"GET /actor:1 http/1.1",
        b"GET /actor:1 HTTP/1",
        b"GET /actor:1 HTTP/1.",
        b"GET /actor:1 HTTP/1.10",
        b"GET /actor:1 HTTP/01.1",
        b"GET /actor:1 HTTP/ 1.1",
        b"GET /actor:1 HTTP/2.0",
        b"GET /actor:1 HTTP/9.9",
        b"GET /actor:1 HTTPS/1.1",
    ];
    all_get(&lb, &[400], lines.map(with_line));
    let later_lines: [&[u8]; 18] = [
        b" GET /actor:1 HTTP/1.1",
        b"\tGET /actor:1 HTTP/1.1",
        b"GET",
        b"GET ",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b"/actor:1 HTTP/1.1",
        b"GET  /actor:1 HTTP/1.1",
        b"GET\t/actor:1 HTTP/1.1",
        b"GET\x0b/actor:1\x0bHTTP/1.1",
        b"GET\xa0/actor:1 HTTP/1.1",
        b"GET actor:1 HTTP/1.1",
        b"GET ? HTTP/1.1",
        b"GET localhost:1310 HTTP/1.1",
        b"GET ftp://localhost/actor:1 HTTP/1.1",
        b"G\0T /actor:1 HTTP/1.1",
        b"G(T /actor:1 HTTP/1.1",
        b"G\xc3\x89T /actor:1 HTTP/1.1",
    ];
    all_get(&lb, &[FIRST_STATUS, 400], later_lines.map(with_later_line));
}

#[test]
fn a_header_that_is_none_is_refused_and_the_connection_closed() {
    let (_server, lb) = start();
    let headers: [&[u8]; 32] = [
        b"no colon here",
        b"NoColon",
        b": no name",
        b"X : space before the colon",
        b"X\t: tab before the colon",
        b" X: space before the name",
        b"\tX: tab before the name",
        b"X: a\r\n folded",
        b"X: a\r\n\tfolded",
        b"X:\r\n folded",
        b"X[]: brackets",
        b"X{Y}: braces",
        b"X Y: space within",
        b"X\0Y: NUL",
        b"X(Y): parentheses",
        b"X\"Y\": quotes",
        b"X/Y: slash",
        b"X@Y: at",
        b"X\xc3\xabY: not ASCII",
        b"X\x7f: DEL",
        b"X: a\0b",
        b"X: a\x01b",
        b"X: a\x07\x08\x0bb",
        b"X: a\x7fb",
        b"X: a\rb",
        b"X: a\r",
        b"X: a\r\r",
        b"X: a\nY: b",
        b"\rX: a",
        b"X\r: a",
        b"X\n: a",
        b"X: a\n\nGET /smuggled HTTP/1.1\nHost: localhost",
    ];
    all_get(&lb, &[400], headers.map(with_header));
    let whole: [&[u8]; 5] = [
        b"GET /actor:1 HTTP/1.1\nHost: localhost\n\n",
        b"GET /actor:1 HTTP/1.1\nHost: localhost\r\n\r\n",
        b"GET /actor:1 HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET /actor:1 HTTP/1.1\rHost: localhost\r\r\r\n\r\n",
        b"GET /actor:1 HTTP/1.1\r\n \r\nHost: localhost\r\n\r\n",
    ];
    all_get(&lb, &[400], whole.map(<[u8]>::to_vec));
}

#[test]
fn a_missing_double_or_impossible_host_is_refused_and_the_connection_closed() {
    let (_server, lb) = start();
    let headers: [&[u8]; 29] = [
        b"X: no host at all",
        b"Host:",
        b"Host: ",
        b"Host: :1310",
        b"Host: localhost\r\nHost: localhost",
        b"Host: localhost\r\nhost: example.org",
        b"Host: example.org\r\nX: y\r\nHost: localhost",
        b"Host: localhost, localhost",
        b"Host: localhost localhost",
        b"Host: user@localhost",
        b"Host: localhost/",
        b"Host: localhost/actor:1",
        b"Host: http://localhost",
        b"Host: localhost?",
        b"Host: localhost#",
        b"Host: localhost\\",
        b"Host: localhost:port",
        b"Host: localhost:-1",
        b"Host: localhost:+1",
        b"Host: localhost:65536",
        b"Host: localhost:99999999999999999999",
        b"Host: localhost:1:2",
        b"Host: ::1",
        b"Host: [::1",
        b"Host: [::1]x",
        b"Host: [::g]",
        b"Host: [127.0.0.1]",
        b"Host: local\xffhost",
        b"Host: local\0host",
    ];
    all_get(&lb, &[400], headers.map(with_host));
}

#[test]
fn what_two_servers_could_read_as_different_bodies_is_refused_and_nothing_is_read_behind_it() {
    let (_server, lb) = start();
    let framings = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: Chunked",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 6",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: 0,",
        "Content-Length:",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: -0",
        "Content-Length: 0x5",
        "Content-Length: 0o5",
        "Content-Length: 5.0",
        "Content-Length: 1e1",
        "Content-Length: 1_0",
        "Content-Length: 1 0",
        "Content-Length: 5 bytes",
        "Content-Length: \"5\"",
        "Content-Length: five",
        "Content-Length: \u{665}",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999",
        "Content-Length : 5",
        "Content-Length: 5\r\n 0",
        "Content-Length: 5\0",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding:\u{c}chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: chu\0nked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
    ];
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for method in ["GET", "POST"] {
        all_get(&lb, &[400], framings.map(|headers| with_body(method, headers, smuggled)));
    }
    let old = b"GET /actor:1 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec();
    all_get(&lb, &[400], [old]);
    assert!(!lb.log().contains("/smuggled"));
}

#[test]
fn a_body_is_never_read_as_the_next_request() {
    let (_server, lb) = start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let whole = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let length = format!("Content-Length: {}", smuggled.len());
    let chunked = "Transfer-Encoding: chunked";
    let framed = [
        (length.as_str(), smuggled),
        ("Content-Length: 1", smuggled),
        ("Content-Length: 005", smuggled),
        ("Content-Length:\t5 ", smuggled),
        ("Content-Length: 18446744073709551615", smuggled),
        ("Content-Length: 5\r\nExpect: 100-continue", smuggled),
        ("Content-Length: 5\r\nConnection: keep-alive", smuggled),
        (chunked, &whole),
        ("TRANSFER-ENCODING:\tCHUNKED ", &whole),
        (chunked, "5\r\nhello\r\n0\r\nHost: evil\r\nContent-Length: 9\r\n\r\n"),
        (chunked, "5;name=value\r\nhello\r\n0\r\n\r\n"),
        // None of these is a chunk, which nobody will know: no body is read.
        (chunked, "5\r\nhello\r\n"),
        (chunked, "5\r\nhello world\r\n0\r\n\r\n"),
        (chunked, "0x5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "+0\r\n\r\n"),
        (chunked, "-1\r\n\r\n"),
        (chunked, "FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5;\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5;a=\0\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5\rhello\r0\r\r"),
        (chunked, "5\nhello\n0\n\n"),
        (chunked, " 5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "\r\n\r\n"),
    ];
    for (method, status) in [("GET", 200), ("POST", 405), ("OPTIONS", 405)] {
        let requests = framed.map(|(headers, body)| with_body(method, headers, body));
        all_get(&lb, &[status], requests);
    }
    assert!(!lb.log().contains("/smuggled"));
}

#[test]
fn unusual_requests_that_http_allows_are_served_and_the_connection_goes_on() {
    let (_server, lb) = start();
    let many = "X: y\r\n".repeat(98) + "X: y";
    let long = format!("X: {}", "y".repeat(15 * 1024));
    let headers: [&[u8]; 41] = [
        b"X: y",
        b"X:y",
        b"X:\t y \t",
        b"X:",
        b"X: ",
        b"x: a\r\nX: b",
        b"!#$%&'*+-.^_`|~09azAZ: every character that a name may have",
        b"X: !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\t and a tab",
        b"X: caf\xe9",
        b"X: \xff\xfe\x80",
        b"User-Agent: \xe2\x9c\x93",
        b"Cookie: a=\xc3\x28\r\nCookie: b=c",
        b"If-None-Match: \"\xff\"",
        b"If-None-Match: \"",
        b"Content-Length: 0",
        b"Content_Length: 99",
        b"Transfer_Encoding: chunked",
        b"X-Content-Length: 99",
        b"Content-Lengths: 99",
        b"Connection: keep-alive",
        b"Connection: ,, Keep-Alive ,",
        b"Connection: x\r\nConnection: y",
        b"Connection: closed",
        b"Connection:",
        b"Proxy-Connection: close",
        b"Keep-Alive: timeout=5, max=100",
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
        b"Upgrade: unheard-of/1.0",
        b"Range: bytes=0-1",
        b"Range: bytes=abc-xyz",
        b"TE: trailers, gzip;q=0.5",
        b"Trailer: Host",
        b"Accept: application/x-nonsense",
        b"Accept-Encoding: gzip, br",
        b"Authorization: Basic \xff",
        b"Content-Type: a\r\nContent-Type: b",
        many.as_bytes(),
        long.as_bytes(),
    ];
    let went_on = &[200, SECOND_STATUS];
    all_get(&lb, went_on, headers.map(with_header));
    let hosts: [&[u8]; 11] = [
        b"host: localhost",
        b"HOST:localhost",
        b"Host:\tlocalhost \t",
        b"Host: LocalHost",
        b"Host: localhost.",
        b"Host: localhost:",
        b"Host: localhost:65535",
        b"Host: a.b.localhost",
        b"Host: 127.1.2.3:80",
        b"Host: [::1]",
        b"Host: [0:0:0:0:0:0:0:1]:1310",
    ];
    all_get(&lb, went_on, hosts.map(with_host));
    let lines: [&[u8]; 9] = [
        b"\r\nGET /actor:1 HTTP/1.1",
        b"\r\n\r\nGET /actor:1 HTTP/1.1",
        b"GET /%61ctor%3a1 HTTP/1.1",
        b"GET /?key=actor:1 HTTP/1.1",
        b"GET /actor:1? HTTP/1.1",
        b"GET / HTTP/1.1",
        b"GET http://localhost/actor:1 HTTP/1.1",
        b"GET http://[::1]?key=actor:1 HTTP/1.1",
        b"GET http://localhost HTTP/1.1",
    ];
    all_get(&lb, went_on, lines.map(with_line));
    let scheme_in_capitals = with_later_line(b"GET HTTP://LOCALHOST:1310/actor:1 HTTP/1.1");
    all_get(&lb, &[FIRST_STATUS, 200, SECOND_STATUS], [scheme_in_capitals]);
    let elsewhere = b"GET http://localhost/actor:1 HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec();
    all_get(&lb, went_on, [elsewhere]);
}

#[test]
fn what_is_sound_but_not_served_is_named_and_the_connection_goes_on() {
    let (_server, lb) = start();
    let cases: [(&[u8], u16); 15] = [
        (b"GETT /actor:1 HTTP/1.1", 405),
        (b"FOO /actor:1 HTTP/1.1", 405),
        (b"POST /actor:1 HTTP/1.1", 405),
        (b"PUT /actor:1 HTTP/1.1", 405),
        (b"DELETE /actor:1 HTTP/1.1", 405),
        (b"PATCH /actor:1 HTTP/1.1", 405),
        (b"TRACE /actor:1 HTTP/1.1", 405),
        (b"OPTIONS * HTTP/1.1", 405),
        (b"OPTIONS /actor:1 HTTP/1.1", 405),
        (b"GET /%00%0d%0aX:%20y HTTP/1.1", 404),
        (b"GET /../../etc/passwd HTTP/1.1", 404),
        (b"GET /a\\b HTTP/1.1", 404),
        (b"GET /caf\xc3\xa9 HTTP/1.1", 404),
        (b"GET /% HTTP/1.1", 400),
        (b"GET http://example.org/actor:1 HTTP/1.1", 421),
    ];
    for (line, status) in cases {
        all_get(&lb, &[status, SECOND_STATUS], [with_line(line)]);
    }
    let later_methods: [&[u8]; 3] = [
        b"get /actor:1 HTTP/1.1",
        b"!#$%&'*+-.^_`|~ /actor:1 HTTP/1.1",
        b"CONNECT localhost:443 HTTP/1.1",
    ];
    all_get(&lb, &[FIRST_STATUS, 405, SECOND_STATUS], later_methods.map(with_later_line));
    let longest = with_line(&[b"GET /", "a".repeat(16_000).as_bytes(), b" HTTP/1.1"].concat());
    all_get(&lb, &[404, SECOND_STATUS], [longest]);
}

#[test]
fn a_request_can_neither_forge_lines_of_the_log_nor_flood_it() {
    let (_server, lb) = start();
    let long = "A".repeat(10_000);
    let lines = [
        format!("{long} / HTTP/1.1"),
        format!("GET /{long} HTTP/1.1"),
        "GET /%0a[forged]%1b[2J HTTP/1.1".to_owned(),
        "GET /\u{9b}2J\u{202e}\u{2028}[forged] HTTP/1.1".to_owned(),
    ];
    for line in lines {
        let mut client = lb.client();
        client.send([&with_later_line(line.as_bytes()), SECOND].concat());
        // At the end of a connection its lines are written.
        let statuses = client.statuses();
        assert!(statuses.len() == 3 && [404, 405].contains(&statuses[1]), "{statuses:?}: {line}");
    }
    assert_unharmed(&lb);
    assert_log_is_plain(&lb);
}

#[test]
fn a_command_can_neither_forge_lines_of_the_log_nor_flood_it() {
    let (_server, lb) = start();
    // The error quotes what stands where a `$` should.
    for byte in *b"\x07\x08\x1b\x7f\x9b\xff\n" {
        let reply = lb.talk(&[b"*1\r\n", &[byte][..], b"\r\n"].concat());
        assert!(reply.starts_with(b"-ERR Protocol error"), "{}", shown(&reply));
    }
    lb.talk(format!("{}\r\nGET \x1b[2J\r\nPOST\r\n", "A".repeat(10_000)).as_bytes());
    assert_unharmed(&lb);
    assert_log_is_plain(&lb);
}

/// Each line is one that `lb` meant to write, and none takes much room.
fn assert_log_is_plain(lb: &Balancer) {
    for line in lb.log().lines() {
        let is_plain = line.chars().all(|c| (' '..='~').contains(&c) || c == '…');
        assert!(line.starts_with("20") && line.len() < 1000 && is_plain, "{line:?}");
    }
}

#[test]
fn too_much_is_refused_by_its_name_and_the_connection_closed() {
    let (_server, lb) = start();
    let a = |count: usize| "a".repeat(count).into_bytes();
    let too_long = [64 * 1024, 100_000].map(|n| [b"GET /", &a(n)[..], b" HTTP/1.1"].concat());
    all_get(&lb, &[414], too_long.map(|line| with_line(&line)));
    let long_method = with_later_line(&[&a(100_000)[..], b" / HTTP/1.1"].concat());
    all_get(&lb, &[FIRST_STATUS, 414], [long_method]);
    let too_large = [
        [b"X: ", &a(16 * 1024)[..]].concat(),
        [b"X: ", &a(100_000)[..]].concat(),
        [&a(100_000)[..], b": y"].concat(),
        ["X: y\r\n".repeat(100).as_bytes(), b"X: y"].concat(),
        ["X: y\r\n".repeat(10_000).as_bytes(), b"X: y"].concat(),
    ];
    all_get(&lb, &[431], too_large.map(|header| with_header(&header)));
}

#[test]
fn what_is_neither_http_nor_redis_gets_an_error_or_the_end_at_once() {
    let (_server, lb) = start();
    let mut rng = fastrand::Rng::with_seed(42);
    let noise: Vec<u8> = (0..2000).map(|_| rng.u8(..)).collect();
    let cases: [&[u8]; 24] = [
        b"",
        b"\r",
        b"\n",
        b"\n\n\n\n",
        b"\r\n\r\n\r\n\r\n\r\n\r\n",
        b"\r\r\r\r\r\r",
        b"\0",
        &[0; 5000],
        b"   \r\n\r\n",
        b"\t\r\n\r\n",
        b"G",
        b"GET /actor:1",
        b"GET /actor:1 HTTP/1.1\r\nHost: local",
        b"GET /actor:1 HTTP/1.1\r\nHost: localhost\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 a TLS greeting",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"EHLO localhost\r\n",
        b"{\"json\": 1}\n",
        b"<html>\n</html>\n",
        b"\xef\xbb\xbfGET /actor:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        &[0xff; 5000],
        &noise,
    ];
    for case in cases {
        let answer = talk_and_end(&lb, case).unwrap_or_else(|e| panic!("{e}: {}", shown(case)));
        // The last is an alert of TLS.
        let errors = [&b"HTTP/1.1 4"[..], b"-ERR ", b"\x15\x03"];
        let is_error = errors.iter().any(|error| answer.starts_with(error));
        assert!(answer.is_empty() || is_error, "{} for {}", shown(&answer), shown(case));
    }
    assert_unharmed(&lb);
}

#[test]
fn what_can_never_become_a_request_is_refused_without_waiting_for_more() {
    let (_server, lb) = start();
    let cases: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 a TLS greeting",
        b"\0",
        b"{\"json\": 1}",
        b"GET /act\0or",
        b"GET /actor:1 HTTP/1.1\r\nHost: localhost\r\nX: \rY",
    ];
    for case in cases {
        let mut client = lb.client();
        client.send([FIRST, case].concat());
        assert_eq!(client.statuses(), [FIRST_STATUS, 400], "{}", shown(case));
    }
}

/// Sends, ends our side, and reads to the end; a reset is an end too, silence is not.
fn talk_and_end(lb: &Balancer, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", lb.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(8)))?;
    // lb may have refused and left before it has read everything.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(answer),
    }
}

/// Sound requests of all kinds, to be damaged.
const SAMPLES: [&[u8]; 10] = [
    b"GET /actor:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /actor:1?field=first_name&format=raw HTTP/1.1\r\nHost: 127.0.0.1:1310\r\nAccept: */*\r\n\r\n",
    b"HEAD /greeting HTTP/1.1\r\nHost: [::1]:1310\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: W/\"0123\", *\r\n\r\n",
    b"GET /?match=a*&limit=5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET http://localhost/actor: HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
    b"GET /greeting\r\n",
    b"POST /actor:1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /greeting HTTP/1.1\r\nHost: localhost\r\n\r\nGET /-/ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

fn damaged(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = rng.choice(SAMPLES).expect("one").to_vec();
    for _ in 0..rng.usize(1..=5) {
        damage(&mut bytes, rng);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    let begin = rng.usize(0..=bytes.len());
    let end = (begin + rng.usize(1..=12)).min(bytes.len());
    match rng.u8(0..8) {
        0 if begin < bytes.len() => bytes[begin] ^= 1 << rng.u8(0..8),
        1 if begin < bytes.len() => bytes[begin] = rng.u8(..),
        2 => bytes.insert(begin, rng.u8(..)),
        3 => bytes.insert(begin, *rng.choice(b"\r\n \t:,;/%*#?\0\x7f\xff").expect("one")),
        4 => drop(bytes.drain(begin..end)),
        5 => bytes.extend_from_within(begin..end),
        6 => {
            let piece = bytes[begin..end].to_vec();
            bytes.splice(begin..begin, piece);
        }
        _ => {
            let other = rng.choice(SAMPLES).expect("one");
            bytes.truncate(begin);
            bytes.extend_from_slice(&other[rng.usize(0..other.len())..]);
        }
    }
}

#[test]
fn ten_thousand_damaged_requests_do_no_harm() {
    const SEED: u64 = 1310;
    let (_server, lb) = start();
    let talk = |seed: u64| {
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..1250 {
            let request = damaged(&mut rng);
            let about = || format!("seed {seed}: {}", request.escape_ascii());
            let answer = talk_and_end(&lb, &request).unwrap_or_else(|e| panic!("{e}: {}", about()));
            let fails = answer.windows(10).any(|window| window == b"HTTP/1.1 5");
            assert!(!fails, "{} for {}", shown(&answer), about());
        }
    };
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || talk(SEED + thread));
        }
    });
    assert_unharmed(&lb);
}
