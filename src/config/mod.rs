//! What `lb` is told: flags, before the environment, before the defaults; all checked at start.

pub mod address;
pub mod cli;

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::address::{BackendAddress, DEFAULT_BACKENDS};
use crate::http;
use crate::logging::Format;

/// The longest of all timeouts.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

const EXAMPLES: &str = "\
Examples:
  lb
      three Redis servers on ports 1111, 2222 and 3333; clients on http://127.0.0.1:1310/
  lb --backend 10.0.0.1:6379 --backend redis://reader:secret@10.0.0.2:6379/2
      two servers, the second with a login and database 2
  LB_BACKENDS=redis-a:6379,redis-b:6379 lb --listen 0.0.0.0:1310
      the same from the environment, for every network interface
  lb --demo-delay 3s
      each HTTP read takes 3 seconds more, so that the balancing can be watched
  lb check
      checks whether the servers can be read from and hold the same data; serves nothing

Try: curl http://127.0.0.1:1310/actor:1
     redis-cli -p 1310 hgetall actor:1";

const CHECK_EXAMPLES: &str = "\
Examples:
  lb check
      the servers that `lb` would read from: those in LB_BACKENDS, or ports 1111, 2222 and 3333
  lb check --backend 10.0.0.1:6379 --backend redis://reader:secret@10.0.0.2:6379
      these two
  lb check --check-timeout 5s && systemctl start redis-lb
      in a script, with servers that may be slow

It writes nothing, and needs the rights +@read +info +ping +select; of nodes of a Cluster also
+readonly +cluster|info.

Exit code: 0 if all is well, 1 if something is wrong, 2 if an option is.";

/// Headings of the flags in `--help`.
const CLIENTS: &str = "Clients";
const BACKENDS: &str = "Backends";
const CHECKS: &str = "Health checks";
const BALANCING: &str = "Balancing";
const END: &str = "The end";
const WATCHING: &str = "Watching";

/// Serves reads over HTTP and the Redis protocol, each from the Redis server with the fewest clients.
#[derive(Debug, Parser)]
#[command(name = "lb", version, about, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Examples, and more about some flags: lb --help", after_long_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where clients connect; port 0 takes any free port
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1310")]
    listen: String,

    /// A Redis server: HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB or redis+unix:///PATH; once
    /// for each, or separated by commas
    #[arg(help_heading = BACKENDS)]
    #[arg(
        long = "backend",
        env = "LB_BACKENDS",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ',',
        default_values = DEFAULT_BACKENDS
    )]
    backends: Vec<String>,

    /// Serves what is below /-/ (status page, metrics, probes) at an address of its own, and not where
    /// clients connect
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,

    /// Turns the status page and its JSON off where clients connect
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_NO_STATUS", value_parser = BoolishValueParser::new())]
    no_status: bool,

    /// How the log looks
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = Format::Human)]
    log_format: Format,

    /// Leaves the lines of requests and sessions out of the log
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_QUIET", value_parser = BoolishValueParser::new())]
    quiet: bool,

    /// Clients at a time; more are told so and closed
    #[arg(help_heading = CLIENTS)]
    #[arg(
        long,
        env = "LB_MAX_CLIENTS",
        value_name = "NUMBER",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    max_clients: u32,

    /// How long a client may be idle, or not read what it asked for
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_CLIENT_TIMEOUT", value_name = "TIME", default_value = "330s", value_parser = timeout)]
    client_timeout: Duration,

    /// How long a backend may be silent before a quick read is tried on another; half of it makes a read
    /// slow
    #[arg(help_heading = BACKENDS)]
    #[arg(long, env = "LB_BACKEND_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = timeout)]
    backend_timeout: Duration,

    /// How long a read waits for a silent backend that it may itself keep busy, for its turn to do so,
    /// or when there is no other backend
    #[arg(help_heading = BACKENDS)]
    #[arg(long, env = "LB_READ_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = timeout)]
    read_timeout: Duration,

    /// How often each backend is checked while all is well
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_CHECK_INTERVAL", value_name = "TIME", default_value = "2s", value_parser = timeout)]
    check_interval: Duration,

    /// How long a backend has to answer a check
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_CHECK_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = timeout)]
    check_timeout: Duration,

    /// Failed checks, one after the other, until a backend is down
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_FALL", value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    fall: u32,

    /// Good checks, one after the other, until a backend that was away is up again
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_RISE", value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rise: u32,

    /// A replica that has not heard from its primary for longer is read from only while no other
    /// server is up; 0s: however long
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_MAX_LAG", value_name = "TIME", default_value = "60s", value_parser = time)]
    max_lag: Duration,

    /// How long the keys of a server that is away count: others that came back with fewer are not read
    /// from until then, unless they have 90 % of them
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_FORGET_AFTER", value_name = "TIME", default_value = "10m", value_parser = time)]
    forget_after: Duration,

    /// How long it takes a backend that returns to get its full share again; 0s: at once
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_SLOW_START", value_name = "TIME", default_value = "10s", value_parser = time)]
    slow_start: Duration,

    /// Leaves Redis clients with their backend as long as that serves, however uneven it gets
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_NO_REBALANCE", value_parser = BoolishValueParser::new())]
    no_rebalance: bool,

    /// Connections to each backend at a time; whoever needs another waits for one
    #[arg(help_heading = BACKENDS)]
    #[arg(
        long,
        env = "LB_BACKEND_CONNECTIONS",
        value_name = "NUMBER",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(2..=100_000)
    )]
    backend_connections: u32,

    /// The longest argument of a Redis command, in MiB
    #[arg(help_heading = CLIENTS)]
    #[arg(
        long,
        env = "LB_MAX_ARGUMENT_MIB",
        value_name = "MIB",
        default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..=512)
    )]
    max_argument_mib: u32,

    /// Lets clients use KEYS, which holds a Redis server up while it looks at every key
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_ALLOW_KEYS", value_parser = BoolishValueParser::new())]
    allow_keys: bool,

    /// Lets clients use scripts and functions that only read (EVAL_RO, EVALSHA_RO, FCALL_RO), which can
    /// keep a Redis server busy, fill its memory and administer it
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_ALLOW_SCRIPTS", value_parser = BoolishValueParser::new())]
    allow_scripts: bool,

    /// After SIGINT or SIGTERM, how long clients are still accepted while /-/ready says 503, so that
    /// whoever sends them here can notice
    #[arg(help_heading = END)]
    #[arg(long, env = "LB_DRAIN_DELAY", value_name = "TIME", default_value = "0s", value_parser = time)]
    drain_delay: Duration,

    /// Behind that, how long running requests have to finish
    #[arg(help_heading = END)]
    #[arg(long, env = "LB_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = time)]
    drain_timeout: Duration,

    /// Holds each HTTP read this long with its lease taken, to watch the balancing
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_DEMO_DELAY", value_name = "TIME", default_value = "0s", value_parser = time)]
    demo_delay: Duration,

    /// While listening on loopback, also serve requests whose Host is NAME; once for each, or
    /// separated by commas
    #[arg(help_heading = CLIENTS)]
    #[arg(long = "allow-host", env = "LB_ALLOW_HOSTS", value_name = "NAME", value_delimiter = ',')]
    allow_hosts: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks whether the servers can be read from and hold the same data; serves nothing.
    ///
    /// Asks all servers at the same time. Counts their keys, and compares some keys chosen at random:
    /// their types and, unless they are large, their values.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// A Redis server; once for each, or separated by commas. Without any: the servers that `lb`
    /// would read from
    #[arg(long = "backend", value_name = "URL", value_delimiter = ',')]
    backends: Vec<String>,

    /// How long each server may take to answer, and then for each step of the comparison [default:
    /// 1s, or LB_CHECK_TIMEOUT]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    check_timeout: Option<Duration>,

    /// How long ago a replica may have heard from its primary; 0s: however long [default: 60s, or
    /// LB_MAX_LAG]
    #[arg(long, value_name = "TIME", value_parser = time)]
    max_lag: Option<Duration>,
}

/// The checked configuration of `lb`.
#[derive(Debug)]
pub struct Config {
    /// Whether the backends are only checked, and nothing is served.
    pub checks_only: bool,
    /// The address to listen on, whose port may be 0; once that is done, the one that clients reach.
    pub listen: SocketAddr,
    /// Where what is below `/-/` is served, instead of there.
    pub admin_listen: Option<SocketAddr>,
    /// Whether the status page and its JSON are turned off there.
    pub no_status: bool,
    /// How the log looks.
    pub log_format: Format,
    /// Whether the lines of requests and sessions are left out of it.
    pub quiet: bool,
    /// At least one, each another server.
    pub backends: Vec<BackendAddress>,
    /// 1 to 100,000 clients at a time.
    pub max_clients: usize,
    /// How long a client may be idle, or not read.
    pub client_timeout: Duration,
    /// How long a backend may be silent.
    pub backend_timeout: Duration,
    /// How long a silent backend is waited for when no other can be tried.
    pub read_timeout: Duration,
    /// How often each backend is checked while it is up.
    pub check_interval: Duration,
    /// How long a check may take.
    pub check_timeout: Duration,
    /// 1 to 100 failed checks in a row until a backend is down.
    pub fall: u32,
    /// 1 to 100 good checks in a row until a backend is up again.
    pub rise: u32,
    /// How long ago a replica may have heard from its primary, to be read from while others are up;
    /// `None`: however long.
    pub max_lag: Option<Duration>,
    /// How long the keys of a server that is away count.
    pub forget_after: Duration,
    /// How long the share of a backend that returns grows.
    pub slow_start: Duration,
    /// Whether running sessions move to a backend with fewer leases.
    pub rebalance: bool,
    /// At least 2 connections to each backend at a time.
    pub backend_connections: usize,
    /// The longest argument of a Redis command.
    pub max_argument_bytes: usize,
    /// Whether clients may use KEYS.
    pub allow_keys: bool,
    /// Whether clients may use scripts and functions that only read.
    pub allow_scripts: bool,
    /// How long clients are still accepted once the end has been asked for.
    pub drain_delay: Duration,
    /// How long running requests have behind that.
    pub drain_timeout: Duration,
    /// How long each read is held; usually zero.
    pub demo_delay: Duration,
    /// Host names that are served on loopback beside the local ones, as [`http::host_name`] has
    /// them.
    pub allow_hosts: Vec<String>,
}

impl Config {
    /// Where the status page is; `None` where it is turned off.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.admin_listen.or((!self.no_status).then_some(self.listen))
    }

    /// Reads the command line and the environment; ends the process with help, version or an error
    /// (exit code 2) where these say so.
    pub fn from_command_line() -> Self {
        Self::from_arguments(std::env::args_os()).unwrap_or_else(|error| cli::exit_with(&error))
    }

    /// Reads these arguments, of which the first is the program's name, and the environment.
    ///
    /// # Errors
    /// When one of them is wrong, or asks for help or the version.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let invalid = |error| Args::command().error(ErrorKind::ValueValidation, error);
        Self::try_from(Args::read(arguments)?).map_err(invalid)
    }
}

impl Args {
    /// What `check` was told itself goes before what stands before it, but for backends, which are
    /// listed: where there are some before it and some behind it, all are meant.
    fn read(
        arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(arguments)?;
        let mut args = Self::from_arg_matches(&matches)?;
        let Some(Command::Check(check)) = &mut args.command else { return Ok(args) };
        let are_typed = matches.value_source("backends") == Some(ValueSource::CommandLine);
        if !are_typed && !check.backends.is_empty() {
            args.backends.clear();
        }
        args.backends.append(&mut check.backends);
        args.check_timeout = check.check_timeout.unwrap_or(args.check_timeout);
        args.max_lag = check.max_lag.unwrap_or(args.max_lag);
        Ok(args)
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

/// The address that a flag names.
fn address(flag: &str, text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        format!(
            "{flag} {text}: write ADDRESS:PORT, such as 127.0.0.1:1310 for this machine alone \
             or 0.0.0.0:1310 for every network"
        )
    })
}

/// A time from zero.
fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= MAX_TIMEOUT => Ok(time),
        Ok(_) => Err("at most 24h".to_owned()),
        Err(_) => Err("write a number with its unit, such as 500ms, 30s or 5m".to_owned()),
    }
}

/// A time that a socket can take for a timeout.
fn timeout(text: &str) -> Result<Duration, String> {
    match time(text)? {
        short if short < Duration::from_millis(1) => Err("at least 1ms".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let args = Args::read([&["lb"], args].concat()).map_err(|e| e.to_string())?;
        Config::try_from(args)
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = config(&[]).expect("valid");
        assert_eq!(config.listen.to_string(), "127.0.0.1:1310");
        let names: Vec<&str> = config.backends.iter().map(BackendAddress::name).collect();
        assert_eq!(names, DEFAULT_BACKENDS);
        assert_eq!(config.max_clients, 4096);
        assert_eq!(config.client_timeout, Duration::from_secs(330));
        assert_eq!(config.backend_timeout, Duration::from_secs(1));
        assert_eq!(config.read_timeout, Duration::from_secs(30));
        assert_eq!(config.check_interval, Duration::from_secs(2));
        assert_eq!(config.check_timeout, Duration::from_secs(1));
        assert_eq!((config.fall, config.rise), (3, 2));
        assert_eq!(config.max_lag, Some(Duration::from_secs(60)));
        assert_eq!(config.forget_after, Duration::from_secs(10 * 60));
        assert_eq!(config.slow_start, Duration::from_secs(10));
        assert!(config.rebalance);
        assert_eq!(config.backend_connections, 128);
        assert_eq!(config.max_argument_bytes, 16 * 1024 * 1024);
        assert!(!config.allow_keys && !config.allow_scripts);
        assert_eq!(config.drain_delay, Duration::ZERO);
        assert_eq!(config.drain_timeout, Duration::from_secs(30));
        assert_eq!(config.demo_delay, Duration::ZERO);
    }

    #[test]
    fn the_flags_of_a_check_count_before_and_behind_its_name() {
        let parsed = |args: &[&str]| {
            let config = config(args).expect("valid");
            let names: Vec<_> = config.backends.iter().map(|b| b.name().to_owned()).collect();
            (config.checks_only, names.join(" "), config.check_timeout.as_secs())
        };
        let expected = |names: &str, seconds| (true, names.to_owned(), seconds);
        assert_eq!(parsed(&["check"]), expected(&DEFAULT_BACKENDS.join(" "), 1));
        assert_eq!(parsed(&["check", "--backend", "a:1,b:2"]), expected("a:1 b:2", 1));
        assert_eq!(
            parsed(&["--backend", "a:1", "--check-timeout", "3s", "check"]),
            expected("a:1", 3)
        );
        let both = ["--backend", "a:1", "check", "--backend", "b:2", "--check-timeout", "2s"];
        assert_eq!(parsed(&both), expected("a:1 b:2", 2));
        assert!(!parsed(&[]).0);
    }

    #[test]
    fn wrong_values_are_refused_with_what_to_do() {
        for (args, why) in [
            (["--listen", "1310"], "ADDRESS:PORT"),
            (["--listen", "127.0.0.1"], "ADDRESS:PORT"),
            (["--backend", "localhost"], "HOST:PORT"),
            (["--backend", "a:1,b:2,a:1"], "a:1 is in the list twice"),
            (["--max-clients", "0"], "1..=100000"),
            (["--client-timeout", "0s"], "at least 1ms"),
            (["--client-timeout", "5"], "such as 500ms"),
            (["--backend-timeout", "25h"], "at most 24h"),
            (["--demo-delay", "soon"], "--demo-delay"),
            (["--read-timeout", "900ms"], "--backend-timeout"),
        ] {
            let error = config(&args).expect_err(args[1]);
            assert!(error.contains(why), "{args:?}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_wrong_backend_is_not_repeated() {
        let error = config(&["--backend", "redis://u:hunter2@h:99999"]).expect_err("port");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
