//! A table of keys. If most of them are small hashes with the same fields, those are its columns.

use std::collections::HashMap;
use std::io::{self, Write};

use super::page::{
    Element, Frame, begin_table, count, end_table, key_link, link, parts, shortened, size, strings,
    write_next_link,
};
use crate::balance::failover::Attempt;
use crate::http::ResponseWriter;
use crate::http::target::{PageQuery, link_to_keys};
use crate::memory::Share;
use crate::render::html::line;
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::client::ClientHandle;
use crate::session::http::exchange::{
    BATCH_KEYS, Exchange, KeyInfo, ReadError, ReadOutcome, if_permitted, look_at,
};
use crate::session::http::page_keys::{read_page_keys, read_server_run_id};
use crate::session::http::rights::{Rights, hide_unless_readable, may_count};

/// Longest string that a cell shows whole, in bytes.
const CELL_BYTES: usize = 120;

/// Highest number of columns that are fields.
const MAX_COLUMNS: usize = 12;

/// Highest number of strings that are kept of a value: those of 24 fields.
const MAX_STRINGS: usize = 2 * 24;

/// Highest number of elements that are shown of a value that has one cell.
const PREVIEW_STRINGS: usize = 6;

/// Of a value that takes its backend this much memory, only the length is read.
const MAX_READ_BYTES: u64 = 16 * 1024;

/// Writes a page of keys.
pub(crate) fn write_listing_page<'q, W: Write>(
    attempt: &Attempt,
    peer: ClientHandle,
    query: &PageQuery,
    frame: Frame,
    response: &mut ResponseWriter<W>,
    memory: &mut Share,
    rights: Option<&Rights>,
) -> Result<ReadOutcome<'q>, ReadError> {
    let mut first = command("INFO").arg("server").into_bytes();
    command("DBSIZE").append_to(&mut first);
    Exchange::serve(attempt, peer, query.database, &first, |exchange| {
        let run_id = read_server_run_id(exchange)?;
        let all_keys = if_permitted(reply::integer(exchange.replies()?))?.flatten();
        let (keys, next) = read_page_keys(exchange, query, run_id, memory, rights)?;
        let all_keys = all_keys.filter(|_| may_count(rights));
        let all_keys = all_keys.and_then(|keys| u64::try_from(keys).ok());
        let (here, has_next) = (keys.len() as u64, next.is_some());
        write_head(query, all_keys, here, has_next, attempt.backend.name(), frame, response)?;
        if !keys.is_empty() {
            write_table(exchange, &keys, query.database, response, rights)?;
        }
        write_next_link(response, next.as_deref())?;
        frame.end(response)?;
        Ok(Some(ReadOutcome::Written(None)))
    })
}

fn write_head<W: Write>(
    query: &PageQuery,
    all_keys: Option<u64>,
    here: u64,
    has_next: bool,
    backend: &str,
    frame: Frame,
    response: &mut ResponseWriter<W>,
) -> io::Result<()> {
    let glob = query.matching.as_deref().or(query.search.as_deref()).unwrap_or_default();
    let search = [&query.prefix, glob].concat();
    let title: &[u8] = if search.is_empty() { b"Keys" } else { &search };
    frame.begin(response, &[title, " – redis-lb".as_bytes()].concat(), &search)?;
    let subject = match search.is_empty() {
        true => String::new(),
        false => format!(": <span class=\"mono\">{}</span>", shortened(&search)),
    };
    let is_whole = query.pattern.is_none() && query.cursor.is_none() && !has_next;
    let (number, backend) = (count(here, "key"), line(backend));
    let number = match all_keys {
        Some(all) if is_whole && all == here => number,
        Some(all) => format!("{number} here, of {all} in the database"),
        None => format!("{number} here"),
    };
    let more = " · there are more: <a href=\"#next\">next page</a>";
    let database = query.database.map(|number| format!(" · database {number}")).unwrap_or_default();
    let more = if has_next { more } else { "" };
    let facts = format!("{number} · from {backend}{database}{more}");
    writeln!(response, "<h1>Keys{subject}</h1>\n<p class=\"facts\">{facts}</p>")?;
    if here == 0 {
        let why = match (has_next, search.is_empty()) {
            (true, _) => "No keys here yet: the search goes on.",
            (false, true) => "There are no keys.",
            (false, false) => {
                "There are no such keys. Only keys are searched, not what they hold; \
                 a * stands for anything."
            }
        };
        let is_search = !has_next && !search.is_empty();
        let all = link(&link_to_keys(query.database), "All keys");
        let why = if is_search { format!("{why} {all}") } else { why.to_owned() };
        writeln!(response, "<p>{why}</p>")?;
    }
    Ok(())
}

fn write_table<W: Write>(
    exchange: &mut Exchange,
    keys: &[Vec<u8>],
    database: Option<i64>,
    response: &mut ResponseWriter<W>,
    rights: Option<&Rights>,
) -> Result<(), ReadError> {
    let mut columns = Vec::new();
    for (at, batch) in keys.chunks(BATCH_KEYS).enumerate() {
        let rows = read_rows(exchange, batch, rights)?;
        if at == 0 {
            columns = choose_columns(&rows);
            begin_table(response, "Keys", &titles(&columns))?;
        }
        for row in &rows {
            let cells = match row.fields().next() {
                Some(_) if !columns.is_empty() => cells_of_fields(row, &columns),
                _ => cell_of_value(row, columns.len()),
            };
            let key = key_link(row.key, database);
            writeln!(response, "<tr><th scope=\"row\" class=\"mono\">{key}</th>{cells}</tr>")?;
        }
    }
    Ok(end_table(response)?)
}

/// Returns the titles of the columns, of which these are fields.
fn titles(columns: &[Vec<u8>]) -> Vec<String> {
    if columns.is_empty() {
        return ["key", "type", "size", "value"].map(str::to_owned).into();
    }
    let fields = columns.iter().map(|column| shortened(column));
    let others = "<span class=\"unseen\">other fields</span>".to_owned();
    std::iter::once("key".to_owned()).chain(fields).chain([others]).collect()
}

fn cells_of_fields(row: &Row, columns: &[Vec<u8>]) -> String {
    let (mut cells, mut shown) = (String::new(), 0);
    for column in columns {
        let mut fields = row.fields();
        let found = fields.find(|(field, _)| !field.is_cut() && field.bytes == *column);
        shown += u64::from(found.is_some());
        let value = found.map(|(_, value)| value.shown()).unwrap_or_default();
        cells += &format!("<td>{value}</td>");
    }
    match (row.count / 2).saturating_sub(shown) {
        0 => cells + "<td></td>",
        more => format!("{cells}<td class=\"more\">+{more} more</td>"),
    }
}

/// Returns the cells of a key whose value has one cell, in a table with so many fields as columns.
fn cell_of_value(row: &Row, columns: usize) -> String {
    let (type_name, value) = (line(&row.info.type_name), preview(row));
    if columns > 0 {
        let span = columns + 1;
        return format!(
            "<td colspan=\"{span}\"><span class=\"more\">{type_name}</span> {value}</td>"
        );
    }
    let bytes = if row.info.bytes > 0 { size(row.info.bytes) } else { String::new() };
    format!("<td>{type_name}</td><td class=\"number\">{bytes}</td><td>{value}</td>")
}

/// Returns the length of a value, and its beginning.
fn preview(row: &Row) -> String {
    let Some(value_type) = row.info.value_type() else { return String::new() };
    let is_set = matches!(value_type, ValueType::Set | ValueType::Zset);
    let thing = if is_set { "element" } else { parts(value_type).1 };
    let length = row.length.filter(|_| value_type != ValueType::String);
    let length = length.map(|length| count(length, thing));
    let mut html =
        length.map_or(String::new(), |length| format!("<span class=\"more\">{length}</span> "));
    for (at, element) in row.strings.iter().take(PREVIEW_STRINGS).enumerate() {
        html += match (at, value_type) {
            (0, _) => "",
            (_, ValueType::Hash) if at % 2 == 1 => ": ",
            _ => " · ",
        };
        html += &element.shown();
    }
    html + end_of_preview(row, value_type)
}

/// Returns dots if a preview does not show the whole value.
fn end_of_preview(row: &Row, value_type: ValueType) -> &'static str {
    let Some(first) = row.strings.first() else { return "" };
    match value_type {
        // GETRANGE has cut it, so that what came of it looks whole.
        ValueType::String if !first.is_cut() && row.length > Some(first.bytes.len() as u64) => "…",
        ValueType::String => "",
        _ if row.count > PREVIEW_STRINGS as u64 => " …",
        ValueType::List | ValueType::Zset if row.length > Some(row.count) => " …",
        _ => "",
    }
}

/// A key, and what the table shows of its value.
struct Row<'k> {
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
fn read_rows<'k>(
    exchange: &mut Exchange,
    keys: &'k [Vec<u8>],
    rights: Option<&Rights>,
) -> Result<Vec<Row<'k>>, ReadError> {
    let from = exchange.ask(look_at(keys))?;
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let mut info = KeyInfo::read(from)?;
        hide_unless_readable(&mut info, key, rights);
        if !info.is_missing() {
            rows.push(Row { key, info, length: None, strings: Vec::new(), count: 0 });
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
        ValueType::String => command("GETRANGE").arg(key).number(0).number(CELL_BYTES),
        ValueType::List => command("LRANGE").arg(key).number(0).number(last),
        ValueType::Zset => command("ZRANGE").arg(key).number(0).number(last),
        ValueType::Stream => command("XREVRANGE").arg(key).args(["+", "-", "COUNT", "1"]),
        ValueType::Hash | ValueType::Set => value_type.read_command(key),
    };
    read.append_to(commands);
}

/// Returns the fields that become columns, in the order in which they come: if at least half of the
/// values are hashes and share a field, those that a tenth of them have, otherwise none.
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
