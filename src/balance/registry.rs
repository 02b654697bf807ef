//! The list of backends, which come and go while clients read.
//!
//! **A backend joins** (`Balancer::add`): it gets an identity that no other ever has, a row in the connection
//! table, and a health that counts it as down. It gets reads after its first good checks.
//!
//! **A backend is removed** (`Balancer::remove`): it leaves the list, its health goes down for good,
//! and its row in the table is never leased again. Its idle connections are closed at once, the others when
//! they become free. It is *draining*: sessions that hold a lease of it still find it by its identity. A session
//! that is between two commands is moved to another backend by the next round of `ConnectionTable::rebalance`;
//! one whose read is under way there gets its reply first.
//!
//! **It is forgotten** (`Balancer::forget_drained`) when its last lease has ended, which removes its row. Its counts, and
//! its last changes of state, stay in the sum of those that are [`Gone`].
//!
//! Requests take a snapshot of the list, so that they are not disturbed by changes. Each change gives the
//! list another [`commands_version`](Backends::commands_version): sessions judge their commands anew.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::gone::Gone;
use crate::backend::BackendId;
use crate::health::Member;
use crate::sync::{Mutex, lock};

/// The backends at one moment, in the order in which they were added.
#[derive(Debug, Default, Clone)]
pub struct Backends {
    members: Vec<Arc<Member>>,
    /// The backends that were removed and are still used by sessions.
    draining: Vec<Arc<Member>>,
    /// Those that were there before. In one snapshot with the others: each backend counts once.
    gone: Arc<Gone>,
    /// How often the list has changed.
    changes: u64,
}

/// The backends that are balanced; those that are draining are not among them.
impl Deref for Backends {
    type Target = [Arc<Member>];

    fn deref(&self) -> &Self::Target {
        &self.members
    }
}

impl Backends {
    /// The backend with this identity, draining or not.
    pub fn get(&self, id: BackendId) -> Option<&Arc<Member>> {
        self.known().find(|member| member.id == id)
    }

    /// The backends, draining or not.
    pub fn known(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().chain(&self.draining)
    }

    /// What stays of the backends that are no longer known.
    pub(super) fn gone(&self) -> &Gone {
        &self.gone
    }

    /// Number that changes whenever a backend joins, leaves, or turns out to know other commands.
    pub fn commands_version(&self) -> u64 {
        let now: u64 = self.iter().map(|member| member.commands_version()).sum();
        // More than the backends that are there can add, so that no two lists have the same version.
        (self.changes << 32) + now
    }
}

/// The list of backends as it is now.
#[derive(Debug, Default)]
pub struct Registry {
    current: ArcSwap<Backends>,
    /// Number of the next identity; locked while the list changes.
    next_id: Mutex<u32>,
}

impl Registry {
    /// The backends as they are now.
    pub fn snapshot(&self) -> Guard<Arc<Backends>> {
        self.current.load()
    }

    /// The backend with this identity, draining or not.
    pub fn get(&self, id: BackendId) -> Option<Arc<Member>> {
        self.snapshot().get(id).cloned()
    }

    /// Adds the backend that `make` makes for a new identity.
    pub fn add(&self, make: impl FnOnce(BackendId) -> Member) -> Arc<Member> {
        let mut next_id = lock(&self.next_id);
        let member = Arc::new(make(BackendId::new(*next_id)));
        *next_id += 1;
        self.change(|backends| backends.members.push(Arc::clone(&member)));
        member
    }

    /// Gives the list another version: sessions judge their commands anew.
    pub fn touch(&self) {
        let _changing = lock(&self.next_id);
        self.change(|_| {});
    }

    /// Removes a backend, which is draining from then on; `None` if it is not in the list.
    pub fn remove(&self, id: BackendId) -> Option<Arc<Member>> {
        let _changing = lock(&self.next_id);
        let at = self.snapshot().iter().position(|member| member.id == id)?;
        let mut removed = None;
        self.change(|backends| {
            let member = backends.members.remove(at);
            backends.draining.push(Arc::clone(&member));
            removed = Some(member);
        });
        removed
    }

    /// Forgets the draining backends that are not `used` any more.
    pub fn forget(&self, used: impl Fn(BackendId) -> bool) {
        if self.snapshot().draining.iter().any(|member| !used(member.id)) {
            let _changing = lock(&self.next_id);
            self.change(|backends| {
                let gone = Arc::make_mut(&mut backends.gone);
                backends
                    .draining
                    .extract_if(.., |member| !used(member.id))
                    .for_each(|member| gone.add(&member));
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut Backends)) {
        let mut backends = Backends::clone(&self.current.load());
        change(&mut backends);
        backends.changes += 1;
        self.current.store(Arc::new(backends));
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
