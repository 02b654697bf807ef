//! One read on a connection to a backend.

use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outcome::ReadError;
use crate::backend::large_values::Turn;
use crate::backend::{BackendError, PooledConnection};
use crate::balance::failover::Attempt;
use crate::balance::slow::OpenRead;
use crate::health::Member;
use crate::render::json::{JsonWriter, Survey, render, survey};
use crate::resp::value_type::ValueType;
use crate::resp::{command, reply};

/// Longest reply that is held in memory, so that its command is sent once. JSON is at most a sixth
/// shorter than its reply, so the JSON of a longer reply does not fit into a held response either.
pub(super) const HELD_REPLY_BYTES: usize = 80 * 1024;

/// A value that takes its backend this much memory waits for its turn.
const LARGE_VALUE_BYTES: u64 = 1024 * 1024;

/// A connection that serves one read.
///
/// After [`release`](Self::release) others may use the connection. Otherwise it is closed: a reply
/// that was not read to its end would be taken for that of the next command.
pub(super) struct Exchange<'a> {
    backend: &'a Arc<Member>,
    /// The read's entry in the slow lane, unless it is a quick one.
    open: Option<&'a Arc<OpenRead>>,
    pub connection: PooledConnection,
}

impl<'a> Exchange<'a> {
    /// Sends commands that every server answers at once. A server that does not answer these is
    /// left before it gets a read that may keep it busy.
    pub fn begin(attempt: &'a Attempt, commands: &[u8]) -> Result<Self, BackendError> {
        let backend = &attempt.backend;
        let wait_policy = attempt.wait_policy();
        let needs_probe = wait_policy.needs_probe();
        let first = match needs_probe {
            true => backend.probing_policy(),
            false => wait_policy.clone(),
        };
        let sent = backend.request(backend.own_mode(), commands, first);
        let mut connection =
            if needs_probe { sent.map_err(BackendError::of_probe)? } else { sent? };
        connection.set_wait_policy(wait_policy, Duration::ZERO);
        Ok(Self { backend, open: attempt.open.as_ref(), connection })
    }

    /// Gives the connection back. All replies must have been read to their ends.
    pub fn release(self) {
        self.backend.backend().keep_or_share(self.connection);
    }

    /// Sends the command that reads about `bytes` of a value, and waits for its reply to begin.
    pub fn read_value(
        &mut self,
        command: &[u8],
        bytes: u64,
    ) -> Result<&mut impl BufRead, BackendError> {
        let turn = self.wait_for_turn(command, bytes)?;
        self.send(command, turn.as_ref())?;
        drop(turn);
        Ok(self.connection.replies())
    }

    /// Surveys the value that `command` reads, and has its reply ready to be written as JSON.
    /// Returns `None` if there is no such value.
    ///
    /// A short reply is held. For a longer one the command is sent twice: once for the survey and
    /// once to be written. Our turn at a large value ends here. By then the backend has made the
    /// reply, so how fast our client reads it concerns no other.
    pub fn open_value(
        &mut self,
        key: &[u8],
        command: &[u8],
        value_type: ValueType,
        bytes: u64,
    ) -> Result<Option<OpenValue>, ReadError> {
        let turn = self.wait_for_turn(command, bytes)?;
        let (survey, held) = match turn.as_ref().and_then(Turn::survey) {
            Some(shared) => (shared, None),
            None => {
                let began = Instant::now();
                self.send(command, turn.as_ref())?;
                let mut held = Vec::new();
                let is_whole = self.connection.hold(&mut held, HELD_REPLY_BYTES)?;
                let reply = &mut (&held[..]).chain(self.connection.replies());
                let survey = survey(value_type, reply)?;
                if survey.is_empty
                    && (value_type != ValueType::Stream || !self.is_empty_stream(key)?)
                {
                    return Ok(None);
                }
                let survey = Arc::new(survey);
                if let Some(turn) = &turn {
                    turn.share(began, &survey);
                }
                (survey, is_whole.then_some(held))
            }
        };
        if held.is_none() {
            self.send(command, turn.as_ref())?;
        }
        Ok(Some(OpenValue { value_type, survey, held }))
    }

    /// Whether there is a stream that has no entries. A key that is gone has none either.
    fn is_empty_stream(&mut self, key: &[u8]) -> Result<bool, ReadError> {
        let mut commands = Vec::new();
        command("XLEN").arg(key).append_to(&mut commands);
        command("EXISTS").arg(key).append_to(&mut commands);
        self.connection.send(&commands)?;
        let from = self.connection.replies();
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
        let replies = self.connection.replies();
        match render(value_type, replies, &survey, json).map_err(ReadError::from) {
            Err(error) if error.is_wrong_type() => Err(BackendError::Changed.into()),
            written => written.map(|()| None),
        }
    }

    /// Waits for our turn if the value is large.
    fn wait_for_turn<'c>(
        &self,
        command: &'c [u8],
        bytes: u64,
    ) -> Result<Option<Turn<'c, Survey>>, BackendError>
    where
        'a: 'c,
    {
        if bytes < LARGE_VALUE_BYTES {
            return Ok(None);
        }
        self.backend.large_reads.turn(command).map(Some).ok_or(BackendError::Busy)
    }

    /// Sends the command of the read itself, and waits for its reply to begin.
    fn send(&mut self, command: &[u8], turn: Option<&Turn<Survey>>) -> Result<(), BackendError> {
        let sent = self.connection.send(command);
        match (&sent, self.open, turn) {
            (Ok(()), Some(open), _) => open.reply_began(),
            (Err(error), _, Some(turn)) if error.is_unanswered() => turn.give_up(),
            _ => {}
        }
        sent
    }
}

/// A value whose reply has begun, or is held.
pub(super) struct OpenValue {
    value_type: ValueType,
    survey: Arc<Survey>,
    held: Option<Vec<u8>>,
}
