//! The thread that moves sessions to other backends, and forgets backends that nobody uses any more.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::Balancer;
use crate::logging::access_log::Event;

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_millis(100);

/// Starts to move sessions away from backends that can't serve, and to those that have few.
pub fn start(balancer: &Arc<Balancer>) {
    let balancer = Arc::clone(balancer);
    let work = move || {
        loop {
            thread::sleep(INTERVAL);
            balancer.forget_drained();
            if !balancer.config.no_rebalance {
                rebalance(&balancer);
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("rebalance".to_owned()).spawn(work) {
        warn!("no thread to rebalance the sessions with: {error}");
    }
}

fn rebalance(balancer: &Balancer) {
    let moved = balancer.table.rebalance(Instant::now());
    if moved > 0 {
        balancer.access_log.write(|| Event::Moved { sessions: moved });
    }
}
