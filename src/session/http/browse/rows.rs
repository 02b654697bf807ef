//! The keys of a listing, and what its table shows of each.

use std::collections::HashMap;

use super::element::{Element, strings};
use super::page::parts;
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::http::exchange::{
    BATCH_KEYS, Exchange, KeyInfo, ReadError, if_permitted, look_at,
};
use crate::session::http::rights::{Rights, hide_unless_readable};

/// Longest string that a cell shows whole, in bytes.
pub(super) const CELL_BYTES: usize = 120;

/// Highest number of columns that are fields.
const MAX_COLUMNS: usize = 12;

/// Highest number of strings that are kept of a value: those of 24 fields.
const MAX_STRINGS: usize = 2 * 24;

/// Highest number of elements that are shown of a value that has one cell.
pub(super) const PREVIEW_STRINGS: usize = 6;

/// Of a value that takes its backend this much memory, only the length is read.
const MAX_READ_BYTES: u64 = 16 * 1024;

/// What `PTTL` says of a key that is not there.
const GONE: i64 = -2;

/// A key, and what the table shows of its value.
pub(super) struct Row<'k> {
    pub key: &'k [u8],
    pub info: KeyInfo,
    /// Milliseconds until the key expires, negative if it does not; `None` if our user may not ask.
    pub ttl: Option<i64>,
    pub length: Option<u64>,
    /// The first strings of the value; empty if it was not read.
    pub strings: Vec<Element>,
    /// The number of strings that were read.
    pub count: u64,
}

impl Row<'_> {
    /// The fields and values of a hash that was read; nothing for another value.
    pub fn fields(&self) -> impl Iterator<Item = (&Element, &Element)> {
        let is_hash = self.info.value_type() == Some(ValueType::Hash);
        let (pairs, _) = self.strings.as_chunks::<2>();
        pairs.iter().filter(move |_| is_hash).map(|[field, value]| (field, value))
    }

    /// Whether it has one of these fields.
    pub fn has_field_of(&self, columns: &[Vec<u8>]) -> bool {
        self.fields().any(|(field, _)| !field.is_cut() && columns.contains(&field.bytes))
    }

    /// Whether the value is too long to be read for a table.
    pub fn is_unread(&self) -> bool {
        self.info.value_type().is_some_and(|value_type| !is_read(value_type, self.info.bytes))
    }
}

/// Leaves out the keys whose values the user may not read, by their types. Returns how many those are.
pub(super) fn retain_readable(
    exchange: &mut Exchange,
    keys: &mut Vec<Vec<u8>>,
    rights: Option<&Rights>,
) -> Result<u64, ReadError> {
    if rights.is_none() {
        return Ok(0);
    }
    let mut are_hidden = Vec::with_capacity(keys.len());
    for batch in keys.chunks(BATCH_KEYS) {
        let from = exchange.ask(look_at(batch))?;
        for key in batch {
            let mut info = if_permitted(KeyInfo::read(from))?.unwrap_or_else(KeyInfo::unknown);
            let is_gone = info.is_missing();
            hide_unless_readable(&mut info, key, rights);
            are_hidden.push(info.is_missing() && !is_gone);
        }
    }
    let mut hidden = are_hidden.iter();
    keys.retain(|_| hidden.next() != Some(&true));
    Ok(are_hidden.iter().filter(|is_hidden| **is_hidden).count() as u64)
}

/// Reads what the table shows of these keys, in two exchanges. Leaves out keys that are gone. What our user may not
/// ask is not known; that does not keep the rest from being shown.
pub(super) fn read_rows<'k>(
    exchange: &mut Exchange,
    keys: &'k [Vec<u8>],
    rights: Option<&Rights>,
) -> Result<Vec<Row<'k>>, ReadError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut look = Vec::new();
    for key in keys {
        look.extend(look_at(&[key]));
        command("PTTL").arg(key).append_to(&mut look);
    }
    let from = exchange.ask(look)?;
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let mut info = if_permitted(KeyInfo::read(from))?.unwrap_or_else(KeyInfo::unknown);
        let ttl = if_permitted(reply::integer(from))?.flatten();
        hide_unless_readable(&mut info, key, rights);
        if !info.is_missing() && ttl != Some(GONE) {
            rows.push(Row { key, info, ttl, length: None, strings: Vec::new(), count: 0 });
        }
    }
    let mut commands = Vec::new();
    for row in &rows {
        append_commands(row, &mut commands);
    }
    if commands.is_empty() {
        return Ok(rows);
    }
    let from = exchange.ask(commands)?;
    for row in &mut rows {
        let Some(value_type) = row.info.value_type() else { continue };
        row.length = if_shown(reply::integer(from))?.flatten().map(i64::unsigned_abs);
        if is_read(value_type, row.info.bytes) {
            let read = if_shown(strings(from, MAX_STRINGS, CELL_BYTES))?;
            (row.strings, row.count) = read.unwrap_or_default();
        }
        if let (ValueType::String, Some(length), [first]) =
            (value_type, row.length, &mut row.strings[..])
        {
            // Redis has sent its beginning alone.
            first.length = first.length.max(length);
        }
    }
    // Only streams and strings can be empty; another value without elements is gone.
    let may_be_empty =
        |row: &Row| matches!(row.info.value_type(), Some(ValueType::Stream | ValueType::String));
    rows.retain(|row| row.length != Some(0) || may_be_empty(row));
    Ok(rows)
}

/// A value whose type has changed since the look at its key, or that our user may not read, has nothing to show.
fn if_shown<T>(reply: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match if_permitted(reply) {
        Err(resp::Error::Redis(text)) if text.starts_with("WRONGTYPE") => Ok(None),
        reply => reply,
    }
}

/// Whether a value is read for the table. A string always is, because only its beginning is read.
fn is_read(value_type: ValueType, bytes: u64) -> bool {
    value_type == ValueType::String || bytes < MAX_READ_BYTES
}

/// Appends the commands that count the parts of a value and read what is shown of it.
fn append_commands(row: &Row, commands: &mut Vec<u8>) {
    let Some(value_type) = row.info.value_type() else { return };
    let key = row.key;
    command(parts(value_type).0).arg(key).append_to(commands);
    if !is_read(value_type, row.info.bytes) {
        return;
    }
    let last = PREVIEW_STRINGS - 1;
    let read = match value_type {
        // One byte more than is shown tells whether a character is cut.
        ValueType::String => command("GETRANGE").arg(key).number(0).number(CELL_BYTES),
        ValueType::List => command("LRANGE").arg(key).number(0).number(last),
        ValueType::Zset => command("ZRANGE").arg(key).number(0).number(last),
        ValueType::Stream => command("XREVRANGE").arg(key).args(["+", "-", "COUNT", "1"]),
        ValueType::Hash | ValueType::Set => value_type.read_command(key),
    };
    read.append_to(commands);
}

/// Returns the fields that become columns, in the order in which they come: if at least three quarters of the values are
/// hashes, half of which share a field, those that a tenth of them have, otherwise none.
pub(super) fn choose_columns(rows: &[Row]) -> Vec<Vec<u8>> {
    let hashes = rows.iter().filter(|row| row.fields().next().is_some()).count();
    if hashes == 0 || 4 * hashes < 3 * rows.len() {
        return Vec::new();
    }
    let mut order: Vec<&[u8]> = Vec::new();
    let mut times: HashMap<&[u8], usize> = HashMap::new();
    for (field, _) in rows.iter().flat_map(Row::fields).filter(|(field, _)| !field.is_cut()) {
        let times = times.entry(&field.bytes).or_default();
        if *times == 0 {
            order.push(&field.bytes);
        }
        *times += 1;
    }
    if !times.values().any(|&times| 2 * times >= hashes && (times > 1 || hashes == 1)) {
        return Vec::new();
    }
    order.retain(|field| times.get(field).is_some_and(|times| 10 * times >= hashes));
    order.truncate(MAX_COLUMNS);
    order.into_iter().map(<[u8]>::to_vec).collect()
}
