//! The pages of strings and of single fields.

use std::io::{self, Write};

use super::page::{KeyPage, NO_NUMBER};
use crate::http::target::link_to_key;
use crate::render::html::{attribute, line, text};
use crate::resp::command;
use crate::resp::value_type::ValueType;
use crate::session::http::browse::element::Element;
use crate::session::http::browse::layout::shortened;
use crate::session::http::browse::units;
use crate::session::http::outcome::{ReadError, ReadOutcome};

/// Bytes of a string on one page.
const PAGE_BYTES: u64 = 16 * 1024;

/// Bytes in each line of a string that is not text.
const DUMP_LINE_BYTES: usize = 16;

impl<W: Write> KeyPage<'_, '_, W> {
    pub fn write_string(&mut self, length: u64) -> Result<ReadOutcome, ReadError> {
        let Some(from) = self.from() else { return self.refuse(400, NO_NUMBER) };
        let last = from.saturating_add(PAGE_BYTES - 1).min(i64::MAX as u64);
        let range = command("GETRANGE").arg(&self.query.key).number(from).number(last);
        self.exchange.connection.send(&range.into_bytes())?;
        let page = Element::expect(self.exchange.connection.replies(), PAGE_BYTES as usize)?.bytes;
        let rest = length.saturating_sub(from.saturating_add(page.len() as u64));
        let shown = if rest > 0 { whole_characters(&page) } else { &page[..] };
        self.begin(Some((ValueType::String, length)))?;
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
    pub fn write_field(&mut self) -> Result<ReadOutcome, ReadError> {
        let (key, field) = (&self.query.key, self.query.field.as_deref().unwrap_or_default());
        let get = command("HGET").arg(key).arg(field).into_bytes();
        self.exchange.connection.send(&get)?;
        let replies = self.exchange.connection.replies();
        let Some(value) = Element::read(replies, PAGE_BYTES as usize)? else {
            return self.refuse(404, "no such field");
        };
        self.frame.begin(self.response, field, b"")?;
        let (name, link) = (shortened(field), link_to_key(key, &[]));
        writeln!(self.response, "<h1 class=\"mono key\">{name}</h1>\n<dl>")?;
        let (link, key) = (attribute(&link), shortened(key));
        self.write_fact("Field of", format_args!("<a class=\"mono\" href=\"{link}\">{key}</a>"))?;
        self.write_fact("Length", units::length(ValueType::String, value.length))?;
        self.write_fact("Served by", line(self.backend))?;
        self.response.write_all(b"</dl>\n")?;
        self.write_forms(&[("field", field)], true)?;
        if value.is_cut() {
            writeln!(self.response, "<p>Its first {} bytes.</p>", value.bytes.len())?;
        }
        write_bytes(self.response, &value.bytes, 0)?;
        self.frame.end(self.response)?;
        Ok(ReadOutcome::Written(None))
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
        let plain: Vec<u8> = piece
            .iter()
            .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'.' })
            .collect();
        let gap = 3 * (DUMP_LINE_BYTES - piece.len()) + 2;
        writeln!(response, "{:gap$}{}", "", text(&plain))?;
    }
    response.write_all(b"</pre>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_a_page_would_cut_is_left_to_the_next_one() {
        assert_eq!(whole_characters("aé".as_bytes()), "aé".as_bytes());
        assert_eq!(whole_characters(b"a\xc3"), b"a");
        assert_eq!(whole_characters(b"\xffa\xc3"), b"\xffa\xc3");
        assert_eq!(whole_characters(b"\xc3"), b"\xc3");
    }
}
