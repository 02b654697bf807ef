//! What one server says of itself, and the rights of its user.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Backend, BackendError, Connection, Report, WaitPolicy, is_not_permitted};
use crate::health::Lag;
use crate::resp::{self, CommandBuilder, command, reply};
use crate::text::is_hidden;

/// Number of PINGs whose median is the latency.
const PINGS: usize = 5;

/// Limit of replies that are not values; the longest is that of `INFO`.
const MAX_REPLY_BYTES: usize = 1024 * 1024;

/// Limit of a server's own words that are shown, in characters.
const MAX_SHOWN_CHARS: usize = 60;

/// A key for trying commands; it need not exist.
const ANY_KEY: &str = "redis-lb:check";

/// Commands that are sent for HTTP clients; each stands after the right that it needs.
const FOR_HTTP: [(&str, &[&str]); 11] = [
    ("+ping", &["PING"]),
    ("+info", &["INFO", "server"]),
    ("+@read", &["RANDOMKEY"]),
    ("+@read", &["SCAN", "0", "COUNT", "1"]),
    ("+@read", &["TYPE", ANY_KEY]),
    ("+@read", &["MEMORY", "USAGE", ANY_KEY]),
    ("+@read", &["GET", ANY_KEY]),
    ("+@read", &["HGETALL", ANY_KEY]),
    ("+@read", &["LRANGE", ANY_KEY, "0", "0"]),
    ("+@read", &["SMEMBERS", ANY_KEY]),
    ("+@read", &["ZRANGE", ANY_KEY, "0", "0"]),
];

/// Commands that are sent for Redis clients. `COMMAND` was sent before, and `HELLO` needs no right.
const FOR_REDIS_CLIENTS: [(&str, &[&str]); 2] = [("+echo", &["ECHO", ""]), ("+time", &["TIME"])];

/// The status of a backend, or why there is none.
pub type StatusResult = Result<ServerStatus, BackendError>;

/// The status of a server that has answered.
#[derive(Debug)]
pub struct ServerStatus {
    /// The findings of a health check.
    pub report: Report,
    /// When the check began and was answered.
    pub checked: (Instant, Instant),
    /// What it lacks of its primary's writes, once all have answered.
    pub lag: Lag,
    /// The version in its `INFO`.
    pub version: String,
    /// `HOST:PORT` of its primary; `None` if it is one, or does not say.
    pub primary: Option<String>,
    /// How long a PING takes.
    pub latency: Duration,
    /// The number of keys in each database, and how many of these expire.
    pub databases: BTreeMap<i64, (u64, u64)>,
    /// Reason why the database in its URL can't be read, if it can't.
    pub no_database: Option<String>,
    /// Rights that its user lacks to serve HTTP clients.
    pub lacks: Vec<&'static str>,
    /// Rights that its user lacks to serve Redis clients as well.
    pub lacks_for_redis_clients: Vec<&'static str>,
    /// A connection for more questions; no reply is outstanding.
    pub connection: Connection,
}

impl ServerStatus {
    /// Resolves its name, connects, and asks. The server has to answer before `deadline`; resolving may take
    /// longer.
    pub fn ask(
        backend: &Arc<Backend>,
        deadline: Instant,
        max_lag: Option<Duration>,
    ) -> Result<Self, BackendError> {
        backend.resolve();
        let mut connection = None;
        let began = Instant::now();
        let report = backend.check(&mut connection, deadline, max_lag)?;
        let checked = (began, Instant::now());
        let mut connection = connection.ok_or(BackendError::Unresponsive)?;
        connection.set_wait_policy(WaitPolicy::Until(deadline), Duration::ZERO);
        let latency = latency(&mut connection)?;
        let info = info(&mut connection)?;
        let mut server = Self {
            version: shown_field(&info, "redis_version").unwrap_or_default(),
            primary: primary(&info),
            databases: info.lines().filter_map(database).collect(),
            latency,
            report,
            checked,
            lag: Lag::default(),
            no_database: None,
            lacks: Vec::new(),
            lacks_for_redis_clients: Vec::new(),
            connection,
        };
        if server.report.not_ready.is_none() && server.report.unserved.is_none() {
            server.try_rights(backend)?;
        }
        Ok(server)
    }

    fn try_rights(&mut self, backend: &Backend) -> Result<(), BackendError> {
        let database = backend.own_mode().database;
        match ask(&mut self.connection, command("SELECT").number(database)) {
            Err(BackendError::Redis(why)) if is_not_permitted(&why) => self.lacks.push("+select"),
            Err(BackendError::Redis(why)) => self.no_database = Some(why),
            selected => _ = selected?,
        }
        self.lacks.extend(lacking(&mut self.connection, &FOR_HTTP)?);
        // "+info" has been tried already.
        self.lacks.extend(self.report.lacks.iter().copied().filter(|right| *right != "+info"));
        if backend.commands().is_none() {
            self.lacks_for_redis_clients.push("+command");
        }
        self.lacks_for_redis_clients.extend(lacking(&mut self.connection, &FOR_REDIS_CLIENTS)?);
        for rights in [&mut self.lacks, &mut self.lacks_for_redis_clients] {
            rights.dedup();
        }
        Ok(())
    }

    /// Whether it can be read from, and says how many keys it has.
    pub fn has_counted(&self) -> bool {
        self.report.not_ready.is_none()
            && self.report.unserved.is_none()
            && self.report.keys.is_some()
    }

    /// Whether keys can be read as for HTTP clients.
    pub fn may_be_sampled(&self) -> bool {
        self.lacks.is_empty() && self.no_database.is_none()
    }

    /// How many of its keys expire.
    pub fn expiring(&self) -> u64 {
        self.databases.values().map(|(_, expiring)| expiring).sum()
    }

    /// Its role for the table, such as `primary` or `replica of HOST:PORT, link up`.
    pub fn role(&self) -> String {
        match &self.primary {
            _ if self.report.run_id.is_empty() => "-".to_owned(),
            None => "primary".to_owned(),
            Some(primary) => {
                let link = if self.report.is_cut_off { "down" } else { "up" };
                let lacks = self.lag.shown_bytes().map(|bytes| format!(", lacks {bytes}"));
                format!("replica of {primary}, link {link}{}", lacks.unwrap_or_default())
            }
        }
    }
}

/// Sends one command and reads its whole reply.
fn ask(connection: &mut Connection, command: CommandBuilder) -> Result<Vec<u8>, BackendError> {
    connection.send(&command.into_bytes())?;
    let mut reply = Vec::new();
    if !connection.hold(&mut reply, MAX_REPLY_BYTES)? {
        return Err(resp::Error::TooLong.into());
    }
    reply::no_error(&reply)?;
    Ok(reply)
}

/// Tries these commands and returns the rights that are missing for them; `~*` if a key may not be
/// read.
fn lacking(
    connection: &mut Connection,
    commands: &[(&'static str, &[&str])],
) -> Result<Vec<&'static str>, BackendError> {
    let mut rights = Vec::new();
    for (right, words) in commands {
        match ask(connection, command(words[0]).args(&words[1..])) {
            Err(BackendError::Redis(why)) if is_not_permitted(&why) => {
                rights.push(if why.contains("to access") { "~*" } else { right });
            }
            // This version does not have the command, or the key is of another type.
            Err(BackendError::Redis(_)) => {}
            reply => _ = reply?,
        }
    }
    Ok(rights)
}

fn latency(connection: &mut Connection) -> Result<Duration, BackendError> {
    let mut times = [Duration::ZERO; PINGS];
    for time in &mut times {
        let began = Instant::now();
        match ask(connection, command("PING")) {
            // An error takes as long.
            Err(BackendError::Redis(_)) => {}
            reply => _ = reply?,
        }
        *time = began.elapsed();
    }
    times.sort();
    Ok(times[PINGS / 2])
}

/// The text of `INFO`, empty if we may not ask.
fn info(connection: &mut Connection) -> Result<String, BackendError> {
    let reply = match ask(connection, command("INFO")) {
        Err(BackendError::Redis(_)) => return Ok(String::new()),
        reply => reply?,
    };
    Ok(String::from_utf8_lossy(reply::string(&reply).unwrap_or_default()).into_owned())
}

/// A field of `INFO` that is safe to show.
fn shown_field(info: &str, name: &str) -> Option<String> {
    let mut fields = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    fields.find(|(given, _)| *given == name).map(|(_, value)| shown(value.as_bytes()))
}

fn primary(info: &str) -> Option<String> {
    let host = shown_field(info, "master_host")?;
    Some(format!("{host}:{}", shown_field(info, "master_port").unwrap_or_default()))
}

/// Parses a database's line in `INFO`, such as `db0:keys=1319,expires=0,avg_ttl=0`.
fn database(line: &str) -> Option<(i64, (u64, u64))> {
    let (name, counts) = line.trim_end().split_once(':')?;
    let number = name.strip_prefix("db")?.parse().ok()?;
    let count = |name: &str| {
        let count = counts.split(',').find_map(|count| count.strip_prefix(name));
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    Some((number, (count("keys="), count("expires="))))
}

/// Makes short text of a server's bytes that is safe to show on a terminal.
pub fn shown(bytes: &[u8]) -> String {
    // A character has four bytes at most.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_SHOWN_CHARS + 4)]);
    let plain = text.chars().map(|c| if is_hidden(c) { '?' } else { c });
    let mut shown: String = plain.take(MAX_SHOWN_CHARS).collect();
    if shown.len() < text.len().min(bytes.len()) && text.chars().count() > MAX_SHOWN_CHARS {
        shown.push('…');
    }
    shown
}

/// Reads a bulk string of at most `max` bytes, and skips a longer one; `None` for that, and for null.
pub fn short(from: &mut impl BufRead, max: u64) -> Result<Option<Vec<u8>>, resp::Error> {
    match reply::bulk(from)? {
        Some(length) if length > max => {
            reply::payload(from, length, |_piece| Ok::<_, resp::Error>(())).map(|()| None)
        }
        Some(length) => reply::rest(from, length).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_is_safe_to_show() {
        assert_eq!(shown(b"7.0\x1b[2J\n"), "7.0?[2J?");
        assert_eq!(shown("日本".as_bytes()), "日本");
        assert_eq!(shown(b"\xff"), "\u{fffd}");
        assert_eq!(shown(&[b'a'; 1000]), format!("{}…", "a".repeat(MAX_SHOWN_CHARS)));
    }

    #[test]
    fn a_databases_keys_are_counted_with_those_that_expire() {
        assert_eq!(database("db3:keys=10,expires=4,avg_ttl=5\r"), Some((3, (10, 4))));
        assert_eq!(database("db_size:3"), None);
    }
}
