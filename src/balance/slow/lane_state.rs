//! Which reads that are not quick are unanswered where, which wait, and where the next may go: without a
//! lock.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::kinds::ReadKey;
use super::lane::{LaneError, ReadInfo, RunningRead, SharedAnswer};
use crate::backend::BackendId;

/// Slow reads that may wait for a server, in all: more are refused. (Others wait for moments, one a client.)
pub const MAX_WAITING: usize = 256;

/// A read is sent so soon after it has begun, unless its server does not answer.
const MAX_TIME_TO_SEND: Duration = Duration::from_millis(20);

/// A short reply is there so soon after it has begun: a longer one is not shared.
const MAX_TIME_TO_SHARE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct LaneState {
    /// The reads that were begun and not ended.
    pub opens: Vec<Open>,
    /// When each server was last freed of a slow read.
    pub freed_at: HashMap<BackendId, Instant>,
    /// Those that wait, first come, first served.
    pub waiting: VecDeque<Waiting>,
    pub next_number: u64,
    /// Where the last slow read ran: the next runs there, too, so that the others stay where they are.
    pub last_backend: Option<BackendId>,
    pub recent: VecDeque<RunningRead>,
    pub last_answer: Option<SharedAnswer>,
}

#[derive(Debug)]
pub struct Waiting {
    pub number: u64,
    pub is_slow: bool,
    /// Whether it needs a server on which no other read is unanswered that is not quick.
    pub is_alone: bool,
}

/// A read that was begun.
#[derive(Debug)]
pub struct Open {
    pub number: u64,
    pub backend: BackendId,
    pub label: String,
    pub keys: Vec<ReadKey>,
    pub is_slow: bool,
    pub begun_at: Instant,
    /// When it was sent; `None` until then.
    pub sent_at: Option<Instant>,
    /// How long it took until its reply began; `None` until then. From then on its server is at work on
    /// it no more, however long its client takes to read the reply.
    pub answered_after: Option<Duration>,
    /// Whether it keeps its server silent for too long.
    pub is_overdue: bool,
    /// Whether another was unanswered on its server meanwhile.
    pub had_company: bool,
    /// Whether no other that is not quick may be sent there meanwhile.
    pub is_alone: bool,
    /// Whether its own client sends nothing beside it.
    pub is_one_by_one: bool,
    /// As in [`ReadInfo`].
    pub context: Option<u64>,
    /// When its client's thread gave it up, with its server still at work on it.
    pub left_at: Option<Instant>,
}

impl Open {
    /// Whether it is sent, or about to be: not where its server does not even answer a PING.
    pub fn is_under_way(&self) -> bool {
        let is_in_time = self.sent_at.is_some() || self.begun_at.elapsed() < MAX_TIME_TO_SEND;
        self.is_unanswered() && is_in_time
    }

    pub fn has_kind(&self, key: &ReadKey) -> bool {
        self.keys.iter().any(|own| own.kind == key.kind)
    }

    /// Whether its reply has not begun.
    pub fn is_unanswered(&self) -> bool {
        self.answered_after.is_none()
    }

    /// Whether its server is to be left alone.
    pub fn is_busy(&self) -> bool {
        self.is_unanswered() && (self.is_slow || self.is_overdue)
    }
}

impl LaneState {
    /// Adds a read to those that wait; returns its number.
    pub fn queue(&mut self, is_slow: bool, is_alone: bool) -> Result<u64, LaneError> {
        if is_slow && self.waiting.iter().filter(|waiting| waiting.is_slow).count() >= MAX_WAITING {
            return Err(LaneError::Full);
        }
        let number = self.next_number();
        self.waiting.push_back(Waiting { number, is_slow, is_alone });
        Ok(number)
    }

    pub fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The read that waits under this number.
    pub fn waiting(&mut self, number: u64) -> Option<&mut Waiting> {
        self.waiting.iter_mut().find(|waiting| waiting.number == number)
    }

    /// Whether such a read has waited for longer than the one with this number.
    pub fn has_before(&self, number: Option<u64>, is_such: impl Fn(&Waiting) -> bool) -> bool {
        let before = self.waiting.iter().take_while(|waiting| Some(waiting.number) != number);
        before.into_iter().any(is_such)
    }

    /// The answer to the same read, if that was sent after `asked_at`.
    pub fn answer_to(&self, read: &ReadInfo, asked_at: Instant) -> Option<SharedAnswer> {
        self.last_answer.clone().filter(|last| last.is_for(read, asked_at))
    }

    /// Whether a read of this kind is under way.
    pub fn runs(&self, key: &ReadKey) -> bool {
        self.opens.iter().any(|open| open.has_kind(key) && open.is_under_way())
    }

    /// The reads on one backend.
    pub fn on(&self, backend: BackendId) -> impl Iterator<Item = &Open> {
        self.opens.iter().filter(move |open| open.backend == backend)
    }

    pub fn find(&mut self, number: u64) -> Option<&mut Open> {
        self.opens.iter_mut().find(|open| open.number == number)
    }

    pub fn is_busy(&self, backend: BackendId) -> bool {
        self.on(backend).any(Open::is_busy)
    }

    /// Whether the answer to the same read, sent after `asked_at`, is just coming in.
    pub fn is_about_to_share(&self, read: &ReadInfo, asked_at: Instant) -> bool {
        let is_same = |open: &Open| {
            read.context.is_some() && open.context == read.context && open.keys == read.keys
        };
        self.opens.iter().any(|open| {
            let (Some(sent_at), Some(time)) = (open.sent_at, open.answered_after) else {
                return false;
            };
            is_same(open) && sent_at >= asked_at && (sent_at + time).elapsed() < MAX_TIME_TO_SHARE
        })
    }

    /// How many reads are unanswered that are not quick.
    pub fn unanswered(&self, backend: BackendId) -> usize {
        self.on(backend).filter(|open| open.is_unanswered()).count()
    }

    pub fn is_any_busy(&self) -> bool {
        self.opens.iter().any(Open::is_busy)
    }

    /// Whether a read of which nothing is known may be sent there: one server that serves has to stay
    /// free of such reads.
    pub fn may_begin_unknown(
        &self,
        backend: BackendId,
        reserved: Option<BackendId>,
        serving: &[BackendId],
    ) -> bool {
        let is_free = |other: &BackendId| {
            *other != backend && Some(*other) != reserved && self.unanswered(*other) == 0
        };
        serving.len() <= 1 || (!self.is_busy(backend) && serving.iter().any(is_free))
    }

    /// The server for the next slow read, if it can begin: no other runs, and one server stays free.
    /// Preferably the `last` again, if that may be used.
    pub fn backend_for_slow(
        &self,
        last: Option<BackendId>,
        candidates: &[BackendId],
        serving: &[BackendId],
    ) -> Option<BackendId> {
        if self.is_any_busy() {
            return None;
        }
        let fewest = || candidates.iter().copied().min_by_key(|backend| self.unanswered(*backend));
        let backend = last.or_else(fewest)?;
        let is_free = |other: &BackendId| *other != backend && self.unanswered(*other) == 0;
        let is_ready = self.unanswered(backend) == 0;
        let leaves_one = serving.len() <= 1 || serving.iter().any(is_free);
        (is_ready && leaves_one).then_some(backend)
    }
}
