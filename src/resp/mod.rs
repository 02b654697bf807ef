//! The Redis protocol (RESP2 and RESP3) as bytes and frames; knows nothing of sockets.
//!
//! [`CommandParser`] finds a client's commands. [`Framer`] finds where a reply ends without looking
//! at what it says; the functions of [`reply`] read one (RESP2) piece by piece. None of them ever
//! holds a reply as a tree of values or allocates by a length that came over the wire. [`mod@write`]
//! writes the replies of our own, [`command()`] makes commands of our own.

#[cfg(test)]
mod arrival;
pub mod command;
mod encode;
mod framer;
pub mod reply;
pub mod value_type;
pub mod write;

pub use command::{Command, CommandParser, ProtocolError};
pub use encode::{CommandBuilder, command};
pub use framer::Framer;

/// The longest line (status, error, integer, or the length of what follows) in a reply.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The most elements that one array of a reply may announce: Redis's own limit for a collection.
pub const MAX_ARRAY_LENGTH: u64 = u32::MAX as u64;

/// The longest bulk string that a reply may announce: what Redis can be configured to allow.
pub const MAX_BULK_BYTES: u64 = i64::MAX as u64;

/// The version of the protocol that a client speaks: what `HELLO` sets. It changes replies alone,
/// never commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Spoken until a client asks for more.
    Resp2,
    /// Adds maps, sets, doubles, pushes and more.
    Resp3,
}

impl Protocol {
    /// The number that `HELLO` has for it.
    pub fn version(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Why a reply could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed, timed out, or ended within the reply.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are no reply, or not the kind of reply that the command has.
    #[error("sent something that is no Redis reply: {0}")]
    Protocol(&'static str),
    /// A string is longer than it may be here.
    #[error("sent a string longer than expected")]
    TooLong,
    /// The reply is an error; its text, as Redis wrote it.
    #[error("{0}")]
    Redis(String),
}

/// Reads the decimal number of a length or integer line.
fn parse_integer(digits: &[u8]) -> Result<i64, Error> {
    // Redis writes no sign but a minus, and no zeros in front.
    let is_plain = match digits {
        [b'0'] => true,
        [b'-', rest @ ..] => !rest.starts_with(b"0"),
        _ => !digits.starts_with(b"0") && !digits.starts_with(b"+"),
    };
    let number = if is_plain { decimal(digits) } else { None };
    number.ok_or(Error::Protocol("a number that is none"))
}

/// A decimal number of 64 bits, with a minus or without a sign; there may be zeros in front.
fn decimal(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // Below zero there is one number more.
    let negated = digits.iter().try_fold(0_i64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| number.checked_mul(10)?.checked_sub(digit.into()))?
    })?;
    if is_negative { Some(negated) } else { negated.checked_neg() }
}

/// Reads the length behind a `$` or `*`: `None` for the null of RESP2 (-1).
fn parse_length(digits: &[u8], max: u64) -> Result<Option<u64>, Error> {
    match parse_integer(digits)? {
        -1 => Ok(None),
        length if length >= 0 && length as u64 <= max => Ok(Some(length as u64)),
        _ => Err(Error::Protocol("a length out of range")),
    }
}
