//! A transaction: the commands since MULTI. Reads are gathered and go to a backend with the EXEC, all at once, so that a
//! client that ponders holds no connection.

use crate::backend::Class;
use crate::balance::slow::{Kinds, MAX_FAST_ARGUMENTS, ReadInfo, ReadKey, shown};
use crate::policy::users::User;
use crate::policy::{self, Policy, Script, Shape, Verdict};
use crate::resp::{self, Command, CommandParser};

/// The most that may be queued between MULTI and EXEC.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// Commands that were sent since MULTI.
#[derive(Default)]
pub struct Transaction {
    commands: Vec<u8>,
    pub count: usize,
    /// How many arguments the commands have together.
    arguments: usize,
    /// Key by which the slow lane knows all of it together.
    key: Option<ReadKey>,
    /// Keys of its reads that are not fast, each once.
    parts: Vec<ReadKey>,
    /// Its first read that is not fast, for the log.
    label: String,
    pub script: Option<Script>,
    /// Whether there is an ACL WHOAMI, which the backend can't answer.
    has_whoami: bool,
    /// Whether something was refused, so that EXEC will be.
    pub is_aborted: bool,
}

impl Transaction {
    /// Adds a command.
    ///
    /// # Errors
    /// The error reply, when there is no room: then EXEC will be refused.
    pub fn add(&mut self, command: &Command, shape: Shape, key: ReadKey) -> Result<(), String> {
        if self.commands.len() + command.bytes().len() > MAX_QUEUED_BYTES {
            self.abort();
            let max = MAX_QUEUED_BYTES / 1024;
            return Err(format!("ERR at most {max} KiB may be queued behind MULTI"));
        }
        if self.is_aborted {
            return Ok(());
        }
        self.commands.extend_from_slice(command.bytes());
        self.count += 1;
        self.arguments += command.arg_count();
        self.script = self.script.or(policy::script(command));
        self.has_whoami |= is_whoami(command);
        self.key = Some(self.key.map_or(key, |before| before.with(key)));
        if !key.is_fast && self.is_short() && !self.parts.contains(&key) {
            self.parts.push(key);
        }
        if self.label.is_empty() && !key.is_fast {
            let key = command.arg(shape.key_arg(command)).unwrap_or_default();
            self.label = shown(b"MULTI", command.name()) + &shown(b"", key);
        }
        Ok(())
    }

    /// How much memory it takes. What is sent with the EXEC is a copy of it.
    pub fn held_bytes(&self) -> usize {
        2 * self.commands.capacity() + self.parts.capacity() * size_of::<ReadKey>()
    }

    /// EXEC will be refused.
    pub fn abort(&mut self) {
        self.is_aborted = true;
        self.commands = Vec::new();
    }

    /// Key by which the slow lane knows all of it: it is one read.
    pub fn read_key(&self) -> Option<ReadKey> {
        let key = self.key?;
        Some(ReadKey { is_fast: key.is_fast && self.is_short(), ..key })
    }

    /// Returns what is known of how long it takes. All of one with few arguments is quick if each read is.
    pub fn class(&self, kinds: &Kinds) -> Option<Class> {
        let key = self.read_key()?;
        Some(match self.is_short() {
            true => kinds.class_together(&key, &self.parts),
            false => kinds.class(&key),
        })
    }

    fn is_short(&self) -> bool {
        self.arguments <= MAX_FAST_ARGUMENTS
    }

    pub fn read_info(&self, class: Class) -> ReadInfo {
        let keys = self.read_key().into_iter().collect();
        ReadInfo { class, keys, label: self.label.clone(), is_alone: false, context: None }
    }

    /// Whether all of it is still allowed.
    pub fn may_pass(&self, policy: &Policy, user: Option<&User>) -> bool {
        let mut parser = CommandParser::new(usize::MAX);
        let mut rest = &self.commands[..];
        while let Ok((length, Some(command))) = parser.parse(rest) {
            if policy.verdict_in_transaction_for(user, &command) != Verdict::Forward {
                return false;
            }
            rest = &rest[length..];
        }
        rest.is_empty()
    }

    /// All of it, as a backend gets it. That does not know the user, whose name it only echoes.
    pub fn whole(&self, user: &str) -> Vec<u8> {
        let [multi, exec] = ["MULTI", "EXEC"].map(|name| resp::command(name).into_bytes());
        match self.has_whoami {
            true => [&multi[..], &with_name(&self.commands, user), &exec].concat(),
            false => [&multi[..], &self.commands, &exec].concat(),
        }
    }
}

fn is_whoami(command: &Command) -> bool {
    command.is(0, b"acl") && command.is(1, b"whoami")
}

/// The commands with an ECHO of the user's name in the place of each ACL WHOAMI: both replies have one form.
fn with_name(commands: &[u8], user: &str) -> Vec<u8> {
    let (mut named, mut rest) = (Vec::new(), commands);
    let mut parser = CommandParser::new(usize::MAX);
    while let Ok((length, Some(command))) = parser.parse(rest) {
        match is_whoami(&command) {
            true => resp::command("ECHO").arg(user).append_to(&mut named),
            false => named.extend_from_slice(command.bytes()),
        }
        rest = &rest[length..];
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_echoes_the_name_that_it_does_not_know() {
        let encoded = |words: &str| resp::command(words).into_bytes();
        let whoami = resp::command("Acl").arg("WHOAMI").into_bytes();
        let get = resp::command("GET").arg("whoami").into_bytes();
        let echo = resp::command("ECHO").arg("ada").into_bytes();
        let mut transaction = Transaction { commands: get.clone(), ..Transaction::default() };
        let whole = [&encoded("MULTI")[..], &get, &encoded("EXEC")].concat();
        assert_eq!(transaction.whole("ada"), whole);
        transaction.commands = [&whoami[..], &get, &whoami].concat();
        transaction.has_whoami = true;
        let whole = [&encoded("MULTI")[..], &echo, &get, &echo, &encoded("EXEC")].concat();
        assert_eq!(transaction.whole("ada"), whole);
    }
}
