//! The near cache: fills, invalidations and flushes by the thread that reads a tracker's connection, beside a client that
//! looks for an entry.

use std::sync::Arc;

use loom::thread;

use crate::backend::BackendId;
use crate::position::{Position, Stamp};
use crate::sync::{Mutex, lock};
use crate::versions::{Place, Versions};

/// Any time at which nothing has ended.
const NOW: u64 = 1;

/// An entry: its stamp, and the version of the value that it has.
type Entry = Option<(Stamp, u32)>;

struct Model {
    position: Position,
    versions: Versions,
    place: Place,
    /// Entries of two reads of one key.
    entries: [Mutex<Entry>; 2],
}

impl Model {
    fn new() -> Arc<Self> {
        let versions = Versions::new(1);
        let place = versions.place(BackendId::new(0), b"key");
        let entries = [Mutex::new(None), Mutex::new(None)];
        Arc::new(Self { position: Position::new(), versions, place, entries })
    }

    /// The reply to a fill comes, after the `PTTL` whose reply had this stamp.
    fn fill(&self, entry: usize, stamp: Stamp, value: u32) {
        if stamp.is_current(&self.position, &self.versions, NOW) {
            *lock(&self.entries[entry]) = Some((stamp, value));
        }
    }

    fn stamp(&self) -> Stamp {
        self.position.stamp(&self.versions, self.place, u64::MAX)
    }

    /// A client looks for an entry that counts.
    fn look_up(&self, entry: usize) -> Option<u32> {
        let found = *lock(&self.entries[entry]);
        let (stamp, value) = found?;
        stamp.is_current(&self.position, &self.versions, NOW).then_some(value)
    }
}

/// One value is kept; then it changes, which `invalidate` tells, and the new one is kept by another read. The client
/// has seen the new value elsewhere, by a reply that came at 20.
fn changed_and_asked(invalidate: fn(&Model)) {
    let model = Model::new();
    let thread = {
        let model = Arc::clone(&model);
        thread::spawn(move || {
            model.fill(0, model.stamp(), 1);
            model.position.answered(10, false);
            invalidate(&model);
            model.position.answered(20, false);
            model.fill(1, model.stamp(), 2);
        })
    };
    let found = model.position.look_up(20, || [model.look_up(0), model.look_up(1)]);
    if let (true, [first, second]) = found {
        assert_eq!(first, None, "older than what the client knows");
        assert_ne!(second, Some(1));
    }
    thread.join().expect("no panic");
    assert_eq!((model.look_up(0), model.look_up(1)), (None, Some(2)));
}

pub fn an_invalidation_comes_before_what_is_answered_after_it() {
    changed_and_asked(|model| model.versions.raise(model.place));
}

pub fn a_flush_comes_before_what_is_answered_after_it() {
    changed_and_asked(|model| model.position.flush());
}

/// The value changes while it is read for the cache, after its time to live was told.
pub fn a_value_that_changes_while_it_is_read_is_not_kept() {
    let model = Model::new();
    let thread = {
        let model = Arc::clone(&model);
        thread::spawn(move || {
            let stamp = model.stamp();
            model.versions.raise(model.place);
            model.fill(0, stamp, 2);
        })
    };
    assert_eq!(model.look_up(0), None);
    thread.join().expect("no panic");
    assert_eq!(model.look_up(0), None);
}

/// A client that has got the new value by one read gets no old one by the other.
pub fn two_hits_never_go_back() {
    let model = Model::new();
    let thread = {
        let model = Arc::clone(&model);
        thread::spawn(move || {
            model.fill(0, model.stamp(), 1);
            model.versions.raise(model.place);
            model.fill(1, model.stamp(), 2);
        })
    };
    if model.look_up(1) == Some(2) {
        assert_eq!(model.look_up(0), None, "an old value after the new one");
    }
    thread.join().expect("no panic");
}

/// Several entries that are found one after the other, and count still, are of one moment.
pub fn entries_that_still_count_are_of_one_moment() {
    let model = Model::new();
    let thread = {
        let model = Arc::clone(&model);
        thread::spawn(move || {
            model.fill(0, model.stamp(), 1);
            model.fill(1, model.stamp(), 1);
            model.versions.raise(model.place);
            model.fill(0, model.stamp(), 2);
            model.fill(1, model.stamp(), 2);
        })
    };
    let found = [0, 1].map(|entry| *lock(&model.entries[entry]));
    if let [Some((first, one)), Some((second, other))] = found {
        let counts = |stamp: Stamp| stamp.is_current(&model.position, &model.versions, NOW);
        if counts(first) && counts(second) {
            assert_eq!(one, other, "of two moments");
        }
    }
    thread.join().expect("no panic");
}
