//! Weights, backups, zones, and what an operator wants.

use super::*;

/// How far a share may be from its weight.
const MARGIN: f64 = 0.02;

fn terms(weight: u16) -> LeaseTerms {
    LeaseTerms { weight, ..LeaseTerms::default() }
}

fn backup(weight: u16) -> LeaseTerms {
    LeaseTerms { is_backup: true, ..terms(weight) }
}

fn across(weight: u16) -> LeaseTerms {
    LeaseTerms { is_across: true, ..terms(weight) }
}

impl Table {
    fn set_terms(&self, all: &[LeaseTerms]) {
        for (number, terms) in all.iter().enumerate() {
            self.table.set_terms(id(number), *terms, self.now.get());
        }
    }

    fn set_weights(&self, weights: &[u16]) {
        self.set_terms(&weights.iter().copied().map(terms).collect::<Vec<_>>());
    }

    fn set_admin(&self, backend: usize, admin: Admin) {
        self.table.set_admin(id(backend), admin, self.now.get());
    }

    /// Rebalances until all sessions are where they should be; returns in how many rounds.
    fn settle(&self) -> usize {
        (0..).find(|_| self.rebalance() == 0).expect("an end")
    }

    /// How often each backend is chosen for reads that come one after the other.
    fn choices(&self, count: usize) -> Vec<usize> {
        let mut chosen = vec![0; self.backends];
        (0..count).filter_map(|_| self.lease(any)).for_each(|lease| chosen[lease.backend()] += 1);
        chosen
    }

    fn next(&self) -> Option<usize> {
        self.lease(any).map(|lease| lease.backend())
    }
}

fn weighted(weights: &[u16]) -> Table {
    let table = table(weights.len());
    table.set_weights(weights);
    table.now.set(table.now.get() + SLOW_START);
    table
}

/// Panics if a count is not the share of its weight.
fn assert_follow(counts: &[usize], weights: &[u16], what: &str) {
    let (all, sum) =
        (counts.iter().sum::<usize>(), weights.iter().map(|w| f64::from(*w)).sum::<f64>());
    for (count, weight) in counts.iter().zip(weights) {
        let (found, due) = (*count as f64 / all as f64, f64::from(*weight) / sum);
        assert!((found - due).abs() <= MARGIN, "{what}: {counts:?} for {weights:?}");
    }
}

const WEIGHTS: [&[u16]; 7] =
    [&[1, 2, 7], &[7, 2, 1], &[1, 9], &[256, 1], &[100, 101, 102], &[1, 1, 1], &[3, 0, 5, 2]];

#[test]
fn sessions_follow_the_weights() {
    for weights in WEIGHTS {
        let table = weighted(weights);
        let kept = sessions(&table, 1000);
        assert_follow(&table.counts(), weights, "sessions");
        assert!(table.rebalance() == 0, "{weights:?}: nothing to gain");
        drop(kept);
    }
}

#[test]
fn sessions_that_are_connected_follow_a_change_of_weights() {
    let table = weighted(&[1, 1, 1]);
    let kept = sessions(&table, 1000);
    for weights in [[1, 2, 7], [7, 2, 1], [1, 1, 1], [0, 1, 3], [1, 1, 256]] {
        table.set_weights(&weights);
        table.now.set(table.now.get() + SLOW_START);
        assert!(table.settle() < 100);
        assert_follow(&table.counts(), &weights, "sessions after a change");
    }
    drop(kept);
    assert_eq!(table.counts(), [0, 0, 0]);
}

#[test]
fn idle_backends_take_turns_in_proportion_to_their_weights() {
    for weights in WEIGHTS {
        let table = weighted(weights);
        assert_follow(&table.choices(10_000), weights, "one read after the other");
    }
    let table = weighted(&[1, 2, 7]);
    for _ in 0..10 {
        assert_eq!(table.choices(10), [1, 2, 7], "in each round");
    }
}

/// So many reads, of which as many are always under way; each takes a random time.
fn load(table: &Table, concurrency: usize, reads: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let (mut chosen, mut running) = (vec![0; table.backends], Vec::new());
    for _ in 0..reads {
        if running.len() == concurrency {
            running.swap_remove(random.usize(..concurrency));
        }
        let lease = table.lease(any).expect("a backend");
        chosen[lease.backend()] += 1;
        running.push(lease);
    }
    chosen
}

#[test]
fn reads_under_load_follow_the_weights_however_many_there_are() {
    let mut random = fastrand::Rng::with_seed(7);
    for weights in WEIGHTS {
        for concurrency in [1, 2, 3, 5, 8, 50, 300] {
            let table = weighted(weights);
            let chosen = load(&table, concurrency, 20_000, &mut random);
            assert_follow(&chosen, weights, &format!("{concurrency} at once"));
        }
    }
}

#[test]
fn reads_follow_a_change_of_weights_and_a_session_beside_them_changes_nothing() {
    let mut random = fastrand::Rng::with_seed(8);
    let table = weighted(&[1, 1, 1]);
    // As many as all of these weights divide.
    let kept = sessions(&table, 330);
    for weights in [[1, 1, 1], [1, 2, 7], [5, 5, 1]] {
        table.set_weights(&weights);
        table.settle();
        let chosen = load(&table, 8, 20_000, &mut random);
        assert_follow(&chosen, &weights, "reads after a change");
    }
    drop(kept);
}

#[test]
fn a_backend_that_holds_its_reads_longer_gets_fewer_whatever_its_weight() {
    let table = weighted(&[1, 3]);
    let held: Vec<_> = (0..60).filter_map(|_| table.lease(|backend| backend == 1)).collect();
    assert_eq!(table.choices(100), [100, 0], "60 leases are more than 3 times 1");
    drop(held);
}

#[test]
fn a_slow_backend_gets_a_tenth_of_its_weight_and_a_slow_start_grows_to_all_of_it() {
    let table = weighted(&[1, 2, 7]);
    table.table.set_slow(id(2), true, table.now.get());
    let kept = sessions(&table, 1000);
    table.settle();
    let counts = table.counts();
    assert!((180..=195).contains(&counts[2]), "7 of 37: {counts:?}");
    drop(kept);
    let chosen = table.choices(3700);
    assert!((650..=750).contains(&chosen[2]), "{chosen:?}");
    table.table.set_slow(id(2), false, table.now.get());
    let began = table.now.get();
    table.now.set(began + SLOW_START / 2);
    let chosen = table.choices(6500);
    assert!((3300..=3700).contains(&chosen[2]), "3.5 of 6.5: {chosen:?}");
    table.now.set(began + SLOW_START);
    assert_follow(&table.choices(1000), &[1, 2, 7], "after the slow start");
}

#[test]
fn a_backend_of_weight_0_is_left_at_once_and_serves_only_when_nothing_else_does() {
    let table = weighted(&[1, 1, 0]);
    assert_eq!(table.choices(30), [15, 15, 0]);
    let kept = sessions(&table, 20);
    table.set_weights(&[0, 1, 0]);
    assert_eq!((table.rebalance(), table.counts()), (10, vec![0, 20, 0]));
    for state in [BackendState::Suspect, BackendState::Up] {
        table.set_state(1, state, false);
        assert_eq!(table.next(), Some(1), "{state}");
    }
    table.table.set_busy(id(1), true, table.now.get());
    assert_eq!(table.next(), Some(1), "it serves");
    assert_eq!(table.rebalance(), 0);
    table.table.set_busy(id(1), false, table.now.get());
    table.set_state(1, BackendState::Down, false);
    assert_eq!(table.rebalance(), 20);
    assert_eq!(table.counts(), [10, 0, 10], "those of weight 0 are equal");
    assert!(!table.has_outage());
    table.set_state(1, BackendState::Up, false);
    while table.rebalance() > 0 {}
    assert_eq!(table.counts(), [0, 20, 0]);
    drop(kept);
}

#[test]
fn backups_are_used_together_while_no_other_is_up_and_left_when_one_is() {
    use BackendState::{Down, Suspect, Up};
    let table = table(4);
    table.set_terms(&[terms(1), terms(1), backup(1), backup(3)]);
    assert_eq!(table.choices(10), [5, 5, 0, 0]);
    let kept = sessions(&table, 40);
    // The states of the two that are none, whether the second is stale, and who is used.
    for (first, second, is_stale, used) in [
        (Down, Up, false, &[1][..]),
        // Old data of a server that is meant to serve come before a backup.
        (Down, Up, true, &[1]),
        (Suspect, Suspect, false, &[2, 3]),
        (Down, Suspect, false, &[2, 3]),
        (Down, Down, false, &[2, 3]),
        (Up, Down, false, &[0]),
    ] {
        table.set_state(0, first, false);
        table.set_state(1, second, false);
        table.table.set_second_choice(id(1), is_stale, table.now.get());
        let chosen = table.choices(40);
        let is_used = |number: usize| chosen[number] > 0;
        assert!((0..4).all(|number| is_used(number) == used.contains(&number)), "{chosen:?}");
    }
    table.set_state(0, Down, false);
    table.settle();
    assert_eq!(table.counts(), [0, 0, 10, 30], "by their weights");
    assert!(!table.is_outranked(2, any));
    table.table.set_second_choice(id(2), true, table.now.get());
    assert_eq!(table.next(), Some(3), "a fresh backup comes before a stale one");
    table.set_state(0, Up, false);
    assert!(table.is_outranked(3, any));
    table.settle();
    assert_eq!(table.counts(), [40, 0, 0, 0]);
    drop(kept);
}

#[test]
fn the_own_zone_keeps_all_until_too_much_of_it_is_gone() {
    let mut random = fastrand::Rng::with_seed(9);
    let table = table(5);
    table.set_terms(&[terms(1), terms(1), terms(1), across(1), across(3)]);
    let kept = sessions(&table, 600);
    // The backends that are down, and the shares in thousandths.
    for (down, shares) in [
        (&[][..], [333, 333, 333, 0, 0]),
        (&[0], [0, 467, 467, 17, 50]),
        (&[0, 1], [0, 0, 467, 133, 400]),
        (&[0, 1, 2], [0, 0, 0, 250, 750]),
        (&[0, 1, 2, 4], [0, 0, 0, 1000, 0]),
        (&[3, 4], [333, 333, 333, 0, 0]),
        (&[0, 3, 4], [0, 500, 500, 0, 0]),
    ] {
        for number in 0..5 {
            let is_down = down.contains(&number);
            let state = if is_down { BackendState::Down } else { BackendState::Up };
            table.set_state(number, state, false);
        }
        table.settle();
        assert_follow(&table.counts(), &shares, "sessions");
        assert_follow(&load(&table, 12, 20_000, &mut random), &shares, "reads");
    }
    let only_across = |backend| backend == 3;
    assert_eq!(table.lease(only_across).map(|lease| lease.backend()), Some(3), "as a last way");
    drop(kept);
}

#[test]
fn a_drained_backend_of_the_zone_counts_as_gone_and_a_busy_or_a_stale_one_does_not_send_more_across()
 {
    let table = table(3);
    table.set_terms(&[terms(1), terms(1), across(1)]);
    assert_eq!(table.choices(100), [50, 50, 0]);
    table.table.set_busy(id(0), true, table.now.get());
    assert_eq!(table.choices(100), [0, 100, 0]);
    table.table.set_busy(id(0), false, table.now.get());
    table.set_admin(0, Admin::Drain);
    assert_follow(&table.choices(100), &[0, 70, 30], "drained");
    table.set_admin(0, Admin::Maint);
    assert_follow(&table.choices(100), &[0, 70, 30], "in maintenance");
    table.set_admin(0, Admin::Ready);
    table.now.set(table.now.get() + SLOW_START);
    table.table.set_second_choice(id(0), true, table.now.get());
    table.table.set_second_choice(id(1), true, table.now.get());
    assert_eq!(table.choices(100), [0, 0, 100], "fresh data come before the zone");
}

#[test]
fn a_drained_backend_is_the_last_resort_and_one_in_maintenance_is_none() {
    use BackendState::{Down, Suspect, Syncing, Up};
    for (admin, state, other, expected) in [
        (Admin::Drain, Up, Up, Some(1)),
        (Admin::Drain, Up, Suspect, Some(1)),
        (Admin::Drain, Up, Down, Some(0)),
        (Admin::Drain, Up, Syncing, Some(0)),
        (Admin::Drain, Suspect, Syncing, Some(0)),
        (Admin::Drain, Syncing, Syncing, None),
        (Admin::Maint, Up, Up, Some(1)),
        (Admin::Maint, Up, Down, Some(1)),
        (Admin::Maint, Up, Syncing, None),
        (Admin::Maint, Down, Syncing, None),
    ] {
        let table = table(2);
        table.set_admin(0, admin);
        table.set_state(0, state, false);
        table.set_state(1, other, false);
        assert_eq!(table.next(), expected, "{admin:?} {state} {other}");
    }
}

#[test]
fn sessions_leave_a_drained_backend_at_once_and_come_back_little_by_little() {
    let table = table(2);
    let kept = sessions(&table, 200);
    kept[0].set_may_move(false);
    let own = kept[0].backend();
    table.set_admin(own, Admin::Drain);
    assert!(!table.table.is_in_service(id(own)));
    assert!(table.table.serving().iter().all(|serving| *serving != id(own)));
    assert_eq!(kept[0].backend_if_up(), None);
    assert_eq!(
        kept[0].reselect(|backend| backend == own),
        Some(own),
        "if nothing else may be used"
    );
    assert!(table.is_outranked(own, any), "a subscriber leaves it");
    assert_eq!(table.rebalance(), 99);
    assert_eq!(table.counts()[own], 1, "a session that may not move stays");
    assert_eq!(table.choices(10)[own], 0);
    table.set_admin(own, Admin::Ready);
    let moved = table.rebalance();
    assert!(moved <= 4, "a few at a time: {moved}");
    let began = table.now.get();
    table.now.set(began + SLOW_START / 10);
    table.settle();
    assert!((10..=30).contains(&table.counts()[own]), "a slow start: {:?}", table.counts());
    table.now.set(began + SLOW_START);
    table.settle();
    assert_eq!(table.counts(), [100, 100]);
    drop(kept);
}
