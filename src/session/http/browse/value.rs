//! A key's page: what is known of it, and its value in pages of a bounded length.

use std::io::Write;
use std::time::Duration;

use redis::{Cmd, Pipeline};

use super::element::Element;
use super::listing::{self, allowed, length_command};
use super::{Frame, HEADLINE_BYTES, begin_table, count, end_table, next_link, shortened, size};
use crate::backend::BackendError;
use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::balance::failover::Attempt;
use crate::http::target::{Cursor, KeyQuery, PageQuery, link_to_key};
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::{attribute, cut, line, text};
use crate::render::json::TextOrBase64;
use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};
use crate::session::http::exchange::{Exchange, KeyInfo, ReadError, describe};
use crate::session::http::page::run_id;
use crate::session::http::read::{MAX_KEY_INFOS, Outcome};

/// Elements on one page. A hash or set of no more is shown in one go, without a cursor.
const PAGE_ELEMENTS: u64 = 500;
const _: () = assert!(PAGE_ELEMENTS <= MAX_SCAN_COUNT);

/// Bytes of a string on one page.
const PAGE_BYTES: u64 = 16 * 1024;

/// What of an element is shown, in bytes.
const ELEMENT_BYTES: usize = 4 * 1024;

/// Bytes in each line of a string that is no text.
const DUMP_LINE_BYTES: usize = 16;

/// Answers with a key's page, a field's, or, when there is no such key, perhaps a listing.
pub fn key<W: Write>(
    attempt: &Attempt,
    query: &KeyQuery,
    listing: Option<&PageQuery>,
    frame: Frame,
    answer: &mut ResponseWriter<W>,
) -> Result<Outcome, ReadError> {
    let questions = questions(&query.key);
    let mut exchange = Exchange::begin(attempt, &questions)?;
    for look in 0..MAX_KEY_INFOS {
        if look > 0 {
            exchange.connection.send(&questions)?;
        }
        let facts = Facts::read(&mut exchange)?;
        if facts.look.is_missing() {
            if let Some(listing) = listing {
                exchange.end();
                return listing::listing(attempt, listing, frame, answer);
            }
            refuse(query, 404, "no such key", None, frame, answer)?;
            exchange.end();
            return Ok(Outcome::Answered(None));
        }
        let mut page = Page { query, frame, backend: attempt.backend.name(), answer: &mut *answer };
        match page.write(&mut exchange, &facts) {
            Ok(Some(Outcome::Elsewhere)) => {
                exchange.end();
                return Ok(Outcome::Elsewhere);
            }
            Ok(Some(outcome)) => {
                exchange.end();
                return Ok(outcome);
            }
            // Gone, or of another type, since the look at it.
            Ok(None) => {}
            // The replies were read to their ends, and nothing was written.
            Err(failure) if failure.is_wrong_type() => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(BackendError::Changed.into())
}

/// The commands whose replies [`Facts::read`] reads.
fn questions(key: &[u8]) -> Vec<u8> {
    let mut more = Pipeline::new();
    more.cmd("PTTL").arg(key).cmd("OBJECT").arg("ENCODING").arg(key);
    [describe(&[key]), more.get_packed_pipeline()].concat()
}

/// What is known of a key beside its value.
struct Facts {
    look: KeyInfo,
    /// Milliseconds until it expires; negative when it does not.
    ttl: Option<i64>,
    encoding: Option<String>,
}

impl Facts {
    fn read(exchange: &mut Exchange) -> Result<Self, resp::Error> {
        let look = exchange.look()?;
        let from = exchange.connection.replies();
        let ttl = allowed(reply::integer(from))?.flatten();
        let encoding = match allowed(Element::read(from, 64)) {
            Ok(encoding) => encoding.flatten(),
            // Some versions have this for what is gone.
            Err(resp::Error::Redis(_)) => None,
            Err(error) => return Err(error),
        };
        let encoding = encoding.map(|name| String::from_utf8_lossy(&name.bytes).into_owned());
        Ok(Self { look, ttl, encoding })
    }
}

/// Why a page is not what was asked for.
fn refuse<W: Write>(
    query: &KeyQuery,
    status: u16,
    why: &str,
    kind: Option<&str>,
    frame: Frame,
    answer: &mut ResponseWriter<W>,
) -> Result<(), ReadError> {
    answer.status(status);
    let error = ErrorBody {
        key: Some(TextOrBase64(&query.key)),
        field: query.field.as_deref().map(TextOrBase64),
        kind,
        ..ErrorBody::new(why.to_owned())
    };
    Ok(super::error(frame, status, &error, answer)?)
}

struct Page<'a, W: Write> {
    query: &'a KeyQuery,
    frame: Frame,
    backend: &'a str,
    answer: &'a mut ResponseWriter<W>,
}

impl<W: Write> Page<'_, W> {
    /// Writes the page; `None` when the value is gone or has become another.
    fn write(
        &mut self,
        exchange: &mut Exchange,
        facts: &Facts,
    ) -> Result<Option<Outcome>, ReadError> {
        let kind = facts.look.kind();
        if self.query.field.is_some() {
            return match kind {
                Some(ValueType::Hash) => self.write_field(exchange).map(Some),
                _ => self.refuse(415, "only a hash has fields", facts).map(Some),
            };
        }
        let Some(kind) = kind else {
            self.answer.status(415);
            self.begin(facts, None)?;
            self.answer.write_all(b"<p>Values of this type can\xe2\x80\x99t be shown.</p>\n")?;
            self.frame.end(self.answer)?;
            return Ok(Some(Outcome::Answered(None)));
        };
        let length = redis::cmd(length_command(kind)).arg(&self.query.key).get_packed_command();
        exchange.connection.send(&length)?;
        let length = reply::integer(exchange.connection.replies())?.unwrap_or(0).unsigned_abs();
        if length == 0 && !matches!(kind, ValueType::Stream | ValueType::String) {
            return Ok(None);
        }
        let is_scanned = matches!(kind, ValueType::Hash | ValueType::Set);
        if self.query.cursor.is_some() && !is_scanned || self.query.from.is_some() && is_scanned {
            let why = "this value has no such page: start again at its first";
            return self.refuse(400, why, facts).map(Some);
        }
        let shown = match kind {
            ValueType::Hash | ValueType::Set
                if self.query.cursor.is_none() && length <= PAGE_ELEMENTS =>
            {
                self.write_whole(exchange, facts, kind, length)
            }
            ValueType::Hash | ValueType::Set => {
                return self.write_scanned(exchange, facts, kind, length);
            }
            ValueType::String => self.write_string(exchange, facts, length),
            ValueType::List | ValueType::Zset => self.write_range(exchange, facts, kind, length),
            ValueType::Stream => self.write_stream(exchange, facts, length),
        };
        shown.map(Some)
    }

    fn refuse(&mut self, status: u16, why: &str, facts: &Facts) -> Result<Outcome, ReadError> {
        refuse(self.query, status, why, Some(&facts.look.name), self.frame, self.answer)?;
        Ok(Outcome::Answered(None))
    }

    /// Begins the page: the key, and what is known of it.
    fn begin(&mut self, facts: &Facts, length: Option<(ValueType, u64)>) -> Result<(), ReadError> {
        let key = &self.query.key;
        self.frame.begin(self.answer, &[key, " – redis-lb".as_bytes()].concat(), b"")?;
        let dots = if key.len() > HEADLINE_BYTES { "…" } else { "" };
        let name = match key.is_empty() {
            true => "<i>empty</i>".to_owned(),
            false => line(cut(key, HEADLINE_BYTES)).to_string(),
        };
        writeln!(self.answer, "<h1 class=\"mono key\">{name}{dots}</h1>\n<dl>")?;
        self.fact("Type", line(&facts.look.name))?;
        if let Some((kind, length)) = length {
            self.fact("Length", length_of(kind, length))?;
        }
        if let Some(ttl) = facts.ttl {
            self.fact("Expires", expiry(ttl))?;
        }
        if facts.look.bytes > 0 {
            self.fact("Memory", format_args!("about {}", size(facts.look.bytes)))?;
        }
        if let Some(encoding) = &facts.encoding {
            self.fact("Encoding", line(encoding))?;
        }
        self.fact("Served by", line(self.backend))?;
        self.answer.write_all(b"</dl>\n")?;
        if let Some((kind, _)) = length {
            self.write_forms(kind)?;
        }
        Ok(())
    }

    fn fact(&mut self, name: &str, value: impl std::fmt::Display) -> Result<(), ReadError> {
        Ok(writeln!(self.answer, "<div><dt>{name}</dt><dd>{value}</dd></div>")?)
    }

    /// Links to the value's other forms.
    fn write_forms(&mut self, kind: ValueType) -> Result<(), ReadError> {
        let link = |format: &[u8]| link_to_key(&self.query.key, &[("format", format)]);
        write!(
            self.answer,
            "<p class=\"forms\"><a href=\"{}\">JSON</a>",
            attribute(&link(b"json"))
        )?;
        if kind == ValueType::String {
            write!(self.answer, " <a href=\"{}\">Raw bytes</a>", attribute(&link(b"raw")))?;
        }
        Ok(self.answer.write_all(b"</p>\n")?)
    }

    /// Ends the page, with the way to the next one where there is one.
    fn end(&mut self, next: Option<(&str, &[u8])>) -> Result<Outcome, ReadError> {
        let is_first = self.query.from.is_none() && self.query.cursor.is_none();
        let next = next.map(|parameter| link_to_key(&self.query.key, &[parameter]));
        next_link(self.answer, next.as_deref())?;
        if !is_first {
            let first = link_to_key(&self.query.key, &[]);
            writeln!(self.answer, "<p><a href=\"{}\">First page</a></p>", attribute(&first))?;
        }
        self.frame.end(self.answer)?;
        Ok(Outcome::Answered(None))
    }

    /// Where the page begins, as a number; `None` where it is none.
    fn from(&self) -> Option<u64> {
        let Some(from) = &self.query.from else { return Some(0) };
        // Redis takes no greater ones.
        let number: i64 = std::str::from_utf8(from).ok()?.parse().ok()?;
        u64::try_from(number).ok()
    }

    fn write_string(
        &mut self,
        exchange: &mut Exchange,
        facts: &Facts,
        length: u64,
    ) -> Result<Outcome, ReadError> {
        let Some(from) = self.from() else { return self.refuse(400, NO_NUMBER, facts) };
        let last = from.saturating_add(PAGE_BYTES - 1).min(i64::MAX as u64);
        let range = redis::cmd("GETRANGE").arg(&self.query.key).arg(from).arg(last).to_owned();
        exchange.connection.send(&range.get_packed_command())?;
        let page = Element::expect(exchange.connection.replies(), PAGE_BYTES as usize)?.bytes;
        let rest = length.saturating_sub(from.saturating_add(page.len() as u64));
        let shown = if rest > 0 { whole_characters(&page) } else { &page[..] };
        self.begin(facts, Some((ValueType::String, length)))?;
        let end = from.saturating_add(shown.len() as u64);
        if length > shown.len() as u64 {
            let begin = from.min(length);
            writeln!(
                self.answer,
                "<p>{} of {length} bytes, from byte {begin} on.</p>",
                shown.len()
            )?;
        }
        write_bytes(self.answer, shown, from)?;
        let next = end.to_string();
        self.end((end < length && end > from).then_some(("from", next.as_bytes())))
    }

    /// A field's own page: its beginning, and a link to all of it.
    fn write_field(&mut self, exchange: &mut Exchange) -> Result<Outcome, ReadError> {
        let (key, field) = (&self.query.key, self.query.field.as_deref().unwrap_or_default());
        let get = redis::cmd("HGET").arg(key).arg(field).get_packed_command();
        exchange.connection.send(&get)?;
        let Some(value) = Element::read(exchange.connection.replies(), PAGE_BYTES as usize)? else {
            refuse(self.query, 404, "no such field", None, self.frame, self.answer)?;
            return Ok(Outcome::Answered(None));
        };
        self.frame.begin(self.answer, field, b"")?;
        let (name, link) = (shortened(field), link_to_key(key, &[]));
        writeln!(self.answer, "<h1 class=\"mono key\">{name}</h1>\n<dl>")?;
        self.fact(
            "Field of",
            format_args!("<a class=\"mono\" href=\"{}\">{}</a>", attribute(&link), shortened(key)),
        )?;
        self.fact("Length", length_of(ValueType::String, value.length))?;
        self.fact("Served by", line(self.backend))?;
        let form = |format| link_to_key(key, &[("field", field), ("format", format)]);
        let (json, raw) = (form(b"json"), form(b"raw"));
        writeln!(
            self.answer,
            "</dl>\n<p class=\"forms\"><a href=\"{}\">JSON</a> <a href=\"{}\">Raw bytes</a></p>",
            attribute(&json),
            attribute(&raw)
        )?;
        if value.is_cut() {
            writeln!(self.answer, "<p>Its first {} bytes.</p>", value.bytes.len())?;
        }
        write_bytes(self.answer, &value.bytes, 0)?;
        self.frame.end(self.answer)?;
        Ok(Outcome::Answered(None))
    }

    /// A hash or set of few elements.
    fn write_whole(
        &mut self,
        exchange: &mut Exchange,
        facts: &Facts,
        kind: ValueType,
        length: u64,
    ) -> Result<Outcome, ReadError> {
        let command = kind.packed_read(&self.query.key);
        let strings = reply::array(exchange.read(&command, facts.look.bytes)?)?;
        self.begin(facts, Some((kind, length)))?;
        self.write_elements(exchange, kind, strings)?;
        self.end(None)
    }

    /// A page of a hash or set of many elements. Its cursor is of use to this server only.
    fn write_scanned(
        &mut self,
        exchange: &mut Exchange,
        facts: &Facts,
        kind: ValueType,
        length: u64,
    ) -> Result<Option<Outcome>, ReadError> {
        exchange.connection.send(&redis::cmd("INFO").arg("server").get_packed_command())?;
        let run_id = run_id(exchange)?;
        let cursor = self.query.cursor.as_ref();
        if cursor.is_some_and(|cursor| cursor.run_id != run_id) {
            return Ok(Some(Outcome::Elsewhere));
        }
        let name = if kind == ValueType::Hash { "HSCAN" } else { "SSCAN" };
        let position = cursor.map_or(0, |cursor| cursor.position);
        let scan = redis::cmd(name)
            .arg(&self.query.key)
            .arg(position)
            .arg("COUNT")
            .arg(PAGE_ELEMENTS)
            .to_owned();
        let bytes = bytes_of_page(facts.look.bytes, length);
        let scan = scan.get_packed_command();
        let from = exchange.read(&scan, bytes)?;
        let position = reply::scan_cursor(from)?;
        let strings = reply::array(from)?;
        self.begin(facts, Some((kind, length)))?;
        self.write_elements(exchange, kind, strings)?;
        let next = Cursor { run_id, position }.to_text();
        self.end((position != 0).then_some(("cursor", next.as_bytes()))).map(Some)
    }

    /// A table of the fields or members whose strings follow.
    fn write_elements(
        &mut self,
        exchange: &mut Exchange,
        kind: ValueType,
        strings: u64,
    ) -> Result<(), ReadError> {
        let from = exchange.connection.replies();
        if kind == ValueType::Set {
            begin_table(self.answer, "Members", &["member"])?;
            for _ in 0..strings {
                let member = Element::expect(from, ELEMENT_BYTES)?;
                self.answer.write_all(b"<tr><td>")?;
                self.write_element(&member, None)?;
                self.answer.write_all(b"</td></tr>\n")?;
            }
            return Ok(end_table(self.answer)?);
        }
        begin_table(self.answer, "Fields", &["field", "value"])?;
        for _ in 0..pairs(strings)? {
            let field = Element::expect(from, ELEMENT_BYTES)?;
            let value = Element::expect(from, ELEMENT_BYTES)?;
            self.answer.write_all(b"<tr><th scope=\"row\" class=\"mono\">")?;
            self.write_element(&field, None)?;
            self.answer.write_all(b"</th><td>")?;
            self.write_element(&value, Some(&field))?;
            self.answer.write_all(b"</td></tr>\n")?;
        }
        Ok(end_table(self.answer)?)
    }

    /// An element; of one that is cut, how long it is, and where the whole `field` is.
    fn write_element(
        &mut self,
        element: &Element,
        field: Option<&Element>,
    ) -> Result<(), ReadError> {
        if element.length == 0 {
            return Ok(self.answer.write_all(b"<i>empty</i>")?);
        }
        write!(self.answer, "{}", text(&element.bytes))?;
        if !element.is_cut() {
            return Ok(());
        }
        write!(self.answer, "… <span class=\"more\">cut, of {} bytes", element.length)?;
        if let Some(field) = field.filter(|field| !field.is_cut()) {
            let parameters = [("field", &field.bytes[..]), ("format", b"raw")];
            let link = link_to_key(&self.query.key, &parameters);
            write!(self.answer, ": <a href=\"{}\">all of it</a>", attribute(&link))?;
        }
        Ok(self.answer.write_all(b"</span>")?)
    }

    /// A page of a list or sorted set.
    fn write_range(
        &mut self,
        exchange: &mut Exchange,
        facts: &Facts,
        kind: ValueType,
        length: u64,
    ) -> Result<Outcome, ReadError> {
        let Some(from) = self.from() else { return self.refuse(400, NO_NUMBER, facts) };
        let end = from.saturating_add(PAGE_ELEMENTS).min(i64::MAX as u64);
        let key = &self.query.key;
        let command: Cmd = match kind {
            ValueType::List => redis::cmd("LRANGE").arg(key).arg(from).arg(end - 1).to_owned(),
            _ => redis::cmd("ZRANGE").arg(key).arg(from).arg(end - 1).arg("WITHSCORES").to_owned(),
        };
        let bytes = bytes_of_page(facts.look.bytes, length);
        let strings = reply::array(exchange.read(&command.get_packed_command(), bytes)?)?;
        self.begin(facts, Some((kind, length)))?;
        self.write_extent(from, end.min(length), length)?;
        match kind {
            ValueType::List => {
                begin_table(self.answer, "Elements", &["index", "value"])?;
                for index in 0..strings {
                    let value = Element::expect(exchange.connection.replies(), ELEMENT_BYTES)?;
                    let index = from + index;
                    write!(self.answer, "<tr><th scope=\"row\" class=\"number\">{index}</th><td>")?;
                    self.write_element(&value, None)?;
                    self.answer.write_all(b"</td></tr>\n")?;
                }
            }
            _ => {
                begin_table(self.answer, "Members", &["member", "score"])?;
                for _ in 0..pairs(strings)? {
                    let replies = exchange.connection.replies();
                    let member = Element::expect(replies, ELEMENT_BYTES)?;
                    let score = Element::expect(replies, ELEMENT_BYTES)?;
                    self.answer.write_all(b"<tr><th scope=\"row\">")?;
                    self.write_element(&member, None)?;
                    let score = line(&score.bytes);
                    writeln!(self.answer, "</th><td class=\"number\">{score}</td></tr>")?;
                }
            }
        }
        end_table(self.answer)?;
        let next = end.to_string();
        self.end((end < length).then_some(("from", next.as_bytes())))
    }

    /// Which elements are on the page, where that are not all.
    fn write_extent(&mut self, from: u64, end: u64, length: u64) -> Result<(), ReadError> {
        match (from, end) {
            (0, end) if end == length => Ok(()),
            _ if from >= length => {
                Ok(self.answer.write_all(b"<p>It ends before this page.</p>\n")?)
            }
            _ => Ok(writeln!(self.answer, "<p>{from} to {} of {length}.</p>", end - 1)?),
        }
    }

    fn write_stream(
        &mut self,
        exchange: &mut Exchange,
        facts: &Facts,
        length: u64,
    ) -> Result<Outcome, ReadError> {
        let from = self.query.from.as_deref().unwrap_or(b"-");
        if !is_stream_id(from) && from != b"-" {
            return self.refuse(400, "from is the id of an entry: digits, a hyphen, digits", facts);
        }
        // One more than is shown tells where the next page begins.
        let range = redis::cmd("XRANGE")
            .arg(&self.query.key)
            .arg(from)
            .arg("+")
            .arg("COUNT")
            .arg(PAGE_ELEMENTS + 1)
            .to_owned();
        let bytes = bytes_of_page(facts.look.bytes, length);
        let entries = reply::array(exchange.read(&range.get_packed_command(), bytes)?)?;
        self.begin(facts, Some((ValueType::Stream, length)))?;
        begin_table(self.answer, "Entries", &["id", "fields"])?;
        let mut next = None;
        for at in 0..entries {
            let replies = exchange.connection.replies();
            if reply::array(replies)? != 2 {
                return Err(
                    resp::Error::Protocol("a stream entry of two parts was expected").into()
                );
            }
            let id = Element::expect(replies, ELEMENT_BYTES)?;
            let fields = pairs(reply::array(replies)?)?;
            if at < PAGE_ELEMENTS {
                self.write_entry(exchange, &id, fields)?;
                continue;
            }
            for _ in 0..2 * fields {
                Element::expect(exchange.connection.replies(), 0)?;
            }
            next = Some(id.bytes);
        }
        end_table(self.answer)?;
        self.end(next.as_deref().map(|id| ("from", id)))
    }

    fn write_entry(
        &mut self,
        exchange: &mut Exchange,
        id: &Element,
        fields: u64,
    ) -> Result<(), ReadError> {
        let id = line(&id.bytes);
        write!(
            self.answer,
            "<tr><th scope=\"row\" class=\"mono\">{id}</th><td><dl class=\"entry\">"
        )?;
        for _ in 0..fields {
            let replies = exchange.connection.replies();
            let field = Element::expect(replies, ELEMENT_BYTES)?;
            let value = Element::expect(replies, ELEMENT_BYTES)?;
            self.answer.write_all(b"<div><dt>")?;
            self.write_element(&field, None)?;
            self.answer.write_all(b"</dt><dd>")?;
            self.write_element(&value, None)?;
            self.answer.write_all(b"</dd></div>")?;
        }
        Ok(self.answer.write_all(b"</dl></td></tr>\n")?)
    }
}

const NO_NUMBER: &str = "from is the number of an element or byte, from 0 on";

/// About how many bytes the reply for one page is.
fn bytes_of_page(bytes: u64, length: u64) -> u64 {
    let each = bytes / length.max(1);
    each.saturating_mul(PAGE_ELEMENTS).min(bytes)
}

/// How many pairs an array of this length is.
fn pairs(strings: u64) -> Result<u64, resp::Error> {
    match strings % 2 {
        0 => Ok(strings / 2),
        _ => Err(resp::Error::Protocol("an array of pairs was expected")),
    }
}

/// `MILLISECONDS-NUMBER`, or the first alone.
fn is_stream_id(text: &[u8]) -> bool {
    let is_number = |digits: &[u8]| {
        std::str::from_utf8(digits).is_ok_and(|d| !d.starts_with('+') && d.parse::<u64>().is_ok())
    };
    text.splitn(2, |&byte| byte == b'-').all(is_number)
}

/// Without the beginning of a character at the end: it is on the next page.
fn whole_characters(page: &[u8]) -> &[u8] {
    match std::str::from_utf8(page) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            &page[..error.valid_up_to()]
        }
        _ => page,
    }
}

/// Text as it is; other bytes in hexadecimal, with their positions from `from` on.
fn write_bytes<W: Write>(
    answer: &mut ResponseWriter<W>,
    bytes: &[u8],
    from: u64,
) -> Result<(), ReadError> {
    if bytes.is_empty() {
        return Ok(answer.write_all(b"<p><i>empty</i></p>\n")?);
    }
    let attributes = "role=\"region\" aria-label=\"Value\" tabindex=\"0\"";
    if std::str::from_utf8(bytes).is_ok() {
        return Ok(writeln!(answer, "<pre class=\"box\" {attributes}>\n{}</pre>", text(bytes))?);
    }
    writeln!(
        answer,
        "<p>This is no UTF-8 text: position, bytes in hexadecimal, ASCII.</p>\n\
         <pre class=\"box dump\" {attributes}>"
    )?;
    for (at, piece) in bytes.chunks(DUMP_LINE_BYTES).enumerate() {
        write!(answer, "{:08x} ", from + (at * DUMP_LINE_BYTES) as u64)?;
        for byte in piece {
            write!(answer, " {byte:02x}")?;
        }
        let plain: Vec<u8> = piece
            .iter()
            .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'.' })
            .collect();
        let gap = 3 * (DUMP_LINE_BYTES - piece.len()) + 2;
        writeln!(answer, "{:gap$}{}", "", text(&plain))?;
    }
    Ok(answer.write_all(b"</pre>\n")?)
}

fn length_of(kind: ValueType, length: u64) -> String {
    match kind {
        ValueType::String if length >= 1024 => {
            format!("{} <small>{length} bytes</small>", size(length))
        }
        ValueType::String => count(length, "byte"),
        ValueType::Hash => count(length, "field"),
        ValueType::List => count(length, "element"),
        ValueType::Set | ValueType::Zset => count(length, "member"),
        ValueType::Stream => count(length, "entry"),
    }
}

/// When a key expires, for people, and exactly.
fn expiry(ttl: i64) -> String {
    let Ok(milliseconds) = u64::try_from(ttl) else { return "never".to_owned() };
    let left = Duration::from_secs(milliseconds / 1000);
    format!("in {} <small>{milliseconds} ms</small>", humantime::format_duration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_entries_are_told_from_what_redis_would_take_for_something_else() {
        for id in [&b"0"[..], b"1-1", b"18446744073709551615-0"] {
            assert!(is_stream_id(id), "{}", id.escape_ascii());
        }
        for id in [&b""[..], b"-", b"1-", b"-1", b"(1-1", b"+1", b"1-1-1", b"18446744073709551616"]
        {
            assert!(!is_stream_id(id), "{}", id.escape_ascii());
        }
    }

    #[test]
    fn a_character_that_a_page_would_cut_is_left_to_the_next_one() {
        assert_eq!(whole_characters("aé".as_bytes()), "aé".as_bytes());
        assert_eq!(whole_characters(b"a\xc3"), b"a");
        assert_eq!(whole_characters(b"\xffa\xc3"), b"\xffa\xc3");
        assert_eq!(whole_characters(b"\xc3"), b"\xc3");
    }
}
