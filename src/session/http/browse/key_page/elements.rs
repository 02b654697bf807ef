//! The pages of values that have elements.

use std::io::Write;

use super::page::{KeyPage, NO_NUMBER, PAGE_ELEMENTS};
use crate::http::target::Cursor;
use crate::render::html::line;
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::http::browse::element::Element;
use crate::session::http::browse::layout::{begin_table, end_table};
use crate::session::http::key_scan::read_server_run_id;
use crate::session::http::outcome::{ReadError, ReadOutcome};

impl<W: Write> KeyPage<'_, '_, W> {
    /// Writes a hash or set that fits on one page.
    pub fn write_whole(
        &mut self,
        value_type: ValueType,
        length: u64,
    ) -> Result<ReadOutcome, ReadError> {
        let read = value_type.read_command(&self.query.key).into_bytes();
        let strings = reply::array(self.exchange.read_value(&read, self.facts.info.bytes)?)?;
        self.begin(Some((value_type, length)))?;
        self.write_scanned_table(value_type, strings)?;
        self.end(None)
    }

    /// Writes one page of a hash or set. Its cursor means something to this server only.
    pub fn write_scanned(
        &mut self,
        value_type: ValueType,
        length: u64,
    ) -> Result<ReadOutcome, ReadError> {
        self.exchange.connection.send(&command("INFO").arg("server").into_bytes())?;
        let run_id = read_server_run_id(self.exchange)?;
        let cursor = self.query.cursor.as_ref();
        if cursor.is_some_and(|cursor| cursor.run_id != run_id) {
            return Ok(ReadOutcome::OtherBackend);
        }
        let name = if value_type == ValueType::Hash { "HSCAN" } else { "SSCAN" };
        let position = cursor.map_or(0, |cursor| cursor.position);
        let scan = command(name).arg(&self.query.key).number(position);
        self.request_page(scan.arg("COUNT").number(PAGE_ELEMENTS), length)?;
        let from = self.exchange.connection.replies();
        let position = reply::scan_cursor(from)?;
        let strings = reply::array(from)?;
        self.begin(Some((value_type, length)))?;
        self.write_scanned_table(value_type, strings)?;
        let next = Cursor { run_id, position }.to_text();
        self.end((position != 0).then_some(("cursor", next.as_bytes())))
    }

    /// Writes a table of the fields or members whose strings come next.
    fn write_scanned_table(
        &mut self,
        value_type: ValueType,
        strings: u64,
    ) -> Result<(), ReadError> {
        if value_type == ValueType::Set {
            begin_table(self.response, "Members", &["member"])?;
            for _ in 0..strings {
                let member = self.read_element()?;
                self.response.write_all(b"<tr><td>")?;
                self.write_element(&member, None)?;
                self.response.write_all(b"</td></tr>\n")?;
            }
            return Ok(end_table(self.response)?);
        }
        begin_table(self.response, "Fields", &["field", "value"])?;
        for _ in 0..pairs(strings)? {
            let (field, value) = (self.read_element()?, self.read_element()?);
            self.response.write_all(b"<tr><th scope=\"row\" class=\"mono\">")?;
            self.write_element(&field, None)?;
            self.response.write_all(b"</th><td>")?;
            self.write_element(&value, Some(&field))?;
            self.response.write_all(b"</td></tr>\n")?;
        }
        Ok(end_table(self.response)?)
    }

    /// Writes one page of a list or sorted set.
    pub fn write_range(
        &mut self,
        value_type: ValueType,
        length: u64,
    ) -> Result<ReadOutcome, ReadError> {
        let Some(from) = self.from() else { return self.refuse(400, NO_NUMBER) };
        let end = from.saturating_add(PAGE_ELEMENTS).min(i64::MAX as u64);
        let is_list = value_type == ValueType::List;
        let range = command(if is_list { "LRANGE" } else { "ZRANGE" }).arg(&self.query.key);
        let range = range.number(from).number(end - 1);
        self.request_page(if is_list { range } else { range.arg("WITHSCORES") }, length)?;
        let strings = reply::array(self.exchange.connection.replies())?;
        self.begin(Some((value_type, length)))?;
        self.write_extent(from, end.min(length), length)?;
        match is_list {
            true => self.write_list_table(from, strings)?,
            false => self.write_sorted_set_table(pairs(strings)?)?,
        }
        let next = end.to_string();
        self.end((end < length).then_some(("from", next.as_bytes())))
    }

    /// Says which elements are on the page, unless all are.
    fn write_extent(&mut self, from: u64, end: u64, length: u64) -> Result<(), ReadError> {
        match (from, end) {
            (0, end) if end == length => Ok(()),
            _ if from >= length => {
                Ok(self.response.write_all(b"<p>The value ends before this page.</p>\n")?)
            }
            _ => Ok(writeln!(self.response, "<p>{from} to {} of {length}.</p>", end - 1)?),
        }
    }

    fn write_list_table(&mut self, from: u64, elements: u64) -> Result<(), ReadError> {
        begin_table(self.response, "Elements", &["index", "value"])?;
        for index in from..from + elements {
            let element = self.read_element()?;
            write!(self.response, "<tr><th scope=\"row\" class=\"number\">{index}</th><td>")?;
            self.write_element(&element, None)?;
            self.response.write_all(b"</td></tr>\n")?;
        }
        Ok(end_table(self.response)?)
    }

    fn write_sorted_set_table(&mut self, members: u64) -> Result<(), ReadError> {
        begin_table(self.response, "Members", &["member", "score"])?;
        for _ in 0..members {
            let (member, score) = (self.read_element()?, self.read_element()?);
            self.response.write_all(b"<tr><th scope=\"row\">")?;
            self.write_element(&member, None)?;
            let score = line(&score.bytes);
            writeln!(self.response, "</th><td class=\"number\">{score}</td></tr>")?;
        }
        Ok(end_table(self.response)?)
    }

    pub fn write_stream(&mut self, length: u64) -> Result<ReadOutcome, ReadError> {
        let from = self.query.from.as_deref().unwrap_or(b"-");
        if !is_stream_id(from) && from != b"-" {
            return self.refuse(400, "from is the id of an entry: digits, a hyphen, digits");
        }
        // One entry more than is shown tells where the next page begins.
        let range = command("XRANGE").arg(&self.query.key).arg(from).arg("+");
        self.request_page(range.arg("COUNT").number(PAGE_ELEMENTS + 1), length)?;
        let entries = reply::array(self.exchange.connection.replies())?;
        self.begin(Some((ValueType::Stream, length)))?;
        begin_table(self.response, "Entries", &["id", "fields"])?;
        let mut next = None;
        for at in 0..entries {
            if reply::array(self.exchange.connection.replies())? != 2 {
                let why = "a stream entry of two parts was expected";
                return Err(resp::Error::Protocol(why).into());
            }
            let id = self.read_element()?;
            let fields = pairs(reply::array(self.exchange.connection.replies())?)?;
            if at < PAGE_ELEMENTS {
                self.write_entry(&id, fields)?;
                continue;
            }
            for _ in 0..2 * fields {
                Element::expect(self.exchange.connection.replies(), 0)?;
            }
            next = Some(id.bytes);
        }
        end_table(self.response)?;
        self.end(next.as_deref().map(|id| ("from", id)))
    }

    fn write_entry(&mut self, id: &Element, fields: u64) -> Result<(), ReadError> {
        let id = line(&id.bytes);
        write!(
            self.response,
            "<tr><th scope=\"row\" class=\"mono\">{id}</th><td><dl class=\"entry\">"
        )?;
        for _ in 0..fields {
            let (field, value) = (self.read_element()?, self.read_element()?);
            self.response.write_all(b"<div><dt>")?;
            self.write_element(&field, None)?;
            self.response.write_all(b"</dt><dd>")?;
            self.write_element(&value, None)?;
            self.response.write_all(b"</dd></div>")?;
        }
        Ok(self.response.write_all(b"</dl></td></tr>\n")?)
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
