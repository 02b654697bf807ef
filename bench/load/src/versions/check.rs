//! Judges what clients have read, and counts.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Plan;
use super::backends::Backend;
use super::history::{Age, Content, History};
use super::keys::{self, KEYS};
use crate::soak::{add, get, grouped};

/// Reads from the cache may be older than this in one of [`HITS_PER_LATE_ONE`] cases.
const USUAL_STALENESS: Duration = Duration::from_millis(50);
const HITS_PER_LATE_ONE: u64 = 10_000;

/// Longest time from a swap of databases, which sends no invalidation, to the answer to the INFO that tells of it, beyond
/// the interval in which INFO is asked.
const SWAP_ANSWER_TIME: Duration = Duration::from_millis(250);

/// How long after its end a key may be seen alive.
const EXPIRY_TOLERANCE_MS: u64 = 5;

/// How many failures are printed.
const SHOWN_FAILURES: usize = 20;

/// Where a reply comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    Resp2,
    Resp3,
    Pipeline2,
    Pipeline3,
    Transaction,
    Swapped,
    HttpHit,
    HttpHit304,
    HttpMiss,
}

impl Source {
    const NAMES: [&str; 9] = [
        "RESP2, one by one",
        "RESP3, one by one",
        "RESP2, pipelined",
        "RESP3, pipelined",
        "in MULTI",
        "of a swapped database",
        "HTTP, hit",
        "HTTP, hit, 304",
        "HTTP, miss",
    ];
}

/// What must not happen.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    Impossible,
    Backwards,
    TooStale,
    StaleInMulti,
    AliveAfterEnd,
    WrongHead,
    ErrorReply,
    Dropped,
    Writer,
}

impl Failure {
    const NAMES: [&str; 9] = [
        "replies that no write explains",
        "replies older than what the session had seen",
        "replies staler than the bound",
        "stale replies in MULTI",
        "keys alive after their end",
        "HTTP responses with a wrong head",
        "error replies",
        "connections that failed",
        "failures of the writers",
    ];
}

#[derive(Default)]
struct Count {
    reads: AtomicU64,
    stale: AtomicU64,
    late: AtomicU64,
    worst_us: AtomicU64,
}

/// All that clients share.
pub struct Checker {
    pub history: History,
    pub backends: Arc<[Backend]>,
    pub with_faults: bool,
    max_silence: Duration,
    counts: [Count; Source::NAMES.len()],
    expiring: AtomicU64,
    uncertain: AtomicU64,
    expired_alive_ms: AtomicU64,
    failed: [AtomicU64; Failure::NAMES.len()],
    texts: Mutex<Vec<String>>,
}

/// The newest state that a session has seen of each key, by backend.
pub struct Seen {
    backends: Arc<[Backend]>,
    states: Vec<u64>,
}

impl Seen {
    pub fn new(backends: Arc<[Backend]>) -> Self {
        Self { states: vec![0; backends.len() * KEYS], backends }
    }

    /// Forgets all when a session ends.
    pub fn clear(&mut self) {
        self.states.fill(0);
    }

    /// The backend with this name in X-Served-By.
    pub fn backend(&self, name: &str) -> Option<usize> {
        self.backends.iter().position(|backend| backend.name == name)
    }
}

/// One reply to one read of one key.
pub struct Reply<'a> {
    pub source: Source,
    /// The backend that it came from, if that is certain.
    pub backend: Option<usize>,
    pub key: usize,
    pub content: Content,
    pub sent: Instant,
    pub request: &'a [u8],
}

impl Checker {
    pub fn new(plan: &Plan) -> Self {
        Self {
            history: History::new(),
            backends: plan.backends.iter().map(|(name, port)| Backend::new(name, *port)).collect(),
            with_faults: plan.faults,
            max_silence: plan.max_silence,
            counts: Default::default(),
            expiring: AtomicU64::new(0),
            uncertain: AtomicU64::new(0),
            expired_alive_ms: AtomicU64::new(0),
            failed: Default::default(),
            texts: Mutex::default(),
        }
    }

    /// Judges a reply of a key with versions.
    pub fn check(&self, seen: &mut Seen, reply: &Reply) {
        let count = &self.counts[reply.source as usize];
        add(&count.reads, 1);
        add(&self.uncertain, u64::from(reply.backend.is_none()));
        let place = reply.backend.map(|backend| backend * KEYS + reply.key);
        let seen_before = place.map_or(0, |place| seen.states[place]);
        let age = self.history.age(reply.key, reply.content, seen_before);
        let text = || {
            let backend = reply.backend.map_or("unknown", |backend| &self.backends[backend].name);
            format!(
                "{:?} from {backend}: {:?} of {}, the session had seen {seen_before}; {}",
                reply.source,
                reply.content,
                keys::name(reply.key),
                reply.request.escape_ascii(),
            )
        };
        let (earliest, overwritten) = match age {
            Age::Never => return self.fail(Failure::Impossible, &text()),
            Age::Backwards => return self.fail(Failure::Backwards, &text()),
            Age::Known { earliest, overwritten } => (earliest, overwritten),
        };
        if let Some(place) = place {
            seen.states[place] = seen_before.max(earliest);
        }
        let Some(stale) = overwritten.and_then(|state| self.staleness(reply, state)) else {
            return;
        };
        add(&count.stale, 1);
        count.worst_us.fetch_max(stale.as_micros() as u64, Ordering::Relaxed);
        if stale > USUAL_STALENESS {
            add(&count.late, 1);
        }
        if stale > self.bound(reply.source) {
            self.fail(Failure::TooStale, &format!("{stale:.1?}: {}", text()));
        } else if reply.source == Source::Transaction && !self.with_faults {
            self.fail(Failure::StaleInMulti, &format!("{stale:.1?}: {}", text()));
        }
    }

    fn bound(&self, source: Source) -> Duration {
        let for_swaps = if source == Source::Swapped { SWAP_ANSWER_TIME } else { Duration::ZERO };
        self.max_silence + for_swaps
    }

    /// For how long the backend had had this later state when the read was sent.
    fn staleness(&self, reply: &Reply, state: u64) -> Option<Duration> {
        let had = match reply.backend {
            Some(backend) => self.backends[backend].had(state)?,
            // Whichever it was: the last of all.
            None => {
                let had: Option<Vec<Instant>> =
                    self.backends.iter().map(|backend| backend.had(state)).collect();
                had?.into_iter().max()?
            }
        };
        reply.sent.checked_duration_since(had).filter(|stale| !stale.is_zero())
    }

    /// Judges a reply of a key that expires, to a read that was sent at this time.
    pub fn check_expiring(&self, sent_ms: u64, reply: &[u8], request: &[u8]) {
        add(&self.expiring, 1);
        match keys::number_after(b"d=", reply) {
            Ok(Some(end)) if sent_ms > end => {
                let late = sent_ms - end;
                self.expired_alive_ms.fetch_max(late, Ordering::Relaxed);
                if late > EXPIRY_TOLERANCE_MS {
                    let text = format!("{late} ms: {}", request.escape_ascii());
                    self.fail(Failure::AliveAfterEnd, &text);
                }
            }
            Ok(_) => {}
            Err(text) => self.fail(Failure::Impossible, &text),
        }
    }

    pub fn fail(&self, failure: Failure, text: &str) {
        add(&self.failed[failure as usize], 1);
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() < SHOWN_FAILURES {
            texts.push(format!("{}: {text:.400}", Failure::NAMES[failure as usize]));
        }
    }

    pub fn reads(&self) -> u64 {
        self.counts.iter().map(|count| get(&count.reads)).sum::<u64>() + get(&self.expiring)
    }

    pub fn failures(&self) -> u64 {
        self.failed.iter().map(get).sum()
    }

    /// Prints all counts; an error if something is wrong. `hits` are the balancer's own count.
    pub fn report(&self, hits: u64) -> Result<(), Box<dyn Error>> {
        println!("{:24}{:>14}{:>12}{:>14}{:>12}", "reads", "", "stale", "over 50 ms", "worst");
        for (name, count) in Source::NAMES.iter().zip(&self.counts) {
            println!(
                "{name:24}{:>14}{:>12}{:>14}{:>9.1} ms",
                grouped(get(&count.reads)),
                grouped(get(&count.stale)),
                grouped(get(&count.late)),
                get(&count.worst_us) as f64 / 1000.0,
            );
        }
        let late_ms = get(&self.expired_alive_ms);
        println!(
            "{:24}{:>14}{:>35} ms",
            "of keys that expire",
            grouped(get(&self.expiring)),
            late_ms
        );
        println!(
            "all: {} reads, {} hits; of an uncertain backend: {}",
            grouped(self.reads()),
            grouped(hits),
            grouped(get(&self.uncertain)),
        );
        for (name, count) in Failure::NAMES.iter().zip(&self.failed) {
            println!("{name}: {}", grouped(get(count)));
        }
        for text in self.texts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            println!("{text}");
        }
        let is_allowed = |source: usize| source != Source::Swapped as usize;
        let late = self.counts.iter().enumerate().filter(|(source, _)| is_allowed(*source));
        let late: u64 = late.map(|(_, count)| get(&count.late)).sum();
        let http =
            [Source::HttpHit, Source::HttpHit304].map(|source| &self.counts[source as usize]);
        let http_late: u64 = http.iter().map(|count| get(&count.late)).sum();
        let http_hits: u64 = http.iter().map(|count| get(&count.reads)).sum();
        if self.failures() > 0 {
            return Err("cache: some replies were wrong".into());
        }
        if hits == 0 || http_hits == 0 {
            return Err("cache: nothing was read from the cache".into());
        }
        let is_too_often = |late: u64, hits: u64| late > hits / HITS_PER_LATE_ONE + 1;
        if !self.with_faults && (is_too_often(late, hits) || is_too_often(http_late, http_hits)) {
            return Err("cache: too many hits were over 50 ms old".into());
        }
        Ok(())
    }
}
