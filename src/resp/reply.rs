//! Reads a reply (RESP2) piece by piece from any `BufRead`.

use std::io::{self, BufRead, Read};

use super::{Error, MAX_ARRAY_LENGTH, MAX_BULK_BYTES, MAX_LINE_BYTES, parse_integer, parse_length};

/// Most digits of a cursor.
pub(crate) const MAX_CURSOR_BYTES: u64 = 20;

/// The first line of a frame. An error reply is no header but an [`Error::Redis`].
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// `+`: a status, without CRLF.
    Simple(String),
    /// `:`: an integer.
    Integer(i64),
    /// `$`: a string of this many bytes follows, then CRLF.
    Bulk(u64),
    /// `*`: an array of this many frames follows.
    Array(u64),
    /// `$-1` or `*-1`: no value.
    Null,
}

/// Reads the first line of a frame.
pub fn header(from: &mut impl BufRead) -> Result<Header, Error> {
    match from.fill_buf() {
        Ok(available) => {
            let line_end = available.iter().take(MAX_LINE_BYTES).position(|&byte| byte == b'\n');
            if let Some(line_end) = line_end {
                let header = line(&available[..=line_end]);
                from.consume(line_end + 1);
                return header;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error.into()),
    }
    header_in_pieces(from)
}

fn header_in_pieces(from: &mut impl BufRead) -> Result<Header, Error> {
    let mut bytes = Vec::new();
    let limit = MAX_LINE_BYTES as u64;
    from.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
    if !bytes.ends_with(b"\n") && (bytes.len() as u64) < limit {
        return Err(closed());
    }
    line(&bytes)
}

/// Parses a header from its line, which may have been cut off at the limit.
fn line(line: &[u8]) -> Result<Header, Error> {
    let Some(text) = line.strip_suffix(b"\r\n") else {
        return Err(Error::Protocol("a line too long or without CRLF"));
    };
    let Some((kind, rest)) = text.split_first() else {
        return Err(Error::Protocol("an empty line"));
    };
    let length = |max| parse_length(rest, max);
    match kind {
        b'+' => Ok(Header::Simple(String::from_utf8_lossy(rest).into_owned())),
        b'-' => Err(Error::Redis(String::from_utf8_lossy(rest).into_owned())),
        b':' => Ok(Header::Integer(parse_integer(rest)?)),
        b'$' => Ok(length(MAX_BULK_BYTES)?.map_or(Header::Null, Header::Bulk)),
        b'*' => Ok(length(MAX_ARRAY_LENGTH)?.map_or(Header::Null, Header::Array)),
        _ => Err(Error::Protocol("an unknown type of reply")),
    }
}

/// Returns the error if a whole reply is one.
pub fn no_error(mut reply: &[u8]) -> Result<(), Error> {
    match reply.first() {
        Some(b'-') => header(&mut reply).map(|_| ()),
        _ => Ok(()),
    }
}

/// Returns the text of a whole reply that is a bulk string or, in RESP3, a verbatim string.
pub fn string(reply: &[u8]) -> Option<&[u8]> {
    let begin = reply.iter().position(|&byte| byte == b'\n')? + 1;
    let text = reply[begin..].strip_suffix(b"\r\n")?;
    match reply.first()? {
        b'$' => Some(text),
        // Three letters for the format and a colon come first.
        b'=' => text.get(4..),
        _ => None,
    }
}

/// Reads a status, such as the reply of `TYPE`.
pub fn simple(from: &mut impl BufRead) -> Result<String, Error> {
    match header(from)? {
        Header::Simple(text) => Ok(text),
        _ => Err(Error::Protocol("a status was expected")),
    }
}

/// Reads an integer, or `None` for null.
pub fn integer(from: &mut impl BufRead) -> Result<Option<i64>, Error> {
    match header(from)? {
        Header::Integer(number) => Ok(Some(number)),
        Header::Null => Ok(None),
        _ => Err(Error::Protocol("an integer was expected")),
    }
}

/// Reads the header of an array: its number of elements, 0 for null.
pub fn array(from: &mut impl BufRead) -> Result<u64, Error> {
    match header(from)? {
        Header::Array(length) => Ok(length),
        Header::Null => Ok(0),
        _ => Err(Error::Protocol("an array was expected")),
    }
}

/// Reads the beginning of a SCAN's reply: its cursor. The array of what was found follows.
pub fn scan_cursor(from: &mut impl BufRead) -> Result<u64, Error> {
    if array(from)? != 2 {
        return Err(Error::Protocol("a SCAN of two parts was expected"));
    }
    let cursor = String::from_utf8_lossy(&bytes(from, MAX_CURSOR_BYTES)?).parse();
    cursor.map_err(|_| Error::Protocol("a SCAN without a cursor"))
}

/// Reads the header of a bulk string: its length in bytes, `None` for null.
pub fn bulk(from: &mut impl BufRead) -> Result<Option<u64>, Error> {
    match header(from)? {
        Header::Bulk(length) => Ok(Some(length)),
        Header::Null => Ok(None),
        _ => Err(Error::Protocol("a bulk string was expected")),
    }
}

/// Reads a whole bulk string of at most `max` bytes.
pub fn bytes(from: &mut impl BufRead, max: u64) -> Result<Vec<u8>, Error> {
    let length = bulk(from)?.ok_or(Error::Protocol("a bulk string was expected"))?;
    if length > max {
        return Err(Error::TooLong);
    }
    rest(from, length)
}

/// Reads the `length` bytes after a bulk string's header into memory as they arrive.
pub fn rest(from: &mut impl BufRead, length: u64) -> Result<Vec<u8>, Error> {
    let mut value = Vec::new();
    payload(from, length, |piece| {
        value.extend_from_slice(piece);
        Ok::<_, Error>(())
    })?;
    Ok(value)
}

/// Passes the `length` bytes after a bulk string's header to `each` as they arrive, and takes the
/// CRLF that ends them.
pub fn payload<E: From<Error>>(
    from: &mut impl BufRead,
    length: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = length;
    while left > 0 {
        let available = from.fill_buf().map_err(Error::Io)?;
        if available.is_empty() {
            return Err(closed().into());
        }
        let taken = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        each(&available[..taken])?;
        from.consume(taken);
        left -= taken as u64;
    }
    let mut end = [0; 2];
    from.read_exact(&mut end).map_err(Error::Io)?;
    if &end != b"\r\n" {
        return Err(Error::Protocol("a string without CRLF").into());
    }
    Ok(())
}

/// Returns the error for a connection that ended within a reply.
fn closed() -> Error {
    Error::Io(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_piece_by_piece_whatever_the_size_of_the_pieces() {
        let reply = b"*3\r\n$5\r\na\r\nbc\r\n:-7\r\n$-1\r\n";
        for capacity in 1..reply.len() {
            let from = &mut io::BufReader::with_capacity(capacity, &reply[..]);
            assert_eq!(array(from).expect("array"), 3);
            assert_eq!(bytes(from, 5).expect("bulk"), b"a\r\nbc");
            assert_eq!(integer(from).expect("integer"), Some(-7));
            assert_eq!(bulk(from).expect("null"), None);
            assert!(matches!(header(from), Err(Error::Io(_))));
        }
    }

    #[test]
    fn a_reply_that_ends_early_or_is_none_is_an_error() {
        for broken in [&b"$5\r\nabc"[..], b"$2\r\nabXY", b"+OK", b"?\r\n", b"\r\n", b"$9\r\n"] {
            assert!(bytes(&mut &broken[..], 8).is_err(), "{broken:?}");
        }
        assert!(
            matches!(simple(&mut &b"-ERR no\r\n"[..]), Err(Error::Redis(text)) if text == "ERR no")
        );
    }
}
