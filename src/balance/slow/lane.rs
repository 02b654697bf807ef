//! The slow lane: says which read that is not quick may be sent, when, and where.
//!
//! Slow reads run one at a time, in the order in which they came, each on a server that quick reads leave
//! for that time. A read of unknown class runs beside others, but never on the last server that is free of
//! such reads: whatever turns out to be slow, one server goes on with quick reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::info;

use super::kinds::{Kinds, ReadKey};
use super::lane_state::{LaneError, LaneState, Open, ReadInfo, RunningRead, SharedAnswer};
use super::open_read::OpenRead;
use crate::backend::{BackendId, Class};
use crate::balance::ConnectionTable;
use crate::balance::registry::Registry;
use crate::config::LiveConfig;
use crate::health::BackendState;
use crate::metrics::Counter;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Time until a server that has answered a slow read is checked again, at most; it is `suspect` meanwhile.
const DOUBT_TIME: Duration = Duration::from_secs(1);

/// How often a waiting read looks whether its turn has come and its client is still there.
const WAIT_STEP: Duration = Duration::from_millis(10);

/// How long a read that is not known to be slow waits for a client that has ended its side. Most such clients have left;
/// the others, which only send no more, get their answer if it comes by then.
const HALF_CLOSED_WAIT: Duration = Duration::from_secs(2);

/// Read timeouts after which a server counts as free of a read that was given up, even if it has answered no
/// check.
const MAX_LINGERS: u32 = 4;

/// Slow reads that the status page shows: the last ones.
const MAX_RECENT: usize = 16;

/// Result of the wait for a place in the lane.
#[derive(Debug)]
pub enum LaneOutcome {
    /// It may be sent.
    Open(Arc<OpenRead>),
    /// It is answered: an equal read of another client was sent after this one had been asked.
    Answered(SharedAnswer),
}

/// The slow reads at one moment, as they are shown.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Number of slow reads that have ended.
    pub ended: u64,
    /// How long those kept their servers busy, in all.
    pub busy_time: Duration,
    /// Number of reads that wait for their turn.
    pub waiting: usize,
    /// The reads that run slowly, or keep a server silent.
    pub running: Vec<RunningRead>,
    /// The last reads that have ended, the newest first.
    pub recent: Vec<RunningRead>,
}

/// All reads that are not quick: those that are unanswered and those that wait.
#[derive(Debug)]
pub struct SlowLane {
    pub(super) state: Mutex<LaneState>,
    pub(super) changed: Condvar,
    /// Table of the kinds of reads.
    pub kinds: Kinds,
    table: Arc<ConnectionTable>,
    registry: Arc<Registry>,
    config: LiveConfig,
    ended: Counter,
    busy_ms: AtomicU64,
}

impl SlowLane {
    /// Empty lane.
    pub(in crate::balance) fn new(
        table: &Arc<ConnectionTable>,
        registry: &Arc<Registry>,
        config: &LiveConfig,
    ) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            kinds: Kinds::new(config),
            table: Arc::clone(table),
            registry: Arc::clone(registry),
            config: config.clone(),
            ended: Counter::default(),
            busy_ms: AtomicU64::new(0),
        }
    }

    /// Waits until this read may be sent, and says where.
    ///
    /// The `preferred` backend is taken where possible, of those that `may_try` allows. Of equal reads that
    /// wait and may share a reply, one is sent.
    ///
    /// # Errors
    /// When it may not be sent: see [`LaneError`].
    pub fn begin(
        self: &Arc<Self>,
        read: &ReadInfo,
        preferred: Option<BackendId>,
        may_try: impl Fn(BackendId) -> bool,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<LaneOutcome, LaneError> {
        let began = Instant::now();
        // Dropping it takes the lock: it is declared before the guard, so that it is dropped after it.
        let mut queued = Queued { lane: self, number: None };
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            self.sweep(&mut state, now);
            let ranked = self.table.candidates(&may_try);
            if ranked.is_empty() {
                return Err(LaneError::NoBackend);
            }
            let last = state.last_backend.filter(|last| may_try(*last));
            let candidates = Candidates { preferred, last, ranked };
            // Another read of its kind may have turned out slow meanwhile.
            let is_slow = self.is_slow(read);
            if is_slow && let Some(waiting) = queued.number.and_then(|number| state.waiting(number))
            {
                waiting.is_slow = true;
                if let Some(answer) = state.answer_to(read, began) {
                    return Ok(LaneOutcome::Answered(answer));
                }
            }
            if let Some(backend) = self.place(&state, read, is_slow, queued.number, &candidates, now)
                // The answer to an equal read has just begun: it answers this one as well.
                && !state.is_about_to_share(read, began, now)
            {
                return Ok(LaneOutcome::Open(self.open(&mut state, read, backend, is_slow, now)));
            }
            if queued.number.is_none() {
                queued.number = Some(state.queue(is_slow, self.must_be_alone(read))?);
            }
            // Looking at the client's socket is a system call: not with the lock held.
            drop(wait(&self.changed, state, WAIT_STEP));
            // A slow read takes a server from others: it is not begun for a client that may have left.
            if (is_slow || began.elapsed() >= HALF_CLOSED_WAIT) && is_client_gone() {
                return Err(LaneError::ClientLeft);
            }
            if began.elapsed() >= self.config.get().read_timeout {
                return Err(LaneError::TimedOut(began.elapsed()));
            }
            state = lock(&self.state);
        }
    }

    fn is_slow(&self, read: &ReadInfo) -> bool {
        let is_slow = |key: &ReadKey| self.kinds.class(key) == Class::Slow;
        read.class == Class::Slow || read.keys.iter().any(is_slow)
    }

    /// Whether it has kept a server silent, or another read that was sent with it has.
    fn is_suspect(&self, read: &ReadInfo) -> bool {
        read.keys.iter().any(|key| self.kinds.is_measured_alone(key))
    }

    fn must_be_alone(&self, read: &ReadInfo) -> bool {
        read.is_alone || self.is_suspect(read)
    }

    /// Whether a backend is up, or has just answered a slow read and lacks only its next check.
    fn is_as_good_as_up(&self, state: &LaneState, backend: BackendId, now: Instant) -> bool {
        let is_just_freed =
            |freed_at: &Instant| now.saturating_duration_since(*freed_at) < DOUBT_TIME;
        match self.table.state(backend) {
            BackendState::Up => true,
            BackendState::Suspect => state.freed_at.get(&backend).is_some_and(is_just_freed),
            BackendState::Down | BackendState::Syncing => false,
        }
    }

    /// Where a read may be sent now, if it may; `number` is its own in the queue.
    ///
    /// A slow read waits for all that came before it. Others wait for slow ones, and for those that need a
    /// server alone: these would never find one otherwise.
    fn place(
        &self,
        state: &LaneState,
        read: &ReadInfo,
        is_slow: bool,
        number: Option<u64>,
        candidates: &Candidates,
        now: Instant,
    ) -> Option<BackendId> {
        let Candidates { preferred, last, ranked } = candidates;
        let preferred = preferred.filter(|backend| ranked.contains(backend));
        let serving = self.table.serving();
        // While no server serves, there is none to keep free.
        if serving.is_empty() {
            return preferred.or(ranked.first().copied());
        }
        if is_slow {
            if state.has_before(number, |_| true) || self.is_any_busy(state) {
                return None;
            }
            let may_be_used = |last: &BackendId| {
                self.table.is_in_service(*last) && self.is_as_good_as_up(state, *last, now)
            };
            let last = last.filter(may_be_used);
            return state.backend_for_slow(last, ranked, &serving);
        }
        let must_give_way = !self.must_be_alone(read)
            && !self.is_any_busy(state)
            && state.has_before(number, |waiting| waiting.is_alone);
        if must_give_way || self.must_wait_for_others(state, read, &serving, now) {
            return None;
        }
        // A slow read that has waited for longer gets the server of the last one, when that is empty.
        let is_next = !state.has_before(number, |waiting| waiting.is_slow);
        let reserved = if is_next { None } else { state.last_backend };
        let may_begin =
            |backend: &BackendId| self.may_begin(state, read, *backend, reserved, &serving);
        preferred.into_iter().chain(ranked.iter().copied()).find(may_begin)
    }

    /// Whether a read keeps a server busy. Servers that were removed, are drained or in maintenance are no others'
    /// concern.
    fn is_any_busy(&self, state: &LaneState) -> bool {
        state.is_any_busy(|backend| self.table.is_in_service(backend))
    }

    /// Whether a read of unknown class has to wait, wherever it would go.
    fn must_wait_for_others(
        &self,
        state: &LaneState,
        read: &ReadInfo,
        serving: &[BackendId],
        now: Instant,
    ) -> bool {
        // The first of a kind shows how long that takes, before several servers get more of the kind.
        let is_new = |key: &&ReadKey| self.kinds.is_new(key);
        let waits_for_first = || read.keys.iter().filter(is_new).any(|key| state.runs(key, now));
        // A read that may have kept a server silent is not tried while another does.
        let waits_for_busy = || self.is_suspect(read) && self.is_any_busy(state);
        serving.len() > 1 && (waits_for_first() || waits_for_busy())
    }

    /// Whether a read of unknown class may be sent to this backend now.
    fn may_begin(
        &self,
        state: &LaneState,
        read: &ReadInfo,
        backend: BackendId,
        reserved: Option<BackendId>,
        serving: &[BackendId],
    ) -> bool {
        let is_reserved = serving.len() > 1 && reserved == Some(backend);
        let mut others = state.on(backend).filter(|other| other.is_unanswered());
        let may_join = match self.must_be_alone(read) {
            true => others.next().is_none(),
            false => !others.any(|other| other.is_alone),
        };
        may_join && !is_reserved && state.may_begin_unknown(backend, reserved, serving)
    }

    fn open(
        self: &Arc<Self>,
        state: &mut LaneState,
        read: &ReadInfo,
        backend: BackendId,
        is_slow: bool,
        now: Instant,
    ) -> Arc<OpenRead> {
        let number = state.next_number();
        let mut had_company = false;
        let is_there = |other: &&mut Open| other.backend == backend && other.is_unanswered();
        for other in state.opens.iter_mut().filter(is_there) {
            (other.had_company, had_company) = (true, true);
        }
        state.opens.push(Open {
            number,
            backend,
            label: read.label.clone(),
            keys: read.keys.clone(),
            is_slow,
            begun_at: now,
            sent_at: None,
            answered_after: None,
            is_overdue: false,
            had_company,
            is_alone: self.must_be_alone(read),
            is_one_by_one: read.is_alone,
            context: read.context,
            left_at: None,
        });
        if is_slow {
            state.last_backend = Some(backend);
            self.publish(state, backend);
        }
        Arc::new(OpenRead {
            lane: Arc::clone(self),
            number,
            backend,
            is_slow,
            is_overdue: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
        })
    }

    /// Tells the table and the health checks whether a slow read runs on a backend.
    pub(super) fn publish(&self, state: &mut LaneState, backend: BackendId) {
        let is_busy = state.is_busy(backend);
        if self.table.is_busy(backend) && !is_busy {
            state.freed_at.insert(backend, Instant::now());
        }
        self.table.set_busy(backend, is_busy, Instant::now());
        // A read that was given up does not excuse a server that stays silent.
        let is_at_work = |open: &Open| open.is_busy() && open.left_at.is_none();
        if let Some(member) = self.registry.get(backend) {
            member.health.set_busy(state.on(backend).any(is_at_work));
        }
    }

    /// Ends reads that were given up, on servers that answer again or are gone.
    fn sweep(&self, state: &mut LaneState, now: Instant) {
        let is_over = |open: &Open| {
            open.left_at.is_some_and(|left_at| self.is_over(open.backend, left_at, now))
        };
        while let Some(at) = state.opens.iter().position(is_over) {
            self.remove(state, at, now);
        }
    }

    /// Whether a backend works no more on a read that was given up at `left_at`.
    fn is_over(&self, backend: BackendId, left_at: Instant, now: Instant) -> bool {
        let Some(member) = self.registry.get(backend) else { return true };
        member.health.has_answered_since(left_at)
            || matches!(member.health.state(), BackendState::Down | BackendState::Syncing)
            || now.saturating_duration_since(left_at) > self.config.get().read_timeout * MAX_LINGERS
    }

    /// Ends reads that were given up, on servers that answer again or are gone; called after each check.
    pub fn backend_checked(&self, now: Instant) {
        self.sweep(&mut lock(&self.state), now);
    }

    pub(super) fn remove(&self, state: &mut LaneState, at: usize, now: Instant) {
        let open = state.opens.remove(at);
        let backend = open.backend;
        if open.is_slow || open.is_overdue {
            let time = open.answered_after.unwrap_or_else(|| open.runs_for(now));
            let member = self.registry.get(backend);
            let name = member.as_ref().map_or("a backend", |member| member.name());
            let how = if open.left_at.is_some() { "left unanswered" } else { "answered" };
            let seconds = time.as_secs_f64();
            info!("slow read {how}: {} kept {name} busy for {seconds:.3} s", open.label);
            self.ended.add_one();
            member.iter().for_each(|member| member.metrics.slow_reads.add_one());
            self.busy_ms.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
            state.recent.truncate(MAX_RECENT - 1);
            state.recent.push_front(RunningRead { label: open.label, backend, time });
        }
        self.publish(state, backend);
        if !state.waiting.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Learns from reads that were expected to be quick, were sent to this backend together, and were answered
    /// only after `time`. They have to prove anew that they are quick, unless they waited for another read.
    pub fn record_late(
        &self,
        backend: BackendId,
        sent_at: Instant,
        keys: &[ReadKey],
        time: Duration,
    ) {
        if time < self.kinds.slow_after() {
            return;
        }
        let state = lock(&self.state);
        let freed_at = state.freed_at.get(&backend);
        let was_occupied =
            state.unanswered(backend) > 0 || freed_at.is_some_and(|at| *at >= sent_at);
        if !was_occupied {
            keys.iter().for_each(|key| self.kinds.record_answer(key, time, keys.len() == 1));
        }
    }

    /// The slow reads, as they are shown.
    pub fn snapshot(&self) -> Snapshot {
        let (now, state) = (Instant::now(), lock(&self.state));
        let running = state.opens.iter().filter(|open| open.is_busy()).map(|open| RunningRead {
            label: open.label.clone(),
            backend: open.backend,
            time: open.runs_for(now),
        });
        Snapshot {
            ended: self.ended.get(),
            busy_time: Duration::from_millis(self.busy_ms.load(Ordering::Relaxed)),
            waiting: state.waiting.len(),
            running: running.collect(),
            recent: state.recent.iter().cloned().collect(),
        }
    }

    pub(super) fn with_open<T>(
        &self,
        read: &OpenRead,
        change: impl FnOnce(&mut Open) -> T,
    ) -> Option<T> {
        lock(&self.state).find(read.number).map(change)
    }
}

/// The backends that a read may be sent to.
struct Candidates {
    /// The one to be taken where possible.
    preferred: Option<BackendId>,
    /// The one on which the last slow read ran, if this read may be sent there.
    last: Option<BackendId>,
    /// All of the best standing, in the order in which they would be leased.
    ranked: Vec<BackendId>,
}

/// A place in the queue, which is left when this is dropped.
struct Queued<'a> {
    lane: &'a SlowLane,
    number: Option<u64>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.lane.state).waiting.retain(|waiting| waiting.number != number);
            self.lane.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
