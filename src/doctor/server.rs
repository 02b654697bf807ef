//! What one server says when it is asked how it is.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Cmd;

use crate::backend::Report;
use crate::backend::{Backend, BackendError, Connection, WaitPolicy, is_not_permitted};
use crate::resp::{self, reply};
use crate::text::is_hidden;

/// How often a server is asked for a PING; what counts is the middle one of the times that it took.
const PINGS: usize = 5;

/// The most that an answer may say which is no value; `INFO` is the longest.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What of a server's own words is shown, in characters.
const MAX_SHOWN_CHARS: usize = 60;

/// There need not be such a key.
const ANY_KEY: &str = "redis-lb:check";

/// What is sent for HTTP clients, each with the right that it needs.
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

/// The same for Redis clients; `COMMAND` was asked for already, and `HELLO` everybody may use.
const FOR_REDIS_CLIENTS: [(&str, &[&str]); 2] = [("+echo", &["ECHO", ""]), ("+time", &["TIME"])];

/// One server that has answered.
#[derive(Debug)]
pub struct ServerProfile {
    /// What a check of `lb` finds.
    pub report: Report,
    /// As it says itself, in its `INFO`.
    pub version: String,
    /// `HOST:PORT` of its primary; `None` where it is one, or does not say.
    pub primary: Option<String>,
    /// Whether it is a replica that has lost its primary.
    pub is_cut_off: bool,
    /// How long it takes to answer.
    pub latency: Duration,
    /// How many keys each of its databases has, and how many of these expire.
    pub databases: BTreeMap<i64, (u64, u64)>,
    /// Why the database in its URL can't be read, if so.
    pub no_database: Option<String>,
    /// The rights that its user lacks for what HTTP clients want, and for what Redis clients want.
    pub lacks: Vec<&'static str>,
    pub lacks_for_redis_clients: Vec<&'static str>,
    /// To ask more; nothing is under way on it.
    pub link: Connection,
}

impl ServerProfile {
    /// Looks up its name, connects, and asks. It has until `deadline`, and the resolver for as long
    /// as that likes.
    pub fn look(
        backend: &Arc<Backend>,
        deadline: Instant,
        max_lag: Option<Duration>,
    ) -> Result<Self, BackendError> {
        backend.resolve();
        let mut link = None;
        let report = backend.check(&mut link, deadline, max_lag)?;
        let mut link = link.ok_or(BackendError::Unresponsive)?;
        link.set_wait_policy(WaitPolicy::Until(deadline), Duration::ZERO);
        let latency = latency(&mut link)?;
        let info = info(&mut link)?;
        let mut server = Self {
            version: said(&info, "redis_version").unwrap_or_default(),
            primary: primary(&info),
            is_cut_off: field(&info, "master_link_status") == Some("down"),
            databases: info.lines().filter_map(database).collect(),
            latency,
            report,
            no_database: None,
            lacks: Vec::new(),
            lacks_for_redis_clients: Vec::new(),
            link,
        };
        if server.report.not_ready.is_none() && server.report.unserved.is_none() {
            server.try_rights(backend)?;
        }
        Ok(server)
    }

    fn try_rights(&mut self, backend: &Backend) -> Result<(), BackendError> {
        let database = backend.own_mode().database;
        match ask(&mut self.link, redis::cmd("SELECT").arg(database)) {
            Err(BackendError::Redis(why)) if is_not_permitted(&why) => self.lacks.push("+select"),
            Err(BackendError::Redis(why)) => self.no_database = Some(why),
            selected => _ = selected?,
        }
        self.lacks.extend(lacking(&mut self.link, &FOR_HTTP)?);
        // "+info" is among those already.
        self.lacks.extend(self.report.lacks.iter().copied().filter(|right| *right != "+info"));
        if backend.commands().is_none() {
            self.lacks_for_redis_clients.push("+command");
        }
        self.lacks_for_redis_clients.extend(lacking(&mut self.link, &FOR_REDIS_CLIENTS)?);
        for rights in [&mut self.lacks, &mut self.lacks_for_redis_clients] {
            rights.dedup();
        }
        Ok(())
    }

    /// Whether it can be read from and says how many keys it has.
    pub fn has_counted(&self) -> bool {
        self.report.not_ready.is_none()
            && self.report.unserved.is_none()
            && self.report.keys.is_some()
    }

    /// Whether keys can be read as HTTP clients would.
    pub fn may_be_sampled(&self) -> bool {
        self.lacks.is_empty() && self.no_database.is_none()
    }

    /// How many of its keys will be gone by themselves.
    pub fn expiring(&self) -> u64 {
        self.databases.values().map(|(_, expiring)| expiring).sum()
    }

    /// `primary`, `replica of HOST:PORT, link up`, …
    pub fn role(&self) -> String {
        match &self.primary {
            _ if self.report.run_id.is_empty() => "-".to_owned(),
            None => "primary".to_owned(),
            Some(primary) => {
                let link = if self.is_cut_off { "down" } else { "up" };
                format!("replica of {primary}, link {link}")
            }
        }
    }
}

/// The whole reply to one command.
pub fn ask(link: &mut Connection, command: &Cmd) -> Result<Vec<u8>, BackendError> {
    link.send(&command.get_packed_command())?;
    let mut answer = Vec::new();
    if !link.hold(&mut answer, MAX_ANSWER_BYTES)? {
        return Err(resp::Error::TooLong.into());
    }
    reply::no_error(&answer)?;
    Ok(answer)
}

/// The rights that are needed for these commands and not there; `~*` where a key may not be read.
fn lacking(
    link: &mut Connection,
    commands: &[(&'static str, &[&str])],
) -> Result<Vec<&'static str>, BackendError> {
    let mut rights = Vec::new();
    for (right, words) in commands {
        match ask(link, &redis::cmd(words[0]).arg(&words[1..]).to_owned()) {
            Err(BackendError::Redis(why)) if is_not_permitted(&why) => {
                rights.push(if why.contains("to access") { "~*" } else { right });
            }
            // A command that this version does not have, or a key of another type.
            Err(BackendError::Redis(_)) => {}
            answer => _ = answer?,
        }
    }
    Ok(rights)
}

fn latency(link: &mut Connection) -> Result<Duration, BackendError> {
    let mut times = [Duration::ZERO; PINGS];
    for time in &mut times {
        let began = Instant::now();
        match ask(link, &redis::cmd("PING")) {
            // That is an answer too.
            Err(BackendError::Redis(_)) => {}
            answer => _ = answer?,
        }
        *time = began.elapsed();
    }
    times.sort();
    Ok(times[PINGS / 2])
}

/// What `INFO` says; nothing where we may not ask.
fn info(link: &mut Connection) -> Result<String, BackendError> {
    let answer = match ask(link, &redis::cmd("INFO")) {
        Err(BackendError::Redis(_)) => return Ok(String::new()),
        answer => answer?,
    };
    Ok(String::from_utf8_lossy(reply::string(&answer).unwrap_or_default()).into_owned())
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let fields = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    fields.into_iter().find(|(given, _)| *given == name).map(|(_, value)| value)
}

/// A field that is shown as the server says it, but for what could move a terminal's cursor.
fn said(info: &str, name: &str) -> Option<String> {
    field(info, name).map(|value| shown(value.as_bytes()))
}

fn primary(info: &str) -> Option<String> {
    let host = said(info, "master_host")?;
    Some(format!("{host}:{}", said(info, "master_port").unwrap_or_default()))
}

/// `db0:keys=1319,expires=0,avg_ttl=0`
fn database(line: &str) -> Option<(i64, (u64, u64))> {
    let (name, counts) = line.trim_end().split_once(':')?;
    let number = name.strip_prefix("db")?.parse().ok()?;
    let count = |name: &str| {
        let count = counts.split(',').find_map(|count| count.strip_prefix(name));
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    Some((number, (count("keys="), count("expires="))))
}

/// Somebody else's bytes as text that does nothing to a terminal, and is not long.
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

/// Takes a bulk string of at most `max` bytes; a longer one is passed over. `None` for null, too.
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
    fn what_a_server_says_can_do_nothing_to_a_terminal() {
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
