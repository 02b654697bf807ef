//! The first pass over a reply: what must be known before it is written.

use std::io::BufRead;

use xxhash_rust::xxh64::Xxh64;

use super::{SHORT_STRING_BYTES, Utf8, pairs, stream_entry};
use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};

/// Seed of the digests. Another one would change all ETags.
const SEED: u64 = 0;

/// Facts about a value that must be known before it is written.
#[derive(Debug)]
pub struct Survey {
    pub(super) names_are_text: bool,
    /// Whether each string longer than [`SHORT_STRING_BYTES`], in order, is UTF-8.
    pub(super) long_is_text: Vec<bool>,
    /// Digest of the value, equal for equal values. The order of sets and hashes does not count,
    /// because it differs between servers. It is the same in every build and on every machine: clients
    /// compare it with that of another balancer.
    pub(crate) digest: u64,
    /// Whether the reply was a null or had no elements. Only a stream can be empty: an empty reply of
    /// another type means that the key does not exist.
    pub(crate) is_empty: bool,
}

/// Reads the reply to a `kind`'s [`read_command`](ValueType::read_command) to its end.
pub fn survey(kind: ValueType, from: &mut impl BufRead) -> Result<Survey, resp::Error> {
    let mut survey =
        Survey { names_are_text: true, long_is_text: Vec::new(), digest: 0, is_empty: false };
    let mut hasher = Xxh64::new(SEED);
    let length = match kind {
        ValueType::String => survey.string(from, &mut hasher, false)?.into(),
        _ => reply::array(from)?,
    };
    match kind {
        ValueType::String => {}
        ValueType::Hash | ValueType::Set => {
            let is_hash = kind == ValueType::Hash;
            let mut sum = 0_u64;
            for _ in 0..if is_hash { pairs(length)? } else { length } {
                let mut entry = Xxh64::new(SEED);
                survey.string(from, &mut entry, is_hash)?;
                if is_hash {
                    survey.string(from, &mut entry, false)?;
                }
                sum = sum.wrapping_add(entry.digest());
            }
            add_number(&mut hasher, length);
            add_number(&mut hasher, sum);
        }
        ValueType::List | ValueType::Zset => {
            if kind == ValueType::Zset {
                pairs(length)?;
            }
            for _ in 0..length {
                survey.string(from, &mut hasher, false)?;
            }
        }
        ValueType::Stream => {
            for _ in 0..length {
                stream_entry(from)?;
                survey.string(from, &mut hasher, false)?;
                for _ in 0..2 * pairs(reply::array(from)?)? {
                    survey.string(from, &mut hasher, false)?;
                }
                hasher.update(&[0]);
            }
        }
    }
    survey.is_empty = length == 0;
    hasher.update(&[digest_tag(kind)]);
    survey.digest = hasher.digest();
    Ok(survey)
}

/// Adds a number in the form that it has on every machine.
fn add_number(hasher: &mut Xxh64, number: u64) {
    hasher.update(&number.to_le_bytes());
}

/// Returns the byte that stands for a type in digests. It never changes.
fn digest_tag(kind: ValueType) -> u8 {
    match kind {
        ValueType::String => 0,
        ValueType::Hash => 1,
        ValueType::List => 2,
        ValueType::Set => 3,
        ValueType::Zset => 4,
        ValueType::Stream => 5,
    }
}

impl Survey {
    /// Reads one string; returns false when it is null.
    fn string(
        &mut self,
        from: &mut impl BufRead,
        hasher: &mut Xxh64,
        is_name: bool,
    ) -> Result<bool, resp::Error> {
        let Some(length) = reply::bulk(from)? else { return Ok(false) };
        let is_long = length > SHORT_STRING_BYTES;
        let mut text = Utf8::default();
        let mut is_text = true;
        add_number(hasher, length);
        reply::payload(from, length, |piece| {
            hasher.update(piece);
            if (is_name || is_long) && is_text {
                is_text = text.push(piece, |_| Ok(())).is_ok();
            }
            Ok::<_, resp::Error>(())
        })?;
        is_text &= text.is_whole();
        if is_name {
            self.names_are_text &= is_text;
        }
        if is_long {
            self.long_is_text.push(is_text);
        }
        Ok(true)
    }
}
