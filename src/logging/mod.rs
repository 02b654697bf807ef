//! The log, on standard error; a flag chooses its level, by default `info`, and `RUST_LOG` that of single modules.
//!
//! Logging never blocks a client. Lines go into a bounded queue that one thread writes out; lines that
//! find the queue full are dropped, counted, and their number logged. The entries of requests, sessions and
//! the states of backends (`access_log`) are also formatted by that thread.

pub(crate) mod access_log;
mod entry;
mod format;
mod level;
pub(crate) mod throttle;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use env_logger::{Target, WriteStyle};
use log::{Level, LevelFilter, warn};

pub use self::format::Format;
pub(crate) use self::format::escaped;
use self::format::{Content, LineFormatter, priority};
pub use self::level::set_level;
use self::writer::QueueWriter;
pub(crate) use self::writer::dropped_lines;

/// Keeps the log alive. At the end of the process its `drop` waits for the last lines.
#[derive(Debug)]
pub struct LogGuard(());

/// Starts the log. Call it once, before anything is logged. Without a level, `RUST_LOG` may have one.
pub fn start(format: Format, level: Option<LevelFilter>) -> io::Result<LogGuard> {
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let formatter = LineFormatter {
        format,
        is_coloured: is_coloured && format == Format::Human,
        is_for_journal: writes_to_journal(),
    };
    writer::start(formatter)?;
    let logger = env_logger::Builder::new()
        // What is logged is chosen before a line comes here.
        .filter_level(LevelFilter::Trace)
        .format(move |out, record| {
            let text = record.args().to_string();
            formatter.write(out, SystemTime::now(), record.level(), Content::message(&text))
        })
        // The formatter decides about colours.
        .write_style(WriteStyle::Always)
        .target(Target::Pipe(Box::new(QueueWriter)))
        .build();
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let is_valid = is_valid_filter(&wanted);
    level::start(logger, if is_valid { &wanted } else { "" }, level);
    if !is_valid {
        warn!("RUST_LOG={wanted:?} is not understood and has no effect: write warn, info or debug");
    }
    Ok(LogGuard(()))
}

/// Writes why the process ends to standard error, in lines that the journal takes for errors.
pub fn write_error(reason: &str) {
    let mark = match writes_to_journal() {
        true => format!("<{}>", priority(Level::Error)),
        false => String::new(),
    };
    let lines: String = reason.lines().map(|line| format!("{mark}{line}\n")).collect();
    // Standard error may be closed.
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Returns whether standard error goes to systemd's journal: the variable names the device and the inode of the stream
/// (systemd.exec(5), "Environment Variables Set or Propagated by the Service Manager"), and may be inherited by
/// processes whose standard error goes elsewhere.
fn writes_to_journal() -> bool {
    let own = rustix::fs::fstat(io::stderr()).map(|own| format!("{}:{}", own.st_dev, own.st_ino));
    let stream = std::env::var("JOURNAL_STREAM");
    stream.is_ok_and(|stream| own.is_ok_and(|own| own == stream))
}

/// Returns whether `env_logger` understands this: levels, or modules with or without one.
fn is_valid_filter(wanted: &str) -> bool {
    let levels = wanted.split(',').filter_map(|part| part.split_once('='));
    levels.map(|(_, level)| level.trim()).all(|level| level.parse::<LevelFilter>().is_ok())
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        writer::flush_at_end();
    }
}
