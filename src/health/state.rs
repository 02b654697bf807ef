//! The states of a backend, and the receiver of their changes.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

/// State of a backend. The states are in the order in which backends are leased.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It serves.
    Up,
    /// It has just failed: leased when none is up.
    Suspect,
    /// It has failed several checks, or was never reached: leased when there is nothing better.
    #[default]
    Down,
    /// It answers, but may lack data: never leased.
    Syncing,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Syncing => "syncing",
        })
    }
}

/// Receiver of the changes of one backend's state: its row in the connection table.
pub trait StateListener: fmt::Debug + Send + Sync {
    /// Sets the backend's state from `now` on. A backend that comes up `slowly` gets its share little by
    /// little.
    fn set_state(&self, state: BackendState, slowly: bool, now: Instant);

    /// Sets whether the backend is read from only while no other is up.
    fn set_second_choice(&self, is_second_choice: bool);

    /// Sets whether the backend was silent at its last check, though it can be reached.
    fn set_silent(&self, is_silent: bool);
}

/// A change of a backend's state.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it happened.
    pub at: SystemTime,
    /// The new state.
    pub state: BackendState,
    /// The reason, in words.
    pub reason: String,
}

/// The state of a backend, to be shown.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The state.
    pub state: BackendState,
    /// How long it has been in this state.
    pub state_for: Duration,
    /// The reason; the keys that it still lacks, while it is syncing.
    pub reason: String,
    /// The keys of all its databases at the last check; `None` while unknown.
    pub keys: Option<u64>,
    /// Whether it said at the last check that it is a replica; `None` while unknown.
    pub is_replica: Option<bool>,
    /// How long before that check a replica had heard from its primary.
    pub lag: Option<Duration>,
}

impl Summary {
    /// Returns its part in replication; `None` while unknown.
    pub fn role(&self) -> Option<&'static str> {
        self.is_replica.map(|is_replica| if is_replica { "replica" } else { "primary" })
    }
}
