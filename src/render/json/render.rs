//! The second pass over a reply: it is written as JSON.

use std::io::{BufRead, Write};

use base64::prelude::BASE64_STANDARD;

use super::{JsonWriter, RenderError, SHORT_STRING_BYTES, Survey, Utf8, pairs, stream_entry};
use crate::resp::reply;
use crate::resp::value_type::ValueType;

type Rendered = Result<(), RenderError>;

/// Writes the reply to a `kind`'s [`read_command`](ValueType::read_command) as JSON.
pub fn render<W: Write>(
    kind: ValueType,
    from: &mut impl BufRead,
    survey: &Survey,
    out: &mut JsonWriter<W>,
) -> Rendered {
    let may_be_empty = survey.is_empty;
    let long_is_text = survey.long_is_text.iter();
    let mut renderer = Renderer { from, out, may_be_empty, long_is_text, string: Vec::new() };
    match kind {
        ValueType::String => renderer.string(),
        ValueType::Hash if survey.names_are_text => renderer.hash_as_object(),
        ValueType::Hash => renderer.hash_as_array(),
        ValueType::List | ValueType::Set => renderer.strings(),
        ValueType::Zset => renderer.members(),
        ValueType::Stream => renderer.entries(),
    }
}

struct Renderer<'a, R, W> {
    from: &'a mut R,
    out: &'a mut JsonWriter<W>,
    may_be_empty: bool,
    long_is_text: std::slice::Iter<'a, bool>,
    /// Reused for each short string.
    string: Vec<u8>,
}

impl<R: BufRead, W: Write> Renderer<'_, R, W> {
    /// Reads the number of elements. A value that is suddenly empty was most likely deleted.
    fn length(&mut self) -> Result<u64, RenderError> {
        match reply::array(self.from)? {
            0 if !self.may_be_empty => Err(RenderError::Changed),
            length => Ok(length),
        }
    }

    fn hash_as_object(&mut self) -> Rendered {
        let length = self.length()?;
        self.out.begin("{")?;
        for _ in 0..pairs(length)? {
            self.out.begin_item()?;
            if !self.string_or_base64(false)? {
                return Err(RenderError::Changed);
            }
            self.out.end_key()?;
            self.string()?;
        }
        Ok(self.out.end("}")?)
    }

    fn hash_as_array(&mut self) -> Rendered {
        let count = pairs(self.length()?)?;
        let mut names_are_text = true;
        self.items(count, |it| {
            let name = |it: &mut Self| it.string_or_base64(true).map(|is| names_are_text &= is);
            it.object(["field", "value"], name, Self::string)
        })?;
        if names_are_text {
            return Err(RenderError::Changed);
        }
        Ok(self.out.end("]")?)
    }

    fn strings(&mut self) -> Rendered {
        let length = self.length()?;
        self.array(length, Self::string)
    }

    fn members(&mut self) -> Rendered {
        let count = pairs(self.length()?)?;
        self.array(count, |it| it.object(["member", "score"], Self::string, Self::score))
    }

    fn score(&mut self) -> Rendered {
        let score = reply::bytes(self.from, SHORT_STRING_BYTES)?;
        Ok(self.out.number_or_text(&score)?)
    }

    fn entries(&mut self) -> Rendered {
        let length = self.length()?;
        self.array(length, |it| {
            stream_entry(it.from)?;
            it.object(["id", "fields"], Self::string, Self::field_pairs)
        })
    }

    fn field_pairs(&mut self) -> Rendered {
        let count = pairs(reply::array(self.from)?)?;
        self.array(count, |it| it.array(2, Self::string))
    }

    fn array(&mut self, count: u64, item: impl FnMut(&mut Self) -> Rendered) -> Rendered {
        self.items(count, item)?;
        Ok(self.out.end("]")?)
    }

    /// Writes an array without its end.
    fn items(&mut self, count: u64, mut item: impl FnMut(&mut Self) -> Rendered) -> Rendered {
        self.out.begin("[")?;
        for _ in 0..count {
            self.out.begin_item()?;
            item(self)?;
        }
        Ok(())
    }

    /// Writes an object of two members with these names.
    fn object(
        &mut self,
        names: [&str; 2],
        first: impl FnOnce(&mut Self) -> Rendered,
        second: impl FnOnce(&mut Self) -> Rendered,
    ) -> Rendered {
        self.out.begin("{")?;
        self.out.key(names[0])?;
        first(self)?;
        self.out.key(names[1])?;
        second(self)?;
        Ok(self.out.end("}")?)
    }

    fn string(&mut self) -> Rendered {
        self.string_or_base64(true).map(|_is_text| ())
    }

    /// Writes one string and returns whether it is UTF-8. A string that is not is written as base64
    /// where that is allowed, else not at all.
    fn string_or_base64(&mut self, base64_allowed: bool) -> Result<bool, RenderError> {
        let length = reply::bulk(self.from)?.ok_or(RenderError::Changed)?;
        if length > SHORT_STRING_BYTES {
            return match self.long_is_text.next() {
                Some(true) => self.long_text(length).map(|()| true),
                Some(false) if base64_allowed => self.long_base64(length).map(|()| false),
                _ => Err(RenderError::Changed),
            };
        }
        let Self { from, out, string, .. } = self;
        string.clear();
        reply::payload(*from, length, |piece| {
            string.extend_from_slice(piece);
            Ok::<_, RenderError>(())
        })?;
        let text = std::str::from_utf8(string);
        match text {
            Ok(text) => out.value(text)?,
            Err(_) if base64_allowed => out.base64(string)?,
            Err(_) => {}
        }
        Ok(text.is_ok())
    }

    fn long_text(&mut self, length: u64) -> Rendered {
        let Self { from, out, .. } = self;
        let mut text = Utf8::default();
        out.out.write_all(b"\"")?;
        reply::payload(*from, length, |piece| {
            text.push(piece, |fragment| out.text_fragment(fragment))
        })?;
        if !text.is_whole() {
            return Err(RenderError::Changed);
        }
        Ok(out.out.write_all(b"\"")?)
    }

    fn long_base64(&mut self, length: u64) -> Rendered {
        let Self { from, out, .. } = self;
        let mut text = Utf8::default();
        let mut is_text = true;
        out.begin("{")?;
        out.key("base64")?;
        out.out.write_all(b"\"")?;
        let mut encoder = base64::write::EncoderWriter::new(&mut out.out, &BASE64_STANDARD);
        reply::payload(*from, length, |piece| {
            is_text = is_text && text.push(piece, |_| Ok(())).is_ok();
            encoder.write_all(piece).map_err(RenderError::Sink)
        })?;
        encoder.finish()?;
        drop(encoder);
        if is_text && text.is_whole() {
            return Err(RenderError::Changed);
        }
        out.out.write_all(b"\"")?;
        Ok(out.end("}")?)
    }
}
