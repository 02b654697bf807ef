//! CONFIG GET: settings that are true of the balancer, and those on which all servers agree.

use std::time::Instant;

use wildmatch::WildMatch;

use super::replies::Answered;
use super::session::Session;
use crate::backend::{BackendError, WaitPolicy};
use crate::balance::Balancer;
use crate::config::Config;
use crate::health::{BackendState, Member};
use crate::resp::{self, Command, reply, write};

/// Longest pattern, in bytes. A longer one matches nothing.
const MAX_PATTERN_BYTES: usize = 256;

/// Most patterns of one CONFIG GET.
const MAX_PATTERNS: usize = 1000;

/// Longest value of a server, in bytes. None of [`THEIRS`] comes near; with a longer one, nothing is taken from that server.
const MAX_VALUE_BYTES: u64 = 1024;

/// The settings of servers that clients get, if all servers that are up have one value. None is a secret, a path or an
/// address. Servers before Redis 7 know some by other names.
const THEIRS: &[&str] = &[
    "appendfsync",
    "appendonly",
    "busy-reply-threshold",
    "databases",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hash-max-ziplist-entries",
    "hash-max-ziplist-value",
    "hz",
    "list-max-listpack-size",
    "list-max-ziplist-size",
    "lua-time-limit",
    "maxmemory-policy",
    "maxmemory-samples",
    "notify-keyspace-events",
    "replica-serve-stale-data",
    "save",
    "set-max-intset-entries",
    "slave-serve-stale-data",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "zset-max-ziplist-entries",
    "zset-max-ziplist-value",
];

/// The settings that are true of the balancer, whatever the servers have.
fn ours(config: &Config) -> [(&'static str, String); 6] {
    [
        ("maxclients", config.max_clients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("proto-max-bulk-len", config.max_argument_bytes().to_string()),
        ("replica-read-only", "yes".to_owned()),
        ("slave-read-only", "yes".to_owned()),
        ("timeout", config.client_timeout.as_secs().to_string()),
    ]
}

impl Session<'_> {
    #[inline(never)]
    pub(super) fn config_get(&mut self, command: &Command) -> Answered {
        // The patterns follow CONFIG and GET.
        if command.arg_count() - 2 > MAX_PATTERNS {
            return Err(format!("ERR CONFIG GET takes at most {MAX_PATTERNS} patterns").into());
        }
        let patterns = command.args().skip(2).filter(|pattern| pattern.len() <= MAX_PATTERN_BYTES);
        let lower = |pattern| String::from_utf8_lossy(pattern).to_ascii_lowercase();
        let patterns: Vec<_> = patterns.map(|pattern| WildMatch::new(&lower(pattern))).collect();
        let is_asked = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        let ours = ours(&self.balancer.config());
        let ours = ours.into_iter().map(|(name, value)| (name, value.into_bytes()));
        let theirs: Vec<_> = THEIRS.iter().copied().filter(|name| is_asked(name)).collect();
        let found = ours.filter(|(name, _)| is_asked(name));
        let found: Vec<_> = found.chain(agreed(self.balancer, &theirs)).collect();
        let protocol = self.mode.protocol;
        self.answer(|out| {
            write::map(out, found.len(), protocol);
            for (name, value) in found {
                write::bulk(out, name.as_bytes());
                write::bulk(out, &value);
            }
        });
        Ok(())
    }
}

/// The values of these settings on which all servers that are up agree. A server that does not tell one, or not in
/// time, does not agree.
fn agreed<'n>(balancer: &Balancer, names: &[&'n str]) -> Vec<(&'n str, Vec<u8>)> {
    if names.is_empty() {
        return Vec::new();
    }
    // For all of them together.
    let deadline = Instant::now() + balancer.config().backend_timeout;
    let backends = balancer.backends();
    let up = backends.iter().filter(|backend| backend.health.state() == BackendState::Up);
    let all = up.map(|backend| ask(backend, names, deadline).unwrap_or_default());
    let both = |one: Vec<Option<Vec<u8>>>, other: Vec<Option<Vec<u8>>>| {
        let agreed = |(one, other): (Option<Vec<u8>>, _)| if one == other { one } else { None };
        one.into_iter().zip(other).map(agreed).collect()
    };
    let values = all.reduce(both).unwrap_or_default();
    names.iter().zip(values).filter_map(|(name, value)| Some((*name, value?))).collect()
}

/// Asks one server for these settings; `None` for each that it does not tell.
fn ask(
    backend: &Member,
    names: &[&str],
    deadline: Instant,
) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
    let mut questions = Vec::new();
    // Before Redis 7, each command takes one name.
    for name in names {
        resp::command("CONFIG").arg("GET").arg(name).append_to(&mut questions);
    }
    let wait_policy = WaitPolicy::Until(deadline);
    let mut connection = backend.request(backend.own_mode(), &questions, wait_policy, |_| true)?;
    let values = names.iter().map(|name| setting(connection.replies(), name));
    let values = values.collect::<Result<_, resp::Error>>()?;
    connection.keep();
    Ok(values)
}

/// Reads the reply about one setting: its name and value, nothing, or an error.
fn setting(from: &mut impl std::io::BufRead, name: &str) -> Result<Option<Vec<u8>>, resp::Error> {
    match reply::array(from) {
        Ok(2) => {
            let found = reply::bytes(from, MAX_VALUE_BYTES)?;
            let value = reply::bytes(from, MAX_VALUE_BYTES)?;
            Ok((found == name.as_bytes()).then_some(value))
        }
        Ok(0) | Err(resp::Error::Redis(_)) => Ok(None),
        Ok(_) => Err(resp::Error::Protocol("more than one setting")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_listed_twice_or_tells_a_secret() {
        let config = Config::from_arguments(["lb"]).expect("the defaults");
        let ours = ours(&config);
        let names = ours.iter().map(|(name, _)| *name).chain(THEIRS.iter().copied());
        let names: Vec<&str> = names.collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            let is_secret = ["pass", "auth", "user", "file", "dir", "bind", "port", "announce"]
                .iter()
                .any(|word| name.contains(word));
            assert!(!is_secret, "{name}");
        }
    }

    #[test]
    fn a_reply_about_a_setting_is_its_value_nothing_or_an_error() {
        for (reply, expected) in [
            ("*2\r\n$2\r\nhz\r\n$2\r\n10\r\n", Some("10")),
            ("*2\r\n$2\r\nxx\r\n$2\r\n10\r\n", None),
            ("*0\r\n", None),
            ("-NOPERM this user has no permissions to run the 'config|get' command\r\n", None),
        ] {
            let mut from = reply.as_bytes();
            let found = setting(&mut from, "hz").expect("a reply");
            assert_eq!(found, expected.map(|value| value.as_bytes().to_vec()), "{reply}");
            assert!(from.is_empty(), "{reply}");
        }
        assert!(setting(&mut &b"*4\r\n"[..], "hz").is_err());
    }
}
