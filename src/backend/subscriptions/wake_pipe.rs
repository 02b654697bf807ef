//! Wakes all threads that wait for a client and for something else at a time.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;

use crate::sync::{Mutex, lock};

/// A pipe that is closed to wake the threads that poll its end. All share it, so that a waiting client needs no
/// descriptor of its own. A thread takes the pipe before it looks, so that it misses no wake-up.
#[derive(Debug)]
pub struct WakePipe(Mutex<Option<(Arc<PipeReader>, PipeWriter)>>);

impl WakePipe {
    pub fn new() -> Self {
        Self(Mutex::new(pipe()))
    }

    /// The pipe that is closed at the next wake-up; `None` without file descriptors.
    pub fn end(&self) -> Option<Arc<PipeReader>> {
        lock(&self.0).as_ref().map(|(reader, _)| Arc::clone(reader))
    }

    /// Wakes all who wait.
    pub fn wake(&self) {
        let new = pipe();
        let _old = std::mem::replace(&mut *lock(&self.0), new);
    }
}

fn pipe() -> Option<(Arc<PipeReader>, PipeWriter)> {
    // Without descriptors, waiting threads look now and then.
    io::pipe().ok().map(|(reader, writer)| (Arc::new(reader), writer))
}
