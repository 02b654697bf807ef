//! Entries of the log about requests, sessions and the states of backends, as text and as JSON.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::format::escaped;

/// Most characters of a request's method and target that are logged.
const LOGGED_CHARS: usize = 256;

/// One line of the log.
#[derive(Debug, Serialize)]
pub struct Entry {
    #[serde(flatten)]
    pub event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases: Option<Leases>,
}

/// Something that happened to a request, a session, several sessions, or a backend.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    /// An HTTP request was answered.
    Request(HttpRequest),
    /// Bytes that are no HTTP request were refused.
    Refused { client: SocketAddr, status: u16, reason: String },
    /// `--demo-delay` holds a read.
    Held { seconds: f64 },
    /// A Redis client got its first backend, or another one.
    Reads { client: SocketAddr, backend: String },
    /// A Redis client's session has ended.
    Session(Session),
    /// Sessions were moved to other backends.
    Moved { sessions: usize },
    /// The state of a backend has changed.
    State(StateChange),
    /// There is no backend to read from.
    Outage { message: &'static str },
    /// There is one again, after so long.
    Recovery { backend: String, seconds: f64 },
}

/// A change of the state of a backend.
#[derive(Debug, Serialize)]
pub struct StateChange {
    /// The name of the backend.
    pub backend: String,
    pub state: &'static str,
    /// The state that it had before.
    pub before: &'static str,
    /// The reason, in words.
    pub reason: String,
    /// The keys of all its databases at the last check; `None` while unknown.
    pub keys: Option<u64>,
}

impl Event {
    /// Whether it tells little without the leases, whatever the configuration says.
    pub fn needs_leases(&self) -> bool {
        match self {
            Self::Held { .. } | Self::Moved { .. } | Self::State(_) | Self::Outage { .. } => true,
            Self::Request(_) | Self::Refused { .. } | Self::Reads { .. } => false,
            Self::Session(_) | Self::Recovery { .. } => false,
        }
    }
}

/// An HTTP request, and how it was answered.
#[derive(Debug, Serialize)]
pub struct HttpRequest {
    pub client: SocketAddr,
    /// The client for which a trusted proxy has passed it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded_for: Option<IpAddr>,
    /// The user, unless it is `default`.
    pub user: Option<String>,
    pub method: Text,
    /// Path and query.
    pub target: Text,
    pub status: u16,
    /// The backend that has answered.
    pub backend: Option<String>,
    /// Time from the request to the end of the response, in milliseconds.
    pub ms: f64,
    /// Bytes that were sent, the head included.
    pub bytes: u64,
    /// The failure that cut the answer off after its first byte.
    pub cut: Option<String>,
}

/// A Redis client's session.
#[derive(Debug, Serialize)]
pub struct Session {
    pub client: SocketAddr,
    /// The user, unless it is `default`.
    pub user: Option<String>,
    pub commands: u64,
    /// Replies that were errors.
    pub errors: u64,
    /// The last backend that it had.
    pub backend: Option<String>,
    pub seconds: f64,
    /// Reason why it ended.
    pub ended: String,
}

/// Text of a client, cut to a length.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Text(String);

/// Number of leases of each backend, by name.
#[derive(Debug)]
pub struct Leases(pub Vec<(Arc<str>, usize)>);

impl Text {
    /// Cuts text of any length.
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
        serializer.collect_map(self.0.iter().map(|(name, count)| (name.as_ref(), count)))
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
        self.event.fmt(f)?;
        if let Some(leases) = self.leases.as_ref().filter(|leases| !leases.0.is_empty()) {
            // After a sentence.
            let end =
                if matches!(self.event, Event::State(_) | Event::Outage { .. }) { ";" } else { "" };
            write!(f, "{end} {leases}")?;
        }
        // A reason is a sentence, so it comes last.
        match &self.event {
            Event::Request(HttpRequest { cut: Some(why), .. }) => {
                write!(f, " cut: {}", escaped(why))
            }
            Event::Refused { reason, .. } => write!(f, " {}", escaped(reason)),
            Event::Session(session) => write!(f, " {}", escaped(&session.ended)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(HttpRequest {
                client,
                forwarded_for,
                user,
                method,
                target,
                status,
                backend,
                ms,
                ..
            }) => {
                let (backend, user) = (backend.as_deref().unwrap_or("-"), shown_user(user));
                let forwarded = forwarded_for.map(|ip| format!(" for={ip}")).unwrap_or_default();
                write!(
                    f,
                    "{client}{forwarded}{user} {method} {target} {status} {backend} {ms:.3}ms"
                )
            }
            Self::Refused { client, status, .. } => write!(f, "{client} refused {status}"),
            Self::Held { seconds } => {
                let time = humantime::format_duration(Duration::from_secs_f64(*seconds));
                write!(f, "held for {time}")
            }
            Self::Reads { client, backend } => write!(f, "{client} reads from {backend}"),
            Self::Session(Session { client, user, commands, errors, backend, seconds, .. }) => {
                let (backend, user) = (backend.as_deref().unwrap_or("-"), shown_user(user));
                let (commands, errors) = (counted(*commands, "command"), counted(*errors, "error"));
                write!(f, "{client}{user} session {backend} {commands} {errors} {seconds:.3}s")
            }
            Self::Moved { sessions } => write!(f, "moved {}", counted(*sessions as u64, "session")),
            Self::State(StateChange { backend, state, reason, .. }) => {
                write!(f, "{} is {state}: {}", escaped(backend), escaped(reason))
            }
            Self::Outage { message } => f.write_str(message),
            Self::Recovery { backend, seconds } => {
                let backend = escaped(backend);
                write!(f, "{backend} is back: reads are answered again, after {seconds:.3}s")
            }
        }
    }
}

/// The user of a line, before a field that no name of a user can be.
fn shown_user(user: &Option<String>) -> String {
    user.as_ref().map(|user| format!(" user={}", Text::cut(user))).unwrap_or_default()
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_client_is_one_short_field() {
        let shown = |text: &str| Text::cut(text).to_string();
        assert_eq!(shown("/actor:1?field=a%20b"), "/actor:1?field=a%20b");
        assert_eq!(shown("/a b\n\x1b[2J\u{202e}"), "/a\\u{20}b\\n\\u{1b}[2J\\u{202e}");
        assert_eq!(shown("/ключ"), "/ключ");
        let long = shown(&"é".repeat(LOGGED_CHARS + 1));
        assert_eq!(long, format!("{}…", "é".repeat(LOGGED_CHARS)));
    }
}
