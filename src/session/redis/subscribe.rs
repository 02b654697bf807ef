//! SUBSCRIBE, UNSUBSCRIBE and their like, and the wait of a client that has subscribed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::names::have_room;
use super::replies::{Answered, ForwardError, SessionEnd, Unanswered, served_by, short_reply};
use super::session::Session;
use super::subscription::{
    Names, SUBSCRIBE, SUBSCRIBED, Subscriptions, UNSUBSCRIBED, encode, skip_confirmations,
};
use super::upstream::TOO_MANY_PINNED;
use crate::backend::BackendError;
use crate::balance::Balancer;
use crate::config::backend::BackendSettings;
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

    /// Messages come in the protocol of the connection that has subscribed.
    pub(super) fn greet_subscription(&mut self, hello: &[u8]) -> Result<(), SessionEnd> {
        let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(()) };
        match all.greet(hello, writer) {
            // The new connection has the new protocol.
            Err(ForwardError::Backend(error)) => self.resubscribe(&error),
            greeted => Ok(greeted?),
        }
    }

    /// SUBSCRIBE, where it `is_more`, or UNSUBSCRIBE, and their like.
    #[inline(never)]
    pub(super) fn change_names(
        &mut self,
        is_more: bool,
        kind: Subscription,
        command: &Command,
    ) -> Answered {
        self.run_batch()?;
        let names: Vec<&[u8]> = command.args().skip(1).collect();
        let there = self.subscriptions.iter().flat_map(|all| &all.names);
        if is_more && !have_room(there.flatten(), names.iter().copied()) {
            return Err("ERR too many subscriptions for one client".into());
        }
        let known = self.subscriptions.as_ref().map_or(0, |all| all.names[kind as usize].len());
        let word = if is_more { SUBSCRIBED } else { UNSUBSCRIBED }[kind as usize];
        let (mut done, mut losses) = (0, 0);
        loop {
            let rest = &names[done..];
            let bytes = encode(command.name(), rest);
            let sent = match &mut self.subscriptions {
                Some(all) => all.connection.send(&bytes),
                None if is_more => Ok(self.subscribe_anywhere(&bytes, Names::default(), 0)?),
                None => return self.nothing_to_unsubscribe(word, rest),
            };
            let Self { subscriptions: Some(all), writer, .. } = self else { return Ok(()) };
            let count = if names.is_empty() { known.max(1) } else { rest.len() };
            let mut confirmed = 0;
            let outcome = match sent {
                Ok(()) => all.confirm(word, count, &mut confirmed, writer),
                Err(error) => Err(error.into()),
            };
            let own = &mut all.names[kind as usize];
            if is_more {
                own.extend(rest.iter().take(confirmed).map(|name| name.to_vec()));
            } else if names.is_empty() && confirmed == count {
                own.clear();
            } else {
                rest.iter().take(confirmed).for_each(|name| _ = own.remove(*name));
            }
            match outcome {
                // Which of all names are left, nobody knows.
                Err(ForwardError::Backend(error)) if names.is_empty() && confirmed > 0 => {
                    let why = format!("its subscriptions are lost: {error}");
                    return Err(SessionEnd::Cut(why).into());
                }
                // The rest is sent again on the connection that takes the place of the lost one.
                Err(ForwardError::Backend(error)) if losses < MAX_LOSSES => {
                    (done, losses) = (done + confirmed, losses + 1);
                    self.resubscribe(&error)?;
                }
                outcome => {
                    outcome.map_err(SessionEnd::from)?;
                    // After the last unsubscribe the connection is closed.
                    self.subscriptions.take_if(|all| all.counts() == [0; 3]);
                    return Ok(());
                }
            }
        }
    }

    /// Sends the command on a connection that is then the session's own, with `names` that are
    /// confirmed by the first `count` confirmations, of which the client hears nothing.
    fn subscribe_anywhere(&mut self, command: &[u8], names: Names, count: usize) -> Answered {
        let Self { upstream, writer, mode, local_reply, .. } = self;
        let mut messages = Vec::new();
        let subscribed = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            let backend = &attempt.backend;
            let mut connection =
                backend.request(*mode, command, attempt.wait_policy(), |_| true)?;
            messages.clear();
            local_reply.served_by = served_by(attempt);
            if connection.next_byte()? == b'-' {
                let error = short_reply(&mut connection)?;
                connection.keep();
                return Ok(Err(error_text(&error)));
            }
            if let Some(error) = skip_confirmations(&mut connection, count, &mut messages)? {
                return Ok(Err(error_text(&error)));
            }
            Ok(match connection.pin() {
                true => {
                    upstream.pin_lease(backend.id);
                    Ok((connection, Arc::clone(backend)))
                }
                // Where others lose theirs, too, there may be room at another backend.
                false if count > 0 => return Err(connection.no_room().into()),
                false => Err(TOO_MANY_PINNED.into()),
            })
        })?;
        writer.out.extend_from_slice(&messages);
        let (connection, backend) = subscribed?;
        self.subscriptions =
            Some(Subscriptions { connection, backend, since: Instant::now(), names });
        Ok(())
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
        self.subscribe_anywhere(&commands, names, count).map_err(|unanswered| {
            let why = match unanswered {
                Unanswered::SessionEnd(ended) => return ended,
                Unanswered::Error(text, _) => format!("-{}", String::from_utf8_lossy(&text)),
                Unanswered::AllFailed(error) => error,
                // They are not judged by the backends' commands, and nobody shares them.
                Unanswered::OtherCommands | Unanswered::Shared(_) => "try again".to_owned(),
            };
            SessionEnd::Cut(format!("its subscriptions are lost: {why}"))
        })?;
        warn!(
            "{} lost its connection to {} ({error}) and has subscribed anew at {}: messages in \
             between may be lost",
            self.writer.client.address,
            backend.name(),
            self.subscriptions.as_ref().map_or("-", |all| all.backend.name()),
        );
        Ok(())
    }

    /// Answers a client that has no subscriptions, as Redis does.
    fn nothing_to_unsubscribe(&mut self, word: &[u8], names: &[&[u8]]) -> Answered {
        let protocol = self.mode.protocol;
        let names: Vec<Option<&[u8]>> = match names {
            [] => vec![None],
            names => names.iter().copied().map(Some).collect(),
        };
        // Pushes come whatever CLIENT REPLY says.
        let out = &mut self.writer.out;
        for name in names {
            write::push(out, 3, protocol);
            write::bulk(out, word);
            match name {
                Some(name) => write::bulk(out, name),
                None => write::null(out, protocol),
            }
            write::integer(out, 0);
        }
        Ok(())
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
        if let Some(why) = reason_to_leave(balancer, all, mode.database) {
            self.resubscribe(&why)?;
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
            return Ok(from_client && self.writer.backlog.is_empty());
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

/// Why a subscriber should go to another backend now, if it should.
fn reason_to_leave(
    balancer: &Balancer,
    all: &Subscriptions,
    database: i64,
) -> Option<BackendError> {
    let Subscriptions { backend, since, .. } = all;
    let departure = || backend.health.departure().map(BackendError::Departed);
    let is_out = matches!(backend.health.state(), BackendState::Down | BackendState::Syncing);
    if is_out && balancer.table.has_better(backend.id) {
        return departure().or(Some(BackendError::Unresponsive));
    }
    let backends = balancer.backends();
    let serves = |id| backends.get(id).is_some_and(|backend| backend.health.serves(database));
    let is_outranked =
        || since.elapsed() >= MIN_STAY && balancer.table.is_outranked(backend.id, serves);
    if !is_outranked() {
        return None;
    }
    let BackendSettings { weight, is_backup, .. } = backend.settings.effective();
    departure().or(Some(match (weight, is_backup) {
        (0, _) => BackendError::Departed("its weight is 0"),
        (_, true) => BackendError::Departed("it is a backup, and another is up"),
        _ => BackendError::Stale,
    }))
}

/// The text of an error reply.
fn error_text(reply: &[u8]) -> Vec<u8> {
    reply.trim_ascii_end().strip_prefix(b"-").unwrap_or_default().to_vec()
}
