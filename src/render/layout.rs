//! JSON that stands in a value, laid out for people: indented, with colours. Its tokens stay as they are, so that no
//! digit of a number is lost, and names keep their order.

use std::fmt::{self, Display, Formatter};

use serde::de::IgnoredAny;

use super::html::text;

/// Deepest JSON that is laid out: each level indents its lines further.
const MAX_DEPTH: usize = 64;

/// Why a text is not laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no array and no object in JSON.
    NotJson,
    /// It is nested more deeply than anybody could read.
    TooDeep,
}

/// An array or object in JSON, shown as HTML with two spaces for each level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a>(&'a str);

impl<'a> Layout<'a> {
    /// Checks that the text is an array or object in JSON. Takes a time that grows with its length alone.
    ///
    /// # Errors
    /// Says why it can't be laid out.
    pub(crate) fn of(text: &'a [u8]) -> Result<Self, Refusal> {
        if !begins_json(text) {
            return Err(Refusal::NotJson);
        }
        let text = std::str::from_utf8(text).map_err(|_| Refusal::NotJson)?;
        if depth(text) > MAX_DEPTH {
            return Err(Refusal::TooDeep);
        }
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| Refusal::NotJson)?;
        Ok(Self(text))
    }
}

/// Whether the text begins as an array or object does.
pub(crate) fn begins_json(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Returns how deeply the brackets of a text are nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for token in Tokens(text) {
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

impl Display for Layout<'_> {
    fn fmt(&self, out: &mut Formatter) -> fmt::Result {
        let mut depth = 0;
        let mut tokens = Tokens(self.0).peekable();
        while let Some(token) = tokens.next() {
            match (token, tokens.peek().copied()) {
                ("{", Some("}")) | ("[", Some("]")) => {
                    tokens.next();
                    out.write_str(if token == "{" { "{}" } else { "[]" })?;
                }
                ("{" | "[", _) => {
                    depth += 1;
                    out.write_str(token)?;
                    begin_line(depth, out)?;
                }
                ("}" | "]", _) => {
                    depth -= 1;
                    begin_line(depth, out)?;
                    out.write_str(token)?;
                }
                (",", _) => {
                    out.write_str(token)?;
                    begin_line(depth, out)?;
                }
                (":", _) => out.write_str(": ")?,
                (_, next) => {
                    let class = match token.starts_with('"') {
                        true if next == Some(":") => "name",
                        true => "text",
                        false => "literal",
                    };
                    write!(out, "<span class=\"{class}\">{}</span>", text(token))?;
                }
            }
        }
        Ok(())
    }
}

fn begin_line(depth: usize, out: &mut Formatter) -> fmt::Result {
    write!(out, "\n{:width$}", "", width = 2 * depth)
}

/// The tokens of JSON: strings with their quotes, numbers and words, brackets, commas and colons. Any other text has
/// tokens as well, so that its brackets can be counted.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_ascii_start();
        let end = match text.as_bytes().first()? {
            b'"' => end_of_string(text.as_bytes()),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => text.find(is_delimiter).unwrap_or(text.len()),
        };
        let (token, rest) = text.split_at(end);
        self.0 = rest;
        Some(token)
    }
}

fn is_delimiter(c: char) -> bool {
    c.is_ascii_whitespace() || matches!(c, '{' | '}' | '[' | ']' | ',' | ':' | '"')
}

/// Returns where a string ends that begins with its quote.
fn end_of_string(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A layout as a browser shows it.
    fn shown(json: &str) -> String {
        let html = Layout::of(json.as_bytes()).expect("JSON").to_string();
        let mut shown = html.replace("</span>", "");
        for class in ["name", "text", "literal"] {
            shown = shown.replace(&format!("<span class=\"{class}\">"), "");
        }
        shown.replace("&quot;", "\"").replace("&amp;", "&")
    }

    #[test]
    fn nested_json_gets_a_line_for_each_part_and_keeps_its_tokens() {
        let json = r#" {"b":1.50,"a":[1e400,{},[ ],"x, \"}{\\"],"b":{"c":null}} "#;
        let expected = "{\n  \"b\": 1.50,\n  \"a\": [\n    1e400,\n    {},\n    [],\n    \
                        \"x, \\\"}{\\\\\"\n  ],\n  \"b\": {\n    \"c\": null\n  }\n}";
        assert_eq!(shown(json), expected);
    }

    #[test]
    fn names_texts_and_numbers_are_told_apart_and_nothing_is_markup() {
        let html = Layout::of(br#"{"<b>":"<i>&","n":-1}"#).expect("JSON").to_string();
        assert!(html.contains("<span class=\"name\">&quot;&lt;b&gt;&quot;</span>: "), "{html}");
        assert!(html.contains("<span class=\"text\">&quot;&lt;i&gt;&amp;&quot;</span>"), "{html}");
        assert!(html.contains("<span class=\"literal\">-1</span>"), "{html}");
    }

    #[test]
    fn what_is_no_array_or_object_is_left_as_it_is() {
        let not_json: [&[u8]; 10] =
            [b"", b"1", b"\"a\"", b"{", b"{a}", b"[1,]", b"[1] x", b"[\"\xff\"]", b"[1]]", b"{\"a"];
        for text in not_json {
            assert_eq!(Layout::of(text).err(), Some(Refusal::NotJson), "{}", text.escape_ascii());
        }
        let nested = |depth| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(Layout::of(nested(MAX_DEPTH).as_bytes()).is_ok());
        for deep in [nested(MAX_DEPTH + 1), "[".repeat(100_000), nested(100_000)] {
            assert_eq!(Layout::of(deep.as_bytes()).err(), Some(Refusal::TooDeep));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_laid_out_is_the_same_json(text in r#"[\[\]{}",:\\a1 ]{0,12}"#, names: Vec<String>) {
            let _ = Layout::of(text.as_bytes());
            let json = serde_json::json!({ "names": names, "nested": [text, { "a": null }] });
            let json = json.to_string();
            let tokens: String = Tokens(&json).collect();
            prop_assert_eq!(&tokens, &json);
            prop_assert!(Layout::of(json.as_bytes()).is_ok());
        }
    }
}
