use super::{Error, MAX_ARRAY_LENGTH, MAX_BULK_BYTES, MAX_LINE_BYTES, parse_integer, parse_length};

/// Finds the end of one reply (or push) in a stream of bytes, however they are cut into pieces; in
/// RESP2 or RESP3.
///
/// Nested frames need no stack: it is enough to count the frames that are still to come.
#[derive(Debug)]
pub struct Framer {
    frames_left: u64,
    /// Payload bytes of a string, with its CRLF, that are still to come.
    payload_left: u64,
    /// The first bytes of a line whose end has not come yet.
    line: Vec<u8>,
    kind: Option<u8>,
}

impl Framer {
    /// For one reply.
    pub fn new() -> Self {
        Self { frames_left: 1, payload_left: 0, line: Vec::new(), kind: None }
    }

    /// Whether the reply is complete.
    pub fn is_done(&self) -> bool {
        self.frames_left == 0 && self.payload_left == 0
    }

    /// The first byte of the reply itself, not of attributes before it, once its first line is
    /// whole: `-` and `!` are errors, `>` is a push.
    pub fn kind(&self) -> Option<u8> {
        self.kind
    }

    /// Takes the next bytes of the stream; returns how many of them belong to the reply.
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
        // The last two bytes are CRLF, in whatever pieces they come.
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
        // While the frames of an attribute are to come, there is more than one.
        if self.frames_left == 1 && kind != b'|' {
            self.kind = self.kind.or(Some(kind));
        }
        // An attribute is no frame of its own: the one that it belongs to follows.
        self.frames_left -= u64::from(kind != b'|');
        match kind {
            b'+' | b'-' => Ok(()),
            b':' => parse_integer(rest).map(|_| ()),
            b'_' | b'#' | b',' | b'(' if is_scalar(kind, rest) => Ok(()),
            b'_' | b'#' | b',' | b'(' => Err(Error::Protocol("a value that is none of its type")),
            b'$' => self.expect_payload(parse_length(rest, MAX_BULK_BYTES)?),
            b'!' | b'=' => self.expect_payload(Some(length(rest, MAX_BULK_BYTES)?)),
            b'*' => self.expect_frames(parse_length(rest, MAX_ARRAY_LENGTH)?.unwrap_or(0)),
            b'~' | b'>' => self.expect_frames(length(rest, MAX_ARRAY_LENGTH)?),
            b'%' | b'|' => self.expect_frames(2 * length(rest, MAX_ARRAY_LENGTH)?),
            _ => Err(Error::Protocol("an unknown type of reply")),
        }
    }

    /// A string of this length follows; `None` is a null, behind which nothing does.
    fn expect_payload(&mut self, length: Option<u64>) -> Result<(), Error> {
        self.payload_left = length.map_or(0, |length| length + 2);
        Ok(())
    }

    /// So many more frames follow.
    fn expect_frames(&mut self, count: u64) -> Result<(), Error> {
        let sum = self.frames_left.checked_add(count);
        self.frames_left = sum.ok_or(Error::Protocol("too many elements"))?;
        Ok(())
    }
}

/// The length of the short bulk string that `bytes` begin with, if it is whole and right: most of all
/// frames are such, and this is the quick way past them.
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
fn is_scalar(kind: u8, text: &[u8]) -> bool {
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
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: [&[u8]; 24] = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":42\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*-1\r\n",
        b"*2\r\n*2\r\n$1\r\na\r\n*0\r\n*1\r\n:7\r\n",
        b"_\r\n",
        b",-1.5e300\r\n",
        b"#t\r\n",
        b"(3492890328409238509324850943850943825024385\r\n",
        b"!5\r\nERR x\r\n",
        b"=7\r\ntxt:a\r\n\r\n",
        b"%0\r\n",
        b"%2\r\n+a\r\n%1\r\n+b\r\n_\r\n$1\r\nc\r\n~2\r\n:1\r\n#f\r\n",
        b"~3\r\n,inf\r\n*0\r\n~1\r\n+a\r\n",
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
        b">0\r\n",
        b"|0\r\n-ERR no\r\n",
        b"|1\r\n+ttl\r\n:3600\r\n!2\r\nno\r\n",
        b"|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n*1\r\n+d\r\n%1\r\n+k\r\n+v\r\n",
        b"|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n~1\r\n+e\r\n",
        b"*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n|1\r\n+c\r\n+d\r\n:2\r\n",
    ];

    #[test]
    fn any_split_of_the_bytes_finds_the_same_end() {
        for reply in REPLIES {
            let stream = [reply, b"+next\r\n"].concat();
            for cut in 0..reply.len() {
                let mut framer = Framer::new();
                assert_eq!(framer.feed(&stream[..cut]).expect("valid"), cut);
                assert!(!framer.is_done());
                assert_eq!(framer.feed(&stream[cut..]).expect("valid"), reply.len() - cut);
                assert!(framer.is_done());
            }
        }
    }

    #[test]
    fn byte_by_byte_is_the_same() {
        for reply in REPLIES {
            let mut framer = Framer::new();
            for byte in reply {
                assert!(!framer.is_done());
                assert_eq!(framer.feed(&[*byte]).expect("valid"), 1);
            }
            assert!(framer.is_done(), "{reply:?}");
        }
    }

    #[test]
    fn the_kind_is_that_of_the_reply_and_not_of_attributes_before_it() {
        for (reply, kind) in [
            (&b"-ERR no\r\n"[..], b'-'),
            (b"$5\r\n", b'$'),
            (b"*2\r\n+a\r\n-ERR within\r\n", b'*'),
            (b">1\r\n+a\r\n", b'>'),
            (b"|0\r\n!2\r\n", b'!'),
            (b"|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n*1\r\n+d\r\n%0\r\n", b'%'),
        ] {
            let mut framer = Framer::new();
            framer.feed(reply).expect("valid");
            assert_eq!(framer.kind(), Some(kind), "{reply:?}");
        }
        for unknown in [&b""[..], b"-ERR", b"|1\r\n-a\r\n-b\r\n", b"|0\r\n|0\r\n"] {
            let mut framer = Framer::new();
            framer.feed(unknown).expect("valid");
            assert_eq!(framer.kind(), None, "{unknown:?}");
        }
    }

    #[test]
    fn no_number_of_nested_frames_overflows() {
        let mut framer = Framer::new();
        for _ in 0..100_000 {
            framer.feed(b"%4294967295\r\n|4294967295\r\n").expect("valid");
        }
        assert!(!framer.is_done());
        framer.frames_left = u64::MAX - 1;
        assert!(framer.feed(b"*4294967295\r\n").is_err());
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for garbage in [
            &b"HTTP/1.1 200\r\n"[..],
            b"$x\r\n",
            b"$2\r\nabXY",
            b"$2\r\nab\r\r",
            b"$0\r\n\n\n",
            b"=4\r\ntxt:\xff\n",
            b"$-2\r\n",
            b"$+5\r\n",
            b"$05\r\n",
            b":12x\r\n",
            b":\r\n",
            b":-\r\n",
            b"_x\r\n",
            b"#x\r\n",
            b",zz\r\n",
            b"(-\r\n",
            b"*99999999999\r\n",
            b"+no carriage return\n",
            b"$?\r\n",
            b"*?\r\n",
            b"!-1\r\n",
            b"=-1\r\n",
            b"~-1\r\n",
            b">-1\r\n",
            b"%-1\r\n",
            b"|-1\r\n",
            b"%4294967296\r\n",
            b";0\r\n",
            b".\r\n",
            b"\r\n",
            b"\n",
        ] {
            assert!(Framer::new().feed(garbage).is_err(), "{garbage:?}");
        }
        assert!(Framer::new().feed(&vec![b'+'; MAX_LINE_BYTES + 1]).is_err());
    }
}
