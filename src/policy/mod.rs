//! Which commands clients may send.
//!
//! [`Policy`] decides by what the backends' `COMMAND` says, and by the exceptions in [`rules`]. It
//! takes commands as values, and knows no sockets.

mod errors;
mod merge;
mod rules;
pub(crate) mod scripts;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use self::errors::{c_string, no_table, not_in_transaction, not_served};
use self::merge::{Merge, add_local};
pub use self::table::CommandTable;
use self::table::Name;
pub use self::verdict::{LocalCommand, Refused, Subscription, Verdict};
use crate::metrics::{Counter, Refusal};
use crate::resp::Command;

/// Longer names are unknown. No command of Redis or of its known modules has half as much.
const MAX_NAME_BYTES: usize = 64;

/// Commands that do not exist are counted by this name.
const UNKNOWN: &str = "(unknown)";

/// Commands that run a script or a function which only reads.
const SCRIPTS: [&[u8]; 3] = [b"eval_ro", b"evalsha_ro", b"fcall_ro"];

/// Commands that pass only where the configuration says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// KEYS (`--allow-keys`).
    pub keys: bool,
    /// Scripts and functions that only read (`--allow-scripts`).
    pub scripts: bool,
}

/// What all ready backends together allow.
#[derive(Debug)]
pub struct Policy {
    commands: Rules,
    is_empty: bool,
    /// How many commands were asked for that do not exist.
    unknown: Arc<Counter>,
}

/// The rules by the names of commands, or of one command's subcommands.
type Rules = FxHashMap<Name, CommandRule>;

/// One command or subcommand, as all backends together see it.
#[derive(Debug)]
struct CommandRule {
    /// As in errors: `get`, `config|get`.
    full_name: Box<[u8]>,
    /// The number of arguments with the name; negative where there may be more.
    arity: i64,
    shape: Shape,
    action: Action,
    subcommands: Rules,
    /// The error for subcommands that are not listed; `None`: that they are unknown.
    unlisted: Option<Refused>,
    /// How often clients asked for it.
    count: Arc<Counter>,
}

#[derive(Debug)]
enum Action {
    Forward,
    /// For XREAD: forwarded if it has no BLOCK.
    ForwardUnlessBlock,
    Local(LocalCommand),
    Refuse(Refused),
}

/// How a command works, as far as the backends say.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Whether each of them flags it `fast`.
    pub is_fast: bool,
    /// The number of the argument that is its first key; 0 where that depends.
    first_key: u8,
}

impl Shape {
    /// The number of the argument that tells a command from others of its name: its first key, or
    /// the script that it runs.
    pub(crate) fn key_arg(self, command: &Command) -> usize {
        let is_number = |arg: &[u8]| arg.iter().all(u8::is_ascii_digit);
        match self.first_key {
            // Some begin with the number of their keys.
            0 if !is_script(command) && command.arg(1).is_some_and(is_number) => 2,
            0 => 1,
            first_key => usize::from(first_key),
        }
    }
}

/// What a client lets a server run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// A script, by `EVAL_RO` or `EVALSHA_RO`.
    Eval,
    /// A function of a library, by `FCALL_RO`.
    Function,
}

/// Whether this runs a script or a function: nobody knows how long that takes.
pub(crate) fn is_script(command: &Command) -> bool {
    SCRIPTS.iter().any(|name| command.name().eq_ignore_ascii_case(name))
}

/// The kind of script that a command runs, if it runs one.
pub(crate) fn script(command: &Command) -> Option<Script> {
    let is_function = command.name().eq_ignore_ascii_case(b"fcall_ro");
    is_script(command).then_some(if is_function { Script::Function } else { Script::Eval })
}

impl Policy {
    /// Merges the tables of all ready backends. Without any, only the session's own commands are
    /// served.
    pub fn new(tables: &[Arc<CommandTable>], allowed: Allowed) -> Self {
        let maps: Vec<_> = tables.iter().map(|table| &table.commands).collect();
        let mut commands = Merge { tables: tables.len(), allowed }.rules("", &maps);
        for &(path, arity, local) in rules::LOCAL {
            add_local(&mut commands, path, arity, local);
        }
        Self { commands, is_empty: tables.is_empty(), unknown: Arc::default() }
    }

    /// Goes on counting where an older policy has begun, which may still be in use.
    pub(crate) fn share_counts(&mut self, older: &Self) {
        self.unknown = Arc::clone(&older.unknown);
        share_counts(&mut self.commands, &older.commands);
    }

    /// How often clients asked for each command that they asked for at all, sorted by name.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = vec![(UNKNOWN.to_owned(), self.unknown.get())];
        add_counts(&self.commands, &mut counts);
        counts.retain(|(_, count)| *count > 0);
        counts.sort_unstable();
        counts
    }

    /// Whether no backend has said yet which commands it knows.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Decides about a command outside of a transaction, without counting it. As in Redis, the number
    /// of its arguments is checked after whether it exists and before whether it is allowed.
    pub fn verdict(&self, command: &Command) -> Verdict {
        verdict(command, self.find(command))
    }

    /// Decides about a command that has just come, and counts it.
    pub(crate) fn judge(&self, command: &Command) -> (Verdict, Shape) {
        let found = self.find(command);
        let mut shape = Shape::default();
        match &found {
            Ok(rule) => {
                rule.count.add_one();
                shape = rule.shape;
            }
            Err(refused) if refused.why == Refusal::UnknownCommand => self.unknown.add_one(),
            // No backend has said yet which commands there are.
            Err(_) => {}
        }
        (verdict(command, found), shape)
    }

    /// How a command works, as far as the backends say.
    pub(crate) fn shape(&self, command: &Command) -> Shape {
        self.find(command).map_or(Shape::default(), |rule| rule.shape)
    }

    /// Decides about a command between MULTI and EXEC, without counting it. `Forward` means that the
    /// backend queues it; a `Local` one (MULTI, EXEC, DISCARD, WATCH, RESET, QUIT) acts at once;
    /// `Refuse` makes EXEC fail.
    pub fn verdict_in_transaction(&self, command: &Command) -> Verdict {
        in_transaction(command, self.verdict(command))
    }

    /// Decides about a command that has just come between MULTI and EXEC, and counts it.
    pub(crate) fn judge_in_transaction(&self, command: &Command) -> Verdict {
        in_transaction(command, self.judge(command).0)
    }

    /// The name of a command or subcommand, such as `config|get`.
    pub(crate) fn full_name<'a>(&'a self, command: &Command<'a>) -> &'a [u8] {
        self.find(command).map_or(command.name(), |rule| &rule.full_name)
    }

    /// Finds a command's rule, or the error for a command that does not exist.
    fn find(&self, command: &Command) -> Result<&CommandRule, Refused> {
        let Some(rule) = look_up(&self.commands, command.name()) else {
            return Err(self.no_such(errors::unknown_command(command)));
        };
        match command.arg(1) {
            Some(name) if !rule.subcommands.is_empty() => look_up(&rule.subcommands, name)
                .ok_or_else(|| match &rule.unlisted {
                    Some(refused) => refused.clone(),
                    None => self.no_such(errors::unknown_subcommand(command.name(), name)),
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
        Action::ForwardUnlessBlock if has_block(command) => {
            Verdict::Refuse(not_served("XREAD with BLOCK", rules::NO_BLOCK))
        }
        Action::ForwardUnlessBlock => Verdict::Forward,
        Action::Local(local) => Verdict::Local(*local),
        Action::Refuse(refused) => Verdict::Refuse(refused.clone()),
    }
}

/// Turns the verdict outside of a transaction into that within one.
fn in_transaction(command: &Command, verdict: Verdict) -> Verdict {
    use LocalCommand::{Discard, Echo, Exec, Multi, Ping, Quit, Reset, Time, Unwatch, Watch};
    let is_about_session =
        || [&b"client"[..], b"command", b"config"].iter().any(|name| command.is(0, name));
    match verdict {
        Verdict::Local(Ping | Echo | Time | Unwatch) => Verdict::Forward,
        Verdict::Local(Multi | Exec | Discard | Watch | Reset | Quit) => verdict,
        Verdict::Local(_) => Verdict::Refuse(not_in_transaction(command)),
        Verdict::Forward if is_about_session() => Verdict::Refuse(not_in_transaction(command)),
        other => other,
    }
}

impl CommandRule {
    fn takes(&self, arg_count: usize) -> bool {
        let count = i64::try_from(arg_count).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= self.arity.saturating_neg() } else { count == self.arity }
    }

    fn arity_error(&self) -> Vec<u8> {
        // Redis words this one otherwise: EXEC ends its transaction even so.
        let code: &[u8] = match self.action {
            Action::Local(LocalCommand::Exec) => b"EXECABORT Transaction discarded because of:",
            _ => b"ERR",
        };
        [code, b" wrong number of arguments for '", &*self.full_name, b"' command"].concat()
    }
}

fn share_counts(rules: &mut Rules, older: &Rules) {
    for (name, rule) in rules {
        if let Some(older) = older.get(name) {
            rule.count = Arc::clone(&older.count);
            share_counts(&mut rule.subcommands, &older.subcommands);
        }
    }
}

fn add_counts(rules: &Rules, counts: &mut Vec<(String, u64)>) {
    for rule in rules.values() {
        counts.push((String::from_utf8_lossy(&rule.full_name).into_owned(), rule.count.get()));
        add_counts(&rule.subcommands, counts);
    }
}

/// Finds a name in capitals or not, without allocating.
fn look_up<'a>(rules: &'a Rules, name: &[u8]) -> Option<&'a CommandRule> {
    let mut buffer = [0; MAX_NAME_BYTES];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    rules.get(&*lower)
}

/// Whether a web browser sent this: Redis's check against cross-protocol scripting.
fn is_http(name: &[u8]) -> bool {
    let name = c_string(name, b"host:".len() + 1);
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Whether XREAD has BLOCK among its options, which end at STREAMS. Words that are no options are
/// skipped: the backend refuses them.
fn has_block(command: &Command) -> bool {
    let mut options = command.args().skip(1);
    while let Some(option) = options.next() {
        // Redis compares up to a NUL.
        let option = c_string(option, b"STREAMS".len() + 1);
        let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
        if is(b"BLOCK") || is(b"STREAMS") {
            return is(b"BLOCK");
        }
        if is(b"COUNT") {
            options.next();
        }
    }
    false
}
