//! The log, on standard error: `RUST_LOG` chooses what, default `info`.
//!
//! Logging never blocks a client. Lines go into a bounded queue, one thread writes them; what finds
//! the queue full is dropped, counted, and the count logged. What is written for each request is
//! also put into words by that thread.

pub mod access_log;

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use env_logger::fmt::style::{AnsiColor, Style};
use env_logger::{Target, WriteStyle};
use log::{Level, LevelFilter, Record, warn};
use serde::Serialize;

use crate::logging::access_log::Entry;
use crate::sync::lock;

/// Lines that may wait for the writer.
const QUEUE_LINES: usize = 8192;

/// Between two batches of lines: so a busy log wakes its writer a hundred times a second, not with
/// each line.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the end of the process waits for the last lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: time, level, text.
    Human,
    /// For machines: a JSON object a line, in ASCII.
    Json,
}

/// What is between those who log and the one who writes.
static QUEUE: Queue = Queue {
    waiting: Mutex::new(Waiting {
        lines: VecDeque::new(),
        unwritten: 0,
        is_idle: false,
        ends: false,
    }),
    filled: Condvar::new(),
    written: Condvar::new(),
    dropped: AtomicU64::new(0),
};

struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    written: Condvar,
    /// Lines that found it full, from the start of the process.
    dropped: AtomicU64,
}

struct Waiting {
    lines: VecDeque<Line>,
    /// Those in the queue, and those that the writer has taken and not written yet.
    unwritten: usize,
    /// Whether the writer waits for a line.
    is_idle: bool,
    /// Whether the process is about to end.
    ends: bool,
}

enum Line {
    /// A message as it is written.
    Text(Vec<u8>),
    Entry(SystemTime, Level, Entry),
}

/// Lines that were dropped since the start because the log could not be written in time.
pub fn dropped_lines() -> u64 {
    QUEUE.dropped.load(Ordering::Relaxed)
}

/// Queues an entry, made while nobody else can queue one: what it says of the moment, such as
/// counts, is newer than what the entry before it says.
pub fn write_entry(level: Level, make: impl FnOnce() -> Entry) {
    QUEUE.push(|| Line::Entry(SystemTime::now(), level, make()));
}

impl Queue {
    fn push(&self, make: impl FnOnce() -> Line) {
        let mut waiting = lock(&self.waiting);
        if waiting.lines.len() >= QUEUE_LINES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.push_back(make());
        waiting.unwritten += 1;
        let is_idle = std::mem::take(&mut waiting.is_idle);
        drop(waiting);
        if is_idle {
            self.filled.notify_one();
        }
    }

    /// Takes all lines; waits for one where there is none.
    fn take(&self) -> VecDeque<Line> {
        let mut waiting = lock(&self.waiting);
        while waiting.lines.is_empty() {
            waiting.is_idle = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_idle = false;
        std::mem::take(&mut waiting.lines)
    }

    /// The writer has written so many; true when the process ends.
    fn note_written(&self, lines: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        waiting.unwritten -= lines;
        if waiting.unwritten == 0 {
            self.written.notify_all();
        }
        waiting.ends
    }
}

/// Keeps the log alive; dropped at the end of the process, it waits for the last lines.
#[derive(Debug)]
pub struct Logging(());

/// Starts the log. Call it once, before anything is logged.
pub fn start(format: Format) -> io::Result<Logging> {
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let looks = Looks { format, is_coloured: is_coloured && format == Format::Human };
    thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(looks))?;
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let is_readable = is_readable(&wanted);
    env_logger::Builder::new()
        // Also where only other modules are named, or one that does not exist.
        .filter_level(LevelFilter::Info)
        .parse_filters(if is_readable { &wanted } else { "" })
        .format(move |out, record| looks.message(out, SystemTime::now(), record))
        // The line has its own colours, or none.
        .write_style(WriteStyle::Always)
        .target(Target::Pipe(Box::new(QueueWriter)))
        .init();
    if !is_readable {
        warn!(
            "RUST_LOG={wanted:?} is not understood, so info is logged: write warn, info or debug"
        );
    }
    Ok(Logging(()))
}

/// Whether these are levels, or modules with or without one, as `env_logger` reads them.
fn is_readable(wanted: &str) -> bool {
    let levels = wanted.split(',').filter_map(|part| part.split_once('='));
    levels.map(|(_, level)| level.trim()).all(|level| level.parse::<LevelFilter>().is_ok())
}

impl Drop for Logging {
    fn drop(&mut self) {
        let mut waiting = lock(&QUEUE.waiting);
        waiting.ends = true;
        // When nobody reads standard error, the last lines are lost rather than the end delayed.
        let is_unwritten = |waiting: &mut Waiting| waiting.unwritten > 0;
        drop(QUEUE.written.wait_timeout_while(waiting, FLUSH_WAIT, is_unwritten));
    }
}

/// What `env_logger` writes each line to.
struct QueueWriter;

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(|| Line::Text(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(looks: Looks) {
    let mut out = io::BufWriter::new(io::stderr());
    let mut reported = 0;
    loop {
        let lines = QUEUE.take();
        let count = lines.len();
        for line in lines {
            // A log that can't be written (a closed pipe, a full disk) must not end the service.
            let _ = match line {
                Line::Text(text) => out.write_all(&text),
                Line::Entry(at, level, entry) => looks.entry(&mut out, at, level, &entry),
            };
        }
        let dropped = dropped_lines();
        if dropped > reported {
            let text = format!("{} log lines were dropped: too many at once", dropped - reported);
            let _ = looks.text(&mut out, SystemTime::now(), Level::Warn, &text);
            reported = dropped;
        }
        let _ = out.flush();
        if !QUEUE.note_written(count) {
            thread::sleep(PAUSE);
        }
    }
}

/// How each line looks.
#[derive(Clone, Copy)]
struct Looks {
    format: Format,
    is_coloured: bool,
}

/// A line of JSON.
#[derive(Serialize)]
struct JsonLine<'a, T: Serialize> {
    at: String,
    level: &'a str,
    #[serde(flatten)]
    what: T,
}

#[derive(Serialize)]
struct Message<'a> {
    kind: &'static str,
    message: &'a str,
}

impl Looks {
    fn message(self, out: &mut impl Write, at: SystemTime, record: &Record) -> io::Result<()> {
        self.text(out, at, record.level(), &record.args().to_string())
    }

    fn text(
        self,
        out: &mut impl Write,
        at: SystemTime,
        level: Level,
        text: &str,
    ) -> io::Result<()> {
        match self.format {
            Format::Human => self.human(out, at, level, &escaped(text)),
            Format::Json => json(out, at, level, Message { kind: "message", message: text }),
        }
    }

    fn entry(
        self,
        out: &mut impl Write,
        at: SystemTime,
        level: Level,
        entry: &Entry,
    ) -> io::Result<()> {
        match self.format {
            Format::Human => self.human(out, at, level, &entry.to_string()),
            Format::Json => json(out, at, level, entry),
        }
    }

    fn human(
        self,
        out: &mut impl Write,
        at: SystemTime,
        level: Level,
        text: &str,
    ) -> io::Result<()> {
        let style = match level {
            _ if !self.is_coloured => Style::new(),
            Level::Error => AnsiColor::Red.on_default().bold(),
            Level::Warn => AnsiColor::Yellow.on_default(),
            Level::Info => AnsiColor::Green.on_default(),
            Level::Debug | Level::Trace => AnsiColor::Cyan.on_default(),
        };
        let at = humantime::format_rfc3339_millis(at);
        writeln!(out, "{at} {style}{level:<5}{style:#} {text}")
    }
}

/// What a client or a backend has said may be in it, and must neither begin another line nor move
/// the cursor.
pub fn escaped(text: &str) -> String {
    let is_harmless = |c: char| c == ' ' || c == '\'' || c == '"' || c == '\\';
    let escape =
        |c: char| if is_harmless(c) { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escape).collect()
}

fn json(
    out: &mut impl Write,
    at: SystemTime,
    level: Level,
    what: impl Serialize,
) -> io::Result<()> {
    let at = humantime::format_rfc3339_millis(at).to_string();
    let line = JsonLine { at, level: level.as_str(), what };
    let text = serde_json::to_string(&line).map_err(io::Error::other)?;
    let mut ascii = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c.is_ascii() {
            true => ascii.push(c),
            // Outside of strings there is none of these.
            false => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                ascii.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    ascii.push('\n');
    out.write_all(ascii.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, text: &str) -> String {
        let mut out = Vec::new();
        let looks = Looks { format, is_coloured: false };
        looks.text(&mut out, SystemTime::UNIX_EPOCH, Level::Warn, text).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn nothing_that_was_said_begins_another_line_or_moves_the_cursor() {
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
