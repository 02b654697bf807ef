//! `lb check`: whether the backends can be read from, and hold the same data. It only reads, and
//! serves nothing.

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
use crate::health::Member;
pub use findings::Findings;
use status::{ServerStatus, StatusResult};

/// How long after its deadline a server's status is still taken.
const GRACE: Duration = Duration::from_millis(50);

/// Asks all backends for their status at the same time, then compares those that can be read from.
/// Each step may take the check timeout.
pub fn check(config: Config) -> Findings {
    // A connection attempt may take that long, too.
    let config = Config { backend_timeout: config.check_timeout, ..config };
    let balancer = Balancer::new(config);
    let config = &balancer.config;
    balancer.add_all(&config.backends);
    let backends: Vec<Arc<Member>> = balancer.backends().iter().cloned().collect();
    let mut statuses = ask_all(config, &backends);
    let mut findings = Findings::default();
    findings.examine_each(config, &backends, &statuses);
    findings.examine_databases(config, &backends, &statuses);
    let duplicates = findings.examine_duplicates(&backends, &statuses);
    let mut differ = findings.compare(config, &backends, &mut statuses, &duplicates);
    for (first, again) in duplicates {
        differ[again] = differ[first];
    }
    for ((backend, status), differs) in backends.iter().zip(&statuses).zip(differ) {
        findings.add_row(backend.name(), status, differs);
    }
    findings
}

fn ask_all(config: &Config, backends: &[Arc<Member>]) -> Vec<StatusResult> {
    let deadline = Instant::now() + config.check_timeout;
    let max_lag = config.max_lag;
    let (sender, receiver) = channel();
    for (index, backend) in backends.iter().enumerate() {
        let (backend, sender) = (Arc::clone(&backend.backend), sender.clone());
        // No scoped threads: a resolver may take longer than we want to wait. If no thread can be
        // started, the backend counts as silent.
        let _ = thread::Builder::new().name("check".to_owned()).spawn(move || {
            let _ = sender.send((index, ServerStatus::ask(&backend, deadline, max_lag)));
        });
    }
    drop(sender);
    let mut statuses: Vec<StatusResult> =
        backends.iter().map(|_| Err(BackendError::TimedOut)).collect();
    let time_left = || (deadline + GRACE).saturating_duration_since(Instant::now());
    while let Ok((index, status)) = receiver.recv_timeout(time_left()) {
        statuses[index] = status;
    }
    statuses
}
