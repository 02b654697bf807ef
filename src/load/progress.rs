//! Shows how far each backend is.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Least time between two lines about one backend, if there is no terminal to draw on.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Without colours, so that `NO_COLOR` has nothing to switch off.
const TEMPLATE: &str = "{prefix} {msg:9} [{bar:20}] {pos}/{len} {rate} {eta} left";

/// One bar for each backend on a terminal, plain lines elsewhere; always on stderr.
pub(super) struct Bars {
    bars: MultiProgress,
    rows: u64,
    name_width: usize,
    is_plain: bool,
}

/// Shows the progress of one backend.
pub(super) struct BackendProgress {
    bar: ProgressBar,
    name: String,
    is_plain: bool,
    next_line: Instant,
}

impl Bars {
    /// `rows` is the number of rows that each backend gets, `name_width` the length of the longest name.
    pub fn new(rows: u64, name_width: usize) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_plain = is_dumb || !std::io::stderr().is_terminal();
        let target =
            if is_plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { bars: MultiProgress::with_draw_target(target), rows, name_width, is_plain }
    }

    pub fn add(&self, name: &str) -> BackendProgress {
        let bar = self.bars.add(ProgressBar::new(self.rows));
        bar.set_style(style());
        bar.set_prefix(format!("{name:width$}", width = self.name_width));
        let (name, next_line) = (name.to_owned(), Instant::now());
        BackendProgress { bar, name, is_plain: self.is_plain, next_line }
    }
}

impl BackendProgress {
    /// Begins a step, from the first row on.
    pub fn start(&mut self, step: &'static str) {
        self.bar.reset();
        self.bar.set_message(step);
        self.line(step);
    }

    pub fn advance(&mut self, rows: u64) {
        self.bar.inc(rows);
        if self.is_plain && Instant::now() >= self.next_line {
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            self.line(&format!("{} {done} of {all} rows", self.bar.message()));
        }
    }

    pub fn done(&mut self) {
        self.bar.finish_with_message("done");
        self.line("done");
    }

    pub fn failed(&mut self) {
        self.bar.abandon_with_message("FAILED");
        self.line("failed");
    }

    fn line(&mut self, text: &str) {
        if self.is_plain {
            // If stderr is closed we go on without it.
            let _ = writeln!(std::io::stderr(), "{}: {text}", self.name);
            self.next_line = Instant::now() + LINE_INTERVAL;
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Only indicatif itself could fail to write here.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        })
}
