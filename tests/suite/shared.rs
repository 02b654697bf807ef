//! Short reads go by a connection that many clients share: few connections, no client that holds up
//! another, and none that notices when the connection ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::observe::{clients_of, metric, states};
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;
use crate::support::yardstick::Yardstick;

const CLIENTS: usize = 20;

/// With `key:N` as `value:N`, and `long`, of a mebibyte.
fn filled() -> RedisServer {
    let server = RedisServer::start();
    for number in 0..CLIENTS {
        server.command(&["SET", &format!("key:{number}"), &format!("value:{number}")]);
    }
    server.command(&["SETRANGE", "long", "1048575", "x"]);
    server
}

/// Asks for the client's own value, `depth` times at once.
fn read_own(client: &mut RespClient, number: usize, depth: usize) {
    client.send_raw(encode(&["GET", &format!("key:{number}")]).repeat(depth));
    let value = format!("value:{number}");
    for _ in 0..depth {
        let reply = client.reply();
        assert_eq!(reply, format!("${}\r\n{value}\r\n", value.len()).as_bytes(), "{number}");
    }
}

/// All clients read until `work` is done; returns the slowest read.
fn read_while(lb: &Balancer, work: impl FnOnce()) -> Duration {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut client = RespClient::connect(lb.port());
                    let mut slowest = Duration::ZERO;
                    while !is_over.load(Ordering::SeqCst) {
                        let began = Instant::now();
                        read_own(&mut client, number, 1 + number % 4);
                        slowest = slowest.max(began.elapsed());
                    }
                    slowest
                })
            })
            .collect();
        work();
        is_over.store(true, Ordering::SeqCst);
        readers.into_iter().map(|reader| reader.join().expect("no panic")).max().expect("readers")
    })
}

#[test]
fn clients_that_read_at_the_same_time_need_few_connections() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    let mut clients: Vec<RespClient> =
        (0..CLIENTS).map(|_| RespClient::connect(lb.port())).collect();
    for round in 0..10 {
        let key = |number| encode(&["GET", &format!("key:{number}")]);
        clients.iter_mut().enumerate().for_each(|(number, client)| client.send_raw(key(number)));
        for (number, client) in clients.iter_mut().enumerate() {
            let value = format!("value:{number}");
            let wanted = format!("${}\r\n{value}\r\n", value.len());
            assert_eq!(client.reply(), wanted.as_bytes(), "in round {round}");
        }
    }
    // At first, before there was one to share, each may have had its own.
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for (number, client) in clients.iter_mut().enumerate() {
        read_own(client, number, 3);
    }
    assert!(clients_of(&server) < CLIENTS / 2, "{} connections", clients_of(&server));
}

#[test]
fn nobody_notices_when_shared_connections_are_closed() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    read_while(&lb, || {
        for _ in 0..50 {
            server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn long_replies_and_clients_that_do_not_read_hold_up_nobody() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    let mut lazy: Vec<RespClient> = (0..3).map(|_| RespClient::connect(lb.port())).collect();
    let yardstick = Yardstick::start();
    let slowest = read_while(&lb, || {
        // A short read first: from then on they share a connection with the others.
        for (number, client) in lazy.iter_mut().enumerate() {
            read_own(client, number, 1);
        }
        for client in &mut lazy {
            client.send_raw(encode(&["GET", "long"]).repeat(20));
        }
        for number in 0..20 {
            let mut client = RespClient::connect(lb.port());
            read_own(&mut client, number, 2);
            client.send(&["GET", "long"]);
            assert_eq!(client.reply().len(), "$1048576\r\n\r\n".len() + 1_048_576);
            read_own(&mut client, number, 2);
        }
    });
    yardstick.assert_below(slowest, Duration::from_secs(1), "one read");
    for client in &mut lazy {
        for _ in 0..20 {
            assert_eq!(client.reply().len(), "$1048576\r\n\r\n".len() + 1_048_576);
        }
    }
}

#[test]
fn answers_of_our_own_keep_their_place_among_replies() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    let mut client = RespClient::connect(lb.port());
    for _ in 0..100 {
        let (get, ping) = (encode(&["GET", "key:1"]), encode(&["PING"]));
        client.send_raw(&get);
        client.send_raw([&ping[..], &get, &encode(&["SET", "a", "b"]), &get].concat());
        assert_eq!(client.reply(), b"$7\r\nvalue:1\r\n");
        assert_eq!(client.reply(), b"+PONG\r\n");
        assert_eq!(client.reply(), b"$7\r\nvalue:1\r\n");
        assert!(client.reply().starts_with(b"-"), "a write is refused");
        assert_eq!(client.reply(), b"$7\r\nvalue:1\r\n");
    }
}

/// A client whose reads go by the shared connection.
fn settled(lb: &Balancer, number: usize) -> RespClient {
    let mut client = RespClient::connect(lb.port());
    (0..3).for_each(|_| read_own(&mut client, number, 1));
    client
}

#[test]
fn a_reply_that_nobody_asked_for_is_given_to_nobody() {
    let server = filled();
    let relay = Relay::start(&server);
    let lb = Balancer::start_at(&[relay.address()], &["--backend-timeout", "5s"]);
    let mut clients: Vec<_> = (1..5).map(|number| settled(&lb, number)).collect();
    for round in 0..10 {
        let extra = Rule::new(Fault::Extra(b"$7\r\nvalue:9\r\n")).asked("key:1\r\n");
        let extra = extra.after("$7\r\nvalue:1\r\n".len()).times(1);
        relay.add(&extra);
        let errors = metric(&lb, "redis_lb_backend_errors_total");
        // While the first is under way, the others wait for its reply before they are written.
        server.freeze();
        for (number, client) in (1..).zip(&mut clients) {
            client.send(&["GET", &format!("key:{number}")]);
            thread::sleep(Duration::from_millis(20));
        }
        server.thaw();
        for (number, client) in (1..).zip(&mut clients) {
            let value = format!("$7\r\nvalue:{number}\r\n");
            let reply = String::from_utf8(client.reply()).expect("text");
            assert_eq!(reply, value, "in round {round}");
        }
        assert_eq!(extra.happened(), 1);
        wait_until("the backend is to blame", || {
            metric(&lb, "redis_lb_backend_errors_total") > errors
        });
        relay.clear();
        wait_until("it is up again", || states(&lb) == ["up"]);
        (1..).zip(&mut clients).for_each(|(number, client)| read_own(client, number, 2));
    }
}

#[test]
fn a_push_is_nobodys_reply() {
    let server = filled();
    let relay = Relay::start(&server);
    // Where there are few connections, none is shared.
    for arguments in [&[][..], &["--backend-connections", "4"]] {
        let good = filled();
        let lb = Balancer::start_at(&[relay.address(), good.address()], arguments);
        for push in [
            &b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n"[..],
            b"|1\r\n+a\r\n+b\r\n>2\r\n+invalidate\r\n*0\r\n",
        ] {
            wait_until("both are up", || states(&lb) == ["up", "up"]);
            let mut clients = [(); 4].map(|()| RespClient::connect(lb.port()));
            for client in &mut clients {
                client.call("HELLO 3");
                (0..3).for_each(|_| read_own(client, 1, 1));
            }
            let rule = Rule::new(Fault::Extra(push)).asked("key:2\r\n").after(0);
            relay.add(&rule);
            for client in &mut clients {
                read_own(client, 2, 1);
                read_own(client, 3, 2);
            }
            relay.clear();
            assert!(rule.happened() > 0, "{arguments:?}");
        }
    }
}

#[test]
fn a_connection_that_ends_within_a_shared_reply_counts_as_a_failure() {
    let servers = [filled(), filled()];
    let relays = servers.each_ref().map(Relay::start);
    let lb = Balancer::start_at(&relays.each_ref().map(Relay::address), &[]);
    let mut client = settled(&lb, 1);
    let errors = || metric(&lb, "redis_lb_backend_errors_total");
    let before = errors();
    let rule = Rule::new(Fault::Close).asked("key:2\r\n").after(4).times(1);
    relays.iter().for_each(|relay| relay.add(&rule));
    read_own(&mut client, 2, 1);
    assert_eq!((rule.happened(), errors() - before), (1, 1.0));
}

#[test]
fn sessions_go_back_to_shared_connections_when_theirs_was_closed() {
    let server = filled();
    let lb = Balancer::start(&[&server]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| settled(&lb, number)).collect();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let read_all = |clients: &mut [RespClient]| {
        for _ in 0..3 {
            (0..).zip(&mut *clients).for_each(|(number, client)| read_own(client, number, 1));
        }
    };
    read_all(&mut clients);
    let before = total_connections(&server);
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || (0..200).for_each(|_| read_own(client, number, 1)));
        }
    });
    // Had each gone by one of its own, there would be new ones.
    assert!(total_connections(&server) < before + CLIENTS / 2);
}

/// How many connections the clients take while all of them read at the same time.
fn busy_connections(lb: &Balancer, server: &RedisServer, clients: &mut [RespClient]) -> usize {
    let busy =
        format!("redis_lb_backend_connections{{backend=\"{}\",state=\"busy\"}}", server.address());
    server.freeze();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&["GET", &format!("key:{number}")]);
    }
    thread::sleep(Duration::from_millis(100));
    let busy = metric(lb, &busy);
    server.thaw();
    for (number, client) in clients.iter_mut().enumerate() {
        let value = format!("value:{number}");
        assert_eq!(client.reply(), format!("${}\r\n{value}\r\n", value.len()).as_bytes());
    }
    busy as usize
}

#[test]
fn databases_that_are_read_most_have_the_shared_connections() {
    let server = filled();
    let lb = Balancer::start_with(&[&server], &["--backend-timeout", "5s"]);
    let in_database = |database: usize| {
        let mut client = RespClient::connect(lb.port());
        assert_eq!(client.call(&format!("SELECT {database}")), "+OK\r\n");
        client
    };
    // They come first, one for each connection that may be shared.
    let mut odd: Vec<RespClient> = (7..11).map(in_database).collect();
    let read_odd = |odd: &mut [RespClient]| {
        odd.iter_mut().for_each(|client| assert_eq!(client.call("GET key:1"), "$-1\r\n"));
    };
    (0..3).for_each(|_| read_odd(&mut odd));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| RespClient::connect(lb.port())).collect();
    wait_until("the clients share a connection", || {
        for _ in 0..20 {
            (0..).zip(&mut clients).for_each(|(number, client)| read_own(client, number, 1));
        }
        read_odd(&mut odd);
        busy_connections(&lb, &server, &mut clients) < CLIENTS / 2
    });
    (0..3).for_each(|_| read_odd(&mut odd));
    // The others are not driven out by a few more databases.
    let mut more: Vec<RespClient> = (11..16).map(in_database).collect();
    for _ in 0..30 {
        (0..).zip(&mut clients).for_each(|(number, client)| read_own(client, number, 1));
        read_odd(&mut more);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(busy_connections(&lb, &server, &mut clients) < CLIENTS / 2);
}

fn total_connections(server: &RedisServer) -> usize {
    let stats: String =
        redis::cmd("INFO").arg("stats").query(&mut server.connect()).expect("stats");
    let received = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    received.expect("a count").trim().parse().expect("a number")
}
