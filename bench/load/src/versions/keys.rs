//! The keys, their values, and the commands that read them.

use crate::wire;

/// Keys whose versions are raised: strings and hashes in turn.
pub const VERSIONED: usize = 1000;

/// Keys of the databases that are swapped, after those.
pub const SWAPPED: usize = 50;

pub const KEYS: usize = VERSIONED + SWAPPED;

/// Keys that live for a short time: strings and hashes in turn.
pub const EXPIRING: usize = 200;

/// The database of the keys that are swapped, and the one with which it is.
pub const SWAPPED_DATABASE: &str = "2";
pub const OTHER_DATABASE: &str = "3";

pub fn is_hash(key: usize) -> bool {
    key % 2 == 1 && key < VERSIONED
}

pub fn name(key: usize) -> String {
    match key {
        VERSIONED.. => format!("s:{}", key - VERSIONED),
        _ if is_hash(key) => format!("h:{key}"),
        _ => format!("v:{key}"),
    }
}

pub fn expiring_name(number: usize) -> String {
    let kind = if number % 2 == 1 { "hash" } else { "string" };
    format!("expiring:{kind}:{number}")
}

/// The value that is written with this state.
pub fn version(state: u64) -> String {
    format!("g={state:012};")
}

/// The value of a key that ends at this time, in milliseconds since 1970.
pub fn end(at: u64) -> String {
    format!("d={at:013};")
}

/// The number after `mark` in a reply; an error if it has two that differ.
pub fn number_after(mark: &[u8], reply: &[u8]) -> Result<Option<u64>, String> {
    let mut found = None;
    let places = reply.windows(mark.len()).enumerate().filter(|(_, bytes)| *bytes == mark);
    for (place, _) in places {
        let digits = &reply[place + mark.len()..];
        let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&digits[..length]).ok().and_then(|text| text.parse().ok());
        match (found, number) {
            (_, None) => return Err("a value without its number".to_owned()),
            (Some(one), Some(other)) if one != other => {
                return Err(format!("values of two writes in one reply: {one} and {other}"));
            }
            _ => found = number,
        }
    }
    Ok(found)
}

/// Commands that give a key this value.
pub fn create(key: &str, is_hash: bool, value: &str) -> Vec<Vec<u8>> {
    match is_hash {
        false => vec![wire::command(&["SET", key, value])],
        true => vec![
            wire::command(&["DEL", key]),
            wire::command(&["HSET", key, "a", value, "b", value, "c", value]),
        ],
    }
}

/// Forms of reads: each as its words, with KEY in the place of the key.
const STRING_READS: [&[&str]; 8] = [
    &["GET", "KEY"],
    &["GET", "KEY"],
    &["GETRANGE", "KEY", "0", "20"],
    &["MGET", "KEY"],
    &["STRLEN", "KEY"],
    &["EXISTS", "KEY"],
    &["TYPE", "KEY"],
    &["SUBSTR", "KEY", "0", "-1"],
];
const HASH_READS: [&[&str]; 8] = [
    &["HGETALL", "KEY"],
    &["HGET", "KEY", "a"],
    &["HMGET", "KEY", "a", "b"],
    &["HVALS", "KEY"],
    &["HLEN", "KEY"],
    &["HEXISTS", "KEY", "c"],
    &["HSTRLEN", "KEY", "b"],
    &["TYPE", "KEY"],
];

/// One of the commands that read such a key.
pub fn read(key: &str, is_hash: bool, form: usize) -> Vec<u8> {
    let forms = if is_hash { &HASH_READS } else { &STRING_READS };
    let words: Vec<&str> = forms[form % forms.len()]
        .iter()
        .map(|&word| if word == "KEY" { key } else { word })
        .collect();
    wire::command(&words)
}

/// Whether a reply that holds no value says that the key is there.
pub fn says_present(reply: &[u8]) -> bool {
    match reply {
        b"+none\r\n" | b":0\r\n" => false,
        _ => matches!(reply.first(), Some(b':' | b'+')),
    }
}
