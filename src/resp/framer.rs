use super::{Error, MAX_ARRAY_LENGTH, MAX_BULK_BYTES, MAX_LINE_BYTES, parse_length};

/// Finds the end of one reply in a stream of bytes, however they are cut into pieces.
///
/// Nested arrays need no stack: it is enough to count the frames that are still to come.
#[derive(Debug)]
pub struct Framer {
    frames_left: u64,
    /// Payload bytes of a bulk string, with its CRLF, that are still to come.
    bulk_left: u64,
    /// The line that is being read: its first bytes are enough for a length.
    line: Vec<u8>,
}

impl Framer {
    /// For one reply.
    pub fn new() -> Self {
        Self { frames_left: 1, bulk_left: 0, line: Vec::new() }
    }

    /// Whether the reply is complete.
    pub fn is_done(&self) -> bool {
        self.frames_left == 0 && self.bulk_left == 0
    }

    /// Takes the next bytes of the stream; returns how many of them belong to the reply.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            let rest = &bytes[used..];
            used += if self.bulk_left > 0 { self.feed_bulk(rest) } else { self.feed_line(rest)? };
        }
        Ok(used)
    }

    fn feed_bulk(&mut self, bytes: &[u8]) -> usize {
        let taken = self.bulk_left.min(bytes.len() as u64);
        self.bulk_left -= taken;
        taken as usize
    }

    fn feed_line(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let newline = bytes.iter().position(|&byte| byte == b'\n');
        let taken = newline.map_or(bytes.len(), |at| at + 1);
        self.line.extend_from_slice(&bytes[..taken]);
        if self.line.len() > MAX_LINE_BYTES {
            return Err(Error::Protocol("a line longer than 64 KiB"));
        }
        if newline.is_some() {
            self.end_line()?;
            self.line.clear();
        }
        Ok(taken)
    }

    fn end_line(&mut self) -> Result<(), Error> {
        let Some((kind, rest)) = self.line.split_first() else { return Ok(()) };
        let digits = rest.strip_suffix(b"\r\n").ok_or(Error::Protocol("a line without CRLF"))?;
        self.frames_left -= 1;
        match kind {
            b'+' | b'-' | b':' => {}
            b'$' => {
                self.bulk_left = parse_length(digits, MAX_BULK_BYTES)?.map_or(0, |n| n + 2);
            }
            b'*' => {
                let length = parse_length(digits, MAX_ARRAY_LENGTH)?.unwrap_or(0);
                self.frames_left = self
                    .frames_left
                    .checked_add(length)
                    .ok_or(Error::Protocol("too many elements"))?;
            }
            _ => return Err(Error::Protocol("an unknown type of reply")),
        }
        Ok(())
    }
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: [&[u8]; 8] = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":42\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*-1\r\n",
        b"*2\r\n*2\r\n$1\r\na\r\n*0\r\n*1\r\n:7\r\n",
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
    fn what_is_no_reply_is_refused() {
        for garbage in [
            &b"HTTP/1.1 200\r\n"[..],
            b"$x\r\n",
            b"$-2\r\n",
            b"*99999999999\r\n",
            b"+no carriage return\n",
            b"\r\n",
            b"\n",
        ] {
            assert!(Framer::new().feed(garbage).is_err(), "{garbage:?}");
        }
        assert!(Framer::new().feed(&vec![b'+'; MAX_LINE_BYTES + 1]).is_err());
    }
}
