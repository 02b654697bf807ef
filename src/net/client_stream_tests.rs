use std::io::{Read, Write};
use std::thread;

use super::*;

const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(10);

/// All that is on its way between two sockets has arrived by then.
const STALL: Duration = Duration::from_millis(100);

/// A client, and our end of its connection.
fn connected() -> (TcpStream, ClientStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    ClientStream::prepare(SockRef::from(&listener), LONG).expect("options");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("accepted");
    poll(&mut [PollFd::new(&listener, PollFlags::IN)], LONG).expect("a wait");
    let (stream, address) = ClientStream::accept(&listener, LONG).expect("a client");
    assert_eq!(Some(address), client.local_addr().ok());
    assert_eq!(stream.local_address(), client.peer_addr().ok());
    let error = ClientStream::accept(&listener, LONG).expect_err("no other client");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    (client, stream)
}

fn is_timeout(read: io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
#[cfg(target_os = "linux")]
fn silent_clients_are_probed_as_redis_does_or_not_at_all() {
    for (seconds, interval, is_on) in [(300, 100, true), (1, 1, true), (0, 0, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        ClientStream::prepare(SockRef::from(&listener), Duration::from_secs(seconds))
            .expect("options");
        let _client = TcpStream::connect(listener.local_addr().expect("bound"));
        listener.set_nonblocking(false).expect("a socket");
        let (socket, _) = listener.accept().expect("a client");
        let socket = SockRef::from(&socket);
        assert_eq!(socket.keepalive().expect("an option"), is_on, "{seconds}");
        if is_on {
            let time = socket.tcp_keepalive_time().expect("an option");
            let between = socket.tcp_keepalive_interval().expect("an option");
            assert_eq!((time.as_secs(), between.as_secs()), (seconds, interval));
            assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 3);
        }
    }
}

#[test]
fn what_has_arrived_is_read_and_nothing_is_waited_for_too_long() {
    let (mut client, stream) = connected();
    let mut buffer = Vec::with_capacity(4);
    assert!(is_timeout(stream.read_now(&mut buffer)));
    assert!(is_timeout(stream.read(&mut buffer, SHORT)));
    assert_eq!(stream.arrived_bytes(), 0);
    client.write_all(b"123456").expect("room");
    assert!(stream.wait_for_room_or_input(LONG).expect("a wait"));
    assert_eq!(stream.arrived_bytes(), 6);
    assert_eq!(stream.read(&mut buffer, LONG).expect("bytes"), 4);
    buffer.clear();
    assert_eq!(stream.read_now(&mut buffer).expect("bytes"), 2);
    assert_eq!(buffer, b"56");
    assert!(!stream.is_gone());
    client.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(stream.read(&mut buffer, LONG).expect("the end"), 0);
    assert!(stream.is_gone());
}

#[test]
fn a_client_that_takes_nothing_is_sent_what_fits() {
    let (mut client, stream) = connected();
    let piece = [b'x'; 1 << 16];
    let mut sent = 0;
    loop {
        match stream.send_now(&piece).expect("a client") {
            // What arrives meanwhile may make some room.
            0 if !stream.wait(PollFlags::OUT, STALL).expect("a wait").contains(PollFlags::OUT) => {
                break;
            }
            length => sent += length,
        }
    }
    stream.wait_for_room(SHORT).expect("a wait");
    assert!(!stream.wait_for_room_or_input(SHORT).expect("a wait"));
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all.len())
    });
    while stream.send_last(b"end").expect("a client") == 0 {
        stream.wait_for_room(LONG).expect("a wait");
    }
    assert_eq!(reader.join().expect("no panic").expect("an orderly end"), sent + 3);
}

#[test]
fn a_wait_ends_with_input_or_with_what_else_is_waited_for() {
    let (mut client, stream) = connected();
    let (alarm, bell) = io::pipe().expect("a pipe");
    assert!(!stream.wait_for_input_or_pipe(&alarm, SHORT).expect("a wait"));
    drop(bell);
    assert!(!stream.wait_for_input_or_pipe(&alarm, LONG).expect("a wait"));
    client.write_all(b"1").expect("room");
    stream.wait_for_room_or_input(LONG).expect("a wait");
    assert!(stream.wait_for_input_or_pipe(&alarm, LONG).expect("a wait"));
}

#[test]
fn the_wait_of_a_thread_that_reads_is_ended() {
    let (_client, stream) = connected();
    thread::scope(|scope| {
        let read = scope.spawn(|| stream.read(&mut Vec::with_capacity(1), LONG));
        stream.end_input();
        assert_eq!(read.join().expect("no panic").expect("the end"), 0);
    });
}

/// Counts bytes.
#[derive(Debug, Default)]
struct Counted([AtomicU64; 2]);

impl ByteCounter for Counted {
    fn received(&self, bytes: usize) {
        self.0[0].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn sent(&self, bytes: usize) {
        self.0[1].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[test]
fn bytes_are_counted_from_the_moment_on_at_which_that_begins() {
    let (mut client, stream) = connected();
    client.write_all(b"123").expect("room");
    let mut buffer = Vec::with_capacity(64);
    assert_eq!(stream.read(&mut buffer, LONG).expect("bytes"), 3);
    let counted = Arc::new(Counted::default());
    stream.count_bytes(Arc::clone(&counted) as Arc<dyn ByteCounter>, buffer.len());
    client.write_all(b"4567").expect("room");
    assert_eq!(stream.read(&mut buffer, LONG).expect("bytes"), 4);
    assert!(is_timeout(stream.read_now(&mut buffer)));
    assert_eq!(stream.send_now(b"89").expect("room"), 2);
    assert_eq!(stream.send_last(b"0").expect("room"), 1);
    assert_eq!(counted.0.each_ref().map(|count| count.load(Ordering::Relaxed)), [7, 3]);
}
