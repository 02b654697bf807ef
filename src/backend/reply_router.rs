//! Replies on their way from a shared connection to one client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, lock, wait};

/// What a client's socket does not take at once is kept, up to so many bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Where a client's replies go.
pub trait Sink: Send + Sync {
    /// Takes what it can without waiting; returns how many bytes that is.
    ///
    /// # Errors
    /// When nothing can be given to the client any more.
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The replies to one client's commands that are under way on shared connections: the thread that
/// reads such a connection gives them to the client here, without waking the client's own thread.
///
/// The client's thread may take its commands back at any time. What comes later to those is of an
/// older ticket, and goes nowhere: so each command is answered once, by one of the two threads.
pub struct ReplyRouter<W> {
    state: Mutex<RouterState<W>>,
    changed: Condvar,
}

struct RouterState<W> {
    /// `None` once the client is gone.
    sink: Option<Arc<dyn Sink>>,
    /// Commands of another ticket were taken back.
    ticket: u64,
    /// How many commands of this ticket were sent since all were answered, …
    sent: usize,
    /// … and what has come of them.
    replies: Replies<W>,
    /// Whether the client has left so much that what comes for this ticket is not for it any more.
    is_over: bool,
    /// Whether the client's thread waits here.
    is_awaited: bool,
}

/// What has come of the commands that were sent.
pub struct Replies<W> {
    /// So many of them, from the first on, are answered.
    pub answered: usize,
    /// So many of those with an error.
    pub errors: u64,
    /// The longest reply, or what came of it, in bytes.
    pub longest: usize,
    /// How long the slowest took to begin.
    pub slowest: Duration,
    /// The end of the replies, which the client's socket did not take.
    pub unsent: Vec<u8>,
    /// Why the others won't be answered here.
    pub failure: Option<W>,
}

/// How far the commands that were sent have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All are answered, and the client has the replies.
    Done,
    /// Some are not answered yet.
    UnderWay,
    /// The client's thread has to see to the rest: some won't be answered here, or the client does
    /// not take its replies.
    Stopped,
}

impl<W> Default for Replies<W> {
    fn default() -> Self {
        Self {
            answered: 0,
            errors: 0,
            longest: 0,
            slowest: Duration::ZERO,
            unsent: Vec::new(),
            failure: None,
        }
    }
}

impl<W> RouterState<W> {
    fn progress(&self) -> Progress {
        if self.replies.failure.is_some() || !self.replies.unsent.is_empty() {
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
            // What is wrong the client's thread will find out.
            Some(sink) if unsent.is_empty() => sink.send_now(replies).unwrap_or(0),
            _ => 0,
        };
        unsent.extend_from_slice(&replies[sent..]);
    }
}

impl<W> ReplyRouter<W> {
    /// For a client that has sent nothing yet.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        let state = RouterState {
            sink: Some(sink),
            ticket: 0,
            sent: 0,
            replies: Replies::default(),
            is_over: false,
            is_awaited: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// So many commands are about to be sent; returns their ticket, and what has come of those
    /// before if all of them are done. `None` when the client's thread has to see to those first.
    pub fn expect(&self, commands: usize) -> Option<(u64, Option<Replies<W>>)> {
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

    /// The commands that were announced last were not sent.
    pub fn withdraw(&self, commands: usize) {
        lock(&self.state).sent -= commands;
    }

    /// Gives the client the replies to its next `commands`; `errors` of them are errors, and the
    /// longest is of so many bytes. `count` is called before the client can have them. Returns how far
    /// its commands have come then.
    pub fn deliver(
        &self,
        ticket: u64,
        replies: &[u8],
        news: &Replies<W>,
        count: impl FnOnce(),
    ) -> Progress {
        let mut state = lock(&self.state);
        if state.ticket != ticket || state.is_over || state.replies.failure.is_some() {
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
        state.replies.longest = state.replies.longest.max(news.longest);
        state.replies.slowest = state.replies.slowest.max(news.slowest);
        self.tell(&state);
        state.progress()
    }

    /// The commands of this ticket that are not answered yet won't be.
    ///
    /// # Errors
    /// Returns the failure where nobody waits for these commands any more.
    pub fn fail(&self, ticket: u64, failure: W) -> Result<(), W> {
        let mut state = lock(&self.state);
        if state.ticket != ticket || state.replies.failure.is_some() {
            return Err(failure);
        }
        state.replies.failure = Some(failure);
        self.tell(&state);
        Ok(())
    }

    fn tell(&self, state: &RouterState<W>) {
        if state.is_awaited && state.progress() != Progress::UnderWay {
            self.changed.notify_one();
        }
    }

    /// How far the commands that were sent have come.
    pub fn progress(&self) -> Progress {
        lock(&self.state).progress()
    }

    /// The same, and waits up to `time` for some of them to be other than under way.
    pub fn wait(&self, time: Duration) -> Progress {
        let mut state = lock(&self.state);
        if state.progress() == Progress::UnderWay {
            state.is_awaited = true;
            state = wait(&self.changed, state, time);
            state.is_awaited = false;
        }
        state.progress()
    }

    /// Takes back what is not answered; returns what has come of the rest. From now on nobody but
    /// the caller gives the client anything.
    pub fn take_back(&self) -> Replies<W> {
        let mut state = lock(&self.state);
        state.ticket += 1;
        state.sent = 0;
        state.is_over = false;
        std::mem::take(&mut state.replies)
    }

    /// The client is gone: what comes goes nowhere.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.ticket += 1;
        state.sink = None;
    }
}
