//! Tips in `clap`'s errors: they say what to type instead of what was typed wrong.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, ValueEnum};

use super::environment::{is_typed, name};
use super::keys::{Kind, Written, expected};

/// Names of flags that other programs have, and what `lb` has in their place. `{}` stands for what was typed as the value.
type Foreign = (&'static [&'static str], &'static str);

const LB_FLAGS: [Foreign; 30] = [
    (
        &["-p", "-P", "--port", "--http-port", "--redis-port", "--listen-port", "--bind-port"],
        "write --listen 127.0.0.1:{} for this machine alone, or --listen 0.0.0.0:{} for every network",
    ),
    (
        &["-l", "--bind", "--listen-address", "--address", "--addr", "--interface", "--ip"],
        "write --listen ADDRESS:PORT, such as --listen 0.0.0.0:1310",
    ),
    (
        &["-H", "--host", "--hostname"],
        "write --listen ADDRESS:PORT for where clients connect, and --backend HOST:PORT for each Redis server",
    ),
    (
        &[
            "-b",
            "-s",
            "-r",
            "--backends",
            "--server",
            "--servers",
            "--redis",
            "--redis-url",
            "--url",
            "--uri",
        ],
        "write --backend HOST:PORT, once for each Redis server",
    ),
    (
        &[
            "--upstream",
            "--upstreams",
            "--target",
            "--node",
            "--nodes",
            "--endpoint",
            "--replica",
            "--replicas",
        ],
        "write --backend HOST:PORT, once for each Redis server",
    ),
    (&["--master", "--primary"], "write --backend primary://HOST:PORT, and its replicas are found"),
    (
        &["--sentinel", "--sentinels", "--master-name"],
        "write --backend sentinel://HOST:PORT,HOST:PORT/NAME, and its servers are found",
    ),
    (
        &["-a", "--pass", "--password", "--auth", "--requirepass", "-u", "--user", "--username"],
        "a server's login is in its URL: --backend redis://USER:PASSWORD@HOST:PORT; that of clients is in a file: \
         --require-password-file FILE",
    ),
    (&["-n", "--db", "--database"], "a database is in the URL: --backend redis://HOST:PORT/DB"),
    (
        &["--tls", "--ssl", "--rediss"],
        "write --backend rediss://HOST:PORT for servers with TLS; towards clients it is --tls-cert FILE --tls-key FILE",
    ),
    (
        &["--cert", "--certificate", "--ssl-cert", "--key", "--private-key", "--ssl-key"],
        "towards clients write --tls-cert FILE --tls-key FILE; towards Redis, --backend-tls-cert and --backend-tls-key",
    ),
    (
        &["--ca", "--cacert", "--ca-cert", "--cafile", "--ca-file"],
        "write --backend-tls-ca FILE for the certificates of servers, --tls-client-ca FILE for those of clients",
    ),
    (
        &["-k", "--insecure", "--skip-verify", "--tls-skip-verify"],
        "certificates are always checked: name their CA by --backend-tls-ca FILE",
    ),
    (
        &["-w", "-t", "--workers", "--threads", "--processes", "--concurrency", "--io-threads"],
        "there is no such number: each client has a thread, and --max-clients NUMBER is their limit",
    ),
    (
        &["--connections", "--max-connections", "--maxconn", "--pool-size", "--pool"],
        "write --max-clients NUMBER for clients, --backend-connections NUMBER for connections to each server",
    ),
    (
        &["--timeout", "--connect-timeout", "--idle-timeout"],
        "write --client-timeout TIME for idle clients, --backend-timeout TIME for silent servers, --check-timeout TIME \
         for checks",
    ),
    (
        &["-v", "-vv", "--verbose", "--debug", "--trace"],
        "write --log-level debug for more in the log; -V prints the version",
    ),
    (
        &["-q", "--silent", "--no-log"],
        "write --quiet for a log without requests, --log-level error for errors alone",
    ),
    (
        &["-o", "--log", "--log-file", "--logfile", "--access-log"],
        "the log goes to standard error: write 2> FILE after the command",
    ),
    (
        &["-c", "-f", "--file", "--conf", "--configuration", "--config-file", "--cfg"],
        "write --config FILE",
    ),
    (
        &[
            "-d",
            "-D",
            "--daemon",
            "--daemonize",
            "--background",
            "--detach",
            "--pidfile",
            "--pid-file",
        ],
        "lb stays in the foreground: let systemd start it (contrib/systemd), or write & after the command",
    ),
    (
        &[
            "--admin",
            "--admin-port",
            "--stats",
            "--status",
            "--metrics",
            "--metrics-port",
            "--prometheus",
        ],
        "they are below /-/ where clients connect, or at an address of their own: --admin-listen ADDRESS:PORT",
    ),
    (
        &["--weight", "--backup"],
        "they are in the URL: --backend 'redis://HOST:PORT?weight=2&backup=true'",
    ),
    (
        &[
            "--algorithm",
            "--balance",
            "--strategy",
            "--policy",
            "--method",
            "--round-robin",
            "--leastconn",
        ],
        "there is one way: the server with the fewest clients is next; weights are in the URLs of --backend",
    ),
    (
        &["--write", "--writes", "--allow-writes", "--read-write", "--rw"],
        "nobody writes through lb: a program that writes connects to the primary",
    ),
    (&["--read-only", "--readonly", "--ro"], "leave it out: nobody writes through lb"),
    (&["--cache-size", "--near-cache"], "write --cache SIZE, such as --cache 64MiB"),
    (
        &["--ttl", "--cache-ttl"],
        "there is no such time: Redis says when a key changes; --cache-max-silence TIME bounds how late that may be known",
    ),
    (&["--check", "--config-check", "--test", "--dry-run"], "check is a command: lb check"),
    (
        &["--ctl", "--reload", "--stop", "--drain"],
        "what changes a running lb is a command: lb ctl --help",
    ),
];

const SEED_FLAGS: [Foreign; 9] = [
    (
        &[
            "-h",
            "-H",
            "-s",
            "-b",
            "--host",
            "--server",
            "--servers",
            "--backends",
            "--redis",
            "--url",
            "--target",
        ],
        "write --backend HOST:PORT, once for each server",
    ),
    (&["-p", "--port"], "write --backend 127.0.0.1:{}"),
    (
        &["-a", "-u", "--pass", "--password", "--auth", "--user", "--username"],
        "the login is in the URL: --backend redis://USER:PASSWORD@HOST:PORT",
    ),
    (&["-n", "--db", "--database"], "a database is in the URL: --backend redis://HOST:PORT/DB"),
    (&["--tls", "--ssl"], "write --backend rediss://HOST:PORT"),
    (&["-f", "-i", "--file", "--csv", "--input"], "the file is named without a flag: seed FILE"),
    (
        &["-d", "-F", "--separator", "--sep", "--delim", "--fs", "--tabs", "--tsv"],
        "write --delimiter ';', or tab, comma, semicolon, pipe",
    ),
    (&["--key", "--id-column", "--primary-key"], "write --id COLUMN for the column with the ids"),
    (&["--batch-size", "--chunk"], "write --batch ROWS"),
];

/// Words that are no commands of `lb`, and what there is in their place.
const WORDS: [(&[&str], &str); 9] = [
    (
        &["start", "serve", "run", "server", "up", "proxy", "listen"],
        "lb without a command serves: lb --backend HOST:PORT",
    ),
    (&["stop", "quit", "shutdown", "down", "kill", "end"], "Ctrl-C, or kill PID, ends lb in peace"),
    (
        &[
            "reload", "restart", "status", "drain", "maint", "ready", "weight", "add", "remove",
            "log", "clients",
        ],
        "write lb ctl before it: lb ctl --help",
    ),
    (&["test", "doctor", "ping", "validate", "verify"], "write lb check"),
    (&["monitor", "watch", "stats", "dashboard", "htop"], "write lb top"),
    (&["completion", "complete", "bash", "zsh", "fish"], "write lb completions SHELL"),
    (&["manual", "manpages", "mangen"], "write lb man FOLDER"),
    (&["seed", "load", "import"], "seed is a program of its own: seed --help"),
    (
        &["true", "false", "yes", "no", "on", "off"],
        "a flag that is turned on has no value: write it, or leave it out",
    ),
];

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
        ["help"] => &["--help"],
        ["version"] => &["--version"],
        ["help", command] | [command @ ("check" | "config" | "ctl" | "top"), "help"] => {
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
        ErrorKind::UnknownArgument => of_word(&argument, command, program),
        ErrorKind::InvalidSubcommand => of_word(&word, command, program),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::TooManyValues => {
            of_value(&argument, &error, command, arguments)
        }
        _ => None,
    };
    if let Some(tip) = tip {
        for guess in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
            error.remove(guess);
        }
        let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
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
fn of_word(word: &str, command: &Command, program: Program) -> Option<String> {
    if let Some(name) = word.strip_prefix(['–', '—', '−']) {
        let name = name.trim_start_matches(['-', '–', '—']).split('=').next().unwrap_or_default();
        let is_flag = command.get_arguments().any(|flag| flag.get_long() == Some(name));
        let name = if is_flag { name } else { "FLAG" };
        return Some(format!("that is a dash and no hyphen: write --{name}"));
    }
    if is_server(word) {
        // A password may be in it.
        let shown = if word.contains(['@', '?']) { "URL" } else { word };
        let program = if program == Program::Lb { "lb" } else { "seed" };
        return Some(format!(
            "write --backend before the address of each Redis server: {program} --backend {shown}"
        ));
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
    let is_file =
        word.ends_with(".toml") || (word.contains(['/', '.']) && Path::new(word).is_file());
    is_file.then(|| format!("write --config {word}"))
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
    flag.get_env().is_some_and(|name| std::env::var_os(name).is_some())
        && !is_typed(flag, arguments)
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
            (&["--password", "hunter2"], "redis://USER:PASSWORD@HOST:PORT"),
            (&["-d"], "systemd"),
            (&["-listen", "127.0.0.1:1"], "write --listen, with two hyphens"),
            (&["check", "--max-clients", "1"], "before check: lb --max-clients … check"),
            (&["127.0.0.1:6379"], "lb --backend 127.0.0.1:6379"),
            (&["check", "127.0.0.1:6379"], "--backend 127.0.0.1:6379"),
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
    }

    #[test]
    fn help_and_version_may_be_typed_as_commands() {
        for (words, expected) in [
            (&["lb", "help"][..], &["lb", "--help"][..]),
            (&["lb", "version"], &["lb", "--version"]),
            (&["lb", "help", "check"], &["lb", "check", "--help"]),
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
