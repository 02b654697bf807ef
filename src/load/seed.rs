//! Loads all backends at the same time, and tells how that went.
//!
//! Two steps: fill the primaries; then let the replicas catch up and read everything back. A backend
//! that fails does not hold up the others.

use std::thread;
use std::time::{Duration, Instant};

use super::dataset::Dataset;
use super::error::SeedError;
use super::progress::Bars;
use super::replica::Primaries;
use super::task::Task;
use crate::config::address::BackendAddress;
use crate::text::table::{self, Alignment};

/// How rows become keys.
#[derive(Debug, Clone)]
pub struct SeedSettings {
    /// A row gets the key `PREFIX:ID`.
    pub prefix: String,
    /// The most rows written in one transaction; at least 1.
    pub batch_rows: usize,
}

/// The result of loading one backend.
#[derive(Debug)]
pub struct SeedReport {
    /// [`BackendAddress::name`]
    pub backend: String,
    /// `primary` or `replica`; `-` if the backend did not say.
    pub role: &'static str,
    /// How many keys it confirmed: as read back, or as written if it failed.
    pub keys: u64,
    /// How long loading took.
    pub load_time: Duration,
    /// How long reading back took, without the time spent waiting for other backends.
    pub verify_time: Duration,
    /// Why the backend does not hold the rows; `None` if they were read back and are complete.
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
        task.load_time = started.elapsed();
        result
    });
    let primaries: Primaries = tasks.iter().filter_map(Task::filled_primary).collect();
    for_each_at_once(&mut tasks, |task| {
        let started = Instant::now();
        let result = task.verify(&primaries);
        task.verify_time = started.elapsed() - task.waited;
        result
    });
    tasks.into_iter().map(Task::report).collect()
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
    table::table(&head, &reports.iter().map(row).collect::<Vec<_>>())
}

/// Runs one step of every task that has not failed yet, each in a thread of its own.
fn for_each_at_once<'a>(
    tasks: &mut [Task<'a>],
    step: impl Fn(&mut Task<'a>) -> Result<(), SeedError> + Sync,
) {
    thread::scope(|scope| {
        for task in tasks.iter_mut().filter(|task| task.failure.is_none()) {
            scope.spawn(|| {
                task.failure = step(task).err();
                if task.failure.is_some() {
                    task.progress.failed();
                }
            });
        }
    });
}
