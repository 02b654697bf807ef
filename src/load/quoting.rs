//! Checks that the quotes of a CSV file are where they may be (RFC 4180). The `csv` crate reads on over those that are not,
//! and would give values that nobody has written.

/// The byte order mark that may begin a file.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// Looks at the bytes of a file, piece by piece, for a quote that is wrong.
#[derive(Debug)]
pub(super) struct Quoting {
    delimiter: u8,
    state: State,
    /// Number of bytes that were looked at, but for those of a piece that is being looked at.
    looked_at: u64,
    /// The line of the next byte, from 1.
    line: u64,
    /// The line in which the last quoted value begins.
    quoted_line: u64,
    /// The first mistake.
    mistake: Option<Mistake>,
}

/// A quote that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mistake {
    /// Where it is, in bytes from the start of the file.
    pub at: u64,
    /// Its line, from 1.
    pub line: u64,
    /// The line in which its value begins.
    pub value_line: u64,
    /// What is wrong, and what to do about it.
    pub text: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first byte of a value.
    Start,
    /// After spaces at the beginning of a value.
    Spaces,
    /// Within a value that is not quoted.
    Plain,
    /// Within a quoted value.
    Quoted,
    /// After a quote within a quoted value: its end, or the first of two that stand for one.
    AfterQuote,
}

impl Quoting {
    /// Of a file with this delimiter, from its first byte on.
    pub fn new(delimiter: u8) -> Self {
        let (state, looked_at, line, quoted_line, mistake) = (State::Start, 0, 1, 1, None);
        Self { delimiter, state, looked_at, line, quoted_line, mistake }
    }

    /// Looks at the next bytes.
    pub fn look_at(&mut self, piece: &[u8]) {
        for (at, &byte) in (self.looked_at..).zip(piece) {
            if at < BOM.len() as u64 && byte == BOM[at as usize] && self.state == State::Start {
                continue;
            }
            self.step(byte, at);
            self.line += u64::from(byte == b'\n');
        }
        self.looked_at += piece.len() as u64;
    }

    /// Returns the first mistake, if it is before a byte of the file.
    pub fn mistake_before(&self, end: u64) -> Option<Mistake> {
        self.mistake.filter(|mistake| mistake.at < end)
    }

    fn step(&mut self, byte: u8, at: u64) {
        let is_end = byte == self.delimiter || matches!(byte, b'\r' | b'\n');
        self.state = match (self.state, byte) {
            (State::Quoted, b'"') => State::AfterQuote,
            (State::Quoted, _) | (State::AfterQuote, b'"') => State::Quoted,
            (_, _) if is_end => State::Start,
            (State::Start, b'"') => {
                self.quoted_line = self.line;
                State::Quoted
            }
            (State::Start | State::Spaces, b' ') => State::Spaces,
            (State::Spaces, b'"') => {
                let text = "there is a space before the quote that begins a value; take it away";
                self.note(at, self.line, text)
            }
            (State::AfterQuote, _) => {
                let text = "there is text after the quote that ends a value; double a quote that is \
                            part of the value (\"\")";
                self.note(at, self.quoted_line, text)
            }
            (State::Start | State::Spaces | State::Plain, _) => State::Plain,
        };
    }

    /// Notes a mistake; what follows is read as a value without quotes.
    fn note(&mut self, at: u64, value_line: u64, text: &'static str) -> State {
        let line = self.line;
        self.mistake.get_or_insert(Mistake { at, line, value_line, text });
        State::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(text: &str, piece: usize) -> Option<(u64, u64)> {
        let mut quoting = Quoting::new(b',');
        text.as_bytes().chunks(piece).for_each(|piece| quoting.look_at(piece));
        quoting.mistake_before(u64::MAX).map(|mistake| (mistake.line, mistake.at))
    }

    #[test]
    fn a_quote_that_is_wrong_is_found_with_its_line_whatever_pieces_bytes_come_in() {
        for (text, expected) in [
            ("id,name\n1,\"a\"\n", None),
            ("id,name\r\n1,\"a\"\r\n", None),
            ("\u{feff}\"id\",name\n", None),
            ("1,\"a \"\"b\"\" c\"\n", None),
            ("1,\"\"\n", None),
            ("1,\"\"\"\"\n", None),
            ("1,\"two\nlines, one comma\"\n", None),
            ("1, plain ,5\" disc\n", None),
            ("id,name\n1,\"a\"b\n", Some((2, 13))),
            ("1,\"a\" ,b\n", Some((1, 5))),
            ("1,\"two\nlines\"x\n", Some((2, 13))),
            ("1, \"a\"\n", Some((1, 3))),
            ("1,\"a\"b\n2,\"c\"d\n", Some((1, 5))),
        ] {
            for piece in [1, 2, 3, text.len()] {
                assert_eq!(mistake(text, piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }
}
