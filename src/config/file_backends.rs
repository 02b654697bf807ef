//! The backends of the configuration file: tables, or URLs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::Login;
use super::backend_tls::{self, TlsFile, TlsFiles, TlsSettings};
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
/// Whether TLS is spoken with the Sentinels of a source; if not said, it is as with its servers.
const SENTINEL_TLS: &str = "sentinel-tls";
/// The name that the certificate must have.
pub(super) const TLS_SERVER_NAME: &str = "tls-server-name";
/// The keys that a URL does not have, or in another form.
const BESIDE_URL: [&str; 9] = [
    USER,
    PASSWORD_FILE,
    SENTINEL_USER,
    SENTINEL_PASSWORD_FILE,
    SENTINEL_TLS,
    TlsFile::Ca.key(),
    TlsFile::Cert.key(),
    TlsFile::Key.key(),
    TLS_SERVER_NAME,
];
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
    /// What the table says of TLS.
    pub tls: TlsSettings,
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
        tls: TlsSettings::default(),
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
    if let Some((line, is_tls)) = values.get(SENTINEL_TLS) {
        let set = config.set_sentinel_tls(is_tls == "true");
        reader.note(set.map_err(|reason| (line, format!("{SENTINEL_TLS} {reason}"))))?;
    }
    let tls = tls(reader, &values, &mut config)?;
    let lines = values.0.iter().map(|(key, (line, _))| (key.clone(), *line)).collect();
    let origin = BackendOrigin { line, lines, password_file, sentinel_password_file, tls };
    Some(FileBackend { config, origin })
}

/// Takes what these keys say of TLS, and reads the files to find what is wrong with them. Returns `None` after a mistake.
fn tls(reader: &mut Reader, values: &Values, config: &mut BackendEntry) -> Option<TlsSettings> {
    let mut files = TlsFiles::default();
    for file in TlsFile::ALL {
        let path = values.get(file.key()).map(|(_, path)| reader.beside(path));
        path.into_iter().for_each(|path| files.set(file, path));
    }
    let line_of = |key: &str| values.get(key).map_or(0, |(line, _)| line);
    let pair = files.check_pair();
    reader.note(pair.map_err(|missing| (line_of(missing.named.key()), missing.with_keys())))?;
    let server_name = match values.get(TLS_SERVER_NAME) {
        Some((line, name)) => {
            let name = backend_tls::server_name(name);
            Some(reader.note(name.map_err(|why| (line, format!("{TLS_SERVER_NAME}: {why}"))))?)
        }
        None => None,
    };
    let named = files.named().map(|(file, _)| file.key());
    let first = named.chain(server_name.is_some().then_some(TLS_SERVER_NAME)).next();
    let Some(first) = first else { return Some(TlsSettings::default()) };
    let own = TlsSettings::new(files, server_name);
    let is_used = config.tls_mut().map(|tls| tls.clone_from(&own)).count() > 0;
    if !is_used {
        let text = format!("{first} needs a rediss:// URL");
        return reader.note(Err((line_of(first), text)));
    }
    reader.note(own.files.check().map_err(|wrong| {
        let key = wrong.file.key();
        (line_of(key), format!("{key}: {wrong}"))
    }))?;
    Some(own)
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
    let path = reader.beside(path);
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
    let all = || [URL].into_iter().chain(BESIDE_URL).chain(SETTINGS);
    match (key, value) {
        ("weight", DeValue::Integer(number)) => Ok(decimal(number)),
        ("weight", _) => Err("weight must be a number, such as 1".to_owned()),
        ("backup" | SENTINEL_TLS, DeValue::Boolean(is_on)) => Ok(is_on.to_string()),
        ("backup" | SENTINEL_TLS, _) => Err(format!("{key} must be true or false")),
        (_, DeValue::String(text)) if all().any(|known| known == key) => Ok(text.clone().into()),
        _ if all().any(|known| known == key) => Err(format!("{key} must be a text in quotes")),
        _ if reader.keys.get(key).is_some() => {
            Err(format!("{key} is no key of a backend; write it above the first [[backend]]"))
        }
        _ => {
            let suggested = nearest(key, all());
            let suggested = suggested.map(|name| format!("did you mean {name}?"));
            let listed = || format!("there are {}", all().collect::<Vec<_>>().join(", "));
            Err(format!("a backend has no key {key}; {}", suggested.unwrap_or_else(listed)))
        }
    }
}
