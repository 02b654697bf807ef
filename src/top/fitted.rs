//! Texts that fit into a width.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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
