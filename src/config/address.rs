//! Addresses of backends: `host:port`, `redis://user:password@host:port/db` or
//! `redis+unix:///path?db=N`, for `lb` and `seed`.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// The three servers that `load_data.sh` starts; the default of `--backend`.
pub const DEFAULT_BACKENDS: [&str; 3] = ["127.0.0.1:1111", "127.0.0.1:2222", "127.0.0.1:3333"];

/// The address of one backend, with its database number and credentials.
///
/// `Display` and `Debug` show only [`name`](Self::name): a password never reaches a log or a page.
#[derive(Clone)]
pub struct BackendAddress {
    info: ConnectionInfo,
    name: String,
}

/// Equal addresses lead to the same database of the same server, as the same user.
impl PartialEq for BackendAddress {
    fn eq(&self, other: &Self) -> bool {
        self.endpoint() == other.endpoint()
            && self.database() == other.database()
            && (self.username(), self.password()) == (other.username(), other.password())
    }
}

/// Error for a text that is no backend address. It does not repeat the text, which may contain a
/// password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}; write HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB or redis+unix:///PATH")]
pub struct AddressError(String);

impl AddressError {
    /// An error for this reason, which repeats nothing of the text.
    pub(super) fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl BackendAddress {
    /// Returns the backend's name in logs, headers and tables: `HOST:PORT`, or the path of a Unix
    /// socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns host and port, or the path of the socket.
    pub fn endpoint(&self) -> &ConnectionAddr {
        self.info.addr()
    }

    /// Returns the database that is read (and, by `seed`, written): 0 if the address names none.
    pub fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// Returns the user for `AUTH`, if the address names one.
    pub fn username(&self) -> Option<&str> {
        self.info.redis_settings().username()
    }

    /// Returns the password for `AUTH`, if the address names one.
    pub fn password(&self) -> Option<&str> {
        self.info.redis_settings().password()
    }

    /// Returns the whole address for a client of the `redis` crate.
    pub fn connection_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl FromStr for BackendAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why: &str| Err(AddressError(why.to_owned()));
        let text = text.trim();
        let url = if text.contains("://") {
            text.to_owned()
        } else if has_port(text) {
            format!("redis://{text}")
        } else {
            return wrong("HOST:PORT needs a port from 1 to 65535");
        };
        if url.starts_with("rediss:") {
            return wrong("TLS (rediss://) is not supported");
        }
        let authority = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
        if url.contains('@') && !authority.is_some_and(|authority| authority.contains('@')) {
            return wrong("percent-encode / ? # , and @ in a user or password");
        }
        let info = url.into_connection_info().map_err(|error| AddressError(plain(&error)))?;
        let name = match info.addr() {
            ConnectionAddr::Tcp(_, 0) => return wrong("port 0 is no server's port"),
            ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
            ConnectionAddr::Unix(path) => path.display().to_string(),
            _ => return wrong("this kind of address is not supported"),
        };
        let login = info.redis_settings();
        if login.username().is_some() && login.password().is_none() {
            return wrong("a user needs a password");
        }
        if login.db() < 0 {
            return wrong("a database number is 0 or more");
        }
        Ok(Self { info, name })
    }
}

/// Whether `text` is a host and `:PORT`, so that a bare word is not taken for an address.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// Returns the `redis` crate's reason without its error class, which tells a user nothing.
fn plain(error: &redis::RedisError) -> String {
    let text = error.to_string();
    match text.rsplit_once("- ") {
        Some((reason, _class)) => reason.trim_end().to_owned(),
        None => text,
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, i64, Option<String>, Option<String>) {
        let address: BackendAddress = text.parse().expect(text);
        (
            address.name().to_owned(),
            address.database(),
            address.username().map(str::to_owned),
            address.password().map(str::to_owned),
        )
    }

    #[test]
    fn every_documented_form_is_understood() {
        let s = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("127.0.0.1:1111"), ("127.0.0.1:1111".into(), 0, None, None));
        assert_eq!(parsed("[::1]:1111"), ("[::1]:1111".into(), 0, None, None));
        assert_eq!(parsed("redis.example:6379"), ("redis.example:6379".into(), 0, None, None));
        assert_eq!(parsed("redis://h/3"), ("h:6379".into(), 3, None, None));
        assert_eq!(parsed("redis://u:p%40ss@h:1/2"), ("h:1".into(), 2, s("u"), s("p@ss")));
        assert_eq!(parsed("redis://:secret@h:1"), ("h:1".into(), 0, None, s("secret")));
        #[cfg(unix)]
        assert_eq!(parsed("redis+unix:///run/r.sock?db=4"), ("/run/r.sock".into(), 4, None, None));
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in [
            "",
            "localhost",
            "h:",
            "h:0",
            ":1",
            "h:70000",
            "http://h:1",
            "rediss://h:1",
            "redis://",
            "redis://u:hunter2@h:99999",
            "redis://u:12?34@h:1",
            "redis://u:12/34@h:1",
            "redis://user@h:1",
            "34@h:1",
            "redis://h/x",
            "redis://h/-1",
            "1111",
        ] {
            let error = text.parse::<BackendAddress>().expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("write HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let address: BackendAddress = "redis://u:hunter2@h:1".parse().expect("an address");
        assert_eq!(format!("{address} {address:?}"), "h:1 h:1");
    }
}
