//! Redis replies as JSON, written while they arrive, so that no value is held whole.
//!
//! Two facts about a value must be known before its first byte of JSON is written: whether all
//! names of a hash are UTF-8 (else it becomes an array), and whether a long string is (else it
//! becomes base64). So there are two passes over a reply. [`survey()`] reads it once to learn these
//! facts; [`render()`] writes it. A short reply is held in memory for both passes. For a long one the
//! command is sent twice, and `render` fails when the second reply contradicts the survey.

mod render;
mod survey;
mod writer;

use std::io::{self, BufRead};

use crate::resp::{self, reply};

pub use render::render;
pub use survey::{Survey, survey};
pub use writer::JsonWriter;
pub(crate) use writer::TextOrBase64;

/// A string up to this length is held while it is examined; a longer one is written in pieces, in
/// the form that the survey found.
const SHORT_STRING_BYTES: u64 = 16 * 1024;

/// Error while a value is written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The reply could not be read.
    #[error(transparent)]
    Reply(#[from] resp::Error),
    /// The JSON could not be written to the client.
    #[error(transparent)]
    Sink(#[from] io::Error),
    /// The value is no longer the one that the survey saw.
    #[error("the value changed while it was read")]
    Changed,
}

/// Returns the number of pairs in an array of this length, which must be even: an element left
/// unread would be taken for the next reply.
fn pairs(length: u64) -> Result<u64, resp::Error> {
    match length % 2 {
        0 => Ok(length / 2),
        _ => Err(resp::Error::Protocol("an array of pairs was expected")),
    }
}

/// Reads the header of one `[id, [name, value, …]]` of a stream.
fn stream_entry(from: &mut impl BufRead) -> Result<(), resp::Error> {
    match reply::array(from)? {
        2 => Ok(()),
        _ => Err(resp::Error::Protocol("a stream entry of two parts was expected")),
    }
}

/// Cuts a stream of bytes into pieces of valid UTF-8, wherever the stream itself was cut.
#[derive(Default)]
struct Utf8 {
    /// Beginning of a character whose rest has not arrived: at most three bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    /// Passes the valid UTF-8 in the next bytes to `each`; fails when the stream is not UTF-8.
    fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), RenderError> {
        let mut joined = std::mem::take(&mut self.begun);
        let bytes = match joined.is_empty() {
            true => bytes,
            false => {
                joined.extend_from_slice(bytes);
                &joined
            }
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => each(text)?,
            Err(error) if error.error_len().is_some() => return Err(RenderError::Changed),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                each(std::str::from_utf8(valid).unwrap_or_default())?;
                self.begun.extend_from_slice(rest);
            }
        }
        Ok(())
    }

    /// Whether the stream may end here.
    fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests;
