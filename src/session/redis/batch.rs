//! A batch: commands of one client that are sent together, and answers of our own between them.
//!
//! Redis makes the replies to a whole batch before others get a turn, and keeps what is not read yet. So a
//! session tries out how much it may ask for at once: that is the batch's window.

mod run;

use std::borrow::Cow;

use super::reply_writer::ReplyWriter;
use crate::backend::{BackendError, Class};
use crate::balance::Balancer;
use crate::balance::slow::{ReadInfo, ReadKey, ReadProfile, shown};
use crate::metrics::{CommandId, Refusal, SentCommands};
use crate::policy::users::User;
use crate::policy::{self, Policy, Refused, Verdict, scripts};
use crate::resp::{Command, CommandParser, write};

/// Length of the commands, or of the answers, from which on a batch is full.
const MAX_BYTES: usize = 64 * 1024;

/// Number of bytes that a server reads of a client at once, all of which it works on before it replies
/// (`PROTO_IOBUF_LEN` in Redis' server.h).
pub const READ_AT_ONCE_BYTES: usize = 16 * 1024;

/// Number of commands in the first window. Each exchange of short replies doubles the window; a long reply
/// shrinks it to a single command.
const FIRST_WINDOW: usize = 64;

/// Number of commands in the largest window.
const MAX_WINDOW: usize = 1024;

/// The first window after a timeout. It doubles up to half of the batch that timed out.
const FIRST_WINDOW_AFTER_TIMEOUT: usize = 2;

/// Number of commands by which that bound grows with each batch: the backend may have been to blame.
const WINDOW_GROWTH: usize = 4;

/// Version of a batch whose commands were judged by different versions. No table has it.
const MIXED_VERSIONS: u64 = u64::MAX;

/// Number of bytes that each buffer of a client keeps while it is idle.
pub const IDLE_CAPACITY_BYTES: usize = 1024;

/// One thing that the client is to be given.
enum Step {
    /// The reply to the next `length` bytes of commands, which the client gets unless it `is_silent`.
    Forward { length: usize, is_silent: bool, command: CommandId },
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

    /// The number under which its command is timed.
    fn command(&self) -> CommandId {
        match self {
            Self::Forward { command, .. } => *command,
            Self::Answer { .. } => CommandId::default(),
        }
    }
}

/// Commands that are sent together, and answers of our own between them.
pub struct Batch {
    /// Number of steps with which the batch is full.
    window: usize,
    /// Number of steps beyond which the window does not grow.
    max_window: usize,
    /// Whether a reply of the last exchange was unexpectedly long: then the next ones may be as well.
    is_after_long: bool,
    /// Whether there is a read in it whose reply was long a short time ago.
    pub is_long: bool,
    /// Whether a script is among the commands.
    pub has_script: bool,
    /// What is known of how long the commands take.
    pub profile: ReadProfile,
    /// Whether the client gets anything but the replies as they come.
    has_other: bool,
    /// The version of the backends' commands by which all of its commands were judged.
    pub version: u64,
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
            is_long: false,
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
        let is_usual = !self.has_other && !self.has_script;
        !self.is_empty() && is_quick && is_usual && !self.takes_turn()
    }

    /// Whether it waits for its turn, as its replies are long or may be.
    pub fn takes_turn(&self) -> bool {
        self.is_long || self.is_after_long
    }

    /// Takes note that replies to what is left are long, if they are known to be.
    pub fn look_up_long(&mut self, is_known: impl Fn(&[u8]) -> bool) {
        let mut at = self.done.commands;
        for step in &self.steps[self.done.steps..] {
            let end = at + step.command_bytes();
            if is_known(&self.commands[at..end]) {
                (self.is_long, self.window) = (true, 1);
            }
            at = end;
        }
    }

    /// The batch as it may go by a shared connection to a server whose commands are of this version.
    /// `None` where it is not plain, or was judged by another version.
    pub fn as_plain(&mut self, version: u64) -> Option<PlainBatch<'_>> {
        let may_go = self.is_plain() && self.version == version && self.done.steps == 0;
        may_go.then_some(PlainBatch { batch: self })
    }

    /// The next `length` bytes of commands as they are sent. A script, which is alone, is sent so that it only reads.
    fn as_sent(&self, length: usize) -> Cow<'_, [u8]> {
        let commands = &self.commands[self.done.commands..][..length];
        match self.has_script {
            true => scripts::as_read_only(commands),
            false => Cow::Borrowed(commands),
        }
    }

    /// Begins again, as if nothing were done.
    pub fn restart(&mut self) {
        self.done = BatchProgress::default();
    }

    /// How many bytes of commands there are.
    pub fn bytes(&self) -> usize {
        self.commands.len()
    }

    /// How much memory it takes.
    pub fn held_bytes(&self) -> usize {
        self.commands.capacity()
            + self.answers.capacity()
            + self.steps.capacity() * size_of::<Step>()
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

    /// Adds a command that was judged by this version of the backends' commands, and is timed under this number. (For
    /// a script, the caller sets `has_script`.)
    pub fn forward(
        &mut self,
        command: &Command,
        id: CommandId,
        version: u64,
        is_silent: bool,
        profile: ReadProfile,
    ) {
        let bytes = command.bytes();
        let is_same = self.commands.is_empty() || self.version == version;
        self.version = if is_same { version } else { MIXED_VERSIONS };
        self.profile = self.profile.with(profile);
        self.has_other |= is_silent;
        self.commands.extend_from_slice(bytes);
        self.steps.push(Step::Forward { length: bytes.len(), is_silent, command: id });
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
    pub fn judge_again(
        &mut self,
        policy: &Policy,
        user: Option<&User>,
        version: u64,
        writer: &mut ReplyWriter,
    ) {
        let mut old = std::mem::take(self);
        (self.window, self.max_window) = (old.window, old.max_window);
        (self.is_after_long, self.has_script) = (old.is_after_long, old.has_script);
        self.is_long = old.is_long;
        let mut parser = CommandParser::new(usize::MAX);
        for step in old.steps.drain(old.done.steps..) {
            match step {
                Step::Answer { length } => {
                    let answer = &old.answers[old.done.answers..][..length];
                    self.answer(|out| out.extend_from_slice(answer));
                    old.done.answers += length;
                }
                Step::Forward { length, is_silent, command: id } => {
                    let bytes = &old.commands[old.done.commands..][..length];
                    old.done.commands += length;
                    // It was whole when it was judged first.
                    let Ok((_, Some(command))) = parser.parse(bytes) else { continue };
                    let (why, error) = match policy.verdict_for(user, &command) {
                        Verdict::Forward => {
                            self.has_script |= policy::is_script(&command);
                            self.forward(&command, id, version, is_silent, old.profile);
                            continue;
                        }
                        Verdict::Refuse(Refused { why, error }) => (why, error),
                        // The session would answer it itself now, for which it is too late.
                        _ => (Refusal::Unanswered, b"ERR try again".to_vec()),
                    };
                    writer.count_refusal(why);
                    if !is_silent {
                        self.answer(|out| write::error(out, &error));
                    }
                }
            }
        }
    }

    /// An exchange is done, and how much the next may ask for follows from it.
    pub fn grow_window(&mut self, has_long: bool) {
        self.max_window = (self.max_window + WINDOW_GROWTH).min(MAX_WINDOW);
        self.window = if has_long { 1 } else { (self.window * 2).min(self.max_window) };
        // A reply that was known to be long tells nothing of others.
        self.is_after_long = has_long && !self.is_long;
    }

    /// The steps that are not done, up to `end`, were sent, and `error` came of it. Redis may work on all
    /// commands of a batch before it sends the first reply. If that took too long, fewer are sent from now
    /// on.
    pub fn failed(&mut self, error: &BackendError, end: usize) {
        if matches!(error, BackendError::TimedOut) {
            self.max_window = ((end - self.done.steps) / 2).max(1);
            self.window = self.max_window.min(FIRST_WINDOW_AFTER_TIMEOUT);
        }
    }

    /// Returns the keys by which the slow lane knows the commands that are left: those that are not quick
    /// or, where all are, each. Of commands that go alone that is the first only. `context` stands for what
    /// replies depend on beside the commands.
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
        let mut parser = CommandParser::new(usize::MAX);
        let mut rest = &self.commands[self.done.commands..];
        while keys.len() < max
            && let Ok((length, Some(command))) = parser.parse(rest)
        {
            let shape = policy.shape(&command);
            keys.push(balancer.read_key(&command, shape));
            let key = command.arg(shape.key_arg(&command)).unwrap_or_default();
            labels.push((command.name().to_vec(), key.to_vec()));
            rest = &rest[length..];
        }
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
        ReadInfo { class: self.profile.class, keys, label, is_alone, context }
    }

    /// Empties the batch, and gives back the memory of a large one.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.commands.clear();
        self.answers.clear();
        self.restart();
        (self.has_script, self.has_other, self.is_long) = (false, false, false);
        self.profile = ReadProfile::QUICK;
        self.steps.shrink_to(IDLE_CAPACITY_BYTES / size_of::<Step>());
        self.commands.shrink_to(IDLE_CAPACITY_BYTES);
        self.answers.shrink_to(IDLE_CAPACITY_BYTES);
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

    /// The numbers under which they are timed.
    pub fn sent_commands(&self) -> SentCommands {
        SentCommands::of(self.batch.steps.iter().map(Step::command))
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
mod tests;
