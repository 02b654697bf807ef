//! The connection table: how many leases each backend has, and which backend is next.

use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// How many turns a backend may have to catch up on: one that was away for a long time wins ties
/// for a moment when it returns, not for as long as it was away.
const MAX_TURNS_BEHIND: u64 = 1000;

/// Backend → number of leases, behind one Mutex that is held for arithmetic only.
///
/// Backends are known by their index, in the order of the command line.
#[derive(Debug)]
pub struct ConnectionTable {
    rows: Mutex<Rows>,
}

#[derive(Debug)]
struct Rows {
    rows: Vec<Row>,
    /// Counts all choices.
    clock: u64,
}

#[derive(Debug, Clone, Default)]
struct Row {
    leases: usize,
    /// The clock when it was chosen last.
    last_chosen: u64,
    /// How often it was chosen, but never more than [`MAX_TURNS_BEHIND`] behind the others.
    turns: u64,
}

impl Row {
    /// The row that comes first is next.
    ///
    /// Equals take turns. While they are idle, it is the turn of the one chosen longest ago. Under
    /// load turns are counted: a server that is a little quicker for a while has fewer leases, is
    /// chosen more often, and would else never give that back.
    fn rank(&self) -> (usize, u64) {
        (self.leases, if self.leases == 0 { self.last_chosen } else { self.turns })
    }
}

impl ConnectionTable {
    /// A table of `backends` rows without leases.
    pub fn new(backends: usize) -> Arc<Self> {
        let rows = Rows { rows: vec![Row::default(); backends], clock: 0 };
        Arc::new(Self { rows: Mutex::new(rows) })
    }

    /// Leastconn: leases the eligible backend with the fewest leases; equals take turns. `None` when
    /// no backend is eligible.
    pub fn lease(self: &Arc<Self>, eligible: impl Fn(usize) -> bool) -> Option<Lease> {
        let mut table = lock(&self.rows);
        table.clock += 1;
        let clock = table.clock;
        let most_turns = table.rows.iter().map(|row| row.turns).max()?;
        let rows = table.rows.iter_mut().enumerate();
        let (backend, row) =
            rows.filter(|(backend, _)| eligible(*backend)).min_by_key(|(_, row)| row.rank())?;
        row.leases += 1;
        row.last_chosen = clock;
        row.turns = (row.turns + 1).max(most_turns.saturating_sub(MAX_TURNS_BEHIND));
        Some(Lease { table: Arc::clone(self), backend })
    }

    /// The number of leases of each backend, by index.
    pub fn counts(&self) -> Vec<usize> {
        lock(&self.rows).rows.iter().map(|row| row.leases).collect()
    }
}

/// One counted use of a backend, given back when it is dropped, however that comes about.
#[derive(Debug)]
pub struct Lease {
    table: Arc<ConnectionTable>,
    backend: usize,
}

impl Lease {
    /// The index of the leased backend.
    pub fn backend(&self) -> usize {
        self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.table.rows).rows[self.backend].leases -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(_: usize) -> bool {
        true
    }

    #[test]
    fn equals_take_turns_even_when_each_lease_is_over_before_the_next() {
        let table = ConnectionTable::new(3);
        let chosen: Vec<usize> =
            (0..7).map(|_| table.lease(any).expect("a backend").backend()).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(table.counts(), [0, 0, 0]);
    }

    #[test]
    fn the_backend_with_the_fewest_leases_is_next() {
        let table = ConnectionTable::new(3);
        let mut leases: Vec<Lease> = (0..7).filter_map(|_| table.lease(any)).collect();
        assert_eq!(table.counts(), [3, 2, 2]);
        leases.retain(|lease| lease.backend() != 1);
        assert_eq!(table.counts(), [3, 0, 2]);
        assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1));
    }

    #[test]
    fn under_load_equals_catch_up_on_the_turns_that_they_missed() {
        let table = ConnectionTable::new(2);
        let _load = (table.lease(any), table.lease(any));
        (0..50).for_each(|_| drop(table.lease(|backend| backend == 0)));
        let late = (0..50).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1).count();
        assert_eq!(late, 50);
    }

    #[test]
    fn a_backend_that_was_away_catches_up_on_few_turns_only() {
        let table = ConnectionTable::new(2);
        let _load = (table.lease(any), table.lease(any));
        (0..100_000).for_each(|_| drop(table.lease(|backend| backend == 0)));
        let late = (0..10_000).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1);
        let late = late.count();
        assert!((5_000..=5_500).contains(&late), "{late} of 10000");
    }

    #[test]
    fn idle_equals_go_round_strictly_whatever_was_before() {
        let table = ConnectionTable::new(3);
        (0..50).for_each(|_| drop(table.lease(|backend| backend == 0)));
        let chosen: Vec<usize> =
            (0..6).filter_map(|_| table.lease(any)).map(|lease| lease.backend()).collect();
        assert_eq!(chosen, [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn only_eligible_backends_are_leased() {
        let table = ConnectionTable::new(2);
        assert_eq!(table.lease(|backend| backend == 1).map(|lease| lease.backend()), Some(1));
        assert!(table.lease(|_| false).is_none());
    }

    #[test]
    fn a_panic_gives_the_lease_back_and_leaves_the_table_usable() {
        let table = ConnectionTable::new(1);
        let lease = table.lease(any).expect("a backend");
        let thread = std::thread::spawn(move || {
            let _lease = lease;
            panic!("a client's thread fails (this message is part of the test)");
        });
        assert!(thread.join().is_err());
        assert_eq!(table.counts(), [0]);
        assert!(table.lease(any).is_some());
    }

    #[test]
    fn many_threads_leave_no_count_behind() {
        let table = ConnectionTable::new(3);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| drop(table.lease(any))));
            }
        });
        assert_eq!(table.counts(), [0, 0, 0]);
    }
}
