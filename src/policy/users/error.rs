//! The error for users that can't be had as they are written.

/// Error for a user or a rule that can't be taken. It names the user, the rule and what is wrong with it, and never
/// a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct UsersError {
    text: String,
}

impl UsersError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}
