//! SCAN, HSCAN, SSCAN and ZSCAN over several servers, each of which has an order of its own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::SetOnDrop;
use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;

const ELEMENTS: usize = 2000;

/// The beginning of each command, up to its cursor, and the end of it.
const WALKS: [(&str, &str); 4] = [
    ("SCAN", "MATCH e:* COUNT 50"),
    ("HSCAN hash", "COUNT 50"),
    ("SSCAN set", "COUNT 50"),
    ("ZSCAN zset", "COUNT 50"),
];

fn three_servers() -> [RedisServer; 3] {
    [(); 3].map(|()| {
        let server = RedisServer::start();
        load(&server, "e");
        server
    })
}

/// Adds elements whose names begin so.
fn load(server: &RedisServer, name: &str) {
    let mut pipe = redis::pipe();
    for number in 0..ELEMENTS {
        let element = format!("{name}:{number}");
        pipe.set(&element, number).hset("hash", &element, "");
        pipe.sadd("set", &element).zadd("zset", &element, number);
    }
    pipe.exec(&mut server.connect()).expect("the server takes them");
}

fn unload(server: &RedisServer, name: &str) {
    let mut pipe = redis::pipe();
    for number in 0..ELEMENTS {
        let element = format!("{name}:{number}");
        pipe.del(&element).hdel("hash", &element).srem("set", &element).zrem("zset", &element);
    }
    pipe.exec(&mut server.connect()).expect("the server takes them");
}

/// One step, over a session of its own: the cursor and what came with it.
fn step(lb: &Balancer, walk: (&str, &str), cursor: &str) -> Result<(String, Vec<String>), String> {
    parse(&RespClient::connect(lb.port()).call(&format!("{} {cursor} {}", walk.0, walk.1)))
}

fn parse(reply: &str) -> Result<(String, Vec<String>), String> {
    if reply.starts_with('-') {
        return Err(reply.to_owned());
    }
    let lines: Vec<&str> = reply.split("\r\n").collect();
    let number: u64 = lines[2].parse().expect("a cursor");
    assert!(number < 1 << 53, "{number} is not exact in a double");
    let elements = lines[4..].iter().filter(|line| line.starts_with("e:"));
    Ok((lines[2].to_owned(), elements.map(|&line| line.to_owned()).collect()))
}

fn assert_all(found: &BTreeSet<String>, walk: (&str, &str)) {
    let missing: Vec<String> =
        (0..ELEMENTS).map(|number| format!("e:{number}")).filter(|e| !found.contains(e)).collect();
    assert!(missing.is_empty(), "{walk:?} has left out {} of {ELEMENTS}", missing.len());
}

/// Goes on from a cursor to the end.
fn walk_on(lb: &Balancer, walk: (&str, &str), mut cursor: String, found: &mut BTreeSet<String>) {
    while cursor != "0" {
        let (next, elements) = step(lb, walk, &cursor).expect("the cursor is good");
        found.extend(elements);
        cursor = next;
    }
}

/// Makes every session's step begin with another server.
fn come_and_go(lb: &Balancer, is_over: &AtomicBool) {
    let mut others: Vec<RespClient> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let mut other = RespClient::connect(lb.port());
        other.call("GET e:1");
        others.push(other);
        if others.len() > 5 {
            others.swap_remove(fastrand::usize(0..5));
        }
    }
}

#[test]
fn walks_over_many_sessions_find_every_element_that_stays() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        scope.spawn(|| come_and_go(&lb, &is_over));
        // Elements that come and go make the servers' tables grow and shrink meanwhile.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                servers.iter().for_each(|server| load(server, "other"));
                servers.iter().for_each(|server| unload(server, "other"));
            }
        });
        for walk in WALKS {
            let mut found = BTreeSet::new();
            let (cursor, elements) = step(&lb, walk, "0").expect("a beginning");
            found.extend(elements);
            walk_on(&lb, walk, cursor, &mut found);
            assert_all(&found, walk);
        }
    });
}

#[test]
fn cursors_outlive_the_balancer_and_the_order_of_its_backends() {
    let servers = three_servers();
    let [a, b, c] = servers.each_ref();
    let mut begun = Vec::new();
    let lb = Balancer::start(&[a, b, c]);
    for walk in WALKS {
        // One walk on each server.
        let mut sessions = [(); 3].map(|()| RespClient::connect(lb.port()));
        for session in &mut sessions {
            let reply = session.call(&format!("{} 0 {}", walk.0, walk.1));
            let (cursor, elements) = parse(&reply).expect("a beginning");
            begun.push((walk, cursor, BTreeSet::from_iter(elements)));
        }
    }
    drop(lb);
    let lb = Balancer::start(&[c, a, b]);
    for (walk, cursor, mut found) in begun {
        walk_on(&lb, walk, cursor, &mut found);
        assert_all(&found, walk);
    }
}

#[test]
fn the_cursors_of_a_server_that_was_restarted_are_errors_and_those_of_others_go_on() {
    let mut servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let mut begun = Vec::new();
    let mut sessions = [(); 3].map(|()| RespClient::connect(lb.port()));
    for session in &mut sessions {
        let (cursor, elements) =
            parse(&session.call("SCAN 0 MATCH e:* COUNT 50")).expect("a beginning");
        begun.push((cursor, BTreeSet::from_iter(elements)));
    }
    servers[1].kill();
    let refused = |lb: &Balancer| -> Vec<String> {
        begun.iter().filter_map(|(cursor, _)| step(lb, WALKS[0], cursor).err()).collect()
    };
    let while_gone = refused(&lb);
    assert_eq!(while_gone.len(), 1, "{while_gone:?}");
    assert!(while_gone[0].contains(&servers[1].address()), "{while_gone:?}");
    servers[1].restart();
    load(&servers[1], "e");
    for _ in 0..3 {
        let restarted = refused(&lb);
        assert_eq!(restarted.len(), 1, "{restarted:?}");
        assert!(
            restarted[0].starts_with("-ERR invalid cursor: its server is gone or was restarted")
        );
    }
    for (cursor, mut found) in begun {
        if step(&lb, WALKS[0], &cursor).is_ok() {
            walk_on(&lb, WALKS[0], cursor, &mut found);
            assert_all(&found, WALKS[0]);
        }
    }
    let lb = Balancer::start(&servers.each_ref());
    let (cursor, elements) = step(&lb, WALKS[0], "0").expect("a new beginning");
    let mut found = BTreeSet::from_iter(elements);
    walk_on(&lb, WALKS[0], cursor, &mut found);
    assert_all(&found, WALKS[0]);
}

#[test]
fn what_is_no_cursor_is_refused() {
    let server = RedisServer::start();
    load(&server, "e");
    let lb = Balancer::start(&[&server]);
    for walk in WALKS {
        for cursor in ["x", "1x", "0x1", "1.5", "-1", "\u{660}", "99999999999999999999"] {
            assert_eq!(
                step(&lb, walk, cursor).expect_err("no cursor"),
                "-ERR invalid cursor\r\n",
                "{walk:?} {cursor}"
            );
        }
        let (cursor, _) = step(&lb, walk, "0").expect("a beginning");
        let cursor: u64 = cursor.parse().expect("a number");
        // Of no server, or of a server without a position.
        let unknown = step(&lb, walk, &(cursor ^ 1).to_string()).expect_err("no server's");
        assert!(unknown.starts_with("-ERR invalid cursor: its server"), "{unknown}");
    }
    let mut session = RespClient::connect(lb.port());
    assert_eq!(session.call("SCAN 0 COUNT 0"), "-ERR syntax error\r\n");
    assert_eq!(session.call("HSCAN e:1 0").get(..10), Some("-WRONGTYPE"));
    assert_eq!(session.call("HSCAN none 0"), "*2\r\n$1\r\n0\r\n*0\r\n");
}
