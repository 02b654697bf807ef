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
        ShownState::from(*self).fmt(f)
    }
}

/// An operator's wish for a backend, set at run time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// It is used as its state allows.
    #[default]
    Ready,
    /// It gets no leases while another can serve, and its sessions move to others. It is checked.
    Drain,
    /// Nothing is read from it, and it is not checked.
    Maint,
}

/// State of a backend as it is shown. Some of the states have a variant that matters to people.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShownState {
    /// It serves.
    Up,
    /// It is up, and its short reads are much slower than those of the others: it gets fewer leases.
    Slow,
    /// It has just failed.
    Suspect,
    /// It is suspect for a fixed time: its reads fail again and again while its checks pass.
    Ejected,
    /// It has failed several checks, or was never reached.
    #[default]
    Down,
    /// It answers, but may lack data.
    Syncing,
    /// It is up, and an operator keeps clients away from it.
    Draining,
    /// An operator has taken it out of service.
    Maint,
}

impl ShownState {
    /// All of them, the best first.
    pub const ALL: [Self; 8] = [
        Self::Up,
        Self::Slow,
        Self::Suspect,
        Self::Ejected,
        Self::Down,
        Self::Syncing,
        Self::Draining,
        Self::Maint,
    ];

    /// Its name, as it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Slow => "slow",
            Self::Suspect => "suspect",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Syncing => "syncing",
            Self::Draining => "draining",
            Self::Maint => "maint",
        }
    }
}

impl From<BackendState> for ShownState {
    fn from(state: BackendState) -> Self {
        match state {
            BackendState::Up => Self::Up,
            BackendState::Suspect => Self::Suspect,
            BackendState::Down => Self::Down,
            BackendState::Syncing => Self::Syncing,
        }
    }
}

impl fmt::Display for ShownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Receiver of the changes of one backend's state: its row in the connection table, and the log.
pub trait StateListener: fmt::Debug + Send + Sync {
    /// Tells that the state that is shown changes. What decides about leases changes after that.
    fn announce(&self, change: &Change);

    /// Sets the backend's state from `now` on. A backend that comes up `slowly` gets its share little by
    /// little.
    fn set_state(&self, state: BackendState, slowly: bool, now: Instant);

    /// Sets whether the backend is read from only while no other is up.
    fn set_second_choice(&self, is_second_choice: bool, now: Instant);

    /// Sets from `now` on what an operator wants of the backend.
    fn set_admin(&self, admin: Admin, now: Instant);

    /// Sets from `now` on whether its short reads are much slower than those of the others.
    fn set_slow(&self, is_slow: bool, now: Instant);

    /// Sets whether the backend was silent at its last check, though it can be reached.
    fn set_silent(&self, is_silent: bool);
}

/// A change of a backend's state.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it happened.
    pub at: SystemTime,
    /// The new state.
    pub state: ShownState,
    /// The state that was shown before.
    pub before: ShownState,
    /// The reason, in words.
    pub reason: String,
    /// The keys of all its databases at the last check; `None` while unknown.
    pub keys: Option<u64>,
}

/// A health check, whatever it has found.
#[derive(Debug, Clone, Copy)]
pub struct LastCheck {
    /// When it was over.
    pub ended_at: Instant,
    /// How long it took.
    pub time: Duration,
    /// Whether the backend has answered.
    pub is_answered: bool,
}

/// How far a server is with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What it has.
    pub has: u64,
    /// What it should have.
    pub of: u64,
    /// What is counted: `keys`, or `bytes`.
    pub unit: &'static str,
}

/// The state of a backend, to be shown.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The state.
    pub state: ShownState,
    /// What an operator wants of it.
    pub admin: Admin,
    /// How long it has been in this state.
    pub state_for: Duration,
    /// The reason; the keys that it still lacks, while it is syncing.
    pub reason: String,
    /// Whether the reason says more than that all is well.
    pub is_telling: bool,
    /// The keys of all its databases at the last check; `None` while unknown.
    pub keys: Option<u64>,
    /// Whether it said at the last check that it is a replica; `None` while unknown.
    pub is_replica: Option<bool>,
    /// How long before that check a replica had heard from its primary.
    pub lag: Option<Duration>,
    /// How often it was ejected since the start of the process.
    pub ejections: u64,
    /// How often it has gone down since then.
    pub times_down: u64,
    /// How long it was down since then.
    pub down_time: Duration,
    /// The last check; `None` before the first.
    pub last_check: Option<LastCheck>,
    /// How far it is with its data, while it is syncing; `None` while unknown.
    pub progress: Option<Progress>,
    /// How often its state has changed to each of [`ShownState::ALL`] since the start of the process.
    pub entered: [u64; ShownState::ALL.len()],
}

impl Summary {
    /// Returns its part in replication; `None` while unknown.
    pub fn role(&self) -> Option<&'static str> {
        self.is_replica.map(|is_replica| if is_replica { "replica" } else { "primary" })
    }
}
