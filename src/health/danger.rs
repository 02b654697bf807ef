//! Replicas that their primary is about to empty.
//!
//! A primary that restarts without its data fills its replicas anew as soon as they find it: within a second, and after
//! its `repl-diskless-sync-delay`. Until then they have all data, and from one moment to the next none. The
//! servers are asked so often meanwhile that the moment is seen as early as can be.

use super::known::Known;
use crate::backend::{Keys, Report, is_below_half};

/// How near it is that a replica is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Danger {
    /// Nothing points to it.
    None,
    /// Its link is down, and its primary has far fewer keys than it has.
    Near,
    /// Its primary says that it fills it now.
    Certain,
}

/// Says how near it is that a replica is emptied by one of the others.
pub(super) fn of_replica(replica: &Report, others: &[Known]) -> Danger {
    let of_pair = |other: &Known| between(other.seen.as_ref().map(|seen| &seen.report), replica);
    others.iter().map(of_pair).max().unwrap_or(Danger::None)
}

/// Returns whether a primary may empty one of the others.
pub(super) fn is_by_primary(primary: &Report, others: &[Known]) -> bool {
    let replicas = others.iter().filter_map(|other| other.seen.as_ref());
    replicas.into_iter().any(|seen| between(Some(primary), &seen.report) > Danger::None)
}

/// Servers are matched by their ports: addresses may be seen differently from everywhere.
fn between(primary: Option<&Report>, replica: &Report) -> Danger {
    let Some(primary) = primary.filter(|primary| !primary.is_replica) else { return Danger::None };
    let is_cut_off_from_it = replica.is_replica
        && replica.is_cut_off
        && primary.links.port > 0
        && replica.links.primary_port == Some(primary.links.port);
    let has_far_fewer = |keys: &Keys| {
        let own = primary.keys.as_ref();
        own.is_some_and(|own| {
            keys.databases().any(|number| is_below_half(own.count(number), keys.count(number)))
        })
    };
    match is_cut_off_from_it && replica.keys.as_ref().is_some_and(has_far_fewer) {
        false => Danger::None,
        true if primary.links.filled.contains(&replica.links.port) => Danger::Certain,
        true => Danger::Near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Links;
    use crate::health::known::Seen;
    use std::time::Instant;

    fn primary(keys: u64, filled: &[u16]) -> Report {
        let links = Links { port: 1, primary_port: None, filled: filled.to_vec() };
        Report { keys: Some(Keys::of(&[(0, keys)])), links, ..Report::default() }
    }

    fn replica(keys: u64, is_cut_off: bool, primary_port: u16) -> Report {
        let links = Links { port: 2, primary_port: Some(primary_port), filled: Vec::new() };
        let keys = Some(Keys::of(&[(0, keys)]));
        Report { is_replica: true, is_cut_off, keys, links, ..Report::default() }
    }

    #[test]
    fn a_replica_is_in_danger_while_its_own_primary_has_far_fewer_keys() {
        let known = |report: Report| Known {
            seen: Some(Seen { report, keys_since: Instant::now() }),
            ..Known::default()
        };
        for (replica, primary, expected) in [
            (replica(100, true, 1), primary(0, &[]), Danger::Near),
            (replica(100, true, 1), primary(49, &[3]), Danger::Near),
            (replica(100, true, 1), primary(0, &[3, 2]), Danger::Certain),
            (replica(100, true, 1), primary(50, &[2]), Danger::None),
            (replica(100, false, 1), primary(0, &[2]), Danger::None),
            (replica(100, true, 9), primary(0, &[2]), Danger::None),
            (replica(0, true, 1), primary(0, &[2]), Danger::None),
            (replica(100, true, 1), Report::default(), Danger::None),
            (replica(100, true, 1), replica(0, true, 1), Danger::None),
        ] {
            let others = [Known::default(), known(primary.clone())];
            assert_eq!(of_replica(&replica, &others), expected, "{replica:?} {primary:?}");
            let is_any = is_by_primary(&primary, &[known(replica)]);
            assert_eq!(is_any, expected > Danger::None);
        }
    }
}
