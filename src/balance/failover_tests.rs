use super::*;
use crate::backend::{Keys, Report, Supervisor};
use crate::balance::refusals::RecentRefusals;
use crate::balance::slow::{Poisoned, ReadKey};
use crate::balance::supervisor::BackendSupervisor;
use crate::config::Config;
use crate::config::LiveConfig;
use std::io;

const MOMENT: Duration = Duration::from_millis(50);
const UNKNOWN: ReadProfile =
    ReadProfile { class: Class::Unknown, is_fast: false, ..ReadProfile::QUICK };
const SLOW: ReadProfile = ReadProfile { class: Class::Slow, ..UNKNOWN };

/// Balancer with so many backends, at ports where nobody listens: none was checked.
fn unchecked(backends: u16) -> Arc<Balancer> {
    let urls = (1..=backends).map(|port| format!("--backend=127.0.0.1:{port}"));
    let args = std::iter::once("lb".to_owned()).chain(urls);
    let balancer = Balancer::new(Config::from_arguments(args).expect("a configuration"));
    balancer.add_all(balancer.config().servers());
    balancer
}

/// Balancer with so many backends, all up.
fn up(backends: u16) -> Arc<Balancer> {
    let balancer = unchecked(backends);
    let now = Instant::now();
    balancer.backends().iter().for_each(|member| member.health.accept_first(&report(), &[], now));
    balancer
}

fn report() -> Report {
    Report { run_id: "one".into(), keys: Some(Keys::in_one_database(1000)), ..Report::default() }
}

fn ids(balancer: &Balancer) -> Vec<BackendId> {
    balancer.backends().iter().map(|member| member.id).collect()
}

fn refused() -> BackendError {
    BackendError::Connect(io::ErrorKind::ConnectionRefused.into())
}

fn lost() -> BackendError {
    BackendError::Lost(io::ErrorKind::ConnectionReset.into())
}

/// Tries this backend, which fails.
fn fail(failover: &mut Failover, backend: BackendId, error: BackendError, now: Instant) {
    let attempt = failover.attempt(backend, None, now).expect("there is time");
    failover.failed(&attempt, error, now);
}

#[test]
fn what_a_failed_try_means_for_the_read_and_for_its_backend() {
    use BackendState::{Suspect, Up};
    let fast = ReadProfile::QUICK;
    let quick = ReadProfile { is_fast: false, ..fast };
    let answered = || BackendError::Redis("LOADING Redis is loading the dataset".to_owned());
    // (profile, error, whether another backend is tried, class and company there, state of the backend)
    for (at, (profile, error, goes_on, class, is_alone, state)) in [
        (fast, refused(), true, Class::Quick, false, Suspect),
        (fast, answered(), true, Class::Quick, false, Suspect),
        (fast, lost(), true, Class::Quick, false, Suspect),
        (quick, lost(), true, Class::Unknown, true, Suspect),
        (SLOW, lost(), true, Class::Slow, true, Suspect),
        (fast, BackendError::TimedOut, true, Class::Unknown, false, Suspect),
        (UNKNOWN, BackendError::TimedOut, false, Class::Unknown, false, Up),
        (SLOW, BackendError::TimedOut, false, Class::Slow, false, Up),
        (fast, BackendError::LeftBusy, true, Class::Quick, false, Up),
        (SLOW, BackendError::Stuck, true, Class::Slow, false, Up),
        (fast, BackendError::Busy, true, Class::Quick, false, Up),
    ]
    .into_iter()
    .enumerate()
    {
        let balancer = up(2);
        let (ids, now) = (ids(&balancer), Instant::now());
        let mut failover = Failover::new(&balancer, profile, now);
        fail(&mut failover, ids[0], error, now);
        assert!(!failover.may_try(ids[0]) && failover.may_try(ids[1]), "row {at}");
        assert_eq!(!failover.is_over(), goes_on, "row {at}");
        assert_eq!((failover.class(), failover.is_alone()), (class, is_alone), "row {at}");
        assert_eq!(balancer.table.state(ids[0]), state, "row {at}");
        assert_eq!(failover.refusal(), None, "row {at}");
    }
}

#[test]
fn a_quick_read_that_met_silence_twice_is_tried_no_more() {
    let balancer = up(3);
    let (ids, now) = (ids(&balancer), Instant::now());
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    fail(&mut failover, ids[0], BackendError::TimedOut, now);
    assert!(!failover.is_over());
    fail(&mut failover, ids[1], BackendError::TimedOut, now);
    assert!(failover.is_over());
    assert_eq!(balancer.table.state(ids[1]), BackendState::Up, "the read may be the reason");
}

#[test]
fn backends_that_are_not_up_are_tried_within_900_ms_in_all() {
    let balancer = unchecked(2);
    let (ids, now) = (ids(&balancer), Instant::now());
    let deadline = now + LAST_RESORT_TIME;
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    let policy = |failover: &mut Failover, backend, now| {
        failover.attempt(backend, None, now).map(|attempt| attempt.wait_policy())
    };
    let first = policy(&mut failover, ids[0], now);
    assert!(matches!(first, Some(WaitPolicy::LastResort(at)) if at == deadline), "{first:?}");
    let late = deadline - Duration::from_millis(1);
    // Such silence says nothing of the read, nor is there more time for it.
    fail(&mut failover, ids[0], BackendError::TimedOut, late);
    assert_eq!((failover.class(), failover.is_over()), (Class::Quick, false));
    let last = policy(&mut failover, ids[1], late);
    assert!(matches!(last, Some(WaitPolicy::Until(at)) if at == deadline), "{last:?}");
    assert!(policy(&mut failover, ids[1], deadline).is_none());
    let mut at_once = Failover::new(&balancer, ReadProfile::QUICK, now).at_once(true, now);
    assert!(policy(&mut at_once, ids[0], now).is_none(), "the client's last read has failed so");
    assert!(!at_once.wait());
}

#[test]
fn a_try_on_a_backend_that_was_up_leaves_time_for_others() {
    let balancer = up(2);
    let (ids, now) = (ids(&balancer), Instant::now());
    balancer.table.set_state(ids[1], BackendState::Down, false, now);
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    let attempt = failover.attempt(ids[0], None, now).expect("it is up");
    let later = now + Duration::from_secs(5);
    failover.failed(&attempt, refused(), later);
    let until = later + SECOND_WIND;
    assert!(failover.attempt(ids[1], None, until - Duration::from_millis(1)).is_some());
    assert!(failover.attempt(ids[1], None, until).is_none());
}

#[test]
fn a_backend_that_runs_a_slow_read_is_waited_for_like_one_that_is_up() {
    let balancer = up(1);
    let (id, now) = (ids(&balancer)[0], Instant::now());
    balancer.table.set_state(id, BackendState::Suspect, false, now);
    balancer.table.set_busy(id, true, now);
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    let attempt = failover.attempt(id, None, now + LAST_RESORT_TIME * 2).expect("it will answer");
    assert!(matches!(attempt.wait_policy(), WaitPolicy::Read { .. }));
}

#[test]
fn a_retry_is_counted_where_the_try_before_has_failed() {
    let balancer = up(3);
    let (ids, now) = (ids(&balancer), Instant::now());
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    fail(&mut failover, ids[0], refused(), now);
    fail(&mut failover, ids[1], BackendError::Local(io::ErrorKind::OutOfMemory.into()), now);
    let counts = |failover: &Failover| {
        let members = failover.balancer.backends();
        members.iter().map(|m| (m.metrics.errors.get(), m.metrics.retries.get())).collect()
    };
    let before: Vec<_> = counts(&failover);
    assert_eq!(before, [(1, 1), (0, 0), (0, 0)], "what this machine lacks is no backend's error");
    let attempt = failover.attempt(ids[2], None, now).expect("it is up");
    assert_eq!(counts(&failover), [(1, 1), (0, 1), (0, 0)]);
    failover.pass_over(&attempt);
    assert!(failover.was_anyone_asked() && ids.iter().all(|id| !failover.may_try(*id)));
}

#[test]
fn leaving_a_silent_backend_costs_a_retry_for_which_requests_have_paid() {
    let balancer = up(2);
    let now = Instant::now();
    let left = || balancer.retry_budget.left();
    let paid_before = left();
    (0..5).for_each(|_| _ = Failover::new(&balancer, ReadProfile::QUICK, now));
    assert_eq!(left(), paid_before + 1);
    (0..5).for_each(|_| _ = Failover::resumed(&balancer, ReadProfile::QUICK, now));
    assert_eq!(left(), paid_before + 1, "those have paid before");
    let member = Arc::clone(&balancer.backends()[0]);
    let supervisor = BackendSupervisor {
        id: member.id,
        health: Arc::clone(&member.health),
        table: Arc::clone(&balancer.table),
        retry_budget: Arc::clone(&balancer.retry_budget),
        refusals: RecentRefusals::new(Arc::clone(&balancer.table)),
        config: LiveConfig::of(&[]),
        scripts: Arc::default(),
    };
    let waits = |class| {
        let (silent, usual) = (Duration::from_millis(1001), Duration::from_secs(1));
        supervisor.may_wait(class, silent, usual).expect("no broken connection")
    };
    assert!(waits(Class::Slow));
    assert_eq!(left(), paid_before + 1, "a slow read stays");
    assert!(!waits(Class::Quick));
    assert_eq!(left(), paid_before);
    while balancer.retry_budget.withdraw() {}
    assert!(waits(Class::Quick), "all are slow: it stays");
}

#[test]
fn a_backend_that_a_check_has_found_good_is_tried_again_but_three_times_at_most() {
    let balancer = up(1);
    let (id, member) = (ids(&balancer)[0], Arc::clone(&balancer.backends()[0]));
    let mut now = Instant::now();
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    for number in 1..=3 {
        fail(&mut failover, id, refused(), now);
        failover.forgive();
        assert!(!failover.may_try(id), "no check has found it good since");
        assert_eq!(balancer.table.state(id), BackendState::Suspect);
        now += Duration::from_secs(1);
        member.health.check_answered(&report(), now, now, &[]);
        now += Duration::from_secs(1);
        assert_eq!(balancer.table.state(id), BackendState::Up);
        failover.forgive();
        assert_eq!(failover.may_try(id), number < 3);
    }
    assert!(!failover.wait());
}

#[test]
fn a_backend_that_is_up_is_not_waited_for() {
    let balancer = up(2);
    let (ids, now) = (ids(&balancer), Instant::now());
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now).at_once(true, now);
    fail(&mut failover, ids[0], refused(), now);
    assert!(failover.wait());
}

/// A read of unknown class that has lost its first server, and is sent to the second.
fn lost_one(balancer: &Balancer, key: ReadKey) -> (Failover<'_>, Attempt) {
    let (ids, now) = (ids(balancer), Instant::now());
    let mut failover = Failover::new(balancer, UNKNOWN, now);
    fail(&mut failover, ids[0], lost(), now);
    let info = ReadInfo { keys: vec![key], label: "SORT big:".to_owned(), ..ReadInfo::default() };
    let outcome = failover.begin(info, Some(ids[1]), |_| true, || false);
    let Ok(LaneOutcome::Open(open)) = outcome else { panic!("{outcome:?}") };
    assert!(open.is_one_by_one());
    open.note_sent();
    let attempt = failover.attempt(ids[1], Some(open), now).expect("it is up");
    (failover, attempt)
}

#[test]
fn a_read_that_lost_two_servers_goes_to_no_third_one() {
    let balancer = up(3);
    let key = ReadKey { kind: 1, exact: 2, is_fast: false };
    let (mut failover, attempt) = lost_one(&balancer, key);
    failover.failed(&attempt, lost(), Instant::now() + MOMENT);
    assert!(failover.is_over());
    let why = "this read is not sent to another server: 127.0.0.1:1 and 127.0.0.1:2 died while \
               working on it";
    assert_eq!(failover.refusal().as_deref(), Some(why));
    assert_eq!(balancer.poison.lookup(&key, Instant::now()), Some(Poisoned::Itself));
    let rest = failover.for_the_rest(Instant::now());
    assert!(rest.is_alone() && !rest.is_over(), "the reads that were sent with it go on, alone");
}

#[test]
fn a_server_that_died_before_the_read_arrived_has_not_died_of_it() {
    let balancer = up(3);
    let key = ReadKey { kind: 1, exact: 2, is_fast: false };
    let (mut failover, attempt) = lost_one(&balancer, key);
    failover.failed(&attempt, lost(), attempt.began);
    assert!(!failover.is_over() && failover.is_alone());
    assert_eq!(balancer.poison.lookup(&key, Instant::now()), None);
}

#[test]
fn the_error_says_of_each_backend_why_it_could_not_answer() {
    let balancer = unchecked(3);
    let (ids, now) = (ids(&balancer), Instant::now());
    let mut failover = Failover::new(&balancer, ReadProfile::QUICK, now);
    fail(&mut failover, ids[0], BackendError::TimedOut, now);
    let attempt = failover.attempt(ids[1], None, now).expect("there is time");
    failover.pass_over(&attempt);
    let text = "no backend could answer: 127.0.0.1:1: timed out; 127.0.0.1:3: not checked yet";
    assert_eq!(failover.error(), text);
    assert!(failover.failures().all(BackendError::is_timeout));
}
