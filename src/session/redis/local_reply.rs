//! Record of the command that a session is answering itself, from which its completion is made.

use std::sync::Arc;
use std::time::Duration;

use super::reply_writer::Given;
use crate::balance::failover::Attempt;
use crate::health::Member;
use crate::metrics::Outcome;

/// Backend that has answered a command of the session's own.
#[derive(Debug)]
pub struct ServedBy {
    /// The backend.
    pub backend: Arc<Member>,
    /// Time until its reply began.
    pub time: Duration,
}

impl ServedBy {
    /// The backend of this try, whose reply has just begun.
    pub fn attempt(attempt: &Attempt) -> Self {
        Self { backend: Arc::clone(&attempt.backend), time: attempt.began.elapsed() }
    }
}

/// End of a command that the session answers itself.
#[derive(Debug, Default)]
pub struct LocalReply {
    /// The backend that has answered it, if one has.
    pub served_by: Option<ServedBy>,
    /// Length of the reply.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl LocalReply {
    /// Adds what was relayed of a backend's reply between two moments.
    pub fn relayed(&mut self, before: Given, after: Given) {
        self.bytes += after.bytes - before.bytes;
        if after.errors > before.errors {
            self.outcome = Outcome::ErrorReply;
        }
    }
}
