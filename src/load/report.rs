//! The results of loading, and their table.

use std::time::Duration;

use super::error::SeedError;
use crate::text::table::{self, Alignment};

/// The result of loading one backend.
#[derive(Debug)]
pub struct SeedReport {
    /// `HOST:PORT`, or the path of a Unix socket.
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
