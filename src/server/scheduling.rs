//! How the kernel schedules our threads.

/// What `thread_priority` calls the niceness 0 of a process, from 0 to 99.
#[cfg(target_os = "linux")]
const NICENESS_0: u8 = 48;

/// Asks the scheduler not to interrupt others at once when one of our threads has something to do.
///
/// This is `SCHED_BATCH` of sched(7), which threads inherit. On busy cores more has come for each thread
/// by the time that it runs, so the cost of a wake-up is shared by more requests. On idle cores nothing
/// changes.
#[cfg(target_os = "linux")]
pub fn schedule_in_batches() {
    use thread_priority::ThreadPriority;
    use thread_priority::unix::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    // The library sets the niceness as well: a process that was started with one keeps it.
    if rustix::process::getpriority_process(None) != Ok(0) {
        return;
    }
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let is_set = ThreadPriority::try_from(NICENESS_0).is_ok_and(|niceness| {
        set_thread_priority_and_policy(thread_native_id(), niceness, batch).is_ok()
    });
    if !is_set {
        log::debug!("the system schedules our threads as any others");
    }
}

/// Does nothing: other systems have no such policy.
#[cfg(not(target_os = "linux"))]
pub fn schedule_in_batches() {}
