//! The types of Redis values, and the command that reads a value of each.

use super::{CommandBuilder, command};

/// A type of value that we serve, as the `TYPE` command names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// `string`
    String,
    /// `hash`
    Hash,
    /// `list`
    List,
    /// `set`
    Set,
    /// `zset`: a sorted set
    Zset,
    /// `stream`
    Stream,
}

impl ValueType {
    /// All types.
    pub const ALL: [Self; 6] =
        [Self::String, Self::Hash, Self::List, Self::Set, Self::Zset, Self::Stream];

    /// Parses the reply of `TYPE`; `None` for a module's type and for `none`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "hash" => Self::Hash,
            "list" => Self::List,
            "set" => Self::Set,
            "zset" => Self::Zset,
            "stream" => Self::Stream,
            _ => return None,
        })
    }

    /// Returns the command that reads the whole value.
    pub fn read_command(self, key: &[u8]) -> CommandBuilder {
        let (name, rest): (_, &[&str]) = match self {
            Self::String => ("GET", &[]),
            Self::Hash => ("HGETALL", &[]),
            Self::List => ("LRANGE", &["0", "-1"]),
            Self::Set => ("SMEMBERS", &[]),
            Self::Zset => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
            Self::Stream => ("XRANGE", &["-", "+"]),
        };
        command(name).arg(key).args(rest)
    }
}
