use super::*;
use crate::http::{host_name, is_local_host};

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
    let https = one("GET https://[::1]:80/a?b HTTP/1.1\r\nHost: other\r\n\r\n");
    let request = one("GET http://[::1]:80/a?b HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(format!("{https:?}"), format!("{request:?}"));
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
    assert_eq!(refused(&format!("GET / HTTP/1.0\r\n{many}\r\n")), RequestError::HeadersTooLarge);
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
fn all_lines_of_accept_are_one_list() {
    for (accept, accepts) in [
        ("application/json;q=0.5\r\nAccept: text/html", true),
        ("text/html;q=0.5\r\nAccept: application/json", false),
        ("text/html\r\naccept: */*", false),
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
    for host in ["", ":1", "a b", "u@h", "a/b", "[::1", "h:x", "h:99999", "h:+1", "[x]", "a:1:2"] {
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

#[test]
fn the_greatest_age_of_data_is_a_decimal_number_of_seconds() {
    let asked =
        |headers: &str| one(&format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).max_staleness;
    assert_eq!(asked(""), Ok(None));
    for (text, millis) in
        [("0", 0), ("2", 2000), ("0.5", 500), ("00.250", 250), ("86400", 86_400_000)]
    {
        let expected = Ok(Some(Duration::from_millis(millis)));
        assert_eq!(asked(&format!("max-STALENESS: {text}\r\n")), expected, "{text}");
    }
    for text in [
        "", "-1", "+1", ".5", "5.", "1.2.3", "1e3", "inf", "NaN", "1 s", "1, 2", "86400.1",
        "\u{661}",
    ] {
        let error = asked(&format!("Max-Staleness: {text}\r\n")).expect_err(text);
        assert!(error.contains("Max-Staleness"), "{error}");
    }
    asked("Max-Staleness: 1\r\nMax-Staleness: 1\r\n").expect_err("twice");
    assert_eq!(one("GET /a\r\n").max_staleness, Ok(None));
}
