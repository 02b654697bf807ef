//! The rows of the connection table, without a lock or a clock, and the order in which backends are leased.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::shares::{self, Weighed};
use crate::backend::BackendId;
use crate::health::{Admin, BackendState};

/// Limit of turns that a backend catches up on: after a long absence it wins ties for a moment, not for as long
/// as it was away.
const MAX_TURNS_TO_CATCH_UP: f64 = 1000.0;

/// Limit of a held-back backend's credit: a large share is worth nearly two turns in a row, and no more is saved.
const MAX_CREDIT: f64 = 2.0;

/// Weight of a backend at the beginning of its slow start.
const FIRST_SHARE: f64 = 0.01;

/// Weight of a backend that is slow while another is not: as much less as it is slower at least.
pub(super) const SLOW_WEIGHT: f64 = 0.1;

/// How much further two backends are from their shares together than a move is worth: a move of one lease back and
/// forth is worth 1, and a session that goes to one of equals is worth 2.
const WORTH_A_MOVE: f64 = 1.5;

/// Part of the leases below which a backend has none, and the error that sums of parts may have.
const NO_SHARE: f64 = 1e-6;

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
    /// Turn of the backend that was chosen last, by which idle ones take turns.
    pub idle_turn: f64,
    /// Since when no backend is up; `None` while one is.
    pub outage_since: Option<Instant>,
}

/// How good a backend is for a new lease, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Up,
    /// It is up, but stale, or lacks some keys.
    SecondChoice,
    /// It is up, but a backup.
    Backup,
    /// It is up, but a backup that is stale, or lacks some keys.
    SecondBackup,
    Suspect,
    /// It serves, but runs a slow read: other reads would wait for the end of that.
    Busy,
    /// It is up, but an operator drains it, or its weight is 0.
    Drained,
    Down,
    /// It is never leased: it may lack data, is in maintenance, was removed, or is there for comparison alone.
    Never,
}

impl Standing {
    /// Whether it is up and runs no slow read.
    pub fn is_up(self) -> bool {
        match self {
            Self::Up | Self::SecondChoice | Self::Backup | Self::SecondBackup | Self::Drained => {
                true
            }
            Self::Suspect | Self::Busy | Self::Down | Self::Never => false,
        }
    }
}

/// How much is read from a backend, as far as the table needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Its share of the leases, in proportion to the weights of others.
    pub weight: u16,
    /// Whether it is leased only while no other is up.
    pub is_backup: bool,
    /// Whether it is in another zone than the balancer.
    pub is_across: bool,
    /// Whether it is never leased.
    pub is_never_read: bool,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { weight: 1, is_backup: false, is_across: false, is_never_read: false }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: BackendId,
    pub state: BackendState,
    pub terms: LeaseTerms,
    pub admin: Admin,
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
    /// Its weight, in units of the least weight that shares with it; 0 if others take its share.
    pub weight: f64,
    /// Number of the choice when it was chosen last.
    pub last_chosen: u64,
    /// When it is due while it is idle: each choice puts it off, the less the greater its weight.
    pub idle_turn: f64,
    /// How often it was chosen, divided by its weight; at most [`MAX_TURNS_TO_CATCH_UP`] turns less than others.
    pub turns: f64,
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
            terms: LeaseTerms::default(),
            admin: Admin::Ready,
            is_draining: false,
            is_busy: false,
            was_busy: false,
            is_slow: false,
            is_silent: false,
            is_second_choice: false,
            leases: 0,
            weight: 1.0,
            last_chosen: 0,
            idle_turn: 0.0,
            turns: 0.0,
            returned: None,
            credit: 0.0,
        }
    }

    pub fn standing(&self) -> Standing {
        match self.state {
            BackendState::Syncing => Standing::Never,
            _ if self.choice() == Standing::Never => Standing::Never,
            BackendState::Up if !self.is_busy => self.choice(),
            _ if self.is_drained() => Standing::Down,
            BackendState::Up | BackendState::Suspect if self.is_busy => Standing::Busy,
            BackendState::Up | BackendState::Suspect => Standing::Suspect,
            BackendState::Down => Standing::Down,
        }
    }

    /// Its standing whenever it is up.
    pub fn choice(&self) -> Standing {
        match (self.terms.is_backup, self.is_second_choice) {
            _ if self.is_draining || self.admin == Admin::Maint => Standing::Never,
            _ if self.terms.is_never_read => Standing::Never,
            _ if self.is_drained() => Standing::Drained,
            (false, false) => Standing::Up,
            (false, true) => Standing::SecondChoice,
            (true, false) => Standing::Backup,
            (true, true) => Standing::SecondBackup,
        }
    }

    /// Whether an operator wants it to be leased only if nothing else is left.
    fn is_drained(&self) -> bool {
        self.admin == Admin::Drain || self.terms.weight == 0
    }

    pub fn may_be_leased(&self) -> bool {
        self.standing() != Standing::Never
    }

    /// Rank among rows: those with the least are next, and leases decide between them.
    pub fn rank(&self) -> (Standing, bool, bool) {
        let is_held_back = (self.returned.is_some() || self.is_slow) && self.credit < 1.0;
        (self.standing(), is_held_back, self.weight == 0.0)
    }

    /// The weight by which leases and turns are counted.
    fn unit(&self) -> f64 {
        if self.weight == 0.0 { 1.0 } else { self.weight }
    }

    /// Its leases, and some more, in proportion to its weight.
    pub fn load(&self, more: usize) -> f64 {
        (self.leases + more) as f64 / self.unit()
    }

    /// The part of its weight that counts, which grows to 1 during its slow start.
    pub fn slow_start_part(&mut self, slow_start: Duration, now: Instant) -> f64 {
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
        let may_be_read = |row: &Row| !row.is_draining && !row.terms.is_never_read;
        self.rows.iter().filter(move |row| may_be_read(row) && eligible(row.id))
    }

    /// The backend to be leased next, of those with the least rank.
    ///
    /// A backend is passed over while another would have fewer leases for its weight even with one more. Those that
    /// are left take turns. So a backend with weight 7 has its 7 leases beside one of another, and a read that finds
    /// all of them idle goes where the weights want it.
    pub fn next(&self, eligible: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let rows = || self.eligible(&eligible).filter(|row| row.may_be_leased());
        let rank = rows().map(Row::rank).min()?;
        let peers = || rows().filter(|row| row.rank() == rank);
        let bound = peers().map(|row| row.load(1)).min_by(f64::total_cmp)? * (1.0 - NO_SHARE);
        let equals = || peers().filter(|row| row.load(0) < bound);
        let turn = self.turn(equals().all(|row| row.leases == 0));
        let order = |row: &Row| (turn(row), row.last_chosen);
        let before =
            |a: &&Row, b: &&Row| order(a).partial_cmp(&order(b)).unwrap_or(Ordering::Equal);
        equals().min_by(before).map(|row| row.id)
    }

    /// Says when it is a backend's turn.
    ///
    /// Of idle backends, the one that has waited for longest in proportion to its weight is next, whatever was
    /// before. Under load all turns are counted: a server that is a little quicker for a while has fewer leases, is
    /// chosen more often, and would otherwise never give that back.
    pub fn turn(&self, are_idle: bool) -> impl Fn(&Row) -> f64 {
        let now = self.idle_turn;
        move |row| if are_idle { row.idle_turn.max(now) } else { row.turns }
    }

    /// The best state among those that are eligible.
    pub fn best(&self, eligible: impl Fn(BackendId) -> bool) -> BackendState {
        self.eligible(eligible).map(|row| row.state).min().unwrap_or(BackendState::Syncing)
    }

    /// The best standing among those that are eligible.
    pub fn best_standing(&self, eligible: impl Fn(BackendId) -> bool) -> Standing {
        self.eligible(eligible).map(Row::standing).min().unwrap_or(Standing::Never)
    }

    /// Whether it is up, and no other of a better standing is.
    pub fn is_ready(&self, row: &Row) -> bool {
        match row.standing() {
            Standing::Up => true,
            standing => standing.is_up() && standing == self.best_standing(|_| true),
        }
    }

    /// Adds to the credit of backends that are held back what one choice is worth.
    pub fn add_credit(&mut self, slow_start: Duration, now: Instant) {
        if self.rows.iter().all(|row| row.returned.is_none() && !row.is_slow) {
            return;
        }
        let parts = self.parts(slow_start, now);
        for (row, part) in self.rows.iter_mut().zip(parts) {
            row.credit = (row.credit + part).min(MAX_CREDIT);
        }
        // The slow start of one may have ended, which changes what a zone takes.
        self.weigh(slow_start, now);
    }

    /// The part of the leases that each backend should have, if it is ready; 0 for the others.
    pub fn parts(&mut self, slow_start: Duration, now: Instant) -> Vec<f64> {
        let mut all = self.weighed(slow_start, now);
        shares::divide(&mut all);
        all.into_iter().map(|one| one.weight).collect()
    }

    /// Sets the weights by which backends are compared. Slow starts and slow backends change only what their zone
    /// takes: their own share is kept small by their credit.
    pub fn weigh(&mut self, slow_start: Duration, now: Instant) {
        let mut all = self.weighed(slow_start, now);
        for (row, one) in self.rows.iter().zip(&mut all) {
            one.weight = if one.weight > 0.0 { f64::from(row.terms.weight.max(1)) } else { 0.0 };
        }
        shares::divide(&mut all);
        let weights = all.iter().map(|one| one.weight).filter(|weight| *weight > 0.0);
        let least = weights.min_by(f64::total_cmp).unwrap_or(1.0);
        let others = self.rows.iter().map(|row| row.terms.weight).filter(|weight| *weight > 0);
        let least_of_others = f64::from(others.min().unwrap_or(1));
        let best = self.best_standing(|_| true);
        let weights = self.rows.iter().zip(all).map(|(row, one)| {
            match row.standing() == best && best.is_up() {
                true => one.weight / least,
                false => f64::from(row.terms.weight).max(least_of_others) / least_of_others,
            }
        });
        let weights: Vec<f64> = weights.collect();
        self.set_weights(&weights);
    }

    /// Sets the weights. If they are others than before, what is caught up on is one turn at most.
    fn set_weights(&mut self, weights: &[f64]) {
        if self.rows.iter().zip(weights).all(|(row, weight)| row.weight == *weight) {
            return;
        }
        let most_turns = self.most_turns();
        for (row, weight) in self.rows.iter_mut().zip(weights) {
            row.weight = *weight;
            row.turns = row.turns.max(most_turns - 1.0 / row.unit());
            row.idle_turn = row.idle_turn.min(self.idle_turn + 1.0 / row.unit());
        }
    }

    fn most_turns(&self) -> f64 {
        self.rows.iter().map(|row| row.turns).fold(0.0, f64::max)
    }

    /// What each backend weighs now.
    fn weighed(&mut self, slow_start: Duration, now: Instant) -> Vec<Weighed> {
        let best = self.best_standing(|_| true);
        let is_backup = matches!(best, Standing::Backup | Standing::SecondBackup);
        let slow: Vec<bool> = self.rows.iter().map(|row| self.is_slowed(row)).collect();
        let weigh = |(row, is_slow): (&mut Row, bool)| {
            let standing = row.standing();
            let LeaseTerms { weight, is_across, .. } = row.terms;
            let is_ready = standing.is_up() && standing == best;
            // Those of weight 0 are leased only when there is no other: then they are equal.
            let full = f64::from(if is_ready { weight.max(1) } else { weight });
            let slowed = if is_slow { SLOW_WEIGHT } else { 1.0 };
            let now = full * row.slow_start_part(slow_start, now) * slowed;
            let is_of_zone =
                !row.is_draining && !row.terms.is_never_read && row.terms.is_backup == is_backup;
            Weighed {
                weight: if is_ready { now } else { 0.0 },
                up: if is_ready || standing == Standing::Busy { now } else { 0.0 },
                full: if is_of_zone { full } else { 0.0 },
                is_across,
            }
        };
        self.rows.iter_mut().zip(slow).map(weigh).collect()
    }

    /// Whether it is slow while another backend of the best standing is not.
    fn is_slowed(&self, row: &Row) -> bool {
        row.is_slow && self.rows.iter().any(|other| !other.is_slow && self.is_ready(other))
    }

    pub fn choose(&mut self, id: BackendId) {
        self.clock += 1;
        let clock = self.clock;
        let most_turns = self.most_turns();
        let now = self.idle_turn;
        let Some(row) = self.row_mut(id) else { return };
        let weight = row.unit();
        row.leases += 1;
        row.last_chosen = clock;
        row.turns = (row.turns + 1.0 / weight).max(most_turns - MAX_TURNS_TO_CATCH_UP / weight);
        row.credit = (row.credit - 1.0).max(0.0);
        let turn = row.idle_turn.max(now);
        row.idle_turn = turn + 1.0 / weight;
        self.idle_turn = turn;
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

    /// Backend to which a session should move from `backend`, given the part of `leases` that each should have.
    pub fn better(
        &self,
        backend: BackendId,
        parts: &[(BackendId, f64)],
        leases: usize,
    ) -> Option<BackendId> {
        let part = |row: &Row| {
            let part = parts.iter().find(|(of, _)| *of == row.id);
            part.map_or(0.0, |(_, part)| *part)
        };
        let share = |row: &Row| part(row) * leases as f64;
        // The share of a slow backend is rounded down, those of others up.
        let limit = |row: &Row| match self.is_slowed(row) {
            true => share(row).floor() as usize,
            false => (share(row) - NO_SHARE).ceil() as usize,
        };
        let from = self.row(backend)?;
        let must_leave = !self.is_ready(from);
        let has_room = |row: &&Row| must_leave || row.leases < limit(row);
        let ready = self.rows.iter().filter(|row| row.id != backend && self.is_ready(row));
        let load = |row: &Row| (row.leases + 1) as f64 / part(row).max(NO_SHARE);
        let to = ready.filter(has_room).min_by(|a, b| load(a).total_cmp(&load(b)))?;
        let surplus = |row: &Row| row.leases as f64 - share(row);
        let is_better = match from.standing() {
            // It may be up again in a moment.
            Standing::Suspect => false,
            _ if must_leave || part(from) < NO_SHARE => true,
            // Both are nearer to their shares then.
            _ => {
                surplus(from) - surplus(to) > WORTH_A_MOVE
                    || (self.is_slowed(from) && from.leases > limit(from))
            }
        };
        is_better.then_some(to.id)
    }
}
