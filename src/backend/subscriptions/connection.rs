//! One connection to a backend that carries the subscriptions of all its subscribers.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::message::Message;
use super::routes::Routes;
use super::subscriber::{Answer, Subscriber};
use super::subscribers::Subscribers;
use super::wake_pipe::WakePipe;
use crate::backend::pipeline::Pipeline;
use crate::net::backend_stream::BackendStream;
use crate::policy::Subscription;
use crate::resp::{CommandBuilder, command};
use crate::sync::{Mutex, lock};

/// The kinds of subscriptions, in the order of their numbers.
pub const KINDS: [Subscription; 3] =
    [Subscription::Channel, Subscription::Pattern, Subscription::Shard];

/// Commands that subscribe, by the kind of the subscription.
const SUBSCRIBE: [&str; 3] = ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"];

/// Commands that end subscriptions, by the kind of the subscription.
const UNSUBSCRIBE: [&str; 3] = ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"];

/// Names of one kind.
pub type NamesOfKind = (Subscription, Vec<Arc<[u8]>>);

/// A wish of one client to subscribe.
#[derive(Debug)]
pub struct Order {
    /// The client.
    pub subscriber: Arc<Subscriber>,
    /// The names, of which each part is a command of its own to the server.
    pub parts: Vec<NamesOfKind>,
    /// The confirmations for the client, which it gets once the server has confirmed all.
    pub confirmations: Vec<u8>,
}

/// An order that a server was asked for.
#[derive(Debug)]
pub(super) struct Request {
    order: Arc<Order>,
    /// The server's reply to a part that it has refused.
    refusal: OnceLock<Vec<u8>>,
    /// Whether it is answered, or taken back. It changes with the routes locked.
    is_over: AtomicBool,
}

/// A command that was sent, or is to be.
#[derive(Debug)]
pub(super) enum Sent {
    /// A part of a request.
    Subscribe {
        /// The request.
        request: Arc<Request>,
        /// The kind of the part.
        kind: Subscription,
        /// Number of confirmations.
        count: usize,
        /// Whether it is the last part.
        is_last: bool,
    },
    /// The end of subscriptions that nobody wants any more.
    Unsubscribe {
        /// Their kind.
        kind: Subscription,
        /// Number of confirmations.
        count: usize,
    },
    /// `PING`
    Ping,
}

/// Reason why an order was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The connection has ended.
    Over,
    /// Too much waits to be sent already.
    Full,
}

/// A connection that carries the subscriptions of all subscribers of a backend.
#[derive(Debug)]
pub struct SubscriptionConnection {
    pub(super) subscribers: Arc<Subscribers>,
    /// When it was begun.
    pub(super) since: Instant,
    routes: Mutex<Routes<Arc<Subscriber>>>,
    pub(super) pipeline: Pipeline<Sent>,
    /// Its stream, once it is made.
    stream: OnceLock<Arc<BackendStream>>,
    wake_pipe: WakePipe,
    /// Why it has ended.
    end: OnceLock<Arc<str>>,
}

impl SubscriptionConnection {
    /// One that is still to be made.
    pub(super) fn new(subscribers: &Arc<Subscribers>) -> Self {
        Self {
            subscribers: Arc::clone(subscribers),
            since: Instant::now(),
            routes: Mutex::default(),
            pipeline: Pipeline::new(),
            stream: OnceLock::new(),
            wake_pipe: WakePipe::new(),
            end: OnceLock::new(),
        }
    }

    /// Why it has ended, if it has: its subscribers have to subscribe anew.
    pub fn end(&self) -> Option<&str> {
        self.end.get().map(|why| &**why)
    }

    /// Whether the server has been reached.
    pub(super) fn is_made(&self) -> bool {
        self.stream.get().is_some()
    }

    /// The pipe that wakes the subscribers' threads when it ends, or when they have to look around.
    pub fn wake_pipe(&self) -> Option<Arc<std::io::PipeReader>> {
        self.wake_pipe.end()
    }

    /// Wakes the subscribers' threads.
    pub(super) fn wake(&self) {
        self.wake_pipe.wake();
    }

    /// Takes the stream once the server has been reached, and sends what waits for that.
    pub(super) fn begin(&self, stream: Arc<BackendStream>) {
        // It is made once.
        _ = self.stream.set(stream);
        self.write();
    }

    /// Asks the server for the subscriptions of an order, also for those that are carried already: its confirmation shows
    /// that the connection lives, and that all messages after it will come.
    pub(super) fn ask(&self, order: &Arc<Order>) -> Result<Arc<Request>, Unsent> {
        let request = Arc::new(Request {
            order: Arc::clone(order),
            refusal: OnceLock::new(),
            is_over: AtomicBool::new(false),
        });
        let (mut commands, mut sent) = (Vec::new(), Vec::new());
        for (at, (kind, names)) in order.parts.iter().enumerate() {
            name_command(&SUBSCRIBE, *kind).args(names).append_to(&mut commands);
            let (count, is_last) = (names.len(), at + 1 == order.parts.len());
            let request = Arc::clone(&request);
            sent.push(Sent::Subscribe { request, kind: *kind, count, is_last });
        }
        {
            // With the lock held: bytes are in the order in which names are announced and given up.
            let mut routes = lock(&self.routes);
            if self.end().is_some() {
                return Err(Unsent::Over);
            }
            if !self.pipeline.append(sent, &commands, false) {
                return Err(Unsent::Full);
            }
            order.names().for_each(|(kind, name)| routes.announce(kind, name));
        }
        self.write();
        Ok(request)
    }

    /// Takes a request back; returns false where it was answered before.
    pub(super) fn take_back(&self, request: &Request) -> bool {
        let mut routes = lock(&self.routes);
        let is_new = !request.is_over.swap(true, Ordering::Relaxed);
        if is_new {
            self.give_up(&mut routes, request);
        }
        drop(routes);
        self.write();
        is_new
    }

    /// Ends subscriptions of one client. It gets no message of theirs any more, but those that it has in its queue.
    pub fn leave<'n>(
        &self,
        subscriber: &Subscriber,
        names: impl IntoIterator<Item = (Subscription, &'n Arc<[u8]>)>,
    ) {
        {
            let mut routes = lock(&self.routes);
            let mut unused = Unused::default();
            for (kind, name) in names {
                if routes.remove(kind, name, subscriber.id) {
                    unused.add(kind, name);
                }
            }
            self.unsubscribe(unused);
        }
        self.write();
    }

    /// The server has confirmed, or refused, all parts of a request.
    pub(super) fn answered(&self, request: &Request) {
        let mut routes = lock(&self.routes);
        if request.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let Order { subscriber, confirmations, .. } = &*request.order;
        let answer = match request.refusal.get() {
            Some(reply) => {
                self.give_up(&mut routes, request);
                Answer::Refused(reply.clone())
            }
            None => {
                if !confirmations.is_empty() {
                    let message = Message::new(confirmations.as_slice().into(), &self.subscribers);
                    // Before the first message; its thread, which waits for the answer, takes it from the queue.
                    subscriber.push(Instant::now(), |_| message);
                }
                for (kind, name) in request.order.names() {
                    routes.settle(kind, name, Some((subscriber.id, Arc::clone(subscriber))));
                }
                Answer::Confirmed
            }
        };
        subscriber.answer(answer);
        drop(routes);
        self.write();
    }

    /// Gives up the names of a request that is not confirmed.
    fn give_up(&self, routes: &mut Routes<Arc<Subscriber>>, request: &Request) {
        let mut unused = Unused::default();
        for (kind, name) in request.order.names() {
            if routes.settle(kind, name, None) {
                unused.add(kind, name);
            }
        }
        self.unsubscribe(unused);
    }

    /// Tells the server that nobody wants these names any more. There is always room for that: each has been
    /// subscribed to once.
    fn unsubscribe(&self, unused: Unused) {
        let Unused { sent, commands } = unused;
        if !sent.is_empty() {
            self.pipeline.append(sent, &commands, true);
        }
    }

    /// Sends a `PING`.
    pub(super) fn ping(&self) {
        self.pipeline.append([Sent::Ping], &command("PING").into_bytes(), true);
        self.write();
    }

    /// Sends what waits, if all that was sent is answered.
    fn write(&self) {
        let Some(stream) = self.stream.get() else { return };
        if self.pipeline.write_next(|bytes| (&**stream).write_all(bytes)).is_err() {
            // The thread that reads finds the end.
            stream.shutdown();
        }
    }

    /// Takes note that so many commands are answered.
    pub(super) fn note_answered(&self, commands: usize) {
        let Some(stream) = self.stream.get() else { return };
        if self.pipeline.answered(commands, |bytes| (&**stream).write_all(bytes)).is_err() {
            stream.shutdown();
        }
    }

    /// Looks at the subscribers of a channel, or of a pattern.
    pub(super) fn for_each_subscriber(
        &self,
        kind: Subscription,
        name: &[u8],
        look: impl FnMut(&Arc<Subscriber>),
    ) {
        lock(&self.routes).subscribers(kind, name).for_each(look);
    }

    /// Whether nobody uses it.
    pub(super) fn is_unused(&self) -> bool {
        lock(&self.routes).is_empty()
    }

    /// Ends it if nobody uses it; returns whether it has.
    pub(super) fn end_if_unused(&self) -> bool {
        let routes = lock(&self.routes);
        let is_unused = routes.is_empty();
        if is_unused {
            // It has not ended before: the caller is the only thread that ends it.
            _ = self.end.set("nobody has used it for a while".into());
        }
        is_unused
    }

    /// Ends it: from now on nobody gets a message by it. `sent` are the commands that the caller has taken from the
    /// pipeline. Returns whether anybody had subscribed.
    pub(super) fn close(&self, why: &str, mut sent: std::collections::VecDeque<Sent>) -> bool {
        let why: Arc<str> = why.into();
        let mut routes = lock(&self.routes);
        // One that nobody has used has ended before.
        _ = self.end.set(Arc::clone(&why));
        let old = std::mem::take(&mut *routes);
        self.pipeline.close_and_take(&mut sent);
        for sent in sent {
            let Sent::Subscribe { request, is_last: true, .. } = sent else { continue };
            if !request.is_over.swap(true, Ordering::Relaxed) {
                request.order.subscriber.answer(Answer::Ended(Arc::clone(&why)));
            }
        }
        drop(routes);
        if let Some(stream) = self.stream.get() {
            stream.shutdown();
        }
        self.wake();
        !old.is_empty()
    }
}

impl Order {
    fn names(&self) -> impl Iterator<Item = (Subscription, &Arc<[u8]>)> {
        self.parts.iter().flat_map(|(kind, names)| names.iter().map(|name| (*kind, name)))
    }
}

impl Request {
    /// Takes note that the server has refused a part.
    pub fn refuse(&self, reply: &[u8]) {
        // The first refusal is the answer.
        _ = self.refusal.set(reply.to_vec());
    }
}

/// Names that nobody wants any more, as the commands that say so.
#[derive(Default)]
struct Unused {
    sent: Vec<Sent>,
    commands: Vec<u8>,
}

impl Unused {
    fn add(&mut self, kind: Subscription, name: &[u8]) {
        // One command for each, as channels of a Cluster's shards need it.
        name_command(&UNSUBSCRIBE, kind).arg(name).append_to(&mut self.commands);
        self.sent.push(Sent::Unsubscribe { kind, count: 1 });
    }
}

fn name_command(words: &[&str; 3], kind: Subscription) -> CommandBuilder {
    command(words[kind as usize])
}
