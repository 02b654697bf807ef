//! Numbers, sizes and times as people read them, the same wherever one is shown: in the data browser, by `lb top` and
//! `lb ctl`, in reasons and errors. `tests/figures.json` has the cases.
//!
//! Digits stand in groups of three. What is below 10 has a tenth, where that tells something. A unit stands after a space.

use std::time::Duration;

/// Shown where a value is unknown.
pub(crate) const NONE: &str = "-";

/// Seconds of a minute, an hour, a day and a year of 365 days, the largest first, with the units' names.
const UNITS: [(u64, &str); 5] =
    [(365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];

/// Returns a number with its digits in groups of three: `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns how many there are: `1 key`, `2 keys`, `1,319 keys`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    let plural = match thing {
        _ if number == 1 => thing.to_owned(),
        "entry" => "entries".to_owned(),
        _ => format!("{thing}s"),
    };
    format!("{} {plural}", grouped(number))
}

/// Returns a number of bytes: `512 B`, `1.5 KiB`, `15 KiB`, `32 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        (size, unit) = (size / 1024.0, next);
        // What would be rounded to 1,024 is one of the next unit.
        if size < 1023.5 {
            break;
        }
    }
    format!("{} {unit}", with_tenth(size))
}

/// Returns a time in its two largest units, rounded down: `2 h 3 min`, `45 s`, and below a second `350 ms`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let Some(at) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{} ms", time.subsec_millis());
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

/// Returns how long something has lasted that goes on, as [`duration`] does, in whole seconds: `0 s`, `2 h 3 min`.
pub(crate) fn age(seconds: f64) -> String {
    match seconds as u64 {
        0 => "0 s".to_owned(),
        whole => duration(Duration::from_secs(whole)),
    }
}

/// Returns how late something is: with a tenth below 10 s, else as [`age`] does.
pub(crate) fn lag(seconds: f64) -> String {
    if seconds < 9.95 { format!("{:.1} s", seconds.max(0.0)) } else { age(seconds) }
}

/// Returns milliseconds, without their unit, with three digits that count: `0.412`, `12.3`, `1,235`.
pub(crate) fn latency(ms: Option<f64>) -> String {
    match ms.filter(|ms| ms.is_finite() && *ms >= 0.0) {
        None => NONE.to_owned(),
        Some(ms) if ms < 0.9995 => format!("{ms:.3}"),
        Some(ms) if ms < 9.995 => format!("{ms:.2}"),
        Some(ms) if ms < 99.95 => format!("{ms:.1}"),
        Some(ms) => grouped(ms.round() as u64),
    }
}

/// Returns how often a second something happens: `0`, `0.2`, `950`, `12,346`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second.is_finite() && per_second >= 0.05 {
        with_tenth(per_second)
    } else {
        "0".to_owned()
    }
}

/// Returns a number that has a tenth if it is below 10.
fn with_tenth(number: f64) -> String {
    if number < 9.95 { format!("{number:.1}") } else { grouped(number.round() as u64) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_figure_is_shown_as_the_table_of_cases_says() {
        let cases: Value =
            serde_json::from_str(include_str!("../../tests/figures.json")).expect("JSON");
        let number = |value: &Value| value.as_f64().expect("a number");
        let whole = |value: &Value| value.as_u64().expect("a whole number");
        let mut formatted = 0;
        for (kind, cases) in cases.as_object().expect("kinds") {
            for case in cases.as_array().expect("cases") {
                let (given, expected) = (&case[0], case[1].as_str().expect("a text"));
                let shown = match &**kind {
                    "grouped" => grouped(whole(given)),
                    "size" => size(whole(given)),
                    "duration_ms" => duration(Duration::from_millis(whole(given))),
                    "age_seconds" => age(number(given)),
                    "lag_seconds" => lag(number(given)),
                    "latency_ms" => latency(Some(number(given))),
                    "rate" => rate(number(given)),
                    _ => panic!("{kind} is no figure"),
                };
                assert_eq!(shown, expected, "{kind} of {given}");
                formatted += 1;
            }
        }
        assert!(formatted > 40);
    }

    #[test]
    fn what_is_no_number_is_shown_as_nothing() {
        assert_eq!((latency(None), latency(Some(f64::NAN))), (NONE.to_owned(), NONE.to_owned()));
        assert_eq!((rate(f64::NAN), age(f64::NAN)), ("0".to_owned(), "0 s".to_owned()));
        assert_eq!(duration(Duration::from_millis(i64::MAX as u64)), "292,471,208 y 247 d");
        let counts = (count(1, "key"), count(2000, "entry"));
        assert_eq!(counts, ("1 key".to_owned(), "2,000 entries".to_owned()));
    }
}
