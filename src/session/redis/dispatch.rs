//! One command is judged: it is answered here, refused, or gathered to be forwarded.

use std::time::{Duration, Instant};

use super::errors::{OTHER_COMMANDS, SessionEnd, Unanswered};
use super::local_reply::LocalReply;
use super::session::Session;
use crate::metrics::{Outcome, Refusal};
use crate::policy::{Refused, Verdict};
use crate::resp::{self, Command, write};

/// Shortest time between two questions to backends none of which has ever answered.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Handles one command.
    pub(super) fn command(&mut self, command: &Command) -> Result<(), SessionEnd> {
        self.commands += 1;
        self.is_silent = self.state.reply_mode.next();
        self.local_reply = LocalReply::default();
        self.refresh_policy();
        if !self.ask_for_commands(command)? {
            self.abort();
            self.complete(command.name());
            return Ok(());
        }
        match self.transaction.is_some() {
            true => self.in_transaction(command)?,
            false => self.outside_transaction(command)?,
        }
        match self.batch.is_full() || self.writer.is_full() {
            true if self.send_shared()? => Ok(()),
            true => self.run_batch(),
            false => Ok(()),
        }
    }

    fn outside_transaction(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let version = self.commands_version;
        let (verdict, shape) = self.policy.judge(command);
        match self.balancer.scripts.admit(command, verdict) {
            Verdict::Refuse(Refused { why, error }) => self.refuse_command(why, error),
            Verdict::Local(local) => self.answer_locally(local, command)?,
            Verdict::Forward if self.is_subscriber() => self.not_for_subscribers(command),
            Verdict::Forward => return self.forward(command, version, shape),
            Verdict::Close => return Err(self.close()),
        }
        self.complete(command.name());
        Ok(())
    }

    /// Counts a command that the session has answered itself; the batch counts its own.
    pub(super) fn complete(&mut self, name: &[u8]) {
        let LocalReply { served_by, bytes, outcome } = std::mem::take(&mut self.local_reply);
        let answered_by = served_by.as_ref().map(|by| (by.backend.backend.as_ref(), by.time));
        self.writer.complete(name, answered_by, bytes, outcome);
    }

    /// Ends the session of a client that sends HTTP, as Redis does: a web page may have made it do so.
    pub(super) fn close(&mut self) -> SessionEnd {
        let why = "POST or Host: is no Redis command";
        self.writer.complete(b"", None, 0, Outcome::Closed(Refusal::BadRequest));
        self.flush().err().unwrap_or_else(|| SessionEnd::Refused(why.to_owned()))
    }

    /// Takes over what the backends say of their commands, where that has changed.
    pub(super) fn refresh_policy(&mut self) {
        if self.commands_version != self.balancer.commands_version() {
            (self.commands_version, self.policy) = self.balancer.policy();
            self.batch.judge_again(&self.policy, self.commands_version, &mut self.writer);
        }
    }

    /// Asks a backend for its commands, where none has said so yet and that matters. Returns false when the
    /// client has been told that none can be reached.
    fn ask_for_commands(&mut self, command: &Command) -> Result<bool, SessionEnd> {
        let is_known =
            !self.policy.is_empty() || !matches!(self.policy.verdict(command), Verdict::Refuse(_));
        if is_known || self.asked_at.is_some_and(|at| at.elapsed() < ASK_INTERVAL) {
            return Ok(true);
        }
        self.asked_at = Some(Instant::now());
        if let Err(unanswered) = self.short_exchange(&resp::command("PING").into_bytes()) {
            self.unanswered(unanswered)?;
            return Ok(false);
        }
        self.refresh_policy();
        Ok(true)
    }

    /// Writes a reply of our own, in its place among the others.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_silent {
            return;
        }
        let mut bytes = 0;
        let write = |out: &mut Vec<u8>| {
            let before = out.len();
            write(out);
            bytes = out.len() - before;
        };
        match self.batch.is_empty() && !self.is_in_flight() {
            true => write(self.writer.out()),
            false => self.batch.answer(write),
        }
        self.local_reply.bytes += bytes as u64;
    }

    /// Answers with a backend's reply, or with what was made of it.
    pub(super) fn answer_raw(&mut self, reply: &[u8]) {
        if reply.starts_with(b"-") {
            self.writer.given.errors += 1;
            self.local_reply.outcome = Outcome::ErrorReply;
        }
        self.answer(|out| out.extend_from_slice(reply));
    }

    pub(super) fn error(&mut self, text: impl AsRef<[u8]>) {
        self.writer.given.errors += 1;
        self.local_reply.outcome = Outcome::ErrorReply;
        self.answer(|out| write::error(out, text));
    }

    /// Answers the command at hand with an error in place of what it asks for.
    pub(super) fn refuse_command(&mut self, why: Refusal, text: impl AsRef<[u8]>) {
        self.error(text);
        self.local_reply.outcome = Outcome::Refused(why);
    }

    pub(super) fn ok(&mut self) {
        self.answer(|out| write::simple(out, "OK"));
    }

    /// Tells the client that no backend could answer.
    pub(super) fn unanswered(&mut self, unanswered: Unanswered) -> Result<(), SessionEnd> {
        match unanswered {
            Unanswered::AllFailed(error) | Unanswered::Refused(error) => {
                self.refuse_command(Refusal::Unanswered, format!("ERR {error}"));
            }
            Unanswered::OtherCommands => {
                self.error(OTHER_COMMANDS);
            }
            Unanswered::Shared(answer) => self.answer_raw(&answer.reply),
            Unanswered::SessionEnd(ended) => return Err(ended),
        }
        Ok(())
    }
}
