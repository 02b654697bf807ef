//! The parts of the status JSON that are shown. Fields that are missing, as with another version of `lb`, have defaults.

use std::ops::Deref;

use serde::{Deserialize, Deserializer};

use crate::text::is_hidden;

/// Longest text that is kept, in characters.
const MAX_TEXT_CHARS: usize = 512;

/// Text that is safe to show: it does nothing to the terminal, and is not long. `null` is an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text(String);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let plain = text.chars().map(|c| if is_hidden(c) { '?' } else { c });
        Self(plain.take(MAX_TEXT_CHARS).collect())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.as_deref().unwrap_or_default().into())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The status of a balancer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    pub version: Text,
    pub at: Text,
    pub listen: Text,
    pub uptime_seconds: f64,
    pub verdict: Verdict,
    pub clients: Clients,
    pub requests: Requests,
    pub backends: Vec<Backend>,
    pub sources: Vec<Source>,
    pub commands: Vec<CommandCount>,
    pub last_minute: Option<Minute>,
}

/// How it stands as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Verdict {
    /// `ok`, `degraded` or `failing`.
    pub level: Text,
    pub text: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Clients {
    pub http: u64,
    pub resp: u64,
    pub new: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Requests {
    pub per_second: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Backend {
    pub name: Text,
    pub state: Text,
    /// How bad the state is; 0 if it serves as it should.
    pub severity: u8,
    pub state_seconds: f64,
    pub reason: Text,
    /// Whether the reason says more than that all is well.
    pub telling: bool,
    pub leases: u64,
    pub requests: Requests,
    pub lag_seconds: Option<f64>,
    pub staleness_seconds: Option<f64>,
    pub keys: Option<u64>,
    pub latency_ms: Latency,
    pub last_minute: Option<BackendMinute>,
}

/// Percentiles of the last minute, in milliseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub p99_9: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub name: Text,
    pub error: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CommandCount {
    pub name: Text,
    pub count: u64,
    pub last_minute: Option<CommandMinute>,
}

/// What all backends together did in the last minute, or since the start if that is shorter ago.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Minute {
    pub seconds: f64,
    pub errors: u64,
    pub cut_answers: u64,
    pub refused: Refused,
    pub latency_ms: Latency,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refused {
    pub unanswered: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BackendMinute {
    pub errors: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CommandMinute {
    pub count: u64,
}

impl Document {
    /// Parses a document.
    ///
    /// # Errors
    /// It is no JSON, or a field is of another type.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_null_is_no_failure_and_text_is_harmless() {
        let document = Document::parse(
            br#"{"new_field": [1], "backends": [{"name": "a\u001b[2J\u202e", "lag_seconds": null, "state": null}]}"#,
        )
        .expect("a document");
        assert_eq!(&*document.backends[0].name, "a?[2J?");
        assert_eq!(&*document.backends[0].state, "");
        assert!(document.last_minute.is_none() && document.backends[0].last_minute.is_none());
        assert!(Document::parse(b"<html>").is_err());
    }
}
