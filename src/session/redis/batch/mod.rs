//! A batch: commands of one client that are sent together, and answers of our own between them.

mod plain;
mod read_info;
mod run;
mod window;

pub use self::plain::PlainBatch;
use self::window::{FIRST_WINDOW, MAX_WINDOW};
use super::memory::IDLE_CAPACITY_BYTES;
use super::reply_writer::ReplyWriter;
use crate::backend::Class;
use crate::balance::slow::ReadProfile;
use crate::metrics::Refusal;
use crate::policy::{self, Policy, Refused, Verdict};
use crate::resp::{Command, CommandParser, write};

/// Length of the commands, or of the answers, from which on a batch is full.
const MAX_BYTES: usize = 64 * 1024;

/// Number of bytes that a server reads of a client at once, all of which it works on before it replies
/// (`PROTO_IOBUF_LEN` in Redis' server.h).
pub const READ_AT_ONCE_BYTES: usize = 16 * 1024;

/// Version of a batch whose commands were judged by different versions. No table has it.
const MIXED_VERSIONS: u64 = u64::MAX;

/// One thing that the client is to be given.
enum Step {
    /// The reply to the next `length` bytes of commands, which the client gets unless it `is_silent`.
    Forward { length: usize, is_silent: bool },
    /// The next `length` bytes of answers of our own.
    Answer { length: usize },
}

impl Step {
    /// Number of bytes of commands that are sent for it.
    fn command_bytes(&self) -> usize {
        match self {
            Self::Forward { length, .. } => *length,
            Self::Answer { .. } => 0,
        }
    }
}

/// Commands that are sent together, and answers of our own between them.
pub struct Batch {
    /// Number of steps with which the batch is full.
    window: usize,
    /// Number of steps beyond which the window does not grow.
    max_window: usize,
    /// Whether a reply of the last batch was long: then the next ones may be as well.
    is_after_long: bool,
    /// Whether a script is among the commands.
    has_script: bool,
    /// What is known of how long the commands take.
    profile: ReadProfile,
    /// Whether the client gets anything but the replies as they come.
    has_other: bool,
    /// The version of the backends' commands by which all of its commands were judged.
    version: u64,
    steps: Vec<Step>,
    commands: Vec<u8>,
    answers: Vec<u8>,
    /// The part that is done.
    done: BatchProgress,
}

/// Numbers of steps, of bytes of commands and of bytes of answers.
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
            is_after_long: false,
            has_script: false,
            profile: ReadProfile::QUICK,
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

    /// Whether it is made of reads that are short, as far as is known, and whose replies the client gets as
    /// they come.
    pub fn is_plain(&self) -> bool {
        let is_quick = self.profile.class == Class::Quick && !self.profile.has_one_try;
        let is_usual = !self.has_other && !self.has_script && !self.is_after_long;
        !self.is_empty() && is_quick && is_usual
    }

    /// What is known of how long the commands take.
    pub fn profile(&self) -> ReadProfile {
        self.profile
    }

    /// The batch as it may go by a shared connection to a server whose commands are of this version.
    /// `None` where it is not plain, or was judged by another version.
    pub fn as_plain(&mut self, version: u64) -> Option<PlainBatch<'_>> {
        let may_go = self.is_plain() && self.version == version && self.done.steps == 0;
        may_go.then_some(PlainBatch { batch: self })
    }

    /// Begins again, as if nothing were done.
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

    /// Skips the next steps, which are replies to commands.
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

    /// Adds a command that was judged by this version of the backends' commands.
    pub fn forward(
        &mut self,
        command: &Command,
        version: u64,
        is_silent: bool,
        profile: ReadProfile,
    ) {
        let bytes = command.bytes();
        self.version = match self.commands.is_empty() || self.version == version {
            true => version,
            false => MIXED_VERSIONS,
        };
        self.profile = self.profile.with(profile);
        self.has_other |= is_silent;
        self.commands.extend_from_slice(bytes);
        self.steps.push(Step::Forward { length: bytes.len(), is_silent });
    }

    /// Adds a command that calls a script.
    pub fn forward_script(
        &mut self,
        command: &Command,
        version: u64,
        is_silent: bool,
        profile: ReadProfile,
    ) {
        self.has_script = true;
        self.forward(command, version, is_silent, profile);
    }

    /// Adds an answer of our own.
    pub fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.answers.len();
        write(&mut self.answers);
        self.has_other = true;
        self.steps.push(Step::Answer { length: self.answers.len() - before });
    }

    /// Judges the commands that are left again, by this version of the backends' commands. Those that may
    /// not pass any more get their error.
    pub fn judge_again(&mut self, policy: &Policy, version: u64, writer: &mut ReplyWriter) {
        let mut old = std::mem::take(self);
        (self.window, self.max_window) = (old.window, old.max_window);
        (self.is_after_long, self.has_script) = (old.is_after_long, old.has_script);
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
                            self.forward(&command, version, is_silent, old.profile);
                            continue;
                        }
                        Verdict::Refuse(Refused { why, error }) => {
                            writer.count_refusal(command.name(), why);
                            error
                        }
                        // The session would answer it itself now, for which it is too late.
                        _ => {
                            writer.count_refusal(command.name(), Refusal::Unanswered);
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

    /// Empties the batch, and gives back the memory of a large one.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.commands.clear();
        self.answers.clear();
        self.done = BatchProgress::default();
        (self.has_script, self.has_other) = (false, false);
        self.profile = ReadProfile::QUICK;
        self.steps.shrink_to(IDLE_CAPACITY_BYTES / size_of::<Step>());
        self.commands.shrink_to(IDLE_CAPACITY_BYTES);
        self.answers.shrink_to(IDLE_CAPACITY_BYTES);
    }
}

#[cfg(test)]
mod tests;
