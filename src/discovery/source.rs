//! The seam where backends come from: DNS, a primary, Sentinels.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::backend::BackendConfig;
use crate::net::tls::TlsError;

/// The servers that a source knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// All of them, none twice.
    pub servers: Vec<BackendConfig>,
    /// How long the list is good; the source is asked again after that.
    pub valid_for: Duration,
}

/// Reason why a source has no list to give. The last one holds on.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    /// Nobody could be asked, or has answered in time.
    #[error("{0}")]
    NoAnswer(String),
    /// The answer is an error.
    #[error("{0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("{0}")]
    Unusable(String),
    /// The answer names no server.
    #[error("the answer names no server")]
    Empty,
}

impl DiscoveryError {
    /// Returns it with the name of the one that was asked.
    pub fn with_name(self, name: &str) -> Self {
        let named = |text| format!("{name}: {text}");
        match self {
            Self::NoAnswer(text) => Self::NoAnswer(named(text)),
            Self::Refused(text) => Self::Refused(named(text)),
            Self::Unusable(text) => Self::Unusable(named(text)),
            Self::Empty => Self::Empty,
        }
    }
}

impl From<io::Error> for DiscoveryError {
    fn from(error: io::Error) -> Self {
        if let Some(error) = TlsError::of(&error) {
            return Self::NoAnswer(format!("TLS: {error}"));
        }
        Self::NoAnswer(match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "it ended the connection".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// What a source may ask of those that were found before.
pub(super) trait KnownServers {
    /// Returns the role that a server of this name has said at its last check, if it is among the backends and
    /// answers.
    fn role(&self, name: &str) -> Option<Role>;
}

/// The role of a server in replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Replica,
}

/// Whether a server can have this address: others come from answers that are wrong.
pub(super) fn is_usable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// A source that knows servers. It has a thread of its own.
pub(super) trait ServiceDiscovery: Send {
    /// Asks for the whole list. Returns by `deadline`, whatever the other side does.
    ///
    /// # Errors
    /// There is no list to be had, or an empty one.
    fn discover(
        &mut self,
        known: &dyn KnownServers,
        deadline: Instant,
    ) -> Result<Found, DiscoveryError>;

    /// Waits until the list may have changed, for at most `time`.
    fn wait(&mut self, time: Duration) {
        thread::sleep(time);
    }
}
