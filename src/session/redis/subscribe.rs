//! SUBSCRIBE, UNSUBSCRIBE and their like, and the wait of a client that has subscribed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::names::{MAX_NAMES, have_room, held_bytes};
use super::replies::{Answered, SessionEnd, Tried, Unanswered, served_by};
use super::reply_writer::{GATHERED_BYTES, ReplyWriter};
use super::session::Session;
use super::subscription::{Names, Subscriptions};
use crate::backend::subscriptions::{
    NamesOfKind, NamesShare, Order, Recipient, Subscribed, Subscriber, SubscriptionConnection,
};
use crate::backend::{BackendError, Inability, WaitPolicy, inability};
use crate::config::OnGap;
use crate::health::Member;
use crate::logging::throttle::Throttle;
use crate::policy::Subscription;
use crate::resp::{Command, Protocol};

/// A subscriber may be idle for ever. It is woken when there is something to do; this is how soon it would notice what
/// it was not woken for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a subscriber waits at a time that can't be woken, because there are no file descriptors.
const BLIND_WAIT: Duration = Duration::from_millis(500);

/// Number of names that UNSUBSCRIBE handles at a time.
const NAMES_AT_ONCE: usize = 1024;

const TOO_MANY: &str = "ERR too many subscriptions for one client";

/// How often one command may lose its connection.
const MAX_LOSSES: usize = 3;

static SUBSCRIBED_ANEW: Throttle = Throttle::every(Duration::from_secs(1));
static CLOSED_FOR_GAP: Throttle = Throttle::every(Duration::from_secs(1));

impl Session<'_> {
    /// Whether only the commands of subscribers are allowed: RESP2 has no other way to tell replies
    /// and messages apart.
    pub(super) fn is_subscriber(&self) -> bool {
        self.subscriptions.is_some() && self.mode.protocol == Protocol::Resp2
    }

    /// Answers a subscriber that wants something else, as Redis does.
    #[inline(never)]
    pub(super) fn not_for_subscribers(&self, command: &Command) -> Unanswered {
        let name = self.policy.full_name(command);
        let why =
            b"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
            this context";
        let code: &[u8] = match name {
            b"exec" => b"EXECABORT Transaction discarded because of:",
            _ => b"ERR",
        };
        [code, b" Can't execute '", name, why].concat().into()
    }

    /// Messages come in the protocol of the session from now on.
    pub(super) fn switch_messages(&mut self) {
        if let Some(all) = &self.subscriptions {
            all.subscriber.switch_protocol(self.mode.protocol, &mut self.writer.out);
        }
    }

    /// SUBSCRIBE and its like.
    #[inline(never)]
    pub(super) fn subscribe(&mut self, kind: Subscription, command: &Command) -> Answered {
        self.run_batch()?;
        if command.arg_count() - 1 > MAX_NAMES {
            return Err(TOO_MANY.into());
        }
        let new: Vec<Arc<[u8]>> = command.args().skip(1).map(Arc::from).collect();
        let known = self.subscriptions.as_ref().map(|all| &all.names);
        let there = known.into_iter().flat_map(|names| names.iter()).map(|(_, name)| name);
        if !have_room(there, &new) {
            return Err(TOO_MANY.into());
        }
        let none = Names::default();
        let (confirmations, bytes) =
            known.unwrap_or(&none).confirmations(kind, &new, self.mode.protocol);
        let mut share = NamesShare::new(&self.balancer.subscribers);
        if !share.add(bytes) {
            return Err("ERR too many subscriptions of all clients: try again later".into());
        }
        let parts = vec![(kind, new.clone())];
        match self.subscriptions.is_some() {
            true => self.subscribe_too(parts, confirmations)?,
            false => self.subscribe_first(parts, confirmations)?,
        }
        if let Some(all) = &mut self.subscriptions {
            all.names.insert(kind, &new);
            all.share.join(share);
        }
        Ok(self.take_messages()?)
    }

    /// Subscribes a client that has no subscriptions yet.
    fn subscribe_first(&mut self, parts: Vec<NamesOfKind>, confirmations: Vec<u8>) -> Answered {
        let client = &self.writer.client;
        let socket = Arc::clone(client.socket) as Arc<dyn Recipient>;
        let (shared, protocol) = (&self.balancer.subscribers, self.mode.protocol);
        let timeout = self.balancer.config().client_timeout;
        let subscriber = Subscriber::new(self.state.id, socket, shared, timeout, protocol);
        let order = Order { subscriber: Arc::clone(&subscriber), parts, confirmations };
        let (connection, backend) = self.subscribe_anywhere(&Arc::new(order))?;
        let (names, share) = (Names::default(), NamesShare::new(shared));
        self.subscriptions = Some(Subscriptions { subscriber, connection, backend, names, share });
        Ok(())
    }

    /// Subscribes a client to more, where its other subscriptions are.
    fn subscribe_too(&mut self, parts: Vec<NamesOfKind>, confirmations: Vec<u8>) -> Answered {
        let Some(all) = &self.subscriptions else { return Ok(()) };
        let subscriber = Arc::clone(&all.subscriber);
        let order = Arc::new(Order { subscriber, parts, confirmations });
        let mut losses = 0;
        loop {
            let Some(Subscriptions { backend, connection, .. }) = &self.subscriptions else {
                return Ok(());
            };
            match backend.subscribe_on(connection, &order, &WaitPolicy::QUICK) {
                Ok(Subscribed::By(_)) => return Ok(()),
                Ok(Subscribed::Refused(reply)) => return Err(error_text(&reply).into()),
                // Others may not refuse it. But a move costs messages of what it has already.
                Err(BackendError::Redis(error))
                    if inability(&error) == Some(Inability::Request) =>
                {
                    return Err(error.into());
                }
                Err(error) if losses < MAX_LOSSES => {
                    losses += 1;
                    self.subscribe_anew(&error)?;
                }
                Err(error) => return Err(SessionEnd::Cut(error.to_string()).into()),
            }
        }
    }

    /// Has a backend take an order, the session's own or another.
    fn subscribe_anywhere(
        &mut self,
        order: &Arc<Order>,
    ) -> Answered<(Arc<SubscriptionConnection>, Arc<Member>)> {
        let Self { upstream, writer, local_reply, .. } = self;
        let subscribed = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            let member = &attempt.backend;
            let subscribed = member.backend.subscribe(order, &attempt.wait_policy())?;
            local_reply.served_by = served_by(attempt);
            Ok(match subscribed {
                Subscribed::By(connection) => {
                    upstream.pin_lease(member.id);
                    Ok((connection, Arc::clone(member)))
                }
                Subscribed::Refused(reply) => Err(error_text(&reply)),
            })
        })?;
        subscribed.map_err(Unanswered::from)
    }

    /// The connection of the subscriptions is lost, so messages may be: the client subscribes anew, or is closed where it
    /// is to be (`--on-gap`). The session ends when no backend takes it.
    fn subscribe_anew(&mut self, error: &BackendError) -> Result<(), SessionEnd> {
        let Some(all) = &self.subscriptions else { return Ok(()) };
        let (left, address) = (Arc::clone(&all.backend), self.writer.client.address);
        // Nothing more comes by it, so nothing comes twice.
        all.connection.leave(&all.subscriber, all.names.iter());
        if self.balancer.config().on_gap == OnGap::Close {
            let why = format!("its messages have a gap: {}: {error} (--on-gap close)", left.name());
            if let Some(more) = CLOSED_FOR_GAP.pass(Instant::now()) {
                warn!("closed the subscriber {address}: {why}{more}");
            }
            return Err(SessionEnd::Cut(why));
        }
        let (subscriber, parts) = (Arc::clone(&all.subscriber), all.names.parts());
        if parts.is_empty() {
            return Ok(());
        }
        let order = Arc::new(Order { subscriber, parts, confirmations: Vec::new() });
        let (connection, backend) = self.subscribe_anywhere(&order).map_err(|unanswered| {
            let why = match unanswered {
                Unanswered::SessionEnd(ended) => return ended,
                Unanswered::Error(text, _) => format!("-{}", String::from_utf8_lossy(&text)),
                Unanswered::AllFailed(error) => error,
                // They are not judged by the backends' commands, and nobody shares them.
                Unanswered::OtherCommands | Unanswered::Shared(_) => "try again".to_owned(),
            };
            SessionEnd::Cut(format!("its subscriptions are lost: {why}"))
        })?;
        if let Some(more) = SUBSCRIBED_ANEW.pass(Instant::now()) {
            let (from, to) = (left.name(), backend.name());
            warn!(
                "{address} lost its subscriptions at {from} ({error}) and has subscribed anew at {to}: \
                 messages in between may be lost{more}"
            );
        }
        if let Some(all) = &mut self.subscriptions {
            (all.connection, all.backend) = (connection, backend);
        }
        Ok(())
    }

    /// UNSUBSCRIBE and its like.
    #[inline(never)]
    pub(super) fn unsubscribe(&mut self, kind: Subscription, command: &Command) -> Answered {
        self.run_batch()?;
        let names: Vec<&[u8]> = command.args().skip(1).collect();
        match names.is_empty() {
            true => self.unsubscribe_from(kind, &[])?,
            // A client may name a million, and their confirmations are longer than they.
            false => names
                .chunks(NAMES_AT_ONCE)
                .try_for_each(|names| self.unsubscribe_from(kind, names))?,
        }
        self.subscriptions.take_if(|all| all.names.counts() == [0; 3]);
        Ok(())
    }

    fn unsubscribe_from(&mut self, kind: Subscription, names: &[&[u8]]) -> Result<(), SessionEnd> {
        let protocol = self.mode.protocol;
        let confirmations = match &mut self.subscriptions {
            None => Names::default().remove(kind, names, protocol).1,
            Some(all) => {
                let (removed, confirmations) = all.names.remove(kind, names, protocol);
                all.connection.leave(&all.subscriber, removed.iter().map(|name| (kind, name)));
                all.share.shrink(held_bytes(removed.iter().map(|name| name.len())));
                confirmations
            }
        };
        // The last messages that came for these names.
        self.take_messages()?;
        // Pushes come whatever CLIENT REPLY says.
        self.writer.out.extend_from_slice(&confirmations);
        Ok(self.writer.deliver_if_full(None)?)
    }

    /// Takes the messages that wait in the queue.
    fn take_messages(&mut self) -> Result<(), SessionEnd> {
        let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(()) };
        Ok(take_messages(&all.subscriber, writer)?)
    }

    /// Waits for the client's bytes and, where it has subscribed, lets its messages come meanwhile.
    /// True when there may be bytes.
    pub(super) fn wait_with_subscriptions(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<bool, SessionEnd> {
        let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(true) };
        // Before the look at the connection: so no wake-up is missed.
        let wake_pipe = all.connection.wake_pipe();
        if let Some(why) = all.connection.end() {
            let error = BackendError::SubscriptionsLost(why.to_owned());
            self.subscribe_anew(&error)?;
            return Ok(false);
        }
        take_messages(&all.subscriber, writer)?;
        writer.deliver()?;
        if writer.backlog.has_taken_in() {
            return Ok(false);
        }
        if !all.subscriber.rest() {
            // More has come meanwhile. However many messages there are, the session looks around, and reads its client.
            let has_come = writer.client.stream().wait_for_input(Duration::ZERO);
            return has_come.map_err(|error| SessionEnd::Gone(error.to_string()));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let client = writer.client.stream();
        let has_come = match wake_pipe {
            Some(pipe) => client.wait_for_input_or_pipe(&pipe, left),
            None => client.wait_for_input(left.min(BLIND_WAIT)),
        };
        all.subscriber.end_rest();
        let has_come = has_come.map_err(|error| SessionEnd::Gone(error.to_string()))?;
        take_messages(&all.subscriber, writer)?;
        // A command that is not complete in time is told so where the client is read.
        let may_read = has_come || deadline.is_some_and(|at| at <= Instant::now());
        Ok(may_read && !writer.backlog.has_taken_in())
    }
}

/// Takes the messages that wait in the queue at this moment. Those that come meanwhile are taken the next time: however
/// many there are, the client's own commands are answered.
fn take_messages(subscriber: &Subscriber, writer: &mut ReplyWriter) -> Tried {
    let mut left = subscriber.queued_bytes();
    while left > 0 {
        let taken = subscriber.take(&mut writer.out, left.min(GATHERED_BYTES));
        if taken == 0 {
            break;
        }
        left -= taken;
        writer.deliver_if_full(None)?;
    }
    Ok(())
}

/// The text of an error reply.
fn error_text(reply: &[u8]) -> Vec<u8> {
    reply.trim_ascii_end().strip_prefix(b"-").unwrap_or_default().to_vec()
}
