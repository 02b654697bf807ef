//! Numbers and times as people read them, and texts that fit into a width.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::text::grouped;

/// Shown where a value is unknown.
pub(super) const NONE: &str = "-";

/// Returns a rate: with a tenth if it is small.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if !rate.is_finite() || rate < 0.05 => "0".to_owned(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate => grouped(rate.round() as u64),
    }
}

/// Returns milliseconds with three digits that count.
pub(super) fn millis(ms: Option<f64>) -> String {
    match ms.filter(|ms| ms.is_finite() && *ms >= 0.0) {
        None => NONE.to_owned(),
        Some(ms) if ms < 1.0 => format!("{ms:.3}"),
        Some(ms) if ms < 10.0 => format!("{ms:.2}"),
        Some(ms) if ms < 100.0 => format!("{ms:.1}"),
        Some(ms) => grouped(ms.round() as u64),
    }
}

/// Returns a time in two units at most.
pub(super) fn time(seconds: f64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut left = seconds.max(0.0) as u64;
    let first = UNITS.iter().position(|(_, size)| left >= *size).unwrap_or(UNITS.len() - 1);
    let mut parts = Vec::new();
    for (unit, size) in UNITS.iter().skip(first).take(2) {
        if left >= *size || parts.is_empty() {
            parts.push(format!("{} {unit}", left / size));
        }
        left %= size;
    }
    parts.join(" ")
}

/// Returns the text in at most `width` columns, with `…` for its middle if it is wider: beginning and end tell addresses
/// and reasons apart.
pub(super) fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let head: String = fitting(text.chars(), room.div_ceil(2)).collect();
    let tail: Vec<char> = fitting(text.chars().rev(), room - room.div_ceil(2)).collect();
    head + "…" + &tail.iter().rev().collect::<String>()
}

/// The first characters that fit into a width.
fn fitting(chars: impl Iterator<Item = char>, width: usize) -> impl Iterator<Item = char> {
    let mut left = width;
    chars.map_while(move |c| {
        left = left.checked_sub(c.width().unwrap_or(0))?;
        Some(c)
    })
}

/// Returns the text in exactly `width` columns.
pub(super) fn padded(text: &str, width: usize, is_right: bool) -> String {
    let text = shortened(text, width);
    let space = " ".repeat(width.saturating_sub(text.width()));
    if is_right { space + &text } else { text + &space }
}

/// Returns the items in lines of at most `width` columns, with ` · ` between them. What does not fit into `max_lines` is
/// left out.
pub(super) fn flowed(items: &[String], width: usize, max_lines: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        let last = lines.last_mut().filter(|line| line.width() + 3 + item.width() <= width);
        if let Some(line) = last {
            *line += &format!(" · {item}");
        } else if lines.len() < max_lines {
            lines.push(shortened(item, width));
        } else {
            break;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), expected);
        }
        for (number, expected) in
            [(0.0, "0"), (0.04, "0"), (9.94, "9.9"), (9.96, "10"), (12345.6, "12,346")]
        {
            assert_eq!(rate(number), expected);
        }
        assert_eq!(rate(f64::NAN), "0");
        for (ms, expected) in [
            (None, "-"),
            (Some(0.1234), "0.123"),
            (Some(1.234), "1.23"),
            (Some(12.34), "12.3"),
            (Some(1234.5), "1,235"),
        ] {
            assert_eq!(millis(ms), expected);
        }
        for (seconds, expected) in [
            (0.0, "0 s"),
            (18.9, "18 s"),
            (60.0, "1 min"),
            (61.0, "1 min 1 s"),
            (3600.0, "1 h"),
            (3661.0, "1 h 1 min"),
            (90_061.0, "1 d 1 h"),
            (-1.0, "0 s"),
        ] {
            assert_eq!(time(seconds), expected);
        }
    }

    #[test]
    fn a_text_that_is_too_long_loses_its_middle() {
        for (text, width, expected) in [
            ("10.0.0.2:6379", 13, "10.0.0.2:6379"),
            ("10.0.0.2:6379", 8, "10.0…379"),
            ("日本語日本語", 7, "日…語"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(shortened(text, width), expected);
            assert!(shortened(text, width).width() <= width);
        }
        assert_eq!(padded("7", 3, true), "  7");
        assert_eq!(padded("é", 3, false), "é  ");
    }

    #[test]
    fn items_flow_into_lines_and_the_last_are_left_out() {
        let items = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(flowed(&items, 9, 2), ["one · two", "three"]);
        assert_eq!(flowed(&items, 9, 1), ["one · two"]);
        assert_eq!(flowed(&items, 4, 9), ["one", "two", "th…e"]);
    }
}
