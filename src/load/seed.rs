//! Loads all backends at the same time, and tells how that went.
//!
//! Two steps: fill the primaries; then let the replicas catch up and read everything back. A backend
//! that fails does not hold up the others.

use std::thread;
use std::time::Instant;

use super::dataset::Dataset;
use super::error::SeedError;
use super::progress::Bars;
use super::replica::Primaries;
use super::report::SeedReport;
use super::task::{SeedSettings, Task};
use crate::config::address::BackendAddress;

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
