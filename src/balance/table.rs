//! The connection table: how many leases each backend has, which backend is next, and which
//! sessions move to another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::BackendId;
use crate::health::BackendState;
use crate::sync::{Mutex, MutexGuard, lock};

/// Turns that a backend may have to catch up on: one that was away for a long time wins ties for a moment
/// when it returns, not for as long as it was away.
const MAX_TURNS_TO_CATCH_UP: u64 = 1000;

/// One [`rebalance`](ConnectionTable::rebalance) moves at most one in so many leases between backends that
/// are up, so that none is stormed.
const MOVED_PART: usize = 50;

/// The least share of a backend in its slow start, when it has just returned.
const FIRST_SHARE: f64 = 0.01;

/// Backend → number of leases, behind one Mutex that is held for arithmetic only.
#[derive(Debug)]
pub struct ConnectionTable {
    rows: Mutex<Rows>,
    slow_start: Duration,
}

#[derive(Debug)]
struct Rows {
    /// One for each backend, in the order in which they were added.
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

/// The order in which backends are leased: the first is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Up,
    /// It is up, and stale or not quite complete.
    SecondChoice,
    Suspect,
    /// It serves, and runs a slow read: a read that comes now waits for the end of that.
    Busy,
    Down,
    /// It is never leased: it may lack data, or was removed.
    Never,
}

#[derive(Debug, Clone)]
struct Row {
    id: BackendId,
    state: BackendState,
    /// Whether it was removed: it goes when its last lease does.
    is_draining: bool,
    /// Whether a slow read runs on it.
    is_busy: bool,
    /// Whether it was silent at its last check.
    is_silent: bool,
    /// Whether it is leased only while no other is up: it is stale, or lacks some keys.
    is_second_choice: bool,
    leases: usize,
    /// The clock when it was chosen last.
    last_chosen: u64,
    /// How often it was chosen, but never more than [`MAX_TURNS_TO_CATCH_UP`] less than the others.
    turns: u64,
    /// When its slow start began, until that is over.
    returned: Option<Instant>,
    /// What its share in its slow start has added up to: it is its turn at 1.
    credit: f64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    backend: BackendId,
    may_move: bool,
}

impl Row {
    fn new(id: BackendId) -> Self {
        Self {
            id,
            state: BackendState::Down,
            is_draining: false,
            is_busy: false,
            is_silent: false,
            is_second_choice: false,
            leases: 0,
            last_chosen: 0,
            turns: 0,
            returned: None,
            credit: 0.0,
        }
    }

    fn standing(&self) -> Standing {
        match self.state {
            _ if self.is_draining => Standing::Never,
            BackendState::Up | BackendState::Suspect if self.is_busy => Standing::Busy,
            BackendState::Up if self.is_second_choice => Standing::SecondChoice,
            BackendState::Up => Standing::Up,
            BackendState::Suspect => Standing::Suspect,
            BackendState::Down => Standing::Down,
            BackendState::Syncing => Standing::Never,
        }
    }

    fn may_be_leased(&self) -> bool {
        self.standing() != Standing::Never
    }

    /// Order among rows: the first is next.
    ///
    /// Equals take turns. While they are idle, it is the turn of the one chosen longest ago. Under
    /// load turns are counted: a server that is a little quicker for a while has fewer leases, is
    /// chosen more often, and would else never give that back.
    fn rank(&self) -> (Standing, bool, usize, u64) {
        let is_held_back = self.returned.is_some() && self.credit < 1.0;
        let turn = if self.leases == 0 { self.last_chosen } else { self.turns };
        (self.standing(), is_held_back, self.leases, turn)
    }

    /// Its part compared to others': from nearly 0 to 1 during its slow start.
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
    fn row(&self, id: BackendId) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    fn row_mut(&mut self, id: BackendId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.id == id)
    }

    fn eligible(&self, eligible: impl Fn(BackendId) -> bool) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| !row.is_draining && eligible(row.id))
    }

    /// The backend to be leased next.
    fn next(&self, eligible: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let rows = self.eligible(eligible).filter(|row| row.may_be_leased());
        rows.min_by_key(|row| row.rank()).map(|row| row.id)
    }

    /// The best state among those that are eligible.
    fn best(&self, eligible: impl Fn(BackendId) -> bool) -> BackendState {
        self.eligible(eligible).map(|row| row.state).min().unwrap_or(BackendState::Syncing)
    }

    /// The best standing among those that are eligible.
    fn best_standing(&self, eligible: impl Fn(BackendId) -> bool) -> Standing {
        self.eligible(eligible).map(Row::standing).min().unwrap_or(Standing::Never)
    }

    /// Whether it is up, and no second choice while there is a first one.
    fn is_ready(&self, row: &Row) -> bool {
        match row.standing() {
            Standing::Up => true,
            Standing::SecondChoice => self.best_standing(|_| true) != Standing::Up,
            _ => false,
        }
    }

    /// Gives backends in their slow start what another choice adds to their turn.
    fn add_credit(&mut self, slow_start: Duration, now: Instant) {
        if self.rows.iter().all(|row| row.returned.is_none()) {
            return;
        }
        let weights = self.weights(slow_start, now);
        let sum: f64 = weights.iter().sum();
        if sum == 0.0 {
            return;
        }
        for (row, weight) in self.rows.iter_mut().zip(weights) {
            row.credit = (row.credit + weight / sum).min(1.0);
        }
    }

    /// The weight of each backend that is up, and no second choice where there is a first; 0 of the others.
    fn weights(&mut self, slow_start: Duration, now: Instant) -> Vec<f64> {
        let best = self.best_standing(|_| true);
        let weight = |row: &mut Row| match row.standing() {
            standing @ (Standing::Up | Standing::SecondChoice) if standing == best => {
                row.weight(slow_start, now)
            }
            _ => 0.0,
        };
        self.rows.iter_mut().map(weight).collect()
    }

    fn choose(&mut self, id: BackendId) {
        self.clock += 1;
        let clock = self.clock;
        let most_turns = self.rows.iter().map(|row| row.turns).max().unwrap_or(0);
        let Some(row) = self.row_mut(id) else { return };
        row.leases += 1;
        row.last_chosen = clock;
        row.turns = (row.turns + 1).max(most_turns.saturating_sub(MAX_TURNS_TO_CATCH_UP));
        row.credit = 0.0;
    }

    fn take_slot(&mut self, slot: Slot) -> usize {
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

    fn move_slot(&mut self, place: usize, to: BackendId) {
        let Some(slot) = &mut self.slots[place] else { return };
        let from = std::mem::replace(&mut slot.backend, to);
        self.give_back(from);
        self.choose(to);
    }

    /// One lease of this backend is over.
    fn give_back(&mut self, id: BackendId) {
        let Some(at) = self.rows.iter().position(|row| row.id == id) else { return };
        self.rows[at].leases -= 1;
        self.forget_if_drained(at);
    }

    fn forget_if_drained(&mut self, at: usize) {
        if self.rows[at].is_draining && self.rows[at].leases == 0 {
            self.rows.remove(at);
        }
    }

    fn note_outage(&mut self, now: Instant) {
        self.outage_since = match self.best(|_| true) {
            BackendState::Up => None,
            _ => Some(self.outage_since.unwrap_or(now)),
        };
    }

    /// Where a session that may move from `backend` should go, given the leases that each backend should
    /// have.
    fn better(&self, backend: BackendId, shares: &[(BackendId, f64)]) -> Option<BackendId> {
        let share = |row: &Row| {
            let share = shares.iter().find(|(of, _)| *of == row.id);
            share.map_or(0.0, |(_, share)| *share)
        };
        let load = |row: &Row| row.leases as f64 / share(row).max(FIRST_SHARE);
        let ready = self.rows.iter().filter(|row| row.id != backend && self.is_ready(row));
        let to = ready.min_by(|a, b| load(a).total_cmp(&load(b)))?;
        let from = self.row(backend)?;
        let is_better = match from.standing() {
            Standing::Up | Standing::SecondChoice if self.is_ready(from) => {
                from.leases >= to.leases + 2 && (to.leases as f64) < share(to).ceil()
            }
            Standing::Up | Standing::SecondChoice => true,
            // It may be good again in a moment.
            Standing::Suspect => false,
            Standing::Busy | Standing::Down | Standing::Never => true,
        };
        is_better.then_some(to.id)
    }
}

impl ConnectionTable {
    /// Table without backends. One that is made up slowly has its full share after `slow_start`.
    pub fn new(slow_start: Duration, now: Instant) -> Arc<Self> {
        let rows = Rows {
            rows: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            clock: 0,
            outage_since: Some(now),
        };
        Arc::new(Self { rows: Mutex::new(rows), slow_start })
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        lock(&self.rows)
    }

    fn change<T>(&self, id: BackendId, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        self.rows().row_mut(id).map(change)
    }

    fn with<T>(&self, id: BackendId, look: impl FnOnce(&Row) -> T) -> Option<T> {
        self.rows().row(id).map(look)
    }

    /// Adds a backend without leases, which is not known to be good.
    pub fn add(&self, id: BackendId) {
        self.rows().rows.push(Row::new(id));
    }

    /// Removes a backend: it is never leased again, its leases move to others where they may, and it is
    /// forgotten with the last of them.
    pub fn remove(&self, id: BackendId, now: Instant) {
        let mut table = self.rows();
        let Some(at) = table.rows.iter().position(|row| row.id == id) else { return };
        table.rows[at].is_draining = true;
        table.forget_if_drained(at);
        table.note_outage(now);
    }

    /// Whether a backend is in the table: one that was removed is until its last lease is over.
    pub fn knows(&self, id: BackendId) -> bool {
        self.rows().row(id).is_some()
    }

    /// Sets the state of a backend. One that comes up `slowly` begins its slow start.
    pub fn set_state(&self, id: BackendId, state: BackendState, slowly: bool, now: Instant) {
        let is_slow = slowly && !self.slow_start.is_zero();
        let mut table = self.rows();
        let Some(row) = table.row_mut(id) else { return };
        let was_suspect = std::mem::replace(&mut row.state, state) == BackendState::Suspect;
        // A moment's doubt neither begins nor ends a slow start.
        if state != BackendState::Suspect && !(was_suspect && state == BackendState::Up) {
            row.returned = is_slow.then_some(now);
            row.credit = 0.0;
        }
        table.note_outage(now);
    }

    /// Sets whether a slow read runs on a backend: while one does, others go elsewhere.
    pub fn set_busy(&self, id: BackendId, is_busy: bool) {
        self.change(id, |row| row.is_busy = is_busy);
    }

    /// Whether a slow read runs on a backend.
    pub fn is_busy(&self, id: BackendId) -> bool {
        self.with(id, |row| row.is_busy).unwrap_or(false)
    }

    /// Sets whether a backend was silent at its last check, though it can be reached.
    pub fn set_silent(&self, id: BackendId, is_silent: bool) {
        self.change(id, |row| row.is_silent = is_silent);
    }

    /// Sets whether a backend is leased only while no other is up.
    pub fn set_second_choice(&self, id: BackendId, is_second_choice: bool) {
        self.change(id, |row| row.is_second_choice = is_second_choice);
    }

    /// Whether all of several backends are silent, and one of them runs no slow read: then no read can be
    /// why.
    pub fn are_all_frozen(&self) -> bool {
        let table = self.rows();
        let rows = || table.eligible(|_| true);
        let is_down = |row: &Row| row.standing() == Standing::Down && row.is_silent;
        rows().count() > 1
            && rows().all(|row| row.is_busy || is_down(row))
            && rows().any(|row| is_down(row) && !row.is_busy)
    }

    /// Whether one of the eligible backends is up and runs no slow read.
    pub fn has_free(&self, eligible: impl Fn(BackendId) -> bool) -> bool {
        self.rows().best_standing(eligible) <= Standing::SecondChoice
    }

    /// Whether another backend than this is up and runs no slow read: one to which a read can go.
    pub fn has_better(&self, id: BackendId) -> bool {
        self.has_free(|other| other != id)
    }

    /// Whether another backend than this is up, whatever it runs.
    pub fn has_other(&self, id: BackendId) -> bool {
        self.serving().iter().any(|other| *other != id)
    }

    /// The backends that may be asked: those that are up or suspect.
    pub fn askable(&self) -> Vec<BackendId> {
        let table = self.rows();
        let rows = table.eligible(|_| true).filter(|row| row.state <= BackendState::Suspect);
        rows.map(|row| row.id).collect()
    }

    /// The backends that are up, those included that a slow read of ours keeps from answering checks.
    pub fn serving(&self) -> Vec<BackendId> {
        let serves = |row: &&Row| {
            matches!(row.standing(), Standing::Up | Standing::SecondChoice | Standing::Busy)
        };
        self.rows().rows.iter().filter(serves).map(|row| row.id).collect()
    }

    /// The eligible backends of the best standing, in the order in which they would be leased. Those that
    /// run a slow read are among them.
    pub fn candidates(&self, eligible: impl Fn(BackendId) -> bool) -> Vec<BackendId> {
        let table = self.rows();
        // One that is suspect because of a slow read will be up when that is over.
        let standing = |row: &Row| match row.standing() {
            Standing::Busy => Standing::Up,
            standing => standing,
        };
        let mut rows: Vec<_> = table.eligible(eligible).filter(|row| row.may_be_leased()).collect();
        let best = rows.iter().map(|row| standing(row)).min();
        rows.retain(|row| Some(standing(row)) == best);
        rows.sort_by_key(|row| row.rank());
        rows.into_iter().map(|row| row.id).collect()
    }

    /// Whether a backend is leased only while no other is up, and another that is eligible is.
    pub fn is_outranked(&self, id: BackendId, eligible: impl Fn(BackendId) -> bool) -> bool {
        let table = self.rows();
        let is_second_choice = table.row(id).is_some_and(|row| row.is_second_choice);
        is_second_choice && table.best_standing(eligible) == Standing::Up
    }

    /// Leastconn: leases the eligible backend of the best standing that has the fewest leases;
    /// equals take turns. `None` when no backend is eligible.
    pub fn lease(
        self: &Arc<Self>,
        now: Instant,
        eligible: impl Fn(BackendId) -> bool,
    ) -> Option<Lease> {
        let mut table = self.rows();
        table.add_credit(self.slow_start, now);
        let backend = table.next(eligible)?;
        table.choose(backend);
        let slot = table.take_slot(Slot { backend, may_move: false });
        Some(Lease { table: Arc::clone(self), slot })
    }

    /// How many backends there are.
    pub fn backend_count(&self) -> usize {
        self.rows().eligible(|_| true).count()
    }

    /// The number of leases of a backend.
    pub fn leases(&self, id: BackendId) -> usize {
        self.with(id, |row| row.leases).unwrap_or(0)
    }

    /// The state of a backend; `Down` of one that was removed.
    pub fn state(&self, id: BackendId) -> BackendState {
        let state = |row: &Row| if row.is_draining { BackendState::Down } else { row.state };
        self.with(id, state).unwrap_or(BackendState::Down)
    }

    /// The best state among the backends that are eligible.
    pub fn best(&self, eligible: impl Fn(BackendId) -> bool) -> BackendState {
        self.rows().best(eligible)
    }

    /// For how long no backend has been up; `None` while one is.
    pub fn outage(&self, now: Instant) -> Option<Duration> {
        self.rows().outage_since.map(|since| now.saturating_duration_since(since))
    }

    /// Moves leases that may move: away from backends that can't serve, and a few at a time from
    /// one that is up to another that has at least two fewer. Returns how many.
    pub fn rebalance(&self, now: Instant) -> usize {
        let mut table = self.rows();
        let weights = table.weights(self.slow_start, now);
        let sum: f64 = weights.iter().sum();
        let best = table.best_standing(|_| true);
        let ready = table.rows.iter().filter(|row| row.standing() == best);
        let leases: usize = ready.map(|row| row.leases).sum();
        let ids = table.rows.iter().map(|row| row.id);
        let shares: Vec<_> =
            ids.zip(&weights).map(|(id, weight)| (id, leases as f64 * weight / sum)).collect();
        if sum == 0.0 || shares.iter().all(|(from, _)| table.better(*from, &shares).is_none()) {
            return 0;
        }
        let places = table.slots.len();
        let taken = places - table.free.len();
        let (mut moved, mut left) = (0, (taken / MOVED_PART).max(1));
        let first = table.clock as usize;
        for place in (0..places).map(|place| (first + place) % places) {
            let Some(Slot { backend, may_move: true }) = table.slots[place] else { continue };
            let Some(to) = table.better(backend, &shares) else { continue };
            if table.row(backend).is_some_and(|row| table.is_ready(row)) {
                if left == 0 {
                    continue;
                }
                left -= 1;
            }
            table.move_slot(place, to);
            moved += 1;
        }
        moved
    }
}

/// One counted use of a backend, given back when it is dropped, however that comes about.
#[derive(Debug)]
pub struct Lease {
    table: Arc<ConnectionTable>,
    slot: usize,
}

impl Lease {
    /// The leased backend. That of a lease that may move may be another each time.
    pub fn backend(&self) -> Option<BackendId> {
        self.table.rows().slots[self.slot].map(|slot| slot.backend)
    }

    /// The leased backend, if that is up, runs no slow read, and is no second choice while there is a
    /// first.
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

    /// Makes it this backend's lease, which does not move by itself: a connection to that is in its
    /// session's hands. It may have been moved since that was made.
    pub fn pin(&self, backend: BackendId) {
        let mut table = self.table.rows();
        let is_known = table.row(backend).is_some();
        let Some(slot) = &mut table.slots[self.slot] else { return };
        slot.may_move = false;
        if slot.backend != backend && is_known {
            table.move_slot(self.slot, backend);
        }
    }

    /// The backend to be used now, of those that are eligible: the lease's own, or one that it
    /// moves to, where that has a better standing. `None` when no backend is eligible.
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
        table.add_credit(self.table.slow_start, now);
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
