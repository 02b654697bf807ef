//! The environment variables of the flags: those that are empty, those that don't exist, and what the others take.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, Command};

use super::keys::{Written, expected};
use crate::logging;
use crate::text;

/// How the variables of `lb` begin.
const PREFIX: &str = "LB_";

/// Variables that may not be empty where they count: without them `lb` would read from other servers, or let more clients
/// in, than whoever set them means.
const NEVER_EMPTY: [&str; 6] = [
    "LB_BACKENDS",
    "LB_CONFIG",
    "LB_USERS_FILE",
    "LB_REQUIRE_PASSWORD",
    "LB_REQUIRE_PASSWORD_FILE",
    "LB_TLS_CLIENT_CA",
];

/// Fails if variables that count are set and empty, and may not be.
///
/// # Errors
/// Names all of them and what they take.
pub fn check(command: &mut Command, arguments: &[OsString]) -> Result<(), clap::Error> {
    let is_wrong = |flag: &&Arg| {
        is_empty(flag) && NEVER_EMPTY.contains(&&*name(flag)) && !is_typed(flag, arguments)
    };
    let wrong = command.get_arguments().filter(is_wrong).map(|flag| {
        let (name, takes) = (name(flag), expected(flag, Written::Plain));
        format!("{name} is set and empty: give it {takes}, or unset it")
    });
    let wrong: Vec<String> = wrong.collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(command.error(ErrorKind::ValueValidation, wrong.join("; "))),
    }
}

/// Returns a command for which variables that are set and empty are not set at all: where a variable can't be left out,
/// as in the files of Docker Compose, empty means that there is none.
pub fn without_empty(command: Command) -> Command {
    command.mut_args(|flag| if is_empty(&flag) { flag.env(Resettable::Reset) } else { flag })
}

/// Returns whether a flag's variable is set and empty.
pub(super) fn is_empty(flag: &Arg) -> bool {
    flag.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
}

/// Returns whether a flag stands on the command line, so that its variable does not count.
pub(super) fn is_typed(flag: &Arg, arguments: &[OsString]) -> bool {
    let Some(long) = flag.get_long() else { return false };
    arguments.iter().filter_map(|argument| argument.to_str()?.strip_prefix("--")).any(|argument| {
        argument.strip_prefix(long).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Returns the name of a flag's variable; empty if it has none.
pub(super) fn name(flag: &Arg) -> String {
    flag.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns warnings about variables that look like those of `lb` and are none.
pub(super) fn unknown(command: &Command) -> Vec<String> {
    let known: Vec<String> = command.get_arguments().map(name).collect();
    let mut unknown: Vec<(String, OsString)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| {
            name.starts_with(PREFIX) && !known.contains(name) && !is_of_kubernetes(name, value)
        })
        .collect();
    unknown.sort();
    unknown.iter().map(|(name, _)| warning(name, &known)).collect()
}

fn warning(name: &str, known: &[String]) -> String {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let rests = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
    let hint = match (rest, text::nearest(rest, rests)) {
        ("PORT" | "HOST" | "BIND" | "ADDRESS", _) => "LB_LISTEN has the address".to_owned(),
        ("SERVERS" | "REDIS" | "REDIS_URL" | "UPSTREAMS", _) => {
            "LB_BACKENDS has the servers".to_owned()
        }
        (_, Some(nearest)) => format!("did you mean {PREFIX}{nearest}?"),
        _ => "lb --help names all".to_owned(),
    };
    format!("{} is no variable of lb and has no effect: {hint}", logging::escaped(name))
}

/// Returns whether Kubernetes has set a variable, as it does for each service: one that is called `lb` makes `LB_PORT` and
/// others.
fn is_of_kubernetes(name: &str, value: &OsStr) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.as_encoded_bytes().starts_with(scheme.as_bytes()));
    let is_part = |end: &&str| name.contains("_PORT_") && name.ends_with(*end);
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || ["_TCP", "_UDP", "_SCTP", "_ADDR", "_PROTO", "_PORT"].iter().any(is_part)
        || (name.ends_with("_PORT") && is_url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_none_is_told_with_the_one_that_is_meant() {
        let known = ["LB_BACKENDS", "LB_LISTEN", "LB_MAX_CLIENTS"].map(str::to_owned);
        for (name, expected) in [
            ("LB_BACKEND", "did you mean LB_BACKENDS?"),
            ("LB_MAXCLIENTS", "did you mean LB_MAX_CLIENTS?"),
            ("LB_PORT", "LB_LISTEN"),
            ("LB_ZZZ", "lb --help names all"),
        ] {
            let warning = warning(name, &known);
            assert!(warning.starts_with(name) && warning.contains(expected), "{warning}");
        }
    }

    #[test]
    fn the_variables_of_a_service_in_kubernetes_are_no_mistake() {
        for (name, value, expected) in [
            ("LB_SERVICE_HOST", "10.0.0.1", true),
            ("LB_SERVICE_PORT", "1310", true),
            ("LB_SERVICE_PORT_REDIS", "1310", true),
            ("LB_PORT", "tcp://10.0.0.1:1310", true),
            ("LB_PORT_1310_TCP", "tcp://10.0.0.1:1310", true),
            ("LB_PORT_1310_TCP_ADDR", "10.0.0.1", true),
            ("LB_PORT", "1310", false),
            ("LB_BACKEND", "a:1", false),
        ] {
            assert_eq!(is_of_kubernetes(name, OsStr::new(value)), expected, "{name}={value}");
        }
    }
}
