//! The lines of the log that requests and sessions leave, with what the connection table says at
//! that moment.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::Level;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::logging;

/// What of a request's method and target goes into the log, in characters.
const LOGGED_CHARS: usize = 256;

/// Counts the leases of each backend, by name.
pub type LeaseCounter = Box<dyn Fn() -> Vec<(Arc<str>, usize)> + Send + Sync>;

/// Writes entries, unless nobody wants them.
pub struct AccessLog {
    leases: LeaseCounter,
    is_quiet: bool,
}

/// One line.
#[derive(Debug, Serialize)]
pub struct Entry {
    #[serde(flatten)]
    event: Event,
    /// Of each backend at this moment.
    leases: Leases,
}

/// What has happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    /// An HTTP request was answered.
    Request(HttpRequest),
    /// What could not be read as an HTTP request was refused.
    Refused {
        /// Whose it was.
        client: SocketAddr,
        /// Of the answer.
        status: u16,
        /// Why.
        reason: String,
    },
    /// A read is held, so that the balancing can be watched.
    Held {
        /// For so long, in seconds.
        seconds: f64,
    },
    /// A Redis client has got its backend, or another one.
    Reads {
        /// The client.
        client: SocketAddr,
        /// The backend's name.
        backend: String,
    },
    /// A Redis client's session is over.
    Session(Session),
    /// Sessions were moved to other backends.
    Moved {
        /// How many.
        sessions: usize,
    },
}

/// An HTTP request, and how it was answered.
#[derive(Debug, Serialize)]
pub struct HttpRequest {
    /// Who sent it.
    pub client: SocketAddr,
    /// Its method.
    pub method: Text,
    /// Its target: path and query.
    pub target: Text,
    /// Of the answer.
    pub status: u16,
    /// The backend that has answered.
    pub backend: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// What was sent, head included.
    pub bytes: u64,
    /// What went wrong behind the first byte of the answer.
    pub cut: Option<String>,
}

/// A Redis client's session.
#[derive(Debug, Serialize)]
pub struct Session {
    /// Whose it was.
    pub client: SocketAddr,
    /// How many commands there were.
    pub commands: u64,
    /// How many replies were errors.
    pub errors: u64,
    /// The backend that it was with last.
    pub backend: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Why it ended.
    pub ended: String,
}

/// What a client has said, cut to a length.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Text(String);

/// How many leases each backend has.
#[derive(Debug)]
struct Leases(Vec<(Arc<str>, usize)>);

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("is_quiet", &self.is_quiet).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Access log that shows these leases with each entry. A quiet one writes nothing.
    pub fn new(leases: LeaseCounter, is_quiet: bool) -> Self {
        Self { leases, is_quiet }
    }

    /// Writes what `make` makes, if anybody wants it.
    pub fn write(&self, make: impl FnOnce() -> Event) {
        self.write_at(Level::Info, make);
    }

    /// The same, where it matters so much.
    pub fn write_at(&self, level: Level, make: impl FnOnce() -> Event) {
        if self.is_quiet || !log::log_enabled!(level) {
            return;
        }
        let event = make();
        logging::write_entry(level, || {
            let leases = Leases((self.leases)());
            Entry { event, leases }
        });
    }
}

impl Text {
    /// Of what may be of any length.
    pub fn cut(text: &str) -> Self {
        match text.char_indices().nth(LOGGED_CHARS) {
            Some((end, _)) => Self(format!("{}…", &text[..end])),
            None => Self(text.to_owned()),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A space is escaped as well: it ends a field.
        self.0.chars().try_for_each(|c| match c {
            ' ' => f.write_str("\\u{20}"),
            c => write!(f, "{}", c.escape_debug()),
        })
    }
}

impl Serialize for Leases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, count) in &self.0 {
            map.serialize_entry(&**name, count)?;
        }
        map.end()
    }
}

impl fmt::Display for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("leases")?;
        self.0.iter().try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.event, self.leases)?;
        // Why it went wrong stands at the end: it is a sentence.
        match &self.event {
            Event::Request(HttpRequest { cut: Some(why), .. }) => {
                write!(f, " cut: {}", logging::escaped(why))
            }
            Event::Refused { reason, .. } => write!(f, " {}", logging::escaped(reason)),
            Event::Session(session) => write!(f, " {}", logging::escaped(&session.ended)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => request.fmt(f),
            Self::Refused { client, status, .. } => write!(f, "{client} refused {status}"),
            Self::Held { seconds } => {
                let time = humantime::format_duration(Duration::from_secs_f64(*seconds));
                write!(f, "held for {time}")
            }
            Self::Reads { client, backend } => write!(f, "{client} reads from {backend}"),
            Self::Session(session) => session.fmt(f),
            Self::Moved { sessions } => write!(f, "moved {}", counted(*sessions as u64, "session")),
        }
    }
}

impl fmt::Display for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, method, target, status, backend, ms, .. } = self;
        let backend = backend.as_deref().unwrap_or("-");
        write!(f, "{client} {method} {target} {status} {backend} {ms:.3}ms")
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.backend.as_deref().unwrap_or("-");
        let commands = counted(self.commands, "command");
        let errors = counted(self.errors, "error");
        let (client, seconds) = (self.client, self.seconds);
        write!(f, "{client} session {backend} {commands} {errors} {seconds:.3}s")
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_is_one_short_field() {
        let shown = |text: &str| Text::cut(text).to_string();
        assert_eq!(shown("/actor:1?field=a%20b"), "/actor:1?field=a%20b");
        assert_eq!(shown("/a b\n\x1b[2J\u{202e}"), "/a\\u{20}b\\n\\u{1b}[2J\\u{202e}");
        assert_eq!(shown("/ключ"), "/ключ");
        let long = shown(&"é".repeat(LOGGED_CHARS + 1));
        assert_eq!(long, format!("{}…", "é".repeat(LOGGED_CHARS)));
    }
}
