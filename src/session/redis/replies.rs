//! The end of a try, a command or a session: replies of backends that a session looks into, and errors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::large_values::NoTurn;
use crate::backend::{BackendError, Inability, PooledConnection, inability, said};
use crate::balance::failover::Attempt;
use crate::balance::slow::SharedAnswer;
use crate::health::Member;
use crate::metrics::{CommandId, Outcome, Refusal};
use crate::resp::{self, CommandParser};

/// Error reply to commands whose verdicts were out of date each time that they were to be sent.
pub const OTHER_COMMANDS: &str = "ERR the backends' commands have changed: try again";

/// Error of a try on one backend.
#[derive(Debug)]
pub enum ForwardError {
    /// The backend failed before a byte of the reply was given to the client.
    Backend(BackendError),
    /// The backend failed after that.
    Cut(BackendError),
    /// The client failed.
    Client(io::Error),
    /// The server lacks the script that a command names, and says so with these words. Another may have it.
    NoScript(String),
}

impl<E: Into<BackendError>> From<E> for ForwardError {
    fn from(error: E) -> Self {
        Self::Backend(error.into())
    }
}

impl From<NoTurn> for ForwardError {
    fn from(no_turn: NoTurn) -> Self {
        match no_turn {
            NoTurn::Backend(error) => Self::Backend(error),
            NoTurn::ClientLeft => Self::Client(io::Error::other("left while its read waited")),
        }
    }
}

/// Outcome of a try on one backend.
pub type Tried<T = ()> = Result<T, ForwardError>;

/// Reason for which a session ends.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The client left, was idle for too long, or asked to end.
    #[error("{0}")]
    Gone(String),
    /// The client sent bytes that are no command, and was told so.
    #[error("refused: {0}")]
    Refused(String),
    /// A reply broke off.
    #[error("cut: {0}")]
    Cut(String),
}

impl From<io::Error> for SessionEnd {
    fn from(error: io::Error) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<ForwardError> for SessionEnd {
    fn from(failure: ForwardError) -> Self {
        match failure {
            ForwardError::Backend(error) | ForwardError::Cut(error) => Self::Cut(error.to_string()),
            ForwardError::Client(error) => error.into(),
            ForwardError::NoScript(error) => Self::Cut(error),
        }
    }
}

/// Error of a command after all tries, or in place of them.
pub enum Unanswered {
    /// Each backend has failed, as this says.
    AllFailed(String),
    /// The first command that is not answered gets this error, and has this outcome. Those after it may go on.
    Error(Vec<u8>, Outcome),
    /// The first command that is not answered was answered to another client that has asked the same.
    Shared(SharedAnswer),
    /// A backend knows other commands than those by which it was judged what to send.
    OtherCommands,
    /// The session is over.
    SessionEnd(SessionEnd),
}

/// Outcome of a command that the session answers itself, or of all tries.
pub type Answered<T = ()> = Result<T, Unanswered>;

impl Unanswered {
    /// The command is not sent, for this reason.
    pub fn refused(why: &str) -> Self {
        let outcome = Outcome::Refused(Refusal::Unanswered);
        Self::Error(format!("ERR {why}").into_bytes(), outcome)
    }
}

impl<T: Into<Vec<u8>>> From<T> for Unanswered {
    fn from(text: T) -> Self {
        Self::Error(text.into(), Outcome::ErrorReply)
    }
}

impl From<SessionEnd> for Unanswered {
    fn from(ended: SessionEnd) -> Self {
        Self::SessionEnd(ended)
    }
}

/// Backend that has answered a command of the session's own, and the time until its reply began.
pub type ServedBy = Option<(Arc<Member>, Duration)>;

/// The backend of a try whose reply has just begun.
pub fn served_by(attempt: &Attempt) -> ServedBy {
    Some((Arc::clone(&attempt.backend), attempt.began.elapsed()))
}

/// Replies that a client was given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given {
    /// How many were errors.
    pub errors: u64,
    /// Length of those that count for a command of their own.
    pub bytes: u64,
}

/// End of a command that the session answers itself, from which its completion is made.
#[derive(Debug, Default)]
pub struct LocalReply {
    /// The number under which the command is timed.
    pub command: CommandId,
    /// The backend that has answered it, if one has.
    pub served_by: ServedBy,
    /// How it ended.
    pub outcome: Outcome,
}

impl LocalReply {
    /// Adds what was relayed of a backend's reply between two moments.
    pub fn relayed(&mut self, before: Given, after: Given) {
        if after.errors > before.errors {
            self.outcome = Outcome::ErrorReply;
        }
    }
}

/// Length of the longest reply that a session looks into: of INFO, HELLO, SELECT.
const MAX_SHORT_REPLY_BYTES: usize = 1024 * 1024;

/// Error of a backend that sends a push where a reply is due.
pub const UNWANTED_PUSH: &str = "a push that nobody asked for";

/// Reads a whole reply that is not long, to what is no script.
pub fn short_reply(connection: &mut PooledConnection) -> Tried<Vec<u8>> {
    let reply = short_reply_unchecked(connection)?;
    connection.check_answer(&reply)?;
    Ok(reply)
}

/// Reads a whole reply that is not long, also one that says that the server can't answer.
pub fn short_reply_unchecked(connection: &mut PooledConnection) -> Tried<Vec<u8>> {
    let mut reply = Vec::new();
    if !connection.hold(&mut reply, MAX_SHORT_REPLY_BYTES)? {
        return Err(resp::Error::TooLong.into());
    }
    if reply.starts_with(b">") {
        return Err(resp::Error::Protocol(UNWANTED_PUSH).into());
    }
    Ok(reply)
}

/// What stands in the place of a script that does nothing, by the command that calls it: a source, a
/// digest that no script has, a name that no function can have.
const NOTHING: [(&[u8], &[u8]); 3] = [
    (b"eval_ro", b"return 1"),
    (b"evalsha_ro", b"0000000000000000000000000000000000000000"),
    (b"fcall_ro", b"-"),
];

/// Asks the server of a script that has returned an error which claims an inability of the server,
/// whether that is so: by the command that has called the script, with its keys, for a script that does
/// nothing, and by a PING. Nothing else may be under way on the connection.
pub fn witness(
    connection: &mut PooledConnection,
    command: &[u8],
    claimed: Inability,
) -> Tried<bool> {
    connection.send(&questions(command))?;
    let mut is_so = false;
    for of_anything in [false, true] {
        let reply = short_reply_unchecked(connection)?;
        let said = said(&reply).and_then(|error| inability(&error));
        // Rights to PING say nothing of rights to call the script.
        is_so |= match of_anything {
            true => said.is_some_and(|said| said != Inability::Request),
            false => said == Some(claimed),
        };
    }
    Ok(is_so)
}

fn questions(called: &[u8]) -> Vec<u8> {
    let mut questions = Vec::new();
    // It was whole when it was sent.
    let mut parser = CommandParser::new(usize::MAX);
    if let Ok((_, Some(called))) = parser.parse(called) {
        let is_called = |(name, _): &&(&[u8], &[u8])| called.name().eq_ignore_ascii_case(name);
        let nothing = NOTHING.iter().find(is_called).map_or(&b"-"[..], |(_, nothing)| nothing);
        let count = called.arg(2).unwrap_or(b"0");
        let number = std::str::from_utf8(count).ok().and_then(|count| count.parse().ok());
        let keys = called.args().skip(3).take(number.unwrap_or(0));
        let probe = resp::command(called.name()).arg(nothing).arg(count).args(keys);
        probe.append_to(&mut questions);
    }
    resp::command("PING").append_to(&mut questions);
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_does_nothing_has_the_keys_of_the_one_in_question() {
        let encoded = |words: &[&str]| resp::command(words[0]).args(&words[1..]).into_bytes();
        for (called, expected) in [
            (
                &["EVAL_RO", "return redis.error_reply('BUSY x')", "2", "a", "b", "c"][..],
                &["EVAL_RO", "return 1", "2", "a", "b"][..],
            ),
            (
                &["evalsha_ro", "0123", "0", "c"],
                &["evalsha_ro", "0000000000000000000000000000000000000000", "0"],
            ),
            (&["Fcall_RO", "f", "1", "a"], &["Fcall_RO", "-", "1", "a"]),
        ] {
            let expected = [encoded(expected), encoded(&["PING"])].concat();
            assert_eq!(questions(&encoded(called)), expected, "{called:?}");
        }
    }
}
