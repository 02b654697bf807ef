//! `lb`: serves reads, balanced over several Redis servers; `lb check` only looks at these. See
//! `lb --help`.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use log::{info, warn};
use redis_lb::balance::{Balancer, Phase, start_rebalancing};
use redis_lb::config::Config;
use redis_lb::discovery::{self, StaticList};
use redis_lb::observe::sampler;
use redis_lb::server::{listener, start};
use redis_lb::{doctor, logging};

fn main() -> ExitCode {
    let config = Config::from_command_line();
    let done = match config.checks_only {
        true => check(config),
        false => serve(config).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Fails where something is wrong with the backends.
fn check(config: Config) -> anyhow::Result<ExitCode> {
    let findings = doctor::check(config);
    std::io::stdout()
        .write_all(findings.text().as_bytes())
        .context("what was found can't be printed")?;
    Ok(if findings.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(mut config: Config) -> anyhow::Result<()> {
    let ignored = start::ignored_sockets();
    let inherited = listener::inherited()
        .context("LISTEN_FDS: the socket that was passed on can't be served")?;
    let was_passed_on = inherited.is_some();
    start::schedule_in_batches();
    let _logging = logging::start(config.log_format).context("the log can't be started")?;
    if let Some(why) = ignored {
        warn!("{why}");
    }
    let shares = start::raise_limits(&mut config).context("lb can't serve")?;
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
    discovery::start(&balancer, &StaticList(&balancer.config.backends));
    start_rebalancing(&balancer);
    start::introduce(&balancer, was_passed_on);
    start::warn_of_addresses(&balancer.config);
    start::warn_of_backends(&balancer);
    start::warn_of_scripts(&balancer);
    sampler::start(&balancer);
    let queue = shares.turned_away;
    listener::serve(listener, admin, shares.admin_clients, queue, &balancer)?;
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
