//! The character between the values of a row: recognised by the header, or named by a flag.

use std::fmt;
use std::str::FromStr;

use csv::ByteRecord;

/// Bytes at the beginning of a file in which the header is looked for.
pub(super) const HEAD_BYTES: usize = 64 << 10;

/// The names of delimiters on the command line, and how they are called in messages: one, and many.
const NAMED: [(u8, &str, &str); 5] = [
    (b',', "comma", "commas"),
    (b';', "semicolon", "semicolons"),
    (b'\t', "tab", "tabs"),
    (b'|', "pipe", "pipes"),
    (b' ', "space", "spaces"),
];

/// How many of them are recognised, the likeliest first.
const RECOGNISED: usize = 4;

/// The character between the values of a row: one byte of ASCII that is no quote and ends no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(u8);

impl Delimiter {
    /// The comma, which need not be named.
    pub(super) const COMMA: Self = Self(b',');

    /// Returns its byte.
    pub(super) fn byte(self) -> u8 {
        self.0
    }

    /// Returns what one of them is called.
    pub(super) fn one(self) -> String {
        self.named().map_or_else(|| self.quoted(), |(_, one, _)| (*one).to_owned())
    }

    /// Recognises the delimiter by the beginning of a file: the one by which the header has a column `id` and, among
    /// equals, most columns. Without any it is the comma.
    pub(super) fn recognise(head: &[u8], id: &str) -> Self {
        let candidates = NAMED[..RECOGNISED].iter().rev().map(|(byte, ..)| Self(*byte));
        let best = candidates.max_by_key(|delimiter| {
            let header = delimiter.header(head);
            (header.iter().any(|name| name == id.as_bytes()), header.len())
        });
        best.unwrap_or(Self::COMMA)
    }

    /// Returns the header of a file, or as much of it as there is, by this delimiter.
    fn header(self, head: &[u8]) -> ByteRecord {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.0)
            .from_reader(head);
        let mut header = ByteRecord::new();
        // Nothing can fail in memory.
        let _ = reader.read_byte_record(&mut header);
        header
    }

    fn named(self) -> Option<&'static (u8, &'static str, &'static str)> {
        NAMED.iter().find(|(byte, ..)| *byte == self.0)
    }

    fn quoted(self) -> String {
        format!("'{}'", char::from(self.0).escape_default())
    }
}

/// As in "separated by commas".
impl fmt::Display for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.named() {
            Some((_, _, many)) => f.write_str(many),
            None => f.write_str(&self.quoted()),
        }
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_lowercase();
        let named = NAMED.iter().find(|(_, one, many)| name == *one || name == *many);
        let byte = match (named, text.as_bytes()) {
            (Some((byte, ..)), _) => *byte,
            (None, b"\\t") => b'\t',
            (None, [byte]) => *byte,
            _ => return Err(FORMS.to_owned()),
        };
        match byte {
            b'"' => {
                Err("a quote can't separate values, because values are quoted by it".to_owned())
            }
            b'\r' | b'\n' => Err("the end of a line separates rows".to_owned()),
            b'\t' | b' '..=b'~' => Ok(Self(byte)),
            _ => Err(FORMS.to_owned()),
        }
    }
}

/// What a delimiter may be, for errors.
const FORMS: &str =
    "write one character of ASCII in quotes, such as ';', or comma, semicolon, tab, pipe or space";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_recognised_by_the_header() {
        for (head, expected) in [
            ("id,name\n1,a;b;c\n", "commas"),
            ("id;name\n1;a,b,c\n", "semicolons"),
            ("id\tname\n", "tabs"),
            ("id|name\n", "pipes"),
            ("\u{feff}id;name, first\n", "semicolons"),
            ("\"id\";\"a,b,c,d\"\n", "semicolons"),
            ("id,\"a;b;c;d\"\n", "commas"),
            ("\r\n\r\nid;name\r\n", "semicolons"),
            ("id,a;b;c;d\n", "commas"),
            ("number;name;year\n", "semicolons"),
            ("id\n", "commas"),
            ("", "commas"),
        ] {
            let delimiter = Delimiter::recognise(head.as_bytes(), "id");
            assert_eq!(delimiter.to_string(), expected, "{head:?}");
        }
    }

    #[test]
    fn a_delimiter_is_one_character_or_its_name() {
        for (text, expected) in [
            (";", Some(b';')),
            ("semicolon", Some(b';')),
            ("Tab", Some(b'\t')),
            ("\\t", Some(b'\t')),
            ("\t", Some(b'\t')),
            ("pipes", Some(b'|')),
            ("^", Some(b'^')),
            ("", None),
            (";;", None),
            ("\"", None),
            ("\n", None),
            ("\u{1}", None),
            ("ä", None),
            ("dot", None),
        ] {
            assert_eq!(text.parse::<Delimiter>().ok().map(Delimiter::byte), expected, "{text:?}");
        }
    }
}
