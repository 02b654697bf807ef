//! One counted use of a backend.

use std::sync::Arc;
use std::time::Instant;

use super::rows::{Row, Standing};
use super::table::ConnectionTable;
use crate::backend::BackendId;

/// One counted use of a backend, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    pub(super) table: Arc<ConnectionTable>,
    pub(super) slot: usize,
}

impl Lease {
    /// Its place in the table, by which [`ConnectionTable::holder`] finds the backend.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The leased backend, which may be another each time if the lease may move.
    pub fn backend(&self) -> Option<BackendId> {
        self.table.rows().slots[self.slot].map(|slot| slot.backend)
    }

    /// The leased backend, if it is up, runs no slow read, and is no second choice while there is a first.
    pub fn backend_if_up(&self) -> Option<BackendId> {
        let table = self.table.rows();
        let backend = table.slots[self.slot]?.backend;
        table.is_ready(table.row(backend)?).then_some(backend)
    }

    /// Sets whether [`ConnectionTable::rebalance`] may move it.
    pub fn set_may_move(&self, may_move: bool) {
        if let Some(slot) = &mut self.table.rows().slots[self.slot] {
            slot.may_move = may_move;
        }
    }

    /// Makes it a lease of this backend that may not move: the session holds a connection to it. The lease may have
    /// been moved since that connection was made.
    pub fn pin(&self, backend: BackendId) {
        let mut table = self.table.rows();
        let is_known = table.row(backend).is_some();
        let Some(slot) = &mut table.slots[self.slot] else { return };
        slot.may_move = false;
        if slot.backend != backend && is_known {
            table.move_slot(self.slot, backend);
        }
    }

    /// Chooses the backend to be used now, of those that are eligible: the lease's own, or one of better
    /// standing, to which it moves. `None` when no backend is eligible.
    pub fn reselect(
        &self,
        now: Instant,
        eligible: impl Fn(BackendId) -> bool,
    ) -> Option<BackendId> {
        let mut table = self.table.rows();
        let own = table.slots[self.slot]?.backend;
        let standing = table.row(own).map_or(Standing::Never, Row::standing);
        if standing != Standing::Never
            && eligible(own)
            && standing <= table.best_standing(&eligible)
        {
            return Some(own);
        }
        table.add_credit(self.table.slow_start(), now);
        let backend = table.next(eligible)?;
        table.move_slot(self.slot, backend);
        Some(backend)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.table.rows();
        if let Some(slot) = table.slots[self.slot].take() {
            table.free.push(self.slot);
            table.give_back(slot.backend);
        }
    }
}
