//! The configuration of `lb`: flags go before the environment, and that before the defaults.

pub mod address;
mod args;
pub mod cli;

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;

use self::address::BackendAddress;
use self::args::Args;
use crate::http;
use crate::logging::Format;

/// The checked configuration of `lb`.
#[derive(Debug)]
pub struct Config {
    /// Whether the backends are only checked and nothing is served (`lb check`).
    pub checks_only: bool,
    /// Address where clients connect. Its port may be 0 until the listener has bound it.
    pub listen: SocketAddr,
    /// Address of the paths below `/-/`, if they are not served where clients connect.
    pub admin_listen: Option<SocketAddr>,
    /// Whether the status page and its JSON are turned off where clients connect.
    pub no_status: bool,
    /// Format of the log.
    pub log_format: Format,
    /// Whether the log has no lines for requests and sessions.
    pub quiet: bool,
    /// The backends: at least one, and none twice.
    pub backends: Vec<BackendAddress>,
    /// Most clients at a time: 1 to 100,000.
    pub max_clients: usize,
    /// How long a client may be idle, or not read its reply.
    pub client_timeout: Duration,
    /// How long a backend may be silent before a quick read is retried on another.
    pub backend_timeout: Duration,
    /// How long a read waits for a silent backend when it must not go to another.
    pub read_timeout: Duration,
    /// Time between two checks of a backend while it is up.
    pub check_interval: Duration,
    /// How long a check may take.
    pub check_timeout: Duration,
    /// Failed checks in a row until a backend is down: 1 to 100.
    pub fall: u32,
    /// Good checks in a row until a backend is up again: 1 to 100.
    pub rise: u32,
    /// How long ago a replica may have heard from its primary to be read from while others are up;
    /// `None` means no limit.
    pub max_lag: Option<Duration>,
    /// How long the keys of a server that is out of service count.
    pub forget_after: Duration,
    /// Time in which the share of a backend that returns grows to its full size.
    pub slow_start: Duration,
    /// Whether sessions are moved to a backend with fewer leases.
    pub rebalance: bool,
    /// Most connections to each backend at a time: at least 2.
    pub backend_connections: usize,
    /// Longest argument of a Redis command.
    pub max_argument_bytes: usize,
    /// Whether clients may use KEYS.
    pub allow_keys: bool,
    /// Whether clients may use scripts and functions that only read.
    pub allow_scripts: bool,
    /// How long clients are still accepted after the signal to end.
    pub drain_delay: Duration,
    /// How long running requests may take to finish after `drain_delay`.
    pub drain_timeout: Duration,
    /// Time by which each HTTP read is delayed; usually zero.
    pub demo_delay: Duration,
    /// Host names that are served on loopback besides the local ones, as [`http::host_name`] returns
    /// them.
    pub allow_hosts: Vec<String>,
}

impl Config {
    /// Returns the address of the status page; `None` if it is turned off.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.admin_listen.or((!self.no_status).then_some(self.listen))
    }

    /// Reads the command line and the environment. Ends the process if these ask for help or the
    /// version, or with exit code 2 if they are wrong.
    pub fn from_command_line() -> Self {
        Self::from_arguments(std::env::args_os()).unwrap_or_else(|error| cli::exit_with(&error))
    }

    /// Reads these arguments, of which the first is the program's name, and the environment.
    ///
    /// # Errors
    /// One of them is wrong, or asks for help or the version.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let invalid = |error| Args::command().error(ErrorKind::ValueValidation, error);
        Self::try_from(Args::read(arguments)?).map_err(invalid)
    }
}

impl TryFrom<Args> for Config {
    type Error = String;

    fn try_from(args: Args) -> Result<Self, String> {
        if args.read_timeout < args.backend_timeout {
            return Err("--read-timeout must not be shorter than --backend-timeout".to_owned());
        }
        Ok(Self {
            checks_only: args.command.is_some(),
            listen: address("--listen", &args.listen)?,
            admin_listen: args
                .admin_listen
                .map(|text| address("--admin-listen", &text))
                .transpose()?,
            no_status: args.no_status,
            log_format: args.log_format,
            quiet: args.quiet,
            backends: address::parse_list(&args.backends)
                .map_err(|error| format!("--backend: {error}"))?,
            max_clients: args.max_clients as usize,
            client_timeout: args.client_timeout,
            backend_timeout: args.backend_timeout,
            read_timeout: args.read_timeout,
            check_interval: args.check_interval,
            check_timeout: args.check_timeout,
            fall: args.fall,
            rise: args.rise,
            max_lag: (!args.max_lag.is_zero()).then_some(args.max_lag),
            forget_after: args.forget_after,
            slow_start: args.slow_start,
            rebalance: !args.no_rebalance,
            backend_connections: args.backend_connections as usize,
            max_argument_bytes: args.max_argument_mib as usize * 1024 * 1024,
            allow_keys: args.allow_keys,
            allow_scripts: args.allow_scripts,
            drain_delay: args.drain_delay,
            drain_timeout: args.drain_timeout,
            demo_delay: args.demo_delay,
            allow_hosts: args
                .allow_hosts
                .iter()
                .map(|name| http::host_name(name).into_owned())
                .collect(),
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

#[cfg(test)]
mod tests;
