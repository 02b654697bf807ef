//! `Server-Timing`: how long a backend took, and the whole request.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The times that a response tells. The whole request's ends when its head is made: when the body is whole, or too long to
/// be held.
#[derive(Debug, Clone)]
pub(crate) struct ServerTiming {
    /// When the request had arrived.
    pub began: Instant,
    /// When the backend was asked.
    pub asked: Instant,
    /// When it had answered; `None` until then.
    pub answered: Option<Instant>,
    /// The name of the backend.
    pub backend: Arc<str>,
    /// Tells the time.
    pub clock: fn() -> Instant,
}

impl ServerTiming {
    pub(super) fn write_to(&self, head: &mut Vec<u8>) -> io::Result<()> {
        let now = (self.clock)();
        let answered = self.answered.unwrap_or(now);
        let redis = millis(answered.saturating_duration_since(self.asked));
        let total = millis(now.saturating_duration_since(self.began));
        // The path of a Unix socket can contain what a quoted text can't.
        let is_shown = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        let name = self.backend.replace(|c| !is_shown(c), "?");
        write!(head, "Server-Timing: redis;dur={redis};desc=\"{name}\", total;dur={total}\r\n")
    }
}

fn millis(time: Duration) -> String {
    let micros = time.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_time_ends_when_it_has_answered() {
        let (began, backend) = (Instant::now(), Arc::from("a \"b\""));
        let (asked, answered) = (began + Duration::from_millis(2), None);
        let timing = ServerTiming { began, asked, answered, backend, clock: Instant::now };
        let answered = Some(asked + Duration::from_micros(5));
        let mut head = Vec::new();
        ServerTiming { answered, ..timing }.write_to(&mut head).expect("a Vec takes all");
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("Server-Timing: redis;dur=0.005;desc=\"a??b?\", total;dur="));
    }
}
