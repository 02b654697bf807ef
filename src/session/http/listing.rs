//! A page of keys with their values, as JSON. The values are read many in one exchange.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};

use super::exchange::{Exchange, HELD_REPLY_BYTES};
use super::key_info::{KeyInfo, MAX_LOOKS, look_at};
use super::key_scan::{BATCH_KEYS, PageKeys, ScanError, read_page_keys, read_server_run_id};
use super::outcome::{ReadError, ReadOutcome};
use crate::backend::BackendError;
use crate::balance::failover::Attempt;
use crate::http::target::PageQuery;
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::json::{JsonWriter, render, survey};
use crate::resp::value_type::ValueType;
use crate::resp::{self, command};

/// Writes the page.
pub(super) fn write_listing<W: Write>(
    attempt: &Attempt,
    query: &PageQuery,
    response: &mut ResponseWriter<W>,
) -> Result<ReadOutcome, ReadError> {
    let info = command("INFO").arg("server").into_bytes();
    let mut exchange = Exchange::begin(attempt, &info)?;
    let run_id = read_server_run_id(&mut exchange)?;
    let PageKeys { keys, next } = match read_page_keys(&mut exchange, query, run_id) {
        Ok(page) => page,
        Err(ScanError::OtherBackend) => {
            exchange.release();
            return Ok(ReadOutcome::OtherBackend);
        }
        Err(ScanError::TooLong) => {
            response.status(400);
            response.json(&ErrorBody::new(ScanError::TOO_LONG))?;
            return Ok(ReadOutcome::Written(None));
        }
        Err(ScanError::Read(error)) => return Err(error),
    };
    response.header("Content-Type", http::JSON);
    let mut writer = ListingWriter {
        names_are_text: keys.iter().all(|key| std::str::from_utf8(key).is_ok()),
        json: JsonWriter::new(response),
        count: 0,
        digest: Some(0),
    };
    let digest = writer.write(&mut exchange, &keys, next.as_deref())?;
    writer.json.finish()?;
    exchange.release();
    Ok(ReadOutcome::Written(digest))
}

struct ListingWriter<'a, W: Write> {
    json: JsonWriter<&'a mut ResponseWriter<W>>,
    names_are_text: bool,
    count: usize,
    /// The sum of the entries' digests; `None` once an entry has none.
    digest: Option<u64>,
}

impl<W: Write> ListingWriter<'_, W> {
    fn write(
        &mut self,
        exchange: &mut Exchange,
        keys: &[Vec<u8>],
        next: Option<&str>,
    ) -> Result<Option<u64>, ReadError> {
        self.json.begin("{")?;
        self.json.key("data")?;
        self.json.begin(if self.names_are_text { "{" } else { "[" })?;
        let mut rest = keys;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH_KEYS)];
            rest = &rest[self.write_some(exchange, batch)?..];
        }
        self.json.end(if self.names_are_text { "}" } else { "]" })?;
        self.json.key("count")?;
        self.json.value(&self.count)?;
        self.json.key("next")?;
        self.json.value(&next)?;
        self.json.end("}")?;
        Ok(self.digest.map(|digest| hash_of(&(digest, self.count, next))))
    }

    /// Writes the first keys of `batch`, at least one; returns how many.
    fn write_some(
        &mut self,
        exchange: &mut Exchange,
        batch: &[Vec<u8>],
    ) -> Result<usize, ReadError> {
        exchange.connection.send(&look_at(batch))?;
        let from = exchange.connection.replies();
        let infos = batch.iter().map(|_| KeyInfo::read(from)).collect::<Result<Vec<_>, _>>()?;
        let small = infos.iter().take_while(|info| is_small(info)).count();
        let large = infos[small..].iter().take_while(|info| !is_small(info)).count();
        let written = self.write_small(exchange, &batch[..small], &infos)?;
        // A misjudged value is seldom alone, and the replies after it were read in vain.
        for key in &batch[written..small + large] {
            self.write_alone(exchange, key)?;
        }
        Ok(small + large)
    }

    /// Asks for the values of all `keys` at once, and writes them in order, up to the first that has
    /// to be read alone: its reply is long after all, or of another type, or of a stream that is
    /// empty or gone. The replies after that one are thrown away. Returns the number written.
    fn write_small(
        &mut self,
        exchange: &mut Exchange,
        keys: &[Vec<u8>],
        infos: &[KeyInfo],
    ) -> Result<usize, ReadError> {
        let types: Vec<Option<ValueType>> =
            infos.iter().take(keys.len()).map(KeyInfo::value_type).collect();
        let mut commands = Vec::new();
        for (key, value_type) in keys.iter().zip(&types) {
            if let Some(value_type) = value_type {
                value_type.read_command(key).append_to(&mut commands);
            }
        }
        if !commands.is_empty() {
            exchange.connection.send(&commands)?;
        }
        for (at, key) in keys.iter().enumerate() {
            let Some(value_type) = types[at] else {
                self.write_unserved(key, &infos[at])?;
                continue;
            };
            let mut held = Vec::new();
            let is_whole = exchange.connection.hold(&mut held, HELD_REPLY_BYTES)?;
            let from = &mut (&held[..]).chain(exchange.connection.replies());
            match survey(value_type, from).map_err(ReadError::from) {
                Ok(survey) if is_whole && !survey.is_empty => {
                    self.begin_entry(key)?;
                    render(value_type, &mut &held[..], &survey, &mut self.json)?;
                    self.end_entry(key, Some(survey.digest))?;
                }
                Ok(_) if is_whole && value_type != ValueType::Stream => {}
                Err(error) if !error.is_wrong_type() => return Err(error),
                _ => {
                    skip_replies(exchange, &types[at + 1..])?;
                    return Ok(at);
                }
            }
        }
        Ok(keys.len())
    }

    /// Writes one key in exchanges of its own.
    fn write_alone(&mut self, exchange: &mut Exchange, key: &[u8]) -> Result<(), ReadError> {
        for _ in 0..MAX_LOOKS {
            exchange.connection.send(&look_at(&[key]))?;
            let info = KeyInfo::read(exchange.connection.replies())?;
            let Some(value_type) = info.value_type() else {
                return self.write_unserved(key, &info);
            };
            let read = value_type.read_command(key).into_bytes();
            let value = match exchange.open_value(key, &read, value_type, info.bytes) {
                Ok(Some(value)) => value,
                Ok(None) => return Ok(()),
                Err(error) if error.is_wrong_type() => continue,
                Err(error) => return Err(error),
            };
            self.begin_entry(key)?;
            let digest = exchange.write_value(value, &mut self.json)?;
            return self.end_entry(key, digest);
        }
        Err(BackendError::Changed.into())
    }

    /// Writes the type of a value that we can't show. Leaves out a key that is gone.
    fn write_unserved(&mut self, key: &[u8], info: &KeyInfo) -> Result<(), ReadError> {
        if info.is_missing() {
            return Ok(());
        }
        self.begin_entry(key)?;
        self.json.begin("{")?;
        self.json.key("unserved_type")?;
        self.json.value(&info.type_name)?;
        self.json.end("}")?;
        self.end_entry(key, Some(0))
    }

    fn begin_entry(&mut self, key: &[u8]) -> Result<(), ReadError> {
        if self.names_are_text {
            self.json.key(&String::from_utf8_lossy(key))?;
            return Ok(());
        }
        self.json.begin_item()?;
        self.json.begin("{")?;
        self.json.key("key")?;
        self.json.bytes(key)?;
        Ok(self.json.key("value")?)
    }

    fn end_entry(&mut self, key: &[u8], digest: Option<u64>) -> Result<(), ReadError> {
        if !self.names_are_text {
            self.json.end("}")?;
        }
        self.count += 1;
        self.digest = match (self.digest, digest) {
            (Some(sum), Some(_)) => Some(sum.wrapping_add(hash_of(&(key, digest)))),
            _ => None,
        };
        Ok(())
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Whether the reply should fit into what is held, so that the value can be read with others.
fn is_small(info: &KeyInfo) -> bool {
    info.bytes < HELD_REPLY_BYTES as u64
}

/// Reads the replies for values of these types, and throws them away.
fn skip_replies(exchange: &mut Exchange, types: &[Option<ValueType>]) -> Result<(), ReadError> {
    for value_type in types.iter().flatten() {
        match survey(*value_type, exchange.connection.replies()) {
            Err(error) if !matches!(error, resp::Error::Redis(_)) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
