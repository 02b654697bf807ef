//! Fuzzes the parsers of replies. The first byte of the input sets the type of the value, the second the
//! size of the pieces in which the other bytes arrive.
//!
//! All parsers must find the same end of a reply, the pieces must not change it, and the JSON made from
//! a reply must be valid and have its content. What is made of it for RESP2 must be a reply.

#![no_main]

use std::io::{BufRead, BufReader};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::fuzz_target;
use redis::Value;
use redis_lb::render::json::{JsonWriter, RenderError, Survey, render, survey};
use redis_lb::resp::value_type::ValueType;
use redis_lb::resp::{Framer, Resp2Form, reply, to_resp2};
use serde_json::{Value as Json, json};

fuzz_target!(|data: &[u8]| {
    let [kind, size, bytes @ ..] = data else { return };
    let kind = ValueType::ALL[usize::from(*kind) % ValueType::ALL.len()];
    let size = usize::from(*size) + 1;

    let end = feed_pieces([bytes]);
    assert_eq!(feed_pieces(bytes.chunks(size)), end);
    if let Ok(Some(end)) = end {
        let _ = reply::no_error(&bytes[..end]);
        let _ = reply::string(&bytes[..end]);
    }

    check_resp2(bytes);

    let mut rest = bytes;
    let mut pieces = BufReader::with_capacity(size, bytes);
    let surveyed = survey(kind, &mut rest);
    let surveyed_in_pieces = survey(kind, &mut pieces);
    assert_eq!(format!("{surveyed_in_pieces:?}"), format!("{surveyed:?}"));
    let Ok(surveyed) = surveyed else { return };
    assert_eq!(end.ok().flatten(), Some(bytes.len() - rest.len()), "the survey ends elsewhere");
    let reply = &bytes[..bytes.len() - rest.len()];

    let (json, left) = written(kind, reply, &surveyed);
    let pieces = BufReader::with_capacity(size, reply);
    assert_eq!(written(kind, pieces, &surveyed), (json.clone(), left));
    if let Some(json) = json {
        assert_eq!(left, 0, "the JSON ends elsewhere");
        let json: Json = serde_json::from_slice(&json).expect("valid JSON");
        if let Some(expected) = expected(kind, reply) {
            assert_eq!(json, expected);
        }
    }
});

fn check_resp2(bytes: &[u8]) {
    use Resp2Form::{Frames, NullArrays, Pairs, Text};
    for form in [Frames, NullArrays, Pairs, Text] {
        let Some(resp2) = to_resp2(bytes, form) else { continue };
        assert_eq!(
            feed_pieces([bytes]),
            Ok(Some(bytes.len())),
            "more than one reply was converted"
        );
        assert_eq!(feed_pieces([&resp2[..]]), Ok(Some(resp2.len())));
        assert!(b"+-:$*".contains(&resp2[0]));
    }
}

/// Returns the end of the reply, `None` if it is incomplete, or an error.
fn feed_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<usize>, String> {
    let mut framer = Framer::new();
    let mut consumed = 0;
    for piece in pieces {
        let used = framer.feed(piece).map_err(|error| error.to_string())?;
        assert!(used <= piece.len());
        consumed += used;
        if framer.is_done() {
            assert!(framer.kind().is_some());
            return Ok(Some(consumed));
        }
        assert_eq!(used, piece.len());
    }
    Ok(None)
}

/// Returns the JSON, or `None` for a null that the type can't have, and the number of bytes left.
fn written(kind: ValueType, mut from: impl BufRead, survey: &Survey) -> (Option<Vec<u8>>, usize) {
    let mut json = Vec::new();
    let rendered = render(kind, &mut from, survey, &mut JsonWriter::new(&mut json));
    let mut left = Vec::new();
    from.read_to_end(&mut left).expect("from memory");
    match rendered {
        Ok(()) => (Some(json), left.len()),
        Err(RenderError::Sink(error)) => panic!("a Vec takes all: {error}"),
        Err(_) => (None, left.len()),
    }
}

/// Builds the expected JSON in another way; `None` for types that are not covered here.
fn expected(kind: ValueType, reply: &[u8]) -> Option<Json> {
    match (kind, redis::parse_redis_value(reply).ok()?) {
        (ValueType::String, value) => text_or_base64(&value),
        (ValueType::List | ValueType::Set, Value::Array(values)) => {
            values.iter().map(text_or_base64).collect()
        }
        (ValueType::Hash, Value::Array(values)) => {
            let (pairs, _) = values.as_chunks();
            hash(pairs)
        }
        _ => None,
    }
}

fn hash(pairs: &[[Value; 2]]) -> Option<Json> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    };
    if let Some(names) = pairs.iter().map(|[name, _]| text(name)).collect::<Option<Vec<_>>>() {
        let values = pairs.iter().map(|[_, value]| text_or_base64(value));
        return names.into_iter().zip(values).map(|(name, value)| Some((name, value?))).collect();
    }
    let entry = |[name, value]: &[Value; 2]| {
        Some(json!({"field": text_or_base64(name)?, "value": text_or_base64(value)?}))
    };
    pairs.iter().map(entry).collect()
}

fn text_or_base64(value: &Value) -> Option<Json> {
    let Value::BulkString(bytes) = value else { return None };
    Some(match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
    })
}
