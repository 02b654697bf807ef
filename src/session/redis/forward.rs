//! Commands that go to backends: gathered, sent on a shared connection or on one of the session's own,
//! and failed over.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, READ_AT_ONCE_BYTES};
use super::in_flight::{Late, TakenBack};
use super::replies::{
    Answered, OTHER_COMMANDS, SessionEnd, Tried, Unanswered, served_by, short_reply,
};
use super::reply_writer::ReplyWriter;
use super::session::{FIRST_MODE, Session};
use super::upstream::SendTarget;
use crate::backend::reply_router::Progress;
use crate::backend::shared::SharedFailure;
use crate::backend::{Class, Mode, PooledConnection};
use crate::balance::Balancer;
use crate::balance::failover::Failover;
use crate::balance::slow::{ReadInfo, ReadProfile};
use crate::health::{BackendState, Member};
use crate::policy::{self, Shape};
use crate::resp::Command;

/// Time after a failed command within which others fail at once, while no backend is up. The first waits
/// for one to come up; so a pipeline fails as fast as one command, whatever its length.
const SHARED_OUTAGE_TIME: Duration = Duration::from_secs(1);

/// How often commands are judged again, at most, before they are sent.
///
/// What may pass follows from the backends' own lists of commands, and each verdict is remembered with
/// the version of those lists that it was made of. Between the verdict and the send, a backend may be
/// replaced by a server that knows other commands: there, what was a read may write. So commands are only
/// sent to a server whose list is of their version. Where it is not, the lists are taken over and the
/// commands judged again: what may not pass any more gets an error, and the rest is sent. Backends that
/// are replaced all the time would make that endless.
pub const MAX_JUDGEMENTS: usize = 16;

impl<'a> Session<'a> {
    /// Gathers a command that goes to a backend. One that has to go alone is sent at once.
    pub(super) fn forward(&mut self, command: &Command, shape: Shape) -> Result<(), SessionEnd> {
        let version = self.commands_version;
        let (profile, key) = match self.balancer.profile(command, shape) {
            Ok(known) => known,
            Err(why) => return self.complete(Err(Unanswered::refused(why))),
        };
        let kinds = &self.balancer.slow_lane.kinds;
        let is_script = policy::is_script(command);
        let is_measured_alone = key.is_some_and(|key| kinds.is_measured_alone(&key));
        let is_long = self.balancer.long_replies.is_known(command.bytes());
        let goes_alone = is_long || goes_alone(profile, is_script, is_measured_alone);
        if goes_alone {
            self.run_batch()?;
        }
        self.batch.is_long |= is_long;
        self.batch.has_script |= is_script;
        self.batch.forward(command, shape.id, version, self.is_silent, profile);
        if goes_alone { self.run_batch() } else { Ok(()) }
    }

    /// Sends all commands that are gathered, and gives the client their replies. Those to commands on a
    /// shared connection follow later.
    pub(super) fn flush(&mut self) -> Result<(), SessionEnd> {
        self.count_hits();
        self.record_late();
        if self.near_cache.take_has_given() && !self.batch.is_empty() {
            // Then what was not in the cache can go by a shared connection.
            self.writer.deliver()?;
        }
        let is_quiet = self.batch.is_empty() && self.writer.is_delivered();
        if is_quiet || self.send_shared()? {
            return Ok(());
        }
        self.run_batch()?;
        Ok(self.writer.deliver()?)
    }

    /// Sends the commands that are gathered, and gathers their replies.
    #[inline(never)]
    pub(super) fn run_batch(&mut self) -> Result<(), SessionEnd> {
        self.count_hits();
        self.wait_in_flight()?;
        if self.batch.is_empty() {
            return Ok(self.writer.deliver_if_full(None)?);
        }
        let batch = mem::take(&mut self.batch);
        self.balancer.retry_budget.deposit();
        self.batch = self.run_on(batch, None)?;
        Ok(())
    }

    /// Runs what is left of a batch, on the session's backend or others. Returns the batch, empty.
    fn run_on(
        &mut self,
        mut batch: Batch,
        mut current: Option<Failover<'a>>,
    ) -> Result<Batch, SessionEnd> {
        let mut judgements = 0;
        while !batch.is_done() {
            let Self { upstream, writer, mode, balancer, policy, .. } = self;
            let outage_since = self.outage_since;
            let client = writer.client.handle();
            let profile = batch.profile;
            let has_just_failed = outage_since.is_some_and(|at| at.elapsed() < SHARED_OUTAGE_TIME);
            let new = || {
                Failover::resumed(balancer, profile, Instant::now())
                    .at_once(has_just_failed, Instant::now())
            };
            let failover = current.get_or_insert_with(new);
            // Before it has a place in the slow lane, which others wait for.
            writer.wait_until_taken()?;
            let shared = RefCell::new(&mut batch);
            let context = mode.context();
            let info = |is_alone| shared.borrow().read_info(is_alone, context, balancer, policy);
            let ran = upstream.go_on(failover, client, info, |upstream, attempt| {
                let mut batch = shared.borrow_mut();
                let commands_version = Some(batch.version);
                batch.run(upstream, SendTarget { attempt, mode: *mode, commands_version }, writer)
            });
            match ran {
                Err(Unanswered::Shared(answer)) => {
                    batch.answer_one(&answer, balancer, writer)?;
                    continue;
                }
                Err(Unanswered::Error(text, outcome)) => {
                    *failover = failover.for_the_rest(Instant::now());
                    batch.refuse_one(&text, outcome, writer)?;
                    continue;
                }
                Err(Unanswered::OtherCommands) if judgements < MAX_JUDGEMENTS => {
                    judgements += 1;
                    self.refresh_policy();
                    self.judge_rest(&mut batch);
                }
                Err(Unanswered::OtherCommands) => {
                    batch.refuse_rest(OTHER_COMMANDS.as_bytes(), writer)?;
                }
                Err(Unanswered::AllFailed(error)) => {
                    note_outage(&mut self.outage_since, balancer);
                    batch.refuse_rest(format!("ERR {error}").as_bytes(), writer)?;
                    // What is known to have failed is not held back by what may take longer.
                    writer.deliver()?;
                }
                Err(Unanswered::SessionEnd(ended)) => return Err(ended),
                Ok(()) => {}
            }
            // What was sent with a read that may kill servers is suspected as well.
            current = failover.is_alone().then(|| failover.for_the_rest(Instant::now()));
        }
        batch.clear();
        Ok(batch)
    }

    /// Sends the commands that are gathered on a shared connection; false when they have to go on one
    /// of the session's own.
    pub(super) fn send_shared(&mut self) -> Result<bool, SessionEnd> {
        let Some(mut backend) = self.usual_backend() else { return Ok(false) };
        if !self.in_flight.has_room(&self.batch, backend.id, self.mode) {
            if self.in_flight.since.is_some() {
                self.wait_in_flight()?;
                // That may have failed over and met other commands: nothing is as it was.
                let Some(now) = self.usual_backend() else { return Ok(false) };
                backend = now;
            }
            let Some(shared) = backend.shared(self.mode) else { return Ok(false) };
            self.in_flight.connection = Some((Arc::clone(&backend), shared));
        }
        // With the connection at hand: it leads to the server whose commands these are.
        let Self { balancer, writer, in_flight, batch, .. } = self;
        let shared = in_flight.connection.as_ref();
        let commands_version = shared.map(|(_, shared)| shared.commands_version);
        if commands_version != Some(backend.commands_version()) {
            in_flight.forget_connection();
            return Ok(false);
        }
        let Some(batch) = batch.as_plain(balancer.commands_version()) else { return Ok(false) };
        let is_sent = in_flight.send(batch, &writer.client);
        if is_sent {
            balancer.retry_budget.deposit();
        }
        Ok(is_sent)
    }

    /// The backend to which what is gathered may go by a shared connection.
    fn usual_backend(&mut self) -> Option<Arc<Member>> {
        let Self { writer, upstream, in_flight, batch, subscriptions, .. } = self;
        let is_usual =
            writer.is_delivered() && subscriptions.is_none() && in_flight.is_wanted(batch);
        if is_usual { upstream.usual_backend(writer.client.address) } else { None }
    }

    /// Waits until the client has all replies to what went by a shared connection.
    #[inline(never)]
    pub(super) fn wait_in_flight(&mut self) -> Result<(), SessionEnd> {
        while self.in_flight.since.is_some() && self.in_flight.wait() != Progress::Done {
            self.recover_in_flight()?;
        }
        Ok(())
    }

    /// Sees to what went by a shared connection, where that does not go on by itself.
    #[inline(never)]
    pub(super) fn recover_in_flight(&mut self) -> Result<(), SessionEnd> {
        let left = match self.in_flight.progress() {
            Progress::Done => return Ok(()),
            Progress::Stopped => None,
            Progress::UnderWay => match self.in_flight.reason_to_leave() {
                None => return Ok(()),
                left => left,
            },
        };
        let Some((backend, _)) = self.in_flight.connection.clone() else { return Ok(()) };
        let since = self.in_flight.since.unwrap_or_else(Instant::now);
        let TakenBack { unsent, failure, mut batch } = self.in_flight.take_back();
        self.writer.out.extend_from_slice(&unsent);
        batch.look_up_long(|command| self.balancer.long_replies.is_known(command));
        let mut failover = Failover::resumed(self.balancer, batch.profile, Instant::now());
        match left.or(failure) {
            Some(SharedFailure::Backend(error)) => {
                batch.failed(&error, batch.len());
                let attempt = failover.past_attempt(backend, since, None);
                failover.failed(&attempt, error, Instant::now());
            }
            Some(SharedFailure::Lost) => failover.connection_lost(&backend),
            Some(SharedFailure::Stale | SharedFailure::LongReply) | None => {}
        }
        let batch = self.run_on(batch, Some(failover))?;
        if self.batch.is_empty() {
            // With what it has learned of the replies.
            self.batch = batch;
        }
        Ok(self.writer.deliver()?)
    }

    /// Reads that were expected to be quick, and were late, have to prove that they are.
    fn record_late(&mut self) {
        let Some(late) = self.in_flight.late.take() else { return };
        let Late { time, backend, sent_at, batch } = &*late;
        let info = batch.read_info(false, self.mode.context(), self.balancer, &self.policy);
        let keys: Vec<_> = info.keys.into_iter().filter(|key| !key.is_fast).collect();
        self.balancer.slow_lane.record_late(backend.id, *sent_at, &keys, *time);
    }

    /// Does `work` on a connection of a backend whose reply to `commands` has begun. What `work`
    /// returns is the client's once it is done; it reads all replies. The commands are our own, or
    /// were judged by `commands_version`.
    pub(super) fn on_connection<T>(
        &mut self,
        commands: &[u8],
        commands_version: Option<u64>,
        profile: ReadProfile,
        info: impl Fn(bool) -> ReadInfo,
        mut work: impl FnMut(&mut PooledConnection, &mut ReplyWriter) -> Tried<T>,
    ) -> Answered<T> {
        let Self { upstream, writer, mode, local_reply, balancer, .. } = self;
        writer.wait_until_taken().map_err(SessionEnd::from)?;
        let client = writer.client.handle();
        let mut failover = Failover::new(balancer, profile, Instant::now());
        upstream.go_on(&mut failover, client, info, |upstream, attempt| {
            let target = SendTarget { attempt, mode: *mode, commands_version };
            let mut connection = upstream.send(target, commands)?;
            if let Some(open) = &attempt.open
                && commands.len() <= READ_AT_ONCE_BYTES
            {
                open.reply_began();
            }
            let (served_by, given) = (served_by(attempt), writer.given);
            let done = work(&mut connection, writer)?;
            local_reply.relayed(given, writer.given);
            upstream.release(connection);
            local_reply.served_by = served_by;
            Ok(done)
        })
    }

    /// Sends a command that changes the mode of its connection to `wanted` when it succeeds: on a
    /// connection that has that mode already, or one of the session's, which then gets it.
    pub(super) fn change_mode(&mut self, command: &[u8], wanted: Mode) -> Answered<Vec<u8>> {
        let Self { upstream, writer, mode, local_reply, .. } = self;
        // Nothing is read: a database that can't be read can be left.
        let database = upstream.database.take();
        let changed = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            let serves = |mode: Mode| attempt.backend.health.serves(mode.database);
            let mode = match *mode {
                _ if attempt.backend.pool.has_idle(wanted) && serves(wanted) => wanted,
                mode if serves(mode) => mode,
                mode => Mode { database: FIRST_MODE.database, ..mode },
            };
            let target = SendTarget { attempt, mode, commands_version: None };
            let mut connection = upstream.send(target, command)?;
            let reply = short_reply(&mut connection)?;
            if !reply.starts_with(b"-") {
                connection.mode = wanted;
            }
            upstream.release(connection);
            local_reply.served_by = served_by(attempt);
            Ok(reply)
        });
        upstream.database = database;
        changed
    }

    /// Returns the whole reply to one command, which may be an error.
    pub(super) fn short_exchange(&mut self, command: &[u8]) -> Answered<Vec<u8>> {
        let info = |_| ReadInfo::default();
        self.on_connection(command, None, ReadProfile::QUICK, info, |link, _| short_reply(link))
    }
}

/// Whether a command is a batch of its own. A slow read would keep those beside it waiting. One whose like
/// was slow in company has to show which of them it was. Of one that may kill its server, or whose error
/// only another command can explain, it has to be known that nothing else was under way.
fn goes_alone(profile: ReadProfile, is_script: bool, is_measured_alone: bool) -> bool {
    profile.class == Class::Slow || profile.has_one_try || is_script || is_measured_alone
}

/// Notes that commands have failed: while no backend is up, the next ones share what is left of their time.
fn note_outage(since: &mut Option<Instant>, balancer: &Balancer) {
    if balancer.table.best(|_| true) == BackendState::Up {
        *since = None;
    } else if since.is_none_or(|since| since.elapsed() >= SHARED_OUTAGE_TIME) {
        *since = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_goes_alone_for_any_one_reason() {
        let quick = ReadProfile::QUICK;
        let unknown = ReadProfile { class: Class::Unknown, ..quick };
        let slow = ReadProfile { class: Class::Slow, ..quick };
        let one_try = ReadProfile { has_one_try: true, ..quick };
        for (profile, is_script, is_measured_alone, expected) in [
            (quick, false, false, false),
            (unknown, false, false, false),
            (slow, false, false, true),
            (one_try, false, false, true),
            (quick, true, false, true),
            (unknown, false, true, true),
        ] {
            assert_eq!(goes_alone(profile, is_script, is_measured_alone), expected, "{profile:?}");
        }
    }
}
