use super::*;
use crate::http::parse;

fn responded(request: &str, body: &[u8], etag: Option<(u64, Option<&str>)>) -> (String, bool) {
    let (request, _) = parse(request.as_bytes()).expect("valid").expect("complete");
    let mut out = Vec::new();
    let mut response = ResponseWriter::new(&mut out, &request, true, || SystemTime::UNIX_EPOCH);
    let keeps_alive = match response.write_all(body) {
        Ok(()) => {
            response.settle(etag);
            response.finish().expect("a Vec takes all");
            response.keeps_alive()
        }
        Err(_) => response.is_done() && response.keeps_alive(),
    };
    (String::from_utf8(out).expect("text"), keeps_alive)
}

#[test]
fn a_short_body_has_its_length_and_etag() {
    let (text, keeps_alive) =
        responded("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"hello", Some((0xab, None)));
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\nContent-Length: 5\r\n"), "{text}");
    assert!(text.contains("\r\nETag: W/\"00000000000000ab-5\"\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nhello"), "{text}");
    assert!(keeps_alive);
}

#[test]
fn a_body_that_the_client_has_is_not_sent_again() {
    for tags in ["*", "\"x\", W/\"00000000000000ab-5\"", "\"00000000000000ab-5\""] {
        let (text, _) =
            responded("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"hello", Some((0xab, Some(tags))));
        assert!(text.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{text}");
        assert!(!text.contains("Content-Length") && text.ends_with("\r\n\r\n"), "{text}");
    }
}

#[test]
fn what_a_client_has_is_not_compressed() {
    let body = "a word ".repeat(1000);
    let (request, _) = parse(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        .expect("valid")
        .expect("complete");
    let settled = |list| {
        let mut response =
            ResponseWriter::new(Vec::new(), &request, true, || SystemTime::UNIX_EPOCH);
        response.write_all(body.as_bytes()).expect("it is held");
        response.settle(Some((0xab, list)));
        (response.sent_status(), response.bytes_to_compress())
    };
    assert_eq!(settled(None), (200, body.len()));
    assert_eq!(settled(Some("*")), (304, 0));
}

#[test]
fn a_body_that_may_only_be_held_is_never_sent_in_part() {
    let (request, _) = parse(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        .expect("valid")
        .expect("complete");
    let mut out = Vec::new();
    let mut response = ResponseWriter::new(&mut out, &request, true, || SystemTime::UNIX_EPOCH);
    response.hold_only();
    assert!(response.write_all(&[b'a'; HELD_BODY_BYTES]).is_ok());
    assert!(response.write_all(b"b").is_err() && !response.is_sent());
    assert!(out.is_empty());
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
    let mut response = ResponseWriter::new(
        &mut out,
        &Request { version: Version::Http11, ..request },
        true,
        || SystemTime::UNIX_EPOCH,
    );
    for piece in body.chunks(written_at_once) {
        response.write_all(piece).expect("a Vec takes all");
    }
    response.finish().expect("a Vec takes all");
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
        responded("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &body, None);
    assert!(text.contains("Connection: close\r\n\r\nxxx") && !text.contains("chunked"));
    assert!(!keeps_alive);
    let (text, keeps_alive) =
        responded("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"hi", None);
    assert!(text.contains("Connection: keep-alive\r\n") && keeps_alive);
    assert_eq!(responded("GET /\r\n", b"hi", None), ("hi".to_owned(), false));
    assert_eq!(responded("GET /\r\n", &body, None).0.as_bytes(), body);
}

#[test]
fn head_is_told_the_same_without_the_body() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (text, keeps_alive) = responded(head, b"hello", None);
    assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"));
    assert!(keeps_alive);
    let (text, keeps_alive) = responded(head, &b"x".repeat(HELD_BODY_BYTES + 1), None);
    assert!(text.contains("chunked\r\n") && text.ends_with("\r\n\r\n") && keeps_alive);
}
