//! The pages of values of each type, in pages of a bounded length, and those of single fields.

use std::io::{self, Write};

use super::key_page::{KeyPage, PAGE_ELEMENTS, length};
use super::page::{Element, Frame, begin_table, end_table, parts, shortened, write_facts};
use crate::balance::failover::Attempt;
use crate::http::ResponseWriter;
use crate::http::target::{Cursor, KeyQuery, link_to_key};
use crate::render::html::{attribute, line, text};
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::client::ClientHandle;
use crate::session::http::exchange::{
    Exchange, KeyInfo, ReadError, ReadOutcome, if_permitted, look_at,
};
use crate::session::http::json::denial;
use crate::session::http::page_keys::read_server_run_id;
use crate::session::http::rights::Rights;

/// Bytes of a string on one page.
const PAGE_BYTES: u64 = 16 * 1024;

/// Bytes in each line of a string that is not text.
const DUMP_LINE_BYTES: usize = 16;

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
        let is_scanned = matches!(info.value_type(), Some(ValueType::Hash | ValueType::Set));
        let no_such_page = if is_scanned { query.from.is_some() } else { query.cursor.is_some() };
        match (&query.field, info.value_type()) {
            _ if info.is_missing() => Ok(self.refused(404, "no such key")),
            (Some(field), Some(ValueType::Hash)) => self.write_field(field),
            (Some(_), _) => Ok(self.refused(415, "only a hash has fields")),
            (None, None) => {
                self.response.status(415);
                self.begin()?;
                writeln!(self.response, "<p>Values of this type can’t be shown.</p>")?;
                self.frame.end(self.response)?;
                Ok(ReadOutcome::Written(None))
            }
            (None, Some(_)) if no_such_page => {
                Ok(self.refused(400, "this value has no such page: start again at its first"))
            }
            (None, Some(value_type @ (ValueType::Hash | ValueType::Set))) => {
                self.write_hash_or_set(value_type)
            }
            (None, Some(value_type @ (ValueType::List | ValueType::Zset))) => {
                self.write_range(value_type)
            }
            (None, Some(ValueType::String)) => self.write_string(),
            (None, Some(ValueType::Stream)) => self.write_stream(),
        }
    }

    /// Returns where the page begins; `None` if `from` is not a number that Redis takes.
    fn from(&self) -> Option<u64> {
        let Some(from) = &self.query.from else { return Some(0) };
        let number: i64 = std::str::from_utf8(from).ok()?.parse().ok()?;
        u64::try_from(number).ok()
    }

    fn write_string(&mut self) -> Result<ReadOutcome<'q>, ReadError> {
        let Some(from) = self.from() else { return Ok(self.refused(400, NO_NUMBER)) };
        let length = self.length;
        let last = from.saturating_add(PAGE_BYTES - 1).min(i64::MAX as u64);
        let range = command("GETRANGE").arg(&self.query.key).number(from).number(last);
        let from_backend = self.exchange.ask(range.into_bytes())?;
        let page = Element::expect(from_backend, PAGE_BYTES as usize)?.bytes;
        let rest = length.saturating_sub(from.saturating_add(page.len() as u64));
        let shown = if rest > 0 { whole_characters(&page) } else { &page[..] };
        self.begin()?;
        let end = from.saturating_add(shown.len() as u64);
        if length > shown.len() as u64 {
            let (count, begin) = (shown.len(), from.min(length));
            writeln!(self.response, "<p>{count} of {length} bytes, from byte {begin} on.</p>")?;
        }
        write_bytes(self.response, shown, from)?;
        let next = end.to_string();
        self.end((end < length && end > from).then_some(("from", next.as_bytes())))
    }

    /// Writes a field's own page: its beginning, and links to all of it.
    fn write_field(&mut self, field: &[u8]) -> Result<ReadOutcome<'q>, ReadError> {
        let key = &self.query.key;
        let get = command("HGET").arg(key).arg(field).into_bytes();
        let Some(value) = Element::read(self.exchange.ask(get)?, PAGE_BYTES as usize)? else {
            return Ok(self.refused(404, "no such field"));
        };
        self.frame.begin(self.response, field, b"")?;
        writeln!(self.response, "<h1 class=\"mono key\">{}</h1>", shortened(field))?;
        let (link, key) = (link_to_key(key, self.query.database, &[]), shortened(key));
        let key = link.map_or(key.clone(), |link| {
            format!("<a class=\"mono\" href=\"{}\">{key}</a>", attribute(&link))
        });
        let facts = [
            ("Field of", Some(key)),
            ("Length", Some(length(ValueType::String, value.length))),
            ("Served by", Some(line(self.backend).to_string())),
        ];
        write_facts(self.response, "", &facts)?;
        self.write_forms(&[("field", field)], true)?;
        if value.is_cut() {
            writeln!(self.response, "<p>Its first {} bytes.</p>", value.bytes.len())?;
        }
        write_bytes(self.response, &value.bytes, 0)?;
        self.frame.end(self.response)?;
        Ok(ReadOutcome::Written(None))
    }

    /// Writes a hash or set that fits on one page, or one page of a longer one. The cursor of the next
    /// page means something to this server only.
    fn write_hash_or_set(&mut self, value_type: ValueType) -> Result<ReadOutcome<'q>, ReadError> {
        let (key, cursor) = (&self.query.key, self.query.cursor.as_ref());
        if cursor.is_none() && self.length <= PAGE_ELEMENTS {
            let read = value_type.read_command(key).into_bytes();
            self.exchange.read_value(&read, self.info.bytes)?;
            let strings = self.read_array()?;
            self.begin()?;
            self.write_elements(value_type, 0, strings)?;
            return self.end(None);
        }
        self.exchange.send_quick(&command("INFO").arg("server").into_bytes())?;
        let run_id = read_server_run_id(self.exchange)?;
        if cursor.is_some_and(|cursor| cursor.run_id != run_id) {
            return Err(ReadError::OtherBackend);
        }
        let name = if value_type == ValueType::Hash { "HSCAN" } else { "SSCAN" };
        let position = cursor.map_or(0, |cursor| cursor.position);
        let scan = command(name).arg(key).number(position);
        self.request_page(scan.arg("COUNT").number(PAGE_ELEMENTS))?;
        let position = reply::scan_cursor(self.exchange.replies()?)?;
        let strings = self.read_array()?;
        self.begin()?;
        self.write_elements(value_type, 0, strings)?;
        let next = Cursor { run_id, position }.to_text();
        self.end((position != 0).then_some(("cursor", next.as_bytes())))
    }

    /// Writes one page of a list or sorted set.
    fn write_range(&mut self, value_type: ValueType) -> Result<ReadOutcome<'q>, ReadError> {
        let Some(from) = self.from() else { return Ok(self.refused(400, NO_NUMBER)) };
        let length = self.length;
        let end = from.saturating_add(PAGE_ELEMENTS).min(i64::MAX as u64);
        let is_list = value_type == ValueType::List;
        let range = command(if is_list { "LRANGE" } else { "ZRANGE" }).arg(&self.query.key);
        let range = range.number(from).number(end - 1);
        self.request_page(if is_list { range } else { range.arg("WITHSCORES") })?;
        let strings = self.read_array()?;
        self.begin()?;
        if from >= length {
            self.response.write_all(b"<p>The value ends before this page.</p>\n")?;
        } else if from > 0 || end < length {
            let last = end.min(length) - 1;
            writeln!(self.response, "<p>{from} to {last} of {length}.</p>")?;
        }
        self.write_elements(value_type, from, strings)?;
        let next = end.to_string();
        self.end((end < length).then_some(("from", next.as_bytes())))
    }

    /// Writes a table of elements, the first of which has the number `from`. The reply goes on with
    /// this number of strings.
    fn write_elements(
        &mut self,
        value_type: ValueType,
        from: u64,
        strings: u64,
    ) -> Result<(), ReadError> {
        let (label, columns, rows): (_, &[&str], _) = match value_type {
            ValueType::Set => ("Members", &["member"], strings),
            ValueType::Hash => ("Fields", &["field", "value"], pairs(strings)?),
            ValueType::Zset => ("Members", &["member", "score"], pairs(strings)?),
            _ => ("Elements", &["index", "value"], strings),
        };
        begin_table(self.response, label, columns)?;
        for row in 0..rows {
            let element = self.read_element()?;
            let shown = self.shown(&element, None);
            let cells = match value_type {
                ValueType::Set => format!("<td>{shown}</td>"),
                ValueType::Hash => {
                    let value = self.read_element()?;
                    let value = self.shown(&value, Some(&element));
                    format!("<th scope=\"row\" class=\"mono\">{shown}</th><td>{value}</td>")
                }
                ValueType::Zset => {
                    let score = self.read_element()?;
                    let score = line(&score.bytes);
                    format!("<th scope=\"row\">{shown}</th><td class=\"number\">{score}</td>")
                }
                _ => {
                    let index = from + row;
                    format!("<th scope=\"row\" class=\"number\">{index}</th><td>{shown}</td>")
                }
            };
            writeln!(self.response, "<tr>{cells}</tr>")?;
        }
        Ok(end_table(self.response)?)
    }

    fn write_stream(&mut self) -> Result<ReadOutcome<'q>, ReadError> {
        let from = self.query.from.as_deref().unwrap_or(b"-");
        if !is_stream_id(from) && from != b"-" {
            let why = "from is the id of an entry: digits, a hyphen, digits";
            return Ok(self.refused(400, why));
        }
        // One entry more than is shown tells where the next page begins.
        let range = command("XRANGE").arg(&self.query.key).arg(from).arg("+");
        self.request_page(range.arg("COUNT").number(PAGE_ELEMENTS + 1))?;
        let entries = self.read_array()?;
        self.begin()?;
        begin_table(self.response, "Entries", &["id", "fields"])?;
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
            write!(response, "<tr><th scope=\"row\" class=\"mono\">{id}</th>")?;
            response.write_all(b"<td><dl class=\"entry\">")?;
            for _ in 0..fields {
                let (field, value) = (self.read_shown()?, self.read_shown()?);
                write!(self.response, "<div><dt>{field}</dt><dd>{value}</dd></div>")?;
            }
            self.response.write_all(b"</dl></td></tr>\n")?;
        }
        end_table(self.response)?;
        self.end(next.as_deref().map(|id| ("from", id)))
    }
}

/// Leaves out the beginning of a character at the end: it is on the next page.
fn whole_characters(page: &[u8]) -> &[u8] {
    match std::str::from_utf8(page) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            &page[..error.valid_up_to()]
        }
        _ => page,
    }
}

/// Writes text as it is, and other bytes in hexadecimal with their positions from `from` on.
fn write_bytes(response: &mut impl Write, bytes: &[u8], from: u64) -> io::Result<()> {
    if bytes.is_empty() {
        return response.write_all(b"<p><i>empty</i></p>\n");
    }
    let attributes = "role=\"region\" aria-label=\"Value\" tabindex=\"0\"";
    if std::str::from_utf8(bytes).is_ok() {
        return writeln!(response, "<pre class=\"box\" {attributes}>\n{}</pre>", text(bytes));
    }
    writeln!(
        response,
        "<p>This is not UTF-8 text: position, bytes in hexadecimal, ASCII.</p>\n\
         <pre class=\"box dump\" {attributes}>"
    )?;
    for (at, piece) in bytes.chunks(DUMP_LINE_BYTES).enumerate() {
        write!(response, "{:08x} ", from + (at * DUMP_LINE_BYTES) as u64)?;
        for byte in piece {
            write!(response, " {byte:02x}")?;
        }
        let plain = |&byte| if matches!(byte, b' '..=b'~') { byte } else { b'.' };
        let plain: Vec<u8> = piece.iter().map(plain).collect();
        let gap = 3 * (DUMP_LINE_BYTES - piece.len()) + 2;
        writeln!(response, "{:gap$}{}", "", text(&plain))?;
    }
    response.write_all(b"</pre>\n")
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

    #[test]
    fn a_character_that_a_page_would_cut_is_left_to_the_next_one() {
        assert_eq!(whole_characters("aé".as_bytes()), "aé".as_bytes());
        assert_eq!(whole_characters(b"a\xc3"), b"a");
        assert_eq!(whole_characters(b"\xffa\xc3"), b"\xffa\xc3");
        assert_eq!(whole_characters(b"\xc3"), b"\xc3");
    }
}
