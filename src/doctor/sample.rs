//! Some keys, chosen at random, compared on all servers.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::content::{Content, Row, differs, is_by_type, is_comparable, is_expiring};
use super::status::{ServerStatus, short};
use crate::backend::{BackendError, Connection, WaitPolicy};
use crate::render::json;
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};

/// Keys that are chosen on each server, from all its databases together.
const KEYS_PER_SERVER: usize = 40;

/// Limit of keys that are compared, however many servers there are.
const MAX_KEYS: usize = 400;

/// Limit of databases of which keys are compared.
const MAX_DATABASES: usize = 16;

/// Limit of keys' names; keys with longer ones are not compared.
const MAX_KEY_BYTES: u64 = 4096;

/// Limit of values' memory; of larger values only the type is compared.
const MAX_VALUE_BYTES: u64 = 64 * 1024;

/// Limit of all values that are read from a server; of further ones only the type is compared.
const MAX_SAMPLE_BYTES: u64 = 4 * 1024 * 1024;

/// How often keys that differ are read again: a client may be writing them, or a replica may lag.
const SECOND_LOOKS: usize = 4;

/// Pause before they are read again.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(100);

/// A database: one number on all servers, or on each server the number in its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Database {
    Numbered(i64),
    OfUrl,
}

/// A server whose data are compared.
pub(super) struct ComparedServer<'a> {
    /// Its index in the list of backends.
    pub index: usize,
    pub name: &'a str,
    pub status: &'a mut ServerStatus,
    /// The number of the database in its URL.
    pub url_database: i64,
    /// Whether it has notably fewer keys than others.
    pub is_short: bool,
    /// The failure after which it was asked no more.
    pub failure: Option<BackendError>,
}

/// A key that is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampledKey {
    pub database: Database,
    pub name: Vec<u8>,
}

/// The result of comparing keys.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many keys were compared.
    pub compared: usize,
    /// Keys of which only the type was compared.
    pub by_type: usize,
    /// Keys that only some servers have, and that expire.
    pub expiring: usize,
    /// Keys that changed each time that they were read.
    pub changing: usize,
    /// Keys that differ, with their content on each server.
    pub differing: Vec<(SampledKey, Row)>,
}

/// Chooses keys on each of the servers and compares them on all. Each server has `time` for each of a
/// few rounds.
pub fn compare(
    servers: &mut [ComparedServer],
    databases: &[Database],
    time: Duration,
) -> Comparison {
    let keys = choose_keys(servers, databases, time);
    let rows = read_all(servers, &keys, time);
    let mut open: Vec<(SampledKey, Row)> = keys.into_iter().zip(rows).collect();
    open.retain(|(_, row)| is_comparable(row));
    let by_type = open.iter().filter(|(_, row)| is_by_type(row)).count();
    let mut comparison = Comparison { compared: open.len(), by_type, ..Comparison::default() };
    open.retain(|(_, row)| differs(row));
    for _ in 0..SECOND_LOOKS {
        if open.is_empty() {
            break;
        }
        thread::sleep(SECOND_LOOK_AFTER);
        open = comparison.look_again(servers, open, time);
    }
    comparison.changing = open.len();
    let all = comparison.differing.len();
    comparison.differing.retain(|(_, row)| !is_expiring(row));
    comparison.expiring = all - comparison.differing.len();
    comparison
}

impl Comparison {
    /// Reads keys again that differed; returns those that have changed meanwhile and still differ.
    fn look_again(
        &mut self,
        servers: &mut [ComparedServer],
        open: Vec<(SampledKey, Row)>,
        time: Duration,
    ) -> Vec<(SampledKey, Row)> {
        let (keys, before): (Vec<SampledKey>, Vec<Row>) = open.into_iter().unzip();
        let now = read_all(servers, &keys, time);
        let mut changed = Vec::new();
        for ((key, before), now) in keys.into_iter().zip(before).zip(now) {
            match () {
                () if !is_comparable(&now) => self.compared -= 1,
                () if !differs(&now) => {}
                () if now == before => self.differing.push((key, now)),
                () => changed.push((key, now)),
            }
        }
        changed
    }
}

/// Asks all servers that have not failed, at the same time.
fn at_once<T: Send>(
    servers: &mut [ComparedServer],
    ask: impl Fn(&mut ComparedServer) -> Result<T, BackendError> + Sync,
) -> Vec<Option<T>> {
    let ask = |server: &mut ComparedServer| match server.failure {
        Some(_) => None,
        None => ask(server).map_err(|error| server.failure = Some(error)).ok(),
    };
    thread::scope(|scope| {
        let asking: Vec<_> = servers.iter_mut().map(|server| scope.spawn(|| ask(server))).collect();
        asking.into_iter().map(|asking| asking.join().ok().flatten()).collect()
    })
}

/// Chooses random keys of all servers, sorted.
fn choose_keys(
    servers: &mut [ComparedServer],
    databases: &[Database],
    time: Duration,
) -> Vec<SampledKey> {
    let chosen = at_once(servers, |server| choose(server, databases, Instant::now() + time));
    let keys: BTreeSet<SampledKey> = chosen.into_iter().flatten().flatten().collect();
    let mut keys: Vec<SampledKey> = keys.into_iter().collect();
    // The first keys are all of one database.
    fastrand::shuffle(&mut keys);
    keys.truncate(MAX_KEYS);
    keys.sort();
    keys
}

/// Reads the keys from all servers; returns a row for each key.
fn read_all(servers: &mut [ComparedServer], keys: &[SampledKey], time: Duration) -> Vec<Row> {
    let columns = at_once(servers, |server| read(server, keys, Instant::now() + time));
    (0..keys.len())
        .map(|key| {
            let content = |column: &Option<Vec<Content>>| Some(column.as_ref()?.get(key)?.clone());
            columns.iter().map(content).collect()
        })
        .collect()
}

impl ComparedServer<'_> {
    fn number(&self, database: Database) -> i64 {
        match database {
            Database::Numbered(number) => number,
            Database::OfUrl => self.url_database,
        }
    }

    /// Sends commands, if there are any, whose replies have to come until `deadline`.
    fn send(
        &mut self,
        commands: &[u8],
        deadline: Instant,
    ) -> Result<&mut Connection, BackendError> {
        let connection = &mut self.status.connection;
        connection.set_wait_policy(WaitPolicy::Until(deadline), Duration::ZERO);
        if !commands.is_empty() {
            connection.send(commands)?;
        }
        Ok(connection)
    }
}

/// Chooses random keys of one server.
fn choose(
    server: &mut ComparedServer,
    databases: &[Database],
    deadline: Instant,
) -> Result<Vec<SampledKey>, BackendError> {
    let databases = &databases[..databases.len().min(MAX_DATABASES)];
    let mut keys = Vec::new();
    for &database in databases {
        let mut questions = Vec::new();
        command("SELECT").number(server.number(database)).append_to(&mut questions);
        let count = (KEYS_PER_SERVER / databases.len()).max(1);
        (0..count).for_each(|_| command("RANDOMKEY").append_to(&mut questions));
        let connection = server.send(&questions, deadline)?;
        reply::simple(connection.replies())?;
        for _ in 0..count {
            let name = short(connection.replies(), MAX_KEY_BYTES)?;
            keys.extend(name.map(|name| SampledKey { database, name }));
        }
    }
    Ok(keys)
}

/// Reads these keys from one server, in their order.
fn read(
    server: &mut ComparedServer,
    keys: &[SampledKey],
    deadline: Instant,
) -> Result<Vec<Content>, BackendError> {
    let (mut contents, types) = read_types(server, keys, deadline)?;
    let mut questions = Vec::new();
    for (key, value_type) in keys.iter().zip(&types) {
        if let Some(value_type) = value_type {
            command("SELECT").number(server.number(key.database)).append_to(&mut questions);
            value_type.read_command(&key.name).append_to(&mut questions);
        }
    }
    let replies = server.send(&questions, deadline)?.replies();
    for (content, value_type) in contents.iter_mut().zip(types) {
        let Some(value_type) = value_type else { continue };
        reply::simple(replies)?;
        content.digest = match json::survey(value_type, replies) {
            Ok(survey) => Some(survey.digest),
            // A value of another type has replaced it. If the types differ, it is read again.
            Err(resp::Error::Redis(error)) if error.starts_with("WRONGTYPE") => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(contents)
}

/// Reads the types of these keys. Returns their contents without digests, and the types of those whose
/// values are to be read.
fn read_types(
    server: &mut ComparedServer,
    keys: &[SampledKey],
    deadline: Instant,
) -> Result<(Vec<Content>, Vec<Option<ValueType>>), BackendError> {
    let mut questions = Vec::new();
    for key in keys {
        command("SELECT").number(server.number(key.database)).append_to(&mut questions);
        command("TYPE").arg(&key.name).append_to(&mut questions);
        command("MEMORY").arg("USAGE").arg(&key.name).append_to(&mut questions);
        command("PTTL").arg(&key.name).append_to(&mut questions);
    }
    let replies = server.send(&questions, deadline)?.replies();
    let (mut contents, mut types) = (Vec::new(), Vec::new());
    let mut bytes_left = MAX_SAMPLE_BYTES;
    for _ in keys {
        reply::simple(replies)?;
        let kind = reply::simple(replies)?;
        let bytes = reply::integer(replies)?.unwrap_or(0).unsigned_abs();
        let expires = reply::integer(replies)?.is_some_and(|time| time >= 0);
        let fits = bytes <= MAX_VALUE_BYTES.min(bytes_left);
        let readable = ValueType::from_name(&kind).filter(|_| fits);
        bytes_left -= readable.map_or(0, |_| bytes);
        types.push(readable);
        contents.push(Content { kind, expires, digest: None });
    }
    Ok((contents, types))
}
