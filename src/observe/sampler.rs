//! Takes the samples of the history, and compares the backends' latencies, in a thread of its own.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use super::certificates;
use crate::balance::Balancer;
use crate::balance::history::INTERVAL;
use crate::balance::latency::Latencies;

/// Time between two looks at the certificates that end soon.
const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Starts to take a sample each second.
pub fn start(balancer: &Arc<Balancer>) {
    let balancer = Arc::clone(balancer);
    let sample = move || {
        let mut next = Instant::now();
        let mut latencies = Latencies::default();
        // The start has its own look.
        let mut looked_at = Instant::now();
        loop {
            balancer.history.add(balancer.reading(&balancer.backends()));
            latencies.judge(&balancer, Instant::now());
            if looked_at.elapsed() >= CERTIFICATES_INTERVAL {
                looked_at = Instant::now();
                certificates::warn_of_expiry(&balancer, SystemTime::now());
            }
            next = (next + INTERVAL).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    };
    if let Err(error) = thread::Builder::new().name("history".to_owned()).spawn(sample) {
        warn!(
            "the status page has no history, and no backend counts as slow, because the thread \
             can't be started: {error}"
        );
    }
}
