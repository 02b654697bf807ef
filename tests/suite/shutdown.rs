//! The end of the process, and what happens when it runs out of descriptors before that.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::wait_until;

fn start_with(arguments: &[&str]) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    server.command(&["SET", "greeting", "hello"]);
    let lb = Balancer::start_with(&[&server], arguments);
    (server, lb)
}

fn signal_and_wait_until_draining(lb: &Balancer, signal: &str) {
    lb.signal(signal);
    wait_until("no client is accepted", || lb.log().contains("no new clients"));
}

/// A request that is being held for its `--demo-delay`.
fn running_request(lb: &Balancer) -> crate::support::client::Client {
    let mut client = lb.client();
    client.send("GET /greeting HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_until("the request runs", || lb.log().contains("held for"));
    client
}

#[test]
fn a_signal_lets_running_requests_finish_and_nothing_else_begin() {
    for signal in ["-TERM", "-INT"] {
        let (_server, mut lb) = start_with(&["--demo-delay", "1s"]);
        let mut idle = lb.client();
        assert_eq!(idle.get("/-/ping").status, 200);
        let mut silent = lb.client();
        let mut running = running_request(&lb);
        signal_and_wait_until_draining(&lb, signal);
        assert!(TcpStream::connect(("127.0.0.1", lb.port())).is_err(), "a new client");
        assert!(idle.is_at_end() && silent.is_at_end(), "nobody waits for an idle client");
        let answer = running.answer().expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert_eq!(answer.json(), "hello");
        assert!(running.is_at_end());
        assert_eq!(lb.wait().code(), Some(0), "{signal}");
        assert!(lb.log().trim_end().ends_with("ended"));
    }
}

#[test]
fn an_answer_that_is_under_way_is_sent_to_its_end() {
    let (server, mut lb) = start_with(&[]);
    let long = "x".repeat(32 * 1024 * 1024);
    server.command(&["SET", "long", &long]);
    let mut client = lb.client();
    client.send("GET /long?format=raw HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!client.is_at_end(), "the answer begins");
    signal_and_wait_until_draining(&lb, "-TERM");
    assert!(client.answer().expect("an answer").body == long.as_bytes());
    assert!(client.is_at_end());
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn requests_that_wait_behind_a_running_one_are_left_to_another_server() {
    let (_server, mut lb) = start_with(&["--demo-delay", "1500ms"]);
    let mut client = running_request(&lb);
    client.send("GET /greeting HTTP/1.1\r\nHost: localhost\r\n\r\n");
    signal_and_wait_until_draining(&lb, "-TERM");
    assert_eq!(client.statuses(), [200], "the answer says that it is the last");
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (_server, mut lb) = start_with(&["--demo-delay", "60s"]);
    let _running = running_request(&lb);
    signal_and_wait_until_draining(&lb, "-TERM");
    assert!(lb.is_running());
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(1));
}

#[test]
fn who_is_not_done_in_time_is_cut_off_and_the_end_is_orderly() {
    let (_server, mut lb) = start_with(&["--demo-delay", "60s", "--drain-timeout", "300ms"]);
    let mut client = running_request(&lb);
    let began = Instant::now();
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(client.is_at_end());
    assert!(lb.log().contains("not done in time: 1 clients"));
}

#[test]
fn without_clients_it_ends_at_once() {
    let (_server, mut lb) = start_with(&[]);
    let began = Instant::now();
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn out_of_descriptors_it_waits_says_so_and_serves_again_when_there_are_some() {
    let server = RedisServer::start();
    server.command(&["SET", "greeting", "hello"]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lb")]);
    command.args(["--listen", "127.0.0.1:0", "--backend", &server.address()]);
    let mut lb = Balancer::spawn(command);
    let mut first = lb.client();
    assert_eq!(first.get("/greeting").status, 200);
    let more: Vec<TcpStream> = (0..60).map(|_| lb.connect()).collect();
    wait_until("it backs off", || lb.log().contains("can't take a client"));
    assert_eq!(first.get("/greeting").status, 200, "who was there before is still served");
    drop(more);
    wait_until("it accepts again", || {
        let answer = lb.talk(b"GET /greeting HTTP/1.0\r\n\r\n");
        answer.ends_with(b"\r\n\r\n\"hello\"\n")
    });
    let attempts = lb.log().matches("can't take a client").count();
    assert!(attempts < 40, "{attempts} attempts: it must not spin");
    assert!(!lb.log().contains("panicked"));
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn it_ends_while_it_is_out_of_descriptors() {
    let server = RedisServer::start();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lb")]);
    command.args(["--listen", "127.0.0.1:0", "--backend", &server.address()]);
    let mut lb = Balancer::spawn(command);
    let _clients: Vec<TcpStream> = (0..60).map(|_| lb.connect()).collect();
    wait_until("it backs off", || lb.log().contains("can't take a client"));
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(0));
}
