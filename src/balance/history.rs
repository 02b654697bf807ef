//! The last five minutes, one sample a second, as the status page draws them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gone::BackendTotals;
use super::last_minute::{CountsOfMinute, TimesOfMinute};
use super::rate::Rate;
use crate::backend::BackendId;
use crate::health::ShownState;
use crate::metrics::{BackendCounts, CoarseTimes, Counts, Since, Times};
use crate::sync::{Mutex, lock};

/// The time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Samples that are kept: five minutes.
const MAX_SAMPLES: usize = 300;

/// All counts since the start of the process, at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The moment.
    pub at: Instant,
    /// Those of all clients together.
    pub counts: Counts,
    /// For each command, and each kind of HTTP request, that was sent.
    pub commands: Vec<CommandReading>,
    /// For each backend that is shown.
    pub backends: Vec<BackendReading>,
    /// Those of all backends together that there have ever been.
    pub of_backends: BackendTotals,
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

/// One backend in one second. Where no sample was taken for longer, each second has its part of what was counted.
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

/// The last samples of all backends: those with one number are of one second.
#[derive(Debug)]
pub struct History(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    began: Instant,
    last: Option<Reading>,
    /// The number of the newest sample; 0 before there is one.
    number: u64,
    rate: Rate,
    minute: CountsOfMinute<Counts>,
    minute_of_backends: CountsOfMinute<BackendCounts>,
    times_of_backends: TimesOfMinute<4>,
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
    rate: Rate,
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
    /// For each backend that is shown.
    pub backends: Vec<RecentOfBackend>,
    /// All backends together that there have ever been, since the start.
    pub total_of_backends: BackendCounts,
    /// What was counted of them in the last minute.
    pub counts_of_backends: BackendCounts,
    /// How long their replies took to begin in it.
    pub times_of_backends: Times,
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
    /// The samples that were asked for, the oldest first, as many as of any other backend. `None` where it was not
    /// there.
    pub samples: Vec<Option<Sample>>,
}

impl History {
    /// Of a process that has just begun.
    pub fn new(began: Instant) -> Self {
        Self(Mutex::new(Ring {
            began,
            last: None,
            number: 0,
            rate: Rate::default(),
            minute: CountsOfMinute::new(began, Counts::default()),
            minute_of_backends: CountsOfMinute::new(began, BackendCounts::default()),
            times_of_backends: TimesOfMinute::default(),
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
        let there_are = usize::try_from(ring.number).unwrap_or(usize::MAX).min(MAX_SAMPLES);
        let new = usize::try_from(ring.number.saturating_sub(since)).unwrap_or(usize::MAX);
        let wanted = new.min(there_are);
        let of_backends = &reading.of_backends;
        let counts_of_backends = of_backends.counts.since(&ring.minute_of_backends.begin().1);
        let all = counts_of_backends.all_requests();
        let recent = |backend| ring.recent(backend, reading.at, wanted, all);
        let (began, before) = ring.minute.begin();
        Recent {
            number: ring.number,
            per_second: ring.rate.per_second(),
            minute: reading.at.saturating_duration_since(*began),
            counts: reading.counts.since(before),
            commands: reading.commands.iter().map(|command| ring.recent_command(command)).collect(),
            backends: reading.backends.iter().map(recent).collect(),
            total_of_backends: of_backends.counts,
            counts_of_backends,
            times_of_backends: ring.times_of_backends.until(&of_backends.times),
        }
    }
}

impl Reading {
    /// All requests that were answered, with and without a backend.
    fn all_requests(&self) -> u64 {
        let here = self.counts.answered_here;
        here.http + here.resp + self.of_backends.counts.all_requests()
    }
}

impl BackendRing {
    /// Of a backend that has joined at this moment.
    fn new(joined: Instant) -> Self {
        Self {
            rate: Rate::default(),
            samples: VecDeque::new(),
            minute: CountsOfMinute::new(joined, BackendCounts::default()),
            times: TimesOfMinute::default(),
        }
    }
}

impl Ring {
    fn add_to_minute(&mut self, now: &Reading) {
        self.minute.add(now.at, now.counts);
        self.minute_of_backends.add(now.at, now.of_backends.counts);
        self.times_of_backends.add(now.at, now.of_backends.times.clone());
        let (joined, is_first) = (self.joined(), self.last.is_none());
        for CommandReading { name, sent, times } in &now.commands {
            let ring = self.commands.entry(Arc::clone(name)).or_insert_with(|| CommandRing {
                sent: CountsOfMinute::new(joined, 0),
                times: TimesOfMinute::default(),
            });
            ring.sent.add(now.at, *sent);
            ring.times.add(now.at, times.clone());
        }
        let ids: HashSet<_> = now.backends.iter().map(|backend| backend.id).collect();
        self.backends.retain(|id, _| ids.contains(id));
        for backend in &now.backends {
            let ring = self.backends.entry(backend.id).or_insert_with(|| {
                let mut ring = BackendRing::new(joined);
                if !is_first {
                    ring.rate.add(joined, 0);
                }
                ring
            });
            ring.rate.add(now.at, backend.counts.all_requests());
            ring.minute.add(now.at, backend.counts);
            ring.times.add(now.at, backend.times.clone());
        }
        self.rate.add(now.at, now.all_requests());
    }

    /// Adds a sample for each second between two readings.
    fn add(&mut self, last: &Reading, now: &Reading) {
        let time = now.at.saturating_duration_since(last.at);
        let seconds = (time.as_secs_f64() / INTERVAL.as_secs_f64()).round().max(1.0) as u64;
        self.number += seconds;
        let last: HashMap<_, _> = last.backends.iter().map(|last| (last.id, last)).collect();
        for now in &now.backends {
            let Some(ring) = self.backends.get_mut(&now.id) else { continue };
            // What a backend has counted that has just joined, it has counted since.
            let (times, errors) = match last.get(&now.id) {
                Some(last) => (now.times.since(&last.times), last.counts.errors),
                None => (now.times.clone(), 0),
            };
            let (requests, errors) = (times.count(), now.counts.errors.since(&errors));
            let p99 = times.percentile(0.99);
            for second in seconds.saturating_sub(MAX_SAMPLES as u64)..seconds {
                let sample = Sample {
                    state: now.state,
                    leases: now.leases,
                    requests: part(requests, second, seconds),
                    errors: part(errors, second, seconds),
                    p99,
                };
                push(&mut ring.samples, sample, MAX_SAMPLES);
            }
        }
    }

    /// When a backend that no reading has yet has joined, at the earliest.
    fn joined(&self) -> Instant {
        self.last.as_ref().map_or(self.began, |last| last.at)
    }

    /// The last seconds of a backend, of which all have answered `all` requests in the last minute.
    fn recent(
        &self,
        now: &BackendReading,
        at: Instant,
        wanted: usize,
        all: u64,
    ) -> RecentOfBackend {
        let new = BackendRing::new(self.joined());
        let ring = self.backends.get(&now.id).unwrap_or(&new);
        let (began, before) = ring.minute.begin();
        let counts = now.counts.since(before);
        let samples = ring.samples.iter().rev().copied().map(Some);
        let mut samples: Vec<_> = samples.chain(std::iter::repeat(None)).take(wanted).collect();
        samples.reverse();
        RecentOfBackend {
            per_second: ring.rate.per_second(),
            share: (all > 0).then(|| counts.all_requests() as f64 / all as f64),
            total: now.counts,
            minute: at.saturating_duration_since(*began),
            counts,
            times: ring.times.until(&now.times),
            samples,
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

/// What of a count falls to one of several seconds, so that all of them add up to it.
fn part(count: u64, second: u64, seconds: u64) -> u64 {
    let until = |second| (u128::from(count) * u128::from(second) / u128::from(seconds)) as u64;
    until(second + 1) - until(second)
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
