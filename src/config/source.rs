//! Entries of `--backend`: a server, or a source that knows servers (DNS, a primary, Sentinels).

use std::fmt;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::address::{AddressError, BackendAddress, Login};
use super::backend::{BackendConfig, BackendSettings};
use super::backend_tls::TlsSettings;

/// What goes before the scheme of a source whose servers speak TLS.
const TLS_PREFIX: &str = "rediss+";

/// Port of a Sentinel whose address names none, as in Redis.
const SENTINEL_PORT: u16 = 26379;

/// Most Sentinels of one source. A deployment has three to seven.
pub const MAX_SENTINELS: usize = 64;

/// Which servers of a primary with replicas are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadFrom {
    /// The replicas, and the primary only while none of them is up.
    #[default]
    PrimaryLast,
    /// The replicas alone. The primary is checked, because its replicas are compared with it.
    Replicas,
    /// The primary as much as each replica.
    All,
}

impl FromStr for ReadFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::PrimaryLast, Self::Replicas, Self::All];
        let found = all.into_iter().find(|read| read.to_string() == text);
        found.ok_or_else(|| "read is replicas, all or primary-last".to_owned())
    }
}

impl fmt::Display for ReadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrimaryLast => "primary-last",
            Self::Replicas => "replicas",
            Self::All => "all",
        })
    }
}

/// Kind of a source.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// `dns://NAME:PORT`: each address of the name is a server.
    Dns,
    /// `dns+srv://NAME`: each SRV record of the name is a server.
    DnsSrv,
    /// `primary://HOST:PORT`: a primary, which knows its replicas.
    Primary {
        /// Which of them are read from.
        read: ReadFrom,
    },
    /// `sentinel://HOST:PORT,HOST:PORT/NAME`: Sentinels, which know a primary and its replicas.
    Sentinel {
        /// The Sentinels, with the login for them: at least one.
        sentinels: Vec<BackendAddress>,
        /// Name by which the Sentinels know the primary.
        primary: String,
        /// Which of them are read from.
        read: ReadFrom,
    },
}

/// A source of backends, as it is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// What it is, and what only sources of its kind have.
    pub kind: SourceKind,
    /// What is asked: the name and port in DNS (the port is of no meaning with [`SourceKind::DnsSrv`]), the primary, or
    /// the first Sentinel. Its login and its database are those of the servers that are found.
    pub target: BackendAddress,
    /// How much is read from each server that is found.
    pub settings: BackendSettings,
    name: String,
}

impl SourceConfig {
    /// Returns its name in logs and tables: its URL without logins and settings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the configuration of a server that it has found.
    pub fn server(&self, host: &str, port: u16) -> BackendConfig {
        BackendConfig { address: self.target.at(host, port), settings: self.settings.clone() }
    }

    /// Returns the configuration of a server that it has found by a name, which is that of the server's certificate
    /// unless another one is configured.
    pub fn server_named(&self, host: &str, port: u16, name: &str) -> BackendConfig {
        let address = self.target.at_named(host, port, name);
        BackendConfig { address, settings: self.settings.clone() }
    }

    /// Returns the URL as it is written, without the settings, with `…` in place of passwords.
    fn shown_url(&self, has_login: bool, has_sentinel_login: bool) -> String {
        let Self { kind, target, name, .. } = self;
        let login = if has_login { target.shown_login() } else { String::new() };
        let (scheme, rest) = name.split_once("://").unwrap_or_default();
        let database = match target.database() {
            0 => String::new(),
            database => format!("/{database}"),
        };
        let query = match kind {
            SourceKind::Dns | SourceKind::DnsSrv => String::new(),
            SourceKind::Primary { read } => format!("?read={read}"),
            SourceKind::Sentinel { sentinels, read, .. } => {
                let shown = sentinels.first().filter(|_| has_sentinel_login);
                let user = shown.and_then(|one| one.username()).map(|user| {
                    format!("&sentinel-user={}", utf8_percent_encode(user, NON_ALPHANUMERIC))
                });
                let password = shown.and_then(|one| one.password());
                let password = password.map_or("", |_| "&sentinel-password=…");
                let is_tls = sentinels.iter().any(|sentinel| sentinel.tls().is_some());
                let tls = match is_tls == target.tls().is_some() {
                    true => String::new(),
                    false => format!("&sentinel-tls={is_tls}"),
                };
                format!("?read={read}{}{password}{tls}", user.unwrap_or_default())
            }
        };
        format!("{scheme}://{login}{rest}{database}{query}")
    }
}

/// An entry of `--backend`.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendEntry {
    /// One server.
    Server(Box<BackendConfig>),
    /// A source that knows servers.
    Source(Box<SourceConfig>),
}

impl BackendEntry {
    /// Returns its name in logs and tables.
    pub fn name(&self) -> &str {
        match self {
            Self::Server(backend) => backend.name(),
            Self::Source(source) => source.name(),
        }
    }

    /// Returns the address with the login of its servers.
    pub fn target(&self) -> &BackendAddress {
        match self {
            Self::Server(backend) => &backend.address,
            Self::Source(source) => &source.target,
        }
    }

    /// Returns how TLS is spoken with its servers and with its Sentinels, as far as it is.
    pub(super) fn tls_mut(&mut self) -> impl Iterator<Item = &mut TlsSettings> {
        let (target, sentinels) = match self {
            Self::Server(backend) => (&mut backend.address, &mut [][..]),
            Self::Source(source) => match &mut source.kind {
                SourceKind::Sentinel { sentinels, .. } => (&mut source.target, &mut sentinels[..]),
                _ => (&mut source.target, &mut [][..]),
            },
        };
        [target].into_iter().chain(sentinels).filter_map(BackendAddress::tls_mut)
    }

    /// Sets whether TLS is spoken with its Sentinels.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn set_sentinel_tls(&mut self, is_tls: bool) -> Result<(), String> {
        let Self::Source(source) = self else { return Err(NO_SENTINELS.to_owned()) };
        let SourceKind::Sentinel { sentinels, .. } = &mut source.kind else {
            return Err(NO_SENTINELS.to_owned());
        };
        let tls = is_tls.then(TlsSettings::default);
        sentinels.iter_mut().for_each(|sentinel| sentinel.set_tls(tls.clone()));
        Ok(())
    }

    /// Returns whether it has a password for Sentinels.
    pub(super) fn has_sentinel_password(&self) -> bool {
        self.sentinel_login().is_some_and(|sentinel| sentinel.password().is_some())
    }

    /// Returns an address with the login of its Sentinels, if it has any.
    pub(super) fn sentinel_login(&self) -> Option<&BackendAddress> {
        match self {
            Self::Source(source) => match &source.kind {
                SourceKind::Sentinel { sentinels, .. } => sentinels.first(),
                _ => None,
            },
            Self::Server(_) => None,
        }
    }

    /// Returns the URL as it is written, without the settings, with `…` in place of passwords. A login that is shown
    /// elsewhere is left out.
    pub(super) fn shown_url(&self, has_login: bool, has_sentinel_login: bool) -> String {
        match self {
            Self::Server(backend) if has_login => backend.address.without_password(),
            Self::Server(backend) => backend.address.without_login().without_password(),
            Self::Source(source) => source.shown_url(has_login, has_sentinel_login),
        }
    }

    /// Returns how much is read from its servers.
    pub fn settings(&self) -> &BackendSettings {
        match self {
            Self::Server(backend) => &backend.settings,
            Self::Source(source) => &source.settings,
        }
    }

    pub(super) fn settings_mut(&mut self) -> &mut BackendSettings {
        match self {
            Self::Server(backend) => &mut backend.settings,
            Self::Source(source) => &mut source.settings,
        }
    }

    /// Parses the URL of a server or a source. The logins are those that are written beside it.
    pub(super) fn parse(
        text: &str,
        login: &Login,
        sentinel_login: &Login,
    ) -> Result<Self, AddressError> {
        let text = text.trim();
        let Some((scheme, tls)) = Scheme::of(text) else {
            return match sentinel_login.is_empty() {
                true => Ok(Self::Server(Box::new(BackendConfig::parse(text, login)?))),
                false => Err(wrong("the login of Sentinels belongs to a sentinel:// URL")),
            };
        };
        let source = scheme.parse(text, tls, login, sentinel_login).map_err(|error| {
            let form = scheme.form();
            AddressError::in_form(error.reason().to_owned(), form)
        })?;
        Ok(Self::Source(Box::new(source)))
    }
}

/// Parses what `--backend` lists: servers and sources. A list that was split at its commas may have split the
/// Sentinels of a source.
///
/// # Errors
/// One text is neither, or two have the same name. The error repeats no text, which may contain a password.
pub fn parse_entries(texts: &[String]) -> Result<Vec<BackendEntry>, String> {
    let mut entries: Vec<BackendEntry> = Vec::new();
    for (number, text) in (1..).zip(rejoined(texts)) {
        let entry = BackendEntry::parse(&text, &Login::default(), &Login::default());
        let entry =
            entry.map_err(|error| format!("backend number {number} of the list: {error}"))?;
        if entries.iter().any(|other| other.name() == entry.name()) {
            let name = entry.name();
            return Err(format!("backend {name} is in the list twice; name each one once"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Joins the pieces of a list of Sentinels, which ends with the name of the primary after a slash.
fn rejoined(texts: &[String]) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for text in texts {
        let is_open = |last: &String| {
            let last = last.trim_start();
            let last = last.strip_prefix(TLS_PREFIX).unwrap_or(last);
            let sentinels = last.strip_prefix("sentinel://");
            sentinels.is_some_and(|rest| !rest.contains('/'))
        };
        match joined.last_mut().filter(|last| is_open(last)) {
            Some(last) => *last += &format!(",{text}"),
            None => joined.push(text.clone()),
        }
    }
    joined
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Dns,
    DnsSrv,
    Primary,
    Sentinel,
}

impl Scheme {
    /// Returns the scheme of a source's URL, and how TLS is spoken with its servers.
    fn of(text: &str) -> Option<(Self, Option<TlsSettings>)> {
        let (scheme, _) = text.split_once("://")?;
        let (scheme, tls) = match scheme.strip_prefix(TLS_PREFIX) {
            Some(scheme) => (scheme, Some(TlsSettings::default())),
            None => (scheme, None),
        };
        let scheme = match scheme {
            "dns" => Self::Dns,
            "dns+srv" => Self::DnsSrv,
            "primary" => Self::Primary,
            "sentinel" => Self::Sentinel,
            _ => return None,
        };
        Some((scheme, tls))
    }

    /// The form of its URLs, for errors.
    fn form(self) -> &'static str {
        match self {
            Self::Dns => "write dns://USER:PASSWORD@NAME:PORT/DB",
            Self::DnsSrv => "write dns+srv://USER:PASSWORD@_redis._tcp.NAME/DB",
            Self::Primary => "write primary://USER:PASSWORD@HOST:PORT/DB?read=primary-last",
            Self::Sentinel => {
                "write sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB?read=primary-last"
            }
        }
    }

    fn parse(
        self,
        text: &str,
        tls: Option<TlsSettings>,
        login: &Login,
        sentinel_login: &Login,
    ) -> Result<SourceConfig, AddressError> {
        let (_, rest) = text.split_once("://").unwrap_or_default();
        let (rest, query) = match rest.split_once('?') {
            Some((_, query)) if query.contains('@') => {
                return Err(wrong("percent-encode / ? # , and @ in a user or password"));
            }
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        let query = Query::parse(query, self)?;
        let sentinel = query.sentinel.or(sentinel_login)?;
        if self != Self::Sentinel && !sentinel.is_empty() {
            return Err(wrong("the login of Sentinels belongs to a sentinel:// URL"));
        }
        let Query { settings, read, sentinel_tls, .. } = query;
        let sentinel_tls = match sentinel_tls {
            Some(true) => Some(TlsSettings::default()),
            Some(false) => None,
            None => tls.clone(),
        };
        let (kind, mut target, name) = match self {
            Self::Dns => {
                let target = BackendAddress::parse(&format!("redis://{rest}"), login)?;
                let name = format!("dns://{}", target.name());
                needs_port(rest)?;
                (SourceKind::Dns, target, name)
            }
            Self::Primary => {
                let target = BackendAddress::parse(&format!("redis://{rest}"), login)?;
                let name = format!("primary://{}", target.name());
                (SourceKind::Primary { read }, target, name)
            }
            Self::DnsSrv => {
                let target = BackendAddress::parse(&format!("redis://{rest}"), login)?;
                if needs_port(rest).is_ok() {
                    return Err(wrong("the SRV records have the ports; name none"));
                }
                let name = format!("dns+srv://{}", target.host());
                (SourceKind::DnsSrv, target, name)
            }
            Self::Sentinel => {
                let (sentinels, primary, target) =
                    sentinels(rest, login, &sentinel, &sentinel_tls)?;
                let names: Vec<&str> = sentinels.iter().map(BackendAddress::name).collect();
                let name = format!("sentinel://{}/{primary}", names.join(","));
                (SourceKind::Sentinel { sentinels, primary, read }, target, name)
            }
        };
        let name = if tls.is_some() { format!("{TLS_PREFIX}{name}") } else { name };
        target.set_tls(tls);
        Ok(SourceConfig { kind, target, settings, name })
    }
}

/// Parses `USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB`. Returns the Sentinels, the name, and the first of them with the
/// login for servers.
fn sentinels(
    rest: &str,
    login: &Login,
    sentinel: &Login,
    sentinel_tls: &Option<TlsSettings>,
) -> Result<(Vec<BackendAddress>, String, BackendAddress), AddressError> {
    let (authority, path) = rest.split_once('/').ok_or_else(|| wrong("the name is missing"))?;
    let (own_login, hosts) = match authority.rsplit_once('@') {
        Some((own, hosts)) => (format!("{own}@"), hosts),
        None => (String::new(), authority),
    };
    let (primary, database) = path.split_once('/').unwrap_or((path, ""));
    if primary.is_empty() {
        return Err(wrong("the name is missing"));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !primary.bytes().all(is_plain) {
        return Err(wrong("the name has letters, digits, hyphens, underscores, dots and colons"));
    }
    let hosts: Vec<String> = hosts.split(',').map(with_sentinel_port).collect();
    if hosts.len() > MAX_SENTINELS {
        return Err(AddressError::new(format!("at most {MAX_SENTINELS} Sentinels")));
    }
    if (1..hosts.len()).any(|at| hosts[..at].contains(&hosts[at])) {
        return Err(wrong("a Sentinel is named twice"));
    }
    let addresses = hosts.iter().map(|host| BackendAddress::parse(host, sentinel));
    let mut sentinels = addresses.collect::<Result<Vec<_>, _>>()?;
    sentinels.iter_mut().for_each(|sentinel| sentinel.set_tls(sentinel_tls.clone()));
    let target = format!("redis://{own_login}{}/{database}", hosts[0]);
    let target = BackendAddress::parse(&target, login)?;
    Ok((sentinels, primary.to_owned(), target))
}

/// Returns `HOST:PORT`, with the usual port of a Sentinel if the text names none.
fn with_sentinel_port(text: &str) -> String {
    let host_end = text.rfind(']').map_or(0, |at| at + 1);
    match text[host_end..].contains(':') {
        true => text.to_owned(),
        false => format!("{text}:{SENTINEL_PORT}"),
    }
}

fn needs_port(rest: &str) -> Result<(), AddressError> {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with(':') {
        true => Ok(()),
        false => Err(wrong("the port is missing, which DNS does not know")),
    }
}

/// The query of a source's URL.
#[derive(Default)]
struct Query {
    settings: BackendSettings,
    read: ReadFrom,
    sentinel: Login,
    sentinel_tls: Option<bool>,
}

impl Query {
    fn parse(text: &str, scheme: Scheme) -> Result<Self, AddressError> {
        let mut query = Self::default();
        let has_read = matches!(scheme, Scheme::Primary | Scheme::Sentinel);
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "weight" if scheme == Scheme::DnsSrv => {
                    return Err(wrong("the SRV records have the weights"));
                }
                "read" if has_read => query.read = value.parse().map_err(AddressError::new)?,
                "sentinel-user" => query.sentinel.user = Some(decoded(value)?),
                "sentinel-password" => query.sentinel.password = Some(decoded(value)?),
                "sentinel-tls" if scheme == Scheme::Sentinel => {
                    let is_tls = value.parse();
                    let is_tls = is_tls.map_err(|_| wrong("sentinel-tls is true or false"))?;
                    query.sentinel_tls = Some(is_tls);
                }
                "db" | "user" | "pass" => {
                    return Err(wrong("a login stands before the host, a database after a /"));
                }
                _ if query.settings.set(name, value).map_err(AddressError::new)? => {}
                _ if has_read => {
                    return Err(wrong("after the ? come read, weight, backup and zone"));
                }
                _ => return Err(wrong("after the ? come weight, backup and zone")),
            }
        }
        Ok(query)
    }
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| wrong("a login is no UTF-8"))
}

/// Error for what only Sentinels have.
const NO_SENTINELS: &str = "belongs to a sentinel:// URL";

fn wrong(reason: &str) -> AddressError {
    AddressError::new(reason.to_owned())
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
