//! One client's session: what it knows, and its loop, which reads commands and hands them on.

use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::client::ClientState;
use super::errors::SessionEnd;
use super::in_flight::InFlight;
use super::local_reply::LocalReply;
use super::memory::{Budget, IDLE_CAPACITY_BYTES, Share};
use super::reply_writer::ReplyWriter;
use super::subscription::Subscriptions;
use super::transaction::Transaction;
use super::upstream::Upstream;
use crate::backend::{Mode, is_timeout};
use crate::balance::{Balancer, Phase};
use crate::metrics::Refusal;
use crate::policy::Policy;
use crate::resp::{CommandParser, Protocol, write};
use crate::session::client::{Client, TICK};

/// Number of bytes that are taken in of a client at a time.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// How long a command may take from its first byte to its last, at least.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Number of bytes of a command for each of which, once they have come, it may take a second longer.
const BYTES_A_SECOND: usize = 1024 * 1024;

/// Bytes of long commands that have begun, of all clients together.
static UNFINISHED: Budget = Budget::new(1024 * 1024 * 1024);

/// Mode of a new session.
pub const FIRST_MODE: Mode = Mode { database: 0, protocol: Protocol::Resp2 };

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
    pub(super) transaction: Option<Transaction>,
    pub(super) subscriptions: Option<Subscriptions>,
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
}

impl<'a> Session<'a> {
    #[inline(never)]
    pub(super) fn boxed(client: Client<'a>, balancer: &'a Balancer) -> Box<Self> {
        let (commands_version, policy) = balancer.policy();
        Box::new(Self {
            balancer,
            state: ClientState::new(&client),
            // Another client waits for a connection as long as the backend timeout.
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
            local_reply: LocalReply::default(),
            has_read_the_last: false,
            outage_since: None,
        })
    }

    #[inline(never)]
    pub(super) fn run(
        &mut self,
        mut input: Vec<u8>,
        since: Instant,
    ) -> Result<Infallible, SessionEnd> {
        let mut parser = CommandParser::new(self.balancer.config.max_argument_bytes());
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
    fn refuse_with(&mut self, why: &str) -> SessionEnd {
        self.refuse(why.to_owned(), |out| write::error(out, format!("ERR {why}")))
    }

    /// Tells the client what is wrong with what it sent, after the replies that it still gets.
    #[inline(never)]
    fn refuse(&mut self, why: String, write: impl FnOnce(&mut Vec<u8>)) -> SessionEnd {
        if let Err(ended) = self.run_batch() {
            return ended;
        }
        if !self.state.reply_mode.next() {
            write(self.writer.out());
        }
        self.writer.count_refusal(b"", Refusal::BadRequest);
        match self.writer.deliver() {
            Ok(()) => SessionEnd::Refused(why),
            Err(error) => error.into(),
        }
    }
}
