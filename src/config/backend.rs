//! A backend as it is configured: its address, and how much is read from it.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use super::address::{AddressError, BackendAddress, Login};

/// Largest weight of a backend, as in HAProxy.
pub const MAX_WEIGHT: u16 = 256;

/// Longest name of a zone, in bytes: it is a label of metrics and a cell of the status page.
const MAX_ZONE_BYTES: usize = 64;

/// How much is read from a backend. It may change while the backend is in service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSettings {
    /// Its share of the leases, in proportion to the weights of the others: 0 to [`MAX_WEIGHT`]. With 0 it is checked,
    /// and leased only while no other serves.
    pub weight: u16,
    /// Whether it is read from only while no other is up.
    pub is_backup: bool,
    /// The zone where it is, for `--zone`.
    pub zone: Option<String>,
    /// Whether it is checked and never read from: the primary of replicas that are read alone. No URL says so.
    pub is_never_read: bool,
}

impl Default for BackendSettings {
    fn default() -> Self {
        Self { weight: 1, is_backup: false, zone: None, is_never_read: false }
    }
}

/// In the order and the words of a URL's query.
impl fmt::Display for BackendSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weight, is_backup, zone, is_never_read } = self;
        write!(f, "weight {weight}")?;
        if *is_never_read {
            f.write_str(", never read from")?;
        }
        if *is_backup {
            f.write_str(", backup")?;
        }
        zone.iter().try_for_each(|zone| write!(f, ", zone {zone}"))
    }
}

impl BackendSettings {
    /// Takes the setting of this name, as a URL's query or a file has it. Returns false if there is none of that name.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "weight" => self.weight = weight(value)?,
            "backup" => {
                self.is_backup = value.parse().map_err(|_| "backup is true or false".to_owned())?;
            }
            "zone" => self.zone = Some(zone(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Parses a weight.
///
/// # Errors
/// It is no number from 0 to [`MAX_WEIGHT`].
pub fn weight(text: &str) -> Result<u16, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
    weight.ok_or_else(|| format!("a weight is a number from 0 to {MAX_WEIGHT}"))
}

/// Parses the name of a zone.
///
/// # Errors
/// It is empty, longer than 64 bytes, or has characters other than letters, digits, `-`, `_` and `.`.
pub fn zone(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !text.is_empty() && text.len() <= MAX_ZONE_BYTES && text.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a zone has 1 to {MAX_ZONE_BYTES} letters, digits, hyphens, underscores and dots"
        )),
    }
}

/// A backend as it is configured. It derefs to its address.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendConfig {
    /// Where it is, and how to log in.
    pub address: BackendAddress,
    /// How much is read from it.
    pub settings: BackendSettings,
}

impl Deref for BackendConfig {
    type Target = BackendAddress;

    fn deref(&self) -> &BackendAddress {
        &self.address
    }
}

/// Parses an address, with its settings as a query: `redis://HOST:PORT/DB?weight=2&backup=true&zone=a`.
impl FromStr for BackendConfig {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, &Login::default())
    }
}

impl BackendConfig {
    /// Parses an address with its settings, to which this login belongs.
    pub(super) fn parse(text: &str, login: &Login) -> Result<Self, AddressError> {
        let mut settings = BackendSettings::default();
        let Some((url, query)) = text.split_once('?').filter(|(_, query)| !query.contains('@'))
        else {
            return Ok(Self { address: BackendAddress::parse(text, login)?, settings });
        };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match settings.set(name, value).map_err(AddressError::new)? {
                true => {}
                // What the address itself may have.
                false if ["db", "user", "pass", "protocol"].contains(&name) => rest.push(pair),
                false => {
                    return Err(AddressError::new(
                        "after the ? come db, weight, backup and zone".to_owned(),
                    ));
                }
            }
        }
        let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
        Ok(Self { address: BackendAddress::parse(&format!("{url}{query}"), login)?, settings })
    }
}

/// Parses a list of backends, such as the values of `--backend`.
///
/// # Errors
///
/// One text is no backend, or two have the same [`name`](BackendAddress::name). The error repeats no text,
/// which may contain a password.
pub fn parse_list(texts: &[String]) -> Result<Vec<BackendConfig>, String> {
    let mut backends: Vec<BackendConfig> = Vec::new();
    for (number, text) in (1..).zip(texts) {
        let wrong = |error| format!("backend number {number} of the list: {error}");
        let backend: BackendConfig = text.parse().map_err(wrong)?;
        if backends.iter().any(|other| other.name() == backend.name()) {
            let name = backend.name();
            return Err(format!("backend {name} is in the list twice; name each one once"));
        }
        backends.push(backend);
    }
    Ok(backends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, i64, u16, bool, Option<String>) {
        let BackendConfig { address, settings } = text.parse().expect(text);
        let BackendSettings { weight, is_backup, zone, .. } = settings;
        (address.name().to_owned(), address.database(), weight, is_backup, zone)
    }

    #[test]
    fn settings_are_the_query_of_the_address() {
        assert_eq!(parsed("h:1"), ("h:1".into(), 0, 1, false, None));
        assert_eq!(
            parsed("redis://h:1/2?weight=256&backup=true&zone=eu-1.a"),
            ("h:1".into(), 2, 256, true, Some("eu-1.a".into()))
        );
        assert_eq!(parsed("h:1?weight=0"), ("h:1".into(), 0, 0, false, None));
        assert_eq!(parsed("h:1?weight=0&db=3"), ("h:1".into(), 3, 0, false, None));
        #[cfg(unix)]
        assert_eq!(
            parsed("redis+unix:///r.sock?weight=7&db=4"),
            ("/r.sock".into(), 4, 7, false, None)
        );
    }

    #[test]
    fn wrong_settings_are_named() {
        for (query, reason) in [
            ("weight=257", "a weight is a number from 0 to 256"),
            ("weight=-1", "a weight is"),
            ("weight", "a weight is"),
            ("backup=maybe", "backup is true or false"),
            ("zone=", "a zone has 1 to 64"),
            ("zone=a%20b", "a zone has 1 to 64"),
            ("wieght=1", "after the ? come db, weight, backup and zone"),
            ("db=x&weight=1", "db is the number"),
        ] {
            let error = format!("redis://h:1?{query}").parse::<BackendConfig>().expect_err(query);
            assert!(error.to_string().starts_with(reason), "{query}: {error}");
        }
    }
}
