//! Model checks: every order in which threads may reach a lock is tried. None may lose or double a
//! lease of the connection table or a connection of a pool; nor lose, double or exchange what clients
//! send on a shared connection and get from there, whatever comes. The modules are compiled here with loom's Mutex in place of std's.

#[path = "../../src/balance/lease.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod lease;

#[path = "../../src/balance/rows.rs"]
mod rows;

#[path = "../../src/balance/shares.rs"]
#[expect(dead_code, reason = "its own tests")]
mod shares;

#[path = "../../src/balance/table.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod table;

#[path = "../../src/backend/id.rs"]
mod id;

#[path = "../../src/health/state.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod state;

mod backend {
    pub use crate::id::BackendId;
}

mod health {
    pub use crate::state::{Admin, BackendState};
}

#[path = "../../src/backend/reply_router.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod reply_router;

#[path = "../../src/backend/pipeline.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod pipeline;

#[path = "../../src/backend/pool.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod pool;

#[path = "../../src/cache/position.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod position;

#[path = "../../src/cache/versions.rs"]
mod versions;

mod cache;
mod pooled;
mod shared;

mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard, atomic};

    pub fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _time: std::time::Duration,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).expect("no thread panics")
    }

    pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no thread panics")
    }
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::BackendId;
use health::BackendState;
use lease::Lease;
use loom::thread;
use table::ConnectionTable;

fn main() {
    let models: [(&str, fn()); 21] = [
        (
            "an invalidation comes before what is answered after it",
            cache::an_invalidation_comes_before_what_is_answered_after_it,
        ),
        (
            "a flush comes before what is answered after it",
            cache::a_flush_comes_before_what_is_answered_after_it,
        ),
        (
            "a value that changes while it is read is not kept",
            cache::a_value_that_changes_while_it_is_read_is_not_kept,
        ),
        ("two hits never go back", cache::two_hits_never_go_back),
        (
            "entries that still count are of one moment",
            cache::entries_that_still_count_are_of_one_moment,
        ),
        ("leases that are taken and given back leave no count", taken_and_given_back),
        ("a lease that is moved while it is given back is counted once", moved_while_given_back),
        ("a session that settles while it is moved has one lease", settled_while_moved),
        ("a lease that is pinned while it is moved is where it was pinned", pinned_while_moved),
        ("a backend that fails while it is leased keeps its count", failed_while_leased),
        (
            "a backend that is removed while it is leased goes with its last lease",
            removed_while_leased,
        ),
        ("bytes go out in the order of their entries, and all of them", shared::sent_in_order),
        (
            "what is pushed while a connection closes is refused or told",
            shared::pushed_while_closed,
        ),
        (
            "a reply that comes while it is taken back is given once",
            shared::taken_back_while_answered,
        ),
        ("who waits for replies is woken by the last", shared::awaited),
        ("who waits for replies is woken when there will be none", shared::awaited_in_vain),
        ("a reply that answers no command is given to nobody", shared::more_than_asked),
        (
            "on a connection that ends each command is answered, told or refused",
            shared::fewer_than_asked,
        ),
        ("a connection that is given back goes to who waits", pooled::given_back_while_awaited),
        ("who waits in vain for a connection takes none along", pooled::given_back_while_given_up),
        ("no connection that was to be closed comes back", pooled::closed_while_given_back),
    ];
    for (name, model) in models {
        loom::model(model);
        println!("model {name} ... ok");
    }
}

const IDS: [BackendId; 2] = [BackendId::new(0), BackendId::new(1)];

fn other(id: BackendId) -> BackendId {
    if id == IDS[0] { IDS[1] } else { IDS[0] }
}

fn backend(lease: &Lease) -> BackendId {
    lease.backend().expect("a lease has a backend")
}

fn set_state(table: &ConnectionTable, id: BackendId, state: BackendState) {
    table.set_state(id, state, false, Instant::now());
}

fn table() -> Arc<ConnectionTable> {
    let now = Instant::now();
    let table = ConnectionTable::new(Duration::ZERO, now);
    for id in IDS {
        table.add(id);
        table.set_state(id, BackendState::Up, false, now);
    }
    table
}

fn lease(table: &Arc<ConnectionTable>) -> Lease {
    let lease = table.lease(Instant::now(), |_| true).expect("no backend is out");
    lease.set_may_move(true);
    lease
}

fn on_thread(
    table: &Arc<ConnectionTable>,
    work: impl FnOnce(&Arc<ConnectionTable>) + 'static,
) -> thread::JoinHandle<()> {
    let table = Arc::clone(table);
    thread::spawn(move || work(&table))
}

/// The counts are those of the leases that live.
fn check(table: &ConnectionTable, alive: &[&Lease]) {
    for id in IDS {
        let count = alive.iter().filter(|lease| backend(lease) == id).count();
        assert_eq!(table.leases(id), count);
    }
}

fn taken_and_given_back() {
    let table = table();
    let kept = lease(&table);
    let threads = [(); 2].map(|()| {
        on_thread(&table, |table| {
            let lease = lease(table);
            assert!(table.leases(backend(&lease)) > 0);
        })
    });
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&table, &[&kept]);
}

fn moved_while_given_back() {
    let table = table();
    let kept = lease(&table);
    let leased = lease(&table);
    set_state(&table, backend(&leased), BackendState::Down);
    let giver = on_thread(&table, move |_| drop(leased));
    let mover = on_thread(&table, |table| _ = table.rebalance(Instant::now()));
    [giver, mover].into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&table, &[&kept]);
    let next = lease(&table);
    check(&table, &[&kept, &next]);
}

fn settled_while_moved() {
    let table = table();
    let leased = Arc::new(lease(&table));
    let failing = backend(&leased);
    set_state(&table, failing, BackendState::Down);
    let settler = on_thread(&table, {
        let leased = Arc::clone(&leased);
        move |_| assert_eq!(leased.reselect(Instant::now(), |_| true), Some(other(failing)))
    });
    let mover = on_thread(&table, |table| _ = table.rebalance(Instant::now()));
    [settler, mover].into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(backend(&leased), other(failing));
    check(&table, &[&*leased]);
}

fn pinned_while_moved() {
    let table = table();
    let leased = Arc::new(lease(&table));
    let own = backend(&leased);
    set_state(&table, own, BackendState::Down);
    let mover = on_thread(&table, |table| _ = table.rebalance(Instant::now()));
    leased.pin(own);
    mover.join().expect("no panic");
    table.rebalance(Instant::now());
    assert_eq!(backend(&leased), own);
    check(&table, &[&*leased]);
}

fn failed_while_leased() {
    let table = table();
    let leaser = on_thread(&table, |table| {
        let first = lease(table);
        let second = lease(table);
        drop(first);
        assert!(table.leases(backend(&second)) > 0);
    });
    let checker = on_thread(&table, |table| {
        set_state(table, IDS[0], BackendState::Syncing);
        table.rebalance(Instant::now());
        set_state(table, IDS[0], BackendState::Up);
    });
    [leaser, checker].into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&table, &[]);
}

fn removed_while_leased() {
    let table = table();
    let kept = lease(&table);
    let removed = backend(&kept);
    let remover = on_thread(&table, move |table| table.remove(removed, Instant::now()));
    let mover = on_thread(&table, |table| _ = table.rebalance(Instant::now()));
    [remover, mover].into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(table.leases(removed) + table.leases(other(removed)), 1);
    drop(kept);
    assert!(!table.knows(removed), "it goes with its last lease");
    assert_eq!(table.leases(other(removed)), 0);
}
