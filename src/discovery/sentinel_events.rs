//! What Sentinels publish: events, and where they are themselves.

use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::peer::{Peer, text};
use super::source::DiscoveryError;
use super::topology::Endpoint;
use crate::config::LiveConfig;
use crate::config::address::BackendAddress;
use crate::config::rewrite::{Rewrite, rewritten};
use crate::resp::command;

/// Events after which the list may be another.
const CHANNELS: [&str; 8] = [
    "+switch-master",
    "+slave",
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
    "+convert-to-slave",
    "+sentinel",
];

/// Channel of a server on which Sentinels announce themselves.
const ANNOUNCEMENTS: &str = "__sentinel__:hello";

/// Time for which announcements are gathered: each Sentinel makes one every two seconds.
const ANNOUNCEMENT_TIME: Duration = Duration::from_millis(2200);

/// Time for the connection to a server that is listened to.
const SUBSCRIBE_TIME: Duration = Duration::from_millis(300);

/// Most announcements that are gathered.
const MAX_ANNOUNCEMENTS: usize = 64;

/// Time after an event in which others of the same change come.
const EVENT_BURST_TIME: Duration = Duration::from_millis(50);

/// Most events that are dropped after one that counts.
const MAX_DROPPED: usize = 1000;

/// Events of other primaries after which there is a pause: a flood of them must not keep a processor busy.
const EVENTS_AT_ONCE: u32 = 100;

/// A subscription to the events of one Sentinel.
pub(super) struct Events(Peer);

impl Events {
    /// Subscribes to the events of a Sentinel.
    pub fn hear(
        address: &BackendAddress,
        config: &LiveConfig,
        deadline: Instant,
    ) -> Result<Self, DiscoveryError> {
        let mut peer = Peer::connect(address, config, deadline)?;
        peer.ask(&command("SUBSCRIBE").args(CHANNELS), deadline)?;
        Ok(Self(peer))
    }

    /// Waits for an event that concerns this primary, until `deadline` at most.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn wait_for_change(
        &mut self,
        primary: &str,
        deadline: Instant,
    ) -> Result<(), DiscoveryError> {
        for heard in 1.. {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.0.wait_for_input(left) {
                return Ok(());
            }
            let message = self.0.answer(deadline + EVENT_BURST_TIME)?;
            let is_it = published(&message).is_some_and(|text| names(text, primary));
            if is_it {
                thread::sleep(EVENT_BURST_TIME);
                return self.drop_received();
            }
            if heard % EVENTS_AT_ONCE == 0 {
                thread::sleep(EVENT_BURST_TIME);
            }
        }
        Ok(())
    }

    /// Drops the events that have come meanwhile: they are about the same change.
    fn drop_received(&mut self) -> Result<(), DiscoveryError> {
        for _ in 0..MAX_DROPPED {
            if !self.0.wait_for_input(Duration::ZERO) {
                break;
            }
            self.0.answer(Instant::now() + EVENT_BURST_TIME)?;
        }
        Ok(())
    }
}

/// Returns where the Sentinels of a primary are that announce themselves at a server.
pub(super) fn announced(
    server: &BackendAddress,
    primary: &str,
    config: &LiveConfig,
    deadline: Instant,
) -> Result<Vec<Endpoint>, DiscoveryError> {
    let first_deadline = deadline.min(Instant::now() + SUBSCRIBE_TIME);
    let mut peer = Peer::connect(server, config, first_deadline)?;
    let rewrites = &config.get().rewrite_addresses;
    peer.ask(&command("SUBSCRIBE").arg(ANNOUNCEMENTS), first_deadline)?;
    let deadline = deadline.min(Instant::now() + ANNOUNCEMENT_TIME);
    let mut found = Vec::new();
    for _ in 0..MAX_ANNOUNCEMENTS {
        // Nothing more is heard by then.
        let Ok(message) = peer.answer(deadline) else { break };
        let sentinel = published(&message).and_then(|text| announcement(text, primary, rewrites));
        found.extend(sentinel.filter(|sentinel| !found.contains(sentinel)));
    }
    Ok(found)
}

/// Returns the text of a message that was published.
fn published(message: &Value) -> Option<&str> {
    match message {
        Value::Array(parts) if parts.first().and_then(text) == Some("message") => {
            parts.get(2).and_then(text)
        }
        _ => None,
    }
}

/// Whether an event names this primary, in one of its forms: `NAME OLD-HOST …` or `slave … @ NAME HOST PORT`.
fn names(event: &str, primary: &str) -> bool {
    event.split(' ').any(|word| word == primary)
}

/// Reads `HOST,PORT,RUN-ID,EPOCH,NAME,HOST,PORT,EPOCH`, if it is about this primary.
fn announcement(text: &str, primary: &str, rewrites: &[Rewrite]) -> Option<Endpoint> {
    let parts: Vec<&str> = text.split(',').collect();
    match parts[..] {
        [host, port, _, _, name, ..] if name == primary => {
            Some(rewritten(rewrites, host, port.parse().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_announcements_of_other_primaries_are_passed_over() {
        for (event, is_it) in [
            ("mine 10.0.0.1 6379 10.0.0.2 6379", true),
            ("slave 10.0.0.3:6379 10.0.0.3 6379 @ mine 10.0.0.1 6379", true),
            ("master mine 10.0.0.1 6379", true),
            ("master mine2 10.0.0.1 6379", false),
            ("", false),
        ] {
            assert_eq!(names(event, "mine"), is_it, "{event}");
        }
        let rewrites = ["10.0.0.9=s9".parse().expect("a rule")];
        let read = |text: &str| announcement(text, "mine", &rewrites);
        let hello = "10.0.0.9,26379,6fb1,7,mine,10.0.0.1,6379,7";
        assert_eq!(read(hello), Some(("s9".to_owned(), 26379)));
        for other in [&hello.replace("mine", "other"), "", "a,b,c,d,mine", "a,1,c,d"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
