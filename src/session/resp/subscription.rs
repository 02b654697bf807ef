//! Subscriptions: a backend's connection of the session's own, watched together with the client's.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::outlet::Outlet;
use super::upstream::TOO_MANY_PINNED;
use super::{Ended, Failure, Session, Unanswered, short_reply};
use crate::backend::{BackendError, Connection};
use crate::failover::Attempt;
use crate::policy::Subscription;
use crate::resp::{Command, Protocol, write};
use crate::session::{IDLE_GRACE, poll_timeout};

/// The most that the names of one client's channels and patterns may take together.
const MAX_NAME_BYTES: usize = 1024 * 1024;

/// The most channels and patterns that one client may have.
const MAX_NAMES: usize = 16 * 1024;

/// A subscriber is not watched for longer at a time, so that the end of the process is noticed; it
/// may be idle for ever.
const LONGEST_WAIT: Duration = IDLE_GRACE;

/// So much of a frame tells what it is.
const HEAD_BYTES: usize = 40;

/// What a client has subscribed to.
pub struct Subscriptions {
    connection: Connection,
    /// Channels, patterns, shard channels.
    names: [HashSet<Vec<u8>>; 3],
}

impl Subscriptions {
    /// How many channels, patterns and shard channels there are.
    pub fn counts(&self) -> [usize; 3] {
        [self.names[0].len(), self.names[1].len(), self.names[2].len()]
    }

    /// Passes confirmations on until there were `count` of `word`, and messages between them. False
    /// when an error came instead.
    fn confirm(&mut self, word: &[u8], count: usize, outlet: &mut Outlet) -> Result<bool, Failure> {
        let mut confirmed = 0;
        while confirmed < count {
            match self.relay(outlet)? {
                Received::Error => return Ok(false),
                Received::Push(what) if what == word => confirmed += 1,
                Received::Push(_) => {}
            }
        }
        Ok(true)
    }

    /// Passes the next frame on.
    fn relay(&mut self, outlet: &mut Outlet) -> Result<Received, Failure> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        outlet.relay_and_inspect(&mut self.connection, false, |piece| {
            head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES - head.len())]);
        })?;
        if head.first() == Some(&b'-') {
            return Ok(Received::Error);
        }
        // The length of the array, the length of the word, the word.
        let what = head.split(|&byte| byte == b'\n').nth(2).unwrap_or_default();
        Ok(Received::Push(what.strip_suffix(b"\r").unwrap_or(what).to_vec()))
    }

    /// Passes on what has arrived.
    fn relay_messages(&mut self, outlet: &mut Outlet) -> Result<(), Failure> {
        loop {
            self.relay(outlet)?;
            if !self.connection.has_buffered() {
                return outlet.deliver().map_err(Failure::Client);
            }
        }
    }
}

/// A frame of a subscription's connection.
enum Received {
    Error,
    /// A confirmation or a message, by its first word.
    Push(Vec<u8>),
}

impl Session<'_> {
    /// Whether only the commands of subscribers are allowed: RESP2 has no other way to tell replies
    /// and messages apart.
    pub(super) fn is_subscriber(&self) -> bool {
        self.subscriptions.is_some() && self.mode.protocol == Protocol::Resp2
    }

    /// What Redis says to a subscriber that wants something else.
    pub(super) fn not_for_subscribers(&mut self, command: &Command) {
        let name = self.policy.full_name(command);
        let why =
            b"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
            this context";
        let code: &[u8] = match name {
            b"exec" => b"EXECABORT Transaction discarded because of:",
            _ => b"ERR",
        };
        let error = [code, b" Can't execute '", name, why].concat();
        self.error(error);
    }

    /// Messages come in the protocol of the connection that has subscribed.
    pub(super) fn greet_subscription(&mut self, hello: &[u8]) -> Result<(), Ended> {
        let Self { subscriptions: Some(all), outlet, .. } = self else { return Ok(()) };
        all.connection.send(hello).map_err(lost)?;
        while all.connection.next_byte().map_err(lost)? == b'>' {
            all.relay(outlet).map_err(ended)?;
        }
        outlet.relay(&mut all.connection, true).map_err(ended)?;
        Ok(())
    }

    pub(super) fn subscribe(&mut self, kind: Subscription, command: &Command) -> Result<(), Ended> {
        self.run_batch()?;
        let names: Vec<&[u8]> = command.args().skip(1).collect();
        if !self.has_room_for(&names) {
            self.error("ERR too many subscriptions for one client");
            return Ok(());
        }
        match &mut self.subscriptions {
            Some(all) => all.connection.send(command.bytes()).map_err(lost)?,
            None => match self.first_subscription(command) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.raw(&error);
                    return Ok(());
                }
                Err(unanswered) => return self.unanswered(unanswered),
            },
        }
        let is_confirmed = self.confirm(subscribed(kind), names.len())?;
        let Some(all) = &mut self.subscriptions else { return Ok(()) };
        if is_confirmed {
            all.names[index(kind)].extend(names.into_iter().map(<[u8]>::to_vec));
        }
        self.end_without_names();
        Ok(())
    }

    fn has_room_for(&self, more: &[&[u8]]) -> bool {
        let there = self.subscriptions.iter().flat_map(|all| &all.names).flatten();
        let (count, bytes) = there
            .map(|name| name.len())
            .chain(more.iter().map(|name| name.len()))
            .fold((0, 0), |(count, bytes), length| (count + 1, bytes + length));
        count <= MAX_NAMES && bytes <= MAX_NAME_BYTES
    }

    /// Sends the command on a connection that is then the session's own, or returns why not: an
    /// error reply.
    fn first_subscription(&mut self, command: &Command) -> Result<Result<(), Vec<u8>>, Unanswered> {
        let Self { upstream, outlet, mode, .. } = self;
        let subscribed = upstream.with_failover(outlet.client.address, false, |_, attempt| {
            let Attempt { backend, patience } = attempt;
            let mut connection = backend.request(*mode, command.bytes(), patience)?;
            if connection.next_byte()? == b'-' {
                let error = short_reply(&mut connection)?;
                connection.keep();
                return Ok(Err(error));
            }
            Ok(match connection.pin() {
                true => Ok(connection),
                false => Err(format!("-{TOO_MANY_PINNED}\r\n").into_bytes()),
            })
        })?;
        Ok(subscribed.map(|connection| {
            let names = Default::default();
            self.subscriptions = Some(Subscriptions { connection, names });
        }))
    }

    pub(super) fn unsubscribe(
        &mut self,
        kind: Subscription,
        command: &Command,
    ) -> Result<(), Ended> {
        self.run_batch()?;
        let names: Vec<&[u8]> = command.args().skip(1).collect();
        let Some(all) = &mut self.subscriptions else {
            self.nothing_to_unsubscribe(kind, &names);
            return Ok(());
        };
        let known = &all.names[index(kind)];
        let count = if names.is_empty() { known.len().max(1) } else { names.len() };
        all.connection.send(command.bytes()).map_err(lost)?;
        let is_confirmed = self.confirm(unsubscribed(kind), count)?;
        let Some(all) = &mut self.subscriptions else { return Ok(()) };
        let known = &mut all.names[index(kind)];
        match (is_confirmed, names.is_empty()) {
            (true, true) => known.clear(),
            (true, false) => names.iter().for_each(|name| _ = known.remove(*name)),
            (false, _) => {}
        }
        self.end_without_names();
        Ok(())
    }

    fn confirm(&mut self, word: &[u8], count: usize) -> Result<bool, Ended> {
        let Self { subscriptions: Some(all), outlet, .. } = self else { return Ok(false) };
        all.confirm(word, count, outlet).map_err(ended)
    }

    /// Behind the last unsubscribe the connection is closed.
    fn end_without_names(&mut self) {
        if self.subscriptions.as_ref().is_some_and(|all| all.counts() == [0; 3]) {
            self.subscriptions = None;
        }
    }

    /// What Redis says to a client that has no subscriptions.
    fn nothing_to_unsubscribe(&mut self, kind: Subscription, names: &[&[u8]]) {
        let protocol = self.mode.protocol;
        let names: Vec<Option<&[u8]>> = match names {
            [] => vec![None],
            names => names.iter().copied().map(Some).collect(),
        };
        // Pushes come whatever CLIENT REPLY says.
        let out = self.outlet.out();
        for name in names {
            write::push(out, 3, protocol);
            write::bulk(out, unsubscribed(kind));
            match name {
                Some(name) => write::bulk(out, name),
                None => write::null(out, protocol),
            }
            write::integer(out, 0);
        }
    }

    /// Waits for the client's bytes and, where it has subscribed, passes messages on meanwhile.
    /// True when there may be bytes.
    pub(super) fn wait_with_subscriptions(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<bool, Ended> {
        let Self { subscriptions: Some(all), outlet, .. } = self else { return Ok(true) };
        if all.connection.has_buffered() {
            all.relay_messages(outlet).map_err(ended)?;
            return Ok(false);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let socket = outlet.client.socket;
        let mut polled = [
            PollFd::new(&socket, PollFlags::IN),
            PollFd::from_borrowed_fd(all.connection.as_fd(), PollFlags::IN),
        ];
        let ready = match poll(&mut polled, Some(&poll_timeout(left))) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(Ended::Gone(io::Error::from(error).to_string())),
        };
        let (from_client, from_backend) =
            (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
        if from_backend {
            all.relay_messages(outlet).map_err(ended)?;
            // While the client did not take them, what it sent may have been taken in.
            return Ok(from_client && !outlet.has_backlog());
        }
        // A command that is not complete in time is told so where the client is read.
        Ok(from_client || (ready == 0 && deadline.is_some_and(|at| at <= Instant::now())))
    }
}

fn index(kind: Subscription) -> usize {
    match kind {
        Subscription::Channel => 0,
        Subscription::Pattern => 1,
        Subscription::Shard => 2,
    }
}

fn subscribed(kind: Subscription) -> &'static [u8] {
    [&b"subscribe"[..], b"psubscribe", b"ssubscribe"][index(kind)]
}

fn unsubscribed(kind: Subscription) -> &'static [u8] {
    [&b"unsubscribe"[..], b"punsubscribe", b"sunsubscribe"][index(kind)]
}

/// The client has to subscribe anew: messages may have been lost.
fn lost(error: BackendError) -> Ended {
    Ended::Cut(format!("the subscription's backend failed: {error}"))
}

fn ended(failure: Failure) -> Ended {
    match failure {
        Failure::Backend(error) | Failure::Cut(error) => lost(error),
        failure => failure.into(),
    }
}
