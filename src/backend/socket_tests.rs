use std::sync::atomic::Ordering;

use super::super::test_support::{FakeSupervisor, LONG, connected, timeouts};
use super::super::{LEFT_BUSY, LEFT_DOWN, STUCK};
use super::*;
use crate::sync::lock;

/// A timeout that the tests let pass.
const SHORT: Duration = Duration::from_millis(2);

/// A read that records what its connection reports.
#[derive(Debug, Default)]
struct Record {
    has_begun: bool,
    reports: crate::sync::Mutex<Vec<&'static str>>,
}

impl PendingRead for Record {
    fn note_sent(&self) {
        lock(&self.reports).push("sent");
    }

    fn note_silence(&self, _: Duration) {
        lock(&self.reports).push("silent");
    }

    fn has_begun(&self) -> bool {
        self.has_begun
    }
}

struct Outcome {
    kind: io::ErrorKind,
    /// What the supervisor was asked about reads.
    asked: Vec<(Class, Duration)>,
    /// How many of the allowed waits were not used.
    waits_left: usize,
}

/// Waits for a server that says nothing, with so many waits allowed, and a usual silence of `usual`.
fn wait_in_vain(policy: WaitPolicy, supervisor: FakeSupervisor, usual: Duration) -> Outcome {
    let supervisor = Arc::new(supervisor);
    let (stream, _server) = connected();
    let mut socket = BackendSocket::new(stream, Arc::new(timeouts(&supervisor, SHORT)), policy);
    // The stream's own timeout is longer than the socket believes.
    socket.step = LONG;
    socket.expect_reply(usual).expect("an open socket");
    let error = socket.read(&mut [0; 1]).expect_err("nothing comes");
    let kind = if is_timeout(&error) { io::ErrorKind::TimedOut } else { error.kind() };
    let asked = lock(&supervisor.asked).clone();
    Outcome { kind, asked, waits_left: supervisor.waits.load(Ordering::SeqCst) }
}

fn supervisor(is_up: bool, waits: usize, is_stuck: bool) -> FakeSupervisor {
    FakeSupervisor {
        is_up: is_up.into(),
        waits: waits.into(),
        is_stuck: is_stuck.into(),
        ..FakeSupervisor::default()
    }
}

#[test]
fn each_policy_ends_a_wait_in_its_own_way() {
    use io::ErrorKind::TimedOut;
    let now = Instant::now();
    let (past, soon, late) = (now, now + Duration::from_millis(300), now + 60 * LONG);
    let read = |class| WaitPolicy::Read { class, open: None };
    for (name, policy, supervisor, kind, waits_left) in [
        ("a read, not allowed to wait", WaitPolicy::QUICK, supervisor(true, 0, false), TimedOut, 0),
        ("a read, allowed once", WaitPolicy::QUICK, supervisor(true, 1, false), TimedOut, 0),
        ("a read, others answered", read(Class::Slow), supervisor(true, 0, true), STUCK, 0),
        ("the deadline is over", WaitPolicy::Until(past), supervisor(true, 9, true), TimedOut, 9),
        ("the deadline comes", WaitPolicy::Until(soon), supervisor(true, 9, true), TimedOut, 9),
        ("a probe, not up", WaitPolicy::Probe(late), supervisor(false, 9, true), TimedOut, 9),
        ("a probe, too late", WaitPolicy::Probe(past), supervisor(true, 9, true), TimedOut, 9),
        ("the last one", WaitPolicy::LastResort(late), supervisor(false, 2, false), TimedOut, 0),
        ("the last, others up", WaitPolicy::LastResort(late), supervisor(false, 0, true), STUCK, 0),
        (
            "the last, too late",
            WaitPolicy::LastResort(past),
            supervisor(false, 9, true),
            TimedOut,
            8,
        ),
    ] {
        let outcome = wait_in_vain(policy, supervisor, SHORT);
        assert_eq!((outcome.kind, outcome.waits_left), (kind, waits_left), "{name}");
    }
    assert!(Instant::now() >= soon, "the deadline was waited for");
}

#[test]
fn a_read_says_how_slow_it_may_be_and_what_the_backend_is_due() {
    let read = |class, has_begun| {
        let record = Arc::new(Record { has_begun, ..Record::default() });
        let open = Some(Arc::clone(&record) as Arc<dyn PendingRead>);
        (WaitPolicy::Read { class, open }, record)
    };
    for (class, has_begun, usual, asked) in [
        (Class::Slow, false, SHORT, Class::Slow),
        (Class::Unknown, false, SHORT, Class::Unknown),
        // Its reply has begun: the server works on it no more.
        (Class::Slow, true, SHORT, Class::Quick),
        // Its client has waited for the connection.
        (Class::Unknown, false, SHORT / 2, Class::Unknown),
    ] {
        let (policy, record) = read(class, has_begun);
        let outcome = wait_in_vain(policy, supervisor(true, 0, false), usual);
        assert_eq!(outcome.asked, [(asked, usual)]);
        assert_eq!(*lock(&record.reports), ["sent", "silent"]);
    }
}

#[test]
fn only_reads_that_are_not_known_to_be_quick_need_a_probe() {
    let read = |class| WaitPolicy::Read { class, open: None };
    let now = Instant::now();
    for (policy, needs_probe) in [
        (WaitPolicy::QUICK, false),
        (read(Class::Unknown), true),
        (read(Class::Slow), true),
        (WaitPolicy::Probe(now), false),
        (WaitPolicy::LastResort(now), false),
        (WaitPolicy::Until(now), false),
    ] {
        assert_eq!(policy.needs_probe(), needs_probe, "{policy:?}");
    }
    let kinds = [STUCK, LEFT_BUSY, LEFT_DOWN];
    assert!((1..3).all(|at| !kinds[..at].contains(&kinds[at])), "each kind tells one error");
}

#[test]
fn a_reply_that_comes_in_time_ends_the_wait() {
    let supervisor = Arc::new(supervisor(true, 0, false));
    let (stream, mut server) = connected();
    let timeouts = Arc::new(timeouts(&supervisor, LONG));
    let mut socket = BackendSocket::new(stream, timeouts, WaitPolicy::QUICK);
    socket.expect_reply(LONG).expect("an open socket");
    server.write_all(b"+").expect("a connection");
    assert_eq!(socket.read(&mut [0; 1]).expect("it has come"), 1);
    assert!(lock(&supervisor.asked).is_empty());
}
