//! The bytes of a string or field: JSON laid out, other text as it is, anything else in hexadecimal.

use std::io::{self, Write};

use crate::render::html::text;
use crate::render::layout::{Layout, Refusal, begins_json};
use crate::text::figures::grouped;

/// Bytes of a string on one page.
pub(super) const PAGE_BYTES: u64 = 16 * 1024;

/// Longest JSON that is laid out: it has to be read whole.
pub(super) const MAX_JSON_BYTES: u64 = 64 * 1024;

/// Bytes of a character at most, after its first.
pub(super) const MAX_CONTINUATION: u64 = 3;

/// Bytes in each line of a string that is not text.
const DUMP_LINE_BYTES: usize = 16;

const ATTRIBUTES: &str = "role=\"region\" aria-label=\"Value\" tabindex=\"0\"";

/// How a value that may be JSON is shown.
pub(super) enum Form<'a> {
    /// Laid out.
    Json(Layout<'a>),
    /// As it is stored, perhaps with the reason for that.
    Stored(Option<&'static str>),
}

/// Returns how the value is shown that begins with these bytes, and has `length` of them.
pub(super) fn form(bytes: &[u8], length: u64) -> Form<'_> {
    if !begins_json(bytes) {
        return Form::Stored(None);
    }
    if length > MAX_JSON_BYTES {
        return Form::Stored(Some(
            "It begins like JSON, but is too long to be laid out (more than 64 KiB).",
        ));
    }
    match Layout::of(bytes) {
        Ok(layout) => Form::Json(layout),
        Err(Refusal::TooDeep) => Form::Stored(Some(
            "It may be JSON, but is nested too deeply to be laid out (more than 64 levels).",
        )),
        Err(Refusal::NotJson) => Form::Stored(Some("It begins like JSON, but is not valid JSON.")),
    }
}

/// Writes JSON laid out.
pub(super) fn write_json(response: &mut impl Write, layout: &Layout) -> io::Result<()> {
    writeln!(response, "<pre class=\"box json\" {ATTRIBUTES}>\n{layout}</pre>")
}

/// Writes text as it is, and other bytes in hexadecimal with their positions from `from` on.
pub(super) fn write_bytes(response: &mut impl Write, bytes: &[u8], from: u64) -> io::Result<()> {
    if bytes.is_empty() {
        return response.write_all(b"<p><i>empty</i></p>\n");
    }
    if std::str::from_utf8(bytes).is_ok() {
        return writeln!(response, "<pre class=\"box\" {ATTRIBUTES}>\n{}</pre>", text(bytes));
    }
    writeln!(
        response,
        "<p>This is not UTF-8 text: position, bytes in hexadecimal, ASCII.</p>\n\
         <pre class=\"box dump\" {ATTRIBUTES}>"
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

/// Returns which part of a string a page shows, as text about it.
pub(super) fn range(from: u64, shown: u64, length: u64) -> String {
    match shown {
        0 => "The value ends before this page.".to_owned(),
        _ => format!(
            "Bytes {} to {} of {}.",
            grouped(from),
            grouped(from + shown - 1),
            grouped(length)
        ),
    }
}

/// Returns the place nearest to `at`, at it or before it, where no character is cut: pages on both sides of it agree on
/// the place, whichever was read first.
pub(super) fn boundary(bytes: &[u8], at: usize) -> usize {
    let is_continuation = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    if !is_continuation(at) {
        return at.min(bytes.len());
    }
    let most = at.min(MAX_CONTINUATION as usize);
    let Some(back) = (1..=most).find(|back| !is_continuation(at - back)) else { return at };
    let length = match bytes[at - back] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    if length > back { at - back } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_and_ends_between_characters() {
        let bytes = "aé€😀b".as_bytes();
        let boundaries: Vec<_> = (0..=12).map(|at| boundary(bytes, at)).collect();
        assert_eq!(boundaries, [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11]);
    }

    #[test]
    fn bytes_that_are_no_text_stay_where_they_are() {
        for bytes in [&b"\x80\x80\x80\x80\x80"[..], b"ab\x80\x80\x80", b"\xe2\x82\x82\x82\x82"] {
            assert_eq!(boundary(bytes, 4), 4, "{}", bytes.escape_ascii());
        }
    }
}
