//! The options of XREAD, as Redis finds them.

use super::verdict::c_string;
use crate::resp::Command;

/// Where an XREAD has what decides whether and how it blocks. Arguments are counted from the command's name, number 0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct XreadOptions {
    /// The numbers of all arguments BLOCK; the last one counts.
    pub blocks: Vec<usize>,
    /// The number of the argument STREAMS, which ends the options.
    pub streams: Option<usize>,
}

impl XreadOptions {
    /// Finds the options. Words that are none are skipped: the backend refuses them.
    pub fn of(command: &Command) -> Self {
        let mut options = Self::default();
        let mut at = 1;
        while let Some(option) = command.arg(at) {
            // Redis compares up to a NUL.
            let option = c_string(option, b"STREAMS".len() + 1);
            let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
            if is(b"STREAMS") {
                options.streams = Some(at);
                break;
            }
            if is(b"BLOCK") {
                options.blocks.push(at);
            }
            // Both have a value.
            at += if is(b"BLOCK") || is(b"COUNT") { 2 } else { 1 };
        }
        options
    }

    /// Whether it waits where there is nothing to read.
    pub fn may_block(&self) -> bool {
        !self.blocks.is_empty()
    }
}
