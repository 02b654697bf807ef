//! Model checks: every order in which threads may reach a lock is tried. None may lose or double a
//! lease of the connection table or a connection of a pool; nor lose, double or exchange what clients
//! send on a shared connection and get from there, whatever comes. The modules are compiled here with loom's Mutex in place of std's.

#[path = "../../src/balance/table.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod table;

#[path = "../../src/backend/reply_router.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod reply_router;

#[path = "../../src/backend/pipeline.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod pipeline;

#[path = "../../src/backend/pool.rs"]
#[expect(dead_code, reason = "what the models do not use")]
mod pool;

mod pooled;
mod shared;

mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard};

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
use std::time::Duration;

use loom::thread;
use table::{BackendState, ConnectionTable, Lease};

fn main() {
    let models: [(&str, fn()); 15] = [
        ("leases that are taken and given back leave no count", taken_and_given_back),
        ("a lease that is moved while it is given back is counted once", moved_while_given_back),
        ("a session that settles while it is moved has one lease", settled_while_moved),
        ("a lease that is pinned while it is moved is where it was pinned", pinned_while_moved),
        ("a backend that fails while it is leased keeps its count", failed_while_leased),
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

fn table() -> Arc<ConnectionTable> {
    let table = ConnectionTable::new(2, Duration::ZERO);
    (0..2).for_each(|backend| table.set_state(backend, BackendState::Up, false));
    table
}

fn lease(table: &Arc<ConnectionTable>) -> Lease {
    let lease = table.lease(|_| true).expect("no backend is out");
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
    let mut counts = vec![0; 2];
    alive.iter().for_each(|lease| counts[lease.backend()] += 1);
    assert_eq!(table.counts(), counts);
}

fn taken_and_given_back() {
    let table = table();
    let kept = lease(&table);
    let threads = [(); 2].map(|()| {
        on_thread(&table, |table| {
            let lease = lease(table);
            assert!(table.counts()[lease.backend()] > 0);
        })
    });
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&table, &[&kept]);
}

fn moved_while_given_back() {
    let table = table();
    let kept = lease(&table);
    let leased = lease(&table);
    table.set_state(leased.backend(), BackendState::Down, false);
    let giver = on_thread(&table, move |_| drop(leased));
    let mover = on_thread(&table, |table| _ = table.rebalance());
    [giver, mover].into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&table, &[&kept]);
    let next = lease(&table);
    check(&table, &[&kept, &next]);
}

fn settled_while_moved() {
    let table = table();
    let leased = Arc::new(lease(&table));
    let failing = leased.backend();
    table.set_state(failing, BackendState::Down, false);
    let settler = on_thread(&table, {
        let leased = Arc::clone(&leased);
        move |_| assert_eq!(leased.reselect(|_| true), Some(1 - failing))
    });
    let mover = on_thread(&table, |table| _ = table.rebalance());
    [settler, mover].into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(leased.backend(), 1 - failing);
    check(&table, &[&*leased]);
}

fn pinned_while_moved() {
    let table = table();
    let leased = Arc::new(lease(&table));
    let own = leased.backend();
    table.set_state(own, BackendState::Down, false);
    let mover = on_thread(&table, |table| _ = table.rebalance());
    leased.pin(own);
    mover.join().expect("no panic");
    table.rebalance();
    assert_eq!(leased.backend(), own);
    check(&table, &[&*leased]);
}

fn failed_while_leased() {
    let table = table();
    let leaser = on_thread(&table, |table| {
        let first = lease(table);
        let second = lease(table);
        drop(first);
        assert!(table.counts()[second.backend()] > 0);
    });
    let checker = on_thread(&table, |table| {
        table.set_state(0, BackendState::Syncing, false);
        table.rebalance();
        table.set_state(0, BackendState::Up, false);
    });
    [leaser, checker].into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&table, &[]);
}
