//! The pages of values of each type, in pages of a bounded length, and those of single fields.

use std::io::Write;

use super::crumbs::{Subject, write_crumbs};
use super::element::Element;
use super::key_page::{KeyPage, PAGE_ELEMENTS, length, write_name};
use super::page::{
    Column, Frame, Pages, begin_table, end_table, key_link, link_if_any, parts, write_facts,
};
use super::value_text::{
    self, Form, MAX_CONTINUATION, MAX_JSON_BYTES, PAGE_BYTES, boundary, write_bytes,
};
use crate::balance::failover::Attempt;
use crate::http::ResponseWriter;
use crate::http::target::{KeyQuery, Trail};
use crate::render::html::{cut, line};
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::client::ClientHandle;
use crate::session::http::exchange::{
    Exchange, KeyInfo, ReadError, ReadOutcome, if_permitted, look_at,
};
use crate::session::http::json::denial;
use crate::session::http::rights::Rights;
use crate::text::figures::grouped;

/// Most fields or members that need no search.
const MAX_GLANCED: u64 = 10;

/// The longest name of an encoding that is shown.
const MAX_ENCODING_BYTES: usize = 64;

/// Told to a client whose `from` is not a number.
const NO_NUMBER: &str = "from is the number of an element or byte, from 0 on";

/// Writes the page of a key or a field.
pub(crate) fn write_key_page<'q, W: Write>(
    attempt: &Attempt,
    peer: ClientHandle,
    query: &'q KeyQuery,
    frame: Frame,
    response: &mut ResponseWriter<W>,
    rights: Option<&Rights>,
) -> Result<ReadOutcome<'q>, ReadError> {
    let (key, backend) = (&query.key, attempt.backend.name());
    let mut look = look_at(&[key]);
    command("PTTL").arg(key).append_to(&mut look);
    command("OBJECT").arg("ENCODING").arg(key).append_to(&mut look);
    Exchange::serve(attempt, peer, query.database, &look, |exchange| {
        let from = exchange.replies()?;
        let info = KeyInfo::read(from)?;
        let ttl = if_permitted(reply::integer(from))?.flatten();
        let encoding = match if_permitted(Element::read(from, MAX_ENCODING_BYTES)) {
            Ok(encoding) => encoding.flatten().map(|name| line(&name.bytes).to_string()),
            // Some versions reply with an error if the key is gone.
            Err(resp::Error::Redis(_)) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(denied) = denial(query, info.value_type(), rights) {
            return Ok(Some(denied));
        }
        let length = 0;
        KeyPage { query, frame, backend, exchange, info, ttl, encoding, length, response }.write()
    })
}

impl<'q, W: Write> KeyPage<'q, '_, '_, W> {
    /// Writes the page; `None` if the value is gone since the look at its key.
    fn write(mut self) -> Result<Option<ReadOutcome<'q>>, ReadError> {
        if let (None, Some(value_type)) = (&self.query.field, self.info.value_type()) {
            let count = command(parts(value_type).0).arg(&self.query.key).into_bytes();
            let length = reply::integer(self.exchange.ask(count)?)?;
            self.length = length.unwrap_or(0).unsigned_abs();
            if self.length == 0 && !matches!(value_type, ValueType::Stream | ValueType::String) {
                return Ok(None);
            }
        }
        self.write_by_type().map(Some)
    }

    fn write_by_type(&mut self) -> Result<ReadOutcome<'q>, ReadError> {
        let (query, info) = (self.query, &self.info);
        let is_scanned = match info.value_type() {
            Some(ValueType::Hash | ValueType::Set) => true,
            Some(ValueType::Zset) => query.search.is_some(),
            _ => false,
        };
        let no_such_page = if is_scanned { query.from.is_some() } else { query.cursor.is_some() };
        match (&query.field, info.value_type()) {
            _ if info.is_missing() => Ok(self.refused(404, "no such key")),
            (Some(field), Some(ValueType::Hash)) => self.write_field(field),
            (Some(_), _) => Ok(self.refused(415, "only a hash has fields")),
            (None, None) => {
                self.response.status(415);
                self.begin()?;
                writeln!(self.response, "<p>Values of this type can’t be shown.</p>")?;
                self.end(&Pages::default())
            }
            (None, Some(_)) if no_such_page => {
                Ok(self.refused(400, "this value has no such page: start again at its first"))
            }
            (None, Some(value_type)) if is_scanned => self.write_scanned(value_type),
            (None, Some(_)) if query.search.is_some() => {
                Ok(self.refused(400, "only hashes, sets and sorted sets can be searched"))
            }
            (None, Some(value_type @ (ValueType::List | ValueType::Zset))) => {
                self.write_range(value_type)
            }
            (None, Some(ValueType::Stream)) => self.write_stream(),
            (None, Some(_)) => self.write_string(),
        }
    }

    /// Returns where the page begins; `None` if `from` is not a number that Redis takes.
    fn from(&self) -> Option<u64> {
        let Some(from) = &self.query.from else { return Some(0) };
        let number: i64 = std::str::from_utf8(from).ok()?.parse().ok()?;
        u64::try_from(number).ok()
    }

    /// Writes a string: JSON laid out unless a page of it is asked for, or the bytes of one page.
    fn write_string(&mut self) -> Result<ReadOutcome<'q>, ReadError> {
        let Some(from) = self.from() else { return Ok(self.refused(400, NO_NUMBER)) };
        let length = self.length;
        let is_whole = self.query.from.is_none() && length <= MAX_JSON_BYTES;
        let before = from.min(MAX_CONTINUATION);
        // One byte more than a page has tells whether a character is cut.
        let read = if is_whole { MAX_JSON_BYTES } else { PAGE_BYTES };
        let (first, last) = (from - before, from.saturating_add(read).min(i64::MAX as u64));
        let range = command("GETRANGE").arg(&self.query.key).number(first).number(last);
        let from_backend = self.exchange.ask(range.into_bytes())?;
        let most = (MAX_CONTINUATION + read + 1) as usize;
        let bytes = Element::expect(from_backend, most)?.bytes;
        self.begin()?;
        if self.query.from.is_none() && self.write_laid_out(&[], &bytes, length)? {
            return self.end(&Pages::default());
        }
        let begin = boundary(&bytes, before as usize);
        let shown = &bytes[begin..boundary(&bytes, (before + PAGE_BYTES) as usize).max(begin)];
        let shown_from = first + begin as u64;
        if length > shown.len() as u64 {
            let range = value_text::range(shown_from, shown.len() as u64, length);
            writeln!(self.response, "<p class=\"facts\">{range}</p>")?;
        }
        if length == 0 || !shown.is_empty() {
            write_bytes(self.response, shown, shown_from)?;
        }
        let pages = self.numbered_pages(from, PAGE_BYTES);
        self.end(&pages)
    }

    /// Writes a field's own page: JSON laid out, or its beginning, and links to all of it.
    fn write_field(&mut self, field: &[u8]) -> Result<ReadOutcome<'q>, ReadError> {
        let key = &self.query.key;
        let get = command("HGET").arg(key).arg(field).into_bytes();
        let Some(value) = Element::read(self.exchange.ask(get)?, MAX_JSON_BYTES as usize)? else {
            return Ok(self.refused(404, "no such field"));
        };
        self.frame.begin(self.response, &[field, key], b"")?;
        write_crumbs(self.response, Subject::Key(key), self.query.database)?;
        write_name(self.response, field, "field")?;
        let facts = [
            (
                "Field of",
                Some(format!("<span class=\"mono\">{}</span>", key_link(key, self.query.database))),
            ),
            ("Length", Some(length(ValueType::String, value.length))),
            ("Served by", Some(line(self.backend).to_string())),
        ];
        write_facts(self.response, "", &facts)?;
        let parameters: &[(&str, &[u8])] = &[("field", field)];
        self.write_forms(parameters, true)?;
        if self.query.from.is_none()
            && self.write_laid_out(parameters, &value.bytes, value.length)?
        {
            return self.end(&Pages::default());
        }
        let shown = cut(&value.bytes, PAGE_BYTES as usize);
        if value.length > shown.len() as u64 {
            let shown = grouped(shown.len() as u64);
            writeln!(self.response, "<p class=\"facts\">Its first {shown} bytes.</p>")?;
        }
        write_bytes(self.response, shown, 0)?;
        self.end(&Pages::default())
    }

    /// Writes a value that is JSON laid out, with a link to how it is stored. Returns whether it did; if not, says why
    /// unless the value does not look like JSON.
    fn write_laid_out(
        &mut self,
        parameters: &[(&str, &[u8])],
        bytes: &[u8],
        length: u64,
    ) -> Result<bool, ReadError> {
        match value_text::form(bytes, length) {
            Form::Json(layout) => {
                let stored = self.link(&[parameters, &[("from", &b"0"[..])]].concat());
                let stored = link_if_any(stored.as_deref(), "As it is stored");
                writeln!(self.response, "<p class=\"facts\">JSON, laid out. {stored}</p>")?;
                value_text::write_json(self.response, &layout)?;
                Ok(true)
            }
            Form::Stored(why) => {
                if let Some(why) = why {
                    writeln!(self.response, "<p class=\"facts\">{why}</p>")?;
                }
                Ok(false)
            }
        }
    }

    /// Writes one page of a list or sorted set.
    fn write_range(&mut self, value_type: ValueType) -> Result<ReadOutcome<'q>, ReadError> {
        let Some(from) = self.from() else { return Ok(self.refused(400, NO_NUMBER)) };
        let length = self.length;
        let end = from.saturating_add(PAGE_ELEMENTS).min(i64::MAX as u64);
        let is_list = value_type == ValueType::List;
        let range = command(if is_list { "LRANGE" } else { "ZRANGE" }).arg(&self.query.key);
        let range = range.number(from).number(end - 1);
        let range = if is_list { range } else { range.arg("WITHSCORES") };
        self.request_elements(range, PAGE_ELEMENTS)?;
        let strings = self.read_array()?;
        self.begin_elements(value_type)?;
        self.write_rows(value_type, from, strings)?;
        end_table(self.response)?;
        if from >= length {
            self.response.write_all(b"<p>The value ends before this page.</p>\n")?;
        } else if from > 0 || end < length {
            let (from, last, length) =
                (grouped(from), grouped(end.min(length) - 1), grouped(length));
            writeln!(self.response, "<p class=\"facts\">{from} to {last} of {length}.</p>")?;
        }
        let pages = self.numbered_pages(from, PAGE_ELEMENTS);
        self.end(&pages)
    }

    /// Begins the page of a value that is a table, up to the table's head.
    pub fn begin_elements(&mut self, value_type: ValueType) -> Result<(), ReadError> {
        self.begin()?;
        let thing = match value_type {
            ValueType::Hash => Some("fields"),
            ValueType::Set | ValueType::Zset => Some("members"),
            _ => None,
        };
        if let Some(thing) =
            thing.filter(|_| self.length > MAX_GLANCED || self.query.search.is_some())
        {
            self.write_search(thing)?;
        }
        let (label, columns) = match value_type {
            ValueType::Set => ("Members", vec![Column::left("member")]),
            ValueType::Hash => ("Fields", vec![Column::left("field"), Column::left("value")]),
            ValueType::Zset => ("Members", vec![Column::right("score"), Column::left("member")]),
            ValueType::Stream => ("Entries", vec![Column::left("id"), Column::left("fields")]),
            _ => ("Elements", vec![Column::right("index"), Column::left("value")]),
        };
        Ok(begin_table(self.response, label, &columns)?)
    }

    /// Writes rows of the table, the first of which has the number `from`. The reply goes on with this number of strings.
    pub fn write_rows(
        &mut self,
        value_type: ValueType,
        from: u64,
        strings: u64,
    ) -> Result<(), ReadError> {
        let rows = match value_type {
            ValueType::Hash | ValueType::Zset => pairs(strings)?,
            _ => strings,
        };
        for row in 0..rows {
            let element = self.read_element()?;
            let shown = match value_type {
                ValueType::Hash => self.shown_field(&element),
                _ => self.shown(&element, None),
            };
            let cells = match value_type {
                ValueType::Set => format!("<td class=\"value\">{shown}</td>"),
                ValueType::Hash => {
                    let value = self.read_element()?;
                    let value = self.shown(&value, Some(&element));
                    format!(
                        "<th scope=\"row\" class=\"mono\">{shown}</th><td class=\"value\">{value}</td>"
                    )
                }
                ValueType::Zset => {
                    let score = self.read_element()?;
                    let score = line(&score.bytes);
                    format!("<td class=\"number\">{score}</td><th scope=\"row\">{shown}</th>")
                }
                _ => {
                    let index = grouped(from + row);
                    format!(
                        "<th scope=\"row\" class=\"number\">{index}</th><td class=\"value\">{shown}</td>"
                    )
                }
            };
            writeln!(self.response, "<tr>{cells}</tr>")?;
        }
        Ok(())
    }

    fn write_stream(&mut self) -> Result<ReadOutcome<'q>, ReadError> {
        let from = self.query.from.as_deref().unwrap_or(b"-");
        if !is_stream_id(from) && from != b"-" {
            let why = "from is the id of an entry: digits, a hyphen, digits";
            return Ok(self.refused(400, why));
        }
        // One entry more than is shown tells where the next page begins.
        let range = command("XRANGE").arg(&self.query.key).arg(from).arg("+");
        self.request_elements(range.arg("COUNT").number(PAGE_ELEMENTS + 1), PAGE_ELEMENTS)?;
        let entries = self.read_array()?;
        self.begin_elements(ValueType::Stream)?;
        let mut next = None;
        for at in 0..entries {
            if self.read_array()? != 2 {
                let why = "a stream entry of two parts was expected";
                return Err(resp::Error::Protocol(why).into());
            }
            let id = self.read_element()?.bytes;
            let fields = pairs(self.read_array()?)?;
            if at >= PAGE_ELEMENTS {
                for _ in 0..2 * fields {
                    Element::expect(self.exchange.replies()?, 0)?;
                }
                next = Some(id);
                continue;
            }
            let (response, id) = (&mut *self.response, line(&id));
            write!(response, "<tr><th scope=\"row\" class=\"mono nowrap\">{id}</th>")?;
            response.write_all(b"<td><dl class=\"entry\">")?;
            for _ in 0..fields {
                let (field, value) = (self.read_shown()?, self.read_shown()?);
                write!(self.response, "<div><dt>{field}</dt><dd>{value}</dd></div>")?;
            }
            self.response.write_all(b"</dl></td></tr>\n")?;
        }
        end_table(self.response)?;
        let here = self.query.from.as_deref().map_or(Trail::FIRST.into(), String::from_utf8_lossy);
        let next = next.as_deref().map(String::from_utf8_lossy);
        let pages = self.chained_pages(&here, next.as_deref(), "from", str::to_owned);
        self.end(&pages)
    }
}

/// Returns how many pairs this number of strings is.
fn pairs(strings: u64) -> Result<u64, resp::Error> {
    match strings % 2 {
        0 => Ok(strings / 2),
        _ => Err(resp::Error::Protocol("an array of pairs was expected")),
    }
}

/// Whether this is `MILLISECONDS-NUMBER`, or `MILLISECONDS` alone.
fn is_stream_id(text: &[u8]) -> bool {
    let is_number = |digits: &[u8]| {
        std::str::from_utf8(digits).is_ok_and(|d| !d.starts_with('+') && d.parse::<u64>().is_ok())
    };
    text.splitn(2, |&byte| byte == b'-').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_of_entries_are_sent_to_redis() {
        for id in [&b"0"[..], b"1-1", b"18446744073709551615-0"] {
            assert!(is_stream_id(id), "{}", id.escape_ascii());
        }
        for id in [&b""[..], b"-", b"1-", b"-1", b"(1-1", b"+1", b"1-1-1", b"18446744073709551616"]
        {
            assert!(!is_stream_id(id), "{}", id.escape_ascii());
        }
    }
}
