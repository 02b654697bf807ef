use super::*;

struct Backend {
    health: Arc<Health>,
    table: Arc<ConnectionTable>,
}

/// `fall` is 3, `rise` is 2.
fn backend() -> Backend {
    let table = ConnectionTable::new(1, Duration::ZERO);
    Backend { health: Health::new("a:1", 0, Arc::clone(&table), 3, 2), table }
}

/// It has 1000 keys and is up.
fn good_backend() -> Backend {
    let backend = backend();
    backend.health.accept_first(report("one", 1000));
    backend
}

fn report(run_id: &str, keys: u64) -> Report {
    Report {
        run_id: run_id.into(),
        keys: Some(Keys::in_one_database(keys)),
        is_replica: false,
        lag: None,
        not_ready: None,
    }
}

impl Backend {
    /// A check finds this, while others have 1000 keys.
    fn checked(&self, report: &Report) -> State {
        self.checked_beside(report, Some(1000))
    }

    fn checked_beside(&self, report: &Report, others: Option<u64>) -> State {
        let reference = others.map(Keys::in_one_database);
        let began = Instant::now();
        self.health.check_answered(report, began);
        self.health.judge(report, began, reference.as_ref());
        self.health.state()
    }

    fn failed(&self) -> State {
        self.health.failed(&"connection lost");
        self.health.state()
    }

    fn check_failed(&self) -> State {
        self.health.check_failed(&"timed out", true);
        self.health.state()
    }

    fn reason(&self) -> String {
        self.health.summary().reason
    }

    fn is_readable(&self, run_id: &str) -> bool {
        self.health.refusal().is_none() && self.health.admit(run_id).is_ok()
    }
}

#[test]
fn one_failure_makes_it_suspect_and_one_good_check_clears_it() {
    let backend = good_backend();
    assert_eq!(backend.failed(), State::Suspect);
    assert_eq!(backend.table.state(0), State::Suspect);
    assert_eq!(backend.reason(), "connection lost");
    assert!(backend.is_readable("one"), "as a last resort");
    assert_eq!(backend.checked(&report("one", 1000)), State::Up);
    assert_eq!(backend.check_failed(), State::Suspect);
    assert_eq!(backend.checked(&report("one", 1000)), State::Up);
}

#[test]
fn a_check_that_began_before_the_failure_clears_nothing() {
    let backend = good_backend();
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(backend.failed(), State::Suspect);
    backend.health.check_answered(&report("one", 1000), began);
    backend.health.judge(&report("one", 1000), began, None);
    assert_eq!(backend.health.state(), State::Suspect);
}

#[test]
fn failed_checks_in_a_row_bring_it_down_and_good_ones_back() {
    let backend = good_backend();
    assert_eq!(backend.failed(), State::Suspect);
    assert_eq!(backend.check_failed(), State::Suspect);
    assert_eq!(backend.check_failed(), State::Suspect);
    assert_eq!(backend.check_failed(), State::Down);
    assert_eq!(backend.table.state(0), State::Down);
    assert_eq!(backend.failed(), State::Down);
    assert_eq!(backend.checked(&report("one", 1000)), State::Down);
    assert_eq!(backend.check_failed(), State::Down, "begins anew");
    assert_eq!(backend.checked(&report("one", 1000)), State::Down);
    assert_eq!(backend.checked(&report("one", 1000)), State::Up);
}

#[test]
fn a_server_that_no_check_has_accepted_is_not_read_from() {
    let backend = good_backend();
    assert!(backend.is_readable("one"));
    let error = backend.health.admit("two").expect_err("not accepted");
    assert!(error.contains("restarted"), "{error}");
    assert_eq!(backend.health.state(), State::Syncing);
    assert_eq!(backend.table.state(0), State::Syncing);
    assert!(!backend.is_readable("one"), "whoever comes");
    assert_eq!(backend.checked(&report("two", 0)), State::Syncing);
    assert!(backend.reason().contains("0 of 1000 keys"), "{}", backend.reason());
    assert_eq!(backend.checked(&report("two", 500)), State::Syncing);
    assert_eq!(backend.checked(&report("two", 989)), State::Syncing);
    assert_eq!(backend.checked(&report("two", 999)), State::Syncing, "it still grows");
    assert_eq!(backend.checked(&report("two", 999)), State::Syncing, "once is not enough");
    assert!(!backend.is_readable("two"));
    assert_eq!(backend.checked(&report("two", 999)), State::Up);
    assert!(backend.is_readable("two"));
    assert!(!backend.is_readable("one"), "it is gone");
}

#[test]
fn it_stays_unread_when_it_fails_before_it_has_its_data() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("two", 10)), State::Syncing);
    for _ in 0..3 {
        backend.check_failed();
    }
    assert_eq!(backend.health.state(), State::Down);
    assert!(!backend.is_readable("two"), "not even as a last resort");
    assert_eq!(backend.checked(&report("two", 10)), State::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), State::Up);
}

#[test]
fn a_server_that_was_restarted_between_two_proofs_begins_anew() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("two", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("three", 0)), State::Syncing);
    assert_eq!(backend.checked(&report("three", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("three", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("three", 1000)), State::Up);
}

#[test]
fn more_keys_put_nobody_out_and_half_as_many_do() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("one", 5000)), State::Up);
    assert_eq!(backend.checked(&report("one", 2500)), State::Up);
    assert_eq!(backend.checked_beside(&report("one", 1249), Some(2500)), State::Syncing);
    assert!(backend.reason().contains("more than half"), "{}", backend.reason());
    assert!(!backend.is_readable("one"));
    assert_eq!(backend.checked_beside(&report("one", 1249), Some(2500)), State::Syncing);
    assert_eq!(backend.checked(&report("one", 1249)), State::Syncing, "others have less by now");
    assert_eq!(backend.checked(&report("one", 1249)), State::Up);
}

#[test]
fn where_clients_add_keys_all_the_time_a_full_server_is_complete() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("two", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("two", 1009)), State::Up);
}

#[test]
fn a_server_that_is_loading_is_not_read_from() {
    let backend = good_backend();
    let loading = Report { not_ready: Some("it is loading".to_owned()), ..report("one", 0) };
    assert_eq!(backend.checked(&loading), State::Syncing);
    assert_eq!(backend.reason(), "it is loading");
    assert_eq!(backend.checked(&report("one", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("one", 1000)), State::Syncing);
    assert_eq!(backend.checked(&report("one", 1000)), State::Up);
}

#[test]
fn where_nothing_is_known_the_first_that_answers_is_good() {
    let backend = backend();
    assert_eq!(backend.check_failed(), State::Down);
    assert_eq!(backend.checked_beside(&report("one", 7), None), State::Syncing);
    assert_eq!(backend.checked_beside(&report("one", 7), None), State::Up);
}

#[test]
fn each_change_is_kept_up_to_a_limit() {
    let backend = good_backend();
    for _ in 0..MAX_CHANGES {
        backend.failed();
        backend.failed();
        backend.checked(&report("one", 1000));
    }
    let changes = backend.health.changes();
    assert_eq!(changes.len(), MAX_CHANGES);
    assert_eq!(changes[MAX_CHANGES - 1].state, State::Up);
    assert_eq!(changes[MAX_CHANGES - 2].state, State::Suspect);
}
