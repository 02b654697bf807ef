//! SUBSCRIBE, UNSUBSCRIBE and their like, and the wait of a client that has subscribed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::errors::{ForwardError, SessionEnd, Unanswered};
use super::local_reply::ServedBy;
use super::names;
use super::replies::short_reply;
use super::session::Session;
use super::subscription::{
    Names, SUBSCRIBE, Subscriptions, encode, index, skip_confirmations, subscribed, unsubscribed,
};
use super::upstream::TOO_MANY_PINNED;
use crate::backend::BackendError;
use crate::health::BackendState;
use crate::policy::Subscription;
use crate::resp::{Command, Protocol, write};
use crate::session::client::IDLE_GRACE;

/// A subscriber may be idle for ever, but is not watched for longer at a time: so that the end of the
/// process is noticed, and that of a backend which falls silent.
const LONGEST_WAIT: Duration = IDLE_GRACE;

/// A subscriber stays for so long before it moves from a stale server to a fresher one: should that have
/// no room, it is not tried all the time.
const MIN_STAY: Duration = Duration::from_secs(1);

/// How often one command may lose its connection.
const MAX_LOSSES: usize = 3;

impl Session<'_> {
    /// Whether only the commands of subscribers are allowed: RESP2 has no other way to tell replies
    /// and messages apart.
    pub(super) fn is_subscriber(&self) -> bool {
        self.subscriptions.is_some() && self.mode.protocol == Protocol::Resp2
    }

    /// Answers a subscriber that wants something else, as Redis does.
    #[inline(never)]
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
    pub(super) fn greet_subscription(&mut self, hello: &[u8]) -> Result<(), SessionEnd> {
        let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(()) };
        match all.greet(hello, writer) {
            // The new connection has the new protocol.
            Err(ForwardError::Backend(error)) => self.resubscribe(&error),
            greeted => Ok(greeted?),
        }
    }

    #[inline(never)]
    pub(super) fn subscribe(
        &mut self,
        kind: Subscription,
        command: &Command,
    ) -> Result<(), SessionEnd> {
        self.run_batch()?;
        let names: Vec<&[u8]> = command.args().skip(1).collect();
        if !self.has_room_for(&names) {
            self.error("ERR too many subscriptions for one client");
            return Ok(());
        }
        let (mut done, mut losses) = (0, 0);
        loop {
            let rest = encode(command.name(), &names[done..]);
            let mut confirmed = 0;
            let outcome = match self.send_subscribe(&rest)? {
                Ok(()) => self.confirm(subscribed(kind), names.len() - done, &mut confirmed),
                Err(failure) => Err(failure),
            };
            if let Some(all) = &mut self.subscriptions {
                let new = names[done..][..confirmed].iter();
                all.names[index(kind)].extend(new.map(|name| name.to_vec()));
            }
            done += confirmed;
            if !self.is_to_be_repeated(outcome, &mut losses)? {
                return Ok(());
            }
        }
    }

    /// Ends a command; true when its connection was lost, and the rest is to be sent again on the
    /// one that has taken its place.
    fn is_to_be_repeated(
        &mut self,
        outcome: Result<bool, ForwardError>,
        losses: &mut usize,
    ) -> Result<bool, SessionEnd> {
        match outcome {
            Err(ForwardError::Backend(error)) if *losses < MAX_LOSSES => {
                *losses += 1;
                self.resubscribe(&error)?;
                Ok(true)
            }
            outcome => {
                outcome?;
                self.end_without_names();
                Ok(false)
            }
        }
    }

    /// Sends it on the session's own connection, or on one that then is; passes an error on where
    /// that is the reply.
    fn send_subscribe(&mut self, command: &[u8]) -> Result<Result<(), ForwardError>, SessionEnd> {
        if let Some(all) = &mut self.subscriptions {
            return Ok(all.connection.send(command).map_err(ForwardError::Backend));
        }
        match self.subscribe_anywhere(command, Names::default(), 0) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.answer_raw(&error),
            Err(unanswered) => self.unanswered(unanswered)?,
        }
        Ok(Ok(()))
    }

    fn has_room_for(&self, more: &[&[u8]]) -> bool {
        let there = self.subscriptions.iter().flat_map(|all| &all.names).flatten();
        names::have_room(there, more.iter().copied())
    }

    /// Sends the command on a connection that is then the session's own, with `names` that are
    /// confirmed by the first so many confirmations, of which the client hears nothing. Or returns
    /// why not: an error reply.
    fn subscribe_anywhere(
        &mut self,
        command: &[u8],
        names: Names,
        confirmations: usize,
    ) -> Result<Result<(), Vec<u8>>, Unanswered> {
        let Self { upstream, writer, mode, local_reply, .. } = self;
        let mut messages = Vec::new();
        let subscribed = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            let backend = &attempt.backend;
            let mut connection = backend.request(*mode, command, attempt.wait_policy())?;
            messages.clear();
            local_reply.served_by = Some(ServedBy::attempt(attempt));
            if connection.next_byte()? == b'-' {
                let error = short_reply(&mut connection)?;
                connection.keep();
                return Ok(Err(error));
            }
            if let Some(error) = skip_confirmations(&mut connection, confirmations, &mut messages)?
            {
                return Ok(Err(error));
            }
            Ok(match connection.pin() {
                true => {
                    upstream.pin_lease(backend.id);
                    Ok((connection, Arc::clone(backend)))
                }
                // Where others lose theirs, too, there may be room at another backend.
                false if confirmations > 0 => return Err(connection.no_room().into()),
                false => Err(format!("-{TOO_MANY_PINNED}\r\n").into_bytes()),
            })
        })?;
        writer.out().extend_from_slice(&messages);
        Ok(subscribed.map(|(connection, backend)| {
            self.subscriptions =
                Some(Subscriptions { connection, backend, since: Instant::now(), names });
        }))
    }

    /// The connection of the subscriptions is lost: another takes its place. The session ends when
    /// none can.
    fn resubscribe(&mut self, error: &BackendError) -> Result<(), SessionEnd> {
        let Some(Subscriptions { backend, names, .. }) = self.subscriptions.take() else {
            return Ok(());
        };
        let count = names.iter().map(HashSet::len).sum();
        if count == 0 {
            return Ok(());
        }
        let mut commands = Vec::new();
        for (word, names) in SUBSCRIBE.iter().zip(&names).filter(|(_, names)| !names.is_empty()) {
            commands.extend(encode(word, &names.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
        match self.subscribe_anywhere(&commands, names, count) {
            Ok(Ok(())) => {}
            Ok(Err(reply)) => {
                let reply = String::from_utf8_lossy(&reply).trim_end().to_owned();
                return Err(SessionEnd::Cut(format!("its subscriptions are lost: {reply}")));
            }
            Err(Unanswered::SessionEnd(ended)) => return Err(ended),
            Err(Unanswered::AllFailed(error) | Unanswered::Refused(error)) => {
                return Err(SessionEnd::Cut(format!("its subscriptions are lost: {error}")));
            }
            // They are not judged by the backends' commands, and nobody shares them.
            Err(Unanswered::OtherCommands | Unanswered::Shared(_)) => {
                return Err(SessionEnd::Cut("try again".to_owned()));
            }
        }
        warn!(
            "{} lost its connection to {} ({error}) and has subscribed anew at {}: messages in \
             between may be lost",
            self.writer.client.address,
            backend.name(),
            self.subscriptions.as_ref().map_or("-", |all| all.backend.name()),
        );
        Ok(())
    }

    #[inline(never)]
    pub(super) fn unsubscribe(
        &mut self,
        kind: Subscription,
        command: &Command,
    ) -> Result<(), SessionEnd> {
        self.run_batch()?;
        let names: Vec<&[u8]> = command.args().skip(1).collect();
        let Some(all) = &mut self.subscriptions else {
            self.nothing_to_unsubscribe(kind, &names);
            return Ok(());
        };
        let known = all.names[index(kind)].len();
        let (mut done, mut losses) = (0, 0);
        loop {
            let rest = &names[done..];
            let Some(all) = &mut self.subscriptions else {
                self.nothing_to_unsubscribe(kind, rest);
                return Ok(());
            };
            let sent = all.connection.send(&encode(command.name(), rest));
            let mut confirmed = 0;
            let count = if names.is_empty() { known.max(1) } else { rest.len() };
            let outcome = match sent {
                Ok(()) => self.confirm(unsubscribed(kind), count, &mut confirmed),
                Err(error) => Err(error.into()),
            };
            let Some(all) = &mut self.subscriptions else { return Ok(()) };
            match names.is_empty() {
                true if confirmed == count => all.names[index(kind)].clear(),
                true => {}
                false => {
                    let gone = rest.iter().take(confirmed);
                    gone.for_each(|name| _ = all.names[index(kind)].remove(*name));
                    done += confirmed;
                }
            }
            if let Err(ForwardError::Backend(error)) = &outcome
                && names.is_empty()
                && confirmed > 0
            {
                // Which of all names are left, nobody knows.
                return Err(SessionEnd::Cut(format!("its subscriptions are lost: {error}")));
            }
            if !self.is_to_be_repeated(outcome, &mut losses)? {
                return Ok(());
            }
        }
    }

    fn confirm(
        &mut self,
        word: &[u8],
        count: usize,
        confirmed: &mut usize,
    ) -> Result<bool, ForwardError> {
        let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(false) };
        all.confirm(word, count, confirmed, writer)
    }

    /// After the last unsubscribe the connection is closed.
    fn end_without_names(&mut self) {
        if self.subscriptions.as_ref().is_some_and(|all| all.counts() == [0; 3]) {
            self.subscriptions = None;
        }
    }

    /// Answers a client that has no subscriptions, as Redis does.
    fn nothing_to_unsubscribe(&mut self, kind: Subscription, names: &[&[u8]]) {
        let protocol = self.mode.protocol;
        let names: Vec<Option<&[u8]>> = match names {
            [] => vec![None],
            names => names.iter().copied().map(Some).collect(),
        };
        // Pushes come whatever CLIENT REPLY says.
        let out = self.writer.out();
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
    ) -> Result<bool, SessionEnd> {
        let Self { balancer, subscriptions: Some(all), writer, mode, .. } = self else {
            return Ok(true);
        };
        let health = &all.backend.health;
        if matches!(health.state(), BackendState::Down | BackendState::Syncing)
            && balancer.table.has_better(all.backend.id)
        {
            self.resubscribe(&BackendError::Unresponsive)?;
            return Ok(false);
        }
        let backends = balancer.backends();
        let serves = |backend| {
            backends.get(backend).is_some_and(|backend| backend.health.serves(mode.database))
        };
        if all.since.elapsed() >= MIN_STAY && balancer.table.is_outranked(all.backend.id, serves) {
            self.resubscribe(&BackendError::Stale)?;
            return Ok(false);
        }
        if all.connection.has_buffered() {
            return self.pass_messages().map(|()| false);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let client = writer.client.stream();
        let (from_client, from_backend) = client
            .wait_for_input_or_backend(all.connection.stream(), left)
            .map_err(|error| SessionEnd::Gone(error.to_string()))?;
        if from_backend {
            self.pass_messages()?;
            // While the client did not take them, what it sent may have been taken in.
            return Ok(from_client && !self.writer.has_backlog());
        }
        // A command that is not complete in time is told so where the client is read.
        Ok(from_client || deadline.is_some_and(|at| at <= Instant::now()))
    }

    #[inline(never)]
    fn pass_messages(&mut self) -> Result<(), SessionEnd> {
        let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(()) };
        match all.relay_messages(writer) {
            Err(ForwardError::Backend(error)) => self.resubscribe(&error),
            passed => Ok(passed?),
        }
    }
}
