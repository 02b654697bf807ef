//! The socket to a backend, and how long it is waited for.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{LEFT_BUSY, STUCK, is_timeout};
use crate::balance::retry_budget::RetryBudget;
use crate::balance::slow::{self, Class, Decision, OpenRead, Situation, TimeLimits};
use crate::health::{BackendState, Health};
use crate::net::backend_stream::BackendStream;

/// Who waits for longer than usual looks so often whether that is still worth while.
const LONG_WAIT_STEP: Duration = Duration::from_millis(100);

/// Requests that are made so shortly one after the other may be answered in any order.
const ORDER_MARGIN: Duration = Duration::from_millis(50);

/// How long a try waits for a backend that is silent.
#[derive(Debug, Clone)]
pub enum WaitPolicy {
    /// A read's try on a backend that serves: as [`decide`](crate::balance::slow::decide) says.
    Read {
        /// What is known of the read.
        class: Class,
        /// That it is unanswered there, for one that is not quick.
        open: Option<Arc<OpenRead>>,
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

/// What the waits for one backend need to know.
#[derive(Debug)]
pub struct Timeouts {
    /// The backend's state.
    pub health: Arc<Health>,
    /// How many reads may be sent again.
    pub retry_budget: Arc<RetryBudget>,
    /// How long it may usually be silent.
    pub timeout: Duration,
    /// How long it may be silent when there is no other.
    pub read_timeout: Duration,
}

impl Timeouts {
    /// Nobody waits for longer than this.
    pub fn longest(&self) -> Duration {
        self.timeout.max(self.read_timeout) * 2
    }

    /// Whether a quick read that was met by silence for so long is to wait on.
    ///
    /// # Errors
    /// As [`BackendError::Stuck`](super::BackendError::Stuck), when the backend answers others
    /// meanwhile; as [`BackendError::LeftBusy`](super::BackendError::LeftBusy), when it works on a slow
    /// read.
    pub fn may_wait(&self, silent: Duration) -> io::Result<bool> {
        if silent < self.timeout { Ok(true) } else { self.may_wait_on(Class::Quick, silent, true) }
    }

    /// A read has met silence, for longer than is usual. `is_due` where the backend had the time that
    /// it is due.
    fn may_wait_on(&self, class: Class, silent: Duration, is_due: bool) -> io::Result<bool> {
        let Self { health, retry_budget, timeout, read_timeout } = self;
        let limits = TimeLimits { backend: *timeout, read: *read_timeout };
        let mut now = self.situation(class, silent);
        if is_due && slow::is_suspicious(&now, limits) {
            health.failed(&"timed out");
            now.state = health.state();
        }
        // Where it was due less, it has had all of that.
        now.silent = now.silent.max(*timeout);
        match slow::decide(&now, limits) {
            Decision::Wait => Ok(true),
            Decision::Leave { is_free } => Ok(!(is_free || retry_budget.withdraw())),
            Decision::LeaveBusy => Err(LEFT_BUSY.into()),
            Decision::Stuck => Err(STUCK.into()),
            Decision::GiveUp => Ok(false),
        }
    }

    fn situation(&self, class: Class, silent: Duration) -> Situation {
        let health = &self.health;
        Situation {
            class,
            silent,
            state: health.state(),
            is_server_busy: health.is_busy(),
            answers_checks: self.answers_checks(silent),
            has_better: health.has_better(),
            has_other: health.has_other(),
            is_only_server: health.is_alone(),
            are_all_frozen: health.are_all_frozen(),
        }
    }

    /// Redis works on one thing at a time: had our request arrived, its reply would be here when a
    /// later check is answered.
    fn answers_checks(&self, silent: Duration) -> bool {
        let later = Instant::now().checked_sub(silent).map(|began| began + ORDER_MARGIN);
        later.is_some_and(|later| self.health.has_answered_since(later))
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
    pub fn open_read(&self) -> Option<&OpenRead> {
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
        let may_wait = match &self.wait_policy {
            WaitPolicy::Until(deadline) => Instant::now() < *deadline,
            WaitPolicy::Probe(deadline) => {
                Instant::now() < *deadline && self.timeouts.health.state() == BackendState::Up
            }
            WaitPolicy::LastResort(deadline) => {
                let Timeouts { health, retry_budget, .. } = &*self.timeouts;
                let is_usual = silent < self.usual;
                if !is_usual && self.timeouts.answers_checks(silent) && health.has_other() {
                    return Err(STUCK.into());
                }
                Instant::now() < *deadline && !(health.has_better() && retry_budget.withdraw())
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
                silent < self.usual || self.timeouts.may_wait_on(class, silent, is_due)?
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
