//! The offsets of all backends, which their checkers report and everybody may ask for.

use std::time::{Duration, Instant};

use super::lag::{Lag, Offsets, Position};
use crate::backend::{BackendId, Report};
use crate::sync::{Mutex, lock};

/// Time for which a bound that a request has asked for decides how often offsets are sampled.
const REMEMBERED_TIME: Duration = Duration::from_secs(60);

/// Samples within a bound: data that are as fresh as can be are seen to be so, with the sample of the primary and
/// that of the replica one interval old each.
const SAMPLES_WITHIN_BOUND: u32 = 4;

/// Longest time between two samples while `--max-lag-bytes` is set. It says nothing of time, so this is what a
/// replica can lack for longest before it is noticed.
const INTERVAL_FOR_BYTES: Duration = Duration::from_millis(250);

/// Shortest time between two samples of one backend.
pub const MIN_SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// How far all backends are in the histories of their writes.
#[derive(Debug, Default)]
pub struct Replication {
    offsets: Mutex<Offsets>,
    asked: Mutex<Asked>,
}

impl Replication {
    /// Takes note of a check that began and was answered at these times.
    pub fn note(&self, id: BackendId, report: &Report, began: Instant, answered: Instant) {
        lock(&self.offsets).note(id, Position::of(report), began, answered);
    }

    /// Takes note of a check that was not answered.
    pub fn note_failed(&self, id: BackendId) {
        lock(&self.offsets).note_failed(id);
    }

    /// Forgets a backend that is not checked any more.
    pub fn forget(&self, id: BackendId) {
        lock(&self.offsets).forget(id);
    }

    /// Returns how old the data of a backend are at most; `None` while that is not known.
    pub fn staleness(&self, id: BackendId, now: Instant) -> Option<Duration> {
        lock(&self.offsets).freshness(id).staleness(now)
    }

    /// Returns what a backend lacks now of its primary's writes.
    pub fn lag(&self, id: BackendId, now: Instant) -> Lag {
        lock(&self.offsets).lag(id, now)
    }

    /// Returns whether samples of this backend's offset tell anything of another, or others' of its own.
    pub fn is_compared(&self, id: BackendId) -> bool {
        lock(&self.offsets).is_compared(id)
    }

    /// Takes note that a request asks for data of at most this age.
    pub fn ask(&self, max_staleness: Duration, now: Instant) {
        lock(&self.asked).note(max_staleness, now);
    }

    /// Returns the shortest bound that a request has asked for not long ago.
    pub fn asked(&self, now: Instant) -> Option<Duration> {
        lock(&self.asked).shortest(now)
    }
}

/// The shortest bound that requests have asked for, and when that was.
#[derive(Debug, Default)]
struct Asked(Option<(Duration, Instant)>);

impl Asked {
    fn note(&mut self, max_staleness: Duration, now: Instant) {
        if self.shortest(now).is_none_or(|shortest| max_staleness <= shortest) {
            self.0 = Some((max_staleness, now));
        }
    }

    fn shortest(&self, now: Instant) -> Option<Duration> {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REMEMBERED_TIME;
        self.0.filter(|(_, at)| is_recent(*at)).map(|(shortest, _)| shortest)
    }
}

/// Returns how often offsets have to be sampled for these bounds; `None` if checks alone are not to be asked for more.
/// `times` are the bounds of the data's age.
pub fn sample_interval(
    times: impl IntoIterator<Item = Duration>,
    has_bound_of_bytes: bool,
) -> Option<Duration> {
    let of_times = times.into_iter().map(|time| time / SAMPLES_WITHIN_BOUND);
    let of_bytes = has_bound_of_bytes.then_some(INTERVAL_FOR_BYTES);
    of_times.chain(of_bytes).min().map(|interval| interval.max(MIN_SAMPLE_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_shortest_bound_counts_for_a_minute_after_it_was_asked_for_last() {
        let began = Instant::now();
        let mut asked = Asked::default();
        for (second, bound, shortest) in [
            (0, 5, 5),
            (1, 9, 5),
            (2, 1, 1),
            (50, 1, 1),
            (109, 9, 1),
            // Nobody has asked for one second for a minute.
            (110, 9, 9),
        ] {
            let now = began + seconds(second);
            asked.note(seconds(bound), now);
            assert_eq!(asked.shortest(now), Some(seconds(shortest)), "at {second}");
        }
        assert_eq!(asked.shortest(began + seconds(170)), None);
    }

    #[test]
    fn samples_are_as_fine_as_the_finest_bound_needs_and_never_too_many() {
        let millis = Duration::from_millis;
        for (times, has_bound_of_bytes, interval) in [
            (vec![], false, None),
            (vec![seconds(60)], false, Some(seconds(15))),
            (vec![seconds(60), seconds(1)], false, Some(millis(250))),
            (vec![seconds(60)], true, Some(millis(250))),
            (vec![millis(500)], true, Some(millis(125))),
            (vec![Duration::ZERO], false, Some(MIN_SAMPLE_INTERVAL)),
        ] {
            assert_eq!(sample_interval(times.clone(), has_bound_of_bytes), interval, "{times:?}");
        }
    }
}
