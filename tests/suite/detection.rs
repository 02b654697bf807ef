//! HTTP and the Redis protocol on one port: the first bytes of a connection tell which it is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::client::Client;
use crate::support::redis::RedisServer;

fn start_with(arguments: &[&str]) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    server.command(&["SET", "greeting", "hello"]);
    let lb = Balancer::start_with(&[&server], arguments);
    (server, lb)
}

fn start() -> (RedisServer, Balancer) {
    start_with(&[])
}

fn session(lb: &Balancer) -> redis::Connection {
    redis::Client::open(format!("redis://127.0.0.1:{}", lb.port()))
        .and_then(|client| client.get_connection())
        .expect("a session")
}

/// Sends each byte in a piece of its own.
fn send_slowly(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_nodelay(true).expect("a socket");
    for byte in bytes {
        stream.write_all(&[*byte]).expect("lb reads");
        // Lets most bytes arrive alone; right answers do not depend on it.
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn clients_of_both_protocols_read_at_the_same_time_through_one_port() {
    let (_server, lb) = start();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = lb.client();
                for _ in 0..200 {
                    assert_eq!(client.get("/greeting").json(), "hello");
                }
            });
            scope.spawn(|| {
                let mut session = session(&lb);
                for _ in 0..200 {
                    let value: String =
                        redis::cmd("GET").arg("greeting").query(&mut session).expect("a value");
                    assert_eq!(value, "hello");
                }
            });
        }
    });
}

#[test]
fn a_post_is_http_and_no_command_in_its_body_is_run() {
    let (server, lb) = start();
    let body = "SET greeting stolen\r\nGET greeting\r\n";
    let head = format!("Host: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    for line in ["POST / HTTP/1.1", "POST /greeting HTTP/1.1", "OPTIONS * HTTP/1.1"] {
        let mut client = lb.client();
        client.send(format!("{line}\r\n{head}{body}"));
        assert_eq!(client.statuses(), [405], "{line}");
    }
    assert_eq!(server.command(&["GET", "greeting"]), redis::Value::BulkString(b"hello".into()));
}

#[test]
fn http_within_a_session_ends_it_without_a_reply_but_behind_those_that_are_due() {
    let (_server, lb) = start();
    let due = "+PONG\r\n$5\r\nhello\r\n";
    for http in [
        "POST / HTTP/1.1\r\n",
        "post\r\n",
        "Host: localhost\r\n",
        "host:\r\n",
        "*1\r\n$4\r\nPOST\r\n",
        "*2\r\n$5\r\nHost:\r\n$1\r\nx\r\n",
    ] {
        let sent = format!("PING\r\nGET greeting\r\n{http}PING\r\n");
        assert_eq!(String::from_utf8_lossy(&lb.talk(sent.as_bytes())), due, "{http:?}");
    }
    assert!(lb.talk(b"POST\r\nPING\r\n").is_empty());
    // What has no HTTP method in capitals is Redis, whose error comes before the Host.
    let answer = lb.talk(b"get /greeting HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("-ERR ") && answer.lines().count() == 1, "{answer:?}");
}

#[test]
fn a_first_line_may_come_byte_by_byte() {
    let (_server, lb) = start();
    let pong = b"+PONG\r\n";
    let hello = b"$5\r\nhello\r\n";
    let cases: [(&[u8], &[u8]); 7] = [
        (b"PING\r\n", pong),
        (b"\r\nPING\r\n", pong),
        (b"*1\r\n$4\r\nPING\r\n", pong),
        (b"*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n", hello),
        (b"GET greeting\r\n", hello),
        (b"GET htt\r\n", b"$-1\r\n"),
        (b"ECHO ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n", b"$26\r\nABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n"),
    ];
    for (sent, expected) in cases {
        let mut stream = lb.connect();
        send_slowly(&mut stream, sent);
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply, expected, "{}", sent.escape_ascii());
    }
    for line in ["GET /greeting HTTP/1.1", "\r\nGET / HTTP/1.1", "GET http://localhost/ HTTP/1.1"] {
        let mut stream = lb.connect();
        send_slowly(&mut stream, line.as_bytes());
        let mut client = Client::new(stream);
        client.send("\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.answer().expect("an answer").status, 200, "{line:?}");
    }
}

#[test]
fn clients_over_the_limit_are_told_so_in_the_protocol_that_they_speak() {
    let (_server, lb) = start_with(&["--max-clients", "2"]);
    // Idle HTTP clients would make room.
    let mut held = [(); 2].map(|()| session(&lb));
    let full = "-ERR max number of clients reached\r\n";
    for command in ["*1\r\n$4\r\nPING\r\n", "PING\r\n", "GET greeting\r\n"] {
        assert_eq!(String::from_utf8_lossy(&lb.talk(command.as_bytes())), full, "{command:?}");
    }
    for line in ["GET /greeting HTTP/1.1", "POST / HTTP/1.1", "GET http://localhost/ HTTP/1.1"] {
        let answer = lb.talk(format!("{line}\r\nHost: localhost\r\n\r\n").as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{line}: {}", answer.escape_ascii());
    }
    for session in &mut held {
        redis::cmd("PING").exec(session).expect("who is served stays served");
    }
}

/// No client library of Redis understands an `H`.
#[test]
fn a_client_over_the_limit_that_has_said_nothing_is_closed_without_a_word() {
    let (_server, lb) = start_with(&["--max-clients", "1"]);
    let mut held = session(&lb);
    // More than may wait to be told so, all at once, and some that have said too little.
    let crowd: Vec<TcpStream> = (0..200).map(|_| lb.connect()).collect();
    crowd.iter().step_by(10).for_each(|mut stream| _ = stream.write_all(b"\r\nGET"));
    for mut stream in crowd {
        let mut answer = Vec::new();
        // Closed before it was read, it is reset.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.escape_ascii().to_string(), "");
    }
    redis::cmd("PING").exec(&mut held).expect("who is served stays served");
}
