//! The connection table: how many leases each backend has, which backend is next, and which
//! sessions move to another.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sync::{Mutex, lock};

/// How many turns a backend may have to catch up on: one that was away for a long time wins ties
/// for a moment when it returns, not for as long as it was away.
const MAX_TURNS_BEHIND: u64 = 1000;

/// One [`rebalance`](ConnectionTable::rebalance) moves at most one in so many leases between backends that
/// are up, so that none is stormed.
const MOVED_PART: usize = 50;

/// The least share of a backend that is let in slowly, when it has just returned.
const FIRST_SHARE: f64 = 0.01;

/// How a backend is, in the order in which they are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It serves.
    Up,
    /// It has just failed: leased when none is up.
    Suspect,
    /// It has failed several checks, or was never reached: leased when there is nothing better.
    Down,
    /// It answers, but may lack data: never leased.
    Syncing,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Syncing => "syncing",
        })
    }
}

/// Backend → number of leases, behind one Mutex that is held for arithmetic only.
///
/// Backends are known by their index, in the order of the command line.
#[derive(Debug)]
pub struct ConnectionTable {
    rows: Mutex<Rows>,
    slow_start: Duration,
}

#[derive(Debug)]
struct Rows {
    rows: Vec<Row>,
    /// The leases, each at its place for as long as it lives.
    slots: Vec<Option<Slot>>,
    /// The empty places.
    free: Vec<usize>,
    /// Counts all choices.
    clock: u64,
    /// Since when no backend is up; `None` while one is.
    outage_since: Option<Instant>,
}

/// In which order backends are leased: the first is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Up,
    /// It is up, and stale or not quite complete.
    SecondChoice,
    Suspect,
    /// It serves, and runs a slow read: whoever comes now waits for the end of that.
    Busy,
    Down,
    Syncing,
}

#[derive(Debug, Clone)]
struct Row {
    state: BackendState,
    /// Whether a slow read runs on it.
    is_busy: bool,
    /// Whether it was silent at its last check.
    is_silent: bool,
    /// It is leased only while no other is up: it is stale, or lacks some keys.
    is_second_choice: bool,
    leases: usize,
    /// The clock when it was chosen last.
    last_chosen: u64,
    /// How often it was chosen, but never more than [`MAX_TURNS_BEHIND`] behind the others.
    turns: u64,
    /// When its slow start began, until that is over.
    returned: Option<Instant>,
    /// What its share in its slow start has added up to: it is its turn at 1.
    credit: f64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    backend: usize,
    may_move: bool,
}

impl Row {
    fn standing(&self) -> Standing {
        match self.state {
            BackendState::Up | BackendState::Suspect if self.is_busy => Standing::Busy,
            BackendState::Up if self.is_second_choice => Standing::SecondChoice,
            BackendState::Up => Standing::Up,
            BackendState::Suspect => Standing::Suspect,
            BackendState::Down => Standing::Down,
            BackendState::Syncing => Standing::Syncing,
        }
    }

    /// Of those with the same standing, the row that comes first is next.
    ///
    /// Equals take turns. While they are idle, it is the turn of the one chosen longest ago. Under
    /// load turns are counted: a server that is a little quicker for a while has fewer leases, is
    /// chosen more often, and would else never give that back.
    fn rank(&self) -> (Standing, bool, usize, u64) {
        let is_held_back = self.returned.is_some() && self.credit < 1.0;
        let turn = if self.leases == 0 { self.last_chosen } else { self.turns };
        (self.standing(), is_held_back, self.leases, turn)
    }

    /// What it may have, compared to others; from nearly 0 to 1 during its slow start.
    fn weight(&mut self, slow_start: Duration, now: Instant) -> f64 {
        let Some(returned) = self.returned else { return 1.0 };
        let time = now.saturating_duration_since(returned);
        if time >= slow_start {
            self.returned = None;
            return 1.0;
        }
        (time.as_secs_f64() / slow_start.as_secs_f64()).max(FIRST_SHARE)
    }
}

impl Rows {
    /// The one to be leased next.
    fn next(&self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(backend, row)| row.state != BackendState::Syncing && eligible(*backend))
            .min_by_key(|(_, row)| row.rank())
            .map(|(backend, _)| backend)
    }

    /// The best state among those that are eligible.
    fn best(&self, eligible: impl Fn(usize) -> bool) -> BackendState {
        let rows = self.rows.iter().enumerate().filter(|(backend, _)| eligible(*backend));
        rows.map(|(_, row)| row.state).min().unwrap_or(BackendState::Syncing)
    }

    /// The best standing among those that are eligible.
    fn best_standing(&self, eligible: impl Fn(usize) -> bool) -> Standing {
        let rows = self.rows.iter().enumerate().filter(|(backend, _)| eligible(*backend));
        rows.map(|(_, row)| row.standing()).min().unwrap_or(Standing::Syncing)
    }

    /// Whether it is up, and no second choice while a first one is eligible.
    fn is_ready(&self, backend: usize, eligible: impl Fn(usize) -> bool) -> bool {
        match self.rows[backend].standing() {
            Standing::Up => true,
            Standing::SecondChoice => self.best_standing(eligible) != Standing::Up,
            _ => false,
        }
    }

    /// Gives backends in their slow start what another choice adds to their turn.
    fn pay_shares(&mut self, slow_start: Duration) {
        if self.rows.iter().all(|row| row.returned.is_none()) {
            return;
        }
        let weights = self.weights(slow_start);
        let sum: f64 = weights.iter().sum();
        if sum == 0.0 {
            return;
        }
        for (row, weight) in self.rows.iter_mut().zip(weights) {
            row.credit = (row.credit + weight / sum).min(1.0);
        }
    }

    /// Of each backend that is up, and no second choice where there is a first; 0 of the others.
    fn weights(&mut self, slow_start: Duration) -> Vec<f64> {
        let now = Instant::now();
        let best = self.best_standing(|_| true);
        let weight = |row: &mut Row| match row.standing() {
            standing @ (Standing::Up | Standing::SecondChoice) if standing == best => {
                row.weight(slow_start, now)
            }
            _ => 0.0,
        };
        self.rows.iter_mut().map(weight).collect()
    }

    fn choose(&mut self, backend: usize) {
        self.clock += 1;
        let most_turns = self.rows.iter().map(|row| row.turns).max().unwrap_or(0);
        let row = &mut self.rows[backend];
        row.leases += 1;
        row.last_chosen = self.clock;
        row.turns = (row.turns + 1).max(most_turns.saturating_sub(MAX_TURNS_BEHIND));
        row.credit = 0.0;
    }

    fn sit(&mut self, slot: Slot) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.slots[place] = Some(slot);
                place
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        }
    }

    /// Where a session that may move from `backend` should go, given what each is to have.
    fn better(&self, backend: usize, shares: &[f64]) -> Option<usize> {
        let ready =
            self.rows.iter().enumerate().filter(|(backend, _)| self.is_ready(*backend, |_| true));
        let load = |leases: usize, backend: usize| leases as f64 / shares[backend].max(FIRST_SHARE);
        let (to, row) = ready
            .filter(|(to, _)| *to != backend)
            .min_by(|a, b| load(a.1.leases, a.0).total_cmp(&load(b.1.leases, b.0)))?;
        let from = &self.rows[backend];
        let is_better = match from.standing() {
            Standing::Up | Standing::SecondChoice if self.is_ready(backend, |_| true) => {
                from.leases >= row.leases + 2 && (row.leases as f64) < shares[to].ceil()
            }
            Standing::Up | Standing::SecondChoice => true,
            // It may be good again in a moment.
            Standing::Suspect => false,
            Standing::Busy | Standing::Down | Standing::Syncing => true,
        };
        is_better.then_some(to)
    }
}

impl ConnectionTable {
    /// A table of `backends` rows without leases, none of them known to be good. One that is made
    /// up slowly has its full share after `slow_start`.
    pub fn new(backends: usize, slow_start: Duration) -> Arc<Self> {
        let row = Row {
            state: BackendState::Down,
            is_busy: false,
            is_silent: false,
            is_second_choice: false,
            leases: 0,
            last_chosen: 0,
            turns: 0,
            returned: None,
            credit: 0.0,
        };
        let rows = Rows {
            rows: vec![row; backends],
            slots: Vec::new(),
            free: Vec::new(),
            clock: 0,
            outage_since: Some(Instant::now()),
        };
        Arc::new(Self { rows: Mutex::new(rows), slow_start })
    }

    /// What may be asked of this backend from now on. One that comes up `slowly` begins its slow
    /// start.
    pub fn set_state(&self, backend: usize, state: BackendState, slowly: bool) {
        let mut table = lock(&self.rows);
        let row = &mut table.rows[backend];
        let was_suspect = std::mem::replace(&mut row.state, state) == BackendState::Suspect;
        // A moment's doubt neither begins nor ends a slow start.
        if state != BackendState::Suspect && !(was_suspect && state == BackendState::Up) {
            row.returned = (slowly && !self.slow_start.is_zero()).then(Instant::now);
            row.credit = 0.0;
        }
        table.outage_since = match table.best(|_| true) {
            BackendState::Up => None,
            _ => Some(table.outage_since.unwrap_or_else(Instant::now)),
        };
    }

    /// Whether a slow read runs on this backend from now on: then others go elsewhere.
    pub fn set_busy(&self, backend: usize, is_busy: bool) {
        lock(&self.rows).rows[backend].is_busy = is_busy;
    }

    /// Whether a slow read runs on this backend.
    pub fn is_busy(&self, backend: usize) -> bool {
        lock(&self.rows).rows[backend].is_busy
    }

    /// Whether this backend was silent at its last check, though it can be reached.
    pub fn set_silent(&self, backend: usize, is_silent: bool) {
        lock(&self.rows).rows[backend].is_silent = is_silent;
    }

    /// Whether all of several backends are silent, one that runs no slow read among them: no read can be
    /// why.
    pub fn are_all_frozen(&self) -> bool {
        let table = lock(&self.rows);
        let is_down = |row: &Row| row.standing() == Standing::Down && row.is_silent;
        let may_be_frozen = |row: &Row| row.is_busy || is_down(row);
        table.rows.len() > 1
            && table.rows.iter().all(may_be_frozen)
            && table.rows.iter().any(|row| is_down(row) && !row.is_busy)
    }

    /// Whether one of the eligible backends is up and runs no slow read.
    pub fn has_free(&self, eligible: impl Fn(usize) -> bool) -> bool {
        lock(&self.rows).best_standing(eligible) <= Standing::SecondChoice
    }

    /// The backends that are up, those included that a slow read of ours keeps from answering checks.
    pub fn serving(&self) -> Vec<usize> {
        let table = lock(&self.rows);
        let rows = table.rows.iter().enumerate();
        let serves = |row: &Row| {
            matches!(row.standing(), Standing::Up | Standing::SecondChoice | Standing::Busy)
        };
        rows.filter(|(_, row)| serves(row)).map(|(backend, _)| backend).collect()
    }

    /// The eligible backends of the best standing, in the order in which they would be leased; those that
    /// run a slow read are among them.
    pub fn candidates(&self, eligible: impl Fn(usize) -> bool) -> Vec<usize> {
        let table = lock(&self.rows);
        // One that is suspect because of a slow read will be up when that is over.
        let standing = |row: &Row| match row.standing() {
            Standing::Busy => Standing::Up,
            standing => standing,
        };
        let mut rows: Vec<_> = table.rows.iter().enumerate().collect();
        rows.retain(|(backend, row)| row.state != BackendState::Syncing && eligible(*backend));
        let best = rows.iter().map(|(_, row)| standing(row)).min();
        rows.retain(|(_, row)| Some(standing(row)) == best);
        rows.sort_by_key(|(_, row)| row.rank());
        rows.into_iter().map(|(backend, _)| backend).collect()
    }

    /// Whether a backend is leased only while no other is up.
    pub fn set_second_choice(&self, backend: usize, is_second_choice: bool) {
        lock(&self.rows).rows[backend].is_second_choice = is_second_choice;
    }

    /// Whether it is leased only while no other is up, and another that is eligible is.
    pub fn is_outranked(&self, backend: usize, eligible: impl Fn(usize) -> bool) -> bool {
        let table = lock(&self.rows);
        let row = &table.rows[backend];
        row.is_second_choice && table.best_standing(eligible) == Standing::Up
    }

    /// Leastconn: leases the eligible backend of the best state that has the fewest leases;
    /// equals take turns. `None` when no backend is eligible.
    pub fn lease(self: &Arc<Self>, eligible: impl Fn(usize) -> bool) -> Option<Lease> {
        let mut table = lock(&self.rows);
        table.pay_shares(self.slow_start);
        let backend = table.next(eligible)?;
        table.choose(backend);
        let slot = table.sit(Slot { backend, may_move: false });
        Some(Lease { table: Arc::clone(self), slot })
    }

    /// How many backends there are.
    pub fn backend_count(&self) -> usize {
        lock(&self.rows).rows.len()
    }

    /// The number of leases of each backend, by index.
    pub fn counts(&self) -> Vec<usize> {
        lock(&self.rows).rows.iter().map(|row| row.leases).collect()
    }

    /// What may be asked of a backend now.
    pub fn state(&self, backend: usize) -> BackendState {
        lock(&self.rows).rows[backend].state
    }

    /// The best state among the backends that are eligible.
    pub fn best(&self, eligible: impl Fn(usize) -> bool) -> BackendState {
        lock(&self.rows).best(eligible)
    }

    /// For how long no backend has been up; `None` while one is.
    pub fn outage(&self) -> Option<Duration> {
        lock(&self.rows).outage_since.map(|since| since.elapsed())
    }

    /// Moves leases that may move: away from backends that can't serve, and a few at a time from
    /// one that is up to another that has at least two fewer. Returns how many.
    pub fn rebalance(&self) -> usize {
        let mut table = lock(&self.rows);
        let weights = table.weights(self.slow_start);
        let sum: f64 = weights.iter().sum();
        let best = table.best_standing(|_| true);
        let ready = table.rows.iter().filter(|row| row.standing() == best);
        let leases: usize = ready.map(|row| row.leases).sum();
        let shares: Vec<f64> = weights.iter().map(|weight| leases as f64 * weight / sum).collect();
        if sum == 0.0 || (0..shares.len()).all(|from| table.better(from, &shares).is_none()) {
            return 0;
        }
        let places = table.slots.len();
        let taken = places - table.free.len();
        let (mut moved, mut left) = (0, (taken / MOVED_PART).max(1));
        let first = table.clock as usize;
        for place in (0..places).map(|place| (first + place) % places) {
            let Some(Slot { backend, may_move: true }) = table.slots[place] else { continue };
            let Some(to) = table.better(backend, &shares) else { continue };
            if table.is_ready(backend, |_| true) {
                if left == 0 {
                    continue;
                }
                left -= 1;
            }
            table.move_seat(place, to);
            moved += 1;
        }
        moved
    }
}

impl Rows {
    fn move_seat(&mut self, place: usize, to: usize) {
        let Some(slot) = &mut self.slots[place] else { return };
        let from = std::mem::replace(&mut slot.backend, to);
        self.rows[from].leases -= 1;
        self.choose(to);
    }
}

/// One counted use of a backend, given back when it is dropped, however that comes about.
#[derive(Debug)]
pub struct Lease {
    table: Arc<ConnectionTable>,
    slot: usize,
}

impl Lease {
    /// The index of the leased backend. That of a lease that may move may be another each time.
    pub fn backend(&self) -> usize {
        let table = lock(&self.table.rows);
        table.slots[self.slot].map_or(0, |slot| slot.backend)
    }

    /// The index of the leased backend, if that is up, runs no slow read, and is no second choice while
    /// there is a first.
    pub fn backend_if_up(&self) -> Option<usize> {
        let table = lock(&self.table.rows);
        let backend = table.slots[self.slot]?.backend;
        table.is_ready(backend, |_| true).then_some(backend)
    }

    /// Whether [`ConnectionTable::rebalance`] may move it.
    pub fn set_may_move(&self, may_move: bool) {
        let mut table = lock(&self.table.rows);
        if let Some(slot) = &mut table.slots[self.slot] {
            slot.may_move = may_move;
        }
    }

    /// The lease is this backend's from now on, and does not move by itself: a connection to it is in
    /// its session's hands. It may have been moved since that was made.
    pub fn pin(&self, backend: usize) {
        let mut table = lock(&self.table.rows);
        let Some(slot) = &mut table.slots[self.slot] else { return };
        slot.may_move = false;
        if slot.backend != backend {
            table.move_seat(self.slot, backend);
        }
    }

    /// The backend to be used now, of those that are eligible: the lease's own, or one that it
    /// moves to, where that has a better state. `None` when no backend is eligible.
    pub fn reselect(&self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let mut table = lock(&self.table.rows);
        let own = table.slots[self.slot].map_or(0, |slot| slot.backend);
        let standing = table.rows[own].standing();
        if standing != Standing::Syncing
            && eligible(own)
            && standing <= table.best_standing(&eligible)
        {
            return Some(own);
        }
        table.pay_shares(self.table.slow_start);
        let backend = table.next(eligible)?;
        table.move_seat(self.slot, backend);
        Some(backend)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = lock(&self.table.rows);
        if let Some(slot) = table.slots[self.slot].take() {
            table.rows[slot.backend].leases -= 1;
            table.free.push(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW_START: Duration = Duration::from_millis(200);

    fn any(_: usize) -> bool {
        true
    }

    /// With all backends up.
    fn table(backends: usize) -> Arc<ConnectionTable> {
        let table = ConnectionTable::new(backends, SLOW_START);
        (0..backends).for_each(|backend| table.set_state(backend, BackendState::Up, false));
        table
    }

    fn sessions(table: &Arc<ConnectionTable>, count: usize) -> Vec<Lease> {
        let leases: Vec<Lease> = (0..count).filter_map(|_| table.lease(any)).collect();
        leases.iter().for_each(|lease| lease.set_may_move(true));
        leases
    }

    #[test]
    fn a_pinned_lease_stays_where_its_connection_is() {
        let table = table(2);
        let lease = table.lease(any).expect("all are up");
        lease.set_may_move(true);
        let own = lease.backend();
        // Moved between the choice of the backend and the moment when there is a connection.
        table.set_state(own, BackendState::Down, false);
        assert_eq!((table.rebalance(), lease.backend()), (1, 1 - own));
        lease.pin(own);
        assert_eq!(table.rebalance(), 0);
        assert_eq!((lease.backend(), table.counts()[own]), (own, 1));
        lease.set_may_move(true);
        assert_eq!(table.rebalance(), 1);
    }

    #[test]
    fn equals_take_turns_even_when_each_lease_is_over_before_the_next() {
        let table = table(3);
        let chosen: Vec<usize> =
            (0..7).map(|_| table.lease(any).expect("a backend").backend()).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(table.counts(), [0, 0, 0]);
    }

    #[test]
    fn the_backend_with_the_fewest_leases_is_next() {
        let table = table(3);
        let mut leases: Vec<Lease> = (0..7).filter_map(|_| table.lease(any)).collect();
        assert_eq!(table.counts(), [3, 2, 2]);
        leases.retain(|lease| lease.backend() != 1);
        assert_eq!(table.counts(), [3, 0, 2]);
        assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1));
    }

    #[test]
    fn under_load_equals_catch_up_on_the_turns_that_they_missed() {
        let table = table(2);
        let _load = (table.lease(any), table.lease(any));
        (0..50).for_each(|_| drop(table.lease(|backend| backend == 0)));
        let late = (0..50).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1).count();
        assert_eq!(late, 50);
    }

    #[test]
    fn a_second_choice_is_leased_and_kept_only_while_there_is_no_first() {
        let table = table(2);
        let leases = sessions(&table, 4);
        assert_eq!(table.counts(), [2, 2]);
        table.set_second_choice(0, true);
        assert!(table.is_outranked(0, any) && !table.is_outranked(1, any));
        assert!(!table.is_outranked(0, |backend| backend == 0));
        assert_eq!(leases.iter().filter_map(Lease::backend_if_up).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(leases[0].reselect(any), Some(1));
        assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1));
        assert_eq!(table.rebalance(), 1);
        assert_eq!(table.counts(), [0, 4]);
        table.set_state(1, BackendState::Suspect, false);
        assert!(!table.is_outranked(0, any), "it serves as any other");
        assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(0));
        assert_eq!(leases[0].reselect(any), Some(0));
        table.set_state(1, BackendState::Up, false);
        assert_eq!(leases[0].reselect(any), Some(1));
    }

    #[test]
    fn a_backend_that_was_away_catches_up_on_few_turns_only() {
        let table = table(2);
        let _load = (table.lease(any), table.lease(any));
        (0..100_000).for_each(|_| drop(table.lease(|backend| backend == 0)));
        let late = (0..10_000).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1);
        let late = late.count();
        assert!((5_000..=5_500).contains(&late), "{late} of 10000");
    }

    #[test]
    fn idle_equals_go_round_strictly_whatever_was_before() {
        let table = table(3);
        (0..50).for_each(|_| drop(table.lease(|backend| backend == 0)));
        let chosen: Vec<usize> =
            (0..6).filter_map(|_| table.lease(any)).map(|lease| lease.backend()).collect();
        assert_eq!(chosen, [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn only_eligible_backends_are_leased() {
        let table = table(2);
        assert_eq!(table.lease(|backend| backend == 1).map(|lease| lease.backend()), Some(1));
        assert!(table.lease(|_| false).is_none());
    }

    #[test]
    fn a_panic_gives_the_lease_back_and_leaves_the_table_usable() {
        let table = table(1);
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
        let table = table(3);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| drop(table.lease(any))));
            }
        });
        assert_eq!(table.counts(), [0, 0, 0]);
    }

    #[test]
    fn a_backend_that_failed_is_leased_when_there_is_none_better_and_one_without_data_never() {
        let table = table(3);
        let next = |table: &Arc<ConnectionTable>| table.lease(any).map(|lease| lease.backend());
        table.set_state(0, BackendState::Down, false);
        table.set_state(1, BackendState::Suspect, false);
        assert_eq!((next(&table), next(&table)), (Some(2), Some(2)));
        table.set_state(2, BackendState::Syncing, false);
        assert_eq!((next(&table), next(&table)), (Some(1), Some(1)));
        assert!(table.outage().is_some());
        table.set_state(1, BackendState::Syncing, false);
        assert_eq!(next(&table), Some(0));
        table.set_state(0, BackendState::Syncing, false);
        assert_eq!(next(&table), None);
        table.set_state(2, BackendState::Up, false);
        assert_eq!(next(&table), Some(2));
        assert!(table.outage().is_none());
    }

    #[test]
    fn a_backend_that_returns_gets_its_share_little_by_little() {
        let table = table(3);
        let load = sessions(&table, 300);
        table.set_state(1, BackendState::Down, false);
        drop(load);
        let began = Instant::now();
        table.set_state(1, BackendState::Up, true);
        let (mut chosen, mut count) = (0, 0);
        while began.elapsed() < SLOW_START / 4 {
            count += 1;
            chosen += table.lease(any).is_some_and(|lease| lease.backend() == 1) as usize;
        }
        assert!(chosen > 0 && chosen < count / 6, "{chosen} of {count} in the first quarter");
        std::thread::sleep(SLOW_START);
        let chosen = (0..300).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1).count();
        assert_eq!(chosen, 100, "behind the slow start");
    }

    #[test]
    fn sessions_move_to_a_backend_with_two_fewer_until_all_are_level() {
        let table = table(3);
        table.set_state(2, BackendState::Down, false);
        let leases = sessions(&table, 100);
        assert_eq!(table.counts(), [50, 50, 0]);
        assert_eq!(table.rebalance(), 0, "nothing to gain");
        table.set_state(2, BackendState::Up, false);
        assert_eq!(table.rebalance(), 2, "a few at a time");
        while table.rebalance() > 0 {}
        let counts = table.counts();
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts.iter().all(|count| (33..=35).contains(count)), "{counts:?}");
        drop(leases);
        assert_eq!(table.counts(), [0, 0, 0]);
    }

    #[test]
    fn sessions_leave_a_backend_that_is_down_at_once_but_for_those_that_may_not_move() {
        let table = table(2);
        let leases = sessions(&table, 20);
        leases[0].set_may_move(false);
        let backend = leases[0].backend();
        table.set_state(backend, BackendState::Suspect, false);
        assert_eq!(table.rebalance(), 0, "it may be good again in a moment");
        table.set_state(backend, BackendState::Down, false);
        assert_eq!(table.rebalance(), 9);
        assert_eq!(table.counts()[backend], 1);
        assert_eq!(leases[0].backend(), backend);
    }

    #[test]
    fn while_a_slow_read_runs_others_go_elsewhere_and_sessions_move_at_once() {
        let table = table(3);
        let leases = sessions(&table, 30);
        table.set_busy(1, true);
        assert!(leases.iter().any(|lease| lease.backend() == 1 && lease.backend_if_up().is_none()));
        assert_eq!(table.rebalance(), 10);
        assert_eq!(table.counts(), [15, 0, 15]);
        assert_eq!(table.candidates(any), [0, 2, 1], "it counts as up, and comes last");
        table.set_state(1, BackendState::Suspect, false);
        assert_eq!(table.candidates(any), [0, 2, 1], "it fails checks because of the read");
        (0..6).for_each(|_| assert_ne!(table.lease(any).map(|lease| lease.backend()), Some(1)));
        table.set_state(0, BackendState::Down, false);
        table.set_state(2, BackendState::Down, false);
        assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1), "it still serves");
        assert!(!table.has_free(any));
        table.set_busy(1, false);
        table.set_state(1, BackendState::Up, false);
        assert!(table.has_free(any));
    }

    #[test]
    fn a_session_settles_where_it_is_unless_another_is_better() {
        let table = table(2);
        let lease = table.lease(any).expect("a backend");
        let own = lease.backend();
        let other = 1 - own;
        let _others: Vec<_> = (0..5).map(|_| table.lease(|backend| backend == own)).collect();
        assert_eq!(lease.reselect(any), Some(own));
        assert_eq!(lease.reselect(|backend| backend == other), Some(other));
        table.set_state(other, BackendState::Suspect, false);
        assert_eq!(lease.reselect(any), Some(own));
        table.set_state(own, BackendState::Down, false);
        assert_eq!(lease.reselect(any), Some(other), "suspect is better than down");
        assert_eq!(lease.reselect(|_| false), None);
        drop(lease);
        assert_eq!(table.counts()[other], 0);
    }
}
