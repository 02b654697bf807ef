use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The least time between two lines about one backend where there is no terminal to draw on.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// No colours, so there is nothing that `NO_COLOR` would have to switch off.
const TEMPLATE: &str = "{prefix} {msg:9} [{bar:20}] {pos}/{len} {rate} {eta} left";

/// One bar per backend on a terminal, plain lines elsewhere; always on stderr.
pub struct Bars {
    bars: MultiProgress,
    rows: u64,
    name_width: usize,
    plain: bool,
}

/// What is shown of one backend.
pub struct RowProgress {
    bar: ProgressBar,
    name: String,
    plain: bool,
    next_line: Instant,
}

impl Bars {
    /// `rows` is how many rows each backend gets, `name_width` how long the longest name is.
    pub fn new(rows: u64, name_width: usize) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let plain = dumb || !std::io::stderr().is_terminal();
        let target =
            if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { bars: MultiProgress::with_draw_target(target), rows, name_width, plain }
    }

    pub fn add(&self, name: &str) -> RowProgress {
        let bar = self.bars.add(ProgressBar::new(self.rows));
        bar.set_style(style());
        bar.set_prefix(format!("{name:width$}", width = self.name_width));
        RowProgress { bar, name: name.to_owned(), plain: self.plain, next_line: Instant::now() }
    }
}

impl RowProgress {
    /// A new step begins, from the first row on.
    pub fn start(&mut self, step: &'static str) {
        self.bar.reset();
        self.bar.set_message(step);
        self.line(step);
    }

    pub fn advance(&mut self, rows: u64) {
        self.bar.inc(rows);
        if self.plain && Instant::now() >= self.next_line {
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
        if self.plain {
            // Nothing better can be done about a closed stderr than to go on without it.
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
            // A failure to write would be indicatif's own.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        })
}
