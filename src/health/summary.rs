//! What is shown of a backend's health.

use std::time::{Duration, SystemTime};

use super::BackendState;

/// A change of state that was.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it came about.
    pub at: SystemTime,
    /// What the state has been since.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
}

/// What is known of a backend, to be shown.
#[derive(Debug, Clone)]
pub struct Summary {
    /// How it is.
    pub state: BackendState,
    /// For how long.
    pub state_for: Duration,
    /// Why; what it still lacks, while it is syncing.
    pub reason: String,
    /// The keys of all its databases at the last check; `None` while unknown.
    pub keys: Option<u64>,
    /// Whether it said at the last check that it is a replica; `None` while unknown.
    pub is_replica: Option<bool>,
    /// How long before that check a replica had heard from its primary.
    pub lag: Option<Duration>,
}

impl Summary {
    /// Its part in replication; `None` while unknown.
    pub fn role(&self) -> Option<&'static str> {
        self.is_replica.map(|is_replica| if is_replica { "replica" } else { "primary" })
    }
}
