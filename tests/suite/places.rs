//! There is a place for newcomers, and an answer for probes, whatever idle and slow clients hold.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::SetOnDrop;
use crate::support::balancer::{Answer, Balancer};
use crate::support::client::Client;
use crate::support::observe::metric;
use crate::support::redis::{RedisServer, free_port};
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Longer than a client has to be idle before it makes room.
const IDLE_TIME: Duration = Duration::from_millis(150);

/// Longer than a client has to have said nothing before it makes room.
const SILENT_TIME: Duration = Duration::from_millis(1100);

/// Well below the time for which a slow client is waited for.
const AT_ONCE: Duration = Duration::from_millis(1300);

const LOAD_TIME: Duration = Duration::from_secs(3);

fn start_with(arguments: &[&str]) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    for number in 0..32 {
        server.command(&["SET", &format!("key:{number}"), &format!("value:{number}")]);
    }
    let lb = Balancer::start_with(&[&server], arguments);
    (server, lb)
}

/// Clients that have had an answer and keep their connections.
fn idle_clients(lb: &Balancer, count: usize) -> Vec<Client> {
    let client = |_| {
        let mut client = lb.client();
        assert_eq!(client.get("/key:1").json(), "value:1");
        client
    };
    (0..count).map(client).collect()
}

#[test]
fn idle_http_clients_make_room_for_newcomers_and_the_oldest_go_first() {
    let (_server, lb) = start_with(&["--max-clients", "16"]);
    let mut idle = idle_clients(&lb, 5);
    thread::sleep(IDLE_TIME);
    idle.extend(idle_clients(&lb, 11));
    assert_eq!(idle[0].get("/key:1").status, 200);
    thread::sleep(IDLE_TIME);
    let mut newcomers: Vec<RespClient> = Vec::new();
    for _ in 0..4 {
        let mut newcomer = RespClient::connect(lb.port());
        assert_eq!(newcomer.call("GET key:2"), "$7\r\nvalue:2\r\n");
        newcomers.push(newcomer);
    }
    for (number, client) in idle.iter_mut().enumerate() {
        match (1..=4).contains(&number) {
            true => assert!(client.is_at_end(), "{number} was idle for longest"),
            false => assert_eq!(client.get("/key:1").json(), "value:1", "{number} stays"),
        }
    }
    // The client that asks for the metrics needs a place as well, once one is idle for long enough.
    wait_until("they are counted", || metric(&lb, "redis_lb_closed_idle_clients_total") >= 5.0);
    assert_eq!(lb.log().matches("idle HTTP clients are closed").count(), 1);
}

#[test]
fn silent_connections_make_room_and_redis_clients_keep_their_places() {
    let (_server, lb) = start_with(&["--max-clients", "8"]);
    let mut pooled: Vec<_> = (0..4).map(|_| RespClient::connect(lb.port())).collect();
    pooled.iter_mut().for_each(|client| assert_eq!(client.call("PING"), "+PONG\r\n"));
    let silent: Vec<Client> = (0..4).map(|_| lb.client()).collect();
    thread::sleep(SILENT_TIME);
    for _ in 0..4 {
        let mut newcomer = RespClient::connect(lb.port());
        assert_eq!(newcomer.call("PING"), "+PONG\r\n");
        pooled.push(newcomer);
    }
    thread::sleep(IDLE_TIME);
    let refused = RespClient::connect(lb.port()).call("PING");
    assert_eq!(refused, "-ERR max number of clients reached\r\n", "all of them keep their places");
    assert_eq!(lb.get("/key:1").status, 503);
    pooled.iter_mut().for_each(|client| assert_eq!(client.call("GET key:1"), "$7\r\nvalue:1\r\n"));
    assert!(silent.into_iter().all(|mut client| client.is_at_end()));
}

#[test]
fn some_places_are_kept_free_before_a_newcomer_needs_one() {
    let (_server, lb) = start_with(&["--max-clients", "128"]);
    let mut idle = idle_clients(&lb, 2);
    thread::sleep(IDLE_TIME);
    idle.extend(idle_clients(&lb, 124));
    thread::sleep(IDLE_TIME);
    let mut newcomer = idle_clients(&lb, 1);
    assert!(idle[0].is_at_end() && idle[1].is_at_end());
    assert_eq!(newcomer[0].get("/key:1").status, 200);
    assert_eq!(idle[2].get("/key:1").status, 200);
}

/// One request; `None` if the connection has ended before the answer began.
fn ask(client: &mut Client, number: usize) -> Option<Answer> {
    let request = format!("GET /key:{number} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.try_send(request).ok()?;
    match client.try_answer() {
        Ok(answer) => answer,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("an answer broke off: {error}"),
    }
}

/// Asks again and again, with pauses in which it may be closed. Returns how many requests were answered.
fn pause_and_ask(lb: &Balancer, number: usize, is_over: &AtomicBool) -> usize {
    let (mut answered, mut client) = (0, lb.client());
    while !is_over.load(Ordering::Relaxed) {
        match ask(&mut client, number) {
            Some(answer) if answer.status == 200 => {
                assert!(answer.is_whole);
                assert_eq!(answer.json(), format!("value:{number}"));
                answered += 1;
                if answer.header("connection") == Some("close") {
                    assert!(client.is_at_end());
                }
                thread::sleep(Duration::from_millis(90 + 7 * number as u64));
            }
            Some(answer) => {
                assert_eq!(answer.status, 503);
                client = lb.client();
            }
            None => client = lb.client(),
        }
    }
    answered
}

#[test]
fn a_request_that_comes_while_its_client_makes_room_is_answered_whole_or_not_at_all() {
    let (_server, lb) = start_with(&["--max-clients", "16"]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        let ask = |number| {
            let (lb, is_over) = (&lb, &is_over);
            scope.spawn(move || pause_and_ask(lb, number, is_over))
        };
        let clients: Vec<_> = (0..32).map(ask).collect();
        thread::sleep(LOAD_TIME);
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("no wrong answer") > 0, "everybody is served");
        }
    });
    assert!(metric(&lb, "redis_lb_closed_idle_clients_total") > 16.0);
}

/// Clients that send these bytes and no more.
fn crowd(port: u16, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
        // It may be closed already.
        let _ = stream.write_all(bytes);
        stream
    };
    (0..count).map(connect).collect()
}

/// GET over a connection of its own.
fn get(port: u16, path: &str) -> Answer {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    Client::new(stream).get(path)
}

/// Probes are answered, each at once.
fn assert_probes(port: u16, crowd: &str) {
    for path in ["/-/health", "/-/ready", "/-/health?from=k8s"] {
        let began = Instant::now();
        let answer = get(port, path);
        assert_eq!(answer.status, 200, "{path} beside {crowd}");
        assert!(began.elapsed() < AT_ONCE, "{path} beside {crowd}: {:?}", began.elapsed());
    }
}

#[test]
fn probes_of_the_admin_address_are_answered_whatever_others_do_there() {
    let admin = free_port();
    let address = format!("127.0.0.1:{admin}");
    let (_server, lb) = start_with(&["--admin-listen", &address]);
    wait_until("it is ready", || get(admin, "/-/ready").status == 200);
    let half = b"GET /-/metrics HTTP/1.1\r\nHost: loc";
    for (name, bytes) in [("silent clients", &b""[..]), ("half heads", half)] {
        let _crowd = crowd(admin, 200, bytes);
        assert_probes(admin, name);
        // Clients that have just come are given a moment to ask for something.
        wait_until(name, || get(admin, "/-/metrics").status == 200);
    }
    // These have to be waited for: they may be about to read.
    let metrics = b"GET /-/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4096);
    let _crowd = crowd(admin, 100, &metrics);
    assert_probes(admin, "clients that do not read");
    assert_eq!(lb.get("/key:1").json(), "value:1");
}

#[test]
fn a_silent_client_of_the_admin_address_is_closed_within_seconds() {
    let admin = free_port();
    let address = format!("127.0.0.1:{admin}");
    let (_server, _lb) = start_with(&["--admin-listen", &address]);
    let began = Instant::now();
    let [silent] = <[_; 1]>::try_from(crowd(admin, 1, b"")).expect("one");
    let [slow] = <[_; 1]>::try_from(crowd(admin, 1, b"GET /-/ HTTP/1.1\r\n")).expect("one");
    assert!(Client::new(silent).is_at_end());
    assert_eq!(Client::new(slow).answer().expect("an answer").status, 408);
    // It was ten seconds.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[test]
fn slow_clients_of_the_public_port_keep_no_probe_waiting() {
    let (_server, lb) = start_with(&["--max-clients", "64"]);
    let slow = crowd(lb.port(), 300, b"GET /key:1 HTTP/1.1\r\nHost: loc");
    assert_probes(lb.port(), "half heads");
    // After a while, they make room for others as well.
    wait_until("there is a place", || lb.get("/key:1").status == 200);
    drop(slow);
    let mut busy: Vec<_> = (0..64).map(|_| RespClient::connect(lb.port())).collect();
    wait_until("all places are taken", || {
        busy.retain_mut(|client| {
            client
                .try_send_raw("PING\r\n")
                .and_then(|()| client.try_reply())
                .is_ok_and(|reply| reply == b"+PONG\r\n")
        });
        busy.resize_with(64, || RespClient::connect(lb.port()));
        lb.get("/key:1").status == 503
    });
    assert_probes(lb.port(), "sessions that keep their places");
}

/// Seconds until the kernel probes a client of the balancer; `None` if it does not.
#[cfg(target_os = "linux")]
fn seconds_to_probe(lb: &Balancer, client: &TcpStream) -> Option<u64> {
    let port = client.local_addr().expect("connected").port();
    let ends = [lb.port(), port].map(|port| format!("0100007F:{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|row| row[1..3] == ends).expect("a connection");
    let (timer, hundredths) = row[5].split_once(':').expect("a timer");
    // A timer of this kind waits to probe an idle connection.
    (timer == "02").then(|| u64::from_str_radix(hundredths, 16).expect("a number") / 100)
}

/// A router in between forgets connections that are silent for longer, mostly.
#[test]
#[cfg(target_os = "linux")]
fn a_silent_client_is_probed_after_five_minutes_or_as_it_is_configured() {
    for (arguments, expected) in [
        (&[][..], Some(290..=300)),
        (&["--client-keepalive", "60s"], Some(50..=60)),
        (&["--client-keepalive", "0s"], None),
    ] {
        let (_server, lb) = start_with(arguments);
        let mut client = RespClient::connect(lb.port());
        assert_eq!(client.call("PING"), "+PONG\r\n");
        wait_until("all is acknowledged", || {
            match (seconds_to_probe(&lb, client.stream()), &expected) {
                (None, None) => true,
                (Some(seconds), Some(expected)) => expected.contains(&seconds),
                _ => false,
            }
        });
    }
}
