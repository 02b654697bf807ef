//! The configuration of `lb`: flags go before the environment, and that before the defaults.

pub mod address;
pub mod backend;
mod flags;

use std::ffi::OsString;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;

use self::backend::BackendConfig;
pub use self::flags::Flags;
use crate::http;

/// Configuration of `lb`, checked. It derefs to its [`Flags`], as far as these need no more than what `clap`
/// checks.
#[derive(Debug)]
pub struct Config {
    /// Whether the backends are only checked and nothing is served (`lb check`).
    pub checks_only: bool,
    /// Address where clients connect. Its port may be 0 until the listener has bound it.
    pub listen: SocketAddr,
    /// Address of the paths below `/-/`, if they are not served where clients connect.
    pub admin_listen: Option<SocketAddr>,
    /// The backends: at least one, and none twice.
    pub backends: Vec<BackendConfig>,
    /// Host names that are served on loopback besides the local ones, as [`http::host_name`] returns
    /// them.
    pub allow_hosts: Vec<String>,
    flags: Flags,
}

impl Deref for Config {
    type Target = Flags;

    fn deref(&self) -> &Flags {
        &self.flags
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Flags {
        &mut self.flags
    }
}

impl Config {
    /// Returns the address of the status page; `None` if it is turned off.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.admin_listen.or((!self.no_status).then_some(self.listen))
    }

    /// Returns how long ago a replica may have heard from its primary to be read from while others are up;
    /// `None` means no limit.
    pub fn max_lag(&self) -> Option<Duration> {
        Some(self.flags.max_lag).filter(|max_lag| !max_lag.is_zero())
    }

    /// Returns the longest argument of a Redis command, in bytes.
    pub fn max_argument_bytes(&self) -> usize {
        self.max_argument_mib as usize * 1024 * 1024
    }

    /// Reads the command line and the environment. Ends the process if these ask for help or the
    /// version, or with exit code 2 if they are wrong.
    pub fn from_command_line() -> Self {
        Self::from_arguments(std::env::args_os()).unwrap_or_else(|error| exit_with(&error))
    }

    /// Reads these arguments, of which the first is the program's name, and the environment.
    ///
    /// # Errors
    /// One of them is wrong, or asks for help or the version.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let invalid = |error| Flags::command().error(ErrorKind::ValueValidation, error);
        Self::checked(Flags::read(arguments)?).map_err(invalid)
    }

    fn checked(flags: Flags) -> Result<Self, String> {
        if flags.read_timeout < flags.backend_timeout {
            return Err("--read-timeout must not be shorter than --backend-timeout".to_owned());
        }
        let admin_listen = flags.admin_listen.as_ref();
        let host_name = |name: &String| http::host_name(name).into_owned();
        Ok(Self {
            checks_only: flags.command.is_some(),
            listen: address("--listen", &flags.listen)?,
            admin_listen: admin_listen.map(|text| address("--admin-listen", text)).transpose()?,
            backends: backend::parse_list(&flags.backends)
                .map_err(|error| format!("--backend: {error}"))?,
            allow_hosts: flags.allow_hosts.iter().map(host_name).collect(),
            flags,
        })
    }
}

/// Resolves the address that a flag names.
fn address(flag: &str, text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        format!(
            "{flag} {text}: write ADDRESS:PORT, such as 127.0.0.1:1310 for this machine alone \
             or 0.0.0.0:1310 for every network"
        )
    })
}

/// Returns `text` without the user and password of any URL in it, for errors that repeat what was
/// typed.
pub fn redact(text: &str) -> String {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        let end = url.find([' ', '\'', '"', '\n']).unwrap_or(url.len());
        redacted += before;
        // The last @, because one in a password may not be encoded.
        let login = url[..end].rfind('@').unwrap_or(0);
        redacted += if login > 0 { "…" } else { "" };
        rest = &url[login..];
    }
    redacted + rest
}

/// Ends the process with help or an error, as `clap` would, but shows no password that was typed in
/// the wrong place.
pub fn exit_with(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    // Standard error may be closed.
    let _ = write!(std::io::stderr(), "{}", redact(&error.to_string()));
    std::process::exit(error.exit_code());
}

#[cfg(test)]
mod tests;
