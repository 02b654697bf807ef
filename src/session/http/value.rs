//! The value of one key, or one field of a hash, as JSON or as raw bytes.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};

use super::exchange::Exchange;
use super::key_info::{KeyInfo, MAX_LOOKS, look_at};
use super::listing::write_listing;
use super::outcome::{ReadError, ReadOutcome};
use crate::backend::BackendError;
use crate::balance::failover::Attempt;
use crate::http::target::{KeyQuery, PageQuery};
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::json::{JsonWriter, TextOrBase64};
use crate::resp::value_type::ValueType;
use crate::resp::{command, reply};

/// A value that takes its backend less memory may be read on a shared connection the next time.
const MAX_SHORT_VALUE_BYTES: u64 = 16 * 1024;

/// Writes the value, or, if there is no such key, the listing.
pub(super) fn write_value<W: Write>(
    attempt: &Attempt,
    query: &KeyQuery,
    listing: Option<&PageQuery>,
    response: &mut ResponseWriter<W>,
) -> Result<ReadOutcome, ReadError> {
    let look = look_at(&[&query.key]);
    let mut exchange = Exchange::begin(attempt, &look)?;
    for looks in 0..MAX_LOOKS {
        if looks > 0 {
            exchange.connection.send(&look)?;
        }
        let info = KeyInfo::read(exchange.connection.replies())?;
        if let Some(value_type) = info.value_type() {
            let is_long = info.bytes > MAX_SHORT_VALUE_BYTES;
            attempt.backend.type_hints.note(&query.key, value_type, is_long);
        }
        if info.is_missing()
            && let Some(listing) = listing
        {
            exchange.release();
            return write_listing(attempt, listing, response);
        }
        match write_if_unchanged(&mut exchange, query, &info, response) {
            Ok(Some(outcome)) => {
                exchange.release();
                return Ok(outcome);
            }
            // The key is gone, or of another type, since the look at it.
            Ok(None) => {}
            Err(error) if error.is_wrong_type() => {}
            Err(error) => return Err(error),
        }
    }
    Err(BackendError::Changed.into())
}

/// Writes the response by what was seen of the key; `None` if its value is gone meanwhile.
fn write_if_unchanged<W: Write>(
    exchange: &mut Exchange,
    query: &KeyQuery,
    info: &KeyInfo,
    response: &mut ResponseWriter<W>,
) -> Result<Option<ReadOutcome>, ReadError> {
    if info.is_missing() {
        return Ok(Some(write_not_found(query, "no such key", response)?));
    }
    let is_served = |value_type: &ValueType| serves(query, *value_type);
    let Some(value_type) = info.value_type().filter(is_served) else {
        return Ok(Some(write_wrong_type(query, &info.type_name, response)?));
    };
    let Some(field) = &query.field else {
        let read = value_type.read_command(&query.key).into_bytes();
        return write_reply(exchange, query, &read, value_type, info.bytes, response);
    };
    let read = command("HGET").arg(&query.key).arg(field).into_bytes();
    // The field's size is not known, and that of its hash does not matter.
    match write_reply(exchange, query, &read, ValueType::String, 0, response)? {
        None => Ok(Some(write_not_found(query, "no such field", response)?)),
        outcome => Ok(outcome),
    }
}

/// Sends `command`, and writes its reply as the response; `None` if there is no value.
fn write_reply<W: Write>(
    exchange: &mut Exchange,
    query: &KeyQuery,
    command: &[u8],
    value_type: ValueType,
    bytes: u64,
    response: &mut ResponseWriter<W>,
) -> Result<Option<ReadOutcome>, ReadError> {
    if query.is_raw() {
        return write_raw(exchange, command, bytes, response);
    }
    let Some(value) = exchange.open_value(&query.key, command, value_type, bytes)? else {
        return Ok(None);
    };
    response.header("Content-Type", http::JSON);
    let mut json = JsonWriter::new(response);
    let digest = exchange.write_value(value, &mut json)?;
    json.finish()?;
    Ok(Some(ReadOutcome::Written(digest)))
}

fn write_raw<W: Write>(
    exchange: &mut Exchange,
    command: &[u8],
    bytes: u64,
    response: &mut ResponseWriter<W>,
) -> Result<Option<ReadOutcome>, ReadError> {
    let from = exchange.read_value(command, bytes)?;
    let Some(length) = reply::bulk(from)? else { return Ok(None) };
    response.header("Content-Type", "application/octet-stream");
    let mut hasher = DefaultHasher::new();
    reply::payload(from, length, |piece| {
        hasher.write(piece);
        response.write_all(piece).map_err(ReadError::Client)
    })?;
    Ok(Some(ReadOutcome::Written(Some(hasher.finish()))))
}

/// Whether values of this type have what the query asks for.
fn serves(query: &KeyQuery, value_type: ValueType) -> bool {
    match (&query.field, query.is_raw()) {
        (Some(_), _) => value_type == ValueType::Hash,
        (None, true) => value_type == ValueType::String,
        (None, false) => true,
    }
}

/// Writes a response with status 404.
pub(super) fn write_not_found<W: Write>(
    query: &KeyQuery,
    why: &str,
    response: &mut ResponseWriter<W>,
) -> io::Result<ReadOutcome> {
    let error = ErrorBody {
        key: Some(TextOrBase64(&query.key)),
        field: query.field.as_deref().map(TextOrBase64),
        ..ErrorBody::new(why)
    };
    response.status(404);
    response.json(&error)?;
    Ok(ReadOutcome::Written(None))
}

fn write_wrong_type<W: Write>(
    query: &KeyQuery,
    type_name: &str,
    response: &mut ResponseWriter<W>,
) -> io::Result<ReadOutcome> {
    let why = match (&query.field, query.is_raw()) {
        (Some(_), _) => "only a hash has fields",
        (None, true) => "format=raw serves a string, or a field of a hash",
        (None, false) => "values of this type can't be shown",
    };
    response.status(415);
    response.json(&ErrorBody {
        key: Some(TextOrBase64(&query.key)),
        kind: Some(type_name),
        ..ErrorBody::new(why)
    })?;
    Ok(ReadOutcome::Written(None))
}
