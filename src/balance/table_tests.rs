use super::*;
use std::cell::Cell;
use std::ops::Deref;

const SLOW_START: Duration = Duration::from_millis(200);

fn any(_: usize) -> bool {
    true
}

fn id(number: usize) -> BackendId {
    BackendId::new(number as u32)
}

/// A table whose backends are numbered, at a time that only the test moves.
struct Table {
    table: Arc<ConnectionTable>,
    backends: usize,
    now: Cell<Instant>,
}

/// Table with all backends up.
fn table(backends: usize) -> Table {
    let now = Instant::now();
    let table = ConnectionTable::new(SLOW_START, now);
    for backend in (0..backends).map(id) {
        table.add(backend);
        table.set_state(backend, BackendState::Up, false, now);
    }
    Table { table, backends, now: Cell::new(now) }
}

impl Table {
    fn number(&self, id: BackendId) -> usize {
        (0..self.backends).find(|number| self::id(*number) == id).expect("a backend of this table")
    }

    fn lease(&self, eligible: impl Fn(usize) -> bool) -> Option<TestLease<'_>> {
        let lease = self.table.lease(self.now.get(), |id| eligible(self.number(id)))?;
        Some(TestLease { lease, table: self })
    }

    fn set_state(&self, backend: usize, state: BackendState, slowly: bool) {
        self.table.set_state(id(backend), state, slowly, self.now.get());
    }

    fn counts(&self) -> Vec<usize> {
        (0..self.backends).map(|number| self.table.leases(id(number))).collect()
    }

    fn rebalance(&self) -> usize {
        self.table.rebalance(self.now.get())
    }

    fn candidates(&self) -> Vec<usize> {
        self.table.candidates(|_| true).into_iter().map(|id| self.number(id)).collect()
    }

    fn is_outranked(&self, backend: usize, eligible: impl Fn(usize) -> bool) -> bool {
        self.table.is_outranked(id(backend), |id| eligible(self.number(id)))
    }

    fn has_outage(&self) -> bool {
        self.table.outage(self.now.get()).is_some()
    }
}

struct TestLease<'a> {
    lease: Lease,
    table: &'a Table,
}

impl TestLease<'_> {
    fn backend(&self) -> usize {
        self.table.number(self.lease.backend().expect("a lease has a backend"))
    }

    fn backend_if_up(&self) -> Option<usize> {
        self.lease.backend_if_up().map(|id| self.table.number(id))
    }

    fn reselect(&self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let eligible = |id| eligible(self.table.number(id));
        self.lease.reselect(self.table.now.get(), eligible).map(|id| self.table.number(id))
    }
}

impl Deref for TestLease<'_> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

fn sessions(table: &Table, count: usize) -> Vec<TestLease<'_>> {
    let leases: Vec<_> = (0..count).filter_map(|_| table.lease(any)).collect();
    leases.iter().for_each(|lease| lease.set_may_move(true));
    leases
}

#[test]
fn a_pinned_lease_stays_where_its_connection_is() {
    let table = table(2);
    let lease = table.lease(any).expect("all are up");
    lease.set_may_move(true);
    let own = lease.backend();
    // Moved between the choice of the backend and the moment when there is a connection.
    table.set_state(own, BackendState::Down, false);
    assert_eq!((table.rebalance(), lease.backend()), (1, 1 - own));
    lease.pin(id(own));
    assert_eq!(table.rebalance(), 0);
    assert_eq!((lease.backend(), table.counts()[own]), (own, 1));
    lease.set_may_move(true);
    assert_eq!(table.rebalance(), 1);
}

#[test]
fn equals_take_turns_even_when_each_lease_is_over_before_the_next() {
    let table = table(3);
    let chosen: Vec<usize> =
        (0..7).map(|_| table.lease(any).expect("a backend").backend()).collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(table.counts(), [0, 0, 0]);
}

#[test]
fn the_backend_with_the_fewest_leases_is_next() {
    let table = table(3);
    let mut leases: Vec<TestLease> = (0..7).filter_map(|_| table.lease(any)).collect();
    assert_eq!(table.counts(), [3, 2, 2]);
    leases.retain(|lease| lease.backend() != 1);
    assert_eq!(table.counts(), [3, 0, 2]);
    assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1));
}

#[test]
fn under_load_equals_catch_up_on_the_turns_that_they_missed() {
    let table = table(2);
    let _load = (table.lease(any), table.lease(any));
    (0..50).for_each(|_| drop(table.lease(|backend| backend == 0)));
    let late = (0..50).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1).count();
    assert_eq!(late, 50);
}

#[test]
fn a_second_choice_is_leased_and_kept_only_while_there_is_no_first() {
    let table = table(2);
    let leases = sessions(&table, 4);
    assert_eq!(table.counts(), [2, 2]);
    table.table.set_second_choice(id(0), true, table.now.get());
    assert!(table.is_outranked(0, any) && !table.is_outranked(1, any));
    assert!(!table.is_outranked(0, |backend| backend == 0));
    assert_eq!(leases.iter().filter_map(TestLease::backend_if_up).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(leases[0].reselect(any), Some(1));
    assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1));
    assert_eq!(table.rebalance(), 1);
    assert_eq!(table.counts(), [0, 4]);
    table.set_state(1, BackendState::Suspect, false);
    assert!(!table.is_outranked(0, any), "it serves as any other");
    assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(0));
    assert_eq!(leases[0].reselect(any), Some(0));
    table.set_state(1, BackendState::Up, false);
    assert_eq!(leases[0].reselect(any), Some(1));
}

#[test]
fn a_backend_that_was_away_catches_up_on_few_turns_only() {
    let table = table(2);
    let _load = (table.lease(any), table.lease(any));
    (0..100_000).for_each(|_| drop(table.lease(|backend| backend == 0)));
    let late = (0..10_000).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1);
    let late = late.count();
    assert!((5_000..=5_500).contains(&late), "{late} of 10000");
}

#[test]
fn idle_equals_go_round_strictly_whatever_was_before() {
    let table = table(3);
    (0..50).for_each(|_| drop(table.lease(|backend| backend == 0)));
    let chosen: Vec<usize> =
        (0..6).filter_map(|_| table.lease(any)).map(|lease| lease.backend()).collect();
    assert_eq!(chosen, [1, 2, 0, 1, 2, 0]);
}

#[test]
fn only_eligible_backends_are_leased() {
    let table = table(2);
    assert_eq!(table.lease(|backend| backend == 1).map(|lease| lease.backend()), Some(1));
    assert!(table.lease(|_| false).is_none());
}

#[test]
fn a_panic_gives_the_lease_back_and_leaves_the_table_usable() {
    let table = table(1);
    let lease = table.table.lease(Instant::now(), |_| true).expect("a backend");
    let thread = std::thread::spawn(move || {
        let _lease = lease;
        panic!("a client's thread fails (this message is part of the test)");
    });
    assert!(thread.join().is_err());
    assert_eq!(table.counts(), [0]);
    assert!(table.lease(any).is_some());
}

#[test]
fn many_threads_leave_no_count_behind() {
    let table = table(3);
    let shared = Arc::clone(&table.table);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let lease = || drop(shared.lease(Instant::now(), |_| true));
            scope.spawn(move || (0..1000).for_each(|_| lease()));
        }
    });
    assert_eq!(table.counts(), [0, 0, 0]);
}

#[test]
fn a_backend_that_failed_is_leased_when_there_is_none_better_and_one_without_data_never() {
    let table = table(3);
    let next = |table: &Table| table.lease(any).map(|lease| lease.backend());
    table.set_state(0, BackendState::Down, false);
    table.set_state(1, BackendState::Suspect, false);
    assert_eq!((next(&table), next(&table)), (Some(2), Some(2)));
    table.set_state(2, BackendState::Syncing, false);
    assert_eq!((next(&table), next(&table)), (Some(1), Some(1)));
    assert!(table.has_outage());
    table.set_state(1, BackendState::Syncing, false);
    assert_eq!(next(&table), Some(0));
    table.set_state(0, BackendState::Syncing, false);
    assert_eq!(next(&table), None);
    table.set_state(2, BackendState::Up, false);
    assert_eq!(next(&table), Some(2));
    assert!(!table.has_outage());
}

#[test]
fn a_backend_that_returns_gets_its_share_little_by_little() {
    let table = table(3);
    let load = sessions(&table, 300);
    table.set_state(1, BackendState::Down, false);
    drop(load);
    let began = table.now.get();
    table.set_state(1, BackendState::Up, true);
    let (mut chosen, count) = (0, 3000);
    for step in 0..count {
        table.now.set(began + SLOW_START / 4 * step / count);
        chosen += u32::from(table.lease(any).is_some_and(|lease| lease.backend() == 1));
    }
    assert!(chosen > 0 && chosen < count / 6, "{chosen} of {count} in the first quarter");
    table.now.set(began + SLOW_START);
    let chosen = (0..300).filter_map(|_| table.lease(any)).filter(|l| l.backend() == 1).count();
    assert_eq!(chosen, 100, "after the slow start");
}

#[test]
fn sessions_move_to_a_backend_with_two_fewer_until_all_are_level() {
    let table = table(3);
    table.set_state(2, BackendState::Down, false);
    let leases = sessions(&table, 100);
    assert_eq!(table.counts(), [50, 50, 0]);
    assert_eq!(table.rebalance(), 0, "nothing to gain");
    table.set_state(2, BackendState::Up, false);
    assert_eq!(table.rebalance(), 2, "a few at a time");
    while table.rebalance() > 0 {}
    let counts = table.counts();
    assert_eq!(counts.iter().sum::<usize>(), 100);
    assert!(counts.iter().all(|count| (33..=35).contains(count)), "{counts:?}");
    drop(leases);
    assert_eq!(table.counts(), [0, 0, 0]);
}

#[test]
fn sessions_leave_a_backend_that_is_down_at_once_but_for_those_that_may_not_move() {
    let table = table(2);
    let leases = sessions(&table, 20);
    leases[0].set_may_move(false);
    let backend = leases[0].backend();
    table.set_state(backend, BackendState::Suspect, false);
    assert_eq!(table.rebalance(), 0, "it may be good again in a moment");
    table.set_state(backend, BackendState::Down, false);
    assert_eq!(table.rebalance(), 9);
    assert_eq!(table.counts()[backend], 1);
    assert_eq!(leases[0].backend(), backend);
}

#[test]
fn while_a_slow_read_runs_others_go_elsewhere_and_sessions_move_at_once() {
    let table = table(3);
    let leases = sessions(&table, 30);
    table.table.set_busy(id(1), true, table.now.get());
    assert!(leases.iter().any(|lease| lease.backend() == 1 && lease.backend_if_up().is_none()));
    assert_eq!(table.rebalance(), 10);
    assert_eq!(table.counts(), [15, 0, 15]);
    assert_eq!(table.candidates(), [0, 2, 1], "it counts as up, and comes last");
    table.set_state(1, BackendState::Suspect, false);
    assert_eq!(table.candidates(), [0, 2, 1], "it fails checks because of the read");
    (0..6).for_each(|_| assert_ne!(table.lease(any).map(|lease| lease.backend()), Some(1)));
    table.set_state(0, BackendState::Down, false);
    table.set_state(2, BackendState::Down, false);
    assert_eq!(table.lease(any).map(|lease| lease.backend()), Some(1), "it still serves");
    assert!(table.table.rows().best_standing(|_| true) > Standing::SecondChoice);
    table.table.set_busy(id(1), false, table.now.get());
    table.set_state(1, BackendState::Up, false);
    assert!(table.table.rows().best_standing(|_| true) <= Standing::SecondChoice);
}

#[test]
fn a_session_settles_where_it_is_unless_another_is_better() {
    let table = table(2);
    let lease = table.lease(any).expect("a backend");
    let own = lease.backend();
    let other = 1 - own;
    let _others: Vec<_> = (0..5).map(|_| table.lease(|backend| backend == own)).collect();
    assert_eq!(lease.reselect(any), Some(own));
    assert_eq!(lease.reselect(|backend| backend == other), Some(other));
    table.set_state(other, BackendState::Suspect, false);
    assert_eq!(lease.reselect(any), Some(own));
    table.set_state(own, BackendState::Down, false);
    assert_eq!(lease.reselect(any), Some(other), "suspect is better than down");
    assert_eq!(lease.reselect(|_| false), None);
    drop(lease);
    assert_eq!(table.counts()[other], 0);
}

#[test]
fn a_removed_backend_is_left_by_all_that_may_move_and_forgotten_with_its_last_lease() {
    let table = table(3);
    let leases = sessions(&table, 30);
    let pinned = leases.iter().find(|lease| lease.backend() == 1).expect("one of ten");
    pinned.set_may_move(false);
    table.table.remove(id(1), table.now.get());
    assert_eq!(table.table.backend_count(), 2);
    assert!(leases.iter().all(|lease| lease.backend_if_up() != Some(1)));
    assert_eq!(table.rebalance(), 9, "all at once but for the one that may not move");
    (0..6).for_each(|_| assert_ne!(table.lease(any).map(|lease| lease.backend()), Some(1)));
    assert_eq!((table.counts()[1], table.counts().iter().sum::<usize>()), (1, 30));
    assert_eq!(table.table.state(id(1)), BackendState::Down);
    assert!(table.table.knows(id(1)));
    assert_ne!(pinned.reselect(any), Some(1));
    assert!(!table.table.knows(id(1)));
    table.table.add(id(3));
    table.table.set_state(id(3), BackendState::Up, false, table.now.get());
    assert_eq!(table.table.lease(table.now.get(), |_| true).and_then(|l| l.backend()), Some(id(3)));
}

#[test]
fn sessions_leave_a_slow_backend_but_for_its_small_share_and_stay_there() {
    let table = table(3);
    let leases = sessions(&table, 63);
    table.table.set_slow(id(1), true, table.now.get());
    let mut rounds = 0;
    while table.rebalance() > 0 {
        rounds += 1;
    }
    assert_eq!(table.counts(), [30, 3, 30]);
    assert!(rounds > 10, "a few at a time: {rounds}");
    table.table.set_slow(id(1), false, table.now.get());
    table.now.set(table.now.get() + SLOW_START);
    while table.rebalance() > 0 {}
    assert_eq!(table.counts(), [21, 21, 21]);
    drop(leases);
    let few = sessions(&table, 6);
    table.table.set_slow(id(1), true, table.now.get());
    while table.rebalance() > 0 {}
    assert_eq!(table.counts(), [3, 0, 3], "its share is less than one");
    drop(few);
}

#[test]
fn a_slow_backend_is_chosen_seldom_while_another_is_not_slow() {
    let table = table(3);
    let chosen = |table: &Table| {
        let mut chosen = [0; 3];
        (0..210).for_each(|_| chosen[table.lease(any).expect("a backend").backend()] += 1);
        chosen
    };
    table.table.set_slow(id(1), true, table.now.get());
    let [_, few, _] = chosen(&table);
    assert!((9..=11).contains(&few), "{few}");
    for other in [0, 2] {
        table.table.set_slow(id(other), true, table.now.get());
    }
    assert!(chosen(&table).iter().all(|count| (65..=75).contains(count)), "all are slow");
    let leases = sessions(&table, 30);
    assert!(table.counts().iter().all(|count| (9..=11).contains(count)), "{:?}", table.counts());
    for other in [0, 2] {
        table.set_state(other, BackendState::Down, false);
    }
    table.rebalance();
    assert_eq!(table.counts(), [0, 30, 0], "it is the last");
    drop(leases);
}

#[path = "weights_tests.rs"]
mod weights;
