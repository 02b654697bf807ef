use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

type Queue = Arc<LargeValueQueue<u8>>;

fn all_turns(queue: &Queue) -> Vec<Turn<u8>> {
    let turns: Vec<_> = (0..MAX_TURNS).filter_map(|_| queue.try_turn()).collect();
    assert_eq!(turns.len(), MAX_TURNS);
    assert!(queue.try_turn().is_none() && !queue.is_wanted());
    turns
}

fn wait_for_waiting(queue: &Queue, count: usize) {
    while lock(&queue.state).waiting.len() != count {
        thread::yield_now();
    }
}

#[test]
fn turns_are_given_in_the_order_in_which_they_were_asked_for() {
    let queue = Queue::default();
    let mut turns = all_turns(&queue);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..4 {
            let (queue, order) = (&queue, &order);
            scope.spawn(move || {
                let turn = queue.turn(|| false).expect("the others are soon over");
                lock(order).push(number);
                // One at a time goes on.
                drop(turn);
            });
            wait_for_waiting(queue, number + 1);
        }
        assert!(queue.is_wanted());
        turns.pop();
    });
    assert_eq!(*lock(&order), [0, 1, 2, 3]);
    drop(turns);
    assert_eq!(lock(&queue.state).taken, 0);
}

#[test]
fn a_client_that_leaves_while_it_waits_gives_up_its_place() {
    let queue = Queue::default();
    let turns = all_turns(&queue);
    assert!(matches!(queue.turn(|| true), Err(NoTurn::ClientLeft)));
    assert!(!queue.is_wanted());
    drop(turns);
    assert_eq!(lock(&queue.state).taken, 0);
}

#[test]
fn one_client_asks_at_a_time() {
    let queue = Queue::default();
    let asking = AtomicUsize::new(0);
    thread::scope(|scope| {
        for turn in all_turns(&queue) {
            let asking = &asking;
            scope.spawn(move || {
                let asked = turn.ask(|| {
                    assert_eq!(asking.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    asking.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                });
                assert!(asked.is_ok());
            });
        }
    });
    assert!(!lock(&queue.state).is_asking);
}

#[test]
fn when_the_backend_is_silent_those_who_wait_are_told_at_once() {
    let queue = Queue::default();
    let turns = all_turns(&queue);
    thread::scope(|scope| {
        let waits = scope.spawn(|| matches!(queue.turn(|| false), Err(NoTurn::Backend(_))));
        wait_for_waiting(&queue, 1);
        let timed_out: Result<(), _> = turns[0].ask(|| Err(BackendError::TimedOut));
        assert!(timed_out.is_err());
        assert!(waits.join().expect("no panic"));
    });
    drop(turns);
    assert!(queue.turn(|| false).is_ok(), "later it may be better");
}

#[test]
fn a_survey_serves_those_who_asked_before_it_began() {
    let queue = Queue::default();
    let turn_of = |asked| Turn { queue: Arc::clone(&queue), asked };
    let before = Instant::now();
    let began = before + Duration::from_millis(1);
    lock(&queue.state).taken = 4;
    turn_of(before).share(b"a", began, &Arc::new(7));
    assert!(turn_of(before).survey(b"a").is_some());
    assert!(turn_of(before).survey(b"b").is_none(), "another value");
    assert!(turn_of(began + Duration::from_millis(1)).survey(b"a").is_none(), "too old");
}
