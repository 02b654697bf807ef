//! Fills and verifies one backend.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use redis::Value;

use super::connection::{Primaries, Replication, SeedConnection, SeedError, wait_for_replica};
use super::dataset::{Dataset, Row};
use super::progress::BackendProgress;
use super::{SeedReport, SeedSettings};
use crate::config::address::BackendAddress;
use crate::resp::command;

/// Batches whose replies may be outstanding while the next one is prepared. They are not kept.
const BATCHES_AHEAD: usize = 4;

/// One backend that is being loaded.
pub(super) struct Task<'a> {
    address: &'a BackendAddress,
    dataset: &'a Dataset,
    settings: &'a SeedSettings,
    pub progress: BackendProgress,
    /// As the backend told it last.
    replication: Option<Replication>,
    /// Part of the verification that was spent waiting for other backends.
    pub waited: Duration,
    pub report: SeedReport,
}

impl<'a> Task<'a> {
    pub fn new(
        address: &'a BackendAddress,
        dataset: &'a Dataset,
        settings: &'a SeedSettings,
        progress: BackendProgress,
    ) -> Self {
        let backend = address.name().to_owned();
        let report = SeedReport { backend, role: "-", ..SeedReport::default() };
        let (replication, waited) = (None, Duration::ZERO);
        Self { address, dataset, settings, progress, replication, waited, report }
    }

    /// Writes all rows, unless the backend is a replica, which gets them from its primary.
    pub fn fill(&mut self) -> Result<(), SeedError> {
        let (mut connection, replication) = self.connect()?;
        let is_replica = replication.is_replica;
        self.replication = Some(replication);
        self.report.role = if is_replica { "replica" } else { "primary" };
        if is_replica {
            self.progress.start("waiting");
            return Ok(());
        }
        self.write(&mut connection)?;
        self.replication = Some(connection.replication()?);
        Ok(())
    }

    fn connect(&mut self) -> Result<(SeedConnection, Replication), SeedError> {
        let progress = &mut self.progress;
        SeedConnection::connect(self.address, || {
            progress.start("waiting until its data are loaded")
        })
    }

    /// Prepares and sends batches while the backend executes those before.
    fn write(&mut self, connection: &mut SeedConnection) -> Result<(), SeedError> {
        self.progress.start("loading");
        let fields: Vec<&[u8]> = self.dataset.fields().map(str::as_bytes).collect();
        let mut batches = self.dataset.batches(self.settings.batch_rows)?;
        // The number of rows of each batch whose replies are outstanding.
        let mut sent = VecDeque::new();
        let (mut keys, mut hashes) = (Vec::new(), Vec::new());
        loop {
            let rows = batches.next_batch(|row| {
                let key = row.key(&self.settings.prefix);
                let pairs =
                    fields.iter().zip(row.values()).flat_map(|(name, value)| [*name, value]);
                command("HSET").arg(&key).args(pairs).append_to(&mut hashes);
                keys.push(key);
            })?;
            if rows > 0 {
                let mut transaction = command("MULTI").into_bytes();
                command("DEL").args(keys.drain(..)).append_to(&mut transaction);
                transaction.append(&mut hashes);
                command("EXEC").append_to(&mut transaction);
                connection.send(&transaction)?;
                sent.push_back(rows);
            }
            if rows == 0 || sent.len() > BATCHES_AHEAD {
                let Some(rows) = sent.pop_front() else {
                    return Ok(());
                };
                connection.receive_transaction(rows, fields.len())?;
                self.advance(rows);
            }
        }
    }

    /// For a primary, its replication id and how far it has been written; `None` in its place if it
    /// failed.
    pub fn filled_primary(&self) -> Option<(String, Option<u64>)> {
        let replication =
            self.replication.as_ref().filter(|replication| !replication.is_replica)?;
        Some((replication.id.clone(), self.report.failure.is_none().then_some(replication.offset)))
    }

    /// Reads all rows back and compares them with the file.
    pub fn verify(&mut self, primaries: &Primaries) -> Result<(), SeedError> {
        let (mut connection, replication) = self.connect()?;
        let mut foreign_primary = None;
        if replication.is_replica {
            let started = Instant::now();
            let caught_up = wait_for_replica(&mut connection, primaries);
            self.waited = started.elapsed();
            let replication = caught_up?;
            foreign_primary =
                (!primaries.contains_key(&replication.id)).then_some(replication.primary);
        }
        match (self.compare_all(&mut connection), foreign_primary) {
            (Err(SeedError::Mismatch { key, difference }), Some(primary)) => {
                Err(SeedError::Other(format!(
                    "key {key:?} {difference}; this is a replica of {primary}: is that one among \
                     the backends, and was it filled?"
                )))
            }
            (result, _) => result,
        }?;
        self.progress.done();
        Ok(())
    }

    /// Asks for one batch while it compares the one before, whose rows it keeps until then.
    fn compare_all(&mut self, connection: &mut SeedConnection) -> Result<(), SeedError> {
        self.progress.start("verifying");
        self.report.keys = 0;
        let fields = self.dataset.fields().enumerate();
        let fields: HashMap<&[u8], usize> = fields.map(|(i, name)| (name.as_bytes(), i)).collect();
        let mut batches = self.dataset.batches(self.settings.batch_rows)?;
        let prefix = &self.settings.prefix;
        let (mut asked, mut questions) = (Vec::new(), Vec::new());
        loop {
            let mut rows = Vec::new();
            questions.clear();
            batches.next_batch(|row| {
                command("HGETALL").arg(row.key(prefix)).append_to(&mut questions);
                rows.push(row.clone());
            })?;
            if !rows.is_empty() {
                connection.send(&questions)?;
            }
            for row in &asked {
                let found = connection.receive()?;
                compare(&found, row, &fields).map_err(|difference| SeedError::Mismatch {
                    key: String::from_utf8_lossy(&row.key(prefix)).into_owned(),
                    difference,
                })?;
            }
            self.advance(asked.len());
            if rows.is_empty() {
                return Ok(());
            }
            asked = rows;
        }
    }

    fn advance(&mut self, keys: usize) {
        self.report.keys += keys as u64;
        self.progress.advance(keys as u64);
    }
}

/// Compares the reply `found` with `row`; `fields` has each field's number. The error says how they
/// differ.
fn compare(found: &Value, row: &Row, fields: &HashMap<&[u8], usize>) -> Result<(), String> {
    let Value::Array(found) = found else {
        return Err("is not a hash".into());
    };
    if found.is_empty() {
        return Err("is missing".into());
    }
    if found.len() != 2 * fields.len() {
        return Err(format!("has {} fields instead of {}", found.len() / 2, fields.len()));
    }
    for pair in found.chunks_exact(2) {
        let [Value::BulkString(name), Value::BulkString(value)] = pair else {
            return Err("is not a hash".into());
        };
        let expected = fields.get(name.as_slice()).and_then(|&index| row.value(index));
        if expected != Some(value) {
            let name = String::from_utf8_lossy(name);
            return Err(format!("has another value in field {name:?}"));
        }
    }
    Ok(())
}
