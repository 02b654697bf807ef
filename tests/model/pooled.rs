//! Models of the connections to one backend.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::pool::{Permit, Pool};

/// Nobody waits for so long: who is not served waits for ever.
const LONG: Duration = Duration::from_secs(3600);

/// With room for one connection, which is in use.
fn full() -> (Arc<Pool<u8, u8>>, Permit<u8, u8>) {
    let pool = Pool::new(1);
    let (permit, idle) = pool.take(0, Duration::ZERO).expect("room");
    assert_eq!(idle, None);
    (pool, permit)
}

/// Nobody waits, and nothing is left but what is idle.
fn check(pool: &Arc<Pool<u8, u8>>) {
    let counts = pool.counts();
    assert_eq!((counts.open, counts.waiting), (counts.idle, 0));
    assert!(pool.take(0, Duration::ZERO).is_some(), "there is room");
}

pub fn given_back_while_awaited() {
    let (pool, permit) = full();
    let giver = thread::spawn(move || permit.give_back(0, 7));
    // Of another mode: the connection is of no use, but its place is.
    let other = {
        let pool = Arc::clone(&pool);
        thread::spawn(move || {
            let (permit, idle) = pool.take(1, LONG).expect("there will be room");
            assert_eq!(idle, None);
            drop(permit);
        })
    };
    let (permit, idle) = pool.take(0, LONG).expect("there will be room");
    assert!(idle.is_none_or(|idle| idle == 7));
    assert_eq!(pool.counts().open, 1);
    drop(permit);
    [giver, other].into_iter().for_each(|thread| thread.join().expect("no panic"));
    check(&pool);
}

pub fn given_back_while_given_up() {
    let (pool, permit) = full();
    let giver = thread::spawn(move || permit.give_back(0, 7));
    if let Some((permit, idle)) = pool.take(0, Duration::ZERO) {
        assert!(idle.is_some());
        assert_eq!(pool.counts().open, 1);
        drop(permit);
    }
    giver.join().expect("no panic");
    check(&pool);
}

pub fn closed_while_given_back() {
    let (pool, permit) = full();
    let giver = thread::spawn(move || permit.give_back(0, 7));
    pool.close_all();
    giver.join().expect("no panic");
    let (_permit, idle) = pool.take(0, Duration::ZERO).expect("room");
    assert_eq!(idle, None, "it was to be closed");
}
