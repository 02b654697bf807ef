//! Flags that have no effect beside the others that are given: each is warned of, because whoever set it counts on it.

use super::Config;
use super::backend_tls::TlsSettings;
use super::effective::{Setting, Source};
use super::keys::Keys;
use super::source::{BackendEntry, SourceKind};

/// A flag's key, whether it has an effect, and why it has none.
type Row = (&'static str, fn(&Config) -> bool, &'static str);

const NO_TLS: &str = "no backend's URL begins with rediss://";
const NO_CACHE: &str = "there is no cache without --cache SIZE";

const ROWS: [Row; 12] = [
    ("backend-tls-ca", has_tls, NO_TLS),
    ("backend-tls-cert", has_tls, NO_TLS),
    ("backend-tls-key", has_tls, NO_TLS),
    ("backend-tls-server-name", has_tls, NO_TLS),
    ("resolver", has_dns, "no backend's URL begins with dns:// or dns+srv://"),
    ("rewrite-address", has_announced, "no backend's URL begins with primary:// or sentinel://"),
    ("zone", has_own_zone, "no backend is in this zone (?zone= in its URL)"),
    (
        "control-owner",
        |config| config.control.is_some(),
        "there is no socket without --control PATH",
    ),
    ("cache-max-silence", |config| config.cache_bytes > 0, NO_CACHE),
    ("no-cache", |config| config.cache_bytes > 0, NO_CACHE),
    (
        "allow-host",
        |config| config.listen.ip().is_loopback(),
        "all hosts are served but on loopback",
    ),
    ("log-leases", |config| !config.quiet, "--quiet leaves out the lines that it adds to"),
];

fn has_tls(config: &Config) -> bool {
    let is_ours = |settings: Option<&TlsSettings>| settings.is_some();
    config.backends.iter().any(|entry| {
        is_ours(entry.target().tls())
            || is_ours(entry.sentinel_login().and_then(|sentinel| sentinel.tls()))
    })
}

fn has_dns(config: &Config) -> bool {
    config.sources().any(|source| matches!(source.kind, SourceKind::Dns | SourceKind::DnsSrv))
}

fn has_announced(config: &Config) -> bool {
    config.sources().any(|source| !matches!(source.kind, SourceKind::Dns | SourceKind::DnsSrv))
}

fn has_own_zone(config: &Config) -> bool {
    let zones = config.backends.iter().map(BackendEntry::settings);
    let mut zones = zones.filter_map(|settings| settings.zone.as_ref());
    zones.any(|zone| Some(zone) == config.zone.as_ref())
}

/// Returns a warning for each key that is given and has no effect.
pub(super) fn warnings(config: &Config, keys: &Keys) -> Vec<String> {
    let idle = ROWS.iter().filter(|(_, has_effect, _)| !has_effect(config));
    let warned = idle.filter_map(|(key, _, why)| {
        let setting = config.settings.iter().find(|setting| setting.key == *key)?;
        let by = given_by(setting).filter(|_| !is_default(setting, keys))?;
        Some(format!("{by} has no effect: {why}"))
    });
    warned.collect()
}

impl Config {
    /// Returns what has given a key another value than its default, as a warning names it.
    pub fn given_by(&self, key: &str) -> Option<String> {
        let setting = self.settings.iter().find(|setting| setting.key == key)?;
        given_by(setting).filter(|_| !is_default(setting, &Keys::new()))
    }
}

/// Returns what has given a value, if anything has.
fn given_by(setting: &Setting) -> Option<String> {
    match &setting.source {
        Source::Default => None,
        Source::Flag => Some(format!("--{}", setting.key)),
        Source::Environment(name) => Some(name.clone()),
        Source::File(place) => Some(format!("{place}: {}", setting.key)),
    }
}

/// Returns whether a value is the one that there would be anyway, as in a file that `lb config` has written.
fn is_default(setting: &Setting, keys: &Keys) -> bool {
    let defaults = keys.get(&setting.key).map(|flag| flag.get_default_values());
    let defaults = defaults.unwrap_or_default().iter().map(|text| text.to_string_lossy());
    let defaults: Vec<_> = defaults.collect();
    setting.texts.iter().all(|text| text == "false") || defaults == setting.texts
}
