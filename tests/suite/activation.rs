//! Sockets that another process has opened and passed on: restarts that no client notices.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::resp::encode;
use crate::support::{SetOnDrop, wait_until};

fn server() -> RedisServer {
    let server = RedisServer::start();
    server.command(&["SET", "greeting", "hello"]);
    server
}

/// An `lb` whose descriptor 3 is this, and that is told of `count` of them.
fn lb_with(passed: impl Into<OwnedFd>, count: usize, backend: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\""])
        .args([env!("CARGO_BIN_EXE_lb"), "--backend", backend])
        .env("LISTEN_FDS", count.to_string())
        .stdin(Stdio::from(passed.into()));
    command
}

fn start_on(listener: &TcpListener, server: &RedisServer) -> Balancer {
    let listener = listener.try_clone().expect("a descriptor");
    Balancer::spawn(lb_with(listener, 1, &server.address()))
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// Returns whether the connection goes on.
fn http_request(client: &mut Client) -> bool {
    let answer = client.get("/greeting");
    assert_eq!((answer.status, answer.is_whole), (200, true));
    assert_eq!(answer.json(), "hello");
    answer.header("connection") != Some("close")
}

/// Returns whether the connection goes on; it may have ended before these commands, but neither
/// within a reply nor between two, as the commands arrive together.
fn resp_pipeline(stream: &mut TcpStream) -> bool {
    let reply = b"$5\r\nhello\r\n".repeat(8);
    let mut got = Vec::new();
    // Sent after the end of the session, the commands may be refused.
    if stream.write_all(&encode(&["GET", "greeting"]).repeat(8)).is_ok() {
        let _ = stream.take(reply.len() as u64).read_to_end(&mut got);
    }
    assert!(got.is_empty() || got == reply, "cut: {:?}", String::from_utf8_lossy(&got));
    !got.is_empty()
}

/// Asks without end: each connection once, or as long as it goes on.
fn ask(kind: usize, port: u16, is_over: &AtomicBool, answered: &AtomicUsize) {
    let (is_http, stays) = (kind & 1 == 0, kind & 2 == 0);
    while !is_over.load(Ordering::Relaxed) {
        let stream = connect(port);
        let (mut http, mut resp) = match is_http {
            true => (Some(Client::new(stream)), None),
            false => (None, Some(stream)),
        };
        let mut goes_on = true;
        while goes_on && !is_over.load(Ordering::Relaxed) {
            goes_on = match (&mut http, &mut resp) {
                (Some(client), _) => http_request(client),
                (_, Some(stream)) => resp_pipeline(stream),
                _ => false,
            };
            if is_http || goes_on {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            goes_on &= stays;
            thread::sleep(Duration::from_millis(fastrand::u64(1..20)));
        }
    }
}

#[test]
fn restarts_under_load_refuse_nobody_and_leave_no_request_without_its_whole_answer() {
    const KINDS: usize = 4;
    let server = server();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let mut lb = start_on(&listener, &server);
    assert_eq!(lb.port(), port);
    let is_over = AtomicBool::new(false);
    let answered: [AtomicUsize; KINDS] = Default::default();
    let is_over = &is_over;
    thread::scope(|scope| {
        let _end = SetOnDrop(is_over);
        let askers: Vec<_> = (0..3 * KINDS)
            .map(|i| (i % KINDS, &answered[i % KINDS]))
            .map(|(kind, count)| scope.spawn(move || ask(kind, port, is_over, count)))
            .collect();
        let all_are_answered = || {
            let before = answered.each_ref().map(|count| count.load(Ordering::Relaxed));
            wait_until("clients of all kinds are answered", || {
                assert!(!askers.iter().any(|asker| asker.is_finished()), "one has failed");
                let more = |(count, before): (&AtomicUsize, _)| {
                    count.load(Ordering::Relaxed) > before + 20
                };
                answered.iter().zip(before).all(more)
            });
        };
        all_are_answered();
        for starts_before_the_end in [true, false, true, false] {
            let started = starts_before_the_end.then(|| start_on(&listener, &server));
            lb.signal("-TERM");
            assert_eq!(lb.wait().code(), Some(0));
            assert!(!lb.log().contains("not done in time"), "{}", lb.log());
            lb = started.unwrap_or_else(|| start_on(&listener, &server));
            all_are_answered();
        }
    });
}

#[test]
fn the_host_that_is_served_follows_the_socket_that_was_passed_on() {
    let server = server();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut command = lb_with(listener, 1, &server.address());
    command.args(["--listen", "0.0.0.0:0"]);
    let lb = Balancer::spawn(command);
    let mut client = lb.client();
    client.send("GET /greeting HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n");
    assert_eq!(client.answer().expect("an answer").status, 421);
    wait_until("the request is logged", || lb.log().contains(" 421 "));
    let warning = "WARN  --listen has no effect: lb serves the socket that was passed on";
    assert!(lb.log().contains(warning), "{}", lb.log());
    assert!(!lb.log().contains("other machines"));
}

#[test]
fn what_is_passed_on_and_is_not_one_listening_tcp_socket_is_an_error() {
    let error = |passed: OwnedFd, count: usize| {
        let output = lb_with(passed, count, "127.0.0.1:1").output().expect("lb starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tempfile::tempfile().expect("a temporary file");
    let unix = UnixListener::bind(folder.path().join("socket")).expect("a socket");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let connected = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    for (passed, count, why) in [
        (file.into(), 1, "not a socket"),
        (unix.into(), 1, "not a valid tcp socket"),
        (connected.into(), 1, "does not listen"),
        (listener.into(), 2, "2 were passed on"),
    ] {
        let said = error(passed, count);
        assert!(said.starts_with("error: LISTEN_FDS: ") && said.contains(why), "{said}");
    }
}

#[test]
fn the_socket_that_was_passed_on_is_no_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let own = listener.local_addr().expect("bound").to_string();
    let output = lb_with(listener, 1, &own).output().expect("lb starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains("where lb itself listens"), "{said}");
}

#[test]
fn a_socket_that_was_passed_on_to_another_process_is_left_alone() {
    let server = server();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--backend", &server.address()]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    assert_eq!(Balancer::spawn(command).get("/greeting").json(), "hello");
}
