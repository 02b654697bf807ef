//! `lb`: serves reads, balanced over several Redis servers. See `lb --help`.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use log::{info, warn};
use redis_lb::balancer::{Balancer, Phase};
use redis_lb::config::Config;
use redis_lb::{checker, history, listener, logging};

/// Descriptors beside those of clients and their backends: the listener, standard streams, the log.
const OTHER_DESCRIPTORS: u64 = 64;

fn main() -> ExitCode {
    let config = Config::from_command_line();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut config: Config) -> anyhow::Result<()> {
    let inherited = listener::inherited()
        .context("LISTEN_FDS: the socket that was passed on can't be served")?;
    let _logging = logging::start(config.log_format).context("the log can't be started")?;
    raise_descriptor_limit(&config);
    let listener = match inherited {
        Some(listener) => {
            info!("serves the socket that was passed on, {}; not --listen", address(&listener)?);
            listener
        }
        None => listener::bind(config.listen).with_context(|| {
            format!("can't listen on {}; choose another with --listen", config.listen)
        })?,
    };
    config.listen = address(&listener)?;
    let admin = config.admin_listen.map(bind_admin).transpose()?;
    config.admin_listen = admin.as_ref().map(address).transpose()?;
    let balancer = Balancer::new(config);
    end_on_signals(Arc::clone(&balancer))?;
    checker::start(&balancer);
    introduce(&balancer);
    history::start(&balancer);
    listener::serve(listener, admin, &balancer)?;
    info!("ended");
    Ok(())
}

fn bind_admin(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listener::bind(address)
        .with_context(|| format!("can't listen on {address}; choose another with --admin-listen"))
}

/// Where clients connect; an IPv4 address in its plain form, as it tells whether that is loopback.
fn address(listener: &TcpListener) -> std::io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The first signal lets running requests finish, the second ends the process at once.
fn end_on_signals(balancer: Arc<Balancer>) -> anyhow::Result<()> {
    let signalled = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if signalled.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        balancer.enter(Phase::Leaving);
    })
    .context("signals can't be handled")
}

fn introduce(balancer: &Balancer) {
    let address = balancer.config.listen;
    let names: Vec<&str> = balancer.backends.iter().map(|backend| backend.name()).collect();
    // Nobody may be reading: that is no reason not to serve.
    let _ = writeln!(
        std::io::stdout(),
        "redis-lb {} listens on http://{address}/\n  reads from {}\n  \
         try curl http://{address}/actor:1 or redis-cli -p {} hgetall actor:1",
        env!("CARGO_PKG_VERSION"),
        names.join(", "),
        address.port(),
    );
    if !address.ip().is_loopback() {
        warn!("{address} can be reached from other machines, and there are no passwords yet");
    }
}

/// Each client takes a descriptor, and each connection to a backend.
fn raise_descriptor_limit(config: &Config) {
    let max_clients = config.max_clients;
    let connections = config.backends.len() * config.backend_connections;
    let wanted = (max_clients + connections) as u64 + OTHER_DESCRIPTORS;
    let limit = rlimit::increase_nofile_limit(wanted).unwrap_or(wanted);
    if limit < wanted {
        warn!(
            "the limit of {limit} open files is too low for --max-clients {max_clients}: raise it to {wanted} (ulimit -n)"
        );
    }
}
