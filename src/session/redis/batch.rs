//! Commands that go on together: one write to a backend, and their replies in order.

use std::time::{Duration, Instant};

use super::reply_writer::{Relayed, ReplyWriter};
use super::upstream::{SendTarget, Upstream};
use super::{ForwardError, IDLE_CAPACITY_BYTES};
use crate::backend::{BackendError, Class, PooledConnection};
use crate::balance::Balancer;
use crate::balance::slow::{ReadInfo, ReadKey, ReadTraits, SharedAnswer, shown};
use crate::metrics::Refusal;
use crate::net::protocol::WireProtocol;
use crate::policy::{self, Policy, Refused, Verdict};
use crate::resp::{Command, CommandParser, write};

/// A batch ends when it has so many bytes of commands, or as many of them as the window has.
const MAX_BYTES: usize = 64 * 1024;

/// A server reads so much of a client at once, and does all of it before it replies (`PROTO_IOBUF_LEN` in
/// Redis' server.h).
pub const READ_AT_ONCE_BYTES: usize = 16 * 1024;

/// The first window, in commands. Redis makes the replies to a whole batch before others get a
/// turn, and keeps what we have not read yet: so how much is asked for at once is felt out. Each
/// batch of short replies doubles the window, a long reply shrinks it to a single command.
const FIRST_WINDOW: usize = 64;

/// The largest window.
const MAX_WINDOW: usize = 1024;

/// The first window behind a timeout. It doubles up to half of what timed out, …
const FIRST_WINDOW_BEHIND_A_TIMEOUT: usize = 2;
/// … and that bound grows by so much a batch, as it may have been the backend's fault.
const WINDOW_GROWTH: usize = 4;

/// The version of commands that were judged by different ones: that of no table.
const MIXED_VERSIONS: u64 = u64::MAX;

/// What is to be given to the client, in order.
enum Step {
    /// The reply to a command of so many bytes, unless it `is_silent`.
    Forward { length: usize, is_silent: bool },
    /// So many bytes of our own.
    Answer { length: usize },
}

impl Step {
    /// How many bytes of commands are sent for it.
    fn command_bytes(&self) -> usize {
        match self {
            Self::Forward { length, .. } => *length,
            Self::Answer { .. } => 0,
        }
    }
}

/// Commands to forward, and answers of our own between them.
pub struct Batch {
    /// So many steps at most.
    window: usize,
    /// The window does not grow beyond.
    max_window: usize,
    /// Whether a reply of the last batch was long: then the next may be as well.
    is_behind_long: bool,
    /// Whether a script is among the commands.
    has_script: bool,
    /// What is known of how long the commands take.
    traits: ReadTraits,
    /// Whether there is anything but replies that the client gets as they come.
    has_other: bool,
    /// The version of the backends' commands by which all of its commands were judged.
    version: u64,
    steps: Vec<Step>,
    commands: Vec<u8>,
    answers: Vec<u8>,
    /// The steps, and bytes of commands and of answers, that are done with.
    done: BatchProgress,
}

#[derive(Default)]
struct BatchProgress {
    steps: usize,
    commands: usize,
    answers: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            max_window: MAX_WINDOW,
            is_behind_long: false,
            has_script: false,
            traits: ReadTraits::QUICK,
            has_other: false,
            version: 0,
            steps: Vec::new(),
            commands: Vec::new(),
            answers: Vec::new(),
            done: BatchProgress::default(),
        }
    }
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether all is done.
    pub fn is_done(&self) -> bool {
        self.done.steps == self.steps.len()
    }

    /// Whether it is one of short reads, as far as can be known, whose replies go to the client one
    /// after the other.
    pub fn is_plain(&self) -> bool {
        let is_quick = self.traits.class == Class::Quick && !self.traits.has_one_try;
        let is_usual = !self.has_other && !self.has_script && !self.is_behind_long;
        !self.is_empty() && is_quick && is_usual
    }

    /// What is known of how long the commands take.
    pub fn traits(&self) -> ReadTraits {
        self.traits
    }

    /// What the commands that are left are known by: those that are not quick or, where all are, each.
    /// Where it has to go alone, of the first only.
    /// `context` is what replies depend on beside the commands.
    pub fn read_info(
        &self,
        is_alone: bool,
        context: u64,
        balancer: &Balancer,
        policy: &Policy,
    ) -> ReadInfo {
        let kinds = &balancer.slow_lane.kinds;
        let (mut keys, mut labels) = (Vec::new(), Vec::new());
        let max = if is_alone { 1 } else { usize::MAX };
        for_each_command(&self.commands[self.done.commands..], max, |command| {
            let shape = policy.shape(command);
            keys.push(balancer.read_key(command, shape));
            let key = command.arg(shape.key_arg(command)).unwrap_or_default();
            labels.push((command.name().to_vec(), key.to_vec()));
        });
        let is_quick: Vec<bool> = keys.iter().map(|key| kinds.class(key) == Class::Quick).collect();
        let suspects = |at: &usize| !is_quick[*at] || is_quick.iter().all(|is_quick| *is_quick);
        let suspects: Vec<usize> = (0..keys.len()).filter(suspects).collect();
        let label = match suspects.first().map(|first| &labels[*first]) {
            Some((name, key)) if suspects.len() == 1 => shown(name, key),
            Some((name, key)) => format!("{} and {} more", shown(name, key), suspects.len() - 1),
            None => String::new(),
        };
        let is_single = keys.len() == 1;
        let keys: Vec<ReadKey> = suspects.into_iter().map(|at| keys[at]).collect();
        let context = (is_single && !self.has_script).then_some(context);
        ReadInfo { class: self.traits.class, keys, label, is_alone, context }
    }

    /// As it may go by a shared connection to a server whose commands are of this version; `None` where
    /// it must not: it is not plain, or was judged by other commands.
    pub fn as_plain(&mut self, version: u64) -> Option<PlainBatch<'_>> {
        let may_go = self.is_plain() && self.version == version && self.done.steps == 0;
        may_go.then_some(PlainBatch { batch: self })
    }

    /// As if none of it were done.
    pub fn restart(&mut self) {
        self.done = BatchProgress::default();
    }

    /// The version of the backends' commands by which its commands were judged.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many bytes of commands there are.
    pub fn bytes(&self) -> usize {
        self.commands.len()
    }

    /// The first steps, which are replies to commands, are done.
    pub fn skip(&mut self, steps: usize) {
        let lengths = self.steps[self.done.steps..][..steps].iter().map(Step::command_bytes);
        self.done.commands += lengths.sum::<usize>();
        self.done.steps += steps;
    }

    pub fn is_full(&self) -> bool {
        self.steps.len() >= self.window
            || self.commands.len() >= MAX_BYTES
            || self.answers.len() >= MAX_BYTES
    }

    /// A command that was judged by this version of the backends' commands.
    pub fn forward(
        &mut self,
        command: &Command,
        version: u64,
        is_silent: bool,
        traits: ReadTraits,
    ) {
        let bytes = command.bytes();
        self.version = match self.commands.is_empty() || self.version == version {
            true => version,
            false => MIXED_VERSIONS,
        };
        self.traits = self.traits.with(traits);
        self.has_other |= is_silent;
        self.commands.extend_from_slice(bytes);
        self.steps.push(Step::Forward { length: bytes.len(), is_silent });
    }

    pub fn forward_script(
        &mut self,
        command: &Command,
        version: u64,
        is_silent: bool,
        traits: ReadTraits,
    ) {
        self.has_script = true;
        self.forward(command, version, is_silent, traits);
    }

    pub fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.answers.len();
        write(&mut self.answers);
        self.has_other = true;
        self.steps.push(Step::Answer { length: self.answers.len() - before });
    }

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

    /// The batch is done, and how much the next may ask for follows from it.
    fn grow_window(&mut self, has_long: bool) {
        self.max_window = (self.max_window + WINDOW_GROWTH).min(MAX_WINDOW);
        self.window = if has_long { 1 } else { (self.window * 2).min(self.max_window) };
        self.is_behind_long = has_long;
    }

    /// Does the steps before `end` in one exchange; true when a reply was long.
    fn run_until(
        &mut self,
        end: usize,
        upstream: &mut Upstream,
        target: SendTarget,
        writer: &mut ReplyWriter,
    ) -> Result<bool, ForwardError> {
        let (mut has_long, mut begun) = (false, None);
        let open = target.attempt.open.as_ref();
        let is_single = end - self.done.steps == 1;
        let is_forward = |step: &Step| matches!(step, Step::Forward { .. });
        let sent = &self.steps[self.done.steps..end];
        let bytes: usize = sent.iter().map(Step::command_bytes).sum();
        // What a server has read at once it has done before it writes the first reply.
        let tells = match bytes <= READ_AT_ONCE_BYTES {
            true => sent.iter().position(is_forward),
            false => sent.iter().rposition(is_forward),
        };
        let tells = tells.map(|at| self.done.steps + at);
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
                    if let Some(open) = open.filter(|_| tells == Some(self.done.steps)) {
                        connection.next_byte()?;
                        match end == self.steps.len() {
                            true => open.note_answer(),
                            false => open.note_part(),
                        }
                    }
                    let start = writer.out().len();
                    let passed = match self.has_script && self.steps.len() == 1 {
                        true => writer.relay_from_script(connection, is_silent, &self.commands),
                        false => writer.relay(connection, is_silent),
                    };
                    let passed = self.note_timeout(end, passed)?;
                    // What a script says may be another thing each time.
                    if let Some(open) = open.filter(|_| is_single && !is_silent && !self.has_script)
                        && passed == Relayed::Whole
                    {
                        open.share(&writer.out()[start..]);
                    }
                    has_long |= passed == Relayed::InPieces;
                    let metrics = &target.attempt.backend.metrics;
                    metrics.answer(WireProtocol::Resp, *time);
                    if passed == Relayed::Error {
                        metrics.error_replies.add_one();
                    }
                    writer.deliver_if_full_beside(Some(connection))?;
                    self.done.commands += length;
                }
            }
            self.done.steps += 1;
        }
        if let Some((connection, _)) = begun {
            upstream.release_or_share(connection, &target.attempt.backend.backend);
        }
        Ok(has_long)
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
        let turn = match self.is_behind_long {
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

    /// The steps that are not done, up to `end`, were sent and timed out.
    fn shrink_window(&mut self, end: usize) {
        let sent = end - self.done.steps;
        self.max_window = (sent / 2).max(1);
        self.window = self.max_window.min(FIRST_WINDOW_BEHIND_A_TIMEOUT);
    }

    /// All steps that are not done were sent, and `error` came of it.
    pub fn failed(&mut self, error: &BackendError) {
        if matches!(error, BackendError::TimedOut) {
            self.shrink_window(self.steps.len());
        }
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
            backend.metrics.answer(WireProtocol::Resp, answer.sent_at.elapsed());
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
                writer.count_refusal(Refusal::Unanswered);
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

    /// Judges the commands that are left anew, by this version of the backends' commands: what may not
    /// pass any more gets its error.
    pub fn judge_again(&mut self, policy: &Policy, version: u64, writer: &mut ReplyWriter) {
        let mut old = std::mem::take(self);
        (self.window, self.max_window) = (old.window, old.max_window);
        (self.is_behind_long, self.has_script) = (old.is_behind_long, old.has_script);
        let mut parser = CommandParser::new(usize::MAX);
        for step in old.steps.drain(old.done.steps..) {
            match step {
                Step::Answer { length } => {
                    let answer = &old.answers[old.done.answers..][..length];
                    self.answer(|out| out.extend_from_slice(answer));
                    old.done.answers += length;
                }
                Step::Forward { length, is_silent } => {
                    let bytes = &old.commands[old.done.commands..][..length];
                    old.done.commands += length;
                    // It was whole when it was judged first.
                    let Ok((_, Some(command))) = parser.parse(bytes) else { continue };
                    let error = match policy.verdict(&command) {
                        Verdict::Forward => {
                            self.has_script |= policy::is_script(&command);
                            self.forward(&command, version, is_silent, old.traits);
                            continue;
                        }
                        Verdict::Refuse(Refused { why, error }) => {
                            writer.count_refusal(why);
                            error
                        }
                        // Now it is one of our own, which has to come anew.
                        _ => {
                            writer.count_refusal(Refusal::Unanswered);
                            b"ERR try again".to_vec()
                        }
                    };
                    if !is_silent {
                        self.answer(|out| write::error(out, &error));
                    }
                }
            }
        }
    }

    pub fn clear(&mut self) {
        self.steps.clear();
        self.commands.clear();
        self.answers.clear();
        self.done = BatchProgress::default();
        (self.has_script, self.has_other) = (false, false);
        self.traits = ReadTraits::QUICK;
        self.steps.shrink_to(IDLE_CAPACITY_BYTES / size_of::<Step>());
        self.commands.shrink_to(IDLE_CAPACITY_BYTES);
        self.answers.shrink_to(IDLE_CAPACITY_BYTES);
    }
}

/// Parses commands in the canonical form, `max` at most.
fn for_each_command(bytes: &[u8], max: usize, mut each: impl FnMut(&Command)) {
    let mut parser = CommandParser::new(usize::MAX);
    let mut rest = bytes;
    for _ in 0..max {
        let Ok((length, Some(command))) = parser.parse(rest) else { return };
        each(&command);
        rest = &rest[length..];
    }
}

/// A batch that may go by a shared connection: its steps are replies to commands, all of which were
/// judged by the commands of the connection's server.
///
/// Nothing else can be sent there, since nothing else shows its bytes.
pub struct PlainBatch<'a> {
    batch: &'a mut Batch,
}

impl PlainBatch<'_> {
    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.batch.steps.len()
    }

    /// The commands, in the form in which they are sent.
    pub fn commands(&self) -> &[u8] {
        &self.batch.commands
    }

    /// They are sent: moves them to the end of `sent`, which holds nothing but such commands. The batch
    /// is empty then, and its window is as after short replies.
    pub fn move_to(self, sent: &mut Batch) {
        let batch = self.batch;
        if sent.is_empty() {
            std::mem::swap(&mut sent.steps, &mut batch.steps);
            std::mem::swap(&mut sent.commands, &mut batch.commands);
            sent.version = batch.version;
        } else {
            sent.steps.append(&mut batch.steps);
            sent.commands.extend_from_slice(&batch.commands);
            if sent.version != batch.version {
                sent.version = MIXED_VERSIONS;
            }
        }
        batch.clear();
        batch.grow_window(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(batch: &mut Batch, version: u64) {
        let mut parser = CommandParser::new(usize::MAX);
        let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        let (_, command) = parser.parse(bytes).expect("a command");
        batch.forward(&command.expect("a whole one"), version, false, ReadTraits::QUICK);
    }

    #[test]
    fn only_commands_of_one_version_are_plain() {
        let mut batch = Batch::default();
        assert!(batch.as_plain(0).is_none(), "there is nothing in it");
        forward(&mut batch, 1);
        assert!(batch.as_plain(1).is_some());
        assert!(batch.as_plain(2).is_none(), "another table");
        forward(&mut batch, 2);
        assert!(batch.as_plain(1).is_none() && batch.as_plain(2).is_none(), "of two tables");
        batch.clear();
        forward(&mut batch, 2);
        assert!(batch.as_plain(2).is_some());
    }

    #[test]
    fn what_the_client_gets_without_a_command_is_not_plain() {
        let mut batch = Batch::default();
        forward(&mut batch, 1);
        batch.answer(|out| out.extend_from_slice(b"+OK\r\n"));
        assert!(batch.as_plain(1).is_none());
    }

    #[test]
    fn what_is_sent_keeps_the_version_that_it_was_judged_by() {
        let (mut sent, mut batch) = (Batch::default(), Batch::default());
        for version in [3, 3] {
            forward(&mut batch, version);
            batch.as_plain(version).expect("a plain one").move_to(&mut sent);
            assert!(batch.is_empty());
        }
        assert_eq!((sent.len(), sent.version()), (2, 3));
        forward(&mut batch, 4);
        batch.as_plain(4).expect("a plain one").move_to(&mut sent);
        assert_eq!(sent.version(), MIXED_VERSIONS, "it has to be judged again");
    }
}
