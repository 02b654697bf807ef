//! The questions of a backend's connections to the rooms above, which judge it. The answers come from the
//! state that the health checks found, and from the other backends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::BackendError;

/// Expected time of a read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It is answered at once: silence says something of the server.
    #[default]
    Quick,
    /// Nothing is known: it may be the reason why a server is silent.
    Unknown,
    /// It, or a read like it, has kept a server silent within the last ten minutes.
    Slow,
}

/// Judge of one backend, asked by its connections.
pub trait Supervisor: fmt::Debug + Send + Sync {
    /// Checks that a connection to the server process with this `run_id` may be used.
    ///
    /// # Errors
    /// With the reason why it may not.
    fn admit(&self, run_id: &str) -> Result<(), String>;

    /// Returns the reason why this database must not be read from the backend; `None` where it may be.
    fn refusal(&self, database: i64) -> Option<String>;

    /// Returns whether the backend is up.
    fn is_up(&self) -> bool;

    /// Takes note of a read that has failed, which is a failure of the backend.
    fn failed(&self, error: &BackendError);

    /// Returns whether a read of this class waits on after `silent`. Up to `usual`, a silence says nothing of the
    /// backend. If that is less than the backend timeout, the backend had less time than it is due, and the
    /// silence is not held against it.
    ///
    /// # Errors
    /// [`BackendError::Stuck`] when the backend answers others meanwhile;
    /// [`BackendError::LeftBusy`] when it works on a slow read; [`BackendError::LeftDown`] when it is down.
    fn may_wait(&self, class: Class, silent: Duration, usual: Duration) -> io::Result<bool>;

    /// Returns whether a read waits on, before its deadline, for a backend that is not up.
    ///
    /// # Errors
    /// [`BackendError::Stuck`] when `is_unusual`, and the backend answers others meanwhile.
    fn may_wait_as_last_resort(&self, silent: Duration, is_unusual: bool) -> io::Result<bool>;

    /// Returns the reason why subscribers should go to another backend now, if they should. Their connection, which was
    /// made so long ago (`age`), has been `silent` while an answer was due.
    fn subscribers_leave(&self, silent: Duration, age: Duration) -> Option<BackendError>;

    /// Takes note of a command that the backend has refused with these words. Returns true when all
    /// backends that can be asked refuse it: then the refusal is the answer.
    fn refuses(&self, error: &str) -> bool;

    /// Returns the sources of the scripts that clients have sent.
    fn scripts(&self) -> Vec<Arc<[u8]>>;
}

/// A read that is not quick, while it is unanswered. Its connection reports to it.
pub trait PendingRead: fmt::Debug + Send + Sync {
    /// Takes note that it is being sent: its time begins.
    fn note_sent(&self);

    /// Takes note that its server has been silent for so long since it was sent.
    fn note_silence(&self, silent: Duration);

    /// Returns whether its reply has begun: then its server works on it no more.
    fn has_begun(&self) -> bool;
}
