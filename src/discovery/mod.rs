//! Where backends come from, and how a new list of them is taken over.

use std::sync::Arc;
use std::time::Instant;

use log::info;

use crate::balance::Balancer;
use crate::config::address::BackendAddress;
use crate::health::checker::{self, Peers};

/// Source of the list of backends.
pub trait ServiceDiscovery {
    /// The backends that there should be now.
    fn discover(&self) -> Vec<BackendAddress>;
}

/// The list in the configuration.
pub struct StaticList<'a>(pub &'a [BackendAddress]);

impl ServiceDiscovery for StaticList<'_> {
    fn discover(&self) -> Vec<BackendAddress> {
        self.0.to_vec()
    }
}

/// Begins with the backends that `source` says, checks them, and returns when it is known which of them can
/// serve: after the check timeout at the latest.
pub fn start(balancer: &Arc<Balancer>, source: &impl ServiceDiscovery) {
    balancer.add_all(&source.discover());
    checker::start(balancer.check_settings(), &peers(balancer));
}

/// Takes over the backends that `source` says now. Those that are new get reads once they have proved that
/// they have the data. Those that are not on the list any more get none; their sessions move to others
/// between two commands. A backend with another URL than before is another backend.
pub fn update(balancer: &Arc<Balancer>, source: &impl ServiceDiscovery) {
    let now = Instant::now();
    let mut wanted = source.discover();
    for member in balancer.members() {
        match wanted.iter().position(|address| *address == member.address) {
            Some(at) => _ = wanted.remove(at),
            None => {
                info!("{} is removed", member.name());
                balancer.remove(member.id, now);
            }
        }
    }
    for address in &wanted {
        info!("{} is added", address.name());
        let member = balancer.add(address, now);
        checker::watch(member, balancer.check_settings(), peers(balancer));
    }
}

fn peers(balancer: &Arc<Balancer>) -> Arc<dyn Peers> {
    Arc::clone(balancer) as _
}
