//! Finds whole commands in a client's bytes, exactly where Redis finds them.
//!
//! What a client may do is decided by the arguments found here, and then the bytes go to a backend,
//! which looks for arguments in them once more. If the two ever disagreed, a client could hide a
//! write from us. Hence two rules: the grammar is that of Redis 7.0 (`processMultibulkBuffer`,
//! `processInlineBuffer` in networking.c, `sdssplitargs` in sds.c), and what goes on is in the
//! canonical form, about which no two parsers differ.
//!
//! The canonical form is `*N\r\n` and then, N times, `$L\r\n`, L bytes and `\r\n`.

use super::{decimal, write};

/// The longest inline command, and the longest line that holds a number, in bytes without its end:
/// Redis's `PROTO_INLINE_MAX_SIZE`. (Redis takes a longer one if its end came in the same read.)
pub const MAX_INLINE_BYTES: usize = 64 * 1024;

/// The most arguments of a command, its name included: Redis's limit until 6.2. (Since 7.0 it is
/// 2^31 - 1 for clients who gave their password.)
pub const MAX_ARGUMENTS: i64 = 1024 * 1024;

/// The most that a parser's `max_argument_bytes` can be: what Redis allows unless configured
/// otherwise (`proto-max-bulk-len`).
pub const MAX_ARGUMENT_BYTES: usize = 512 * 1024 * 1024;

/// The most bytes of a whole command, unless one longest argument alone needs more.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024 * 1024;

/// What may come on top of one longest argument where that exceeds [`MAX_COMMAND_BYTES`]: a key,
/// options and the lines with lengths.
const COMMAND_OVERHEAD_BYTES: usize = 64 * 1024;

/// How many arguments and how many re-encoded bytes a parser keeps room for between commands, so
/// that usual commands need no allocation and idle clients little memory.
const KEPT_ARGUMENTS: usize = 64;
const KEPT_BYTES: usize = 512;

/// Why a client's bytes are no command. The connection is to be closed: where the next command
/// would begin is unknown. `Display` is what Redis writes behind `-ERR `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// No end of line within [`MAX_INLINE_BYTES`].
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// An inline command with a quote that is not closed, or is closed within a word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// No end of the line with the number of arguments within [`MAX_INLINE_BYTES`].
    #[error("Protocol error: too big mbulk count string")]
    TooBigCountLine,
    /// The number of arguments is no number, or over [`MAX_ARGUMENTS`].
    #[error("Protocol error: invalid multibulk length")]
    InvalidCount,
    /// No end of the line with an argument's length within [`MAX_INLINE_BYTES`].
    #[error("Protocol error: too big bulk count string")]
    TooBigLengthLine,
    /// This byte was where an argument's `$` should be.
    #[error("Protocol error: expected '$', got '{}'", one_line(*.0).escape_ascii())]
    ExpectedDollar(u8),
    /// An argument's length is no number, negative, or over the limit.
    #[error("Protocol error: invalid bulk length")]
    InvalidLength,
    /// The command as a whole is over the limit. (Redis has none but that of its buffer, and then
    /// closes without a word.)
    #[error("Protocol error: too big command")]
    TooBigCommand,
}

impl ProtocolError {
    /// Writes the error reply, byte for byte as Redis does: the byte that an error quotes need not
    /// be UTF-8.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut text = b"ERR ".to_vec();
        match self {
            Self::ExpectedDollar(byte) => {
                text.extend_from_slice(b"Protocol error: expected '$', got '");
                text.extend_from_slice(&[byte, b'\'']);
            }
            other => text.extend_from_slice(other.to_string().as_bytes()),
        }
        write::error(out, text);
    }
}

/// A byte as Redis quotes it in an error, which must stay one line.
fn one_line(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }
}

/// Where an argument lies in its command's bytes. Half the size of a `Range<usize>`; commands are
/// shorter than 4 GiB.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A whole command of a client. It has at least one argument, its name, which may be empty.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    bytes: &'a [u8],
    args: &'a [Span],
}

impl<'a> Command<'a> {
    /// The command in its canonical form, to be forwarded as it is.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many arguments it has, the name included: at least 1.
    pub fn arg_count(&self) -> usize {
        self.args.len()
    }

    /// An argument; the name is number 0.
    pub fn arg(&self, index: usize) -> Option<&'a [u8]> {
        self.args.get(index).map(|span| span.of(self.bytes))
    }

    /// The name as the client wrote it, in capitals or not.
    pub fn name(&self) -> &'a [u8] {
        self.arg(0).unwrap_or_default()
    }

    /// All arguments, the name included.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.args.iter().map(move |span| span.of(bytes))
    }

    /// Whether an argument is there and is this word, in capitals or not.
    pub fn is(&self, index: usize, word: &[u8]) -> bool {
        self.arg(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word))
    }
}

/// Writes a command in its canonical form behind what `into` holds.
pub fn encode<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>, into: &mut Vec<u8>) {
    write::array(into, args.len());
    for arg in args {
        write::bulk(into, arg);
    }
}

/// Finds one command after the other in the bytes of one client.
#[derive(Debug)]
pub struct CommandParser {
    max_argument_bytes: usize,
    max_command_bytes: usize,
    /// Where the line or argument begins that is being read. This and all other positions count
    /// from the start of the command.
    position: usize,
    /// How many bytes of the line at `position` were searched for its end.
    searched: usize,
    /// How many arguments are still to come; 0 before their number is known.
    args_left: i64,
    /// The length of the argument at `position`, once known.
    length: Option<usize>,
    args: Vec<Span>,
    is_canonical: bool,
    is_within_command: bool,
    /// The canonical form of the last command, if it came in another.
    encoded: Vec<u8>,
}

/// How far the bytes at hand have led.
enum Step {
    /// There is no whole command yet.
    Incomplete,
    /// So many bytes are a command without arguments, which Redis passes over in silence.
    Empty(usize),
    /// So many bytes are a command.
    Whole(usize),
}

impl CommandParser {
    /// For one client, whose arguments may have up to `max_argument_bytes` each (at most
    /// [`MAX_ARGUMENT_BYTES`]). Inline commands have their own limit, [`MAX_INLINE_BYTES`].
    pub fn new(max_argument_bytes: usize) -> Self {
        let max_argument_bytes = max_argument_bytes.min(MAX_ARGUMENT_BYTES);
        Self {
            max_argument_bytes,
            max_command_bytes: MAX_COMMAND_BYTES.max(max_argument_bytes + COMMAND_OVERHEAD_BYTES),
            position: 0,
            searched: 0,
            args_left: 0,
            length: None,
            args: Vec::new(),
            is_canonical: true,
            is_within_command: false,
            encoded: Vec::new(),
        }
    }

    /// Looks for the next command at the start of `input`.
    ///
    /// Returns how many bytes of `input` are done with, which the caller takes off its front before
    /// it calls again, and the command if one is whole. Without one, more bytes are needed: given
    /// the remaining bytes and more behind them, it goes on where it stopped, and looks at no byte
    /// of a line twice and at the bytes of an argument not at all. It gives memory back when called
    /// for the next command, even if there is none yet.
    ///
    /// After an error the parser is of no more use.
    pub fn parse<'a>(
        &'a mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Command<'a>>), ProtocolError> {
        let mut used = 0;
        loop {
            if !self.is_within_command {
                self.start();
            }
            let bytes = &input[used..];
            match self.step(bytes)? {
                Step::Incomplete => {
                    self.is_within_command = !bytes.is_empty();
                    return Ok((used, None));
                }
                Step::Empty(length) => {
                    self.is_within_command = false;
                    used += length;
                }
                Step::Whole(length) => {
                    self.is_within_command = false;
                    return Ok((used + length, Some(self.command(&bytes[..length]))));
                }
            }
        }
    }

    /// Whether the last call of [`parse`](Self::parse) left a command that has begun and is not
    /// whole, be it one byte of a line.
    pub fn is_within_command(&self) -> bool {
        self.is_within_command
    }

    /// Forgets the last command.
    fn start(&mut self) {
        self.position = 0;
        self.searched = 0;
        self.is_canonical = true;
        self.args.clear();
        self.args.shrink_to(KEPT_ARGUMENTS);
        self.encoded.clear();
        self.encoded.shrink_to(KEPT_BYTES);
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        match input.first() {
            _ if self.args_left > 0 => self.read_arguments(input),
            Some(b'*') => self.read_count(input),
            Some(_) => self.read_inline(input),
            None => Ok(Step::Incomplete),
        }
    }

    fn read_inline(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let Some(newline) = self.find(b'\n', input, ProtocolError::TooBigInline)? else {
            return Ok(Step::Incomplete);
        };
        let line = &input[..newline];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let words = split_words(line).ok_or(ProtocolError::UnbalancedQuotes)?;
        if words.is_empty() {
            return Ok(Step::Empty(newline + 1));
        }
        self.encode(words.iter().map(Vec::as_slice));
        Ok(Step::Whole(newline + 1))
    }

    fn read_count(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let Some(line) = self.number_line(input, ProtocolError::TooBigCountLine)? else {
            return Ok(Step::Incomplete);
        };
        let count = parse_number(&line[1..])
            .filter(|&count| count <= MAX_ARGUMENTS)
            .ok_or(ProtocolError::InvalidCount)?;
        if count <= 0 {
            return Ok(Step::Empty(self.position));
        }
        self.args_left = count;
        self.read_arguments(input)
    }

    fn read_arguments(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        while self.args_left > 0 {
            let Some(length) = self.read_length(input)? else { return Ok(Step::Incomplete) };
            let end = self.position + length;
            let Some(terminator) = input.get(end..end + 2) else { return Ok(Step::Incomplete) };
            // Redis skips two bytes here and does not look at them.
            self.is_canonical &= terminator == b"\r\n";
            self.args.push(Span::new(self.position, end));
            self.position = end + 2;
            self.length = None;
            self.args_left -= 1;
        }
        Ok(Step::Whole(self.position))
    }

    /// The length of the argument that follows; `None` if its line is not whole.
    fn read_length(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.length.is_some() {
            return Ok(self.length);
        }
        let Some(line) = self.number_line(input, ProtocolError::TooBigLengthLine)? else {
            return Ok(None);
        };
        if line[0] != b'$' {
            return Err(ProtocolError::ExpectedDollar(line[0]));
        }
        let length = parse_number(&line[1..])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length <= self.max_argument_bytes)
            .ok_or(ProtocolError::InvalidLength)?;
        if self.position + length + 2 > self.max_command_bytes {
            return Err(ProtocolError::TooBigCommand);
        }
        self.length = Some(length);
        Ok(self.length)
    }

    /// The line at `position`, and moves behind it; `None` if it is not whole. It has at least one
    /// byte: that of an empty line is its CR.
    fn number_line<'a>(
        &mut self,
        input: &'a [u8],
        too_big: ProtocolError,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let Some(end) = self.find(b'\r', input, too_big)? else { return Ok(None) };
        // Redis waits for one byte behind the CR, and skips it whatever it is.
        let Some(&newline) = input.get(end + 1) else { return Ok(None) };
        self.is_canonical &= newline == b'\n';
        let line = &input[self.position..end.max(self.position + 1)];
        self.position = end + 2;
        self.searched = 0;
        Ok(Some(line))
    }

    /// Where the line at `position` has its first `end`; `None` if it is not there yet.
    ///
    /// Redis searches with `strchr`, for which a NUL is the end of all bytes: a line with a NUL
    /// never ends, until it is too big. So it is here.
    fn find(
        &mut self,
        end: u8,
        input: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let line = &input[self.position..];
        let rest = &line[self.searched..];
        let found = rest.iter().position(|&byte| byte == end || byte == 0);
        self.searched += found.unwrap_or(rest.len());
        if self.searched <= MAX_INLINE_BYTES && line.get(self.searched) == Some(&end) {
            return Ok(Some(self.position + self.searched));
        }
        if line.len() > MAX_INLINE_BYTES { Err(too_big) } else { Ok(None) }
    }

    /// The command that was found in `bytes`.
    fn command<'a>(&'a mut self, bytes: &'a [u8]) -> Command<'a> {
        if self.is_canonical {
            return Command { bytes, args: &self.args };
        }
        if self.encoded.is_empty() {
            let args = std::mem::take(&mut self.args);
            self.encode(args.iter().map(|span| span.of(bytes)));
        }
        Command { bytes: &self.encoded, args: &self.args }
    }

    /// Makes the canonical form of a command that came in another.
    fn encode<'a>(&mut self, args: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.is_canonical = false;
        write::array(&mut self.encoded, args.len());
        for arg in args {
            write::bulk(&mut self.encoded, arg);
            let end = self.encoded.len() - 2;
            self.args.push(Span::new(end - arg.len(), end));
        }
    }
}

/// A decimal number as Redis's `string2ll` takes it: no plus, no leading zero, no minus zero, and
/// within 64 bits.
fn parse_number(digits: &[u8]) -> Option<i64> {
    match digits {
        b"0" => Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => decimal(digits),
        _ => None,
    }
}

/// The words of an inline command, as Redis's `sdssplitargs` finds them; `None` if a quote is not
/// closed, or its end is not the end of the word.
fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|&&byte| is_space(byte)).count();
        rest = &rest[blanks..];
        if rest.is_empty() {
            return Some(words);
        }
        let (word, behind) = take_word(rest)?;
        words.push(word);
        rest = behind;
    }
}

/// Takes the word at the start of `line`; returns it and what is behind it. A quote may open within
/// a word, but closing it ends the word.
fn take_word(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = line;
    loop {
        rest = match rest {
            // Fewer than `is_space` knows: a vertical tab or form feed is part of a word.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((word, rest)),
            [b'"', quoted @ ..] => return take_double_quoted(word, quoted),
            [b'\'', quoted @ ..] => return take_single_quoted(word, quoted),
            [byte, behind @ ..] => {
                word.push(*byte);
                behind
            }
        };
    }
}

fn take_double_quoted(mut word: Vec<u8>, quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted;
    loop {
        let (byte, behind) = match rest {
            [] => return None,
            [b'"', behind @ ..] => return end_quoted(word, behind),
            [b'\\', b'x', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(*high) * 16 + hex_digit(*low), behind)
            }
            [b'\\', escaped, behind @ ..] => (unescape(*escaped), behind),
            [byte, behind @ ..] => (*byte, behind),
        };
        word.push(byte);
        rest = behind;
    }
}

fn take_single_quoted(mut word: Vec<u8>, quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted;
    loop {
        let (byte, behind) = match rest {
            [] => return None,
            [b'\'', behind @ ..] => return end_quoted(word, behind),
            [b'\\', b'\'', behind @ ..] => (b'\'', behind),
            [byte, behind @ ..] => (*byte, behind),
        };
        word.push(byte);
        rest = behind;
    }
}

/// A closing quote must have a blank or nothing behind it.
fn end_quoted(word: Vec<u8>, behind: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    behind.first().is_none_or(|&byte| is_space(byte)).then_some((word, behind))
}

/// C's `isspace`, which unlike Rust's has the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

/// The byte that a backslash and `byte` stand for in double quotes.
fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => b'\x08',
        b'a' => b'\x07',
        other => other,
    }
}

/// The value of a hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const MAX_ARGUMENT: usize = 16 * 1024 * 1024;

    /// A client's bytes, and the canonical form of the commands that Redis 7.0 finds in them.
    const CORPUS: [(&[u8], &[&[u8]]); 30] = [
        (b"*1\r\n$4\r\nPING\r\n", &[b"*1\r\n$4\r\nPING\r\n"]),
        (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"]),
        (b"*2\r\n$1\r\na\r\n$6\r\n*1\r\n$1\r\n", &[b"*2\r\n$1\r\na\r\n$6\r\n*1\r\n$1\r\n"]),
        (b"*1\r\n$2\r\n\0\xff\r\n", &[b"*1\r\n$2\r\n\0\xff\r\n"]),
        (b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n", &[b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n"]),
        // Two bytes are skipped behind an argument, one behind the CR of a line.
        (b"*1\r\n$1\r\naXY*1\r\n$1\r\nb\r\n", &[b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n"]),
        (b"*1\r\n$1\r\na\n\r", &[b"*1\r\n$1\r\na\r\n"]),
        (b"*1\rX$1\r\na\r\n", &[b"*1\r\n$1\r\na\r\n"]),
        (b"*1\r\r$1\r\0a\r\n", &[b"*1\r\n$1\r\na\r\n"]),
        // A command without arguments is none.
        (b"*0\r\n*-1\r\n*-9223372036854775808\rX*1\r\n$1\r\na\r\n", &[b"*1\r\n$1\r\na\r\n"]),
        (b"\r\n\n \t\x0b\x0c\r\n\r\r\nPING\r\n", &[b"*1\r\n$4\r\nPING\r\n"]),
        (b"*0\r\nPING\n*0\r\n", &[b"*1\r\n$4\r\nPING\r\n"]),
        // Inline commands.
        (b"PING\n", &[b"*1\r\n$4\r\nPING\r\n"]),
        (b"  get\tkey  \r\n", &[b"*2\r\n$3\r\nget\r\n$3\r\nkey\r\n"]),
        (b" *1\r\n$1\r\n", &[b"*1\r\n$2\r\n*1\r\n", b"*1\r\n$2\r\n$1\r\n"]),
        (b"a\rb\r\n", &[b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"]),
        (b"a\x0bb \x0bc\n", &[b"*2\r\n$3\r\na\x0bb\r\n$1\r\nc\r\n"]),
        (b"a\xffb\n", &[b"*1\r\n$3\r\na\xffb\r\n"]),
        (b"\"\" ''\n", &[b"*2\r\n$0\r\n\r\n$0\r\n\r\n"]),
        (b"\"a b\" 'c d'\n", &[b"*2\r\n$3\r\na b\r\n$3\r\nc d\r\n"]),
        (b"a\"b c\"\n", &[b"*1\r\n$4\r\nab c\r\n"]),
        (b"a'b c'\x0bd\n", &[b"*2\r\n$4\r\nab c\r\n$1\r\nd\r\n"]),
        (b"\"\\n\\r\\t\\b\\a\\q\\\\\\\"\"\n", &[b"*1\r\n$8\r\n\n\r\t\x08\x07q\\\"\r\n"]),
        (b"\"\\x00\\xfF\\x4\\x\\X41\"\n", &[b"*1\r\n$8\r\n\0\xffx4xX41\r\n"]),
        (b"'\\n\\'\\\\\"'\n", &[b"*1\r\n$6\r\n\\n'\\\\\"\r\n"]),
        (b"\\x41\\\n", &[b"*1\r\n$5\r\n\\x41\\\r\n"]),
        (b"\"a\"\r\n", &[b"*1\r\n$1\r\na\r\n"]),
        (b"GET / HTTP/1.1\n", &[b"*3\r\n$3\r\nGET\r\n$1\r\n/\r\n$8\r\nHTTP/1.1\r\n"]),
        (
            b"a\n*1\r\n$1\r\nb\r\nc\n",
            &[b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n", b"*1\r\n$1\r\nc\r\n"],
        ),
        (b"", &[]),
    ];

    /// A client's bytes, and the error of Redis 7.0 for them (if its limits were ours).
    const BROKEN: [(&[u8], ProtocolError); 27] = [
        (b"*\r\n", ProtocolError::InvalidCount),
        (b"*x\r\n", ProtocolError::InvalidCount),
        (b"*01\r\n", ProtocolError::InvalidCount),
        (b"*+1\r\n", ProtocolError::InvalidCount),
        (b"*-0\r\n", ProtocolError::InvalidCount),
        (b"* 1\r\n", ProtocolError::InvalidCount),
        (b"*1 \r\n", ProtocolError::InvalidCount),
        (b"*1\n$1\r\n", ProtocolError::InvalidCount),
        (b"*9223372036854775808\r\n", ProtocolError::InvalidCount),
        (b"*1048577\r\n", ProtocolError::InvalidCount),
        (b"*1\r\nx\r\n", ProtocolError::ExpectedDollar(b'x')),
        (b"*1\r\n*1\r\n", ProtocolError::ExpectedDollar(b'*')),
        (b"*1\r\n\r\n", ProtocolError::ExpectedDollar(b'\r')),
        (b"*1\r\n\n\r\n", ProtocolError::ExpectedDollar(b'\n')),
        (b"*1\r\n\xff\r\n", ProtocolError::ExpectedDollar(0xff)),
        (b"*2\r\n$1\r\na\r\n:1\r\n", ProtocolError::ExpectedDollar(b':')),
        (b"*1\r\n$\r\n", ProtocolError::InvalidLength),
        (b"*1\r\n$-1\r\n", ProtocolError::InvalidLength),
        (b"*1\r\n$01\r\n", ProtocolError::InvalidLength),
        (b"*1\r\n$1\n\r\n", ProtocolError::InvalidLength),
        (b"*1\r\n$16777217\r\n", ProtocolError::InvalidLength),
        (b"*1\r\n$18446744073709551617\r\n", ProtocolError::InvalidLength),
        (b"\"a\n", ProtocolError::UnbalancedQuotes),
        (b"a 'b\r\n", ProtocolError::UnbalancedQuotes),
        (b"\"a\"b\n", ProtocolError::UnbalancedQuotes),
        (b"'a'\"b\"\n", ProtocolError::UnbalancedQuotes),
        (b"\"a\\\n", ProtocolError::UnbalancedQuotes),
    ];

    /// A connection as a session has it: a parser and what it has not used yet.
    struct Client {
        parser: CommandParser,
        input: Vec<u8>,
        commands: Vec<Vec<u8>>,
    }

    impl Client {
        fn new() -> Self {
            let parser = CommandParser::new(MAX_ARGUMENT);
            Self { parser, input: Vec::new(), commands: Vec::new() }
        }

        fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
            self.input.extend_from_slice(bytes);
            let mut used = 0;
            loop {
                let (length, command) = self.parser.parse(&self.input[used..])?;
                used += length;
                let Some(command) = command else { break };
                let mut encoded = Vec::new();
                encode(command.args(), &mut encoded);
                assert_eq!(command.bytes(), encoded);
                self.commands.push(encoded);
            }
            self.input.drain(..used);
            assert_eq!(self.parser.is_within_command(), !self.input.is_empty());
            Ok(())
        }
    }

    #[test]
    fn any_split_of_the_bytes_finds_the_same_commands() {
        for (bytes, commands) in CORPUS {
            for cut in 0..=bytes.len() {
                let mut client = Client::new();
                client.receive(&bytes[..cut]).expect("valid");
                client.receive(&bytes[cut..]).expect("valid");
                assert_eq!(client.commands, commands, "{}", bytes.escape_ascii());
                assert!(!client.parser.is_within_command());
            }
        }
    }

    #[test]
    fn any_random_split_of_many_commands_finds_the_same() {
        let stream: Vec<u8> = CORPUS.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
        let commands: Vec<&[u8]> = CORPUS.iter().flat_map(|(_, found)| found.to_vec()).collect();
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let mut client = Client::new();
            let longest = random.usize(1..60);
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(random.usize(1..=longest).min(rest.len()));
                client.receive(piece).expect("valid");
                rest = behind;
            }
            assert_eq!(client.commands, commands);
        }
    }

    #[test]
    fn any_split_of_what_is_no_command_is_the_same_error() {
        for (bytes, error) in BROKEN {
            for cut in 0..bytes.len() {
                let mut client = Client::new();
                client.receive(&bytes[..cut]).expect("valid so far");
                assert_eq!(client.receive(&bytes[cut..]), Err(error), "{}", bytes.escape_ascii());
                assert_eq!(client.commands, Vec::<Vec<u8>>::new());
            }
        }
    }

    #[test]
    fn errors_are_worded_as_by_redis() {
        for (error, reply) in [
            (ProtocolError::TooBigInline, &b"too big inline request"[..]),
            (ProtocolError::UnbalancedQuotes, b"unbalanced quotes in request"),
            (ProtocolError::TooBigCountLine, b"too big mbulk count string"),
            (ProtocolError::InvalidCount, b"invalid multibulk length"),
            (ProtocolError::TooBigLengthLine, b"too big bulk count string"),
            (ProtocolError::ExpectedDollar(b'x'), b"expected '$', got 'x'"),
            (ProtocolError::ExpectedDollar(b'\r'), b"expected '$', got ' '"),
            (ProtocolError::ExpectedDollar(0xff), b"expected '$', got '\xff'"),
            (ProtocolError::InvalidLength, b"invalid bulk length"),
        ] {
            let mut out = Vec::new();
            error.write(&mut out);
            assert_eq!(out, [b"-ERR Protocol error: ", reply, b"\r\n"].concat());
        }
        let display = ProtocolError::ExpectedDollar(b'\n').to_string();
        assert_eq!(display, "Protocol error: expected '$', got ' '");
    }

    #[test]
    fn a_line_may_have_64_kib_and_no_byte_more() {
        for (start, end, error) in [
            (&b""[..], &b"\n"[..], ProtocolError::TooBigInline),
            (b"*", b"\r\n", ProtocolError::TooBigCountLine),
            (b"*1\r\n$", b"\r\n", ProtocolError::TooBigLengthLine),
        ] {
            let line_start = start.len().min(1);
            let digits = vec![b'1'; MAX_INLINE_BYTES - line_start];
            let longest = [start, &digits, end].concat();
            let over = [start, &digits, b"1", end].concat();
            assert_ne!(Client::new().receive(&longest), Err(error));
            assert_eq!(Client::new().receive(&over), Err(error));

            let mut client = Client::new();
            client.receive(start).expect("begun");
            client.receive(&digits).expect("the longest line, without its end");
            assert_eq!(client.receive(b"1"), Err(error));
        }
    }

    #[test]
    fn a_line_with_a_nul_never_ends_as_in_redis() {
        for (start, error) in [
            (&b"\0"[..], ProtocolError::TooBigInline),
            (b"PING\0\r\n", ProtocolError::TooBigInline),
            (b"*1\0\r\n", ProtocolError::TooBigCountLine),
            (b"*1\r\n\0$1\r\n", ProtocolError::TooBigLengthLine),
        ] {
            let mut client = Client::new();
            client.receive(start).expect("an open line");
            client.receive(b"*1\r\n$4\r\nPING\r\nPING\r\n").expect("an open line");
            assert!(client.parser.is_within_command());
            assert_eq!(client.receive(&vec![b'\n'; MAX_INLINE_BYTES]), Err(error));
            assert_eq!(client.commands, Vec::<Vec<u8>>::new());
        }
    }

    #[test]
    fn canonical_bytes_are_passed_on_as_they_are_and_others_are_not() {
        for (input, is_same) in [
            (&b"*2\r\n$4\r\nECHO\r\n$1\r\na\r\n"[..], true),
            (b"*2\r\n$4\r\nECHO\r\n$1\r\naXY", false),
            (b"*2\r\n$4\rXECHO\r\n$1\r\na\r\n", false),
            (b"ECHO a\r\n", false),
        ] {
            let mut parser = CommandParser::new(MAX_ARGUMENT);
            let (used, command) = parser.parse(input).expect("valid");
            let command = command.expect("whole");
            assert_eq!(used, input.len());
            assert_eq!(std::ptr::eq(command.bytes(), input), is_same);
            assert_eq!(command.bytes(), b"*2\r\n$4\r\nECHO\r\n$1\r\na\r\n");
        }
    }

    #[test]
    fn a_command_tells_its_arguments() {
        let mut parser = CommandParser::new(MAX_ARGUMENT);
        let (_, command) =
            parser.parse(b"*3\r\n$3\r\nGet\r\n$0\r\n\r\n$2\r\nNx\r\n").expect("valid");
        let command = command.expect("whole");
        assert_eq!(command.arg_count(), 3);
        assert_eq!(command.name(), b"Get");
        assert_eq!(command.args().collect::<Vec<_>>(), [&b"Get"[..], b"", b"Nx"]);
        assert_eq!(command.arg(3), None);
        assert!(command.is(0, b"GET") && command.is(2, b"nX") && command.is(1, b""));
        assert!(!command.is(2, b"N") && !command.is(3, b""));
    }

    #[test]
    fn the_limits_of_arguments_and_of_commands_hold() {
        let mut parser = CommandParser::new(3);
        assert!(parser.parse(b"*1\r\n$3\r\nabc\r\n").is_ok_and(|(_, found)| found.is_some()));
        assert!(matches!(parser.parse(b"*1\r\n$4\r\n"), Err(ProtocolError::InvalidLength)));

        // Four arguments of 16 MiB are over 64 MiB, with their lines.
        let mut client = Client::new();
        client.receive(b"*4\r\n").expect("begun");
        for _ in 0..3 {
            client.receive(b"$16777216\r\n").expect("begun");
            client.receive(&vec![b'a'; MAX_ARGUMENT]).expect("an argument");
            client.receive(b"\r\n").expect("an argument");
        }
        assert_eq!(client.receive(b"$16777216\r\n"), Err(ProtocolError::TooBigCommand));

        // One argument may be as long as it may be.
        let mut parser = CommandParser::new(usize::MAX);
        assert!(parser.parse(b"*2\r\n$3\r\nGET\r\n$536870912\r\n").is_ok());
        let mut parser = CommandParser::new(usize::MAX);
        assert!(parser.parse(b"*2\r\n$3\r\nGET\r\n$536870913\r\n").is_err());
    }

    #[test]
    fn an_announced_length_allocates_nothing_and_a_giant_command_leaves_nothing() {
        let mut client = Client::new();
        client.receive(b"*1048576\r\n$16777216\r\n").expect("begun");
        assert_eq!(client.parser.args.capacity(), 0);

        let many = [&b"*100000\r\n"[..], &b"$1\r\na\r\n".repeat(100_000)].concat();
        let long = [&b"*1\r\n$60000\r\n"[..], &[b'a'; 60_000], b"XY"].concat();
        for giant in [many, long] {
            let mut client = Client::new();
            client.receive(&giant).expect("valid");
            assert_eq!(client.commands.len(), 1);
            assert!(client.parser.args.capacity() <= KEPT_ARGUMENTS);
            assert!(client.parser.encoded.capacity() <= KEPT_BYTES);
        }
    }

    #[test]
    fn no_byte_is_looked_at_again_and_again() {
        let start = Instant::now();
        let mut parser = CommandParser::new(MAX_ARGUMENT);
        let mut input = b"*2\r\n$3\r\nGET\r\n$16777216\r\n".to_vec();
        for _ in 0..MAX_ARGUMENT / 1024 {
            assert!(parser.parse(&input).is_ok_and(|(used, found)| used == 0 && found.is_none()));
            input.extend_from_slice(&[b'a'; 1024]);
        }
        input.extend_from_slice(b"\r\n");
        assert!(parser.parse(&input).is_ok_and(|(used, found)| used > 0 && found.is_some()));

        // Done again for every byte, either would take more than 10^9 steps.
        let many_arguments = [&b"*1000000\r\n"[..], &b"$0\r\n\r\n".repeat(50_000)].concat();
        for bytes in [vec![b'a'; 60 * 1024], many_arguments] {
            let mut parser = CommandParser::new(MAX_ARGUMENT);
            for length in 1..=bytes.len() {
                let (used, found) = parser.parse(&bytes[..length]).expect("begun");
                assert!(used == 0 && found.is_none());
            }
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
