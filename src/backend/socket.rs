//! The socket to a backend, and how long it is waited for.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::is_timeout;
use super::supervisor::{Class, PendingRead, Supervisor};
use crate::net::backend_stream::BackendStream;

/// Who waits for longer than usual looks so often whether that is still worth while.
const LONG_WAIT_STEP: Duration = Duration::from_millis(100);

/// How long a try waits for a backend that is silent.
#[derive(Debug, Clone)]
pub enum WaitPolicy {
    /// A read's try on a backend that serves: as `balance::slow::decide` says.
    Read {
        /// What is known of the read.
        class: Class,
        /// That it is unanswered there, for one that is not quick.
        open: Option<Arc<dyn PendingRead>>,
    },
    /// Until then, as long as nobody finds the backend to have failed.
    Probe(Instant),
    /// A try on a backend that is not up: until then, or until another is.
    LastResort(Instant),
    /// Until then.
    Until(Instant),
}

impl WaitPolicy {
    /// That of a read which is answered at once.
    pub const QUICK: Self = Self::Read { class: Class::Quick, open: None };

    /// Whether the backend has to answer a PING first: the read may be why it is silent then, and
    /// would else be blamed for what was before it.
    pub fn needs_probe(&self) -> bool {
        matches!(self, Self::Read { class: Class::Unknown | Class::Slow, .. })
    }
}

/// How long one backend is waited for, and who decides when that is over.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// The judge of the backend.
    pub supervisor: Arc<dyn Supervisor>,
    /// `--backend-timeout`: how long a backend may usually be silent.
    pub timeout: Duration,
    /// `--read-timeout`: how long it may be silent when there is no other.
    pub read_timeout: Duration,
}

impl Timeouts {
    /// Bound on every wait for a reply.
    pub fn longest(&self) -> Duration {
        self.timeout.max(self.read_timeout) * 2
    }

    /// Whether a quick read that was met by silence for so long is to wait on.
    ///
    /// # Errors
    /// As [`Supervisor::may_wait`].
    pub fn may_wait(&self, silent: Duration) -> io::Result<bool> {
        if silent < self.timeout {
            return Ok(true);
        }
        self.supervisor.may_wait(Class::Quick, silent, true)
    }
}

/// A socket that waits as long as its user's wait_policy lasts.
#[derive(Debug)]
pub struct PatientSocket {
    stream: Arc<BackendStream>,
    timeouts: Arc<Timeouts>,
    wait_policy: WaitPolicy,
    /// A silence up to here says nothing.
    usual: Duration,
    /// The socket's own timeout.
    step: Duration,
}

impl PatientSocket {
    /// A silence of the backend timeout ends each wait, until that is changed.
    pub fn new(stream: BackendStream, timeouts: Arc<Timeouts>, wait_policy: WaitPolicy) -> Self {
        let usual = timeouts.timeout;
        Self { stream: Arc::new(stream), timeouts, wait_policy, usual, step: usual }
    }

    /// From now on it waits like this.
    pub fn set_wait_policy(&mut self, wait_policy: WaitPolicy) {
        self.wait_policy = wait_policy;
    }

    /// The stream itself, for those who wait in their own way.
    pub fn stream(&self) -> &Arc<BackendStream> {
        &self.stream
    }

    /// How it waits.
    pub fn wait_policy(&self) -> WaitPolicy {
        self.wait_policy.clone()
    }

    /// The read that is unanswered here, where it is not quick.
    pub fn open_read(&self) -> Option<&dyn PendingRead> {
        match &self.wait_policy {
            WaitPolicy::Read { open, .. } => open.as_deref(),
            _ => None,
        }
    }

    /// How long a backend may usually be silent.
    pub fn usual_timeout(&self) -> Duration {
        self.timeouts.timeout
    }

    /// A request goes out for which a silence up to `usual` says nothing.
    pub fn expect_silence(&mut self, usual: Duration) -> io::Result<()> {
        self.usual = usual;
        let step = match &self.wait_policy {
            WaitPolicy::Until(deadline) => left(*deadline),
            WaitPolicy::Probe(_) | WaitPolicy::LastResort(_) => usual.min(LONG_WAIT_STEP),
            // That it is overdue is to be noticed in time.
            WaitPolicy::Read { open: Some(_), .. } => usual.min(LONG_WAIT_STEP),
            WaitPolicy::Read { .. } => usual,
        };
        self.set_step(step)
    }

    fn set_step(&mut self, step: Duration) -> io::Result<()> {
        // A system call, which most requests can do without.
        if self.step != step {
            self.stream.set_read_timeout(step)?;
            self.step = step;
        }
        Ok(())
    }

    /// Whether to wait on, with nothing heard for so long.
    ///
    /// # Errors
    /// When the backend answers others meanwhile: the connection is broken, or the read is a slow one
    /// of a kind that holds up nobody else.
    fn may_wait(&mut self, silent: Duration) -> io::Result<bool> {
        let supervisor = &self.timeouts.supervisor;
        let may_wait = match &self.wait_policy {
            WaitPolicy::Until(deadline) => Instant::now() < *deadline,
            WaitPolicy::Probe(deadline) => Instant::now() < *deadline && supervisor.is_up(),
            WaitPolicy::LastResort(deadline) => {
                let is_unusual = silent >= self.usual;
                let may_wait = supervisor.may_wait_as_last_resort(silent, is_unusual)?;
                may_wait && Instant::now() < *deadline
            }
            WaitPolicy::Read { class, open } => {
                if let Some(open) = open {
                    open.note_silence(silent);
                }
                // What has begun to be answered keeps its server busy no more.
                let has_begun = open.as_ref().is_some_and(|open| open.has_begun());
                let class = if has_begun { Class::Quick } else { *class };
                // A connection that was waited for left the backend less time than it is due.
                let is_due = self.usual >= self.timeouts.timeout;
                silent < self.usual || supervisor.may_wait(class, silent, is_due)?
            }
        };
        if may_wait {
            self.set_step(match &self.wait_policy {
                WaitPolicy::Until(deadline) => left(*deadline),
                WaitPolicy::Probe(deadline) | WaitPolicy::LastResort(deadline) => {
                    left(*deadline).min(LONG_WAIT_STEP)
                }
                WaitPolicy::Read { .. } => LONG_WAIT_STEP,
            })?;
        }
        Ok(may_wait)
    }
}

/// The time until then, as a socket can take it.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

impl Read for PatientSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let WaitPolicy::Until(deadline) = self.wait_policy
            && Instant::now() >= deadline
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut silent = Duration::ZERO;
        loop {
            let read = (&*self.stream).read(buffer);
            match &read {
                Err(error) if is_timeout(error) => {
                    silent += self.step;
                    if !self.may_wait(silent)? {
                        return read;
                    }
                }
                // By a signal to our process: says nothing about the backend.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return read,
            }
        }
    }
}

impl Write for PatientSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut silent = Duration::ZERO;
        loop {
            let written = (&*self.stream).write(bytes);
            match &written {
                Err(error) if is_timeout(error) => {
                    silent += self.timeouts.timeout;
                    if !self.may_wait(silent)? {
                        return written;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
