use super::{Error, MAX_ARRAY_LENGTH, MAX_BULK_BYTES, MAX_LINE_BYTES, parse_integer, parse_length};

/// Finds the end of one reply or push (RESP2 or RESP3) in a stream of bytes, however they are cut
/// into pieces.
///
/// Nested frames need no stack: it is enough to count the frames that are still to come.
#[derive(Debug)]
pub struct Framer {
    frames_left: u64,
    /// Bytes of a string, its CRLF included, that are still to come.
    payload_left: u64,
    /// Beginning of a line whose end has not arrived.
    line: Vec<u8>,
    kind: Option<u8>,
}

impl Framer {
    /// Creates a framer for one reply.
    pub fn new() -> Self {
        Self { frames_left: 1, payload_left: 0, line: Vec::new(), kind: None }
    }

    /// Whether the reply is complete.
    pub fn is_done(&self) -> bool {
        self.frames_left == 0 && self.payload_left == 0
    }

    /// Returns the first byte of the reply, once its first line is whole: `-` and `!` are errors, `>` is
    /// a push. Attributes before the reply do not count.
    pub fn kind(&self) -> Option<u8> {
        self.kind
    }

    /// Returns how many bytes are still to come of a string within the reply, by its length; the reply is at least
    /// as much longer.
    pub fn announced_bytes(&self) -> u64 {
        self.payload_left
    }

    /// Takes the next bytes of the stream, and returns how many of them belong to the reply.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            let rest = &bytes[used..];
            used += match self.payload_left {
                0 if self.line.is_empty() => match whole_bulk(rest) {
                    Some(length) => self.take_whole_bulk(length),
                    None => self.feed_line(rest)?,
                },
                0 => self.feed_line(rest)?,
                _ => self.feed_payload(rest)?,
            };
        }
        Ok(used)
    }

    fn take_whole_bulk(&mut self, length: usize) -> usize {
        if self.frames_left == 1 {
            self.kind = self.kind.or(Some(b'$'));
        }
        self.frames_left -= 1;
        length
    }

    fn feed_payload(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let taken = self.payload_left.min(bytes.len() as u64);
        let (left, payload) = (self.payload_left, &bytes[..taken as usize]);
        // The last two bytes are CRLF, in whatever pieces they arrive.
        let is_ended = [(2, b'\r'), (1, b'\n')].into_iter().all(|(from_end, expected)| {
            let at = left.checked_sub(from_end).and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| payload.get(at)).is_none_or(|&byte| byte == expected)
        });
        if !is_ended {
            return Err(Error::Protocol("a string without CRLF"));
        }
        self.payload_left -= taken;
        Ok(taken as usize)
    }

    fn feed_line(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let newline = bytes.iter().position(|&byte| byte == b'\n');
        let taken = newline.map_or(bytes.len(), |at| at + 1);
        if self.line.len() + taken > MAX_LINE_BYTES {
            return Err(Error::Protocol("a line longer than 64 KiB"));
        }
        let is_whole = newline.is_some();
        if is_whole && self.line.is_empty() {
            self.end_line(&bytes[..taken])?;
            return Ok(taken);
        }
        self.line.extend_from_slice(&bytes[..taken]);
        if is_whole {
            let line = std::mem::take(&mut self.line);
            self.end_line(&line)?;
        }
        Ok(taken)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Error> {
        let text = line.strip_suffix(b"\r\n").ok_or(Error::Protocol("a line without CRLF"))?;
        let (&kind, rest) = text.split_first().ok_or(Error::Protocol("an empty line"))?;
        // While frames of an attribute are still to come, more than one is.
        if self.frames_left == 1 && kind != b'|' {
            self.kind = self.kind.or(Some(kind));
        }
        // An attribute does not count as a frame: the frame that it belongs to follows.
        self.frames_left -= u64::from(kind != b'|');
        match kind {
            b'+' | b'-' => Ok(()),
            b':' => parse_integer(rest).map(|_| ()),
            b'_' | b'#' | b',' | b'(' if is_scalar(kind, rest) => Ok(()),
            b'_' | b'#' | b',' | b'(' => Err(Error::Protocol("a value that does not fit its type")),
            b'$' => self.expect_payload(parse_length(rest, MAX_BULK_BYTES)?),
            b'!' | b'=' => self.expect_payload(Some(length(rest, MAX_BULK_BYTES)?)),
            b'*' => self.expect_frames(parse_length(rest, MAX_ARRAY_LENGTH)?.unwrap_or(0)),
            b'~' | b'>' => self.expect_frames(length(rest, MAX_ARRAY_LENGTH)?),
            b'%' | b'|' => self.expect_frames(2 * length(rest, MAX_ARRAY_LENGTH)?),
            _ => Err(Error::Protocol("an unknown type of reply")),
        }
    }

    /// Expects a string of this length; after a null (`None`) nothing follows.
    fn expect_payload(&mut self, length: Option<u64>) -> Result<(), Error> {
        self.payload_left = length.map_or(0, |length| length + 2);
        Ok(())
    }

    /// Expects this many more frames.
    fn expect_frames(&mut self, count: u64) -> Result<(), Error> {
        let sum = self.frames_left.checked_add(count);
        self.frames_left = sum.ok_or(Error::Protocol("too many elements"))?;
        Ok(())
    }
}

/// Returns the length of the short bulk string that `bytes` begin with, if it is whole and valid.
/// This is the fast path: most frames are short strings.
fn whole_bulk(bytes: &[u8]) -> Option<usize> {
    let (length, begin) = match *bytes {
        [b'$', ones @ b'0'..=b'9', b'\r', b'\n', ..] => ((ones - b'0').into(), 4),
        [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (usize::from(tens - b'0') * 10 + usize::from(ones - b'0'), 5)
        }
        _ => return None,
    };
    let end: usize = begin + length;
    (bytes.get(end..end + 2)? == b"\r\n").then_some(end + 2)
}

/// Whether this is a null, a boolean, a double or a big number.
pub(super) fn is_scalar(kind: u8, text: &[u8]) -> bool {
    match kind {
        b'_' => text.is_empty(),
        b'#' => matches!(text, b"t" | b"f"),
        b',' => std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok()),
        _ => {
            let digits = text.strip_prefix(b"-").unwrap_or(text);
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }
    }
}

/// Reads the length of a frame that can't be null.
fn length(digits: &[u8], max: u64) -> Result<u64, Error> {
    parse_length(digits, max)?.ok_or(Error::Protocol("a length out of range"))
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "framer_properties.rs"]
mod properties;

#[cfg(test)]
#[path = "framer_tests.rs"]
mod tests;
