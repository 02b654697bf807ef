//! Encodes the commands that we make ourselves, in the canonical form.

use std::fmt::Display;

use super::write;

/// Room for the arguments of a usual command, its key included, so that they are written without
/// a second allocation.
const USUAL_COMMAND_BYTES: usize = 128;

/// Writes a command with these arguments, the first of which is its name.
pub fn encode<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>, into: &mut Vec<u8>) {
    write::array(into, args.len());
    for arg in args {
        write::bulk(into, arg);
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
        let mut bytes = Vec::with_capacity(self.args.len() + "*10\r\n".len());
        self.append_to(&mut bytes);
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
