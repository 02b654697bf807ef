//! A connection of `seed` to one backend.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use redis::{
    Client, ClientTlsConfig, Connection, ConnectionInfo, ConnectionLike, InfoDict, RedisError,
    TlsCertificates, Value,
};

use super::dataset::DatasetError;
use super::reason::{advice_on_refusal, is_loading, reason, why_not_connected};
use crate::config::address::BackendAddress;
use crate::config::backend_tls::TlsFiles;

/// How long a backend may take to accept the connection, and then for each reply until its role is
/// known.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a backend may take to receive or send anything at all.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a replica may make no progress before it counts as failed.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a server that loads its data may make no progress before it counts as failed.
const LOADING_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a replica, or a server that loads its data, is asked how far it is.
const POLL: Duration = Duration::from_millis(100);

/// Why a Sentinel is not loaded.
const SENTINEL: &str = "it is a Sentinel, which has no data: name the servers that it watches, whose port is usually 6379";

/// Error of a backend that does not hold the rows.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum SeedError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("key {key:?} {difference} after loading; does another program write to it?")]
    Mismatch { key: String, difference: String },
    #[error("{0}")]
    Other(String),
}

/// How far each primary was written, by replication id; `None` if it failed.
pub(super) type Primaries = HashMap<String, Option<u64>>;

/// A connection to one backend.
pub(super) struct SeedConnection(Connection);

/// The replication section of a backend's `INFO`.
pub(super) struct Replication {
    pub is_replica: bool,
    /// The replication id, which a primary shares with its replicas.
    pub id: String,
    /// How much of the replication stream was written (primary) or applied (replica), in bytes.
    pub offset: u64,
    /// Whether the replica is connected to its primary and has a complete copy.
    pub link_up: bool,
    /// How much of the first copy the replica has received, in bytes.
    pub copied_bytes: u64,
    /// `HOST:PORT` of the primary; empty for a primary.
    pub primary: String,
}

impl SeedConnection {
    /// Connects, logs in, waits until the backend has loaded its data, and asks for its role. `waits` is called if there is
    /// something to wait for.
    pub fn connect(
        address: &BackendAddress,
        mut waits: impl FnMut(),
    ) -> Result<(Self, Replication), SeedError> {
        let failed = |error| SeedError::Other(why_not_connected(&error, address, CONNECT_TIMEOUT));
        let info = address.connection_info();
        // Each command of the login has a time limit of its own, so we send only those that we need.
        let login = info.redis_settings().clone().set_skip_set_lib_name();
        let connection = client(address, info.set_redis_settings(login))
            .and_then(|client| client.get_connection_with_timeout(CONNECT_TIMEOUT))
            .map_err(failed)?;
        connection.set_write_timeout(Some(IO_TIMEOUT))?;
        connection.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        let mut connection = Self(connection);
        let first = connection.ask("replication");
        connection.0.set_read_timeout(Some(IO_TIMEOUT))?;
        let is_loading = match first {
            Ok(_) => connection.loaded_bytes().map_err(failed)?.is_some(),
            Err(error) if is_loading(&error) => true,
            Err(error) => return Err(failed(error)),
        };
        if is_loading {
            waits();
            connection.wait_until_loaded()?;
        }
        match connection.replication() {
            Ok(replication) => Ok((connection, replication)),
            Err(_) if connection.is_sentinel() => Err(SeedError::Other(SENTINEL.to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Asks whether the server is a Sentinel.
    fn is_sentinel(&mut self) -> bool {
        let info =
            self.ask("server").and_then(|info| Ok(redis::from_redis_value::<InfoDict>(info)?));
        let mode = info.ok().and_then(|info| info.get::<String>("redis_mode"));
        mode.is_some_and(|mode| mode == "sentinel")
    }

    /// Waits while the backend loads its data from its disk and makes progress.
    fn wait_until_loaded(&mut self) -> Result<(), SeedError> {
        let (mut furthest, mut deadline) = (0, Instant::now() + LOADING_TIMEOUT);
        while let Some(loaded) = self.loaded_bytes()? {
            if loaded > furthest {
                furthest = loaded;
                deadline = Instant::now() + LOADING_TIMEOUT;
            }
            if Instant::now() >= deadline {
                return Err(SeedError::Other(format!(
                    "it is loading its data and made no progress for {} s; see its log",
                    LOADING_TIMEOUT.as_secs()
                )));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Asks how many bytes of its data the backend has loaded; `None` if it is not loading.
    fn loaded_bytes(&mut self) -> Result<Option<u64>, RedisError> {
        let info = match self.ask("persistence") {
            Err(error) if is_loading(&error) => return Ok(Some(0)),
            info => redis::from_redis_value::<InfoDict>(info?)?,
        };
        let is_loading = info.get::<u8>("loading") == Some(1);
        Ok(is_loading.then(|| info.get("loading_loaded_bytes").unwrap_or(0)))
    }

    /// Asks for the present state of replication.
    pub fn replication(&mut self) -> Result<Replication, SeedError> {
        Replication::parse(self.ask("replication")?)
    }

    /// Asks for a section of `INFO`.
    fn ask(&mut self, section: &str) -> Result<Value, RedisError> {
        self.0.req_command(redis::cmd("INFO").arg(section))?.extract_error()
    }

    /// Sends all commands without waiting for a reply.
    pub fn send(&mut self, commands: &[u8]) -> Result<(), SeedError> {
        Ok(self.0.send_packed_command(commands)?)
    }

    /// Reads the reply to one command. (`Pipeline::query` would wait for each reply of a batch anew when
    /// the backend has stopped answering.)
    pub fn receive(&mut self) -> Result<Value, SeedError> {
        Ok(self.0.recv_response()?.extract_error()?)
    }

    /// Reads the replies to a transaction of one `DEL` and `rows` times `HSET` with `fields` fields.
    pub fn receive_transaction(&mut self, rows: usize, fields: usize) -> Result<(), SeedError> {
        let commands = rows + 1;
        // To MULTI, and to each command that is queued.
        for _ in 0..1 + commands {
            self.receive()?;
        }
        let created = Value::Int(fields as i64);
        match self.receive()? {
            Value::Array(replies)
                if replies.len() == commands
                    && replies[1..].iter().all(|reply| *reply == created) =>
            {
                Ok(())
            }
            _ => Err(unexpected("HSET")),
        }
    }
}

/// Returns a client that speaks TLS if the address asks for that.
fn client(address: &BackendAddress, info: ConnectionInfo) -> Result<Client, RedisError> {
    let Some(tls) = address.tls() else { return Client::open(info) };
    let read = |path: &Option<PathBuf>| path.as_ref().map(fs::read).transpose();
    let TlsFiles { ca, cert, key } = &tls.files;
    let client_tls = match (read(cert)?, read(key)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        _ => None,
    };
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: read(ca)? })
}

impl Replication {
    fn parse(reply: Value) -> Result<Self, SeedError> {
        let unexpected = || unexpected("INFO replication");
        let info: InfoDict = redis::from_redis_value(reply).map_err(|_| unexpected())?;
        let role: String = info.get("role").ok_or_else(unexpected)?;
        let is_replica = role == "slave";
        let text = |name: &str| info.get::<String>(name).unwrap_or_default();
        let number = |name: &str| info.get::<u64>(name).unwrap_or(0);
        Ok(Self {
            is_replica,
            id: text("master_replid"),
            offset: number(if is_replica { "slave_repl_offset" } else { "master_repl_offset" }),
            link_up: text("master_link_status") == "up",
            copied_bytes: number("master_sync_read_bytes"),
            primary: match is_replica {
                true => format!("{}:{}", text("master_host"), text("master_port")),
                false => String::new(),
            },
        })
    }
}

/// Waits until a replica has everything that was written to its primary; returns its state then.
pub(super) fn wait_for_replica(
    connection: &mut SeedConnection,
    primaries: &Primaries,
) -> Result<Replication, SeedError> {
    let mut furthest = (0, 0);
    let mut deadline = Instant::now() + REPLICA_TIMEOUT;
    loop {
        let replication = connection.replication()?;
        match primaries.get(&replication.id) {
            Some(None) => {
                return Err(SeedError::Other(format!(
                    "its primary {} was not filled; see the error of that one",
                    replication.primary
                )));
            }
            Some(Some(offset)) if replication.link_up && replication.offset >= *offset => {
                return Ok(replication);
            }
            // We wrote nothing to its primary, so we wait only for the link.
            None if replication.link_up => return Ok(replication),
            _ => {}
        }
        // Only new maxima are progress: a copy that fails and begins anew is none.
        let reached =
            (furthest.0.max(replication.offset), furthest.1.max(replication.copied_bytes));
        if reached != furthest {
            furthest = reached;
            deadline = Instant::now() + REPLICA_TIMEOUT;
        }
        if Instant::now() >= deadline {
            let state = match replication.link_up {
                true => "it lags behind its primary",
                false => "no link to its primary",
            };
            return Err(SeedError::Other(format!(
                "it is a replica of {} and made no progress for {} s ({state}); see its log",
                replication.primary,
                REPLICA_TIMEOUT.as_secs()
            )));
        }
        thread::sleep(POLL);
    }
}

impl From<RedisError> for SeedError {
    fn from(error: RedisError) -> Self {
        let reason = reason(&error, IO_TIMEOUT);
        Self::Other(match advice_on_refusal(&error) {
            Some(advice) => format!("{}. {advice}", reason.trim_end_matches('.')),
            None => reason,
        })
    }
}

fn unexpected(command: &str) -> SeedError {
    SeedError::Other(format!("this is not how Redis replies to {command}; is it a Redis server?"))
}
