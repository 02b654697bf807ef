//! Commands that go on together: one write to a backend, and their replies in order.

use std::time::{Duration, Instant};

use super::outlet::{Outlet, Relayed};
use super::upstream::{Target, Upstream};
use super::{Failure, IDLE_CAPACITY_BYTES};
use crate::backend::{BackendError, Connection};
use crate::metrics::Refusal;
use crate::policy::{Policy, Refused, Verdict};
use crate::protocol::WireProtocol;
use crate::resp::{Command, CommandParser, write};

/// A batch ends when it has so many bytes of commands, or as many of them as the window has.
const MAX_BYTES: usize = 64 * 1024;

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
    /// Whether there is anything but replies that the client gets as they come.
    has_other: bool,
    steps: Vec<Step>,
    commands: Vec<u8>,
    answers: Vec<u8>,
    /// The steps, and bytes of commands and of answers, that are done with.
    done: Progress,
}

#[derive(Default)]
struct Progress {
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
            has_other: false,
            steps: Vec::new(),
            commands: Vec::new(),
            answers: Vec::new(),
            done: Progress::default(),
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

    /// Whether it may go by a shared connection: short reads, as far as can be known, whose replies
    /// go to the client one after the other.
    pub fn is_plain(&self) -> bool {
        !self.is_empty() && !self.has_other && !self.has_script && !self.is_behind_long
    }

    /// The commands, in the form in which they are sent.
    pub fn commands(&self) -> &[u8] {
        &self.commands
    }

    /// How many bytes of commands there are.
    pub fn bytes(&self) -> usize {
        self.commands.len()
    }

    /// Takes over all steps of `other`, none of which is done; that is empty then, and its window
    /// is as after short replies.
    pub fn take_over(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(&mut self.steps, &mut other.steps);
            std::mem::swap(&mut self.commands, &mut other.commands);
        } else {
            self.steps.append(&mut other.steps);
            self.commands.extend_from_slice(&other.commands);
        }
        other.clear();
        other.grow_window(false);
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

    pub fn forward(&mut self, command: &Command, is_silent: bool) {
        let bytes = command.bytes();
        self.has_other |= is_silent;
        self.commands.extend_from_slice(bytes);
        self.steps.push(Step::Forward { length: bytes.len(), is_silent });
    }

    pub fn forward_script(&mut self, command: &Command, is_silent: bool) {
        self.has_script = true;
        self.forward(command, is_silent);
    }

    pub fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.answers.len();
        write(&mut self.answers);
        self.has_other = true;
        self.steps.push(Step::Answer { length: self.answers.len() - before });
    }

    /// Does what is left to do. When it fails, what was done stays done.
    pub fn run(
        &mut self,
        upstream: &mut Upstream,
        target: Target,
        outlet: &mut Outlet,
    ) -> Result<(), Failure> {
        let mut has_long = false;
        while self.done.steps < self.steps.len() {
            // All of it, unless the window has shrunk since it was gathered.
            let end = self.steps.len().min(self.done.steps + self.window);
            has_long |= self.run_until(end, upstream, target, outlet)?;
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
        target: Target,
        outlet: &mut Outlet,
    ) -> Result<bool, Failure> {
        let (mut has_long, mut begun) = (false, None);
        while self.done.steps < end {
            match self.steps[self.done.steps] {
                Step::Answer { length } => {
                    let connection = begun.as_ref().map(|(connection, _)| connection);
                    self.give_answer(length, outlet, connection)?;
                }
                Step::Forward { length, is_silent } => {
                    let (connection, time) = match &mut begun {
                        Some(begun) => begun,
                        none => none.insert(self.begin(end, upstream, target)?),
                    };
                    let passed = match self.has_script && self.steps.len() == 1 {
                        true => outlet.relay_from_script(connection, is_silent, &self.commands),
                        false => outlet.relay(connection, is_silent),
                    };
                    let passed = self.note_timeout(end, passed)?;
                    has_long |= passed == Relayed::InPieces;
                    let metrics = &target.attempt.backend.metrics;
                    metrics.answer(WireProtocol::Resp, *time);
                    if passed == Relayed::Error {
                        metrics.error_replies.add_one();
                    }
                    outlet.deliver_if_full_beside(Some(connection))?;
                    self.done.commands += length;
                }
            }
            self.done.steps += 1;
        }
        if let Some((connection, _)) = begun {
            upstream.release_or_share(connection, target.attempt.backend);
        }
        Ok(has_long)
    }

    /// Sends the commands before step `end`; the reply has begun, after so much time. Behind a long
    /// reply the next may be as long: then it is asked for in its turn.
    fn begin(
        &mut self,
        end: usize,
        upstream: &mut Upstream,
        target: Target,
    ) -> Result<(Connection, Duration), Failure> {
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
            && error.is_timeout()
        {
            turn.give_up();
        }
        drop(turn);
        let connection = self.note_timeout(end, begun.map_err(Failure::Backend))?;
        Ok((connection, began.elapsed()))
    }

    /// Redis may work on all commands of a batch before it sends the first reply. If that took too
    /// long, fewer are sent from now on.
    fn note_timeout<T>(&mut self, end: usize, done: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(Failure::Backend(BackendError::TimedOut)) = done {
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

    /// Whether a script is among the commands.
    pub fn has_script(&self) -> bool {
        self.has_script
    }

    fn give_answer(
        &mut self,
        length: usize,
        outlet: &mut Outlet,
        connection: Option<&Connection>,
    ) -> Result<(), Failure> {
        let end = self.done.answers + length;
        outlet.out().extend_from_slice(&self.answers[self.done.answers..end]);
        self.done.answers = end;
        outlet.deliver_if_full_beside(connection)
    }

    /// No backend could answer: the commands that are left get this error.
    pub fn refuse_rest(&mut self, error: &str, outlet: &mut Outlet) -> Result<(), Failure> {
        while let Some(step) = self.steps.get(self.done.steps) {
            match *step {
                Step::Forward { is_silent, .. } => {
                    outlet.count_refusal(Refusal::Unanswered);
                    if !is_silent {
                        write::error(outlet.out(), error);
                    }
                }
                Step::Answer { length } => self.give_answer(length, outlet, None)?,
            }
            self.done.steps += 1;
        }
        Ok(())
    }

    /// Judges the commands that are left anew: what may not pass any more gets its error.
    pub fn judge_again(&mut self, policy: &Policy, outlet: &mut Outlet) {
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
                            self.forward(&command, is_silent);
                            continue;
                        }
                        Verdict::Refuse(Refused { why, error }) => {
                            outlet.count_refusal(why);
                            error
                        }
                        // Now it is one of our own, which has to come anew.
                        _ => {
                            outlet.count_refusal(Refusal::Unanswered);
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
        self.done = Progress::default();
        (self.has_script, self.has_other) = (false, false);
        self.steps.shrink_to(IDLE_CAPACITY_BYTES / size_of::<Step>());
        self.commands.shrink_to(IDLE_CAPACITY_BYTES);
        self.answers.shrink_to(IDLE_CAPACITY_BYTES);
    }
}
