//! Whether a server that has to prove itself has the keys of the others, or as many other keys.
//!
//! An address can be given to another server, with other data, while a source of backends still names it. The rule
//! compares numbers of keys. So some keys are chosen at random, on this server and on one that serves, and each is
//! looked for on the other. That is asked only while nothing is read from the server, and only while another serves. If
//! nobody answers, or the user may not ask, the numbers alone count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BackendState, Known, Member};
use crate::backend::{BackendError, Connection, Keys, Report, WaitPolicy};

/// Keys that are chosen on each server in each database. Servers with the same data have nearly all of each other's keys,
/// whatever is written or expires meanwhile, and servers with other data have none: the chance that five of eight
/// are missing by accident is under one in a thousand, even if a tenth of all keys is.
const KEYS: usize = 8;

/// Most databases in which keys are compared.
const MAX_DATABASES: usize = 4;

/// Longest time for the questions of one comparison. A check waits for them.
const MAX_TIME: Duration = Duration::from_millis(250);

/// Time for which the result of a comparison counts. The server is checked more often.
const VALID_TIME: Duration = Duration::from_secs(1);

/// Reason why a server is not read from.
pub(super) const OTHER_KEYS: &str = "it has other keys than the others";

/// Keys that were chosen on one server, and how many of them the other has.
#[derive(Debug, Clone, Copy)]
struct KeySample {
    chosen: usize,
    found: usize,
}

impl KeySample {
    fn is_mostly_missing(self) -> bool {
        self.found * 2 < self.chosen
    }
}

/// Returns whether two servers have other keys. Both must lack most of the other's: one that only lacks keys has fewer, which
/// the numbers say.
fn are_others(own: KeySample, of_peer: KeySample) -> bool {
    own.is_mostly_missing() && of_peer.is_mostly_missing()
}

/// The comparisons of one server's keys.
#[derive(Debug, Default)]
pub(super) struct KeyComparison {
    /// The process that was compared last, when, and whether it has other keys; false if that could not be found out.
    last: Option<(Arc<str>, Instant, bool)>,
}

impl KeyComparison {
    /// Returns whether the server that gave this report, on this connection, has other keys than one of the `others` that
    /// serves. If the questions fail, the connection is given up.
    pub fn has_other_keys(
        &mut self,
        (report, before): (&Report, &Known),
        connection: &mut Option<Connection>,
        others: &[Arc<Member>],
        timeout: Duration,
    ) -> bool {
        if !is_asked(report, before) {
            return false;
        }
        let (run_id, now) = (&report.run_id, Instant::now());
        let is_valid = |at: &Instant| now.saturating_duration_since(*at) < VALID_TIME;
        if let Some((last, at, has_others)) = &self.last
            && last == run_id
            && is_valid(at)
        {
            return *has_others;
        }
        let Some((peer, databases)) = peer(report, others) else { return false };
        let Some(mut own) = connection.take() else { return false };
        let compared = compare(&mut own, &peer, &databases, now + timeout.min(MAX_TIME));
        if compared.is_ok() {
            *connection = Some(own);
        }
        let has_others = compared.unwrap_or(false);
        self.last = Some((Arc::clone(run_id), now, has_others));
        has_others
    }
}

/// Returns whether a server has to prove itself, and nothing is read from it meanwhile.
fn is_asked(report: &Report, before: &Known) -> bool {
    let is_accepted =
        before.accepted.as_ref().is_some_and(|accepted| accepted.run_id == report.run_id);
    report.not_ready.is_none()
        && report.unserved.is_none()
        && (before.must_prove.is_some() || !is_accepted)
}

/// Returns the server that is up with the most keys, and the databases in which both have keys.
fn peer(report: &Report, others: &[Arc<Member>]) -> Option<(Arc<Member>, Vec<u32>)> {
    let own = report.keys.as_ref()?;
    let with_keys = others.iter().filter_map(|other| {
        let is_up = other.health.state() == BackendState::Up && !other.health.is_busy();
        let keys = other.health.known().seen.filter(|_| is_up)?.report.keys?;
        Some((other, keys))
    });
    let (peer, keys) = with_keys.max_by_key(|(_, keys)| keys.total())?;
    let databases = shared_databases(own, &keys);
    (!databases.is_empty()).then(|| (Arc::clone(peer), databases))
}

/// Returns the databases in which both have keys. Small ones, with a few keys for each server's own use, don't count while
/// both have a larger one.
fn shared_databases(own: &Keys, of_peer: &Keys) -> Vec<u32> {
    let have = |keys: u64| {
        let is_shared = move |number: &u32| own.count(*number).min(of_peer.count(*number)) >= keys;
        own.databases().filter(is_shared).take(MAX_DATABASES).collect::<Vec<u32>>()
    };
    let large = have(2 * KEYS as u64);
    if large.is_empty() { have(1) } else { large }
}

fn compare(
    own: &mut Connection,
    peer: &Member,
    databases: &[u32],
    deadline: Instant,
) -> Result<bool, BackendError> {
    let mut peer = peer.dial_accepted(deadline)?;
    own.set_wait_policy(WaitPolicy::Until(deadline), Duration::ZERO);
    for database in databases.iter().copied() {
        let own_keys = own.random_keys(database, KEYS)?;
        let found = peer.count_keys(database, &own_keys)?;
        let of_own = KeySample { chosen: own_keys.len(), found };
        let peer_keys = peer.random_keys(database, KEYS)?;
        let found = own.count_keys(database, &peer_keys)?;
        if are_others(of_own, KeySample { chosen: peer_keys.len(), found }) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::known::{Cause, Identity};

    #[test]
    fn both_must_lack_most_of_the_keys_that_were_chosen_on_the_other() {
        let sample = |(chosen, found)| KeySample { chosen, found };
        for (own, of_peer, expected) in [
            ((8, 8), (8, 8), false),
            ((8, 0), (8, 0), true),
            ((8, 3), (8, 3), true),
            ((8, 4), (8, 0), false),
            // An older copy, and one that is filled.
            ((8, 8), (8, 0), false),
            ((8, 0), (8, 8), false),
            ((1, 0), (8, 1), true),
            // All that were chosen have expired.
            ((0, 0), (8, 0), false),
            ((0, 0), (0, 0), false),
        ] {
            assert_eq!(are_others(sample(own), sample(of_peer)), expected, "{own:?} {of_peer:?}");
        }
    }

    #[test]
    fn only_a_server_is_asked_from_which_nothing_is_read() {
        let report = |run_id: &str| Report { run_id: run_id.into(), ..Report::default() };
        let accepted = Some(Identity::of(&report("a")));
        let serving = Known { accepted, ..Known::default() };
        let must_prove = Some(Cause::FilledAnew);
        let held = Known { must_prove, ..serving.clone() };
        let loading = Report { not_ready: Some("loading".to_owned()), ..report("b") };
        for (report, before, expected) in [
            (report("a"), &serving, false),
            (report("b"), &serving, true),
            (report("a"), &held, true),
            (report("a"), &Known::default(), true),
            (loading, &serving, false),
        ] {
            assert_eq!(is_asked(&report, before), expected, "{report:?} {before:?}");
        }
    }

    #[test]
    fn keys_are_compared_in_databases_that_both_have() {
        let keys = |numbers: &[u32]| {
            Keys::of(&numbers.iter().map(|number| (*number, 1)).collect::<Vec<_>>())
        };
        assert_eq!(shared_databases(&keys(&[0, 2, 3]), &keys(&[2, 3, 4])), [2, 3]);
        let own = Keys::of(&[(0, 1000), (1, 1), (2, 15), (3, 16)]);
        assert_eq!(shared_databases(&own, &own), [0, 3], "each may have a few of its own");
        let many: Vec<u32> = (0..9).collect();
        assert_eq!(shared_databases(&keys(&many), &keys(&many)).len(), MAX_DATABASES);
    }
}
