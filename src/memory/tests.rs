use std::thread;

use super::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

struct Client {
    account: Account,
    is_ended: AtomicBool,
}

impl Holder for Client {
    fn account(&self) -> &Account {
        &self.account
    }

    fn name(&self) -> String {
        "a client".to_owned()
    }

    fn close(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
    }
}

fn client() -> Arc<Client> {
    Arc::new(Client { account: Account::default(), is_ended: AtomicBool::new(false) })
}

fn share<'a>(budget: &'a MemoryBudget, client: &Arc<Client>) -> Share<'a> {
    Share::new(budget, Arc::clone(client) as Arc<dyn Holder>)
}

#[test]
fn each_row_of_what_follows_from_the_state_of_the_budget() {
    use Decision::{CloseLargest, CloseSelf, Enough, Wait};
    let max = 80 * MIB;
    for (own, held, leaving, largest, wanted) in [
        (MIB, 70 * MIB, 0, 0, Enough),
        // The reserve is for those that hold little; usual requests are always served.
        (MIB, 71 * MIB, 0, 2 * MIB, CloseLargest),
        (SMALL_BYTES, 80 * MIB, 0, 2 * MIB, Enough),
        (SMALL_BYTES, 81 * MIB, 0, 2 * MIB, CloseLargest),
        (USUAL_BYTES, 91 * MIB, 0, 2 * MIB, Enough),
        (USUAL_BYTES + 1, 91 * MIB, 0, USUAL_BYTES + 2, CloseLargest),
        // Enough is being given back.
        (MIB, 71 * MIB, MIB, 2 * MIB, Wait),
        (MIB, 73 * MIB, MIB, 2 * MIB, CloseLargest),
        (SMALL_BYTES, 81 * MIB, MIB, 0, Wait),
        // Nobody holds more than the one that asks.
        (2 * MIB, 71 * MIB, 0, 2 * MIB, CloseSelf),
        (MIB, 71 * MIB, 0, 0, CloseSelf),
        (SMALL_BYTES, 91 * MIB, 0, SMALL_BYTES, CloseSelf),
        (SMALL_BYTES, 81 * MIB, 90 * MIB, 0, Wait),
    ] {
        let need = Need { own, held, leaving, largest, max };
        assert_eq!(decide(need), wanted, "{need:?}");
    }
}

#[test]
fn shares_are_counted_for_their_client_and_for_all_until_they_are_dropped() {
    let budget = MemoryBudget::new(80 * MIB);
    let (one, other) = (client(), client());
    let mut first = share(&budget, &one);
    let mut second = share(&budget, &one);
    let mut third = share(&budget, &other);
    assert_eq!(first.set(FREE_BYTES), Ok(()));
    assert_eq!(budget.held_bytes(), 0, "usual buffers count for nothing");
    assert_eq!(first.set(MIB), Ok(()));
    assert_eq!(second.set(MIB - 1), Ok(()));
    assert_eq!(third.set(3 * MIB), Ok(()));
    assert_eq!(one.account.bytes.load(Ordering::Relaxed), 2 * MIB);
    assert_eq!(budget.held_bytes(), 5 * MIB);
    assert_eq!(first.set(16 * KIB), Ok(()));
    drop(second);
    assert_eq!(one.account.bytes.load(Ordering::Relaxed), 16 * KIB);
    drop((first, third));
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn the_client_that_holds_most_is_closed_and_waited_for() {
    let budget = MemoryBudget::new(80 * MIB);
    let (large, small) = (client(), client());
    let mut of_large = share(&budget, &large);
    assert_eq!(of_large.set(60 * MIB), Ok(()));
    thread::scope(|scope| {
        let grown = scope.spawn(|| {
            let mut share = share(&budget, &small);
            (share.set(20 * MIB), budget.held_bytes())
        });
        while !large.is_ended.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        of_large.clear();
        assert_eq!(grown.join().expect("no panic"), (Ok(()), 20 * MIB));
    });
    assert!(!small.is_ended.load(Ordering::SeqCst));
    assert_eq!(budget.closed.get(), 1);
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn a_client_that_would_hold_most_is_closed_itself() {
    let budget = MemoryBudget::new(80 * MIB);
    let (one, other) = (client(), client());
    let mut share_of_one = share(&budget, &one);
    assert_eq!(share_of_one.set(30 * MIB), Ok(()));
    let mut share_of_other = share(&budget, &other);
    let refused = share_of_other.set(50 * MIB).expect_err("too much");
    assert_eq!(
        refused.to_string(),
        "out of memory: it holds 50 MiB, and all clients together may hold 80 MiB"
    );
    assert!(other.is_ended.load(Ordering::SeqCst) && !one.is_ended.load(Ordering::SeqCst));
}

#[test]
fn a_client_that_holds_little_is_served_while_another_is_slow_to_leave() {
    let budget = MemoryBudget::new(80 * MIB);
    let (large, small) = (client(), client());
    let mut of_large = share(&budget, &large);
    assert!(of_large.set(85 * MIB).is_err());
    assert_eq!(share(&budget, &small).set(SMALL_BYTES), Ok(()));
    assert!(!small.is_ended.load(Ordering::SeqCst));
    assert!(of_large.set(105 * MIB).is_err(), "it is closed already");
    assert!(share(&budget, &small).set(SMALL_BYTES).is_err(), "too many of them");
}
