//! Fuzzes the parser of HTTP requests. The first byte of the input sets the size of the pieces in which
//! the other bytes arrive.
//!
//! The pieces must not change the request, its valid parts must be usable in a response, and a path
//! that we build from its key must parse to that key.

#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use redis_lb::http::target::{self, Format, KeyQuery, Target};
use redis_lb::http::{
    ErrorBody, Method, Request, ResponseWriter, Version, host_name, is_local_host, parse,
};

fuzz_target!(|data: &[u8]| {
    let Some((&size, bytes)) = data.split_first() else { return };
    let size = usize::from(size) + 1;
    let whole = parse(bytes);
    let ends = (size..bytes.len()).step_by(size).chain([bytes.len()]);
    let in_pieces = ends.map(|end| parse(&bytes[..end])).find(|parsed| !matches!(parsed, Ok(None)));
    match in_pieces {
        // Without a version nothing may follow, so the whole input may be an error.
        Some(Ok(Some((request, _)))) if request.version == Version::Http09 => {
            assert!(whole.is_err() || whole == Ok(Some((request, bytes.len()))));
        }
        // The pieces may change which error is found first, but not that there is one.
        Some(Err(_)) => assert!(whole.is_err(), "{whole:?}"),
        Some(Ok(parsed)) => assert_eq!(whole, Ok(parsed)),
        None => assert_eq!(whole, Ok(None)),
    }
    if let Ok(Some((request, length))) = whole {
        assert!(bytes[..length].ends_with(b"\n"));
        check_request(&request);
        check_response(&request);
    }
});

fn check_request(request: &Request) {
    let is_line = |text: &str| !text.contains(['\r', '\n', '\0']);
    assert!(is_line(&request.target) && is_line(&request.method_name));
    assert!(request.host.as_deref().is_none_or(is_line));
    if let Some(host) = &request.host {
        let _ = is_local_host(&host_name(host));
    }
    if request.method == Method::Other {
        return;
    }
    assert!(request.target.starts_with('/'), "{request:?}");
    if let Ok(Target::Key(query, page)) = target::parse(&request.target, false) {
        assert!(page.is_none_or(|page| page.prefix == query.key));
        let parsed = target::parse(&path(&query), false);
        assert_eq!(parsed, Ok(Target::Key(query, None)));
    }
}

/// Builds a path for the query, with every byte percent-encoded.
fn path(query: &KeyQuery) -> String {
    let encoded =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let mut path = format!("/?key={}", encoded(&query.key));
    if let Some(field) = &query.field {
        path += &format!("&field={}", encoded(field));
    }
    path + if query.format == Format::Raw { "&format=raw" } else { "" }
}

fn check_response(request: &Request) {
    let mut out = Vec::new();
    let mut response = ResponseWriter::new(&mut out, request, true, || SystemTime::UNIX_EPOCH);
    response.json(&ErrorBody::new(request.target.as_str())).expect("a Vec takes all");
    response.finish(Some((7, request.if_none_match.as_deref()))).expect("a Vec takes all");
    assert!(!response.keeps_alive() || (request.keep_alive && !request.has_body));
    assert_eq!(out.starts_with(b"HTTP/1.1 "), request.version != Version::Http09);
}
