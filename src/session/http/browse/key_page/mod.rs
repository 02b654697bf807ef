//! A key's page: what is known of the key, and its value in pages of a bounded length.

mod bytes;
mod elements;
mod page;

use std::io::Write;

use self::page::{KeyFacts, KeyPage, PAGE_ELEMENTS};
use super::layout::Frame;
use super::listing_page::write_listing_page;
use super::rows::length_command;
use crate::backend::BackendError;
use crate::balance::failover::Attempt;
use crate::http::ResponseWriter;
use crate::http::target::{KeyQuery, PageQuery};
use crate::resp::value_type::ValueType;
use crate::resp::{command, reply};
use crate::session::http::exchange::Exchange;
use crate::session::http::key_info::MAX_LOOKS;
use crate::session::http::outcome::{ReadError, ReadOutcome};

/// Writes the page of a key or a field, or, if there is no such key, the listing.
pub(crate) fn write_key_page<W: Write>(
    attempt: &Attempt,
    query: &KeyQuery,
    listing: Option<&PageQuery>,
    frame: Frame,
    response: &mut ResponseWriter<W>,
) -> Result<ReadOutcome, ReadError> {
    let look = KeyFacts::look_at(&query.key);
    let mut exchange = Exchange::begin(attempt, &look)?;
    for looks in 0..MAX_LOOKS {
        if looks > 0 {
            exchange.connection.send(&look)?;
        }
        let facts = KeyFacts::read(&mut exchange)?;
        if facts.info.is_missing()
            && let Some(listing) = listing
        {
            exchange.release();
            return write_listing_page(attempt, listing, frame, response);
        }
        let backend = attempt.backend.name();
        let mut page =
            KeyPage { query, frame, backend, exchange: &mut exchange, facts: &facts, response };
        match write(&mut page) {
            Ok(Some(outcome)) => {
                exchange.release();
                return Ok(outcome);
            }
            // The value is gone, or of another type, since the look at its key.
            Ok(None) => {}
            // The replies were read to their ends, and nothing was written.
            Err(error) if error.is_wrong_type() => {}
            Err(error) => return Err(error),
        }
    }
    Err(BackendError::Changed.into())
}

/// Writes the page; `None` if the value is gone or has become another.
fn write<W: Write>(page: &mut KeyPage<W>) -> Result<Option<ReadOutcome>, ReadError> {
    let (query, facts) = (page.query, page.facts);
    if facts.info.is_missing() {
        return page.refuse(404, "no such key").map(Some);
    }
    let value_type = facts.info.value_type();
    if query.field.is_some() {
        return match value_type {
            Some(ValueType::Hash) => page.write_field().map(Some),
            _ => page.refuse(415, "only a hash has fields").map(Some),
        };
    }
    let Some(value_type) = value_type else { return page.write_unserved().map(Some) };
    let count = command(length_command(value_type)).arg(&query.key).into_bytes();
    page.exchange.connection.send(&count)?;
    let length = reply::integer(page.exchange.connection.replies())?.unwrap_or(0).unsigned_abs();
    if length == 0 && !matches!(value_type, ValueType::Stream | ValueType::String) {
        return Ok(None);
    }
    let is_scanned = matches!(value_type, ValueType::Hash | ValueType::Set);
    if query.cursor.is_some() && !is_scanned || query.from.is_some() && is_scanned {
        let why = "this value has no such page: start again at its first";
        return page.refuse(400, why).map(Some);
    }
    let outcome = match value_type {
        ValueType::Hash | ValueType::Set => {
            if query.cursor.is_none() && length <= PAGE_ELEMENTS {
                page.write_whole(value_type, length)
            } else {
                page.write_scanned(value_type, length)
            }
        }
        ValueType::String => page.write_string(length),
        ValueType::List | ValueType::Zset => page.write_range(value_type, length),
        ValueType::Stream => page.write_stream(length),
    };
    outcome.map(Some)
}
