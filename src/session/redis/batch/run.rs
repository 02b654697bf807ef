//! A batch is run: its commands are sent, and the client gets the replies and answers in order.

use std::time::{Duration, Instant};

use super::{Batch, READ_AT_ONCE_BYTES, Step};
use crate::backend::PooledConnection;
use crate::backend::large_values::LARGE_VALUE_BYTES;
use crate::balance::Balancer;
use crate::balance::slow::SharedAnswer;
use crate::metrics::{CommandId, Outcome, Refusal};
use crate::resp::write;
use crate::session::client::ClientHandle;
use crate::session::redis::replies::{ForwardError, Tried};
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
    ) -> Tried {
        let mut has_begun = false;
        while !self.is_done() {
            // All of it, unless the window has shrunk since it was gathered.
            let is_alone = target.attempt.open.as_ref().is_some_and(|open| open.is_one_by_one());
            if is_alone && has_begun {
                return Ok(());
            }
            // Nothing more is asked for a client that does not take what it has asked for.
            writer.wait_until_taken().map_err(ForwardError::Client)?;
            has_begun = true;
            let window = if is_alone { 1 } else { self.window };
            let end = self.steps.len().min(self.done.steps + window);
            let ran = self.run_until(end, upstream, target, writer);
            if let Err(ForwardError::Backend(error)) = &ran {
                self.failed(error, end);
            }
            self.grow_window(ran?);
        }
        Ok(())
    }

    /// Does the steps before `end` in one exchange, or the first of them. Returns whether a reply was long.
    fn run_until(
        &mut self,
        end: usize,
        upstream: &mut Upstream,
        target: SendTarget,
        writer: &mut ReplyWriter,
    ) -> Tried<bool> {
        let (is_single, telling_step) = (end - self.done.steps == 1, self.telling_step(end));
        let exchange = Exchange { target, end, is_single, telling_step };
        let (mut has_long, mut begun) = (false, None);
        while self.done.steps < end {
            match self.steps[self.done.steps] {
                Step::Answer { length } => {
                    let connection = begun.as_ref().map(|(connection, _)| connection);
                    self.give_answer(length, writer, connection)?;
                }
                Step::Forward { is_silent, .. } => {
                    let (connection, time) = match &mut begun {
                        Some(begun) => begun,
                        none => {
                            let client = writer.client.handle();
                            none.insert(self.begin(end, upstream, target, client)?)
                        }
                    };
                    let relayed =
                        match self.relay_next(&exchange, connection, *time, is_silent, writer) {
                            Err(error @ ForwardError::NoScript(_)) => {
                                begun.into_iter().for_each(|(own, _)| upstream.release(own));
                                return Err(error);
                            }
                            relayed => relayed?,
                        };
                    has_long |= relayed == Relayed::InPieces;
                    writer.deliver_if_full(Some(connection))?;
                    self.skip(1);
                    // The server has made the other replies, too, and holds them. Without the connection it
                    // forgets them; they are asked for again, one by one.
                    let is_behind = writer.client.kept_bytes() as u64 >= LARGE_VALUE_BYTES;
                    if is_behind && self.done.steps < end && !upstream.is_watching() {
                        return Ok(true);
                    }
                }
            }
        }
        if let Some((connection, _)) = begun {
            upstream.release_or_share(connection, &target.attempt.backend.backend);
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
        &self,
        exchange: &Exchange,
        connection: &mut PooledConnection,
        time: Duration,
        is_silent: bool,
        writer: &mut ReplyWriter,
    ) -> Tried<Relayed> {
        let attempt = exchange.target.attempt;
        let open = attempt.open.as_deref();
        if let Some(open) = open.filter(|_| exchange.telling_step == Some(self.done.steps)) {
            connection.next_byte()?;
            match exchange.end == self.steps.len() {
                true => open.reply_began(),
                false => open.partial_reply_began(),
            }
        }
        let (start, bytes) = (writer.out.len(), writer.given.bytes);
        let relayed = match self.has_script && self.steps.len() == 1 {
            true => {
                let command = self.as_sent(self.commands.len() - self.done.commands);
                writer.relay_from_script(connection, is_silent, &command)
            }
            false => writer.relay(connection, is_silent),
        }?;
        // A script may return something else each time.
        let may_share = exchange.is_single && !is_silent && !self.has_script;
        if let Some(open) = open.filter(|_| may_share && relayed == Relayed::Whole) {
            open.share(&writer.out[start..]);
        }
        let bytes = writer.given.bytes - bytes;
        if bytes >= LARGE_VALUE_BYTES {
            writer.client.balancer.long_replies.note(self.next_command_bytes());
        }
        let outcome = match relayed {
            Relayed::Error => Outcome::ErrorReply,
            Relayed::Whole | Relayed::InPieces => Outcome::Answered,
        };
        let answered_by = Some((attempt.backend.backend.as_ref(), time));
        writer.complete(self.next_id(), answered_by, outcome);
        Ok(relayed)
    }

    /// Sends the commands before step `end`; the reply has begun, after so much time. A reply that is known to
    /// be long is asked for in its turn. After a long one, the next may be as long.
    fn begin(
        &self,
        end: usize,
        upstream: &mut Upstream,
        target: SendTarget,
        client: ClientHandle,
    ) -> Tried<(PooledConnection, Duration)> {
        let began = Instant::now();
        let lengths = self.steps[self.done.steps..end].iter().map(Step::command_bytes);
        let commands = &self.as_sent(lengths.sum());
        if !self.takes_turn() {
            return Ok((upstream.send(target, commands)?, began.elapsed()));
        }
        let turn = target.attempt.backend.large_values.turn(|| client.is_gone())?;
        let began = Instant::now();
        let mut connection = turn.ask(|| upstream.send(target, commands))?;
        connection.turn = Some(turn);
        Ok((connection, began.elapsed()))
    }

    /// The first command that is not done.
    fn next_command_bytes(&self) -> &[u8] {
        let length = self.steps.get(self.done.steps).map_or(0, Step::command_bytes);
        &self.commands[self.done.commands..][..length]
    }

    /// The number under which the first command that is not done is timed.
    fn next_id(&self) -> CommandId {
        self.steps.get(self.done.steps).map(Step::command).unwrap_or_default()
    }

    fn give_answer(
        &mut self,
        length: usize,
        writer: &mut ReplyWriter,
        connection: Option<&PooledConnection>,
    ) -> Tried {
        let end = self.done.answers + length;
        writer.out.extend_from_slice(&self.answers[self.done.answers..end]);
        self.done.answers = end;
        self.done.steps += 1;
        writer.deliver_if_full(connection)
    }

    /// Gives the answers that come before the next command. Returns whether it `is_silent`, if there is one.
    fn next_command(&mut self, writer: &mut ReplyWriter) -> Tried<Option<bool>> {
        while !self.is_done() {
            match self.steps[self.done.steps] {
                Step::Forward { is_silent, .. } => return Ok(Some(is_silent)),
                Step::Answer { length } => self.give_answer(length, writer, None)?,
            }
        }
        Ok(None)
    }

    /// No backend could answer: the commands that are left get this error.
    pub fn refuse_rest(&mut self, error: &[u8], writer: &mut ReplyWriter) -> Tried {
        while !self.is_done() {
            self.refuse_one(error, Outcome::Refused(Refusal::Unanswered), writer)?;
        }
        Ok(())
    }

    /// The first command that is left gets the reply that another client got, who has asked the same.
    pub fn answer_one(
        &mut self,
        answer: &SharedAnswer,
        balancer: &Balancer,
        writer: &mut ReplyWriter,
    ) -> Tried {
        let Some(is_silent) = self.next_command(writer)? else { return Ok(()) };
        if !is_silent {
            writer.out.extend_from_slice(&answer.reply);
        }
        if let Some(backend) = balancer.backend(answer.backend) {
            let answered_by = Some((backend.backend.as_ref(), answer.sent_at.elapsed()));
            writer.complete(self.next_id(), answered_by, Outcome::Answered);
        }
        self.skip(1);
        Ok(())
    }

    /// The first command that is left gets this error.
    pub fn refuse_one(
        &mut self,
        error: &[u8],
        outcome: Outcome,
        writer: &mut ReplyWriter,
    ) -> Tried {
        let Some(is_silent) = self.next_command(writer)? else { return Ok(()) };
        writer.given.errors += 1;
        writer.complete(self.next_id(), None, outcome);
        if !is_silent {
            write::error(&mut writer.out, error);
        }
        self.skip(1);
        Ok(())
    }
}
