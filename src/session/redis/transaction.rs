//! MULTI and EXEC: reads are gathered here and go to a backend with the EXEC, all at once, so that
//! a client that ponders holds no connection. WATCH does hold one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reply_writer::ReplyWriter;
use super::upstream::{SendTarget, TOO_MANY_PINNED, Watch};
use super::{ForwardError, MAX_JUDGEMENTS, ServedBy, Session, SessionEnd, Unanswered, short_reply};
use crate::backend::{Class, PooledConnection, said};
use crate::balance::failover::Failover;
use crate::balance::slow::{
    LaneOutcome, MAX_FAST_ARGUMENTS, ReadInfo, ReadKey, ReadProfile, shown,
};
use crate::health::Member;
use crate::net::protocol::WireProtocol;
use crate::policy::{self, LocalCommand, Policy, Refused, Script, Verdict};
use crate::resp::{Command, CommandParser, command, write};

/// Keys that a server is asked to watch in one command: it compares each with all that the client
/// watches already, and answers nobody else meanwhile (Redis 7.0 takes seconds for 16,384 keys).
const WATCH_STEP_KEYS: usize = 128;

/// The most that may be queued between MULTI and EXEC.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;

const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";
const ABORTED_BECAUSE: &str = "EXECABORT Transaction discarded because of: ";
const OK: &[u8] = b"+OK\r\n";

/// What was sent since MULTI.
#[derive(Default)]
pub struct Transaction {
    commands: Vec<u8>,
    count: usize,
    /// How many arguments the commands have together.
    arguments: usize,
    /// What all of it is known by.
    key: Option<ReadKey>,
    /// What it asks first, for the log.
    label: String,
    script: Option<Script>,
    /// Whether something was refused, so that EXEC will be.
    is_aborted: bool,
}

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

    /// Handles one command behind MULTI.
    #[inline(never)]
    pub(super) fn in_transaction(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let verdict = self.policy.judge_in_transaction(command);
        let verdict = self.balancer.scripts.admit(command, verdict);
        if let Verdict::Refuse(refused) = &verdict {
            self.balancer.metrics.refuse(WireProtocol::Resp, refused.why);
        }
        self.obey_in_transaction(verdict, command)?;
        self.count_answer();
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
            Verdict::Local(own) => return self.own(own, command),
            Verdict::Refuse(Refused { error, .. }) => {
                match error.starts_with(b"EXECABORT") {
                    // An EXEC that is wrong itself.
                    true => self.discard(),
                    false => self.abort(),
                }
                self.error(error);
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
            transaction.is_aborted = true;
            transaction.commands = Vec::new();
        }
    }

    fn queue(&mut self, command: &Command) {
        let shape = self.policy.shape(command);
        let key = self.balancer.read_key(command, shape);
        let Some(transaction) = &mut self.transaction else { return };
        if transaction.commands.len() + command.bytes().len() > MAX_QUEUED_BYTES {
            self.abort();
            let why = format!("at most {} KiB may be queued behind MULTI", MAX_QUEUED_BYTES / 1024);
            return self.error(format!("ERR {why}"));
        }
        if !transaction.is_aborted {
            transaction.commands.extend_from_slice(command.bytes());
            transaction.count += 1;
            transaction.arguments += command.arg_count();
            transaction.script = transaction.script.or(policy::script(command));
            transaction.key = Some(transaction.key.map_or(key, |before| before.with(key)));
            if transaction.label.is_empty() && !key.is_fast {
                let key = command.arg(shape.key_arg(command)).unwrap_or_default();
                transaction.label = shown(b"MULTI", command.name()) + &shown(b"", key);
            }
        }
        self.answer(|out| write::simple(out, "QUEUED"));
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
        let (time, errors) = (began.elapsed(), self.writer.errors);
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
                let is_error = self.writer.errors > errors;
                self.served_by = Some(ServedBy { backend, time, is_error });
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

    /// A connection of the client's own watches: at EXEC it tells whether something was touched.
    #[inline(never)]
    pub(super) fn watch(&mut self, command: &Command) -> Result<(), SessionEnd> {
        if !self.upstream.has_room_to_watch(command.args().skip(1)) {
            self.error("ERR too many watched keys for one client");
            return Ok(());
        }
        self.run_batch()?;
        let keys: Vec<&[u8]> = command.args().skip(1).collect();
        let steps: Vec<Vec<u8>> = keys.chunks(WATCH_STEP_KEYS).map(watch_command).collect();
        let Self { upstream, writer, mode, served_by, .. } = self;
        let watched = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            if matches!(upstream.watch, Watch::InUse(_) | Watch::Lost) {
                // What EXEC will answer is known already.
                return Ok(OK.to_vec());
            }
            let target = SendTarget { attempt, mode: *mode, commands_version: None };
            let mut connection = upstream.send(target, &steps[0])?;
            let mut reply = short_reply(&mut connection)?;
            *served_by = Some(ServedBy::attempt(attempt));
            let watches = reply == OK;
            for step in &steps[1..] {
                if reply == OK {
                    connection.send(step)?;
                    reply = short_reply(&mut connection)?;
                }
            }
            match (&upstream.watch, &reply[..]) {
                (Watch::None, OK) => {
                    if !upstream.watch_with(connection, attempt.backend.id) {
                        return Ok(format!("-{TOO_MANY_PINNED}\r\n").into_bytes());
                    }
                }
                // Closed: it watches for nobody, as the watch before it is lost, or as some of its
                // keys can't be watched.
                (Watch::Lost, _) => drop(connection),
                (Watch::None, _) if watches => drop(connection),
                _ => upstream.release(connection),
            }
            Ok(reply)
        });
        match watched {
            Ok(reply) => {
                if reply == OK {
                    self.upstream.note_watched(keys.into_iter());
                }
                self.raw(&reply);
                Ok(())
            }
            Err(unanswered) => self.unanswered(unanswered),
        }
    }

    #[inline(never)]
    pub(super) fn unwatch(&mut self) {
        self.upstream.forget_watch();
        self.ok();
    }
}

impl Transaction {
    /// What all of it is known by: it is one read.
    fn read_key(&self) -> Option<ReadKey> {
        let key = self.key?;
        Some(ReadKey { is_fast: key.is_fast && self.arguments <= MAX_FAST_ARGUMENTS, ..key })
    }

    fn read_info(&self, class: Class) -> ReadInfo {
        let keys = self.read_key().into_iter().collect();
        ReadInfo { class, keys, label: self.label.clone(), is_alone: false, context: None }
    }

    /// Whether all of it is still allowed.
    fn may_pass(&self, policy: &Policy) -> bool {
        let mut parser = CommandParser::new(usize::MAX);
        let mut rest = &self.commands[..];
        while let Ok((length, Some(command))) = parser.parse(rest) {
            if policy.verdict_in_transaction(&command) != Verdict::Forward {
                return false;
            }
            rest = &rest[length..];
        }
        rest.is_empty()
    }

    /// All of it, as a backend gets it.
    fn whole(&self) -> Vec<u8> {
        let mut commands = Vec::new();
        command::encode([&b"MULTI"[..]].into_iter(), &mut commands);
        commands.extend_from_slice(&self.commands);
        command::encode([&b"EXEC"[..]].into_iter(), &mut commands);
        commands
    }
}

fn watch_command(keys: &[&[u8]]) -> Vec<u8> {
    let args: Vec<&[u8]> = [&b"WATCH"[..]].iter().chain(keys).copied().collect();
    let mut command = Vec::new();
    command::encode(args.into_iter(), &mut command);
    command
}

/// Passes the reply to EXEC on, behind those to MULTI and to `count` commands, which the client has
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
