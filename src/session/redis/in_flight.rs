//! The usual way of a client's commands: sent on a shared connection, whose thread gives the replies
//! to the client, while this session waits for the next commands.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, PlainBatch};
use crate::backend::reply_router::{Progress, Replies, Sink};
use crate::backend::shared::{ClientReplyRouter, Entry, SharedConnection, SharedFailure};
use crate::backend::{BackendId, Mode};
use crate::health::Member;
use crate::net::protocol::WireProtocol;
use crate::session::{ClientSocket, TICK};

/// Commands that are under way with each other are at most so many, …
const MAX_COMMANDS: usize = 1024;
/// … and of so many bytes.
const MAX_BYTES: usize = 64 * 1024;

/// A longer reply may be more than the client's socket takes at once: the session's next commands
/// go on connections of its own, …
const LONG_REPLY_BYTES: usize = 16 * 1024;
/// … so many of them.
const COMMANDS_BEHIND_A_LONG_REPLY: usize = 1024;

impl Sink for ClientSocket {
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.send_now(bytes)
    }
}

/// Commands that were answered late.
pub struct Late {
    /// How long it took until the slowest reply began.
    pub time: Duration,
    /// The backend.
    pub backend: Arc<Member>,
    /// When the first was sent.
    pub sent_at: Instant,
    /// The commands.
    pub batch: Batch,
}

/// The commands of one session that are under way on a shared connection.
pub struct InFlight {
    /// Replies that take so long to begin are late.
    late_after: Duration,
    /// The last commands that were answered late, until somebody looks at them.
    late: Option<Box<Late>>,
    /// Made for the first.
    router: Option<Arc<ClientReplyRouter>>,
    /// The connection of the last, and its backend.
    connection: Option<(Arc<Member>, Arc<SharedConnection>)>,
    /// When the first of those that are under way was sent; `None` while none is, for sure.
    since: Option<Instant>,
    /// What was sent and may have to be sent again.
    batch: Batch,
    /// Errors among the replies that have been given to the client.
    pub errors: u64,
    /// So many commands are better off on a connection of the session's own.
    own: usize,
}

impl InFlight {
    /// Nothing is under way. What is answered only after `late_after` is kept to be looked at.
    pub fn new(late_after: Duration) -> Self {
        Self {
            late_after,
            late: None,
            router: None,
            connection: None,
            since: None,
            batch: Batch::default(),
            errors: 0,
            own: 0,
        }
    }

    /// The last commands that were answered late.
    pub fn take_late(&mut self) -> Option<Late> {
        self.late.take().map(|late| *late)
    }

    /// Whether some commands may be under way.
    pub fn is_begun(&self) -> bool {
        self.since.is_some()
    }

    /// The backend and the connection on which they are.
    pub fn connection(&self) -> Option<&(Arc<Member>, Arc<SharedConnection>)> {
        self.connection.as_ref()
    }

    /// Since when they are under way.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether the session's next commands should go on a shared connection.
    pub fn is_wanted(&mut self, batch: &Batch) -> bool {
        self.own = self.own.saturating_sub(batch.len());
        self.own == 0 && batch.is_plain() && batch.bytes() <= MAX_BYTES
    }

    /// Whether a batch can be sent after those that are under way, to this backend. Those that are
    /// under way with each other were judged by the same commands.
    pub fn has_room(&self, batch: &Batch, backend: BackendId, mode: Mode) -> bool {
        let is_same = self
            .connection
            .as_ref()
            .is_some_and(|(its, shared)| its.id == backend && shared.mode == mode);
        let is_judged_alike = self.batch.is_empty() || self.batch.version() == batch.version();
        let commands = self.batch.len() + batch.len();
        is_same
            && is_judged_alike
            && commands <= MAX_COMMANDS
            && self.batch.bytes() + batch.bytes() <= MAX_BYTES
    }

    /// The next commands go by another connection. Those that are under way on this one are answered
    /// there.
    pub fn forget_connection(&mut self) {
        if !self.is_begun() {
            self.connection = None;
        }
    }

    /// The next commands go there; none may be under way elsewhere.
    pub fn set_connection(&mut self, backend: Arc<Member>, shared: Arc<SharedConnection>) {
        self.connection = Some((backend, shared));
    }

    /// Sends a batch after those that are under way, and takes it over; false, and it is as it was,
    /// when that is not possible here.
    pub fn send(&mut self, batch: PlainBatch, client: &Arc<ClientSocket>) -> bool {
        let Some((_, shared)) = &self.connection else { return false };
        let sink = || Arc::new(ClientReplyRouter::new(Arc::clone(client) as Arc<dyn Sink>));
        let router = Arc::clone(self.router.get_or_insert_with(sink));
        let Some((ticket, done)) = router.expect(batch.len()) else { return false };
        let began = Instant::now();
        let entry = Entry {
            router: Arc::clone(&router),
            protocol: WireProtocol::Resp,
            ticket,
            commands: batch.len(),
            began,
        };
        let is_sent = shared.send(entry, batch.commands());
        if !is_sent {
            router.withdraw(batch.len());
        }
        if let Some(replies) = done {
            self.finish(replies);
        }
        if is_sent {
            self.since.get_or_insert(began);
            batch.move_to(&mut self.batch);
        } else if self.since.is_none() {
            // It is of no use any more: the next batch goes by another.
            self.connection = None;
        }
        is_sent
    }

    /// How far they have come.
    pub fn progress(&mut self) -> Progress {
        let progress = self.router.as_ref().map_or(Progress::Done, |router| router.progress());
        self.note(progress)
    }

    /// The same, once that has changed or a moment is over.
    pub fn wait(&mut self) -> Progress {
        let progress = self.router.as_ref().map_or(Progress::Done, |router| router.wait(TICK));
        self.note(progress)
    }

    fn note(&mut self, progress: Progress) -> Progress {
        if progress == Progress::Done && self.since.is_some() {
            _ = self.take_back();
        }
        progress
    }

    /// Takes back what is not answered: commands to be sent elsewhere, behind what the client is
    /// still to be given.
    pub fn take_back(&mut self) -> TakenBack {
        let Some(router) = &self.router else { return TakenBack::default() };
        let (mut replies, failure) = router.take_back();
        let unsent = std::mem::take(&mut replies.unsent);
        if matches!(failure, Some(SharedFailure::LongReply)) {
            self.own = COMMANDS_BEHIND_A_LONG_REPLY;
        }
        self.batch.skip(replies.answered);
        let mut batch = Batch::default();
        if !self.batch.is_done() {
            std::mem::swap(&mut batch, &mut self.batch);
        }
        self.finish(replies);
        TakenBack { unsent, failure, batch }
    }

    fn finish(&mut self, replies: Replies) {
        self.errors += replies.errors;
        if replies.longest > LONG_REPLY_BYTES {
            self.own = COMMANDS_BEHIND_A_LONG_REPLY;
        }
        if replies.slowest >= self.late_after
            && let (Some((backend, _)), Some(sent_at)) = (&self.connection, self.since)
        {
            let mut batch = std::mem::take(&mut self.batch);
            batch.restart();
            let (time, backend) = (replies.slowest, Arc::clone(backend));
            self.late = Some(Box::new(Late { time, backend, sent_at, batch }));
        }
        self.batch.clear();
        self.since = None;
    }
}

/// What was under way and is not answered.
#[derive(Default)]
pub struct TakenBack {
    /// The end of the replies that came, which the client has not got.
    pub unsent: Vec<u8>,
    /// Why the rest is not answered; `None` where the client's thread wanted it back.
    pub failure: Option<SharedFailure>,
    /// The rest.
    pub batch: Batch,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(router) = &self.router {
            router.close();
        }
    }
}
