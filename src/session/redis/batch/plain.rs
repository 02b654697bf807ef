//! Batches that may go by a shared connection.

use super::{Batch, MIXED_VERSIONS};

/// A batch that may go by a shared connection: its steps are replies to commands, all of which were
/// judged by the commands of the connection's server.
///
/// Nothing else can be sent there, since nothing else shows its bytes.
pub struct PlainBatch<'a> {
    pub(super) batch: &'a mut Batch,
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
