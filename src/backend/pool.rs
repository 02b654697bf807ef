//! A bounded pool of the connections to one backend, with a queue of the threads that wait for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// Time after which a connection that was idle all the time is closed.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// Share of a pool that may be clients' own, for a `WATCH`, or the subscribers'. The rest serves reads.
pub(super) const MAX_PINNED_PERCENT: usize = 75;

/// Share of a pool up to which a connection may become the own one of a client that waits in XREAD BLOCK. What is left
/// of [`MAX_PINNED_PERCENT`] is for a `WATCH` and the subscribers alone.
pub(super) const MAX_WAITING_PERCENT: usize = 50;

/// A bounded set of connections `C`, each set up for one mode `M`.
#[derive(Debug)]
pub struct Pool<M, C> {
    /// Most connections that there may be.
    max_open: AtomicUsize,
    state: Mutex<PoolState<M, C>>,
}

/// Number of a pool's connections.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Counts {
    /// Connections that are open, or about to be.
    pub open: usize,
    /// Open connections that no client uses.
    pub idle: usize,
    /// Threads that wait for a connection.
    pub waiting: usize,
    /// Most connections that there may be.
    pub max: usize,
}

#[derive(Debug)]
struct PoolState<M, C> {
    /// Last in, first out: a few stay warm, and the rest expire.
    idle: Vec<Idle<M, C>>,
    /// Number of permits that are out, with or without a connection.
    in_use: usize,
    /// Number of permits that are one client's for as long as it likes.
    pinned: usize,
    /// Counts how often all connections were closed.
    generation: u64,
    /// Threads that wait; first come, first served.
    waiting: VecDeque<Arc<Waiter<M, C>>>,
}

#[derive(Debug)]
struct Idle<M, C> {
    mode: M,
    connection: C,
    since: Instant,
}

#[derive(Debug)]
struct Waiter<M, C> {
    mode: M,
    grant: Mutex<Option<Grant<C>>>,
    granted: Condvar,
}

/// An idle connection, or `None` for the right to make one.
type Grant<C> = Option<C>;

/// The right to one connection. Dropping it gives it back.
#[derive(Debug)]
pub struct Permit<M: Copy + Eq, C> {
    pub pool: Arc<Pool<M, C>>,
    /// Whether it went back together with its connection.
    is_given_back: bool,
    is_pinned: bool,
    /// The pool's generation when it was given out.
    generation: u64,
    /// How long its client waited for it.
    pub waited: Duration,
}

impl<M: Copy + Eq, C> Pool<M, C> {
    /// Returns an empty pool for at most `max_open` connections.
    pub fn new(max_open: usize) -> Arc<Self> {
        let state = PoolState {
            idle: Vec::new(),
            in_use: 0,
            pinned: 0,
            generation: 0,
            waiting: VecDeque::new(),
        };
        Arc::new(Self { max_open: AtomicUsize::new(max_open), state: Mutex::new(state) })
    }

    /// Returns how many connections there may be.
    pub fn max_open(&self) -> usize {
        self.max_open.load(Ordering::Relaxed)
    }

    /// Changes how many connections there may be. If there are more, those that are given back are closed.
    pub fn set_max_open(&self, max_open: usize) {
        self.max_open.store(max_open, Ordering::Relaxed);
    }

    /// Takes an idle connection of this mode or, if there is none, the right to make one. Waits for
    /// `max_wait` where there are too many already; `None` when that was in vain.
    pub fn take(
        self: &Arc<Self>,
        mode: M,
        max_wait: Duration,
    ) -> Option<(Permit<M, C>, Option<C>)> {
        let mut state = lock(&self.state);
        let generation = state.generation;
        let (grant, waited) = match state.take(mode, self.max_open()) {
            Some(grant) => {
                drop(state);
                (grant, Duration::ZERO)
            }
            None => {
                let began = Instant::now();
                (self.wait(state, mode, max_wait)?, began.elapsed())
            }
        };
        let pool = Arc::clone(self);
        let permit = Permit { pool, is_given_back: false, is_pinned: false, generation, waited };
        Some((permit, grant))
    }

    fn wait(
        &self,
        mut state: MutexGuard<PoolState<M, C>>,
        mode: M,
        max_wait: Duration,
    ) -> Option<Grant<C>> {
        let waiter = Arc::new(Waiter { mode, grant: Mutex::new(None), granted: Condvar::new() });
        state.waiting.push_back(Arc::clone(&waiter));
        drop(state);
        let began = Instant::now();
        let mut granted = lock(&waiter.grant);
        loop {
            if let Some(grant) = granted.take() {
                return Some(grant);
            }
            let left = max_wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            granted = wait(&waiter.granted, granted, left);
        }
        drop(granted);
        // Grants are made with the state locked: after this there is none.
        lock(&self.state).waiting.retain(|other| !Arc::ptr_eq(other, &waiter));
        lock(&waiter.grant).take()
    }

    /// Closes the idle connections now, and the others when they are given back.
    pub fn close_all(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    /// Returns whether there is an idle connection of this mode.
    pub fn has_idle(&self, mode: M) -> bool {
        lock(&self.state).idle.iter().any(|idle| idle.mode == mode)
    }

    /// Returns how many connections there are.
    pub fn counts(&self) -> Counts {
        let state = lock(&self.state);
        Counts {
            open: state.in_use + state.idle.len(),
            idle: state.idle.len(),
            waiting: state.waiting.len(),
            max: self.max_open(),
        }
    }
}

impl<M: Copy + Eq, C> PoolState<M, C> {
    fn take(&mut self, mode: M, max_open: usize) -> Option<Grant<C>> {
        if !self.waiting.is_empty() {
            return None;
        }
        let grant = match self.idle.iter().rposition(|idle| idle.mode == mode) {
            Some(at) => Some(self.idle.remove(at).connection),
            None if self.in_use + self.idle.len() < max_open => None,
            // The connection that was idle for longest makes room.
            None if !self.idle.is_empty() => {
                self.idle.remove(0);
                None
            }
            None => return None,
        };
        self.in_use += 1;
        Some(grant)
    }

    /// Whether there are more connections than there may be by now.
    fn has_too_many(&self, max_open: usize) -> bool {
        self.in_use + self.idle.len() > max_open
    }

    fn unpin(&mut self, is_pinned: &mut bool) {
        if std::mem::take(is_pinned) {
            self.pinned -= 1;
        }
    }
}

impl<M, C> Waiter<M, C> {
    fn give(&self, grant: Grant<C>) {
        *lock(&self.grant) = Some(grant);
        self.granted.notify_one();
    }
}

impl<M: Copy + Eq, C> Permit<M, C> {
    /// Makes the connection one client's own for as long as the client likes; false when that share of the pool is
    /// already.
    pub fn pin(&mut self, max_percent: usize) -> bool {
        let mut state = lock(&self.pool.state);
        if !self.is_pinned {
            if state.pinned >= self.pool.max_open() * max_percent / 100 {
                return false;
            }
            state.pinned += 1;
            self.is_pinned = true;
        }
        true
    }

    /// Returns whether no connections were closed since it was given out.
    pub fn is_current(&self) -> bool {
        lock(&self.pool.state).generation == self.generation
    }

    /// Makes it current again, for a new connection in place of one that was closed.
    pub fn renewed(mut self) -> Self {
        self.generation = lock(&self.pool.state).generation;
        self
    }

    /// Gives the connection back for the next client of its mode.
    pub fn give_back(mut self, mode: M, connection: C) {
        let mut state = lock(&self.pool.state);
        let is_of_use = state.waiting.front().is_none_or(|waiter| waiter.mode == mode)
            && !state.has_too_many(self.pool.max_open());
        if state.generation != self.generation || !is_of_use {
            // Both are dropped, which closes the connection and gives the right back.
            drop(state);
            return;
        }
        state.unpin(&mut self.is_pinned);
        let expired = match state.waiting.pop_front() {
            Some(waiter) => {
                waiter.give(Some(connection));
                Vec::new()
            }
            None => {
                state.in_use -= 1;
                state.idle.push(Idle { mode, connection, since: Instant::now() });
                // The oldest come first.
                let is_expired = |idle: &Idle<M, C>| idle.since.elapsed() > MAX_IDLE_TIME;
                let expired = state.idle.partition_point(is_expired);
                state.idle.drain(..expired).collect()
            }
        };
        self.is_given_back = true;
        drop(state);
        drop(expired);
    }
}

impl<M: Copy + Eq, C> Drop for Permit<M, C> {
    fn drop(&mut self) {
        if self.is_given_back {
            return;
        }
        let mut state = lock(&self.pool.state);
        state.unpin(&mut self.is_pinned);
        let next = match state.has_too_many(self.pool.max_open()) {
            true => None,
            false => state.waiting.pop_front(),
        };
        match next {
            Some(waiter) => waiter.give(None),
            None => state.in_use -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(1);

    type TestPool = Arc<Pool<u8, &'static str>>;

    #[test]
    fn an_idle_connection_serves_its_own_mode_only() {
        let pool: TestPool = Pool::new(2);
        let (permit, connection) = pool.take(0, SHORT).expect("room");
        assert_eq!(connection, None);
        permit.give_back(0, "zero");
        let (one, connection) = pool.take(1, SHORT).expect("room");
        assert_eq!(connection, None, "that of another mode is of no use");
        let (zero, connection) = pool.take(0, SHORT).expect("idle");
        assert_eq!(connection, Some("zero"));
        assert_eq!(pool.counts().open, 2);
        drop((zero, one));
        assert_eq!(pool.counts().open, 0);
    }

    #[test]
    fn an_idle_connection_of_another_mode_makes_room() {
        let pool: TestPool = Pool::new(1);
        let (permit, _) = pool.take(0, SHORT).expect("room");
        permit.give_back(0, "zero");
        let (_permit, connection) = pool.take(1, SHORT).expect("room is made");
        assert_eq!((connection, pool.counts().open), (None, 1));
    }

    #[test]
    fn there_are_never_more_than_allowed_and_those_who_wait_are_served() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let pool: Arc<Pool<usize, usize>> = Pool::new(3);
        let open = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for mode in 0..16 {
                let (pool, open) = (&pool, &open);
                scope.spawn(move || {
                    for round in 0..200 {
                        let (permit, idle) = pool.take(mode % 2, LONG).expect("in time");
                        assert!(idle.is_none_or(|idle| idle == mode % 2), "of another mode");
                        assert!(open.fetch_add(1, Ordering::SeqCst) < 3);
                        std::thread::yield_now();
                        open.fetch_sub(1, Ordering::SeqCst);
                        match round % 3 {
                            0 => drop(permit),
                            _ => permit.give_back(mode % 2, mode % 2),
                        }
                    }
                });
            }
        });
        assert!(pool.counts().open <= 3);
        assert_eq!(lock(&pool.state).in_use, 0);
    }

    #[test]
    fn a_wait_in_vain_leaves_nothing_in_the_queue() {
        let pool: TestPool = Pool::new(1);
        let (permit, _) = pool.take(0, SHORT).expect("room");
        assert!(pool.take(0, SHORT).is_none());
        drop(permit);
        assert!(pool.take(0, SHORT).is_some());
        assert_eq!(pool.counts().open, 0);
    }

    #[test]
    fn what_is_out_when_all_are_closed_does_not_come_back() {
        let pool: TestPool = Pool::new(2);
        let (permit, _) = pool.take(0, SHORT).expect("room");
        pool.close_all();
        permit.give_back(0, "old");
        let (permit, connection) = pool.take(0, SHORT).expect("room");
        assert_eq!(connection, None);
        permit.give_back(0, "new");
        assert_eq!(pool.take(0, SHORT).expect("room").1, Some("new"));
    }

    #[test]
    fn pinned_connections_leave_room_for_reads() {
        let pool: TestPool = Pool::new(4);
        let mut permits: Vec<_> =
            (0..4).filter_map(|_| pool.take(0, SHORT)).map(|(permit, _)| permit).collect();
        let mut pin = |at: usize, share| permits[at].pin(share);
        assert!(pin(0, MAX_WAITING_PERCENT) && pin(1, MAX_WAITING_PERCENT));
        assert!(!pin(2, MAX_WAITING_PERCENT), "the rest is for others");
        assert!(pin(2, MAX_PINNED_PERCENT) && !pin(3, MAX_PINNED_PERCENT));
        drop(permits);
        assert_eq!(lock(&pool.state).pinned, 0);
    }
}
