//! `lb check`: whether the backends can be read from, and hold the same data. It only reads, and
//! serves nothing.

mod comparison;
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
pub use findings::Findings;
use status::ServerStatus;

/// How long after its deadline a server's status is still taken.
const GRACE: Duration = Duration::from_millis(50);

/// The status of a backend, or why there is none.
type StatusResult = Result<ServerStatus, BackendError>;

/// Asks all backends for their status at the same time, then compares those that can be read from.
/// Each step may take the check timeout.
pub fn check(config: Config) -> Findings {
    // A connection attempt may take that long, too.
    let config = Config { backend_timeout: config.check_timeout, ..config };
    let balancer = Balancer::new(config);
    let mut statuses = ask_all(&balancer);
    let mut findings = Findings::default();
    findings.examine_each(&balancer, &statuses);
    findings.examine_databases(&balancer, &statuses);
    let duplicates = findings.examine_duplicates(&balancer, &statuses);
    let mut differ = findings.compare(&balancer, &mut statuses, &duplicates);
    for (first, again) in duplicates {
        differ[again] = differ[first];
    }
    for ((backend, status), differs) in balancer.backends.iter().zip(&statuses).zip(differ) {
        findings.add_row(backend.name(), status, differs);
    }
    findings
}

fn ask_all(balancer: &Arc<Balancer>) -> Vec<StatusResult> {
    let deadline = Instant::now() + balancer.config.check_timeout;
    let (sender, receiver) = channel();
    for index in 0..balancer.backends.len() {
        let (balancer, sender) = (Arc::clone(balancer), sender.clone());
        // No scoped threads: a resolver may take longer than we want to wait. If no thread can be
        // started, the backend counts as silent.
        let _ = thread::Builder::new().name("check".to_owned()).spawn(move || {
            let backend = &balancer.backends[index];
            let status = ServerStatus::ask(backend, deadline, balancer.config.max_lag);
            let _ = sender.send((index, status));
        });
    }
    drop(sender);
    let mut statuses: Vec<StatusResult> =
        balancer.backends.iter().map(|_| Err(BackendError::TimedOut)).collect();
    let time_left = || (deadline + GRACE).saturating_duration_since(Instant::now());
    while let Ok((index, status)) = receiver.recv_timeout(time_left()) {
        statuses[index] = status;
    }
    statuses
}
