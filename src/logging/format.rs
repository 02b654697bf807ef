//! Formats the lines of the log.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use env_logger::fmt::style::{AnsiColor, Style};
use log::Level;
use serde::Serialize;

use super::entry::Entry;

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: time, level, text.
    Human,
    /// For machines: a JSON object a line, in ASCII.
    Json,
}

/// Writes lines in one form.
#[derive(Clone, Copy)]
pub(super) struct LineFormatter {
    pub format: Format,
    pub is_coloured: bool,
    /// Whether the journal of systemd reads the lines: it has a time of its own, and takes the priority from the
    /// beginning of a line (sd-daemon(3)).
    pub is_for_journal: bool,
}

/// The content of a line.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Content<'a> {
    Message { kind: &'static str, message: &'a str },
    Entry(&'a Entry),
}

#[derive(Serialize)]
struct JsonLine<'a> {
    at: String,
    level: &'a str,
    #[serde(flatten)]
    content: Content<'a>,
}

impl<'a> Content<'a> {
    pub fn message(message: &'a str) -> Self {
        Self::Message { kind: "message", message }
    }
}

impl fmt::Display for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { message, .. } => f.write_str(&escaped(message)),
            Self::Entry(entry) => entry.fmt(f),
        }
    }
}

impl LineFormatter {
    pub fn write(
        self,
        out: &mut impl Write,
        at: SystemTime,
        level: Level,
        content: Content,
    ) -> io::Result<()> {
        if self.is_for_journal {
            write!(out, "<{}>", priority(level))?;
        }
        let at = humantime::format_rfc3339_millis(at).to_string();
        if self.format == Format::Json {
            return write_json(out, &JsonLine { at, level: level.as_str(), content });
        }
        let style = match level {
            _ if !self.is_coloured => Style::new(),
            Level::Error => AnsiColor::Red.on_default().bold(),
            Level::Warn => AnsiColor::Yellow.on_default(),
            Level::Info => AnsiColor::Green.on_default(),
            Level::Debug | Level::Trace => AnsiColor::Cyan.on_default(),
        };
        if !self.is_for_journal {
            write!(out, "{at} ")?;
        }
        writeln!(out, "{style}{level:<5}{style:#} {content}")
    }
}

/// The level as syslog(3) numbers it.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn write_json(out: &mut impl Write, line: &JsonLine) -> io::Result<()> {
    let text = serde_json::to_string(line).map_err(io::Error::other)?;
    let mut ascii = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c.is_ascii() {
            true => ascii.push(c),
            // Other characters stand only within JSON's strings, where they may be escaped.
            false => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                ascii.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    ascii.push('\n');
    out.write_all(ascii.as_bytes())
}

/// Escapes text of clients or backends so that it neither begins another line nor moves the cursor.
pub fn escaped(text: &str) -> String {
    let is_harmless = |c: char| matches!(c, ' ' | '\'' | '"' | '\\');
    let escape =
        |c: char| if is_harmless(c) { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, text: &str) -> String {
        line_for(format, false, text)
    }

    fn line_for(format: Format, is_for_journal: bool, text: &str) -> String {
        let mut out = Vec::new();
        let formatter = LineFormatter { format, is_coloured: false, is_for_journal };
        let content = Content::message(text);
        formatter.write(&mut out, SystemTime::UNIX_EPOCH, Level::Warn, content).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn no_text_begins_another_line_or_moves_the_cursor() {
        let hostile = "a 'b'\r\n\x1b[31mc\u{202e}d\u{9b}é";
        assert_eq!(
            line(Format::Human, hostile),
            "1970-01-01T00:00:00.000Z WARN  a 'b'\\r\\n\\u{1b}[31mc\\u{202e}d\\u{9b}é\n"
        );
        let json = line(Format::Json, hostile);
        assert!(json.is_ascii() && json.trim_end().chars().all(|c| !c.is_ascii_control()));
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["message"], hostile);
        assert_eq!((&json["level"], &json["kind"]), (&"WARN".into(), &"message".into()));
    }

    #[test]
    fn lines_for_the_journal_begin_with_their_priority_and_leave_the_time_to_it() {
        assert_eq!(line_for(Format::Human, true, "low"), "<4>WARN  low\n");
        let json = line_for(Format::Json, true, "low");
        assert!(json.starts_with("<4>{\"at\":\"1970-"), "{json}");
    }
}
