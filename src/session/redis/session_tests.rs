//! Whole sessions with a client on a real socket, without a backend.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::balance::Balancer;
use crate::config::Config;
use crate::metrics::Refusal;
use crate::net::client_stream::ClientStream;
use crate::net::protocol::WireProtocol;
use crate::session::client::{Client, ClientSocket, Endpoint};

/// A balancer whose only backend refuses connections.
fn balancer() -> Arc<Balancer> {
    // Port 1 is nobody's.
    let args = ["lb", "--backend=127.0.0.1:1", "--quiet"].map(str::to_owned);
    let balancer = Balancer::new(Config::from_arguments(args).expect("a configuration"));
    balancer.add_all(balancer.config().servers());
    balancer
}

fn connected() -> (TcpStream, Arc<ClientSocket>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("accepted");
    let (stream, address) = ClientStream::accept(&listener, Duration::ZERO).expect("a client");
    (client, Arc::new(ClientSocket::new(stream, address)))
}

/// What a client gets that sends `commands` at once, and nothing after them.
fn replies(balancer: &Balancer, commands: &str) -> String {
    let (mut client, socket) = connected();
    client.write_all(commands.as_bytes()).expect("room");
    client.shutdown(Shutdown::Write).expect("an end");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let reader = thread::spawn(move || {
        let mut replies = String::new();
        client.read_to_string(&mut replies).map(|_| replies)
    });
    let session = Client::new(&socket, Endpoint::Public, balancer);
    super::converse(session, Vec::new(), Instant::now(), balancer);
    drop(socket);
    reader.join().expect("no panic").expect("replies")
}

#[test]
fn what_needs_no_backend_is_answered_in_order() {
    let balancer = balancer();
    let commands = "PING\r\nECHO a\r\nPING b\r\nCLIENT SETNAME me\r\nCLIENT GETNAME\r\n";
    let expected = "+PONG\r\n$1\r\na\r\n$1\r\nb\r\n+OK\r\n$2\r\nme\r\n";
    assert_eq!(replies(&balancer, commands), expected);
    assert_eq!(balancer.metrics.answered_here.resp.get(), 5);

    let silent =
        "CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nPING\r\nPING\r\n";
    assert_eq!(replies(&balancer, silent), "+OK\r\n+PONG\r\n");
    assert_eq!(balancer.metrics.answered_here.resp.get(), 11);
}

#[test]
fn a_transaction_without_commands_is_ended_as_its_client_says() {
    let balancer = balancer();
    let commands =
        "EXEC\r\nMULTI\r\nMULTI\r\nDISCARD\r\nMULTI\r\nWATCH a\r\nDISCARD\r\nQUIT\r\nPING\r\n";
    let expected = "-ERR EXEC without MULTI\r\n+OK\r\n-ERR MULTI calls can not be nested\r\n+OK\r\n+OK\r\n\
                    -ERR WATCH inside MULTI is not allowed\r\n+OK\r\n+OK\r\n";
    assert_eq!(replies(&balancer, commands), expected);
}

#[test]
fn bytes_that_are_no_command_end_the_session_after_the_replies() {
    let balancer = balancer();
    let bytes = "PING\r\n*1\r\n+3\r\nPING\r\n";
    let expected = "+PONG\r\n-ERR Protocol error: expected '$', got '+'\r\n";
    assert_eq!(replies(&balancer, bytes), expected);
    assert_eq!(balancer.metrics.refused(WireProtocol::Resp, Refusal::BadRequest), 1);
    assert_eq!(balancer.metrics.answered_here.resp.get(), 2);
}

#[test]
fn a_command_that_no_backend_can_answer_gets_an_error_and_the_session_goes_on() {
    let balancer = balancer();
    let replies = replies(&balancer, "GET a\r\nPING\r\n");
    let (error, rest) = replies.split_once("\r\n").expect("two replies");
    assert!(error.starts_with("-ERR no backend could answer"), "{error}");
    assert_eq!(rest, "+PONG\r\n");
    assert_eq!(balancer.metrics.refused(WireProtocol::Resp, Refusal::Unanswered), 1);
    assert_eq!(balancer.metrics.answered_here.resp.get(), 2);
}
