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
        writeln!(out, "{at} {style}{level:<5}{style:#} {content}")
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
        let mut out = Vec::new();
        let formatter = LineFormatter { format, is_coloured: false };
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
}
