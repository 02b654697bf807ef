//! `lb config`: the effective configuration as a file, with where each value comes from.

use std::path::{Path, absolute};

use super::Config;
use super::backend::BackendSettings;
use super::effective::{Setting, Source};
use super::file_backends::{
    BackendOrigin, PASSWORD_FILE, SENTINEL_PASSWORD_FILE, SENTINEL_USER, SETTINGS, TLS_SERVER_NAME,
    URL, USER,
};
use super::file_users::{self, FileUser};
use super::keys::{BACKEND, Kind, REQUIRE_PASSWORD, is_number};

const HEAD: &str = "\
# The configuration of lb that is in effect, and where each value comes from.
# lb --config FILE reads it from a file.
";

const HIDDEN: &str =
    "# Passwords are shown as …; write them again before you use this as a file.\n";

/// Width of a key with its value, after which comments begin.
const WIDTH: usize = 40;

impl Config {
    /// Returns the effective configuration as a file, in which no password is shown.
    pub fn shown(&self) -> String {
        let backends: Vec<String> =
            (0..self.backends.len()).map(|index| self.shown_backend(index)).collect();
        let mut text = HEAD.to_owned();
        let has_password = self
            .settings
            .iter()
            .any(|setting| setting.key == REQUIRE_PASSWORD && !setting.texts.is_empty());
        let has_users = !self.shown_users().is_empty();
        if has_password || has_users || backends.iter().any(|backend| backend.contains('…')) {
            text += HIDDEN;
        }
        let mut heading = None;
        for setting in &self.settings {
            if heading.replace(&setting.heading) != Some(&setting.heading) {
                text += &format!("\n# {}\n", setting.heading);
            }
            text += &shown_setting(setting);
        }
        text + &backends.concat() + &self.shown_users()
    }

    /// Returns the keys whose values differ from those of another configuration, in the order of
    /// `lb config`.
    pub fn changes(&self, other: &Self) -> Vec<&str> {
        let pairs = self.settings.iter().zip(&other.settings);
        let changed = pairs.filter(|(own, others)| own.meaning != others.meaning);
        let backends = (self.backends != other.backends).then_some(BACKEND);
        // A file that a key names may have changed as well.
        let users = (self.users.meaning != other.users.meaning).then_some(file_users::USER);
        changed.map(|(own, _)| own.key.as_str()).chain(backends).chain(users).collect()
    }

    /// Whether no backends are configured, so that they are the default ones.
    pub fn has_default_backends(&self) -> bool {
        self.backend_source == Source::Default
    }

    /// Returns the error for a key that has changed and is read at the start alone.
    pub fn fixed(&self, key: &str) -> String {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        match setting.map(|setting| &setting.source) {
            Some(Source::File(place)) => {
                format!("{place}: {key} can't change without a restart")
            }
            _ => format!("{key} can't change without a restart"),
        }
    }

    fn shown_backend(&self, index: usize) -> String {
        let backend = &self.backends[index];
        let origin = self.backend_origins.get(index);
        let place = self.backend_place(index);
        let mut text = format!("\n[[{BACKEND}]]\n");
        let mut line = |key: &str, value: String, is_default: bool| {
            let own = origin.and_then(|origin| self.place_of(origin.lines.get(key)?));
            let default = is_default.then(|| "default".to_owned());
            let place = own.or(default).unwrap_or_else(|| place.clone());
            text += &commented(&format!("{key} = {value}"), &place);
        };
        let password_file = origin.and_then(|origin| origin.password_file.as_ref());
        let sentinel_file = origin.and_then(|origin| origin.sentinel_password_file.as_ref());
        let url = backend.shown_url(password_file.is_none(), sentinel_file.is_none());
        line(URL, quoted(&url), false);
        let logins = [
            (Some(backend.target()), password_file, USER, PASSWORD_FILE),
            (backend.sentinel_login(), sentinel_file, SENTINEL_USER, SENTINEL_PASSWORD_FILE),
        ];
        for (login, path, user_key, file_key) in logins {
            let Some(path) = path else { continue };
            let user = login.and_then(|login| login.username());
            user.into_iter().for_each(|user| line(user_key, quoted(user), false));
            line(file_key, quoted_path(path), false);
        }
        if let Some(tls) = origin.map(|origin| &origin.tls) {
            for (file, path) in tls.files.named() {
                line(file.key(), quoted_path(path), false);
            }
            let name = tls.server_name.iter().map(|name| name.to_str());
            name.for_each(|name| line(TLS_SERVER_NAME, quoted(&name), false));
        }
        for (key, value, is_default) in settings(backend.settings()) {
            line(key, value, is_default);
        }
        text
    }

    /// Returns the users of the configuration file; those of another file stay there.
    fn shown_users(&self) -> String {
        self.file_users.iter().map(|user| self.shown_user(user)).collect()
    }

    fn shown_user(&self, user: &FileUser) -> String {
        let place = self.place_of(&user.line).unwrap_or_default();
        let limits = user.limits.shown().into_iter().map(|(key, value)| (key, value.to_string()));
        let lines = [("name", quoted(&user.name)), ("rules", quoted(&user.shown_rules()))];
        let lines = lines.into_iter().chain(limits);
        let lines = lines.map(|(key, value)| commented(&format!("{key} = {value}"), &place));
        format!("\n[[{}]]\n{}", file_users::USER, lines.collect::<String>())
    }

    /// Returns where a backend comes from.
    fn backend_place(&self, index: usize) -> String {
        let origin = self.backend_origins.get(index);
        let in_file = origin.and_then(|origin: &BackendOrigin| self.place_of(&origin.line));
        in_file.unwrap_or_else(|| comment(BACKEND, &self.backend_source))
    }

    fn place_of(&self, line: &usize) -> Option<String> {
        Some(format!("{}:{line}", self.config_file.as_ref()?.display()))
    }
}

/// Returns the settings of a backend that have a value, and whether that is the default.
fn settings(settings: &BackendSettings) -> Vec<(&'static str, String, bool)> {
    let default = BackendSettings::default();
    let BackendSettings { weight, is_backup, zone, .. } = settings;
    let [weight_key, backup_key, zone_key] = SETTINGS;
    let mut settings = vec![
        (weight_key, weight.to_string(), *weight == default.weight),
        (backup_key, is_backup.to_string(), *is_backup == default.is_backup),
    ];
    settings.extend(zone.as_ref().map(|zone| (zone_key, quoted(zone), false)));
    settings
}

fn shown_setting(setting: &Setting) -> String {
    let Setting { key, texts, kind, source, .. } = setting;
    let value = match (kind, &texts[..]) {
        (Kind::List, texts) => {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
        (_, []) => return commented(&format!("# {key} is not set"), &comment(key, source)),
        (Kind::Switch, [text, ..]) => text.clone(),
        (Kind::Number, [text, ..]) if is_number(text) => text.clone(),
        (_, [text, ..]) => quoted(text),
    };
    commented(&format!("{key} = {value}"), &comment(key, source))
}

/// Returns where a value comes from, in words.
fn comment(key: &str, source: &Source) -> String {
    match source {
        Source::Default => "default".to_owned(),
        Source::Flag => format!("--{key}"),
        Source::Environment(name) => name.clone(),
        Source::File(place) => place.clone(),
    }
}

/// Returns a line with a comment at its end.
fn commented(text: &str, comment: &str) -> String {
    format!("{text:WIDTH$}  # {}\n", super::redact(comment).replace('\n', " "))
}

/// Returns a path, which is absolute, as a string of TOML.
fn quoted_path(path: &Path) -> String {
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&path.to_string_lossy())
}

/// Returns a text as a string of TOML, which are written as those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
