//! The backends of the configuration file: tables, or URLs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::Login;
use super::file::{Reader, decimal};
use super::keys::nearest;
use super::source::BackendEntry;
use super::text_file;

/// Address of the server, in any form that `--backend` takes.
pub(super) const URL: &str = "url";
/// User for the password.
pub(super) const USER: &str = "user";
/// File that holds the password.
pub(super) const PASSWORD_FILE: &str = "password-file";
/// User of the Sentinels of a source.
pub(super) const SENTINEL_USER: &str = "sentinel-user";
/// File that holds the password of the Sentinels.
pub(super) const SENTINEL_PASSWORD_FILE: &str = "sentinel-password-file";
/// The keys that take a text.
const TEXTS: [&str; 6] = [URL, USER, PASSWORD_FILE, SENTINEL_USER, SENTINEL_PASSWORD_FILE, "zone"];
/// The keys of a backend that a URL has as well.
pub(super) const SETTINGS: [&str; 3] = ["weight", "backup", "zone"];

/// The backends of a file.
#[derive(Debug)]
pub(super) struct FileBackends {
    /// Line of the first.
    pub line: usize,
    pub list: Vec<FileBackend>,
}

/// A backend, and where it is written.
#[derive(Debug)]
pub(super) struct FileBackend {
    pub config: BackendEntry,
    pub origin: BackendOrigin,
}

/// Where a backend of a file is written.
#[derive(Debug, Clone)]
pub(super) struct BackendOrigin {
    pub line: usize,
    /// The keys of its table, with their lines.
    pub lines: BTreeMap<String, usize>,
    pub password_file: Option<PathBuf>,
    pub sentinel_password_file: Option<PathBuf>,
}

impl FileBackends {
    /// Returns the backends, and where each is written.
    pub fn parts(&self) -> (Vec<BackendEntry>, Vec<BackendOrigin>) {
        self.list.iter().map(|backend| (backend.config.clone(), backend.origin.clone())).unzip()
    }

    /// Whether the configuration file itself holds a password.
    pub fn has_passwords(&self) -> bool {
        let in_url = |backend: &FileBackend| {
            let BackendOrigin { password_file, sentinel_password_file, .. } = &backend.origin;
            (backend.config.target().password().is_some() && password_file.is_none())
                || (backend.config.has_sentinel_password() && sentinel_password_file.is_none())
        };
        self.list.iter().any(in_url)
    }
}

/// Takes the backends of a file, which are an array of tables, of URLs, or of both.
pub(super) fn take(reader: &mut Reader, line: usize, value: &Spanned<DeValue>) {
    let array = match value.get_ref() {
        DeValue::Array(array) if !array.is_empty() => array,
        DeValue::Array(_) => {
            let text = "backend is empty; name at least one server, or leave the key out";
            return reader.mistake(line, text);
        }
        DeValue::Table(_) => return reader.mistake(line, "write [[backend]] for each server"),
        _ => {
            let text = "backend must be a list, such as [\"10.0.0.1:6379\"], or tables [[backend]]";
            return reader.mistake(line, text);
        }
    };
    let mut list: Vec<FileBackend> = Vec::new();
    for value in array {
        let line = reader.line(value);
        let backend = match value.get_ref() {
            DeValue::String(url) => of_url(reader, line, url),
            DeValue::Table(table) => of_table(reader, line, table),
            _ => {
                reader.note(Err((line, "a backend must be a URL in quotes, or a table".to_owned())))
            }
        };
        let listed = backend.and_then(|backend| reader.note(unless_listed(&list, backend)));
        list.extend(listed);
    }
    reader.file.backends = Some(FileBackends { line, list });
}

/// Returns the backend unless another one has its name.
fn unless_listed(
    list: &[FileBackend],
    backend: FileBackend,
) -> Result<FileBackend, (usize, String)> {
    let name = backend.config.name();
    match list.iter().find(|other| other.config.name() == name) {
        Some(FileBackend { origin, .. }) => {
            let text = format!("backend {name} is on line {} too; name each one once", origin.line);
            Err((backend.origin.line, text))
        }
        None => Ok(backend),
    }
}

fn of_url(reader: &mut Reader, line: usize, url: &str) -> Option<FileBackend> {
    let config = BackendEntry::parse(url, &Login::default(), &Login::default());
    let config = reader.note(config.map_err(|error| (line, format!("backend: {error}"))))?;
    let origin = BackendOrigin {
        line,
        lines: BTreeMap::new(),
        password_file: None,
        sentinel_password_file: None,
    };
    Some(FileBackend { config, origin })
}

fn of_table(reader: &mut Reader, line: usize, table: &DeTable) -> Option<FileBackend> {
    let mut values = Values::default();
    for (key, value) in table {
        let line = reader.line(key);
        let key = key.get_ref().as_ref();
        let text = checked(reader, key, value.get_ref()).map_err(|reason| (line, reason));
        let text = reader.note(text);
        values.0.extend(text.map(|text| (key.to_owned(), (line, text))));
    }
    if !table.iter().any(|(key, _)| key.get_ref() == URL) {
        return reader.note(Err((line, "this backend has no url".to_owned())));
    }
    let (own_login, password_file) = login(reader, &values, USER, PASSWORD_FILE)?;
    let (sentinel_login, sentinel_password_file) =
        login(reader, &values, SENTINEL_USER, SENTINEL_PASSWORD_FILE)?;
    let (url_line, url) = values.get(URL)?;
    let config = BackendEntry::parse(url, &own_login, &sentinel_login);
    let mut config = reader.note(config.map_err(|error| (url_line, format!("{URL}: {error}"))))?;
    for (key, (line, text)) in &values.0 {
        _ = reader.note(config.settings_mut().set(key, text).map_err(|reason| (*line, reason)));
    }
    let lines = values.0.iter().map(|(key, (line, _))| (key.clone(), *line)).collect();
    let origin = BackendOrigin { line, lines, password_file, sentinel_password_file };
    Some(FileBackend { config, origin })
}

/// Takes the login that these keys name, and the path of its password. Returns `None` after a mistake.
fn login(
    reader: &mut Reader,
    values: &Values,
    user: &str,
    password_file: &str,
) -> Option<(Login, Option<PathBuf>)> {
    let user = values.get(user).map(|(_, user)| user.to_owned());
    let Some((line, path)) = values.get(password_file) else {
        return Some((Login { user, password: None }, None));
    };
    let folder = reader.file.path.parent();
    let path = folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path));
    let password = Some(password(reader, line, password_file, &path)?);
    Some((Login { user, password }, Some(path)))
}

/// Reads a password, and gathers the warning if every user can do so.
fn password(reader: &mut Reader, line: usize, key: &str, path: &Path) -> Option<String> {
    let wrong = |reason| (line, format!("{key}: {} {reason}", path.display()));
    let (password, is_open_to_all) = reader.note(text_file::read_password(path).map_err(wrong))?;
    let warning = text_file::warning(path);
    if is_open_to_all && !reader.file.warnings.contains(&warning) {
        reader.file.warnings.push(warning);
    }
    Some(password)
}

/// The values of a table as text, with their lines.
#[derive(Default)]
struct Values(BTreeMap<String, (usize, String)>);

impl Values {
    fn get(&self, key: &str) -> Option<(usize, &str)> {
        self.0.get(key).map(|(line, text)| (*line, text.as_str()))
    }
}

/// Returns the value of a key as text, if the key takes a value of this type.
fn checked(reader: &Reader, key: &str, value: &DeValue) -> Result<String, String> {
    match (key, value) {
        (_, DeValue::String(text)) if TEXTS.contains(&key) => Ok(text.clone().into()),
        ("weight", DeValue::Integer(number)) => Ok(decimal(number)),
        ("backup", DeValue::Boolean(is_backup)) => Ok(is_backup.to_string()),
        _ if TEXTS.contains(&key) => Err(format!("{key} must be a text in quotes")),
        ("weight", _) => Err("weight must be a number, such as 1".to_owned()),
        ("backup", _) => Err("backup must be true or false".to_owned()),
        _ if reader.keys.get(key).is_some() => {
            Err(format!("{key} is no key of a backend; write it above the first [[backend]]"))
        }
        _ => {
            let logins = [URL, USER, PASSWORD_FILE, SENTINEL_USER, SENTINEL_PASSWORD_FILE];
            let all = logins.into_iter().chain(SETTINGS);
            let suggested = nearest(key, all.clone());
            let suggested = suggested.map(|name| format!("did you mean {name}?"));
            let all = || format!("there are {}", all.collect::<Vec<_>>().join(", "));
            Err(format!("a backend has no key {key}; {}", suggested.unwrap_or_else(all)))
        }
    }
}
