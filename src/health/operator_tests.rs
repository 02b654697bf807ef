//! Drained, in maintenance, and ready again.

use super::*;

fn set(backend: &Backend, admin: Admin) -> bool {
    backend.health.set_admin(admin, Instant::now())
}

fn shown(backend: &Backend) -> (ShownState, String) {
    let summary = backend.health.summary(Instant::now());
    (summary.state, summary.reason)
}

#[test]
fn a_drained_backend_is_checked_and_is_back_at_once() {
    let backend = good_backend();
    assert!(set(&backend, Admin::Drain) && !set(&backend, Admin::Drain));
    let reason = "set by an operator; a primary with 1000 keys";
    assert_eq!(shown(&backend), (ShownState::Draining, reason.to_owned()));
    assert!(backend.health.serves(0), "as a last resort");
    assert_eq!(backend.health.departure(), Some("it is draining"));
    (0..3).for_each(|_| _ = backend.check_failed());
    assert_eq!(shown(&backend).0, ShownState::Down, "that matters more");
    (0..2).for_each(|_| _ = backend.checked(&report("one", 1000)));
    assert_eq!(shown(&backend).0, ShownState::Draining);
    assert!(set(&backend, Admin::Ready));
    assert_eq!((shown(&backend).0, backend.health.state()), (ShownState::Up, BackendState::Up));
    let changes = backend.health.changes();
    let last = changes.last().map(|change| (change.state, change.reason.as_str()));
    assert_eq!(last, Some((ShownState::Up, "set by an operator")));
}

#[test]
fn in_maintenance_nothing_is_read_and_nothing_changes_the_state() {
    let backend = good_backend();
    set(&backend, Admin::Maint);
    let maint = (ShownState::Maint, "set by an operator".to_owned());
    assert_eq!((shown(&backend), backend.told()), (maint.clone(), Some(BackendState::Down)));
    assert_eq!(backend.health.refusal(0).as_deref(), Some("in maintenance"));
    assert_eq!(backend.health.admit("one", Instant::now()), Err("in maintenance".to_owned()));
    assert_eq!(backend.health.trouble().as_deref(), Some("in maintenance"));
    assert!(!backend.health.may_come_up());
    // A check or a read that was under way.
    backend.checked(&report("one", 1000));
    backend.check_failed();
    backend.health.failed(&"timed out", Instant::now());
    assert_eq!(shown(&backend), maint);
}

#[test]
fn after_maintenance_fresh_checks_are_due_as_for_a_new_backend() {
    for (run_id, keys, expected) in [
        ("one", 1000, BackendState::Up),
        ("another", 1000, BackendState::Up),
        ("another", 10, BackendState::Syncing),
    ] {
        let backend = good_backend();
        set(&backend, Admin::Maint);
        set(&backend, Admin::Ready);
        assert_eq!(shown(&backend).0, ShownState::Down);
        assert!(!backend.health.serves(0), "not even as a last resort");
        assert_eq!(backend.checked(&report(run_id, keys)), BackendState::Syncing, "one of two");
        assert_eq!(backend.checked(&report(run_id, keys)), expected, "{run_id} {keys}");
    }
}

#[test]
fn from_maintenance_to_draining_is_no_short_cut() {
    let backend = good_backend();
    set(&backend, Admin::Maint);
    set(&backend, Admin::Drain);
    assert!(!backend.health.serves(0));
    (0..2).for_each(|_| _ = backend.checked(&report("one", 1000)));
    assert_eq!(shown(&backend).0, ShownState::Draining);
    backend.health.remove(Instant::now());
    assert!(!set(&backend, Admin::Ready));
    assert_eq!(backend.health.departure(), Some("it was removed"));
}
