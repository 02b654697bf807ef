//! Transactions: MULTI, EXEC and DISCARD, and WATCH, for which a connection of the session's own watches until
//! it takes the EXEC.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::READ_AT_ONCE_BYTES;
use super::forward::MAX_JUDGEMENTS;
use super::names::have_room;
use super::replies::{
    Answered, ForwardError, SessionEnd, Tried, Unanswered, served_by, short_reply,
};
use super::reply_writer::ReplyWriter;
use super::session::Session;
use super::transaction::Transaction;
use super::upstream::{SendTarget, TOO_MANY_PINNED, Watch};
use crate::backend::{Class, PooledConnection, said};
use crate::balance::failover::Failover;
use crate::balance::slow::{LaneError, LaneOutcome, ReadProfile};
use crate::health::Member;
use crate::metrics::Outcome;
use crate::policy::{LocalCommand, Refused, Verdict};
use crate::resp::{self, Command, write};

const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";
const ABORTED_BECAUSE: &str = "EXECABORT Transaction discarded because of: ";

/// Keys that a server is asked to watch in one command: it compares each with all that the client
/// watches already, and answers nobody else meanwhile (Redis 7.0 takes seconds for 16,384 keys).
const WATCH_STEP_KEYS: usize = 128;

const OK: &[u8] = b"+OK\r\n";

impl Session<'_> {
    pub(super) fn multi(&mut self) -> Answered {
        self.transaction = Some(Transaction::new(self.writer.client.share()));
        self.ok()
    }

    /// EXEC or DISCARD where no MULTI was.
    #[inline(never)]
    pub(super) fn without_multi(&self, command: &Command) -> Unanswered {
        let name = String::from_utf8_lossy(command.name()).to_ascii_uppercase();
        format!("ERR {name} without MULTI").into()
    }

    /// A connection of the client's own watches: at EXEC it tells whether something was touched.
    #[inline(never)]
    pub(super) fn watch(&mut self, command: &Command) -> Answered {
        let watched = &self.upstream.watched_keys;
        // Watched once more, a key takes no more room.
        if !have_room(watched, command.args().skip(1).filter(|key| !watched.contains(*key))) {
            return Err("ERR too many watched keys for one client".into());
        }
        self.run_batch()?;
        let keys: Vec<&[u8]> = command.args().skip(1).collect();
        let steps = keys.chunks(WATCH_STEP_KEYS);
        let steps = steps.map(|keys| resp::command("WATCH").args(keys).into_bytes());
        let steps: Vec<Vec<u8>> = steps.collect();
        let Self { upstream, writer, mode, local_reply, .. } = self;
        let reply = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            if matches!(upstream.watch, Watch::InUse(_) | Watch::Lost) {
                // What EXEC will answer is known already.
                return Ok(OK.to_vec());
            }
            let target = SendTarget { attempt, mode: *mode, commands_version: None };
            let mut connection = upstream.send(target, &steps[0])?;
            let mut reply = short_reply(&mut connection)?;
            local_reply.served_by = served_by(attempt);
            let watches = reply == OK;
            for step in &steps[1..] {
                if reply == OK {
                    connection.send(step)?;
                    reply = short_reply(&mut connection)?;
                }
            }
            match (&upstream.watch, &reply[..]) {
                (Watch::None, OK) if !connection.pin() => {
                    return Ok(format!("-{TOO_MANY_PINNED}\r\n").into_bytes());
                }
                (Watch::None, OK) => {
                    upstream.pin_lease(attempt.backend.id);
                    upstream.watch = Watch::Held(Box::new(connection), attempt.backend.id);
                }
                // Closed: it watches for nobody, as the watch before it is lost, or as some of its
                // keys can't be watched.
                (Watch::Lost, _) => drop(connection),
                (Watch::None, _) if watches => drop(connection),
                _ => upstream.release(connection),
            }
            Ok(reply)
        })?;
        if reply == OK {
            self.upstream.watched_keys.extend(keys.into_iter().map(<[u8]>::to_vec));
        }
        self.answer_raw(&reply);
        Ok(())
    }

    #[inline(never)]
    pub(super) fn unwatch(&mut self) -> Answered {
        // A connection that may still watch is of no use to others.
        drop(self.upstream.take_watch());
        self.ok()
    }

    /// Handles one command after MULTI.
    #[inline(never)]
    pub(super) fn in_transaction(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let (verdict, shape) = self.policy.judge_in_transaction(self.login.user(), command);
        self.local_reply.command = shape.id;
        let verdict = match verdict {
            Verdict::Forward => self.hold_back(verdict)?,
            of_session => of_session,
        };
        let answered = match self.balancer.scripts.admit(command, verdict) {
            Verdict::Forward => self.queue(command),
            Verdict::Local(LocalCommand::Multi) => Err("ERR MULTI calls can not be nested".into()),
            Verdict::Local(LocalCommand::Watch) => {
                Err("ERR WATCH inside MULTI is not allowed".into())
            }
            Verdict::Local(LocalCommand::Discard) => {
                self.transaction = None;
                self.unwatch()
            }
            Verdict::Local(LocalCommand::Exec) => self.exec(),
            Verdict::Local(local) => self.answer_locally(local, command),
            Verdict::Refuse(Refused { why, error }) => {
                if error.starts_with(b"EXECABORT") {
                    // An EXEC that is wrong itself.
                    self.transaction = None;
                    drop(self.upstream.take_watch());
                } else {
                    self.abort();
                }
                Err(Unanswered::Error(error, Outcome::Refused(why)))
            }
            Verdict::Close => Err(self.close()),
        };
        self.complete(answered)
    }

    /// EXEC will be refused, where there is a transaction.
    pub(super) fn abort(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.abort();
        }
    }

    fn queue(&mut self, command: &Command) -> Answered {
        let shape = self.policy.shape(command);
        let key = self.balancer.read_key(command, shape);
        if let Some(transaction) = &mut self.transaction {
            match command.is(0, b"acl") {
                // Of these, WHOAMI alone may be in a transaction.
                true => transaction.add_whoami(self.login.user_name(), shape, key)?,
                false => transaction.add(command, shape, key)?,
            }
            self.answer(|out| write::simple(out, "QUEUED"));
        }
        Ok(())
    }

    #[inline(never)]
    fn exec(&mut self) -> Answered {
        let Some(mut transaction) = self.transaction.take() else { return Ok(()) };
        self.run_batch()?;
        let watch = self.upstream.take_watch();
        if transaction.is_aborted {
            return Err(ABORTED.into());
        }
        let sealed = transaction.seal(&self.balancer.scripts).map_err(io::Error::from);
        sealed.map_err(SessionEnd::from)?;
        let key = transaction.read_key();
        let profile = key.map_or(Ok(ReadProfile::QUICK), |key| self.balancer.profile_of(&key));
        let profile = profile.map_err(|why| format!("ERR {why}"))?;
        let class = transaction.class(&self.balancer.slow_lane.kinds).unwrap_or(profile.class);
        let profile = ReadProfile { class, script: transaction.script, ..profile };
        match watch {
            Watch::None => self.exec_anywhere(&transaction, profile),
            Watch::Held(connection, backend) => {
                // In this order: what its server knows is among what it is judged by.
                self.refresh_policy();
                let backend = self.balancer.backend(backend).filter(|backend| {
                    let refusal = backend.health.refusal(self.mode.database);
                    refusal.is_none() && backend.is_current(&connection)
                });
                match backend {
                    None => self.exec_in_vain(),
                    Some(_) if !self.may_pass(&transaction) => Err(ABORTED.into()),
                    Some(backend) => {
                        self.exec_where_watched(*connection, backend, &transaction, profile)
                    }
                }
            }
            Watch::InUse(_) | Watch::Lost => self.exec_in_vain(),
        }
    }

    /// Whether all of it is still allowed: its commands were judged by the rules of the moment at which they came.
    fn may_pass(&self, transaction: &Transaction) -> bool {
        transaction.may_pass(&self.policy, self.login.user())
    }

    fn exec_anywhere(&mut self, transaction: &Transaction, profile: ReadProfile) -> Answered {
        let is_silent = self.is_silent;
        let info = |_| transaction.read_info(profile.class);
        let first = transaction.first();
        for _ in 0..MAX_JUDGEMENTS {
            if !self.may_pass(transaction) {
                return Err(ABORTED.into());
            }
            let version = Some(self.commands_version);
            let ran = self.on_connection(first, version, profile, info, |connection, writer| {
                relay_exec(connection, transaction, writer, is_silent)
            });
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
        transaction: &Transaction,
        profile: ReadProfile,
    ) -> Answered {
        let info = transaction.read_info(profile.class);
        let peer = self.writer.client.handle();
        let is_there = |other| other == backend.id;
        let lane = &self.balancer.slow_lane;
        let open = match profile.class {
            Class::Quick => None,
            _ => match lane.begin(&info, Some(backend.id), is_there, || peer.is_gone()) {
                Ok(LaneOutcome::Open(open)) => Some(open),
                Ok(LaneOutcome::Answered(_)) => None,
                // The server that watches is gone: a change may have been missed.
                Err(LaneError::NoBackend) => return self.exec_in_vain(),
                Err(error) => return Err(Unanswered::AllFailed(error.to_string())),
            },
        };
        let began = Instant::now();
        // No other backend can be asked: its kind has one try.
        let mut failover = Failover::resumed(
            self.balancer,
            ReadProfile { has_one_try: true, ..profile },
            Instant::now(),
        );
        let attempt = failover.past_attempt(Arc::clone(&backend), began, open.clone());
        connection.set_wait_policy(attempt.wait_policy(), Duration::ZERO);
        let first = transaction.first();
        let sent = connection.send(first);
        let (time, given) = (began.elapsed(), self.writer.given);
        let passed = match sent {
            Ok(()) => {
                let open = open.filter(|_| first.len() <= READ_AT_ONCE_BYTES);
                open.iter().for_each(|open| open.reply_began());
                relay_exec(&mut connection, transaction, &mut self.writer, self.is_silent)
            }
            Err(error) => {
                failover.failed_alone(&attempt, &error, Instant::now());
                Err(error.into())
            }
        };
        match passed {
            Ok(()) => {
                self.local_reply.relayed(given, self.writer.given);
                self.local_reply.served_by = Some((backend, time));
                // The EXEC has ended the watch: the connection is as good as any.
                connection.keep();
                Ok(())
            }
            Err(ForwardError::Backend(_)) => {
                attempt.backend.metrics.errors.add_one();
                self.exec_in_vain()
            }
            Err(failure) => Err(SessionEnd::from(failure).into()),
        }
    }

    /// Answers null, as Redis does when a watched key was touched: a change may have been missed.
    fn exec_in_vain(&mut self) -> Answered {
        let protocol = self.mode.protocol;
        self.answer(|out| write::null_array(out, protocol));
        Ok(())
    }
}

/// Sends the rest of a transaction whose first piece is sent, and relays the reply to EXEC, after those to MULTI and
/// to the commands, which the client has had already. Each piece waits for the replies to the one before: the server
/// need not hold them, and neither side waits for the other to read.
fn relay_exec(
    connection: &mut PooledConnection,
    transaction: &Transaction,
    writer: &mut ReplyWriter,
    is_silent: bool,
) -> Tried {
    let mut refused = None;
    let pieces = transaction.pieces();
    for (at, piece) in pieces.iter().enumerate() {
        if refused.is_some() && at + 1 < pieces.len() {
            // The last one has the EXEC, which is refused by now.
            continue;
        }
        if at > 0 {
            connection.send_next(piece.bytes())?;
        }
        for _ in 0..piece.replies {
            let reply = short_reply(connection)?;
            refused = refused.or(said(&reply));
        }
    }
    let Some(why) = refused else { return writer.relay(connection, is_silent).map(|_| ()) };
    // The client has been told that it was queued: so it is to hear of it here, as Redis words it.
    writer.relay(connection, true)?;
    if !is_silent {
        write::error(&mut writer.out, format!("{ABORTED_BECAUSE}{why}"));
    }
    Ok(())
}
