//! Replicas that their primary has emptied, while no server has more.

use super::*;

#[test]
fn a_replica_that_is_emptied_after_an_hour_of_peace_is_not_taken_for_one_that_has_always_been_so() {
    const SECOND: Duration = Duration::from_secs(1);
    let backend = backend();
    let start = Instant::now();
    let check = |report: Report, at: Instant| {
        let empty = report_of_an_empty_primary();
        let others = [Known {
            answers: true,
            seen: Some(Seen { report: empty, keys_since: start }),
            ..Known::default()
        }];
        backend.health.check_answered(&report, at, at, &others);
        backend.health.state()
    };
    backend.health.accept_first(&replica("first", 1000), &[], start);
    let mut now = start;
    for _ in 0..1800 {
        now += 2 * SECOND;
        assert_eq!(check(replica("first", 1000), now), BackendState::Up);
    }
    // A primary may hold up to a few hundred keys a second that clients write: over an hour these are many.
    for checks in 1..=40 {
        let at = now + checks * SECOND / 10;
        assert_eq!(check(replica("second", 0), at), BackendState::Syncing, "check {checks}");
    }
    assert!(backend.reason().contains("it has 0 of 1000 keys"), "{}", backend.reason());
}

fn report_of_an_empty_primary() -> Report {
    Report { replication_id: "second".into(), ..report("other", 0) }
}
