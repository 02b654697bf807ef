//! Tips in `clap`'s errors: they say what to type instead of what was typed wrong.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, ValueEnum};

use super::environment::{is_empty, is_typed, name};
use super::foreign_flags::{Foreign, LB_FLAGS, SEED_FLAGS, WORDS};
use super::keys::{Kind, Written, expected};

/// Most letters by which a name differs from the one that is meant.
const MAX_TYPOS: usize = 2;

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// `lb`.
    Lb,
    /// `seed`.
    Seed,
}

/// Returns the arguments with `help` and `version`, typed as commands, in the form of flags. Arguments that are something
/// else stay as they are.
pub fn with_help(arguments: Vec<OsString>) -> Vec<OsString> {
    let words: Vec<&str> = arguments.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let flags: &[&str] = match words[..] {
        ["help"] | ["help", "help", ..] => &["--help"],
        ["version"] => &["--version"],
        ["help", "ctl", command, ..] => &["ctl", command, "--help"],
        ["help", command, ..] | [command @ ("check" | "config" | "ctl" | "top"), "help"] => {
            &[command, "--help"]
        }
        _ => return arguments,
    };
    let program = arguments.first().cloned().unwrap_or_default();
    [program].into_iter().chain(flags.iter().map(OsString::from)).collect()
}

/// Adds to an error of `clap` what to type instead, if that is known.
pub fn explain(
    mut error: clap::Error,
    command: &Command,
    arguments: &[OsString],
    program: Program,
) -> clap::Error {
    let typed = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let (argument, word) = (typed(ContextKind::InvalidArg), typed(ContextKind::InvalidSubcommand));
    let tip = match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            of_flag(&argument, command, arguments, program)
        }
        ErrorKind::UnknownArgument => of_word(&argument, command, arguments, program),
        ErrorKind::InvalidSubcommand => of_word(&word, command, arguments, program),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::TooManyValues => {
            of_value(&argument, &error, command, arguments)
        }
        _ => None,
    };
    if tip.is_some() || !is_guess_near(&error) {
        for guess in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
            error.remove(guess);
        }
    }
    if let Some(tip) = tip {
        let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// Returns whether what `clap` guesses is near to what was typed: one or two letters are others, or one is in the other.
fn is_guess_near(error: &clap::Error) -> bool {
    let near = |kind, guess| {
        let (Some(ContextValue::String(typed)), Some(guess)) = (error.get(kind), error.get(guess))
        else {
            return false;
        };
        let guesses = match guess {
            ContextValue::String(guess) => std::slice::from_ref(guess),
            ContextValue::Strings(guesses) => guesses.as_slice(),
            _ => return false,
        };
        let typed = typed.trim_start_matches('-');
        guesses.iter().map(|guess| guess.trim_start_matches('-')).any(|guess| {
            let is_part = guess.contains(typed) || typed.contains(guess);
            strsim::damerau_levenshtein(typed, guess) <= MAX_TYPOS || is_part
        })
    };
    near(ContextKind::InvalidArg, ContextKind::SuggestedArg)
        || near(ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand)
}

/// Returns the tip for a flag that does not exist.
fn of_flag(
    typed: &str,
    command: &Command,
    arguments: &[OsString],
    program: Program,
) -> Option<String> {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    // One hyphen is not enough for a name.
    let is_flag = |name: &str| command.get_arguments().any(|flag| flag.get_long() == Some(name));
    let single = words.iter().find_map(|word| {
        let name = word.strip_prefix('-')?.split('=').next()?;
        is_flag(name).then_some(name)
    });
    if let Some(name) =
        single.filter(|name| !typed.starts_with("--") && name.starts_with(&typed[1..]))
    {
        return Some(format!("write --{name}, with two hyphens"));
    }
    if let Some(name) = typed.strip_prefix("--").filter(|name| is_flag(name)) {
        let mut commands = command.get_subcommands().map(Command::get_name);
        let after = commands.find(|name| words.contains(name))?;
        return Some(format!("write --{name} before {after}: lb --{name} … {after}"));
    }
    let foreign: &[Foreign] = match program {
        Program::Lb => &LB_FLAGS,
        Program::Seed => &SEED_FLAGS,
    };
    let (_, tip) = foreign.iter().find(|(names, _)| names.contains(&typed))?;
    let value = value_of(typed, &words).filter(|value| {
        !value.is_empty() && value.len() <= 5 && value.bytes().all(|byte| byte.is_ascii_digit())
    });
    Some(tip.replace("{}", value.unwrap_or("PORT")))
}

/// Returns what was typed as the value of a flag.
fn value_of<'a>(typed: &str, words: &[&'a str]) -> Option<&'a str> {
    let at = words.iter().position(|word| word.split('=').next() == Some(typed))?;
    match words[at].split_once('=') {
        Some((_, value)) => Some(value),
        None => words.get(at + 1).copied(),
    }
}

/// Returns the tip for a word that is no command, and no value of a flag.
fn of_word(
    word: &str,
    command: &Command,
    arguments: &[OsString],
    program: Program,
) -> Option<String> {
    if let Some(name) = word.strip_prefix(['–', '—', '−']) {
        let name = name.trim_start_matches(['-', '–', '—']).split('=').next().unwrap_or_default();
        let is_flag = command.get_arguments().any(|flag| flag.get_long() == Some(name));
        let name = if is_flag { name } else { "FLAG" };
        return Some(format!("that is a dash and no hyphen: write --{name}"));
    }
    if is_server(word) {
        return of_server(word, command, arguments, program);
    }
    if program == Program::Seed {
        return Some("seed loads one file at a time; servers are named by --backend".to_owned());
    }
    if let Some((_, tip)) = WORDS.iter().find(|(words, _)| words.contains(&word)) {
        return Some((*tip).to_owned());
    }
    if word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty() {
        return Some(format!("write --listen 127.0.0.1:{word} for the port where clients connect"));
    }
    if [".conf", ".cfg", ".ini", ".yaml", ".yml"].iter().any(|end| word.ends_with(end)) {
        return Some(
            "a configuration is a file in TOML: --config FILE; lb config > FILE writes one"
                .to_owned(),
        );
    }
    let is_file =
        word.ends_with(".toml") || (word.contains(['/', '.']) && Path::new(word).is_file());
    is_file.then(|| format!("write --config {word}"))
}

/// Returns the tip for the address of a server without `--backend`, if what is typed takes that.
fn of_server(
    word: &str,
    command: &Command,
    arguments: &[OsString],
    program: Program,
) -> Option<String> {
    // A password may be in it.
    let shown = if word.contains(['@', '?']) { "URL" } else { word };
    let mut commands = command.get_subcommands().map(Command::get_name);
    let line = match commands.find(|name| arguments.iter().any(|word| word == name)) {
        _ if program == Program::Seed => format!("seed --backend {shown}"),
        None => format!("lb --backend {shown}"),
        Some("check") => format!("lb check --backend {shown}"),
        Some("config") => format!("lb --backend {shown} config"),
        // They ask another process.
        Some(_) => return None,
    };
    Some(format!("write --backend before the address of each Redis server: {line}"))
}

/// Returns whether a word is meant to be the address of a server.
pub fn is_server(word: &str) -> bool {
    let has_port = word.rsplit_once(':').is_some_and(|(host, port)| {
        let port = port.split(['/', '?']).next().unwrap_or_default();
        !host.is_empty() && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    let is_ip = word.parse::<std::net::IpAddr>().is_ok();
    word.contains("://") || has_port || is_ip || word == "localhost"
}

/// Returns the tip for a value that a flag, or its variable, does not take.
fn of_value(
    typed: &str,
    error: &clap::Error,
    command: &Command,
    arguments: &[OsString],
) -> Option<String> {
    let long = typed.strip_prefix("--")?.split([' ', '=']).next()?;
    let all = std::iter::once(command).chain(command.get_subcommands());
    let mut all = all.flat_map(Command::get_arguments);
    let flag = all.find(|flag| flag.get_long() == Some(long))?;
    if error.kind() == ErrorKind::TooManyValues {
        return (Kind::of(flag) == Kind::Switch).then(|| {
            format!("--{long} has no value: write it to turn it on, leave it out to turn it off")
        });
    }
    if is_from_environment(flag, arguments) {
        let (name, takes) = (name(flag), expected(flag, Written::Plain));
        return Some(format!(
            "the value is that of the environment variable {name}, which takes {takes}"
        ));
    }
    let has_values = error.get(ContextKind::ValidValue).is_some_and(|values| match values {
        ContextValue::Strings(values) => !values.is_empty(),
        _ => false,
    });
    (!has_values).then(|| format!("--{long} takes {}", expected(flag, Written::Plain)))
}

/// Returns whether the value of a flag is that of its variable.
fn is_from_environment(flag: &Arg, arguments: &[OsString]) -> bool {
    let is_set = flag.get_env().is_some_and(|name| std::env::var_os(name).is_some());
    is_set && !is_empty(flag) && !is_typed(flag, arguments)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::flags::Flags;
    use super::*;

    fn said(words: &[&str]) -> String {
        let arguments: Vec<OsString> =
            [&["lb"], words].concat().iter().map(OsString::from).collect();
        let command = Flags::command();
        let error = Flags::command().try_get_matches_from(&arguments).expect_err("it is wrong");
        explain(error, &command, &arguments, Program::Lb).to_string()
    }

    #[test]
    fn what_other_programs_call_a_flag_is_told_in_our_words() {
        for (words, expected) in [
            (&["-p", "1310"][..], "--listen 127.0.0.1:1310"),
            (&["--port=1310"], "--listen 127.0.0.1:1310"),
            (&["--port"], "--listen 127.0.0.1:PORT"),
            (&["--bind", "0.0.0.0"], "--listen ADDRESS:PORT"),
            (&["--backends", "a:1"], "--backend HOST:PORT"),
            (&["--workers", "4"], "--max-clients"),
            (
                &["--backend", "127.0.0.1", "-p", "6379"],
                "--backend 127.0.0.1:6379 for a Redis server",
            ),
            (&["--json"], "--log-format json"),
            (&["--aclfile", "a"], "--users-file FILE"),
            (&["--send-proxy"], "--proxy-protocol"),
            (&["x.conf"], "a file in TOML"),
            (&["--password", "hunter2"], "redis://USER:PASSWORD@HOST:PORT"),
            (&["-d"], "systemd"),
            (&["-listen", "127.0.0.1:1"], "write --listen, with two hyphens"),
            (&["check", "--max-clients", "1"], "before check: lb --max-clients … check"),
            (&["127.0.0.1:6379"], "lb --backend 127.0.0.1:6379"),
            (&["check", "10.0.0.1:6379"], "lb check --backend 10.0.0.1:6379"),
            (&["check", "--max-lag", "1s", "redis://h:1"], "lb check --backend redis://h:1"),
            (&["config", "10.0.0.1:6379"], "lb --backend 10.0.0.1:6379 config"),
            (&["redis://u:hunter2@h:1"], "--backend URL"),
            (&["–listen", "127.0.0.1:1"], "write --listen"),
            (&["redis-lb.toml"], "--config redis-lb.toml"),
            (&["serve"], "without a command"),
            (&["reload"], "lb ctl"),
            (&["1310"], "--listen 127.0.0.1:1310"),
            (&["--quiet", "true"], "has no value"),
            (&["--quiet=true"], "--quiet has no value"),
            (&["--max-clients", "many"], "a whole number, such as 4096"),
        ] {
            let error = said(words);
            assert!(error.contains("tip: ") && error.contains(expected), "{words:?}: {error}");
        }
        assert!(!said(&["--password", "hunter2"]).contains("hunter2"));
        assert!(!said(&["ctl", "status", "10.0.0.1:6379"]).contains("--backend"));
    }

    #[test]
    fn what_is_guessed_is_near_to_what_was_typed() {
        for (typed, expected) in [("--listne", "--listen"), ("--max-client", "--max-clients")] {
            assert!(said(&[typed]).contains(expected), "{typed}: {}", said(&[typed]));
        }
        for typed in ["--license", "--cluster", "--latency"] {
            assert!(!said(&[typed]).contains("tip: a similar"), "{typed}: {}", said(&[typed]));
        }
    }

    #[test]
    fn help_and_version_may_be_typed_as_commands() {
        for (words, expected) in [
            (&["lb", "help"][..], &["lb", "--help"][..]),
            (&["lb", "version"], &["lb", "--version"]),
            (&["lb", "help", "check"], &["lb", "check", "--help"]),
            (&["lb", "help", "ctl", "drain"], &["lb", "ctl", "drain", "--help"]),
            (&["lb", "help", "completions", "bash"], &["lb", "completions", "--help"]),
            (&["lb", "help", "help"], &["lb", "--help"]),
            (&["lb", "ctl", "help"], &["lb", "ctl", "--help"]),
            (&["lb", "--backend", "help"], &["lb", "--backend", "help"]),
            (&["lb"], &["lb"]),
        ] {
            let typed = words.iter().map(OsString::from).collect();
            let expected: Vec<OsString> = expected.iter().map(OsString::from).collect();
            assert_eq!(with_help(typed), expected, "{words:?}");
        }
    }
}
