//! The configuration file: TOML, in which each flag has a key of its name. Its values become arguments, so `clap` checks
//! them as it checks flags.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Arg;
use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue, Error as SyntaxError};

use super::file_backends::{self, FileBackends};
use super::file_users::{self, FileUser, USER};
use super::keys::{self, BACKEND, Keys, Kind, REQUIRE_PASSWORD, Written};
use super::text_file::{self, TextFile};
use crate::logging;

/// Largest configuration file, in bytes: some 10,000 backends. A larger file is the wrong one.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The key of the control socket.
const CONTROL: &str = "control";

/// What is wrong in a configuration file, in the order of its lines.
#[derive(Debug, PartialEq, Eq)]
pub struct FileErrors {
    path: PathBuf,
    mistakes: Vec<Mistake>,
    /// Whether there are more than are named.
    has_more: bool,
}

/// Most mistakes of a file that are named: they fill the log and the status page.
const MAX_MISTAKES: usize = 20;

/// Most characters of a mistake that are shown.
const MAX_MISTAKE_CHARS: usize = 300;

/// A mistake and its line, which is 0 if the whole file is meant.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mistake {
    pub line: usize,
    pub text: String,
}

impl FileErrors {
    pub(super) fn new(path: &Path, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort();
        let has_more = mistakes.len() > MAX_MISTAKES;
        mistakes.truncate(MAX_MISTAKES);
        Self { path: path.to_owned(), mistakes, has_more }
    }

    /// Returns a line for each mistake: file, line, and what is wrong.
    pub fn lines(&self) -> Vec<String> {
        let path = self.path.display();
        let line = |mistake: &Mistake| {
            let place =
                if mistake.line == 0 { String::new() } else { format!(":{}", mistake.line) };
            let text: String =
                super::redact(&mistake.text).chars().take(MAX_MISTAKE_CHARS).collect();
            logging::escaped(&format!("{path}{place}: {text}"))
        };
        let more =
            self.has_more.then(|| format!("{path}: these are {MAX_MISTAKES} of its mistakes"));
        self.mistakes.iter().map(line).chain(more).collect()
    }
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for FileErrors {}

/// A configuration file whose keys and values are right, each for itself.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub path: PathBuf,
    pub entries: Vec<Entry>,
    pub backends: Option<FileBackends>,
    pub users: Vec<FileUser>,
    /// Warnings about files with passwords that every user may read.
    pub warnings: Vec<String>,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub line: usize,
    /// The value as arguments of the command line; none if it is a flag that is off, or an empty list.
    pub arguments: Vec<String>,
}

impl ConfigFile {
    /// Reads a file, and the files with passwords that it names.
    pub fn read(path: &Path) -> Result<Self, FileErrors> {
        let (text, is_open_to_all) = read_text(path)?;
        let mut file = Self::parse(path, &text)?;
        if is_open_to_all && file.has_passwords() {
            file.warnings.insert(0, text_file::warning(path));
        }
        Ok(file)
    }

    /// Whether the file itself holds a password.
    fn has_passwords(&self) -> bool {
        self.backends.as_ref().is_some_and(FileBackends::has_passwords)
            || self.users.iter().any(|user| user.has_password)
            || self.entries.iter().any(|entry| entry.key == REQUIRE_PASSWORD)
    }

    /// Reads nothing of a file but where the control socket is. What else is wrong in it does not matter.
    pub fn control(path: &Path) -> Result<Option<PathBuf>, FileErrors> {
        let (text, _) = read_text(path)?;
        let (table, _) = DeTable::parse_recoverable(&text);
        let value = table.get_ref().get(CONTROL).map(Spanned::get_ref);
        Ok(value.and_then(DeValue::as_str).map(PathBuf::from))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileErrors> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mut mistakes = syntax(text, &errors);
            if is_of_other_form(path, text) {
                let text = "is not in TOML; lb config > FILE writes one to begin with".to_owned();
                mistakes = vec![Mistake { line: 0, text }];
            }
            return Err(FileErrors::new(path, mistakes));
        }
        let mut reader = Reader::new(path, text);
        for (key, value) in table.get_ref() {
            reader.take(key, value);
            if reader.mistakes.len() > MAX_MISTAKES {
                break;
            }
        }
        match reader.mistakes.is_empty() {
            true => Ok(reader.file),
            false => Err(FileErrors::new(path, reader.mistakes)),
        }
    }

    /// Returns the line of a key, if the file has it.
    pub fn line(&self, key: &str) -> Option<usize> {
        let backends = self.backends.as_ref().map(|backends| backends.line);
        match key {
            BACKEND => backends,
            _ => self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.line),
        }
    }

    /// Returns the keys and their lines, in the order of the lines.
    pub fn lines(&self) -> Vec<(&str, usize)> {
        let entries = self.entries.iter().map(|entry| (entry.key.as_str(), entry.line));
        let backends = self.backends.iter().map(|backends| (BACKEND, backends.line));
        let mut lines: Vec<_> = entries.chain(backends).collect();
        lines.sort_by_key(|(_, line)| *line);
        lines
    }
}

/// Reads the text of a file. Returns whether every user may read it, too.
fn read_text(path: &Path) -> Result<(String, bool), FileErrors> {
    let whole = |text: String| {
        let text = match path.exists() {
            true => text,
            false => format!("{text}; lb config > FILE writes one to begin with"),
        };
        FileErrors::new(path, vec![Mistake { line: 0, text }])
    };
    let TextFile { bytes, is_open_to_all } =
        text_file::read(path, MAX_FILE_BYTES).map_err(whole)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        let text = "is not text in UTF-8".to_owned();
        FileErrors::new(path, vec![Mistake { line, text }])
    })?;
    Ok((text, is_open_to_all))
}

/// Returns the line, counted from 1, in which this byte is.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + text[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the first mistake in the syntax of each line: others often follow from it.
fn syntax(text: &str, errors: &[SyntaxError]) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    for error in errors.iter().take(MAX_MISTAKES + 1) {
        // Of the error only its message: it would show the line, with a password in it.
        let line = line_of(text.as_bytes(), error.span().map_or(text.len(), |span| span.start));
        if mistakes.iter().all(|other| other.line != line) {
            let key = error.span().filter(|_| error.message() == "duplicate key");
            let key = key.and_then(|span| text.get(span)).unwrap_or_default();
            let said = format!("{} {key}", error.message());
            let is_bare = text.lines().nth(line - 1).is_some_and(has_bare_value);
            let hint = if is_bare { "; a text needs quotes" } else { "" };
            mistakes.push(Mistake { line, text: format!("{}{hint}", said.trim_end()) });
        }
    }
    mistakes
}

/// Whether a file is in another form than TOML, by its name or its first line.
fn is_of_other_form(path: &Path, text: &str) -> bool {
    let extension = path.extension().unwrap_or_default();
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let first = first.unwrap_or_default();
    ["yaml", "yml", "json", "xml"].iter().any(|other| extension == *other)
        || first == "{"
        || first == "---"
        || first.starts_with("<?xml")
}

/// Whether a line has a value that is neither in quotes nor of several parts, nor a number or a word of TOML.
fn has_bare_value(line: &str) -> bool {
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    let is_plain = value.chars().all(|c| c.is_ascii_digit()) || ["true", "false"].contains(&value);
    !is_plain && !value.starts_with(['"', '\'', '[', '{', '#'])
}

/// Reads the keys of a file, and gathers what is wrong.
pub(super) struct Reader<'a> {
    text: &'a str,
    pub keys: Keys,
    pub file: ConfigFile,
    pub mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn new(path: &Path, text: &'a str) -> Self {
        let path = path.to_owned();
        let file = ConfigFile {
            path,
            entries: Vec::new(),
            backends: None,
            users: Vec::new(),
            warnings: Vec::new(),
        };
        Self { text, keys: Keys::new(), file, mistakes: Vec::new() }
    }

    /// Returns the line in which something begins.
    pub fn line<T>(&self, part: &Spanned<T>) -> usize {
        line_of(self.text.as_bytes(), part.span().start)
    }

    /// Returns a path that is not absolute as seen from the folder of the file.
    pub fn beside(&self, path: &str) -> PathBuf {
        let folder = self.file.path.parent();
        folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
    }

    pub fn mistake(&mut self, line: usize, text: impl Into<String>) {
        self.mistakes.push(Mistake { line, text: text.into() });
    }

    /// Returns what is right, and gathers what is wrong in a line.
    pub fn note<T>(&mut self, result: Result<T, (usize, String)>) -> Option<T> {
        result.map_err(|(line, text)| self.mistake(line, text)).ok()
    }

    /// Takes a key with its value.
    fn take(&mut self, key: &Spanned<DeString>, value: &Spanned<DeValue>) {
        let line = self.line(key);
        let key = key.get_ref().as_ref();
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        match self.keys.get(key).cloned() {
            _ if key == USER => file_users::take(self, line, value),
            Some(_) if key == BACKEND => file_backends::take(self, line, value),
            Some(_) if is_table => {
                self.mistake(line, format!("{key} is no section; write {key} = …"));
            }
            Some(flag) => {
                let arguments = self.arguments(&flag, key, value);
                if let Some(arguments) = self.note(arguments) {
                    self.file.entries.push(Entry { key: key.to_owned(), line, arguments });
                }
            }
            None => {
                let text = self.unknown(key, is_table);
                self.mistake(line, text);
            }
        }
    }

    fn unknown(&self, key: &str, is_table: bool) -> String {
        let what = if is_table { "section" } else { "key" };
        let suggested = self.keys.nearest(key).map(|name| format!("; did you mean {name}?"));
        match (suggested, is_table) {
            (Some(suggested), false) => format!("there is no key {key}{suggested}"),
            (None, false) => format!("there is no key {key}; lb config prints all"),
            (_, true) => format!(
                "there is no {what} [{key}]; write keys without a section, backends as \
                 [[backend]], and users as [[user]]"
            ),
        }
    }

    /// Returns the value of a flag as arguments, each of which `clap` finds right.
    fn arguments(
        &self,
        flag: &Arg,
        key: &str,
        value: &Spanned<DeValue>,
    ) -> Result<Vec<String>, (usize, String)> {
        let single = std::slice::from_ref(value);
        let (values, kind) = match (value.get_ref(), Kind::of(flag)) {
            (DeValue::Boolean(is_on), Kind::Switch) => {
                return Ok(is_on.then(|| format!("--{key}")).into_iter().collect());
            }
            (DeValue::Array(array), Kind::List) => (&array[..], Kind::Text),
            (_, Kind::List | Kind::Switch) => (single, Kind::Switch),
            (_, kind) => (single, kind),
        };
        let mut arguments = Vec::new();
        for value in values {
            let wrong = |text: String| (self.line(value), text);
            let text = text_of(value.get_ref(), kind).ok_or_else(|| {
                wrong(format!("{key} must be {}", keys::expected(flag, Written::File)))
            })?;
            let text = match keys::is_file(flag) {
                true => self.beside(&text).to_string_lossy().into_owned(),
                false => text,
            };
            let argument = format!("--{key}={text}");
            keys::check(flag, &argument).map_err(|reason| wrong(format!("{key}: {reason}")))?;
            arguments.push(argument);
        }
        Ok(arguments)
    }
}

/// Returns a number or a text as it is written in an argument, if a flag of this kind takes it.
fn text_of(value: &DeValue, kind: Kind) -> Option<String> {
    match (value, kind) {
        (DeValue::Integer(number), Kind::Number) => Some(decimal(number)),
        (DeValue::Float(number), Kind::Number) => Some(number.as_str().to_owned()),
        (DeValue::String(text), Kind::Number) => {
            (!keys::is_number(text)).then(|| text.clone().into_owned())
        }
        (DeValue::String(text), Kind::Text) => Some(text.clone().into_owned()),
        _ => None,
    }
}

/// Returns an integer, which may be written as 0x10, in decimal digits.
pub(super) fn decimal(number: &DeInteger) -> String {
    let read = i128::from_str_radix(number.as_str(), number.radix());
    read.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string())
}
