//! Loads a [`Dataset`] into every backend as one hash per row, and proves by reading it back that
//! each backend holds exactly that.
//!
//! Two steps, in each of which all backends are served at the same time: fill the primaries, then
//! let the replicas catch up and read everything back. A backend that fails does not hold up the
//! others.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use redis::Value;

use super::progress::{Bars, RowProgress};
use super::server::{Replication, SeedServer};
use super::transaction::Transaction;
use crate::config::address::BackendAddress;
use crate::load::dataset::{Dataset, DatasetError, Row};
use crate::resp::command;
use crate::text::table::{self, Alignment};

/// How long a replica may stay without progress before it is given up.
pub const REPLICA_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a replica is asked how far it is.
const REPLICA_POLL: Duration = Duration::from_millis(100);

/// So many batches may be on their way, or executed with their replies not read yet, while the next
/// one is prepared. Nothing of them is kept.
const BATCHES_AHEAD: usize = 4;

/// How rows become keys.
#[derive(Debug, Clone)]
pub struct SeedSettings {
    /// A row is the key `PREFIX:ID`.
    pub prefix: String,
    /// The most rows written in one transaction; at least 1.
    pub batch_rows: usize,
}

/// Why one backend does not hold the rows.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum SeedError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0}")]
    Redis(String),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("not what Redis replies to {command}; is this a Redis server?")]
    Reply { command: &'static str },
    #[error("key {key:?} {difference} after loading; does another program write to it?")]
    Mismatch { key: String, difference: String },
    #[error("its primary {0} was not filled; see the reason given for that one")]
    Primary(String),
    #[error(
        "key {key:?} {difference}; this is a replica of {primary}: is that one among the \
         backends, and was it filled?"
    )]
    ForeignPrimary { key: String, difference: String, primary: String },
    #[error(
        "it is a replica of {primary} and did not get any further for {} s ({state}); see its log",
        REPLICA_TIMEOUT.as_secs()
    )]
    Stuck { primary: String, state: &'static str },
}

/// What became of one backend.
#[derive(Debug)]
pub struct SeedReport {
    /// [`BackendAddress::name`]
    pub backend: String,
    /// `primary` or `replica`; `-` if the backend did not say.
    pub role: &'static str,
    /// How many keys it confirmed: as read back, or as written if it failed.
    pub keys: u64,
    /// What loading took.
    pub load_time: Duration,
    /// What reading back took, without the time spent waiting for other backends.
    pub verify_time: Duration,
    /// Why the backend does not hold the rows; `None` if they were read back and are complete.
    pub failure: Option<SeedError>,
}

/// Loads all rows into all `backends` and reads them back. Shows the progress on stderr.
pub fn seed(
    dataset: &Dataset,
    backends: &[BackendAddress],
    settings: &SeedSettings,
) -> Vec<SeedReport> {
    let name_width = backends.iter().map(|address| address.name().len()).max().unwrap_or(0);
    let bars = Bars::new(dataset.rows(), name_width);
    let mut tasks: Vec<Task> = backends
        .iter()
        .map(|address| Task::new(address, dataset, settings, bars.add(address.name())))
        .collect();
    for_each_at_once(&mut tasks, |task| {
        let started = Instant::now();
        let result = task.fill();
        task.load_time = started.elapsed();
        result
    });
    let primaries = primaries(&tasks);
    for_each_at_once(&mut tasks, |task| {
        let started = Instant::now();
        let result = task.verify(&primaries);
        task.verify_time = started.elapsed() - task.waited;
        result
    });
    tasks.into_iter().map(Task::report).collect()
}

/// The table of a run: one line per backend.
pub fn table(reports: &[SeedReport]) -> String {
    let (left, right) = (Alignment::Left, Alignment::Right);
    let head = [
        ("backend", left),
        ("role", left),
        ("keys", right),
        ("loading", right),
        ("verifying", right),
        ("verified", left),
    ];
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let row = |report: &SeedReport| {
        vec![
            report.backend.clone(),
            report.role.to_owned(),
            report.keys.to_string(),
            seconds(report.load_time),
            seconds(report.verify_time),
            if report.failure.is_none() { "yes" } else { "FAILED" }.to_owned(),
        ]
    };
    table::table(&head, &reports.iter().map(row).collect::<Vec<_>>())
}

/// Runs one step of every task that has not failed yet, each in a thread of its own.
fn for_each_at_once<'a>(
    tasks: &mut [Task<'a>],
    step: impl Fn(&mut Task<'a>) -> Result<(), SeedError> + Sync,
) {
    std::thread::scope(|scope| {
        for task in tasks.iter_mut().filter(|task| task.failure.is_none()) {
            scope.spawn(|| {
                task.failure = step(task).err();
                if task.failure.is_some() {
                    task.progress.failed();
                }
            });
        }
    });
}

/// By replication id, what was written to the primaries: up to which offset; `None` if it failed.
type Primaries = HashMap<String, Option<u64>>;

fn primaries(tasks: &[Task]) -> Primaries {
    let states = tasks.iter().filter_map(|task| Some((task, task.state.as_ref()?)));
    states
        .filter(|(_, state)| !state.is_replica)
        .map(|(task, state)| (state.id.clone(), task.failure.is_none().then_some(state.offset)))
        .collect()
}

/// One backend on its way to being filled.
struct Task<'a> {
    address: &'a BackendAddress,
    dataset: &'a Dataset,
    settings: &'a SeedSettings,
    progress: RowProgress,
    /// As the backend told it last.
    state: Option<Replication>,
    keys: u64,
    load_time: Duration,
    verify_time: Duration,
    /// How much of verifying was spent waiting for replication.
    waited: Duration,
    failure: Option<SeedError>,
}

impl<'a> Task<'a> {
    fn new(
        address: &'a BackendAddress,
        dataset: &'a Dataset,
        settings: &'a SeedSettings,
        progress: RowProgress,
    ) -> Self {
        Self {
            address,
            dataset,
            settings,
            progress,
            state: None,
            keys: 0,
            load_time: Duration::ZERO,
            verify_time: Duration::ZERO,
            waited: Duration::ZERO,
            failure: None,
        }
    }

    /// Writes all rows, unless the backend is a replica: that gets them from its primary.
    fn fill(&mut self) -> Result<(), SeedError> {
        let (mut server, state) = SeedServer::connect(self.address)?;
        let is_replica = state.is_replica;
        self.state = Some(state);
        if is_replica {
            self.progress.start("waiting");
            return Ok(());
        }
        self.write(&mut server)?;
        self.state = Some(server.replication()?);
        Ok(())
    }

    /// While the backend executes some batches, the next are prepared and sent.
    fn write(&mut self, server: &mut SeedServer) -> Result<(), SeedError> {
        self.progress.start("loading");
        let mut transaction = Transaction::new(&self.settings.prefix, self.dataset.fields());
        let fields = transaction.fields();
        let mut batches = self.dataset.batches(self.settings.batch_rows)?;
        // By how many rows each batch has whose replies are still to come.
        let mut sent = VecDeque::new();
        loop {
            let rows = batches.next_batch(|row| transaction.add(row))?;
            if rows > 0 {
                server.send(transaction.take())?;
                sent.push_back(rows);
            }
            if rows == 0 || sent.len() > BATCHES_AHEAD {
                let Some(rows) = sent.pop_front() else {
                    return Ok(());
                };
                server.receive_transaction(rows, fields)?;
                self.advance(rows);
            }
        }
    }

    /// Reads all rows back and compares them with the file.
    fn verify(&mut self, primaries: &Primaries) -> Result<(), SeedError> {
        let (mut server, state) = SeedServer::connect(self.address)?;
        let mut foreign_primary = None;
        if state.is_replica {
            let started = Instant::now();
            let caught_up = wait_for_replica(&mut server, primaries);
            self.waited = started.elapsed();
            let state = caught_up?;
            foreign_primary = (!primaries.contains_key(&state.id)).then_some(state.primary);
        }
        match (self.compare_all(&mut server), foreign_primary) {
            (Err(SeedError::Mismatch { key, difference }), Some(primary)) => {
                Err(SeedError::ForeignPrimary { key, difference, primary })
            }
            (result, _) => result,
        }?;
        self.progress.done();
        Ok(())
    }

    /// As in `write`, but one batch ahead: here the rows have to be kept for as long.
    fn compare_all(&mut self, server: &mut SeedServer) -> Result<(), SeedError> {
        self.progress.start("verifying");
        self.keys = 0;
        let fields = self.dataset.fields().enumerate();
        let fields: HashMap<&[u8], usize> = fields.map(|(i, name)| (name.as_bytes(), i)).collect();
        let mut batches = self.dataset.batches(self.settings.batch_rows)?;
        let mut asked = Vec::new();
        let mut questions = Vec::new();
        loop {
            let mut rows = Vec::new();
            questions.clear();
            batches.next_batch(|row| {
                let question = [&b"HGETALL"[..], &self.key(row)];
                command::encode(question.into_iter(), &mut questions);
                rows.push(row.clone());
            })?;
            if !rows.is_empty() {
                server.send(&questions)?;
            }
            for row in &asked {
                let found = server.receive()?;
                compare(&found, row, &fields).map_err(|difference| SeedError::Mismatch {
                    key: String::from_utf8_lossy(&self.key(row)).into_owned(),
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

    fn key(&self, row: &Row) -> Vec<u8> {
        let mut key = Vec::new();
        row.write_key(&self.settings.prefix, &mut key);
        key
    }

    fn advance(&mut self, keys: usize) {
        self.keys += keys as u64;
        self.progress.advance(keys as u64);
    }

    fn report(self) -> SeedReport {
        let role = match &self.state {
            Some(state) if state.is_replica => "replica",
            Some(_) => "primary",
            None => "-",
        };
        SeedReport {
            backend: self.address.name().to_owned(),
            role,
            keys: self.keys,
            load_time: self.load_time,
            verify_time: self.verify_time,
            failure: self.failure,
        }
    }
}

/// Waits until a replica has everything that was written to its primary; returns its state then.
fn wait_for_replica(
    server: &mut SeedServer,
    primaries: &Primaries,
) -> Result<Replication, SeedError> {
    let mut furthest = (0, 0);
    let mut deadline = Instant::now() + REPLICA_TIMEOUT;
    loop {
        let state = server.replication()?;
        match primaries.get(&state.id) {
            Some(None) => return Err(SeedError::Primary(state.primary)),
            Some(Some(offset)) if state.link_up && state.offset >= *offset => return Ok(state),
            // Nothing was written to its primary, so there is nothing to wait for but the link.
            None if state.link_up => return Ok(state),
            _ => {}
        }
        // Only what was never reached before counts: a copy that fails and restarts is none.
        let reached = (furthest.0.max(state.offset), furthest.1.max(state.copied_bytes));
        if reached != furthest {
            furthest = reached;
            deadline = Instant::now() + REPLICA_TIMEOUT;
        }
        if Instant::now() >= deadline {
            let link = if state.link_up { "behind its primary" } else { "no link to its primary" };
            return Err(SeedError::Stuck { primary: state.primary, state: link });
        }
        std::thread::sleep(REPLICA_POLL);
    }
}

/// What is wrong with the hash `found`, if it is not exactly `row`; `fields` says which column has
/// which number.
fn compare(found: &Value, row: &Row, fields: &HashMap<&[u8], usize>) -> Result<(), String> {
    let Value::Array(found) = found else {
        return Err("is no hash".into());
    };
    if found.is_empty() {
        return Err("is missing".into());
    }
    if found.len() != 2 * fields.len() {
        return Err(format!("has {} fields instead of {}", found.len() / 2, fields.len()));
    }
    for pair in found.chunks_exact(2) {
        let [Value::BulkString(name), Value::BulkString(value)] = pair else {
            return Err("is no hash".into());
        };
        let expected = fields.get(name.as_slice()).and_then(|&index| row.value(index));
        if expected != Some(value) {
            let name = String::from_utf8_lossy(name);
            return Err(format!("has another value in field {name:?}"));
        }
    }
    Ok(())
}
