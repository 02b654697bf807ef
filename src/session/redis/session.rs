//! One client's session: what it knows, its loop, which reads commands, and what becomes of each: it is
//! answered here, refused, or gathered to be forwarded.

use std::convert::Infallible;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::backlog::Backlog;
use super::batch::{Batch, IDLE_CAPACITY_BYTES};
use super::client::ClientState;
use super::in_flight::InFlight;
use super::login::Login;
use super::names;
use super::near_cache::NearCache;
use super::replies::{Answered, Given, LocalReply, OTHER_COMMANDS, SessionEnd, Unanswered};
use super::reply_writer::ReplyWriter;
use super::subscription::Subscriptions;
use super::transaction::{MAX_QUEUED_BYTES, Transaction};
use super::upstream::Upstream;
use crate::backend::{Mode, is_timeout};
use crate::balance::{Balancer, Phase};
use crate::logging::access_log::{self, Event};
use crate::memory::Share;
use crate::metrics::{CommandId, Outcome, Refusal};
use crate::policy::{Policy, Refused, Verdict};
use crate::resp::{self, Command, CommandParser, Protocol, write};
use crate::session::client::{Client, Occupation, TICK};

/// Number of bytes that are taken in of a client at a time.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// How long a command may take from its first byte to its last, at least.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Number of bytes of a command for each of which, once they have come, it may take a second longer.
const BYTES_A_SECOND: usize = 1024 * 1024;

/// Shortest time between two questions to backends none of which has ever answered.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Most commands of a session that counts as a probe in the log: HELLO, AUTH, CLIENT and PING, perhaps a few times.
const MAX_PROBE_COMMANDS: u64 = 16;

/// Mode of a new session.
pub const FIRST_MODE: Mode = Mode { database: 0, protocol: Protocol::Resp2 };

/// Serves commands until the client or we have had enough. `input` holds what it said so far, and
/// began `since`.
pub fn converse(client: Client, input: Vec<u8>, since: Instant, balancer: &Balancer) {
    // Not on the stack, which takes whole pages.
    let mut session = Session::boxed(client, balancer);
    let Err(ended) = match session.begin_login() {
        Ok(()) => session.run(input, since),
        Err(ended) => Err(ended),
    };
    session.charge_replies();
    end(session, &ended, since, balancer);
}

/// Gives back the room of a long command that is handled: memory that was used once stays used.
fn give_back(input: &mut Vec<u8>) {
    if input.capacity() > 2 * MAX_INPUT_BYTES && input.len() < input.capacity() / 2 {
        input.shrink_to(MAX_INPUT_BYTES);
    }
}

/// Gives back what the session has, then notes its end.
#[inline(never)]
fn end(session: Box<Session>, ended: &SessionEnd, since: Instant, balancer: &Balancer) {
    let Session { commands, mut writer, upstream, subscriptions, in_flight, login, .. } = *session;
    writer.client.sent_bytes += in_flight.bytes;
    let backend = upstream.backend().map(|backend| backend.name().to_owned());
    writer.client.socket.note_lease(None);
    drop((upstream, subscriptions));
    let closed = writer.client.socket.closed_because();
    let errors = writer.given.errors + in_flight.errors;
    // Probes ask for a PING, and leave.
    let is_short = commands <= MAX_PROBE_COMMANDS && errors == 0;
    let is_probe = is_short && backend.is_none() && closed.is_none();
    let is_quiet = is_probe && matches!(ended, SessionEnd::Gone(_));
    let level = if is_quiet { Level::Debug } else { Level::Info };
    let why = closed.map_or_else(|| ended.to_string(), str::to_owned);
    if let SessionEnd::Cut(_) = ended {
        writer.complete(CommandId::default(), None, Outcome::Cut);
    }
    balancer.access_log.write_at(level, || {
        Event::Session(access_log::Session {
            client: writer.client.address,
            user: login.shown_user(),
            commands,
            errors,
            backend,
            seconds: since.elapsed().as_secs_f64(),
            ended: why,
        })
    });
    // Of a reply that is cut, the client gets what has come.
    if !matches!(ended, SessionEnd::Cut(_)) || writer.deliver().is_ok() {
        writer.client.linger(!matches!(ended, SessionEnd::Gone(_)));
    }
}

/// One client's session.
pub struct Session<'a> {
    pub(super) balancer: &'a Balancer,
    pub(super) writer: ReplyWriter<'a>,
    pub(super) upstream: Upstream<'a>,
    /// The selected database, and the version of the protocol.
    pub(super) mode: Mode,
    pub(super) state: ClientState,
    pub(super) batch: Batch,
    pub(super) in_flight: InFlight,
    pub(super) near_cache: NearCache,
    pub(super) transaction: Option<Transaction<'a>>,
    pub(super) subscriptions: Option<Subscriptions>,
    pub(super) login: Login,
    pub(super) policy: Arc<Policy>,
    /// The version of the backends' commands that `policy` was made of.
    pub(super) commands_version: u64,
    /// When a backend was asked what it knows, as none had said so.
    pub(super) asked_at: Option<Instant>,
    /// How many commands there were.
    pub(super) commands: u64,
    /// Whether the client wants no reply to the command at hand.
    pub(super) is_silent: bool,
    /// How the command at hand ends, if it is one of the session's own.
    pub(super) local_reply: LocalReply,
    /// Whether all has been read that will be, as the process ends.
    pub(super) has_read_the_last: bool,
    /// When commands have first failed because no backend was up.
    pub(super) outage_since: Option<Instant>,
    /// What the session holds, but for replies.
    memory: Share<'a>,
    /// How many names a server looks out for, and the memory that they take.
    names: (usize, usize),
}

impl<'a> Session<'a> {
    #[inline(never)]
    fn boxed(client: Client<'a>, balancer: &'a Balancer) -> Box<Self> {
        let (commands_version, policy) = balancer.policy();
        let backlog = Backlog::new(balancer.config().client_backlog, client.share());
        let socket = client.socket;
        Box::new(Self {
            memory: client.share(),
            names: (0, 0),
            balancer,
            state: ClientState::new(&client),
            // Another client waits for a connection as long as the backend timeout.
            writer: ReplyWriter {
                client,
                max_stall: balancer.config().backend_timeout / 2,
                given: Given::default(),
                out: Vec::new(),
                backlog,
            },
            upstream: Upstream::new(balancer, socket),
            mode: FIRST_MODE,
            batch: Batch::default(),
            in_flight: InFlight::new(balancer.slow_lane.kinds.slow_after()),
            near_cache: NearCache::default(),
            transaction: None,
            subscriptions: None,
            login: Login::unknown(),
            policy,
            commands_version,
            asked_at: None,
            commands: 0,
            is_silent: false,
            local_reply: LocalReply::default(),
            has_read_the_last: false,
            outage_since: None,
        })
    }

    #[inline(never)]
    fn run(&mut self, mut input: Vec<u8>, since: Instant) -> Result<Infallible, SessionEnd> {
        let mut parser = CommandParser::new(self.balancer.config().max_argument_bytes());
        let mut begun = Some(since);
        loop {
            self.hold(&input, &parser)?;
            let mut used = 0;
            loop {
                parser.restrict(self.login.user().is_none());
                let (length, command) = match parser.parse(&input[used..]) {
                    Ok(parsed) => parsed,
                    Err(error) => {
                        if parser.follows_empty() {
                            self.state.reply_mode.pass_empty();
                        }
                        let (why, kind) = (error.to_string(), Refusal::BadRequest);
                        return Err(self.refuse(why, kind, |out| error.write(out)));
                    }
                };
                used += length;
                let Some(command) = command else { break };
                begun = None;
                self.near_cache.has_more = used < input.len();
                self.command(&command)?;
            }
            input.drain(..used);
            give_back(&mut input);
            self.flush()?;
            if self.writer.backlog.move_to(&mut input) {
                continue;
            }
            if self.writer.backlog.is_half_closed {
                self.wait_in_flight()?;
                return Err(SessionEnd::Gone("left".to_owned()));
            }
            if parser.is_within_command() {
                begun.get_or_insert_with(Instant::now);
            } else {
                // An idle client holds no large buffer.
                if input.capacity() > IDLE_CAPACITY_BYTES {
                    input = Vec::new();
                }
                begun = None;
            }
            self.hold(&input, &parser)?;
            self.read(&mut input, begun)?;
        }
    }

    /// Counts the memory that the session holds.
    fn hold(&mut self, input: &Vec<u8>, parser: &CommandParser) -> Result<(), SessionEnd> {
        let received = input.capacity() + parser.held_bytes();
        // A long command is copied once, at least, while it is handled.
        let received = if received > MAX_INPUT_BYTES { 2 * received } else { received };
        let sent = self.batch.held_bytes() + self.in_flight.held_bytes();
        let held = received + sent + self.held_names();
        // Libraries send a transaction whole before they read a reply.
        let queue = if self.transaction.is_some() { MAX_QUEUED_BYTES } else { 0 };
        self.writer.backlog.min_bytes = queue;
        Ok(self.memory.set(held).map_err(io::Error::from)?)
    }

    fn held_names(&mut self) -> usize {
        let subscribed = self.subscriptions.as_ref().map(|all| &all.names);
        let counts = subscribed.map_or([0; 3], |names| names.counts());
        let watched = &self.upstream.watched_keys;
        let count = counts.into_iter().sum::<usize>() + watched.len();
        if count != self.names.0 {
            let subscribed = subscribed.map_or(0, |names| names.held_bytes());
            self.names = (count, subscribed + names::held_bytes(watched.iter().map(Vec::len)));
        }
        self.names.1
    }

    /// What the session is for at this moment.
    fn occupation(&self) -> Occupation {
        match (&self.subscriptions, &self.transaction) {
            (Some(_), _) => Occupation::Subscription,
            (None, Some(_)) => Occupation::Transaction,
            (None, None) => Occupation::Commands,
        }
    }

    /// Waits for more of the client's bytes.
    fn read(&mut self, input: &mut Vec<u8>, begun: Option<Instant>) -> Result<(), SessionEnd> {
        if self.balancer.has_reached(Phase::Closing) {
            self.wait_in_flight()?;
            return self.read_the_last(input);
        }
        let deadline = begun.map(|begun| {
            begun + COMMAND_TIME + Duration::from_secs((input.len() / BYTES_A_SECOND) as u64)
        });
        self.refresh_login()?;
        self.limit_login_time()?;
        self.upstream.update_may_move(self.subscriptions.is_some());
        self.writer.client.socket.note_occupation(self.occupation());
        if !self.wait_with_subscriptions(deadline)? {
            return Ok(());
        }
        let is_in_flight = self.in_flight.since.is_some();
        let client = &mut self.writer.client;
        let read = match deadline {
            _ if is_in_flight => client.read_within(TICK, input),
            Some(deadline) => client.read_until(deadline, input),
            None => client.read_more(input),
        };
        match read {
            Ok(0) => {
                self.wait_in_flight()?;
                Err(SessionEnd::Gone("left".to_owned()))
            }
            Ok(_) => {
                // There may be more.
                if input.len() == input.capacity() {
                    client.read_what_is_there(input, MAX_INPUT_BYTES);
                }
                Ok(())
            }
            Err(error) if is_timeout(&error) && is_in_flight => self.recover_in_flight(),
            Err(error) if is_timeout(&error) && begun.is_some() => {
                let why = "Protocol error: the command took too long to arrive";
                Err(self.refuse_with(why, Refusal::TooSlow))
            }
            Err(error) if is_timeout(&error) => {
                Err(SessionEnd::Gone("idle for too long".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what has arrived by the end of the process, which is still answered. Nothing after it is,
    /// however fast the client sends more.
    #[inline(never)]
    fn read_the_last(&mut self, input: &mut Vec<u8>) -> Result<(), SessionEnd> {
        if !mem::replace(&mut self.has_read_the_last, true) {
            let client = &mut self.writer.client;
            let length = client.stream().arrived_bytes();
            if length > 0 {
                client.read_what_is_there(input, length);
                return Ok(());
            }
        }
        Err(SessionEnd::Gone("the balancer ends".to_owned()))
    }

    #[inline(never)]
    pub(super) fn refuse_with(&mut self, why: &str, kind: Refusal) -> SessionEnd {
        self.refuse(why.to_owned(), kind, |out| write::error(out, format!("ERR {why}")))
    }

    /// Tells the client what is wrong with what it sent, after the replies that it still gets.
    #[inline(never)]
    fn refuse(
        &mut self,
        why: String,
        kind: Refusal,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> SessionEnd {
        if let Err(ended) = self.run_batch() {
            return ended;
        }
        if !self.state.reply_mode.next() {
            write(&mut self.writer.out);
        }
        self.writer.count_refusal(kind);
        self.writer.deliver().err().map_or(SessionEnd::Refused(why), SessionEnd::from)
    }

    /// Handles one command.
    fn command(&mut self, command: &Command) -> Result<(), SessionEnd> {
        self.commands += 1;
        // Of those that are sent together, the first stands for all.
        if self.batch.is_empty() {
            self.writer.client.socket.note_command(command.name());
        }
        if command.follows_empty() {
            self.state.reply_mode.pass_empty();
        }
        self.is_silent = self.state.reply_mode.next();
        self.local_reply = LocalReply::default();
        self.refresh_login()?;
        self.refresh_policy();
        match self.ask_for_commands(command) {
            Err(unanswered) => {
                self.abort();
                self.complete(Err(unanswered))?;
            }
            Ok(()) if self.transaction.is_some() => {
                self.near_cache.note_other();
                self.in_transaction(command)?;
            }
            Ok(()) => self.outside_transaction(command)?,
        }
        match self.batch.is_full() || self.writer.is_full() {
            true if self.send_shared()? => Ok(()),
            true => self.run_batch(),
            false => Ok(()),
        }
    }

    fn outside_transaction(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let (verdict, shape) = self.policy.judge(self.login.user(), command);
        self.local_reply.command = shape.id;
        let verdict = self.hold_back(verdict)?;
        let verdict = match self.is_subscriber() {
            // It may run none.
            true => verdict,
            false => self.balancer.scripts.admit(command, verdict),
        };
        let answered = match verdict {
            Verdict::Refuse(Refused { why, error }) => {
                Err(Unanswered::Error(error, Outcome::Refused(why)))
            }
            Verdict::Local(local) => {
                self.near_cache.note_other();
                self.answer_locally(local, command)
            }
            Verdict::Forward if self.is_subscriber() => Err(self.not_for_subscribers(command)),
            Verdict::Forward if self.answer_from_cache(command, shape) => return Ok(()),
            Verdict::Forward => return self.forward(command, shape),
            Verdict::Close => Err(self.close()),
        };
        self.complete(answered)
    }

    /// Ends a command that the session answers itself: tells the client if there is no answer, and counts
    /// it. The batch counts its own.
    pub(super) fn complete(&mut self, answered: Answered) -> Result<(), SessionEnd> {
        match answered {
            Ok(()) => {}
            Err(Unanswered::Error(text, outcome)) => self.error(&text, outcome),
            Err(Unanswered::AllFailed(why)) => {
                self.error(format!("ERR {why}"), Outcome::Refused(Refusal::Unanswered));
            }
            Err(Unanswered::OtherCommands) => self.error(OTHER_COMMANDS, Outcome::ErrorReply),
            Err(Unanswered::Shared(answer)) => self.answer_raw(&answer.reply),
            Err(Unanswered::SessionEnd(ended)) => return Err(ended),
        }
        let LocalReply { command, served_by, outcome } = mem::take(&mut self.local_reply);
        let answered_by = served_by.as_ref().map(|(by, time)| (by.backend.as_ref(), *time));
        self.writer.complete(command, answered_by, outcome);
        Ok(())
    }

    /// Ends the session of a client that sends HTTP, as Redis does: a web page may have made it do so.
    pub(super) fn close(&mut self) -> Unanswered {
        let why = "POST or Host: is no Redis command";
        let outcome = Outcome::Closed(Refusal::BadRequest);
        self.writer.complete(CommandId::default(), None, outcome);
        let replies = self.flush().and_then(|()| self.wait_in_flight());
        replies.err().unwrap_or_else(|| SessionEnd::Refused(why.to_owned())).into()
    }

    /// Takes over what the backends say of their commands, where that has changed.
    pub(super) fn refresh_policy(&mut self) {
        if self.commands_version != self.balancer.commands_version() {
            (self.commands_version, self.policy) = self.balancer.policy();
            let mut batch = mem::take(&mut self.batch);
            self.judge_rest(&mut batch);
            self.batch = batch;
        }
    }

    /// Judges what is left of a batch again.
    pub(super) fn judge_rest(&mut self, batch: &mut Batch) {
        let Self { policy, login, commands_version, writer, .. } = self;
        batch.judge_again(policy, login.user(), *commands_version, writer);
    }

    /// Asks a backend for its commands, where none has said so yet and that matters. Fails when none can be
    /// reached.
    fn ask_for_commands(&mut self, command: &Command) -> Answered {
        let is_known = self.login.user().is_none()
            || !self.policy.is_empty()
            || !matches!(self.policy.verdict(command), Verdict::Refuse(_));
        if !is_known && self.asked_at.is_none_or(|at| at.elapsed() >= ASK_INTERVAL) {
            self.asked_at = Some(Instant::now());
            self.short_exchange(&resp::command("PING").into_bytes())?;
            self.refresh_policy();
        }
        Ok(())
    }

    /// Writes a reply of our own, in its place among the others.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_silent {
            return;
        }
        match self.batch.is_empty() && !self.in_flight.is_under_way() {
            true => write(&mut self.writer.out),
            false => self.batch.answer(write),
        }
    }

    /// Answers with a backend's reply, or with what was made of it.
    pub(super) fn answer_raw(&mut self, reply: &[u8]) {
        if reply.starts_with(b"-") {
            self.writer.given.errors += 1;
            self.local_reply.outcome = Outcome::ErrorReply;
        }
        self.answer(|out| out.extend_from_slice(reply));
    }

    fn error(&mut self, text: impl AsRef<[u8]>, outcome: Outcome) {
        self.writer.given.errors += 1;
        self.local_reply.outcome = outcome;
        self.answer(|out| write::error(out, text));
    }

    pub(super) fn ok(&mut self) -> Answered {
        self.answer(|out| write::simple(out, "OK"));
        Ok(())
    }
}
