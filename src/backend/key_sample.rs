//! Some keys of a server, chosen at random, and how many of some keys it has.

use std::io::BufRead;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{Backend, BackendError, Mode, WaitPolicy};
use crate::resp::{self, CommandBuilder, Protocol, command, reply};

/// Longest name of a key that is compared, in bytes. With a longer one, nothing is compared.
const MAX_KEY_BYTES: u64 = 4096;

impl Backend {
    /// Connects to the server process that was accepted, for questions that have time until `deadline`.
    pub fn dial_accepted(&self, deadline: Instant) -> Result<Connection, BackendError> {
        let mode = Mode { database: 0, protocol: Protocol::Resp2 };
        self.dial(mode, WaitPolicy::Until(deadline), Duration::ZERO)
    }
}

impl Connection {
    /// Returns at most so many keys of a database, chosen at random; some may be the same.
    pub fn random_keys(
        &mut self,
        database: u32,
        count: usize,
    ) -> Result<Vec<Vec<u8>>, BackendError> {
        let questions = (0..count).map(|_| command("RANDOMKEY"));
        let keys = self.ask_in(database, questions, |from| match reply::bulk(from)? {
            Some(length) if length > MAX_KEY_BYTES => Err(resp::Error::TooLong),
            Some(length) => reply::rest(from, length).map(Some),
            None => Ok(None),
        })?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// Returns how many of these keys are in a database.
    pub fn count_keys(&mut self, database: u32, keys: &[Vec<u8>]) -> Result<usize, BackendError> {
        // One by one, because a node of a Cluster refuses keys of several slots.
        let questions = keys.iter().map(|key| command("EXISTS").arg(key));
        let found = self.ask_in(database, questions, |from| reply::integer(from))?;
        Ok(found.into_iter().filter(|found| *found == Some(1)).count())
    }

    /// Asks all of these questions in a database, and selects database 0 again.
    fn ask_in<T>(
        &mut self,
        database: u32,
        questions: impl ExactSizeIterator<Item = CommandBuilder>,
        read: impl Fn(&mut &mut dyn BufRead) -> Result<T, resp::Error>,
    ) -> Result<Vec<T>, BackendError> {
        let count = questions.len();
        let mut commands = command("SELECT").number(database).into_bytes();
        questions.for_each(|question| question.append_to(&mut commands));
        command("SELECT").number(0).append_to(&mut commands);
        self.send(&commands)?;
        let from: &mut &mut dyn BufRead = &mut (self.replies() as _);
        reply::simple(from)?;
        let answers = (0..count).map(|_| read(from)).collect::<Result<_, _>>()?;
        reply::simple(from)?;
        Ok(answers)
    }
}
