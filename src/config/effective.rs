//! The effective configuration: the value of each key, and where it comes from.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory};

use super::ConfigError;
use super::file::{ConfigFile, FileErrors, Mistake};
use super::flags::Flags;
use super::keys::{BACKEND, Keys, Kind, REQUIRE_PASSWORD};
use super::users::PasswordDigest;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    /// The flag of its name.
    Flag,
    /// The environment variable of this name.
    Environment(String),
    /// A line of the file: `FILE:LINE`.
    File(String),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub key: String,
    /// The heading of its flag in `--help`.
    pub heading: String,
    pub source: Source,
    /// The texts as they were given; empty if there is no value.
    pub texts: Vec<String>,
    pub kind: Kind,
    /// The value in a form in which equal values are equal texts.
    pub meaning: String,
}

/// A key of the file that has no effect, because a flag or an environment variable overrides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overridden {
    /// The key.
    pub key: String,
    /// Where it is: `FILE:LINE`.
    pub place: String,
    /// The flag, or the environment variable.
    pub by: String,
}

impl fmt::Display for Overridden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, place, by } = self;
        write!(f, "{place}: {key} has no effect, because {by} overrides it")
    }
}

/// What was parsed of the command line and the environment, without the file.
pub(super) struct Given<'a> {
    matches: &'a ArgMatches,
    keys: &'a Keys,
}

impl<'a> Given<'a> {
    pub fn new(matches: &'a ArgMatches, keys: &'a Keys) -> Self {
        Self { matches, keys }
    }

    /// Returns whether the command line or the environment has this key; flags may also come after `check`.
    pub fn source(&self, key: &str) -> Source {
        let Some(flag) = self.keys.get(key) else { return Source::Default };
        let id = flag.get_id().as_str();
        let is_typed = |matches: &ArgMatches| {
            let is_there = matches.try_contains_id(id).is_ok_and(|is_there| is_there);
            is_there && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let after = self.matches.subcommand().is_some_and(|(_, matches)| is_typed(matches));
        match self.matches.value_source(id) {
            _ if after => Source::Flag,
            Some(ValueSource::CommandLine) => Source::Flag,
            Some(ValueSource::EnvVariable) => {
                let name = flag.get_env().map(|name| name.to_string_lossy().into_owned());
                Source::Environment(name.unwrap_or_default())
            }
            _ => Source::Default,
        }
    }

    /// Returns the arguments for what the file says and neither the command line nor the environment.
    pub fn arguments_of(&self, file: &ConfigFile) -> Vec<OsString> {
        let entries = file.entries.iter();
        let effective = entries.filter(|entry| self.source(&entry.key) == Source::Default);
        effective.flat_map(|entry| entry.arguments.iter().map(OsString::from)).collect()
    }

    /// Returns the keys of the file that have no effect.
    pub fn overridden(&self, file: &ConfigFile) -> Vec<Overridden> {
        let lines = file.lines().into_iter();
        let overridden = lines.filter_map(|(key, line)| {
            let by = match self.source(key) {
                Source::Flag => format!("--{key}"),
                Source::Environment(name) => name,
                Source::Default | Source::File(_) => return None,
            };
            Some(Overridden { key: key.to_owned(), place: place(file, line), by })
        });
        overridden.collect()
    }

    /// Returns the error for values that are wrong together, or in a way that `clap` does not check. Its text names their
    /// flags; those that come from the file are named by their lines.
    pub fn blame(&self, reason: String, file: Option<&ConfigFile>) -> ConfigError {
        let place = |word: &str| {
            let key = word.strip_prefix("--")?.trim_end_matches([':', ',', ';']);
            file?.line(key).filter(|_| self.source(key) == Source::Default)
        };
        let words: Vec<&str> = reason.split(' ').collect();
        let Some(first) = words.iter().find_map(|word| place(word)) else {
            let words: Vec<String> = words.iter().map(|word| self.by_variable(word)).collect();
            return Flags::command().error(ErrorKind::ValueValidation, words.join(" ")).into();
        };
        let worded = words.iter().map(|word| match place(word) {
            Some(line) if line == first => word.trim_start_matches('-').to_owned(),
            Some(line) => format!("{} (line {line})", word.trim_start_matches('-')),
            None => (*word).to_owned(),
        });
        let text = worded.collect::<Vec<_>>().join(" ");
        let path = file.map_or(Path::new(""), |file| &file.path);
        FileErrors::new(path, vec![Mistake { line: first, text }]).into()
    }

    /// Returns a word of an error; if it is a flag whose value is that of its environment variable, the variable.
    fn by_variable(&self, word: &str) -> String {
        let key = word.strip_prefix("--").map(|key| key.trim_end_matches([':', ',', ';']));
        match key.map(|key| (key, self.source(key))) {
            Some((key, Source::Environment(name))) => word.replace(&format!("--{key}"), &name),
            _ => word.to_owned(),
        }
    }

    /// Returns all settings but the backends, of which `effective` has the values, in the order of `--help`.
    pub fn settings(&self, effective: &ArgMatches, file: Option<&ConfigFile>) -> Vec<Setting> {
        let flags = self.keys.flags().filter(|(key, _)| *key != BACKEND);
        let settings = flags.map(|(key, flag)| self.setting(key, flag, effective, file));
        let mut settings: Vec<Setting> = settings.collect();
        let headings: Vec<String> =
            settings.iter().map(|setting| setting.heading.clone()).collect();
        settings.sort_by_key(|setting| headings.iter().position(|other| *other == setting.heading));
        settings
    }

    /// Returns where the value of a key comes from, of which the file may be one place.
    pub fn source_with(&self, key: &str, file: Option<&ConfigFile>) -> Source {
        let in_file = file.and_then(|file| Some(place(file, file.line(key)?)));
        match (self.source(key), in_file) {
            (Source::Default, Some(place)) => Source::File(place),
            (source, _) => source,
        }
    }

    fn setting(
        &self,
        key: &str,
        flag: &Arg,
        effective: &ArgMatches,
        file: Option<&ConfigFile>,
    ) -> Setting {
        let id = flag.get_id().as_str();
        let texts: Vec<String> = match Kind::of(flag) {
            Kind::Switch => vec![effective.get_flag(id).to_string()],
            _ => {
                let raw = effective.get_raw(id).unwrap_or_default();
                raw.map(|text| text.to_string_lossy().into_owned()).collect()
            }
        };
        let texts = match key {
            REQUIRE_PASSWORD if !texts.is_empty() => vec!["…".to_owned()],
            _ => texts,
        };
        Setting {
            key: key.to_owned(),
            heading: flag.get_help_heading().unwrap_or_default().to_owned(),
            source: self.source_with(key, file),
            kind: Kind::of(flag),
            meaning: meaning(effective, id).unwrap_or_else(|| texts.join(",")),
            texts,
        }
    }
}

/// Returns a time, a size or a password in a form in which equal ones are equal texts; `None` for other values.
fn meaning(matches: &ArgMatches, id: &str) -> Option<String> {
    let time = matches.try_get_one::<Duration>(id).ok().flatten();
    let size = || matches.try_get_one::<usize>(id).ok().flatten();
    let long_size = || matches.try_get_one::<u64>(id).ok().flatten();
    let password = || matches.try_get_one::<PasswordDigest>(id).ok().flatten();
    time.map(|time| format!("{time:?}"))
        .or_else(|| size().map(usize::to_string))
        .or_else(|| long_size().map(u64::to_string))
        .or_else(|| password().map(|digest| digest.text().to_owned()))
}

/// Returns `FILE:LINE`.
pub(super) fn place(file: &ConfigFile, line: usize) -> String {
    format!("{}:{line}", file.path.display())
}
