//! A connection to a backend for the time of one read, and what is done on it.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Pipeline;

use crate::backend::large_values::Turn;
use crate::backend::{BackendError, PooledConnection};
use crate::balance::failover::Attempt;
use crate::balance::slow::OpenRead;
use crate::health::Member;
use crate::render::json::{JsonWriter, RenderError, Survey, render, survey};
use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};

/// A reply up to this length is held whole, so that one exchange is enough for it. JSON is at most
/// a sixth shorter than its reply: that of a longer reply is longer than an answer that is held.
pub const HELD_VALUE_BYTES: usize = 80 * 1024;

/// A value that takes its backend so much memory is read in its turn, one at a time.
const LARGE_VALUE_BYTES: u64 = 1024 * 1024;

/// The longest name of a type: a module's has nine characters.
const MAX_KIND_CHARS: usize = 64;

/// Why a read was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The backend's side failed: another may be tried while the client has not been given a byte.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The client's side failed.
    #[error("the client: {0}")]
    Client(#[from] io::Error),
}

impl ReadError {
    /// Whether the type of a value changed between the look at it and the read.
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Redis(text)) if text.starts_with("WRONGTYPE"))
    }
}

impl From<resp::Error> for ReadError {
    fn from(error: resp::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<RenderError> for ReadError {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::Reply(error) => error.into(),
            RenderError::Sink(error) => Self::Client(error),
            RenderError::Changed => Self::Backend(BackendError::Changed),
        }
    }
}

/// The commands that say of each key what type it has and, roughly, how large it is. Both take
/// Redis the same short time whatever the value's size.
pub fn describe<K: AsRef<[u8]>>(keys: &[K]) -> Vec<u8> {
    let mut commands = Pipeline::with_capacity(2 * keys.len());
    for key in keys {
        commands.cmd("TYPE").arg(key.as_ref());
        commands.cmd("MEMORY").arg("USAGE").arg(key.as_ref()).arg("SAMPLES").arg(1);
    }
    commands.get_packed_pipeline()
}

/// What a key holds.
pub struct KeyInfo {
    /// As `TYPE` names it.
    pub name: String,
    /// About how many bytes of the backend's memory it takes; 0 where the backend won't say.
    pub bytes: u64,
}

impl KeyInfo {
    /// Whether there is no such key.
    pub fn is_missing(&self) -> bool {
        self.name == "none"
    }

    /// The type, when it is one that we serve.
    pub fn kind(&self) -> Option<ValueType> {
        ValueType::from_name(&self.name)
    }
}

/// A connection for the time of one read. Unless it is [ended](Self::end), it is closed: a
/// connection on which a reply was not read to its end is of no use to the next.
pub struct Exchange<'a> {
    backend: &'a Arc<Member>,
    /// That the read is unanswered, where it is not quick.
    open: Option<&'a Arc<OpenRead>>,
    /// For commands and replies beyond those that have a method here.
    pub connection: PooledConnection,
}

impl<'a> Exchange<'a> {
    /// Sends the first commands, which every server answers at once: so they show whether this one
    /// answers, before a read is sent that may keep it busy.
    pub fn begin(attempt: &'a Attempt, commands: &[u8]) -> Result<Self, BackendError> {
        let (backend, open) = (&attempt.backend, attempt.open.as_ref());
        let wait_policy = attempt.wait_policy();
        let needs_probe = wait_policy.needs_probe();
        let first = match needs_probe {
            true => backend.probing_policy(),
            false => wait_policy.clone(),
        };
        let sent = backend.request(backend.own_mode(), commands, first, |_| true);
        let mut connection =
            if needs_probe { sent.map_err(BackendError::of_probe)? } else { sent? };
        connection.set_wait_policy(wait_policy, Duration::ZERO);
        Ok(Self { backend, open, connection })
    }

    /// All replies have been read to their end: the connection is for others.
    pub fn end(self) {
        self.backend.backend.keep_or_share(self.connection);
    }

    /// Reads what one key's [`describe`] brought.
    pub fn look(&mut self) -> Result<KeyInfo, resp::Error> {
        let from = self.connection.replies();
        let name = reply::simple(from)?.chars().take(MAX_KIND_CHARS).collect();
        let bytes = match reply::integer(from) {
            Ok(bytes) => bytes.unwrap_or(0).unsigned_abs(),
            // Not allowed, or not known to this server: then no value counts as large.
            Err(resp::Error::Redis(_)) => 0,
            Err(error) => return Err(error),
        };
        Ok(KeyInfo { name, bytes })
    }

    /// Sends the command that reads a value of about `bytes`, in its turn where that is large; the
    /// reply has begun.
    pub fn read(&mut self, command: &[u8], bytes: u64) -> Result<&mut impl BufRead, BackendError> {
        let turn = self.turn(command, bytes)?;
        self.send(command, turn.as_ref())?;
        drop(turn);
        Ok(self.connection.replies())
    }

    /// Whether a value of so many bytes is read in its turn.
    pub fn is_large(bytes: u64) -> bool {
        bytes >= LARGE_VALUE_BYTES
    }

    /// Surveys what `command` replies; `None` when there is no such value.
    pub fn find<'c>(
        &mut self,
        key: &[u8],
        command: &'c [u8],
        kind: ValueType,
        bytes: u64,
    ) -> Result<Option<Found<'c>>, ReadError>
    where
        'a: 'c,
    {
        let turn = self.turn(command, bytes)?;
        if let Some(survey) = turn.as_ref().and_then(Turn::survey) {
            return Ok(Some(Found { command, kind, survey, held: None, turn }));
        }
        let began = Instant::now();
        self.send(command, turn.as_ref())?;
        let mut held = Vec::new();
        let is_whole = self.connection.hold(&mut held, HELD_VALUE_BYTES)?;
        let survey = survey(kind, &mut (&held[..]).chain(self.connection.replies()))?;
        if survey.is_empty && (kind != ValueType::Stream || !self.is_empty_stream(key)?) {
            return Ok(None);
        }
        let survey = Arc::new(survey);
        if let Some(turn) = &turn {
            turn.share(began, &survey);
        }
        let held = is_whole.then_some(held);
        Ok(Some(Found { command, kind, survey, held, turn }))
    }

    /// Whether there is a stream without entries: what is gone has none either.
    fn is_empty_stream(&mut self, key: &[u8]) -> Result<bool, ReadError> {
        let mut commands = Pipeline::new();
        commands.cmd("XLEN").arg(key).cmd("EXISTS").arg(key);
        self.connection.send(&commands.get_packed_pipeline())?;
        let from = self.connection.replies();
        let (length, exists) = (reply::integer(from), reply::integer(from));
        Ok(length? == Some(0) && exists? == Some(1))
    }

    /// Asks for what was found once more, where it is not held, and ends our turn: the backend has
    /// made the reply, and how fast the client takes it concerns nobody else.
    pub fn ready(&mut self, found: Found) -> Result<Ready, ReadError> {
        if found.held.is_none() {
            self.send(found.command, found.turn.as_ref())?;
        }
        Ok(Ready { kind: found.kind, survey: found.survey, held: found.held })
    }

    /// Writes what is ready. Returns its digest, unless what was written may not be what was
    /// surveyed.
    pub fn write<W: Write>(
        &mut self,
        ready: Ready,
        json: &mut JsonWriter<W>,
    ) -> Result<Option<u64>, ReadError> {
        let Ready { kind, survey, held } = ready;
        if let Some(held) = held {
            render(kind, &mut &held[..], &survey, json)?;
            return Ok(Some(survey.digest));
        }
        match render(kind, self.connection.replies(), &survey, json).map_err(ReadError::from) {
            Err(failure) if failure.is_wrong_type() => Err(BackendError::Changed.into()),
            written => written.map(|()| None),
        }
    }

    /// Waits for our turn, where the value is large.
    fn turn<'c>(&self, command: &'c [u8], bytes: u64) -> Result<Option<ValueTurn<'c>>, BackendError>
    where
        'a: 'c,
    {
        if !Self::is_large(bytes) {
            return Ok(None);
        }
        self.backend.large_reads.turn(command).map(Some).ok_or(BackendError::Busy)
    }

    /// Sends a command and waits for its reply to begin.
    fn send(&mut self, command: &[u8], turn: Option<&ValueTurn>) -> Result<(), BackendError> {
        let sent = self.connection.send(command);
        match (&sent, self.open, turn) {
            (Ok(()), Some(open), _) => open.note_answer(),
            (Err(error), _, Some(turn)) if error.is_unanswered() => turn.give_up(),
            _ => {}
        }
        sent
    }
}

/// A turn at a large value.
type ValueTurn<'a> = Turn<'a, Survey>;

/// A value that can be written: its reply has begun, or is held.
pub struct Ready {
    kind: ValueType,
    survey: Arc<Survey>,
    held: Option<Vec<u8>>,
}

/// A value of which all is known that must be before it is written.
pub struct Found<'c> {
    command: &'c [u8],
    kind: ValueType,
    survey: Arc<Survey>,
    /// The whole reply, where it is short.
    held: Option<Vec<u8>>,
    /// Ours until the backend has made the reply.
    turn: Option<ValueTurn<'c>>,
}
