//! The places of the clients that are being served, and which of them make room for newcomers.
//!
//! Clients that wait for nothing but their own next request hold places that newcomers need more. So when
//! few places are left, those that have been idle for longest are closed, [a few](RoomRule::reserve) more
//! than are needed: newcomers then find a free place at once. If nobody is idle, newcomers are turned
//! away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::session::{self, Activity, ClientList, ClientSocket, Endpoint};
use crate::sync::{Condvar, Mutex, lock, wait};

/// Shortest time for which a client that makes room has been idle: one that asks again and again is not closed between
/// two requests.
const MIN_IDLE_TIME: Duration = Duration::from_millis(100);

/// Shortest time for which a client that makes room has said nothing yet. A program that opens hundreds of connections
/// at once takes a moment to come to each.
const MIN_SILENT_TIME: Duration = Duration::from_secs(1);

/// Shortest time for which a client that makes room has not completed the head of its request. Clients
/// send a head in one piece; over a bad link a lost packet is sent again within a second.
const MIN_HEAD_TIME: Duration = Duration::from_secs(2);

/// One in so many places is kept free for newcomers while others are idle.
const RESERVE_PART: usize = 64;

/// Longest wait for the place of a client that was closed.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Pause after a search in vain: a search looks at all clients.
const SEARCH_PAUSE: Duration = Duration::from_millis(20);

/// When the clients of an address make room for others.
#[derive(Debug, Clone, Copy)]
struct RoomRule {
    min_idle: Duration,
    min_silent: Duration,
    min_head: Duration,
    /// Number of places below which clients are closed before newcomers come.
    reserve: usize,
}

impl RoomRule {
    fn of(endpoint: Endpoint, max: usize) -> Self {
        let reserve = max / RESERVE_PART;
        match endpoint {
            Endpoint::Public => Self {
                min_idle: MIN_IDLE_TIME,
                min_silent: MIN_SILENT_TIME,
                min_head: MIN_HEAD_TIME,
                reserve,
            },
            // Probes and scrapers send their request as soon as they are connected.
            Endpoint::Admin => {
                let zero = Duration::ZERO;
                Self { min_idle: zero, min_silent: zero, min_head: zero, reserve }
            }
        }
    }

    /// Returns since when a client could make room, and whether its request has begun; `None` if it
    /// keeps its place at `now`.
    fn spare_since(&self, activity: Activity, now: Duration) -> Option<(bool, Duration)> {
        let (is_begun, since, min) = match activity {
            Activity::Spare(since) => (false, since, self.min_idle),
            Activity::Silent(since) => (false, since, self.min_silent),
            Activity::Head(since) => (true, since, self.min_head),
            Activity::Busy | Activity::Idle(_) | Activity::Leaving => return None,
        };
        (now.saturating_sub(since) >= min).then_some((is_begun, since))
    }

    /// Chooses `wanted` clients that make room, or as many as there are: those without a request before
    /// those whose request has begun, and of each the oldest.
    fn choose<C>(
        &self,
        clients: impl Iterator<Item = (Activity, C)>,
        wanted: usize,
        now: Duration,
    ) -> Vec<(Activity, C)> {
        let spare = |(activity, client)| {
            self.spare_since(activity, now).map(|order| (order, activity, client))
        };
        let mut spare: Vec<_> = clients.filter_map(spare).collect();
        if wanted < spare.len() {
            spare.select_nth_unstable_by_key(wanted, |(order, ..)| *order);
            spare.truncate(wanted);
        }
        spare.into_iter().map(|(_, activity, client)| (activity, client)).collect()
    }
}

/// The places of one address's clients, with a handle to wake each.
#[derive(Debug)]
pub(super) struct Clients {
    endpoint: Endpoint,
    max: AtomicUsize,
    open: Mutex<Open>,
    /// Notified when the last client leaves, and at each that leaves while a newcomer waits.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    sockets: HashMap<u64, Arc<ClientSocket>>,
    next_id: u64,
    /// Number of clients that were closed to make room and are still there.
    leaving: usize,
    /// Whether a newcomer waits for a place.
    is_awaited: bool,
    /// When the last search has found no idle client, or a newcomer has waited in vain.
    vain_search: Option<Instant>,
}

impl Open {
    fn is_pausing(&self) -> bool {
        self.vain_search.is_some_and(|at| at.elapsed() < SEARCH_PAUSE)
    }
}

impl ClientList for Clients {
    fn clients(&self) -> Vec<Arc<ClientSocket>> {
        lock(&self.open).sockets.values().cloned().collect()
    }
}

impl Clients {
    pub fn new(endpoint: Endpoint, max: usize) -> Arc<Self> {
        let max = AtomicUsize::new(max);
        Arc::new(Self { endpoint, max, open: Mutex::default(), left: Condvar::default() })
    }

    /// Returns the number of places.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the number of places. Clients that have one keep it.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    fn rule(&self) -> RoomRule {
        RoomRule::of(self.endpoint, self.max())
    }

    /// Gives a client its place; `None` when there is none. Also returns how many idle clients were closed
    /// to make room.
    pub fn admit(self: &Arc<Self>, socket: &Arc<ClientSocket>) -> (Option<Registration>, usize) {
        let registered = self.register(socket);
        if registered.is_some() {
            return (registered, self.make_room(self.rule().reserve));
        }
        let closed = self.make_room(self.rule().reserve.max(1));
        let registered = if self.wait_for_place() { self.register(socket) } else { None };
        (registered, closed)
    }

    fn register(self: &Arc<Self>, socket: &Arc<ClientSocket>) -> Option<Registration> {
        let mut open = lock(&self.open);
        if open.sockets.len() >= self.max() {
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        open.sockets.insert(id, Arc::clone(socket));
        Some(Registration { clients: Arc::clone(self), socket: Arc::clone(socket), id })
    }

    /// Closes `reserve` idle clients if fewer places than that are free or about to be; returns how many
    /// were closed.
    fn make_room(&self, reserve: usize) -> usize {
        let mut open = lock(&self.open);
        let free = self.max().saturating_sub(open.sockets.len()) + open.leaving;
        if free >= reserve || open.is_pausing() {
            return 0;
        }
        let clients = open.sockets.values().map(|socket| (socket.activity(), socket));
        let chosen = self.rule().choose(clients, reserve, session::now());
        let leaves = |(seen, socket): (Activity, &Arc<ClientSocket>)| {
            socket.make_leave(seen).then(|| Arc::clone(socket))
        };
        let leaving: Vec<_> = chosen.into_iter().filter_map(leaves).collect();
        open.leaving += leaving.len();
        open.vain_search = leaving.is_empty().then(Instant::now);
        drop(open);
        leaving.iter().for_each(|socket| socket.stream.end_input());
        leaving.len()
    }

    /// Waits for the place of a client that has to leave; returns whether one is free.
    fn wait_for_place(&self) -> bool {
        let deadline = Instant::now() + MAX_WAIT;
        let mut open = lock(&self.open);
        open.is_awaited = true;
        while open.sockets.len() >= self.max() && open.leaving > 0 && !open.is_pausing() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // It answers a last request. Those who come next are not held up as well.
                open.vain_search = Some(Instant::now());
                break;
            }
            open = wait(&self.left, open, left);
        }
        open.is_awaited = false;
        open.sockets.len() < self.max()
    }

    pub fn len(&self) -> usize {
        lock(&self.open).sockets.len()
    }

    pub fn for_each(&self, act: impl Fn(&ClientSocket)) {
        lock(&self.open).sockets.values().for_each(|socket| act(socket));
    }

    /// Waits for all to leave; returns how many are left at `deadline`.
    pub fn wait_until_gone(&self, deadline: Instant) -> usize {
        let mut open = lock(&self.open);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if open.sockets.is_empty() || left == Duration::ZERO {
                return open.sockets.len();
            }
            open = wait(&self.left, open, left);
        }
    }
}

/// One client's place among those that are served; free again when it is dropped.
pub(super) struct Registration {
    clients: Arc<Clients>,
    pub socket: Arc<ClientSocket>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = lock(&self.clients.open);
        open.sockets.remove(&self.id);
        open.leaving -= usize::from(self.socket.is_leaving());
        // To notify costs a system call, also when nobody waits.
        if open.sockets.is_empty() || open.is_awaited {
            self.clients.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn idle_clients_make_room_before_those_with_half_a_head_and_the_oldest_first() {
        let public = RoomRule::of(Endpoint::Public, 4096);
        let now = seconds(100);
        let clients = [
            (Activity::Busy, "busy"),
            (Activity::Idle(seconds(1)), "pooled"),
            (Activity::Leaving, "leaving"),
            (Activity::Head(seconds(90)), "old head"),
            (Activity::Head(seconds(95)), "head"),
            (Activity::Head(seconds(99)), "new head"),
            (Activity::Spare(seconds(98)), "idle"),
            (Activity::Spare(seconds(50)), "old idle"),
            (Activity::Spare(now), "new idle"),
            (Activity::Silent(seconds(97)), "silent"),
            (Activity::Silent(now), "new silent"),
        ];
        let chosen = |rule: &RoomRule, wanted| {
            let mut names: Vec<_> =
                rule.choose(clients.into_iter(), wanted, now).into_iter().map(|c| c.1).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(public.reserve, 64);
        assert!(chosen(&public, 0).is_empty());
        assert_eq!(chosen(&public, 1), ["old idle"]);
        assert_eq!(chosen(&public, 2), ["old idle", "silent"]);
        assert_eq!(chosen(&public, 4), ["idle", "old head", "old idle", "silent"]);
        assert_eq!(chosen(&public, 9), ["head", "idle", "old head", "old idle", "silent"]);
        let admin = RoomRule::of(Endpoint::Admin, 64);
        assert_eq!(chosen(&admin, 3), ["idle", "old idle", "silent"]);
        assert_eq!(chosen(&admin, 9).len(), 8);
    }
}
