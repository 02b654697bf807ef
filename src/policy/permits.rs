//! The decision whether a user may run a command on its keys and channels.

use std::collections::BTreeSet;

use super::Policy;
use super::command_rule::{CommandRule, look_up};
use super::users::{Missing, User};
use super::verdict::one_line;
use crate::resp::Command;

/// The kind of permission that is lacking, as metrics and the log name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// The permission to run the command.
    Command,
    /// The permission to read one of its keys, or to read every key, if the command may show any.
    Key,
    /// The permission to subscribe to one of its channels.
    Channel,
}

/// The error for a command that the user may not run as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The kind of permission that is lacking.
    pub lacking: Lacking,
    /// Code and text of the error as Redis 7.2 has it, without CR and LF; perhaps not UTF-8.
    pub error: Vec<u8>,
}

impl Policy {
    /// Decides whether a user may run a command. A command that does not exist, or has a wrong number of arguments,
    /// is none of its concern: as in Redis, [`Policy::verdict`] refuses it first.
    ///
    /// AUTH, HELLO, QUIT and RESET are always permitted. SCAN is permitted to users with key patterns: its replies have
    /// to be filtered by [`User::may_read_key`].
    pub fn permits(&self, user: &User, command: &Command) -> Result<(), Denied> {
        if user.is_unrestricted() {
            return Ok(());
        }
        let Ok(rule) = self.find(command) else { return Ok(()) };
        let mut checks = rule.access.iter().map(|access| user.check(access, command));
        match checks.find_map(Result::err) {
            None => Ok(()),
            Some(missing) => Err(denied(user, &rule.full_name, missing)),
        }
    }

    /// Like [`permits`](Self::permits), where no verdict comes first: a command that no backend has named is not
    /// permitted, as its categories and keys are unknown.
    pub fn permits_known(&self, user: &User, command: &Command) -> Result<(), Denied> {
        if !user.is_unrestricted() && self.find(command).is_err() {
            let error =
                [b"NOPERM no backend has said yet what '", command.name(), b"' does"].concat();
            return Err(Denied { lacking: Lacking::Command, error: one_line(error) });
        }
        self.permits(user, command)
    }

    /// The commands in a user's rules that no backend knows, sorted; none as long as no backend has answered. They may be
    /// misspelt: `-flushal` would refuse nothing.
    pub fn unknown_commands(&self, user: &User) -> Vec<String> {
        let mut unknown = BTreeSet::new();
        if !self.is_empty {
            unknown.extend(user.named_commands().filter(|name| !self.knows(name)));
        }
        unknown.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Whether there is a command of this name, such as `config|get`, or one of which it may be the first argument.
    fn knows(&self, name: &[u8]) -> bool {
        let bar = name.iter().position(|&byte| byte == b'|');
        let (command, part) = name.split_at(bar.unwrap_or(name.len()));
        let has_part = |rule: &CommandRule| match part.split_first() {
            None => true,
            Some((_, part)) => {
                rule.subcommands.is_empty()
                    || rule.unlisted.is_some()
                    || look_up(&rule.subcommands, part).is_some()
            }
        };
        // Servers may have renamed it; rules are about the name that it had before.
        let is_old_name = |rule: &CommandRule| rule.access.iter().any(|own| *own.name == *command);
        look_up(&self.commands, command).is_some_and(has_part)
            || self.commands.values().any(|rule| is_old_name(rule) && has_part(rule))
    }
}

/// Addition to Redis's error for a command that Redis would perhaps permit.
const UNKNOWN_KEYS: &str =
    ": redis-lb can't tell which keys it reads, and this user may not read all keys";

fn denied(user: &User, name: &[u8], missing: Missing) -> Denied {
    let no_command = |why: &str| {
        let user = user.name().as_bytes();
        let error: [&[u8]; 6] = [
            b"NOPERM User ",
            user,
            b" has no permissions to run the '",
            name,
            b"' command",
            why.as_bytes(),
        ];
        error.concat()
    };
    let (lacking, error) = match missing {
        Missing::Command => (Lacking::Command, no_command("")),
        Missing::AllKeys => (Lacking::Key, no_command(UNKNOWN_KEYS)),
        Missing::Key(_) => (Lacking::Key, b"NOPERM No permissions to access a key".to_vec()),
        Missing::SortOption(option) => {
            let error =
                format!("ERR {option} option of SORT denied due to insufficient ACL permissions.");
            (Lacking::Key, error.into_bytes())
        }
        Missing::Channel(_) => {
            (Lacking::Channel, b"NOPERM No permissions to access a channel".to_vec())
        }
    };
    Denied { lacking, error: one_line(error) }
}
