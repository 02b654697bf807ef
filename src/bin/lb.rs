//! `lb`: serves reads, balanced over several Redis servers. Its commands examine, control
//! and watch. See `lb --help`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use log::{info, warn};
use redis_lb::balance::{Balancer, start_rebalancing};
use redis_lb::config::{Config, Task};
use redis_lb::control::{ControlSocket, ctl};
use redis_lb::discovery;
use redis_lb::observe::sampler;
use redis_lb::server::{self, Listeners, PassedOn};
use redis_lb::{doctor, logging, manual, top};
use sd_notify::NotifyState;

/// jemalloc gives memory back to the system within seconds, which glibc's allocator does not. Its settings, for very many
/// threads that are mostly idle, are in `.cargo/config.toml`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Has threads of the allocator give freed pages back, even those of threads that are idle. Large blocks are given back
/// as soon as they are freed: a buffer that grows would else leave all its smaller copies in memory for a moment. The
/// allocator decides so when it meets the first large block, and only while it has no such threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn purge_in_background() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BLOCK_BYTES)));
    // Without them, memory is given back later.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
}

/// A block that counts as large, by `oversize_threshold` in `.cargo/config.toml`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK_BYTES: usize = 1024 * 1024;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    purge_in_background();
    let config = Config::from_command_line();
    let done = match config.task {
        Task::Check => check(config),
        Task::Show => print(&config.shown()).map(|()| ExitCode::SUCCESS),
        Task::Control => Ok(control(&config)),
        Task::Watch => Ok(watch(&config)),
        Task::Complete(shell, program) => {
            print(&manual::completions(shell, program)).map(|()| ExitCode::SUCCESS)
        }
        Task::Man => write_manual(&config).map(|()| ExitCode::SUCCESS),
        Task::Serve => serve(config).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        logging::write_error(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Runs `lb check`; the exit code says whether all is well with the backends.
fn check(config: Config) -> anyhow::Result<ExitCode> {
    let findings = doctor::check(config);
    print(&findings.text())?;
    Ok(if findings.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `lb ctl`.
fn control(config: &Config) -> ExitCode {
    match ctl::run(config).map(|text| print(&text)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// Runs `lb top`.
fn watch(config: &Config) -> ExitCode {
    match top::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn fail(error: &dyn std::error::Error, exit_code: u8) -> ExitCode {
    logging::write_error(&format!("error: {error}"));
    ExitCode::from(exit_code)
}

/// Runs `lb man`.
fn write_manual(config: &Config) -> anyhow::Result<()> {
    let folder = config.man_folder.as_deref().context("no folder is named")?;
    let pages = manual::write_pages(folder)?;
    print(&pages.iter().map(|page| format!("{}\n", page.display())).collect::<String>())
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("the result can't be printed")
}

fn serve(mut config: Config) -> anyhow::Result<()> {
    // Both come before the first thread: one changes the environment, the other is inherited by threads.
    let passed_on =
        PassedOn::take().context("LISTEN_FDS: the socket that was passed on can't be served")?;
    server::schedule_in_batches();
    let _logging = logging::start(config.log_format, config.chosen_log_level())
        .context("the log can't be started")?;
    config.read_certificates(None).map_err(anyhow::Error::msg)?;
    config.warnings().iter().for_each(|warning| warn!("{warning}"));
    config.overridden_keys().iter().for_each(|key| info!("{key}"));
    let shares = server::raise_limits(&mut config).context("lb can't serve")?;
    let listeners = Listeners::open(&mut config, passed_on)?;
    if listeners.was_passed_on {
        config.check_addresses().map_err(anyhow::Error::msg)?;
    }
    let control = ControlSocket::open(&config)?;
    let balancer = Balancer::new(config);
    server::start_signals(&balancer).context("signals can't be handled")?;
    discovery::start(&balancer, || discovery::listed(&balancer));
    start_rebalancing(&balancer);
    server::introduce(&balancer, listeners.was_passed_on);
    sampler::start(&balancer);
    if let Some(control) = &control {
        let reloaded = Arc::clone(&balancer);
        let reload = Box::new(move || server::reload(&reloaded));
        control
            .serve(&balancer, listeners.clients(), reload)
            .context("the control socket can't be served")?;
    }
    server::notify(&[NotifyState::Ready]);
    server::serve(listeners, shares, &balancer)?;
    info!("ended");
    Ok(())
}
