//! The reasons why a backend did not answer.

use std::io;

use rustix::io::Errno;

use super::stranger::Stranger;
use super::unable::{Inability, inability};
use crate::net::tls::TlsError;
use crate::resp;
use crate::text;

/// Most characters of an error's text that are passed on.
const MAX_ERROR_CHARS: usize = 200;

/// Kind of the error by which a socket tells [`BackendError::Stuck`]; no system uses it.
pub(crate) const STUCK: io::ErrorKind = io::ErrorKind::ResourceBusy;

/// Kind of the error by which a socket tells [`BackendError::LeftBusy`]; no system uses it.
pub(crate) const LEFT_BUSY: io::ErrorKind = io::ErrorKind::Unsupported;

/// Kind of the error by which a socket tells [`BackendError::LeftDown`]; no system uses it for a socket.
pub(crate) const LEFT_DOWN: io::ErrorKind = io::ErrorKind::ReadOnlyFilesystem;

/// Reason why a backend did not answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Its name could not be resolved to an address (yet).
    #[error("its name does not resolve: {0}")]
    Unresolved(String),
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The TLS handshake failed, or what came after it broke the rules.
    #[error("TLS: {0}")]
    Tls(TlsError),
    /// It said nothing for too long, before or within a reply.
    #[error("timed out")]
    TimedOut,
    /// It has accepted a connection and said nothing to the first command, which is named.
    #[error("no answer to {0}")]
    Silent(&'static str),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// This machine lacks something, which says nothing of the backend.
    #[error("{}", local_text(.0))]
    Local(io::Error),
    /// It sent bytes that are no Redis reply.
    #[error("{0}")]
    Protocol(String),
    /// It is no Redis server, as its first answer tells.
    #[error("{0}")]
    Stranger(Stranger),
    /// It answered with an error.
    #[error("answered: {0}")]
    Redis(String),
    /// Others are reading large values from it, and their turns took longer than
    /// `large_values::TURN_WAIT`.
    #[error("timed out waiting for other large values")]
    Busy,
    /// It is silent on this connection, while it answers checks.
    #[error("silent, while it answers others")]
    Stuck,
    /// It is a replica that has lost its primary, and a fresher server is up.
    #[error("stale: it has lost its primary")]
    Stale,
    /// Clients have to leave it, though it may answer: an operator or the configuration wants that. The text says
    /// which.
    #[error("{0}")]
    Departed(&'static str),
    /// It works on another client's slow read, and another backend is up.
    #[error("busy with a slow read")]
    LeftBusy,
    /// It went down while it was waited for, and another backend is up.
    #[error("went down")]
    LeftDown,
    /// It did not answer a `PING` before the read was sent.
    #[error("does not answer")]
    Unresponsive,
    /// It may lack data, or is no server to read from: nothing is read from it, or not in this
    /// database. The text says which.
    #[error("{0}")]
    Syncing(String),
    /// All connections that it may have are in use (`--backend-connections`).
    #[error("timed out waiting for a connection: all {0} are in use")]
    NoConnection(usize),
    /// The commands that it knows have changed since the request was judged by them.
    #[error("the commands that it knows have changed")]
    OtherCommands,
    /// The connection that carries its subscriptions has ended, or could not be made. The thread that reads it has counted
    /// the failure.
    #[error("{0}")]
    SubscriptionsLost(String),
    /// The value changed between the two passes over it.
    #[error("the value changed while it was read")]
    Changed,
}

impl BackendError {
    /// Turns the error of a probe, which no read can have caused, into one that blames the backend.
    pub(crate) fn of_probe(self) -> Self {
        match self {
            Self::TimedOut => Self::Unresponsive,
            error => error,
        }
    }

    /// Turns a TLS handshake or a login that takes too long into the silence that it is for a read.
    pub(super) fn of_read(self) -> Self {
        match self {
            Self::Tls(TlsError::TimedOut) | Self::Silent(_) => Self::TimedOut,
            error => error,
        }
    }

    /// Returns whether this is the backend's failure, not that of its load or of this machine.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Changed
            | Self::Busy
            | Self::NoConnection(_)
            | Self::SubscriptionsLost(_)
            | Self::OtherCommands
            | Self::Stale
            | Self::Departed(_)
            | Self::LeftBusy
            | Self::Local(_)
            // The health checks know it already.
            | Self::LeftDown
            | Self::Syncing(_)
            // The connection is to blame, or the read.
            | Self::Stuck => false,
            // It is good for other reads.
            Self::Redis(text) => inability(text) != Some(Inability::Request),
            _ => true,
        }
    }

    /// Turns a silence after this command, the first on a connection, into one that names it.
    pub(super) fn of_first(self, command: &'static str) -> Self {
        match self {
            Self::TimedOut => Self::Silent(command),
            error => error,
        }
    }

    /// Returns whether the backend has failed in a way that its checks don't notice.
    pub fn is_unnoticed(&self) -> bool {
        matches!(self, Self::Redis(text) if inability(text) == Some(Inability::Unnoticed))
    }

    /// Returns whether this machine is to blame.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Returns what this machine lacks, if that is the only reason why no backend has answered.
    pub fn local_trouble<'a>(mut failures: impl Iterator<Item = &'a Self>) -> Option<String> {
        let first = failures.next().filter(|failure| failure.is_local())?;
        failures.all(Self::is_local).then(|| first.to_string())
    }

    /// Returns the backend's words if it refused the request and is good for other reads.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Redis(text) if inability(text) == Some(Inability::Request) => Some(text),
            _ => None,
        }
    }

    /// Returns whether no connection to it could be made or kept.
    pub fn is_unreachable(&self) -> bool {
        let is_connection = matches!(self, Self::Connect(_) | Self::Tls(_) | Self::Lost(_));
        is_connection || matches!(self, Self::Unresolved(_) | Self::Syncing(_))
    }

    /// Returns whether the backend was too slow, rather than out of reach.
    pub fn is_timeout(&self) -> bool {
        self.is_unanswered() || matches!(self, Self::Busy | Self::NoConnection(_))
    }

    /// Returns whether the backend was asked and was silent. Without a connection for the request, or
    /// without a turn, it was not asked.
    pub fn is_unanswered(&self) -> bool {
        let is_silent =
            matches!(self, Self::TimedOut | Self::Silent(_) | Self::Stuck | Self::Unresponsive);
        is_silent || matches!(self, Self::Tls(TlsError::TimedOut))
    }

    /// Returns whether a script keeps it from answering.
    pub fn is_script(&self) -> bool {
        matches!(self, Self::Redis(text) if text.starts_with("BUSY "))
    }
}

impl From<io::Error> for BackendError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            STUCK => Self::Stuck,
            LEFT_BUSY => Self::LeftBusy,
            LEFT_DOWN => Self::LeftDown,
            _ if is_timeout(&error) => Self::TimedOut,
            _ if is_local(&error) => Self::Local(error),
            _ => match error.downcast::<TlsError>() {
                Ok(error) => Self::Tls(error),
                Err(error) => Self::Lost(error),
            },
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

/// Returns a server's text as it is shown: short, and without hidden characters.
pub(crate) fn shown(said: &str) -> String {
    let plain = |c: char| if text::is_hidden(c) { '?' } else { c };
    said.chars().take(MAX_ERROR_CHARS).map(plain).collect()
}

/// Returns whether a socket operation, or the start of a thread, failed because this machine has too
/// little of something.
pub(crate) fn is_local(error: &io::Error) -> bool {
    use Errno as E;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(E::MFILE | E::NFILE | E::NOMEM | E::NOBUFS | E::ADDRNOTAVAIL))
}

/// Says what this machine lacks, and what helps.
fn local_text(error: &io::Error) -> String {
    let what = match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "this machine lets lb have no more file descriptors (ulimit -n)",
        Some(Errno::NFILE) => "this machine has no free file descriptor (fs.file-max)",
        Some(Errno::NOMEM | Errno::NOBUFS) => "this machine has no memory for a connection",
        Some(Errno::ADDRNOTAVAIL) => "this machine has no free port or address for a connection",
        _ => "this machine can't make a connection",
    };
    format!("{what}: {error}")
}

/// Returns whether a socket's own timeout is over.
///
/// It shows as either kind, by platform. The kernel's error for a connection on which nothing is
/// acknowledged any more is of the second kind, too, and has a number.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    let is_unacknowledged = error.raw_os_error() == Some(Errno::TIMEDOUT.raw_os_error());
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        && !is_unacknowledged
}
