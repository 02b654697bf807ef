//! How the system schedules our threads: in batches, but for a wake-up now and then.
//!
//! A thread that is scheduled as `SCHED_BATCH` of sched(7) does not interrupt the running one when it wakes. On busy
//! cores more has come for each thread by the time that it runs, so the cost of a wake-up is shared by more requests.
//! On idle cores nothing changes. But where a thread runs on without a pause, those that have woken wait for the
//! system's tick, which comes after 4 ms on most systems. So the threads that read shared connections let one of their
//! wake-ups in every millisecond interrupt: then all that wait for that core get their turn.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two wake-ups of one thread that may interrupt others. Of 0.5, 1 and 2 ms, this gave the shortest p99
/// at a throughput that is no less.
const INTERVAL: Duration = Duration::from_millis(1);

/// What `thread_priority` calls the niceness 0 of a process, from 0 to 99.
#[cfg(target_os = "linux")]
const NICENESS_0: u8 = 48;

/// Whether new threads are scheduled in batches.
#[cfg(target_os = "linux")]
static IS_IN_BATCHES: AtomicBool = AtomicBool::new(false);

/// Has this thread, and those that it will start, interrupt no others when they wake.
#[cfg(target_os = "linux")]
pub fn schedule_in_batches() {
    use thread_priority::NormalThreadSchedulePolicy::Batch;
    // The library sets the niceness as well: a process that was started with one keeps it.
    if rustix::process::getpriority_process(None) != Ok(0) {
        return;
    }
    let is_set = set_policy(Batch);
    IS_IN_BATCHES.store(is_set, Ordering::Relaxed);
    if !is_set {
        log::debug!("the system schedules our threads as any others");
    }
}

/// Does nothing: other systems have no such policy.
#[cfg(not(target_os = "linux"))]
pub fn schedule_in_batches() {}

/// Sets the policy of this thread; returns whether the system has done so.
#[cfg(target_os = "linux")]
fn set_policy(policy: thread_priority::NormalThreadSchedulePolicy) -> bool {
    use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
    use thread_priority::{ThreadPriority, ThreadSchedulePolicy};
    ThreadPriority::try_from(NICENESS_0).is_ok_and(|niceness| {
        let policy = ThreadSchedulePolicy::Normal(policy);
        set_thread_priority_and_policy(thread_native_id(), niceness, policy).is_ok()
    })
}

/// Decides which wake-ups of one thread may interrupt others.
pub(crate) struct WakeUps {
    /// Whether the next one may.
    may_interrupt: bool,
    /// When that was decided last.
    since: Instant,
}

impl WakeUps {
    /// Returns those of a thread that was started like most.
    pub(crate) fn new() -> Self {
        Self { may_interrupt: false, since: Instant::now() }
    }

    /// Prepares this thread for a wait that begins.
    pub(crate) fn prepare(&mut self) {
        let now = Instant::now();
        if self.decide(now) {
            self.apply();
        }
    }

    /// Returns whether the next wake-up is another than the last.
    fn decide(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.since) >= INTERVAL;
        if is_due || self.may_interrupt {
            self.since = now;
        }
        is_due != std::mem::replace(&mut self.may_interrupt, is_due)
    }

    #[cfg(target_os = "linux")]
    fn apply(&self) {
        use thread_priority::NormalThreadSchedulePolicy::{Batch, Other};
        if IS_IN_BATCHES.load(Ordering::Relaxed) {
            // It has no other effect than on speed.
            let _ = set_policy(if self.may_interrupt { Other } else { Batch });
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn apply(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_up_in_a_millisecond_may_interrupt() {
        let mut wake_ups = WakeUps::new();
        let start = wake_ups.since;
        let at = |micros| start + Duration::from_micros(micros);
        let decided: Vec<bool> = [10, 900, 1000, 1010, 1900, 2010, 2020]
            .map(|micros| {
                wake_ups.decide(at(micros));
                wake_ups.may_interrupt
            })
            .into();
        assert_eq!(decided, [false, false, true, false, false, true, false]);
    }
}
