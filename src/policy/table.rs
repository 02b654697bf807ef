use redis::Value;
use rustc_hash::FxHashMap;

use super::{one_line, rules};

/// The name of a command, or of a subcommand without its container's, in lower case.
pub(super) type Name = Box<[u8]>;

/// What one backend's `COMMAND` says of each command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommandTable {
    pub(super) commands: FxHashMap<Name, Row>,
}

/// One command or subcommand of one backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// As the backend writes it in errors: `get`, `config|get`.
    pub full_name: Box<[u8]>,
    /// The number of arguments with the name; negative where there may be more.
    pub arity: i64,
    pub flags: Flags,
    /// The number of the argument that is its first key; 0 where that depends.
    pub first_key: u8,
    pub subcommands: FxHashMap<Name, Row>,
    /// Whether it has more subcommands than are listed.
    pub has_unlisted: bool,
}

/// The flags that decide.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags {
    pub readonly: bool,
    pub write: bool,
    pub blocking: bool,
    pub admin: bool,
    /// It takes a short time for each of its arguments.
    pub fast: bool,
}

impl CommandTable {
    /// Reads the bytes of a whole reply to `COMMAND` in RESP2. An error, or what is no list of at
    /// least one command, is an `Err`.
    ///
    /// Since Redis 7 containers list their subcommands. For an older server those that we know to
    /// read are taken as listed.
    pub fn parse(reply: &[u8]) -> Result<Self, &'static str> {
        let value = redis::parse_redis_value(reply).map_err(|_| NOT_A_TABLE)?;
        let commands =
            rows(&value, b"").filter(|commands| !commands.is_empty()).ok_or(NOT_A_TABLE)?;
        Ok(Self { commands })
    }

    /// The commands that a whole reply to `COMMAND LIST` names, without subcommands; `None` for what
    /// is no list of names.
    pub fn parse_names(reply: &[u8]) -> Option<Vec<Vec<u8>>> {
        let Ok(Value::Array(names)) = redis::parse_redis_value(reply) else { return None };
        let names: Option<Vec<&[u8]>> = names.iter().map(text).collect();
        let is_whole = |name: &&[u8]| !name.contains(&b'|');
        Some(names?.into_iter().filter(is_whole).map(<[u8]>::to_vec).collect())
    }

    /// Adds what a whole reply to `COMMAND INFO` says of these `names`, those that the server does
    /// not know left out. `None`, and nothing is added, when it says something else.
    pub fn add(&mut self, names: &[Vec<u8>], reply: &[u8]) -> Option<()> {
        let Ok(Value::Array(infos)) = redis::parse_redis_value(reply) else { return None };
        if infos.len() != names.len() {
            return None;
        }
        let asked = names.iter().zip(&infos).filter(|(_, info)| **info != Value::Nil);
        // A command that was renamed says its old name: what counts is the one that clients use.
        let rows: Option<Vec<(Name, Row)>> = asked
            .map(|(name, info)| Some((name.to_ascii_lowercase().into(), row(info, b"")?.1)))
            .collect();
        self.commands.extend(rows?);
        Some(())
    }

    /// Whether there is no command in it.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }
}

const NOT_A_TABLE: &str = "sent something that is no list of commands";

/// Reads the commands of a list, or the subcommands of one whose names begin with `prefix`.
fn rows(value: &Value, prefix: &[u8]) -> Option<FxHashMap<Name, Row>> {
    let Value::Array(rows) = value else { return None };
    rows.iter().map(|value| row(value, prefix)).collect()
}

/// Reads name, arity, flags, the first key's place, then five fields that do not matter here, then the
/// subcommands.
fn row(value: &Value, prefix: &[u8]) -> Option<(Name, Row)> {
    let Value::Array(fields) = value else { return None };
    let [full_name, Value::Int(arity), Value::Array(flags), rest @ ..] = fields.as_slice() else {
        return None;
    };
    let full_name = text(full_name)?;
    let name = full_name.strip_prefix(prefix).unwrap_or(full_name).to_ascii_lowercase();
    let mut row = Row::new(full_name, *arity, flags.iter().filter_map(text).collect());
    if let Some(Value::Int(first_key)) = rest.first() {
        row.first_key = u8::try_from(*first_key).unwrap_or(0);
    }
    match rest.get(6) {
        Some(subcommands) => row.subcommands = rows(subcommands, &[full_name, b"|"].concat())?,
        None => row.add_known_subcommands(&String::from_utf8_lossy(&name)),
    }
    Some((name.into(), row))
}

impl Row {
    fn new(full_name: &[u8], arity: i64, flags: Flags) -> Self {
        let full_name = one_line(full_name.to_vec()).into();
        Self {
            full_name,
            arity,
            flags,
            first_key: 0,
            subcommands: FxHashMap::default(),
            has_unlisted: false,
        }
    }

    /// For a server before Redis 7, which itself checks the number of arguments behind them.
    fn add_known_subcommands(&mut self, container: &str) {
        let Some(subcommands) = rules::subcommands(container) else { return };
        self.has_unlisted = true;
        for name in subcommands {
            let full_name = format!("{container}|{name}");
            let row = Row::new(full_name.as_bytes(), -2, Flags::default());
            self.subcommands.insert(name.as_bytes().into(), row);
        }
    }
}

impl<'a> FromIterator<&'a [u8]> for Flags {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(names: T) -> Self {
        let mut flags = Self::default();
        for name in names {
            match name {
                b"readonly" => flags.readonly = true,
                b"write" => flags.write = true,
                b"blocking" => flags.blocking = true,
                b"admin" => flags.admin = true,
                b"fast" => flags.fast = true,
                _ => {}
            }
        }
        flags
    }
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}
