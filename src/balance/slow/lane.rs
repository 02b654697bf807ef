//! The slow lane: reads that may keep a server busy, which of them are unanswered where, and whose turn
//! it is.
//!
//! Slow reads run one at a time, in the order in which they came, each on a server that others leave for
//! that time. A read of which nothing is known runs beside others, but never on the last server that is
//! free of such reads: whatever turns out slow, one server goes on with what is quick.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::info;

use super::kinds::{Class, Kinds, ReadKey};
use crate::balance::ConnectionTable;
use crate::health::{BackendState, Health};
use crate::metrics::Counter;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Slow reads that may wait for a server, in all: more are refused. (Others wait for moments, one a client.)
const MAX_WAITING: usize = 256;

/// A read is sent so soon after it has begun, unless its server does not answer.
const MAX_TIME_TO_SEND: Duration = Duration::from_millis(20);

/// A server that has answered a slow read is `suspect` until its next check, which takes less than this.
const DOUBT_TIME: Duration = Duration::from_secs(1);

/// A short reply is there so soon after it has begun: a longer one is not shared.
const MAX_TIME_TO_SHARE: Duration = Duration::from_millis(20);

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
    exact: u64,
    /// As in [`ReadInfo`].
    context: u64,
    /// When it was sent.
    pub sent_at: Instant,
    /// The index of the backend that has answered.
    pub backend: usize,
    /// Its reply.
    pub reply: Arc<[u8]>,
}

impl SharedAnswer {
    fn is_for(&self, read: &ReadInfo, asked_at: Instant) -> bool {
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
    /// The index of its backend.
    pub backend: usize,
    /// How long it runs, or has run.
    pub time: Duration,
}

/// Which reads that are not quick are unanswered, and which wait.
#[derive(Debug)]
pub struct SlowLane {
    state: Mutex<LaneState>,
    changed: Condvar,
    /// What has been learned of each kind of read.
    pub kinds: Kinds,
    table: Arc<ConnectionTable>,
    healths: Vec<Arc<Health>>,
    read_timeout: Duration,
    ended: Counter,
    busy_ms: AtomicU64,
}

#[derive(Debug)]
struct LaneState {
    /// The reads that were begun and not ended, by backend.
    servers: Vec<Vec<Open>>,
    /// When each server was last freed of a slow read.
    freed_at: Vec<Option<Instant>>,
    /// Those that wait, first come, first served.
    waiting: VecDeque<Waiting>,
    next_number: u64,
    /// Where the last slow read ran: the next runs there, too, so that the others stay where they are.
    last_backend: Option<usize>,
    recent: VecDeque<RunningRead>,
    last_answer: Option<SharedAnswer>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    is_slow: bool,
    /// Whether it needs a server on which no other read is unanswered that is not quick.
    is_alone: bool,
}

/// A read that was begun.
#[derive(Debug)]
struct Open {
    number: u64,
    label: String,
    keys: Vec<ReadKey>,
    is_slow: bool,
    begun_at: Instant,
    /// When it was sent; `None` until then.
    sent_at: Option<Instant>,
    /// How long it took until its reply began; `None` until then. From then on its server is at work on
    /// it no more, however long its client takes to read the reply.
    answered_after: Option<Duration>,
    /// Whether it keeps its server silent for too long.
    is_overdue: bool,
    /// Whether another was unanswered on its server meanwhile.
    had_company: bool,
    /// Whether no other that is not quick may be sent there meanwhile.
    is_alone: bool,
    /// Whether its own client sends nothing beside it.
    is_one_by_one: bool,
    /// As in [`ReadInfo`].
    context: Option<u64>,
    /// When its client's thread gave it up, with its server still at work on it.
    left_at: Option<Instant>,
}

impl Open {
    /// Whether it is sent, or about to be: not where its server does not even answer a PING.
    fn is_under_way(&self) -> bool {
        let is_in_time = self.sent_at.is_some() || self.begun_at.elapsed() < MAX_TIME_TO_SEND;
        self.is_unanswered() && is_in_time
    }

    fn has_kind(&self, key: &ReadKey) -> bool {
        self.keys.iter().any(|own| own.kind == key.kind)
    }

    /// Whether its reply has not begun.
    fn is_unanswered(&self) -> bool {
        self.answered_after.is_none()
    }

    /// Whether its server is to be left alone.
    fn is_busy(&self) -> bool {
        self.is_unanswered() && (self.is_slow || self.is_overdue)
    }
}

impl LaneState {
    fn is_busy(&self, backend: usize) -> bool {
        self.servers[backend].iter().any(Open::is_busy)
    }

    /// Whether the answer to the same read, sent after `asked_at`, is just coming in.
    fn is_about_to_share(&self, read: &ReadInfo, asked_at: Instant) -> bool {
        let is_same = |open: &Open| {
            read.context.is_some() && open.context == read.context && open.keys == read.keys
        };
        self.servers.iter().flatten().any(|open| {
            let (Some(sent_at), Some(time)) = (open.sent_at, open.answered_after) else {
                return false;
            };
            is_same(open) && sent_at >= asked_at && (sent_at + time).elapsed() < MAX_TIME_TO_SHARE
        })
    }

    /// How many reads are unanswered that are not quick.
    fn unanswered(&self, backend: usize) -> usize {
        self.servers[backend].iter().filter(|open| open.is_unanswered()).count()
    }

    fn is_any_busy(&self) -> bool {
        (0..self.servers.len()).any(|backend| self.is_busy(backend))
    }

    /// Whether a read of which nothing is known may be sent there: one server that serves has to stay
    /// free of such reads.
    fn may_begin_unknown(
        &self,
        backend: usize,
        reserved: Option<usize>,
        serving: &[usize],
    ) -> bool {
        let is_free = |other: &usize| {
            *other != backend && Some(*other) != reserved && self.unanswered(*other) == 0
        };
        serving.len() <= 1 || (!self.is_busy(backend) && serving.iter().any(is_free))
    }

    /// The server for the next slow read, if it can begin: no other runs, and one server stays free.
    /// Preferably the `last` again, if that may be used.
    fn backend_for_slow(
        &self,
        last: Option<usize>,
        candidates: &[usize],
        serving: &[usize],
    ) -> Option<usize> {
        if self.is_any_busy() {
            return None;
        }
        let fewest = || candidates.iter().copied().min_by_key(|backend| self.unanswered(*backend));
        let backend = last.or_else(fewest)?;
        let is_free = |other: &usize| *other != backend && self.unanswered(*other) == 0;
        let is_ready = self.unanswered(backend) == 0;
        let leaves_one = serving.len() <= 1 || serving.iter().any(is_free);
        (is_ready && leaves_one).then_some(backend)
    }
}

impl SlowLane {
    /// Nothing runs or waits. A server may usually be silent for `backend_timeout`; a read waits for
    /// `read_timeout` at most.
    pub fn new(
        table: Arc<ConnectionTable>,
        healths: Vec<Arc<Health>>,
        backend_timeout: Duration,
        read_timeout: Duration,
    ) -> Self {
        let backends = healths.len();
        Self {
            state: Mutex::new(LaneState {
                servers: (0..backends).map(|_| Vec::new()).collect(),
                freed_at: vec![None; backends],
                waiting: VecDeque::new(),
                next_number: 0,
                last_backend: None,
                recent: VecDeque::new(),
                last_answer: None,
            }),
            changed: Condvar::new(),
            kinds: Kinds::new(backend_timeout),
            table,
            healths,
            read_timeout,
            ended: Counter::default(),
            busy_ms: AtomicU64::new(0),
        }
    }

    /// Timeouts until this read may be sent; then it counts as unanswered at the backend that is returned
    /// with it. `preferred` is taken where possible, of those that `may_try`. Of those that wait and ask
    /// the same, one is sent.
    ///
    /// # Errors
    /// When it may not be sent: see [`LaneError`].
    pub fn begin(
        self: &Arc<Self>,
        read: &ReadInfo,
        preferred: Option<usize>,
        may_try: impl Fn(usize) -> bool,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<Begun, LaneError> {
        let began = Instant::now();
        let mut queued = Queued { lane: self, number: None };
        let mut state = lock(&self.state);
        loop {
            self.sweep(&mut state);
            let candidates = self.table.candidates(&may_try);
            if candidates.is_empty() {
                drop(state);
                return Err(LaneError::NoBackend);
            }
            // Another of its kind may have turned out slow meanwhile.
            let is_slow = self.is_slow(read);
            let is_alone = read.is_alone || self.is_suspect(read);
            // A slow read waits for all that came before, others for none but slow ones and those that need a
            // server alone: these would else never find one.
            let is_before = |waiting: &&Waiting| Some(waiting.number) != queued.number;
            let has_before = |is_in_the_way: fn(&Waiting) -> bool| {
                state.waiting.iter().take_while(is_before).any(is_in_the_way)
            };
            let is_next = !has_before(|waiting| waiting.is_slow);
            let must_give_way =
                !is_alone && !state.is_any_busy() && has_before(|waiting| waiting.is_alone);
            let is_first = !has_before(|_| true);
            if is_slow && let Some(number) = queued.number {
                let waiting = state.waiting.iter_mut().find(|waiting| waiting.number == number);
                waiting.into_iter().for_each(|waiting| waiting.is_slow = true);
                if let Some(answer) =
                    state.last_answer.clone().filter(|last| last.is_for(read, began))
                {
                    drop(state);
                    return Ok(Begun::Answered(answer));
                }
            }
            let place = match is_slow {
                true => {
                    let last = state.last_backend.filter(|last| may_try(*last));
                    let last = last.filter(|last| self.is_as_good_as_up(&state, *last));
                    self.place_slow(&state, last, preferred, &candidates, is_first)
                }
                false if must_give_way && !self.table.serving().is_empty() => None,
                false => self.place(&state, read, preferred, &candidates, is_next),
            };
            // The answer to the same read, which has just begun, is good for this one.
            let place = place.filter(|_| !state.is_about_to_share(read, began));
            if let Some(backend) = place {
                let open = self.open(&mut state, read, backend, is_slow);
                drop(state);
                return Ok(Begun::Open(open));
            }
            if queued.number.is_none() {
                let slow = state.waiting.iter().filter(|waiting| waiting.is_slow).count();
                if is_slow && slow >= MAX_WAITING {
                    drop(state);
                    return Err(LaneError::Full);
                }
                let number = state.next_number;
                state.next_number += 1;
                state.waiting.push_back(Waiting { number, is_slow, is_alone });
                queued.number = Some(number);
            }
            state = wait(&self.changed, state, WAIT_STEP);
            // A look at the socket is a system call: not with the lock held.
            drop(state);
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
    fn is_as_good_as_up(&self, state: &LaneState, backend: usize) -> bool {
        let freed_at = state.freed_at[backend];
        match self.healths[backend].state() {
            BackendState::Up => true,
            BackendState::Suspect => {
                freed_at.is_some_and(|freed_at| freed_at.elapsed() < DOUBT_TIME)
            }
            BackendState::Down | BackendState::Syncing => false,
        }
    }

    /// Where a slow read may be sent now. `is_next` where none has waited for longer.
    fn place_slow(
        &self,
        state: &LaneState,
        last: Option<usize>,
        preferred: Option<usize>,
        candidates: &[usize],
        is_next: bool,
    ) -> Option<usize> {
        let serving = self.table.serving();
        match serving.is_empty() {
            true => best(preferred, candidates),
            false if is_next => state.backend_for_slow(last, candidates, &serving),
            false => None,
        }
    }

    /// Where a read of which nothing is known may be sent now. `is_next` where no slow read has waited
    /// for longer.
    fn place(
        &self,
        state: &LaneState,
        read: &ReadInfo,
        preferred: Option<usize>,
        candidates: &[usize],
        is_next: bool,
    ) -> Option<usize> {
        // One of those that serve stays free. With none, there is nothing to protect.
        let serving = self.table.serving();
        if serving.is_empty() {
            return best(preferred, candidates);
        }
        // The first of a kind shows what that is like, before there are more of it on several servers.
        let is_new = |key: &&ReadKey| self.kinds.is_new(key);
        let opens = || state.servers.iter().flatten();
        let runs = |key: &ReadKey| opens().any(|open| open.has_kind(key) && open.is_under_way());
        if serving.len() > 1 && read.keys.iter().filter(is_new).any(runs) {
            return None;
        }
        // One that may have kept a server silent is not tried while another does.
        let is_suspect = self.is_suspect(read);
        if serving.len() > 1 && is_suspect && state.is_any_busy() {
            return None;
        }
        let is_alone = read.is_alone || is_suspect;
        // The next slow read waits until its server is free of others.
        let reserved = if is_next { None } else { state.last_backend };
        let may_begin = |backend: &usize| {
            let is_reserved = serving.len() > 1 && reserved == Some(*backend);
            let mut others = state.servers[*backend].iter().filter(|other| other.is_unanswered());
            let may_join = match is_alone {
                true => others.next().is_none(),
                false => !others.any(|other| other.is_alone),
            };
            may_join && !is_reserved && state.may_begin_unknown(*backend, reserved, &serving)
        };
        let preferred = preferred.filter(|backend| candidates.contains(backend));
        preferred.into_iter().chain(candidates.iter().copied()).find(may_begin)
    }

    fn open(
        self: &Arc<Self>,
        state: &mut LaneState,
        read: &ReadInfo,
        backend: usize,
        is_slow: bool,
    ) -> Arc<OpenRead> {
        let number = state.next_number;
        state.next_number += 1;
        let others = &mut state.servers[backend];
        let mut had_company = false;
        for other in others.iter_mut().filter(|other| other.is_unanswered()) {
            (other.had_company, had_company) = (true, true);
        }
        others.push(Open {
            number,
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
    fn show(&self, state: &mut LaneState, backend: usize) {
        let is_busy = state.is_busy(backend);
        if self.table.is_busy(backend) && !is_busy {
            state.freed_at[backend] = Some(Instant::now());
        }
        self.table.set_busy(backend, is_busy);
        // What was given up is no excuse for a server that stays silent.
        let is_at_work = |open: &Open| open.is_busy() && open.left_at.is_none();
        self.healths[backend].set_busy(state.servers[backend].iter().any(is_at_work));
    }

    /// Ends what was left unanswered on servers that answer again, or are gone.
    fn sweep(&self, state: &mut LaneState) {
        for backend in 0..state.servers.len() {
            let health = &self.healths[backend];
            let is_over = |open: &Open| {
                open.left_at.is_some_and(|left_at| {
                    health.has_answered_since(left_at)
                        || matches!(health.state(), BackendState::Down | BackendState::Syncing)
                        || left_at.elapsed() > self.read_timeout * MAX_LINGERS
                })
            };
            let mut at = 0;
            while at < state.servers[backend].len() {
                match is_over(&state.servers[backend][at]) {
                    true => self.remove(state, backend, at),
                    false => at += 1,
                }
            }
        }
    }

    /// Ends what was left unanswered on servers that answer again; called after each check.
    pub fn note_check(&self) {
        let mut state = lock(&self.state);
        if state.servers.iter().flatten().any(|open| open.left_at.is_some()) {
            self.sweep(&mut state);
        }
    }

    fn remove(&self, state: &mut LaneState, backend: usize, at: usize) {
        let open = state.servers[backend].remove(at);
        if open.is_slow || open.is_overdue {
            let until_now = || open.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
            let time = open.answered_after.unwrap_or_else(until_now);
            let name = self.healths[backend].name();
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
    fn was_occupied(&self, backend: usize, since: Instant) -> bool {
        let state = lock(&self.state);
        let freed_at = state.freed_at[backend];
        state.unanswered(backend) > 0 || freed_at.is_some_and(|freed_at| freed_at >= since)
    }

    /// Reads that were expected to be quick were sent to this backend together, and answered only after
    /// `time`: they have to prove anew that they are. One that waited for another read is not slow.
    pub fn note_late(&self, backend: usize, sent_at: Instant, keys: &[ReadKey], time: Duration) {
        if time >= self.kinds.slow_after() && !self.was_occupied(backend, sent_at) {
            keys.iter().for_each(|key| self.kinds.note_answer(key, time, keys.len() == 1));
        }
    }

    /// What is to be shown.
    pub fn snapshot(&self) -> Snapshot {
        let state = lock(&self.state);
        let running = state.servers.iter().enumerate().flat_map(|(backend, opens)| {
            opens.iter().filter(|open| open.is_busy()).map(move |open| RunningRead {
                label: open.label.clone(),
                backend,
                time: open.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed()),
            })
        });
        Snapshot {
            ended: self.ended.get(),
            busy_time: Duration::from_millis(self.busy_ms.load(Ordering::Relaxed)),
            waiting: state.waiting.len(),
            running: running.collect(),
            recent: state.recent.iter().cloned().collect(),
        }
    }

    fn with_open<T>(&self, read: &OpenRead, change: impl FnOnce(&mut Open) -> T) -> Option<T> {
        let mut state = lock(&self.state);
        let opens = &mut state.servers[read.backend];
        opens.iter_mut().find(|open| open.number == read.number).map(change)
    }
}

/// The preferred backend, or the one that would be leased next.
fn best(preferred: Option<usize>, candidates: &[usize]) -> Option<usize> {
    preferred.filter(|own| candidates.contains(own)).or(candidates.first().copied())
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

/// A read that is not quick, on its backend: it counts as unanswered there until it is dropped, or, where
/// it was given up unanswered, until the server answers again.
#[derive(Debug)]
pub struct OpenRead {
    lane: Arc<SlowLane>,
    number: u64,
    backend: usize,
    is_slow: bool,
    is_overdue: AtomicBool,
    has_begun: AtomicBool,
}

impl OpenRead {
    /// The index of the backend that it is sent to.
    pub fn backend(&self) -> usize {
        self.backend
    }

    /// Whether it was known to be slow when it began: others have left its server.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Whether the reply to what was sent last has begun: its server is at work on it no more.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// How long it has been unanswered.
    pub fn unanswered_for(&self) -> Duration {
        let sent_at = self.lane.with_open(self, |open| open.sent_at).flatten();
        sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed())
    }

    /// What it is known by.
    pub fn keys(&self) -> Vec<ReadKey> {
        self.lane.with_open(self, |open| open.keys.clone()).unwrap_or_default()
    }

    /// It is being sent: its time begins.
    pub fn note_sent(&self) {
        self.has_begun.store(false, Ordering::Relaxed);
        let was_answered = self.lane.with_open(self, |open| {
            open.sent_at = Some(Instant::now());
            open.left_at = None;
            open.answered_after.take().is_some()
        });
        if was_answered == Some(true) {
            self.lane.show(&mut lock(&self.lane.state), self.backend);
        }
    }

    /// Its server has said nothing for so long since it was sent.
    pub fn note_silence(&self, silent: Duration) {
        let lane = &self.lane;
        let is_usual = silent < lane.kinds.slow_after();
        if is_usual || self.has_begun() || self.is_overdue.load(Ordering::Relaxed) {
            return;
        }
        let blamed = lane.with_open(self, |open| {
            open.sent_at?;
            open.is_overdue = true;
            Some((open.had_company, open.keys.clone()))
        });
        let Some((had_company, keys)) = blamed.flatten() else { return };
        self.is_overdue.store(true, Ordering::Relaxed);
        match &keys[..] {
            [key] if !had_company => lane.kinds.note_slow(key),
            // Nobody knows which of them it was: next time each is measured alone.
            keys => keys.iter().for_each(|key| lane.kinds.note_shared_server(key)),
        }
        lane.show(&mut lock(&lane.state), self.backend);
    }

    /// Redis has just begun to answer what was sent last: all of it, as it writes replies when all is done.
    pub fn note_answer(&self) {
        self.note_begun(true);
    }

    /// Redis has just begun to answer a part of it: its server is at work on it no more, until more is
    /// sent.
    pub fn note_part(&self) {
        self.note_begun(false);
    }

    fn note_begun(&self, is_all: bool) {
        self.has_begun.store(true, Ordering::Relaxed);
        let known = self.lane.with_open(self, |open| {
            let time = open.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
            open.answered_after = Some(time);
            (open.keys.clone(), open.had_company, time)
        });
        let Some((keys, had_company, time)) = known else { return };
        if is_all {
            let is_alone = keys.len() == 1 && !had_company;
            keys.iter().for_each(|key| self.lane.kinds.note_answer(key, time, is_alone));
        }
        self.lane.show(&mut lock(&self.lane.state), self.backend);
        self.lane.changed.notify_all();
    }

    /// It was answered with this whole reply: where it has a context, that is good for those who wait and
    /// have asked the same.
    pub fn share(&self, reply: &[u8]) {
        let mut state = lock(&self.lane.state);
        // While nobody waits, nobody can have asked before it was sent.
        if !self.is_slow || state.waiting.is_empty() {
            return;
        }
        let opens = &state.servers[self.backend];
        let Some(open) = opens.iter().find(|open| open.number == self.number) else { return };
        let (&[key], Some(sent_at), Some(context)) = (&open.keys[..], open.sent_at, open.context)
        else {
            return;
        };
        let (backend, reply) = (self.backend, Arc::from(reply));
        state.last_answer =
            Some(SharedAnswer { exact: key.exact, context, sent_at, backend, reply });
        self.lane.changed.notify_all();
    }

    /// Whether nothing else that is not quick may be sent to its backend meanwhile, not even from its own
    /// client.
    pub fn is_alone(&self) -> bool {
        self.lane.with_open(self, |open| open.is_one_by_one).unwrap_or(false)
    }

    /// What it asks, for the log.
    pub fn label(&self) -> String {
        self.lane.with_open(self, |open| open.label.clone()).unwrap_or_default()
    }

    /// Its server answers others: it was not why nothing came of it.
    pub fn clear_blame(&self) {
        self.keys().iter().for_each(|key| self.lane.kinds.clear_blame(key));
    }

    /// Its client's thread gives it up, with the server perhaps still at work on it: it stays on the
    /// server's list until that answers a check.
    pub fn leave(&self) {
        self.lane.with_open(self, |open| {
            if open.sent_at.is_some() && open.is_unanswered() {
                open.left_at = Some(Instant::now());
            }
        });
        self.lane.show(&mut lock(&self.lane.state), self.backend);
    }
}

impl Drop for OpenRead {
    fn drop(&mut self) {
        let mut state = lock(&self.lane.state);
        let opens = &state.servers[self.backend];
        let at = opens.iter().position(|open| open.number == self.number && open.left_at.is_none());
        if let Some(at) = at {
            self.lane.remove(&mut state, self.backend, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{DatabasesInUse, HealthSettings};
    use std::thread;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// With so many backends, all up.
    fn lane(backends: usize) -> Arc<SlowLane> {
        lane_with(backends, Duration::from_secs(30))
    }

    fn lane_with(backends: usize, read_timeout: Duration) -> Arc<SlowLane> {
        let table = ConnectionTable::new(backends, Duration::ZERO);
        let settings = HealthSettings { fall: 3, rise: 2, forget_after: Duration::from_secs(600) };
        let in_use = Arc::new(DatabasesInUse::default());
        let health =
            |backend| Health::new("a", backend, Arc::clone(&table), settings, Arc::clone(&in_use));
        let healths = (0..backends).map(health).collect();
        (0..backends).for_each(|backend| table.set_state(backend, BackendState::Up, false));
        Arc::new(SlowLane::new(table, healths, TIMEOUT, read_timeout))
    }

    fn read(class: Class, number: u64) -> ReadInfo {
        let key = ReadKey { kind: number << 40 | number, exact: number, is_fast: false };
        let label = format!("READ {number}");
        ReadInfo { class, keys: vec![key], label, is_alone: false, context: None }
    }

    fn opened(begun: Result<Begun, LaneError>) -> Result<Arc<OpenRead>, LaneError> {
        begun.map(|begun| match begun {
            Begun::Open(open) => open,
            Begun::Answered(answer) => panic!("answered: {answer:?}"),
        })
    }

    fn begin(lane: &Arc<SlowLane>, class: Class, preferred: usize) -> Arc<OpenRead> {
        let read = read(class, preferred as u64 + 1);
        let begun = lane.begin(&read, Some(preferred), |_| true, || false);
        let open = opened(begun).expect("a backend");
        open.note_sent();
        open
    }

    /// A read that may not begin now.
    fn must_wait(lane: &Arc<SlowLane>, class: Class, preferred: usize) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let may_try = |_| !is_over.load(Ordering::Relaxed);
            let wait =
                move || lane.begin(&read(class, 9), Some(preferred), may_try, || false).map(|_| ());
            let waiting = scope.spawn(wait);
            while lane.snapshot().waiting == 0 {
                thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(waiting.join().expect("no panic"), Err(LaneError::NoBackend));
        });
    }

    #[test]
    fn slow_reads_run_one_at_a_time_where_the_last_ran() {
        let lane = lane(3);
        let first = begin(&lane, Class::Slow, 0);
        assert!(lane.table.is_busy(first.backend()));
        must_wait(&lane, Class::Slow, 1);
        let place = first.backend();
        drop(first);
        assert!(!lane.table.is_busy(place));
        assert_eq!(begin(&lane, Class::Slow, 1).backend(), place);
    }

    #[test]
    fn one_server_stays_free_of_reads_that_are_not_known_to_be_quick() {
        let lane = lane(3);
        let first = begin(&lane, Class::Unknown, 0);
        let second = begin(&lane, Class::Unknown, 1);
        assert_eq!((first.backend(), second.backend()), (0, 1));
        let third = begin(&lane, Class::Unknown, 2);
        assert_ne!(third.backend(), 2, "beside one of the others");
        drop((first, third));
        assert_eq!(begin(&lane, Class::Unknown, 2).backend(), 2);
    }

    #[test]
    fn what_is_overdue_makes_its_server_busy_and_is_slow_from_then_on() {
        let lane = lane(2);
        let open = begin(&lane, Class::Unknown, 0);
        open.note_silence(TIMEOUT / 4);
        assert!(!lane.table.is_busy(0));
        open.note_silence(TIMEOUT / 2);
        assert!(lane.table.is_busy(0));
        assert_eq!(lane.kinds.class(&read(Class::Unknown, 1).keys[0]), Class::Slow);
        must_wait(&lane, Class::Slow, 1);
        must_wait(&lane, Class::Unknown, 1);
        drop(open);
        assert!(!lane.table.is_busy(0));
        assert_eq!(lane.snapshot().ended, 1);
    }

    #[test]
    fn the_first_of_a_kind_runs_before_others_of_it() {
        let lane = lane(3);
        let open = begin(&lane, Class::Unknown, 0);
        thread::scope(|scope| {
            let again = || {
                let read = read(Class::Unknown, 1);
                opened(lane.begin(&read, Some(1), |_| true, || false)).map(|open| open.backend())
            };
            let again = scope.spawn(again);
            while lane.snapshot().waiting == 0 {
                thread::yield_now();
            }
            open.note_answer();
            assert_eq!(again.join().expect("no panic"), Ok(1));
        });
    }

    #[test]
    fn what_waits_for_one_of_its_kind_that_turns_out_slow_is_slow_itself() {
        let lane = lane(3);
        let open = begin(&lane, Class::Unknown, 0);
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let read = read(Class::Unknown, 1);
                opened(lane.begin(&read, Some(1), |_| true, || false)).map(|open| open.is_slow())
            });
            while lane.snapshot().waiting == 0 {
                thread::yield_now();
            }
            open.note_silence(TIMEOUT / 2);
            assert!(!second.is_finished(), "the first still runs");
            drop(open);
            assert_eq!(second.join().expect("no panic"), Ok(true));
        });
    }

    #[test]
    fn of_those_that_wait_and_ask_the_same_one_is_sent() {
        let lane = lane(3);
        let first = begin(&lane, Class::Slow, 0);
        let shared = |number, context| ReadInfo { context, ..read(Class::Slow, number) };
        thread::scope(|scope| {
            let wait = |info: ReadInfo| {
                let lane = &lane;
                let waiting = lane.snapshot().waiting;
                let thread = scope.spawn(move || {
                    let begun = lane.begin(&info, None, |_| true, || false).expect("its turn");
                    match begun {
                        Begun::Answered(answer) => answer.reply.to_vec(),
                        Begun::Open(open) => {
                            open.note_sent();
                            open.share(b"+reply");
                            b"sent".to_vec()
                        }
                    }
                });
                while lane.snapshot().waiting == waiting {
                    thread::yield_now();
                }
                thread
            };
            let same = [(); 3].map(|()| wait(shared(1, Some(0))));
            let others = [shared(2, Some(0)), shared(1, Some(1)), shared(1, None)].map(wait);
            drop(first);
            let mut replies = same.map(|thread| thread.join().expect("no panic"));
            replies.sort();
            assert_eq!(replies, [&b"+reply"[..], b"+reply", b"sent"]);
            let replies = others.map(|thread| thread.join().expect("no panic"));
            assert_eq!(replies, [b"sent"; 3]);
        });
    }

    #[test]
    fn nobody_is_blamed_who_was_not_alone() {
        let lane = lane(3);
        let [first, second] = [1, 2].map(|number| {
            let read = read(Class::Unknown, number);
            let begun = lane.begin(&read, Some(0), |_| true, || false);
            let open = opened(begun).expect("a backend");
            open.note_sent();
            open
        });
        assert_eq!((first.backend(), second.backend()), (0, 0));
        first.note_silence(TIMEOUT);
        let key = read(Class::Unknown, 1).keys[0];
        assert_eq!(lane.kinds.class(&key), Class::Unknown);
        assert!(lane.kinds.is_measured_alone(&key));
    }

    #[test]
    fn a_read_that_goes_alone_has_its_server_for_itself() {
        let lane = lane(3);
        let alone = ReadInfo { is_alone: true, ..read(Class::Unknown, 7) };
        let open = opened(lane.begin(&alone, Some(0), |_| true, || false)).expect("a backend");
        assert!(open.is_alone());
        assert_ne!(begin(&lane, Class::Unknown, 0).backend(), 0);
    }

    #[test]
    fn a_read_that_was_left_unanswered_keeps_its_server_busy_until_that_answers_or_is_down() {
        let lane = lane(2);
        let open = begin(&lane, Class::Slow, 0);
        let backend = open.backend();
        open.leave();
        drop(open);
        lane.note_check();
        // The server is down in its own eyes, as no check has found it up: it is not waited for.
        assert!(!lane.table.is_busy(backend));
        assert!(begin(&lane, Class::Slow, 1).is_slow());
    }

    #[test]
    fn a_read_whose_reply_has_begun_keeps_nobody_waiting_however_slowly_it_is_read() {
        let lane = lane(3);
        let first = begin(&lane, Class::Slow, 0);
        first.note_answer();
        assert!(!lane.table.is_busy(first.backend()));
        let second = begin(&lane, Class::Slow, 0);
        assert_eq!(second.backend(), first.backend());
        assert_eq!(lane.snapshot().running.len(), 1);
    }

    #[test]
    fn what_waits_is_served_in_the_order_in_which_it_came() {
        let lane = lane(3);
        let first = begin(&lane, Class::Slow, 0);
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..5 {
                scope.spawn({
                    let (lane, order) = (&lane, &order);
                    move || {
                        let read = read(Class::Slow, number);
                        let begun = lane.begin(&read, None, |_| true, || false);
                        let open = opened(begun).expect("its turn");
                        lock(order).push(number);
                        drop(open);
                    }
                });
                while lane.snapshot().waiting <= number as usize {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*lock(&order), [0, 1, 2, 3, 4]);
        assert_eq!(lane.snapshot().waiting, 0);
    }

    #[test]
    fn waiting_ends_with_the_read_timeout_and_no_more_than_a_bounded_number_wait() {
        let lane = lane_with(2, Duration::from_millis(50));
        let _first = begin(&lane, Class::Slow, 0);
        let late = lane.begin(&read(Class::Slow, 5), None, |_| true, || false);
        assert!(matches!(late.map(|_| ()), Err(LaneError::TimedOut(_))));
        let waiting = |number| Waiting { number, is_slow: true, is_alone: false };
        lock(&lane.state).waiting.extend((0..MAX_WAITING as u64).map(waiting));
        let full = lane.begin(&read(Class::Slow, 5), None, |_| true, || false);
        assert_eq!(full.map(|_| ()).err(), Some(LaneError::Full));
    }

    #[test]
    fn a_lone_server_takes_what_there_is() {
        let lane = lane(1);
        let _first = begin(&lane, Class::Unknown, 0);
        let _second = begin(&lane, Class::Unknown, 0);
        must_wait(&lane, Class::Slow, 0);
        assert!(lane.begin(&read(Class::Slow, 1), None, |_| false, || false).is_err());
    }
}
