//! The commands of one backend, as its `COMMAND` lists them.

use redis::Value;
use rustc_hash::FxHashMap;

use super::access::{Access, ListedKeys};
use super::categories::Categories;
use super::key_specs::KeySpec;
use super::rules;
use super::verdict::one_line;

/// The name of a command, or of a subcommand without its container's, in lower case.
pub(super) type Name = Box<[u8]>;

/// The commands of one backend, as its `COMMAND` lists them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommandTable {
    pub(super) commands: FxHashMap<Name, CommandInfo>,
}

/// One command or subcommand of one backend.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CommandInfo {
    /// As in errors: `get`, `config|get`.
    pub full_name: Box<[u8]>,
    /// The number of arguments with the name; negative if there may be more.
    pub arity: i64,
    pub flags: Flags,
    /// The number of the argument that is its first key; 0 if that depends.
    pub first_key: u8,
    pub subcommands: FxHashMap<Name, CommandInfo>,
    /// Whether it has more subcommands than are listed.
    pub has_unlisted: bool,
    /// What the rules of users ask.
    pub access: Access,
}

/// The flags that decide whether a command passes, and how it is sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags {
    pub readonly: bool,
    pub write: bool,
    pub blocking: bool,
    pub admin: bool,
    /// Takes a short time for each argument.
    pub fast: bool,
}

impl CommandTable {
    /// Reads a whole reply to `COMMAND` in RESP2. Fails unless it lists at least one command.
    ///
    /// Since Redis 7 containers list their subcommands. For an older server, those that are known to read count
    /// as listed.
    pub fn parse(reply: &[u8]) -> Result<Self, &'static str> {
        let value = redis::parse_redis_value(reply).map_err(|_| NOT_A_TABLE)?;
        let commands = infos(&value, None).filter(|commands| !commands.is_empty());
        Ok(Self { commands: commands.ok_or(NOT_A_TABLE)? })
    }

    /// Reads the names of commands, without subcommands, from a whole reply to `COMMAND LIST`; `None`
    /// if it is no list of names.
    pub(crate) fn parse_names(reply: &[u8]) -> Option<Vec<Vec<u8>>> {
        let Ok(Value::Array(names)) = redis::parse_redis_value(reply) else { return None };
        let names: Option<Vec<&[u8]>> = names.iter().map(text).collect();
        let is_whole = |name: &&[u8]| !name.contains(&b'|');
        Some(names?.into_iter().filter(is_whole).map(<[u8]>::to_vec).collect())
    }

    /// Adds the commands in a whole reply to `COMMAND INFO` about these `names`, but for those that
    /// the server does not know. `None`, and nothing is added, if the reply is about others.
    pub(crate) fn add(&mut self, names: &[Vec<u8>], reply: &[u8]) -> Option<()> {
        let Ok(Value::Array(infos)) = redis::parse_redis_value(reply) else { return None };
        if infos.len() != names.len() {
            return None;
        }
        let asked = names.iter().zip(&infos).filter(|(_, value)| **value != Value::Nil);
        // The reply has the old name of a command that was renamed; clients use the one we asked for.
        let commands: Option<Vec<(Name, CommandInfo)>> = asked
            .map(|(name, value)| Some((name.to_ascii_lowercase().into(), info(value, None)?.1)))
            .collect();
        self.commands.extend(commands?);
        Some(())
    }

    /// Whether it has no command.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }
}

const NOT_A_TABLE: &str = "sent something that is no list of commands";

/// Reads a list of commands, or of a container's subcommands.
fn infos(value: &Value, container: Option<&CommandInfo>) -> Option<FxHashMap<Name, CommandInfo>> {
    let Value::Array(values) = value else { return None };
    values.iter().map(|value| info(value, container)).collect()
}

/// Reads name, arity, flags and what follows; after seven more fields, the subcommands.
fn info(value: &Value, container: Option<&CommandInfo>) -> Option<(Name, CommandInfo)> {
    let Value::Array(fields) = value else { return None };
    let [full_name, Value::Int(arity), Value::Array(flags), rest @ ..] = fields.as_slice() else {
        return None;
    };
    let full_name = text(full_name)?;
    let prefix = container.map_or(Vec::new(), |info| [&*info.full_name, b"|"].concat());
    let name = full_name.strip_prefix(&*prefix).unwrap_or(full_name).to_ascii_lowercase();
    let has = |flag: &[u8]| flags.iter().any(|listed| text(listed) == Some(flag));
    let mut info = CommandInfo {
        full_name: one_line(full_name.to_vec()).into(),
        arity: *arity,
        flags: Flags {
            readonly: has(b"readonly"),
            write: has(b"write"),
            blocking: has(b"blocking"),
            admin: has(b"admin"),
            fast: has(b"fast"),
        },
        ..CommandInfo::default()
    };
    if let Some(Value::Int(first_key)) = rest.first() {
        info.first_key = u8::try_from(*first_key).unwrap_or(0);
    }
    let keys = listed_keys(rest, [has(b"readonly"), has(b"movablekeys"), has(b"module")]);
    let categories = rest.get(3).and_then(categories);
    let inherited = container.and_then(|info| info.access.categories).unwrap_or_default();
    let lower_name = info.full_name.to_ascii_lowercase();
    info.access = Access {
        keys: keys.keys(&String::from_utf8_lossy(&lower_name)),
        name: lower_name.into(),
        categories: categories.map(|own| own.with(inherited)),
        is_always_allowed: has(b"no_auth"),
        ..Access::default()
    };
    match rest.get(6) {
        Some(subcommands) => info.subcommands = infos(subcommands, Some(&info))?,
        None => info.add_known_subcommands(&String::from_utf8_lossy(&name)),
    }
    info.access.is_container = !info.subcommands.is_empty();
    Some((name.into(), info))
}

/// The categories of a command; `None` if the field is something else.
fn categories(value: &Value) -> Option<Categories> {
    let Value::Array(names) = value else { return None };
    let names = names.iter().filter_map(text);
    Some(Categories::of(names.filter_map(|name| name.strip_prefix(b"@"))))
}

/// Reads where a command has its keys, from the fields after its flags: first key, last key, step, and four fields
/// later the key specifications.
fn listed_keys(fields: &[Value], [is_readonly, is_movable, is_module]: [bool; 3]) -> ListedKeys {
    let number = |at: usize| match fields.get(at) {
        Some(Value::Int(number)) => *number,
        _ => 0,
    };
    let specs = match fields.get(5) {
        Some(Value::Array(specs)) => Some(specs.iter().map(KeySpec::read).collect()),
        _ => None,
    };
    let count = |at: usize| usize::try_from(number(at)).unwrap_or(0);
    ListedKeys { specs, range: (count(0), number(1), count(2)), is_readonly, is_movable, is_module }
}

impl CommandInfo {
    /// Adds the subcommands for a server before Redis 7, which itself checks the number of their arguments.
    fn add_known_subcommands(&mut self, container: &str) {
        let Some(subcommands) = rules::subcommands(container) else { return };
        self.has_unlisted = true;
        for name in subcommands {
            let full_name = format!("{container}|{name}");
            let access = self.access.of_subcommand(&full_name);
            let full_name = one_line(full_name.into_bytes()).into();
            let info = Self { full_name, arity: -2, access, ..Self::default() };
            self.subcommands.insert(name.as_bytes().into(), info);
        }
    }
}

pub(super) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}
