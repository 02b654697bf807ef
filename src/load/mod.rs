//! `seed`: loads a CSV file's rows into every server, reads them back and compares them.
//!
//! There are two steps: the primaries are filled; then the replicas catch up, and everything is read back. All
//! backends are loaded at the same time, and one that fails does not hold up the others.

mod connection;
mod dataset;
mod delimiter;
mod flags;
mod input;
mod other_formats;
mod progress;
mod quoting;
mod reason;
mod task;

use std::thread;
use std::time::{Duration, Instant};

use self::connection::{Primaries, SeedError};
pub use self::dataset::Dataset;
pub use self::delimiter::Delimiter;
pub use self::flags::SeedFlags;
pub use self::input::Input;
use self::progress::Bars;
use self::task::Task;
use crate::config::address::BackendAddress;
use crate::text;
use crate::text::table::Alignment;

/// How rows become keys.
#[derive(Debug, Clone)]
pub struct SeedSettings {
    /// A row gets the key `PREFIX:ID`.
    pub prefix: String,
    /// The most rows written in one transaction; at least 1.
    pub batch_rows: usize,
}

/// The result of loading one backend.
#[derive(Debug, Default)]
pub struct SeedReport {
    /// Its name, as [`BackendAddress::name`].
    pub backend: String,
    /// `primary` or `replica`; `-` if the backend did not say.
    pub role: &'static str,
    /// Number of keys that were read back; if it failed before, that were written.
    pub keys: u64,
    /// How long loading took.
    pub load_time: Duration,
    /// How long reading back took, without the time spent waiting for other backends.
    pub verify_time: Duration,
    /// Why the backend does not hold the rows; `None` if all were read back and are right.
    pub failure: Option<SeedError>,
}

/// Loads all rows into all `backends` and reads them back. Shows the progress on stderr.
pub fn seed(
    dataset: &Dataset,
    backends: &[BackendAddress],
    settings: &SeedSettings,
) -> Vec<SeedReport> {
    let name_width = backends.iter().map(|address| address.name().len()).max().unwrap_or(0);
    let bars = Bars::new(dataset.rows(), name_width);
    let mut tasks: Vec<Task> = backends
        .iter()
        .map(|address| Task::new(address, dataset, settings, bars.add(address.name())))
        .collect();
    for_each_at_once(&mut tasks, |task| {
        let started = Instant::now();
        let result = task.fill();
        task.report.load_time = started.elapsed();
        result
    });
    let primaries: Primaries = tasks.iter().filter_map(Task::filled_primary).collect();
    for_each_at_once(&mut tasks, |task| {
        let started = Instant::now();
        let result = task.verify(&primaries);
        task.report.verify_time = started.elapsed() - task.waited;
        result
    });
    tasks.into_iter().map(|task| task.report).collect()
}

/// Runs one step of every task that has not failed yet, each in a thread of its own.
fn for_each_at_once<'a>(
    tasks: &mut [Task<'a>],
    step: impl Fn(&mut Task<'a>) -> Result<(), SeedError> + Sync,
) {
    thread::scope(|scope| {
        for task in tasks.iter_mut().filter(|task| task.report.failure.is_none()) {
            scope.spawn(|| {
                task.report.failure = step(task).err();
                if task.report.failure.is_some() {
                    task.progress.failed();
                }
            });
        }
    });
}

/// Formats the reports as a table, one line for each backend.
pub fn table(reports: &[SeedReport]) -> String {
    let (left, right) = (Alignment::Left, Alignment::Right);
    let head = [
        ("backend", left),
        ("role", left),
        ("keys", right),
        ("loading", right),
        ("verifying", right),
        ("verified", left),
    ];
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let row = |report: &SeedReport| {
        vec![
            report.backend.clone(),
            report.role.to_owned(),
            report.keys.to_string(),
            seconds(report.load_time),
            seconds(report.verify_time),
            if report.failure.is_none() { "yes" } else { "FAILED" }.to_owned(),
        ]
    };
    text::table::table(&head, &reports.iter().map(row).collect::<Vec<_>>())
}
