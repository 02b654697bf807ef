//! The log, on standard error: `RUST_LOG` chooses what, default `info`.
//!
//! Logging never blocks a client. Lines go into a bounded queue, one thread writes them; what finds
//! the queue full is dropped, counted, and the count logged.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use env_logger::{Env, Target, WriteStyle};

/// Lines that may wait for the writer.
const QUEUE_LINES: usize = 8192;

/// How long the end of the process waits for the last lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Keeps the log alive; dropped at the end of the process, it waits for the last lines.
#[derive(Debug)]
pub struct Logging {
    queue: SyncSender<Line>,
    flushed: Receiver<()>,
}

enum Line {
    Text(Vec<u8>),
    Flush,
}

/// Starts the log. Call it once, before anything is logged.
pub fn start() -> io::Result<Logging> {
    let (queue, lines) = sync_channel(QUEUE_LINES);
    let (done, flushed) = sync_channel(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = QueueWriter { queue: queue.clone(), dropped: Arc::clone(&dropped) };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&lines, &dropped, &done))?;
    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    env_logger::Builder::from_env(Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .format_target(false)
        .write_style(if coloured { WriteStyle::Always } else { WriteStyle::Never })
        .target(Target::Pipe(Box::new(writer)))
        .init();
    Ok(Logging { queue, flushed })
}

impl Drop for Logging {
    fn drop(&mut self) {
        // When nobody reads standard error, the last lines are lost rather than the end delayed.
        if self.queue.try_send(Line::Flush).is_ok() {
            let _ = self.flushed.recv_timeout(FLUSH_WAIT);
        }
    }
}

/// What `env_logger` writes each line to.
struct QueueWriter {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Line::Text(line.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(lines: &Receiver<Line>, dropped: &AtomicU64, done: &SyncSender<()>) {
    let mut out = io::BufWriter::new(io::stderr());
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(out, "[{lost} log lines were dropped: too many at once]");
                }
                let _ = out.flush();
                match lines.recv() {
                    Ok(line) => line,
                    Err(_) => return,
                }
            }
        };
        // A log that can't be written (a closed pipe, a full disk) must not end the service.
        let _ = match line {
            Line::Text(text) => out.write_all(&text),
            Line::Flush => out.flush().map(|()| {
                let _ = done.try_send(());
            }),
        };
    }
}
