//! UTF-8 in a stream of bytes.

use std::io;

use super::RenderError;

/// Cuts a stream of bytes into pieces of valid UTF-8, wherever the stream itself was cut.
#[derive(Default)]
pub(super) struct Utf8 {
    /// Beginning of a character whose rest has not arrived: at most three bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    /// Passes the valid UTF-8 in the next bytes to `each`; fails when the stream is not UTF-8.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), RenderError> {
        while !self.begun.is_empty() {
            let Some((&next, rest)) = bytes.split_first() else { return Ok(()) };
            self.begun.push(next);
            bytes = rest;
            match std::str::from_utf8(&self.begun) {
                Ok(character) => {
                    each(character)?;
                    self.begun.clear();
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(RenderError::Changed),
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => each(text)?,
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                if error.error_len().is_some() {
                    return Err(RenderError::Changed);
                }
                each(std::str::from_utf8(valid).unwrap_or_default())?;
                self.begun.extend_from_slice(rest);
            }
        }
        Ok(())
    }

    /// Whether the stream may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}
