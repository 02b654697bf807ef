//! A table of keys. If most of them are small hashes with the same fields, those are its columns.

use std::io::{self, Write};

use super::element::Element;
use super::error_page::write_error_page;
use super::layout::{
    Frame, begin_table, end_table, key_link, open_rows, open_table, shortened, write_next_link,
};
use super::rows::{PREVIEW_STRINGS, Row, choose_columns, read_rows};
use super::units::{count, size};
use crate::balance::failover::Attempt;
use crate::http::target::PageQuery;
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::{line, text};
use crate::resp::value_type::ValueType;
use crate::resp::{command, reply};
use crate::session::http::exchange::Exchange;
use crate::session::http::key_info::if_permitted;
use crate::session::http::key_scan::{
    BATCH_KEYS, PageKeys, ScanError, read_page_keys, read_server_run_id,
};
use crate::session::http::outcome::{ReadError, ReadOutcome};

/// Writes a page of keys.
pub(crate) fn write_listing_page<W: Write>(
    attempt: &Attempt,
    query: &PageQuery,
    frame: Frame,
    response: &mut ResponseWriter<W>,
) -> Result<ReadOutcome, ReadError> {
    let mut first = command("INFO").arg("server").into_bytes();
    command("DBSIZE").append_to(&mut first);
    let mut exchange = Exchange::begin(attempt, &first)?;
    let run_id = read_server_run_id(&mut exchange)?;
    let all_keys = if_permitted(reply::integer(exchange.connection.replies()))?.flatten();
    let page = match read_page_keys(&mut exchange, query, run_id) {
        Ok(page) => page,
        Err(ScanError::OtherBackend) => {
            exchange.release();
            return Ok(ReadOutcome::OtherBackend);
        }
        Err(ScanError::TooLong) => {
            write_error_page(frame, 400, &ErrorBody::new(ScanError::TOO_LONG), response)?;
            return Ok(ReadOutcome::Written(None));
        }
        Err(ScanError::Read(error)) => return Err(error),
    };
    let all_keys = all_keys.and_then(|keys| u64::try_from(keys).ok());
    write_head(query, all_keys, &page, attempt.backend.name(), frame, response)?;
    if !page.keys.is_empty() {
        write_table(&mut exchange, &page.keys, response)?;
    }
    write_next_link(response, page.next.as_deref())?;
    frame.end(response)?;
    exchange.release();
    Ok(ReadOutcome::Written(None))
}

fn write_head<W: Write>(
    query: &PageQuery,
    all_keys: Option<u64>,
    page: &PageKeys,
    backend: &str,
    frame: Frame,
    response: &mut ResponseWriter<W>,
) -> io::Result<()> {
    let glob = query.matching.as_deref().or(query.search.as_deref()).unwrap_or_default();
    let search = [&query.prefix, glob].concat();
    let title: &[u8] = if search.is_empty() { b"Keys" } else { &search };
    frame.begin(response, &[title, " – redis-lb".as_bytes()].concat(), &search)?;
    match search.is_empty() {
        true => response.write_all(b"<h1>Keys</h1>\n")?,
        false => {
            let search = shortened(&search);
            writeln!(response, "<h1>Keys: <span class=\"mono\">{search}</span></h1>")?;
        }
    }
    let (here, has_next) = (page.keys.len() as u64, page.next.is_some());
    let is_whole = query.pattern.is_none() && query.cursor.is_none() && !has_next;
    response.write_all(b"<p class=\"facts\">")?;
    match all_keys {
        Some(all) if is_whole && all == here => write!(response, "{}", count(all, "key"))?,
        Some(all) => write!(response, "{} here, of {all} in the database", count(here, "key"))?,
        None => write!(response, "{} here", count(here, "key"))?,
    }
    write!(response, " · from {}", line(backend))?;
    if has_next {
        write!(response, " · there are more: <a href=\"#next\">next page</a>")?;
    }
    response.write_all(b"</p>\n")?;
    if here == 0 {
        let why = match (has_next, search.is_empty()) {
            (true, _) => "No keys here yet: the search goes on.",
            (false, true) => "There are no keys.",
            (false, false) => {
                "There are no such keys. Only keys are searched, not what they hold; \
                 a * stands for anything. <a href=\"/\">All keys</a>"
            }
        };
        writeln!(response, "<p>{why}</p>")?;
    }
    Ok(())
}

fn write_table<W: Write>(
    exchange: &mut Exchange,
    keys: &[Vec<u8>],
    response: &mut ResponseWriter<W>,
) -> Result<(), ReadError> {
    let mut columns: Option<Vec<Vec<u8>>> = None;
    for batch in keys.chunks(BATCH_KEYS) {
        let rows = read_rows(exchange, batch)?;
        if columns.is_none() {
            let chosen = choose_columns(&rows);
            write_columns(response, &chosen)?;
            columns = Some(chosen);
        }
        let columns = columns.as_deref().unwrap_or_default();
        for row in &rows {
            write_row(response, row, columns)?;
        }
    }
    Ok(end_table(response)?)
}

fn write_columns(response: &mut impl Write, columns: &[Vec<u8>]) -> io::Result<()> {
    if columns.is_empty() {
        return begin_table(response, "Keys", &["key", "type", "size", "value"]);
    }
    open_table(response, "Keys")?;
    response.write_all(b"<th scope=\"col\">key</th>")?;
    for column in columns {
        write!(response, "<th scope=\"col\">{}</th>", shortened(column))?;
    }
    response.write_all(b"<th scope=\"col\"><span class=\"unseen\">other fields</span></th>")?;
    open_rows(response)
}

fn write_row(response: &mut impl Write, row: &Row, columns: &[Vec<u8>]) -> io::Result<()> {
    write!(response, "<tr><th scope=\"row\" class=\"mono\">{}</th>", key_link(row.key))?;
    if row.fields().next().is_some() && !columns.is_empty() {
        write_fields(response, row, columns)?;
    } else {
        let type_name = line(&row.info.type_name);
        if columns.is_empty() {
            let bytes = match row.info.bytes {
                0 => String::new(),
                bytes => size(bytes),
            };
            write!(response, "<td>{type_name}</td><td class=\"number\">{bytes}</td><td>")?;
        } else {
            let span = columns.len() + 1;
            write!(response, "<td colspan=\"{span}\"><span class=\"more\">{type_name}</span> ")?;
        }
        write_preview(response, row)?;
        response.write_all(b"</td>")?;
    }
    response.write_all(b"</tr>\n")
}

fn write_fields(response: &mut impl Write, row: &Row, columns: &[Vec<u8>]) -> io::Result<()> {
    let mut shown = 0;
    for column in columns {
        response.write_all(b"<td>")?;
        let found = row.fields().find(|(field, _)| !field.is_cut() && field.bytes == *column);
        if let Some((_, value)) = found {
            write_cell(response, value)?;
            shown += 1;
        }
        response.write_all(b"</td>")?;
    }
    match (row.count / 2).saturating_sub(shown) {
        0 => response.write_all(b"<td></td>"),
        more => write!(response, "<td class=\"more\">+{more} more</td>"),
    }
}

fn write_cell(response: &mut impl Write, element: &Element) -> io::Result<()> {
    let dots = if element.is_cut() { "…" } else { "" };
    write!(response, "{}{dots}", text(&element.bytes))
}

/// Writes a value into one cell: its length, and its beginning.
fn write_preview(response: &mut impl Write, row: &Row) -> io::Result<()> {
    let Some(value_type) = row.info.value_type() else { return Ok(()) };
    let is_string = value_type == ValueType::String;
    if let Some(length) = row.length.filter(|_| !is_string) {
        let thing = match value_type {
            ValueType::Hash => "field",
            ValueType::Stream => "entry",
            _ => "element",
        };
        write!(response, "<span class=\"more\">{}</span> ", count(length, thing))?;
    }
    for (at, element) in row.strings.iter().take(PREVIEW_STRINGS).enumerate() {
        let is_value = value_type == ValueType::Hash && at % 2 == 1;
        let between = match at {
            0 => "",
            _ if is_value => ": ",
            _ => " · ",
        };
        response.write_all(between.as_bytes())?;
        write_cell(response, element)?;
    }
    response.write_all(end_of_preview(row, value_type).as_bytes())
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
