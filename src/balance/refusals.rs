//! Error replies by which backends have refused commands lately.
//!
//! A command that one backend refuses is sent to the next one. Once all backends that can be asked have refused
//! with the same words, the refusal is the client's answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::table::ConnectionTable;
use crate::backend::{BackendId, is_not_permitted};
use crate::sync::{Mutex, lock};

/// How long a backend's refusal counts.
const REFUSAL_TIME: Duration = Duration::from_secs(10);

/// Time after which the log warns again of a refusal by a backend.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Least time between two warnings about a backend, whatever it refuses.
const WARNING_GAP: Duration = Duration::from_secs(1);

/// Limit of refusals with different words; a new one takes the place of the oldest.
const MAX_REFUSALS: usize = 64;

/// The refusals of all backends.
#[derive(Debug)]
pub(super) struct RecentRefusals {
    table: Arc<ConnectionTable>,
    said: Mutex<Vec<RecentRefusal>>,
}

/// One refusal, and when each backend has made it last.
#[derive(Debug)]
struct RecentRefusal {
    text: String,
    made_at: HashMap<BackendId, Instant>,
    /// When the log has warned of it last, for each backend.
    warned_at: HashMap<BackendId, Instant>,
}

impl RecentRefusal {
    fn was_made(&self, backend: BackendId, now: Instant) -> bool {
        is_recent(self.made_at.get(&backend), now, REFUSAL_TIME)
    }
}

fn is_recent(at: Option<&Instant>, now: Instant, time: Duration) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(*at) < time)
}

impl RecentRefusals {
    /// No refusals yet, of the backends in this table.
    pub fn new(table: Arc<ConnectionTable>) -> Arc<Self> {
        Arc::new(Self { table, said: Mutex::default() })
    }

    /// Adds a refusal, and warns of it; returns whether all backends that can be asked have refused so lately.
    pub fn refuses(&self, backend: BackendId, name: &str, error: &str, now: Instant) -> bool {
        let (by_all, warns) = self.add(backend, error, now);
        if warns {
            let what = match is_not_permitted(error) {
                true => "does not permit the user that it is read as what a client asked",
                false => "can't answer what a client asked",
            };
            let others = if by_all { "and so do all others" } else { "others are asked" };
            warn!("{name} {what}, {others}: {error}");
        }
        by_all
    }

    /// Adds a refusal; returns whether all that can be asked have refused so lately, and whether to warn.
    fn add(&self, backend: BackendId, text: &str, now: Instant) -> (bool, bool) {
        let askable = self.table.askable();
        let mut said = lock(&self.said);
        let index = said.iter().position(|refusal| refusal.text == text).unwrap_or_else(|| {
            if said.len() == MAX_REFUSALS
                && let Some(oldest) =
                    (0..said.len()).min_by_key(|&at| said[at].made_at.values().max().copied())
            {
                said.swap_remove(oldest);
            }
            let text = text.to_owned();
            said.push(RecentRefusal { text, made_at: HashMap::new(), warned_at: HashMap::new() });
            said.len() - 1
        });
        let was_warned =
            |refusal: &RecentRefusal, time| is_recent(refusal.warned_at.get(&backend), now, time);
        let warns = !said.iter().any(|other| was_warned(other, WARNING_GAP))
            && !was_warned(&said[index], WARNING_INTERVAL);
        let refusal = &mut said[index];
        refusal.made_at.insert(backend, now);
        if warns {
            refusal.warned_at.insert(backend, now);
        }
        (askable.iter().all(|other| refusal.was_made(*other, now)), warns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::BackendState;

    const NOPERM: &str = "NOPERM User reader has no permissions to run the 'get' command";

    /// Three servers that are up, and what they refuse.
    fn three() -> (Arc<ConnectionTable>, Arc<RecentRefusals>) {
        let table = ConnectionTable::new(Duration::ZERO, Instant::now());
        for backend in (0..3).map(BackendId::new) {
            table.add(backend);
            table.set_state(backend, BackendState::Up, false, Instant::now());
        }
        let refusals = RecentRefusals::new(Arc::clone(&table));
        (table, refusals)
    }

    #[test]
    fn what_all_servers_refuse_within_a_while_is_an_answer() {
        let (table, refusals) = three();
        let now = Instant::now();
        assert!(!refusals.add(BackendId::new(0), NOPERM, now).0);
        assert!(!refusals.add(BackendId::new(0), NOPERM, now).0, "one server twice is not two");
        assert!(!refusals.add(BackendId::new(1), NOPERM, now).0);
        assert!(!refusals.add(BackendId::new(2), "NOPERM other words", now).0);
        assert!(refusals.add(BackendId::new(2), NOPERM, now).0);
        assert!(refusals.add(BackendId::new(0), NOPERM, now + REFUSAL_TIME / 2).0);
        assert!(
            !refusals.add(BackendId::new(0), NOPERM, now + REFUSAL_TIME).0,
            "the others may permit it now"
        );
        // A server that can't be asked has no say.
        table.set_state(BackendId::new(1), BackendState::Down, false, now);
        table.set_state(BackendId::new(2), BackendState::Syncing, false, now);
        assert!(refusals.add(BackendId::new(0), NOPERM, now + REFUSAL_TIME).0);
    }

    #[test]
    fn a_refusal_is_warned_of_once_a_minute_and_a_server_once_a_second() {
        let (_, refusals) = three();
        let now = Instant::now();
        let warns =
            |backend, text: &str, at| refusals.add(BackendId::new(backend), text, now + at).1;
        assert!(warns(0, NOPERM, Duration::ZERO));
        assert!(warns(1, NOPERM, Duration::ZERO), "each server is named");
        assert!(!warns(0, "NOPERM other words", WARNING_GAP / 2));
        assert!(warns(0, "NOPERM other words", WARNING_GAP));
        assert!(!warns(0, NOPERM, WARNING_INTERVAL / 2));
        assert!(warns(0, NOPERM, WARNING_INTERVAL));
    }

    #[test]
    fn few_refusals_are_remembered() {
        let (_, refusals) = three();
        for number in 0..10 * MAX_REFUSALS {
            refusals.add(BackendId::new(0), &format!("NOPERM {number}"), Instant::now());
        }
        assert_eq!(lock(&refusals.said).len(), MAX_REFUSALS);
    }
}
