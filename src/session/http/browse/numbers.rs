//! Numbers, sizes and times as people read them.

use std::time::{Duration, SystemTime};

use crate::text::grouped;

/// No date is shown for what is further off: calendars have no such years.
const MAX_DATED: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// `1 key`, `2 keys`, `1,319 keys`
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = match thing {
        _ if number == 1 => thing.to_owned(),
        "entry" => "entries".to_owned(),
        _ => format!("{thing}s"),
    };
    format!("{} {plural}", grouped(number))
}

/// A number of bytes, such as `1.5 KiB`.
pub(super) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    for unit in ["KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return format!("{size:.1} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// A time in its two largest units, rounded down: `1 d 2 h`, `59 s`.
pub(super) fn duration(milliseconds: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = milliseconds / 1000;
    let Some(at) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{milliseconds} ms");
    };
    let (unit, name) = UNITS[at];
    let whole = format!("{} {name}", grouped(seconds / unit));
    match UNITS.get(at + 1) {
        Some((next, name)) if seconds % unit >= *next => {
            format!("{whole} {} {name}", seconds % unit / next)
        }
        _ => whole,
    }
}

/// The date and time that is so many milliseconds off: `2026-11-27 20:00:00 UTC`.
pub(super) fn date_in(milliseconds: u64, now: SystemTime) -> Option<String> {
    let off = Some(Duration::from_millis(milliseconds)).filter(|off| *off < MAX_DATED)?;
    let date = humantime::format_rfc3339_seconds(now.checked_add(off)?).to_string();
    Some(date.replace('T', " ").replace('Z', " UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups_of_three() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
            (100_000, "100,000"),
        ] {
            assert_eq!(grouped(number), shown);
        }
        assert_eq!(
            (count(1, "key"), count(2000, "entry")),
            ("1 key".into(), "2,000 entries".into())
        );
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        for (milliseconds, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (3_601_000, "1 h"),
            (93_784_000, "1 d 2 h"),
            (86_400_000 * 730, "2 y"),
            (i64::MAX as u64, "292,471,208 y 247 d"),
        ] {
            assert_eq!(duration(milliseconds), shown);
        }
    }

    #[test]
    fn what_is_too_far_off_has_no_date() {
        let day = Some("1970-01-02 00:00:00 UTC".to_owned());
        assert_eq!(date_in(86_400_000, SystemTime::UNIX_EPOCH), day);
        assert_eq!(date_in(u64::MAX, SystemTime::UNIX_EPOCH), None);
    }
}
