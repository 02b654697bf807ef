//! The subscriptions of many clients on one connection to each server: who gets what, who is cut off, and what happens
//! when the server is lost.

use std::io::{BufReader, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::support::SetOnDrop;
use crate::support::balancer::Balancer;
use crate::support::observe::{clients_of, leases, metric, peak_memory_mib};
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode, read_frame};
use crate::support::wait_until;

const MIB: usize = 1024 * 1024;

/// How many subscribe in the test of many; 10,000 with `LB_SUBSCRIBERS=10000`.
fn many() -> usize {
    let number = std::env::var("LB_SUBSCRIBERS").ok();
    number.map_or(600, |number| number.parse().expect("LB_SUBSCRIBERS is a number"))
}

/// A client that only listens, with a small buffer: there are thousands.
struct Listener(BufReader<TcpStream>);

impl Listener {
    fn subscribe(lb: &Balancer, commands: &[&[&str]]) -> Self {
        let mut listener = Self(BufReader::with_capacity(1024, lb.connect()));
        for command in commands {
            std::io::Write::write_all(listener.0.get_mut(), &encode(command)).expect("lb reads");
            let reply = listener.frame().expect("a confirmation");
            assert!(reply.contains("subscribe"), "{reply}");
        }
        listener
    }

    fn frame(&mut self) -> std::io::Result<String> {
        let mut frame = Vec::new();
        read_frame(&mut self.0, &mut frame)?;
        Ok(String::from_utf8_lossy(&frame).into_owned())
    }

    /// The number in the next message.
    fn number(&mut self) -> u64 {
        let frame = self.frame().expect("a message");
        number_in(&frame).unwrap_or_else(|| panic!("no message: {frame}"))
    }

    /// Reads numbers, each greater than the one before, until one is at least this.
    fn read_up_to(&mut self, last: &mut Option<u64>, end: u64) {
        while last.is_none_or(|last| last < end) {
            let number = self.number();
            assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
            *last = Some(number);
        }
    }

    fn is_closed(&mut self) -> bool {
        loop {
            match self.frame() {
                Ok(_) => {}
                Err(error) => {
                    return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                }
            }
        }
    }
}

/// The last word of a message as a number.
fn number_in(frame: &str) -> Option<u64> {
    frame.contains("message").then_some(())?;
    frame.trim_end().rsplit("\r\n").next()?.parse().ok()
}

/// Publishes one number after the other at all servers that are there: a client that goes from one server to another
/// gets each at most once.
struct Publisher<'a> {
    servers: &'a [Mutex<RedisServer>],
    /// Those that are published at; locked while a number is.
    alive: Mutex<Vec<bool>>,
    next: AtomicU64,
    is_over: AtomicBool,
}

impl<'a> Publisher<'a> {
    fn new(servers: &'a [Mutex<RedisServer>]) -> Self {
        let alive = Mutex::new(vec![true; servers.len()]);
        Self { servers, alive, next: AtomicU64::new(0), is_over: AtomicBool::new(false) }
    }

    fn run(&self, pause: Duration) {
        let connections: Vec<_> =
            self.servers.iter().map(|server| lock(server).connect()).collect();
        let mut connections: Vec<redis::Connection> = connections;
        while !self.is_over.load(Ordering::Relaxed) {
            let alive = lock(&self.alive);
            let number = self.next.load(Ordering::SeqCst);
            for (connection, _) in
                connections.iter_mut().zip(alive.iter()).filter(|(_, is_alive)| **is_alive)
            {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg("news").arg(number).exec(connection).expect("the server takes it");
            }
            self.next.store(number + 1, Ordering::SeqCst);
            drop(alive);
            thread::sleep(pause);
        }
    }

    /// The first number that is not yet published.
    fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Does something to a server between two numbers; nothing is published there after it. Returns the next number.
    fn lose(&self, server: usize, lose: impl FnOnce(&mut RedisServer)) -> u64 {
        let mut alive = lock(&self.alive);
        alive[server] = false;
        lose(&mut lock(&self.servers[server]));
        self.next()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}

fn subscribers_at(server: &RedisServer, channel: &str) -> usize {
    let found = server.command(&["PUBSUB", "NUMSUB", channel]);
    redis::from_redis_value::<(String, usize)>(found).expect("a count").1
}

#[test]
fn many_subscribers_go_on_when_one_server_dies_and_one_freezes() {
    let servers = [(); 3].map(|()| Mutex::new(RedisServer::start()));
    let lb = {
        let servers = servers.each_ref().map(|server| lock(server));
        let servers = servers.each_ref().map(|server| &**server);
        // Checks notice nothing in time: the silence on the subscribers' own connection does.
        let arguments = ["--max-clients", "11000", "--check-timeout", "50s", "--quiet"];
        Balancer::start_with(&servers, &arguments)
    };
    let count = many();
    let publisher = Publisher::new(&servers);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&publisher.is_over);
        // As many deliveries a second, however many subscribe.
        scope.spawn(|| publisher.run(Duration::from_millis(20 + count as u64 / 30)));
        let subscribe = |_| (Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]), None);
        let mut listeners: Vec<(Listener, Option<u64>)> = (0..count).map(subscribe).collect();
        let share = count / 3;
        assert!(leases(&lb).iter().all(|leases| leases.abs_diff(share) <= 2), "{:?}", leases(&lb));
        for server in &servers {
            let server = lock(server);
            assert_eq!(subscribers_at(&server, "news"), 1);
            // With the one that publishes.
            assert!(clients_of(&server) <= 5, "{}", clients_of(&server));
        }
        let killed = publisher.lose(0, RedisServer::kill);
        for (listener, last) in &mut listeners {
            listener.read_up_to(last, killed + 1);
        }
        let frozen = publisher.lose(1, |server| server.freeze());
        for (listener, last) in &mut listeners {
            listener.read_up_to(last, frozen + 1);
        }
        wait_until("all leases are there", || leases(&lb) == [0, 0, count]);
        assert!(clients_of(&lock(&servers[2])) <= 5, "{}", clients_of(&lock(&servers[2])));
        let peak = peak_memory_mib(&lb);
        assert!(peak < 100 + count * 40 / 1024, "{peak} MiB");
    });
    assert!(lb.log().contains("messages in between may be lost"), "it is told");
}

#[test]
fn whoever_joins_a_channel_that_is_carried_misses_nothing_after_its_confirmation() {
    let servers = [Mutex::new(RedisServer::start())];
    let lb = Balancer::start(&[&*lock(&servers[0])]);
    let publisher = Publisher::new(&servers);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&publisher.is_over);
        scope.spawn(|| publisher.run(Duration::ZERO));
        let mut first = Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
        let mut others = Vec::new();
        for _ in 0..50 {
            // Its first frame is the confirmation.
            let mut listener = Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
            let confirmed_before = publisher.next();
            let number = listener.number();
            assert!(number <= confirmed_before + 1, "{number} after {confirmed_before}");
            others.push((listener, number));
        }
        let end = publisher.next();
        for (listener, last) in &mut others {
            while *last < end {
                let number = listener.number();
                assert_eq!(number, *last + 1, "each comes once, in order");
                *last = number;
            }
        }
        let mut last = first.number();
        while last < end {
            last += 1;
            assert_eq!(first.number(), last);
        }
    });
}

#[test]
fn a_channel_is_given_up_at_the_server_with_its_last_subscriber() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let [mut first, mut second] = [(); 2].map(|()| RespClient::connect(lb.port()));
    first.send(&["SUBSCRIBE", "a", "b"]);
    (0..2).for_each(|_| assert!(first.reply().starts_with(b"*3")));
    second.call("SUBSCRIBE a");
    let counts = || ["a", "b"].map(|channel| subscribers_at(&server, channel));
    assert_eq!(counts(), [1, 1]);
    first.call("UNSUBSCRIBE b");
    wait_until("nobody wants it", || counts() == [1, 0]);
    first.call("UNSUBSCRIBE");
    server.command(&["PUBLISH", "a", "x"]);
    assert!(second.reply().ends_with(b"x\r\n"), "another still wants it");
    assert_eq!(first.call("PING"), "+PONG\r\n", "it gets no message");
    drop(second);
    wait_until("nobody wants it", || counts() == [0, 0]);
    assert!(first.call("SUBSCRIBE a").ends_with(":1\r\n"));
    server.command(&["PUBLISH", "a", "y"]);
    assert!(first.reply().ends_with(b"y\r\n"));
}

#[test]
fn a_channel_and_patterns_that_match_bring_a_message_each_in_the_order_of_the_server() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    // Others have the channel alone, or the pattern alone.
    let mut channel = Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
    let mut pattern = Listener::subscribe(&lb, &[&["PSUBSCRIBE", "n*"]]);
    let mut both = Listener::subscribe(&lb, &[&["PSUBSCRIBE", "n*"], &["SUBSCRIBE", "news"]]);
    for number in 0..100_u64 {
        server.command(&["PUBLISH", "news", &number.to_string()]);
    }
    for number in 0..100 {
        let frames = [(); 2].map(|()| both.frame().expect("a message"));
        let words = frames.each_ref().map(|frame| frame.split("\r\n").nth(2).unwrap_or_default());
        assert_eq!(words, ["message", "pmessage"]);
        assert_eq!(frames.each_ref().map(|frame| number_in(frame)), [Some(number); 2]);
        assert_eq!([channel.number(), pattern.number()], [number; 2]);
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_off_and_others_get_every_message() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--max-memory", "1GiB"]);
    let mut slow = Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
    let mut fast = Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
    let message = "x".repeat(MIB);
    let mut sent = 0;
    while !lb.log().contains("it has not taken 32 MiB of its messages") {
        server.command(&["PUBLISH", "news", &message]);
        assert!(fast.frame().expect("each message").contains(&message));
        sent += 1;
        assert!(sent < 200, "nobody is cut off");
    }
    assert!(slow.is_closed());
    server.command(&["PUBLISH", "news", "1"]);
    assert_eq!(fast.number(), 1);
    wait_until("what it had left is given back", || {
        metric(&lb, "redis_lb_client_memory_bytes") < MIB as f64
    });
}

#[test]
fn messages_that_nobody_takes_stay_within_a_part_of_the_memory() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--max-memory", "32MiB"]);
    let mut fast = Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
    let listen = |_| Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
    let mut slow: Vec<Listener> = (0..20).map(listen).collect();
    let message = "x".repeat(MIB);
    for _ in 0..30 {
        server.command(&["PUBLISH", "news", &message]);
        assert!(fast.frame().expect("each message").contains(&message));
    }
    assert!(slow.iter_mut().all(Listener::is_closed));
    assert!(lb.log().contains("--max-memory"), "the log says why");
    let peak = peak_memory_mib(&lb);
    assert!(peak < 32 + 64, "{peak} MiB");
    server.command(&["PUBLISH", "news", "1"]);
    assert_eq!(fast.number(), 1);
}

#[test]
fn a_subscriber_that_is_slow_for_a_moment_gets_every_message() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--max-memory", "1GiB"]);
    let mut session = RespClient::connect(lb.port());
    session.call("HELLO 3");
    session.call("SUBSCRIBE news");
    // More than its socket takes, so that it is behind; then it asks for something as well.
    let text = "x".repeat(100_000);
    for number in 0..150 {
        server.command(&["PUBLISH", "news", &format!("{number} {text}")]);
    }
    session.send(&["PING"]);
    server.command(&["PUBLISH", "news", "150"]);
    let (mut next, mut has_pong) = (0, false);
    while next <= 150 || !has_pong {
        let frame = String::from_utf8(session.reply()).expect("text");
        if frame == "+PONG\r\n" {
            has_pong = true;
            continue;
        }
        let words: Vec<&str> = frame.split("\r\n").collect();
        let number = words[6].split(' ').next();
        assert_eq!(number, Some(&*next.to_string()));
        next += 1;
    }
}

#[test]
fn subscribers_are_closed_at_a_gap_if_they_are_to_be() {
    let mut servers = [(); 2].map(|()| RedisServer::start());
    let lb = Balancer::start_with(&servers.each_ref(), &["--on-gap", "close"]);
    let listen = |_| Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"]]);
    let mut listeners: Vec<Listener> = (0..4).map(listen).collect();
    servers[0].kill();
    wait_until("its subscribers leave", || leases(&lb) == [0, 2]);
    wait_until("it is told", || lb.log().contains("--on-gap close"));
    servers[1].command(&["PUBLISH", "news", "1"]);
    let mut heard = 0;
    for listener in &mut listeners {
        match listener.frame() {
            Ok(frame) => {
                assert_eq!(number_in(&frame), Some(1));
                heard += 1;
            }
            Err(error) => assert!(error.kind() != ErrorKind::WouldBlock, "{error}"),
        }
    }
    assert_eq!(heard, 2, "those of the other server go on");
}

#[test]
fn a_server_that_drops_the_connection_for_its_own_limit_has_a_gap() {
    let server = RedisServer::start();
    server.command(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1048576 0 0"]);
    let lb = Balancer::start(&[&server]);
    let listen = |_| Listener::subscribe(&lb, &[&["SUBSCRIBE", "news"], &["PSUBSCRIBE", "w*"]]);
    let mut listeners: Vec<Listener> = (0..5).map(listen).collect();
    server.command(&["PUBLISH", "news", &"x".repeat(2 * MIB)]);
    wait_until("it is told", || lb.log().contains("messages in between may be lost"));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        // The last of them may not be there yet.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                server.command(&["PUBLISH", "weather", "2"]);
                thread::sleep(Duration::from_millis(20));
            }
        });
        for listener in &mut listeners {
            assert_eq!(listener.number(), 2);
        }
    });
    assert_eq!(subscribers_at(&server, "news"), 1);
}

#[test]
fn a_fan_out_to_many_holds_up_no_other_channel() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--max-clients", "11000", "--quiet"]);
    let listen = |_| Listener::subscribe(&lb, &[&["SUBSCRIBE", "crowd"]]);
    let crowd: Vec<Listener> = (0..many()).map(listen).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        scope.spawn(|| {
            let mut direct = server.connect();
            // So little that nobody is cut off for not reading.
            for number in 0..2000 {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg("crowd").arg(number).exec(&mut direct).expect("the server takes it");
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            let mut session = RespClient::connect(lb.port());
            assert!(session.call("SUBSCRIBE quiet").ends_with(":1\r\n"));
            server.command(&["PUBLISH", "quiet", "1"]);
            assert!(session.reply().ends_with(b"1\r\n"));
        }
    });
    drop(crowd);
}

#[test]
fn a_further_subscription_that_is_refused_costs_nothing_of_what_there_is() {
    let servers = [(); 2].map(|()| RedisServer::start());
    let rule = "ACL SETUSER reader reset on >secret +@read +@pubsub +ping +select +command +info +hello ~* resetchannels &news";
    let urls = servers.each_ref().map(|server| {
        server.command(&rule.split(' ').collect::<Vec<_>>());
        format!("redis://reader:secret@{}", server.address())
    });
    let lb = Balancer::start_at(&urls, &[]);
    let mut client = RespClient::connect(lb.port());
    client.call("SUBSCRIBE news");
    for _ in 0..3 {
        let refusal = client.call("SUBSCRIBE other");
        assert!(refusal.starts_with("-NOPERM"), "{refusal}");
    }
    servers.iter().for_each(|server| _ = server.command(&["PUBLISH", "news", "1"]));
    let message = String::from_utf8_lossy(&client.reply()).into_owned();
    assert!(message.contains("message"), "{message}");
    assert!(
        !lb.log().contains("leave it") && !lb.log().contains("lost its subscriptions"),
        "{}",
        lb.log()
    );
}
