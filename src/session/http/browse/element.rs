//! Strings of replies of which only the beginning is kept.

use std::io::BufRead;

use crate::render::html::{cut, text};
use crate::resp::reply::{self, Header};
use crate::resp::{self, MAX_ARRAY_LENGTH};

/// The beginning of a string.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub bytes: Vec<u8>,
    /// Length of the whole string.
    pub length: u64,
}

impl Element {
    /// Whether only a part of the string is kept.
    pub fn is_cut(&self) -> bool {
        self.length > self.bytes.len() as u64
    }

    /// The string as HTML, with dots where it is cut.
    pub fn shown(&self) -> String {
        format!("{}{}", text(&self.bytes), if self.is_cut() { "…" } else { "" })
    }

    /// Reads a string to its end, and keeps up to `max` bytes; `None` for null.
    pub fn read(from: &mut impl BufRead, max: usize) -> Result<Option<Self>, resp::Error> {
        let Some(length) = reply::bulk(from)? else { return Ok(None) };
        Self::rest(from, length, max).map(Some)
    }

    /// As [`read`](Self::read), but null is an error.
    pub fn expect(from: &mut impl BufRead, max: usize) -> Result<Self, resp::Error> {
        Self::read(from, max)?.ok_or(resp::Error::Protocol("a bulk string was expected"))
    }

    fn rest(from: &mut impl BufRead, length: u64, max: usize) -> Result<Self, resp::Error> {
        let mut bytes = Vec::new();
        reply::payload(from, length, |piece| {
            // One byte more than is kept shows whether a character is cut.
            let room = (max + 1).saturating_sub(bytes.len());
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            Ok::<_, resp::Error>(())
        })?;
        bytes.truncate(cut(&bytes, max).len());
        Ok(Self { bytes, length })
    }
}

/// Reads a reply of any shape to its end. Returns the first `keep` of its strings, up to `max` bytes
/// of each, and the number of all.
pub(super) fn strings(
    from: &mut impl BufRead,
    keep: usize,
    max: usize,
) -> Result<(Vec<Element>, u64), resp::Error> {
    let (mut kept, mut count, mut left) = (Vec::new(), 0, 1_u64);
    while left > 0 {
        left -= 1;
        match reply::header(from)? {
            Header::Array(length) if left <= MAX_ARRAY_LENGTH => left += length,
            Header::Array(_) => return Err(resp::Error::Protocol("too many elements")),
            Header::Bulk(length) => {
                count += 1;
                let max = if kept.len() < keep { max } else { 0 };
                let element = Element::rest(from, length, max)?;
                if kept.len() < keep {
                    kept.push(element);
                }
            }
            Header::Simple(_) | Header::Integer(_) | Header::Null => {}
        }
    }
    Ok((kept, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_cut_and_counted_and_the_reply_is_read_to_its_end() {
        let mut from =
            &b"*3\r\n$3\r\nabc\r\n*2\r\n$4\r\n\xe2\x82\xacx\r\n$1\r\nz\r\n$-1\r\n:7\r\n"[..];
        let (kept, count) = strings(&mut from, 2, 2).expect("a reply");
        let kept: Vec<_> = kept.iter().map(|e| (&e.bytes[..], e.length, e.is_cut())).collect();
        assert_eq!(kept, [(&b"ab"[..], 3, true), (b"", 4, true)]);
        assert_eq!((count, from), (3, &b":7\r\n"[..]));
    }
}
