//! Starts and stops the real parts: Redis servers, each on a free port with a folder of its own.

pub mod balancer;
pub mod certificates;
pub mod client;
pub mod commands;
pub mod data;
#[cfg(target_os = "linux")]
pub mod dnsmasq;
pub mod forms;
pub mod front;
pub mod local;
pub mod near_cache;
pub mod observe;
#[cfg(target_os = "linux")]
pub mod prometheus;
pub mod redis;
pub mod relay;
pub mod resp;
pub mod sentinel;
pub mod terminal;
pub mod tls;
pub mod tls_everywhere;
pub mod verify;
pub mod yardstick;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two looks of `wait_until`.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; panics with `what` when it does not within ten seconds of a quiet
/// computer. On a busy one, where the sleep between two looks and the look itself take longer than they
/// should, that is up to a minute.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_up_to(Duration::from_secs(10), what, condition);
}

/// Waits like [`wait_until`], for `limit` of a quiet computer's time.
fn wait_up_to(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    let mut waited = Duration::ZERO;
    loop {
        let look_began = Instant::now();
        if condition() {
            return;
        }
        waited += look_began.elapsed().min(LOOK_INTERVAL * 4) + LOOK_INTERVAL;
        let is_over = waited >= limit || began.elapsed() >= limit * 6;
        assert!(!is_over, "waited {:.1?} in vain: {what}", began.elapsed());
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// What a random test begins with: another each time, or the one to be repeated.
pub fn seed() -> u64 {
    match std::env::var("LB_TEST_SEED") {
        Ok(text) => text.parse().expect("LB_TEST_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs(),
    }
}

/// Ends what a thread does until it is set, whether the test goes well or panics.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
