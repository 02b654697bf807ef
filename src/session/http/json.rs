//! Data as JSON: the value of one key, one field of a hash, or a page of keys with their values, which
//! are read many in one exchange. A string's bytes alone, too.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use super::exchange::{
    BATCH_KEYS, Exchange, HELD_REPLY_BYTES, KeyInfo, MAX_LOOKS, ReadError, ReadOutcome,
    if_permitted, look_at,
};
use super::page_keys::{read_page_keys, read_server_run_id};
use super::rights::{Rights, hide_unless_readable, may_count};
use crate::backend::BackendError;
use crate::balance::failover::Attempt;
use crate::http::target::{KeyQuery, KeysQuery, PageQuery};
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::memory::Share;
use crate::render::json::{JsonWriter, render, survey};
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};
use crate::session::client::ClientHandle;

/// A value that takes its backend less memory may be read on a shared connection the next time.
const MAX_SHORT_VALUE_BYTES: u64 = 16 * 1024;

/// Writes the value that the query asks for.
pub(super) fn write_value<'q, W: Write>(
    attempt: &Attempt,
    peer: ClientHandle,
    query: &'q KeyQuery,
    response: &mut ResponseWriter<W>,
    rights: Option<&Rights>,
) -> Result<ReadOutcome<'q>, ReadError> {
    let database = query.database;
    Exchange::serve(attempt, peer, database, &look_at(&[&query.key]), |exchange| {
        let info = KeyInfo::read(exchange.replies()?)?;
        let value_type = info.value_type();
        if let Some(value_type) = value_type {
            let is_long = info.bytes > MAX_SHORT_VALUE_BYTES;
            let database = attempt.backend.mode_in(database).database;
            attempt.backend.type_hints.note(database, &query.key, value_type, is_long);
        }
        if let Some(denied) = denial(query, value_type, rights) {
            return Ok(Some(denied));
        }
        let why = match (&query.field, query.is_raw(), value_type) {
            _ if info.is_missing() => {
                let error = query.error("no such key");
                return Ok(Some(ReadOutcome::Refused(404, error)));
            }
            (None, false, Some(value_type))
            | (None, true, Some(value_type @ ValueType::String)) => {
                let read = value_type.read_command(&query.key).into_bytes();
                return write_reply(exchange, query, &read, value_type, info.bytes, response);
            }
            (Some(field), _, Some(ValueType::Hash)) => {
                let read = command("HGET").arg(&query.key).arg(field).into_bytes();
                // The field's size is not known, and that of its hash does not matter.
                let written = write_reply(exchange, query, &read, ValueType::String, 0, response)?;
                let error = query.error("no such field");
                return Ok(written.or(Some(ReadOutcome::Refused(404, error))));
            }
            (Some(_), _, _) => "only a hash has fields",
            (None, true, _) => "format=raw serves a string, or a field of a hash",
            (None, false, None) => "values of this type can't be shown",
        };
        let kind = Some(info.type_name);
        let error = ErrorBody { kind, field: None, ..query.error(why) };
        Ok(Some(ReadOutcome::Refused(415, error)))
    })
}

/// Returns the refusal if the user may not run the command that reads this value.
pub(super) fn denial<'q>(
    query: &'q KeyQuery,
    value_type: Option<ValueType>,
    rights: Option<&Rights>,
) -> Option<ReadOutcome<'q>> {
    denial_of(&query.key, query.field.as_deref(), value_type, rights)
}

fn denial_of<'q>(
    key: &'q [u8],
    field: Option<&'q [u8]>,
    value_type: Option<ValueType>,
    rights: Option<&Rights>,
) -> Option<ReadOutcome<'q>> {
    let rights = rights?;
    let describe = rights.permits(command("TYPE").arg(key));
    let may_read = |one: &ValueType| rights.permits(one.read_command(key)).is_ok();
    let why = match (field, describe) {
        (Some(field), _) => rights.permits(command("HGET").arg(key).arg(field)).err()?,
        // Such a user is not told whether there is such a key, and of which type.
        (None, Err(why)) if !ValueType::ALL.iter().any(may_read) => why,
        (None, _) => rights.permits(value_type?.read_command(key)).err()?,
    };
    Some(ReadOutcome::Refused(403, ErrorBody::about(key, field, why)))
}

/// Sends `command`, and writes its reply as the response; `None` if there is no value.
fn write_reply<'q, W: Write>(
    exchange: &mut Exchange,
    query: &KeyQuery,
    command: &[u8],
    value_type: ValueType,
    bytes: u64,
    response: &mut ResponseWriter<W>,
) -> Result<Option<ReadOutcome<'q>>, ReadError> {
    if !query.is_raw() {
        let Some(value) = exchange.open_value(&query.key, command, value_type, bytes)? else {
            return Ok(None);
        };
        response.header("Content-Type", http::JSON);
        let mut json = JsonWriter::new(response);
        let digest = exchange.write_value(value, &mut json)?;
        json.finish()?;
        return Ok(Some(ReadOutcome::Written(digest)));
    }
    let from = exchange.read_value(command, bytes)?;
    let Some(length) = reply::bulk(from)? else { return Ok(None) };
    response.header("Content-Type", "application/octet-stream");
    let mut hasher = DefaultHasher::new();
    reply::payload(from, length, |piece| {
        hasher.write(piece);
        response.write_all(piece).map_err(ReadError::Client)
    })?;
    Ok(Some(ReadOutcome::Written(Some(hasher.finish()))))
}

/// Writes a page of keys with their values.
pub(super) fn write_listing<'q, W: Write>(
    attempt: &Attempt,
    peer: ClientHandle,
    query: &PageQuery,
    response: &mut ResponseWriter<W>,
    memory: &mut Share,
    rights: Option<&Rights>,
) -> Result<ReadOutcome<'q>, ReadError> {
    let mut look = command("INFO").arg("server").into_bytes();
    // Redis counts all keys, not those that match, nor those that a user may read.
    let is_counted = query.pattern.is_none() && may_count(rights);
    if is_counted {
        command("DBSIZE").append_to(&mut look);
    }
    Exchange::serve(attempt, peer, query.database, &look, |exchange| {
        let run_id = read_server_run_id(exchange)?;
        let total = match is_counted {
            true => if_permitted(reply::integer(exchange.replies()?))?.flatten(),
            false => None,
        };
        let (keys, next) = read_page_keys(exchange, query, run_id, memory, rights)?;
        let mut writer = ListingWriter::new(exchange, &keys, query.is_array, response, rights);
        writer.total = total.and_then(|total| u64::try_from(total).ok());
        writer.write(&keys, None, next.as_deref()).map(Some)
    })
}

/// Writes the values of several keys. Nothing is written if the user may not read one of them.
pub(super) fn write_values<'q, W: Write>(
    attempt: &Attempt,
    peer: ClientHandle,
    query: &'q KeysQuery,
    response: &mut ResponseWriter<W>,
    rights: Option<&Rights>,
) -> Result<ReadOutcome<'q>, ReadError> {
    let keys = &query.keys;
    Exchange::serve(attempt, peer, query.database, &look_at(keys), |exchange| {
        let from = exchange.replies()?;
        let infos = keys.iter().map(|_| KeyInfo::read(from)).collect::<Result<Vec<_>, _>>()?;
        let mut looked_at = keys.iter().zip(&infos);
        let denied =
            looked_at.find_map(|(key, info)| denial_of(key, None, info.value_type(), rights));
        if let Some(denied) = denied {
            return Ok(Some(denied));
        }
        let mut writer = ListingWriter::new(exchange, keys, query.is_array, response, rights);
        writer.shows_missing = true;
        writer.write(keys, Some(&infos), None).map(Some)
    })
}

struct ListingWriter<'a, 'e, W: Write> {
    exchange: &'a mut Exchange<'e>,
    rights: Option<&'a Rights>,
    json: JsonWriter<&'a mut ResponseWriter<W>>,
    /// Whether the keys are the names of an object; else there is an array of keys and values.
    is_object: bool,
    /// Whether a key that is not there is shown as null: it was asked for by name.
    shows_missing: bool,
    /// Number of keys in the database, where that is known and told.
    total: Option<u64>,
    count: usize,
    /// The sum of the entries' digests; `None` once an entry has none.
    digest: Option<u64>,
}

impl<'a, 'e, W: Write> ListingWriter<'a, 'e, W> {
    fn new(
        exchange: &'a mut Exchange<'e>,
        keys: &[Vec<u8>],
        is_array: bool,
        response: &'a mut ResponseWriter<W>,
        rights: Option<&'a Rights>,
    ) -> Self {
        response.header("Content-Type", http::JSON);
        let is_text = |key: &Vec<u8>| std::str::from_utf8(key).is_ok();
        Self {
            exchange,
            rights,
            json: JsonWriter::new(response),
            is_object: !is_array && keys.iter().all(is_text),
            shows_missing: false,
            total: None,
            count: 0,
            digest: Some(0),
        }
    }

    /// Writes the page. The `infos` of all keys are known if they were looked at already.
    fn write<'q>(
        mut self,
        keys: &[Vec<u8>],
        infos: Option<&[KeyInfo]>,
        next: Option<&str>,
    ) -> Result<ReadOutcome<'q>, ReadError> {
        self.json.begin("{")?;
        self.json.key("data")?;
        self.json.begin(if self.is_object { "{" } else { "[" })?;
        let mut at = 0;
        while at < keys.len() {
            let batch = &keys[at..keys.len().min(at + BATCH_KEYS)];
            at += match infos {
                Some(infos) => self.write_some(batch, &infos[at..][..batch.len()])?,
                None => {
                    let infos = self.look_at(batch)?;
                    self.write_some(batch, &infos)?
                }
            };
        }
        self.json.end(if self.is_object { "}" } else { "]" })?;
        self.json.key("count")?;
        self.json.value(&self.count)?;
        if let Some(total) = self.total {
            self.json.key("total")?;
            self.json.value(&total)?;
        }
        self.json.key("next")?;
        self.json.value(&next)?;
        self.json.end("}")?;
        self.json.finish()?;
        let digest = self.digest.map(|digest| hash_of(&(digest, self.count, self.total, next)));
        Ok(ReadOutcome::Written(digest))
    }

    fn look_at(&mut self, batch: &[Vec<u8>]) -> Result<Vec<KeyInfo>, ReadError> {
        let from = self.exchange.ask(look_at(batch))?;
        let mut infos = batch.iter().map(|_| KeyInfo::read(from)).collect::<Result<Vec<_>, _>>()?;
        for (info, key) in infos.iter_mut().zip(batch) {
            hide_unless_readable(info, key, self.rights);
        }
        Ok(infos)
    }

    /// Writes the first keys of `batch`, at least one; returns how many.
    fn write_some(&mut self, batch: &[Vec<u8>], infos: &[KeyInfo]) -> Result<usize, ReadError> {
        // The reply should fit into what is held, so that the value can be read with others.
        let is_small = |info: &&KeyInfo| info.bytes < HELD_REPLY_BYTES as u64;
        let small = infos.iter().take_while(is_small).count();
        let large = infos[small..].iter().take_while(|info| !is_small(info)).count();
        let written = self.write_small(&batch[..small], infos)?;
        // A misjudged value is seldom alone, and the replies after it were read in vain.
        for key in &batch[written..small + large] {
            self.write_alone(key)?;
        }
        Ok(small + large)
    }

    /// Asks for the values of all `keys` at once, and writes them in order, up to the first that has
    /// to be read alone: its reply is long after all, or of another type, or of a stream that is
    /// empty or gone. The replies after that one are thrown away. Returns the number written.
    fn write_small(&mut self, keys: &[Vec<u8>], infos: &[KeyInfo]) -> Result<usize, ReadError> {
        let types: Vec<Option<ValueType>> =
            infos.iter().take(keys.len()).map(KeyInfo::value_type).collect();
        let mut commands = Vec::new();
        for (key, value_type) in keys.iter().zip(&types) {
            if let Some(value_type) = value_type {
                value_type.read_command(key).append_to(&mut commands);
            }
        }
        if !commands.is_empty() {
            let bytes = infos.iter().take(keys.len()).map(|info| info.bytes).sum();
            self.exchange.read_value(&commands, bytes)?;
        }
        for (at, key) in keys.iter().enumerate() {
            let Some(value_type) = types[at] else {
                self.write_unserved(key, &infos[at])?;
                continue;
            };
            match self.exchange.survey_reply(value_type) {
                Ok((survey, Some(held))) if !survey.is_empty => {
                    self.begin_entry(key)?;
                    render(value_type, &mut &held[..], &survey, &mut self.json)?;
                    self.end_entry(key, Some(survey.digest))?;
                }
                Ok((_, Some(_))) if value_type != ValueType::Stream => self.write_missing(key)?,
                Err(error) if !error.is_wrong_type() => return Err(error),
                _ => {
                    self.skip_replies(&types[at + 1..])?;
                    return Ok(at);
                }
            }
        }
        Ok(keys.len())
    }

    /// Reads the replies for values of these types, and throws them away.
    fn skip_replies(&mut self, types: &[Option<ValueType>]) -> Result<(), ReadError> {
        for value_type in types.iter().flatten() {
            match survey(*value_type, self.exchange.replies()?) {
                Ok(_) | Err(resp::Error::Redis(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes one key in exchanges of its own.
    fn write_alone(&mut self, key: &[u8]) -> Result<(), ReadError> {
        for _ in 0..MAX_LOOKS {
            let mut info = KeyInfo::read(self.exchange.ask(look_at(&[key]))?)?;
            hide_unless_readable(&mut info, key, self.rights);
            let Some(value_type) = info.value_type() else {
                return self.write_unserved(key, &info);
            };
            let read = value_type.read_command(key).into_bytes();
            let value = match self.exchange.open_value(key, &read, value_type, info.bytes) {
                Ok(Some(value)) => value,
                Ok(None) => return self.write_missing(key),
                Err(error) if error.is_wrong_type() => continue,
                Err(error) => return Err(error),
            };
            self.begin_entry(key)?;
            let digest = self.exchange.write_value(value, &mut self.json)?;
            return self.end_entry(key, digest);
        }
        Err(BackendError::Changed.into())
    }

    /// Leaves out a key that is gone, unless it was asked for by name.
    fn write_missing(&mut self, key: &[u8]) -> Result<(), ReadError> {
        if !self.shows_missing {
            return Ok(());
        }
        self.begin_entry(key)?;
        self.json.value(&None::<&str>)?;
        self.end_entry(key, Some(1))
    }

    /// Writes the type of a value that we can't show.
    fn write_unserved(&mut self, key: &[u8], info: &KeyInfo) -> Result<(), ReadError> {
        if info.is_missing() {
            return self.write_missing(key);
        }
        self.begin_entry(key)?;
        self.json.begin("{")?;
        self.json.key("unserved_type")?;
        self.json.value(&info.type_name)?;
        self.json.end("}")?;
        self.end_entry(key, Some(0))
    }

    fn begin_entry(&mut self, key: &[u8]) -> Result<(), ReadError> {
        if self.is_object {
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
        if !self.is_object {
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
