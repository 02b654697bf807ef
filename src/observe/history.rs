//! The last five minutes, a sample a second: what the status page draws.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::balance::BackendState;
use crate::balance::Balancer;
use crate::metrics::Times;
use crate::sync::{Mutex, lock};

/// The time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// The samples that are kept: five minutes.
const MAX_SAMPLES: usize = 300;

/// A rate is that of the last 5 samples.
const RATE_SAMPLES: usize = 5;

/// Shares and latencies are those of the last minute, in samples; …
const SHARE_SAMPLES: usize = 60;
/// … for latencies all times are kept of one sample in so many.
const TIMES_STEP: u64 = 5;

/// What is counted at one moment, from the start of the process.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Requests that were answered without a backend.
    pub answered_here: u64,
    /// For each backend.
    pub backends: Vec<BackendReading>,
}

/// What is counted of one backend at one moment.
#[derive(Debug, Clone)]
pub struct BackendReading {
    /// How it is.
    pub state: BackendState,
    /// Its leases at that moment.
    pub leases: usize,
    /// Tries that failed.
    pub errors: u64,
    /// How long its answers took.
    pub times: Times,
}

/// One backend in one second.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// How it was at the end.
    pub state: BackendState,
    /// Its leases at the end.
    pub leases: usize,
    /// Requests that it answered.
    pub requests: u64,
    /// Tries that failed.
    pub errors: u64,
    /// The time within which 99 % of the replies began; `None` where there were none.
    pub p99: Option<Duration>,
}

/// The last samples. All backends' have the same numbers.
#[derive(Debug)]
pub struct History(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    last: Option<Reading>,
    /// The number of the newest sample; 0 before there is one.
    number: u64,
    answered_here: VecDeque<u64>,
    backends: Vec<BackendRing>,
}

#[derive(Debug, Default)]
struct BackendRing {
    samples: VecDeque<Sample>,
    /// Of the last minute, the oldest first.
    times: VecDeque<Times>,
}

/// What there is to be shown of the last seconds.
#[derive(Debug)]
pub struct Recent {
    /// The number of the newest sample; the first is 1.
    pub number: u64,
    /// Requests a second, with and without a backend.
    pub per_second: f64,
    /// For each backend.
    pub backends: Vec<RecentOfBackend>,
}

/// The same of one backend.
#[derive(Debug)]
pub struct RecentOfBackend {
    /// Requests a second.
    pub per_second: f64,
    /// Of what all backends have answered in the last minute; `None` where that is nothing.
    pub share: Option<f64>,
    /// How long the replies of the last minute took to begin.
    pub times: Times,
    /// The samples that were asked for, the oldest first.
    pub samples: Vec<Sample>,
}

impl History {
    /// Of so many backends, without samples.
    pub fn new(backends: usize) -> Self {
        let backends = (0..backends).map(|_| BackendRing::default()).collect();
        let ring = Ring { last: None, number: 0, answered_here: VecDeque::new(), backends };
        Self(Mutex::new(ring))
    }

    /// Adds a sample: what has changed since the reading before.
    pub fn add(&self, reading: Reading) {
        let mut ring = lock(&self.0);
        if let Some(last) = ring.last.take() {
            ring.add(&last, &reading);
        }
        ring.last = Some(reading);
    }

    /// What is known at the moment of a new reading, with the samples behind number `since`.
    pub fn recent(&self, reading: &Reading, since: u64) -> Recent {
        let ring = lock(&self.0);
        let wanted = usize::try_from(ring.number.saturating_sub(since)).unwrap_or(usize::MAX);
        let shared: u64 = ring.backends.iter().map(BackendRing::requests_of_share).sum();
        let backends = ring.backends.iter().zip(&reading.backends);
        let backends: Vec<_> = backends
            .map(|(backend, reading)| RecentOfBackend {
                per_second: per_second(backend.samples.iter().map(|sample| sample.requests)),
                share: (shared > 0).then(|| backend.requests_of_share() as f64 / shared as f64),
                times: match backend.times.front() {
                    Some(earlier) => reading.times.since(earlier),
                    None => reading.times.clone(),
                },
                samples: last(&backend.samples, wanted).copied().collect(),
            })
            .collect();
        let by_backends: f64 = backends.iter().map(|backend| backend.per_second).sum();
        let here = per_second(ring.answered_here.iter().copied());
        Recent { number: ring.number, per_second: by_backends + here, backends }
    }
}

impl Ring {
    fn add(&mut self, last: &Reading, now: &Reading) {
        self.number += 1;
        push(&mut self.answered_here, now.answered_here - last.answered_here, RATE_SAMPLES);
        let readings = last.backends.iter().zip(&now.backends);
        for (backend, (last, now)) in self.backends.iter_mut().zip(readings) {
            let times = now.times.since(&last.times);
            let sample = Sample {
                state: now.state,
                leases: now.leases,
                requests: times.count(),
                errors: now.errors.saturating_sub(last.errors),
                p99: times.percentile(0.99),
            };
            push(&mut backend.samples, sample, MAX_SAMPLES);
            if self.number % TIMES_STEP == 1 {
                let kept = SHARE_SAMPLES / TIMES_STEP as usize;
                push(&mut backend.times, last.times.clone(), kept);
            }
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

/// Starts to take samples.
pub fn start(balancer: &Arc<Balancer>) {
    let balancer = Arc::clone(balancer);
    let sample = move || {
        let mut next = Instant::now();
        loop {
            balancer.history.add(balancer.reading());
            next = (next + INTERVAL).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    };
    if let Err(error) = thread::Builder::new().name("history".to_owned()).spawn(sample) {
        warn!("no thread for the history that the status page draws: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    /// What is read once the backends have answered so often, and `here` was answered without them.
    fn reading(histograms: &[Histogram], here: u64) -> Reading {
        let backend = |histogram: &Histogram| BackendReading {
            state: BackendState::Up,
            leases: 7,
            errors: 0,
            times: histogram.times(),
        };
        Reading { answered_here: here, backends: histograms.iter().map(backend).collect() }
    }

    fn answer(histogram: &Histogram, count: u64, millis: u64) {
        (0..count).for_each(|_| histogram.add(Duration::from_millis(millis), 1));
    }

    #[test]
    fn a_sample_is_what_has_changed_and_the_newest_five_make_the_rate() {
        let histograms = [Histogram::default(), Histogram::default()];
        let history = History::new(2);
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
        let history = History::new(1);
        (0..=400).for_each(|_| history.add(reading(&histograms, 0)));
        let samples =
            |since| history.recent(&reading(&histograms, 0), since).backends[0].samples.len();
        assert_eq!([samples(0), samples(399), samples(400), samples(9999)], [300, 1, 0, 0]);
    }

    #[test]
    fn latencies_are_those_of_the_last_minute() {
        let histograms = [Histogram::default()];
        let history = History::new(1);
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
        let history = History::new(1);
        assert_eq!(history.recent(&reading(&[Histogram::default()], 0), 0).backends[0].share, None);
    }
}
