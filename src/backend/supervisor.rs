//! What a backend's connections ask of those who judge it. The answers come from above: from the state
//! that the health checks found, and from how the other backends are.

use std::fmt;
use std::io;
use std::time::Duration;

use super::BackendError;

/// What is known of how long a read takes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It is answered at once: silence says something of the server.
    #[default]
    Quick,
    /// Nothing is known: it may be why a server is silent.
    Unknown,
    /// It, or a read like it, has kept a server silent within the last ten minutes.
    Slow,
}

/// Judge of one backend, asked by its connections.
pub trait Supervisor: fmt::Debug + Send + Sync {
    /// Whether a connection to the server process with this `run_id` may be used.
    ///
    /// # Errors
    /// When it may not: the reason.
    fn admit(&self, run_id: &str) -> Result<(), String>;

    /// Reason why this database must not be read from the backend; `None` where it may be.
    fn refusal(&self, database: i64) -> Option<String>;

    /// Whether the backend is up.
    fn is_up(&self) -> bool;

    /// Takes note of a read that has failed, which is a failure of the backend.
    fn failed(&self, error: &BackendError);

    /// Whether a read of this class waits on after `silent`. Not `is_due` means that the backend had less
    /// time than it is due: that is not held against it.
    ///
    /// # Errors
    /// [`BackendError::Stuck`] when the backend answers others meanwhile;
    /// [`BackendError::LeftBusy`] when it works on a slow read.
    fn may_wait(&self, class: Class, silent: Duration, is_due: bool) -> io::Result<bool>;

    /// Whether a read waits on, before its deadline, for a backend that is not up.
    ///
    /// # Errors
    /// [`BackendError::Stuck`] when `is_unusual`, and the backend answers others meanwhile.
    fn may_wait_as_last_resort(&self, silent: Duration, is_unusual: bool) -> io::Result<bool>;

    /// Takes note of a command that the backend has refused with these words. True when all backends that
    /// can be asked refuse it: then the refusal is the answer.
    fn refuses(&self, error: &str) -> bool;
}

/// A read that is not quick, while it is unanswered: told what happens on its connection.
pub trait PendingRead: fmt::Debug + Send + Sync {
    /// It is being sent: its time begins.
    fn note_sent(&self);

    /// Its server has said nothing for so long since it was sent.
    fn note_silence(&self, silent: Duration);

    /// Whether its reply has begun: then its server is at work on it no more.
    fn has_begun(&self) -> bool;
}
