//! The slow lane: reads that may keep a server busy, which of them are unanswered where, and whose turn
//! it is.
//!
//! Slow reads run one at a time, in the order in which they came, each on a server that others leave for
//! that time. A read of which nothing is known runs beside others, but never on the last server that is
//! free of such reads: whatever turns out slow, one server goes on with what is quick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::info;

use super::kinds::{Kinds, ReadKey};
use super::lane_state::{LaneState, Open};
use super::open_read::OpenRead;
use crate::backend::{BackendId, Class};
use crate::balance::ConnectionTable;
use crate::balance::registry::Registry;
use crate::health::BackendState;
use crate::metrics::Counter;
use crate::sync::{Condvar, Mutex, lock, wait};

/// A server that has answered a slow read is `suspect` until its next check, which takes less than this.
const DOUBT_TIME: Duration = Duration::from_secs(1);

/// How often a read that waits looks whether it is its turn, and its client still there.
const WAIT_STEP: Duration = Duration::from_millis(10);

/// A server that a read has left unanswered is free again after so many read timeouts, even if it has
/// answered no check.
const MAX_LINGERS: u32 = 4;

/// The kinds of slow reads that the status page shows: the last ones.
const MAX_RECENT: usize = 16;

/// A read that is not quick, to be sent.
#[derive(Debug, Clone, Default)]
pub struct ReadInfo {
    /// What is known of it.
    pub class: Class,
    /// What it is known by: several where they are sent together.
    pub keys: Vec<ReadKey>,
    /// What it asks, for the log.
    pub label: String,
    /// Whether no other read that is not quick may be unanswered on its server.
    pub is_alone: bool,
    /// Where the reply is good for all who ask the same: what it depends on beside the read.
    pub context: Option<u64>,
}

/// What became of a read that was to be sent.
#[derive(Debug)]
pub enum Begun {
    /// It may be sent.
    Open(Arc<OpenRead>),
    /// Another client got the answer to this exact read, which was sent after this one had asked.
    Answered(SharedAnswer),
}

/// The answer to the last slow read that others may have asked, too.
#[derive(Debug, Clone)]
pub struct SharedAnswer {
    /// The read's exact bytes, as a hash.
    pub(super) exact: u64,
    /// As in [`ReadInfo`].
    pub(super) context: u64,
    /// When it was sent.
    pub sent_at: Instant,
    /// The backend that has answered.
    pub backend: BackendId,
    /// Its reply.
    pub reply: Arc<[u8]>,
}

impl SharedAnswer {
    pub(super) fn is_for(&self, read: &ReadInfo, asked_at: Instant) -> bool {
        let [key] = &read.keys[..] else { return false };
        read.context == Some(self.context) && key.exact == self.exact && self.sent_at >= asked_at
    }
}

/// Why a read may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// 256 slow reads wait already.
    #[error("too many slow reads wait: try again later")]
    Full,
    /// The reads before it took too long.
    #[error("timed out after {0:?} of waiting for its turn")]
    TimedOut(Duration),
    /// The client has left.
    #[error("the client has left")]
    ClientLeft,
    /// No backend is left to try.
    #[error("no backend is left to try")]
    NoBackend,
}

/// What is shown of the slow reads.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Slow reads that have ended.
    pub ended: u64,
    /// How long these kept their servers busy, in all.
    pub busy_time: Duration,
    /// Reads that wait for their turn.
    pub waiting: usize,
    /// Those that run, or keep a server silent.
    pub running: Vec<RunningRead>,
    /// The last ones that have ended, the newest first.
    pub recent: Vec<RunningRead>,
}

/// A slow read that runs or has run.
#[derive(Debug, Clone)]
pub struct RunningRead {
    /// Its command, and where its key begins.
    pub label: String,
    /// Its backend.
    pub backend: BackendId,
    /// How long it runs, or has run.
    pub time: Duration,
}

/// Which reads that are not quick are unanswered, and which wait.
#[derive(Debug)]
pub struct SlowLane {
    pub(super) state: Mutex<LaneState>,
    pub(super) changed: Condvar,
    /// What has been learned of each kind of read.
    pub kinds: Kinds,
    table: Arc<ConnectionTable>,
    registry: Arc<Registry>,
    read_timeout: Duration,
    ended: Counter,
    busy_ms: AtomicU64,
}

impl SlowLane {
    /// Nothing runs or waits. A server may usually be silent for `backend_timeout`; a read waits for
    /// `read_timeout` at most.
    pub fn new(
        table: Arc<ConnectionTable>,
        registry: Arc<Registry>,
        backend_timeout: Duration,
        read_timeout: Duration,
    ) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            kinds: Kinds::new(backend_timeout),
            table,
            registry,
            read_timeout,
            ended: Counter::default(),
            busy_ms: AtomicU64::new(0),
        }
    }

    /// Waits until this read may be sent; then it counts as unanswered at the backend that is returned
    /// with it. `preferred` is taken where possible, of those that `may_try`. Of those that wait and ask
    /// the same, one is sent.
    ///
    /// # Errors
    /// When it may not be sent: see [`LaneError`].
    pub fn begin(
        self: &Arc<Self>,
        read: &ReadInfo,
        preferred: Option<BackendId>,
        may_try: impl Fn(BackendId) -> bool,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<Begun, LaneError> {
        let began = Instant::now();
        // Leaves the queue when it is dropped, which takes the lock: after the guard below.
        let mut queued = Queued { lane: self, number: None };
        let mut state = lock(&self.state);
        loop {
            self.sweep(&mut state);
            let choice = Choice {
                preferred,
                last: state.last_backend.filter(|last| may_try(*last)),
                candidates: self.table.candidates(&may_try),
            };
            if choice.candidates.is_empty() {
                return Err(LaneError::NoBackend);
            }
            // Another of its kind may have turned out slow meanwhile.
            let is_slow = self.is_slow(read);
            if is_slow && let Some(waiting) = queued.number.and_then(|number| state.waiting(number))
            {
                waiting.is_slow = true;
                if let Some(answer) = state.answer_to(read, began) {
                    return Ok(Begun::Answered(answer));
                }
            }
            if let Some(backend) = self.place(&state, read, is_slow, queued.number, &choice)
                // The answer to the same read, which has just begun, is good for this one.
                && !state.is_about_to_share(read, began)
            {
                return Ok(Begun::Open(self.open(&mut state, read, backend, is_slow)));
            }
            if queued.number.is_none() {
                let is_alone = read.is_alone || self.is_suspect(read);
                queued.number = Some(state.queue(is_slow, is_alone)?);
            }
            // A look at the client's socket is a system call: not with the lock held.
            drop(wait(&self.changed, state, WAIT_STEP));
            // One that has only ended its side is answered, too, where that takes no server from others.
            if is_slow && is_client_gone() {
                return Err(LaneError::ClientLeft);
            }
            if began.elapsed() >= self.read_timeout {
                return Err(LaneError::TimedOut(began.elapsed()));
            }
            state = lock(&self.state);
        }
    }

    fn is_slow(&self, read: &ReadInfo) -> bool {
        let is_slow = |key: &ReadKey| self.kinds.class(key) == Class::Slow;
        read.class == Class::Slow || read.keys.iter().any(is_slow)
    }

    /// Whether it, or another that was sent with it, has kept a server silent.
    fn is_suspect(&self, read: &ReadInfo) -> bool {
        read.keys.iter().any(|key| self.kinds.is_measured_alone(key))
    }

    /// Whether a backend is up, or has just answered a slow read, and only its next check is missing.
    fn is_as_good_as_up(&self, state: &LaneState, backend: BackendId) -> bool {
        let freed_at = state.freed_at.get(&backend);
        match self.table.state(backend) {
            BackendState::Up => true,
            BackendState::Suspect => {
                freed_at.is_some_and(|freed_at| freed_at.elapsed() < DOUBT_TIME)
            }
            BackendState::Down | BackendState::Syncing => false,
        }
    }

    /// Where a read may be sent now, if it may: `number` is its own in the queue.
    ///
    /// A slow read waits for all that came before. Others wait for slow ones, and for those that need a
    /// server alone, which would else never find one.
    fn place(
        &self,
        state: &LaneState,
        read: &ReadInfo,
        is_slow: bool,
        number: Option<u64>,
        choice: &Choice,
    ) -> Option<BackendId> {
        let Choice { preferred, last, candidates } = choice;
        let preferred = preferred.filter(|backend| candidates.contains(backend));
        let serving = self.table.serving();
        // With none that serves there is nothing to keep free.
        if serving.is_empty() {
            return preferred.or(candidates.first().copied());
        }
        if is_slow {
            let last = last.filter(|last| self.is_as_good_as_up(state, *last));
            return match state.has_before(number, |_| true) {
                true => None,
                false => state.backend_for_slow(last, candidates, &serving),
            };
        }
        let is_alone = read.is_alone || self.is_suspect(read);
        let must_give_way = !is_alone
            && !state.is_any_busy()
            && state.has_before(number, |waiting| waiting.is_alone);
        if must_give_way {
            return None;
        }
        let is_next = !state.has_before(number, |waiting| waiting.is_slow);
        self.place_unknown(state, read, preferred, candidates, &serving, is_next)
    }

    /// Where a read of which nothing is known may be sent now. `is_next` where no slow read has waited
    /// for longer.
    fn place_unknown(
        &self,
        state: &LaneState,
        read: &ReadInfo,
        preferred: Option<BackendId>,
        candidates: &[BackendId],
        serving: &[BackendId],
        is_next: bool,
    ) -> Option<BackendId> {
        let has_others = serving.len() > 1;
        // The first of a kind shows what that is like, before there are more of it on several servers.
        let is_new = |key: &&ReadKey| self.kinds.is_new(key);
        if has_others && read.keys.iter().filter(is_new).any(|key| state.runs(key)) {
            return None;
        }
        // One that may have kept a server silent is not tried while another does.
        let is_suspect = self.is_suspect(read);
        if has_others && is_suspect && state.is_any_busy() {
            return None;
        }
        let is_alone = read.is_alone || is_suspect;
        // The next slow read waits until its server is free of others.
        let reserved = if is_next { None } else { state.last_backend };
        let may_begin = |backend: &BackendId| {
            let is_reserved = has_others && reserved == Some(*backend);
            let mut others = state.on(*backend).filter(|other| other.is_unanswered());
            let may_join = match is_alone {
                true => others.next().is_none(),
                false => !others.any(|other| other.is_alone),
            };
            may_join && !is_reserved && state.may_begin_unknown(*backend, reserved, serving)
        };
        preferred.into_iter().chain(candidates.iter().copied()).find(may_begin)
    }

    fn open(
        self: &Arc<Self>,
        state: &mut LaneState,
        read: &ReadInfo,
        backend: BackendId,
        is_slow: bool,
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
            begun_at: Instant::now(),
            sent_at: None,
            answered_after: None,
            is_overdue: false,
            had_company,
            is_alone: read.is_alone || self.is_suspect(read),
            is_one_by_one: read.is_alone,
            context: read.context,
            left_at: None,
        });
        if is_slow {
            state.last_backend = Some(backend);
            self.show(state, backend);
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

    /// Tells the table and the checks whether a slow read runs on a backend.
    pub(super) fn show(&self, state: &mut LaneState, backend: BackendId) {
        let is_busy = state.is_busy(backend);
        if self.table.is_busy(backend) && !is_busy {
            state.freed_at.insert(backend, Instant::now());
        }
        self.table.set_busy(backend, is_busy);
        // What was given up is no excuse for a server that stays silent.
        let is_at_work = |open: &Open| open.is_busy() && open.left_at.is_none();
        if let Some(member) = self.registry.get(backend) {
            member.health.set_busy(state.on(backend).any(is_at_work));
        }
    }

    /// Ends what was left unanswered on servers that answer again, or are gone.
    fn sweep(&self, state: &mut LaneState) {
        let mut at = 0;
        while let Some(open) = state.opens.get(at) {
            match open.left_at.is_some_and(|left_at| self.is_over(open.backend, left_at)) {
                true => self.remove(state, at),
                false => at += 1,
            }
        }
    }

    /// Whether a backend works no more on a read that was given up then.
    fn is_over(&self, backend: BackendId, left_at: Instant) -> bool {
        let Some(member) = self.registry.get(backend) else { return true };
        let state = member.health.state();
        member.health.has_answered_since(left_at)
            || matches!(state, BackendState::Down | BackendState::Syncing)
            || left_at.elapsed() > self.read_timeout * MAX_LINGERS
    }

    /// Ends what was left unanswered on servers that answer again; called after each check.
    pub fn note_check(&self) {
        let mut state = lock(&self.state);
        if state.opens.iter().any(|open| open.left_at.is_some()) {
            self.sweep(&mut state);
        }
    }

    pub(super) fn remove(&self, state: &mut LaneState, at: usize) {
        let open = state.opens.remove(at);
        let backend = open.backend;
        if open.is_slow || open.is_overdue {
            let until_now = || open.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
            let time = open.answered_after.unwrap_or_else(until_now);
            let member = self.registry.get(backend);
            let name = member.as_ref().map_or("a backend", |member| member.name());
            let how = if open.left_at.is_some() { "left unanswered" } else { "answered" };
            info!(
                "slow read {how}: {} kept {name} busy for {:.3} s",
                open.label,
                time.as_secs_f64()
            );
            self.ended.add_one();
            self.busy_ms.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
            if state.recent.len() == MAX_RECENT {
                state.recent.pop_back();
            }
            state.recent.push_front(RunningRead { label: open.label, backend, time });
        }
        self.show(state, backend);
        if !state.waiting.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Whether a read that is not quick is unanswered on this backend, or a slow one has been since then.
    fn was_occupied(&self, backend: BackendId, since: Instant) -> bool {
        let state = lock(&self.state);
        let freed_at = state.freed_at.get(&backend);
        state.unanswered(backend) > 0 || freed_at.is_some_and(|freed_at| *freed_at >= since)
    }

    /// Reads that were expected to be quick were sent to this backend together, and answered only after
    /// `time`: they have to prove anew that they are. One that waited for another read is not slow.
    pub fn note_late(
        &self,
        backend: BackendId,
        sent_at: Instant,
        keys: &[ReadKey],
        time: Duration,
    ) {
        if time >= self.kinds.slow_after() && !self.was_occupied(backend, sent_at) {
            keys.iter().for_each(|key| self.kinds.note_answer(key, time, keys.len() == 1));
        }
    }

    /// What is to be shown.
    pub fn snapshot(&self) -> Snapshot {
        let state = lock(&self.state);
        let running = state.opens.iter().filter(|open| open.is_busy()).map(|open| RunningRead {
            label: open.label.clone(),
            backend: open.backend,
            time: open.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed()),
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
struct Choice {
    /// The one to be taken where possible.
    preferred: Option<BackendId>,
    /// The one on which the last slow read ran, if this read may be sent there.
    last: Option<BackendId>,
    /// Those of the best standing, in the order in which they would be leased.
    candidates: Vec<BackendId>,
}

/// A place in the queue; left when it is dropped.
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
