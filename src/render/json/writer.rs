//! Writes JSON piece by piece.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};

/// Writes JSON piece by piece, indented by two spaces.
///
/// `serde_json` makes the escapes; the caller sees to the order of the calls.
pub struct JsonWriter<W> {
    pub(super) out: W,
    /// Number of arrays and objects that are open.
    depth: usize,
    /// Whether nothing has been written at this level.
    is_empty: bool,
    /// Reused for the escapes of each fragment.
    escaped: Vec<u8>,
}

impl<W: Write> JsonWriter<W> {
    /// Begins a document.
    pub fn new(out: W) -> Self {
        Self { out, depth: 0, is_empty: true, escaped: Vec::new() }
    }

    /// Ends the document with a line feed.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(b"\n")
    }

    /// Begins an array or object with its bracket.
    pub(crate) fn begin(&mut self, bracket: &str) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        self.out.write_all(bracket.as_bytes())
    }

    /// Ends an array or object with its bracket.
    pub(crate) fn end(&mut self, bracket: &str) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::replace(&mut self.is_empty, false) {
            self.begin_line()?;
        }
        self.out.write_all(bracket.as_bytes())
    }

    /// Begins an element of an array, or the name of a member.
    pub(crate) fn begin_item(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.out.write_all(b",")?;
        }
        self.begin_line()
    }

    /// Writes the name of a member, after which its value must follow.
    pub(crate) fn key(&mut self, name: &str) -> io::Result<()> {
        self.begin_item()?;
        self.value(name)?;
        self.end_key()
    }

    /// Ends a name that was written otherwise than by [`key`](Self::key).
    pub(super) fn end_key(&mut self) -> io::Result<()> {
        self.out.write_all(b": ")
    }

    fn begin_line(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| self.out.write_all(b"  "))
    }

    /// Writes a string, a number or null.
    pub(crate) fn value(&mut self, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
        Ok(serde_json::to_writer(&mut self.out, value)?)
    }

    /// Writes a string: as it is where it is UTF-8, else as `{"base64": "…"}`.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.value(text),
            Err(_) => self.base64(bytes),
        }
    }

    /// Writes the digits that Redis sent: as a number where JSON has it, else (`inf`) as a string.
    pub(crate) fn number_or_text(&mut self, digits: &[u8]) -> io::Result<()> {
        match serde_json::from_slice::<serde_json::Number>(digits) {
            Ok(_) => self.out.write_all(digits),
            Err(_) => self.bytes(digits),
        }
    }

    pub(super) fn base64(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.begin("{")?;
        self.key("base64")?;
        self.value(&BASE64_STANDARD.encode(bytes))?;
        self.end("}")
    }

    /// Writes a piece of a string, whose quotes the caller writes.
    pub(super) fn text_fragment(&mut self, fragment: &str) -> io::Result<()> {
        self.escaped.clear();
        serde_json::to_writer(&mut self.escaped, fragment)?;
        let quoted = self.escaped.len();
        self.out.write_all(&self.escaped[1..quoted - 1])
    }
}

/// A short string for a document that `serde` writes: as it is where it is UTF-8, else as
/// `{"base64": "…"}`.
#[derive(Debug)]
pub(crate) struct TextOrBase64<'a>(pub(crate) &'a [u8]);

impl Serialize for TextOrBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", BASE64_STANDARD.encode(self.0))]),
        }
    }
}
