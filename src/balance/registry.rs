//! Which backends are balanced. They come and go while clients read.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::backend::BackendId;
use crate::health::Member;
use crate::sync::{Mutex, lock};

/// The backends at one moment, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Backends {
    members: Vec<Arc<Member>>,
    /// Those that were removed, and are still used by sessions.
    draining: Vec<Arc<Member>>,
    /// What backends that are gone have added to [`commands_version`](Self::commands_version), and one for
    /// each change of the list.
    past_versions: u64,
}

impl Backends {
    /// The backends that are balanced.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Member>> {
        self.members.iter()
    }

    /// How many are balanced.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The backend with this identity; one that was removed is found as long as a session uses it.
    pub fn get(&self, id: BackendId) -> Option<&Arc<Member>> {
        self.members.iter().chain(&self.draining).find(|member| member.id == id)
    }

    /// Number that changes whenever a backend joins, leaves, or turns out to know other commands.
    pub fn commands_version(&self) -> u64 {
        let now: u64 = self.iter().map(|member| member.commands_version()).sum();
        self.past_versions + now
    }
}

impl<'a> IntoIterator for &'a Backends {
    type Item = &'a Arc<Member>;
    type IntoIter = std::slice::Iter<'a, Arc<Member>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The list of backends. A request takes a snapshot of it, and is not disturbed by what changes meanwhile.
#[derive(Debug, Default)]
pub struct Registry {
    current: ArcSwap<Backends>,
    /// The number of the next identity; held while the list is changed.
    next_id: Mutex<u32>,
}

impl Registry {
    /// The backends as they are now.
    pub fn snapshot(&self) -> Guard<Arc<Backends>> {
        self.current.load()
    }

    /// The backend with this identity.
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

    /// Takes a backend from those that are balanced; `None` where it is none of them.
    pub fn remove(&self, id: BackendId) -> Option<Arc<Member>> {
        let _changing = lock(&self.next_id);
        let removed = self.snapshot().iter().find(|member| member.id == id).cloned();
        self.change(|_| true, |members| members.retain(|member| member.id != id));
        removed
    }

    /// Forgets those removed ones that are not `used` any more.
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
