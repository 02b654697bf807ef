//! Sessions that end within a reply, or with an error: the client gets what was sent before, and an orderly end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::encode;
use crate::support::wait_until;

const MIB: usize = 1024 * 1024;

/// More than both kernels hold for a client that does not read.
const SENT_BYTES: usize = 16 * MIB;

/// Reads slowly; returns how many bytes have come before the end, or before an error.
fn read_slowly(client: &mut TcpStream) -> (usize, std::io::Result<()>) {
    let (mut piece, mut total) = (vec![0; 256 * 1024], 0);
    loop {
        match client.read(&mut piece) {
            Ok(0) => return (total, Ok(())),
            Ok(length) => total += length,
            Err(error) => return (total, Err(error)),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sends bytes from a thread of their own: while they are not taken, replies are read.
fn send_beside(client: &TcpStream, bytes: Vec<u8>) {
    let mut client = client.try_clone().expect("a socket");
    // What is not taken any more is not missed.
    thread::spawn(move || drop(client.write_all(&bytes)));
}

#[test]
fn a_session_that_is_cut_within_a_reply_ends_with_what_was_sent_of_it() {
    let server = RedisServer::start();
    server.command(&[&b"SET"[..], b"long", &vec![b'x'; 2 * SENT_BYTES]]);
    let relay = Relay::with(&server, &Rule::new(Fault::Close).asked("long").after(SENT_BYTES));
    let lb = Balancer::start_at(&[relay.address()], &[]);
    let mut client = lb.connect();
    let mut commands = encode(&["GET", "long"]);
    commands.extend(encode(&["PING"]).repeat(100_000));
    send_beside(&client, commands);
    wait_until("the session is cut", || lb.log().contains("failed within a reply"));
    let (total, end) = read_slowly(&mut client);
    assert!(end.is_ok(), "{end:?} after {total} bytes");
    assert_eq!(total, SENT_BYTES);
}

#[test]
fn an_error_that_ends_a_session_comes_after_all_replies_to_a_client_that_reads_slowly() {
    let server = RedisServer::start();
    server.command(&[&b"SET"[..], b"long", &vec![b'x'; SENT_BYTES]]);
    let lb = Balancer::start(&[&server]);
    let mut client = lb.connect();
    let mut commands = encode(&["GET", "long"]);
    commands.extend_from_slice(b"*1\r\n!\r\n");
    commands.extend(encode(&["PING"]).repeat(100_000));
    send_beside(&client, commands);
    let (total, end) = read_slowly(&mut client);
    assert!(end.is_ok(), "{end:?} after {total} bytes");
    let head = format!("${SENT_BYTES}\r\n").len();
    let error = "-ERR Protocol error: expected '$', got '!'\r\n".len();
    assert_eq!(total, head + SENT_BYTES + 2 + error);
}

#[test]
fn replies_come_before_the_end_where_quit_itself_has_none() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let lb = Balancer::start(&[&server]);
    for silence in ["CLIENT REPLY OFF", "CLIENT REPLY SKIP"] {
        let mut client = lb.connect();
        let commands = ["GET key", "GET key", "GET key", silence, "QUIT"];
        let encoded = commands.map(|words| encode(&words.split(' ').collect::<Vec<_>>()));
        client.write_all(&encoded.concat()).expect("lb reads");
        let mut replies = String::new();
        client.read_to_string(&mut replies).expect("an orderly end");
        assert_eq!(replies, "$5\r\nvalue\r\n".repeat(3), "{silence}");
    }
}
