//! The flags of `lb` and their environment variables, as `clap` sees them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use log::LevelFilter;
use rustls_pki_types::ServerName;

use super::address::DEFAULT_BACKENDS;
use super::backend_tls::{BackendTlsFlags, server_name};
use super::commands::Command;
use super::control::{SocketOwner, control_path};
use super::environment;
use super::hints::{self, Program};
use super::http::{HttpFlags, allowed_host};
use super::rewrite::Rewrite;
use super::role::Role;
use super::tls::TlsFlags;
use super::users::PasswordDigest;
use super::values::{
    OnGap, backlog_size, cache_silence, cache_size, keepalive, key_glob, lag_size, log_level,
    memory_size, nameserver, time, timeout,
};
use crate::logging::Format;
use crate::policy::users::KeyGlob;

/// Most nameservers, as in `/etc/resolv.conf` (`MAXNS` of glibc).
pub const MAX_NAMESERVERS: usize = 3;

const EXAMPLES: &str = "\
Examples:
  lb
      three Redis servers on ports 1111, 2222 and 3333; clients on http://127.0.0.1:1310/
  lb --backend 10.0.0.1:6379 --backend redis://reader:secret@10.0.0.2:6379/2
      two servers, the second with a login and database 2
  LB_BACKENDS=redis-a:6379,redis-b:6379 lb --listen 0.0.0.0:1310
      the backends from the environment; listens on every network interface
  lb --demo-delay 3s
      each HTTP read takes 3 seconds longer, so that you can watch the balancing
  lb --backend rediss://redis.example:6379 --backend-tls-ca ca.pem
      a server that speaks TLS, whose certificate is signed by this CA
  lb --backend sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster
      the replicas that Sentinels know, and their primary while none of them is up
  lb --config /etc/redis-lb/redis-lb.toml
      the configuration from a file, in which max-clients = 100 stands for --max-clients 100
  lb check
      checks whether the servers can be read from and hold the same data; serves nothing
  lb top
      shows what the lb on port 1310 does

Try: curl http://127.0.0.1:1310/actor:1
     redis-cli -p 1310 hgetall actor:1";

/// Headings of the flags in `--help`.
const CLIENTS: &str = "Clients";
const USERS: &str = "Users";
const BACKENDS: &str = "Backends";
const CHECKS: &str = "Health checks";
const BALANCING: &str = "Balancing";
const CACHE: &str = "Cache";
const END: &str = "The end";
const WATCHING: &str = "Watching";
const CONTROL: &str = "Control at run time";

/// Serves reads over HTTP and the Redis protocol, each from the Redis server with the fewest clients.
#[derive(Debug, Parser)]
#[command(name = "lb", version, about, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Examples, and more about some flags: lb --help", after_long_help = EXAMPLES)]
pub struct Flags {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// A file in TOML with a key for each flag; the flag, or its environment variable, overrides the key
    #[arg(long = "config", env = "LB_CONFIG", value_name = "FILE", global = true)]
    pub config_file: Option<PathBuf>,

    /// A file of users in the form of Redis' users.acl, which ACL LIST prints as well
    #[arg(help_heading = USERS)]
    #[arg(long, env = "LB_USERS_FILE", value_name = "FILE")]
    pub users_file: Option<PathBuf>,

    /// A file that holds a password, which the user default then has: clients must log in
    #[arg(help_heading = USERS)]
    #[arg(long, env = "LB_REQUIRE_PASSWORD_FILE", value_name = "FILE")]
    pub require_password_file: Option<PathBuf>,

    /// This password itself; others on the machine can see it on a command line, but not in the environment
    #[arg(help_heading = USERS)]
    #[arg(long, env = "LB_REQUIRE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    #[arg(value_parser = PasswordDigest::of)]
    pub(super) require_password: Option<PasswordDigest>,

    /// Address where clients connect; port 0 takes any free port
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1310")]
    pub(super) listen: String,

    /// A Redis server: HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or redis+unix:///PATH; or
    /// where servers are found: sentinel://HOST:PORT,HOST:PORT/NAME, primary://HOST:PORT, dns://NAME:PORT or
    /// dns+srv://NAME, each after rediss+ for TLS; repeat it for each, or separate them by commas
    #[arg(help_heading = BACKENDS)]
    #[arg(long = "backend", env = "LB_BACKENDS", hide_env_values = true, value_name = "URL")]
    #[arg(value_delimiter = ',', default_values = DEFAULT_BACKENDS)]
    pub(super) backends: Vec<String>,

    #[command(flatten)]
    pub(super) backend_tls: BackendTlsFlags,

    /// The name that the certificates of rediss:// backends must have [default: the host in the URL, or the address
    /// at which a server was found]
    #[arg(help_heading = BACKENDS, long, env = "LB_BACKEND_TLS_SERVER_NAME", value_name = "NAME", value_parser = server_name)]
    pub(super) backend_tls_server_name: Option<ServerName<'static>>,

    /// Reaches servers that a primary or a Sentinel announces as FROM at TO, each HOST or HOST:PORT; repeat it for
    /// each, or separate them by commas
    #[arg(help_heading = BACKENDS)]
    #[arg(
        long = "rewrite-address",
        env = "LB_REWRITE_ADDRESSES",
        value_name = "FROM=TO",
        value_delimiter = ','
    )]
    pub rewrite_addresses: Vec<Rewrite>,

    /// A nameserver for backends that dns:// and dns+srv:// name; repeat it for each, or separate them by
    /// commas, at most 3 [default: those in /etc/resolv.conf]
    #[arg(help_heading = BACKENDS)]
    #[arg(long = "resolver", env = "LB_RESOLVER", value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = nameserver)]
    pub resolvers: Vec<SocketAddr>,

    /// Serves the paths below /-/ (status page, metrics, probes) at this address instead of where
    /// clients connect
    #[arg(help_heading = WATCHING, long, env = "LB_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub(super) admin_listen: Option<String>,

    /// Turns off the status page and its JSON where clients connect
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_NO_STATUS", value_parser = BoolishValueParser::new())]
    pub no_status: bool,

    /// Format of the log
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_LOG_FORMAT", value_name = "FORMAT", value_enum, ignore_case = true, default_value_t = Format::Human)]
    pub log_format: Format,

    /// Least severe level that is logged
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_LOG_LEVEL", value_name = "LEVEL", ignore_case = true, default_value = "info", value_parser = log_level())]
    pub log_level: LevelFilter,

    /// Logs no lines for requests and sessions
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// Adds the leases of all backends at that moment to the lines of requests and sessions, as --demo-delay does
    #[arg(help_heading = WATCHING)]
    #[arg(long, env = "LB_LOG_LEASES", value_parser = BoolishValueParser::new())]
    pub log_leases: bool,

    /// A Unix socket through which `lb ctl` changes things at run time; only its owner may use it
    #[arg(help_heading = CONTROL)]
    #[arg(long, env = "LB_CONTROL", value_name = "PATH", value_parser = control_path)]
    pub control: Option<PathBuf>,

    /// The owner of the control socket, by names or numbers; the members of a group that is named may use it, too
    #[arg(help_heading = CONTROL)]
    #[arg(long, env = "LB_CONTROL_OWNER", value_name = "USER[:GROUP]")]
    pub control_owner: Option<SocketOwner>,

    /// Most clients at a time; further ones get an error and are closed
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_MAX_CLIENTS", value_name = "NUMBER", default_value_t = 4096, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub max_clients: usize,

    /// Most clients at a time of one address, of which an IPv6 network of 64 bits is one; further ones get an error and
    /// are closed; 0 means no limit
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_MAX_CLIENTS_PER_ADDRESS", value_name = "NUMBER", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=100_000))]
    pub max_clients_per_address: usize,

    /// Each client comes through a proxy that names its address first (PROXY protocol, version 1 or 2); connections
    /// without that are closed
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_PROXY_PROTOCOL", value_parser = BoolishValueParser::new())]
    pub proxy_protocol: bool,

    /// TLS towards clients.
    #[command(flatten)]
    pub tls: TlsFlags,

    /// How long a client may be idle, or not read its reply
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_CLIENT_TIMEOUT", value_name = "TIME", default_value = "330s", value_parser = timeout)]
    pub client_timeout: Duration,

    /// Silence of a client after which the kernel asks whether its machine is still there; 0s turns that
    /// off
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_CLIENT_KEEPALIVE", value_name = "TIME", default_value = "300s", value_parser = keepalive)]
    pub client_keepalive: Duration,

    /// How long a backend may be silent before a quick read is retried on another; a read that takes
    /// half of it counts as slow
    #[arg(help_heading = BACKENDS)]
    #[arg(long, env = "LB_BACKEND_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = timeout)]
    pub backend_timeout: Duration,

    /// How long a read waits for a silent backend if the read itself may keep it busy or no other is
    /// left, and how long a slow read waits for its turn
    #[arg(help_heading = BACKENDS)]
    #[arg(long, env = "LB_READ_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub read_timeout: Duration,

    /// Time between two checks of a backend while all is well
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_CHECK_INTERVAL", value_name = "TIME", default_value = "2s", value_parser = timeout)]
    pub check_interval: Duration,

    /// How long a backend may take to answer a check
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_CHECK_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = timeout)]
    pub check_timeout: Duration,

    /// Failed checks in a row until a backend is down
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_FALL", value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub fall: u32,

    /// Good checks in a row until a backend that was out of service is up again
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_RISE", value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rise: u32,

    /// A replica that has not heard from its primary for this long, or whose data are older, is read from
    /// only while no other server is up; 0s means no limit
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_MAX_LAG", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub max_lag: Duration,

    /// A replica that lacks more than this of its primary's writes is read from only while no other
    /// server is up; 0B means no limit
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_MAX_LAG_BYTES", value_name = "SIZE", default_value = "0B", value_parser = lag_size)]
    pub max_lag_bytes: u64,

    /// How long the keys of a server that is out of service count: until then, servers that come back
    /// are read from only if they have at least 90 % of them
    #[arg(help_heading = CHECKS)]
    #[arg(long, env = "LB_FORGET_AFTER", value_name = "TIME", default_value = "10m", value_parser = time)]
    pub forget_after: Duration,

    /// Time in which the share of a backend that returns grows to its full size; 0s means at once
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_SLOW_START", value_name = "TIME", default_value = "10s", value_parser = time)]
    pub slow_start: Duration,

    /// The zone where lb runs: backends of this zone are preferred while most of them are up
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_ZONE", value_name = "NAME", value_parser = super::backend::zone)]
    pub zone: Option<String>,

    /// Never moves a Redis client to another backend while its own serves, even if the load gets uneven
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_NO_REBALANCE", value_parser = BoolishValueParser::new())]
    pub no_rebalance: bool,

    /// Most connections to each backend at a time; a client that needs another waits for one
    #[arg(help_heading = BACKENDS)]
    #[arg(long, env = "LB_BACKEND_CONNECTIONS", value_name = "NUMBER", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(2..=100_000))]
    pub backend_connections: usize,

    /// Most memory that all clients together may make lb hold, such as 512MiB; over it, the client that holds most
    /// is closed [default: a quarter of what the machine, or its control group, has]
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_MAX_MEMORY", value_name = "SIZE", value_parser = memory_size)]
    pub max_memory: Option<usize>,

    /// Most that is read from a Redis client that takes no replies; over it, the client is closed
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_CLIENT_BACKLOG", value_name = "SIZE", default_value = "16MiB", value_parser = backlog_size)]
    pub client_backlog: usize,

    /// What becomes of a Redis client that has subscribed when its server fails, and messages may be lost: it goes on at
    /// another server, or is closed, for clients that take that as the sign to forget what they know
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_ON_GAP", value_name = "ACTION", value_enum, ignore_case = true, default_value_t = OnGap::Continue)]
    pub on_gap: OnGap,

    /// Longest argument of a Redis command, in MiB
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_MAX_ARGUMENT_MIB", value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub max_argument_mib: u32,

    /// Allows KEYS, which keeps a Redis server busy while it looks at every key
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_ALLOW_KEYS", value_parser = BoolishValueParser::new())]
    pub allow_keys: bool,

    /// Allows scripts and functions, which may only read (EVAL, EVALSHA, FCALL, SCRIPT LOAD); they can keep a Redis
    /// server busy, fill its memory and administer it
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_ALLOW_SCRIPTS", value_parser = BoolishValueParser::new())]
    pub allow_scripts: bool,

    /// Role that Redis clients are told by ROLE, HELLO and INFO, whatever the servers' roles are
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_ROLE", value_name = "ROLE", value_enum, ignore_case = true, default_value_t = Role::Master)]
    pub role: Role,

    /// Most memory for the near cache, such as 64MiB, which keeps replies that are asked for again and again; 0B turns
    /// it off
    #[arg(help_heading = CACHE)]
    #[arg(long = "cache", env = "LB_CACHE", value_name = "SIZE", default_value = "0B", value_parser = cache_size)]
    pub cache_bytes: u64,

    /// How long what was read of a backend counts while that says nothing: the most by which the near cache may be late
    #[arg(help_heading = CACHE)]
    #[arg(long, env = "LB_CACHE_MAX_SILENCE", value_name = "TIME", default_value = "1s", value_parser = cache_silence)]
    pub cache_max_silence: Duration,

    /// Keeps no key in the near cache that matches this pattern, as Redis' KEYS understands it; repeat it for each, or
    /// separate them by commas
    #[arg(help_heading = CACHE)]
    #[arg(long = "no-cache", env = "LB_NO_CACHE", value_name = "KEYPATTERN", value_delimiter = ',', value_parser = key_glob())]
    pub no_cache: Vec<KeyGlob>,

    /// How long after SIGINT or SIGTERM clients are still accepted while /-/ready answers 503, so that a
    /// load balancer in front can notice
    #[arg(help_heading = END)]
    #[arg(long, env = "LB_DRAIN_DELAY", value_name = "TIME", default_value = "0s", value_parser = time)]
    pub drain_delay: Duration,

    /// How long running requests may take to finish after --drain-delay
    #[arg(help_heading = END)]
    #[arg(long, env = "LB_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = time)]
    pub drain_timeout: Duration,

    /// Delays each HTTP read by this time while it counts as a client of its backend, so that you can
    /// watch the balancing
    #[arg(help_heading = BALANCING)]
    #[arg(long, env = "LB_DEMO_DELAY", value_name = "TIME", default_value = "0s", value_parser = time)]
    pub demo_delay: Duration,

    /// While listening on loopback, also serves requests whose Host is NAME; repeat it for each name, or
    /// separate them by commas
    #[arg(help_heading = CLIENTS)]
    #[arg(long = "allow-host", env = "LB_ALLOW_HOSTS", value_name = "NAME", value_delimiter = ',', value_parser = allowed_host)]
    pub(super) allow_hosts: Vec<String>,

    /// HTTP.
    #[command(flatten)]
    pub http: HttpFlags,
}

impl Flags {
    /// Parses the command line and the environment.
    pub(super) fn matches(arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
        let matches = environment::without_empty(Self::command()).try_get_matches_from(arguments);
        matches.map_err(|error| hints::explain(error, &Self::command(), arguments, Program::Lb))
    }

    /// Takes the flags from what was parsed. Flags after a command override flags before it, but backends
    /// are added together.
    pub(super) fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::from_arg_matches(matches)?;
        let control = match &mut args.command {
            Some(Command::Ctl(ctl)) => ctl.control.take(),
            Some(Command::Top(top)) => top.control.take(),
            _ => None,
        };
        args.control = control.or(args.control.take());
        let Some(Command::Check(check)) = &mut args.command else { return Ok(args) };
        let are_typed = matches.value_source("backends") == Some(ValueSource::CommandLine);
        if !are_typed && !check.backends.is_empty() {
            args.backends.clear();
        }
        args.backends.append(&mut check.backends);
        args.backend_tls = std::mem::take(&mut check.backend_tls).or(args.backend_tls);
        let server_name = check.backend_tls_server_name.take();
        args.backend_tls_server_name = server_name.or(args.backend_tls_server_name);
        args.check_timeout = check.check_timeout.unwrap_or(args.check_timeout);
        args.max_lag = check.max_lag.unwrap_or(args.max_lag);
        args.max_lag_bytes = check.max_lag_bytes.unwrap_or(args.max_lag_bytes);
        Ok(args)
    }
}
