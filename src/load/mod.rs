//! `seed`: loads a CSV file's rows into every server, reads them back and compares them.

mod compare;
mod connection;
mod dataset;
mod error;
mod progress;
mod records;
mod replica;
mod report;
mod seed;
mod task;
mod transaction;

use std::time::Duration;

pub use self::dataset::Dataset;
pub use self::error::{DatasetError, LineProblem, SeedError};
pub use self::report::{SeedReport, table};
pub use self::seed::seed;
pub use self::task::SeedSettings;

/// The longest row, in bytes of the file. A longer one most likely has an open quote, and would be
/// collected in memory up to the end of the file.
const MAX_ROW_BYTES: u64 = 64 << 20;

/// How long a replica may make no progress before it counts as failed.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(60);
