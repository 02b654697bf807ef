//! The end of the process, and what happens when it runs out of descriptors before that.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::{Answer, Balancer};
use crate::support::client::Client;
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
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
fn running_request(lb: &Balancer) -> Client {
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
        assert!(idle.is_at_end() && silent.is_at_end(), "nobody waits long for an idle client");
        let answer = running.answer().expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert_eq!(answer.json(), "hello");
        assert!(running.is_at_end());
        assert_eq!(lb.wait().code(), Some(0), "{signal}");
        assert!(lb.log().trim_end().ends_with("ended"));
    }
}

#[test]
fn an_answer_that_is_under_way_is_sent_to_its_end_and_the_request_behind_it_is_answered() {
    let (server, mut lb) = start_with(&[]);
    let long = "x".repeat(32 * 1024 * 1024);
    server.command(&["SET", "long", &long]);
    let mut client = lb.client();
    client.send("GET /long?format=raw HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!client.is_at_end(), "the answer begins");
    signal_and_wait_until_draining(&lb, "-TERM");
    let answer = client.answer().expect("an answer");
    assert!(answer.body == long.as_bytes());
    assert_eq!(answer.header("connection"), None, "it began before the signal");
    assert_eq!(client.get("/greeting").header("connection"), Some("close"));
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
fn from_the_signal_on_it_is_not_ready_and_serves_on_for_the_drain_delay() {
    let (_server, mut lb) = start_with(&["--drain-delay", "3s"]);
    let text = |answer: Answer| (answer.status, String::from_utf8_lossy(&answer.body).into_owned());
    assert_eq!(text(lb.get("/-/ready")), (200, "READY\n".to_owned()));
    assert_eq!(text(lb.get("/-/health")), (200, "OK\n".to_owned()));
    let mut idle = lb.client();
    assert_eq!(idle.get("/greeting").status, 200);
    let began = Instant::now();
    lb.signal("-TERM");
    wait_until("it is not ready", || text(lb.get("/-/ready")) == (503, "NOT READY\n".to_owned()));
    assert_eq!(text(lb.get("/-/health")), (200, "OK\n".to_owned()));
    assert_eq!(lb.get("/greeting").json(), "hello", "a new client");
    assert_eq!(idle.get("/greeting").header("connection"), None, "nobody is sent away yet");
    wait_until("no client is accepted", || lb.log().contains("no new clients"));
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert_eq!(text(idle.get("/-/health")), (200, "OK\n".to_owned()));
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn an_idle_client_whose_next_request_comes_as_the_drain_begins_is_told_to_leave_in_an_answer() {
    let (_server, mut lb) = start_with(&[]);
    let mut idle = lb.client();
    assert_eq!(idle.get("/greeting").header("connection"), None);
    signal_and_wait_until_draining(&lb, "-TERM");
    let last = idle.get("/greeting");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(last.json(), "hello");
    assert!(idle.is_at_end());
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn clients_that_wait_in_the_kernels_queue_when_the_drain_begins_are_served() {
    let (_server, mut lb) = start_with(&[]);
    lb.signal("-STOP");
    let mut http: Vec<Client> = (0..50).map(|_| lb.client()).collect();
    let mut resp: Vec<RespClient> = (0..50).map(|_| RespClient::connect(lb.port())).collect();
    http.iter_mut().for_each(|client| client.send("GET /greeting HTTP/1.1\r\nHost: [::1]\r\n\r\n"));
    resp.iter_mut().for_each(|client| client.send(&["GET", "greeting"]));
    lb.signal("-TERM");
    lb.signal("-CONT");
    for client in &mut http {
        assert_eq!(client.answer().expect("an answer").json(), "hello");
    }
    for client in &mut resp {
        assert_eq!(client.reply(), b"$5\r\nhello\r\n");
    }
    drop((http, resp));
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn redis_clients_get_the_replies_to_all_that_had_arrived_when_the_drain_ended_their_sessions() {
    let (server, mut lb) = start_with(&["--backend-timeout", "15s"]);
    let mut idle = RespClient::connect(lb.port());
    idle.call("PING");
    let mut subscriber = RespClient::connect(lb.port());
    subscriber.call("SUBSCRIBE channel");
    let mut busy = RespClient::connect(lb.port());
    busy.call("GET greeting");
    server.freeze();
    busy.send(&["GET", "greeting"]);
    for number in 0..1000 {
        busy.send(&["ECHO", &number.to_string()]);
    }
    signal_and_wait_until_draining(&lb, "-TERM");
    assert!(idle.is_closed() && subscriber.is_closed());
    server.thaw();
    assert_eq!(busy.reply(), b"$5\r\nhello\r\n");
    for number in 0..1000 {
        let number = number.to_string();
        assert_eq!(busy.reply(), format!("${}\r\n{number}\r\n", number.len()).as_bytes());
    }
    assert!(busy.is_closed());
    assert_eq!(lb.wait().code(), Some(0));
}

#[test]
fn a_redis_client_that_never_stops_sending_is_ended_between_two_replies() {
    let (_server, mut lb) = start_with(&[]);
    let mut client = RespClient::connect(lb.port());
    let mut stream = client.stream().try_clone().expect("a socket");
    let sender = thread::spawn(move || {
        let batch = encode(&["GET", "greeting"]).repeat(20);
        while stream.write_all(&batch).is_ok() {}
    });
    let mut replies = 0;
    let end = loop {
        match client.try_reply() {
            Ok(reply) => assert_eq!(reply, b"$5\r\nhello\r\n"),
            Err(error) => break error,
        }
        replies += 1;
        if replies == 10_000 {
            lb.signal("-TERM");
        }
    };
    client.stream().shutdown(Shutdown::Both).expect("a connection");
    sender.join().expect("no panic");
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof, "an end in good order: {end}");
    assert!(replies >= 10_000, "{replies}");
    assert_eq!(lb.wait().code(), Some(0));
    assert!(!lb.log().contains("not done in time"));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (_server, mut lb) = start_with(&["--demo-delay", "60s"]);
    let _running = running_request(&lb);
    signal_and_wait_until_draining(&lb, "-TERM");
    assert!(lb.is_running());
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(1));

    let (_server, mut lb) = start_with(&["--drain-delay", "60s"]);
    lb.signal("-TERM");
    wait_until("it is not ready", || lb.get("/-/ready").status == 503);
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(1), "during the drain delay");
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
    let (_server, mut lb) = start_with(&["--drain-timeout", "300s"]);
    let began = Instant::now();
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn out_of_descriptors_it_waits_says_so_and_serves_again_when_there_are_some() {
    let server = RedisServer::start();
    server.command(&["SET", "greeting", "hello"]);
    let mut lb = Balancer::start(&[&server]);
    let mut first = lb.client();
    assert_eq!(first.get("/greeting").status, 200);
    // What is too low at the start limits clients instead.
    lb.limit_descriptors(40);
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
    let mut lb = Balancer::start(&[&server]);
    lb.limit_descriptors(40);
    let _clients: Vec<TcpStream> = (0..60).map(|_| lb.connect()).collect();
    wait_until("it backs off", || lb.log().contains("can't take a client"));
    lb.signal("-TERM");
    assert_eq!(lb.wait().code(), Some(0));
}
