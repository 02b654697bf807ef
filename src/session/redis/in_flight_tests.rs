use super::*;
use crate::balance::slow::ReadProfile;
use crate::metrics::CommandId;
use crate::resp::{CommandParser, command};

struct Nowhere;

impl Sink for Nowhere {
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
}

fn batch(commands: usize) -> Batch {
    let mut batch = Batch::default();
    let get = command("GET").arg("a").into_bytes();
    let mut parser = CommandParser::new(usize::MAX);
    for _ in 0..commands {
        let (_, command) = parser.parse(&get).expect("a command");
        let (command, id) = (command.expect("a whole one"), CommandId::default());
        batch.forward(&command, id, 1, false, ReadProfile::QUICK);
    }
    batch
}

/// So many commands in flight, the router that their replies come by, and their ticket.
fn in_flight(commands: usize) -> (InFlight, Arc<ClientReplyRouter>, u64) {
    let router = Arc::new(ClientReplyRouter::new(Arc::new(Nowhere)));
    let (ticket, _) = router.expect(commands).expect("nothing is in flight");
    let mut in_flight = InFlight::new(Duration::MAX);
    batch(commands).as_plain(1).expect("a plain one").move_to(&mut in_flight.batch);
    (in_flight.router, in_flight.since) = (Some(Arc::clone(&router)), Some(Instant::now()));
    (in_flight, router, ticket)
}

fn answered(answered: usize, errors: u64, longest: usize) -> Replies {
    Replies { answered, errors, longest, ..Replies::default() }
}

#[test]
fn when_all_is_answered_nothing_is_in_flight() {
    let (mut in_flight, router, ticket) = in_flight(3);
    assert_eq!(in_flight.progress(), Progress::UnderWay);
    router.deliver(ticket, b"", &answered(1, 0, 9), || {});
    assert_eq!(in_flight.progress(), Progress::UnderWay);
    router.deliver(ticket, b"", &answered(2, 1, 9), || {});
    assert!(in_flight.since.is_some(), "until the session looks");
    assert_eq!(in_flight.progress(), Progress::Done);
    assert!(in_flight.since.is_none());
    assert_eq!(in_flight.errors, 1);
    assert!(in_flight.is_wanted(&batch(1)));
}

#[test]
fn only_what_is_not_answered_is_taken_back() {
    let (mut in_flight, router, ticket) = in_flight(3);
    router.deliver(ticket, b"", &answered(2, 0, 9), || {});
    assert!(router.fail(ticket, SharedFailure::Stale).is_ok());
    assert_eq!(in_flight.progress(), Progress::Stopped);
    let TakenBack { unsent, failure, mut batch } = in_flight.take_back();
    assert!(unsent.is_empty() && matches!(failure, Some(SharedFailure::Stale)));
    assert!(!batch.is_done());
    batch.skip(1);
    assert!(batch.is_done(), "one of three was left");
    assert!(in_flight.since.is_none());

    let mut is_counted = false;
    router.deliver(ticket, b"", &answered(1, 0, 9), || is_counted = true);
    assert!(!is_counted, "a reply to what was taken back is nobody's");
}

#[test]
fn after_a_long_reply_commands_go_by_other_connections_for_a_while() {
    let (mut in_flight, router, ticket) = in_flight(1);
    router.deliver(ticket, b"", &answered(1, 0, LONG_REPLY_BYTES + 1), || {});
    assert_eq!(in_flight.progress(), Progress::Done);
    assert!(!in_flight.is_wanted(&batch(COMMANDS_AFTER_LONG_REPLY - 1)));
    assert!(in_flight.is_wanted(&batch(1)));
}
