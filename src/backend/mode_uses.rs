//! Which modes have the few shared connections of a backend: those that are used most.
//!
//! The first modes get them as they come. When one asks in vain, its uses are counted beside those of the
//! modes that have one. After [`PERIOD`] the least used of these gives its place up if the asking mode was
//! used more than [`MIN_LEAD`] times as often.

use std::time::{Duration, Instant};

use super::Mode;

/// Time over which uses are compared. A place changes hands once in it, at most.
const PERIOD: Duration = Duration::from_secs(1);

/// How many times as often as another a mode has to be used to get its place. Modes that are used about
/// alike would else take it from each other all the time.
const MIN_LEAD: u64 = 2;

/// Most modes that are counted in one period. Redis has 16 databases by default, and two protocols.
const MAX_COUNTED: usize = 32;

/// Uses of modes in one period.
#[derive(Debug, Default)]
pub(super) struct ModeUses {
    began: Option<Instant>,
    /// Modes that have a shared connection, with the uses of that when the period began.
    shared: Vec<(Mode, u64)>,
    /// Modes that have none, with how often they have asked for one.
    in_vain: Vec<(Mode, u64)>,
}

impl ModeUses {
    /// Counts a use of a mode that has no shared connection. `shared` are the modes that have one, with
    /// the uses of that so far. Returns which of these gives its place to `mode`, if one does.
    pub fn ask_in_vain(
        &mut self,
        mode: Mode,
        shared: impl Iterator<Item = (Mode, u64)> + Clone,
        now: Instant,
    ) -> Option<Mode> {
        let began = *self.began.get_or_insert_with(|| {
            self.shared = shared.clone().collect();
            now
        });
        let asked = self.count(mode);
        if now.saturating_duration_since(began) < PERIOD {
            return None;
        }
        let before = |mode| {
            self.shared.iter().find(|(other, _)| *other == mode).map_or(0, |(_, uses)| *uses)
        };
        // A connection that was replaced meanwhile counts anew.
        let uses =
            shared.map(|(mode, uses)| (uses.checked_sub(before(mode)).unwrap_or(uses), mode));
        let least = uses.min_by_key(|(uses, _)| *uses);
        *self = Self::default();
        least.filter(|(uses, _)| asked > uses * MIN_LEAD).map(|(_, mode)| mode)
    }

    /// Counts a use; returns how many that are. When too many modes are counted, each loses one: those
    /// that are used most stay.
    fn count(&mut self, mode: Mode) -> u64 {
        if let Some((_, uses)) = self.in_vain.iter_mut().find(|(other, _)| *other == mode) {
            *uses += 1;
            return *uses;
        }
        if self.in_vain.len() >= MAX_COUNTED {
            self.in_vain.retain_mut(|(_, uses)| {
                *uses -= 1;
                *uses > 0
            });
            return 1;
        }
        self.in_vain.push((mode, 1));
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Protocol;

    fn mode(database: i64) -> Mode {
        Mode { database, protocol: Protocol::Resp2 }
    }

    /// Two modes with so many uses.
    fn shared(first: u64, second: u64) -> impl Iterator<Item = (Mode, u64)> + Clone {
        [(mode(7), first), (mode(8), second)].into_iter()
    }

    #[test]
    fn a_mode_that_is_used_more_takes_the_place_of_the_least_used_one() {
        for (asked, first, second, expected) in [
            (10, 0, 0, Some(mode(7))),
            (10, 5, 1, Some(mode(8))),
            (10, 4, 5, Some(mode(7))),
            (10, 5, 5, None),
            (10, 50, 50, None),
            (2, 1, 1, None),
        ] {
            let (mut uses, began) = (ModeUses::default(), Instant::now());
            for _ in 1..asked {
                assert_eq!(uses.ask_in_vain(mode(0), shared(1000, 1000), began), None);
            }
            let used = shared(1000 + first, 1000 + second);
            let gives = uses.ask_in_vain(mode(0), used, began + PERIOD);
            assert_eq!(gives, expected, "{asked} {first} {second}");
        }
    }

    #[test]
    fn nothing_changes_within_a_period_and_each_is_counted_anew() {
        let (mut uses, began) = (ModeUses::default(), Instant::now());
        let mut ask =
            |after, first, second| uses.ask_in_vain(mode(0), shared(first, second), began + after);
        for millis in 0..1000 {
            assert_eq!(ask(Duration::from_millis(millis), 0, 0), None);
        }
        assert_eq!(ask(PERIOD, 400, 600), Some(mode(7)));
        // The next period has no uses of the last.
        assert_eq!(ask(PERIOD, 400, 600), None);
        assert_eq!(ask(PERIOD * 2, 401, 601), None);
    }

    #[test]
    fn modes_without_number_do_not_hide_the_one_that_is_used() {
        let (mut uses, began) = (ModeUses::default(), Instant::now());
        for odd in 0..10_000 {
            assert_eq!(uses.ask_in_vain(mode(100 + odd), shared(0, 0), began), None);
            assert_eq!(uses.ask_in_vain(mode(0), shared(0, 0), began), None);
            assert!(uses.in_vain.len() <= MAX_COUNTED);
        }
        assert_eq!(uses.ask_in_vain(mode(0), shared(4000, 4000), began + PERIOD), Some(mode(7)));
    }
}
