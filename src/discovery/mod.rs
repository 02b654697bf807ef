//! Where backends come from, and how a new list of them is taken over.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::info;

use crate::balance::Balancer;
use crate::config::backend::BackendConfig;
use crate::health::checker::{self, Peers};
use crate::health::{BackendState, Member};

/// How long backends that are not listed any more stay in service while none of those listed is up.
const MAX_OVERLAP: Duration = Duration::from_secs(10);

/// Time between two looks whether one is up.
const OVERLAP_STEP: Duration = Duration::from_millis(10);

/// Source of the list of backends.
pub trait ServiceDiscovery {
    /// The backends that there should be now.
    fn discover(&self) -> Vec<BackendConfig>;
}

/// The list in the configuration.
pub struct StaticList<'a>(pub &'a [BackendConfig]);

impl ServiceDiscovery for StaticList<'_> {
    fn discover(&self) -> Vec<BackendConfig> {
        self.0.to_vec()
    }
}

/// Adds the first list of backends and checks them. Returns when it is known which of them can serve, after
/// the check timeout at the latest.
pub fn start(balancer: &Arc<Balancer>, source: &impl ServiceDiscovery) {
    balancer.add_all(&source.discover());
    checker::start(balancer.check_settings(), &peers(balancer));
}

/// Takes over the backends that `source` lists now.
///
/// New backends get reads once they have proved that they have the data. Backends that are not listed any
/// more get no reads, and their sessions move to others between two commands. They stay until one of those
/// listed is up, for at most 10 s: a list with nothing but new backends is taken over without a
/// failed read. A backend whose URL has changed is another backend. Call it from one thread at a time.
pub fn update(balancer: &Arc<Balancer>, source: &impl ServiceDiscovery) {
    let mut wanted = source.discover();
    let (staying, leaving): (Vec<_>, Vec<_>) = balancer
        .members()
        .into_iter()
        .partition(|member| wanted.iter().any(|backend| backend.address == member.address));
    wanted.retain(|backend| !staying.iter().any(|member| member.address == backend.address));
    let mut listed = staying;
    for backend in &wanted {
        info!("{} is added", backend.name());
        let member = balancer.add(backend, Instant::now());
        checker::watch(Arc::clone(&member), balancer.check_settings(), peers(balancer));
        listed.push(member);
    }
    let is_any_up = |members: &[Arc<Member>]| {
        members.iter().any(|member| member.health.state() == BackendState::Up)
    };
    let began = Instant::now();
    while is_any_up(&leaving) && !is_any_up(&listed) && began.elapsed() < MAX_OVERLAP {
        thread::sleep(OVERLAP_STEP);
    }
    for member in leaving {
        info!("{} is removed", member.name());
        balancer.remove(member.id, Instant::now());
    }
}

fn peers(balancer: &Arc<Balancer>) -> Arc<dyn Peers> {
    Arc::clone(balancer) as _
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendId;
    use crate::config::Config;
    use crate::config::backend::parse_list;

    /// Ports where nobody listens: the checks fail.
    const LISTED: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

    fn addresses(urls: &[&str]) -> Vec<BackendConfig> {
        let urls: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
        parse_list(&urls).expect("addresses")
    }

    fn balancer() -> Arc<Balancer> {
        let balancer = Balancer::new(Config::from_arguments(["lb"]).expect("a configuration"));
        balancer.add_all(&addresses(&LISTED));
        balancer
    }

    /// The identities after a new list.
    fn updated(balancer: &Arc<Balancer>, urls: &[&str]) -> Vec<BackendId> {
        update(balancer, &StaticList(&addresses(urls)));
        ids(balancer)
    }

    fn ids(balancer: &Balancer) -> Vec<BackendId> {
        balancer.backends().iter().map(|member| member.id).collect()
    }

    #[test]
    fn backends_that_stay_keep_their_identity_whatever_their_order() {
        let balancer = balancer();
        let before = ids(&balancer);
        assert_eq!(updated(&balancer, &LISTED), before);
        assert_eq!(updated(&balancer, &[LISTED[1], LISTED[0]]), before);
    }

    #[test]
    fn new_ones_are_added_and_those_that_are_not_listed_removed() {
        let balancer = balancer();
        let before = ids(&balancer);
        let after = updated(&balancer, &[LISTED[1], "127.0.0.1:3"]);
        assert_eq!(after.len(), 2);
        assert_eq!(after[0], before[1]);
        assert!(!before.contains(&after[1]));
        assert!(updated(&balancer, &[]).is_empty());
    }

    #[test]
    fn a_backend_whose_url_has_changed_is_another_one() {
        let balancer = balancer();
        let before = ids(&balancer);
        let after = updated(&balancer, &["redis://127.0.0.1:1/3", LISTED[1]]);
        assert_eq!(after[0], before[1]);
        assert!(!before.contains(&after[1]));
        assert_eq!(balancer.backends()[1].address.database(), 3);
    }
}
