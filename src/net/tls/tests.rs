//! TLS sessions between each other, and with ends that break the rules.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::error::TlsError;
use super::session::{ReadWait, TlsSession};
use super::test_support::configs;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

/// Two ends of a connection.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("accepted");
    let server = listener.accept().expect("a client").0;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
    }
    (client, server)
}

/// A client that is rustls alone, and our session for it with its socket.
fn connected() -> (StreamOwned<ClientConnection, TcpStream>, TcpStream, TlsSession) {
    let (server_config, client_config) = configs();
    let (client, server) = sockets();
    let client = thread::spawn(move || {
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(client_config, name).expect("a client");
        let mut client = StreamOwned::new(connection, client);
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).expect("a handshake");
        }
        client
    });
    let connection = ServerConnection::new(server_config).expect("a server");
    let session = TlsSession::handshake(&server, connection, &[], Instant::now() + LONG);
    (client.join().expect("no panic"), server, session.expect("a handshake"))
}

fn read(session: &TlsSession, socket: &TcpStream, timeout: Duration) -> std::io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(timeout)).expect("a timeout");
    let mut buffer = Vec::with_capacity(1 << 16);
    session.read(socket, &mut buffer, ReadWait::SocketTimeout(timeout)).map(|_| buffer)
}

#[test]
fn bytes_that_the_socket_does_not_take_are_offered_again_and_arrive_once() {
    let (mut client, socket, session) = connected();
    let bytes: Vec<u8> = (0..8 << 20).map(|n: u32| (n / 7) as u8).collect();
    let reader = thread::spawn(move || {
        thread::sleep(SHORT);
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all)
    });
    let (mut sent, mut refusals) = (0, 0);
    while sent < bytes.len() {
        match session.send_now(&socket, &bytes[sent..]).expect("a client") {
            0 => {
                refusals += 1;
                thread::sleep(Duration::from_millis(1));
            }
            length => sent += length,
        }
    }
    session.close(&socket);
    socket.shutdown(Shutdown::Write).expect("an end");
    assert!(refusals > 0, "the socket took all at once");
    assert!(reader.join().expect("no panic").expect("an orderly end") == bytes);
}

#[test]
fn one_thread_reads_while_another_writes() {
    let (mut client, socket, session) = connected();
    let (socket, session) = (Arc::new(socket), Arc::new(session));
    let writer = {
        let (socket, session) = (Arc::clone(&socket), Arc::clone(&session));
        thread::spawn(move || {
            for number in 0..1000_u32 {
                let bytes = number.to_be_bytes();
                assert_eq!(session.send_now(&*socket, &bytes).expect("room"), 4);
            }
        })
    };
    let echo = thread::spawn(move || {
        let mut bytes = [0; 4000];
        client.read_exact(&mut bytes).expect("bytes");
        client.write_all(&bytes).expect("room");
        client
    });
    let mut received = Vec::new();
    while received.len() < 4000 {
        received.extend(read(&session, &socket, LONG).expect("bytes"));
    }
    writer.join().expect("no panic");
    let expected: Vec<u8> = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
    assert_eq!(received, expected);
    let mut client = echo.join().expect("no panic");
    client.conn.send_close_notify();
    client.flush().expect("room");
    assert_eq!(read(&session, &socket, LONG).expect("the end"), b"");
    assert_eq!(session.send_now(&*socket, b"still answered").expect("room"), 14);
    let mut answer = [0; 14];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"still answered");
}

#[test]
fn a_record_that_comes_in_pieces_does_not_prolong_the_wait() {
    let (mut client, mut server, session) = connected();
    client.conn.writer().write_all(b"late").expect("room");
    let mut record = Vec::new();
    client.conn.write_tls(&mut record).expect("a record");
    assert!(!session.has_input(&server));
    let mut sock = client.sock.try_clone().expect("a socket");
    let slow = thread::spawn(move || {
        for byte in record {
            sock.write_all(&[byte]).expect("room");
            thread::sleep(SHORT);
        }
    });
    let began = Instant::now();
    let error = read(&session, &server, SHORT * 2).expect_err("only a part");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() < SHORT * 20, "{:?}", began.elapsed());
    slow.join().expect("no panic");
    let deadline = Instant::now() + LONG;
    while !session.has_input(&server) && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(session.plain_bytes(), 4);
    assert_eq!(read(&session, &server, LONG).expect("bytes"), b"late");
    // Bytes that are no record.
    client.sock.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("room");
    let error = read(&session, &server, LONG).expect_err("no record");
    assert!(TlsError::of(&error).is_some(), "{error}");
    assert_eq!(read(&session, &server, LONG).expect("the end"), b"");
    server.flush().expect("a socket");
}

#[test]
fn a_handshake_ends_in_time_and_says_what_is_wrong() {
    let (server_config, client_config) = configs();
    let handshake = |server: &TcpStream, received: &[u8], time| {
        let connection = ServerConnection::new(Arc::clone(&server_config)).expect("a server");
        TlsSession::handshake(server, connection, received, Instant::now() + time)
            .expect_err("no handshake")
    };
    let (client, server) = sockets();
    assert!(matches!(handshake(&server, b"\x16\x03\x01", SHORT), TlsError::TimedOut));
    drop(client);
    let (client, server) = sockets();
    drop(client);
    assert!(matches!(handshake(&server, b"\x16\x03\x01", LONG), TlsError::Ended));

    // A server that answers as Redis does.
    let (client, mut server) = sockets();
    server.write_all(b"-ERR unknown command\r\n").expect("room");
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(client_config, name).expect("a client");
    let error = TlsSession::handshake(&client, connection, &[], Instant::now() + LONG);
    assert!(matches!(error, Err(TlsError::NotTls)), "{error:?}");
}
