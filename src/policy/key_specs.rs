//! Where a command has its keys, by what `COMMAND` says of it.

use redis::Value;

use super::table::text;
use super::verdict::c_string;
use crate::resp::Command;

/// Where some of a command's keys are, and what is done with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySpec {
    /// The permission that a user needs for these keys.
    pub needs: Needs,
    begin: Begin,
    find: Find,
}

/// The permission that a user needs for a key. A command that tells something about a key, and not its data
/// (EXISTS, TYPE), needs neither: any pattern of the user will do, as in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub read: bool,
    pub write: bool,
}

/// Where the first key is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Begin {
    /// At an argument.
    Index(usize),
    /// After a word, which is looked for from an argument on.
    Keyword { word: Box<[u8]>, from: usize },
}

/// How many keys follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Find {
    /// Up to a last one, which is counted from the first one, or from the command's end if it is negative. A limit
    /// of 2 or more means that only this part of the remaining arguments is keys.
    Range { last: i64, step: usize, limit: usize },
    /// As many as an argument says.
    Number { at: usize, first: usize, step: usize },
}

/// A key specification as `COMMAND` has it.
#[derive(Debug)]
pub(super) enum Listed {
    Known(KeySpec),
    /// It is about something that is no key, such as a shard's channel.
    NoKey,
    /// It does not say where all keys are.
    Unknown,
}

/// A key of a command, and the permission that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyUse {
    /// The number of the argument.
    pub at: usize,
    pub needs: Needs,
}

impl KeySpec {
    /// Keys from argument `first` to `last`, which counts from the end if it is negative.
    pub fn range(needs: Needs, first: usize, last: i64, step: usize) -> Self {
        let last = if last < 0 { last } else { last.saturating_sub(first as i64) };
        Self { needs, begin: Begin::Index(first), find: Find::Range { last, step, limit: 0 } }
    }

    /// Whether these are the keys from argument 1 to the last one, or, without `to_the_last`, that at argument 1 alone.
    pub fn is_range_from_1(&self, to_the_last: bool) -> bool {
        *self == Self::range(self.needs, 1, if to_the_last { -1 } else { 1 }, 1)
    }

    /// Reads one specification of `COMMAND`.
    pub fn read(value: &Value) -> Listed {
        let flags: Vec<&[u8]> = match field(value, b"flags") {
            Some(Value::Array(flags)) => flags.iter().filter_map(text).collect(),
            _ => return Listed::Unknown,
        };
        let has = |flag: &[u8]| flags.contains(&flag);
        if has(b"not_key") {
            return Listed::NoKey;
        }
        let needs = Needs {
            read: has(b"access"),
            write: has(b"insert") || has(b"delete") || has(b"update"),
        };
        let begin = field(value, b"begin_search").and_then(begin);
        let find = field(value, b"find_keys").and_then(find);
        match (begin, find) {
            (Some(begin), Some(find)) if !has(b"incomplete") => {
                Listed::Known(Self { needs, begin, find })
            }
            _ => Listed::Unknown,
        }
    }

    /// Adds the keys that a command has by this specification. `None` if it has fewer arguments than it would need,
    /// or if the number of keys is none: then nobody knows which its keys are.
    pub fn add_uses(&self, command: &Command, uses: &mut Vec<KeyUse>) -> Option<()> {
        let count = command.arg_count();
        let Some(begin) = self.begin.position(command) else { return Some(()) };
        let (first, last, step) = match self.find {
            Find::Range { last, step, limit } => {
                (begin, last_of_range(begin, count, last, limit)?, step)
            }
            Find::Number { at, first, step } => {
                let number = command.arg(begin.checked_add(at)?)?;
                let number: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
                let first = begin.checked_add(first)?;
                (first, number.checked_sub(1)?.checked_mul(step)?.checked_add(first)?, step)
            }
        };
        if step == 0 || last >= count || last < first {
            return None;
        }
        let needs = self.needs;
        uses.extend((first..=last).step_by(step).map(|at| KeyUse { at, needs }));
        Some(())
    }
}

impl Begin {
    /// The place of the first key; `None` if the command lacks the word, and so has none.
    fn position(&self, command: &Command) -> Option<usize> {
        match self {
            Self::Index(index) => Some(*index),
            Self::Keyword { word, from } => {
                // Redis compares up to a NUL.
                let is_word = |arg: &[u8]| c_string(arg, arg.len()).eq_ignore_ascii_case(word);
                command.args().skip(*from).position(is_word).map(|place| place + from + 1)
            }
        }
    }
}

/// The last argument of a range that begins at `first`, in a command of `count` arguments.
fn last_of_range(first: usize, count: usize, last: i64, limit: usize) -> Option<usize> {
    let from_end = usize::try_from(last.unsigned_abs()).ok()?;
    match limit {
        _ if last >= 0 => first.checked_add(from_end),
        0 | 1 => count.checked_sub(from_end),
        _ => (count.checked_sub(first)? / limit).checked_add(first)?.checked_sub(from_end),
    }
}

fn begin(value: &Value) -> Option<Begin> {
    let spec = field(value, b"spec")?;
    match text(field(value, b"type")?)? {
        b"index" => Some(Begin::Index(number(spec, b"index")?)),
        // One that is looked for from the end backwards has a negative number, which only MIGRATE has.
        b"keyword" => Some(Begin::Keyword {
            word: text(field(spec, b"keyword")?)?.into(),
            from: number(spec, b"startfrom")?,
        }),
        _ => None,
    }
}

fn find(value: &Value) -> Option<Find> {
    let spec = field(value, b"spec")?;
    match text(field(value, b"type")?)? {
        b"range" => {
            let Value::Int(last) = *field(spec, b"lastkey")? else { return None };
            let (step, limit) = (number(spec, b"keystep")?, number(spec, b"limit")?);
            Some(Find::Range { last, step, limit })
        }
        b"keynum" => Some(Find::Number {
            at: number(spec, b"keynumidx")?,
            first: number(spec, b"firstkey")?,
            step: number(spec, b"keystep")?,
        }),
        _ => None,
    }
}

/// A field of a map, which RESP2 has as names and values in turn.
fn field<'a>(value: &'a Value, name: &[u8]) -> Option<&'a Value> {
    let Value::Array(items) = value else { return None };
    let (fields, _) = items.as_chunks::<2>();
    fields.iter().find(|[key, _]| text(key) == Some(name)).map(|[_, value]| value)
}

fn number(value: &Value, name: &[u8]) -> Option<usize> {
    let Value::Int(number) = field(value, name)? else { return None };
    usize::try_from(*number).ok()
}
