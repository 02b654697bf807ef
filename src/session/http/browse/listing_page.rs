//! A table of keys with what is known of each. If most of them are small hashes with the same fields, those are columns.

use std::io::{self, Write};
use std::time::Duration;

use super::crumbs::{Subject, write_crumbs};
use super::databases::{self, Databases, readable_databases};
use super::page::{
    Column, Frame, Pages, begin_table, end_table, key_link, link, parts, shortened, type_badge,
};
use super::rows::{PREVIEW_STRINGS, Row, choose_columns, read_rows, retain_readable};
use crate::backend::info;
use crate::balance::failover::Attempt;
use crate::http::ResponseWriter;
use crate::http::target::{PageQuery, link_to_keys};
use crate::memory::Share;
use crate::render::html::line;
use crate::resp::value_type::ValueType;
use crate::resp::{command, reply};
use crate::session::client::ClientHandle;
use crate::session::http::exchange::{BATCH_KEYS, Exchange, ReadError, ReadOutcome, if_permitted};
use crate::session::http::page_keys::{read_page_keys, read_server_run_id};
use crate::session::http::rights::{Rights, may_count};
use crate::text::figures::{count, duration, size};

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
    command("INFO").arg("keyspace").append_to(&mut first);
    let (backend, database) =
        (attempt.backend.name(), attempt.backend.mode_in(query.database).database);
    Exchange::serve(attempt, peer, query.database, &first, |exchange| {
        let run_id = read_server_run_id(exchange)?;
        let from = exchange.replies()?;
        let all_keys = if_permitted(reply::integer(from))?.flatten();
        let all_keys = all_keys.filter(|_| may_count(rights));
        let mut others = readable_databases(info(from)?.as_deref(), rights);
        others.named.retain(|one| one.number != database);
        let (mut keys, next) = read_page_keys(exchange, query, run_id, memory, rights)?;
        let hidden = retain_readable(exchange, &mut keys, rights)?;
        let (first, later) = keys.split_at(keys.len().min(BATCH_KEYS));
        let rows = read_rows(exchange, first, rights)?;
        let head = Head {
            query,
            backend,
            database,
            others,
            all_keys: all_keys.and_then(|keys| u64::try_from(keys).ok()),
            here: (rows.len() + later.len()) as u64,
            hidden,
            has_next: next.is_some(),
            sees_all: may_count(rights),
        };
        head.write(frame, response)?;
        if head.here > 0 {
            let written = write_table(exchange, rows, later, query.database, response, rights)?;
            if let Some(gone) = head.here.checked_sub(written).filter(|gone| *gone > 0) {
                let gone = count(gone, "key");
                writeln!(response, "<p class=\"facts\">{gone} went while the page was made.</p>")?;
            }
        }
        let first = query.cursor.is_some().then(|| query.first_link());
        let pages = Pages { first, previous: query.previous_link(), next, ..Pages::default() };
        pages.write(response)?;
        frame.end(response)?;
        Ok(Some(ReadOutcome::Written(None)))
    })
}

/// What stands above the table.
struct Head<'a> {
    query: &'a PageQuery,
    backend: &'a str,
    /// The number of the database.
    database: i64,
    /// Other databases of the server that have keys.
    others: Databases,
    /// Number of keys in the database, where that is known and told.
    all_keys: Option<u64>,
    /// Number of keys in the table.
    here: u64,
    /// Number of keys that are not, because the user may not read values of their types.
    hidden: u64,
    has_next: bool,
    /// Whether the user may know of all keys.
    sees_all: bool,
}

impl Head<'_> {
    fn write<W: Write>(&self, frame: Frame, response: &mut ResponseWriter<W>) -> io::Result<()> {
        let query = self.query;
        let glob = query.matching.as_deref().or(query.search.as_deref()).unwrap_or_default();
        let search = [&query.prefix, glob].concat();
        let title: &[u8] = if search.is_empty() { b"Keys" } else { &search };
        frame.begin(response, &[title], &search)?;
        if !search.is_empty() {
            let plain = search.iter().position(|byte| b"*?[\\".contains(byte));
            let prefix = &search[..plain.unwrap_or(search.len())];
            write_crumbs(response, Subject::Prefix(prefix), query.database)?;
        }
        let subject = match search.is_empty() {
            true => String::new(),
            false => format!(": <span class=\"mono\">{}</span>", shortened(&search)),
        };
        writeln!(response, "<h1>Keys{subject}</h1>\n<p class=\"facts\">{}</p>", self.facts())?;
        if !self.is_whole() {
            let page = query.trail.page_number().map(|page| format!("Page {page}. "));
            let page = page.unwrap_or_default();
            let order = "Keys are sorted within a page; the pages come in no order.";
            writeln!(response, "<p class=\"facts\">{page}{order}</p>")?;
        }
        if self.hidden > 0 {
            let hidden = count(self.hidden, "more key");
            let why = "you may not read values of that type";
            writeln!(response, "<p class=\"facts\">{hidden} not shown: {why}.</p>")?;
        }
        if self.here == 0 {
            writeln!(response, "<p class=\"empty\">{}</p>", self.why_nothing(search.is_empty()))?;
        } else if !self.others.named.is_empty() && search.is_empty() && query.cursor.is_none() {
            let others = databases::links(&self.others.named);
            writeln!(response, "<p class=\"facts\">There are also keys in {others}.</p>")?;
        }
        Ok(())
    }

    /// Whether the page has all keys that were asked for.
    fn is_whole(&self) -> bool {
        self.query.cursor.is_none() && !self.has_next
    }

    fn facts(&self) -> String {
        let number = count(self.here, "key");
        let is_all = self.is_whole() && self.query.pattern.is_none();
        let number = match self.all_keys {
            Some(all) if is_all && all == self.here => number,
            Some(all) => format!("{number} here, of {} in the database", count(all, "key")),
            None => format!("{number} here"),
        };
        let (database, backend) = (self.database, line(self.backend));
        let more = match self.has_next {
            true => " · there are more: <a href=\"#pages\">next page</a>",
            false => "",
        };
        let json = link(&self.query.json_link(), "JSON");
        format!("{number} · database {database} · from {backend} · as {json}{more}")
    }

    /// Whether the database is known to have no keys, where a page that `is_all` of them has none.
    fn is_empty(&self, is_all: bool) -> bool {
        match self.all_keys {
            Some(keys) => self.sees_all && keys == 0,
            None => self.sees_all && self.hidden == 0 && is_all && self.is_whole(),
        }
    }

    /// Says why the page has no keys.
    fn why_nothing(&self, is_all: bool) -> String {
        let database = self.database;
        let all = link(&link_to_keys(self.query.database), "All keys");
        if self.has_next {
            return "No keys here yet: the search goes on with the next page.".to_owned();
        }
        if self.is_empty(is_all) {
            let others = match (&self.others.named[..], self.others.are_all) {
                ([], true) => " No other database has keys.".to_owned(),
                ([], false) => String::new(),
                (named, _) => format!(" There are keys in {}.", databases::links(named)),
            };
            return format!("Database {database} is empty on {}.{others}", line(self.backend));
        }
        match is_all {
            true if !self.sees_all => "There are no keys that you may read.".to_owned(),
            true => "There are no keys here.".to_owned(),
            false => format!(
                "There are no such keys in database {database}. Only the names of keys are searched, not what \
                 they hold; a * stands for anything. {all}"
            ),
        }
    }
}

/// The columns of a table.
struct Columns {
    /// Whether any row says how much memory its value takes.
    memory: bool,
    /// Whether any row says when its key expires.
    expiry: bool,
    /// Fields of hashes; if there are none, each value has one cell.
    fields: Vec<Vec<u8>>,
}

impl Columns {
    /// Returns the columns that these rows need, which are the first ones.
    fn of(rows: &[Row]) -> Self {
        Self {
            memory: rows.iter().any(|row| row.info.bytes > 0),
            expiry: rows.iter().any(|row| row.ttl.is_some()),
            fields: choose_columns(rows),
        }
    }

    fn titles(&self) -> Vec<Column> {
        let mut columns = vec![Column::left("key"), Column::left("type"), Column::right("length")];
        if self.memory {
            columns.push(Column::right("memory"));
        }
        if self.expiry {
            columns.push(Column::left("expires"));
        }
        match self.fields.is_empty() {
            true => columns.push(Column::left("value")),
            false => {
                let fields = self.fields.iter().map(|field| Column::left(&shortened(field)));
                columns.extend(fields);
                columns.push(Column::left("<span class=\"unseen\">other fields</span>"));
            }
        }
        columns
    }

    /// Returns the cells of a row, without its key.
    fn cells(&self, row: &Row) -> String {
        let value_type = row.info.value_type();
        let length = value_type.zip(row.length);
        let length = length.map(|(value_type, length)| count(length, parts(value_type).1));
        let mut cells = format!(
            "<td>{}</td><td class=\"number\">{}</td>",
            type_badge(&row.info.type_name),
            length.unwrap_or_default()
        );
        if self.memory {
            let bytes = if row.info.bytes > 0 { size(row.info.bytes) } else { String::new() };
            cells += &format!("<td class=\"number\">{bytes}</td>");
        }
        if self.expiry {
            cells +=
                &format!("<td class=\"nowrap\">{}</td>", row.ttl.map(expiry).unwrap_or_default());
        }
        if self.fields.is_empty() {
            return format!("{cells}<td class=\"value preview\">{}</td>", preview(row));
        }
        if row.has_field_of(&self.fields) {
            return cells + &self.cells_of_fields(row);
        }
        // It would look as if it were the first field.
        let (span, value) = (self.fields.len() + 1, preview(row));
        format!(
            "{cells}<td colspan=\"{span}\" class=\"whole\"><span class=\"label\">value</span> {value}</td>"
        )
    }

    fn cells_of_fields(&self, row: &Row) -> String {
        let (mut cells, mut shown) = (String::new(), 0);
        for column in &self.fields {
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
}

/// When a key with this `PTTL` expires, as HTML.
fn expiry(ttl: i64) -> String {
    match u64::try_from(ttl) {
        Ok(milliseconds) => format!("in {}", duration(Duration::from_millis(milliseconds))),
        Err(_) => "<span class=\"more\">never</span>".to_owned(),
    }
}

/// Writes the table of these rows, and of those of `later` keys. Returns how many rows it has.
fn write_table<'k, W: Write>(
    exchange: &mut Exchange,
    mut rows: Vec<Row<'k>>,
    later: &'k [Vec<u8>],
    database: Option<i64>,
    response: &mut ResponseWriter<W>,
    rights: Option<&Rights>,
) -> Result<u64, ReadError> {
    let mut batches = later.chunks(BATCH_KEYS);
    let columns = Columns::of(&rows);
    begin_table(response, "Keys", &columns.titles())?;
    let mut written = 0;
    loop {
        written += rows.len() as u64;
        for row in &rows {
            let (key, cells) = (key_link(row.key, database), columns.cells(row));
            writeln!(response, "<tr><th scope=\"row\" class=\"mono\">{key}</th>{cells}</tr>")?;
        }
        let Some(batch) = batches.next() else { break };
        rows = read_rows(exchange, batch, rights)?;
    }
    end_table(response)?;
    Ok(written)
}

/// Returns the beginning of a value.
fn preview(row: &Row) -> String {
    if row.is_unread() {
        return "<span class=\"more\">too long to be shown here</span>".to_owned();
    }
    let Some(value_type) = row.info.value_type() else { return String::new() };
    let mut html = String::new();
    for (at, element) in row.strings.iter().take(PREVIEW_STRINGS).enumerate() {
        let is_name = match value_type {
            ValueType::Hash => at % 2 == 0,
            ValueType::Stream => at % 2 == 1,
            _ => false,
        };
        let shown = element.shown();
        html += match at {
            0 => "",
            _ if value_type == ValueType::Hash && !is_name => " ",
            _ if value_type == ValueType::Stream && at > 1 && !is_name => " ",
            _ => "<span class=\"more\"> · </span>",
        };
        html += &if is_name { format!("<span class=\"more\">{shown}:</span>") } else { shown };
    }
    html + end_of_preview(row, value_type)
}

/// Returns dots if a preview does not show the whole value.
fn end_of_preview(row: &Row, value_type: ValueType) -> &'static str {
    let is_more = match value_type {
        ValueType::String => false,
        ValueType::List | ValueType::Zset => row.length > Some(row.count),
        _ => row.count > PREVIEW_STRINGS as u64,
    };
    if is_more && !row.strings.is_empty() { "<span class=\"more\"> …</span>" } else { "" }
}
