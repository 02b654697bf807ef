//! MULTI, EXEC and DISCARD.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::errors::{ForwardError, SessionEnd, Unanswered};
use super::forward::MAX_JUDGEMENTS;
use super::local_reply::ServedBy;
use super::replies::short_reply;
use super::reply_writer::ReplyWriter;
use super::session::Session;
use super::transaction::Transaction;
use super::upstream::Watch;
use crate::backend::{Class, PooledConnection, said};
use crate::balance::failover::Failover;
use crate::balance::slow::{LaneOutcome, ReadProfile};
use crate::health::Member;
use crate::policy::{LocalCommand, Refused, Verdict};
use crate::resp::{Command, write};

const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";
const ABORTED_BECAUSE: &str = "EXECABORT Transaction discarded because of: ";

impl Session<'_> {
    pub(super) fn multi(&mut self) {
        self.transaction = Some(Transaction::default());
        self.ok();
    }

    /// EXEC or DISCARD where no MULTI was.
    #[inline(never)]
    pub(super) fn without_multi(&mut self, command: &Command) {
        let name = String::from_utf8_lossy(command.name()).to_ascii_uppercase();
        self.error(format!("ERR {name} without MULTI"));
    }

    /// Handles one command after MULTI.
    #[inline(never)]
    pub(super) fn in_transaction(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let verdict = self.policy.judge_in_transaction(command);
        let verdict = self.balancer.scripts.admit(command, verdict);
        self.obey_in_transaction(verdict, command)?;
        self.complete(command.name());
        Ok(())
    }

    fn obey_in_transaction(
        &mut self,
        verdict: Verdict,
        command: &Command,
    ) -> Result<(), SessionEnd> {
        match verdict {
            Verdict::Forward => self.queue(command),
            Verdict::Local(LocalCommand::Multi) => self.error("ERR MULTI calls can not be nested"),
            Verdict::Local(LocalCommand::Watch) => {
                self.error("ERR WATCH inside MULTI is not allowed")
            }
            Verdict::Local(LocalCommand::Discard) => {
                self.discard();
                self.ok();
            }
            Verdict::Local(LocalCommand::Exec) => return self.exec(),
            Verdict::Local(local) => return self.answer_locally(local, command),
            Verdict::Refuse(Refused { why, error }) => {
                match error.starts_with(b"EXECABORT") {
                    // An EXEC that is wrong itself.
                    true => self.discard(),
                    false => self.abort(),
                }
                self.refuse_command(why, error);
            }
            Verdict::Close => return Err(self.close()),
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.transaction = None;
        self.upstream.forget_watch();
    }

    /// EXEC will be refused, where there is a transaction.
    pub(super) fn abort(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.abort();
        }
    }

    fn queue(&mut self, command: &Command) {
        let shape = self.policy.shape(command);
        let key = self.balancer.read_key(command, shape);
        let Some(transaction) = &mut self.transaction else { return };
        match transaction.add(command, shape, key) {
            Ok(()) => self.answer(|out| write::simple(out, "QUEUED")),
            Err(why) => self.error(why),
        }
    }

    #[inline(never)]
    fn exec(&mut self) -> Result<(), SessionEnd> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        if transaction.is_aborted {
            self.upstream.forget_watch();
            self.error(ABORTED);
            return Ok(());
        }
        self.run_batch()?;
        let profile = match transaction
            .read_key()
            .map_or(Ok(ReadProfile::QUICK), |key| self.balancer.profile_of(&key))
        {
            Ok(profile) => ReadProfile { script: transaction.script, ..profile },
            Err(why) => {
                self.upstream.forget_watch();
                self.error(format!("ERR {why}"));
                return Ok(());
            }
        };
        let commands = transaction.whole();
        let ran = match self.upstream.take_watch() {
            Watch::None => self.exec_anywhere(&commands, &transaction, profile),
            Watch::Held(connection, backend) => {
                // In this order: what its server knows is among what it is judged by.
                self.refresh_policy();
                let Some(backend) = self.balancer.backend(backend).filter(|backend| {
                    let refusal = backend.health.refusal(self.mode.database);
                    refusal.is_none() && backend.is_current(&connection)
                }) else {
                    self.exec_in_vain();
                    return Ok(());
                };
                if !transaction.may_pass(&self.policy) {
                    self.error(ABORTED);
                    return Ok(());
                }
                self.exec_where_watched(*connection, backend, &commands, &transaction, profile)
            }
            Watch::InUse(_) | Watch::Lost => {
                self.exec_in_vain();
                return Ok(());
            }
        };
        ran.or_else(|unanswered| self.unanswered(unanswered))
    }

    fn exec_anywhere(
        &mut self,
        commands: &[u8],
        transaction: &Transaction,
        profile: ReadProfile,
    ) -> Result<(), Unanswered> {
        let is_silent = self.is_silent;
        for _ in 0..MAX_JUDGEMENTS {
            if !transaction.may_pass(&self.policy) {
                self.error(ABORTED);
                return Ok(());
            }
            let version = Some(self.commands_version);
            let ran = self.on_connection(
                commands,
                version,
                profile,
                |_| transaction.read_info(profile.class),
                |connection, writer| relay_exec(connection, transaction.count, writer, is_silent),
            );
            match ran {
                // Other backends may have been met since it was queued.
                Err(Unanswered::OtherCommands) => self.refresh_policy(),
                ran => return ran,
            }
        }
        Err(Unanswered::OtherCommands)
    }

    /// No other backend knows whether a watched key was touched.
    fn exec_where_watched(
        &mut self,
        mut connection: PooledConnection,
        backend: Arc<Member>,
        commands: &[u8],
        transaction: &Transaction,
        profile: ReadProfile,
    ) -> Result<(), Unanswered> {
        let info = transaction.read_info(profile.class);
        let peer = self.writer.client.handle();
        let is_there = |other| other == backend.id;
        let lane = &self.balancer.slow_lane;
        let open = match profile.class {
            Class::Quick => None,
            _ => match lane.begin(&info, Some(backend.id), is_there, || peer.is_gone()) {
                Ok(LaneOutcome::Open(open)) => Some(open),
                Ok(LaneOutcome::Answered(_)) => None,
                Err(error) => return Err(Unanswered::AllFailed(error.to_string())),
            },
        };
        let (count, began) = (transaction.count, Instant::now());
        // No other backend can be asked: its kind has one try.
        let mut failover = Failover::resumed(
            self.balancer,
            ReadProfile { has_one_try: true, ..profile },
            Instant::now(),
        );
        let attempt = failover.past_attempt(Arc::clone(&backend), began, open.clone());
        connection.set_wait_policy(attempt.wait_policy(), Duration::ZERO);
        let sent = connection.send(commands).map_err(ForwardError::Backend);
        let (time, given) = (began.elapsed(), self.writer.given);
        match (&sent, &open) {
            (Ok(()), Some(open)) => open.reply_began(),
            (Err(ForwardError::Backend(error)), _) => {
                failover.failed_alone(&attempt, error, Instant::now());
            }
            _ => {}
        }
        let passed = sent
            .and_then(|()| relay_exec(&mut connection, count, &mut self.writer, self.is_silent));
        match passed {
            Ok(()) => {
                self.local_reply.relayed(given, self.writer.given);
                self.local_reply.served_by = Some(ServedBy { backend, time });
                // The EXEC has ended the watch: the connection is as good as any.
                connection.keep();
                Ok(())
            }
            Err(ForwardError::Backend(_)) => {
                attempt.backend.metrics.errors.add_one();
                self.exec_in_vain();
                Ok(())
            }
            Err(failure) => Err(Unanswered::SessionEnd(failure.into())),
        }
    }

    /// Whoever watched may have missed a change: what Redis answers when a watched key was touched.
    fn exec_in_vain(&mut self) {
        let protocol = self.mode.protocol;
        self.answer(|out| write::null_array(out, protocol));
    }
}

/// Relays the reply to EXEC, after those to MULTI and to `count` commands, which the client has
/// had already.
fn relay_exec(
    connection: &mut PooledConnection,
    count: usize,
    writer: &mut ReplyWriter,
    is_silent: bool,
) -> Result<(), ForwardError> {
    let mut refused = None;
    for _ in 0..=count {
        let reply = short_reply(connection)?;
        refused = refused.or(said(&reply));
    }
    let Some(why) = refused else { return writer.relay(connection, is_silent).map(|_| ()) };
    // The client has been told that it was queued: so it is to hear of it here, as Redis words it.
    writer.relay(connection, true)?;
    if !is_silent {
        write::error(writer.out(), format!("{ABORTED_BECAUSE}{why}"));
    }
    Ok(())
}
