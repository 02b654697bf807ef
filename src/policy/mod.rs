//! Which commands a reader may send: decides by what the backends say of each command, and by a
//! few rules beyond that. Takes bytes, knows nothing of sockets.

mod rules;
pub mod scripts;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::balance::slow::Script;
use crate::metrics::{Counter, Refusal};
use crate::resp::Command;
pub use table::CommandTable;
use table::{Flags, Name, Row};

/// Longer names are unknown. No command of Redis or of its known modules has half as much.
const MAX_NAME_BYTES: usize = 64;

/// What Redis quotes of an unknown command's name, and of its arguments together.
const MAX_QUOTED_BYTES: usize = 128;

/// What commands that do not exist are counted as.
const UNKNOWN: &str = "(unknown)";

/// What runs a script or a function that only reads.
const SCRIPTS: [&[u8]; 3] = [b"eval_ro", b"evalsha_ro", b"fcall_ro"];

/// What becomes of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a backend as it is.
    Forward,
    /// The session handles it.
    Local(LocalCommand),
    /// It is answered with an error.
    Refuse(Refused),
    /// It is HTTP (`POST` or `Host:`): the connection is closed, as Redis does, since a browser
    /// may have been tricked into sending what follows.
    Close,
}

/// What a command gets that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why, as it is counted.
    pub why: Refusal,
    /// The error's code and text, without CR and LF, perhaps not UTF-8.
    pub error: Vec<u8>,
}

impl Refused {
    fn new(why: Refusal, error: impl Into<Vec<u8>>) -> Self {
        Self { why, error: error.into() }
    }
}

/// Commands that the session itself answers or handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalCommand {
    /// PING
    Ping,
    /// ECHO
    Echo,
    /// QUIT
    Quit,
    /// RESET
    Reset,
    /// TIME
    Time,
    /// READONLY, READWRITE
    ClusterMode,
    /// HELLO
    Hello,
    /// AUTH
    Auth,
    /// CLIENT SETNAME
    ClientSetName,
    /// CLIENT GETNAME
    ClientGetName,
    /// CLIENT SETINFO
    ClientSetInfo,
    /// CLIENT ID
    ClientId,
    /// CLIENT INFO
    ClientInfo,
    /// CLIENT REPLY
    ClientReply,
    /// CLIENT NO-EVICT, CLIENT NO-TOUCH
    ClientOk,
    /// SELECT
    Select,
    /// INFO
    Info,
    /// CONFIG GET
    ConfigGet,
    /// SCAN, HSCAN, SSCAN, ZSCAN
    Scan {
        /// Which argument the cursor is; the name is number 0.
        cursor_arg: usize,
    },
    /// MULTI
    Multi,
    /// EXEC
    Exec,
    /// DISCARD
    Discard,
    /// WATCH
    Watch,
    /// UNWATCH
    Unwatch,
    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE
    Subscribe(Subscription),
    /// UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE
    Unsubscribe(Subscription),
}

/// What a client subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// A channel by name.
    Channel,
    /// All channels that match a pattern.
    Pattern,
    /// A shard channel.
    Shard,
}

/// What passes only because we were told so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// KEYS (`--allow-keys`).
    pub keys: bool,
    /// Scripts and functions that only read (`--allow-scripts`).
    pub scripts: bool,
}

impl Allowed {
    /// Why a command does not pass that would, had we been told so; `None` for all others.
    fn switched_off(self, path: &str) -> Option<&'static str> {
        match path {
            "keys" if !self.keys => Some(rules::KEYS_OFF),
            "eval_ro" | "evalsha_ro" if !self.scripts => Some(rules::SCRIPTS_OFF),
            "fcall_ro" if !self.scripts => Some(rules::FUNCTIONS_OFF),
            _ => None,
        }
    }
}

/// What all ready backends together allow.
#[derive(Debug)]
pub struct Policy {
    commands: FxHashMap<Name, Entry>,
    is_empty: bool,
    /// How many commands were asked for that do not exist.
    unknown: Arc<Counter>,
}

/// One command or subcommand, as all backends together see it.
#[derive(Debug)]
struct Entry {
    full_name: Box<[u8]>,
    arity: i64,
    shape: Shape,
    action: Action,
    subcommands: FxHashMap<Name, Entry>,
    /// What subcommands are told that are not among those; `None`: that they are unknown.
    unlisted: Option<Refused>,
    /// How often it was asked for.
    count: Arc<Counter>,
}

/// What the backends say of how a command works.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Whether each of them flags it `fast`.
    pub is_fast: bool,
    /// The number of the argument that is its first key; 0 where that depends.
    first_key: u8,
}

impl Shape {
    /// The number of the argument by which a command is told from others of its name.
    pub fn key_arg(self, command: &Command) -> usize {
        let is_number = |arg: &[u8]| arg.iter().all(u8::is_ascii_digit);
        match self.first_key {
            // Some begin with the number of their keys; of a script, its text is first.
            0 if !is_script(command) && command.arg(1).is_some_and(is_number) => 2,
            0 => 1,
            first_key => usize::from(first_key),
        }
    }
}

#[derive(Debug)]
enum Action {
    Forward,
    /// XREAD: forwarded if it has no BLOCK.
    ForwardUnlessBlock,
    Local(LocalCommand),
    Refuse(Refused),
}

/// Whether this runs a script or a function, of which nobody knows how long it takes.
pub fn is_script(command: &Command) -> bool {
    SCRIPTS.iter().any(|name| command.name().eq_ignore_ascii_case(name))
}

/// What a command runs that is the client's own.
pub fn script(command: &Command) -> Option<Script> {
    let is_function = command.name().eq_ignore_ascii_case(b"fcall_ro");
    is_script(command).then_some(if is_function { Script::Function } else { Script::Eval })
}

impl Policy {
    /// Made of the tables of all ready backends. With none of them, only the session's own
    /// commands are served. What is `allowed` passes as well.
    pub fn new(tables: &[Arc<CommandTable>], allowed: Allowed) -> Self {
        let maps: Vec<_> = tables.iter().map(|table| &table.commands).collect();
        let mut commands = Merge { tables: tables.len(), allowed }.entries("", &maps);
        for &(path, arity, own) in rules::LOCAL {
            add_local(&mut commands, path, arity, own);
        }
        Self { commands, is_empty: tables.is_empty(), unknown: Arc::default() }
    }

    /// Goes on counting where an older policy, which may still be in use, has begun.
    pub fn share_counts(&mut self, older: &Self) {
        self.unknown = Arc::clone(&older.unknown);
        share_counts(&mut self.commands, &older.commands);
    }

    /// How often each command was asked for that was asked for at all; in the order of their names.
    pub fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = vec![(UNKNOWN.to_owned(), self.unknown.get())];
        add_counts(&self.commands, &mut counts);
        counts.retain(|(_, count)| *count > 0);
        counts.sort_unstable();
        counts
    }

    /// Whether no backend has said yet what it knows.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// What becomes of a command outside of a transaction. The number of its arguments is checked
    /// as Redis does: behind whether it exists, before whether it is allowed.
    pub fn verdict(&self, command: &Command) -> Verdict {
        Self::verdict_of(command, self.find(command))
    }

    /// The verdict on a command that has just come, which is counted; and what the backends say of how
    /// it works.
    pub fn judge(&self, command: &Command) -> (Verdict, Shape) {
        let found = self.find(command);
        let mut shape = Shape::default();
        match &found {
            Ok(entry) => {
                entry.count.add_one();
                shape = entry.shape;
            }
            Err(refused) if refused.why == Refusal::UnknownCommand => self.unknown.add_one(),
            // Nobody has said yet what there is.
            Err(_) => {}
        }
        (Self::verdict_of(command, found), shape)
    }

    /// What the backends say of how a command works.
    pub fn shape(&self, command: &Command) -> Shape {
        self.find(command).map_or(Shape::default(), |entry| entry.shape)
    }

    fn verdict_of(command: &Command, found: Result<&Entry, Refused>) -> Verdict {
        if is_http(command.name()) {
            return Verdict::Close;
        }
        let entry = match found {
            Ok(entry) => entry,
            Err(unknown) => return Verdict::Refuse(unknown),
        };
        if !entry.takes(command.arg_count()) {
            return Verdict::Refuse(Refused::new(Refusal::BadRequest, entry.arity_error()));
        }
        match &entry.action {
            Action::Forward => Verdict::Forward,
            Action::ForwardUnlessBlock if has_block(command) => {
                Verdict::Refuse(not_served("XREAD with BLOCK", rules::NO_BLOCK))
            }
            Action::ForwardUnlessBlock => Verdict::Forward,
            Action::Local(own) => Verdict::Local(*own),
            Action::Refuse(refused) => Verdict::Refuse(refused.clone()),
        }
    }

    /// The same between MULTI and EXEC. `Forward` is to be queued by the backend, `LocalCommand` (MULTI,
    /// EXEC, DISCARD, WATCH, RESET, QUIT) acts at once, and `Refuse` makes EXEC fail.
    pub fn verdict_in_transaction(&self, command: &Command) -> Verdict {
        Self::in_transaction(command, self.verdict(command))
    }

    /// The verdict between MULTI and EXEC on a command that has just come, which is counted.
    pub fn judge_in_transaction(&self, command: &Command) -> Verdict {
        Self::in_transaction(command, self.judge(command).0)
    }

    fn in_transaction(command: &Command, verdict: Verdict) -> Verdict {
        use LocalCommand::{Discard, Echo, Exec, Multi, Ping, Quit, Reset, Time, Unwatch, Watch};
        let is_about_session = || {
            let is = |name: &[u8]| command.name().eq_ignore_ascii_case(name);
            is(b"client") || is(b"command") || is(b"config")
        };
        match verdict {
            Verdict::Local(Ping | Echo | Time | Unwatch) => Verdict::Forward,
            Verdict::Local(own @ (Multi | Exec | Discard | Watch | Reset | Quit)) => {
                Verdict::Local(own)
            }
            Verdict::Local(_) => not_in_transaction(command),
            Verdict::Forward if is_about_session() => not_in_transaction(command),
            other => other,
        }
    }

    /// The name of a command or subcommand, such as `config|get`.
    pub fn full_name<'a>(&'a self, command: &Command<'a>) -> &'a [u8] {
        self.find(command).map_or(command.name(), |entry| &entry.full_name)
    }

    /// Finds a command, or what one that does not exist is told.
    fn find(&self, command: &Command) -> Result<&Entry, Refused> {
        let Some(entry) = look_up(&self.commands, command.name()) else {
            return Err(match self.is_empty {
                true => no_table(),
                false => Refused::new(Refusal::UnknownCommand, unknown_command(command)),
            });
        };
        match command.arg(1) {
            Some(name) if !entry.subcommands.is_empty() => look_up(&entry.subcommands, name)
                .ok_or_else(|| match &entry.unlisted {
                    _ if self.is_empty => no_table(),
                    Some(refused) => refused.clone(),
                    None => {
                        let error = unknown_subcommand(command.name(), name);
                        Refused::new(Refusal::UnknownCommand, error)
                    }
                }),
            _ => Ok(entry),
        }
    }
}

impl Entry {
    fn takes(&self, arg_count: usize) -> bool {
        let count = i64::try_from(arg_count).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= self.arity.saturating_neg() } else { count == self.arity }
    }

    fn arity_error(&self) -> Vec<u8> {
        // EXEC is the one command that Redis words otherwise, and that ends its transaction.
        let code: &[u8] = match self.action {
            Action::Local(LocalCommand::Exec) => b"EXECABORT Transaction discarded because of:",
            _ => b"ERR",
        };
        [code, b" wrong number of arguments for '", &*self.full_name, b"' command"].concat()
    }
}

/// How the tables of several backends become one.
struct Merge {
    tables: usize,
    allowed: Allowed,
}

impl Merge {
    /// One entry for each command that any backend knows. `prefix` is `"container "` or empty.
    fn entries(&self, prefix: &str, maps: &[&FxHashMap<Name, Row>]) -> FxHashMap<Name, Entry> {
        let names: HashSet<&Name> = maps.iter().flat_map(|map| map.keys()).collect();
        let entry = |name: &Name| {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            let rows: Vec<&Row> = maps.iter().filter_map(|map| map.get(name)).collect();
            self.entry(&path, &rows)
        };
        names.into_iter().filter_map(|name| Some((name.clone(), entry(name)?))).collect()
    }

    /// `None` if there are no rows.
    fn entry(&self, path: &str, rows: &[&Row]) -> Option<Entry> {
        let maps: Vec<_> = rows.iter().map(|row| &row.subcommands).collect();
        let has_unlisted = rows.iter().any(|row| row.has_unlisted);
        let unlisted = || self.refusal(&format!("this subcommand of {}", upper(path)), path, rows);
        Some(Entry {
            full_name: rows.first()?.full_name.clone(),
            arity: rows.iter().map(|row| row.arity).reduce(loosest)?,
            shape: Shape {
                is_fast: rows.iter().all(|row| row.flags.fast),
                first_key: rows.first()?.first_key,
            },
            action: self.action(path, rows),
            subcommands: self.entries(&format!("{path} "), &maps),
            unlisted: has_unlisted.then(unlisted),
            count: Arc::default(),
        })
    }

    fn action(&self, path: &str, rows: &[&Row]) -> Action {
        let is_readonly = rows.iter().all(|row| row.flags.readonly);
        let may_block = rows.iter().any(|row| row.flags.blocking);
        let may_write = rows.iter().any(|row| row.flags.write);
        let is_everywhere = rows.len() == self.tables;
        match path {
            _ if self.allowed.switched_off(path).is_some() => {}
            _ if may_write || !is_everywhere => {}
            // Before Redis 7 no flag said that it may block.
            "xread" if is_readonly => return Action::ForwardUnlessBlock,
            _ if is_readonly && !may_block => return Action::Forward,
            _ if rules::is_read(path) => return Action::Forward,
            _ => {}
        }
        Action::Refuse(self.refusal(&upper(path), path, rows))
    }

    /// Why `shown`, which is or belongs to the command at `path`, is not served.
    fn refusal(&self, shown: &str, path: &str, rows: &[&Row]) -> Refused {
        let has = |flag: fn(&Flags) -> bool| rows.iter().any(|row| flag(&row.flags));
        if has(|flags| flags.write) {
            return Refused::new(Refusal::Write, rules::READONLY);
        }
        let why = match self.allowed.switched_off(path).or_else(|| rules::reason(path)) {
            Some(why) => why,
            None if rows.len() < self.tables => rules::NOT_EVERYWHERE,
            None if has(|flags| flags.admin) => rules::ADMIN,
            None if has(|flags| flags.blocking) => rules::BLOCKING,
            None => rules::NO_READ,
        };
        not_served(shown, why)
    }
}

/// What every backend's own check allows, and perhaps more: the backend checks again.
fn loosest(one: i64, other: i64) -> i64 {
    if one == other { one } else { -one.saturating_abs().min(other.saturating_abs()) }
}

fn add_local(commands: &mut FxHashMap<Name, Entry>, path: &str, arity: i64, own: LocalCommand) {
    let entry = |path: &str, arity, action| Entry {
        full_name: path.replace(' ', "|").into_bytes().into(),
        arity,
        shape: Shape::default(),
        action,
        subcommands: FxHashMap::default(),
        unlisted: None,
        count: Arc::default(),
    };
    let own = entry(path, arity, Action::Local(own));
    match path.split_once(' ') {
        None => commands.insert(path.as_bytes().into(), own),
        Some((container, name)) => commands
            .entry(container.as_bytes().into())
            .or_insert_with(|| entry(container, -2, Action::Refuse(no_table())))
            .subcommands
            .insert(name.as_bytes().into(), own),
    };
}

fn share_counts(entries: &mut FxHashMap<Name, Entry>, older: &FxHashMap<Name, Entry>) {
    for (name, entry) in entries {
        if let Some(older) = older.get(name) {
            entry.count = Arc::clone(&older.count);
            share_counts(&mut entry.subcommands, &older.subcommands);
        }
    }
}

fn add_counts(entries: &FxHashMap<Name, Entry>, counts: &mut Vec<(String, u64)>) {
    for entry in entries.values() {
        counts.push((String::from_utf8_lossy(&entry.full_name).into_owned(), entry.count.get()));
        add_counts(&entry.subcommands, counts);
    }
}

/// Finds a name in capitals or not, without allocating.
fn look_up<'a>(entries: &'a FxHashMap<Name, Entry>, name: &[u8]) -> Option<&'a Entry> {
    let mut buffer = [0; MAX_NAME_BYTES];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    entries.get(&*lower)
}

/// Whether a web browser sent this: Redis's check for cross-protocol scripting.
fn is_http(name: &[u8]) -> bool {
    let name = c_string(name, b"host:".len() + 1);
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Whether XREAD has BLOCK among its options, which end at STREAMS. Words that are no options are
/// passed over: the backend will say so.
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

/// As Redis says it, in the same bytes.
fn unknown_command(command: &Command) -> Vec<u8> {
    let mut args = Vec::new();
    for arg in command.args().skip(1) {
        let left = MAX_QUOTED_BYTES.saturating_sub(args.len());
        if left == 0 {
            break;
        }
        args.extend_from_slice(&[b"'", c_string(arg, left), b"' "].concat());
    }
    let name = c_string(command.name(), MAX_QUOTED_BYTES);
    one_line([b"ERR unknown command '", name, b"', with args beginning with: ", &args].concat())
}

fn unknown_subcommand(container: &[u8], name: &[u8]) -> Vec<u8> {
    let name = c_string(name, MAX_QUOTED_BYTES);
    let container = container.to_ascii_uppercase();
    one_line([b"ERR unknown subcommand '", name, b"'. Try ", &container, b" HELP."].concat())
}

fn not_in_transaction(command: &Command) -> Verdict {
    let name = upper(&String::from_utf8_lossy(command.name()));
    let error = format!(
        "ERR {name} is not served inside MULTI by redis-lb: send it before MULTI or behind EXEC"
    );
    Verdict::Refuse(Refused::new(Refusal::NotServed, error))
}

fn no_table() -> Refused {
    Refused::new(Refusal::Unanswered, rules::NO_TABLE)
}

fn not_served(shown: &str, why: &str) -> Refused {
    let error = format!("ERR {shown} is not served by redis-lb: {why}");
    Refused::new(Refusal::NotServed, error)
}

fn upper(path: &str) -> String {
    path.to_ascii_uppercase()
}

/// What C's `%.*s` prints: at most `max` bytes, up to a NUL.
fn c_string(bytes: &[u8], max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(max)];
    bytes.iter().position(|&byte| byte == 0).map_or(bytes, |end| &bytes[..end])
}

/// An error is one line of the protocol.
fn one_line(mut text: Vec<u8>) -> Vec<u8> {
    for byte in &mut text {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    text
}
