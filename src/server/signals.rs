//! The signals that end the process or have it read its configuration again, and what systemd is told of it.

use std::fs;
use std::io::{self, IsTerminal};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use log::{debug, info, warn};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::reload;
use crate::balance::{Balancer, Phase};

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangup {
    /// The configuration file is read again.
    Reload,
    /// The terminal was closed: the process ends.
    End,
    /// Nothing; the log says so.
    Ignore,
    /// Nothing: it stays ignored, as `nohup` has set it.
    Leave,
}

impl Hangup {
    fn of(has_file: bool, was_ignored: bool, has_terminal: bool) -> Self {
        match (has_file, was_ignored, has_terminal) {
            (true, ..) => Self::Reload,
            (false, true, _) => Self::Leave,
            (false, false, true) => Self::End,
            (false, false, false) => Self::Ignore,
        }
    }
}

/// Ends the process on SIGINT and SIGTERM: the first lets running requests finish, the second ends it at once. SIGHUP
/// has it read its configuration again.
///
/// # Errors
/// When signals can't be handled.
pub fn start_signals(balancer: &Arc<Balancer>) -> io::Result<()> {
    let has_terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
    let has_file = balancer.config().has_files();
    let hangup = Hangup::of(has_file, is_hangup_ignored(), has_terminal);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if hangup != Hangup::Leave {
        signals.add_signal(SIGHUP)?;
    }
    let (reload, reloads) = sync_channel(1);
    let reloaded = Arc::clone(balancer);
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        reload_each(&reloaded, &reloads);
    })?;
    let balancer = Arc::clone(balancer);
    let handle = move || {
        for signal in signals.forever() {
            match (signal, hangup) {
                // A reload that waits reads the newest file, so a second is not needed.
                (SIGHUP, Hangup::Reload) => _ = reload.try_send(()),
                (SIGHUP, Hangup::Ignore) => {
                    info!("SIGHUP is ignored: there is no --config FILE to read again");
                }
                (SIGHUP, Hangup::End) => {
                    info!("SIGHUP: the terminal was closed, so lb ends; nohup keeps it");
                    end(&balancer);
                }
                _ => end(&balancer),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(handle).map(|_| ())
}

fn end(balancer: &Balancer) {
    if balancer.has_reached(Phase::Leaving) {
        process::exit(1);
    }
    notify(&[NotifyState::Stopping]);
    balancer.enter(Phase::Leaving);
}

fn reload_each(balancer: &Arc<Balancer>, reloads: &Receiver<()>) {
    for () in reloads {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => debug!("systemd is not told of the reload: {error}"),
        }
        // It is in the log.
        let _ = reload(balancer);
        if !balancer.has_reached(Phase::Leaving) {
            notify(&[NotifyState::Ready]);
        }
    }
}

/// Tells systemd, if that has started us and waits for it (`Type=notify`).
pub fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("systemd can't be told: {error}");
    }
}

/// Whether the process that started us had SIGHUP ignored. Linux alone says so; elsewhere it was not.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_reads_the_file_again_or_ends_what_has_a_terminal() {
        for (has_file, was_ignored, has_terminal, expected) in [
            (true, false, true, Hangup::Reload),
            (true, true, false, Hangup::Reload),
            (false, false, true, Hangup::End),
            (false, false, false, Hangup::Ignore),
            (false, true, true, Hangup::Leave),
        ] {
            let found = Hangup::of(has_file, was_ignored, has_terminal);
            assert_eq!(found, expected, "{has_file} {was_ignored} {has_terminal}");
        }
    }
}
