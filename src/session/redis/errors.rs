//! Errors that end a try, a command or a session.

use std::io;

use crate::backend::BackendError;
use crate::balance::slow::SharedAnswer;

/// Error reply to commands whose verdicts were out of date each time that they were to be sent.
pub const OTHER_COMMANDS: &str = "ERR the backends' commands have changed: try again";

/// Error of a try on one backend.
#[derive(Debug)]
pub enum ForwardError {
    /// The backend failed before a byte of the reply was given to the client.
    Backend(BackendError),
    /// The backend failed after that.
    Cut(BackendError),
    /// The client failed.
    Client(io::Error),
}

impl<E: Into<BackendError>> From<E> for ForwardError {
    fn from(error: E) -> Self {
        Self::Backend(error.into())
    }
}

/// Reason for which a session ends.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The client left, was idle for too long, or asked to end.
    #[error("{0}")]
    Gone(String),
    /// The client sent bytes that are no command, and was told so.
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

/// Error of a command after all tries.
pub enum Unanswered {
    /// Each backend has failed, as this says.
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
