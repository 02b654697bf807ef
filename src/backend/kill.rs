//! Ends a script that keeps its server busy.

use std::time::{Duration, Instant};

use super::{Backend, BackendError, WaitPolicy, is_not_permitted};
use crate::resp::{CommandBuilder, command};

/// Beginning of every answer of a server that a script keeps busy, once the script has run for
/// `busy-reply-threshold` (5 s unless configured otherwise).
const BUSY: &str = "BUSY ";

/// Reason why nothing was killed.
const NOT_BUSY: &str = "NOTBUSY it answers PING, so no script keeps it busy";

impl Backend {
    /// Ends the script, or with `is_function` the function, that keeps the server busy, with `SCRIPT
    /// KILL` or `FUNCTION KILL`. It uses a connection of its own, and kills only if the server answers a
    /// `PING` there with `-BUSY`. All of it takes until `deadline` at most.
    ///
    /// The caller has to know whose script that is: one of ours that was sent to this server and is
    /// silent for longer than `busy-reply-threshold` is running. Had it waited for another client's
    /// script to end, it would itself have been answered with `-BUSY`.
    ///
    /// # Errors
    /// [`BackendError::Redis`] with the server's answer if that is not `OK`: `NOPERM` without the right
    /// `+script|kill` or `+function|kill`, `NOTBUSY` when the script has ended meanwhile (or when it
    /// answers the `PING`, or does not say yet that it is busy), `BUSY` when it is one of the other
    /// kind that runs, `UNKILLABLE` when that has written. Otherwise the reason why the server was not
    /// reached in time.
    pub fn kill_script(&self, is_function: bool, deadline: Instant) -> Result<(), BackendError> {
        let mut connection = self.open(WaitPolicy::Until(deadline), Duration::ZERO)?;
        match connection.ask(command("PING")) {
            Err(BackendError::Redis(text)) if text.starts_with(BUSY) => {}
            Ok(_) => return Err(BackendError::Redis(NOT_BUSY.to_owned())),
            Err(error) => return Err(error),
        }
        connection.ask(kill_command(is_function)).map(|_| ())
    }

    /// Returns the rights that [`kill_script`](Self::kill_script) needs and our user lacks, as ACL rules.
    ///
    /// Nothing is killed: the commands are queued in a `MULTI` that is never executed, which is when
    /// a server checks the rights.
    ///
    /// # Errors
    /// When that can't be found out: without the right to use `MULTI`, or when the server can't be
    /// reached by `deadline`.
    pub fn missing_kill_rights(
        &self,
        deadline: Instant,
    ) -> Result<Vec<&'static str>, BackendError> {
        let mut connection = self.open(WaitPolicy::Until(deadline), Duration::ZERO)?;
        // Without it the next commands would be executed.
        connection.ask(command("MULTI"))?;
        let mut missing = Vec::new();
        for (is_function, right) in [(false, "+script|kill"), (true, "+function|kill")] {
            match connection.ask(kill_command(is_function)) {
                Err(BackendError::Redis(text)) if is_not_permitted(&text) => missing.push(right),
                // It is queued, or the server has no functions.
                Ok(_) | Err(BackendError::Redis(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }
}

fn kill_command(is_function: bool) -> CommandBuilder {
    command(if is_function { "FUNCTION" } else { "SCRIPT" }).arg("KILL")
}
