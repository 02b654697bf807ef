//! Ends a script that keeps its server busy.

use std::time::{Duration, Instant};

use super::socket::WaitPolicy;
use super::{Backend, BackendError};
use crate::resp::{self, command, reply};

/// What a server answers that can't be asked for anything else before a script ends: it says so
/// once that has run for its `busy-reply-threshold` (5 s unless configured otherwise).
const BUSY: &str = "BUSY ";

/// Why nothing was killed.
const NOT_BUSY: &str = "NOTBUSY it answers PING, so no script keeps it busy";

impl Backend {
    /// Ends the script, or with `is_function` the function, that keeps the server busy, with `SCRIPT
    /// KILL` or `FUNCTION KILL`: by a connection of its own, made and logged in for that, and only
    /// when the server answers a `PING` there with `-BUSY`. All of it takes until `deadline` at most.
    ///
    /// Whose script that is, the caller has to know: one of ours that was sent to this server and is
    /// silent for longer than `busy-reply-threshold` is running. Had it waited for a stranger's to
    /// end, it would itself have been answered with `-BUSY`.
    ///
    /// # Errors
    /// [`BackendError::Redis`] with what the server said instead of `OK`: `NOPERM` without the right
    /// `+script|kill` or `+function|kill`, `NOTBUSY` when the script has ended meanwhile (or when it
    /// answers the `PING`, or does not say yet that it is busy), `BUSY` when it is one of the other
    /// kind that runs, `UNKILLABLE` when that has written. Otherwise why the server was not reached
    /// in time.
    pub fn kill_script(&self, is_function: bool, deadline: Instant) -> Result<(), BackendError> {
        let mut link = self.open(WaitPolicy::Until(deadline), Duration::ZERO)?;
        link.send(&command("PING").into_bytes())?;
        match reply::simple(link.replies()) {
            Err(resp::Error::Redis(text)) if text.starts_with(BUSY) => {}
            Ok(_) => return Err(BackendError::Redis(NOT_BUSY.to_owned())),
            Err(error) => return Err(error.into()),
        }
        link.send(&kill_command(is_function))?;
        Ok(reply::simple(link.replies()).map(|_| ())?)
    }

    /// The rights that [`kill_script`](Self::kill_script) needs and our user has not, as ACL rules.
    /// Nothing is killed: the commands are queued in a `MULTI` that is never executed, which is when
    /// a server checks the rights. None are named when that can't be found out: without the right to
    /// use `MULTI`, or when the server can't be reached by `deadline`.
    pub fn missing_kill_rights(&self, deadline: Instant) -> Vec<&'static str> {
        self.find_missing_kill_rights(deadline).unwrap_or_default()
    }

    fn find_missing_kill_rights(
        &self,
        deadline: Instant,
    ) -> Result<Vec<&'static str>, BackendError> {
        let mut link = self.open(WaitPolicy::Until(deadline), Duration::ZERO)?;
        link.send(&command("MULTI").into_bytes())?;
        // Outside of it the next commands would be executed.
        reply::simple(link.replies())?;
        let mut missing = Vec::new();
        for (is_function, right) in [(false, "+script|kill"), (true, "+function|kill")] {
            link.send(&kill_command(is_function))?;
            match reply::simple(link.replies()) {
                Err(resp::Error::Redis(text)) if super::is_not_permitted(&text) => {
                    missing.push(right);
                }
                // Queued, or a server that has no functions.
                Ok(_) | Err(resp::Error::Redis(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(missing)
    }
}

fn kill_command(is_function: bool) -> Vec<u8> {
    command(if is_function { "FUNCTION" } else { "SCRIPT" }).arg("KILL").into_bytes()
}
