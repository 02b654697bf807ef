//! Why commands are not answered, and how sessions end.

use std::io;

use crate::backend::BackendError;
use crate::balance::slow::SharedAnswer;

pub const OTHER_COMMANDS: &str = "ERR the backends' commands have changed: try again";

/// Why something was not done on a backend.
#[derive(Debug)]
pub enum ForwardError {
    /// The backend failed before a byte of the reply was given to the client.
    Backend(BackendError),
    /// It failed behind that.
    Cut(BackendError),
    /// The client failed.
    Client(io::Error),
}

impl<E: Into<BackendError>> From<E> for ForwardError {
    fn from(error: E) -> Self {
        Self::Backend(error.into())
    }
}

/// How a session ends.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The client left, was idle for too long, or asked to end.
    #[error("{0}")]
    Gone(String),
    /// What it sent is no command: it was told so.
    #[error("refused: {0}")]
    Refused(String),
    /// A reply broke off.
    #[error("cut: {0}")]
    Cut(String),
}

impl From<io::Error> for SessionEnd {
    fn from(error: io::Error) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<ForwardError> for SessionEnd {
    fn from(failure: ForwardError) -> Self {
        match failure {
            ForwardError::Backend(error) | ForwardError::Cut(error) => Self::Cut(error.to_string()),
            ForwardError::Client(error) => error.into(),
        }
    }
}

/// Why nothing came of what was to be done on a backend.
pub enum Unanswered {
    /// Each backend has failed; this says how.
    AllFailed(String),
    /// The first command that is not answered is refused, for this reason; those after it are not.
    Refused(String),
    /// The first command that is not answered was answered to another client that has asked the same.
    Shared(SharedAnswer),
    /// A backend knows other commands than those by which it was judged what to send.
    OtherCommands,
    /// The session is over.
    SessionEnd(SessionEnd),
}
