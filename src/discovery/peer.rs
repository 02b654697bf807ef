//! A connection on which a source asks a Sentinel, or a server, what it knows.
//!
//! Each answer has a deadline as a whole, and a bound: nobody who answers slowly, or without an end, holds up more than
//! the thread of its source, and that not for long.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::source::DiscoveryError;
use crate::backend::Stranger;
use crate::config::LiveConfig;
use crate::config::address::BackendAddress;
use crate::logging;
use crate::net::backend_stream::BackendStream;
use crate::resp::{CommandBuilder, Framer, command};
use crate::sync::{Mutex, lock};

/// Most bytes of one answer: a Sentinel needs 700 for each replica.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How replies begin, in RESP2 and RESP3.
const REPLIES: &[u8] = b"+-:$*_#,(!=%~>|";

/// Longest text of an error that is repeated.
const MAX_ERROR_BYTES: usize = 200;

/// Least time for an operation on a socket, which takes no timeout of zero.
const MIN_TIME: Duration = Duration::from_millis(1);

/// A connection, logged in.
pub(super) struct Peer {
    stream: BackendStream,
    /// Bytes that were received and belong to no answer yet.
    received: Vec<u8>,
}

impl Peer {
    /// Connects and logs in.
    ///
    /// # Errors
    /// It can't be reached, or refuses the login.
    pub fn connect(
        address: &BackendAddress,
        config: &LiveConfig,
        deadline: Instant,
    ) -> Result<Self, DiscoveryError> {
        let tls = config.get().tls_with(address).map_err(io::Error::from)?;
        let mut last = DiscoveryError::NoAnswer(format!("{} has no address", address.name()));
        let found = resolve(address.host(), address.port(), deadline)?;
        for (socket_address, addresses_left) in found.iter().zip((1..=found.len() as u32).rev()) {
            // An address that swallows packets must not use up the time of the next.
            let left = left(deadline);
            let wait = left / addresses_left;
            match BackendStream::connect(*socket_address, wait, left, tls.as_ref()) {
                Ok(stream) => {
                    let mut peer = Self { stream, received: Vec::new() };
                    peer.log_in(address, deadline)?;
                    return Ok(peer);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    fn log_in(
        &mut self,
        address: &BackendAddress,
        deadline: Instant,
    ) -> Result<(), DiscoveryError> {
        let Some(password) = address.password() else { return Ok(()) };
        let auth = command("AUTH").args(address.username()).arg(password);
        match self.ask(&auth, deadline) {
            Ok(_) => Ok(()),
            // A server that does not know `AUTH` repeats its arguments.
            Err(DiscoveryError::Refused(text)) if !password.is_empty() => {
                Err(DiscoveryError::Refused(text.replace(password, "…")))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a command and returns its answer.
    ///
    /// # Errors
    /// There is none by the deadline, or it is an error.
    pub fn ask(
        &mut self,
        command: &CommandBuilder,
        deadline: Instant,
    ) -> Result<Value, DiscoveryError> {
        self.send(command)?;
        self.answer(deadline)
    }

    /// Sends a command.
    pub fn send(&mut self, command: &CommandBuilder) -> Result<(), DiscoveryError> {
        let mut bytes = Vec::new();
        command.append_to(&mut bytes);
        Ok((&self.stream).write_all(&bytes)?)
    }

    /// Returns the next answer or message.
    pub fn answer(&mut self, deadline: Instant) -> Result<Value, DiscoveryError> {
        let unusable = |error: &dyn std::fmt::Display| DiscoveryError::Unusable(shown(error));
        let mut framer = Framer::new();
        let mut used = 0;
        loop {
            used += framer.feed(&self.received[used..]).map_err(|error| {
                let stranger = Stranger::of(&self.received, REPLIES);
                stranger.map_or_else(|| unusable(&error), |stranger| unusable(&stranger))
            })?;
            if framer.is_done() {
                break;
            }
            if self.received.len() > MAX_ANSWER_BYTES {
                return Err(unusable(&"its answer is longer than 1 MiB"));
            }
            self.receive(deadline)?;
        }
        let rest = self.received.split_off(used);
        let answer = std::mem::replace(&mut self.received, rest);
        let value = redis::parse_redis_value(&answer).map_err(|error| unusable(&error))?;
        match value {
            Value::ServerError(error) => {
                let details = error.details().unwrap_or_default();
                Err(DiscoveryError::Refused(shown(&format!("{} {details}", error.code()))))
            }
            value => Ok(value),
        }
    }

    /// Waits for `time` at most until there is something to read; returns whether there is.
    pub fn wait_for_input(&self, time: Duration) -> bool {
        !self.received.is_empty() || self.stream.wait_for_input(time)
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), DiscoveryError> {
        if Instant::now() >= deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        self.stream.set_read_timeout(left(deadline))?;
        let mut piece = [0; 16 * 1024];
        match (&self.stream).read(&mut piece)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            length => {
                self.received.extend_from_slice(&piece[..length]);
                Ok(())
            }
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(MIN_TIME)
}

/// Returns the text of an error as it may be logged.
fn shown(error: &dyn std::fmt::Display) -> String {
    let text: String = error.to_string().chars().take(MAX_ERROR_BYTES).collect();
    logging::escaped(&text)
}

/// Names that are being looked up: while the resolver hangs, there is one thread for each.
static LOOKED_UP: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Looks a name up. The system's resolver has no timeout, so that a thread of its own waits for it.
fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, DiscoveryError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = channel();
    let name = host.to_owned();
    if !lock(&LOOKED_UP).insert(name.clone()) {
        let text = format!("{host} is still being looked up");
        return Err(DiscoveryError::NoAnswer(text));
    }
    let look_up = move || {
        let found = (name.as_str(), port).to_socket_addrs();
        lock(&LOOKED_UP).remove(&name);
        _ = sender.send(found.map(Iterator::collect));
    };
    let started = thread::Builder::new().name("resolve".to_owned()).spawn(look_up);
    if let Err(error) = started {
        lock(&LOOKED_UP).remove(host);
        return Err(error.into());
    }
    let found = receiver.recv_timeout(left(deadline));
    let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    found.map_err(|error| DiscoveryError::NoAnswer(format!("{host} can't be looked up: {error}")))
}

/// Returns a value as text; `None` if it is none, or no UTF-8.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
