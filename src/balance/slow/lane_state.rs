//! The reads of the slow lane and the rules of who is next, without a lock or a clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kinds::ReadKey;
use crate::backend::{BackendId, Class};

/// Limit of slow reads that wait for a server; more are refused. Other reads wait for moments only, at most
/// one for each client.
pub const MAX_WAITING: usize = 256;

/// Time within which a read is sent after it may be, unless its server does not even answer a PING.
const MAX_TIME_TO_SEND: Duration = Duration::from_millis(20);

/// Time within which a short reply is complete after it has begun. Longer replies are not shared.
const MAX_TIME_TO_SHARE: Duration = Duration::from_millis(20);

/// A read that is not quick, to be sent.
#[derive(Debug, Clone, Default)]
pub struct ReadInfo {
    /// Knowledge about how long it takes.
    pub class: Class,
    /// Keys of its commands; several for reads that are sent together.
    pub keys: Vec<ReadKey>,
    /// Text of its command, for the log.
    pub label: String,
    /// Whether no other read that is not quick may be unanswered on its server.
    pub is_alone: bool,
    /// Hash of everything beside the read that the reply depends on, if the reply may be shared.
    pub context: Option<u64>,
}

/// The answer to the last slow read, which others may have asked as well.
#[derive(Debug, Clone)]
pub struct SharedAnswer {
    /// Hash of the read's exact bytes.
    pub(super) exact: u64,
    /// As in [`ReadInfo`].
    pub(super) context: u64,
    /// When the read was sent.
    pub sent_at: Instant,
    /// The backend that has answered.
    pub backend: BackendId,
    /// Its reply.
    pub reply: Arc<[u8]>,
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

/// A slow read that runs or has run, as it is shown.
#[derive(Debug, Clone)]
pub struct RunningRead {
    /// Its command, and where its key begins.
    pub label: String,
    /// Its backend.
    pub backend: BackendId,
    /// How long it runs, or has run.
    pub time: Duration,
}

#[derive(Debug, Default)]
pub struct LaneState {
    /// The reads that may have been sent and have not ended.
    pub opens: Vec<Open>,
    /// When each server was last freed of a slow read.
    pub freed_at: HashMap<BackendId, Instant>,
    /// The reads that wait, first come, first served.
    pub waiting: VecDeque<Waiting>,
    pub next_number: u64,
    /// Where the last slow read ran. The next one runs there, too, so that other servers' clients stay.
    pub last_backend: Option<BackendId>,
    pub recent: VecDeque<RunningRead>,
    pub last_answer: Option<SharedAnswer>,
}

#[derive(Debug)]
pub struct Waiting {
    pub number: u64,
    pub is_slow: bool,
    /// Whether it needs a server where no other read is unanswered that is not quick.
    pub is_alone: bool,
}

/// A read that may be sent, or was.
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
    /// Time until its reply began; `None` until then. After that its server works on it no more, however
    /// slowly the client reads the reply.
    pub answered_after: Option<Duration>,
    /// Whether its server has been silent for too long.
    pub is_overdue: bool,
    /// Whether another read was unanswered on its server meanwhile.
    pub had_company: bool,
    /// Whether no other read that is not quick may be sent there meanwhile.
    pub is_alone: bool,
    /// Whether its own client sends nothing beside it.
    pub is_one_by_one: bool,
    /// As in [`ReadInfo`].
    pub context: Option<u64>,
    /// When its session gave it up while the server was still at work on it.
    pub left_at: Option<Instant>,
}

impl Open {
    /// Time since it was sent.
    pub fn runs_for(&self, now: Instant) -> Duration {
        self.sent_at.map_or(Duration::ZERO, |sent_at| now.saturating_duration_since(sent_at))
    }

    /// Whether it was sent or will be in a moment: not if its server does not even answer a PING.
    pub fn is_under_way(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.begun_at);
        self.is_unanswered() && (self.sent_at.is_some() || age < MAX_TIME_TO_SEND)
    }

    /// Whether its reply has not begun.
    pub fn is_unanswered(&self) -> bool {
        self.answered_after.is_none()
    }

    /// Whether quick reads should leave its server.
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
        let mut before = self.waiting.iter().take_while(|waiting| Some(waiting.number) != number);
        before.any(is_such)
    }

    /// The answer to an equal read, if that was sent after `asked_at`.
    pub fn answer_to(&self, read: &ReadInfo, asked_at: Instant) -> Option<SharedAnswer> {
        let [key] = &read.keys[..] else { return None };
        let is_for_it = |last: &SharedAnswer| {
            read.context == Some(last.context)
                && key.exact == last.exact
                && last.sent_at >= asked_at
        };
        self.last_answer.clone().filter(is_for_it)
    }

    /// Whether a read of this kind is under way.
    pub fn runs(&self, key: &ReadKey, now: Instant) -> bool {
        let has_kind = |open: &Open| open.keys.iter().any(|own| own.kind == key.kind);
        self.opens.iter().any(|open| has_kind(open) && open.is_under_way(now))
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

    /// Whether the answer to an equal read, sent after `asked_at`, is just coming in.
    pub fn is_about_to_share(&self, read: &ReadInfo, asked_at: Instant, now: Instant) -> bool {
        let is_coming = |open: &Open| {
            let (Some(sent_at), Some(time)) = (open.sent_at, open.answered_after) else {
                return false;
            };
            let age = now.saturating_duration_since(sent_at + time);
            sent_at >= asked_at && age < MAX_TIME_TO_SHARE
        };
        let is_equal = |open: &Open| open.context == read.context && open.keys == read.keys;
        read.context.is_some() && self.opens.iter().any(|open| is_equal(open) && is_coming(open))
    }

    /// The number of unanswered reads on a backend.
    pub fn unanswered(&self, backend: BackendId) -> usize {
        self.on(backend).filter(|open| open.is_unanswered()).count()
    }

    /// Whether a read keeps a backend busy, of those that `count`: one that clients leave takes no place.
    pub fn is_any_busy(&self, counts: impl Fn(BackendId) -> bool) -> bool {
        self.opens.iter().any(|open| open.is_busy() && counts(open.backend))
    }

    /// Whether a read of unknown class may be sent to a backend: another server that serves has to stay free
    /// of such reads.
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

    /// The server for the next slow read, which may begin if no other slow read runs and one server stays
    /// free. It is the `last` one again, if that may be used.
    pub fn backend_for_slow(
        &self,
        last: Option<BackendId>,
        candidates: &[BackendId],
        serving: &[BackendId],
    ) -> Option<BackendId> {
        let fewest = || candidates.iter().copied().min_by_key(|backend| self.unanswered(*backend));
        let backend = last.or_else(fewest)?;
        let is_free = |other: &BackendId| *other != backend && self.unanswered(*other) == 0;
        let leaves_one = serving.len() <= 1 || serving.iter().any(is_free);
        (self.unanswered(backend) == 0 && leaves_one).then_some(backend)
    }
}
