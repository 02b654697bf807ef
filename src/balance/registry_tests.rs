use crate::balance::{Balancer, MAX_SHOWN_CHANGES};
use crate::config::Config;
use crate::health::{BackendState, Member};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Balancer with two backends that are up.
fn two() -> Arc<Balancer> {
    let args = ["lb", "--backend=127.0.0.1:1", "--backend=127.0.0.1:2"];
    let balancer = Balancer::new(Config::from_arguments(args).expect("a configuration"));
    balancer.add_all(balancer.config().servers());
    for member in balancer.backends().iter() {
        balancer.table.set_state(member.id, BackendState::Up, false, Instant::now());
    }
    balancer
}

#[test]
fn a_removed_backend_is_found_as_long_as_it_is_used_and_forgotten_then() {
    let balancer = two();
    let (id, now) = (balancer.backends()[0].id, Instant::now());
    let lease = balancer.table.lease(now, |other| other == id).expect("it is up");
    balancer.remove(id, now);
    assert!(balancer.backends().iter().all(|member| member.id != id));
    balancer.forget_drained();
    assert!(balancer.backend(id).is_some_and(|member| member.health.is_removed()));
    assert!(balancer.table.lease(now, |other| other == id).is_none());
    drop(lease);
    balancer.forget_drained();
    assert!(balancer.backend(id).is_none() && !balancer.table.knows(id));
}

#[test]
fn a_backend_that_no_session_uses_is_forgotten_at_once() {
    let balancer = two();
    let id = balancer.backends()[0].id;
    balancer.remove(id, Instant::now());
    balancer.forget_drained();
    assert!(balancer.backend(id).is_none());
    assert_eq!(balancer.backends().len(), 1);
}

#[test]
fn a_backend_that_joins_again_has_a_new_identity() {
    let balancer = two();
    let old = balancer.backends()[1].id;
    balancer.remove(old, Instant::now());
    let new =
        balancer.add(balancer.config().servers().nth(1).expect("it is there"), Instant::now());
    assert_ne!(new.id, old);
    assert_eq!(new.name(), "127.0.0.1:2");
    assert_eq!(balancer.table.state(new.id), BackendState::Down, "until it is checked");
}

#[test]
fn each_change_of_the_list_gives_the_commands_another_version() {
    let balancer = two();
    let (id, now) = (balancer.backends()[0].id, Instant::now());
    let mut versions = vec![balancer.commands_version()];
    versions.push({
        balancer.add(balancer.config().servers().next().expect("it is there"), now);
        balancer.commands_version()
    });
    let before = Arc::clone(&balancer.backends());
    balancer.remove(id, now);
    versions.push(balancer.commands_version());
    assert!(versions.is_sorted_by(|earlier, later| earlier < later), "{versions:?}");
    balancer.remove(id, now);
    assert_eq!(balancer.commands_version(), versions[2], "it was removed before");
    assert_eq!(before.len(), 3, "a snapshot does not change");
}

#[test]
fn the_counts_and_changes_of_a_removed_backend_stay() {
    let balancer = two();
    let (first, now) = (Arc::clone(&balancer.backends()[0]), Instant::now());
    let count = |member: &Member| member.metrics.answered.resp.add(Duration::from_millis(1), 50);
    balancer.backends().iter().for_each(|member| count(member));
    first.health.check_failed(&"no answer", false, now);
    let totals = || {
        let reading = balancer.reading(&balancer.shown_backends());
        (reading.of_backends.counts.requests.resp, reading.of_backends.times.count())
    };
    let told = || balancer.changes(9).iter().any(|(_, change)| change.reason == "no answer");
    let lease = balancer.table.lease(now, |other| other == first.id).expect("it is up");
    assert_eq!((totals(), told()), ((100, 100), true), "one that is down from the start is told");
    balancer.remove(first.id, now);
    count(&first);
    assert_eq!((totals(), told()), ((150, 150), true), "it drains, and still counts");
    drop(lease);
    balancer.forget_drained();
    assert_eq!((totals(), told()), ((150, 150), true));
    // The same reading as one that has seen the backend before it was forgotten.
    let reading = balancer.reading(&[first]);
    assert_eq!(reading.of_backends.counts.requests.resp, 150, "it counts once");
}

#[test]
fn what_is_kept_of_removed_backends_is_bounded() {
    let balancer = two();
    for _ in 0..100 {
        let config = balancer.config();
        let member = balancer.add(config.servers().next().expect("it is there"), Instant::now());
        balancer.remove(member.id, Instant::now());
        balancer.forget_drained();
    }
    assert_eq!(balancer.backends().gone().changes.len(), MAX_SHOWN_CHANGES);
}
