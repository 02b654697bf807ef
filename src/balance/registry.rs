//! The list of backends, which come and go while clients read.
//!
//! **A backend joins** (`Balancer::add`): it gets an identity that no other ever has, a row in the connection
//! table, and a health that counts it as down. It gets reads after its first good checks.
//!
//! **A backend is removed** (`Balancer::remove`): it leaves the list, its health fails every new connection,
//! and its row in the table is never leased again. Its idle connections are closed at once, the others when they become
//! free. It is *draining*: sessions that hold a lease of it still find it by its identity. A session that is
//! between two commands is moved to another backend by the next round of `ConnectionTable::rebalance`; one whose
//! read is under way there gets its reply first. A session that watches keys or subscribes there has to
//! begin anew.
//!
//! **It is forgotten** (`Balancer::forget_drained`) when its last lease has ended, which removes its row.
//!
//! Requests take a snapshot of the list, so that they are not disturbed by changes. Each change gives the
//! list another [`commands_version`](Backends::commands_version): sessions judge their commands anew.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::backend::BackendId;
use crate::health::Member;
use crate::sync::{Mutex, lock};

/// The backends at one moment, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Backends {
    members: Vec<Arc<Member>>,
    /// The backends that were removed and are still used by sessions.
    draining: Vec<Arc<Member>>,
    /// Part of [`commands_version`](Self::commands_version) that comes from backends that are gone, plus one
    /// for each change of the list.
    past_versions: u64,
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
        self.members.iter().chain(&self.draining).find(|member| member.id == id)
    }

    /// Number that changes whenever a backend joins, leaves, or turns out to know other commands.
    pub fn commands_version(&self) -> u64 {
        let now: u64 = self.iter().map(|member| member.commands_version()).sum();
        self.past_versions + now
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
        self.change(|_| true, |members| members.push(Arc::clone(&member)));
        member
    }

    /// Removes a backend, which is draining from then on; `None` if it is not in the list.
    pub fn remove(&self, id: BackendId) -> Option<Arc<Member>> {
        let _changing = lock(&self.next_id);
        let removed = self.snapshot().iter().find(|member| member.id == id).cloned()?;
        self.change(|_| true, |members| members.retain(|member| member.id != id));
        Some(removed)
    }

    /// Forgets the draining backends that are not `used` any more.
    pub fn forget(&self, used: impl Fn(BackendId) -> bool) {
        if self.snapshot().draining.iter().any(|member| !used(member.id)) {
            let _changing = lock(&self.next_id);
            self.change(used, |_| {});
        }
    }

    fn change(&self, used: impl Fn(BackendId) -> bool, change: impl FnOnce(&mut Vec<Arc<Member>>)) {
        let before = self.current.load();
        let mut members = before.members.clone();
        change(&mut members);
        let is_gone = |member: &&Arc<Member>| members.iter().all(|other| other.id != member.id);
        let gone: Vec<_> = before.members.iter().filter(is_gone).cloned().collect();
        let gone_versions: u64 = gone.iter().map(|member| member.commands_version()).sum();
        let mut draining = before.draining.clone();
        draining.retain(|member| used(member.id));
        draining.extend(gone);
        let past_versions = before.past_versions + gone_versions + 1;
        self.current.store(Arc::new(Backends { members, draining, past_versions }));
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
