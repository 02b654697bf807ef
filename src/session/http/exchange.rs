//! One read on a connection to a backend: the look at a key, the scan for the keys of a page, values.

use std::cmp::Ordering;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rights::Rights;
use crate::backend::large_values::{LARGE_VALUE_BYTES, NoTurn};
use crate::backend::{
    BackendError, PooledConnection, WaitPolicy, is_not_permitted, read_server_info,
};
use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::balance::failover::Attempt;
use crate::balance::slow::OpenRead;
use crate::health::Member;
use crate::http::ErrorBody;
use crate::http::target::{Cursor, PageQuery};
use crate::memory::Share;
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

/// Highest `COUNT` of one SCAN: few enough not to keep Redis from others for long.
const MAX_STEP_KEYS: usize = 1000;
const _: () = assert!(MAX_STEP_KEYS as u64 <= MAX_SCAN_COUNT);

/// A page ends once its keys together are this long, whatever its `limit`.
const PAGE_KEY_BYTES: usize = 4 * 1024 * 1024;

/// Longest keys of one SCAN together. They are held in memory, so more are refused.
const MAX_STEP_BYTES: usize = 64 * 1024 * 1024;

/// A page ends after this time: its keys are rare in a large database.
const PAGE_SCAN_TIME: Duration = Duration::from_secs(10);

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
    wait_policy: WaitPolicy,
    /// `None` while we wait for our turn: others can use it meanwhile.
    connection: Option<PooledConnection>,
}

impl<'a> Exchange<'a> {
    /// Sends commands that every server answers at once, and lets `read` take their replies and write
    /// the response. If that returns `None`, what the replies say has changed meanwhile, and all is
    /// done again. A server that does not answer these commands is left before it gets a read that may
    /// keep it busy.
    pub fn serve<T>(
        attempt: &'a Attempt,
        peer: ClientHandle<'a>,
        look: &[u8],
        mut read: impl FnMut(&mut Self) -> Result<Option<T>, ReadError>,
    ) -> Result<T, ReadError> {
        let (backend, open) = (&attempt.backend, attempt.open.as_ref());
        let wait_policy = attempt.wait_policy();
        let mut exchange = Self { backend, open, peer, wait_policy, connection: None };
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
                .request(backend.own_mode(), look, backend.probing_policy(), |_| true)
                .map_err(BackendError::of_probe)?,
            false => backend.request(backend.own_mode(), look, wait_policy.clone(), |_| true)?,
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
    /// The type as `TYPE` names it.
    pub type_name: String,
    /// About how many bytes of memory the value takes; 0 if the backend does not say.
    pub bytes: u64,
}

impl KeyInfo {
    /// Reads the replies for one key of [`look_at`].
    pub fn read(from: &mut impl BufRead) -> Result<Self, resp::Error> {
        let type_name = reply::simple(from)?.chars().take(MAX_TYPE_NAME_CHARS).collect();
        let bytes = match reply::integer(from) {
            Ok(bytes) => bytes.unwrap_or(0).unsigned_abs(),
            // The server does not know `MEMORY`, or our user may not use it: no value is large then.
            Err(resp::Error::Redis(_)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { type_name, bytes })
    }

    /// Whether there is no such key.
    pub fn is_missing(&self) -> bool {
        self.type_name == MISSING
    }

    /// Makes it look as if there were no such key.
    pub fn hide(&mut self) {
        MISSING.clone_into(&mut self.type_name);
        self.bytes = 0;
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

/// Reads the reply to `INFO server`: which server process answers.
pub(super) fn read_server_run_id(exchange: &mut Exchange) -> Result<String, ReadError> {
    let (run_id, _) = read_server_info(exchange.replies()?)?;
    // A cursor without it could be taken to another server.
    let not_allowed =
        "NOPERM listings need INFO: the balancer's user lacks the right +info there".to_owned();
    Ok(run_id.ok_or(resp::Error::Redis(not_allowed))?.to_string())
}

/// Reads the keys of one page from the server with this run id. Returns them in natural order, and the
/// link to the next page, if there is one.
pub(super) fn read_page_keys(
    exchange: &mut Exchange,
    query: &PageQuery,
    run_id: String,
    memory: &mut Share,
    rights: Option<&Rights>,
) -> Result<(Vec<Vec<u8>>, Option<String>), ReadError> {
    if query.cursor.as_ref().is_some_and(|cursor| cursor.run_id != run_id) {
        return Err(ReadError::OtherBackend);
    }
    let began = Instant::now();
    let (mut keys, mut bytes, mut scanned) = (Vec::new(), 0, 0);
    let mut position = query.cursor.as_ref().map_or(0, |cursor| cursor.position);
    loop {
        let step = next_step(query.limit - keys.len(), scanned, keys.len());
        scanned += step;
        let mut scan = command("SCAN").number(position);
        if let Some(pattern) = &query.pattern {
            scan = scan.arg("MATCH").arg(pattern);
        }
        let from = exchange.ask(scan.arg("COUNT").number(step).into_bytes())?;
        position = reply::scan_cursor(from)?;
        let most = bytes + MAX_STEP_BYTES;
        for _ in 0..reply::array(from)? {
            let key = match reply::bytes(from, most.saturating_sub(bytes) as u64) {
                Err(resp::Error::TooLong) => return Err(ReadError::KeysTooLong),
                key => key?,
            };
            if rights.is_some_and(|rights| !rights.may_read_key(&key)) {
                continue;
            }
            bytes += key.len() + size_of::<Vec<u8>>();
            keys.push(key);
            memory.set(HTTP_READ_BYTES + bytes).map_err(io::Error::from)?;
        }
        if position == 0
            || keys.len() >= query.limit
            || bytes >= PAGE_KEY_BYTES
            || began.elapsed() >= PAGE_SCAN_TIME
        {
            break;
        }
    }
    keys.sort_unstable_by(|a, b| natural_order(a, b));
    keys.dedup();
    let next = (position != 0).then(|| query.link(&Cursor { run_id, position }));
    Ok((keys, next))
}

/// Returns the `COUNT` that should bring the `wanted` keys, if `found` of those `scanned` did match.
/// A fixed one would take very many exchanges for a small page of rare keys.
fn next_step(wanted: usize, scanned: usize, found: usize) -> usize {
    let expected = wanted.saturating_mul(scanned.max(1)) / found.max(1);
    expected.clamp(1, MAX_STEP_KEYS)
}

/// Compares runs of digits as numbers and all else byte by byte: `actor:2` comes before `actor:10`.
fn natural_order(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(&x), Some(&y)) = (left.first(), right.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number_x, number_y) = (take_number(&mut left), take_number(&mut right));
            number_x.len().cmp(&number_y.len()).then_with(|| number_x.cmp(number_y))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            x.cmp(&y)
        };
        if order.is_ne() {
            return order;
        }
    }
    // They may differ in zeros before a number. Any order will do if it is always the same.
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Takes the digits at the beginning of `text`; returns them without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    &digits[digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len())..]
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
