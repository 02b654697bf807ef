//! Starts and stops the real parts: Redis servers, each on a free port with a folder of its own.

pub mod balancer;
pub mod client;
pub mod commands;
pub mod data;
pub mod forms;
pub mod observe;
pub mod redis;
pub mod relay;
pub mod resp;
pub mod terminal;
pub mod verify;
pub mod yardstick;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Waits until `condition` holds; panics with `what` when it does not within ten seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 10 s in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
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
