//! One read on a connection to a backend: the look at a key, values.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::large_values::{LARGE_VALUE_BYTES, NoTurn};
use crate::backend::{BackendError, Mode, PooledConnection, WaitPolicy, is_not_permitted};
use crate::balance::failover::Attempt;
use crate::balance::slow::OpenRead;
use crate::health::Member;
use crate::http::ErrorBody;
use crate::render::json::{JsonWriter, RenderError, Survey, render, survey};
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::client::ClientHandle;

/// Longest reply that is held in memory, so that its command is sent once. Over a slow link a second pass takes
/// as long as the first: with 128 KiB, a value of 100 KB comes at 100 KB/s within a second, not in two.
pub(super) const HELD_REPLY_BYTES: usize = 128 * 1024;

/// How often one request looks at a key whose type changes before its value is read. Each look is
/// short, so that even a key that is replaced all the time can be read.
pub(super) const MAX_LOOKS: usize = 10;

/// The longest type name that is kept. A module's type has nine characters.
const MAX_TYPE_NAME_CHARS: usize = 64;

/// Keys whose values are asked for together.
pub(super) const BATCH_KEYS: usize = 128;

/// How a read on one backend ended without an error.
pub(super) enum ReadOutcome<'q> {
    /// The response is written, all but its end. Holds the digest for its ETag, if it gets one.
    Written(Option<u64>),
    /// What is asked for is not there, or can't be shown: the response is this status and error.
    /// Nothing is written.
    Refused(u16, ErrorBody<'q>),
}

/// Memory that counts for a read besides the keys of a page. A long value takes up to 192 KiB while it is read, but
/// no more clients read at a time than there are connections to backends.
pub(super) const HTTP_READ_BYTES: usize = 32 * 1024;

/// Why a read on one backend failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The backend's side failed. Another may be tried while the client has got no byte.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The client's side failed.
    #[error("the client: {0}")]
    Client(#[from] io::Error),
    /// The request's cursor belongs to another backend.
    #[error("the cursor belongs to another backend")]
    OtherBackend,
    /// The keys of a page would take too much memory.
    #[error("the keys are too long for one page: lower limit")]
    KeysTooLong,
}

impl ReadError {
    /// Whether the value's type changed between the look at its key and the read.
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Redis(text)) if text.starts_with("WRONGTYPE"))
    }
}

impl From<NoTurn> for ReadError {
    fn from(no_turn: NoTurn) -> Self {
        match no_turn {
            NoTurn::Backend(error) => Self::Backend(error),
            NoTurn::ClientLeft => Self::Client(io::Error::other("left while its read waited")),
        }
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

/// A connection that serves one read.
///
/// Others may use the connection after a read that has not failed. Otherwise it is closed: a reply that
/// was not read to its end would be taken for that of the next command.
pub(super) struct Exchange<'a> {
    backend: &'a Arc<Member>,
    /// The read's entry in the slow lane, unless it is a quick one.
    open: Option<&'a Arc<OpenRead>>,
    peer: ClientHandle<'a>,
    mode: Mode,
    wait_policy: WaitPolicy,
    /// `None` while we wait for our turn: others can use it meanwhile.
    connection: Option<PooledConnection>,
}

impl<'a> Exchange<'a> {
    /// Sends commands that every server answers at once, and lets `read` take their replies and write
    /// the response. If that returns `None`, what the replies say has changed meanwhile, and all is
    /// done again. A server that does not answer these commands is left before it gets a read that may
    /// keep it busy. All is read in this `database`, or else in that of the backend's URL.
    pub fn serve<T>(
        attempt: &'a Attempt,
        peer: ClientHandle<'a>,
        database: Option<i64>,
        look: &[u8],
        mut read: impl FnMut(&mut Self) -> Result<Option<T>, ReadError>,
    ) -> Result<T, ReadError> {
        let (backend, open) = (&attempt.backend, attempt.open.as_ref());
        let wait_policy = attempt.wait_policy();
        let mode = backend.mode_in(database);
        let mut exchange = Self { backend, open, peer, mode, wait_policy, connection: None };
        exchange.connect(look)?;
        for looks in 0..MAX_LOOKS {
            if looks > 0 {
                exchange.send_quick(look)?;
            }
            let result = match read(&mut exchange) {
                Ok(None) => continue,
                Err(error) if error.is_wrong_type() => continue,
                Ok(Some(outcome)) => Ok(outcome),
                Err(error) => Err(error),
            };
            if matches!(result, Ok(_) | Err(ReadError::OtherBackend)) {
                exchange.give_back();
            }
            return result;
        }
        Err(BackendError::Changed.into())
    }

    /// Takes a connection, sends commands that every server answers at once, and waits for the first reply
    /// to begin.
    fn connect(&mut self, look: &[u8]) -> Result<&mut PooledConnection, BackendError> {
        let (backend, wait_policy) = (self.backend, &self.wait_policy);
        let mut connection = match wait_policy.needs_probe() {
            true => backend
                .request(self.mode, look, backend.probing_policy(), |_| true)
                .map_err(BackendError::of_probe)?,
            false => backend.request(self.mode, look, wait_policy.clone(), |_| true)?,
        };
        connection.set_wait_policy(wait_policy.clone(), Duration::ZERO);
        Ok(self.connection.insert(connection))
    }

    /// Gives the connection back. All replies on it have been read.
    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.backend.backend.keep_or_share(connection);
        }
    }

    /// Returns the connection, or another if it was given back.
    fn connection(&mut self) -> Result<&mut PooledConnection, BackendError> {
        if self.connection.is_none() {
            let connection = self.connect(&command("PING").into_bytes())?;
            reply::simple(connection.replies())?;
        }
        self.connection.as_mut().ok_or(BackendError::Busy)
    }

    /// Returns the replies as they arrive.
    pub fn replies(&mut self) -> Result<&mut impl BufRead, BackendError> {
        Ok(self.connection()?.replies())
    }

    /// Sends commands whose replies are short; the reply to a large value before them has been read.
    pub fn send_quick(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        let connection = self.connection()?;
        connection.turn = None;
        connection.send(commands)
    }

    /// Sends commands that every server answers at once; returns where their replies come.
    pub fn ask(&mut self, commands: Vec<u8>) -> Result<&mut impl BufRead, BackendError> {
        self.send_quick(&commands)?;
        self.replies()
    }

    /// Reads about `bytes` of values by `commands`: sends these, and waits for the first reply to begin.
    pub fn read_value(
        &mut self,
        commands: &[u8],
        bytes: u64,
    ) -> Result<&mut impl BufRead, ReadError> {
        self.take_turn(bytes)?;
        self.send(commands)?;
        Ok(self.replies()?)
    }

    /// Surveys the value that `command` reads, and has its reply ready to be written as JSON.
    /// Returns `None` if there is no such value.
    ///
    /// A short reply is held. For a longer one the command is sent twice: once for the survey and
    /// once to be written. Our turn at a large value ends when the reply has been read, which does not
    /// depend on how fast our client takes it.
    pub fn open_value(
        &mut self,
        key: &[u8],
        command: &[u8],
        value_type: ValueType,
        bytes: u64,
    ) -> Result<Option<OpenValue>, ReadError> {
        self.take_turn(bytes)?;
        let turn = self.connection()?.turn.as_ref();
        let (survey, held) = match turn.and_then(|turn| turn.survey(command)) {
            Some(shared) => (shared, None),
            None => {
                let began = Instant::now();
                self.send(command)?;
                let (survey, held) = self.survey_reply(value_type)?;
                if survey.is_empty
                    && (value_type != ValueType::Stream || !self.is_empty_stream(key)?)
                {
                    return Ok(None);
                }
                let survey = Arc::new(survey);
                if let Some(turn) = &self.connection()?.turn {
                    turn.share(command, began, &survey);
                }
                (survey, held)
            }
        };
        if held.is_none() {
            self.send(command)?;
        }
        Ok(Some(OpenValue { value_type, survey, held }))
    }

    /// Surveys the next reply. Returns the reply, too, unless it is too long to be held.
    pub fn survey_reply(
        &mut self,
        value_type: ValueType,
    ) -> Result<(Survey, Option<Vec<u8>>), ReadError> {
        let mut held = Vec::new();
        let connection = self.connection()?;
        let is_whole = connection.hold(&mut held, HELD_REPLY_BYTES)?;
        let survey = survey(value_type, &mut (&held[..]).chain(connection.replies()))?;
        Ok((survey, is_whole.then_some(held)))
    }

    /// Whether there is a stream that has no entries. A key that is gone has none either.
    fn is_empty_stream(&mut self, key: &[u8]) -> Result<bool, ReadError> {
        let commands = ["XLEN", "EXISTS"].map(|name| command(name).arg(key).into_bytes());
        let from = self.ask(commands.concat())?;
        let (length, exists) = (reply::integer(from), reply::integer(from));
        Ok(length? == Some(0) && exists? == Some(1))
    }

    /// Writes an open value. Returns its digest, unless the value may have changed after the survey.
    pub fn write_value<W: Write>(
        &mut self,
        value: OpenValue,
        json: &mut JsonWriter<W>,
    ) -> Result<Option<u64>, ReadError> {
        let OpenValue { value_type, survey, held } = value;
        if let Some(held) = held {
            render(value_type, &mut &held[..], &survey, json)?;
            return Ok(Some(survey.digest));
        }
        match render(value_type, self.replies()?, &survey, json).map_err(ReadError::from) {
            Err(error) if error.is_wrong_type() => Err(BackendError::Changed.into()),
            written => written.map(|()| None),
        }
    }

    /// Sends the commands of the read itself, and waits for the reply to begin: with a turn, while no other
    /// client does so.
    fn send(&mut self, commands: &[u8]) -> Result<(), BackendError> {
        let open = self.open;
        let connection = self.connection()?;
        match connection.turn.take() {
            Some(turn) => {
                turn.ask(|| connection.send_next(commands))?;
                connection.turn = Some(turn);
            }
            None => connection.send_next(commands)?,
        }
        if let Some(open) = open {
            open.reply_began();
        }
        Ok(())
    }

    /// Waits for our turn if the value is large. Others can use the connection meanwhile.
    fn take_turn(&mut self, bytes: u64) -> Result<(), ReadError> {
        let connection = self.connection()?;
        connection.turn = None;
        if bytes < LARGE_VALUE_BYTES {
            return Ok(());
        }
        let run_id = connection.run_id.clone();
        let queue = &self.backend.large_values;
        let turn = match queue.try_turn() {
            Some(turn) => turn,
            None => {
                self.give_back();
                queue.turn(|| self.peer.is_gone())?
            }
        };
        let connection = self.connection()?;
        connection.turn = Some(turn);
        // What is known of the value, or a cursor into it, holds for one server process.
        if connection.run_id == run_id { Ok(()) } else { Err(BackendError::Changed.into()) }
    }
}

/// A value whose reply has begun, or is held.
pub(super) struct OpenValue {
    value_type: ValueType,
    survey: Arc<Survey>,
    held: Option<Vec<u8>>,
}

/// Returns the commands whose replies [`KeyInfo::read`] reads, for each key. They take Redis the
/// same short time whatever the size of the value.
pub(super) fn look_at<K: AsRef<[u8]>>(keys: &[K]) -> Vec<u8> {
    let mut commands = Vec::new();
    for key in keys {
        command("TYPE").arg(key).append_to(&mut commands);
        let usage = command("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").number(1);
        usage.append_to(&mut commands);
    }
    commands
}

/// What `TYPE` says of a key that is not there.
const MISSING: &str = "none";

/// What is known of a key before its value is read.
pub(super) struct KeyInfo {
    /// The type as `TYPE` names it; empty if our user may not ask.
    pub type_name: String,
    /// About how many bytes of memory the value takes; 0 if the backend does not say.
    pub bytes: u64,
}

impl KeyInfo {
    /// Reads the replies for one key of [`look_at`], all of them even if one is an error.
    pub fn read(from: &mut impl BufRead) -> Result<Self, resp::Error> {
        let type_name = match reply::simple(from) {
            Err(error @ resp::Error::Redis(_)) => Err(error),
            name => Ok(name?.chars().take(MAX_TYPE_NAME_CHARS).collect()),
        };
        let bytes = match reply::integer(from) {
            Ok(bytes) => bytes.unwrap_or(0).unsigned_abs(),
            // The server does not know `MEMORY`, or our user may not use it: no value is large then.
            Err(resp::Error::Redis(_)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { type_name: type_name?, bytes })
    }

    /// What is known of a key of which our user may not ask.
    pub fn unknown() -> Self {
        Self { type_name: String::new(), bytes: 0 }
    }

    /// Whether there is no such key.
    pub fn is_missing(&self) -> bool {
        self.type_name == MISSING
    }

    /// Makes it look as if there were no such key.
    pub fn hide(&mut self) {
        *self = Self { type_name: MISSING.to_owned(), bytes: 0 };
    }

    /// Returns the type, if it is one that we serve.
    pub fn value_type(&self) -> Option<ValueType> {
        ValueType::from_name(&self.type_name)
    }
}

/// A fact that our user may not ask for is left out.
pub(super) fn if_permitted<T>(reply: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match reply {
        Err(resp::Error::Redis(text)) if is_not_permitted(&text) => Ok(None),
        reply => reply.map(Some),
    }
}
