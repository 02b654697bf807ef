//! Making a connection: dialling, logging in, and finding out which server answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;

use super::check::{read_only, read_server_info};
use super::connection::Connection;
use super::{
    Backend, BackendError, MAX_INFO_BYTES, Mode, WaitPolicy, commands, is_local, is_timeout,
};
use crate::net::backend_stream::BackendStream;
use crate::policy::CommandTable;
use crate::resp::{self, Protocol, command, reply};
use crate::sync::lock;

/// However late it is, a connect has so long.
const MIN_CONNECT_TIME: Duration = Duration::from_millis(10);

/// The process that answers at a backend's address, as far as its newest connection tells.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// What it calls itself, anew each time it starts; `None` while unknown.
    pub run_id: Option<Arc<str>>,
    /// What its `COMMAND` says; `None` while unknown, or when its user may not ask.
    pub commands: Option<Arc<CommandTable>>,
}

impl Backend {
    /// Makes its server known, where that has not been met.
    pub fn introduce(&self) -> Result<(), BackendError> {
        let ping = command("PING").into_bytes();
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout);
        let mut connection = self.request(self.own_mode(), &ping, wait_policy)?;
        reply::simple(connection.replies())?;
        connection.keep();
        Ok(())
    }

    /// Whether the process that had this run id is gone. That it does not answer says nothing.
    pub fn has_died(&self, run_id: Option<&Arc<str>>) -> bool {
        let wait_policy = WaitPolicy::Until(Instant::now() + self.timeouts.timeout);
        match self.dial(self.own_mode(), wait_policy, Duration::ZERO) {
            Ok(link) => link.run_id() != run_id,
            Err(error) => !error.is_timeout() && !error.is_local(),
        }
    }

    /// Makes a connection and sets it up. Finds out which server it leads to: one that no check has
    /// accepted is not used, and of one that is new it asks which commands that knows.
    pub(super) fn dial(
        &self,
        mode: Mode,
        wait_policy: WaitPolicy,
        waited: Duration,
    ) -> Result<Connection, BackendError> {
        let mut link = self.open(wait_policy, waited)?;
        let mut setup = command("INFO").arg("server").into_bytes();
        if mode.database != 0 {
            command("SELECT").number(mode.database).append_to(&mut setup);
        }
        link.send(&setup)?;
        let (run_id, is_cluster_node) = read_server_info(link.replies())?;
        let admitted = self.timeouts.supervisor.admit(run_id.as_deref().unwrap_or_default());
        admitted.map_err(BackendError::Syncing)?;
        link.set_run_id(run_id);
        if mode.database != 0 {
            reply::simple(link.replies())?;
        }
        if is_cluster_node {
            read_only(&mut link)?;
        }
        self.meet(&mut link)?;
        if mode.protocol == Protocol::Resp3 {
            link.send(&command("HELLO").number(3).into_bytes())?;
            let mut greeting = Vec::new();
            link.hold(&mut greeting, MAX_INFO_BYTES as usize)?;
            reply::no_error(&greeting)?;
        }
        Ok(link)
    }

    /// Makes a connection and logs in.
    pub(super) fn open(
        &self,
        wait_policy: WaitPolicy,
        waited: Duration,
    ) -> Result<Connection, BackendError> {
        let wait = match &wait_policy {
            WaitPolicy::Until(deadline)
            | WaitPolicy::Probe(deadline)
            | WaitPolicy::LastResort(deadline) => {
                deadline.saturating_duration_since(Instant::now())
            }
            _ => self.timeouts.timeout.saturating_sub(waited),
        };
        let wait = wait.clamp(MIN_CONNECT_TIME, self.timeouts.timeout.max(MIN_CONNECT_TIME));
        let mut link = Connection::new(self.connect(wait)?, &self.timeouts, wait_policy.clone());
        link.set_wait_policy(wait_policy, waited);
        if let Some(password) = self.address.password() {
            let auth = command("AUTH").args(self.address.username()).arg(password);
            link.send(&auth.into_bytes())?;
            reply::simple(link.replies()).map_err(|error| without(error, password))?;
        }
        Ok(link)
    }

    /// Asks a server that was not there before what commands it knows.
    pub(super) fn meet(&self, link: &mut Connection) -> Result<(), BackendError> {
        let server = lock(&self.server);
        if link.run_id().is_some() && link.run_id() == server.run_id.as_ref() {
            link.set_commands_version(self.commands_version());
            return Ok(());
        }
        drop(server);
        let commands = commands::ask(link)?.map(Arc::new);
        let mut server = lock(&self.server);
        let is_other = server.run_id.is_some() && server.run_id.as_ref() != link.run_id();
        let has_changed = server.commands != commands;
        if is_other || (has_changed && server.commands.is_some()) {
            // Others may lead to the server that was there before.
            self.close_all();
        }
        server.run_id = link.run_id().cloned();
        if has_changed {
            server.commands = commands;
            self.commands_version.fetch_add(1, Ordering::Release);
        }
        // With the lock held: it is the version of this server's commands.
        link.set_commands_version(self.commands_version());
        Ok(())
    }

    fn connect(&self, wait: Duration) -> Result<BackendStream, BackendError> {
        let timeout = self.timeouts.timeout;
        if let ConnectionAddr::Unix(path) = self.address.endpoint() {
            return BackendStream::connect_unix(path, wait, timeout).map_err(connect_error);
        }
        let addresses = lock(&self.resolved).clone().map_err(BackendError::Unresolved)?;
        let mut last = BackendError::Unresolved("no address".to_owned());
        for address in &addresses {
            // One that swallows packets must not use up the time of the next.
            match BackendStream::connect(*address, wait / addresses.len() as u32, timeout) {
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
        error if is_timeout(&error) => BackendError::TimedOut,
        error => BackendError::Connect(error),
    }
}

/// The error without the password, which a server that does not know `AUTH` repeats.
fn without(error: resp::Error, password: &str) -> resp::Error {
    match error {
        resp::Error::Redis(text) if !password.is_empty() => {
            resp::Error::Redis(text.replace(password, "…"))
        }
        error => error,
    }
}
