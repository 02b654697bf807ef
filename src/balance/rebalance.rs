//! The thread that moves sessions between backends, and forgets backends that are drained.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::Balancer;
use crate::logging::access_log::Event;

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_millis(100);

/// Starts the thread.
pub fn start_rebalancing(balancer: &Arc<Balancer>) {
    let balancer = Arc::clone(balancer);
    let work = move || {
        loop {
            thread::sleep(INTERVAL);
            balancer.forget_drained();
            let moved = match balancer.config().no_rebalance {
                false => balancer.table.rebalance(Instant::now()),
                true => 0,
            };
            if moved > 0 {
                balancer.access_log.write(|| Event::Moved { sessions: moved });
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("rebalance".to_owned()).spawn(work) {
        warn!("no thread to rebalance the sessions with: {error}");
    }
}
