//! The states of a backend, and who is told of their changes.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// How a backend is, in the order in which they are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It serves.
    Up,
    /// It has just failed: leased when none is up.
    Suspect,
    /// It has failed several checks, or was never reached: leased when there is nothing better.
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

/// Receiver of what may be asked of one backend, told whenever that changes: its row in the connection
/// table.
pub trait StateListener: fmt::Debug + Send + Sync {
    /// The backend is in this state from `now` on. One that comes up `slowly` gets its share little by
    /// little.
    fn set_state(&self, state: BackendState, slowly: bool, now: Instant);

    /// Whether the backend is read from only while no other is up.
    fn set_second_choice(&self, is_second_choice: bool);

    /// Whether the backend was silent at its last check, though it can be reached.
    fn set_silent(&self, is_silent: bool);
}
