//! Errors for users that can't be taken as they are written.

use std::fmt::Write;

use crate::text::is_hidden;

/// Limit of characters of a rule that an error shows.
const MAX_SHOWN_CHARS: usize = 60;

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

    /// Adds where it is.
    pub(super) fn at_line(self, number: usize) -> Self {
        Self::new(format!("line {number}: {}", self.text))
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub why: String,
    /// Whether the rule must not be shown.
    pub is_secret: bool,
}

impl Wrong {
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_secret: false }
    }

    /// What is wrong with a rule that has, or may have, a password in it.
    pub fn secret(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_secret: true }
    }

    /// The error for this rule of a user, which is its rule number `number` from 1 on.
    pub fn of(self, user: &str, number: usize, rule: &str) -> UsersError {
        let user = shown(user);
        let shown = match self.is_secret {
            true => "not shown: a password may be in it".to_owned(),
            false => format!("`{}`", shown(rule)),
        };
        UsersError::new(format!("user {user}: rule {number} ({shown}): {}", self.why))
    }
}

impl From<&str> for Wrong {
    fn from(why: &str) -> Self {
        Self::new(why)
    }
}

/// Text as it can be shown in one line of a terminal.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(MAX_SHOWN_CHARS) {
        match is_hidden(c) {
            true => drop(write!(shown, "{}", c.escape_unicode())),
            false => shown.push(c),
        }
    }
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
