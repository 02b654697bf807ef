//! The types of Redis values, and the command that reads each whole.

use redis::Cmd;

use crate::resp::write;

/// A command that reads a value is at most so much longer than the key, mostly.
const ROOM_BESIDE_KEY: usize = 80;

/// A type of value that is served, as the `TYPE` command names it.
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
        let (name, rest) = self.command();
        redis::cmd(name).arg(key).arg(rest).to_owned()
    }

    /// The same as it is sent.
    pub fn packed_read(self, key: &[u8]) -> Vec<u8> {
        let (name, rest) = self.command();
        let mut command = Vec::with_capacity(key.len() + ROOM_BESIDE_KEY);
        write::array(&mut command, 2 + rest.len());
        write::bulk(&mut command, name.as_bytes());
        write::bulk(&mut command, key);
        rest.iter().for_each(|argument| write::bulk(&mut command, argument.as_bytes()));
        command
    }

    /// The name of that command, and what stands behind the key.
    fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::String => ("GET", &[]),
            Self::Hash => ("HGETALL", &[]),
            Self::List => ("LRANGE", &["0", "-1"]),
            Self::Set => ("SMEMBERS", &[]),
            Self::Zset => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
            Self::Stream => ("XRANGE", &["-", "+"]),
        }
    }
}
