//! The keys of the configuration file: the long names of the flags, whose definition also says which values they take.

use std::any::TypeId;
use std::error::Error;
use std::num::{IntErrorKind, ParseIntError};

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::flags::Flags;
use crate::text;

/// The key of the backends, which are tables or URLs.
pub(super) const BACKEND: &str = "backend";

/// The key of a password for the user `default`, whose value shows nowhere.
pub(super) const REQUIRE_PASSWORD: &str = "require-password";

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// True or false.
    Switch,
    /// Texts.
    List,
    /// A number, or a size as text with its unit.
    Number,
    /// A text.
    Text,
}

/// The keys that a file may have.
pub(super) struct Keys(Vec<Arg>);

impl Keys {
    /// Takes the keys from the definition of the flags.
    pub fn new() -> Self {
        // A file can't name another one.
        let arguments = Flags::command().get_arguments().cloned().collect::<Vec<_>>();
        Self(arguments.into_iter().filter(|arg| arg.get_id() != "config_file").collect())
    }

    /// Returns the flag of this key.
    pub fn get(&self, key: &str) -> Option<&Arg> {
        self.0.iter().find(|arg| arg.get_long() == Some(key))
    }

    /// Returns the flags of all keys, in the order of their definition.
    pub fn flags(&self) -> impl Iterator<Item = (&str, &Arg)> {
        self.0.iter().filter_map(|arg| Some((arg.get_long()?, arg)))
    }

    /// Returns the key that is most like this name.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.flags().map(|(key, _)| key))
    }
}

/// Returns which of these names is most like another: written otherwise, or with another letter.
pub(super) fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace(['_', ' ', '.'], "-");
    let name = name.trim_start_matches("lb-").trim_start_matches('-');
    text::nearest(name, among)
}

impl Kind {
    /// Returns what this flag takes.
    pub fn of(flag: &Arg) -> Self {
        let numbers = [TypeId::of::<usize>(), TypeId::of::<u64>(), TypeId::of::<u32>()];
        let numbers = [&numbers[..], &[TypeId::of::<u16>(), TypeId::of::<f64>()]].concat();
        match flag.get_action() {
            ArgAction::SetTrue => Self::Switch,
            ArgAction::Append => Self::List,
            _ if numbers.iter().any(|number| flag.get_value_parser().type_id() == *number) => {
                Self::Number
            }
            _ => Self::Text,
        }
    }
}

/// Returns whether this flag takes the path of a file to read: in a configuration file, it begins at the folder of that.
pub(super) fn is_file(flag: &Arg) -> bool {
    flag.get_value_names().is_some_and(|names| names.iter().any(|name| name == "FILE"))
}

/// Where the value of a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// In the configuration file.
    File,
    /// On the command line, or in an environment variable.
    Plain,
}

/// Returns what this flag takes, in words, with an example.
pub(super) fn expected(flag: &Arg, written: Written) -> String {
    use Written::{File, Plain};
    let default = flag.get_default_values().first().map(|value| value.to_string_lossy());
    let name = flag.get_value_names().and_then(|names| names.first());
    let name = name.map(ToString::to_string).unwrap_or_default();
    let values = flag.get_possible_values();
    let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
    match (written, Kind::of(flag), default) {
        (File, Kind::Switch, _) => "true or false".to_owned(),
        (Plain, Kind::Switch, _) => "true or false (or 1 or 0, yes or no, on or off)".to_owned(),
        (File, Kind::List, _) => format!("a list of texts: [\"{name}\", …]"),
        (Plain, Kind::List, _) => format!("{name},{name},… with commas between"),
        (Plain, Kind::Text, _) if !values.is_empty() => format!("one of {}", values.join(", ")),
        (_, Kind::Number, Some(default)) if is_number(&default) => {
            format!("a whole number, such as {default}")
        }
        (File, _, Some(default)) => format!("a text in quotes, such as \"{default}\""),
        // Zero turns it off, which nobody asks for who names it.
        (Plain, _, Some(default)) if default == "0B" => format!("{name}, such as 64MiB"),
        (Plain, _, Some(default)) if default == "0s" => format!("{name}, such as 10s"),
        (Plain, _, Some(default)) => format!("{name}, such as {default}"),
        (File, _, None) => format!("a text in quotes: \"{name}\""),
        (Plain, _, None) => name,
    }
}

/// Whether a text is a number, which has no quotes in a file.
pub(super) fn is_number(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_part)
}

/// Checks a value by the flag that it belongs to, which is written as on a command line.
pub(super) fn check(flag: &Arg, written: &str) -> Result<(), String> {
    let command = Command::new("lb").no_binary_name(true).arg(flag.clone());
    let Err(error) = command.try_get_matches_from([written]) else { return Ok(()) };
    let values = flag.get_possible_values();
    if !values.is_empty() {
        return Err(one_of(&values, written.split_once('=').map_or("", |(_, value)| value)));
    }
    // clap's own text names the flag and repeats the value.
    let reason = error.source().filter(|reason| !is_no_number(*reason)).map(ToString::to_string);
    Err(reason.unwrap_or_else(|| format!("must be {}", expected(flag, Written::File))))
}

/// Whether a value is wrong because it has other characters than digits.
fn is_no_number(reason: &(dyn Error + 'static)) -> bool {
    let error = reason.downcast_ref::<ParseIntError>();
    error.is_some_and(|error| *error.kind() == IntErrorKind::InvalidDigit)
}

fn one_of(values: &[PossibleValue], given: &str) -> String {
    let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
    let suggested = nearest(given, names.iter().copied());
    let suggested = suggested.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    format!("must be one of \"{}\"{suggested}", names.join("\", \""))
}
