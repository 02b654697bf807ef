//! Commands whose replies the near cache may keep: reads whose reply depends on the content of one key alone.
//!
//! Not in the table: what is random, what tells times (TTL, OBJECT), cursors, scripts, SORT, and what reads several keys, but
//! for MGET and EXISTS, which can be answered from the replies for each key.

use super::access::{Access, Keys};
use super::table::CommandInfo;
use crate::resp::Command;
use crate::resp::Resp2Form::{self, Frames, NullArrays, Pairs, Text};

/// A command whose reply may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedCommand {
    /// Number of the command in the table, however the client wrote its name. With the arguments after the name it tells
    /// one read from all others. For parts, it is the number of the command that reads one of them.
    pub number: u8,
    /// How the reply is made of what is kept.
    pub kind: CachedKind,
    /// Whether it reads fields of a hash, which may have a time to live of their own.
    pub is_hash: bool,
    /// How the reply in RESP3 becomes that in RESP2.
    pub form: Resp2Form,
}

impl CachedCommand {
    /// Its name, as it is sent.
    pub fn name(self) -> &'static str {
        rows().nth(usize::from(self.number)).map_or("", |(name, _)| name)
    }
}

/// How the reply to a command is made of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachedKind {
    /// It is kept as it is. The key is argument 1.
    One,
    /// MGET: an array of the replies to `GET key`, for each argument after the name. A key of another type than string
    /// is null in it, and an error in `GET`.
    Mget,
    /// EXISTS of several keys: the sum of the replies to `EXISTS key`, for each argument after the name.
    ExistsOfMany,
}

/// A command of the table, as all backends list it; what is special about some of its arguments is not decided yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cacheable {
    number: u8,
    special: Special,
    form: Resp2Form,
    is_hash: bool,
}

/// A command whose arguments decide more than which key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    No,
    Mget,
    Exists,
    /// ZRANK, ZREVRANK: WITHSCORE makes an array of the reply, and a null array of null.
    Rank,
    /// JSON.GET: RESP2 refuses FORMAT, which RESP3 takes.
    JsonGet,
}

/// The names of the commands by the form of their replies. The number of a command is its place.
const TABLE: [(Resp2Form, &str); 4] = [
    (
        Frames,
        "bitcount bitfield_ro bitpos exists geodist geohash geosearch get getbit getrange hexists hget hgetall \
         hkeys hlen hmget hstrlen hvals lindex llen lpos lrange scard sismember smembers smismember strlen \
         substr type xlen zcard zcount zlexcount zmscore zrank zrevrank zscore",
    ),
    (NullArrays, "geopos xrange xrevrange"),
    (Pairs, "zrange zrangebylex zrangebyscore zrevrange zrevrangebylex zrevrangebyscore"),
    (Text, "json.get"),
];

/// The names of all commands in the table and of those that are made of their replies, in lower case.
pub fn names() -> impl Iterator<Item = &'static str> {
    rows().map(|(name, _)| name).chain(["mget"])
}

fn rows() -> impl Iterator<Item = (&'static str, Resp2Form)> {
    TABLE.iter().flat_map(|(form, names)| names.split_ascii_whitespace().map(|name| (name, *form)))
}

impl Cacheable {
    /// Finds the command that the backends list as `infos` under this name. `None` unless it is in the table and each of
    /// them lists it as a read of the key at argument 1 alone.
    pub fn find(name: &str, infos: &[&CommandInfo]) -> Option<Self> {
        let special = match name {
            "mget" => Special::Mget,
            "exists" => Special::Exists,
            "zrank" | "zrevrank" => Special::Rank,
            "json.get" => Special::JsonGet,
            _ => Special::No,
        };
        let has_many_keys = matches!(special, Special::Mget | Special::Exists);
        if !infos.iter().all(|info| is_listed_so(name, info, has_many_keys)) {
            return None;
        }
        let part = if name == "mget" { "get" } else { name };
        let (number, (_, form)) = (0..).zip(rows()).find(|(_, (name, _))| *name == part)?;
        // Only commands on hashes begin so.
        Some(Self { number, special, form, is_hash: name.starts_with('h') })
    }

    /// What is kept of this command; `None` if nothing, because of its arguments.
    pub fn cached(self, command: &Command) -> Option<CachedCommand> {
        let Self { number, special, form, is_hash } = self;
        let one = CachedCommand { number, kind: CachedKind::One, is_hash, form };
        match special {
            Special::No => Some(one),
            Special::Mget => Some(CachedCommand { kind: CachedKind::Mget, ..one }),
            Special::Exists if command.arg_count() == 2 => Some(one),
            Special::Exists => Some(CachedCommand { kind: CachedKind::ExistsOfMany, ..one }),
            Special::Rank if command.arg_count() == 3 => Some(one),
            Special::Rank => Some(CachedCommand { form: NullArrays, ..one }),
            Special::JsonGet => {
                let has_format =
                    command.args().skip(2).any(|arg| arg.eq_ignore_ascii_case(b"format"));
                (!has_format).then_some(one)
            }
        }
    }
}

/// Whether a backend lists the command as a read of the key at argument 1, and of no other key; or, with `has_many_keys`,
/// of the keys from there to the last argument.
fn is_listed_so(name: &str, info: &CommandInfo, has_many_keys: bool) -> bool {
    let CommandInfo { access: Access { name: own_name, keys, .. }, flags, .. } = info;
    // A renamed command is listed with its own name, too.
    let is_it = **own_name == *name.as_bytes();
    let has_keys = match keys {
        Keys::At(specs) => matches!(&**specs, [spec] if spec.is_range_from_1(has_many_keys)),
        _ => false,
    };
    is_it && flags.readonly && !flags.write && info.first_key == 1 && has_keys
}

#[cfg(test)]
#[path = "cacheable_tests.rs"]
mod tests;
