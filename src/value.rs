//! The types of Redis values, and the command that reads each whole.

use redis::Cmd;

/// A type of value that is served, as the `TYPE` command names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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

impl Kind {
    /// Reads the answer of `TYPE`; `None` for a type of a module's own, and for `none`.
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

    /// The command that reads the whole value.
    pub fn read(self, key: &[u8]) -> Cmd {
        let command = |name: &str, rest: &[&str]| redis::cmd(name).arg(key).arg(rest).to_owned();
        match self {
            Self::String => command("GET", &[]),
            Self::Hash => command("HGETALL", &[]),
            Self::List => command("LRANGE", &["0", "-1"]),
            Self::Set => command("SMEMBERS", &[]),
            Self::Zset => command("ZRANGE", &["0", "-1", "WITHSCORES"]),
            Self::Stream => command("XRANGE", &["-", "+"]),
        }
    }
}
