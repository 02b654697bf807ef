//! The order of the commands on one connection that many threads send on, and the rule who writes.

use std::collections::VecDeque;
use std::io;

use crate::sync::{Mutex, lock};

/// Most bytes that may wait to be written. Redis reads at once, so there are so many only if it is
/// stopped.
const MAX_UNWRITTEN_BYTES: usize = 1024 * 1024;

/// Most entries that may be under way. Each client has a few at most.
const MAX_ENTRIES: usize = 64 * 1024;

/// Most memory that an empty buffer keeps.
const KEPT_CAPACITY_BYTES: usize = 64 * 1024;

/// Entries `E` in the order of their bytes.
///
/// The first sender writes at once. While its write is unanswered, later senders only append their bytes.
/// The reader writes these when all that was written is answered, as Nagle's algorithm does with
/// acknowledgements: fewer writes, of more bytes. Bytes that wait are never forgotten, because a reply is
/// to come as long as there are some.
#[derive(Debug)]
pub struct Pipeline<E> {
    state: Mutex<PipelineState<E>>,
}

#[derive(Debug)]
struct PipelineState<E> {
    /// Entries that the reader has not taken yet.
    entries: VecDeque<E>,
    /// Number of entries, the last ones, whose bytes are in `unwritten`.
    unwritten_entries: usize,
    unwritten: Vec<u8>,
    /// An empty buffer, to be filled while the other is written.
    spare: Vec<u8>,
    /// Number of entries that are written, or being written, and not answered.
    on_wire: usize,
    is_closed: bool,
}

impl<E> PipelineState<E> {
    fn is_idle(&self) -> bool {
        self.on_wire == 0 && self.entries.is_empty()
    }

    fn is_full(&self) -> bool {
        self.unwritten.len() >= MAX_UNWRITTEN_BYTES
            || self.entries.len() + self.on_wire >= MAX_ENTRIES
    }

    fn append(&mut self, entries: impl IntoIterator<Item = E>, bytes: &[u8]) {
        let before = self.entries.len();
        self.entries.extend(entries);
        self.unwritten_entries += self.entries.len() - before;
        self.unwritten.extend_from_slice(bytes);
    }
}

impl<E> Pipeline<E> {
    /// Returns a pipeline with nothing under way.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(PipelineState {
                entries: VecDeque::new(),
                unwritten_entries: 0,
                unwritten: Vec::new(),
                spare: Vec::new(),
                on_wire: 0,
                is_closed: false,
            }),
        }
    }

    /// Adds an entry and its bytes, and writes them if nothing is on the wire. Returns false, and adds
    /// nothing, if it is closed or full.
    ///
    /// # Errors
    /// When `write` failed: then it is closed, and this entry is among those that are left.
    pub fn push(
        &self,
        entry: E,
        bytes: &[u8],
        write: impl Fn(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut state = lock(&self.state);
        if state.is_closed || state.is_full() {
            return Ok(false);
        }
        state.append([entry], bytes);
        let is_first = state.on_wire == 0;
        drop(state);
        if is_first { self.write_next(write) } else { Ok(()) }.map(|()| true)
    }

    /// Adds entries and their bytes, which are not written before [`write_next`](Self::write_next) is called. So a
    /// caller can add them with a lock held that no write is waited for with. Returns false, and adds nothing, if it is
    /// closed, or full where it may not be (`may_overfill`).
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = E>,
        bytes: &[u8],
        may_overfill: bool,
    ) -> bool {
        let mut state = lock(&self.state);
        if state.is_closed || (state.is_full() && !may_overfill) {
            return false;
        }
        state.append(entries, bytes);
        true
    }

    /// Moves the entries whose bytes are written, or being written, to the end of `taken`, in order. Only
    /// these can have replies.
    pub fn take_written(&self, taken: &mut VecDeque<E>) {
        let mut state = lock(&self.state);
        let written = state.entries.len() - state.unwritten_entries;
        taken.extend(state.entries.drain(..written));
    }

    /// Takes no more entries, and moves all that are left to the end of `taken`, in order. Bytes that are
    /// not written never will be.
    pub fn close_and_take(&self, taken: &mut VecDeque<E>) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.unwritten_entries = 0;
        state.unwritten = Vec::new();
        taken.append(&mut state.entries);
    }

    /// Takes note that so many of the entries from [`take_written`](Self::take_written) are answered, and
    /// writes the bytes that waited for that. Returns true at the end: it is closed, and nothing is under
    /// way.
    ///
    /// # Errors
    /// When `write` failed: then it is closed.
    pub fn answered(
        &self,
        entries: usize,
        write: impl Fn(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut state = lock(&self.state);
        debug_assert!(entries <= state.on_wire, "only what is written can be answered");
        state.on_wire = state.on_wire.saturating_sub(entries);
        let is_over = state.is_closed && state.is_idle();
        drop(state);
        self.write_next(write).map(|()| is_over)
    }

    /// Writes the bytes that wait, if all that was written is answered.
    ///
    /// # Errors
    /// When `write` failed: then it is closed.
    pub fn write_next(&self, write: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.state);
        while state.on_wire == 0 && !state.unwritten.is_empty() {
            let spare = std::mem::take(&mut state.spare);
            let mut bytes = std::mem::replace(&mut state.unwritten, spare);
            state.on_wire += std::mem::take(&mut state.unwritten_entries);
            drop(state);
            let written = write(&bytes);
            bytes.clear();
            bytes.shrink_to(KEPT_CAPACITY_BYTES);
            state = lock(&self.state);
            state.spare = bytes;
            if written.is_err() {
                state.is_closed = true;
                return written;
            }
        }
        Ok(())
    }

    /// Takes no more entries; returns whether none is under way. Bytes that wait are still written.
    pub fn close(&self) -> bool {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.is_idle()
    }

    /// Looks at the entries that were not taken yet, in order.
    pub fn look<T>(&self, look: impl FnOnce(&VecDeque<E>) -> T) -> T {
        look(&lock(&self.state).entries)
    }

    /// Returns whether no entry is under way.
    pub fn is_idle(&self) -> bool {
        lock(&self.state).is_idle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pipeline: &Pipeline<u8>) -> VecDeque<u8> {
        let mut taken = VecDeque::new();
        pipeline.take_written(&mut taken);
        taken
    }

    fn push(pipeline: &Pipeline<u8>, entry: u8) {
        assert!(pipeline.push(entry, &[entry], |_| Ok(())).expect("a wire"));
    }

    #[test]
    fn only_written_entries_are_handed_out() {
        let pipeline = Pipeline::new();
        (1..=3).for_each(|entry| push(&pipeline, entry));
        assert_eq!(taken(&pipeline), [1], "the others wait for its reply");
        assert!(taken(&pipeline).is_empty());
        assert!(!pipeline.answered(1, |_| Ok(())).expect("a wire"));
        assert_eq!(taken(&pipeline), [2, 3]);
        assert!(!pipeline.answered(2, |_| Ok(())).expect("a wire"));
        assert!(pipeline.is_idle());
    }

    #[test]
    fn when_it_ends_all_entries_are_told_and_nothing_more_is_written() {
        let pipeline = Pipeline::new();
        (1..=3).for_each(|entry| push(&pipeline, entry));
        let mut left = taken(&pipeline);
        pipeline.close_and_take(&mut left);
        assert_eq!(left, [1, 2, 3]);
        let is_over = pipeline.answered(1, |_| panic!("what waits is written")).expect("a wire");
        assert!(is_over);
        assert!(!pipeline.push(4, &[4], |_| Ok(())).expect("a wire"), "it is closed");
    }
}
