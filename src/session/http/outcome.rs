//! How a read on one backend ended.

use std::io;

use crate::backend::BackendError;
use crate::render::json::RenderError;
use crate::resp;

/// How a read on one backend ended without an error.
pub(super) enum ReadOutcome {
    /// The response is written, all but its end. Holds the digest for its ETag, if it gets one.
    Written(Option<u64>),
    /// The request's cursor belongs to another backend.
    OtherBackend,
}

/// Why a read on one backend failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The backend's side failed. Another may be tried while the client has got no byte.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The client's side failed.
    #[error("the client: {0}")]
    Client(#[from] io::Error),
}

impl ReadError {
    /// Whether the value's type changed between the look at its key and the read.
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Redis(text)) if text.starts_with("WRONGTYPE"))
    }
}

impl From<resp::Error> for ReadError {
    fn from(error: resp::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<RenderError> for ReadError {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::Reply(error) => error.into(),
            RenderError::Sink(error) => Self::Client(error),
            RenderError::Changed => Self::Backend(BackendError::Changed),
        }
    }
}
