//! A table of keys. Where most of them are small hashes with the same fields, those are its columns.

use std::collections::HashMap;
use std::io::Write;

use redis::Pipeline;

use super::element::{Element, strings};
use super::{
    Frame, begin_table, count, end_table, key_link, next_link, open_rows, open_table, size,
};
use crate::backend::is_not_permitted;
use crate::balance::failover::Attempt;
use crate::http::target::{Cursor, PageQuery};
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::{line, text};
use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};
use crate::session::http::exchange::{Exchange, KeyInfo, ReadError, describe};
use crate::session::http::page::{BATCH_KEYS, GatherError, TOO_LONG, gather, run_id};
use crate::session::http::read::Outcome;

/// What of a string is shown in a cell, in bytes.
const CELL_BYTES: usize = 120;

/// The most columns that are fields.
const MAX_COLUMNS: usize = 12;

/// How many fields, or elements, of a value are looked at for the table.
const MAX_STRINGS: usize = 2 * 24;

/// How many elements are shown where a value has one cell.
const PREVIEW_STRINGS: usize = 6;

/// A value that takes more of its backend's memory is not read whole for the table, just its length.
const MAX_READ_BYTES: u64 = 16 * 1024;

/// Answers with a page of keys.
pub fn listing<W: Write>(
    attempt: &Attempt,
    query: &PageQuery,
    frame: Frame,
    answer: &mut ResponseWriter<W>,
) -> Result<Outcome, ReadError> {
    let mut first = Pipeline::new();
    first.cmd("INFO").arg("server").cmd("DBSIZE");
    let mut exchange = Exchange::begin(attempt, &first.get_packed_pipeline())?;
    let run_id = run_id(&mut exchange)?;
    let all_keys = allowed(reply::integer(exchange.connection.replies()))?.flatten();
    if query.cursor.as_ref().is_some_and(|cursor| cursor.run_id != run_id) {
        exchange.end();
        return Ok(Outcome::Elsewhere);
    }
    let (keys, position) = match gather(&mut exchange, query) {
        Err(GatherError::TooLong) => {
            answer.status(400);
            let why = ErrorBody::new(TOO_LONG);
            super::error(frame, 400, &why, answer)?;
            return Ok(Outcome::Answered(None));
        }
        Err(GatherError::ReadError(failure)) => return Err(failure),
        Ok(gathered) => gathered,
    };
    let next = (position != 0).then(|| query.link(&Cursor { run_id, position }));
    write_head(query, all_keys, keys.len(), next.is_some(), attempt.backend.name(), frame, answer)?;
    if !keys.is_empty() {
        write_table(&mut exchange, &keys, answer)?;
    }
    next_link(answer, next.as_deref())?;
    frame.end(answer)?;
    exchange.end();
    Ok(Outcome::Answered(None))
}

/// What a user that may not ask for it does without.
pub fn allowed<T>(reply: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match reply {
        Err(resp::Error::Redis(text)) if is_not_permitted(&text) => Ok(None),
        reply => reply.map(Some),
    }
}

fn write_head<W: Write>(
    query: &PageQuery,
    all_keys: Option<i64>,
    here: usize,
    has_next: bool,
    backend: &str,
    frame: Frame,
    answer: &mut ResponseWriter<W>,
) -> Result<(), ReadError> {
    let glob = query.matching.as_deref().or(query.search.as_deref()).unwrap_or_default();
    let asked = [&query.prefix, glob].concat();
    let title: &[u8] = if asked.is_empty() { b"Keys" } else { &asked };
    frame.begin(answer, &[title, b" \xe2\x80\x93 redis-lb"].concat(), &asked)?;
    match asked.is_empty() {
        true => answer.write_all(b"<h1>Keys</h1>\n")?,
        false => writeln!(
            answer,
            "<h1>Keys: <span class=\"mono\">{}</span></h1>",
            super::shortened(&asked)
        )?,
    }
    let here = here as u64;
    let is_all = query.pattern.is_none() && query.cursor.is_none() && !has_next;
    answer.write_all(b"<p class=\"facts\">")?;
    match all_keys.and_then(|keys| u64::try_from(keys).ok()) {
        Some(all) if is_all && all == here => write!(answer, "{}", count(all, "key"))?,
        Some(all) => write!(answer, "{} here, of {all} in the database", count(here, "key"))?,
        None => write!(answer, "{} here", count(here, "key"))?,
    }
    write!(answer, " · from {}", line(backend))?;
    if has_next {
        answer.write_all(b" \xc2\xb7 there are more: <a href=\"#next\">next page</a>")?;
    }
    answer.write_all(b"</p>\n")?;
    if here == 0 {
        let why = match (has_next, asked.is_empty()) {
            (true, _) => "None here yet: the search goes on.",
            (false, true) => "There are none.",
            (false, false) => {
                "There are no such keys. Only keys are searched, not what they hold; \
                 a * stands for anything. <a href=\"/\">All keys</a>"
            }
        };
        writeln!(answer, "<p>{why}</p>")?;
    }
    Ok(())
}

/// A key, and what the table shows of its value.
struct Row<'k> {
    key: &'k [u8],
    look: KeyInfo,
    length: Option<u64>,
    /// The first strings of the value; none where it was not read.
    strings: Vec<Element>,
    /// How many it has.
    count: u64,
}

impl Row<'_> {
    /// The fields and values of a hash that was read; none of another value.
    fn fields(&self) -> impl Iterator<Item = (&Element, &Element)> {
        let is_hash = self.look.kind() == Some(ValueType::Hash);
        let (pairs, _) = self.strings.as_chunks::<2>();
        pairs.iter().filter(move |_| is_hash).map(|[field, value]| (field, value))
    }
}

fn write_table<W: Write>(
    exchange: &mut Exchange,
    keys: &[Vec<u8>],
    answer: &mut ResponseWriter<W>,
) -> Result<(), ReadError> {
    let mut columns: Option<Vec<Vec<u8>>> = None;
    for batch in keys.chunks(BATCH_KEYS) {
        let rows = read_rows(exchange, batch)?;
        if columns.is_none() {
            let chosen = choose_columns(&rows);
            begin(answer, &chosen)?;
            columns = Some(chosen);
        }
        let columns = columns.as_deref().unwrap_or_default();
        for row in &rows {
            write_row(answer, row, columns)?;
        }
    }
    Ok(end_table(answer)?)
}

fn begin<W: Write>(answer: &mut ResponseWriter<W>, columns: &[Vec<u8>]) -> Result<(), ReadError> {
    if columns.is_empty() {
        return Ok(begin_table(answer, "Keys", &["key", "type", "size", "value"])?);
    }
    open_table(answer, "Keys")?;
    answer.write_all(b"<th scope=\"col\">key</th>")?;
    for column in columns {
        write!(answer, "<th scope=\"col\">{}</th>", super::shortened(column))?;
    }
    answer.write_all(b"<th scope=\"col\"><span class=\"unseen\">other fields</span></th>")?;
    Ok(open_rows(answer)?)
}

/// Looks at the keys and reads of their values what the table shows, in two exchanges. Keys that
/// are gone are left out.
fn read_rows<'k>(exchange: &mut Exchange, keys: &'k [Vec<u8>]) -> Result<Vec<Row<'k>>, ReadError> {
    exchange.connection.send(&describe(keys))?;
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let look = exchange.look()?;
        if !look.is_missing() {
            rows.push(Row { key, look, length: None, strings: Vec::new(), count: 0 });
        }
    }
    let mut commands = Pipeline::new();
    for row in &rows {
        if let Some(kind) = row.look.kind() {
            add_commands(&mut commands, kind, row.key, row.look.bytes);
        }
    }
    if commands.is_empty() {
        return Ok(rows);
    }
    exchange.connection.send(&commands.get_packed_pipeline())?;
    for row in &mut rows {
        let Some(kind) = row.look.kind() else { continue };
        let from = exchange.connection.replies();
        row.length = same_type(reply::integer(from))?.flatten().map(i64::unsigned_abs);
        if is_read(kind, row.look.bytes) {
            let read = same_type(strings(from, MAX_STRINGS, CELL_BYTES))?;
            (row.strings, row.count) = read.unwrap_or_default();
        }
    }
    // Only these may be empty; others are gone.
    let may_be_empty =
        |row: &Row| matches!(row.look.kind(), Some(ValueType::Stream | ValueType::String));
    rows.retain(|row| row.length != Some(0) || may_be_empty(row));
    Ok(rows)
}

/// A value whose type has changed since it was looked at is shown without.
fn same_type<T>(reply: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match reply {
        Err(resp::Error::Redis(text)) if text.starts_with("WRONGTYPE") => Ok(None),
        reply => reply.map(Some),
    }
}

/// Whether a value is read for the table. Of a string only the beginning is, whatever its length.
fn is_read(kind: ValueType, bytes: u64) -> bool {
    kind == ValueType::String || bytes < MAX_READ_BYTES
}

fn add_commands(commands: &mut Pipeline, kind: ValueType, key: &[u8], bytes: u64) {
    commands.cmd(length_command(kind)).arg(key);
    if !is_read(kind, bytes) {
        return;
    }
    let last = PREVIEW_STRINGS - 1;
    match kind {
        ValueType::String => commands.cmd("GETRANGE").arg(key).arg(0).arg(CELL_BYTES),
        ValueType::List => commands.cmd("LRANGE").arg(key).arg(0).arg(last),
        ValueType::Zset => commands.cmd("ZRANGE").arg(key).arg(0).arg(last),
        ValueType::Stream => {
            commands.cmd("XREVRANGE").arg(key).arg("+").arg("-").arg("COUNT").arg(1)
        }
        ValueType::Hash | ValueType::Set => commands.add_command(kind.read(key)),
    };
}

/// The command that says how many elements, or bytes, a value has.
pub fn length_command(kind: ValueType) -> &'static str {
    match kind {
        ValueType::String => "STRLEN",
        ValueType::Hash => "HLEN",
        ValueType::List => "LLEN",
        ValueType::Set => "SCARD",
        ValueType::Zset => "ZCARD",
        ValueType::Stream => "XLEN",
    }
}

/// The fields that are columns: where at least half of the values are hashes and share a field,
/// those that a tenth of them have, in the order in which they come. None otherwise.
fn choose_columns(rows: &[Row]) -> Vec<Vec<u8>> {
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

fn write_row<W: Write>(
    answer: &mut ResponseWriter<W>,
    row: &Row,
    columns: &[Vec<u8>],
) -> Result<(), ReadError> {
    write!(answer, "<tr><th scope=\"row\" class=\"mono\">{}</th>", key_link(row.key))?;
    if columns.is_empty() {
        let bytes = match row.look.bytes {
            0 => String::new(),
            bytes => size(bytes),
        };
        let kind = line(&row.look.name);
        write!(answer, "<td>{kind}</td><td class=\"number\">{bytes}</td><td>")?;
        write_preview(answer, row)?;
        answer.write_all(b"</td>")?;
    } else if row.fields().next().is_some() {
        write_fields(answer, row, columns)?;
    } else {
        write!(
            answer,
            "<td colspan=\"{}\"><span class=\"more\">{}</span> ",
            columns.len() + 1,
            line(&row.look.name)
        )?;
        write_preview(answer, row)?;
        answer.write_all(b"</td>")?;
    }
    Ok(answer.write_all(b"</tr>\n")?)
}

fn write_fields<W: Write>(
    answer: &mut ResponseWriter<W>,
    row: &Row,
    columns: &[Vec<u8>],
) -> Result<(), ReadError> {
    let mut shown = 0;
    for column in columns {
        answer.write_all(b"<td>")?;
        let found = row.fields().find(|(field, _)| !field.is_cut() && field.bytes == *column);
        if let Some((_, value)) = found {
            write_cell(answer, value)?;
            shown += 1;
        }
        answer.write_all(b"</td>")?;
    }
    match (row.count / 2).saturating_sub(shown) {
        0 => answer.write_all(b"<td></td>")?,
        more => write!(answer, "<td class=\"more\">+{more} more</td>")?,
    }
    Ok(())
}

fn write_cell<W: Write>(
    answer: &mut ResponseWriter<W>,
    element: &Element,
) -> Result<(), ReadError> {
    let dots = if element.is_cut() { "…" } else { "" };
    Ok(write!(answer, "{}{dots}", text(&element.bytes))?)
}

/// The value in one cell: how long it is, and its beginning.
fn write_preview<W: Write>(answer: &mut ResponseWriter<W>, row: &Row) -> Result<(), ReadError> {
    let Some(kind) = row.look.kind() else { return Ok(()) };
    let is_string = kind == ValueType::String;
    if let Some(length) = row.length.filter(|_| !is_string) {
        let thing = match kind {
            ValueType::Hash => "field",
            ValueType::Stream => "entry",
            _ => "element",
        };
        write!(answer, "<span class=\"more\">{}</span> ", count(length, thing))?;
    }
    for (at, element) in row.strings.iter().take(PREVIEW_STRINGS).enumerate() {
        let is_value = kind == ValueType::Hash && at % 2 == 1;
        let between = match at {
            0 => "",
            _ if is_value => ": ",
            _ => " · ",
        };
        answer.write_all(between.as_bytes())?;
        write_cell(answer, element)?;
    }
    let is_more = !is_string
        && (row.count > PREVIEW_STRINGS as u64
            || matches!(kind, ValueType::List | ValueType::Zset) && row.length > Some(row.count));
    if is_string && row.length > row.strings.first().map(|string| string.bytes.len() as u64) {
        // GETRANGE has cut it already: what is there looks whole.
        if row.strings.iter().all(|string| !string.is_cut()) {
            answer.write_all("…".as_bytes())?;
        }
    } else if is_more && !row.strings.is_empty() {
        answer.write_all(" …".as_bytes())?;
    }
    Ok(())
}
