//! The threads that serve clients.
//!
//! A thread whose client has left waits a moment for the next: to begin and to end a thread costs more
//! than a short connection.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock, wait};

/// A client's stack. Only pages that are touched take memory.
const STACK_BYTES: usize = 256 * 1024;

/// Number of threads that wait for a client, at most.
const MAX_IDLE: usize = 64;

/// How long a thread waits for a client.
const IDLE_TIME: Duration = Duration::from_millis(50);

/// Work for a thread.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Threads, begun as they are needed.
#[derive(Default)]
pub(super) struct Workers {
    /// The threads that wait. The last to come is the first to go: its memory is still in the caches,
    /// and threads that are not needed get to end.
    idle: Mutex<Vec<Arc<IdleWorker>>>,
}

/// A thread that waits for its next job.
#[derive(Default)]
struct IdleWorker {
    job: Mutex<Option<Job>>,
    given: Condvar,
}

impl Workers {
    /// Runs `job` on a thread that waits, or on a new one.
    ///
    /// # Errors
    /// When there can be no thread for it; the job is dropped then.
    pub fn run(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let idle = lock(&self.idle).pop();
        if let Some(worker) = idle {
            *lock(&worker.job) = Some(job);
            worker.given.notify_one();
            return Ok(());
        }
        let workers = Arc::clone(self);
        let thread = thread::Builder::new().name("client".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || workers.work(job)).map(|_thread| ())
    }

    fn work(&self, first: Job) {
        first();
        let worker = Arc::default();
        while let Some(job) = self.next(&worker) {
            job();
        }
    }

    /// Waits for the next job; `None` when there is none for a while, or enough threads wait.
    fn next(&self, worker: &Arc<IdleWorker>) -> Option<Job> {
        {
            let mut idle = lock(&self.idle);
            if idle.len() >= MAX_IDLE {
                return None;
            }
            idle.push(Arc::clone(worker));
        }
        let deadline = Instant::now() + IDLE_TIME;
        let mut job = lock(&worker.job);
        loop {
            if let Some(job) = job.take() {
                return Some(job);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && self.leave(worker) {
                return None;
            }
            // A thread that has taken us from the list is about to give us a job.
            job = wait(&worker.given, job, left.max(Duration::from_millis(1)));
        }
    }

    /// Leaves the list; false when another thread has taken us from it already.
    fn leave(&self, worker: &Arc<IdleWorker>) -> bool {
        let mut idle = lock(&self.idle);
        let place = idle.iter().position(|other| Arc::ptr_eq(other, worker));
        place.map(|place| idle.remove(place)).is_some()
    }
}

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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_is_used_again_and_ends_when_nothing_comes() {
        let workers: Arc<Workers> = Arc::default();
        let (done, dones) = channel();
        let run = || {
            let done = done.clone();
            let job = move || done.send(thread::current().id()).expect("we are there");
            workers.run(Box::new(job)).expect("a thread");
            dones.recv_timeout(Duration::from_secs(10)).expect("it is done")
        };
        let is_waiting = || lock(&workers.idle).len() == 1;
        let until = |condition: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !condition() {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
        };
        // A machine that is slow may let it end in between.
        let was_used_again = (0..100).any(|_| {
            let first = run();
            until(&|| is_waiting() || Arc::strong_count(&workers) == 1);
            first == run()
        });
        assert!(was_used_again);
        until(&|| Arc::strong_count(&workers) == 1);
        assert!(lock(&workers.idle).is_empty());
    }
}
