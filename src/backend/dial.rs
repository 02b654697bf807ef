//! Makes connections: looks names up, dials, logs in, and finds out which server answers.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::check::{read_only, read_server_info};
use super::connection::Connection;
use super::error::{is_local, is_timeout};
use super::{Backend, BackendError, MAX_INFO_BYTES, Mode, WaitPolicy, commands};
use crate::net::backend_stream::BackendStream;
use crate::net::tls::TlsError;
use crate::net::tls::expiry::Validity;
use crate::policy::CommandTable;
use crate::resp::{self, Protocol, command, reply};
use crate::sync::lock;

/// Least time for a connect, however late it is.
const MIN_CONNECT_TIME: Duration = Duration::from_millis(10);

/// Part of the backend timeout, as its denominator, in which a new server is given scripts. 500 take 50 ms where the
/// server is near.
const LOADING_PART: u32 = 4;

/// Most bytes of a reply to SCRIPT LOAD, which is a digest, or an error of one line.
const MAX_LOAD_REPLY_BYTES: usize = 64 * 1024;

/// The process that answers at a backend's address, as far as its newest connection tells.
#[derive(Debug, Default)]
pub(super) struct ServerInfo {
    /// Its `run_id`, another one each time it starts; `None` while unknown.
    pub run_id: Option<Arc<str>>,
    /// The commands that it knows; `None` while unknown, or when our user may not ask.
    pub commands: Option<Arc<CommandTable>>,
}

impl Backend {
    /// Returns whether its address holds a name, which may lead to another server one day.
    pub(crate) fn has_name(&self) -> bool {
        let is_name = self.address.host().parse::<IpAddr>().is_err();
        self.address.unix_path().is_none() && is_name
    }

    /// Looks its name up. May take as long as the system's resolver likes: never call it for a
    /// client. When it fails, the last good addresses stay.
    pub fn resolve(&self) {
        if self.address.unix_path().is_some() {
            return;
        }
        let found = (self.address.host(), self.address.port()).to_socket_addrs();
        let mut resolved = lock(&self.resolved);
        match found {
            Ok(addresses) => {
                let mut addresses: Vec<SocketAddr> = addresses.collect();
                // Some name servers rotate them with each answer.
                addresses.sort();
                let addresses = Ok(addresses);
                let has_moved = *resolved != addresses;
                *resolved = addresses;
                drop(resolved);
                if has_moved {
                    self.has_moved.store(true, Ordering::Release);
                    self.close_all();
                }
            }
            Err(error) if resolved.is_err() => *resolved = Err(error.to_string()),
            Err(_) => {}
        }
    }

    /// Connects, so that its server's `run_id` and commands are known.
    pub fn introduce(&self) -> Result<(), BackendError> {
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout());
        let ping = command("PING").into_bytes();
        let mut connection = self.request(self.own_mode(), &ping, wait_policy, |_| true)?;
        reply::simple(connection.replies())?;
        connection.keep();
        Ok(())
    }

    /// Asks whether our user may read there.
    ///
    /// # Errors
    /// It may not, in the server's words, or there is no answer.
    pub fn may_read(&self) -> Result<(), BackendError> {
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout());
        // A read that names no key, because some keys may be all that the user may read.
        let question = command("DBSIZE").into_bytes();
        let mut connection = self.request(self.own_mode(), &question, wait_policy, |_| true)?;
        reply::integer(connection.replies())?;
        connection.keep();
        Ok(())
    }

    /// Returns whether the server process with this `run_id` is gone. A silent server is not.
    pub fn has_died(&self, run_id: Option<&Arc<str>>) -> bool {
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout());
        match self.dial(self.own_mode(), wait_policy, Duration::ZERO) {
            Ok(connection) => connection.run_id.as_ref() != run_id,
            Err(error) => !error.is_timeout() && !error.is_local(),
        }
    }

    /// Makes a connection and sets it up, all within its usual timeout. Finds out which server it leads to: a server that no check has
    /// accepted is not used, and a new one is asked which commands it knows.
    pub(super) fn dial(
        &self,
        mode: Mode,
        wait_policy: WaitPolicy,
        waited: Duration,
    ) -> Result<Connection, BackendError> {
        let began = Instant::now();
        let opened = self.open(wait_policy.clone(), waited);
        let mut connection = opened.map_err(BackendError::of_read)?;
        let mut setup = command("INFO").arg("server").into_bytes();
        if mode.database != 0 {
            command("SELECT").number(mode.database).append_to(&mut setup);
        }
        connection.set_wait_policy(wait_policy.clone(), waited + began.elapsed());
        connection.send(&setup)?;
        connection.expect_redis(b"$-")?;
        let (run_id, is_cluster_node) = read_server_info(connection.replies())?;
        let admitted = self.timeouts.supervisor.admit(run_id.as_deref().unwrap_or_default());
        admitted.map_err(BackendError::Syncing)?;
        connection.run_id = run_id;
        if mode.database != 0 {
            reply::simple(connection.replies())?;
        }
        if is_cluster_node {
            read_only(&mut connection)?;
        }
        self.meet(&mut connection)?;
        if mode.protocol == Protocol::Resp3 {
            connection.set_wait_policy(wait_policy, waited + began.elapsed());
            connection.send(&command("HELLO").arg("3").into_bytes())?;
            let mut greeting = Vec::new();
            connection.hold(&mut greeting, MAX_INFO_BYTES as usize)?;
            reply::no_error(&greeting)?;
        }
        Ok(connection)
    }

    /// Makes a connection and logs in.
    pub(super) fn open(
        &self,
        wait_policy: WaitPolicy,
        waited: Duration,
    ) -> Result<Connection, BackendError> {
        let timeout = self.timeouts.timeout();
        let wait = wait_policy.left().unwrap_or(timeout.saturating_sub(waited));
        let wait = wait.clamp(MIN_CONNECT_TIME, timeout.max(MIN_CONNECT_TIME));
        let mut stream = self.connect(wait)?;
        let traffic = Arc::clone(&self.metrics.traffic);
        stream.count_by(traffic);
        self.note_certificate(&stream);
        let mut connection = Connection::new(stream, &self.timeouts, wait_policy.clone());
        connection.set_wait_policy(wait_policy, waited);
        if let Some(password) = self.address.password() {
            let auth = command("AUTH").args(self.address.username()).arg(password);
            connection.send(&auth.into_bytes()).map_err(|error| error.of_first("AUTH"))?;
            connection.expect_redis(b"+-")?;
            reply::simple(connection.replies()).map_err(|error| without(error, password))?;
        }
        Ok(connection)
    }

    /// Asks a server that was not there before which commands it knows.
    pub(super) fn meet(&self, connection: &mut Connection) -> Result<(), BackendError> {
        let server = lock(&self.server);
        if connection.run_id.is_some() && connection.run_id == server.run_id {
            connection.commands_version = self.commands_version();
            return Ok(());
        }
        drop(server);
        let commands = commands::ask(connection)?.map(Arc::new);
        if connection.run_id.is_some() {
            self.load_scripts(connection)?;
        }
        let mut server = lock(&self.server);
        let is_other = server.run_id.is_some() && server.run_id != connection.run_id;
        let has_changed = server.commands != commands;
        if is_other || (has_changed && server.commands.is_some()) {
            // The other connections may lead to the server that was there before.
            self.close_all();
        }
        server.run_id.clone_from(&connection.run_id);
        if has_changed {
            server.commands = commands;
            self.commands_version.fetch_add(1, Ordering::Release);
        }
        // With the lock held: it is the version of this server's commands.
        connection.commands_version = self.commands_version();
        Ok(())
    }

    /// Gives a server that was not there before the scripts that clients have sent. Those for which there is no time
    /// are sent when clients ask for them, as is one that the server refuses.
    fn load_scripts(&self, connection: &mut Connection) -> Result<(), BackendError> {
        let began = Instant::now();
        for source in self.timeouts.supervisor.scripts() {
            if began.elapsed() > self.timeouts.timeout() / LOADING_PART {
                break;
            }
            let load = command("SCRIPT").arg("LOAD").arg(source);
            connection.send(&load.into_bytes())?;
            connection.hold(&mut Vec::new(), MAX_LOAD_REPLY_BYTES)?;
        }
        Ok(())
    }

    /// Sends a `SCRIPT LOAD`; what the server says of it is of no interest.
    pub fn load_script(&self, load: &[u8]) -> Result<(), BackendError> {
        let mut connection = self.request(self.own_mode(), load, WaitPolicy::QUICK, |_| true)?;
        if connection.hold(&mut Vec::new(), MAX_LOAD_REPLY_BYTES)? {
            connection.keep();
        }
        Ok(())
    }

    /// Remembers which certificate its server has shown.
    fn note_certificate(&self, stream: &BackendStream) {
        let Some(shown) = stream.tls().and_then(|summary| summary.peer_certificate) else { return };
        let mut certificate = lock(&self.certificate);
        if certificate.as_ref().is_none_or(|(known, _)| *known != shown) {
            let validity = Validity::of_chain(std::slice::from_ref(&shown));
            *certificate = validity.map(|validity| (shown, validity));
        }
    }

    /// Returns when the certificate is valid that its server has shown last.
    pub fn certificate_validity(&self) -> Option<Validity> {
        lock(&self.certificate).as_ref().map(|(_, validity)| *validity)
    }

    fn connect(&self, wait: Duration) -> Result<BackendStream, BackendError> {
        let timeout = self.timeouts.timeout();
        if let Some(path) = self.address.unix_path() {
            return BackendStream::connect_unix(path, wait, timeout).map_err(connect_error);
        }
        let tls = self.timeouts.config.get().tls_with(&self.address).map_err(BackendError::Tls)?;
        let addresses = lock(&self.resolved).clone().map_err(BackendError::Unresolved)?;
        let mut last = BackendError::Unresolved("no address".to_owned());
        for address in &addresses {
            // An address that swallows packets must not use up the time of the next.
            let wait = wait / addresses.len() as u32;
            match BackendStream::connect(*address, wait, timeout, tls.as_ref()) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = connect_error(error),
            }
        }
        Err(last)
    }
}

fn connect_error(error: io::Error) -> BackendError {
    match error {
        error if is_local(&error) => BackendError::Local(error),
        error => match error.downcast::<TlsError>() {
            Ok(error) => BackendError::Tls(error),
            Err(error) if is_timeout(&error) => BackendError::TimedOut,
            Err(error) => BackendError::Connect(error),
        },
    }
}

/// Returns the error without the password, which a server that does not know `AUTH` repeats.
fn without(error: resp::Error, password: &str) -> resp::Error {
    match error {
        resp::Error::Redis(text) if !password.is_empty() => {
            resp::Error::Redis(text.replace(password, "…"))
        }
        error => error,
    }
}
