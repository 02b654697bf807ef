//! A batch is run: its commands are sent, and the client gets the replies and answers in order.

use std::time::{Duration, Instant};

use super::{Batch, READ_AT_ONCE_BYTES, Step};
use crate::backend::{BackendError, PooledConnection};
use crate::balance::Balancer;
use crate::balance::slow::SharedAnswer;
use crate::metrics::{Outcome, Refusal};
use crate::resp::write;
use crate::session::redis::errors::ForwardError;
use crate::session::redis::replies::first_word;
use crate::session::redis::reply_writer::{Relayed, ReplyWriter};
use crate::session::redis::upstream::{SendTarget, Upstream};

/// One write to a backend, and the replies to it.
struct Exchange<'a> {
    target: SendTarget<'a>,
    /// The step after the last of it.
    end: usize,
    /// Whether it is of one step.
    is_single: bool,
    /// The step whose reply shows that the server has worked on all that it read.
    telling_step: Option<usize>,
}

impl Batch {
    /// Does what is left to do; a command that has to go alone, and nothing after it. When it fails, what
    /// was done stays done.
    pub fn run(
        &mut self,
        upstream: &mut Upstream,
        target: SendTarget,
        writer: &mut ReplyWriter,
    ) -> Result<(), ForwardError> {
        let (mut has_long, mut has_begun) = (false, false);
        while self.done.steps < self.steps.len() {
            // All of it, unless the window has shrunk since it was gathered.
            let is_alone = target.attempt.open.as_ref().is_some_and(|open| open.is_alone());
            if is_alone && has_begun {
                return Ok(());
            }
            has_begun = true;
            let window = if is_alone { 1 } else { self.window };
            let end = self.steps.len().min(self.done.steps + window);
            has_long |= self.run_until(end, upstream, target, writer)?;
        }
        self.grow_window(has_long);
        Ok(())
    }

    /// Does the steps before `end` in one exchange. Returns whether a reply was long.
    fn run_until(
        &mut self,
        end: usize,
        upstream: &mut Upstream,
        target: SendTarget,
        writer: &mut ReplyWriter,
    ) -> Result<bool, ForwardError> {
        let (is_single, telling_step) = (end - self.done.steps == 1, self.telling_step(end));
        let exchange = Exchange { target, end, is_single, telling_step };
        let (mut has_long, mut begun) = (false, None);
        while self.done.steps < end {
            match self.steps[self.done.steps] {
                Step::Answer { length } => {
                    let connection = begun.as_ref().map(|(connection, _)| connection);
                    self.give_answer(length, writer, connection)?;
                }
                Step::Forward { length, is_silent } => {
                    let (connection, time) = match &mut begun {
                        Some(begun) => begun,
                        none => none.insert(self.begin(end, upstream, target)?),
                    };
                    let relayed =
                        self.relay_next(&exchange, connection, *time, is_silent, writer)?;
                    has_long |= relayed == Relayed::InPieces;
                    writer.deliver_if_full_beside(Some(connection))?;
                    self.done.commands += length;
                }
            }
            self.done.steps += 1;
        }
        if let Some((connection, _)) = begun {
            upstream.release_or_share(connection, target.attempt.backend.backend());
        }
        Ok(has_long)
    }

    /// The step whose reply shows that the server has worked on all of an exchange that it read at once:
    /// it has done so before it writes the first reply.
    fn telling_step(&self, end: usize) -> Option<usize> {
        let is_forward = |step: &Step| matches!(step, Step::Forward { .. });
        let sent = &self.steps[self.done.steps..end];
        let bytes: usize = sent.iter().map(Step::command_bytes).sum();
        let at = match bytes <= READ_AT_ONCE_BYTES {
            true => sent.iter().position(is_forward),
            false => sent.iter().rposition(is_forward),
        };
        Some(self.done.steps + at?)
    }

    /// Relays the reply to the next step, and counts it.
    fn relay_next(
        &mut self,
        exchange: &Exchange,
        connection: &mut PooledConnection,
        time: Duration,
        is_silent: bool,
        writer: &mut ReplyWriter,
    ) -> Result<Relayed, ForwardError> {
        let attempt = exchange.target.attempt;
        let open = attempt.open.as_deref();
        if let Some(open) = open.filter(|_| exchange.telling_step == Some(self.done.steps)) {
            connection.next_byte()?;
            match exchange.end == self.steps.len() {
                true => open.reply_began(),
                false => open.partial_reply_began(),
            }
        }
        let (start, bytes) = (writer.out().len(), writer.given.bytes);
        let relayed = match self.has_script && self.steps.len() == 1 {
            true => writer.relay_from_script(connection, is_silent, &self.commands),
            false => writer.relay(connection, is_silent),
        };
        let relayed = self.note_timeout(exchange.end, relayed)?;
        // A script may return something else each time.
        let may_share = exchange.is_single && !is_silent && !self.has_script;
        if let Some(open) = open.filter(|_| may_share && relayed == Relayed::Whole) {
            open.share(&writer.out()[start..]);
        }
        let outcome = match relayed {
            Relayed::Error => Outcome::ErrorReply,
            Relayed::Whole | Relayed::InPieces => Outcome::Answered,
        };
        let answered_by = Some((attempt.backend.backend().as_ref(), time));
        writer.complete(self.next_name(), answered_by, writer.given.bytes - bytes, outcome);
        Ok(relayed)
    }

    /// Sends the commands before step `end`; the reply has begun, after so much time. Behind a long
    /// reply the next may be as long: then it is asked for in its turn.
    fn begin(
        &mut self,
        end: usize,
        upstream: &mut Upstream,
        target: SendTarget,
    ) -> Result<(PooledConnection, Duration), ForwardError> {
        let began = Instant::now();
        let lengths = self.steps[self.done.steps..end].iter().map(Step::command_bytes);
        let commands = &self.commands[self.done.commands..][..lengths.sum()];
        let turn = match self.is_after_long {
            true => {
                Some(target.attempt.backend.long_replies.turn(commands).ok_or(BackendError::Busy)?)
            }
            false => None,
        };
        let begun = upstream.send(target, commands);
        if let (Err(error), Some(turn)) = (&begun, &turn)
            && error.is_unanswered()
        {
            turn.give_up();
        }
        drop(turn);
        let connection = self.note_timeout(end, begun.map_err(ForwardError::Backend))?;
        Ok((connection, began.elapsed()))
    }

    /// Redis may work on all commands of a batch before it sends the first reply. If that took too
    /// long, fewer are sent from now on.
    fn note_timeout<T>(
        &mut self,
        end: usize,
        done: Result<T, ForwardError>,
    ) -> Result<T, ForwardError> {
        if let Err(ForwardError::Backend(BackendError::TimedOut)) = done {
            self.shrink_window(end);
        }
        done
    }

    /// The name of the first command that is not done.
    fn next_name(&self) -> &[u8] {
        first_word(&self.commands[self.done.commands..])
    }

    fn give_answer(
        &mut self,
        length: usize,
        writer: &mut ReplyWriter,
        connection: Option<&PooledConnection>,
    ) -> Result<(), ForwardError> {
        let end = self.done.answers + length;
        writer.out().extend_from_slice(&self.answers[self.done.answers..end]);
        self.done.answers = end;
        writer.deliver_if_full_beside(connection)
    }

    /// No backend could answer: the commands that are left get this error.
    pub fn refuse_rest(
        &mut self,
        error: &str,
        writer: &mut ReplyWriter,
    ) -> Result<(), ForwardError> {
        while !self.is_done() {
            self.refuse_one(error, writer)?;
        }
        Ok(())
    }

    /// The first command that is left gets the reply that another client got, who has asked the same.
    pub fn answer_one(
        &mut self,
        answer: &SharedAnswer,
        balancer: &Balancer,
        writer: &mut ReplyWriter,
    ) -> Result<(), ForwardError> {
        while let Step::Answer { length } = self.steps[self.done.steps] {
            self.give_answer(length, writer, None)?;
            self.done.steps += 1;
        }
        let Step::Forward { length, is_silent } = self.steps[self.done.steps] else {
            return Ok(());
        };
        if !is_silent {
            writer.out().extend_from_slice(&answer.reply);
        }
        if let Some(backend) = balancer.backend(answer.backend) {
            let answered_by = Some((backend.backend().as_ref(), answer.sent_at.elapsed()));
            let bytes = answer.reply.len() as u64;
            writer.complete(self.next_name(), answered_by, bytes, Outcome::Answered);
        }
        self.done.commands += length;
        self.done.steps += 1;
        Ok(())
    }

    /// The first command that is left gets this error.
    pub fn refuse_one(
        &mut self,
        error: &str,
        writer: &mut ReplyWriter,
    ) -> Result<(), ForwardError> {
        match self.steps[self.done.steps] {
            Step::Forward { is_silent, length } => {
                writer.count_refusal(self.next_name(), Refusal::Unanswered);
                if !is_silent {
                    write::error(writer.out(), error);
                }
                self.done.commands += length;
            }
            Step::Answer { length } => self.give_answer(length, writer, None)?,
        }
        self.done.steps += 1;
        Ok(())
    }
}
