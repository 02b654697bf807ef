//! The socket of a backend's connection, and how long it waits for a backend that is silent or slow.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::is_timeout;
use super::pace::Pace;
use super::supervisor::{Class, PendingRead, Supervisor};
use crate::config::LiveConfig;
use crate::net::backend_stream::BackendStream;

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;

/// Time after which a wait asks again whether it may go on: the backend may be down by then. Most replies
/// come sooner.
const WAIT_STEP: Duration = Duration::from_millis(50);

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
    /// The configuration, which may change while connections are open.
    pub config: LiveConfig,
}

impl Timeouts {
    /// `--backend-timeout`: how long a backend may usually be silent.
    pub fn timeout(&self) -> Duration {
        self.config.get().backend_timeout
    }

    /// `--read-timeout`: how long it may be silent when there is no other.
    pub fn read_timeout(&self) -> Duration {
        self.config.get().read_timeout
    }
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
    /// How the reply comes.
    pace: Pace,
    /// Time that was waited for it since the last question.
    unasked: Duration,
}

impl BackendSocket {
    /// Wraps a stream, each wait on which ends after the backend timeout so far.
    pub fn new(stream: BackendStream, timeouts: Arc<Timeouts>, wait_policy: WaitPolicy) -> Self {
        let usual = timeouts.timeout();
        Self {
            stream: Arc::new(stream),
            timeouts,
            wait_policy,
            usual,
            step: usual,
            pace: Pace::default(),
            unasked: Duration::ZERO,
        }
    }

    /// Prepares it for a request for which a silence up to `usual` says nothing of the backend.
    pub fn expect_reply(&mut self, usual: Duration) -> io::Result<()> {
        self.pace = Pace::default();
        self.expect_next_reply(usual)
    }

    /// Like [`expect_reply`](Self::expect_reply). The time of a quick read runs on from the request before.
    pub fn expect_next_reply(&mut self, usual: Duration) -> io::Result<()> {
        self.usual = usual;
        self.unasked = Duration::ZERO;
        match &self.wait_policy {
            WaitPolicy::Read { class: Class::Quick, .. } => self.pace.go_on(),
            _ => self.pace = Pace::default(),
        }
        if let WaitPolicy::Read { open: Some(open), .. } = &self.wait_policy {
            open.note_sent();
        }
        self.set_step(self.wait_policy.left())
    }

    /// Sets the time until the next question, for a try until a deadline that is so far away.
    fn set_step(&mut self, left: Option<Duration>) -> io::Result<()> {
        let step = match &self.wait_policy {
            WaitPolicy::Until(_) => left.unwrap_or_default(),
            _ => self.usual.min(WAIT_STEP),
        };
        // The system refuses zero.
        let step = step.max(Duration::from_millis(1));
        // A system call, which most requests can do without.
        if self.step != step {
            self.stream.set_read_timeout(step)?;
            self.step = step;
        }
        Ok(())
    }

    /// Returns whether to wait on for a reply.
    ///
    /// # Errors
    /// As [`may_wait_on`](Self::may_wait_on).
    fn may_wait(&mut self) -> io::Result<bool> {
        self.unasked = Duration::ZERO;
        // Until its reply begins, any other read may itself keep the backend from answering.
        let silent = match self.may_take_long() {
            true => self.pace.since_bytes(),
            false => self.pace.silence(self.usual),
        };
        self.may_wait_on(silent, !self.pace.has_begun())
    }

    /// Whether the backend may still be at work on the read for long.
    fn may_take_long(&self) -> bool {
        match &self.wait_policy {
            WaitPolicy::Read { class: Class::Quick, .. } => false,
            // A read whose reply has begun keeps its server busy no more.
            WaitPolicy::Read { open, .. } => !open.as_ref().is_some_and(|open| open.has_begun()),
            _ => false,
        }
    }

    /// Returns whether to wait on after a silence of this length. A reply that has begun is not given up only
    /// because the backend is down.
    ///
    /// # Errors
    /// When the backend answers others meanwhile: the connection is broken, or the read is a slow one
    /// of a kind that holds up no other. Or when the backend is down, and another is not.
    fn may_wait_on(&mut self, silent: Duration, is_unanswered: bool) -> io::Result<bool> {
        let supervisor = &self.timeouts.supervisor;
        let left = self.wait_policy.left();
        let is_in_time = left.is_none_or(|left| !left.is_zero());
        let may_wait = match &self.wait_policy {
            WaitPolicy::Until(_) => is_in_time,
            WaitPolicy::Probe(_) => is_in_time && supervisor.is_up(),
            WaitPolicy::LastResort(_) => {
                let (comes, is_unusual) = (silent < self.step, silent >= self.usual);
                comes || (supervisor.may_wait_as_last_resort(silent, is_unusual)? && is_in_time)
            }
            WaitPolicy::Read { class, open } => {
                if let Some(open) = open {
                    open.note_silence(silent);
                }
                let class = if self.may_take_long() { *class } else { Class::Quick };
                let is_usual = silent < self.usual && (!is_unanswered || supervisor.is_up());
                is_usual || supervisor.may_wait(class, silent, self.usual)?
            }
        };
        if may_wait {
            self.set_step(left)?;
        }
        Ok(may_wait)
    }
}

impl Read for BackendSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let WaitPolicy::Until(deadline) = self.wait_policy
            && Instant::now() >= deadline
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        loop {
            // Bytes that trickle leave no time in which nothing comes.
            if self.unasked >= self.step && !self.may_wait()? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let began = Instant::now();
            let result = (&*self.stream).read(buffer);
            let waited = began.elapsed();
            self.pace.note_wait(waited);
            self.unasked += waited;
            match result {
                Ok(length) => {
                    self.pace.note_bytes(length, self.may_take_long());
                    return Ok(length);
                }
                // Our clock may be a little behind the system's.
                Err(error) if is_timeout(&error) => self.unasked = self.unasked.max(self.step),
                // A signal to our process says nothing of the backend.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for BackendSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut silent = Duration::ZERO;
        loop {
            let result = (&*self.stream).write(bytes);
            match &result {
                Err(error) if is_timeout(error) => {
                    silent += self.timeouts.timeout();
                    if !self.may_wait_on(silent, true)? {
                        return result;
                    }
                }
                // A signal to our process says nothing of the backend.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
