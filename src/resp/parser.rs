//! Finds whole commands in a client's bytes, exactly where Redis finds them.
//!
//! The policy judges the arguments that are found here. Then the bytes go to a backend, which parses
//! them again. If the two parsers ever disagreed, a client could hide a write from us. Hence two
//! rules: the grammar is that of Redis 7.0 (`processMultibulkBuffer`, `processInlineBuffer` in
//! networking.c, `sdssplitargs` in sds.c), and commands are forwarded in the canonical form, about
//! which no two parsers disagree.
//!
//! The canonical form is `*N\r\n` and then, N times, `$L\r\n`, L bytes and `\r\n`.

use super::command::Span;
use super::{Command, ProtocolError, decimal, write};

/// Longest inline command and longest line that holds a number, in bytes without the line end:
/// Redis's `PROTO_INLINE_MAX_SIZE`. (Redis takes a longer one if its end came in the same read.)
pub(super) const MAX_INLINE_BYTES: usize = 64 * 1024;

/// Most arguments of a command, its name included: Redis's limit until 6.2. (Since 7.0 the limit is
/// 2^31 - 1 for authenticated clients.)
pub(super) const MAX_ARGUMENTS: i64 = 1024 * 1024;

/// Most arguments of a command, its name included, of a client that has to log in, as in Redis.
const MAX_UNAUTHENTICATED_ARGUMENTS: i64 = 10;

/// Longest argument of a client that has to log in, as in Redis.
const MAX_UNAUTHENTICATED_BYTES: usize = 16 * 1024;

/// Upper limit of a parser's `max_argument_bytes`: Redis's default (`proto-max-bulk-len`).
const MAX_ARGUMENT_BYTES: usize = 512 * 1024 * 1024;

/// Most bytes of a whole command, unless one longest argument alone needs more.
const MAX_COMMAND_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that a command may have besides one longest argument where that exceeds
/// [`MAX_COMMAND_BYTES`]: a key, options and the lines with lengths.
const COMMAND_OVERHEAD_BYTES: usize = 64 * 1024;

/// Room for arguments and for re-encoded bytes that a parser keeps between commands, so that usual
/// commands need no allocation and idle clients little memory.
const KEPT_ARGUMENTS: usize = 64;
const KEPT_BYTES: usize = 512;

/// Finds one command after another in the bytes of one client.
#[derive(Debug)]
pub struct CommandParser {
    max_argument_bytes: usize,
    max_command_bytes: usize,
    /// Whether the client has to log in, and may send no more than that takes.
    is_restricted: bool,
    /// Start of the line or argument that is being read. This and all other positions count from
    /// the start of the command.
    position: usize,
    /// Number of bytes of the line at `position` that were searched for its end.
    searched: usize,
    /// Number of arguments still to come; 0 before it is known.
    args_left: i64,
    /// Length of the argument at `position`, once known.
    length: Option<usize>,
    args: Vec<Span>,
    is_canonical: bool,
    is_within_command: bool,
    /// Whether a command without arguments came after the last command.
    follows_empty: bool,
    /// Canonical form of the last command, if it came in another form.
    encoded: Vec<u8>,
}

/// Result of reading on in the bytes at hand.
enum Step {
    /// There is no whole command yet.
    Incomplete,
    /// This many bytes are a command without arguments, which Redis ignores.
    Empty(usize),
    /// This many bytes are a command.
    Whole(usize),
}

impl CommandParser {
    /// Creates a parser for one client, whose arguments may have up to `max_argument_bytes` each (at
    /// most `MAX_ARGUMENT_BYTES`). Inline commands have their own limit, `MAX_INLINE_BYTES`.
    pub fn new(max_argument_bytes: usize) -> Self {
        let max_argument_bytes = max_argument_bytes.min(MAX_ARGUMENT_BYTES);
        Self {
            max_argument_bytes,
            max_command_bytes: MAX_COMMAND_BYTES.max(max_argument_bytes + COMMAND_OVERHEAD_BYTES),
            is_restricted: false,
            position: 0,
            searched: 0,
            args_left: 0,
            length: None,
            args: Vec::new(),
            is_canonical: true,
            is_within_command: false,
            follows_empty: false,
            encoded: Vec::new(),
        }
    }

    /// Looks for the next command at the start of `input`.
    ///
    /// Returns the number of bytes that are used up, and the command if it is whole. The caller
    /// removes the used bytes from the front of `input` before it calls again. Without a whole
    /// command, more bytes are needed: given the remaining bytes and more after them, the parser
    /// goes on where it stopped. It looks at no byte of a line twice, and at the bytes of an argument
    /// not at all. It gives memory back when it is called for the next command, even if no byte of
    /// that has arrived.
    ///
    /// After an error the parser must not be used any more.
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
                    self.follows_empty = true;
                    used += length;
                }
                Step::Whole(length) => {
                    self.is_within_command = false;
                    return Ok((used + length, Some(self.command(&bytes[..length]))));
                }
            }
        }
    }

    /// Limits commands to what a login takes, or does so no more.
    pub fn restrict(&mut self, is_restricted: bool) {
        self.is_restricted = is_restricted;
    }

    /// How much memory it takes.
    pub fn held_bytes(&self) -> usize {
        self.args.capacity() * size_of::<Span>() + self.encoded.capacity()
    }

    /// Whether a command has begun and is not whole since the last call of [`parse`](Self::parse);
    /// one byte of it is enough.
    pub fn is_within_command(&self) -> bool {
        self.is_within_command
    }

    /// Whether a command without arguments came after the last command, and none with arguments since.
    pub fn follows_empty(&self) -> bool {
        self.follows_empty
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
        let count = decimal(&line[1..])
            .filter(|&count| count <= MAX_ARGUMENTS)
            .ok_or(ProtocolError::InvalidCount)?;
        if count <= 0 {
            return Ok(Step::Empty(self.position));
        }
        if self.is_restricted && count > MAX_UNAUTHENTICATED_ARGUMENTS {
            return Err(ProtocolError::UnauthenticatedCount);
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

    /// Returns the length of the argument that follows; `None` if its line is not whole.
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
        let length = decimal(&line[1..])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length <= self.max_argument_bytes)
            .ok_or(ProtocolError::InvalidLength)?;
        if self.is_restricted && length > MAX_UNAUTHENTICATED_BYTES {
            return Err(ProtocolError::UnauthenticatedLength);
        }
        if self.position + length + 2 > self.max_command_bytes {
            return Err(ProtocolError::TooBigCommand);
        }
        self.length = Some(length);
        Ok(self.length)
    }

    /// Takes the line at `position` and moves past it; `None` if it is not whole. The line has at
    /// least one byte: of an empty line that is its CR.
    fn number_line<'a>(
        &mut self,
        input: &'a [u8],
        too_big: ProtocolError,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let Some(end) = self.find(b'\r', input, too_big)? else { return Ok(None) };
        // Redis waits for one byte after the CR, and skips it whatever it is.
        let Some(&newline) = input.get(end + 1) else { return Ok(None) };
        self.is_canonical &= newline == b'\n';
        let line = &input[self.position..end.max(self.position + 1)];
        self.position = end + 2;
        self.searched = 0;
        Ok(Some(line))
    }

    /// Finds the first `end` of the line at `position`; `None` if it has not arrived.
    ///
    /// Redis searches with `strchr`, which stops at a NUL. There and here, a line with a NUL never
    /// ends, until it is too big.
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

    /// Returns the command that was found in `bytes`.
    fn command<'a>(&'a mut self, bytes: &'a [u8]) -> Command<'a> {
        let follows_empty = std::mem::take(&mut self.follows_empty);
        if self.is_canonical {
            return Command { bytes, args: &self.args, follows_empty };
        }
        if self.encoded.is_empty() {
            let args = std::mem::take(&mut self.args);
            self.encode(args.iter().map(|span| span.of(bytes)));
        }
        Command { bytes: &self.encoded, args: &self.args, follows_empty }
    }

    /// Makes the canonical form of a command that came in another form.
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

/// Returns the words of an inline command, as Redis's `sdssplitargs` (sds.c) splits it; `None` if a
/// quote is not closed, or its end is not the end of the word.
fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|&&byte| is_space(byte)).count();
        rest = &rest[blanks..];
        if rest.is_empty() {
            return Some(words);
        }
        let word;
        (word, rest) = take_word(rest)?;
        words.push(word);
    }
}

/// Takes the word at the start of `line`; returns it and the rest of the line. A quote may open
/// within a word, but closing it ends the word.
fn take_word(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = line;
    loop {
        rest = match rest {
            // Fewer characters than in `is_space`: a vertical tab or form feed is part of a word.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((word, rest)),
            [b'"', quoted @ ..] => return take_double_quoted(word, quoted),
            [b'\'', quoted @ ..] => return take_single_quoted(word, quoted),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn take_double_quoted(mut word: Vec<u8>, quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted;
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'"', after @ ..] => return end_quoted(word, after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(*high) * 16 + hex_digit(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn take_single_quoted(mut word: Vec<u8>, quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted;
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'\'', after @ ..] => return end_quoted(word, after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

/// Ends a word at its closing quote, after which a blank or nothing must follow.
fn end_quoted(word: Vec<u8>, after: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    after.first().is_none_or(|&byte| is_space(byte)).then_some((word, after))
}

/// Implements C's `isspace`, which unlike Rust's includes the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

/// Returns the byte that a backslash and `byte` mean within double quotes.
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

/// Returns the value of a hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
#[path = "parser_properties.rs"]
mod properties;

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
