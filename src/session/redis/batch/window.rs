//! How many commands are sent together.
//!
//! Redis makes the replies to a whole batch before others get a turn, and keeps what is not read yet. So a
//! session tries out how much it may ask for at once.

use super::Batch;
use crate::backend::BackendError;

/// Number of commands in the first window. Each batch of short replies doubles the window; a long reply
/// shrinks it to a single command.
pub(super) const FIRST_WINDOW: usize = 64;

/// Number of commands in the largest window.
pub(super) const MAX_WINDOW: usize = 1024;

/// The first window after a timeout. It doubles up to half of the batch that timed out.
const FIRST_WINDOW_AFTER_TIMEOUT: usize = 2;

/// Number of commands by which that bound grows with each batch: the backend may have been to blame.
const WINDOW_GROWTH: usize = 4;

impl Batch {
    /// The batch is done, and how much the next may ask for follows from it.
    pub(super) fn grow_window(&mut self, has_long: bool) {
        self.max_window = (self.max_window + WINDOW_GROWTH).min(MAX_WINDOW);
        self.window = if has_long { 1 } else { (self.window * 2).min(self.max_window) };
        self.is_after_long = has_long;
    }

    /// The steps that are not done, up to `end`, were sent and timed out.
    pub(super) fn shrink_window(&mut self, end: usize) {
        let sent = end - self.done.steps;
        self.max_window = (sent / 2).max(1);
        self.window = self.max_window.min(FIRST_WINDOW_AFTER_TIMEOUT);
    }

    /// All steps that are not done were sent, and `error` came of it.
    pub fn failed(&mut self, error: &BackendError) {
        if matches!(error, BackendError::TimedOut) {
            self.shrink_window(self.steps.len());
        }
    }
}
