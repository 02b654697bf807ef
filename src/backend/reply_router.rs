//! Gives one client the replies that come for it on a shared connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, lock, wait};

/// Most bytes of replies that are kept for a client whose socket does not take them at once.
const MAX_BYTES: usize = 256 * 1024;

/// Receiver of one client's replies.
pub trait Sink: Send + Sync {
    /// Takes bytes without waiting; returns how many it has taken.
    ///
    /// # Errors
    /// When nothing can be given to the client any more.
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The replies to one client's commands that are under way on a shared connection. The thread that reads
/// the connection gives them to the client here, without waking the client's own thread.
///
/// Each command is answered once, by one of these two threads. A ticket decides: every command is sent
/// with the router's ticket of that moment, and the client's thread may take its unanswered commands back at
/// any time, which gives the router the next ticket. A reply that comes for an older ticket goes nowhere.
/// So the client's thread may ask another server as soon as it has taken the commands back.
pub struct ReplyRouter<F> {
    state: Mutex<RouterState<F>>,
    changed: Condvar,
}

struct RouterState<F> {
    /// `None` once the client is gone.
    sink: Option<Arc<dyn Sink>>,
    /// Counts how often commands were taken back.
    ticket: u64,
    /// Number of commands of this ticket that were sent since all were answered.
    sent: usize,
    /// The replies to these.
    replies: Replies,
    /// Reason why the rest won't be answered here.
    failure: Option<F>,
    /// Whether the client has left so many bytes that it gets no more replies of this ticket.
    is_over: bool,
    /// Whether the client's thread waits here.
    is_awaited: bool,
}

/// Summary of the replies to the commands that were sent.
#[derive(Default)]
pub struct Replies {
    /// Number of commands, from the first on, that are answered.
    pub answered: usize,
    /// Number of replies that are errors.
    pub errors: u64,
    /// Length of all replies, in bytes.
    pub bytes: u64,
    /// Length of the longest reply, in bytes.
    pub longest: usize,
    /// Longest time until a reply began.
    pub slowest: Duration,
    /// The end of the replies, which the client's socket did not take.
    pub unsent: Vec<u8>,
}

/// State of the commands that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All are answered, and the client has the replies.
    Done,
    /// Some are not answered yet.
    UnderWay,
    /// The client's thread has to go on: some commands won't be answered here, or the client does not
    /// take its replies.
    Stopped,
}

impl<F> RouterState<F> {
    fn progress(&self) -> Progress {
        if self.failure.is_some() || !self.replies.unsent.is_empty() {
            Progress::Stopped
        } else if self.replies.answered < self.sent {
            Progress::UnderWay
        } else {
            Progress::Done
        }
    }

    /// Gives the client what it takes at once, and keeps the rest.
    fn give(&mut self, replies: &[u8]) {
        let unsent = &mut self.replies.unsent;
        let sent = match &self.sink {
            // The client's thread finds the error when it sends the rest.
            Some(sink) if unsent.is_empty() => sink.send_now(replies).unwrap_or(0),
            _ => 0,
        };
        unsent.extend_from_slice(&replies[sent..]);
    }
}

impl<F> ReplyRouter<F> {
    /// Returns the router of a client that has sent nothing yet.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        let state = RouterState {
            sink: Some(sink),
            ticket: 0,
            sent: 0,
            replies: Replies::default(),
            failure: None,
            is_over: false,
            is_awaited: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Announces commands that are about to be sent. Returns their ticket, and the replies to the commands
    /// before them if these are done; `None` when the client's thread has to go on with these first.
    pub fn expect(&self, commands: usize) -> Option<(u64, Option<Replies>)> {
        let mut state = lock(&self.state);
        let done = match state.progress() {
            Progress::Stopped => return None,
            Progress::UnderWay => None,
            Progress::Done => {
                state.sent = 0;
                Some(std::mem::take(&mut state.replies))
            }
        };
        state.sent += commands;
        Some((state.ticket, done))
    }

    /// Takes note that the commands that were announced last were not sent.
    pub fn withdraw(&self, commands: usize) {
        lock(&self.state).sent -= commands;
    }

    /// Gives the client its next replies, which `news` sums up. Calls `count` before the client can have
    /// them. Returns the state of its commands after that.
    pub fn deliver(
        &self,
        ticket: u64,
        replies: &[u8],
        news: &Replies,
        count: impl FnOnce(),
    ) -> Progress {
        let mut state = lock(&self.state);
        if state.ticket != ticket || state.is_over || state.failure.is_some() {
            return state.progress();
        }
        if state.replies.unsent.len() + replies.len() > MAX_BYTES {
            state.is_over = true;
            return state.progress();
        }
        count();
        state.give(replies);
        state.replies.answered += news.answered;
        state.replies.errors += news.errors;
        state.replies.bytes += replies.len() as u64;
        state.replies.longest = state.replies.longest.max(news.longest);
        state.replies.slowest = state.replies.slowest.max(news.slowest);
        self.tell(&state);
        state.progress()
    }

    /// Takes note that the unanswered commands of this ticket won't be answered here.
    ///
    /// # Errors
    /// Returns the failure if the client has taken these commands back.
    pub fn fail(&self, ticket: u64, failure: F) -> Result<(), F> {
        let mut state = lock(&self.state);
        if state.ticket != ticket || state.failure.is_some() {
            return Err(failure);
        }
        state.failure = Some(failure);
        self.tell(&state);
        Ok(())
    }

    fn tell(&self, state: &RouterState<F>) {
        if state.is_awaited && state.progress() != Progress::UnderWay {
            self.changed.notify_one();
        }
    }

    /// Returns the state of the commands that were sent.
    pub fn progress(&self) -> Progress {
        lock(&self.state).progress()
    }

    /// Returns whether the client still waits here for the commands of this ticket.
    pub fn is_waiting(&self, ticket: u64) -> bool {
        let state = lock(&self.state);
        state.ticket == ticket && state.failure.is_none() && !state.is_over
    }

    /// Waits up to `time` while commands are under way; returns their state.
    pub fn wait(&self, time: Duration) -> Progress {
        let mut state = lock(&self.state);
        if state.progress() == Progress::UnderWay {
            state.is_awaited = true;
            state = wait(&self.changed, state, time);
            state.is_awaited = false;
        }
        state.progress()
    }

    /// Takes back the commands that are not answered. Returns the replies to the others, and the reason why
    /// the rest won't be answered here. From now on only the caller gives the client anything.
    pub fn take_back(&self) -> (Replies, Option<F>) {
        let mut state = lock(&self.state);
        state.ticket += 1;
        state.sent = 0;
        state.is_over = false;
        (std::mem::take(&mut state.replies), state.failure.take())
    }

    /// Takes note that the client is gone: replies go nowhere from now on.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.ticket += 1;
        state.sink = None;
    }
}
