//! Why a backend did not answer.

use std::io;

#[cfg(unix)]
use rustix::io::Errno;

use super::unable::{Inability, inability};
use crate::resp;
use crate::text;

/// What of an error's text is passed on, in characters.
const MAX_ERROR_CHARS: usize = 200;

/// How a socket tells that its backend is not silent to others; no system does.
pub const STUCK: io::ErrorKind = io::ErrorKind::ResourceBusy;

/// A socket operation that failed so did for want of something that this machine has too little of.
#[cfg(unix)]
const LOCAL: [Errno; 5] =
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];

/// How a socket tells that its backend works on somebody else's slow read; no system does.
pub const LEFT_BUSY: io::ErrorKind = io::ErrorKind::Unsupported;

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
    /// This machine could not do its part, which says nothing of the backend.
    #[error("{}", local_text(.0))]
    Local(io::Error),
    /// It sent bytes that are no Redis reply.
    #[error("{0}")]
    Protocol(String),
    /// It answered with an error.
    #[error("answered: {0}")]
    Redis(String),
    /// Others are reading large values from it, and their turns took longer than
    /// [`TURN_WAIT`](crate::backend::large_values::TURN_WAIT).
    #[error("timed out behind other large values")]
    Busy,
    /// It says nothing here, while it answers checks.
    #[error("silent, while it answers others")]
    Stuck,
    /// It is a replica that has lost its primary, and a fresher server is up.
    #[error("stale: it has lost its primary")]
    Stale,
    /// It works on a slow read of somebody else, and another backend is up.
    #[error("busy with a slow read")]
    LeftBusy,
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
    pub(crate) fn of_probe(self) -> Self {
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
            | Self::Stale
            | Self::LeftBusy
            | Self::Local(_) => false,
            // That is known already.
            Self::Syncing(_) => false,
            // The connection is to blame, or the read.
            Self::Stuck => false,
            // It is good for other reads.
            Self::Redis(text) => inability(text) != Some(Inability::Request),
            _ => true,
        }
    }

    /// Whether the backend has failed in a way that its checks don't notice.
    pub fn is_unnoticed(&self) -> bool {
        matches!(self, Self::Redis(text) if inability(text) == Some(Inability::Unnoticed))
    }

    /// Whether the fault is this machine's own.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// What this machine lacks, where that alone is why nobody has answered.
    pub fn local_trouble<'a>(mut failures: impl Iterator<Item = &'a Self>) -> Option<String> {
        let first = failures.next().filter(|failure| failure.is_local())?;
        failures.all(Self::is_local).then(|| first.to_string())
    }

    /// What the backend said, where it refused what was asked and is good for other reads.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Redis(text) if inability(text) == Some(Inability::Request) => Some(text),
            _ => None,
        }
    }

    /// Whether no connection to it could be made or kept.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unresolved(_) | Self::Connect(_) | Self::Lost(_) | Self::Syncing(_))
    }

    /// Whether the backend was too slow, rather than out of reach.
    pub fn is_timeout(&self) -> bool {
        self.is_unanswered() || matches!(self, Self::Busy | Self::NoConnection(_))
    }

    /// Whether the backend was asked and said nothing. Where there was no connection for the
    /// question, or no turn, it was not asked.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Stuck | Self::Unresponsive)
    }

    /// Whether a script keeps it from answering.
    pub fn is_script(&self) -> bool {
        matches!(self, Self::Redis(text) if text.starts_with("BUSY "))
    }

    /// Whether the read itself may be why nothing was heard.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::TimedOut)
    }
}

impl From<io::Error> for BackendError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            STUCK => Self::Stuck,
            LEFT_BUSY => Self::LeftBusy,
            _ if is_timeout(&error) => Self::TimedOut,
            _ if is_local(&error) => Self::Local(error),
            _ => Self::Lost(error),
        }
    }
}

impl From<resp::Error> for BackendError {
    fn from(error: resp::Error) -> Self {
        match error {
            resp::Error::Io(error) => error.into(),
            resp::Error::Redis(said) => Self::Redis(shown(&said)),
            resp::Error::Protocol(_) | resp::Error::TooLong => Self::Protocol(error.to_string()),
        }
    }
}

/// What a server has said, as it is shown.
pub(crate) fn shown(said: &str) -> String {
    let plain = |c: char| if text::is_hidden(c) { '?' } else { c };
    said.chars().take(MAX_ERROR_CHARS).map(plain).collect()
}

/// Whether an operation on a socket, or the beginning of a thread, failed for want of something
/// that this machine has too little of.
pub fn is_local(error: &io::Error) -> bool {
    #[cfg(unix)]
    return Errno::from_io_error(error).is_some_and(|errno| LOCAL.contains(&errno));
    #[cfg(not(unix))]
    return error.kind() == io::ErrorKind::OutOfMemory;
}

/// What this machine lacks, and what helps.
fn local_text(error: &io::Error) -> String {
    #[cfg(unix)]
    let what = match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "this machine lets lb have no more file descriptors (ulimit -n)",
        Some(Errno::NFILE) => "this machine has no free file descriptor (fs.file-max)",
        Some(Errno::NOMEM | Errno::NOBUFS) => "this machine has no memory for a connection",
        Some(Errno::ADDRNOTAVAIL) => "this machine has no free port or address for a connection",
        _ => "this machine can't make a connection",
    };
    #[cfg(not(unix))]
    let what = "this machine can't make a connection";
    format!("{what}: {error}")
}

/// A socket's timeout shows as either kind, by platform. That of a connection whose other end no longer
/// acknowledges what was sent is an error with a number.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    let is_unacknowledged = error.raw_os_error() == Some(Errno::TIMEDOUT.raw_os_error());
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        && !is_unacknowledged
}
