//! The queue of lines, and the thread that writes them to standard error.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use log::Level;

use super::entry::Entry;
use super::format::{Content, LineFormatter};
use crate::sync::lock;

/// Most lines that may wait for the writer.
const QUEUE_LINES: usize = 8192;

/// Pause between two batches of lines, so that a busy log wakes its writer a hundred times a second
/// instead of for each line.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest time that the end of the process waits for the last lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

static QUEUE: Queue = Queue {
    pending: Mutex::new(Pending {
        lines: VecDeque::new(),
        unwritten: 0,
        is_writer_idle: false,
        is_ending: false,
    }),
    filled: Condvar::new(),
    written: Condvar::new(),
    dropped: AtomicU64::new(0),
};

struct Queue {
    pending: Mutex<Pending>,
    filled: Condvar,
    written: Condvar,
    /// Lines that found the queue full, from the start of the process.
    dropped: AtomicU64,
}

struct Pending {
    lines: VecDeque<Line>,
    /// Lines in the queue, and lines that the writer has taken and not written yet.
    unwritten: usize,
    is_writer_idle: bool,
    /// Whether the process is about to end.
    is_ending: bool,
}

enum Line {
    /// A whole line as it is written.
    Formatted(Vec<u8>),
    Entry(SystemTime, Level, Box<Entry>),
}

/// Lines that were dropped since the start because the log could not be written in time.
pub fn dropped_lines() -> u64 {
    QUEUE.dropped.load(Ordering::Relaxed)
}

/// Queues an entry. `make` runs under the queue's lock, so that the figures in an entry are newer
/// than those in the entry before it.
pub fn queue_entry(level: Level, make: impl FnOnce() -> Entry) {
    QUEUE.push(|| Line::Entry(SystemTime::now(), level, Box::new(make())));
}

/// Starts the thread that writes.
pub fn start(formatter: LineFormatter) -> io::Result<()> {
    let write = move || write_lines(formatter);
    thread::Builder::new().name("log".to_owned()).spawn(write).map(|_| ())
}

/// Waits until all lines are written, but not for long: maybe no process reads standard error.
pub fn flush_at_end() {
    let mut pending = lock(&QUEUE.pending);
    pending.is_ending = true;
    let is_unwritten = |pending: &mut Pending| pending.unwritten > 0;
    drop(QUEUE.written.wait_timeout_while(pending, FLUSH_WAIT, is_unwritten));
}

impl Queue {
    fn push(&self, make: impl FnOnce() -> Line) {
        let mut pending = lock(&self.pending);
        if pending.lines.len() >= QUEUE_LINES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.lines.push_back(make());
        pending.unwritten += 1;
        let is_writer_idle = std::mem::take(&mut pending.is_writer_idle);
        drop(pending);
        if is_writer_idle {
            self.filled.notify_one();
        }
    }

    /// Takes all lines; waits for the first if there is none.
    fn take(&self) -> VecDeque<Line> {
        let mut pending = lock(&self.pending);
        while pending.lines.is_empty() {
            pending.is_writer_idle = true;
            pending = self.filled.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        pending.is_writer_idle = false;
        std::mem::take(&mut pending.lines)
    }

    /// Notes that so many lines are written; returns whether the process is about to end.
    fn note_written(&self, lines: usize) -> bool {
        let mut pending = lock(&self.pending);
        pending.unwritten -= lines;
        if pending.unwritten == 0 {
            self.written.notify_all();
        }
        pending.is_ending
    }
}

/// Takes the lines that `env_logger` has formatted.
pub struct QueueWriter;

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(|| Line::Formatted(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(formatter: LineFormatter) {
    let mut out = io::BufWriter::new(io::stderr());
    let mut reported = 0;
    loop {
        let lines = QUEUE.take();
        let count = lines.len();
        for line in lines {
            // A log that can't be written (a closed pipe, a full disk) must not end the service.
            let _ = match line {
                Line::Formatted(line) => out.write_all(&line),
                Line::Entry(at, level, entry) => {
                    formatter.write(&mut out, at, level, Content::Entry(&entry))
                }
            };
        }
        let dropped = dropped_lines();
        if dropped > reported {
            let text = format!("{} log lines were dropped: too many at once", dropped - reported);
            let message = Content::message(&text);
            let _ = formatter.write(&mut out, SystemTime::now(), Level::Warn, message);
            reported = dropped;
        }
        let _ = out.flush();
        if !QUEUE.note_written(count) {
            thread::sleep(PAUSE);
        }
    }
}
