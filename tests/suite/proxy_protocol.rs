//! Clients behind a proxy that names their addresses, and how many clients one address may have.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::balancer::{Answer, Balancer};
use crate::support::certificates::Certificates;
use crate::support::client::connect_from;
use crate::support::front::Front;
use crate::support::observe::metric;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::tls::{TlsClient, config};
use crate::support::wait_until;

const PROXY: &str = "--proxy-protocol";

const PER_ADDRESS: &str = "--max-clients-per-address";

/// Longest time in which the address of a client that names none is refused.
const AT_ONCE: Duration = Duration::from_secs(5);

const FULL: &str = "-ERR max number of clients reached for this address\r\n";

fn start(flags: &[&str]) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let lb = Balancer::start_with(&[&server], flags);
    (server, lb)
}

/// The header of version 1 for a client of this address.
fn text_header(source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().expect("an address");
    let (family, own) = if source.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {own} {} 1310\r\n", source.ip(), source.port()).into()
}

/// A header of version 2 with this body.
fn binary_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, body].concat()
}

/// 192.0.2.7:4711, with something that proxies add.
fn binary_ipv4_header() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x67, 5, 30];
    binary_header(0x21, 0x11, &[&addresses[..], &[4, 0, 2, 0, 0]].concat())
}

/// A Redis client behind a proxy that has sent this header.
fn behind(lb: &Balancer, header: &[u8]) -> RespClient {
    let mut client = RespClient::new(lb.connect());
    client.send_raw(header);
    client
}

/// The addresses that `CLIENT INFO` tells: its own, and ours.
fn addr(client: &mut RespClient) -> String {
    let info = client.call("CLIENT INFO");
    let addr = info.split(' ').find_map(|field| field.strip_prefix("addr="));
    addr.unwrap_or_else(|| panic!("{info}")).to_owned()
}

#[test]
fn the_address_that_a_proxy_names_is_the_clients() {
    let (_server, lb) = start(&[PROXY]);
    for (header, expected) in [
        (text_header("192.0.2.7:4711"), "192.0.2.7:4711"),
        (text_header("[2001:db8::7]:4711"), "[2001:db8::7]:4711"),
        (binary_ipv4_header(), "192.0.2.7:4711"),
    ] {
        let mut client = behind(&lb, &header);
        assert_eq!(addr(&mut client), expected);
        assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
        wait_until("it is in the log", || lb.log().contains(&format!("{expected} reads from")));
        // What comes in one packet with the header is the client's, and the header may come in pieces.
        let mut client = behind(&lb, &[&header[..], b"GET key\r\n"].concat());
        assert_eq!(client.reply(), b"$5\r\nvalue\r\n");
        let mut client = behind(&lb, &header[..3]);
        client.send_raw(&header[3..]);
        assert_eq!(addr(&mut client), expected);
        let request = b"GET /key HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(Answer::parse(&lb.talk(&[&header[..], request].concat())).json(), "value");
    }
    // The proxy speaks for itself, or does not know its client.
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary_header(0x20, 0, b""),
        binary_header(0x21, 0x31, &[b'/'; 216]),
    ] {
        let mut client = behind(&lb, &header);
        let own = client.stream().local_addr().expect("bound");
        assert_eq!(addr(&mut client), own.to_string());
    }
}

#[test]
fn a_connection_without_a_header_is_closed_counted_and_logged() {
    let (_server, lb) = start(&[PROXY]);
    let began = Instant::now();
    for bytes in [
        &b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"PING\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x02\0",
        b"PROXY TCP4 here there 1 2\r\nPING\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
    ] {
        let answer = lb.talk(bytes);
        assert!(answer.is_empty(), "{}: {}", bytes.escape_ascii(), answer.escape_ascii());
    }
    // Half a header, then the end.
    let mut socket = lb.connect();
    socket.write_all(b"PROXY TCP4 192.0.2.7 ").expect("room");
    socket.shutdown(std::net::Shutdown::Write).expect("a connection");
    assert_eq!(socket.read(&mut [0]).expect("the end"), 0);
    assert!(began.elapsed() < AT_ONCE, "it took {:.1?}", began.elapsed());
    let mut client =
        behind(&lb, b"PROXY UNKNOWN\r\nGET /-/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let metrics = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(metrics.contains("without_proxy_header_connections_total 7\n"), "{metrics}");
    let line =
        "connection closed, because it begins with no PROXY header: let the proxy there send one";
    wait_until("the log tells", || lb.log().contains(line));
    assert_eq!(lb.log().matches("connection closed, because").count(), 1, "{}", lb.log());
}

#[test]
fn a_header_that_nobody_has_asked_for_is_told_at_once_and_logged_once_for_each_address() {
    let (_server, lb) = start(&[]);
    let began = Instant::now();
    let text = text_header("192.0.2.7:4711");
    let refused = "a PROXY header came first, which takes --proxy-protocol";
    for header in [&text[..], &binary_ipv4_header()] {
        for (request, expected) in [
            (&b"GET /key HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], "HTTP/1.1 400 "),
            (b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 400 "),
            (b"*1\r\n$4\r\nPING\r\n", "-ERR "),
        ] {
            let answer = lb.talk(&[header, request].concat());
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with(expected) && answer.contains(refused), "{answer}");
        }
    }
    let text = String::from_utf8_lossy(&lb.talk(&text)).into_owned();
    assert!(text.is_empty(), "nobody is behind the header: {text}");
    assert!(began.elapsed() < AT_ONCE, "it took {:.1?}", began.elapsed());
    let line = "because it begins with a PROXY header, which takes --proxy-protocol";
    wait_until("the log tells", || lb.log().contains(line));
    assert_eq!(lb.log().matches(line).count(), 1, "{}", lb.log());
    assert!(!lb.log().contains("no Redis command"), "{}", lb.log());
}

#[test]
fn tls_and_the_answers_over_the_limit_come_after_the_header() {
    let certificates = Certificates::new("ca");
    let flags = certificates.server().flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (_server, lb) = start(&[&flags[..], &[PROXY, "--max-clients", "1"]].concat());
    let config = config(&certificates.ca(), None);
    let connect = || {
        let mut socket = lb.connect();
        socket.write_all(&text_header("192.0.2.7:4711")).expect("room");
        TlsClient::handshake(socket, &config)
    };
    let mut first = connect().expect("a handshake");
    assert!(first.call("CLIENT INFO").contains(" addr=192.0.2.7:4711 "));
    // One that is late is closed without an answer.
    wait_until("TLS gets an alert", || {
        connect().is_err_and(|error| error.to_string().contains("InternalError"))
    });
    let header = text_header("192.0.2.8:4711");
    let probe = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wait_until("a probe is answered", || {
        lb.talk(&[&header[..], probe].concat()).starts_with(b"HTTP/1.1 200 ")
    });
    wait_until("a Redis client is told", || {
        let answer = lb.talk(&[&binary_ipv4_header()[..], b"PING\r\n"].concat());
        answer == b"-ERR max number of clients reached\r\n"
    });
    assert!(lb.talk(b"PING\r\n").is_empty(), "without a header");
}

#[test]
fn haproxy_in_front_names_its_clients_and_checks_without_complaint() {
    let (_server, lb) = start(&[PROXY]);
    for sends in ["send-proxy check-send-proxy", "send-proxy-v2 check-send-proxy"] {
        let to = lb.port();
        let haproxy = Front::haproxy(&format!(
            "listen redis\n mode tcp\n bind 127.0.0.1:PORT\n \
             server lb 127.0.0.1:{to} {sends} check inter 50ms\n"
        ));
        let mut served = None;
        wait_until("haproxy serves", || {
            served = TcpStream::connect(("127.0.0.1", haproxy.port)).ok().and_then(|socket| {
                let mut client = RespClient::new(socket);
                client.try_send_raw("PING\r\n").ok()?;
                client.try_reply().ok().map(|_| client)
            });
            served.is_some()
        });
        let mut client = served.expect("a client");
        let own = client.stream().local_addr().expect("bound");
        assert_eq!(addr(&mut client), own.to_string(), "{sends}");
        assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
        // Checks come and go meanwhile.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
    }
    assert!(!lb.log().contains("connection closed, because"), "{}", lb.log());
}

#[test]
fn one_address_cannot_take_the_places_of_the_others() {
    let (_server, lb) = start(&["--max-clients", "20", PER_ADDRESS, "5"]);
    let greedy = |count: usize| -> Vec<RespClient> {
        let connect = |_| RespClient::new(connect_from([127, 0, 0, 2], lb.port()));
        (0..count).map(connect).collect()
    };
    let ask = |bytes: &str| {
        let mut client = RespClient::new(connect_from([127, 0, 0, 2], lb.port()));
        // It may be closed already.
        let _ = client.try_send_raw(bytes);
        String::from_utf8_lossy(&client.rest()).into_owned()
    };
    let mut served = greedy(5);
    served.iter_mut().for_each(|client| assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n"));
    let mut told = 0;
    for _ in 0..50 {
        let answer = ask("PING\r\n");
        // One that says nothing within 20 ms gets no answer.
        assert!(answer == FULL || answer.is_empty(), "{answer}");
        told += usize::from(answer == FULL);
    }
    assert!(told > 0);
    wait_until("HTTP has its own answer", || {
        let answer = ask("GET /key HTTP/1.1\r\nHost: localhost\r\n\r\n");
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nRetry-After: 1\r\n")
    });
    // Another address has its own places, and probes of a full one are answered.
    for _ in 0..3 {
        assert_eq!(lb.get("/key").json(), "value");
    }
    wait_until("a probe is answered", || {
        let answer = ask("GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        answer.starts_with("HTTP/1.1 200 ")
    });
    assert_eq!(metric(&lb, "redis_lb_turned_away_clients_total"), 0.0);
    assert!(metric(&lb, "redis_lb_turned_away_by_address_clients_total") >= 51.0);
    let line = "127.0.0.2 has 5 clients, and further ones are refused (--max-clients-per-address)";
    wait_until("the log tells", || lb.log().contains(line));
    // A place that is free is given again.
    drop(served.pop());
    wait_until("a place is free", || ask("GET key\r\n") == "$5\r\nvalue\r\n");
}

#[test]
fn behind_a_proxy_the_clients_own_address_counts_and_an_ipv6_network_is_one() {
    let (_server, lb) = start(&[PROXY, PER_ADDRESS, "2"]);
    for (own, same, other) in [
        ("192.0.2.7:1", "192.0.2.7:2", "192.0.2.8:1"),
        ("[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff::2]:1", "[2001:db8:0:2::1]:1"),
    ] {
        let served: Vec<_> = [own, same]
            .map(|address| {
                let mut client = behind(&lb, &text_header(address));
                assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
                client
            })
            .into();
        let mut refused = behind(&lb, &[&text_header(own)[..], b"PING\r\n"].concat());
        assert_eq!(String::from_utf8_lossy(&refused.rest()), FULL);
        let mut silent = behind(&lb, &text_header(own));
        assert!(silent.rest().is_empty(), "it has said nothing, and is closed");
        let mut client = behind(&lb, &text_header(other));
        assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
        drop(served);
        wait_until("the places are free", || {
            let mut client = behind(&lb, &[&text_header(own)[..], b"PING\r\n"].concat());
            client.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n")
        });
    }
}

#[test]
fn the_limit_of_an_address_follows_the_configuration_and_counts_those_who_are_there() {
    let server = RedisServer::start();
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("redis-lb.toml");
    let write = |line: &str| {
        let text = format!("backend = [\"{}\"]\n{line}\n", server.address());
        fs::write(&file, text).expect("a file");
    };
    write("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--config"]).arg(&file);
    let lb = Balancer::spawn(command);
    let mut clients: Vec<_> = (0..3).map(|_| RespClient::connect(lb.port())).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.call("PING"), "+PONG\r\n"));
    write("max-clients-per-address = 3");
    lb.signal("-HUP");
    wait_until("further clients are refused", || {
        let mut client = RespClient::connect(lb.port());
        client.try_send_raw("PING\r\n").expect("room");
        client.rest() == FULL.as_bytes()
    });
    clients.iter_mut().for_each(|client| assert_eq!(client.call("PING"), "+PONG\r\n"));
    write("max-clients-per-address = 4");
    lb.signal("-HUP");
    wait_until("a fourth is served", || {
        let mut client = RespClient::connect(lb.port());
        client.try_send_raw("PING\r\n").expect("room");
        client.rest() == b"+PONG\r\n"
    });
}
