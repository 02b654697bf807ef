//! Redis replies as JSON, written as they arrive: nothing here holds a value whole.
//!
//! Two things about a value must be known before its first byte of JSON is written: whether all
//! names of a hash are UTF-8 (else it becomes an array), and whether a long string is (else it
//! becomes base64). So there are two passes over a reply. [`survey`] reads it once to learn that;
//! [`render`] writes it. A short reply is held in memory for both; for a long one the command is
//! sent twice, and `render` fails when the second reply contradicts the survey.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};
use serde_json::ser::{Formatter, PrettyFormatter};

use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};

/// A string up to this length is held while it is looked at; a longer one is written in pieces, in
/// the form that the survey found.
const SHORT_STRING_BYTES: u64 = 16 * 1024;

/// Why a value could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The reply could not be read.
    #[error(transparent)]
    Reply(#[from] resp::Error),
    /// The client's side could not be written.
    #[error(transparent)]
    Sink(#[from] io::Error),
    /// The value is no longer what the survey saw.
    #[error("the value changed while it was read")]
    Changed,
}

/// What must be known of a value before it is written.
#[derive(Debug)]
pub struct Survey {
    names_are_text: bool,
    /// For each string longer than [`SHORT_STRING_BYTES`], in order, whether it is UTF-8.
    long_is_text: Vec<bool>,
    /// Equal for equal values; the order of sets and hashes, which differs between servers, does
    /// not count.
    pub digest: u64,
    /// Whether it was a null or had no elements. Only a stream can be empty: there is no (longer
    /// any) such value of any other type.
    pub is_empty: bool,
}

/// Reads a reply of `kind`'s command to its end.
pub fn survey(kind: ValueType, from: &mut impl BufRead) -> Result<Survey, resp::Error> {
    let mut survey =
        Survey { names_are_text: true, long_is_text: Vec::new(), digest: 0, is_empty: false };
    let mut hasher = DefaultHasher::new();
    match kind {
        ValueType::String => survey.is_empty = !survey.string(from, &mut hasher, false)?,
        ValueType::Hash | ValueType::Set => {
            let length = reply::array(from)?;
            let entries = if kind == ValueType::Hash { pairs(length)? } else { length };
            let mut sum = 0_u64;
            for _ in 0..entries {
                let mut entry = DefaultHasher::new();
                survey.string(from, &mut entry, kind == ValueType::Hash)?;
                if kind == ValueType::Hash {
                    survey.string(from, &mut entry, false)?;
                }
                sum = sum.wrapping_add(entry.finish());
            }
            (length, sum).hash(&mut hasher);
            survey.is_empty = length == 0;
        }
        ValueType::List | ValueType::Zset => {
            let length = reply::array(from)?;
            if kind == ValueType::Zset {
                pairs(length)?;
            }
            for _ in 0..length {
                survey.string(from, &mut hasher, false)?;
            }
            survey.is_empty = length == 0;
        }
        ValueType::Stream => {
            let length = reply::array(from)?;
            for _ in 0..length {
                stream_entry(from)?;
                survey.string(from, &mut hasher, false)?;
                for _ in 0..pairs(reply::array(from)?)? {
                    survey.string(from, &mut hasher, false)?;
                    survey.string(from, &mut hasher, false)?;
                }
                hasher.write_u8(0);
            }
            survey.is_empty = length == 0;
        }
    }
    (kind as u8).hash(&mut hasher);
    survey.digest = hasher.finish();
    Ok(survey)
}

impl Survey {
    /// Takes one string; false when it is null.
    fn string(
        &mut self,
        from: &mut impl BufRead,
        hasher: &mut DefaultHasher,
        is_name: bool,
    ) -> Result<bool, resp::Error> {
        let Some(length) = reply::bulk(from)? else { return Ok(false) };
        let is_long = length > SHORT_STRING_BYTES;
        let mut text = Utf8::default();
        let mut is_text = true;
        length.hash(hasher);
        reply::payload(from, length, |piece| {
            hasher.write(piece);
            if (is_name || is_long) && is_text {
                is_text = text.push(piece, |_| Ok(())).is_ok();
            }
            Ok::<_, resp::Error>(())
        })?;
        is_text &= text.is_whole();
        if is_name {
            self.names_are_text &= is_text;
        }
        if is_long {
            self.long_is_text.push(is_text);
        }
        Ok(true)
    }
}

/// How many pairs an array of this length is. Were the last element of an odd one left unread, it
/// would be taken for the next reply.
fn pairs(length: u64) -> Result<u64, resp::Error> {
    match length % 2 {
        0 => Ok(length / 2),
        _ => Err(resp::Error::Protocol("an array of pairs was expected")),
    }
}

/// The header of one `[id, [name, value, …]]` of a stream.
fn stream_entry(from: &mut impl BufRead) -> Result<(), resp::Error> {
    match reply::array(from)? {
        2 => Ok(()),
        _ => Err(resp::Error::Protocol("a stream entry of two parts was expected")),
    }
}

/// Writes a reply of `kind`'s command as JSON.
pub fn render<W: Write>(
    kind: ValueType,
    from: &mut impl BufRead,
    survey: &Survey,
    out: &mut JsonWriter<W>,
) -> Result<(), RenderError> {
    let may_be_empty = survey.is_empty;
    let long_is_text = survey.long_is_text.iter();
    let mut value = Value { from, out, may_be_empty, long_is_text, string: Vec::new() };
    match kind {
        ValueType::String => value.string(),
        ValueType::Hash if survey.names_are_text => value.hash_as_object(),
        ValueType::Hash => value.hash_as_array(),
        ValueType::List | ValueType::Set => value.strings(),
        ValueType::Zset => value.members(),
        ValueType::Stream => value.entries(),
    }
}

struct Value<'a, R, W> {
    from: &'a mut R,
    out: &'a mut JsonWriter<W>,
    may_be_empty: bool,
    long_is_text: std::slice::Iter<'a, bool>,
    /// Reused for each short string.
    string: Vec<u8>,
}

impl<R: BufRead, W: Write> Value<'_, R, W> {
    /// The number of elements. What was not empty and is now has most likely been deleted.
    fn length(&mut self) -> Result<u64, RenderError> {
        match reply::array(self.from)? {
            0 if !self.may_be_empty => Err(RenderError::Changed),
            length => Ok(length),
        }
    }

    fn hash_as_object(&mut self) -> Result<(), RenderError> {
        let length = self.length()?;
        self.out.begin_object()?;
        for _ in 0..pairs(length)? {
            self.out.begin_key()?;
            if !self.string_or_base64(false)? {
                return Err(RenderError::Changed);
            }
            self.out.end_key()?;
            self.string()?;
            self.out.end_value()?;
        }
        Ok(self.out.end_object()?)
    }

    fn hash_as_array(&mut self) -> Result<(), RenderError> {
        let length = self.length()?;
        let mut names_are_text = true;
        self.out.begin_array()?;
        for _ in 0..pairs(length)? {
            self.out.begin_item()?;
            self.out.begin_object()?;
            self.out.key("field")?;
            names_are_text &= self.string_or_base64(true)?;
            self.out.end_value()?;
            self.out.key("value")?;
            self.string()?;
            self.out.end_value()?;
            self.out.end_object()?;
            self.out.end_item()?;
        }
        if names_are_text {
            return Err(RenderError::Changed);
        }
        Ok(self.out.end_array()?)
    }

    /// An array of strings, of the reply's own length.
    fn strings(&mut self) -> Result<(), RenderError> {
        let length = self.length()?;
        self.out.begin_array()?;
        for _ in 0..length {
            self.out.begin_item()?;
            self.string()?;
            self.out.end_item()?;
        }
        Ok(self.out.end_array()?)
    }

    fn members(&mut self) -> Result<(), RenderError> {
        let length = self.length()?;
        self.out.begin_array()?;
        for _ in 0..pairs(length)? {
            self.out.begin_item()?;
            self.out.begin_object()?;
            self.out.key("member")?;
            self.string()?;
            self.out.end_value()?;
            self.out.key("score")?;
            let score = reply::bytes(self.from, SHORT_STRING_BYTES)?;
            self.out.number_or_text(&score)?;
            self.out.end_value()?;
            self.out.end_object()?;
            self.out.end_item()?;
        }
        Ok(self.out.end_array()?)
    }

    fn entries(&mut self) -> Result<(), RenderError> {
        let length = self.length()?;
        self.out.begin_array()?;
        for _ in 0..length {
            stream_entry(self.from)?;
            self.out.begin_item()?;
            self.out.begin_object()?;
            self.out.key("id")?;
            self.string()?;
            self.out.end_value()?;
            self.out.key("fields")?;
            self.field_pairs()?;
            self.out.end_value()?;
            self.out.end_object()?;
            self.out.end_item()?;
        }
        Ok(self.out.end_array()?)
    }

    fn field_pairs(&mut self) -> Result<(), RenderError> {
        let length = reply::array(self.from)?;
        self.out.begin_array()?;
        for _ in 0..pairs(length)? {
            self.out.begin_item()?;
            self.out.begin_array()?;
            for _ in 0..2 {
                self.out.begin_item()?;
                self.string()?;
                self.out.end_item()?;
            }
            self.out.end_array()?;
            self.out.end_item()?;
        }
        Ok(self.out.end_array()?)
    }

    fn string(&mut self) -> Result<(), RenderError> {
        self.string_or_base64(true).map(|_is_text| ())
    }

    /// Writes one string; where it is not UTF-8, as base64 if that is allowed here, else not at
    /// all. Whether it is UTF-8.
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
            Ok(text) => out.text(text)?,
            Err(_) if base64_allowed => out.base64(string)?,
            Err(_) => {}
        }
        Ok(text.is_ok())
    }

    fn long_text(&mut self, length: u64) -> Result<(), RenderError> {
        let Self { from, out, .. } = self;
        let mut text = Utf8::default();
        out.begin_text()?;
        reply::payload(*from, length, |piece| {
            text.push(piece, |fragment| out.text_fragment(fragment))
        })?;
        if !text.is_whole() {
            return Err(RenderError::Changed);
        }
        Ok(out.end_text()?)
    }

    fn long_base64(&mut self, length: u64) -> Result<(), RenderError> {
        let Self { from, out, .. } = self;
        let mut text = Utf8::default();
        let mut is_text = true;
        out.begin_object()?;
        out.key("base64")?;
        out.begin_text()?;
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
        out.end_text()?;
        out.end_value()?;
        Ok(out.end_object()?)
    }
}

/// Cuts a stream of bytes into pieces of valid UTF-8, wherever the stream itself was cut.
#[derive(Default)]
struct Utf8 {
    /// The beginning of a character whose rest has not arrived: at most three bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    fn push(
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
    fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

/// A short string for a document that `serde` writes: as it is where it is UTF-8, else as
/// `{"base64": "…"}`.
#[derive(Debug)]
pub struct TextOrBase64<'a>(pub &'a [u8]);

impl Serialize for TextOrBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", BASE64_STANDARD.encode(self.0))]),
        }
    }
}

/// Writes JSON, indented by two spaces, piece by piece.
///
/// The layout and the escapes are `serde_json`'s; only the order of the calls is ours.
pub struct JsonWriter<W> {
    out: W,
    layout: PrettyFormatter<'static>,
    /// Whether nothing has been written yet at this level.
    first: bool,
    /// Reused for the escapes of each fragment.
    escaped: Vec<u8>,
}

impl<W: Write> JsonWriter<W> {
    /// A writer at the beginning of a document.
    pub fn new(out: W) -> Self {
        Self { out, layout: PrettyFormatter::new(), first: true, escaped: Vec::new() }
    }

    /// Ends the document with a line feed, as files and terminals like it.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(b"\n")
    }

    /// `[`
    pub fn begin_array(&mut self) -> io::Result<()> {
        self.first = true;
        self.layout.begin_array(&mut self.out)
    }

    /// Before each element of an array.
    pub fn begin_item(&mut self) -> io::Result<()> {
        let first = std::mem::replace(&mut self.first, false);
        self.layout.begin_array_value(&mut self.out, first)
    }

    /// Behind each element of an array.
    pub fn end_item(&mut self) -> io::Result<()> {
        self.layout.end_array_value(&mut self.out)
    }

    /// `]`
    pub fn end_array(&mut self) -> io::Result<()> {
        self.first = false;
        self.layout.end_array(&mut self.out)
    }

    /// `{`
    pub fn begin_object(&mut self) -> io::Result<()> {
        self.first = true;
        self.layout.begin_object(&mut self.out)
    }

    /// `"name":`, after which a value and [`end_value`](Self::end_value) follow.
    pub fn key(&mut self, name: &str) -> io::Result<()> {
        self.begin_key()?;
        self.text(name)?;
        self.end_key()
    }

    /// Before a name that is written in another way than by [`key`](Self::key).
    pub fn begin_key(&mut self) -> io::Result<()> {
        let first = std::mem::replace(&mut self.first, false);
        self.layout.begin_object_key(&mut self.out, first)
    }

    /// Behind such a name.
    pub fn end_key(&mut self) -> io::Result<()> {
        self.layout.end_object_key(&mut self.out)?;
        self.layout.begin_object_value(&mut self.out)
    }

    /// Behind the value of each name.
    pub fn end_value(&mut self) -> io::Result<()> {
        self.layout.end_object_value(&mut self.out)
    }

    /// `}`
    pub fn end_object(&mut self) -> io::Result<()> {
        self.first = false;
        self.layout.end_object(&mut self.out)
    }

    /// A string, with what must be escaped escaped.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        Ok(serde_json::to_writer(&mut self.out, text)?)
    }

    /// A string as it is where it is UTF-8, else `{"base64": "…"}`.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.base64(bytes),
        }
    }

    /// `null`
    pub fn null(&mut self) -> io::Result<()> {
        self.layout.write_null(&mut self.out)
    }

    /// The digits that Redis sent where they are a JSON number, else (`inf`) as a string.
    pub fn number_or_text(&mut self, digits: &[u8]) -> io::Result<()> {
        match serde_json::from_slice::<serde_json::Number>(digits) {
            Ok(_) => self.out.write_all(digits),
            Err(_) => self.bytes(digits),
        }
    }

    fn base64(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.begin_object()?;
        self.key("base64")?;
        self.text(&BASE64_STANDARD.encode(bytes))?;
        self.end_value()?;
        self.end_object()
    }

    fn begin_text(&mut self) -> io::Result<()> {
        self.layout.begin_string(&mut self.out)
    }

    fn text_fragment(&mut self, fragment: &str) -> io::Result<()> {
        self.escaped.clear();
        serde_json::to_writer(&mut self.escaped, fragment)?;
        let quoted = self.escaped.len();
        self.out.write_all(&self.escaped[1..quoted - 1])
    }

    fn end_text(&mut self) -> io::Result<()> {
        self.layout.end_string(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bulk(bytes: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
    }

    fn array(parts: &[Vec<u8>]) -> Vec<u8> {
        [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat()
    }

    fn bulks(strings: &[&[u8]]) -> Vec<u8> {
        array(&strings.iter().map(|bytes| bulk(bytes)).collect::<Vec<_>>())
    }

    fn rendered(kind: ValueType, reply: &[u8]) -> String {
        let survey = survey(kind, &mut &reply[..]).expect("a reply");
        let mut json = Vec::new();
        // Small pieces, so that every string is cut somewhere.
        let mut from = io::BufReader::with_capacity(3, reply);
        render(kind, &mut from, &survey, &mut JsonWriter::new(&mut json)).expect("JSON");
        String::from_utf8(json).expect("UTF-8")
    }

    #[test]
    fn a_name_without_a_value_is_an_error_and_not_left_to_the_next_reply() {
        let odd = bulks(&[b"a"]);
        let stream = array(&[array(&[bulk(b"1-0"), odd.clone()])]);
        let whole = |kind, reply: &[u8]| survey(kind, &mut &*reply).expect("a reply");
        for (kind, reply, before) in [
            (ValueType::Hash, &odd, whole(ValueType::Hash, &bulks(&[b"a", b"1"]))),
            (ValueType::Hash, &odd, whole(ValueType::Hash, &bulks(&[b"\xff", b"1"]))),
            (ValueType::Zset, &odd, whole(ValueType::Zset, &bulks(&[b"a", b"1"]))),
            (ValueType::Stream, &stream, whole(ValueType::Stream, &array(&[]))),
        ] {
            let surveyed = survey(kind, &mut &reply[..]);
            assert!(matches!(surveyed, Err(resp::Error::Protocol(_))), "{surveyed:?}");
            let json = &mut JsonWriter::new(io::sink());
            let rendered = render(kind, &mut &reply[..], &before, json);
            assert!(matches!(rendered, Err(RenderError::Reply(_))), "{rendered:?}");
        }
    }

    fn value(kind: ValueType, reply: &[u8]) -> serde_json::Value {
        serde_json::from_str(&rendered(kind, reply)).expect("valid JSON")
    }

    #[test]
    fn each_type_has_its_form() {
        assert_eq!(value(ValueType::String, &bulk("a\"\\\u{1}é".as_bytes())), json!("a\"\\\u{1}é"));
        assert_eq!(
            value(ValueType::Hash, &bulks(&[b"b", b"1", b"a", b""])),
            json!({"b": "1", "a": ""})
        );
        assert_eq!(value(ValueType::List, &bulks(&[b"x", b"x"])), json!(["x", "x"]));
        assert_eq!(value(ValueType::Set, &bulks(&[])), json!([]));
        let zset = bulks(&[b"m", b"1.5", b"n", b"inf", b"o", b"1e+20"]);
        assert_eq!(
            rendered(ValueType::Zset, &zset).replace(['\n', ' '], ""),
            r#"[{"member":"m","score":1.5},{"member":"n","score":"inf"},{"member":"o","score":1e+20}]"#
        );
        let entry = array(&[bulk(b"1-0"), bulks(&[b"f", b"1", b"f", b"2"])]);
        assert_eq!(
            value(ValueType::Stream, &array(&[entry])),
            json!([{"id": "1-0", "fields": [["f", "1"], ["f", "2"]]}])
        );
    }

    #[test]
    fn the_layout_is_that_of_serde_json() {
        let text = rendered(ValueType::Hash, &bulks(&[b"a", b"1", b"b", b"2"]));
        assert_eq!(text, "{\n  \"a\": \"1\",\n  \"b\": \"2\"\n}");
    }

    #[test]
    fn what_is_not_utf8_is_base64_and_its_object_an_array() {
        assert_eq!(value(ValueType::String, &bulk(b"\xff")), json!({"base64": "/w=="}));
        assert_eq!(
            value(ValueType::Hash, &bulks(&[b"a", b"\xff"])),
            json!({"a": {"base64": "/w=="}})
        );
        assert_eq!(
            value(ValueType::Hash, &bulks(&[b"a", b"1", b"\xff", b"2"])),
            json!([{"field": "a", "value": "1"}, {"field": {"base64": "/w=="}, "value": "2"}])
        );
    }

    #[test]
    fn long_strings_are_written_in_pieces_and_in_the_right_form() {
        let text = "é€😀\n".repeat(4000);
        assert_eq!(value(ValueType::String, &bulk(text.as_bytes())), json!(text));
        let broken_at_the_end = [text.as_bytes(), b"\xe2\x82"].concat();
        let expected = { BASE64_STANDARD.encode(&broken_at_the_end) };
        assert_eq!(
            value(ValueType::List, &bulks(&[b"a", &broken_at_the_end, text.as_bytes()])),
            json!(["a", {"base64": expected}, text])
        );
    }

    #[test]
    fn a_value_that_contradicts_its_survey_is_never_written_as_if_it_were_whole() {
        let long = "a".repeat(20_000).into_bytes();
        let long_binary = [&long[..], b"\xff"].concat();
        for (kind, first, second) in [
            (ValueType::String, bulk(&long), bulk(&long_binary)),
            (ValueType::String, bulk(&long_binary), bulk(&long)),
            (ValueType::String, bulk(b"short"), bulk(&long)),
            (ValueType::Hash, bulks(&[b"a", b"1"]), bulks(&[b"\xff", b"1"])),
            (ValueType::Hash, bulks(&[b"\xff", b"1"]), bulks(&[b"a", b"1"])),
            (ValueType::Hash, bulks(&[b"a", b"1"]), bulks(&[])),
            (ValueType::List, bulks(&[b"a"]), bulks(&[])),
            (ValueType::String, bulk(b"a"), b"$-1\r\n".to_vec()),
        ] {
            let survey = survey(kind, &mut &first[..]).expect("a reply");
            let result = render(kind, &mut &second[..], &survey, &mut JsonWriter::new(io::sink()));
            assert!(matches!(result, Err(RenderError::Changed)), "{result:?}");
        }
    }

    #[test]
    fn the_digest_ignores_the_order_of_sets_and_hashes_only() {
        let digest = |kind, reply: Vec<u8>| survey(kind, &mut &reply[..]).expect("reply").digest;
        let hash = |fields: &[&[u8]]| digest(ValueType::Hash, bulks(fields));
        assert_eq!(hash(&[b"a", b"1", b"b", b"2"]), hash(&[b"b", b"2", b"a", b"1"]));
        assert_ne!(hash(&[b"a", b"1", b"b", b"2"]), hash(&[b"a", b"2", b"b", b"1"]));
        let set = |members: &[&[u8]]| digest(ValueType::Set, bulks(members));
        assert_eq!(set(&[b"a", b"b"]), set(&[b"b", b"a"]));
        assert_ne!(set(&[b"ab", b""]), set(&[b"a", b"b"]));
        let list = |items: &[&[u8]]| digest(ValueType::List, bulks(items));
        assert_ne!(list(&[b"a", b"b"]), list(&[b"b", b"a"]));
        assert_ne!(list(&[b"ab", b"c"]), list(&[b"a", b"bc"]));
    }
}
