use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use super::super::connection::Connection;
use super::super::reply_router::{Progress, Replies, Sink};
use super::super::test_support::{FakeSupervisor, LONG, connected, timeouts};
use super::super::{BackendId, HELD_REPLY_BYTES, WaitPolicy};
use super::*;
use crate::config::address::BackendAddress;
use crate::metrics::CommandId;
use crate::resp::Protocol;

/// A shared connection, and the server at its other end.
struct Scene {
    shared: Arc<SharedConnection>,
    server: TcpStream,
    backend: Arc<Backend>,
    supervisor: Arc<FakeSupervisor>,
}

/// A client that keeps the bytes that it gets.
struct Client {
    router: Arc<ClientReplyRouter>,
    received: Arc<Received>,
}

#[derive(Default)]
struct Received(Mutex<Vec<u8>>);

impl Sink for Received {
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Scene {
    fn new(protocol: Protocol) -> Self {
        let supervisor = Arc::new(FakeSupervisor::default());
        let address: BackendAddress = "127.0.0.1:1".parse().expect("an address");
        let timeouts = timeouts(&supervisor, LONG);
        let backend =
            Arc::new(Backend::new(BackendId::new(0), address, timeouts, 8, Arc::default()));
        let (stream, server) = connected();
        let mode = Mode { database: 0, protocol };
        let connection = Connection::new(stream, &backend.timeouts, WaitPolicy::QUICK);
        let (permit, _) = backend.pool.take(mode, LONG).expect("room");
        backend.keep_or_share(PooledConnection { connection, mode, permit, turn: None });
        let shared = backend.shared(mode).expect("it is shared");
        server.set_read_timeout(Some(LONG)).expect("an open socket");
        Self { shared, server, backend, supervisor }
    }

    /// A client sends commands, each of one byte.
    fn send(&self, client: &Client, commands: &[u8]) {
        let (ticket, _) = client.router.expect(commands.len()).expect("nothing is wrong");
        let entry = Entry {
            router: Arc::clone(&client.router),
            protocol: WireProtocol::Resp,
            ticket,
            commands: commands.len(),
            sent: SentCommands::Alike(CommandId::default()),
            began: Instant::now(),
            received: self.shared.received(),
        };
        assert!(self.shared.send(entry, commands), "it takes commands");
    }

    /// The server gets these commands.
    fn expect(&mut self, commands: &[u8]) {
        let mut received = vec![0; commands.len()];
        self.server.read_exact(&mut received).expect("they were sent");
        assert_eq!(received, commands);
    }

    fn reply(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).expect("an open connection");
    }

    /// Waits until the thread that reads has ended the connection.
    fn await_end(&mut self) {
        assert_eq!(self.server.read(&mut [0; 1]).expect("it ends"), 0);
        while Arc::strong_count(&self.backend) > 1 {
            thread::yield_now();
        }
    }

    /// The failures of the backend that were counted here.
    fn failures(&self) -> Vec<String> {
        lock(&self.supervisor.failures).clone()
    }
}

impl Client {
    fn new() -> Self {
        let received = Arc::new(Received::default());
        let sink = Arc::clone(&received) as Arc<dyn Sink>;
        Self { router: Arc::new(ReplyRouter::new(sink)), received }
    }

    /// Waits until it has all replies, and returns them.
    fn replies(&self) -> Vec<u8> {
        assert_eq!(self.outcome(), Progress::Done);
        lock(&self.received.0).clone()
    }

    /// Waits until some won't be answered here; returns the reason, and the replies that have come.
    fn failure(&self) -> (SharedFailure, Vec<u8>, Replies) {
        assert_eq!(self.outcome(), Progress::Stopped);
        let (replies, failure) = self.router.take_back();
        (failure.expect("a reason"), lock(&self.received.0).clone(), replies)
    }

    fn outcome(&self) -> Progress {
        let began = Instant::now();
        while self.router.wait(LONG) == Progress::UnderWay && began.elapsed() < LONG {}
        self.router.progress()
    }
}

#[test]
fn replies_in_pieces_go_to_the_clients_that_asked() {
    let mut scene = Scene::new(Protocol::Resp2);
    let clients = [Client::new(), Client::new(), Client::new()];
    scene.send(&clients[0], b"a");
    scene.expect(b"a");
    // These are written together when the first is answered.
    scene.send(&clients[1], b"bb");
    scene.send(&clients[2], b"c");
    for byte in b"$3\r\none\r\n" {
        scene.reply(&[*byte]);
    }
    assert_eq!(clients[0].replies(), b"$3\r\none\r\n");
    scene.expect(b"bbc");
    scene.reply(b"*2\r\n:1\r\n");
    scene.reply(b":2\r\n-ERR no\r\n+th");
    assert_eq!(clients[1].replies(), b"*2\r\n:1\r\n:2\r\n-ERR no\r\n");
    scene.reply(b"ree\r\n");
    assert_eq!(clients[2].replies(), b"+three\r\n");
    let metrics = &scene.backend.metrics;
    assert_eq!((metrics.error_replies.get(), metrics.errors.get()), (1, 0));
    scene.backend.await_quiet(LONG);
    assert!(scene.shared.pipeline.is_idle());
}

#[test]
fn a_push_ends_the_connection_and_is_an_error_in_resp2_only() {
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut scene = Scene::new(protocol);
        let client = Client::new();
        scene.send(&client, b"a");
        scene.expect(b"a");
        scene.reply(b">2\r\n+invalidate\r\n*0\r\n+reply\r\n");
        let (failure, received, _) = client.failure();
        assert!(received.is_empty(), "it is no reply");
        match protocol {
            Protocol::Resp2 => assert!(matches!(failure, SharedFailure::Backend(_)), "{failure:?}"),
            Protocol::Resp3 => assert!(matches!(failure, SharedFailure::Stale), "{failure:?}"),
        }
        scene.await_end();
        assert!(scene.failures().is_empty(), "the client's session counts it");
    }
}

#[test]
fn a_reply_that_answers_no_command_is_the_backends_failure() {
    let mut scene = Scene::new(Protocol::Resp2);
    let client = Client::new();
    scene.send(&client, b"a");
    scene.expect(b"a");
    scene.reply(b"+a\r\n+b\r\n");
    assert_eq!(client.replies(), b"+a\r\n");
    scene.await_end();
    let failures = scene.failures();
    assert!(failures.len() == 1 && failures[0].contains("nobody asked for"), "{failures:?}");
    assert!(scene.backend.shared(scene.shared.mode).is_none(), "it is off the list");
    let late = Client::new();
    let (ticket, _) = late.router.expect(1).expect("nothing was sent");
    let (router, began) = (Arc::clone(&late.router), Instant::now());
    let protocol = WireProtocol::Resp;
    let sent = SentCommands::Alike(CommandId::default());
    let entry = Entry { router, protocol, ticket, commands: 1, sent, began, received: 0 };
    assert!(!scene.shared.send(entry, b"b"), "it has ended");
}

#[test]
fn a_long_reply_is_dropped_and_the_next_client_gets_its_own() {
    let mut scene = Scene::new(Protocol::Resp2);
    let clients = [Client::new(), Client::new()];
    scene.send(&clients[0], b"ab");
    scene.expect(b"ab");
    scene.send(&clients[1], b"c");
    let long = [b"$100000\r\n", &[b'x'; 100_000][..], b"\r\n"].concat();
    assert!(long.len() > HELD_REPLY_BYTES);
    scene.reply(b"+short\r\n");
    let (beginning, rest) = long.split_at(HELD_REPLY_BYTES + 100);
    scene.reply(beginning);
    let (failure, received, replies) = clients[0].failure();
    assert!(matches!(failure, SharedFailure::LongReply), "{failure:?}");
    assert_eq!((received.as_slice(), replies.answered), (&b"+short\r\n"[..], 1));
    scene.reply(rest);
    scene.expect(b"c");
    scene.reply(b"+c\r\n");
    assert_eq!(clients[1].replies(), b"+c\r\n");
}

#[test]
fn a_refusal_of_one_command_concerns_no_other_client() {
    let refusal = b"-NOPERM User reader has no permissions\r\n";
    for all_refuse in [false, true] {
        let mut scene = Scene::new(Protocol::Resp2);
        scene.supervisor.all_refuse.store(all_refuse, Ordering::SeqCst);
        let clients = [Client::new(), Client::new()];
        scene.send(&clients[0], b"abc");
        scene.expect(b"abc");
        scene.send(&clients[1], b"d");
        scene.reply(&[b"+a\r\n", &refusal[..], b"+c\r\n"].concat());
        if all_refuse {
            let expected = [b"+a\r\n", &refusal[..], b"+c\r\n"].concat();
            assert_eq!(clients[0].replies(), expected, "the refusal is the answer");
        } else {
            let (failure, received, replies) = clients[0].failure();
            assert!(matches!(failure, SharedFailure::Backend(BackendError::Redis(_))));
            assert_eq!((received.as_slice(), replies.answered), (&b"+a\r\n"[..], 1));
        }
        scene.expect(b"d");
        scene.reply(b"+d\r\n");
        assert_eq!(clients[1].replies(), b"+d\r\n");
        assert!(scene.failures().is_empty());
    }
}

#[test]
fn a_server_that_can_answer_nobody_ends_the_connection() {
    let mut scene = Scene::new(Protocol::Resp2);
    let clients = [Client::new(), Client::new()];
    scene.send(&clients[0], b"a");
    scene.expect(b"a");
    scene.send(&clients[1], b"b");
    scene.reply(b"-LOADING Redis is loading the dataset in memory\r\n");
    let (failure, received, _) = clients[0].failure();
    assert!(matches!(failure, SharedFailure::Backend(BackendError::Redis(_))), "{failure:?}");
    assert!(received.is_empty());
    let (failure, ..) = clients[1].failure();
    assert!(matches!(failure, SharedFailure::Stale), "{failure:?}");
}

#[test]
fn an_end_within_a_reply_is_a_failure_and_between_replies_is_none() {
    for (bytes, is_failure) in [(&b"$5\r\nhal"[..], true), (b"+a\r\n", false), (b"", false)] {
        let mut scene = Scene::new(Protocol::Resp2);
        let clients = [Client::new(), Client::new()];
        scene.send(&clients[0], b"ab");
        scene.expect(b"ab");
        scene.send(&clients[1], b"c");
        scene.reply(bytes);
        scene.server.shutdown(std::net::Shutdown::Write).expect("an open connection");
        let (failure, received, _) = clients[0].failure();
        match is_failure {
            true => assert!(matches!(failure, SharedFailure::Backend(BackendError::Lost(_)))),
            false => {
                assert!(matches!(failure, SharedFailure::Lost), "{failure:?}");
                assert_eq!(received, bytes);
            }
        }
        // The second client's command may have been what the server died of as well.
        let (failure, received, _) = clients[1].failure();
        assert!(matches!(failure, SharedFailure::Lost) && received.is_empty(), "{failure:?}");
        assert!(scene.failures().is_empty());
    }
}

#[test]
fn a_failure_for_commands_that_were_taken_back_is_counted_here() {
    let mut scene = Scene::new(Protocol::Resp2);
    let client = Client::new();
    scene.send(&client, b"a");
    scene.expect(b"a");
    client.router.take_back();
    scene.reply(b"no reply\r\n");
    scene.await_end();
    assert_eq!((scene.failures().len(), scene.backend.metrics.errors.get()), (1, 1));
    assert!(lock(&client.received.0).is_empty());
}

#[test]
fn a_retired_connection_ends_when_all_is_answered() {
    let mut scene = Scene::new(Protocol::Resp2);
    let client = Client::new();
    scene.send(&client, b"a");
    scene.expect(b"a");
    scene.backend.close_all();
    assert!(scene.backend.shared(scene.shared.mode).is_none());
    scene.reply(b"+a\r\n");
    assert_eq!(client.replies(), b"+a\r\n");
    scene.await_end();
    assert!(scene.failures().is_empty());
}

#[test]
fn a_reply_that_takes_long_keeps_the_connection_and_the_others_leave() {
    let mut scene = Scene::new(Protocol::Resp2);
    scene.supervisor.is_up.store(true, Ordering::SeqCst);
    let clients = [Client::new(), Client::new()];
    let since = Instant::now();
    scene.send(&clients[0], b"a");
    scene.expect(b"a");
    scene.send(&clients[1], b"b");
    let leave = |client: &Client| scene.backend.leave_shared(&scene.shared, &client.router, since);
    thread::sleep(LONG_REPLY_TIME);
    assert!(leave(&clients[1]).is_none(), "no reply has begun");
    scene.reply(b"$5\r\nhal");
    while lock(&scene.shared.head).incomplete.is_none() {
        thread::yield_now();
    }
    thread::sleep(LONG_REPLY_TIME);
    let leave = |client: &Client| scene.backend.leave_shared(&scene.shared, &client.router, since);
    assert!(leave(&clients[0]).is_none(), "its own reply comes");
    assert!(matches!(leave(&clients[1]), Some(SharedFailure::Stale)));
    clients[1].router.take_back();
    assert!(scene.backend.shared(scene.shared.mode).is_none(), "another may take its place");
    scene.reply(b"lo\r\n");
    assert_eq!(clients[0].replies(), b"$5\r\nhallo\r\n");
}

#[test]
fn a_client_that_leaves_a_failed_connection_takes_the_others_along() {
    let mut scene = Scene::new(Protocol::Resp2);
    let clients = [Client::new(), Client::new()];
    let since = Instant::now();
    scene.send(&clients[0], b"a");
    scene.expect(b"a");
    scene.send(&clients[1], b"b");
    // It is down, and may not be waited for.
    let left = scene.backend.leave_shared(&scene.shared, &clients[0].router, since);
    assert!(matches!(left, Some(SharedFailure::Backend(BackendError::TimedOut))), "{left:?}");
    let (failure, received, _) = clients[1].failure();
    assert!(matches!(failure, SharedFailure::Stale) && received.is_empty(), "{failure:?}");
    scene.await_end();
    assert!(scene.failures().is_empty(), "the client's session counts it");
}

#[test]
fn a_reply_is_long_as_soon_as_it_says_so() {
    for (header, is_kept) in [(&b"$100000\r\n"[..], true), (b"$3000000\r\n", false)] {
        let mut scene = Scene::new(Protocol::Resp2);
        let clients = [Client::new(), Client::new()];
        scene.send(&clients[0], b"a");
        scene.expect(b"a");
        scene.send(&clients[1], b"b");
        scene.reply(header);
        let (failure, ..) = clients[0].failure();
        assert!(matches!(failure, SharedFailure::LongReply), "{failure:?}");
        if is_kept {
            assert_eq!(clients[1].router.progress(), Progress::UnderWay);
        } else {
            assert!(matches!(clients[1].failure().0, SharedFailure::Stale), "it takes too long");
        }
    }
}
