//! What was written to each key, and when: so it is known which replies are possible, and how old each is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::keys::KEYS;

/// One write: the key has had this content since the servers' state had this number.
#[derive(Clone, Copy)]
struct Write {
    state: u64,
    is_there: bool,
}

/// The writes to each key. States are numbered: each write makes the next one, and every server goes through all of them
/// in order.
pub struct History(Vec<Mutex<Vec<Write>>>);

/// What a reply says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It holds the value that was written with this state.
    Written(u64),
    /// It holds some value.
    Present,
    Absent,
}

/// How a reply fits the writes to its key.
#[derive(Debug, PartialEq, Eq)]
pub enum Age {
    /// No write gave the key such a content.
    Never,
    /// It is older than what the session had seen of the key.
    Backwards,
    Known {
        /// The first state that it can belong to.
        earliest: u64,
        /// The state in which the key got its next content, if it has got one.
        overwritten: Option<u64>,
    },
}

impl History {
    /// All keys are absent at first.
    pub fn new() -> Self {
        let absent = || Mutex::new(vec![Write { state: 0, is_there: false }]);
        Self((0..KEYS).map(|_| absent()).collect())
    }

    /// Notes a write before it is sent.
    pub fn note(&self, key: usize, state: u64, is_there: bool) {
        self.writes(key).push(Write { state, is_there });
    }

    /// Finds the newest write that a reply can show. `seen` is a state that the session has seen of this key.
    pub fn age(&self, key: usize, content: Content, seen: u64) -> Age {
        let writes = self.writes(key);
        let shows = |write: &Write| match content {
            Content::Written(state) => write.is_there && write.state == state,
            Content::Present => write.is_there,
            Content::Absent => !write.is_there,
        };
        let newest = match content {
            Content::Written(state) => {
                writes.binary_search_by_key(&state, |write| write.state).ok()
            }
            _ => writes.iter().rposition(shows),
        };
        let Some(newest) = newest.filter(|&place| shows(&writes[place])) else {
            return Age::Never;
        };
        let overwritten = |place: usize| writes.get(place + 1).map(|write| write.state);
        let is_possible = |place: usize| overwritten(place).is_none_or(|state| state > seen);
        if !is_possible(newest) {
            return Age::Backwards;
        }
        let mut earliest = newest;
        for place in (0..newest).rev().take_while(|&place| is_possible(place)) {
            if shows(&writes[place]) {
                earliest = place;
            }
        }
        Age::Known { earliest: writes[earliest].state, overwritten: overwritten(newest) }
    }

    fn writes(&self, key: usize) -> MutexGuard<'_, Vec<Write>> {
        self.0[key].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn a_reply_is_as_old_as_the_newest_write_that_it_can_show() {
    let history = History::new();
    for (state, is_there) in [(3, true), (5, false), (8, true), (9, false)] {
        history.note(0, state, is_there);
    }
    let age = |content, seen| history.age(0, content, seen);
    let known = |earliest, overwritten| Age::Known { earliest, overwritten };
    assert_eq!(age(Content::Written(3), 0), known(3, Some(5)));
    assert_eq!(age(Content::Written(3), 4), known(3, Some(5)));
    assert_eq!(age(Content::Written(3), 5), Age::Backwards);
    assert_eq!(age(Content::Written(4), 0), Age::Never);
    assert_eq!(age(Content::Written(5), 0), Age::Never);
    assert_eq!(age(Content::Absent, 0), known(0, None));
    assert_eq!(age(Content::Absent, 4), known(5, None));
    assert_eq!(age(Content::Absent, 8), known(9, None));
    assert_eq!(age(Content::Present, 4), known(3, Some(9)));
    assert_eq!(age(Content::Present, 9), Age::Backwards);
}
