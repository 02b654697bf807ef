//! Where backends come from, and how a new list of them is taken over.
//!
//! The list is put together from three parts: the servers that the configuration names, those that its sources have
//! found (`watch.rs`), and what an operator has added and removed (`overlay.rs`). Whenever one of them changes, the
//! whole list is taken over by [`update`].

mod advice;
mod dns;
mod overlay;
mod peer;
mod primary;
mod sentinel;
mod sentinel_events;
mod source;
mod topology;
mod watch;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};

pub use self::advice::advice_on_source;
pub use self::overlay::{
    ListError, add_listed, left_in_place, listed, merge, remove_listed, restore,
};
pub use self::watch::follow;
use crate::balance::Balancer;
use crate::config::backend::{BackendConfig, BackendSettings};
use crate::health::checker::{self, Peers};
use crate::health::{Admin, BackendState, Member};

/// How long an update waits until one of those listed is up, while only others are.
const MAX_OVERLAP: Duration = Duration::from_secs(1);

/// File descriptors of a backend besides the connections in its pool: one for checks, and one to look its name up.
pub(crate) const DESCRIPTORS_OF_A_BACKEND: usize = 2;

/// File descriptors besides those of clients and backends: the admin address, clients that are turned away, and others.
const OTHER_DESCRIPTORS: usize = 256;

/// Time between two looks whether one is up.
const OVERLAP_STEP: Duration = Duration::from_millis(10);

/// Time between two such looks after that: as often as a backend that is not up is checked.
const LATE_STEP: Duration = Duration::from_millis(100);

/// Asks the sources of backends, then adds the first list of backends and checks them. Returns when it is known which
/// of them can serve, after the time for an answer of the sources and the check timeout at the latest.
pub fn start(balancer: &Arc<Balancer>, list: impl FnOnce() -> Vec<BackendConfig>) {
    let watchers = follow(balancer);
    balancer.add_all(&list());
    checker::start(&peers(balancer));
    // From here on, sources that find others take them over.
    drop(watchers);
}

/// What an update has changed, by the names of backends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that have joined.
    pub added: Vec<String>,
    /// Those that are not listed any more.
    pub removed: Vec<String>,
    /// Those of them that stay until one of those listed is up.
    pub staying: Vec<String>,
    /// Those that stay, with other settings.
    pub changed: Vec<String>,
}

/// Takes over the backends that `list` returns, and says what that has changed.
///
/// New backends get reads once they have proved that they have the data. Those that stay get the settings that are
/// listed now, but what an operator has set holds on. Backends that are not listed any more get no reads, and their
/// sessions move to others between two commands. They stay until one of those listed is up. That is waited for, for
/// at most 1 s; after that they go as soon as one is, without the caller. So a list with nothing but new backends, or with nothing that
/// answers, is taken over without a failed read. A backend whose URL has changed is another backend. Of two updates at a
/// time, the later one has its way. An empty list, as before the first answer of a source, changes nothing.
pub fn update(balancer: &Arc<Balancer>, list: impl FnOnce() -> Vec<BackendConfig>) -> Changes {
    let (round, (mut changes, replacement)) = balancer.begin_update(|| begin(balancer, list()));
    changes.staying = replace(balancer, replacement, round);
    changes
}

/// The second part of an update, once one of those that are to be read from is up.
struct Replacement {
    /// Those that are not listed any more.
    leaving: Vec<Arc<Member>>,
    /// Those that are not to be read from any more, with their new settings.
    retiring: Vec<(Arc<Member>, BackendSettings)>,
    /// Those that are to be read from.
    readable: Vec<Arc<Member>>,
}

/// Adds the new backends, gives their settings to those that stay, and drains those that leave.
fn begin(balancer: &Arc<Balancer>, wanted: Vec<BackendConfig>) -> (Changes, Replacement) {
    let (staying, mut leaving): (Vec<_>, Vec<_>) = balancer
        .members()
        .into_iter()
        .partition(|member| wanted.iter().any(|backend| backend.address == member.address));
    if wanted.is_empty() {
        leaving.clear();
    }
    let mut changes = Changes { removed: names(&leaving), ..Changes::default() };
    let (mut readable, mut retiring) = (Vec::new(), Vec::new());
    for BackendConfig { address, settings } in &wanted {
        let Some(member) = staying.iter().find(|member| member.address == *address) else {
            continue;
        };
        if settings.is_never_read && !member.settings.effective().is_never_read {
            retiring.push((Arc::clone(member), settings.clone()));
            continue;
        }
        take_over(balancer, member, settings, &mut changes);
        if !settings.is_never_read {
            readable.push(Arc::clone(member));
        }
    }
    let is_new =
        |backend: &&BackendConfig| !staying.iter().any(|member| member.address == backend.address);
    for backend in wanted.iter().filter(is_new) {
        let member = add(balancer, backend);
        if !backend.settings.is_never_read {
            readable.push(member);
        }
        changes.added.push(backend.name().to_owned());
    }
    let now = Instant::now();
    for member in leaving.iter().filter(|member| member.health.admin() == Admin::Ready) {
        balancer.table.set_admin(member.id, Admin::Drain, now);
    }
    (changes, Replacement { leaving, retiring, readable })
}

/// Adds a backend to those that are listed. It gets reads once it has proved that it has the data.
pub fn add(balancer: &Arc<Balancer>, backend: &BackendConfig) -> Arc<Member> {
    info!("{} is added", backend.name());
    raise_descriptor_limit(balancer);
    let member = balancer.add(backend, Instant::now());
    checker::watch(Arc::clone(&member), peers(balancer));
    member
}

/// Raises the limit of open files to what one more backend needs.
fn raise_descriptor_limit(balancer: &Balancer) {
    let config = &balancer.config();
    let backends = balancer.backends().len() + 1;
    let needed = config.max_clients
        + backends * (config.backend_connections + DESCRIPTORS_OF_A_BACKEND)
        + OTHER_DESCRIPTORS;
    let limit = rlimit::increase_nofile_limit(needed as u64);
    if let Ok(limit) = limit
        && limit < needed as u64
    {
        warn!(
            "the limit of {limit} open files is too low for {backends} backends: raise it to {needed}"
        );
    }
}

/// Gives a backend that stays the settings that are listed now.
fn take_over(
    balancer: &Balancer,
    member: &Member,
    settings: &BackendSettings,
    changes: &mut Changes,
) {
    let now = Instant::now();
    // It may have been about to leave.
    balancer.table.set_admin(member.id, member.health.admin(), now);
    if balancer.set_settings(member.id, settings.clone(), now) {
        info!("{} has other settings: {settings}", member.name());
        changes.changed.push(member.name().to_owned());
    }
}

/// Removes backends, and reads from others no more, once one of those that are to be read from is up. Returns the names of
/// those that stay so long.
fn replace(balancer: &Arc<Balancer>, replacement: Replacement, round: u64) -> Vec<String> {
    // They stay even if they fail meanwhile: they may be the only ones that come back, and the new ones have to have
    // their keys.
    let has_served = |member: &Arc<Member>| member.health.known().accepted.is_some();
    let retiring = replacement.retiring.iter().map(|(member, _)| member);
    let are_needed = replacement.leaving.iter().chain(retiring).any(has_served);
    let is_due = move |replacement: &Replacement| !are_needed || is_any_up(&replacement.readable);
    let began = Instant::now();
    while !is_due(&replacement) && began.elapsed() < MAX_OVERLAP {
        thread::sleep(OVERLAP_STEP);
        if !balancer.is_current_update(round) {
            return Vec::new();
        }
    }
    if is_due(&replacement) {
        balancer.go_on_with_update(round, || finish(balancer, replacement));
        return Vec::new();
    }
    let staying = names(&replacement.leaving);
    let retiring = replacement.retiring.iter().map(|(member, _)| member.name().to_owned());
    let all: Vec<String> = staying.iter().cloned().chain(retiring).collect();
    error!("no backend that is to be read from is up: {} stays until one is", all.join(", "));
    let balancer = Arc::clone(balancer);
    let wait = move || {
        while !is_due(&replacement) {
            thread::sleep(LATE_STEP);
            if !balancer.is_current_update(round) {
                return;
            }
        }
        balancer.go_on_with_update(round, || finish(&balancer, replacement));
    };
    if let Err(error) = thread::Builder::new().name("replace".to_owned()).spawn(wait) {
        warn!("cannot start a thread to remove backends: {error}: the next update does");
    }
    staying
}

fn finish(balancer: &Balancer, replacement: Replacement) {
    for member in replacement.leaving {
        info!("{} is removed", member.name());
        balancer.remove(member.id, Instant::now());
    }
    for (member, settings) in replacement.retiring {
        take_over(balancer, &member, &settings, &mut Changes::default());
    }
}

fn is_any_up(members: &[Arc<Member>]) -> bool {
    members.iter().any(|member| member.health.state() == BackendState::Up)
}

fn names(members: &[Arc<Member>]) -> Vec<String> {
    members.iter().map(|member| member.name().to_owned()).collect()
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
        update(balancer, || addresses(urls));
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
        assert_eq!(updated(&balancer, &[]), after, "an empty list is no list");
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
