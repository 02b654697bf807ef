//! The threads that serve clients. One that is done waits a moment for the next client: a thread's
//! beginning and end cost more than a short connection.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock, wait};

/// A client's stack. Only pages that are touched take memory.
const STACK_BYTES: usize = 256 * 1024;

/// Threads that wait for a client, at most.
const MAX_IDLE: usize = 64;

/// How long one waits.
const IDLE_TIME: Duration = Duration::from_millis(50);

/// What a thread is to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// The threads that wait for something to do.
#[derive(Default)]
pub struct Workers {
    /// Who came last is the first to go: its memory is still in the caches, and those who are not
    /// needed get to end.
    idle: Mutex<Vec<Arc<IdleWorkers>>>,
}

/// Where one thread waits.
#[derive(Default)]
struct IdleWorkers {
    job: Mutex<Option<Job>>,
    given: Condvar,
}

impl Workers {
    /// Does it on a thread that waits, or on a new one.
    ///
    /// # Errors
    /// When there is no thread for it; it is dropped then.
    pub fn run(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let idle = lock(&self.idle).pop();
        if let Some(desk) = idle {
            *lock(&desk.job) = Some(job);
            desk.given.notify_one();
            return Ok(());
        }
        let workers = Arc::clone(self);
        let thread = thread::Builder::new().name("client".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || workers.work(job)).map(|_thread| ())
    }

    fn work(&self, first: Job) {
        first();
        let desk = Arc::default();
        while let Some(job) = self.next(&desk) {
            job();
        }
    }

    /// Waits for the next job; `None` when there is none for a while, or enough others wait.
    fn next(&self, desk: &Arc<IdleWorkers>) -> Option<Job> {
        {
            let mut idle = lock(&self.idle);
            if idle.len() >= MAX_IDLE {
                return None;
            }
            idle.push(Arc::clone(desk));
        }
        let deadline = Instant::now() + IDLE_TIME;
        let mut job = lock(&desk.job);
        loop {
            if let Some(job) = job.take() {
                return Some(job);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && self.leave(desk) {
                return None;
            }
            // Whoever has taken us from the list is about to give us something.
            job = wait(&desk.given, job, left.max(Duration::from_millis(1)));
        }
    }

    /// False when somebody has taken us from the list already.
    fn leave(&self, desk: &Arc<IdleWorkers>) -> bool {
        let mut idle = lock(&self.idle);
        let place = idle.iter().position(|other| Arc::ptr_eq(other, desk));
        place.map(|place| idle.remove(place)).is_some()
    }
}

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
