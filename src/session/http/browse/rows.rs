//! The rows of a table of keys, and what is read for them.

use std::collections::HashMap;

use super::element::{Element, strings};
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::http::exchange::Exchange;
use crate::session::http::key_info::{KeyInfo, look_at};
use crate::session::http::outcome::ReadError;

/// Longest string that a cell shows whole, in bytes.
const CELL_BYTES: usize = 120;

/// Highest number of columns that are fields.
const MAX_COLUMNS: usize = 12;

/// Highest number of strings that are kept of a value: those of 24 fields.
const MAX_STRINGS: usize = 2 * 24;

/// Highest number of elements that are shown of a value that has one cell.
pub(super) const PREVIEW_STRINGS: usize = 6;

/// Of a value that takes its backend this much memory, only the length is read.
const MAX_READ_BYTES: u64 = 16 * 1024;

/// A key, and what the table shows of its value.
pub(super) struct Row<'k> {
    pub key: &'k [u8],
    pub info: KeyInfo,
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
}

/// Reads what the table shows of these keys, in two exchanges. Leaves out keys that are gone.
pub(super) fn read_rows<'k>(
    exchange: &mut Exchange,
    keys: &'k [Vec<u8>],
) -> Result<Vec<Row<'k>>, ReadError> {
    exchange.connection.send(&look_at(keys))?;
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let info = KeyInfo::read(exchange.connection.replies())?;
        if !info.is_missing() {
            rows.push(Row { key, info, length: None, strings: Vec::new(), count: 0 });
        }
    }
    let mut commands = Vec::new();
    for row in &rows {
        if let Some(value_type) = row.info.value_type() {
            append_commands(value_type, row.key, row.info.bytes, &mut commands);
        }
    }
    if commands.is_empty() {
        return Ok(rows);
    }
    exchange.connection.send(&commands)?;
    for row in &mut rows {
        let Some(value_type) = row.info.value_type() else { continue };
        let from = exchange.connection.replies();
        row.length = unless_wrong_type(reply::integer(from))?.flatten().map(i64::unsigned_abs);
        if is_read(value_type, row.info.bytes) {
            let read = unless_wrong_type(strings(from, MAX_STRINGS, CELL_BYTES))?;
            (row.strings, row.count) = read.unwrap_or_default();
        }
    }
    // Only streams and strings can be empty; another value without elements is gone.
    let may_be_empty =
        |row: &Row| matches!(row.info.value_type(), Some(ValueType::Stream | ValueType::String));
    rows.retain(|row| row.length != Some(0) || may_be_empty(row));
    Ok(rows)
}

/// A value whose type has changed since the look at its key has nothing to show.
fn unless_wrong_type<T>(reply: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match reply {
        Err(resp::Error::Redis(text)) if text.starts_with("WRONGTYPE") => Ok(None),
        reply => reply.map(Some),
    }
}

/// Whether a value is read for the table. A string always is, because only its beginning is read.
fn is_read(value_type: ValueType, bytes: u64) -> bool {
    value_type == ValueType::String || bytes < MAX_READ_BYTES
}

fn append_commands(value_type: ValueType, key: &[u8], bytes: u64, commands: &mut Vec<u8>) {
    command(length_command(value_type)).arg(key).append_to(commands);
    if !is_read(value_type, bytes) {
        return;
    }
    let last = PREVIEW_STRINGS - 1;
    let read = match value_type {
        ValueType::String => command("GETRANGE").arg(key).number(0).number(CELL_BYTES),
        ValueType::List => command("LRANGE").arg(key).number(0).number(last),
        ValueType::Zset => command("ZRANGE").arg(key).number(0).number(last),
        ValueType::Stream => command("XREVRANGE").arg(key).args(["+", "-", "COUNT", "1"]),
        ValueType::Hash | ValueType::Set => value_type.read_command(key),
    };
    read.append_to(commands);
}

/// Returns the command that counts the elements, or bytes, of a value.
pub(super) fn length_command(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::String => "STRLEN",
        ValueType::Hash => "HLEN",
        ValueType::List => "LLEN",
        ValueType::Set => "SCARD",
        ValueType::Zset => "ZCARD",
        ValueType::Stream => "XLEN",
    }
}

/// Returns the fields that become columns, in the order in which they come: if at least half of the
/// values are hashes and share a field, those that a tenth of them have, otherwise none.
pub(super) fn choose_columns(rows: &[Row]) -> Vec<Vec<u8>> {
    let hashes = rows.iter().filter(|row| row.fields().next().is_some()).count();
    if hashes == 0 || 2 * hashes < rows.len() {
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
