//! Backends behind links that are slow: a reply that trickles is as bad as none, and holds up no other.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::client::Client;
use crate::support::observe::{metric, states};
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Replies of 50 KB are held until they are whole; longer ones than 64 KiB need a connection of the client's own.
const LENGTHS: [(&str, usize); 4] =
    [("short", 10), ("held", 50_000), ("long", 100_000), ("huge", 3_000_000)];

/// Time that all of these reads take at most, on a busy machine. At 5 KB a second, 50 KB take ten.
const SOON: Duration = Duration::from_secs(5);

/// With a value of each length.
fn filled() -> RedisServer {
    let server = RedisServer::start();
    for (name, length) in LENGTHS {
        server.command(&["SET", &format!("key:{name}"), &"x".repeat(length)]);
    }
    server
}

fn length(name: &str) -> usize {
    LENGTHS.iter().find(|(other, _)| *other == name).expect("its length").1
}

/// The way of a read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    RedisPooled,
    RedisShared,
    HttpPooled,
    HttpShared,
}

const WAYS: [Way; 4] = [Way::RedisPooled, Way::RedisShared, Way::HttpPooled, Way::HttpShared];

/// A client whose next read goes that way, unless it is long.
enum Reader {
    Redis(RespClient),
    Http(Client, &'static str),
}

impl Reader {
    fn new(lb: &Balancer, way: Way) -> Self {
        let mut reader = match way {
            Way::RedisPooled | Way::RedisShared => Self::Redis(RespClient::connect(lb.port())),
            Way::HttpPooled => Self::Http(lb.client(), "?format=raw"),
            Way::HttpShared => Self::Http(lb.client(), ""),
        };
        if matches!(way, Way::RedisShared | Way::HttpShared) {
            // The first makes a connection shared, and shows what is found there.
            (0..3).for_each(|_| reader.read("short"));
        }
        reader
    }

    fn send(&mut self, name: &str) {
        match self {
            Self::Redis(client) => client.send(&["GET", &format!("key:{name}")]),
            Self::Http(client, query) => {
                client.send(format!("GET /key:{name}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            }
        }
    }

    fn receive(&mut self, name: &str) {
        let received = match self {
            Self::Redis(client) => client.reply(),
            Self::Http(client, _) => {
                let answer = client.answer().expect("an answer");
                assert!(answer.status == 200 && answer.is_whole, "{:?}", answer.headers);
                answer.body
            }
        };
        assert_eq!(received.iter().filter(|&&byte| byte == b'x').count(), length(name));
    }

    fn read(&mut self, name: &str) {
        self.send(name);
        self.receive(name);
    }
}

/// A balancer in front of two servers, each after a relay.
fn start(servers: &[RedisServer; 2], arguments: &[&str]) -> (Balancer, [Relay; 2]) {
    let relays = servers.each_ref().map(Relay::start);
    (Balancer::start_at(&relays.each_ref().map(Relay::address), arguments), relays)
}

#[test]
fn a_reply_that_trickles_comes_from_another_backend() {
    let servers = [filled(), filled()];
    let read = |way| {
        for (bytes_a_second, name) in [(1, "short"), (5000, "held"), (5000, "long")] {
            // A byte comes within it, each time.
            let (lb, relays) = start(&servers, &["--backend-timeout", "1500ms"]);
            let mut reader = Reader::new(&lb, way);
            let slow = Fault::Bandwidth(bytes_a_second);
            let rule = Rule::new(slow).asked(format!("key:{name}\r\n")).times(1);
            relays.iter().for_each(|relay| relay.add(&rule));
            let began = Instant::now();
            reader.read(name);
            let took = began.elapsed();
            assert_eq!(rule.happened(), 1, "{way:?} {name}");
            assert!(took < SOON, "{way:?} {name} at {bytes_a_second} bytes a second: {took:?}");
        }
    };
    thread::scope(|scope| WAYS.map(|way| scope.spawn(move || read(way))).map(|one| one.join()))
        .into_iter()
        .for_each(|read| read.expect("no panic"));
}

#[test]
fn a_long_reply_that_trickles_is_cut_off_while_another_backend_is_up() {
    let servers = [filled(), filled()];
    let (lb, relays) = start(&servers, &["--backend-timeout", "500ms"]);
    let rule = Rule::new(Fault::Bandwidth(5000)).asked("key:huge\r\n").after(1_000_000);
    relays.iter().for_each(|relay| relay.add(&rule));
    let mut client = RespClient::connect(lb.port());
    let began = Instant::now();
    client.send(&["GET", "key:huge"]);
    assert!(client.try_reply().is_err(), "it is not whole");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    wait_until("the session is over", || client.is_closed());
}

#[test]
fn a_slow_reply_of_the_only_backend_is_waited_for() {
    let server = filled();
    let relay = Relay::with(&server, &Rule::new(Fault::Bandwidth(25_000)).asked("key:"));
    let lb = Balancer::start_at(&[relay.address()], &["--backend-timeout", "300ms"]);
    for way in WAYS {
        Reader::new(&lb, way).read("held");
    }
}

#[test]
fn a_client_that_reads_slowly_is_no_failure_of_its_backend() {
    let servers = [filled(), filled()];
    let (lb, _relays) = start(&servers, &["--backend-timeout", "1s"]);
    let mut client = RespClient::connect(lb.port());
    client.send(&["GET", "key:huge"]);
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(client.reply().len(), "$3000000\r\n\r\n".len() + 3_000_000);
    assert_eq!(metric(&lb, "redis_lb_backend_errors_total"), 0.0);
}

#[test]
fn quick_reads_leave_a_backend_as_soon_as_it_is_down() {
    for way in WAYS {
        let servers = [filled(), filled()];
        let checks = ["--check-interval", "100ms", "--check-timeout", "200ms", "--fall", "2"];
        let (lb, _relays) = start(&servers, &[&["--backend-timeout", "12s"][..], &checks].concat());
        wait_until("both are up", || states(&lb) == ["up", "up"]);
        // They take turns at the backends.
        let mut readers = [(); 2].map(|()| Reader::new(&lb, way));
        servers[0].freeze();
        let began = Instant::now();
        readers.iter_mut().for_each(|reader| reader.send("short"));
        readers.iter_mut().for_each(|reader| reader.receive("short"));
        assert!(began.elapsed() < SOON, "{way:?}: {:?}", began.elapsed());
        wait_until("it is down", || states(&lb) == ["down", "up"]);
        servers[0].thaw();
    }
}

#[test]
fn a_long_reply_on_a_shared_connection_holds_up_no_short_one() {
    let server = filled();
    for (way, name) in [
        (Way::RedisShared, "held"),
        (Way::RedisShared, "long"),
        (Way::HttpShared, "held"),
        (Way::HttpShared, "long"),
    ] {
        let relay = Relay::start(&server);
        let lb = Balancer::start_at(&[relay.address()], &[]);
        let mut readers = [(); 4].map(|()| Reader::new(&lb, way));
        let slow = Rule::new(Fault::Bandwidth(5000)).asked(format!("key:{name}\r\n"));
        relay.add(&slow);
        let (long, short) = readers.split_first_mut().expect("readers");
        long.send(name);
        wait_until("its reply has begun", || slow.happened() > 0);
        let began = Instant::now();
        short.iter_mut().for_each(|reader| reader.send("short"));
        short.iter_mut().for_each(|reader| reader.receive("short"));
        assert!(began.elapsed() < SOON, "{way:?} after {name}: {:?}", began.elapsed());
    }
}
