//! The commands of clients, the error for bytes that are no command, and the commands that we make.

use std::fmt::Display;

use super::write;

/// Room for the arguments of a usual command of ours, its key included, so that they are written
/// without a second allocation.
const USUAL_COMMAND_BYTES: usize = 128;

/// Error for bytes that are no command. The connection must be closed, because nobody knows where
/// the next command begins. `Display` is what Redis writes after `-ERR `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An inline command has no end of line within `MAX_INLINE_BYTES`.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// An inline command has a quote that is not closed, or that is closed within a word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The line with the number of arguments has no end within the same limit.
    #[error("Protocol error: too big mbulk count string")]
    TooBigCountLine,
    /// The number of arguments is no number, or over `MAX_ARGUMENTS`.
    #[error("Protocol error: invalid multibulk length")]
    InvalidCount,
    /// The line with an argument's length has no end within the same limit.
    #[error("Protocol error: too big bulk count string")]
    TooBigLengthLine,
    /// An argument begins with this byte instead of `$`.
    #[error("Protocol error: expected '$', got '{}'", one_line(*.0).escape_ascii())]
    ExpectedDollar(u8),
    /// An argument's length is no number, negative, or over the limit.
    #[error("Protocol error: invalid bulk length")]
    InvalidLength,
    /// A client that has to log in sends more arguments than a login needs.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedCount,
    /// A client that has to log in sends a longer argument than a login needs.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedLength,
    /// The whole command is over the limit. (Redis has no limit but that of its buffer, and closes
    /// the connection without a word.)
    #[error("Protocol error: too big command")]
    TooBigCommand,
}

impl ProtocolError {
    /// Writes the error reply byte for byte as Redis does: the byte that an error quotes need not
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

/// Returns the byte as Redis quotes it in an error, which must stay one line.
fn one_line(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }
}

/// Position of an argument in its command's bytes. It is half the size of a `Range<usize>`, which
/// suffices because commands are shorter than 4 GiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A whole command of a client. Its first argument is its name, which may be empty.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) args: &'a [Span],
    pub(super) follows_empty: bool,
}

impl<'a> Command<'a> {
    /// Returns the command in its canonical form, which can be forwarded as it is.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether a command without arguments (`*0`, an empty line) came before it, since the command before that.
    pub fn follows_empty(&self) -> bool {
        self.follows_empty
    }

    /// Returns the number of arguments, the name included: at least 1.
    pub fn arg_count(&self) -> usize {
        self.args.len()
    }

    /// Returns an argument; the name is number 0.
    pub fn arg(&self, index: usize) -> Option<&'a [u8]> {
        self.args.get(index).map(|span| span.of(self.bytes))
    }

    /// Returns the arguments from one to another, encoded as they are sent. Both exist, and neither is the name.
    pub fn encoded_args(&self, from: usize, to: usize) -> &'a [u8] {
        let end_of = |index: usize| self.args[index].end as usize + b"\r\n".len();
        &self.bytes[end_of(from - 1)..end_of(to)]
    }

    /// Returns the name as the client wrote it, in upper or lower case.
    pub fn name(&self) -> &'a [u8] {
        self.arg(0).unwrap_or_default()
    }

    /// Returns all arguments, the name included.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.args.iter().map(move |span| span.of(bytes))
    }

    /// Whether the argument exists and is this word, in upper or lower case.
    pub fn is(&self, index: usize, word: &[u8]) -> bool {
        self.arg(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word))
    }
}

/// Begins a command of our own with its name.
///
/// ```
/// use redis_lb::resp::command;
///
/// let range = command("GETRANGE").arg(b"key").number(0).number(99).into_bytes();
/// assert_eq!(range, b"*4\r\n$8\r\nGETRANGE\r\n$3\r\nkey\r\n$1\r\n0\r\n$2\r\n99\r\n");
///
/// // Commands that are sent together.
/// let mut commands = Vec::new();
/// command("TYPE").arg("key").append_to(&mut commands);
/// command("PTTL").arg("key").append_to(&mut commands);
/// ```
pub fn command(name: impl AsRef<[u8]>) -> CommandBuilder {
    CommandBuilder::from_iter([name])
}

/// A command of our own to which arguments are added. [`command`] makes one of its name, `collect` of
/// all its arguments, of which the first is the name.
#[derive(Debug)]
#[must_use]
pub struct CommandBuilder {
    count: usize,
    /// All arguments as bulk strings.
    args: Vec<u8>,
}

impl CommandBuilder {
    /// Adds an argument.
    pub fn arg(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.count += 1;
        write::bulk(&mut self.args, bytes.as_ref());
        self
    }

    /// Adds several arguments.
    pub fn args<A: AsRef<[u8]>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Adds a number as an argument.
    pub fn number(self, number: impl Display) -> Self {
        self.arg(number.to_string())
    }

    /// Appends the whole command to commands that are sent together.
    pub fn append_to(&self, commands: &mut Vec<u8>) {
        write::array(commands, self.count);
        commands.extend_from_slice(&self.args);
    }

    /// Returns the whole command as it is sent.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.args;
        let args_length = bytes.len();
        write::array(&mut bytes, self.count);
        // The header goes first.
        let header_length = bytes.len() - args_length;
        bytes.rotate_right(header_length);
        bytes
    }
}

impl<A: AsRef<[u8]>> FromIterator<A> for CommandBuilder {
    fn from_iter<I: IntoIterator<Item = A>>(args: I) -> Self {
        Self { count: 0, args: Vec::with_capacity(USUAL_COMMAND_BYTES) }.args(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_encoded_as_redis_reads_them() {
        assert_eq!(command("PING").into_bytes(), b"*1\r\n$4\r\nPING\r\n");

        let names: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        let mut commands = b"+".to_vec();
        command("MGET").args(&names).arg([0, 0xff]).append_to(&mut commands);
        command("SELECT").number(-7).append_to(&mut commands);
        let digits: String = (0..9).map(|number| format!("$1\r\n{number}\r\n")).collect();
        let many = ["+*11\r\n$4\r\nMGET\r\n", &digits].concat();
        let expected = [many.as_bytes(), b"$2\r\n\0\xff\r\n*2\r\n$6\r\nSELECT\r\n$2\r\n-7\r\n"];
        assert_eq!(commands, expected.concat());
    }
}
