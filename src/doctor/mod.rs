//! `lb check`: whether the backends can be read from and hold the same data. It only reads, and serves nothing.

mod comparison;
mod content;
mod examination;
mod findings;
mod sample;
mod status;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::BackendError;
use crate::balance::Balancer;
use crate::config::Config;
use crate::discovery;
use crate::health::Member;
pub use findings::Findings;
use status::{ServerStatus, StatusResult};

/// Time after its deadline in which a server's status is still taken.
const GRACE: Duration = Duration::from_millis(50);

/// A backend and what it has answered.
struct Asked {
    backend: Arc<Member>,
    status: StatusResult,
}

/// Asks all backends for their status at the same time, then compares those that can be read from.
/// Each step may take the check timeout.
pub fn check(mut config: Config) -> Findings {
    // A connection attempt may take as long.
    config.backend_timeout = config.check_timeout;
    let balancer = Balancer::new(config);
    let config = &balancer.config();
    let _asked = discovery::follow(&balancer);
    balancer.add_all(&discovery::listed(&balancer));
    let mut servers = ask_all(config, &balancer.backends());
    find_lag(&balancer, &mut servers);
    let mut findings = Findings::default();
    findings.examine_sources(&balancer);
    findings.examine_each(config, &servers);
    findings.examine_databases(config, &servers);
    let duplicates = findings.examine_duplicates(&servers);
    let mut differ = findings.compare(config, &mut servers, &duplicates);
    for (first, again) in duplicates {
        differ[again] = differ[first];
    }
    for (server, differs) in servers.iter().zip(differ) {
        findings.add_row(server, differs);
    }
    findings
}

/// Finds what each server lacks of its primary's writes.
fn find_lag(balancer: &Balancer, servers: &mut [Asked]) {
    let replication = &balancer.replication;
    for Asked { backend, status } in &*servers {
        if let Ok(server) = status {
            let (began, answered) = server.checked;
            replication.note(backend.id, &server.report, began, answered);
        }
    }
    let bounds = balancer.config().lag_bounds();
    for Asked { backend, status } in servers {
        if let Ok(server) = status {
            server.lag = replication.lag(backend.id, server.checked.1);
            let stale = server.report.stale.take();
            server.report.stale = stale.or_else(|| server.lag.excess(bounds, false));
        }
    }
}

fn ask_all(config: &Config, backends: &[Arc<Member>]) -> Vec<Asked> {
    let deadline = Instant::now() + config.check_timeout;
    let max_lag = config.lag_bounds().time;
    let (sender, receiver) = channel();
    for (index, backend) in backends.iter().enumerate() {
        let (backend, sender) = (Arc::clone(&backend.backend), sender.clone());
        // The threads are not scoped: a resolver may take longer than the timeout. If no thread can be
        // started, the backend counts as silent.
        _ = thread::Builder::new().name("check".to_owned()).spawn(move || {
            _ = sender.send((index, ServerStatus::ask(&backend, deadline, max_lag)));
        });
    }
    drop(sender);
    let silent = |backend: &Arc<Member>| Asked {
        backend: Arc::clone(backend),
        status: Err(BackendError::TimedOut),
    };
    let mut servers: Vec<_> = backends.iter().map(silent).collect();
    let time_left = || (deadline + GRACE).saturating_duration_since(Instant::now());
    while let Ok((index, status)) = receiver.recv_timeout(time_left()) {
        servers[index].status = status;
    }
    servers
}
