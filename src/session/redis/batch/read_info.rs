//! What the slow lane is told of a batch.

use super::Batch;
use crate::backend::Class;
use crate::balance::Balancer;
use crate::balance::slow::{ReadInfo, ReadKey, shown};
use crate::policy::Policy;
use crate::resp::{Command, CommandParser};

impl Batch {
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
        ReadInfo { class: self.profile.class, keys, label, is_alone, context }
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
