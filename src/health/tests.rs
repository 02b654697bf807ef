use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known::{Identity, Seen};
use super::record::{MAX_CHANGES, STILL_CHECKS};
use super::*;
use crate::backend::{Keys, Report, Unserved};
use crate::config::LiveConfig;
use crate::sync::{Mutex, lock};

#[path = "emptied_tests.rs"]
mod emptied;
#[path = "operator_tests.rs"]
mod operator;

struct Backend {
    health: Arc<Health>,
    told: Arc<Told>,
}

/// What the listener was told last.
#[derive(Debug, Default)]
struct Told(Mutex<Option<BackendState>>);

#[derive(Debug)]
struct Listener(Arc<Told>);

impl StateListener for Listener {
    fn announce(&self, _: &Change) {}

    fn set_state(&self, state: BackendState, _: bool, _: Instant) {
        *lock(&self.0.0) = Some(state);
    }

    fn set_second_choice(&self, _: bool, _: Instant) {}
    fn set_admin(&self, _: Admin, _: Instant) {}
    fn set_slow(&self, _: bool, _: Instant) {}

    fn set_silent(&self, _: bool) {}
}

/// `--fall` is 3, `--rise` is 2.
fn backend() -> Backend {
    let in_use = Arc::new(DatabasesInUse::default());
    in_use.note(Databases::of(0));
    let told = Arc::new(Told::default());
    let listener = Box::new(Listener(Arc::clone(&told)));
    Backend {
        health: Health::new("a:1", listener, LiveConfig::of(&[]), in_use, Instant::now()),
        told,
    }
}

/// It has 1000 keys and is up.
fn good_backend() -> Backend {
    let backend = backend();
    backend.health.accept_first(&report("one", 1000), &[], Instant::now());
    backend
}

fn report(run_id: &str, keys: u64) -> Report {
    Report { run_id: run_id.into(), keys: Some(Keys::in_one_database(keys)), ..Report::default() }
}

/// Another server that serves so many keys.
fn other(keys: u64) -> Known {
    let report = report("other", keys);
    Known {
        accepted: Some(Identity::of(&report)),
        is_serving: true,
        answers: true,
        seen: Some(Seen { report, keys_since: Instant::now() }),
        ..Known::default()
    }
}

impl Backend {
    fn told(&self) -> Option<BackendState> {
        *lock(&self.told.0)
    }

    /// A check finds this, while others have 1000 keys.
    fn checked(&self, report: &Report) -> BackendState {
        self.checked_beside(report, Some(1000))
    }

    fn checked_beside(&self, report: &Report, others: Option<u64>) -> BackendState {
        let others: Vec<Known> = others.map(other).into_iter().collect();
        let now = Instant::now();
        self.health.check_answered(report, now, now, &others);
        self.health.state()
    }

    fn failed(&self) -> BackendState {
        self.health.failed(&"connection lost", Instant::now());
        self.health.state()
    }

    fn check_failed(&self) -> BackendState {
        self.health.check_failed(&"timed out", true, Instant::now());
        self.health.state()
    }

    fn reason(&self) -> String {
        self.health.summary(Instant::now()).reason
    }

    fn is_readable(&self, run_id: &str) -> bool {
        self.health.refusal(0).is_none() && self.health.admit(run_id, Instant::now()).is_ok()
    }
}

#[test]
fn one_failure_makes_it_suspect_and_one_good_check_clears_it() {
    let backend = good_backend();
    assert_eq!(backend.failed(), BackendState::Suspect);
    assert_eq!(backend.told(), Some(BackendState::Suspect));
    assert_eq!(backend.reason(), "connection lost");
    assert!(backend.is_readable("one"), "as a last resort");
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Up);
    assert_eq!(backend.check_failed(), BackendState::Suspect);
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Up);
}

#[test]
fn a_check_that_began_before_the_failure_clears_nothing() {
    let backend = good_backend();
    let began = Instant::now();
    let now = began + Duration::from_millis(1);
    backend.health.failed(&"connection lost", now);
    backend.health.check_answered(&report("one", 1000), began, now, &[]);
    assert_eq!(backend.health.state(), BackendState::Suspect);
}

#[test]
fn failed_checks_in_a_row_bring_it_down_and_good_ones_back() {
    let backend = good_backend();
    assert_eq!(backend.failed(), BackendState::Suspect);
    assert_eq!(backend.check_failed(), BackendState::Suspect);
    assert_eq!(backend.check_failed(), BackendState::Suspect);
    assert_eq!(backend.check_failed(), BackendState::Down);
    assert_eq!(backend.told(), Some(BackendState::Down));
    assert_eq!(backend.failed(), BackendState::Down);
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Down);
    assert_eq!(backend.check_failed(), BackendState::Down, "begins anew");
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Down);
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Up);
}

#[test]
fn a_server_that_no_check_has_accepted_is_not_read_from() {
    let backend = good_backend();
    assert!(backend.is_readable("one"));
    let error = backend.health.admit("two", Instant::now()).expect_err("not accepted");
    assert!(error.contains("restarted"), "{error}");
    assert_eq!(backend.health.state(), BackendState::Syncing);
    assert_eq!(backend.told(), Some(BackendState::Syncing));
    assert!(!backend.is_readable("one"), "whoever comes");
    assert_eq!(backend.checked(&report("two", 0)), BackendState::Syncing);
    assert!(backend.reason().contains("0 of 1000 keys"), "{}", backend.reason());
    assert_eq!(backend.checked(&report("two", 500)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 989)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 999)), BackendState::Syncing, "it still grows");
    assert_eq!(backend.checked(&report("two", 999)), BackendState::Syncing, "once is not enough");
    assert!(!backend.is_readable("two"));
    assert_eq!(backend.checked(&report("two", 999)), BackendState::Up);
    assert!(backend.is_readable("two"));
    assert!(!backend.is_readable("one"), "it is gone");
}

#[test]
fn it_stays_unread_when_it_fails_before_it_has_its_data() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("two", 10)), BackendState::Syncing);
    for _ in 0..3 {
        backend.check_failed();
    }
    assert_eq!(backend.health.state(), BackendState::Down);
    assert!(!backend.is_readable("two"), "not even as a last resort");
    assert_eq!(backend.checked(&report("two", 10)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Up);
}

#[test]
fn a_server_that_was_restarted_between_two_proofs_begins_anew() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("three", 0)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("three", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("three", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("three", 1000)), BackendState::Up);
}

#[test]
fn more_keys_and_fewer_put_nobody_out() {
    let backend = good_backend();
    for keys in [5000, 2500, 1, 0, 3] {
        assert_eq!(backend.checked_beside(&report("one", keys), Some(2500)), BackendState::Up);
        assert!(backend.is_readable("one"), "{keys}");
    }
    assert!(backend.reason().contains("another server 2500"), "{}", backend.reason());
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Up);
    assert!(!backend.reason().contains("another server"), "{}", backend.reason());
}

fn replica(replication_id: &str, keys: u64) -> Report {
    Report { is_replica: true, replication_id: replication_id.into(), ..report("one", keys) }
}

#[test]
fn a_replica_that_was_filled_anew_serves_on_if_it_is_complete_and_else_not_at_all() {
    let backend = backend();
    backend.health.accept_first(&replica("first", 1000), &[], Instant::now());
    assert_eq!(backend.checked(&replica("second", 1000)), BackendState::Up);
    assert_eq!(
        backend.checked(&replica("second", 400)),
        BackendState::Up,
        "it was told to forget them"
    );
    assert_eq!(backend.checked(&replica("third", 0)), BackendState::Syncing);
    assert!(backend.reason().contains("filled anew by its primary; it has 0 of 1000 keys"));
    assert!(!backend.is_readable("one"));
    assert_eq!(backend.checked(&replica("third", 1000)), BackendState::Syncing);
    assert_eq!(
        backend.checked(&replica("third", 1000)),
        BackendState::Syncing,
        "once is not enough"
    );
    assert_eq!(backend.checked(&replica("third", 1000)), BackendState::Up);
}

fn in_databases(run_id: &str, counts: &[(u32, u64)]) -> Report {
    Report { keys: Some(Keys::of(counts)), ..report(run_id, 0) }
}

#[test]
fn one_that_is_incomplete_in_one_database_serves_the_others() {
    let backend = backend();
    backend.health.accept_first(&in_databases("one", &[(0, 9), (7, 9)]), &[], Instant::now());
    let full = || {
        let report = in_databases("other", &[(0, 9), (7, 9)]);
        Known { seen: Some(Seen { report, keys_since: Instant::now() }), ..other(0) }
    };
    let checked = |counts: &[(u32, u64)]| {
        let now = Instant::now();
        backend.health.check_answered(&in_databases("two", counts), now, now, &[full()]);
        backend.health.state()
    };
    assert_eq!(checked(&[(0, 9)]), BackendState::Syncing);
    assert!(!backend.health.serves(0));
    // One that is being loaded may get the other database in a moment.
    let waited =
        (0..STILL_CHECKS).take_while(|_| checked(&[(0, 9)]) != BackendState::Up).count() as u32;
    assert!(waited > 2 && waited < STILL_CHECKS, "{waited}");
    assert!(backend.health.serves(0) && !backend.health.serves(7) && backend.health.serves(3));
    let why = backend.health.refusal(7).expect("it is incomplete there");
    assert_eq!(why, "database 7 is incomplete: it has 0 of 9 keys");
    assert!(backend.reason().contains("database 7 (it has 0 of 9 keys)"), "{}", backend.reason());
    assert_eq!(
        checked(&[(0, 2), (7, 9)]),
        BackendState::Up,
        "what it has lost in 0, it was told to forget"
    );
    assert!(backend.health.serves(0) && !backend.health.serves(7), "once is not enough");
    assert_eq!(checked(&[(0, 2), (7, 9)]), BackendState::Up);
    assert!(backend.health.serves(7));
}

#[test]
fn one_that_has_just_loaded_its_data_serves_all_databases_at_once() {
    let backend = backend();
    let full = [(0, 9), (1, 9)];
    backend.health.accept_first(&in_databases("one", &full), &[], Instant::now());
    let checked = |report: &Report| {
        let now = Instant::now();
        backend.health.check_answered(report, now, now, &[]);
        backend.health.state()
    };
    // While it loads, it has all of one database before it has any of the next, which nobody has read.
    let loading =
        Report { not_ready: Some("it is loading".to_owned()), ..in_databases("two", &[(0, 9)]) };
    assert_eq!(checked(&loading), BackendState::Syncing);
    while checked(&in_databases("two", &full)) != BackendState::Up {}
    assert!(backend.health.serves(0) && backend.health.serves(1));
}

#[test]
fn one_that_is_being_loaded_is_not_read_from_before_that_is_over() {
    let backend = backend();
    backend.health.accept_first(&in_databases("one", &[(0, 9), (7, 9)]), &[], Instant::now());
    assert!(backend.health.serves(7), "it is in use from now on");
    let report = in_databases("other", &[(0, 9), (7, 9)]);
    let full = Known { seen: Some(Seen { report, keys_since: Instant::now() }), ..other(0) };
    let checked = |keys| {
        let report = in_databases("two", &[(0, 9), (7, keys)]);
        let now = Instant::now();
        backend.health.check_answered(&report, now, now, std::slice::from_ref(&full));
        backend.health.state()
    };
    for keys in 0..5 {
        assert_eq!(checked(keys), BackendState::Syncing);
        assert_eq!(checked(keys), BackendState::Syncing);
    }
    let more = (0..STILL_CHECKS).take_while(|_| checked(4) != BackendState::Up).count() as u32;
    assert!(more > STILL_CHECKS / 2 && more < STILL_CHECKS, "it gets no more: {more}");
    assert!(backend.health.serves(0) && !backend.health.serves(7));
}

#[test]
fn what_is_no_server_to_be_read_from_is_down_for_that_reason() {
    let backend = backend();
    let sentinel = Report { unserved: Some(Unserved::Sentinel), ..report("one", 0) };
    backend.health.accept_first(&sentinel, &[], Instant::now());
    assert_eq!(backend.health.state(), BackendState::Down);
    assert_eq!(backend.checked(&sentinel), BackendState::Down);
    assert_eq!(backend.reason(), "it is a Sentinel, which has no data");
    assert_eq!(
        backend.health.admit("one", Instant::now()),
        Err("not served: it is a Sentinel, which has no data".to_owned())
    );
    assert_eq!(backend.health.state(), BackendState::Down, "also when somebody tries");
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Up);
    assert_eq!(backend.checked(&sentinel), BackendState::Down);
    assert!(!backend.is_readable("one"));
}

#[test]
fn where_clients_add_keys_all_the_time_a_full_server_is_complete() {
    let backend = good_backend();
    assert_eq!(backend.checked(&report("two", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("two", 1009)), BackendState::Up);
}

#[test]
fn a_server_that_is_loading_is_not_read_from() {
    let backend = good_backend();
    let loading = Report { not_ready: Some("it is loading".to_owned()), ..report("one", 0) };
    assert_eq!(backend.checked(&loading), BackendState::Syncing);
    assert_eq!(backend.reason(), "it is loading");
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Syncing);
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Up);
}

#[test]
fn where_nothing_is_known_the_first_that_answers_is_good() {
    let backend = backend();
    assert_eq!(backend.check_failed(), BackendState::Down);
    assert_eq!(backend.checked_beside(&report("one", 7), None), BackendState::Syncing);
    assert_eq!(backend.checked_beside(&report("one", 7), None), BackendState::Up);
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
    assert_eq!(changes[MAX_CHANGES - 1].state, ShownState::Up);
    assert_eq!(changes[MAX_CHANGES - 2].state, ShownState::Suspect);
}

#[test]
fn a_removed_backend_is_neither_read_from_nor_up_again() {
    let backend = good_backend();
    backend.health.remove(Instant::now());
    assert_eq!(backend.health.refusal(0), Some("removed".to_owned()));
    assert_eq!(backend.checked(&report("one", 1000)), BackendState::Down);
    assert_eq!(backend.failed(), BackendState::Down);
    assert!(backend.health.is_removed());
}

/// Two backends that are up, each the other's only peer, at a time that only the test moves.
struct Pair {
    backends: [Backend; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self { backends: [good_backend(), good_backend()], now: Instant::now() }
    }

    /// A read fails that was sent just now.
    fn read_fails(&mut self, backend: usize) {
        self.now += Duration::from_millis(100);
        self.backends[backend].health.failed(&"timed out", self.now);
    }

    /// Checks pass, ten a second, until the backend is up; returns how many seconds it took.
    fn returns_after(&mut self, backend: usize) -> u64 {
        let began = self.now;
        while self.backends[backend].health.state() != BackendState::Up {
            self.now += Duration::from_millis(100);
            let others = [self.backends[1 - backend].health.known()];
            let health = &self.backends[backend].health;
            health.check_answered(&report("one", 1000), self.now, self.now, &others);
        }
        (self.now - began).as_secs()
    }

    fn fails_and_returns(&mut self, backend: usize) -> u64 {
        self.read_fails(backend);
        self.returns_after(backend)
    }

    fn shown(&self, backend: usize) -> (ShownState, String) {
        let summary = self.backends[backend].health.summary(self.now);
        (summary.state, summary.reason)
    }
}

#[test]
fn a_backend_whose_reads_fail_while_its_checks_pass_comes_back_later_each_time() {
    let mut pair = Pair::new();
    assert_eq!([(); 9].map(|()| pair.fails_and_returns(0)), [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pair.backends[0].health.summary(pair.now).ejections, 8);
    pair.now += Duration::from_secs(60);
    assert_eq!(pair.fails_and_returns(0), 0, "that is forgotten");
}

#[test]
fn an_ejected_backend_says_so_once_and_why() {
    let mut pair = Pair::new();
    pair.fails_and_returns(0);
    pair.read_fails(0);
    assert_eq!(pair.shown(0), (ShownState::Suspect, "timed out".to_owned()));
    for _ in 0..5 {
        let others = [pair.backends[1].health.known()];
        let health = &pair.backends[0].health;
        health.check_answered(&report("one", 1000), pair.now, pair.now, &others);
    }
    let why =
        "for 1s, as its reads have failed 2 times while its checks passed; the last: timed out";
    assert_eq!(pair.shown(0), (ShownState::Ejected, why.to_owned()));
    let changes = pair.backends[0].health.changes();
    let ejected = |change: &&Change| change.state == ShownState::Ejected;
    assert_eq!(changes.iter().filter(ejected).count(), 1);
    pair.returns_after(0);
    assert_eq!(pair.shown(0).0, ShownState::Up);
}

#[test]
fn the_last_backend_that_serves_is_not_ejected_and_those_that_fail_alike_are_not_either() {
    let mut pair = Pair::new();
    (0..5).for_each(|_| _ = pair.fails_and_returns(0));
    pair.read_fails(0);
    pair.read_fails(1);
    assert_eq!(pair.returns_after(0), 0, "no other is up");
    assert_eq!(pair.returns_after(1), 0);
    let mut pair = Pair::new();
    for _ in 0..5 {
        assert_eq!((pair.fails_and_returns(0), pair.fails_and_returns(1)), (0, 0));
    }
}

#[test]
fn failures_that_checks_notice_and_reads_from_before_the_return_do_not_count() {
    let mut pair = Pair::new();
    for _ in 0..5 {
        pair.read_fails(0);
        pair.backends[0].health.check_failed(&"refused", false, pair.now);
        assert_eq!(pair.returns_after(0), 0);
    }
    let sent_at = pair.now;
    pair.read_fails(0);
    assert_eq!(pair.returns_after(0), 0);
    for _ in 0..5 {
        // All were sent before the first of them failed.
        pair.now += Duration::from_millis(10);
        pair.backends[0].health.read_failed(&"timed out", sent_at, pair.now);
        assert_eq!(pair.shown(0).0, ShownState::Up);
    }
}

#[test]
fn a_slow_backend_is_shown_as_such_with_the_figures_until_it_recovers_or_is_down() {
    let backend = good_backend();
    let shown = || backend.health.summary(Instant::now());
    backend.health.set_slow(true, "100 ms", Instant::now());
    backend.health.set_slow(true, "101 ms", Instant::now());
    assert_eq!((shown().state, backend.health.state()), (ShownState::Slow, BackendState::Up));
    assert!(shown().reason.starts_with("100 ms; a primary with 1000 keys"), "{}", shown().reason);
    backend.health.set_slow(false, "1 ms", Instant::now());
    assert_eq!(shown().state, ShownState::Up);
    let states: Vec<_> = backend.health.changes().iter().map(|change| change.state).collect();
    assert_eq!(states, [ShownState::Up, ShownState::Slow, ShownState::Up]);
    backend.health.set_slow(true, "100 ms", Instant::now());
    (0..3).for_each(|_| _ = backend.check_failed());
    assert!(!backend.health.is_slow());
    backend.health.set_slow(true, "100 ms", Instant::now());
    assert_eq!(shown().state, ShownState::Down);
}
