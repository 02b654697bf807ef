//! The socket of a backend's connection, and how long it waits for a silent backend.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::is_timeout;
use super::supervisor::{Class, PendingRead, Supervisor};
use crate::net::backend_stream::BackendStream;

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;

/// Time after which a wait that is longer than usual asks again whether it may go on.
const LONG_WAIT_STEP: Duration = Duration::from_millis(100);

/// Rule by which a try waits for a backend that is silent.
#[derive(Debug, Clone)]
pub enum WaitPolicy {
    /// A read's try on a backend that serves: `balance::slow::decide` has the rule.
    Read {
        /// The expected time of the read.
        class: Class,
        /// The record of a read that is not quick.
        open: Option<Arc<dyn PendingRead>>,
    },
    /// A try until the deadline, while the backend counts as up.
    Probe(Instant),
    /// A try on a backend that is not up, until the deadline, or until another is up.
    LastResort(Instant),
    /// A try until the deadline.
    Until(Instant),
}

impl WaitPolicy {
    /// The policy of a read that is answered at once.
    pub const QUICK: Self = Self::Read { class: Class::Quick, open: None };

    /// Returns whether the backend has to answer a `PING` first. The read may keep the backend silent,
    /// and must not be blamed for a silence that began before it.
    pub(crate) fn needs_probe(&self) -> bool {
        matches!(self, Self::Read { class: Class::Unknown | Class::Slow, .. })
    }

    /// Returns the time until its deadline, if it has one.
    pub(super) fn left(&self) -> Option<Duration> {
        match self {
            Self::Until(deadline) | Self::Probe(deadline) | Self::LastResort(deadline) => {
                Some(deadline.saturating_duration_since(Instant::now()))
            }
            Self::Read { .. } => None,
        }
    }
}

/// The limits of each wait for one backend, and the judge of longer waits.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// The judge of the backend.
    pub supervisor: Arc<dyn Supervisor>,
    /// `--backend-timeout`: how long a backend may usually be silent.
    pub timeout: Duration,
    /// `--read-timeout`: how long it may be silent when there is no other.
    pub read_timeout: Duration,
}

/// A socket whose reads and writes wait as its policy says.
#[derive(Debug)]
pub(super) struct BackendSocket {
    pub stream: Arc<BackendStream>,
    pub timeouts: Arc<Timeouts>,
    pub wait_policy: WaitPolicy,
    /// A silence up to this length says nothing of the backend.
    usual: Duration,
    /// The system's timeout for the socket: the time between two questions whether to wait on.
    step: Duration,
}

impl BackendSocket {
    /// Wraps a stream, each wait on which ends after the backend timeout so far.
    pub fn new(stream: BackendStream, timeouts: Arc<Timeouts>, wait_policy: WaitPolicy) -> Self {
        let usual = timeouts.timeout;
        Self { stream: Arc::new(stream), timeouts, wait_policy, usual, step: usual }
    }

    /// Prepares it for a request for which a silence up to `usual` says nothing of the backend.
    pub fn expect_reply(&mut self, usual: Duration) -> io::Result<()> {
        self.usual = usual;
        let step = match &self.wait_policy {
            WaitPolicy::Read { open: None, .. } => usual,
            // An overdue read has to be noticed in time.
            WaitPolicy::Read { open: Some(open), .. } => {
                open.note_sent();
                usual.min(LONG_WAIT_STEP)
            }
            WaitPolicy::Probe(_) | WaitPolicy::LastResort(_) => usual.min(LONG_WAIT_STEP),
            WaitPolicy::Until(_) => self.wait_policy.left().unwrap_or_default(),
        };
        self.set_step(step)
    }

    fn set_step(&mut self, step: Duration) -> io::Result<()> {
        // The system refuses zero.
        let step = step.max(Duration::from_millis(1));
        // A system call, which most requests can do without.
        if self.step != step {
            self.stream.set_read_timeout(step)?;
            self.step = step;
        }
        Ok(())
    }

    /// Returns whether to wait on after a silence of this length.
    ///
    /// # Errors
    /// When the backend answers others meanwhile: the connection is broken, or the read is a slow one
    /// of a kind that holds up no other.
    fn may_wait(&mut self, silent: Duration) -> io::Result<bool> {
        let supervisor = &self.timeouts.supervisor;
        let left = self.wait_policy.left();
        let is_in_time = left.is_none_or(|left| !left.is_zero());
        let may_wait = match &self.wait_policy {
            WaitPolicy::Until(_) => is_in_time,
            WaitPolicy::Probe(_) => is_in_time && supervisor.is_up(),
            WaitPolicy::LastResort(_) => {
                let is_unusual = silent >= self.usual;
                supervisor.may_wait_as_last_resort(silent, is_unusual)? && is_in_time
            }
            WaitPolicy::Read { class, open } => {
                if let Some(open) = open {
                    open.note_silence(silent);
                }
                // A read whose reply has begun keeps its server busy no more.
                let has_begun = open.as_ref().is_some_and(|open| open.has_begun());
                let class = if has_begun { Class::Quick } else { *class };
                // After a wait for the connection, the backend had less time than it is due.
                let is_due = self.usual >= self.timeouts.timeout;
                silent < self.usual || supervisor.may_wait(class, silent, is_due)?
            }
        };
        if may_wait {
            self.set_step(match (&self.wait_policy, left) {
                (WaitPolicy::Until(_), Some(left)) => left,
                (_, left) => left.unwrap_or(LONG_WAIT_STEP).min(LONG_WAIT_STEP),
            })?;
        }
        Ok(may_wait)
    }

    /// Repeats `operation` until it is over, or the policy ends the wait. Each try waits for `step`.
    fn wait_for(
        &mut self,
        mut operation: impl FnMut(&BackendStream) -> io::Result<usize>,
        step: impl Fn(&Self) -> Duration,
    ) -> io::Result<usize> {
        let mut silent = Duration::ZERO;
        loop {
            let result = operation(&self.stream);
            match &result {
                Err(error) if is_timeout(error) => {
                    silent += step(self);
                    if !self.may_wait(silent)? {
                        return result;
                    }
                }
                // A signal to our process says nothing of the backend.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return result,
            }
        }
    }
}

impl Read for BackendSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let WaitPolicy::Until(deadline) = self.wait_policy
            && Instant::now() >= deadline
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.wait_for(|mut stream| stream.read(buffer), |socket| socket.step)
    }
}

impl Write for BackendSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for(|mut stream| stream.write(bytes), |socket| socket.timeouts.timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
