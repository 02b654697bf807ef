use super::*;
use crate::backend::PendingRead;
use crate::balance::Balancer;
use crate::balance::slow::lane_state::{MAX_WAITING, Waiting};
use crate::config::Config;
use crate::health::Admin;
use std::sync::atomic::AtomicBool;
use std::thread;

const TIMEOUT: Duration = Duration::from_secs(1);

fn id(number: u32) -> BackendId {
    BackendId::new(number)
}

/// The lane of so many backends, all up.
fn lane(backends: u32) -> Arc<SlowLane> {
    lane_with(backends, "1s", "30s")
}

fn lane_with(backends: u32, backend_timeout: &str, read_timeout: &str) -> Arc<SlowLane> {
    let urls = (1..=backends).map(|port| format!("--backend=127.0.0.1:{port}"));
    let args = ["lb", "--backend-timeout", backend_timeout, "--read-timeout", read_timeout];
    let args = args.map(str::to_owned).into_iter().chain(urls);
    let balancer = Balancer::new(Config::from_arguments(args).expect("a configuration"));
    balancer.add_all(balancer.config().servers());
    for backend in balancer.backends().iter() {
        balancer.table.set_state(backend.id, BackendState::Up, false, Instant::now());
    }
    Arc::clone(&balancer.slow_lane)
}

fn read(class: Class, number: u64) -> ReadInfo {
    let key = ReadKey { kind: number << 40 | number, exact: number, is_fast: false };
    let label = format!("READ {number}");
    ReadInfo { class, keys: vec![key], label, is_alone: false, context: None }
}

fn opened(begun: Result<LaneOutcome, LaneError>) -> Result<Arc<OpenRead>, LaneError> {
    begun.map(|begun| match begun {
        LaneOutcome::Open(open) => open,
        LaneOutcome::Answered(answer) => panic!("answered: {answer:?}"),
    })
}

fn begin(lane: &Arc<SlowLane>, class: Class, preferred: u32) -> Arc<OpenRead> {
    let read = read(class, u64::from(preferred) + 1);
    let begun = lane.begin(&read, Some(id(preferred)), |_| true, || false);
    let open = opened(begun).expect("a backend");
    open.note_sent();
    open
}

/// A read that may not begin now.
fn must_wait(lane: &Arc<SlowLane>, class: Class, preferred: u32) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let may_try = |_| !is_over.load(Ordering::Relaxed);
        let wait =
            move || lane.begin(&read(class, 9), Some(id(preferred)), may_try, || false).map(|_| ());
        let waiting = scope.spawn(wait);
        while lane.snapshot().waiting == 0 {
            thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(waiting.join().expect("no panic"), Err(LaneError::NoBackend));
    });
}

#[test]
fn slow_reads_run_one_at_a_time_where_the_last_ran() {
    let lane = lane(3);
    let first = begin(&lane, Class::Slow, 0);
    assert!(lane.table.is_busy(first.backend()));
    must_wait(&lane, Class::Slow, 1);
    let place = first.backend();
    drop(first);
    assert!(!lane.table.is_busy(place));
    assert_eq!(begin(&lane, Class::Slow, 1).backend(), place);
}

#[test]
fn one_server_stays_free_of_reads_that_are_not_known_to_be_quick() {
    let lane = lane(3);
    let first = begin(&lane, Class::Unknown, 0);
    let second = begin(&lane, Class::Unknown, 1);
    assert_eq!((first.backend(), second.backend()), (id(0), id(1)));
    let third = begin(&lane, Class::Unknown, 2);
    assert_ne!(third.backend(), id(2), "beside one of the others");
    drop((first, third));
    assert_eq!(begin(&lane, Class::Unknown, 2).backend(), id(2));
}

#[test]
fn what_is_overdue_makes_its_server_busy_and_is_slow_from_then_on() {
    let lane = lane(2);
    let open = begin(&lane, Class::Unknown, 0);
    open.note_silence(TIMEOUT / 4);
    assert!(!lane.table.is_busy(id(0)));
    open.note_silence(TIMEOUT / 2);
    assert!(lane.table.is_busy(id(0)));
    assert_eq!(lane.kinds.class(&read(Class::Unknown, 1).keys[0]), Class::Slow);
    must_wait(&lane, Class::Slow, 1);
    must_wait(&lane, Class::Unknown, 1);
    drop(open);
    assert!(!lane.table.is_busy(id(0)));
    assert_eq!(lane.snapshot().ended, 1);
}

#[test]
fn the_first_of_a_kind_runs_before_others_of_it() {
    let lane = lane(3);
    let open = begin(&lane, Class::Unknown, 0);
    thread::scope(|scope| {
        let again = || {
            let read = read(Class::Unknown, 1);
            opened(lane.begin(&read, Some(id(1)), |_| true, || false)).map(|open| open.backend())
        };
        let again = scope.spawn(again);
        while lane.snapshot().waiting == 0 {
            thread::yield_now();
        }
        open.reply_began();
        assert_eq!(again.join().expect("no panic"), Ok(id(1)));
    });
}

#[test]
fn what_waits_for_one_of_its_kind_that_turns_out_slow_is_slow_itself() {
    let lane = lane(3);
    let open = begin(&lane, Class::Unknown, 0);
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            let read = read(Class::Unknown, 1);
            opened(lane.begin(&read, Some(id(1)), |_| true, || false)).map(|open| open.is_slow())
        });
        while lane.snapshot().waiting == 0 {
            thread::yield_now();
        }
        open.note_silence(TIMEOUT / 2);
        assert!(!second.is_finished(), "the first still runs");
        drop(open);
        assert_eq!(second.join().expect("no panic"), Ok(true));
    });
}

#[test]
fn of_those_that_wait_and_ask_the_same_one_is_sent() {
    let lane = lane(3);
    let first = begin(&lane, Class::Slow, 0);
    let shared = |number, context| ReadInfo { context, ..read(Class::Slow, number) };
    thread::scope(|scope| {
        let wait = |info: ReadInfo| {
            let lane = &lane;
            let waiting = lane.snapshot().waiting;
            let thread = scope.spawn(move || {
                let begun = lane.begin(&info, None, |_| true, || false).expect("its turn");
                match begun {
                    LaneOutcome::Answered(answer) => answer.reply.to_vec(),
                    LaneOutcome::Open(open) => {
                        open.note_sent();
                        open.share(b"+reply");
                        b"sent".to_vec()
                    }
                }
            });
            while lane.snapshot().waiting == waiting {
                thread::yield_now();
            }
            thread
        };
        let same = [(); 3].map(|()| wait(shared(1, Some(0))));
        let others = [shared(2, Some(0)), shared(1, Some(1)), shared(1, None)].map(wait);
        drop(first);
        let mut replies = same.map(|thread| thread.join().expect("no panic"));
        replies.sort();
        assert_eq!(replies, [&b"+reply"[..], b"+reply", b"sent"]);
        let replies = others.map(|thread| thread.join().expect("no panic"));
        assert_eq!(replies, [b"sent"; 3]);
    });
}

#[test]
fn nobody_is_blamed_who_was_not_alone() {
    let lane = lane(3);
    let [first, second] = [1, 2].map(|number| {
        let read = read(Class::Unknown, number);
        let begun = lane.begin(&read, Some(id(0)), |_| true, || false);
        let open = opened(begun).expect("a backend");
        open.note_sent();
        open
    });
    assert_eq!((first.backend(), second.backend()), (id(0), id(0)));
    first.note_silence(TIMEOUT);
    let key = read(Class::Unknown, 1).keys[0];
    assert_eq!(lane.kinds.class(&key), Class::Unknown);
    assert!(lane.kinds.is_measured_alone(&key));
}

#[test]
fn a_read_that_goes_alone_has_its_server_for_itself() {
    let lane = lane(3);
    let alone = ReadInfo { is_alone: true, ..read(Class::Unknown, 7) };
    let open = opened(lane.begin(&alone, Some(id(0)), |_| true, || false)).expect("a backend");
    assert!(open.is_one_by_one());
    assert_ne!(begin(&lane, Class::Unknown, 0).backend(), id(0));
}

#[test]
fn a_read_that_was_left_unanswered_keeps_its_server_busy_until_that_answers_or_is_down() {
    let lane = lane(2);
    let open = begin(&lane, Class::Slow, 0);
    let backend = open.backend();
    open.leave(Instant::now());
    drop(open);
    lane.backend_checked(Instant::now());
    // The server is down in its own eyes, as no check has found it up: it is not waited for.
    assert!(!lane.table.is_busy(backend));
    assert!(begin(&lane, Class::Slow, 1).is_slow());
}

#[test]
fn a_read_whose_reply_has_begun_keeps_nobody_waiting_however_slowly_it_is_read() {
    let lane = lane(3);
    let first = begin(&lane, Class::Slow, 0);
    first.reply_began();
    assert!(!lane.table.is_busy(first.backend()));
    let second = begin(&lane, Class::Slow, 0);
    assert_eq!(second.backend(), first.backend());
    assert_eq!(lane.snapshot().running.len(), 1);
}

#[test]
fn what_waits_is_served_in_the_order_in_which_it_came() {
    let lane = lane(3);
    let first = begin(&lane, Class::Slow, 0);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..5 {
            scope.spawn({
                let (lane, order) = (&lane, &order);
                move || {
                    let read = read(Class::Slow, number);
                    let begun = lane.begin(&read, None, |_| true, || false);
                    let open = opened(begun).expect("its turn");
                    lock(order).push(number);
                    drop(open);
                }
            });
            while lane.snapshot().waiting <= number as usize {
                thread::yield_now();
            }
        }
        drop(first);
    });
    assert_eq!(*lock(&order), [0, 1, 2, 3, 4]);
    assert_eq!(lane.snapshot().waiting, 0);
}

#[test]
fn waiting_ends_with_the_read_timeout_and_no_more_than_a_bounded_number_wait() {
    let lane = lane_with(2, "50ms", "50ms");
    let _first = begin(&lane, Class::Slow, 0);
    let late = lane.begin(&read(Class::Slow, 5), None, |_| true, || false);
    assert!(matches!(late.map(|_| ()), Err(LaneError::TimedOut(_))));
    let waiting = |number| Waiting { number, is_slow: true, is_alone: false };
    lock(&lane.state).waiting.extend((0..MAX_WAITING as u64).map(waiting));
    let full = lane.begin(&read(Class::Slow, 5), None, |_| true, || false);
    assert_eq!(full.map(|_| ()).err(), Some(LaneError::Full));
}

#[test]
fn a_lone_server_takes_what_there_is() {
    let lane = lane(1);
    let _first = begin(&lane, Class::Unknown, 0);
    let _second = begin(&lane, Class::Unknown, 0);
    must_wait(&lane, Class::Slow, 0);
    assert!(lane.begin(&read(Class::Slow, 1), None, |_| false, || false).is_err());
}

#[test]
fn a_client_that_leaves_gives_up_its_turn_but_one_that_only_ends_its_side_has_a_moment() {
    let lane = lane(2);
    let first = begin(&lane, Class::Unknown, 0);
    let wait = |number, class| {
        let began = Instant::now();
        let begun = lane.begin(&read(class, number), None, |_| true, || true);
        (begun.map(|_| ()), began.elapsed())
    };
    let (of_its_kind, waited) = wait(1, Class::Unknown);
    assert_eq!(of_its_kind, Err(LaneError::ClientLeft));
    assert!(waited >= HALF_CLOSED_WAIT, "{waited:?}");
    drop(first);
    let _slow = begin(&lane, Class::Slow, 0);
    let (slow, waited) = wait(2, Class::Slow);
    assert_eq!(slow, Err(LaneError::ClientLeft));
    assert!(waited < HALF_CLOSED_WAIT, "{waited:?}");
}

#[test]
fn a_slow_read_on_a_backend_that_clients_leave_keeps_no_other_waiting() {
    let drain = |table: &ConnectionTable| table.set_admin(id(0), Admin::Drain, Instant::now());
    let remove = |table: &ConnectionTable| table.remove(id(0), Instant::now());
    for leave in [&drain as &dyn Fn(&ConnectionTable), &remove] {
        let lane = lane(3);
        let first = begin(&lane, Class::Slow, 0);
        assert_eq!(first.backend(), id(0));
        let lease = lane.table.lease(Instant::now(), |backend| backend == id(0));
        must_wait(&lane, Class::Slow, 1);
        leave(&lane.table);
        let second = begin(&lane, Class::Slow, 1);
        assert_ne!(second.backend(), id(0));
        must_wait(&lane, Class::Slow, 2);
        drop((first, second, lease));
    }
}
