//! The commands of one backend, as its `COMMAND` lists them.

use redis::Value;
use rustc_hash::FxHashMap;

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
        let commands = infos(&value, b"").filter(|commands| !commands.is_empty());
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
            .map(|(name, value)| Some((name.to_ascii_lowercase().into(), info(value, b"")?.1)))
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

/// Reads a list of commands, or of subcommands whose names begin with `prefix`.
fn infos(value: &Value, prefix: &[u8]) -> Option<FxHashMap<Name, CommandInfo>> {
    let Value::Array(values) = value else { return None };
    values.iter().map(|value| info(value, prefix)).collect()
}

/// Reads name, arity, flags and the first key's place; after five more fields, the subcommands.
fn info(value: &Value, prefix: &[u8]) -> Option<(Name, CommandInfo)> {
    let Value::Array(fields) = value else { return None };
    let [full_name, Value::Int(arity), Value::Array(flags), rest @ ..] = fields.as_slice() else {
        return None;
    };
    let full_name = text(full_name)?;
    let name = full_name.strip_prefix(prefix).unwrap_or(full_name).to_ascii_lowercase();
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
    match rest.get(6) {
        Some(subcommands) => info.subcommands = infos(subcommands, &[full_name, b"|"].concat())?,
        None => info.add_known_subcommands(&String::from_utf8_lossy(&name)),
    }
    Some((name.into(), info))
}

impl CommandInfo {
    /// Adds the subcommands for a server before Redis 7, which itself checks the number of their arguments.
    fn add_known_subcommands(&mut self, container: &str) {
        let Some(subcommands) = rules::subcommands(container) else { return };
        self.has_unlisted = true;
        for name in subcommands {
            let full_name = format!("{container}|{name}").into_bytes();
            let info = Self { full_name: one_line(full_name).into(), arity: -2, ..Self::default() };
            self.subcommands.insert(name.as_bytes().into(), info);
        }
    }
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}
