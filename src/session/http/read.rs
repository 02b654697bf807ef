//! One read from one backend, answered over HTTP: a value, a field, or (in `page`) many values.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};

use super::exchange::{Exchange, ReadError, describe};
use super::{browse, page};
use crate::backend::BackendError;
use crate::balance::failover::Attempt;
use crate::balance::slow::{self, Kinds, ReadKey};
use crate::http::target::{Format, KeyQuery, PageQuery};
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::json::{JsonWriter, TextOrBase64};
use crate::resp::reply;
use crate::resp::value_type::ValueType;

/// How often a key is looked at because its type changed under our hands. Each look is short, and
/// a key that is replaced all the time is still read.
pub const MAX_KEY_INFOS: usize = 10;

/// A value that takes its backend so much memory is short enough for a shared connection.
const SHORT_VALUE_BYTES: u64 = 16 * 1024;

/// What a client asks of a backend.
#[derive(Debug)]
pub enum Ask {
    /// A key's value or, when there is no such key, perhaps a page.
    Key(KeyQuery, Option<PageQuery>),
    /// A page of keys with their values.
    Page(PageQuery),
}

impl Ask {
    /// Whether only one backend can answer, because a cursor means something to no other.
    pub fn has_cursor(&self) -> bool {
        match self {
            Self::Page(page) | Self::Key(_, Some(page)) => page.cursor.is_some(),
            Self::Key(key, None) => key.cursor.is_some(),
        }
    }
}

impl Ask {
    /// What it is known by, where its command is not one that every server answers at once.
    pub fn read_key(&self, kinds: &Kinds) -> Option<ReadKey> {
        match self {
            Self::Key(query, _) if query.field.is_some() || query.is_raw() => None,
            // Pages for people show a bounded part of a value.
            Self::Key(KeyQuery { format: Format::Html, .. }, _) => None,
            Self::Page(PageQuery { format: Format::Html, .. }) => None,
            Self::Key(query, _) => Some(kinds.http_key("value", &query.key, b"")),
            Self::Page(query) => {
                let pattern = query.pattern.as_deref().unwrap_or_default();
                let position = query.cursor.as_ref().map_or(0, |cursor| cursor.position);
                Some(kinds.http_key("listing", pattern, &position.to_le_bytes()))
            }
        }
    }

    /// What it asks, for the log.
    pub fn label(&self) -> String {
        match self {
            Self::Key(query, _) => slow::shown(b"GET", &query.key),
            Self::Page(query) => {
                slow::shown(b"listing", query.pattern.as_deref().unwrap_or_default())
            }
        }
    }
}

/// How a read ended well.
pub enum Outcome {
    /// The answer is written, but for its end; with the digest for its ETag where it has one.
    Answered(Option<u64>),
    /// The cursor belongs to another backend.
    Elsewhere,
}

/// Asks a backend and writes what it says to `answer`.
pub fn answer<W: Write>(
    attempt: &Attempt,
    ask: &Ask,
    frame: browse::Frame,
    answer: &mut ResponseWriter<W>,
) -> Result<Outcome, ReadError> {
    match ask {
        Ask::Key(query, listing) if query.format == Format::Html => {
            browse::key(attempt, query, listing.as_ref(), frame, answer)
        }
        Ask::Page(query) if query.format == Format::Html => {
            browse::listing(attempt, query, frame, answer)
        }
        Ask::Key(query, listing) => key(attempt, query, listing.as_ref(), answer),
        Ask::Page(query) => page::page(attempt, query, answer),
    }
}

fn key<W: Write>(
    attempt: &Attempt,
    query: &KeyQuery,
    listing: Option<&PageQuery>,
    answer: &mut ResponseWriter<W>,
) -> Result<Outcome, ReadError> {
    let commands = describe(&[&query.key]);
    let mut exchange = Exchange::begin(attempt, &commands)?;
    let mut looks = 1;
    let outcome = loop {
        let look = exchange.look()?;
        if let Some(kind) = look.kind() {
            attempt.backend.type_hints.note(&query.key, kind, look.bytes > SHORT_VALUE_BYTES);
        }
        if look.is_missing() {
            if let Some(listing) = listing {
                exchange.end();
                return page::page(attempt, listing, answer);
            }
            break not_found(query, "no such key", answer)?;
        }
        let Some(kind) = look.kind().filter(|&kind| serves(query, kind)) else {
            break wrong_type(query, &look.name, answer)?;
        };
        match value(&mut exchange, query, kind, look.bytes, answer) {
            Ok(Some(outcome)) => break outcome,
            Ok(None) if query.field.is_some() => break not_found(query, "no such field", answer)?,
            // Gone, or of another type, since the look at it.
            Ok(None) => {}
            Err(failure) if failure.is_wrong_type() => {}
            Err(failure) => return Err(failure),
        }
        if looks == MAX_KEY_INFOS {
            return Err(BackendError::Changed.into());
        }
        looks += 1;
        exchange.connection.send(&commands)?;
    };
    exchange.end();
    Ok(outcome)
}

/// Answers with a value or a field of it; `None` when there is none.
fn value<W: Write>(
    exchange: &mut Exchange,
    query: &KeyQuery,
    kind: ValueType,
    bytes: u64,
    answer: &mut ResponseWriter<W>,
) -> Result<Option<Outcome>, ReadError> {
    let (command, kind, bytes) = match &query.field {
        // How large the field is, is not known; the hash around it does not matter.
        Some(field) => {
            let command = redis::cmd("HGET").arg(&query.key).arg(field).get_packed_command();
            (command, ValueType::String, 0)
        }
        None => (kind.packed_read(&query.key), kind, bytes),
    };
    if query.is_raw() {
        return raw(exchange, &command, bytes, answer);
    }
    let Some(found) = exchange.find(&query.key, &command, kind, bytes)? else {
        return Ok(None);
    };
    let ready = exchange.ready(found)?;
    answer.header("Content-Type", http::JSON);
    let mut json = JsonWriter::new(answer);
    let digest = exchange.write(ready, &mut json)?;
    json.finish()?;
    Ok(Some(Outcome::Answered(digest)))
}

fn raw<W: Write>(
    exchange: &mut Exchange,
    command: &[u8],
    bytes: u64,
    answer: &mut ResponseWriter<W>,
) -> Result<Option<Outcome>, ReadError> {
    let from = exchange.read(command, bytes)?;
    let Some(length) = reply::bulk(from)? else { return Ok(None) };
    answer.header("Content-Type", "application/octet-stream");
    let mut hasher = DefaultHasher::new();
    reply::payload(from, length, |piece| {
        hasher.write(piece);
        answer.write_all(piece).map_err(ReadError::Client)
    })?;
    Ok(Some(Outcome::Answered(Some(hasher.finish()))))
}

/// Whether what is asked for can be had from a value of this type.
fn serves(query: &KeyQuery, kind: ValueType) -> bool {
    match (&query.field, query.is_raw()) {
        (Some(_), _) => kind == ValueType::Hash,
        (None, true) => kind == ValueType::String,
        (None, false) => true,
    }
}

/// Says that it is not there.
pub fn not_found<W: Write>(
    query: &KeyQuery,
    why: &str,
    answer: &mut ResponseWriter<W>,
) -> io::Result<Outcome> {
    let error = ErrorBody {
        key: Some(TextOrBase64(&query.key)),
        field: query.field.as_deref().map(TextOrBase64),
        ..ErrorBody::new(why)
    };
    answer.status(404);
    answer.json(&error)?;
    Ok(Outcome::Answered(None))
}

fn wrong_type<W: Write>(
    query: &KeyQuery,
    name: &str,
    answer: &mut ResponseWriter<W>,
) -> io::Result<Outcome> {
    let why = match (&query.field, query.is_raw()) {
        (Some(_), _) => "only a hash has fields",
        (None, true) => "format=raw serves a string, or a field of a hash",
        (None, false) => "values of this type can't be shown",
    };
    answer.status(415);
    answer.json(&ErrorBody {
        key: Some(TextOrBase64(&query.key)),
        kind: Some(name),
        ..ErrorBody::new(why)
    })?;
    Ok(Outcome::Answered(None))
}
