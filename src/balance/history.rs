//! The last five minutes, one sample a second, as the status page draws them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::last_minute::{CountsOfMinute, TimesOfMinute};
use crate::backend::BackendId;
use crate::health::ShownState;
use crate::metrics::{BackendCounts, CoarseTimes, Counts, Since, Times};
use crate::sync::{Mutex, lock};

/// The time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Samples that are kept: five minutes.
const MAX_SAMPLES: usize = 300;

/// Samples from which rates are made.
const RATE_SAMPLES: usize = 5;

/// All counts since the start of the process, at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The moment.
    pub at: Instant,
    /// Those of all clients together.
    pub counts: Counts,
    /// For each command, and each kind of HTTP request, that was sent.
    pub commands: Vec<CommandReading>,
    /// For each backend.
    pub backends: Vec<BackendReading>,
}

/// Counts of one command, or kind of HTTP request, at one moment.
#[derive(Debug, Clone)]
pub struct CommandReading {
    /// Its name.
    pub name: Arc<str>,
    /// How often clients have sent it.
    pub sent: u64,
    /// How long backends took over it.
    pub times: CoarseTimes,
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
    /// Its counts.
    pub counts: BackendCounts,
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
#[derive(Debug)]
pub struct History(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    began: Instant,
    last: Option<Reading>,
    /// The number of the newest sample; 0 before there is one.
    number: u64,
    answered_here: VecDeque<u64>,
    minute: CountsOfMinute<Counts>,
    /// By the name of the command.
    commands: HashMap<Arc<str>, CommandRing>,
    backends: HashMap<BackendId, BackendRing>,
}

#[derive(Debug)]
struct CommandRing {
    sent: CountsOfMinute<u64>,
    times: TimesOfMinute<2>,
}

#[derive(Debug)]
struct BackendRing {
    samples: VecDeque<Sample>,
    minute: CountsOfMinute<BackendCounts>,
    times: TimesOfMinute<4>,
}

/// The last seconds, as they are shown.
#[derive(Debug)]
pub struct Recent {
    /// The number of the newest sample; the first is 1.
    pub number: u64,
    /// Requests a second, those included that no backend answered.
    pub per_second: f64,
    /// The last minute; less if the process is younger.
    pub minute: Duration,
    /// What was counted in it.
    pub counts: Counts,
    /// For each command, and each kind of HTTP request, that was sent since the start.
    pub commands: Vec<RecentOfCommand>,
    /// For each backend.
    pub backends: Vec<RecentOfBackend>,
}

/// One command, or kind of HTTP request.
#[derive(Debug)]
pub struct RecentOfCommand {
    /// Its name.
    pub name: Arc<str>,
    /// How often clients have sent it since the start.
    pub total: u64,
    /// How often they have sent it in the last minute.
    pub sent: u64,
    /// How long backends took over it in the last minute.
    pub times: CoarseTimes,
}

/// The last seconds of one backend.
#[derive(Debug)]
pub struct RecentOfBackend {
    /// Requests a second.
    pub per_second: f64,
    /// Its part of all backends' replies in the last minute; `None` if there were none.
    pub share: Option<f64>,
    /// What was counted since the backend was added.
    pub total: BackendCounts,
    /// The last minute; less if the backend was added later.
    pub minute: Duration,
    /// What was counted in it.
    pub counts: BackendCounts,
    /// How long replies took to begin in it.
    pub times: Times,
    /// The samples that were asked for, the oldest first.
    pub samples: Vec<Sample>,
}

impl History {
    /// Of a process that has just begun.
    pub fn new(began: Instant) -> Self {
        Self(Mutex::new(Ring {
            began,
            last: None,
            number: 0,
            answered_here: VecDeque::new(),
            minute: CountsOfMinute::new(began, Counts::default()),
            commands: HashMap::new(),
            backends: HashMap::new(),
        }))
    }

    /// Adds a sample: what has changed since the reading before.
    pub fn add(&self, reading: Reading) {
        let mut ring = lock(&self.0);
        ring.add_to_minute(&reading);
        if let Some(last) = ring.last.take() {
            ring.add(&last, &reading);
        }
        ring.last = Some(reading);
    }

    /// The last seconds before a new reading, with the samples after number `since`.
    pub fn recent(&self, reading: &Reading, since: u64) -> Recent {
        let ring = lock(&self.0);
        let wanted = usize::try_from(ring.number.saturating_sub(since)).unwrap_or(usize::MAX);
        let mut backends: Vec<_> = reading
            .backends
            .iter()
            .map(|backend| ring.recent(backend, reading.at, wanted))
            .collect();
        let all: u64 = backends.iter().map(RecentOfBackend::requests).sum();
        for backend in &mut backends {
            backend.share = (all > 0).then(|| backend.requests() as f64 / all as f64);
        }
        let by_backends: f64 = backends.iter().map(|backend| backend.per_second).sum();
        let here = per_second(ring.answered_here.iter().copied());
        let (began, before) = ring.minute.begin();
        Recent {
            number: ring.number,
            per_second: by_backends + here,
            minute: reading.at.saturating_duration_since(*began),
            counts: reading.counts.since(before),
            commands: reading.commands.iter().map(|command| ring.recent_command(command)).collect(),
            backends,
        }
    }
}

impl RecentOfBackend {
    fn requests(&self) -> u64 {
        self.counts.requests.http + self.counts.requests.resp
    }
}

impl BackendRing {
    /// Of a backend that has joined at this moment.
    fn new(joined: Instant) -> Self {
        Self {
            samples: VecDeque::new(),
            minute: CountsOfMinute::new(joined, BackendCounts::default()),
            times: TimesOfMinute::default(),
        }
    }
}

impl Ring {
    fn add_to_minute(&mut self, now: &Reading) {
        self.minute.add(now.at, now.counts);
        let joined = self.joined();
        for CommandReading { name, sent, times } in &now.commands {
            let ring = self.commands.entry(Arc::clone(name)).or_insert_with(|| CommandRing {
                sent: CountsOfMinute::new(joined, 0),
                times: TimesOfMinute::default(),
            });
            ring.sent.add(now.at, *sent);
            ring.times.add(times.clone());
        }
        self.backends.retain(|id, _| now.backends.iter().any(|reading| reading.id == *id));
        for backend in &now.backends {
            let ring = self.backends.entry(backend.id).or_insert_with(|| BackendRing::new(joined));
            ring.minute.add(now.at, backend.counts);
            ring.times.add(backend.times.clone());
        }
    }

    fn add(&mut self, last: &Reading, now: &Reading) {
        self.number += 1;
        let here = |reading: &Reading| {
            reading.counts.answered_here.http + reading.counts.answered_here.resp
        };
        push(&mut self.answered_here, here(now).since(&here(last)), RATE_SAMPLES);
        for now in &now.backends {
            let last = last.backends.iter().find(|last| last.id == now.id).unwrap_or(now);
            let times = now.times.since(&last.times);
            let sample = Sample {
                state: now.state,
                leases: now.leases,
                requests: times.count(),
                errors: now.counts.errors.since(&last.counts.errors),
                p99: times.percentile(0.99),
            };
            if let Some(ring) = self.backends.get_mut(&now.id) {
                push(&mut ring.samples, sample, MAX_SAMPLES);
            }
        }
    }

    /// When a backend that no reading has yet has joined, at the earliest.
    fn joined(&self) -> Instant {
        self.last.as_ref().map_or(self.began, |last| last.at)
    }

    fn recent(&self, now: &BackendReading, at: Instant, wanted: usize) -> RecentOfBackend {
        let new = BackendRing::new(self.joined());
        let ring = self.backends.get(&now.id).unwrap_or(&new);
        let (began, before) = ring.minute.begin();
        RecentOfBackend {
            per_second: per_second(ring.samples.iter().map(|sample| sample.requests)),
            share: None,
            total: now.counts,
            minute: at.saturating_duration_since(*began),
            counts: now.counts.since(before),
            times: ring.times.until(&now.times),
            samples: last(&ring.samples, wanted).copied().collect(),
        }
    }

    fn recent_command(&self, now: &CommandReading) -> RecentOfCommand {
        let CommandReading { name, sent: total, times } = now.clone();
        match self.commands.get(&name) {
            Some(ring) => RecentOfCommand {
                sent: total.since(&ring.sent.begin().1),
                times: ring.times.until(&times),
                name,
                total,
            },
            None => RecentOfCommand { name, total, sent: total, times },
        }
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
    use crate::metrics::{ByProtocol, Histogram};

    /// What is read once the backends have answered so often, and `here` was answered without them.
    fn reading(histograms: &[Histogram], here: u64) -> Reading {
        let backend = |(number, histogram): (u32, &Histogram)| BackendReading {
            id: BackendId::new(number),
            state: ShownState::Up,
            leases: 7,
            counts: BackendCounts {
                requests: ByProtocol { http: 0, resp: histogram.count() },
                ..BackendCounts::default()
            },
            times: histogram.times(),
        };
        let answered_here = ByProtocol { http: here, resp: 0 };
        Reading {
            at: Instant::now(),
            counts: Counts { answered_here, ..Counts::default() },
            commands: Vec::new(),
            backends: (0..).zip(histograms).map(backend).collect(),
        }
    }

    fn answer(histogram: &Histogram, count: u64, millis: u64) {
        (0..count).for_each(|_| histogram.add(Duration::from_millis(millis), 1));
    }

    #[test]
    fn a_sample_is_what_has_changed_and_the_newest_five_make_the_rate() {
        let histograms = [Histogram::default(), Histogram::default()];
        let history = History::new(Instant::now());
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
        assert_eq!(first.share.map(|share| (share * 1000.0).round()), Some(929.0), "1300 of 1400");
        assert_eq!((first.counts.requests.resp, second.counts.requests.resp), (1300, 100));
        assert_eq!((recent.counts.answered_here.http, second.times.count()), (20, 100));
        let requests: Vec<u64> = first.samples.iter().map(|sample| sample.requests).collect();
        assert_eq!(requests, [30; 9], "what was before the first reading belongs to no second");
    }

    #[test]
    fn only_what_is_new_is_given_and_no_more_than_five_minutes() {
        let histograms = [Histogram::default()];
        let history = History::new(Instant::now());
        (0..=400).for_each(|_| history.add(reading(&histograms, 0)));
        let samples =
            |since| history.recent(&reading(&histograms, 0), since).backends[0].samples.len();
        assert_eq!([samples(0), samples(399), samples(400), samples(9999)], [300, 1, 0, 0]);
    }

    #[test]
    fn counts_and_latencies_are_those_of_the_last_minute() {
        let histograms = [Histogram::default()];
        let history = History::new(Instant::now());
        history.add(reading(&histograms, 0));
        answer(&histograms[0], 100, 900);
        let minute = || {
            let recent = history.recent(&reading(&histograms, 0), 0);
            let backend = &recent.backends[0];
            let p99 = backend.times.percentile(0.99).map(|time| time.as_millis() / 100);
            (backend.counts.requests.resp, p99)
        };
        assert_eq!(minute(), (100, Some(9)), "before the first sample as well");
        (0..59).for_each(|_| history.add(reading(&histograms, 0)));
        assert_eq!(minute(), (100, Some(9)));
        history.add(reading(&histograms, 0));
        assert_eq!(minute(), (0, None));
    }

    #[test]
    fn what_comes_before_the_first_reading_is_in_the_minute() {
        let histograms = [Histogram::default()];
        let history = History::new(Instant::now());
        answer(&histograms[0], 5, 1);
        let requests = || {
            let recent = history.recent(&reading(&histograms, 3), 0);
            let backend = &recent.backends[0];
            assert!(recent.minute < Duration::from_secs(1) && backend.minute <= recent.minute);
            [recent.counts.answered_here.http, backend.counts.requests.resp, backend.times.count()]
        };
        assert_eq!(requests(), [3, 5, 5]);
        history.add(reading(&histograms, 3));
        assert_eq!(requests(), [3, 5, 5]);
    }

    #[test]
    fn the_share_of_nothing_is_not_known() {
        let history = History::new(Instant::now());
        assert_eq!(history.recent(&reading(&[Histogram::default()], 0), 0).backends[0].share, None);
    }
}
