//! Turns a whole reply in RESP3 into that of RESP2, as the server would have sent it.

use super::framer::is_scalar;
use super::{
    MAX_ARRAY_LENGTH, MAX_BULK_BYTES, MAX_LINE_BYTES, Protocol, parse_integer, parse_length, write,
};

/// Deepest nesting of arrays that is followed: that of GEOSEARCH's and XRANGE's replies is three, the reply itself counted.
const MAX_DEPTH: usize = 4;

/// How a command's reply in RESP3 differs from that in RESP2, beyond what its frames say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resp2Form {
    /// Each frame becomes another by its type, and a null becomes that of a bulk string.
    Frames,
    /// A null becomes that of an array: missing members in GEOPOS, XRANGE with COUNT 0, ZRANK with WITHSCORE.
    NullArrays,
    /// Members with scores are pairs within the array, and come one after the other in RESP2: ZRANGE with WITHSCORES.
    Pairs,
    /// The reply is a bulk string, a null or an error.
    Text,
}

/// Returns the reply as RESP2 has it. `None` if the bytes are not one whole reply, or if there is any doubt how a server
/// would send it.
///
/// ```
/// use redis_lb::resp::{Resp2Form, to_resp2};
///
/// let pairs = b"*1\r\n*2\r\n$1\r\na\r\n,1.5\r\n";
/// let flat = b"*2\r\n$1\r\na\r\n$3\r\n1.5\r\n";
/// assert_eq!(to_resp2(pairs, Resp2Form::Pairs), Some(flat.to_vec()));
/// ```
pub fn to_resp2(reply: &[u8], form: Resp2Form) -> Option<Vec<u8>> {
    let mut conversion = Conversion { rest: reply, form, out: Vec::with_capacity(reply.len()) };
    match (form, reply.first()?) {
        (_, b'-') => {
            let (kind, text) = conversion.line()?;
            conversion.copy(kind, text);
        }
        (Resp2Form::Text, b'$' | b'_') => conversion.frame(0)?,
        (Resp2Form::Text, _) => return None,
        (Resp2Form::Pairs, b'*') => conversion.pairs()?,
        _ => conversion.frame(0)?,
    }
    conversion.rest.is_empty().then_some(conversion.out)
}

struct Conversion<'a> {
    /// What is still to be converted.
    rest: &'a [u8],
    form: Resp2Form,
    out: Vec<u8>,
}

impl<'a> Conversion<'a> {
    /// Takes bytes up to the end of a line. Returns its first byte and the others, without the line end.
    fn line(&mut self) -> Option<(u8, &'a [u8])> {
        let rest = self.rest;
        let end = rest.iter().take(MAX_LINE_BYTES).position(|&byte| byte == b'\n')?;
        let (line, after) = rest.split_at_checked(end + 1)?;
        self.rest = after;
        let (kind, text) = line.strip_suffix(b"\r\n")?.split_first()?;
        (!text.contains(&b'\r')).then_some((*kind, text))
    }

    /// Takes the bytes of a string whose length is given, and its line end.
    fn payload(&mut self, length: &[u8]) -> Option<&'a [u8]> {
        let length = usize::try_from(length_of(length, MAX_BULK_BYTES)?).ok()?;
        let (payload, after) = self.rest.split_at_checked(length)?;
        self.rest = after.strip_prefix(b"\r\n")?;
        Some(payload)
    }

    /// Converts an array that may consist of pairs: either all of its elements are pairs, or none is an array.
    fn pairs(&mut self) -> Option<()> {
        let (_, length) = self.line()?;
        let length = length_of(length, MAX_ARRAY_LENGTH)?;
        if !self.rest.starts_with(b"*") {
            return self.array(length, MAX_DEPTH);
        }
        self.header(b'*', 2 * length);
        (0..length).try_for_each(|_| {
            self.rest = self.rest.strip_prefix(b"*2\r\n")?;
            self.frame(MAX_DEPTH)?;
            self.frame(MAX_DEPTH)
        })
    }

    /// Converts the next frame, which is an element of so many others, one within the other.
    fn frame(&mut self, depth: usize) -> Option<()> {
        let (kind, text) = self.line()?;
        match kind {
            b'+' => self.copy(kind, text),
            b':' if parse_integer(text).is_ok() => self.copy(kind, text),
            b'_' | b'#' | b',' | b'(' if is_scalar(kind, text) => self.scalar(kind, text),
            b'$' => {
                let payload = self.payload(text)?;
                write::bulk(&mut self.out, payload);
            }
            // Three letters for the format and a colon come first.
            b'=' => match self.payload(text)? {
                [_, _, _, b':', payload @ ..] => write::bulk(&mut self.out, payload),
                _ => return None,
            },
            b'*' | b'~' if depth < MAX_DEPTH => {
                self.array(length_of(text, MAX_ARRAY_LENGTH)?, depth + 1)?;
            }
            b'%' if depth < MAX_DEPTH => {
                self.array(2 * length_of(text, MAX_ARRAY_LENGTH)?, depth + 1)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// Converts so many frames, the elements of an array.
    fn array(&mut self, length: u64, depth: usize) -> Option<()> {
        self.header(b'*', length);
        (0..length).try_for_each(|_| self.frame(depth))
    }

    fn scalar(&mut self, kind: u8, text: &[u8]) {
        match (kind, text) {
            (b'_', _) if self.form == Resp2Form::NullArrays => {
                write::null_array(&mut self.out, Protocol::Resp2);
            }
            (b'_', _) => write::null(&mut self.out, Protocol::Resp2),
            (b'#', text) => write::integer(&mut self.out, i64::from(text == b"t")),
            _ => write::bulk(&mut self.out, text),
        }
    }

    fn header(&mut self, kind: u8, length: u64) {
        self.copy(kind, length.to_string().as_bytes());
    }

    fn copy(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Reads the length of a frame. RESP3 has a type of its own for null.
fn length_of(digits: &[u8], max: u64) -> Option<u64> {
    parse_length(digits, max).ok()?
}

#[cfg(test)]
#[path = "to_resp2_properties.rs"]
mod properties;

#[cfg(test)]
#[path = "to_resp2_tests.rs"]
mod tests;
