//! The rule for each command, as all backends together see it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::access::Access;
use super::shape::Shape;
use super::table::Name;
use super::verdict::{LocalCommand, Refused};
use crate::metrics::{CommandTimes, Counter};

/// Longer names are unknown. No command of Redis or of its known modules has half as much.
const MAX_NAME_BYTES: usize = 64;

/// The rules by the names of commands, or of one command's subcommands.
pub(super) type Rules = FxHashMap<Name, CommandRule>;

/// One command or subcommand, as all backends together see it.
#[derive(Debug)]
pub(super) struct CommandRule {
    /// As in errors: `get`, `config|get`.
    pub full_name: Box<[u8]>,
    /// The number of arguments with the name; negative if there may be more.
    pub arity: i64,
    pub shape: Shape,
    pub action: Action,
    pub subcommands: Rules,
    /// The error for subcommands that are not listed; `None` if those are unknown.
    pub unlisted: Option<Refused>,
    /// What the rules of users ask, as the backends say: usually all the same.
    pub access: Vec<Access>,
    /// How often clients sent it.
    pub count: Arc<Counter>,
}

#[derive(Debug)]
pub(super) enum Action {
    Forward,
    /// It is forwarded if it has no BLOCK, else the session reads and waits: XREAD.
    ForwardUnlessBlock,
    /// It is forwarded unless its reply has a cursor, or it names one: commands that search indexes.
    ForwardUnlessCursor,
    Local(LocalCommand),
    Refuse(Refused),
}

impl CommandRule {
    pub fn takes(&self, arg_count: usize) -> bool {
        let count = i64::try_from(arg_count).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= self.arity.saturating_neg() } else { count == self.arity }
    }

    pub fn arity_error(&self) -> Vec<u8> {
        // Redis words this one otherwise: EXEC ends its transaction even so.
        let code: &[u8] = match self.action {
            Action::Local(LocalCommand::Exec) => b"EXECABORT Transaction discarded because of:",
            _ => b"ERR",
        };
        [code, b" wrong number of arguments for '", &*self.full_name, b"' command"].concat()
    }
}

pub(super) fn share_counts(rules: &mut Rules, older: &Rules) {
    for (name, rule) in rules {
        if let Some(older) = older.get(name) {
            rule.count = Arc::clone(&older.count);
            share_counts(&mut rule.subcommands, &older.subcommands);
        }
    }
}

/// Gives each command that may be answered the number under which it is timed.
pub(super) fn number(rules: &mut Rules, times: &CommandTimes) {
    for rule in rules.values_mut() {
        if !matches!(rule.action, Action::Refuse(_)) {
            rule.shape.id = times.number(&String::from_utf8_lossy(&rule.full_name));
        }
        number(&mut rule.subcommands, times);
    }
}

/// Adds the names and counts of the commands that were sent at all.
pub(super) fn add_counts(rules: &Rules, counts: &mut Vec<(String, u64)>) {
    for rule in rules.values() {
        let count = rule.count.get();
        if count > 0 {
            counts.push((String::from_utf8_lossy(&rule.full_name).into_owned(), count));
        }
        add_counts(&rule.subcommands, counts);
    }
}

/// Finds a name in any case, without allocating.
pub(super) fn look_up<'a>(rules: &'a Rules, name: &[u8]) -> Option<&'a CommandRule> {
    let mut buffer = [0; MAX_NAME_BYTES];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    rules.get(&*lower)
}
