//! A page of keys with their values: SCAN for the keys, then the values, many in one exchange.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use redis::Pipeline;

use super::exchange::{Exchange, HELD_VALUE_BYTES, KeyInfo, ReadError, describe};
use super::read::{MAX_KEY_INFOS, Outcome};
use crate::backend::{BackendError, read_server_info};
use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::balance::failover::Attempt;
use crate::http::target::{Cursor, PageQuery};
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::json::{JsonWriter, render, survey};
use crate::resp::value_type::ValueType;
use crate::resp::{self, reply};

/// The `COUNT` of one SCAN: few enough not to keep Redis from others for long.
const SCAN_STEP_KEYS: usize = 1000;
const _: () = assert!(SCAN_STEP_KEYS as u64 <= MAX_SCAN_COUNT);

/// A page ends when its keys together are so long, whatever its `limit`.
const PAGE_KEY_BYTES: usize = 4 * 1024 * 1024;

/// Keys that one SCAN may bring; more is refused, as they are held in memory.
const SCAN_STEP_BYTES: usize = 64 * 1024 * 1024;

/// A page ends when its keys took so long to find: a rare match in a large database.
const PAGE_SCAN_TIME: Duration = Duration::from_secs(10);

/// Keys whose values are asked for in one exchange.
pub const BATCH_KEYS: usize = 128;

/// Answers with a page.
pub fn page<W: Write>(
    attempt: &Attempt,
    query: &PageQuery,
    answer: &mut ResponseWriter<W>,
) -> Result<Outcome, ReadError> {
    let info = redis::cmd("INFO").arg("server").get_packed_command();
    let mut exchange = Exchange::begin(attempt, &info)?;
    let run_id = run_id(&mut exchange)?;
    if query.cursor.as_ref().is_some_and(|cursor| cursor.run_id != run_id) {
        exchange.end();
        return Ok(Outcome::Elsewhere);
    }
    let (keys, position) = match gather(&mut exchange, query) {
        Err(GatherError::TooLong) => return too_long(answer),
        Err(GatherError::ReadError(failure)) => return Err(failure),
        Ok(gathered) => gathered,
    };
    let next = (position != 0).then(|| query.link(&Cursor { run_id, position }));
    answer.header("Content-Type", http::JSON);
    let mut page = Page {
        names_are_text: keys.iter().all(|key| std::str::from_utf8(key).is_ok()),
        json: JsonWriter::new(answer),
        count: 0,
        digest: Some(0),
    };
    let digest = page.write(&mut exchange, &keys, next.as_deref())?;
    page.json.finish()?;
    exchange.end();
    Ok(Outcome::Answered(digest))
}

/// Reads which server process it is that `INFO server` was sent to.
pub fn run_id(exchange: &mut Exchange) -> Result<String, ReadError> {
    let (run_id, _) = read_server_info(exchange.connection.replies())?;
    Ok(run_id.ok_or_else(may_not_ask)?.to_string())
}

/// Without it a cursor could be taken to another server.
fn may_not_ask() -> resp::Error {
    resp::Error::Redis(
        "NOPERM listings need INFO: the balancer's user lacks the right +info there".to_owned(),
    )
}

/// What a client is told whose page would hold too much.
pub const TOO_LONG: &str = "the keys are too long for one page: lower limit";

/// Why a page's keys could not be gathered.
pub enum GatherError {
    /// They take more than [`SCAN_STEP_BYTES`].
    TooLong,
    ReadError(ReadError),
}

impl<E: Into<ReadError>> From<E> for GatherError {
    fn from(error: E) -> Self {
        Self::ReadError(error.into())
    }
}

fn too_long<W: Write>(answer: &mut ResponseWriter<W>) -> Result<Outcome, ReadError> {
    answer.status(400);
    answer.json(&ErrorBody::new(TOO_LONG))?;
    Ok(Outcome::Answered(None))
}

/// The page's keys, in natural order, and the position behind them: 0 at the end.
pub fn gather(
    exchange: &mut Exchange,
    query: &PageQuery,
) -> Result<(Vec<Vec<u8>>, u64), GatherError> {
    let began = Instant::now();
    let (mut keys, mut bytes) = (Vec::new(), 0);
    let mut position = query.cursor.as_ref().map_or(0, |cursor| cursor.position);
    let mut scanned = 0;
    loop {
        let step = next_step(query.limit - keys.len(), scanned, keys.len());
        scanned += step;
        let mut scan = redis::cmd("SCAN").arg(position).to_owned();
        if let Some(pattern) = &query.pattern {
            scan.arg("MATCH").arg(pattern);
        }
        exchange.connection.send(&scan.arg("COUNT").arg(step).get_packed_command())?;
        position = read_scan(exchange, &mut keys, &mut bytes)?;
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
    Ok((keys, position))
}

/// The `COUNT` that should bring the `wanted` keys, by how many of those `scanned` were `found` to
/// match: a small page of rare keys would take Redis very many exchanges else.
fn next_step(wanted: usize, scanned: usize, found: usize) -> usize {
    let expected = wanted.saturating_mul(scanned.max(1)) / found.max(1);
    expected.clamp(1, SCAN_STEP_KEYS)
}

fn read_scan(
    exchange: &mut Exchange,
    keys: &mut Vec<Vec<u8>>,
    bytes: &mut usize,
) -> Result<u64, GatherError> {
    let from = exchange.connection.replies();
    let position = reply::scan_cursor(from)?;
    let most = *bytes + SCAN_STEP_BYTES;
    for _ in 0..reply::array(from)? {
        let key = match reply::bytes(from, most.saturating_sub(*bytes) as u64) {
            Err(resp::Error::TooLong) => return Err(GatherError::TooLong),
            key => key?,
        };
        *bytes += key.len() + size_of::<Vec<u8>>();
        keys.push(key);
    }
    Ok(position)
}

struct Page<'a, W: Write> {
    json: JsonWriter<&'a mut ResponseWriter<W>>,
    names_are_text: bool,
    count: usize,
    /// The sum of the entries' digests, where each has one.
    digest: Option<u64>,
}

impl<W: Write> Page<'_, W> {
    fn write(
        &mut self,
        exchange: &mut Exchange,
        keys: &[Vec<u8>],
        next: Option<&str>,
    ) -> Result<Option<u64>, ReadError> {
        self.json.begin_object()?;
        self.json.key("data")?;
        match self.names_are_text {
            true => self.json.begin_object()?,
            false => self.json.begin_array()?,
        }
        let mut rest = keys;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH_KEYS)];
            rest = &rest[self.write_some(exchange, batch)?..];
        }
        match self.names_are_text {
            true => self.json.end_object()?,
            false => self.json.end_array()?,
        }
        self.json.end_value()?;
        self.json.key("count")?;
        self.json.number_or_text(self.count.to_string().as_bytes())?;
        self.json.end_value()?;
        self.json.key("next")?;
        match next {
            Some(next) => self.json.text(next)?,
            None => self.json.null()?,
        }
        self.json.end_value()?;
        self.json.end_object()?;
        Ok(self.digest.map(|digest| {
            let mut hasher = DefaultHasher::new();
            (digest, self.count, next).hash(&mut hasher);
            hasher.finish()
        }))
    }

    /// Writes the first keys of `batch`, at least one; returns how many.
    fn write_some(
        &mut self,
        exchange: &mut Exchange,
        batch: &[Vec<u8>],
    ) -> Result<usize, ReadError> {
        exchange.connection.send(&describe(batch))?;
        let looks = batch.iter().map(|_| exchange.look()).collect::<Result<Vec<_>, _>>()?;
        let small = looks.iter().take_while(|look| is_small(look)).count();
        let large = looks[small..].iter().take_while(|look| !is_small(look)).count();
        let written = self.write_small(exchange, &batch[..small], &looks)?;
        // One that was misjudged is seldom alone, and what lay behind it was read in vain.
        for key in &batch[written..small + large] {
            self.write_alone(exchange, key)?;
        }
        Ok(small + large)
    }

    /// Asks for all `keys` at once and writes them in order, up to the first that needs a second
    /// look: its reply is long after all, or of another type, or of a stream that is empty or gone.
    /// Returns how many. The replies behind that one are read and lost.
    fn write_small(
        &mut self,
        exchange: &mut Exchange,
        keys: &[Vec<u8>],
        looks: &[KeyInfo],
    ) -> Result<usize, ReadError> {
        let mut commands = Pipeline::new();
        let kinds: Vec<Option<ValueType>> =
            looks.iter().take(keys.len()).map(KeyInfo::kind).collect();
        for (key, kind) in keys.iter().zip(&kinds) {
            if let Some(kind) = kind {
                commands.add_command(kind.read(key));
            }
        }
        if !commands.is_empty() {
            exchange.connection.send(&commands.get_packed_pipeline())?;
        }
        for (at, key) in keys.iter().enumerate() {
            let Some(kind) = kinds[at] else {
                self.write_unserved(key, &looks[at])?;
                continue;
            };
            let mut held = Vec::new();
            let is_whole = exchange.connection.hold(&mut held, HELD_VALUE_BYTES)?;
            let from = &mut (&held[..]).chain(exchange.connection.replies());
            match survey(kind, from).map_err(ReadError::from) {
                Ok(survey) if is_whole && !survey.is_empty => {
                    self.begin_entry(key)?;
                    render(kind, &mut &held[..], &survey, &mut self.json)?;
                    self.end_entry(key, Some(survey.digest))?;
                }
                Ok(_) if is_whole && kind != ValueType::Stream => {}
                Err(failure) if !failure.is_wrong_type() => return Err(failure),
                _ => {
                    skip(exchange, &kinds[at + 1..])?;
                    return Ok(at);
                }
            }
        }
        Ok(keys.len())
    }

    /// Writes one key in exchanges of its own.
    fn write_alone(&mut self, exchange: &mut Exchange, key: &[u8]) -> Result<(), ReadError> {
        for _ in 0..MAX_KEY_INFOS {
            exchange.connection.send(&describe(&[key]))?;
            let look = exchange.look()?;
            let Some(kind) = look.kind() else { return self.write_unserved(key, &look) };
            let command = kind.packed_read(key);
            let found = match exchange.find(key, &command, kind, look.bytes) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(()),
                Err(failure) if failure.is_wrong_type() => continue,
                Err(failure) => return Err(failure),
            };
            let ready = exchange.ready(found)?;
            self.begin_entry(key)?;
            let digest = exchange.write(ready, &mut self.json)?;
            return self.end_entry(key, digest);
        }
        Err(BackendError::Changed.into())
    }

    /// A key of a type that we can't show is named with its type; one that is gone is left out.
    fn write_unserved(&mut self, key: &[u8], look: &KeyInfo) -> Result<(), ReadError> {
        if look.is_missing() {
            return Ok(());
        }
        self.begin_entry(key)?;
        self.json.begin_object()?;
        self.json.key("unserved_type")?;
        self.json.text(&look.name)?;
        self.json.end_value()?;
        self.json.end_object()?;
        self.end_entry(key, Some(0))
    }

    fn begin_entry(&mut self, key: &[u8]) -> Result<(), ReadError> {
        if self.names_are_text {
            self.json.key(&String::from_utf8_lossy(key))?;
            return Ok(());
        }
        self.json.begin_item()?;
        self.json.begin_object()?;
        self.json.key("key")?;
        self.json.bytes(key)?;
        self.json.end_value()?;
        Ok(self.json.key("value")?)
    }

    fn end_entry(&mut self, key: &[u8], digest: Option<u64>) -> Result<(), ReadError> {
        self.json.end_value()?;
        if !self.names_are_text {
            self.json.end_object()?;
            self.json.end_item()?;
        }
        self.count += 1;
        let mut hasher = DefaultHasher::new();
        (key, digest).hash(&mut hasher);
        self.digest = match (self.digest, digest) {
            (Some(sum), Some(_)) => Some(sum.wrapping_add(hasher.finish())),
            _ => None,
        };
        Ok(())
    }
}

/// Whether its reply should fit into what is held, so that it can share an exchange with others.
fn is_small(look: &KeyInfo) -> bool {
    look.bytes < HELD_VALUE_BYTES as u64
}

/// Reads replies that are of no use any more.
fn skip(exchange: &mut Exchange, kinds: &[Option<ValueType>]) -> Result<(), ReadError> {
    for kind in kinds.iter().flatten() {
        match survey(*kind, exchange.connection.replies()) {
            Err(error) if !matches!(error, resp::Error::Redis(_)) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Runs of digits compare as numbers, all else byte by byte: `actor:2` comes before `actor:10`.
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
    // Equal but for zeros before a number: any order will do, as long as it is always the same.
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
mod tests {
    use super::*;

    #[test]
    fn numbers_within_keys_are_in_the_order_of_numbers() {
        let sorted = ["", "a", "a1", "a01", "a1b", "a2", "a10", "a10b2", "a10b10", "b", "é"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                // "a1" and "a01" are the same number: their order is that of their bytes.
                let expected = match (*a, *b) {
                    ("a1", "a01") => Ordering::Greater,
                    ("a01", "a1") => Ordering::Less,
                    _ => i.cmp(&j),
                };
                assert_eq!(natural_order(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            }
        }
    }

    #[test]
    fn rare_keys_are_searched_in_longer_steps() {
        for (wanted, scanned, found, expected) in [
            (10, 0, 0, 10),
            (100_000, 0, 0, SCAN_STEP_KEYS),
            (10, 10, 0, 100),
            (10, 110, 0, SCAN_STEP_KEYS),
            (5, 100, 50, 10),
            (1, 1000, 1001, 1),
            (usize::MAX, usize::MAX, 0, SCAN_STEP_KEYS),
        ] {
            assert_eq!(next_step(wanted, scanned, found), expected);
        }
    }
}
