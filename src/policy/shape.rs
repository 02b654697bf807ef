//! How a command works, as far as that decides how it is sent.

use super::cacheable::{Cacheable, CachedCommand};
use super::scripts::READ_ONLY_FORMS;
use crate::metrics::CommandId;
use crate::resp::Command;

/// How a command works, as far as the backends say, and the number under which it is timed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The number under which replies to it are timed.
    pub id: CommandId,
    /// Whether each backend flags it `fast`.
    pub is_fast: bool,
    /// The number of the argument that is its first key; 0 if that depends.
    pub(super) first_key: u8,
    /// Whether its replies may be kept, if its arguments permit it.
    pub(super) cacheable: Option<Cacheable>,
}

impl Shape {
    /// What the near cache may keep of this command; `None` if nothing.
    pub fn cached(self, command: &Command) -> Option<CachedCommand> {
        self.cacheable?.cached(command)
    }

    /// The number of the argument that tells a command from others of its name: its first key, or
    /// the script that it runs.
    pub(crate) fn key_arg(self, command: &Command) -> usize {
        let is_number = |arg: &[u8]| arg.iter().all(u8::is_ascii_digit);
        match self.first_key {
            // Some commands begin with the number of their keys.
            0 if !is_script(command) && command.arg(1).is_some_and(is_number) => 2,
            0 => 1,
            first_key => usize::from(first_key),
        }
    }
}

/// The kind of code that a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// A script, by `EVAL` or `EVALSHA`, or by their forms that only read.
    Eval,
    /// A function of a library, by `FCALL` or `FCALL_RO`.
    Function,
}

/// Whether a command runs a script or a function, which may take any time.
pub(crate) fn is_script(command: &Command) -> bool {
    let is = |name: &str| command.is(0, name.as_bytes());
    READ_ONLY_FORMS.iter().any(|(name, read_only)| is(name) || is(read_only))
}

/// The kind of script that a command runs, if it runs one.
pub(crate) fn script(command: &Command) -> Option<Script> {
    let is_function = command.is(0, b"fcall") || command.is(0, b"fcall_ro");
    is_script(command).then_some(if is_function { Script::Function } else { Script::Eval })
}
