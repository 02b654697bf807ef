//! Why a backend did not answer.

use std::io;

use crate::resp;
use crate::text;

/// What of an error's text is passed on, in characters.
const MAX_ERROR_CHARS: usize = 200;

/// How a socket tells that its backend is not silent to others; no system does.
pub const STUCK: io::ErrorKind = io::ErrorKind::ResourceBusy;

/// What a server says that has no answer, so that another should be asked: how it begins, and what
/// is in it. (A script may end with an error that begins so.)
const NO_ANSWERS: [(&str, &str); 3] = [
    ("-LOADING ", " is loading the dataset in memory"),
    ("-MASTERDOWN ", "Link with MASTER is down"),
    ("-BUSY ", " is busy running "),
];

/// Why a backend did not answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Its name could not be resolved to an address (yet).
    #[error("its name does not resolve: {0}")]
    Unresolved(String),
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It said nothing for too long, before or within a reply.
    #[error("timed out")]
    TimedOut,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// It sent bytes that are no Redis reply.
    #[error("{0}")]
    Protocol(String),
    /// It answered with an error.
    #[error("answered: {0}")]
    Redis(String),
    /// Others are reading large values from it, and their turns took longer than
    /// [`TURN_WAIT`](crate::large::TURN_WAIT).
    #[error("timed out behind other large values")]
    Busy,
    /// It says nothing here, while it answers checks.
    #[error("silent, while it answers others")]
    Stuck,
    /// It is a replica that has lost its primary, and a fresher server is up.
    #[error("stale: it has lost its primary")]
    Stale,
    /// It did not answer a PING that went before a read whose first try was met by silence.
    #[error("does not answer")]
    Unresponsive,
    /// It may lack data, or is no server that can be served from: nothing is read from it, or not in
    /// this database. The text says which.
    #[error("{0}")]
    Syncing(String),
    /// All connections that there may be to it are in use (`--backend-connections`).
    #[error("timed out waiting for a connection: all {0} are in use")]
    NoConnection(usize),
    /// Its commands are not those by which what is to be sent was judged.
    #[error("the commands that it knows have changed")]
    OtherCommands,
    /// The value changed between the two passes over it.
    #[error("the value changed while it was read")]
    Changed,
}

impl BackendError {
    /// What it means when there was no read yet that could be to blame.
    pub(super) fn of_probe(self) -> Self {
        match self {
            Self::TimedOut => Self::Unresponsive,
            error => error,
        }
    }

    /// Whether nothing is wrong with the backend: what was asked for is being written.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Changed)
    }

    /// Whether this says something of the backend, not of what others do with it.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Changed
            | Self::Busy
            | Self::NoConnection(_)
            | Self::OtherCommands
            | Self::Stale => false,
            // That is known already.
            Self::Syncing(_) => false,
            // The connection is to blame, or the read.
            Self::Stuck => false,
            // What our user may not read, it may not read anywhere.
            Self::Redis(text) => !is_not_permitted(text),
            _ => true,
        }
    }

    /// Whether no connection to it could be made or kept.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unresolved(_) | Self::Connect(_) | Self::Lost(_) | Self::Syncing(_))
    }

    /// Whether the backend was too slow, rather than out of reach.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::TimedOut | Self::Stuck | Self::Unresponsive | Self::Busy | Self::NoConnection(_)
        )
    }

    /// Whether the read itself may be why nothing was heard.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Stuck)
    }
}

impl From<io::Error> for BackendError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            STUCK => Self::Stuck,
            _ if is_timeout(&error) => Self::TimedOut,
            _ => Self::Lost(error),
        }
    }
}

impl From<resp::Error> for BackendError {
    fn from(error: resp::Error) -> Self {
        match error {
            resp::Error::Io(error) => error.into(),
            resp::Error::Redis(said) => {
                let plain = |c: char| if text::is_hidden(c) { '?' } else { c };
                Self::Redis(said.chars().take(MAX_ERROR_CHARS).map(plain).collect())
            }
            resp::Error::Protocol(_) | resp::Error::TooLong => Self::Protocol(error.to_string()),
        }
    }
}

/// Fails when a whole reply says that its server can't answer.
pub fn check_answer(reply: &[u8]) -> Result<(), BackendError> {
    if !reply.starts_with(b"-") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(reply);
    let says = |(begin, what): &(&str, &str)| text.starts_with(begin) && text.contains(what);
    match NO_ANSWERS.iter().any(says) {
        true => Ok(resp::reply::no_error(reply)?),
        false => Ok(()),
    }
}

/// Whether a user's rights are why a command was refused.
pub fn is_not_permitted(error: &str) -> bool {
    error.starts_with("NOPERM")
}

/// A socket's timeout shows as either kind, by platform.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
