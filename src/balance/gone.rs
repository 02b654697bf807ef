//! What stays of backends that are gone: their counts, so that totals never fall, and their last changes of state.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::health::{Change, Member};
use crate::metrics::{BackendCounts, Times};

/// Changes of state that are shown at most, and so are kept of all backends that are gone.
pub(crate) const MAX_SHOWN_CHANGES: usize = 32;

/// The sum of what several backends have counted.
#[derive(Debug, Default, Clone)]
pub struct BackendTotals {
    /// Their counts.
    pub counts: BackendCounts,
    /// How long their replies took to begin.
    pub times: Times,
}

impl BackendTotals {
    /// Adds the counts of one more.
    pub fn add(&mut self, counts: &BackendCounts, times: &Times) {
        self.counts.add(counts);
        self.times = std::mem::take(&mut self.times).with(times);
    }
}

/// What stays of all backends that are gone.
#[derive(Debug, Default, Clone)]
pub(super) struct Gone {
    /// What they have counted.
    pub totals: BackendTotals,
    /// Their last changes of state, the newest first, each with the backend's name.
    pub changes: Vec<(Arc<str>, Change)>,
}

impl Gone {
    /// Adds a backend that nobody uses any more.
    pub fn add(&mut self, member: &Member) {
        self.totals.add(&member.metrics.counts(), &member.metrics.times());
        self.changes.extend(named_changes(member));
        self.changes.sort_by_key(|(_, change)| Reverse(change.at));
        self.changes.truncate(MAX_SHOWN_CHANGES);
    }
}

/// The last changes of a backend's state, each with its name.
pub(super) fn named_changes(member: &Member) -> impl Iterator<Item = (Arc<str>, Change)> + use<> {
    let name = Arc::clone(&member.health.name);
    member.health.changes().into_iter().map(move |change| (Arc::clone(&name), change))
}
