//! The Redis protocol (RESP2 and RESP3) as bytes and frames, without sockets.
//!
//! [`CommandParser`] finds a client's commands. [`Framer`] finds the end of a reply without decoding
//! it; the functions of [`reply`] read one (RESP2) piece by piece; [`to_resp2()`] makes RESP2 of RESP3. None of them holds a reply as a
//! tree of values, or allocates by a length that came over the wire. [`mod@write`] writes our own
//! replies, and [`command()`] builds our own commands.

#[cfg(test)]
mod arrival;
mod command;
mod framer;
mod parser;
pub mod reply;
mod to_resp2;
pub mod value_type;
pub mod write;

pub use command::{Command, CommandBuilder, ProtocolError, command};
pub use framer::Framer;
pub use parser::CommandParser;
pub use to_resp2::{Resp2Form, to_resp2};

/// Longest line of a reply: a status, an error, an integer or a length.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Most elements that one array of a reply may announce: Redis's own limit for a collection.
pub(crate) const MAX_ARRAY_LENGTH: u64 = u32::MAX as u64;

/// Longest bulk string that a reply may announce: the most that Redis can be configured to allow.
const MAX_BULK_BYTES: u64 = i64::MAX as u64;

/// The version of the protocol that a client speaks, as `HELLO` sets it. It changes replies only,
/// never commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The version that every connection begins with.
    Resp2,
    /// Adds maps, sets, doubles, pushes and more.
    Resp3,
}

impl Protocol {
    /// Returns its number in `HELLO`.
    pub fn version(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Error while a reply is read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed, timed out, or ended within the reply.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are no reply, or another kind of reply than the command has.
    #[error("sent something that is no Redis reply: {0}")]
    Protocol(&'static str),
    /// A string is longer than the caller allows.
    #[error("sent a string longer than expected")]
    TooLong,
    /// The reply is an error, with the text that Redis wrote.
    #[error("{0}")]
    Redis(String),
}

/// Parses a decimal number of 64 bits as Redis does (`string2ll`): no plus, no leading zero and no
/// minus zero.
fn decimal(digits: &[u8]) -> Option<i64> {
    match digits {
        b"0" => Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => {
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Parses the number of an integer line.
fn parse_integer(digits: &[u8]) -> Result<i64, Error> {
    decimal(digits).ok_or(Error::Protocol("an invalid number"))
}

/// Parses the length after a `$` or `*`: `None` for the null of RESP2 (-1).
fn parse_length(digits: &[u8], max: u64) -> Result<Option<u64>, Error> {
    match parse_integer(digits)? {
        -1 => Ok(None),
        length if length >= 0 && length as u64 <= max => Ok(Some(length as u64)),
        _ => Err(Error::Protocol("a length out of range")),
    }
}
