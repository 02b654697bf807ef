//! How it stands as a whole: how many backends are up, and what becomes of reads. All that shows a status shows this.

use serde::Serialize;

use crate::balance::Phase;
use crate::health::ShownState;

/// The states, the worst first. From `slow` on upwards something is wrong; `maint` and `draining` are an operator's wish.
const WORST_FIRST: [ShownState; 8] = [
    ShownState::Down,
    ShownState::Ejected,
    ShownState::Suspect,
    ShownState::Syncing,
    ShownState::Slow,
    ShownState::Maint,
    ShownState::Draining,
    ShownState::Up,
];

/// Returns how bad a state is, from 0 for `up` to 7 for `down`.
pub(super) fn severity(state: ShownState) -> usize {
    WORST_FIRST.iter().rev().position(|one| *one == state).unwrap_or_default()
}

/// How it stands as a whole.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    level: Level,
    /// In words, without the names of backends.
    text: String,
    /// Backends that are up, slow ones included.
    up: usize,
    /// All backends, without those that an operator has set aside.
    of: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// All is well.
    Ok,
    /// Reads are answered, and something is wrong.
    Degraded,
    /// No backend is up that should be read from.
    Failing,
}

impl Verdict {
    /// Judges backends by their states, and by whether each is read from at all.
    pub fn of(phase: Phase, backends: &[(ShownState, bool)]) -> Self {
        let count = |states: &[ShownState]| {
            backends.iter().filter(|(state, _)| states.contains(state)).count()
        };
        let may_read = |states: &[ShownState]| {
            backends.iter().any(|(state, is_read)| *is_read && states.contains(state))
        };
        let up = count(&[ShownState::Up, ShownState::Slow]);
        let of = backends.len() - count(&[ShownState::Draining, ShownState::Maint]);
        let (level, text) = if may_read(&[ShownState::Up, ShownState::Slow]) {
            let is_well = up == of && count(&[ShownState::Slow]) == 0;
            let level = if is_well { Level::Ok } else { Level::Degraded };
            let is_alone = is_well && backends.len() == 1;
            let text =
                if is_alone { "The backend is up".into() } else { format!("{up} of {of} up") };
            (level, text)
        } else if may_read(&[ShownState::Suspect, ShownState::Ejected]) {
            (Level::Failing, "None is up: reads go to suspects".to_owned())
        } else if may_read(&[ShownState::Draining]) {
            (Level::Failing, "None is up: reads go to those that drain".to_owned())
        } else {
            (Level::Failing, "All reads fail".to_owned())
        };
        let (level, text) = match (leaves(phase), level) {
            (None, level) => (level, text),
            (Some(leaves), Level::Failing) => (Level::Failing, format!("{leaves} · {text}")),
            (Some(leaves), _) => (Level::Degraded, format!("{leaves} · {text}")),
        };
        Self { level, text, up, of }
    }
}

/// Says that the process is about to end, if it is.
fn leaves(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Serving => None,
        Phase::Leaving => Some("Leaving: new clients should go elsewhere"),
        Phase::Draining => Some("Draining: no new clients"),
        Phase::Closing => Some("Closing"),
    }
}

#[cfg(test)]
mod tests {
    use super::ShownState::{Down, Draining, Ejected, Maint, Slow, Suspect, Syncing, Up};
    use super::*;

    #[test]
    fn each_row_of_the_verdict() {
        let rows: [(&[ShownState], Level, &str, usize, usize); 14] = [
            (&[Up], Level::Ok, "The backend is up", 1, 1),
            (&[Up, Up, Up], Level::Ok, "3 of 3 up", 3, 3),
            (&[Up, Slow, Up], Level::Degraded, "3 of 3 up", 3, 3),
            (&[Slow], Level::Degraded, "1 of 1 up", 1, 1),
            (&[Up, Down, Syncing], Level::Degraded, "1 of 3 up", 1, 3),
            (&[Up, Suspect], Level::Degraded, "1 of 2 up", 1, 2),
            (&[Up, Maint, Draining], Level::Ok, "1 of 1 up", 1, 1),
            (&[Up, Maint, Down], Level::Degraded, "1 of 2 up", 1, 2),
            (&[Down, Suspect], Level::Failing, "None is up: reads go to suspects", 0, 2),
            (&[Ejected, Draining], Level::Failing, "None is up: reads go to suspects", 0, 1),
            (&[Draining, Down], Level::Failing, "None is up: reads go to those that drain", 0, 1),
            (&[Down, Syncing, Maint], Level::Failing, "All reads fail", 0, 2),
            (&[Maint], Level::Failing, "All reads fail", 0, 0),
            (&[], Level::Failing, "All reads fail", 0, 0),
        ];
        for (states, level, text, up, of) in rows {
            let backends: Vec<_> = states.iter().map(|state| (*state, true)).collect();
            let expected = Verdict { level, text: text.to_owned(), up, of };
            assert_eq!(Verdict::of(Phase::Serving, &backends), expected, "{states:?}");
        }
    }

    #[test]
    fn what_is_never_read_from_serves_no_reads_and_a_process_that_ends_is_not_well() {
        let verdict = |phase, backends| Verdict::of(phase, backends);
        let failing = verdict(Phase::Serving, &[(Up, false), (Down, true)]);
        assert_eq!((failing.level, failing.text.as_str()), (Level::Failing, "All reads fail"));
        let leaving = verdict(Phase::Draining, &[(Up, true), (Down, true)]);
        assert_eq!(leaving.level, Level::Degraded);
        assert_eq!(leaving.text, "Draining: no new clients · 1 of 2 up");
        assert_eq!(verdict(Phase::Closing, &[(Down, true)]).level, Level::Failing);
    }

    #[test]
    fn each_state_has_its_own_severity() {
        let mut all = ShownState::ALL.map(severity);
        assert_eq!([Up, Draining, Slow, Down].map(severity), [0, 1, 3, 7]);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
