//! The list of the configuration, and what an operator has added to it and removed from it at run time.

use std::sync::Arc;

use log::info;

use super::{Changes, update};
use crate::balance::{Balancer, Overlay};
use crate::config::backend::BackendConfig;
use crate::health::Member;
use crate::sync::lock;

/// Most backends that may be added at run time: each has threads and connections of its own.
const MAX_ADDED: usize = 1000;

/// Error for a list of backends that is not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// One of this name is listed.
    #[error("{0} is there already; remove it first if it is to have another URL")]
    Listed(String),
    /// One of this name was removed, and is in the configuration.
    #[error("{0} is in the configuration and was removed at run time; make it ready instead")]
    Removed(String),
    /// It is the only one.
    #[error(
        "{0} is the only backend that is read from: without it nothing can be read; add another first"
    )]
    Last(String),
    /// None of this name is listed.
    #[error("there is no backend {0}")]
    Missing(String),
    /// Too many were added.
    #[error(
        "{MAX_ADDED} backends were added at run time, which is the most; write them into the configuration"
    )]
    TooMany,
}

/// Returns the configured backends without those that were removed at run time, and after them those that were added.
pub fn merge(configured: &[BackendConfig], overlay: &Overlay) -> Vec<BackendConfig> {
    let kept = configured.iter().filter(|backend| !overlay.has_removed(backend.name()));
    let added = overlay.added.iter().filter(|backend| !has(configured, backend.name()));
    kept.chain(added).cloned().collect()
}

/// Forgets what has no meaning with this configuration: an added backend that is configured now, and a removed one
/// that is not, or without which there would be none.
fn settle(configured: &[BackendConfig], overlay: &mut Overlay) {
    overlay.added.retain(|backend| {
        let is_configured = has(configured, backend.name());
        if is_configured {
            info!("{} was added at run time and is in the configuration now", backend.name());
        }
        !is_configured
    });
    overlay.removed.retain(|name| has(configured, name));
    if merge(configured, overlay).is_empty() {
        overlay.removed.clear();
    }
}

fn has(backends: &[BackendConfig], name: &str) -> bool {
    backends.iter().any(|backend| backend.name() == name)
}

/// Returns the servers that the configuration names, and then those that its sources have found.
fn configured(balancer: &Balancer) -> Vec<BackendConfig> {
    let mut all: Vec<BackendConfig> = balancer.config().servers().cloned().collect();
    for server in balancer.discovered.servers() {
        if !has(&all, server.name()) {
            all.push(server);
        }
    }
    all
}

/// Returns the list of backends, with what an operator has changed of it.
pub fn listed(balancer: &Balancer) -> Vec<BackendConfig> {
    let configured = configured(balancer);
    let is_static = balancer.config().sources().next().is_none();
    let mut overlay = lock(&balancer.overlay);
    // A server that a source has lost may be found again.
    if is_static {
        settle(&configured, &mut overlay);
    }
    let listed = merge(&configured, &overlay);
    // All that are left were removed by an operator.
    if listed.is_empty() { configured } else { listed }
}

/// Adds a backend to the list, as an operator wishes.
///
/// # Errors
/// One of its name is listed or was removed, or too many were added.
pub fn add_listed(balancer: &Arc<Balancer>, backend: BackendConfig) -> Result<Changes, ListError> {
    {
        let name = backend.name().to_owned();
        let mut overlay = lock(&balancer.overlay);
        if overlay.has_removed(&name) {
            return Err(ListError::Removed(name));
        }
        if has(&merge(&configured(balancer), &overlay), &name) {
            return Err(ListError::Listed(name));
        }
        if overlay.added.len() >= MAX_ADDED {
            return Err(ListError::TooMany);
        }
        overlay.added.push(backend);
    }
    Ok(update(balancer, || listed(balancer)))
}

/// Removes a backend from the list, as an operator wishes. It stays for as long as no other is up.
///
/// # Errors
/// There is none of this name, or no other.
pub fn remove_listed(balancer: &Arc<Balancer>, name: &str) -> Result<Changes, ListError> {
    {
        let configured = &configured(balancer);
        let mut overlay = lock(&balancer.overlay);
        let listed = merge(configured, &overlay);
        if !has(&listed, name) {
            return Err(ListError::Missing(name.to_owned()));
        }
        let is_other =
            |backend: &&BackendConfig| backend.name() != name && !backend.settings.is_never_read;
        if listed.iter().find(is_other).is_none() {
            return Err(ListError::Last(name.to_owned()));
        }
        overlay.added.retain(|backend| backend.name() != name);
        if has(configured, name) {
            overlay.removed.push(name.to_owned());
        }
    }
    Ok(update(balancer, || listed(balancer)))
}

/// Brings a backend back that was removed at run time. Returns false if none of this name was.
pub fn restore(balancer: &Arc<Balancer>, name: &str) -> bool {
    {
        let mut overlay = lock(&balancer.overlay);
        if !overlay.has_removed(name) {
            return false;
        }
        overlay.removed.retain(|removed| removed != name);
    }
    update(balancer, || listed(balancer));
    true
}

/// Lists what was set at run time and goes on to hold, in words: a name, and what was set of it.
pub fn left_in_place(balancer: &Balancer) -> Vec<(String, String)> {
    let overlay = lock(&balancer.overlay).clone();
    let of_member = |member: &Arc<Member>| {
        let name = member.name();
        let overrides = balancer.overrides(member.id).to_string();
        let added = overlay.has_added(name).then(|| "added".to_owned());
        let parts = added.into_iter().chain((!overrides.is_empty()).then_some(overrides));
        let what = parts.collect::<Vec<_>>().join(", ");
        (!what.is_empty() && !overlay.has_removed(name)).then(|| (name.to_owned(), what))
    };
    let members = balancer.shown_backends();
    let of_members = members.iter().filter_map(of_member);
    let removed = overlay.removed.iter().map(|name| (name.clone(), "removed".to_owned()));
    let level = overlay.log_level.map(|level| level.as_str().to_lowercase());
    let level = level.map(|level| ("the log's level".to_owned(), level));
    of_members.chain(removed).chain(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::backend::parse_list;

    fn backends(urls: &str) -> Vec<BackendConfig> {
        let urls: Vec<String> = urls.split_whitespace().map(str::to_owned).collect();
        parse_list(&urls).expect("a list")
    }

    fn overlay(added: &str, removed: &str) -> Overlay {
        let removed = removed.split_whitespace().map(str::to_owned).collect();
        Overlay { added: backends(added), removed, log_level: None }
    }

    fn names(backends: &[BackendConfig]) -> String {
        backends.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_an_operator_did_holds_with_a_new_configuration_while_it_has_a_meaning() {
        for (configured, added, removed, listed, kept) in [
            ("a:1 b:1", "", "", "a:1 b:1", ("", "")),
            ("a:1 b:1", "c:1", "", "a:1 b:1 c:1", ("c:1", "")),
            ("a:1 b:1", "", "a:1", "b:1", ("", "a:1")),
            ("a:1 b:1", "c:1", "a:1 b:1", "c:1", ("c:1", "a:1 b:1")),
            // It is configured now, or not any more.
            ("a:1 c:1", "c:1?weight=7", "", "a:1 c:1", ("", "")),
            ("a:1", "", "b:1", "a:1", ("", "")),
            // Nothing would be left.
            ("a:1", "", "a:1", "a:1", ("", "")),
            ("a:1 c:1", "c:1", "a:1", "c:1", ("", "a:1")),
            ("c:1", "c:1", "c:1", "c:1", ("", "")),
        ] {
            let configured = backends(configured);
            let mut overlay = overlay(added, removed);
            settle(&configured, &mut overlay);
            let merged = merge(&configured, &overlay);
            assert_eq!(names(&merged), listed, "{configured:?} + {added} - {removed}");
            assert_eq!((names(&overlay.added).as_str(), overlay.removed.join(" ").as_str()), kept);
            assert!(merged.iter().all(|backend| backend.settings.weight == 1));
        }
    }

    #[test]
    fn what_sources_have_left_is_listed_even_if_an_operator_removed_it() {
        let arguments = ["lb", "--backend=dns://a:1"];
        let balancer = Balancer::new(Config::from_arguments(arguments).expect("right"));
        let new = balancer.discovered.configure(balancer.config().sources());
        let (id, source) = &new[0];
        let find = |hosts: &[&str]| {
            let servers = hosts.iter().map(|host| source.server(host, 1)).collect();
            balancer.discovered.report(*id, Ok(servers), std::time::Instant::now());
            names(&listed(&balancer))
        };
        assert_eq!(find(&["x", "y"]), "x:1 y:1");
        lock(&balancer.overlay).removed.push("x:1".to_owned());
        assert_eq!(find(&["x", "y"]), "y:1");
        assert_eq!(find(&["x"]), "x:1", "nothing else is left");
        assert_eq!(find(&["x", "y", "z"]), "y:1 z:1", "the wish holds on");
    }

    /// Ports where nobody listens: the checks fail.
    #[test]
    fn an_operator_adds_and_removes_and_a_new_list_leaves_that_in_place() {
        let arguments = ["lb", "--backend=127.0.0.1:1,127.0.0.1:2"];
        let balancer = Balancer::new(Config::from_arguments(arguments).expect("right"));
        let names_now = || names(&listed(&balancer));
        let (one, two, three) = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3");
        let third = || backends("127.0.0.1:3").remove(0);
        super::super::start(&balancer, || listed(&balancer));
        let changes = add_listed(&balancer, third()).expect("it is new");
        assert_eq!(changes.added, [three]);
        assert_eq!(add_listed(&balancer, third()), Err(ListError::Listed(three.to_owned())));
        let changes = remove_listed(&balancer, one).expect("it is there");
        assert_eq!((changes.removed, changes.staying), (vec![one.to_owned()], vec![]));
        assert_eq!(remove_listed(&balancer, one), Err(ListError::Missing(one.to_owned())));
        let first = backends(one).remove(0);
        assert_eq!(add_listed(&balancer, first), Err(ListError::Removed(one.to_owned())));
        assert_eq!(names_now(), format!("{two} {three}"));
        let id = balancer.backends()[0].id;
        balancer.set_weight(id, Some(5), std::time::Instant::now());
        let left = [(two, "weight 5"), (three, "added"), (one, "removed")];
        let left = left.map(|(name, what)| (name.to_owned(), what.to_owned()));
        assert_eq!(left_in_place(&balancer), left);
        remove_listed(&balancer, three).expect("it was added");
        assert_eq!(remove_listed(&balancer, two), Err(ListError::Last(two.to_owned())));
        assert!(restore(&balancer, one) && !restore(&balancer, one) && !restore(&balancer, three));
        assert_eq!(names_now(), format!("{one} {two}"));
    }
}
