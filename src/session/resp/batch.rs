//! Commands that go on together: one write to a backend, and their replies in order.

use super::Failure;
use super::outlet::Outlet;
use super::upstream::Upstream;
use crate::backend::{Backend, Mode};
use crate::policy::{Policy, Verdict};
use crate::resp::{CommandParser, write};

/// A batch ends when it has so many commands, …
const MAX_COMMANDS: usize = 1024;
/// … or so many bytes of them: Redis holds all replies to a batch that we have not read yet.
const MAX_BYTES: usize = 64 * 1024;

/// What a batch keeps of its memory while the client is idle.
const IDLE_CAPACITY_BYTES: usize = 1024;

/// What is to be given to the client, in order.
enum Step {
    /// The reply to a command of so many bytes, unless it `is_silent`.
    Forward { length: usize, is_silent: bool },
    /// So many bytes of our own.
    Answer { length: usize },
}

/// Commands to forward, and answers of our own between them.
#[derive(Default)]
pub struct Batch {
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

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.steps.len() >= MAX_COMMANDS || self.commands.len() >= MAX_BYTES
    }

    pub fn forward(&mut self, command: &[u8], is_silent: bool) {
        self.commands.extend_from_slice(command);
        self.steps.push(Step::Forward { length: command.len(), is_silent });
    }

    pub fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.answers.len();
        write(&mut self.answers);
        self.steps.push(Step::Answer { length: self.answers.len() - before });
    }

    /// Does what is left to do. When it fails, what was done stays done.
    pub fn run(
        &mut self,
        upstream: &mut Upstream,
        backend: &Backend,
        mode: Mode,
        commands_version: Option<u64>,
        outlet: &mut Outlet,
    ) -> Result<(), Failure> {
        let commands = &self.commands[self.done.commands..];
        let mut connection = upstream.begin(backend, mode, commands, commands_version)?;
        while let Some(step) = self.steps.get(self.done.steps) {
            match *step {
                Step::Forward { length, is_silent } => {
                    outlet.pass_on(connection.replies(), is_silent)?;
                    self.done.commands += length;
                }
                Step::Answer { length } => self.give_answer(length, outlet)?,
            }
            self.done.steps += 1;
        }
        upstream.end(backend, connection);
        Ok(())
    }

    fn give_answer(&mut self, length: usize, outlet: &mut Outlet) -> Result<(), Failure> {
        let end = self.done.answers + length;
        outlet.out().extend_from_slice(&self.answers[self.done.answers..end]);
        self.done.answers = end;
        outlet.deliver_if_full().map_err(Failure::Client)
    }

    /// No backend could answer: the commands that are left get this error.
    pub fn refuse_rest(&mut self, error: &str, outlet: &mut Outlet) -> Result<(), Failure> {
        while let Some(step) = self.steps.get(self.done.steps) {
            match *step {
                Step::Forward { is_silent: true, .. } => {}
                Step::Forward { .. } => write::error(outlet.out(), error),
                Step::Answer { length } => self.give_answer(length, outlet)?,
            }
            self.done.steps += 1;
        }
        Ok(())
    }

    /// Judges the commands that are left anew: what may not pass any more gets its error.
    pub fn judge_again(&mut self, policy: &Policy) {
        let mut old = std::mem::take(self);
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
                    match parser.parse(bytes) {
                        Ok((_, Some(command))) => match policy.verdict(&command) {
                            Verdict::Forward => self.forward(bytes, is_silent),
                            _ if is_silent => {}
                            Verdict::Refuse(text) => self.answer(|out| write::error(out, &text)),
                            _ => self.answer(|out| write::error(out, "ERR try again")),
                        },
                        _ => unreachable!("what was forwarded is a whole command"),
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
        self.steps.shrink_to(IDLE_CAPACITY_BYTES / size_of::<Step>());
        self.commands.shrink_to(IDLE_CAPACITY_BYTES);
        self.answers.shrink_to(IDLE_CAPACITY_BYTES);
    }
}
