//! Commands that are sent on connections of the session's own: gathered, run, and failed over.

use std::cell::RefCell;
use std::mem;
use std::time::{Duration, Instant};

use super::batch::{Batch, READ_AT_ONCE_BYTES};
use super::errors::{ForwardError, OTHER_COMMANDS, SessionEnd, Unanswered};
use super::local_reply::ServedBy;
use super::replies::short_reply;
use super::reply_writer::ReplyWriter;
use super::session::{FIRST_MODE, Session};
use super::upstream::SendTarget;
use crate::backend::{Class, Mode, PooledConnection};
use crate::balance::Balancer;
use crate::balance::failover::Failover;
use crate::balance::slow::{ReadInfo, ReadProfile};
use crate::health::BackendState;
use crate::metrics::Refusal;
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
    pub(super) fn forward(
        &mut self,
        command: &Command,
        version: u64,
        shape: Shape,
    ) -> Result<(), SessionEnd> {
        let (profile, key) = match self.balancer.profile(command, shape) {
            Ok(known) => known,
            Err(why) => {
                self.refuse_command(Refusal::Unanswered, format!("ERR {why}"));
                self.complete(command.name());
                return Ok(());
            }
        };
        let kinds = &self.balancer.slow_lane.kinds;
        let is_script = policy::is_script(command);
        let is_measured_alone = key.is_some_and(|key| kinds.is_measured_alone(&key));
        let goes_alone = goes_alone(profile, is_script, is_measured_alone);
        if goes_alone {
            self.run_batch()?;
        }
        let (batch, is_silent) = (&mut self.batch, self.is_silent);
        match is_script {
            true => batch.forward_script(command, version, is_silent, profile),
            false => batch.forward(command, version, is_silent, profile),
        }
        if goes_alone { self.run_batch() } else { Ok(()) }
    }

    /// Sends all commands that are gathered, and gives the client their replies. Those to commands on a
    /// shared connection follow later.
    pub(super) fn flush(&mut self) -> Result<(), SessionEnd> {
        self.record_late();
        let is_quiet = self.batch.is_empty() && self.writer.is_empty();
        if is_quiet || self.send_shared()? {
            return Ok(());
        }
        self.run_batch()?;
        Ok(self.writer.deliver()?)
    }

    /// Sends the commands that are gathered, and gathers their replies.
    #[inline(never)]
    pub(super) fn run_batch(&mut self) -> Result<(), SessionEnd> {
        self.wait_in_flight()?;
        if self.batch.is_empty() {
            return Ok(self.writer.deliver_if_full()?);
        }
        let batch = mem::take(&mut self.batch);
        self.balancer.retry_budget.deposit();
        self.batch = self.run_on(batch, None)?;
        Ok(())
    }

    /// Runs what is left of a batch, on the session's backend or others. Returns the batch, empty.
    pub(super) fn run_on(
        &mut self,
        mut batch: Batch,
        mut current: Option<Failover<'a>>,
    ) -> Result<Batch, SessionEnd> {
        let mut judgements = 0;
        while !batch.is_done() {
            let Self { upstream, writer, mode, balancer, policy, .. } = self;
            let outage_since = self.outage_since;
            let client = writer.client.handle();
            let profile = batch.profile();
            let has_just_failed = outage_since.is_some_and(|at| at.elapsed() < SHARED_OUTAGE_TIME);
            let new = || {
                Failover::resumed(balancer, profile, Instant::now())
                    .at_once(has_just_failed, Instant::now())
            };
            let failover = current.get_or_insert_with(new);
            let shared = RefCell::new(&mut batch);
            let context = mode.context();
            let info = |is_alone| shared.borrow().read_info(is_alone, context, balancer, policy);
            let ran = upstream.go_on(failover, client, info, |upstream, attempt| {
                let mut batch = shared.borrow_mut();
                let commands_version = Some(batch.version());
                batch.run(upstream, SendTarget { attempt, mode: *mode, commands_version }, writer)
            });
            match ran {
                Err(Unanswered::Shared(answer)) => {
                    batch.answer_one(&answer, balancer, writer)?;
                    continue;
                }
                Err(Unanswered::Refused(why)) => {
                    *failover = failover.for_the_rest(Instant::now());
                    batch.refuse_one(&format!("ERR {why}"), writer)?;
                    continue;
                }
                Err(Unanswered::OtherCommands) if judgements < MAX_JUDGEMENTS => {
                    judgements += 1;
                    self.refresh_policy();
                    batch.judge_again(&self.policy, self.commands_version, &mut self.writer);
                }
                Err(Unanswered::OtherCommands) => batch.refuse_rest(OTHER_COMMANDS, writer)?,
                Err(Unanswered::AllFailed(error)) => {
                    note_outage(&mut self.outage_since, balancer);
                    batch.refuse_rest(&format!("ERR {error}"), writer)?;
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

    /// Does `work` on a connection of a backend whose reply to `commands` has begun. What `work`
    /// returns is the client's once it is done; it reads all replies. The commands are our own, or
    /// were judged by `commands_version`.
    pub(super) fn on_connection<T>(
        &mut self,
        commands: &[u8],
        commands_version: Option<u64>,
        profile: ReadProfile,
        info: impl Fn(bool) -> ReadInfo,
        mut work: impl FnMut(&mut PooledConnection, &mut ReplyWriter) -> Result<T, ForwardError>,
    ) -> Result<T, Unanswered> {
        let Self { upstream, writer, mode, local_reply, balancer, .. } = self;
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
            let (served_by, given) = (ServedBy::attempt(attempt), writer.given);
            let done = work(&mut connection, writer)?;
            local_reply.relayed(given, writer.given);
            upstream.release(connection);
            local_reply.served_by = Some(served_by);
            Ok(done)
        })
    }

    /// Sends a command that changes the mode of its connection to `wanted` when it succeeds: on a
    /// connection that has that mode already, or one of the session's, which then gets it.
    pub(super) fn change_mode(
        &mut self,
        command: &[u8],
        wanted: Mode,
    ) -> Result<Vec<u8>, Unanswered> {
        let Self { upstream, writer, mode, local_reply, .. } = self;
        // Nothing is read: a database that can't be read can be left.
        let database = upstream.database.take();
        let changed = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            let serves = |mode: Mode| attempt.backend.health.serves(mode.database);
            let mode = match *mode {
                _ if attempt.backend.has_idle(wanted) && serves(wanted) => wanted,
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
            local_reply.served_by = Some(ServedBy::attempt(attempt));
            Ok(reply)
        });
        upstream.database = database;
        changed
    }

    /// Returns the whole reply to one command, which may be an error.
    pub(super) fn short_exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let work = |connection: &mut PooledConnection, _: &mut ReplyWriter| short_reply(connection);
        self.on_connection(command, None, ReadProfile::QUICK, |_| ReadInfo::default(), work)
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
