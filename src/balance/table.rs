//! The connection table: how many leases each backend has, which backend is next, and which sessions move to
//! another.
//!
//! **Leastconn.** A lease is one counted use of a backend: an HTTP request has one for as long as it lasts, a
//! Redis session has one as long as it lives. The next lease goes to the backend of the best standing ([`Standing`]:
//! up, second choice, backup, suspect, busy, drained, down) that has the fewest leases for its weight. Standing comes
//! from health checks, failed reads, the slow lane, the configuration and the operator.
//!
//! **Turns.** Backends with equally many leases take turns in proportion to their weights: idle ones by when they
//! were chosen last, others by how often they were chosen.
//!
//! **Zones.** Of backends of one standing, those of the balancer's own zone get what `shares` says, others the rest.
//!
//! **Slow start.** A backend that comes back gets its share little by little. Each choice adds to its credit,
//! in proportion to its weight, and it is chosen when the credit is 1. A moment of doubt (`suspect`) does not
//! begin a slow start anew, but an ejection does.
//!
//! **Slow backends.** A backend whose short reads are much slower than those of the others has a tenth of their weight.
//! While all are slow, or no other is up, it is leased as any other.
//!
//! **Rebalancing.** Sessions may last for days, so a backend that comes back would stay empty. Ten times a second
//! [`rebalance`](ConnectionTable::rebalance) moves leases that may move, which are those of sessions between two
//! commands: all of them away from a backend that can't serve, and a few away from one that has more than its
//! share. The session finds another backend in its lease at its next command.
//!
//! **Removal.** A removed backend is never leased again, and its row goes with its last lease.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::lease::Lease;
use super::rows::{LeaseTerms, Row, Rows, Slot, Standing};
use crate::backend::BackendId;
use crate::health::{Admin, BackendState};
use crate::sync::{Mutex, MutexGuard, lock};

/// Part of all leases, as its denominator, that one round of rebalancing moves between backends that are up, so
/// that none is stormed.
const MOVED_PART: usize = 50;

/// Backend → number of leases, in one Mutex that is held for arithmetic only.
#[derive(Debug)]
pub struct ConnectionTable {
    rows: Mutex<Rows>,
    slow_start_ms: AtomicU64,
}

impl ConnectionTable {
    /// Table without backends. A backend that comes up slowly has its full share after `slow_start`.
    pub fn new(slow_start: Duration, now: Instant) -> Arc<Self> {
        let rows = Rows { outage_since: Some(now), ..Rows::default() };
        let table = Self { rows: Mutex::new(rows), slow_start_ms: AtomicU64::new(0) };
        table.set_slow_start(slow_start);
        Arc::new(table)
    }

    pub(super) fn slow_start(&self) -> Duration {
        Duration::from_millis(self.slow_start_ms.load(Relaxed))
    }

    /// Changes the time in which a backend that comes up slowly gets its full share.
    pub fn set_slow_start(&self, slow_start: Duration) {
        let millis = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
        self.slow_start_ms.store(millis, Relaxed);
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        lock(&self.rows)
    }

    fn change<T>(&self, id: BackendId, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        self.rows().row_mut(id).map(change)
    }

    /// Changes what decides a backend's standing or weight; others' weights change with it.
    fn change_standing(&self, id: BackendId, now: Instant, change: impl FnOnce(&mut Row)) {
        let mut table = self.rows();
        table.row_mut(id).map(change);
        table.weigh(self.slow_start(), now);
        table.update_outage(now);
    }

    fn with<T>(&self, id: BackendId, look: impl FnOnce(&Row) -> T) -> Option<T> {
        self.rows().row(id).map(look)
    }

    /// Adds a backend, which is down and has no leases.
    pub fn add(&self, id: BackendId) {
        self.rows().rows.push(Row::new(id));
    }

    /// Sets how much is read from a backend. One whose weight was 0 begins its slow start.
    pub fn set_terms(&self, id: BackendId, terms: LeaseTerms, now: Instant) {
        self.change_standing(id, now, |row| {
            let had_none = std::mem::replace(&mut row.terms, terms).weight == 0;
            if had_none && terms.weight > 0 {
                self.begin_slow_start(row, now);
            }
        });
    }

    /// How much is read from a backend; of a removed one, what is usual.
    pub fn terms(&self, id: BackendId) -> LeaseTerms {
        self.with(id, |row| row.terms).unwrap_or_default()
    }

    /// Sets what an operator wants of a backend. One that is ready again begins its slow start.
    pub fn set_admin(&self, id: BackendId, admin: Admin, now: Instant) {
        self.change_standing(id, now, |row| {
            let was = std::mem::replace(&mut row.admin, admin);
            if was != Admin::Ready && admin == Admin::Ready {
                self.begin_slow_start(row, now);
            }
        });
    }

    fn begin_slow_start(&self, row: &mut Row, now: Instant) {
        row.returned = (!self.slow_start().is_zero()).then_some(now);
        row.credit = 0.0;
    }

    /// Removes a backend: it is never leased again, and its row goes with its last lease.
    pub fn remove(&self, id: BackendId, now: Instant) {
        let mut table = self.rows();
        let Some(at) = table.rows.iter().position(|row| row.id == id) else { return };
        table.rows[at].is_draining = true;
        table.forget_if_drained(at);
        table.weigh(self.slow_start(), now);
        table.update_outage(now);
    }

    /// Whether a backend has a row, which a removed one has until its last lease ends.
    pub fn knows(&self, id: BackendId) -> bool {
        self.rows().row(id).is_some()
    }

    /// Sets the state of a backend; a backend that comes up `slowly` begins its slow start.
    pub fn set_state(&self, id: BackendId, state: BackendState, slowly: bool, now: Instant) {
        self.change_standing(id, now, |row| {
            let was_suspect = std::mem::replace(&mut row.state, state) == BackendState::Suspect;
            // A moment of doubt neither begins nor ends a slow start.
            let is_doubt_over = was_suspect && state == BackendState::Up && !slowly;
            if state != BackendState::Suspect && !is_doubt_over {
                self.begin_slow_start(row, now);
                row.returned.take_if(|_| !slowly);
            }
        });
    }

    /// Sets whether a slow read runs on a backend: quick reads go elsewhere meanwhile.
    pub fn set_busy(&self, id: BackendId, is_busy: bool, now: Instant) {
        self.change_standing(id, now, |row| {
            row.is_busy = is_busy;
            row.was_busy |= is_busy;
        });
    }

    /// Whether a slow read has run on a backend since this was asked last.
    pub fn take_was_busy(&self, id: BackendId) -> bool {
        let take = |row: &mut Row| std::mem::replace(&mut row.was_busy, row.is_busy);
        self.change(id, take).unwrap_or(false)
    }

    /// Sets from `now` on whether a backend's short reads are much slower than those of the others. One that
    /// has recovered begins its slow start.
    pub fn set_slow(&self, id: BackendId, is_slow: bool, now: Instant) {
        self.change_standing(id, now, |row| {
            row.is_slow = is_slow;
            self.begin_slow_start(row, now);
            row.returned.take_if(|_| is_slow);
        });
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
    pub fn set_second_choice(&self, id: BackendId, is_second_choice: bool, now: Instant) {
        self.change_standing(id, now, |row| row.is_second_choice = is_second_choice);
    }

    /// Whether all of several backends are silent, even one that runs no slow read: then reads are not the
    /// reason.
    pub fn are_all_frozen(&self) -> bool {
        let table = self.rows();
        let rows = || table.eligible(|_| true);
        let is_down = |row: &Row| row.standing() == Standing::Down && row.is_silent;
        rows().count() > 1
            && rows().all(|row| row.is_busy || is_down(row))
            && rows().any(|row| is_down(row) && !row.is_busy)
    }

    /// Whether another backend is up and runs no slow read, so that a read can go there.
    pub fn has_better(&self, id: BackendId) -> bool {
        self.rows().eligible(|other| other != id).any(|row| row.standing().is_up())
    }

    /// Whether another backend is up, even if it runs a slow read.
    pub fn has_other(&self, id: BackendId) -> bool {
        self.serving().iter().any(|other| *other != id)
    }

    /// The backends that are up or suspect.
    pub fn askable(&self) -> Vec<BackendId> {
        let table = self.rows();
        let rows = table.eligible(|_| true).filter(|row| row.state <= BackendState::Suspect);
        rows.map(|row| row.id).collect()
    }

    /// The backends that are up, and those that a slow read of ours keeps from answering checks. Drained ones
    /// are not among them.
    pub fn serving(&self) -> Vec<BackendId> {
        let serves = |row: &&Row| match row.standing() {
            Standing::Drained => false,
            standing => standing.is_up() || standing == Standing::Busy,
        };
        self.rows().rows.iter().filter(serves).map(|row| row.id).collect()
    }

    /// The eligible backends of the best standing, in the order in which they would be leased. Backends that run
    /// a slow read count as up.
    pub fn candidates(&self, eligible: impl Fn(BackendId) -> bool) -> Vec<BackendId> {
        let table = self.rows();
        // Such a backend will be up when its slow read has ended.
        let standing = |row: &Row| match row.standing() {
            Standing::Busy => Standing::Up,
            standing => standing,
        };
        let mut rows: Vec<_> = table.eligible(eligible).filter(|row| row.may_be_leased()).collect();
        let best = rows.iter().map(|row| standing(row)).min();
        rows.retain(|row| Some(standing(row)) == best);
        let turn = table.turn(rows.iter().all(|row| row.leases == 0));
        let key = |row: &Row| (row.load(0), turn(row));
        rows.sort_by(|a, b| {
            a.rank().cmp(&b.rank()).then(key(a).partial_cmp(&key(b)).unwrap_or(Ordering::Equal))
        });
        rows.into_iter().map(|row| row.id).collect()
    }

    /// Whether an eligible backend is up and a better choice than this one would be.
    pub fn is_outranked(&self, id: BackendId, eligible: impl Fn(BackendId) -> bool) -> bool {
        let table = self.rows();
        let best = table.best_standing(eligible);
        best.is_up() && table.row(id).is_some_and(|row| best < row.choice())
    }

    /// Whether a backend is in service: it was not removed, and no operator keeps clients away from it.
    pub fn is_in_service(&self, id: BackendId) -> bool {
        self.with(id, |row| !row.is_draining && row.admin == Admin::Ready).unwrap_or(false)
    }

    /// Leases an eligible backend by leastconn; `None` when no backend is eligible.
    pub fn lease(
        self: &Arc<Self>,
        now: Instant,
        eligible: impl Fn(BackendId) -> bool,
    ) -> Option<Lease> {
        let mut table = self.rows();
        table.add_credit(self.slow_start(), now);
        let backend = table.next(eligible)?;
        table.choose(backend);
        let slot = table.take_slot(Slot { backend, may_move: false });
        Some(Lease { table: Arc::clone(self), slot })
    }

    /// The number of backends, without those that were removed or are in maintenance.
    pub fn backend_count(&self) -> usize {
        self.rows().eligible(|_| true).filter(|row| row.admin != Admin::Maint).count()
    }

    /// The backend whose lease has this place; `None` if it was given back.
    pub fn holder(&self, slot: usize) -> Option<BackendId> {
        self.rows().slots.get(slot)?.map(|slot| slot.backend)
    }

    /// The number of leases of a backend.
    pub fn leases(&self, id: BackendId) -> usize {
        self.with(id, |row| row.leases).unwrap_or(0)
    }

    /// The state of a backend; a removed one is down.
    pub fn state(&self, id: BackendId) -> BackendState {
        let state = |row: &Row| if row.is_draining { BackendState::Down } else { row.state };
        self.with(id, state).unwrap_or(BackendState::Down)
    }

    /// The best state among the backends that are eligible.
    pub fn best(&self, eligible: impl Fn(BackendId) -> bool) -> BackendState {
        self.rows().best(eligible)
    }

    /// Whether one of the backends that are eligible can be read from: it is up, or suspect.
    pub fn can_serve(&self, eligible: impl Fn(BackendId) -> bool) -> bool {
        self.best(eligible) <= BackendState::Suspect
    }

    /// Time since no backend has been up; `None` while one is.
    pub fn outage(&self, now: Instant) -> Option<Duration> {
        self.rows().outage_since.map(|since| now.saturating_duration_since(since))
    }

    /// Moves leases that may move: all away from backends that can't serve, and a few from a backend that is up to
    /// another that has fewer for its weight even with one more. Returns how many.
    pub fn rebalance(&self, now: Instant) -> usize {
        let mut table = self.rows();
        table.weigh(self.slow_start(), now);
        let parts = table.parts(self.slow_start(), now);
        let best = table.best_standing(|_| true);
        let ready = table.rows.iter().filter(|row| row.standing() == best);
        let leases: usize = ready.map(|row| row.leases).sum();
        let parts: Vec<_> = table.rows.iter().map(|row| row.id).zip(parts).collect();
        let gains = |(from, _): &(BackendId, f64)| table.better(*from, &parts, leases).is_some();
        if parts.iter().all(|(_, part)| *part == 0.0) || !parts.iter().any(gains) {
            return 0;
        }
        let places = table.slots.len();
        let taken = places - table.free.len();
        let (mut moved, mut left) = (0, (taken / MOVED_PART).max(1));
        let first = table.clock as usize;
        for place in (0..places).map(|place| (first + place) % places) {
            let Some(Slot { backend, may_move: true }) = table.slots[place] else { continue };
            let Some(to) = table.better(backend, &parts, leases) else { continue };
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
