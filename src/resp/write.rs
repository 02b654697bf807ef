//! Writes our own replies, for a client of either version of the protocol.
//!
//! A RESP2 client gets what Redis sends it in place of the frames that only RESP3 has.

use std::io::Write;

use super::Protocol;

/// Writes a status: `+text`. The text must contain no CR or LF.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes an error: `-text`. The text begins with its code (`ERR …`). As in Redis, a CR or LF in it
/// becomes a space, so that it can quote a client's bytes.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'-');
    out.extend(text.as_ref().iter().map(|&byte| match byte {
        b'\r' | b'\n' => b' ',
        byte => byte,
    }));
    out.extend_from_slice(b"\r\n");
}

/// Writes an integer.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    number_line(out, ':', number);
}

/// Writes a bulk string: any bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    number_line(out, '$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes that there is no value, where a string could be.
pub(crate) fn null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Writes that there is no value, where an array could be.
pub(crate) fn null_array(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Writes the header of an array; its `length` frames must follow.
pub fn array(out: &mut Vec<u8>, length: usize) {
    number_line(out, '*', length);
}

/// Writes the header of a map; its keys and values, `2 * pairs` frames, must follow in turn.
pub(crate) fn map(out: &mut Vec<u8>, pairs: usize, protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => number_line(out, '*', 2 * pairs),
        Protocol::Resp3 => number_line(out, '%', pairs),
    }
}

/// Writes the header of a push, which answers no command; its `length` frames must follow.
pub(crate) fn push(out: &mut Vec<u8>, length: usize, protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => number_line(out, '*', length),
        Protocol::Resp3 => number_line(out, '>', length),
    }
}

/// Writes text for people, such as `INFO`'s: a bulk string, in RESP3 a verbatim string.
pub(crate) fn text(out: &mut Vec<u8>, bytes: &[u8], protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => bulk(out, bytes),
        Protocol::Resp3 => {
            // The length includes the format.
            let format = b"txt:";
            number_line(out, '=', format.len() + bytes.len());
            out.extend_from_slice(format);
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn number_line(out: &mut Vec<u8>, kind: char, number: impl std::fmt::Display) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{kind}{number}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Resp2, Resp3};

    #[test]
    fn frames_are_written_as_each_version_has_them() {
        let mut out = Vec::new();
        simple(&mut out, "OK");
        integer(&mut out, i64::MIN);
        bulk(&mut out, b"a\r\n\0");
        array(&mut out, 0);
        assert_eq!(out, b"+OK\r\n:-9223372036854775808\r\n$4\r\na\r\n\0\r\n*0\r\n");

        for (protocol, expected) in [
            (Resp2, &b"$-1\r\n*-1\r\n*4\r\n*3\r\n$2\r\nhi\r\n"[..]),
            (Resp3, b"_\r\n_\r\n%2\r\n>3\r\n=6\r\ntxt:hi\r\n"),
        ] {
            let mut out = Vec::new();
            null(&mut out, protocol);
            null_array(&mut out, protocol);
            map(&mut out, 2, protocol);
            push(&mut out, 3, protocol);
            text(&mut out, b"hi", protocol);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn an_error_stays_one_line() {
        let mut out = Vec::new();
        error(&mut out, "ERR unknown command 'a\r\n+OK'");
        error(&mut out, b"ERR \xff");
        assert_eq!(out, b"-ERR unknown command 'a  +OK'\r\n-ERR \xff\r\n");
    }
}
