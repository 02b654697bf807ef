//! `seed`: loads a CSV file's rows into every server, reads them back and compares them.

mod connection;
mod dataset;
mod error;
mod progress;
mod records;
mod seed;
mod task;
mod transaction;

use std::time::Duration;

pub use self::dataset::Dataset;
pub use self::error::{DatasetError, LineProblem, SeedError};
pub use self::seed::{SeedReport, seed, table};
pub use self::task::SeedSettings;

/// Limit of a row, in bytes of the file. A longer one most likely has an open quote, and would be collected in
/// memory up to the end of the file.
const MAX_ROW_BYTES: u64 = 64 << 20;

/// How long a replica may make no progress before it counts as failed.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(60);
