//! Which commands clients may send.
//!
//! [`Policy`] decides by what the backends' `COMMAND` says of each command, and by the exceptions in `rules.rs`.

mod access;
pub mod cacheable;
mod categories;
mod command_rule;
mod gate;
mod key_specs;
mod merge;
mod permits;
#[cfg(test)]
mod permits_tests;
mod rules;
pub(crate) mod scripts;
mod shape;
mod table;
#[cfg(test)]
mod tests;
pub mod users;
mod verdict;
mod xread;

use std::sync::Arc;

use self::command_rule::{Action, CommandRule, Rules, add_counts, look_up, number, share_counts};
pub(crate) use self::gate::tells_keys;
pub use self::merge::Allowed;
use self::merge::{Merge, add_local, admit_scripts};
pub use self::permits::{Denied, Lacking};
pub use self::shape::{Script, Shape};
pub(crate) use self::shape::{is_script, script};
pub use self::table::CommandTable;
use self::users::User;
pub use self::verdict::{LocalCommand, Refused, Subscription, Verdict};
use self::verdict::{c_string, no_table, not_in_transaction};
pub(crate) use self::xread::XreadOptions;
use crate::metrics::{CommandTimes, Counter, Refusal};
use crate::resp::Command;

/// Name under which commands are counted that do not exist.
const UNKNOWN: &str = "(unknown)";

/// The rules for all commands, from the tables of all ready backends.
#[derive(Debug)]
pub struct Policy {
    commands: Rules,
    is_empty: bool,
    /// Number of commands that clients sent and that do not exist.
    unknown: Arc<Counter>,
}

impl Policy {
    /// Merges the tables of all ready backends. Without any, only commands that the session answers are served.
    pub fn new(tables: &[Arc<CommandTable>], allowed: Allowed) -> Self {
        let maps: Vec<_> = tables.iter().map(|table| &table.commands).collect();
        let mut commands = Merge { tables: tables.len(), allowed }.rules("", &maps);
        rules::LOCAL.iter().for_each(|row| add_local(&mut commands, row));
        if allowed.scripts {
            rules::LOCAL_WITH_SCRIPTS.iter().for_each(|row| add_local(&mut commands, row));
            admit_scripts(&mut commands);
        }
        Self { commands, is_empty: tables.is_empty(), unknown: Arc::default() }
    }

    /// Shares the counters of an older policy, which may still be in use.
    pub(crate) fn share_counts(&mut self, older: &Self) {
        self.unknown = Arc::clone(&older.unknown);
        share_counts(&mut self.commands, &older.commands);
    }

    /// Has replies to each command timed under its name.
    pub(crate) fn time_commands(&mut self, times: &CommandTimes) {
        number(&mut self.commands, times);
    }

    /// How often clients sent each command that they sent at all, sorted by name.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = vec![(UNKNOWN.to_owned(), self.unknown.get())];
        add_counts(&self.commands, &mut counts);
        counts.retain(|(_, count)| *count > 0);
        counts.sort_unstable();
        counts
    }

    /// Whether no backend has answered `COMMAND` yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Decides about a command outside of a transaction, without counting it.
    ///
    /// As in Redis, a command that does not exist is refused first, then one with a wrong number of
    /// arguments, then one that is not allowed.
    pub fn verdict(&self, command: &Command) -> Verdict {
        verdict(command, self.find(command))
    }

    /// Decides about a command of this user outside of a transaction, without counting it; nobody is a client that has to
    /// log in.
    pub fn verdict_for(&self, user: Option<&User>, command: &Command) -> Verdict {
        gate::for_user(self, user, command, self.verdict(command))
    }

    /// Decides about a command of this user that has just arrived, and counts it.
    pub(crate) fn judge(&self, user: Option<&User>, command: &Command) -> (Verdict, Shape) {
        let found = self.find(command);
        let mut shape = Shape::default();
        match &found {
            Ok(rule) => {
                rule.count.add_one();
                shape = rule.shape;
            }
            Err(refused) if refused.why == Refusal::UnknownCommand => self.unknown.add_one(),
            // No backend has answered `COMMAND` yet.
            Err(_) => {}
        }
        (gate::for_user(self, user, command, verdict(command, found)), shape)
    }

    /// Whether any backend knows a time to live for the fields of a hash.
    pub fn has_field_ttl(&self) -> bool {
        look_up(&self.commands, b"hpttl").is_some()
    }

    /// How a command works, as far as the backends say.
    pub fn shape(&self, command: &Command) -> Shape {
        self.find(command).map_or(Shape::default(), |rule| rule.shape)
    }

    /// Decides about a command between MULTI and EXEC, without counting it.
    ///
    /// `Forward` means that the backend queues it, `Local` (MULTI, EXEC, DISCARD, WATCH, RESET, QUIT) that it
    /// acts at once, and `Refuse` that EXEC fails.
    pub fn verdict_in_transaction(&self, command: &Command) -> Verdict {
        in_transaction(command, self.verdict(command))
    }

    /// Decides about a command of this user between MULTI and EXEC, without counting it.
    pub fn verdict_in_transaction_for(&self, user: Option<&User>, command: &Command) -> Verdict {
        in_transaction(command, self.verdict_for(user, command))
    }

    /// Decides about a command of this user that has just arrived between MULTI and EXEC, and counts it.
    pub(crate) fn judge_in_transaction(
        &self,
        user: Option<&User>,
        command: &Command,
    ) -> (Verdict, Shape) {
        let (verdict, shape) = self.judge(user, command);
        (in_transaction(command, verdict), shape)
    }

    /// The name of a command or subcommand, such as `config|get`.
    pub(crate) fn full_name<'a>(&'a self, command: &Command<'a>) -> &'a [u8] {
        self.find(command).map_or(command.name(), |rule| &rule.full_name)
    }

    /// Finds a command's rule, or the error for a command that does not exist.
    fn find(&self, command: &Command) -> Result<&CommandRule, Refused> {
        let Some(rule) = look_up(&self.commands, command.name()) else {
            return Err(self.no_such(verdict::unknown_command(command)));
        };
        match command.arg(1) {
            Some(name) if !rule.subcommands.is_empty() => look_up(&rule.subcommands, name)
                .ok_or_else(|| match &rule.unlisted {
                    Some(refused) => refused.clone(),
                    None => self.no_such(verdict::unknown_subcommand(command.name(), name)),
                }),
            _ => Ok(rule),
        }
    }

    fn no_such(&self, error: Vec<u8>) -> Refused {
        match self.is_empty {
            true => no_table(),
            false => Refused::new(Refusal::UnknownCommand, error),
        }
    }
}

fn verdict(command: &Command, found: Result<&CommandRule, Refused>) -> Verdict {
    if is_http(command.name()) {
        return Verdict::Close;
    }
    let rule = match found {
        Ok(rule) => rule,
        Err(unknown) => return Verdict::Refuse(unknown),
    };
    if !rule.takes(command.arg_count()) {
        return Verdict::Refuse(Refused::new(Refusal::BadRequest, rule.arity_error()));
    }
    match &rule.action {
        Action::Forward => Verdict::Forward,
        Action::ForwardUnlessBlock if XreadOptions::of(command).may_block() => {
            Verdict::Local(LocalCommand::BlockingXread)
        }
        Action::ForwardUnlessBlock => Verdict::Forward,
        Action::ForwardUnlessCursor => search(command),
        Action::Local(local) => Verdict::Local(*local),
        Action::Refuse(refused) => Verdict::Refuse(refused.clone()),
    }
}

/// Turns the verdict outside of a transaction into that within one.
fn in_transaction(command: &Command, verdict: Verdict) -> Verdict {
    use LocalCommand::{
        AclWhoAmI, BlockingXread, Discard, Echo, Exec, Multi, Ping, Quit, Reset, ScriptExists,
        ScriptLoad, Time, Unwatch, Watch,
    };
    let is_about_session =
        || [&b"client"[..], b"command", b"config"].iter().any(|name| command.is(0, name));
    match verdict {
        // Between MULTI and EXEC, nothing blocks.
        Verdict::Local(
            AclWhoAmI | BlockingXread | Echo | Ping | ScriptExists | ScriptLoad | Time | Unwatch,
        ) => Verdict::Forward,
        Verdict::Local(Multi | Exec | Discard | Watch | Reset | Quit) => verdict,
        Verdict::Local(_) => Verdict::Refuse(not_in_transaction(command)),
        Verdict::Forward if is_about_session() => Verdict::Refuse(not_in_transaction(command)),
        other => other,
    }
}

/// Decides about a command that searches an index: the session handles those that have to do with a cursor.
fn search(command: &Command) -> Verdict {
    let names_cursor =
        || (command.is(1, b"read") || command.is(1, b"del")) && command.arg_count() > 3;
    match command.is(0, b"ft.cursor") {
        true if names_cursor() => Verdict::Local(LocalCommand::SearchCursor),
        // After the index and the query. Where it is a value, the reply shows that.
        false if command.args().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"WITHCURSOR")) => {
            Verdict::Local(LocalCommand::SearchPage)
        }
        _ => Verdict::Forward,
    }
}

/// Whether a web browser sent this: Redis's check against cross-protocol scripting.
fn is_http(name: &[u8]) -> bool {
    let name = c_string(name, b"host:".len() + 1);
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}
