//! Addresses of backends: `host:port`, `redis://user:password@host:port/db`, `rediss://…` for TLS, or
//! `redis+unix:///path?db=N`, for `lb` and `seed`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use super::address_query::{AddressQuery, FRAGMENT};
use super::backend_tls::{TlsSettings, server_name};
use super::mistyped;

/// The three servers that `load_data.sh` starts; the default of `--backend`.
pub const DEFAULT_BACKENDS: [&str; 3] = ["127.0.0.1:1111", "127.0.0.1:2222", "127.0.0.1:3333"];

/// Characters of a user that a URL encodes.
const IN_USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Characters of a socket's path that a URL encodes.
const IN_PATH: &AsciiSet = &IN_USER.remove(b'/');

/// A user and a password that are written beside an address instead of in it.
#[derive(Clone, Default)]
pub struct Login {
    /// The user, if not the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

impl Login {
    /// Returns whether there is neither.
    pub(super) fn is_empty(&self) -> bool {
        self.user.is_none() && self.password.is_none()
    }

    /// Returns this one or, if it is empty, the other.
    ///
    /// # Errors
    /// Both are there.
    pub(super) fn or(&self, other: &Self) -> Result<Self, AddressError> {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => Ok(other.clone()),
            (false, true) => Ok(self.clone()),
            (false, false) => Err(AddressError::new(
                "the login of Sentinels is in the URL and beside it".to_owned(),
            )),
        }
    }
}

/// The address of one backend, with its database number and credentials.
///
/// `Display` and `Debug` show only [`name`](Self::name): a password never reaches a log or a page.
#[derive(Clone)]
pub struct BackendAddress {
    /// Where it is, without what concerns TLS, and how to log in.
    info: ConnectionInfo,
    name: String,
    tls: Option<TlsSettings>,
}

/// Equal addresses lead to the same database of the same server, as the same user, by the same kind of connection.
impl PartialEq for BackendAddress {
    fn eq(&self, other: &Self) -> bool {
        self.endpoint() == other.endpoint()
            && self.tls == other.tls
            && self.database() == other.database()
            && (self.username(), self.password()) == (other.username(), other.password())
    }
}

/// Error for a text that is no backend address. It does not repeat the text, which may contain a
/// password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{reason}; {form}")]
pub struct AddressError {
    reason: String,
    form: &'static str,
}

/// The forms of a server's address, for errors.
const FORMS: &str =
    "write HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or redis+unix:///PATH";

/// Refuses a URL that would turn the check of certificates off.
const INSECURE: &str =
    "#insecure would trust any server; name the CA of its certificate instead (tls-ca)";

impl AddressError {
    /// An error for this reason, which repeats nothing of the text.
    pub(super) fn new(reason: String) -> Self {
        Self::in_form(reason, FORMS)
    }

    /// An error for this reason, with what to write.
    pub(super) fn in_form(reason: String, form: &'static str) -> Self {
        Self { reason, form }
    }

    /// Returns the reason alone.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

impl BackendAddress {
    /// Returns the backend's name in logs, headers and tables: `HOST:PORT`, or the path of a Unix
    /// socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn endpoint(&self) -> &ConnectionAddr {
        self.info.addr()
    }

    /// Returns the path of its Unix socket, if it has one.
    pub fn unix_path(&self) -> Option<&Path> {
        match self.endpoint() {
            ConnectionAddr::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Returns how TLS is spoken with it, if it is.
    pub fn tls(&self) -> Option<&TlsSettings> {
        self.tls.as_ref()
    }

    /// Returns how TLS is spoken with it, to be changed.
    pub fn tls_mut(&mut self) -> Option<&mut TlsSettings> {
        self.tls.as_mut()
    }

    pub(super) fn set_tls(&mut self, tls: Option<TlsSettings>) {
        self.tls = tls;
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

    /// Returns its host; an empty text for a Unix socket.
    pub fn host(&self) -> &str {
        match self.endpoint() {
            ConnectionAddr::Tcp(host, _) => host,
            _ => "",
        }
    }

    /// Returns its port; 0 for a Unix socket.
    pub fn port(&self) -> u16 {
        match self.endpoint() {
            ConnectionAddr::Tcp(_, port) => *port,
            _ => 0,
        }
    }

    /// Returns the address of another server, with the login, the database and the TLS of this one.
    pub fn at(&self, host: &str, port: u16) -> Self {
        let endpoint = ConnectionAddr::Tcp(host.to_owned(), port);
        let (name, tls) = (name(&endpoint), self.tls.clone());
        Self { name, info: self.info.clone().set_addr(endpoint), tls }
    }

    /// Returns the address of another server, whose certificate has this name unless another one is configured.
    pub fn at_named(&self, host: &str, port: u16, certificate_name: &str) -> Self {
        let mut address = self.at(host, port);
        if let Some(tls) = &mut address.tls {
            // Without a name that certificates can have, it is the host's address.
            let own = tls.server_name.take();
            tls.server_name = own.or_else(|| server_name(certificate_name).ok());
        }
        address
    }

    /// Returns `USER:…@`, or nothing where there is no password.
    pub(super) fn shown_login(&self) -> String {
        let user = self.username().map(|user| utf8_percent_encode(user, IN_USER).to_string());
        let login = || format!("{}:…@", user.unwrap_or_default());
        self.password().map(|_| login()).unwrap_or_default()
    }

    /// Returns the address as it is written, with its user, and with `…` for its password.
    pub(super) fn without_password(&self) -> String {
        let encoded = |text| utf8_percent_encode(text, IN_USER);
        let user = self.username().map(|user| encoded(user).to_string()).unwrap_or_default();
        let database = self.database();
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match (self.endpoint(), self.password().is_some(), database) {
            (ConnectionAddr::Unix(path), has_password, _) => {
                let parts = [
                    (database > 0).then(|| format!("db={database}")),
                    (!user.is_empty()).then(|| format!("user={user}")),
                    has_password.then(|| "pass=…".to_owned()),
                ];
                let query = parts.into_iter().flatten().collect::<Vec<_>>().join("&");
                let path = path.display().to_string();
                let url = format!("redis+unix://{}", utf8_percent_encode(&path, IN_PATH));
                if query.is_empty() { url } else { format!("{url}?{query}") }
            }
            (_, false, 0) if self.tls.is_none() => self.name.clone(),
            (_, false, 0) => format!("{scheme}://{}", self.name),
            (_, false, _) => format!("{scheme}://{}/{database}", self.name),
            (_, true, 0) => format!("{scheme}://{user}:…@{}", self.name),
            (_, true, _) => format!("{scheme}://{user}:…@{}/{database}", self.name),
        }
    }

    /// Returns the address without its user and password.
    pub(super) fn without_login(&self) -> Self {
        let settings = RedisConnectionInfo::default().set_db(self.database());
        let info = self.info.clone().set_redis_settings(settings);
        Self { info, ..self.clone() }
    }

    /// Parses an address, to which this login belongs.
    ///
    /// # Errors
    /// It is no address, or has a login of its own.
    pub(super) fn parse(text: &str, login: &Login) -> Result<Self, AddressError> {
        let parsed = Self::parse_url(text).and_then(|address| match address.host() {
            quoted if quoted.contains(['"', '\'']) => {
                Err(AddressError::new("a host has no quotes".to_owned()))
            }
            _ => Ok(address),
        });
        let mut address =
            parsed.map_err(|error| mistyped::reason(text).map_or(error, AddressError::new))?;
        let own = address.info.redis_settings().clone();
        let wrong = |why: &str| Err(AddressError::new(why.to_owned()));
        let merged = match (login, own.username(), own.password()) {
            (Login { user: Some(_), .. }, Some(_), _) => {
                return wrong("the user is in the URL and beside it");
            }
            (Login { password: Some(_), .. }, _, Some(_)) => {
                return wrong("the password is in the URL and beside it");
            }
            (Login { user: Some(user), .. }, None, _) => own.clone().set_username(user),
            (Login { user: None, .. }, ..) => own.clone(),
        };
        let merged = match &login.password {
            Some(password) => merged.set_password(password),
            None => merged,
        };
        if merged.password() == Some("…") {
            return wrong("the password was hidden as …; write it again");
        }
        if merged.username().is_some() && merged.password().is_none() {
            return wrong("a user needs a password");
        }
        address.info = address.info.set_redis_settings(merged);
        Ok(address)
    }

    /// Parses an address, whose login may lack a part.
    fn parse_url(text: &str) -> Result<Self, AddressError> {
        let wrong = |why: &str| Err(AddressError::new(why.to_owned()));
        let (text, query) = AddressQuery::split(text.trim());
        let url = if text.contains("://") {
            text.to_owned()
        } else if has_port(text) {
            format!("redis://{text}")
        } else {
            return wrong("HOST:PORT needs a port from 1 to 65535");
        };
        let authority = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
        if url.contains('@') && !authority.is_some_and(|authority| authority.contains('@')) {
            return wrong("percent-encode / ? # , and @ in a user or password");
        }
        if let Some((_, fragment)) = url.split_once('#') {
            return wrong(if fragment == "insecure" { INSECURE } else { FRAGMENT });
        }
        let url = query.map_or(Ok(url.clone()), |query| query.checked(&url))?;
        let mut info =
            url.into_connection_info().map_err(|error| AddressError::new(plain(&error)))?;
        let mut tls = None;
        if let ConnectionAddr::TcpTls { host, port, insecure, .. } = info.addr() {
            if *insecure {
                return wrong(INSECURE);
            }
            if server_name(host).is_err() {
                return wrong("TLS needs the name or the address of a host");
            }
            let endpoint = ConnectionAddr::Tcp(host.clone(), *port);
            info = info.set_addr(endpoint);
            tls = Some(TlsSettings::default());
        }
        match info.addr() {
            ConnectionAddr::Tcp(_, 0) => return wrong("port 0 is no server's port"),
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) => {}
            _ => return wrong("this kind of address is not supported"),
        }
        match info.redis_settings().db() {
            0.. => Ok(Self { name: name(info.addr()), info, tls }),
            _ => wrong("a database number is 0 or more"),
        }
    }

    /// Returns the whole address for a client of the `redis` crate.
    pub fn connection_info(&self) -> ConnectionInfo {
        let info = self.info.clone();
        match (info.addr().clone(), &self.tls) {
            (ConnectionAddr::Tcp(host, port), Some(_)) => {
                let (insecure, tls_params) = (false, None);
                info.set_addr(ConnectionAddr::TcpTls { host, port, insecure, tls_params })
            }
            _ => info,
        }
    }
}

impl FromStr for BackendAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, &Login::default())
    }
}

/// Returns the name of the server at this endpoint.
fn name(endpoint: &ConnectionAddr) -> String {
    match endpoint {
        ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
        ConnectionAddr::Unix(path) => path.display().to_string(),
        other => other.to_string(),
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
        assert_eq!(parsed("rediss://u:p@h:1/2"), ("h:1".into(), 2, s("u"), s("p")));
        assert_eq!(parsed("rediss://u:p@h:1?db=2"), ("h:1".into(), 2, s("u"), s("p")));
        assert_eq!(parsed("redis://h:1/?db=2"), ("h:1".into(), 2, None, None));
        assert_eq!(parsed("redis://h:1/2?db=2&protocol=3"), ("h:1".into(), 2, None, None));
        assert_eq!(parsed("[::1]:1?db=2"), ("[::1]:1".into(), 2, None, None));
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
            "rediss://h:1#insecure",
            "rediss://h:1/0#insecure",
            "rediss://",
            "rediss://h:0",
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
    fn an_address_with_tls_is_another_one_and_is_shown_with_its_scheme() {
        let address = |text: &str| text.parse::<BackendAddress>().expect(text);
        let (plain, tls) = (address("redis://u:p@h:1/2"), address("rediss://u:p@h:1/2"));
        assert!(plain != tls && tls == address("rediss://u:p@h:1/2"));
        assert_eq!((plain.name(), tls.name()), ("h:1", "h:1"));
        assert_eq!(tls.without_password(), "rediss://u:…@h:1/2");
        assert_eq!(address("rediss://h:1").without_password(), "rediss://h:1");
        assert_eq!(tls.at("10.0.0.1", 3).tls(), tls.tls());
        let info = tls.connection_info();
        assert!(matches!(info.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
        assert!(matches!(plain.connection_info().addr(), ConnectionAddr::Tcp(..)));
        let name = |address: BackendAddress| address.tls.and_then(|tls| tls.server_name);
        let expected = server_name("redis.example").ok();
        assert_eq!(name(tls.at_named("10.0.0.1", 3, "redis.example")), expected);
        assert_eq!(name(plain.at_named("10.0.0.1", 3, "redis.example")), None);
        assert_eq!(name(tls.at("10.0.0.1", 3)), None);
    }

    #[test]
    fn a_password_is_never_shown() {
        let address: BackendAddress = "redis://u:hunter2@h:1".parse().expect("an address");
        assert_eq!(format!("{address} {address:?}"), "h:1 h:1");
    }
}
