//! SUBSCRIBE and its kin, in RESP2 and RESP3.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::SetOnDrop;
use crate::support::balancer::Balancer;
use crate::support::observe::{clients_of, leases, transcript};
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

fn server() -> RedisServer {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    server
}

/// The frame that a subscriber gets, an array or a push.
fn frame(kind: char, words: &[&str]) -> String {
    let mut frame = String::from_utf8(encode(words)).expect("text");
    frame.replace_range(..1, &kind.to_string());
    frame
}

fn text(reply: Vec<u8>) -> String {
    String::from_utf8(reply).expect("text")
}

#[test]
fn subscribers_may_do_what_they_may_with_the_server() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let rules = [
        "SUBSCRIBE b c b",
        "GET a",
        "PING",
        "PING hello",
        "SELECT 1",
        "HELLO 3",
        "MULTI",
        "NO SUCH",
        "PSUBSCRIBE p*",
        "SSUBSCRIBE s",
        "UNSUBSCRIBE none b",
        "UNSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "PING",
        "SUNSUBSCRIBE s",
        "PING",
        "GET a",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE x y",
        "SUNSUBSCRIBE",
        "SUBSCRIBE b",
        "RESET",
        "GET a",
    ];
    // A greeting differs in its id; in RESP3 a subscriber may do everything.
    let in_resp3: Vec<&str> = ["CLIENT REPLY SKIP", "HELLO 3"]
        .into_iter()
        .chain(rules.into_iter().filter(|rule| !["HELLO 3", "MULTI"].contains(rule)))
        .collect();
    let silent = ["CLIENT REPLY OFF", "SUBSCRIBE b", "UNSUBSCRIBE b", "CLIENT REPLY ON", "GET a"];
    for commands in [&rules[..], &in_resp3, &silent] {
        assert_eq!(transcript(lb.port(), commands), transcript(server.port(), commands));
    }
}

#[test]
fn channels_patterns_and_shard_channels_bring_their_messages() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    for (hello, kind) in [(None, '*'), (Some("HELLO 3"), '>')] {
        let mut session = RespClient::connect(lb.port());
        hello.map(|hello| session.call(hello));
        for command in ["SUBSCRIBE news", "PSUBSCRIBE g?ssip", "SSUBSCRIBE shard"] {
            session.call(command);
        }
        server.command(&["PUBLISH", "news", "one"]);
        assert_eq!(text(session.reply()), frame(kind, &["message", "news", "one"]));
        server.command(&["PUBLISH", "gossip", "two"]);
        assert_eq!(text(session.reply()), frame(kind, &["pmessage", "g?ssip", "gossip", "two"]));
        server.command(&["SPUBLISH", "shard", "three"]);
        assert_eq!(text(session.reply()), frame(kind, &["smessage", "shard", "three"]));
    }
}

#[test]
fn a_subscriber_that_returns_to_resp2_gets_its_messages_in_resp2() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    for command in ["HELLO 3", "SUBSCRIBE news", "HELLO 2"] {
        session.call(command);
    }
    server.command(&["PUBLISH", "news", "x"]);
    assert_eq!(text(session.reply()), frame('*', &["message", "news", "x"]));
}

#[test]
fn in_resp3_commands_are_answered_between_messages() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    session.call("HELLO 3");
    session.call("SUBSCRIBE news");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        scope.spawn(|| {
            let mut direct = server.connect();
            while !is_over.load(Ordering::Relaxed) {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg("news").arg("x").exec(&mut direct).expect("the server takes it");
            }
        });
        let (mut messages, mut replies) = (0, 0);
        while messages < 500 || replies < 300 {
            if replies % 3 == 0 {
                session.send_raw([encode(&["GET", "a"]), encode(&["PING"])].concat());
                session.send(&["HGETALL", "none"]);
            }
            let before = replies;
            while replies == before || replies % 3 != 0 {
                let reply = text(session.reply());
                if reply.starts_with('>') {
                    assert_eq!(reply, frame('>', &["message", "news", "x"]));
                    messages += 1;
                } else {
                    assert_eq!(reply, ["$1\r\n1\r\n", "+PONG\r\n", "%0\r\n"][replies % 3]);
                    replies += 1;
                }
            }
        }
    });
}

#[test]
fn subscribing_to_more_while_messages_come_loses_none() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    assert_eq!(session.call("SUBSCRIBE first"), "*3\r\n$9\r\nsubscribe\r\n$5\r\nfirst\r\n:1\r\n");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&is_over);
        scope.spawn(|| {
            let mut direct = server.connect();
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                for channel in ["first", "second"] {
                    let mut publish = redis::cmd("PUBLISH");
                    let publish = publish.arg(channel).arg(number);
                    publish.exec(&mut direct).expect("the server takes it");
                }
                number += 1;
            }
        });
        let mut next_of_first = None;
        let mut rounds = 0;
        while rounds < 50 || next_of_first < Some(500) {
            rounds += 1;
            let (mut has_second, mut next_of_second) = (true, None);
            session.send(&["SUBSCRIBE", "second", "third"]);
            session.send(&["PING"]);
            session.send(&["UNSUBSCRIBE", "third", "second"]);
            while has_second {
                let reply = text(session.reply());
                let words: Vec<&str> = reply.split("\r\n").collect();
                match words[2] {
                    "message" => {
                        let next = if words[4] == "first" {
                            &mut next_of_first
                        } else {
                            &mut next_of_second
                        };
                        let number: u64 = words[6].parse().expect("a number");
                        assert!(next.is_none_or(|next| next == number), "{number}, not {next:?}");
                        *next = Some(number + 1);
                    }
                    "unsubscribe" => has_second = words[4] != "second",
                    "subscribe" | "pong" => {}
                    _ => panic!("{reply}"),
                }
            }
        }
    });
}

#[test]
fn messages_of_a_megabyte_come_whole() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let message: Vec<u8> = (0..1024 * 1024).map(|number: u32| (number % 251) as u8).collect();
    for (hello, kind) in [(None, b'*'), (Some("HELLO 3"), b'>')] {
        let mut session = RespClient::connect(lb.port());
        hello.map(|hello| session.call(hello));
        session.call("SUBSCRIBE news");
        let mut expected = encode(&[&b"message"[..], b"news", &message]);
        expected[0] = kind;
        for _ in 0..3 {
            server.command(&[&b"PUBLISH"[..], b"news", &message]);
            assert!(session.reply() == expected, "another message");
        }
    }
}

#[test]
fn whoever_unsubscribes_or_leaves_leaves_nothing_behind() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let subscribers = || {
        let found = server.command(&["PUBSUB", "NUMSUB", "news"]);
        redis::from_redis_value::<(String, usize)>(found).expect("a count").1
    };
    let mut sessions: Vec<RespClient> = (0..10).map(|_| RespClient::connect(lb.port())).collect();
    for session in &mut sessions {
        session.call("SUBSCRIBE news");
    }
    assert_eq!((subscribers(), leases(&lb)[0]), (1, 10));
    for session in &mut sessions[..5] {
        session.call("UNSUBSCRIBE");
        assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
    }
    drop(sessions.split_off(5));
    wait_until("the last has left the channel", || subscribers() == 0);
    drop(sessions);
    wait_until("none is left", || subscribers() == 0 && leases(&lb) == [0]);
    assert!(clients_of(&server) <= 3, "connections that serve reads");
}

#[test]
fn subscriptions_go_on_at_another_backend_when_theirs_dies_or_falls_silent() {
    for (hello, kind, freezes) in
        [(None, '*', false), (Some("HELLO 3"), '>', false), (None, '*', true)]
    {
        let mut servers = [server(), server()];
        let lb = Balancer::start_with(&servers.each_ref(), &["--check-timeout", "200ms"]);
        let mut sessions = [(); 2].map(|()| RespClient::connect(lb.port()));
        for session in &mut sessions {
            hello.map(|hello| session.call(hello));
            session.send(&["SUBSCRIBE", "news", "weather"]);
            let confirmed = [session.reply(), session.reply()].map(text);
            assert!(confirmed[1].ends_with("weather\r\n:2\r\n"), "{confirmed:?}");
            assert!(session.call("PSUBSCRIBE n*").ends_with(":3\r\n"));
        }
        match freezes {
            true => servers[0].freeze(),
            false => servers[0].kill(),
        }
        wait_until("the loss is told", || lb.log().contains("has subscribed anew"));
        wait_until("both are there", || leases(&lb) == [0, 2]);
        servers[1].command(&["PUBLISH", "weather", "rain"]);
        servers[1].command(&["PUBLISH", "north", "wind"]);
        for session in &mut sessions {
            assert_eq!(text(session.reply()), frame(kind, &["message", "weather", "rain"]));
            assert_eq!(text(session.reply()), frame(kind, &["pmessage", "n*", "north", "wind"]));
            let left = session.call("UNSUBSCRIBE weather");
            assert!(left.ends_with("weather\r\n:2\r\n"), "{left}");
        }
    }
}

#[test]
fn a_subscriber_is_closed_when_no_backend_is_left() {
    let mut server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    session.call("SUBSCRIBE news");
    server.kill();
    assert!(session.is_closed());
    wait_until("it is said why", || lb.log().contains("its subscriptions are lost"));
}

#[test]
fn so_many_subscriptions_that_they_would_fill_our_memory_are_refused() {
    let server = server();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let names: Vec<String> = (0..16 * 1024).map(|number| format!("channel{number}")).collect();
    let command: Vec<&str> =
        ["SUBSCRIBE"].into_iter().chain(names.iter().map(String::as_str)).collect();
    session.send(&command);
    names.iter().for_each(|name| assert!(text(session.reply()).contains(name.as_str())));
    assert_eq!(session.call("SUBSCRIBE more"), "-ERR too many subscriptions for one client\r\n");
    server.command(&["PUBLISH", "channel7", "x"]);
    assert_eq!(text(session.reply()), frame('*', &["message", "channel7", "x"]));
}
