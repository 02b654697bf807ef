//! One client that has subscribed, as several threads see it.
//!
//! While the session's thread waits for its client, the subscriber is *resting*: the thread that reads the backend's
//! connection gives messages to the client's socket itself, without waking the session's thread. As soon as the client
//! asks for something, the session's thread ends the rest: then it alone writes, and messages wait in the queue until it
//! has taken them. So no frame is torn, and replies and messages come in the order in which they were made.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::message::Message;
use super::queue::{MessageQueue, PLACE_BYTES};
use super::subscribers::{Kept, Subscribers};
use crate::logging::throttle::Throttle;
use crate::net::client_stream::ClientStream;
use crate::resp::Protocol;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// Bytes in the queue of a session at work from which on it counts as behind. Most sessions take less at a time.
const BEHIND_BYTES: usize = 64 * 1024;

static CUT_OFF: Throttle = Throttle::every(Duration::from_secs(1));

/// The client of a subscriber.
pub trait Recipient: Send + Sync {
    /// Its connection.
    fn stream(&self) -> &ClientStream;
    /// Its address.
    fn address(&self) -> SocketAddr;
    /// Ends the connection, because it does not take its messages.
    fn cut_off(&self);
}

/// One client that has subscribed.
pub struct Subscriber {
    /// Its number, by which lists are in order.
    pub id: u64,
    client: Arc<dyn Recipient>,
    pub(super) subscribers: Arc<Subscribers>,
    client_timeout: Duration,
    state: Mutex<State>,
    answered: Condvar,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    protocol: Protocol,
    queue: MessageQueue,
    /// Whether messages are given to the client's socket at once.
    is_resting: bool,
    /// Whether a thread that has put messages into the queue will give them to the socket.
    is_due: bool,
    /// Whether it is on the list of those who are behind.
    is_listed: bool,
    /// Whether it gets no more messages.
    is_over: bool,
    /// The memory for its places in the queue, while it is on the list.
    places: Kept,
    answer: Option<Answer>,
}

/// What has become of a request to subscribe.
#[derive(Debug)]
pub enum Answer {
    /// It is confirmed, and the confirmation is in the queue.
    Confirmed,
    /// The server has refused it with this reply.
    Refused(Vec<u8>),
    /// The connection has ended, for this reason.
    Ended(Arc<str>),
}

impl Subscriber {
    /// One that gets its messages in this protocol, and is not resting. It is cut off if it takes nothing for
    /// `client_timeout`.
    pub fn new(
        id: u64,
        client: Arc<dyn Recipient>,
        subscribers: &Arc<Subscribers>,
        client_timeout: Duration,
        protocol: Protocol,
    ) -> Arc<Self> {
        let state = State {
            protocol,
            queue: MessageQueue::new(Instant::now()),
            is_resting: false,
            is_due: false,
            is_listed: false,
            is_over: false,
            places: Kept::new(subscribers, 0),
            answer: None,
        };
        Arc::new(Self {
            id,
            client,
            subscribers: Arc::clone(subscribers),
            client_timeout,
            state: Mutex::new(state),
            answered: Condvar::new(),
        })
    }

    /// Puts a message into the queue, in the form for its protocol. Returns whether the caller has to
    /// [`send`](Self::send) it.
    pub(super) fn push(
        self: &Arc<Self>,
        now: Instant,
        message: impl FnOnce(Protocol) -> Arc<Message>,
    ) -> bool {
        let mut state = lock(&self.state);
        if state.is_over {
            return false;
        }
        let message = message(state.protocol);
        state.queue.push(message, now);
        let is_first = state.is_resting && !std::mem::replace(&mut state.is_due, true);
        self.tend(&mut state, now);
        is_first
    }

    /// Gives the client what its socket takes at once, by way of `piece`.
    pub(super) fn send(self: &Arc<Self>, piece: &mut Vec<u8>, now: Instant) {
        let mut state = lock(&self.state);
        state.is_due = false;
        self.send_from(&mut state, piece, now);
        self.tend(&mut state, now);
    }

    fn send_from(&self, state: &mut State, piece: &mut Vec<u8>, now: Instant) {
        let stream = self.client.stream();
        let may_send = state.is_resting && !state.is_over;
        if may_send && state.queue.send(piece, now, |bytes| stream.send_now(bytes)).is_err() {
            // The session's thread finds the end of the connection.
            state.end();
        }
    }

    /// Cuts a subscriber off that has left too much, and puts one that is behind on the list.
    fn tend(self: &Arc<Self>, state: &mut State, now: Instant) {
        if let Some(why) = state.queue.reason_to_cut_off(self.client_timeout, now) {
            self.cut_off_in(state, why);
        }
        let is_behind = match state.is_resting {
            true => !state.queue.is_empty() && !state.is_due,
            false => state.queue.bytes() > BEHIND_BYTES,
        };
        if is_behind && !state.is_over && !state.is_listed {
            state.is_listed = true;
            self.subscribers.add_slow(Arc::clone(self));
        }
        state.count_places();
    }

    /// Gives a subscriber on the list what it takes, if its socket has room; returns false when it is not behind any
    /// more.
    pub(super) fn is_still_behind(
        self: &Arc<Self>,
        has_room: bool,
        piece: &mut Vec<u8>,
        now: Instant,
    ) -> bool {
        let mut state = lock(&self.state);
        if has_room {
            self.send_from(&mut state, piece, now);
        }
        self.tend(&mut state, now);
        state.is_listed = !state.is_over && !state.queue.is_empty();
        state.count_places();
        state.is_listed
    }

    /// The client's connection while it is to be waited for; `None` while the session's thread writes.
    pub(super) fn stream(&self) -> Option<&ClientStream> {
        lock(&self.state).is_resting.then(|| self.client.stream())
    }

    /// Cuts it off for this reason.
    pub(super) fn cut_off(&self, why: &str) {
        self.cut_off_in(&mut lock(&self.state), why);
    }

    fn cut_off_in(&self, state: &mut State, why: &str) {
        if state.is_over {
            return;
        }
        state.end();
        self.client.cut_off();
        if let Some(more) = CUT_OFF.pass(Instant::now()) {
            warn!("closed the subscriber {}: {why}{more}", self.client.address());
        }
    }

    /// Tells the session's thread what has become of its request.
    pub(super) fn answer(&self, answer: Answer) {
        lock(&self.state).answer = Some(answer);
        self.answered.notify_one();
    }

    /// Waits for the answer, for `time` at most.
    pub(super) fn wait_for_answer(&self, time: Duration) -> Option<Answer> {
        let mut state = lock(&self.state);
        if state.answer.is_none() {
            state = wait(&self.answered, state, time);
        }
        state.answer.take()
    }

    /// Leaves the socket to the threads that bring messages. Returns false, and does not, while there are messages that
    /// the session's thread has to take first.
    pub fn rest(&self) -> bool {
        let mut state = lock(&self.state);
        state.is_resting = state.queue.is_empty();
        state.is_resting
    }

    /// Ends the rest: from now on the session's thread alone writes, first what is in the queue.
    pub fn end_rest(&self) {
        lock(&self.state).is_resting = false;
    }

    /// How many bytes are in the queue.
    pub fn queued_bytes(&self) -> usize {
        lock(&self.state).queue.bytes()
    }

    /// Moves the first `max` bytes of the queue, at most, to the end of `out`; returns how many.
    pub fn take(&self, out: &mut Vec<u8>, max: usize) -> usize {
        let mut state = lock(&self.state);
        let taken = state.queue.take(out, max, Instant::now());
        state.count_places();
        taken
    }

    /// Gets messages in this protocol from now on. Those in the queue, which are in the other one, go to the end of
    /// `out`.
    pub fn switch_protocol(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let mut state: MutexGuard<State> = lock(&self.state);
        state.queue.take(out, usize::MAX, Instant::now());
        state.count_places();
        state.protocol = protocol;
    }

    /// It gets no more messages.
    pub fn close(&self) {
        lock(&self.state).end();
    }
}

impl State {
    fn end(&mut self) {
        self.is_over = true;
        self.queue.clear();
        self.count_places();
    }

    fn count_places(&mut self) {
        let places = if self.is_listed { self.queue.len() * PLACE_BYTES } else { 0 };
        self.places.set(places);
    }
}
