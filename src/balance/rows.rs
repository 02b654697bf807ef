//! The rows of the connection table, without a lock or a clock, and the order in which backends are leased.

use std::time::{Duration, Instant};

use crate::backend::BackendId;
use crate::health::BackendState;

/// Limit of turns that a backend catches up on: after a long absence it wins ties for a moment, not for as long
/// as it was away.
const MAX_TURNS_TO_CATCH_UP: u64 = 1000;

/// Weight of a backend at the beginning of its slow start.
const FIRST_SHARE: f64 = 0.01;

/// Weight of a backend that is slow while another is not: as much less as it is slower at least.
pub(super) const SLOW_WEIGHT: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct Rows {
    /// A row for each backend, in the order in which they were added.
    pub rows: Vec<Row>,
    /// The leases; each stays at its place for as long as it lives.
    pub slots: Vec<Option<Slot>>,
    /// Places in `slots` that are empty.
    pub free: Vec<usize>,
    /// Number of all choices.
    pub clock: u64,
    /// Since when no backend is up; `None` while one is.
    pub outage_since: Option<Instant>,
}

/// How good a backend is for a new lease, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Up,
    /// It is up, but stale, or lacks some keys.
    SecondChoice,
    Suspect,
    /// It serves, but runs a slow read: other reads would wait for the end of that.
    Busy,
    Down,
    /// It is never leased: it may lack data, or was removed.
    Never,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: BackendId,
    pub state: BackendState,
    /// Whether it was removed: the row goes with its last lease.
    pub is_draining: bool,
    /// Whether a slow read runs on it.
    pub is_busy: bool,
    /// Whether a slow read has run on it since that was asked last.
    pub was_busy: bool,
    /// Whether its short reads are much slower than those of the others.
    pub is_slow: bool,
    /// Whether it was silent at its last check.
    pub is_silent: bool,
    /// Whether it is leased only while no other is up: it is stale, or lacks some keys.
    pub is_second_choice: bool,
    pub leases: usize,
    /// Number of the choice when it was chosen last.
    pub last_chosen: u64,
    /// How often it was chosen; at most [`MAX_TURNS_TO_CATCH_UP`] less than others.
    pub turns: u64,
    /// When its slow start began, until that is over.
    pub returned: Option<Instant>,
    /// Sum of its weights since it was chosen last, in its slow start or while it is slow: at 1 it is its turn.
    pub credit: f64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub backend: BackendId,
    pub may_move: bool,
}

impl Row {
    pub fn new(id: BackendId) -> Self {
        Self {
            id,
            state: BackendState::Down,
            is_draining: false,
            is_busy: false,
            was_busy: false,
            is_slow: false,
            is_silent: false,
            is_second_choice: false,
            leases: 0,
            last_chosen: 0,
            turns: 0,
            returned: None,
            credit: 0.0,
        }
    }

    pub fn standing(&self) -> Standing {
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

    pub fn may_be_leased(&self) -> bool {
        self.standing() != Standing::Never
    }

    /// Rank among rows: the least is next.
    ///
    /// Of idle backends, the one that was chosen longest ago is next. Under load turns are counted: a server
    /// that is a little quicker for a while has fewer leases, is chosen more often, and would otherwise never
    /// give that back.
    pub fn rank(&self) -> (Standing, bool, usize, u64) {
        let is_held_back = (self.returned.is_some() || self.is_slow) && self.credit < 1.0;
        let turn = if self.leases == 0 { self.last_chosen } else { self.turns };
        (self.standing(), is_held_back, self.leases, turn)
    }

    /// Its share compared to others', which grows to 1 during its slow start.
    pub fn weight(&mut self, slow_start: Duration, now: Instant) -> f64 {
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
    pub fn row(&self, id: BackendId) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    pub fn row_mut(&mut self, id: BackendId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.id == id)
    }

    pub fn eligible(&self, eligible: impl Fn(BackendId) -> bool) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| !row.is_draining && eligible(row.id))
    }

    /// The backend to be leased next.
    pub fn next(&self, eligible: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let rows = self.eligible(eligible).filter(|row| row.may_be_leased());
        rows.min_by_key(|row| row.rank()).map(|row| row.id)
    }

    /// The best state among those that are eligible.
    pub fn best(&self, eligible: impl Fn(BackendId) -> bool) -> BackendState {
        self.eligible(eligible).map(|row| row.state).min().unwrap_or(BackendState::Syncing)
    }

    /// The best standing among those that are eligible.
    pub fn best_standing(&self, eligible: impl Fn(BackendId) -> bool) -> Standing {
        self.eligible(eligible).map(Row::standing).min().unwrap_or(Standing::Never)
    }

    /// Whether it is up, and is no second choice while there is a first one.
    pub fn is_ready(&self, row: &Row) -> bool {
        match row.standing() {
            Standing::Up => true,
            Standing::SecondChoice => self.best_standing(|_| true) != Standing::Up,
            _ => false,
        }
    }

    /// Adds to the credit of backends that are held back what one choice is worth.
    pub fn add_credit(&mut self, slow_start: Duration, now: Instant) {
        if self.rows.iter().all(|row| row.returned.is_none() && !row.is_slow) {
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

    /// The weight of each backend of the best standing, if that is up; 0 for the others.
    pub fn weights(&mut self, slow_start: Duration, now: Instant) -> Vec<f64> {
        let best = self.best_standing(|_| true);
        let slow: Vec<bool> = self.rows.iter().map(|row| self.is_slowed(row)).collect();
        let weight = |(row, is_slow): (&mut Row, bool)| match row.standing() {
            standing @ (Standing::Up | Standing::SecondChoice) if standing == best => {
                row.weight(slow_start, now) * if is_slow { SLOW_WEIGHT } else { 1.0 }
            }
            _ => 0.0,
        };
        self.rows.iter_mut().zip(slow).map(weight).collect()
    }

    /// Whether it is slow while another backend of the best standing is not.
    fn is_slowed(&self, row: &Row) -> bool {
        row.is_slow && self.rows.iter().any(|other| !other.is_slow && self.is_ready(other))
    }

    pub fn choose(&mut self, id: BackendId) {
        self.clock += 1;
        let clock = self.clock;
        let most_turns = self.rows.iter().map(|row| row.turns).max().unwrap_or(0);
        let Some(row) = self.row_mut(id) else { return };
        row.leases += 1;
        row.last_chosen = clock;
        row.turns = (row.turns + 1).max(most_turns.saturating_sub(MAX_TURNS_TO_CATCH_UP));
        row.credit = 0.0;
    }

    pub fn take_slot(&mut self, slot: Slot) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some(slot);
        place
    }

    pub fn move_slot(&mut self, place: usize, to: BackendId) {
        let Some(slot) = &mut self.slots[place] else { return };
        let from = std::mem::replace(&mut slot.backend, to);
        self.give_back(from);
        self.choose(to);
    }

    /// Ends one lease of this backend.
    pub fn give_back(&mut self, id: BackendId) {
        let Some(at) = self.rows.iter().position(|row| row.id == id) else { return };
        self.rows[at].leases -= 1;
        self.forget_if_drained(at);
    }

    pub fn forget_if_drained(&mut self, at: usize) {
        if self.rows[at].is_draining && self.rows[at].leases == 0 {
            self.rows.remove(at);
        }
    }

    pub fn update_outage(&mut self, now: Instant) {
        self.outage_since = match self.best(|_| true) {
            BackendState::Up => None,
            _ => Some(self.outage_since.unwrap_or(now)),
        };
    }

    /// Backend to which a session should move from `backend`, given the leases that each should have.
    pub fn better(&self, backend: BackendId, shares: &[(BackendId, f64)]) -> Option<BackendId> {
        let share = |row: &Row| {
            let share = shares.iter().find(|(of, _)| *of == row.id);
            share.map_or(0.0, |(_, share)| *share)
        };
        let load = |row: &Row| row.leases as f64 / share(row).max(FIRST_SHARE);
        // The share of a slow backend is rounded down, those of others up.
        let limit = |row: &Row| match self.is_slowed(row) {
            true => share(row).floor() as usize,
            false => share(row).ceil() as usize,
        };
        let from = self.row(backend)?;
        let must_leave = !self.is_ready(from);
        let has_room = |row: &&Row| must_leave || row.leases < limit(row);
        let ready = self.rows.iter().filter(|row| row.id != backend && self.is_ready(row));
        let to = ready.filter(has_room).min_by(|a, b| load(a).total_cmp(&load(b)))?;
        let is_better = match from.standing() {
            Standing::Up | Standing::SecondChoice if !must_leave => {
                from.leases >= to.leases + 2 || (self.is_slowed(from) && from.leases > limit(from))
            }
            Standing::Up | Standing::SecondChoice => true,
            // It may be up again in a moment.
            Standing::Suspect => false,
            Standing::Busy | Standing::Down | Standing::Never => true,
        };
        is_better.then_some(to.id)
    }
}
