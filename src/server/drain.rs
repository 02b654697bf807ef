//! The clients that are being served, and how they are seen off at the end.
//!
//! A signal only sets the [`Phase`]. The listening socket may be shared with other processes, so it is
//! never shut down: the acceptor looks at the phase every 100 ms.
//!
//! - `Leaving`: the balancer says that it is not ready, and goes on with everything for the drain delay.
//! - `Draining`: the clients that wait in the kernel's queue are accepted, then the listening socket is
//!   closed. Each HTTP response says that it is the last on its connection.
//! - `Closing`, [`IDLE_GRACE`] later: a Redis session ends once it has answered what had arrived.
//!
//! After another [`IDLE_GRACE`] the reading side of each idle client's socket is shut down, which wakes its
//! thread. This is done to idle clients alone: the kernel resets a connection that gets more bytes after
//! that, and replies that are still on their way would be lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info};

use crate::balance::{Balancer, Phase};
use crate::session::{ClientSocket, IDLE_GRACE};
use crate::sync::{Condvar, Mutex, lock, wait};

/// Waits for the clients to be done, then cuts off those that are not.
pub(super) fn drain(clients: &Clients, balancer: &Balancer) {
    let timeout = balancer.config.drain_timeout;
    let waiting = clients.len();
    info!(
        "no new clients; those here ({waiting}) may finish within {}",
        humantime::format_duration(timeout)
    );
    let deadline = Instant::now() + timeout;
    clients.wait_until_gone(deadline.min(Instant::now() + IDLE_GRACE));
    balancer.enter(Phase::Closing);
    clients.wait_until_gone(deadline.min(Instant::now() + IDLE_GRACE));
    clients.for_each(ClientSocket::end_if_idle);
    let left = clients.wait_until_gone(deadline);
    if left > 0 {
        error!("cut off, as they were not done in time: {left} clients");
        clients.for_each(|client| client.stream.shutdown());
    }
}

/// The clients that are being served: how many, and a handle to wake each.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: Mutex<Open>,
    all_left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    sockets: HashMap<u64, Arc<ClientSocket>>,
    next_id: u64,
}

impl Clients {
    /// Gives a client its place; `None` when there are `max` clients already.
    pub fn register(
        self: &Arc<Self>,
        socket: &Arc<ClientSocket>,
        max: usize,
    ) -> Option<Registration> {
        let mut open = lock(&self.open);
        if open.sockets.len() >= max {
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        open.sockets.insert(id, Arc::clone(socket));
        Some(Registration { clients: Arc::clone(self), socket: Arc::clone(socket), id })
    }

    fn len(&self) -> usize {
        lock(&self.open).sockets.len()
    }

    fn for_each(&self, act: impl Fn(&ClientSocket)) {
        lock(&self.open).sockets.values().for_each(|socket| act(socket));
    }

    /// Waits for all to leave; returns how many are left at `deadline`.
    fn wait_until_gone(&self, deadline: Instant) -> usize {
        let mut open = lock(&self.open);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if open.sockets.is_empty() || left == Duration::ZERO {
                return open.sockets.len();
            }
            open = wait(&self.all_left, open, left);
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
        // To notify costs a system call, also when nobody waits.
        if open.sockets.is_empty() {
            self.clients.all_left.notify_all();
        }
    }
}
