//! Numbers as people read them.

use std::time::Duration;

use crate::resp::value_type::ValueType;

/// A number of bytes, such as `1.5 KiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `1 key`, `2 keys`
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = match thing {
        _ if number == 1 => thing.to_owned(),
        "entry" => "entries".to_owned(),
        _ => format!("{thing}s"),
    };
    format!("{number} {plural}")
}

/// The length of a value, as HTML.
pub(super) fn length(value_type: ValueType, length: u64) -> String {
    match value_type {
        ValueType::String if length >= 1024 => {
            format!("{} <small>{length} bytes</small>", size(length))
        }
        ValueType::String => count(length, "byte"),
        ValueType::Hash => count(length, "field"),
        ValueType::List => count(length, "element"),
        ValueType::Set | ValueType::Zset => count(length, "member"),
        ValueType::Stream => count(length, "entry"),
    }
}

/// When a key with this `PTTL` expires, as HTML.
pub(super) fn expiry(ttl: i64) -> String {
    let Ok(milliseconds) = u64::try_from(ttl) else { return "never".to_owned() };
    let left = Duration::from_secs(milliseconds / 1000);
    format!("in {} <small>{milliseconds} ms</small>", humantime::format_duration(left))
}
