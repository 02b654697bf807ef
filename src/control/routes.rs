//! What a request on the control socket asks for: the paths, their methods and their parameters.

use std::fmt;

use log::LevelFilter;
use serde::Serialize;

use crate::config::backend::{BackendConfig, weight};
use crate::health::Admin;
use crate::http::target::{Query, decode};

/// Clients that a list has, unless `limit` says otherwise.
pub(super) const DEFAULT_LIMIT: usize = 1000;

/// Most clients that a list has: as many as there may be.
const MAX_LIMIT: usize = 100_000;

/// Methods that change something. Both mean the same here.
const CHANGES: &str = "POST, PUT";

/// The paths, for `GET /`.
pub(super) const PATHS: [(&str, &str); 14] = [
    ("GET /status?since=N", "the document of /-/status.json, with samples after number N only"),
    ("GET /backends", "its part about backends, and what was set at run time"),
    ("POST /backends?url=URL", "adds a backend, written as for --backend and percent-encoded"),
    ("DELETE /backends/NAME", "removes a backend"),
    ("POST /backends/NAME/drain", "sends it no new clients and moves its sessions to others"),
    ("POST /backends/NAME/maint", "takes it out of service: neither reads nor checks"),
    ("POST /backends/NAME/ready", "ends what was set of it at run time; brings a removed one back"),
    ("POST /backends/NAME/weight?value=N", "sets its weight, 0 to 256"),
    ("POST /reload", "reads the configuration file again"),
    ("POST /log?level=LEVEL", "sets the level of the log: error, warn, info, debug or default"),
    ("GET /clients?limit=N", "the clients, the oldest first; 1000 unless limit says otherwise"),
    ("DELETE /clients/ID", "closes the connection of a client, by its id or its address"),
    ("GET /overrides", "what was set at run time and goes on to hold, in words"),
    ("GET /", "this list"),
];

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(super) enum Operation {
    Index,
    Status { since: u64 },
    Backends,
    Overrides,
    Clients { limit: usize },
    Change(Change),
}

/// A change that is asked for. Its text is for the log.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    SetAdmin(String, Admin),
    SetWeight(String, u16),
    Add(Box<BackendConfig>),
    Remove(String),
    Reload,
    /// The level of the log; `None` is the configured one.
    SetLogLevel(Option<LevelFilter>),
    /// Ends a client, by its number or its address.
    Kill(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAdmin(name, Admin::Drain) => write!(f, "drain {name}"),
            Self::SetAdmin(name, Admin::Maint) => write!(f, "maint {name}"),
            Self::SetAdmin(name, Admin::Ready) => write!(f, "ready {name}"),
            Self::SetWeight(name, weight) => write!(f, "weight {name} {weight}"),
            // Without its password.
            Self::Add(backend) => write!(f, "add {}", backend.name()),
            Self::Remove(name) => write!(f, "remove {name}"),
            Self::Reload => f.write_str("reload"),
            Self::SetLogLevel(level) => {
                let level = level.map(|level| level.as_str().to_lowercase());
                write!(f, "log {}", level.as_deref().unwrap_or("default"))
            }
            Self::Kill(client) => write!(f, "kill {client}"),
        }
    }
}

/// Why a request is refused, as its response says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    pub status: u16,
    /// What is wrong, and what to do.
    pub error: String,
    /// The methods that the path has.
    #[serde(skip)]
    pub allow: Option<&'static str>,
    /// The names of the backends that there are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
}

impl Refusal {
    pub fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), allow: None, backends: Vec::new() }
    }
}

/// A path that there is.
enum Place<'a> {
    Index,
    Status,
    Backends,
    /// A backend, by its encoded name.
    Backend(&'a str),
    /// What is done with a backend.
    Action(&'a str, Action),
    Reload,
    Log,
    Overrides,
    Clients,
    /// A client, by its encoded number or address.
    Client(&'a str),
}

#[derive(Clone, Copy)]
enum Action {
    SetAdmin(Admin),
    Weight,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/backends/") {
            // The name may be a path, so the action is what comes after the last slash.
            let action = rest.rsplit_once('/').and_then(|(name, last)| Some((name, action(last)?)));
            return match action {
                Some((name, action)) if !name.is_empty() => Some(Self::Action(name, action)),
                _ => (!rest.is_empty()).then_some(Self::Backend(rest)),
            };
        }
        if let Some(client) = path.strip_prefix("/clients/") {
            return (!client.is_empty()).then_some(Self::Client(client));
        }
        Some(match path {
            "/" => Self::Index,
            "/status" | "/-/status.json" => Self::Status,
            "/backends" => Self::Backends,
            "/reload" => Self::Reload,
            "/log" => Self::Log,
            "/overrides" => Self::Overrides,
            "/clients" => Self::Clients,
            _ => return None,
        })
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Index | Self::Status | Self::Overrides | Self::Clients => "GET, HEAD",
            Self::Backends => "GET, HEAD, POST, PUT",
            Self::Backend(_) | Self::Client(_) => "DELETE",
            Self::Action(..) | Self::Reload | Self::Log => CHANGES,
        }
    }
}

fn action(name: &str) -> Option<Action> {
    Some(match name {
        "drain" => Action::SetAdmin(Admin::Drain),
        "maint" => Action::SetAdmin(Admin::Maint),
        "ready" => Action::SetAdmin(Admin::Ready),
        "weight" => Action::Weight,
        _ => return None,
    })
}

/// Returns what a request asks for.
///
/// # Errors
/// Says what is wrong, and what to do.
pub(super) fn route(
    method: &str,
    target: &str,
    query: &Result<Query, String>,
) -> Result<Operation, Refusal> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let Some(place) = Place::of(path) else {
        return Err(Refusal::new(404, "there is no such path; GET / lists those that there are"));
    };
    let method = if method == "HEAD" { "GET" } else { method };
    let allow = place.allow();
    if !allow.split(", ").any(|allowed| allowed == method) {
        let error = format!("this path has {allow}, not the method of this request");
        return Err(Refusal { allow: Some(allow), ..Refusal::new(405, error) });
    }
    let wrong = |error| Refusal::new(400, error);
    let mut query = query.clone().map_err(wrong)?;
    let operation = operation(place, method == "GET", &mut query).map_err(wrong)?;
    match query.left_over() {
        None => Ok(operation),
        Some(name) => Err(wrong(format!("this path does not take the parameter {name}"))),
    }
}

fn operation(place: Place, is_get: bool, query: &mut Query) -> Result<Operation, String> {
    Ok(Operation::Change(match place {
        Place::Index => return Ok(Operation::Index),
        Place::Status => {
            let since = query.number("since", 0..=u64::MAX)?.unwrap_or(0);
            return Ok(Operation::Status { since });
        }
        Place::Overrides => return Ok(Operation::Overrides),
        Place::Backends if is_get => return Ok(Operation::Backends),
        Place::Clients => {
            let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
            return Ok(Operation::Clients { limit });
        }
        Place::Backends => {
            let url = text(query, "url").ok_or("url=URL says which backend is to be added")?;
            // The error repeats nothing of the URL, which may contain a password.
            Change::Add(Box::new(url.parse().map_err(|error| format!("url: {error}"))?))
        }
        Place::Backend(name) => Change::Remove(name_of(name)?),
        Place::Action(name, Action::SetAdmin(admin)) => Change::SetAdmin(name_of(name)?, admin),
        Place::Action(name, Action::Weight) => {
            let value = text(query, "value").ok_or("value=N says which weight is to be set")?;
            Change::SetWeight(name_of(name)?, weight(&value)?)
        }
        Place::Reload => Change::Reload,
        Place::Log => Change::SetLogLevel(level(text(query, "level").as_deref())?),
        Place::Client(client) => Change::Kill(name_of(client)?),
    }))
}

fn text(query: &mut Query, name: &str) -> Option<String> {
    query.take(name).map(|value| String::from_utf8_lossy(&value).into_owned())
}

fn name_of(encoded: &str) -> Result<String, String> {
    let name = String::from_utf8(decode(encoded)?);
    name.map_err(|_| "the name is not UTF-8".to_owned())
}

fn level(name: Option<&str>) -> Result<Option<LevelFilter>, String> {
    match name {
        Some("default") => Ok(None),
        Some("error") => Ok(Some(LevelFilter::Error)),
        Some("warn") => Ok(Some(LevelFilter::Warn)),
        Some("info") => Ok(Some(LevelFilter::Info)),
        Some("debug") => Ok(Some(LevelFilter::Debug)),
        _ => Err("level is error, warn, info, debug or default".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &str, target: &str) -> Result<String, (u16, String)> {
        let operation = route(method, target, &Query::of(target));
        operation
            .map(|operation| match operation {
                Operation::Change(change) => change.to_string(),
                other => format!("{other:?}"),
            })
            .map_err(|refusal| (refusal.status, refusal.error))
    }

    #[test]
    fn each_path_and_method_asks_for_one_thing() {
        for (method, target, expected) in [
            ("GET", "/", "Index"),
            ("HEAD", "/status", "Status { since: 0 }"),
            ("GET", "/-/status.json?since=7", "Status { since: 7 }"),
            ("GET", "/backends", "Backends"),
            ("GET", "/overrides", "Overrides"),
            ("GET", "/clients", "Clients { limit: 1000 }"),
            ("GET", "/clients?limit=5", "Clients { limit: 5 }"),
            ("DELETE", "/clients/7", "kill 7"),
            ("DELETE", "/clients/%5B::1%5D:5", "kill [::1]:5"),
            ("POST", "/backends?url=redis://u:hunter2@h:1/2", "add h:1"),
            ("DELETE", "/backends/h:1", "remove h:1"),
            ("POST", "/backends/h:1/drain", "drain h:1"),
            ("PUT", "/backends/h:1/maint", "maint h:1"),
            ("POST", "/backends/h:1/ready", "ready h:1"),
            ("POST", "/backends/h:1/weight?value=0", "weight h:1 0"),
            ("POST", "/backends/%2Frun%2Fredis.sock/drain", "drain /run/redis.sock"),
            ("POST", "/backends//run/drain/drain", "drain /run/drain"),
            ("DELETE", "/backends//run/redis.sock", "remove /run/redis.sock"),
            ("POST", "/reload", "reload"),
            ("POST", "/log?level=debug", "log debug"),
            ("POST", "/log?level=default", "log default"),
        ] {
            assert_eq!(routed(method, target).as_deref(), Ok(expected), "{method} {target}");
        }
        for (path, _) in PATHS {
            let (method, target) = path.split_once(' ').expect("a method");
            let target =
                target.replace("NAME", "h:1").replace("URL", "h:1").replace("LEVEL", "info");
            assert!(routed(method, &target.replace("=N", "=1")).is_ok(), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_url_is_repeated() {
        for (method, target, status, said) in [
            ("GET", "/nothing", 404, "GET / lists"),
            ("GET", "/backends/", 404, ""),
            ("GET", "/reload", 405, "POST, PUT"),
            ("GET", "/backends/h:1", 405, "DELETE"),
            ("GET", "/backends/h:1/drain", 405, "POST"),
            ("POST", "/status", 405, "GET, HEAD"),
            ("FLY", "/", 405, "GET"),
            ("POST", "/backends", 400, "url=URL"),
            ("POST", "/backends?url=redis://u:hunter2@h:99999", 400, "write HOST:PORT"),
            ("POST", "/backends?url=h:1?weight=257", 400, "a weight is a number from 0 to 256"),
            ("POST", "/backends/h:1/weight", 400, "value=N"),
            ("POST", "/backends/h:1/weight?value=257", 400, "from 0 to 256"),
            ("POST", "/backends/h:1/weight?value=x", 400, "from 0 to 256"),
            ("POST", "/backends/h:1/drain?now=1", 400, "the parameter \"now\""),
            ("POST", "/backends/%/drain", 400, "%25"),
            ("POST", "/log?level=trace", 400, "level is"),
            ("POST", "/log", 400, "level is"),
            ("GET", "/status?since=-1", 400, "since is a number from 0"),
            ("GET", "/clients?limit=0", 400, "limit is a number from 1"),
            ("DELETE", "/clients/%ff", 400, "UTF-8"),
            ("POST", "/reload?a=1&a=2", 400, "occurs twice"),
        ] {
            let (given, error) = routed(method, target).expect_err(target);
            assert_eq!(given, status, "{method} {target}: {error}");
            assert!(error.contains(said) && !error.contains("hunter2"), "{target}: {error}");
        }
    }
}
