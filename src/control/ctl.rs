//! `lb ctl`: asks a balancer that runs, by its control socket.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, User};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::shown;
use crate::config::Config;
use crate::config::backend::BackendConfig;
use crate::config::control::{CtlAction, CtlArgs};
use crate::http::target::NO_HISTORY;

/// Characters of a path or a value that a URL encodes.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b':');

/// The control socket of the service, as the units and the package have it.
const INSTALLED_SOCKET: &str = "/run/redis-lb/control";

/// Longest wait for the answer: a reload waits for new backends to come up.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Longest URL that is read from standard input, in bytes.
const MAX_URL_BYTES: u64 = 16 * 1024;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The command line does not say all that is needed.
    #[error("{0}")]
    Usage(String),
    /// The balancer has refused it.
    #[error("{0}")]
    Refused(String),
    /// The socket can't be used.
    #[error("{0}")]
    Socket(String),
    /// The conversation has failed.
    #[error("the control socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl CtlError {
    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// Asks for what the command line says. Returns the text to be printed.
///
/// # Errors
/// It is refused, fails, or the command line is wrong.
pub fn run(config: &Config) -> Result<String, CtlError> {
    let Some(CtlArgs { action, json, .. }) = &config.ctl else { return Ok(String::new()) };
    let installed = Path::new(INSTALLED_SOCKET);
    let Some(path) = config.control.as_deref().or(installed.exists().then_some(installed)) else {
        let why = "which balancer is meant? Name its socket with --control PATH, with LB_CONTROL, or by \
                   `control` in the file of --config";
        return Err(CtlError::Usage(why.to_owned()));
    };
    let (method, target) = request(action)?;
    let (status, body) = ask(path, method, &target)?;
    let document = || serde_json::from_str::<Value>(&body);
    if !(200..400).contains(&status) {
        if *json {
            // For those who read it by a program; the error goes to people.
            print(&body);
        }
        let error = document().ok().and_then(|body| Some(body["error"].as_str()?.to_owned()));
        return Err(CtlError::Refused(error.unwrap_or_else(|| format!("status {status}"))));
    }
    if *json {
        return Ok(body);
    }
    let document = document().map_err(|error| CtlError::Io {
        path: path.to_owned(),
        source: io::Error::other(format!("the answer is no JSON: {error}")),
    })?;
    Ok(match action {
        CtlAction::Status => shown::status(&document),
        CtlAction::Clients { .. } => shown::clients(&document),
        _ => shown::done(&document),
    })
}

fn print(text: &str) {
    // Nobody may read it.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Returns the method and the target of the request.
fn request(action: &CtlAction) -> Result<(&'static str, String), CtlError> {
    let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let of = |name: &str, action: &str| format!("/backends/{}/{action}", encoded(name));
    Ok(match action {
        CtlAction::Status => ("GET", format!("/status?since={NO_HISTORY}")),
        CtlAction::Drain { backend } => ("POST", of(backend, "drain")),
        CtlAction::Maint { backend } => ("POST", of(backend, "maint")),
        CtlAction::Ready { backend } => ("POST", of(backend, "ready")),
        CtlAction::Weight { backend, weight } => {
            ("POST", of(backend, "weight") + &format!("?value={weight}"))
        }
        CtlAction::Add { url } => ("POST", format!("/backends?url={}", encoded(&whole_url(url)?))),
        CtlAction::Remove { backend } => ("DELETE", format!("/backends/{}", encoded(backend))),
        CtlAction::Reload => ("POST", "/reload".to_owned()),
        CtlAction::Log { level } => ("POST", format!("/log?level={}", encoded(level))),
        CtlAction::Clients { limit } => ("GET", format!("/clients?limit={limit}")),
        CtlAction::Kill { client } => ("DELETE", format!("/clients/{}", encoded(client))),
    })
}

/// Returns the URL of a backend, which may be on standard input; warns of a password in the command line.
fn whole_url(argument: &str) -> Result<String, CtlError> {
    let mut url = argument.to_owned();
    if argument == "-" {
        url.clear();
        let read = io::stdin().lock().take(MAX_URL_BYTES).read_to_string(&mut url);
        read.map_err(|error| CtlError::Usage(format!("standard input: {error}")))?;
    }
    let url = url.trim().to_owned();
    let backend = url.parse::<BackendConfig>();
    let backend = backend.map_err(|error| CtlError::Usage(format!("add: {error}")))?;
    if argument != "-" && backend.password().is_some() {
        let warning = "warning: all users of this machine can see the password while this runs; \
                       `lb ctl add -` reads the URL from standard input\n";
        let _ = io::stderr().write_all(warning.as_bytes());
    }
    Ok(url)
}

/// Sends a request; returns the status and the body of the response.
fn ask(path: &Path, method: &str, target: &str) -> Result<(u16, String), CtlError> {
    let failed = |source| CtlError::Io { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(|error| unreachable(path, error))?;
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(ANSWER_TIME)).map_err(failed)?;
    }
    // With HTTP/1.0 the body ends with the connection.
    let request = format!("{method} {target} HTTP/1.0\r\n\r\n");
    let mut response = Vec::new();
    // Where it is refused before all is written, the response says why.
    let _ = stream.write_all(request.as_bytes());
    let read = stream.read_to_end(&mut response);
    match (parse(&response), read) {
        // After a refusal the connection may be reset.
        (Some((status, body)), read) if status >= 400 || read.is_ok() => Ok((status, body)),
        (_, Err(error)) => Err(failed(error)),
        (_, Ok(_)) => Err(failed(io::Error::other("the answer is no HTTP"))),
    }
}

/// Returns the status and the body of a response.
fn parse(response: &[u8]) -> Option<(u16, String)> {
    let response = String::from_utf8_lossy(response);
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Says why nobody answers at the socket, and what to do.
fn unreachable(path: &Path, error: io::Error) -> CtlError {
    let shown = path.display();
    let file = fs::metadata(path).ok();
    let is_socket = file.as_ref().map(|file| file.file_type().is_socket());
    CtlError::Socket(match (error.kind(), is_socket) {
        (io::ErrorKind::NotFound, _) => {
            format!("there is no socket {shown}: does lb run, with --control {shown}?")
        }
        (io::ErrorKind::PermissionDenied, _) => match file {
            None => format!("{shown}: you may not look into its folder; try as root (sudo)"),
            Some(file) => format!(
                "{shown}: only {} may use it (mode {:o}); try as that user, or as root (sudo)",
                user_name(file.uid()),
                file.permissions().mode() & 0o777
            ),
        },
        (_, Some(false)) => format!("{shown} is no socket"),
        (io::ErrorKind::ConnectionRefused, _) => {
            format!("nobody listens at {shown}: the lb that has made it has ended")
        }
        _ => return CtlError::Io { path: path.to_owned(), source: error },
    })
}

fn user_name(number: u32) -> String {
    let user = User::from_uid(Uid::from_raw(number)).ok().flatten();
    user.map_or_else(|| format!("user {number}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_is_one_request_whose_parts_are_encoded() {
        let name = || "/run/a b".to_owned();
        for (action, expected) in [
            (CtlAction::Status, "GET /status?since=18446744073709551615"),
            (CtlAction::Drain { backend: name() }, "POST /backends/%2Frun%2Fa%20b/drain"),
            (
                CtlAction::Weight { backend: "h:1".into(), weight: 7 },
                "POST /backends/h:1/weight?value=7",
            ),
            (CtlAction::Add { url: "h:1?weight=2".into() }, "POST /backends?url=h:1%3Fweight%3D2"),
            (CtlAction::Remove { backend: name() }, "DELETE /backends/%2Frun%2Fa%20b"),
            (CtlAction::Kill { client: "[::1]:5".into() }, "DELETE /clients/%5B::1%5D:5"),
        ] {
            let (method, target) = request(&action).expect("right");
            assert_eq!(format!("{method} {target}"), expected);
        }
        let wrong = request(&CtlAction::Add { url: "redis://u:hunter2@h:0".into() });
        let error = wrong.expect_err("no address");
        assert_eq!(error.exit_code(), 2);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_response_is_taken_apart() {
        let response = b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n{\n}\n";
        assert_eq!(parse(response), Some((404, "{\n}\n".to_owned())));
        assert_eq!(parse(b"-ERR\r\n\r\n"), None);
        assert_eq!(parse(b""), None);
    }
}
