//! Purpose is known of one database of one backend: how far its invalidations have come, and the reads on their way.
//!
//! A tracker is one connection in RESP3 with `CLIENT TRACKING ON`, and the thread that reads it (`tracker_thread`). Redis sends an
//! invalidation of a key in order with the replies on the connection that has read it. So when a command is answered
//! here, all invalidations have come of what had changed when it was sent: that moment is `as_of`. Entries of the tracker
//! count as long as no invalidation of their key has come, and nothing that makes the tracker itself doubtful.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::CachedRead;
use super::entry::{Entry, EntryKey};
use super::fill::{Fill, TimeIsUp};
use super::position::Position;
use crate::backend::pipeline::Pipeline;
use crate::health::Member;
use crate::net::backend_stream::BackendStream;
use crate::resp::command;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Most reads that are on their way to the cache on one connection.
const MAX_FILLS: usize = 1024;

/// The times of a cache as numbers: nanoseconds since it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock(pub Instant);

impl Clock {
    pub fn nanos(self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Commands that were sent together on a tracker's connection.
#[derive(Debug)]
pub struct Sent {
    /// When, in nanoseconds of the cache's clock.
    pub at: u64,
    pub purpose: Purpose,
}

/// Purpose they are for.
#[derive(Debug)]
pub enum Purpose {
    /// `PING`: somebody waits for the moment to be reached.
    Sync,
    /// `INFO`: whether what has no invalidations has changed.
    Check,
    /// `PTTL` and a read.
    Fill(Arc<Fill>),
}

/// One database of one backend.
#[derive(Debug)]
pub struct Tracker {
    /// No other tracker of the process has it. Entries know theirs by it.
    pub(super) number: u64,
    /// The backend.
    pub member: Arc<Member>,
    /// The database.
    pub database: i64,
    pub(super) clock: Clock,
    /// `--cache-max-silence`.
    pub(super) max_silence: Duration,
    /// How long a client waits at most.
    max_wait: Duration,
    pub(super) pipeline: Pipeline<Sent>,
    /// Its connection, once it is made.
    pub(super) stream: OnceLock<Arc<BackendStream>>,
    is_over: AtomicBool,
    /// Whether the last reply has come later than anybody waits for it.
    is_stalled: AtomicBool,
    /// Whether somebody has asked since the thread looked last.
    pub(super) is_used: AtomicBool,
    /// How far it has come.
    pub(super) position: Position,
    /// When the newest command was sent.
    last_sent: AtomicU64,
    /// How often the backend's connections had been closed, and it had left `up`, when the tracker began.
    began_with: (u64, u64),
    fills: Mutex<HashMap<EntryKey, Arc<Fill>>>,
    /// How many wait for `as_of` to move.
    waiting: Mutex<usize>,
    moved: Condvar,
}

impl Tracker {
    pub(super) fn new(
        number: u64,
        member: Arc<Member>,
        database: i64,
        clock: Clock,
        max_silence: Duration,
        max_wait: Duration,
    ) -> Self {
        let began_with = breaks(&member);
        Self {
            number,
            member,
            database,
            clock,
            max_silence,
            max_wait,
            pipeline: Pipeline::new(),
            stream: OnceLock::new(),
            is_over: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
            is_used: AtomicBool::new(true),
            position: Position::new(),
            last_sent: AtomicU64::new(0),
            began_with,
            fills: Mutex::default(),
            waiting: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// Whether its entries may count at all, at this moment.
    pub fn may_serve(&self, now: u64) -> bool {
        self.position.is_recent(now, self.max_silence.as_nanos() as u64) && !self.is_doubtful()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Whether it has ended, or has to: its backend has left `up`, or its connections were closed.
    pub fn is_doubtful(&self) -> bool {
        self.is_over.load(Ordering::Acquire) || breaks(&self.member) != self.began_with
    }

    /// Takes note that a command is answered, which was sent then.
    pub fn answered(&self, sent_at: u64, is_check: bool) {
        self.position.answered(sent_at, is_check);
        // Whoever waits for a server that is slow or far away waits in vain.
        let took = self.clock.nanos(Instant::now()).saturating_sub(sent_at);
        self.is_stalled.store(took > self.max_wait.as_nanos() as u64, Ordering::Relaxed);
        if *lock(&self.waiting) > 0 {
            self.moved.notify_all();
        }
    }

    /// Waits a moment until a command is answered that was sent at `since` or later. Returns whether one is.
    pub fn wait_for(&self, since: u64) -> bool {
        if self.position.as_of() >= since {
            return true;
        }
        let last_sent = self.last_sent.load(Ordering::Acquire);
        let is_stalled = self.is_stalled.load(Ordering::Relaxed);
        // One is enough to find out whether a tracker that was slow still is.
        let is_needed =
            if is_stalled { last_sent <= self.position.as_of() } else { last_sent < since };
        if is_needed {
            self.send(Purpose::Sync, &command("PING").into_bytes());
        }
        if is_stalled {
            return false;
        }
        let deadline = Instant::now() + self.max_wait;
        let mut waiting = lock(&self.waiting);
        *waiting += 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_reached = self.position.as_of() >= since;
            if is_reached || left.is_zero() || self.is_over.load(Ordering::Acquire) {
                *waiting -= 1;
                drop(waiting);
                self.is_stalled.store(!is_reached, Ordering::Relaxed);
                return is_reached;
            }
            waiting = wait(&self.moved, waiting, left);
        }
    }

    /// Waits a moment for a fill.
    pub fn wait_for_fill(&self, fill: &Fill) -> Option<Arc<Entry>> {
        if self.is_stalled.load(Ordering::Relaxed) {
            return None;
        }
        fill.wait(self.max_wait).unwrap_or_else(|TimeIsUp| {
            self.is_stalled.store(true, Ordering::Relaxed);
            None
        })
    }

    /// Sends commands; returns false where that is not possible (any more).
    pub fn send(&self, purpose: Purpose, commands: &[u8]) -> bool {
        let at = match &purpose {
            Purpose::Fill(fill) => fill.sent_at,
            Purpose::Sync | Purpose::Check => self.clock.nanos(Instant::now()),
        };
        let Some(stream) = self.stream.get() else { return false };
        let pushed =
            self.pipeline.push(Sent { at, purpose }, commands, |bytes| write(stream, bytes));
        if let Ok(true) = pushed {
            self.last_sent.fetch_max(at, Ordering::AcqRel);
        }
        // The thread that reads finds the end, and tells all who wait.
        pushed.unwrap_or_else(|_| {
            stream.shutdown();
            true
        })
    }

    /// Sends a fill: `PTTL` of its key and the read.
    pub fn send_fill(&self, fill: &Arc<Fill>, read: &CachedRead) {
        let mut commands = command("PTTL").arg(read.key).into_bytes();
        let name = read.command.name();
        let head = format!("*{}\r\n${}\r\n{name}\r\n", read.arg_count, name.len());
        commands.extend_from_slice(head.as_bytes());
        commands.extend_from_slice(read.args);
        if !self.send(Purpose::Fill(Arc::clone(fill)), &commands) {
            self.forget_fill(fill);
            fill.finish(None);
        }
    }

    /// The fill of this name that is on its way, if its reply will be no older than `since`; else the new one,
    /// which the caller has to send. `None` where there are too many, or an older one is on its way.
    pub fn join_fill(&self, new: Fill, since: u64) -> Option<(Arc<Fill>, bool)> {
        let mut fills = lock(&self.fills);
        let is_full = fills.len() >= MAX_FILLS || self.is_over.load(Ordering::Acquire);
        match fills.entry(new.key.clone()) {
            Slot::Occupied(known) => {
                (known.get().sent_at >= since).then(|| (Arc::clone(known.get()), false))
            }
            Slot::Vacant(_) if is_full => None,
            Slot::Vacant(free) => Some((Arc::clone(free.insert(Arc::new(new))), true)),
        }
    }

    /// A fill is over.
    pub fn forget_fill(&self, fill: &Fill) {
        lock(&self.fills).remove(&fill.key);
    }

    /// It is over: nobody waits any longer.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.pipeline.close();
        if let Some(stream) = self.stream.get() {
            stream.shutdown();
        }
        let fills = std::mem::take(&mut *lock(&self.fills));
        fills.into_values().for_each(|fill| fill.finish(None));
        let _waiting = lock(&self.waiting);
        self.moved.notify_all();
    }
}

/// How often the backend's connections were closed, and it has left `up`.
fn breaks(member: &Member) -> (u64, u64) {
    (member.times_closed(), member.health.times_left_up())
}

/// Writes all of it.
pub fn write(stream: &BackendStream, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    (&*stream).write_all(bytes)
}
