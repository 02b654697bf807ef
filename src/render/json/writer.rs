//! Writes JSON piece by piece.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};
use serde_json::ser::{Formatter, PrettyFormatter};

/// Writes JSON piece by piece, indented by two spaces.
///
/// `serde_json` makes the layout and the escapes; the caller sees to the order of the calls.
pub struct JsonWriter<W> {
    pub(super) out: W,
    layout: PrettyFormatter<'static>,
    /// Whether nothing has been written at this level.
    first: bool,
    /// Reused for the escapes of each fragment.
    escaped: Vec<u8>,
}

impl<W: Write> JsonWriter<W> {
    /// Begins a document.
    pub fn new(out: W) -> Self {
        Self { out, layout: PrettyFormatter::new(), first: true, escaped: Vec::new() }
    }

    /// Ends the document with a line feed.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(b"\n")
    }

    /// Writes `[`.
    pub(crate) fn begin_array(&mut self) -> io::Result<()> {
        self.first = true;
        self.layout.begin_array(&mut self.out)
    }

    /// Begins an element of an array.
    pub(crate) fn begin_item(&mut self) -> io::Result<()> {
        let first = std::mem::replace(&mut self.first, false);
        self.layout.begin_array_value(&mut self.out, first)
    }

    /// Ends an element of an array.
    pub(crate) fn end_item(&mut self) -> io::Result<()> {
        self.layout.end_array_value(&mut self.out)
    }

    /// Writes `]`.
    pub(crate) fn end_array(&mut self) -> io::Result<()> {
        self.first = false;
        self.layout.end_array(&mut self.out)
    }

    /// Writes `{`.
    pub(crate) fn begin_object(&mut self) -> io::Result<()> {
        self.first = true;
        self.layout.begin_object(&mut self.out)
    }

    /// Writes `"name":`, after which a value and [`end_value`](Self::end_value) must follow.
    pub(crate) fn key(&mut self, name: &str) -> io::Result<()> {
        self.begin_key()?;
        self.text(name)?;
        self.end_key()
    }

    /// Begins a name that is written otherwise than by [`key`](Self::key).
    pub(crate) fn begin_key(&mut self) -> io::Result<()> {
        let first = std::mem::replace(&mut self.first, false);
        self.layout.begin_object_key(&mut self.out, first)
    }

    /// Ends such a name.
    pub(crate) fn end_key(&mut self) -> io::Result<()> {
        self.layout.end_object_key(&mut self.out)?;
        self.layout.begin_object_value(&mut self.out)
    }

    /// Ends the value of a name.
    pub(crate) fn end_value(&mut self) -> io::Result<()> {
        self.layout.end_object_value(&mut self.out)
    }

    /// Writes `}`.
    pub(crate) fn end_object(&mut self) -> io::Result<()> {
        self.first = false;
        self.layout.end_object(&mut self.out)
    }

    /// Writes a string with the escapes it needs.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        Ok(serde_json::to_writer(&mut self.out, text)?)
    }

    /// Writes a string: as it is where it is UTF-8, else as `{"base64": "…"}`.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.base64(bytes),
        }
    }

    /// Writes `null`.
    pub(crate) fn null(&mut self) -> io::Result<()> {
        self.layout.write_null(&mut self.out)
    }

    /// Writes the digits that Redis sent: as a number where JSON has it, else (`inf`) as a string.
    pub(crate) fn number_or_text(&mut self, digits: &[u8]) -> io::Result<()> {
        match serde_json::from_slice::<serde_json::Number>(digits) {
            Ok(_) => self.out.write_all(digits),
            Err(_) => self.bytes(digits),
        }
    }

    pub(super) fn base64(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.begin_object()?;
        self.key("base64")?;
        self.text(&BASE64_STANDARD.encode(bytes))?;
        self.end_value()?;
        self.end_object()
    }

    pub(super) fn begin_text(&mut self) -> io::Result<()> {
        self.layout.begin_string(&mut self.out)
    }

    pub(super) fn text_fragment(&mut self, fragment: &str) -> io::Result<()> {
        self.escaped.clear();
        serde_json::to_writer(&mut self.escaped, fragment)?;
        let quoted = self.escaped.len();
        self.out.write_all(&self.escaped[1..quoted - 1])
    }

    pub(super) fn end_text(&mut self) -> io::Result<()> {
        self.layout.end_string(&mut self.out)
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
