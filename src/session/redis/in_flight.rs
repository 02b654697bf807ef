//! Commands in flight on a shared connection.
//!
//! This is the usual way of short reads. The session appends them to a shared connection and goes on to
//! wait for its client's next bytes; the thread that reads the connection gives the replies to the client.
//!
//! Each command is answered once, though two threads could do it. The session's [`ReplyRouter`] gives each
//! batch a ticket, and a reply reaches the client only under the router's lock and with the ticket of that
//! moment. When the session has to send the commands elsewhere (the backend is silent, the connection broke,
//! a reply is long), it takes them back: under the same lock it learns how many are answered, and the ticket
//! changes. From then on the rest is the session's alone, and a reply that still comes for it goes nowhere.
//!
//! [`ReplyRouter`]: crate::backend::reply_router::ReplyRouter

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, PlainBatch};
use crate::backend::reply_router::{Progress, Replies, Sink};
use crate::backend::shared::{ClientReplyRouter, Entry, SharedConnection, SharedFailure};
use crate::backend::{BackendId, Mode};
use crate::health::Member;
use crate::net::protocol::WireProtocol;
use crate::session::client::{Client, ClientSocket, TICK};

/// Number of commands that one session may have in flight.
const MAX_COMMANDS: usize = 1024;

/// Length of the commands that one session may have in flight.
const MAX_BYTES: usize = 64 * 1024;

/// A longer reply may be more than the client's socket takes at once.
const LONG_REPLY_BYTES: usize = 16 * 1024;

/// Number of commands after a long reply that go on connections of the session's own.
const COMMANDS_AFTER_LONG_REPLY: usize = 1024;

impl Sink for ClientSocket {
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.send_now(bytes)
    }
}

/// Commands that were answered late.
pub struct Late {
    /// Time until the slowest reply began.
    pub time: Duration,
    /// The backend.
    pub backend: Arc<Member>,
    /// When the first was sent.
    pub sent_at: Instant,
    /// The commands.
    pub batch: Batch,
}

/// The commands of one session that are in flight on a shared connection.
pub struct InFlight {
    /// Replies that take so long to begin are late.
    late_after: Duration,
    /// The last commands that were answered late, until the session looks at them.
    pub late: Option<Box<Late>>,
    /// Router of the replies, made for the first commands.
    router: Option<Arc<ClientReplyRouter>>,
    /// The connection of the last, and its backend.
    pub connection: Option<(Arc<Member>, Arc<SharedConnection>)>,
    /// When the first command in flight was sent; `None` while certainly none is.
    pub since: Option<Instant>,
    /// Commands that were sent and may have to be sent again.
    batch: Batch,
    /// Errors among the replies that have been given to the client.
    pub errors: u64,
    /// Length of these replies, in bytes.
    pub bytes: u64,
    /// Number of the next commands that go on connections of the session's own.
    elsewhere: usize,
}

impl InFlight {
    /// Makes one with nothing in flight. Commands that take `late_after` to be answered are kept for
    /// [`late`](Self::late).
    pub fn new(late_after: Duration) -> Self {
        Self {
            late_after,
            late: None,
            router: None,
            connection: None,
            since: None,
            batch: Batch::default(),
            errors: 0,
            bytes: 0,
            elsewhere: 0,
        }
    }

    /// Whether replies may be on their way that the session's thread knows nothing of.
    pub fn is_under_way(&mut self) -> bool {
        self.since.is_some() && self.progress() != Progress::Done
    }

    /// Why what is in flight is not waited for any longer, if so.
    pub fn reason_to_leave(&self) -> Option<SharedFailure> {
        let (backend, shared) = self.connection.as_ref()?;
        backend.leave_shared(shared, self.router.as_ref()?, self.since?)
    }

    /// Whether the session's next commands should go on a shared connection.
    pub fn is_wanted(&mut self, batch: &Batch) -> bool {
        self.elsewhere = self.elsewhere.saturating_sub(batch.len());
        self.elsewhere == 0 && batch.is_plain() && batch.bytes() <= MAX_BYTES
    }

    /// Whether a batch can be sent after what is in flight, to this backend. All that is in flight
    /// together was judged by one version of the backends' commands.
    pub fn has_room(&self, batch: &Batch, backend: BackendId, mode: Mode) -> bool {
        let Some((its, shared)) = &self.connection else { return false };
        let is_same = its.id == backend && shared.mode == mode;
        let is_judged_alike = self.batch.is_empty() || self.batch.version == batch.version;
        let has_room = self.batch.len() + batch.len() <= MAX_COMMANDS
            && self.batch.bytes() + batch.bytes() <= MAX_BYTES;
        is_same && is_judged_alike && has_room
    }

    /// How much memory the commands take.
    pub fn held_bytes(&self) -> usize {
        self.batch.held_bytes() + self.late.as_ref().map_or(0, |late| late.batch.held_bytes())
    }

    /// Forgets the connection, unless commands are in flight on it.
    pub fn forget_connection(&mut self) {
        if self.since.is_none() {
            self.connection = None;
        }
    }

    /// Sends a batch after what is in flight, and takes it over. Where that is not possible, the batch
    /// stays as it is, and the result is false.
    pub fn send(&mut self, batch: PlainBatch, client: &Client) -> bool {
        let Some((_, shared)) = &self.connection else { return false };
        let sink = || Arc::new(ClientReplyRouter::new(Arc::clone(client.socket) as Arc<dyn Sink>));
        let router = Arc::clone(self.router.get_or_insert_with(sink));
        let Some((ticket, done)) = router.expect(batch.len()) else { return false };
        let began = Instant::now();
        let entry = Entry {
            router: Arc::clone(&router),
            protocol: WireProtocol::Resp,
            ticket,
            commands: batch.len(),
            sent: batch.sent_commands(),
            began,
            received: shared.received(),
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
        } else {
            // The connection has ended: the next batch goes by another.
            self.forget_connection();
        }
        is_sent
    }

    /// Progress of what is in flight.
    pub fn progress(&mut self) -> Progress {
        self.look(|router| router.progress())
    }

    /// Progress of what is in flight, once it has changed or a tick is over.
    pub fn wait(&mut self) -> Progress {
        self.look(|router| router.wait(TICK))
    }

    fn look(&mut self, ask: impl Fn(&ClientReplyRouter) -> Progress) -> Progress {
        let progress = self.router.as_deref().map_or(Progress::Done, ask);
        if progress == Progress::Done && self.since.is_some() {
            _ = self.take_back();
        }
        progress
    }

    /// Takes back what is not answered, to be sent elsewhere.
    pub fn take_back(&mut self) -> TakenBack {
        let Some(router) = &self.router else { return TakenBack::default() };
        let (mut replies, failure) = router.take_back();
        let unsent = std::mem::take(&mut replies.unsent);
        if matches!(failure, Some(SharedFailure::LongReply)) {
            self.elsewhere = COMMANDS_AFTER_LONG_REPLY;
        }
        self.batch.skip(replies.answered);
        let mut batch = match self.batch.is_done() {
            true => Batch::default(),
            false => std::mem::take(&mut self.batch),
        };
        if matches!(failure, Some(SharedFailure::LongReply)) {
            batch.grow_window(true);
        }
        self.finish(replies);
        TakenBack { unsent, failure, batch }
    }

    fn finish(&mut self, replies: Replies) {
        self.errors += replies.errors;
        self.bytes += replies.bytes;
        if replies.longest > LONG_REPLY_BYTES {
            self.elsewhere = COMMANDS_AFTER_LONG_REPLY;
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

/// Commands that were in flight and are not answered.
#[derive(Default)]
pub struct TakenBack {
    /// End of the replies that came, which the client's socket did not take: it is to be sent first.
    pub unsent: Vec<u8>,
    /// Reason of the connection for which the rest is not answered; `None` where the session gave up.
    pub failure: Option<SharedFailure>,
    /// The rest of the commands.
    pub batch: Batch,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(router) = &self.router {
            router.close();
        }
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
