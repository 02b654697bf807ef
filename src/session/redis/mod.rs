//! The conversation with a client of the Redis protocol: commands in, replies out, in order.

mod batch;
mod client;
mod in_flight;
mod info;
mod local_commands;
mod memory;
mod names;
mod reply_writer;
mod scan;
mod script;
mod subscription;
mod transaction;
mod upstream;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::batch::Batch;
use self::client::ClientState;
use self::in_flight::{InFlight, Late, TakenBack};
use self::memory::{Budget, Share};
use self::reply_writer::ReplyWriter;
use self::subscription::Subscriptions;
use self::transaction::Transaction;
use self::upstream::{SendTarget, Unanswered, Upstream};
use crate::backend::reply_router::Progress;
use crate::backend::shared::SharedFailure;
use crate::backend::{BackendError, Class, Mode, PooledConnection, is_timeout};
use crate::balance::failover::{Attempt, Failover};
use crate::balance::slow::{ReadInfo, ReadTraits};
use crate::balance::{Balancer, Phase};
use crate::health::{BackendState, Member};
use crate::logging::access_log::{self, Event};
use crate::metrics::Refusal;
use crate::net::protocol::WireProtocol;
use crate::policy::{self, Policy, Refused, Shape, Verdict};
use crate::resp::{self, Command, CommandParser, Protocol, write};
use crate::session::TICK;
use crate::session::client::Client;

/// How much of what a client has sent is taken in at a time.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// How long a command may take from its first byte to its last, …
const COMMAND_TIME: Duration = Duration::from_secs(10);
/// … with a second more for each so many bytes that have come of it.
const BYTES_A_SECOND: usize = 1024 * 1024;

/// How often a client's commands make us ask for a backend that has never answered.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What the commands that have begun and are long may take of all clients together.
static UNFINISHED: Budget = Budget::new(1024 * 1024 * 1024);

/// Replies that a session looks into are at most so long: of INFO, HELLO, SELECT.
const MAX_SHORT_REPLY_BYTES: usize = 1024 * 1024;

/// What each buffer of a client keeps of its memory while it is idle.
const IDLE_CAPACITY_BYTES: usize = 1024;

/// With no backend up, a command waits for one to come up. Those that come so soon after one that did so
/// in vain fail at once: so a pipeline fails as fast as one command, whatever its length.
pub const SHARED_OUTAGE_TIME: Duration = Duration::from_secs(1);
/// Commands are judged again so often, at most, when the backends' commands change before they are
/// sent.
const MAX_JUDGEMENTS: usize = 16;

const OTHER_COMMANDS: &str = "ERR the backends' commands have changed: try again";

/// A push is nobody's reply: where one comes in the place of a reply, the backend has failed.
const UNWANTED_PUSH: &str = "a push that nobody asked for";

/// What a session begins with.
const FIRST_MODE: Mode = Mode { database: 0, protocol: Protocol::Resp2 };

/// Why something was not done on a backend.
#[derive(Debug)]
enum ForwardError {
    /// The backend failed before a byte of the reply was given to the client.
    Backend(BackendError),
    /// It failed behind that.
    Cut(BackendError),
    /// The client failed.
    Client(io::Error),
}

impl<E: Into<BackendError>> From<E> for ForwardError {
    fn from(error: E) -> Self {
        Self::Backend(error.into())
    }
}

/// How a session ends.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    /// The client left, was idle for too long, or asked to end.
    #[error("{0}")]
    Gone(String),
    /// What it sent is no command: it was told so.
    #[error("refused: {0}")]
    Refused(String),
    /// A reply broke off.
    #[error("cut: {0}")]
    Cut(String),
}

/// Serves commands until the client or we have had enough. `input` holds what it said so far, and
/// began `since`.
pub fn converse(client: Client, input: Vec<u8>, since: Instant, balancer: &Balancer) {
    // Not on the stack, which takes whole pages.
    let mut session = Session::boxed(client, balancer);
    let Err(ended) = session.run(input, since);
    end(session, &ended, since, balancer);
}

/// Gives back what the session has, then notes its end.
#[inline(never)]
fn end(session: Box<Session>, ended: &SessionEnd, since: Instant, balancer: &Balancer) {
    let Session { commands, mut writer, upstream, subscriptions, in_flight, .. } = *session;
    let backend = upstream.backend().map(|backend| backend.name().to_owned());
    drop((upstream, subscriptions));
    if let SessionEnd::Cut(_) = ended {
        balancer.metrics.cut.resp.add_one();
    }
    balancer.access_log.write(|| {
        Event::Session(access_log::Session {
            client: writer.client.address,
            commands,
            errors: writer.errors + in_flight.errors,
            backend,
            seconds: since.elapsed().as_secs_f64(),
            ended: ended.to_string(),
        })
    });
    if !matches!(ended, SessionEnd::Cut(_)) {
        writer.client.linger();
    }
}

impl From<io::Error> for SessionEnd {
    fn from(error: io::Error) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<ForwardError> for SessionEnd {
    fn from(failure: ForwardError) -> Self {
        match failure {
            ForwardError::Backend(error) | ForwardError::Cut(error) => Self::Cut(error.to_string()),
            ForwardError::Client(error) => error.into(),
        }
    }
}

/// A backend's part in a command of the session's own.
#[derive(Debug)]
struct ServedBy {
    /// The backend.
    backend: Arc<Member>,
    /// How long it took until its reply began.
    time: Duration,
    /// Whether the reply is an error.
    is_error: bool,
}

impl ServedBy {
    /// In the try that is made now, whose reply has just begun.
    fn attempt(attempt: &Attempt) -> Self {
        Self {
            backend: Arc::clone(&attempt.backend),
            time: attempt.began.elapsed(),
            is_error: false,
        }
    }
}

/// One client's session.
struct Session<'a> {
    balancer: &'a Balancer,
    writer: ReplyWriter<'a>,
    upstream: Upstream<'a>,
    /// The selected database, and the version of the protocol.
    mode: Mode,
    state: ClientState,
    batch: Batch,
    in_flight: InFlight,
    transaction: Option<Transaction>,
    subscriptions: Option<Subscriptions>,
    policy: Arc<Policy>,
    /// The version of the backends' commands that `policy` was made of.
    commands_version: u64,
    /// When a backend was asked what it knows, as none had said so.
    asked_at: Option<Instant>,
    /// How many commands there were.
    commands: u64,
    /// Whether the client wants no reply to the command at hand.
    is_silent: bool,
    /// Who has answered the command at hand, if it is one of the session's own.
    served_by: Option<ServedBy>,
    /// Whether all has been read that will be, as the process ends.
    has_read_the_last: bool,
    /// When commands have first failed because no backend was up.
    outage_since: Option<Instant>,
}

impl<'a> Session<'a> {
    #[inline(never)]
    fn boxed(client: Client<'a>, balancer: &'a Balancer) -> Box<Self> {
        let (commands_version, policy) = balancer.policy();
        Box::new(Self {
            balancer,
            state: ClientState::new(&client),
            // Who waits for a connection does so for the backend timeout.
            writer: ReplyWriter::new(client, balancer.config.backend_timeout / 2),
            upstream: Upstream::new(balancer),
            mode: FIRST_MODE,
            batch: Batch::default(),
            in_flight: InFlight::new(balancer.slow_lane.kinds.slow_after()),
            transaction: None,
            subscriptions: None,
            policy,
            commands_version,
            asked_at: None,
            commands: 0,
            is_silent: false,
            served_by: None,
            has_read_the_last: false,
            outage_since: None,
        })
    }

    #[inline(never)]
    fn run(&mut self, mut input: Vec<u8>, since: Instant) -> Result<Infallible, SessionEnd> {
        let mut parser = CommandParser::new(self.balancer.config.max_argument_bytes);
        let mut begun = Some(since);
        let mut unfinished = Share::of(&UNFINISHED);
        loop {
            let mut used = 0;
            loop {
                let (length, command) = match parser.parse(&input[used..]) {
                    Ok(parsed) => parsed,
                    Err(error) => {
                        return Err(self.refuse(error.to_string(), |out| error.write(out)));
                    }
                };
                used += length;
                let Some(command) = command else { break };
                begun = None;
                self.command(&command)?;
            }
            input.drain(..used);
            self.flush()?;
            unfinished.set(if input.len() > MAX_INPUT_BYTES { input.len() } else { 0 });
            if unfinished.bytes() > 0 && !UNFINISHED.has_room() {
                let why = "Protocol error: too many clients send long commands: try again later";
                return Err(self.refuse_with(why));
            }
            if self.writer.take_backlog(&mut input) {
                continue;
            }
            if self.writer.is_half_closed() {
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
            self.read(&mut input, begun)?;
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
        self.upstream.update_may_move(self.subscriptions.is_some());
        if !self.wait_with_subscriptions(deadline)? {
            return Ok(());
        }
        let is_in_flight = self.in_flight.is_begun();
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
                Err(self.refuse_with("Protocol error: the command took too long to arrive"))
            }
            Err(error) if is_timeout(&error) => {
                Err(SessionEnd::Gone("idle for too long".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// At the end of the process: what has arrived is still answered, and nothing behind it, however
    /// fast the client sends more.
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
    fn refuse_with(&mut self, why: &str) -> SessionEnd {
        self.refuse(why.to_owned(), |out| write::error(out, format!("ERR {why}")))
    }

    /// Tells the client what is wrong with what it sent, behind the replies that it still gets.
    #[inline(never)]
    fn refuse(&mut self, why: String, write: impl FnOnce(&mut Vec<u8>)) -> SessionEnd {
        if let Err(ended) = self.run_batch() {
            return ended;
        }
        if !self.state.reply_mode.next() {
            write(self.writer.out());
        }
        self.writer.count_refusal(Refusal::BadRequest);
        match self.writer.deliver() {
            Ok(()) => SessionEnd::Refused(why),
            Err(error) => error.into(),
        }
    }

    /// Handles one command.
    fn command(&mut self, command: &Command) -> Result<(), SessionEnd> {
        self.commands += 1;
        self.is_silent = self.state.reply_mode.next();
        self.served_by = None;
        self.refresh_policy();
        if !self.ask_for_commands(command)? {
            self.abort();
            self.count_answer();
            return Ok(());
        }
        match self.transaction.is_some() {
            true => self.in_transaction(command)?,
            false => self.outside_transaction(command)?,
        }
        match self.batch.is_full() || self.writer.is_full() {
            true if self.send_shared()? => Ok(()),
            true => self.run_batch(),
            false => Ok(()),
        }
    }

    fn outside_transaction(&mut self, command: &Command) -> Result<(), SessionEnd> {
        // By the time that it is sent, others may be known.
        let version = self.commands_version;
        let (verdict, shape) = self.policy.judge(command);
        match self.balancer.scripts.admit(command, verdict) {
            Verdict::Refuse(Refused { why, error }) => {
                self.writer.count_refusal(why);
                self.answer(|out| write::error(out, error));
            }
            Verdict::Local(own) => {
                self.own(own, command)?;
                self.count_answer();
            }
            Verdict::Forward if self.is_subscriber() => {
                self.not_for_subscribers(command);
                self.count_answer();
            }
            Verdict::Forward => return self.forward(command, version, shape),
            Verdict::Close => return Err(self.close()),
        }
        Ok(())
    }

    /// Gathers a command that goes to a backend; sends it with nothing beside it where it would keep
    /// others waiting.
    fn forward(&mut self, command: &Command, version: u64, shape: Shape) -> Result<(), SessionEnd> {
        let (traits, key) = match self.balancer.traits(command, shape) {
            Ok(known) => known,
            Err(why) => {
                self.writer.count_refusal(Refusal::Unanswered);
                self.answer(|out| write::error(out, format!("ERR {why}")));
                return Ok(());
            }
        };
        let kinds = &self.balancer.slow_lane.kinds;
        let is_alone = traits.class == Class::Slow
            || traits.has_one_try
            || key.is_some_and(|key| kinds.is_measured_alone(&key));
        if policy::is_script(command) {
            self.run_batch()?;
            self.batch.forward_script(command, version, self.is_silent, traits);
            return self.run_batch();
        }
        if is_alone {
            self.run_batch()?;
            self.batch.forward(command, version, self.is_silent, traits);
            return self.run_batch();
        }
        self.batch.forward(command, version, self.is_silent, traits);
        Ok(())
    }

    /// Counts a command that was answered, if not by the batch.
    fn count_answer(&mut self) {
        match self.served_by.take() {
            Some(ServedBy { backend, time, is_error }) => {
                let metrics = &backend.metrics;
                metrics.answer(WireProtocol::Resp, time);
                metrics.error_replies.add(is_error.into());
            }
            None => self.balancer.metrics.answered_here.resp.add_one(),
        }
    }

    /// Ends a session whose client was made to send HTTP, as Redis does.
    fn close(&mut self) -> SessionEnd {
        let why = "POST or Host: is no Redis command";
        self.balancer.metrics.refuse(WireProtocol::Resp, Refusal::BadRequest);
        self.flush().err().unwrap_or_else(|| SessionEnd::Refused(why.to_owned()))
    }

    /// Takes note of what the backends say of their commands.
    fn refresh_policy(&mut self) {
        if self.commands_version != self.balancer.commands_version() {
            (self.commands_version, self.policy) = self.balancer.policy();
            self.batch.judge_again(&self.policy, self.commands_version, &mut self.writer);
        }
    }

    /// While no backend has said anything of its commands, one is asked as soon as that matters,
    /// now and then. False when the client has been told that none can be reached.
    fn ask_for_commands(&mut self, command: &Command) -> Result<bool, SessionEnd> {
        let is_known =
            !self.policy.is_empty() || !matches!(self.policy.verdict(command), Verdict::Refuse(_));
        if is_known || self.asked_at.is_some_and(|at| at.elapsed() < ASK_INTERVAL) {
            return Ok(true);
        }
        self.asked_at = Some(Instant::now());
        if let Err(unanswered) = self.short_exchange(&redis::cmd("PING").get_packed_command()) {
            self.unanswered(unanswered)?;
            return Ok(false);
        }
        self.refresh_policy();
        Ok(true)
    }

    /// Writes an answer of our own, in its place among the replies.
    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_silent {
            return;
        }
        match self.batch.is_empty() && !self.is_in_flight() {
            true => write(self.writer.out()),
            false => self.batch.answer(write),
        }
    }

    /// A backend's reply, or what was made of it.
    fn raw(&mut self, reply: &[u8]) {
        if reply.starts_with(b"-") {
            self.writer.errors += 1;
            if let Some(served) = &mut self.served_by {
                served.is_error = true;
            }
        }
        self.answer(|out| out.extend_from_slice(reply));
    }

    fn error(&mut self, text: impl AsRef<[u8]>) {
        self.writer.errors += 1;
        self.answer(|out| write::error(out, text));
    }

    fn ok(&mut self) {
        self.answer(|out| write::simple(out, "OK"));
    }

    /// Sends all commands that are gathered, and all replies; those to commands that go by a shared
    /// connection follow.
    fn flush(&mut self) -> Result<(), SessionEnd> {
        self.note_late();
        let is_quiet = self.batch.is_empty() && self.writer.is_empty();
        if is_quiet || self.send_shared()? {
            return Ok(());
        }
        self.run_batch()?;
        Ok(self.writer.deliver()?)
    }

    /// Sends the commands that are gathered on a shared connection; false when they have to go on one
    /// of the session's own.
    fn send_shared(&mut self) -> Result<bool, SessionEnd> {
        let Some(mut backend) = self.usual_backend() else { return Ok(false) };
        if !self.in_flight.has_room(&self.batch, backend.id, self.mode) {
            if self.in_flight.is_begun() {
                self.wait_in_flight()?;
                // That may have failed over and met other commands: nothing is as it was.
                let Some(now) = self.usual_backend() else { return Ok(false) };
                backend = now;
            }
            let shared = backend.shared(self.mode);
            let Some(shared) = shared else { return Ok(false) };
            self.in_flight.set_connection(Arc::clone(&backend), shared);
        }
        // With the connection at hand: it leads to the server whose commands these are.
        let Self { balancer, writer, in_flight, batch, .. } = self;
        let commands_version = in_flight.connection().map(|(_, shared)| shared.commands_version);
        if commands_version != Some(backend.commands_version()) {
            in_flight.forget_connection();
            return Ok(false);
        }
        let Some(batch) = batch.as_plain(balancer.commands_version()) else { return Ok(false) };
        let is_sent = in_flight.send(batch, writer.client.socket);
        if is_sent {
            balancer.retry_budget.deposit();
        }
        Ok(is_sent)
    }

    /// The backend to which what is gathered may go by a shared connection.
    fn usual_backend(&mut self) -> Option<Arc<Member>> {
        let Self { writer, upstream, in_flight, batch, subscriptions, .. } = self;
        let is_usual = writer.is_empty() && subscriptions.is_none() && in_flight.is_wanted(batch);
        if is_usual { upstream.usual_backend(writer.client.address) } else { None }
    }

    /// Whether replies may be on their way that this thread knows nothing of.
    fn is_in_flight(&mut self) -> bool {
        self.in_flight.is_begun() && self.in_flight.progress() != Progress::Done
    }

    /// Waits until the client has all replies to what went by a shared connection.
    #[inline(never)]
    fn wait_in_flight(&mut self) -> Result<(), SessionEnd> {
        while self.in_flight.is_begun() && self.in_flight.wait() != Progress::Done {
            self.recover_in_flight()?;
        }
        Ok(())
    }

    /// Sees to what went by a shared connection, where that does not go on by itself.
    #[inline(never)]
    fn recover_in_flight(&mut self) -> Result<(), SessionEnd> {
        let failure = match self.in_flight.progress() {
            Progress::Done => return Ok(()),
            Progress::Stopped => None,
            Progress::UnderWay => match self.flight_silence() {
                None => return Ok(()),
                silence => silence,
            },
        };
        let Some((backend, shared)) = self.in_flight.connection().cloned() else { return Ok(()) };
        let since = self.in_flight.since().unwrap_or_else(Instant::now);
        if failure.is_some() {
            backend.retire_shared(&shared);
        }
        let TakenBack { unsent, failure: shared_failure, mut batch } = self.in_flight.take_back();
        self.writer.out().extend_from_slice(&unsent);
        let is_lost = matches!(shared_failure, Some(SharedFailure::Lost));
        let failure = failure.or(match shared_failure {
            Some(SharedFailure::Backend(error)) => Some(error),
            _ => None,
        });
        let mut failover = Failover::resumed(self.balancer, batch.traits());
        if is_lost {
            failover.note_lost(&backend);
        }
        if let Some(error) = failure {
            batch.failed(&error);
            failover.failed(&failover.made(backend, since, None), error);
        }
        let batch = self.run_on(batch, Some(failover))?;
        if self.batch.is_empty() {
            // With what it has learned of the replies.
            self.batch = batch;
        }
        Ok(self.writer.deliver()?)
    }

    /// Reads that were expected to be quick, and were late, have to prove that they are.
    fn note_late(&mut self) {
        let Some(Late { time, backend, sent_at, batch }) = self.in_flight.take_late() else {
            return;
        };
        let lane = &self.balancer.slow_lane;
        let keys = batch.read_info(false, self.mode.context(), self.balancer, &self.policy).keys;
        let keys: Vec<_> = keys.into_iter().filter(|key| !key.is_fast).collect();
        lane.note_late(backend.id, sent_at, &keys, time);
    }

    /// Why what went by a shared connection is not waited for any longer, if so.
    fn flight_silence(&self) -> Option<BackendError> {
        let (backend, shared) = self.in_flight.connection()?;
        shared.silence(self.in_flight.since()?, &backend.timeouts)
    }

    /// Sends the commands that are gathered, and gathers their replies.
    #[inline(never)]
    fn run_batch(&mut self) -> Result<(), SessionEnd> {
        self.wait_in_flight()?;
        if self.batch.is_empty() {
            return Ok(self.writer.deliver_if_full()?);
        }
        let batch = mem::take(&mut self.batch);
        self.balancer.retry_budget.deposit();
        self.batch = self.run_on(batch, None)?;
        Ok(())
    }

    /// Does what is left of a batch, on the session's backend or another; returns it, empty.
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
            let traits = batch.traits();
            let has_just_failed = outage_since.is_some_and(|at| at.elapsed() < SHARED_OUTAGE_TIME);
            let new = || Failover::resumed(balancer, traits).at_once(has_just_failed);
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
                    *failover = failover.for_the_rest();
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
            // The rest goes alone, too.
            current = failover.is_alone().then(|| failover.for_the_rest());
        }
        batch.clear();
        Ok(batch)
    }

    /// Does `work` on a connection of a backend whose reply to `commands` has begun. What `work`
    /// returns is the client's once it is done; it reads all replies. The commands are our own, or
    /// were judged by `commands_version`.
    fn on_connection<T>(
        &mut self,
        commands: &[u8],
        commands_version: Option<u64>,
        traits: ReadTraits,
        info: impl Fn(bool) -> ReadInfo,
        mut work: impl FnMut(&mut PooledConnection, &mut ReplyWriter) -> Result<T, ForwardError>,
    ) -> Result<T, Unanswered> {
        let Self { upstream, writer, mode, served_by, balancer, .. } = self;
        let client = writer.client.handle();
        let mut failover = Failover::new(balancer, traits);
        upstream.go_on(&mut failover, client, info, |upstream, attempt| {
            let target = SendTarget { attempt, mode: *mode, commands_version };
            let mut connection = upstream.send(target, commands)?;
            if let Some(open) = &attempt.open
                && commands.len() <= batch::READ_AT_ONCE_BYTES
            {
                open.note_answer();
            }
            let mut served = ServedBy::attempt(attempt);
            let errors = writer.errors;
            let done = work(&mut connection, writer)?;
            served.is_error = writer.errors > errors;
            upstream.release(connection);
            *served_by = Some(served);
            Ok(done)
        })
    }

    /// Sends a command that changes the mode of its connection to `wanted` when it succeeds: on a
    /// connection that has that mode already, or one of the session's, which then gets it.
    fn change_mode(&mut self, command: &[u8], wanted: Mode) -> Result<Vec<u8>, Unanswered> {
        let Self { upstream, writer, mode, served_by, .. } = self;
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
            *served_by = Some(ServedBy::attempt(attempt));
            Ok(reply)
        });
        upstream.database = database;
        changed
    }

    /// The whole reply to one command, error replies included.
    fn short_exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let work = |connection: &mut PooledConnection, _: &mut ReplyWriter| short_reply(connection);
        self.on_connection(command, None, ReadTraits::QUICK, |_| ReadInfo::default(), work)
    }

    /// Tells the client that no backend could answer.
    fn unanswered(&mut self, unanswered: Unanswered) -> Result<(), SessionEnd> {
        match unanswered {
            Unanswered::AllFailed(error) | Unanswered::Refused(error) => {
                self.balancer.metrics.refuse(WireProtocol::Resp, Refusal::Unanswered);
                self.error(format!("ERR {error}"));
            }
            Unanswered::OtherCommands => {
                self.error(OTHER_COMMANDS);
            }
            Unanswered::Shared(answer) => self.raw(&answer.reply),
            Unanswered::SessionEnd(ended) => return Err(ended),
        }
        Ok(())
    }
}

/// Commands have failed: those that come next share what is left of their time, if no backend is up.
fn note_outage(since: &mut Option<Instant>, balancer: &Balancer) {
    if balancer.table.best(|_| true) == BackendState::Up {
        *since = None;
    } else if since.is_none_or(|since| since.elapsed() >= SHARED_OUTAGE_TIME) {
        *since = Some(Instant::now());
    }
}

/// Reads a whole reply that is not long, to what is no script.
fn short_reply(connection: &mut PooledConnection) -> Result<Vec<u8>, ForwardError> {
    let reply = short_reply_unchecked(connection)?;
    connection.check_answer(&reply)?;
    Ok(reply)
}

/// The same, also where it says that the server can't answer.
fn short_reply_unchecked(connection: &mut PooledConnection) -> Result<Vec<u8>, ForwardError> {
    let mut reply = Vec::new();
    if !connection.hold(&mut reply, MAX_SHORT_REPLY_BYTES)? {
        return Err(resp::Error::TooLong.into());
    }
    if reply.starts_with(b">") {
        return Err(resp::Error::Protocol(UNWANTED_PUSH).into());
    }
    Ok(reply)
}
