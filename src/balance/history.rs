//! The last five minutes, one sample a second, as the status page draws them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backend::BackendId;
use crate::health::ShownState;
use crate::metrics::Times;
use crate::sync::{Mutex, lock};

/// The time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Samples that are kept: five minutes.
const MAX_SAMPLES: usize = 300;

/// Samples from which rates are made.
const RATE_SAMPLES: usize = 5;

/// Samples from which shares and latencies are made: one minute.
const SHARE_SAMPLES: usize = 60;

/// Samples between two copies of a histogram, which latencies are made from.
const TIMES_STEP: u64 = 5;

/// All counts since the start of the process, at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Requests that were answered without a backend.
    pub answered_here: u64,
    /// For each backend.
    pub backends: Vec<BackendReading>,
}

/// Counts of one backend at one moment.
#[derive(Debug, Clone)]
pub struct BackendReading {
    /// The backend.
    pub id: BackendId,
    /// Its state.
    pub state: ShownState,
    /// The number of its leases.
    pub leases: usize,
    /// Tries that failed.
    pub errors: u64,
    /// How long its replies took to begin.
    pub times: Times,
}

/// One backend in one second.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Its state at the end.
    pub state: ShownState,
    /// The number of its leases at the end.
    pub leases: usize,
    /// Requests that it answered.
    pub requests: u64,
    /// Tries that failed.
    pub errors: u64,
    /// Time within which 99 % of the replies began; `None` if there were none.
    pub p99: Option<Duration>,
}

/// The last samples of all backends, which are numbered alike.
#[derive(Debug, Default)]
pub struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    last: Option<Reading>,
    /// The number of the newest sample; 0 before there is one.
    number: u64,
    answered_here: VecDeque<u64>,
    backends: HashMap<BackendId, BackendRing>,
}

#[derive(Debug, Default)]
struct BackendRing {
    samples: VecDeque<Sample>,
    /// Copies of its histogram from the last minute, the oldest first.
    times: VecDeque<Times>,
}

/// The last seconds, as they are shown.
#[derive(Debug)]
pub struct Recent {
    /// The number of the newest sample; the first is 1.
    pub number: u64,
    /// Requests a second, those included that no backend answered.
    pub per_second: f64,
    /// For each backend.
    pub backends: Vec<RecentOfBackend>,
}

/// The last seconds of one backend.
#[derive(Debug)]
pub struct RecentOfBackend {
    /// Requests a second.
    pub per_second: f64,
    /// Its part of all backends' replies in the last minute; `None` if there were none.
    pub share: Option<f64>,
    /// How long replies took to begin in the last minute.
    pub times: Times,
    /// The samples that were asked for, the oldest first.
    pub samples: Vec<Sample>,
}

impl History {
    /// Adds a sample: what has changed since the reading before.
    pub fn add(&self, reading: Reading) {
        let mut ring = lock(&self.0);
        if let Some(last) = ring.last.take() {
            ring.add(&last, &reading);
        }
        ring.last = Some(reading);
    }

    /// The last seconds before a new reading, with the samples after number `since`.
    pub fn recent(&self, reading: &Reading, since: u64) -> Recent {
        let ring = lock(&self.0);
        let wanted = usize::try_from(ring.number.saturating_sub(since)).unwrap_or(usize::MAX);
        let shared: u64 = ring.backends.values().map(BackendRing::requests_of_share).sum();
        let recent = |reading: &BackendReading| ring.recent(reading, wanted, shared);
        let backends: Vec<_> = reading.backends.iter().map(recent).collect();
        let by_backends: f64 = backends.iter().map(|backend| backend.per_second).sum();
        let here = per_second(ring.answered_here.iter().copied());
        Recent { number: ring.number, per_second: by_backends + here, backends }
    }
}

impl Ring {
    fn add(&mut self, last: &Reading, now: &Reading) {
        self.number += 1;
        push(&mut self.answered_here, now.answered_here - last.answered_here, RATE_SAMPLES);
        self.backends.retain(|id, _| now.backends.iter().any(|reading| reading.id == *id));
        let keeps_times = self.number % TIMES_STEP == 1;
        for now in &now.backends {
            let last = last.backends.iter().find(|last| last.id == now.id).unwrap_or(now);
            let times = now.times.since(&last.times);
            let sample = Sample {
                state: now.state,
                leases: now.leases,
                requests: times.count(),
                errors: now.errors.saturating_sub(last.errors),
                p99: times.percentile(0.99),
            };
            let ring = self.backends.entry(now.id).or_default();
            push(&mut ring.samples, sample, MAX_SAMPLES);
            if keeps_times {
                let kept = SHARE_SAMPLES / TIMES_STEP as usize;
                push(&mut ring.times, last.times.clone(), kept);
            }
        }
    }

    fn recent(&self, now: &BackendReading, wanted: usize, shared: u64) -> RecentOfBackend {
        let none = BackendRing::default();
        let ring = self.backends.get(&now.id).unwrap_or(&none);
        let share = ring.requests_of_share() as f64 / shared as f64;
        RecentOfBackend {
            per_second: per_second(ring.samples.iter().map(|sample| sample.requests)),
            share: (shared > 0).then_some(share),
            times: now.times.since(ring.times.front().unwrap_or(&Times::default())),
            samples: last(&ring.samples, wanted).copied().collect(),
        }
    }
}

impl BackendRing {
    fn requests_of_share(&self) -> u64 {
        last(&self.samples, SHARE_SAMPLES).map(|sample| sample.requests).sum()
    }
}

fn push<T>(ring: &mut VecDeque<T>, item: T, max: usize) {
    if ring.len() == max {
        ring.pop_front();
    }
    ring.push_back(item);
}

fn last<T>(ring: &VecDeque<T>, count: usize) -> impl Iterator<Item = &T> {
    ring.iter().skip(ring.len().saturating_sub(count))
}

fn per_second(counts: impl DoubleEndedIterator<Item = u64>) -> f64 {
    let (count, samples) =
        counts.rev().take(RATE_SAMPLES).fold((0, 0), |(sum, n), count| (sum + count, n + 1));
    match samples {
        0 => 0.0,
        samples => count as f64 / (INTERVAL * samples).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    /// What is read once the backends have answered so often, and `here` was answered without them.
    fn reading(histograms: &[Histogram], here: u64) -> Reading {
        let backend = |(number, histogram): (u32, &Histogram)| BackendReading {
            id: BackendId::new(number),
            state: ShownState::Up,
            leases: 7,
            errors: 0,
            times: histogram.times(),
        };
        Reading { answered_here: here, backends: (0..).zip(histograms).map(backend).collect() }
    }

    fn answer(histogram: &Histogram, count: u64, millis: u64) {
        (0..count).for_each(|_| histogram.add(Duration::from_millis(millis), 1));
    }

    #[test]
    fn a_sample_is_what_has_changed_and_the_newest_five_make_the_rate() {
        let histograms = [Histogram::default(), Histogram::default()];
        let history = History::default();
        answer(&histograms[0], 1000, 1);
        for second in 0..10 {
            history.add(reading(&histograms, second * 2));
            answer(&histograms[0], 30, 1);
            answer(&histograms[1], 10, 1);
        }
        let recent = history.recent(&reading(&histograms, 20), 0);
        assert_eq!((recent.number, recent.per_second), (9, 42.0));
        let [first, second] = &recent.backends[..] else { panic!("two") };
        assert_eq!((first.per_second, second.per_second), (30.0, 10.0));
        assert_eq!((first.share, second.share), (Some(0.75), Some(0.25)));
        let requests: Vec<u64> = first.samples.iter().map(|sample| sample.requests).collect();
        assert_eq!(requests, [30; 9], "what was before the first reading belongs to no second");
    }

    #[test]
    fn only_what_is_new_is_given_and_no_more_than_five_minutes() {
        let histograms = [Histogram::default()];
        let history = History::default();
        (0..=400).for_each(|_| history.add(reading(&histograms, 0)));
        let samples =
            |since| history.recent(&reading(&histograms, 0), since).backends[0].samples.len();
        assert_eq!([samples(0), samples(399), samples(400), samples(9999)], [300, 1, 0, 0]);
    }

    #[test]
    fn latencies_are_those_of_the_last_minute() {
        let histograms = [Histogram::default()];
        let history = History::default();
        history.add(reading(&histograms, 0));
        answer(&histograms[0], 100, 900);
        let p99 = || {
            let recent = history.recent(&reading(&histograms, 0), 0);
            recent.backends[0].times.percentile(0.99).map(|time| time.as_millis() / 100)
        };
        assert_eq!(p99(), Some(9), "before the first sample as well");
        (0..55).for_each(|_| history.add(reading(&histograms, 0)));
        assert_eq!(p99(), Some(9));
        (0..10).for_each(|_| history.add(reading(&histograms, 0)));
        assert_eq!(p99(), None);
    }

    #[test]
    fn the_share_of_nothing_is_not_known() {
        let history = History::default();
        assert_eq!(history.recent(&reading(&[Histogram::default()], 0), 0).backends[0].share, None);
    }
}
