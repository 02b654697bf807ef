//! What is counted of the command at hand when its session answers it.

use std::sync::Arc;
use std::time::Duration;

use super::reply_writer::Given;
use crate::balance::failover::Attempt;
use crate::health::Member;
use crate::metrics::Outcome;

/// A backend's part in a command of the session's own.
#[derive(Debug)]
pub struct ServedBy {
    /// The backend.
    pub backend: Arc<Member>,
    /// How long it took until its reply began.
    pub time: Duration,
}

impl ServedBy {
    /// In the try that is made now, whose reply has just begun.
    pub fn attempt(attempt: &Attempt) -> Self {
        Self { backend: Arc::clone(&attempt.backend), time: attempt.began.elapsed() }
    }
}

/// How a command of the session's own ends.
#[derive(Debug, Default)]
pub struct LocalReply {
    /// The backend that has answered it, if one has.
    pub served_by: Option<ServedBy>,
    /// Length of the reply.
    pub bytes: u64,
    pub outcome: Outcome,
}

impl LocalReply {
    /// Takes note of what was relayed of a backend's reply.
    pub fn relayed(&mut self, before: Given, after: Given) {
        self.bytes += after.bytes - before.bytes;
        if after.errors > before.errors {
            self.outcome = Outcome::ErrorReply;
        }
    }
}
