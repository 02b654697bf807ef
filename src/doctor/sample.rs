//! Some keys, chosen at random, compared on all servers.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::thread;
use std::time::{Duration, Instant};

use redis::Pipeline;

use super::server::{ServerProfile, short};
use crate::backend::{BackendError, Connection, WaitPolicy};
use crate::render::json;
use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};

/// How many keys each server is asked for, of all its databases together.
const KEYS_PER_SERVER: usize = 40;

/// How many keys are compared at most, however many servers there are.
const MAX_KEYS: usize = 400;

/// How many databases are looked into.
const MAX_DATABASES: usize = 16;

/// A longer name of a key is not compared.
const MAX_KEY_BYTES: u64 = 4096;

/// Of a value that takes more memory only the type is compared.
const MAX_VALUE_BYTES: u64 = 64 * 1024;

/// The same for what is behind so many bytes of values.
const MAX_SAMPLE_BYTES: u64 = 4 * 1024 * 1024;

/// What differs is read again, as it may be being written, or on its way to a replica: so often, …
const SECOND_LOOKS: usize = 4;

/// … and so much later.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(100);

/// A database: the same number on all servers, or on each the one in its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Database {
    Numbered(i64),
    OfUrl,
}

/// A key, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub database: Database,
    pub key: Vec<u8>,
}

/// What a server has at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// As `TYPE` says; `none` where there is no such key.
    pub kind: String,
    /// Whether it will be gone by itself.
    pub expires: bool,
    /// Of the value, where it was read.
    pub digest: Option<u64>,
}

impl Content {
    pub fn is_missing(&self) -> bool {
        self.kind == "none"
    }
}

/// One server whose data is compared.
pub struct Compared<'a> {
    /// Its place among the backends.
    pub index: usize,
    pub name: &'a str,
    pub server: &'a mut ServerProfile,
    /// The number of the database in its URL.
    pub of_url: i64,
    /// Whether it has notably fewer keys than others.
    pub is_short: bool,
    /// Why nothing more is known of its data.
    pub failure: Option<BackendError>,
}

/// What has come out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many keys were compared, and of how many of them only the type.
    pub compared: usize,
    pub by_type: usize,
    /// How many were on some servers only, and expire.
    pub expiring: usize,
    /// How many were changed again and again meanwhile.
    pub changing: usize,
    /// What each server has at a place where they differ.
    pub differing: Vec<(Place, Vec<Option<Content>>)>,
}

/// What each server has at one place; `None` where it could not say.
type Row = Vec<Option<Content>>;

/// Chooses keys on each of the servers and compares them on all. Each has `time` to answer each of
/// a few rounds.
pub fn compare(servers: &mut [Compared], databases: &[Database], time: Duration) -> Outcome {
    let chosen = at_once(servers, |server| choose(server, databases, Instant::now() + time));
    let places: BTreeSet<Place> = chosen.into_iter().flatten().flatten().collect();
    // Not the first ones, which would be those of one database.
    let mut places: Vec<Place> = places.into_iter().collect();
    fastrand::shuffle(&mut places);
    places.truncate(MAX_KEYS);
    places.sort();
    let rows = read_all(servers, &places, time);
    let mut open: Vec<(Place, Row)> = places.into_iter().zip(rows).collect();
    open.retain(|(_, row)| is_comparable(row));
    let mut outcome = Outcome { compared: open.len(), ..Outcome::default() };
    outcome.by_type = open.iter().filter(|(_, row)| is_by_type(row)).count();
    open.retain(|(_, row)| differs(row));
    for _ in 0..SECOND_LOOKS {
        if open.is_empty() {
            break;
        }
        thread::sleep(SECOND_LOOK_AFTER);
        let places: Vec<Place> = open.iter().map(|(place, _)| place.clone()).collect();
        let again = read_all(servers, &places, time);
        let before = std::mem::take(&mut open);
        for ((place, row), now) in before.into_iter().zip(again) {
            match () {
                () if !is_comparable(&now) => outcome.compared -= 1,
                () if !differs(&now) => {}
                () if now == row => outcome.differing.push((place, now)),
                () => open.push((place, now)),
            }
        }
    }
    outcome.changing = open.len();
    let all = outcome.differing.len();
    outcome.differing.retain(|(_, row)| !is_expiring(row));
    outcome.expiring = all - outcome.differing.len();
    outcome
}

/// Asks all servers that still answer, at the same time.
fn at_once<T: Send>(
    servers: &mut [Compared],
    ask: impl Fn(&mut Compared) -> Result<T, BackendError> + Sync,
) -> Vec<Option<T>> {
    let ask = |one: &mut Compared| match one.failure {
        Some(_) => None,
        None => ask(one).map_err(|error| one.failure = Some(error)).ok(),
    };
    thread::scope(|scope| {
        let asking: Vec<_> = servers.iter_mut().map(|server| scope.spawn(|| ask(server))).collect();
        asking.into_iter().map(|asking| asking.join().ok().flatten()).collect()
    })
}

/// One row for each place.
fn read_all(servers: &mut [Compared], places: &[Place], time: Duration) -> Vec<Row> {
    let columns = at_once(servers, |server| read(server, places, Instant::now() + time));
    (0..places.len())
        .map(|place| {
            let content =
                |column: &Option<Vec<Content>>| Some(column.as_ref()?.get(place)?.clone());
            columns.iter().map(content).collect()
        })
        .collect()
}

/// Whether two servers or more have said what they have.
fn is_comparable(row: &[Option<Content>]) -> bool {
    row.iter().flatten().count() >= 2
}

/// Whether only types are known on some server; then only these are compared.
fn is_by_type(row: &[Option<Content>]) -> bool {
    row.iter().flatten().any(|content| !content.is_missing() && content.digest.is_none())
}

/// A type, and a value's digest.
pub type Essence = (String, Option<u64>);

/// What two servers must have alike.
pub fn essence(content: &Content, row: &[Option<Content>]) -> Essence {
    (content.kind.clone(), content.digest.filter(|_| !is_by_type(row)))
}

fn differs(row: &[Option<Content>]) -> bool {
    let mut known = row.iter().flatten().map(|content| essence(content, row));
    let first = known.next();
    known.any(|content| Some(content) != first)
}

/// Whether it is what happens where servers remove the same key at different times.
fn is_expiring(row: &[Option<Content>]) -> bool {
    let there: Row = row
        .iter()
        .filter(|content| content.as_ref().is_some_and(|c| !c.is_missing()))
        .cloned()
        .collect();
    there.iter().flatten().all(|content| content.expires) && !differs(&there)
}

impl Compared<'_> {
    fn number(&self, database: Database) -> i64 {
        match database {
            Database::Numbered(number) => number,
            Database::OfUrl => self.of_url,
        }
    }

    fn link(&mut self, deadline: Instant) -> &mut Connection {
        let link = &mut self.server.link;
        link.set_wait_policy(WaitPolicy::Until(deadline), Duration::ZERO);
        link
    }
}

/// Keys at random.
fn choose(
    server: &mut Compared,
    databases: &[Database],
    deadline: Instant,
) -> Result<Vec<Place>, BackendError> {
    let databases = &databases[..databases.len().min(MAX_DATABASES)];
    let mut places = Vec::new();
    for &database in databases {
        let mut questions = Pipeline::new();
        questions.cmd("SELECT").arg(server.number(database));
        let count = (KEYS_PER_SERVER / databases.len()).max(1);
        (0..count).for_each(|_| _ = questions.cmd("RANDOMKEY"));
        let link = server.link(deadline);
        link.send(&questions.get_packed_pipeline())?;
        reply::simple(link.replies())?;
        for _ in 0..count {
            let key = short(link.replies(), MAX_KEY_BYTES)?;
            places.extend(key.map(|key| Place { database, key }));
        }
    }
    Ok(places)
}

/// What a server has at these places, in their order.
fn read(
    server: &mut Compared,
    places: &[Place],
    deadline: Instant,
) -> Result<Vec<Content>, BackendError> {
    let mut questions = Questions::new();
    for place in places {
        let pipeline = questions.at(server, place);
        pipeline.cmd("TYPE").arg(&place.key);
        pipeline.cmd("MEMORY").arg("USAGE").arg(&place.key);
        pipeline.cmd("PTTL").arg(&place.key);
    }
    let link = server.link(deadline);
    let selects = questions.send(link)?;
    let mut contents = Vec::new();
    let mut wanted: Vec<Option<ValueType>> = Vec::new();
    let mut left = MAX_SAMPLE_BYTES;
    for selects in selects {
        selected(link.replies(), selects)?;
        let kind = reply::simple(link.replies())?;
        let bytes = reply::integer(link.replies())?.unwrap_or(0).unsigned_abs();
        let expires = reply::integer(link.replies())?.is_some_and(|time| time >= 0);
        let fits = bytes <= MAX_VALUE_BYTES.min(left);
        let readable = ValueType::from_name(&kind).filter(|_| fits);
        left -= readable.map_or(0, |_| bytes);
        wanted.push(readable);
        contents.push(Content { kind, expires, digest: None });
    }
    let mut questions = Questions::new();
    for (place, kind) in places.iter().zip(&wanted) {
        if let Some(kind) = kind {
            questions.at(server, place).add_command(kind.read(&place.key));
        }
    }
    let link = server.link(deadline);
    let mut selects = questions.send(link)?.into_iter();
    for (content, kind) in contents.iter_mut().zip(wanted) {
        let Some(kind) = kind else { continue };
        selected(link.replies(), selects.next().unwrap_or(false))?;
        content.digest = match json::survey(kind, link.replies()) {
            Ok(survey) => Some(survey.digest),
            // Another has taken its place since: it is looked at again if that makes a difference.
            Err(resp::Error::Redis(error)) if error.starts_with("WRONGTYPE") => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(contents)
}

/// Commands about keys, with a SELECT where another database comes.
struct Questions {
    pipeline: Pipeline,
    database: Option<Database>,
    /// For each place whether there is a SELECT before it.
    selects: Vec<bool>,
}

impl Questions {
    fn new() -> Self {
        Self { pipeline: Pipeline::new(), database: None, selects: Vec::new() }
    }

    fn at(&mut self, server: &Compared, place: &Place) -> &mut Pipeline {
        let selects = self.database != Some(place.database);
        if selects {
            self.pipeline.cmd("SELECT").arg(server.number(place.database));
            self.database = Some(place.database);
        }
        self.selects.push(selects);
        &mut self.pipeline
    }

    /// Returns for each place whether the reply to a SELECT comes before it.
    fn send(self, link: &mut Connection) -> Result<Vec<bool>, BackendError> {
        if !self.selects.is_empty() {
            link.send(&self.pipeline.get_packed_pipeline())?;
        }
        Ok(self.selects)
    }
}

fn selected(from: &mut impl BufRead, is_expected: bool) -> Result<(), resp::Error> {
    if is_expected {
        reply::simple(from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(kind: &str, expires: bool, digest: Option<u64>) -> Option<Content> {
        Some(Content { kind: kind.to_owned(), expires, digest })
    }

    #[test]
    fn values_that_could_not_be_read_everywhere_are_compared_by_type() {
        let large = content("hash", false, None);
        assert!(!differs(&[large.clone(), content("hash", false, Some(1)), None]));
        assert!(differs(&[large.clone(), content("string", false, Some(1))]));
        assert!(differs(&[large, content("none", false, None)]));
        assert!(differs(&[content("hash", false, Some(1)), content("hash", false, Some(2))]));
        assert!(!differs(&[content("hash", true, Some(1)), content("hash", false, Some(1))]));
        assert!(!differs(&[None, None]));
    }

    #[test]
    fn only_what_is_gone_in_some_place_and_will_be_in_all_has_expired() {
        let there = || content("string", true, Some(1));
        let gone = || content("none", false, None);
        assert!(is_expiring(&[there(), gone(), there(), None]));
        assert!(!is_expiring(&[there(), gone(), content("string", true, Some(2))]));
        assert!(!is_expiring(&[content("string", false, Some(1)), gone()]));
    }
}
