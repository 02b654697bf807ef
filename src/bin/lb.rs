//! `lb`: serves reads, balanced over several Redis servers. See `lb --help`.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use log::{info, warn};
use redis_lb::balancer::Balancer;
use redis_lb::config::Config;
use redis_lb::listener::{self, Stop};
use redis_lb::{checker, logging};

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

fn run(config: Config) -> anyhow::Result<()> {
    let _logging = logging::start().context("the log can't be started")?;
    raise_descriptor_limit(&config);
    let wanted = config.listen;
    let listener = listener::bind(wanted)
        .map(Arc::new)
        .with_context(|| format!("can't listen on {wanted}; choose another with --listen"))?;
    let address = listener.local_addr()?;
    let balancer = Balancer::new(config);
    end_on_signals(Stop::new(&balancer, &listener))?;
    checker::start(&balancer);
    introduce(address, &balancer);
    listener::serve(listener, &balancer)?;
    info!("ended");
    Ok(())
}

/// The first signal lets running requests finish, the second ends the process at once.
fn end_on_signals(stop: Stop) -> anyhow::Result<()> {
    let signalled = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if signalled.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        stop.request();
    })
    .context("signals can't be handled")
}

fn introduce(address: SocketAddr, balancer: &Balancer) {
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
