//! XREAD with BLOCK: clients that follow streams, while servers and clients come and go.

use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::observe::{transcript, wait_for_up};
use crate::support::redis::{RedisServer, three_servers};
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Nothing that comes at all takes so long on a quiet computer.
const MOMENT: Duration = Duration::from_millis(100);

fn blocked(server: &RedisServer) -> usize {
    let info = format!("{:?}", server.command(&["INFO", "clients"]));
    let (_, count) = info.split_once("blocked_clients:").expect("a field");
    let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

fn add(server: &RedisServer, id: &str) {
    server.command(&["XADD", "events", id, "event", id]);
}

/// The reply with one entry of the stream.
fn entry(id: &str) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let entry = format!("*2\r\n{}*2\r\n{}{}", bulk(id), bulk("event"), bulk(id));
    format!("*1\r\n*2\r\n{}*1\r\n{entry}", bulk("events"))
}

fn text(reply: Vec<u8>) -> String {
    String::from_utf8(reply).expect("text")
}

/// A client that waits for entries from now on, and the place of the server where it does.
fn follower(lb: &Balancer, servers: &[RedisServer]) -> (RespClient, usize) {
    let mut client = RespClient::connect(lb.port());
    client.send(&["XREAD", "BLOCK", "0", "STREAMS", "events", "$"]);
    let mut place = None;
    wait_until("the client waits at a server", || {
        place = servers.iter().position(|server| blocked(server) == 1);
        place.is_some()
    });
    (client, place.expect("a server"))
}

#[test]
fn reads_that_may_block_are_answered_as_by_redis() {
    let server = RedisServer::start();
    add(&server, "1-1");
    add(&server, "2-1");
    server.command(&["SET", "text", "1"]);
    let lb = Balancer::start(&[&server]);
    for hello in ["PING", "HELLO 3"] {
        let commands = [
            hello,
            "XREAD BLOCK 1 STREAMS events $",
            "XREAD BLOCK 1 STREAMS events 2-1",
            "XREAD BLOCK 1 STREAMS events 1-1",
            "XREAD BLOCK 0 STREAMS events 0",
            "XREAD COUNT 1 BLOCK 0 STREAMS events nosuch 0 $",
            "XREAD BLOCK 0 BLOCK 1 STREAMS events nosuch $ $",
            "XREAD BLOCK 1 STREAMS nosuch 0",
            "XREAD BLOCK 1 COUNT 0 STREAMS events 1",
            "XREAD BLOCK 0 STREAMS text $",
            "XREAD BLOCK 0 STREAMS events text 0 0",
            "XREAD BLOCK 0 STREAMS events x",
            "XREAD BLOCK 0 STREAMS events",
            "XREAD BLOCK 0 COUNT x STREAMS events 0",
            "XREAD BLOCK x STREAMS events 0",
            "XREAD BLOCK -1 STREAMS events 0",
            "XREAD BLOCK",
            "XREAD STREAMS BLOCK 0",
            "XREAD BLOCK 0 GROUP g c STREAMS events $",
            "MULTI",
            "XREAD BLOCK 0 STREAMS events $",
            "XREAD BLOCK 0 STREAMS events 1-1",
            "EXEC",
            "CLIENT REPLY SKIP",
            "XREAD BLOCK 1 STREAMS events $",
            "PING",
            "BLPOP nosuch x",
        ];
        // The greeting names the connection, and writes are refused in other words.
        let [through, direct] = [lb.port(), server.port()].map(|port| {
            let mut client = RespClient::connect(port);
            let mut replies = Vec::new();
            for command in &commands[..commands.len() - 1] {
                let words: Vec<&str> = command.split(' ').collect();
                client.send(&words);
                let is_silent = command.contains("SKIP")
                    || replies.last() == Some(&("CLIENT REPLY SKIP".to_owned(), String::new()));
                let reply = if is_silent { String::new() } else { text(client.reply()) };
                let reply = if command.starts_with("HELLO") { String::new() } else { reply };
                replies.push(((*command).to_owned(), reply));
            }
            replies
        });
        for (through, direct) in through.iter().zip(&direct) {
            assert_eq!(through, direct, "{hello}");
        }
    }
    let refused =
        transcript(lb.port(), &["BLPOP nosuch 1", "XREADGROUP GROUP g c STREAMS events >"]);
    assert_eq!(refused.matches("-READONLY ").count(), 2, "{refused}");
}

#[test]
fn entries_that_come_end_the_wait_and_what_was_sent_after_it_waits() {
    let server = RedisServer::start();
    let servers = [server];
    let lb = Balancer::start(&servers.each_ref());
    add(&servers[0], "1-1");
    let (mut client, _) = follower(&lb, &servers);
    client.send(&["PING"]);
    assert!(!client.has_reply_within(MOMENT), "it waits");
    add(&servers[0], "2-1");
    assert_eq!(text(client.reply()), entry("2-1"));
    assert_eq!(client.reply(), b"+PONG\r\n");
    // One more wait on the same session, with a time.
    let began = std::time::Instant::now();
    assert_eq!(client.command(&["XREAD", "BLOCK", "50", "STREAMS", "events", "2-1"]), b"*-1\r\n");
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_client_that_leaves_ends_its_wait() {
    let servers = [RedisServer::start()];
    let lb = Balancer::start(&servers.each_ref());
    let (client, _) = follower(&lb, &servers);
    drop(client);
    wait_until("nobody waits", || blocked(&servers[0]) == 0);
    // Also one that has sent more.
    let (mut client, _) = follower(&lb, &servers);
    client.send_raw(b"PING\r\n".repeat(100));
    drop(client);
    wait_until("nobody waits", || blocked(&servers[0]) == 0);
}

#[test]
fn a_read_that_waits_goes_on_at_another_server_and_misses_nothing() {
    let mut servers = three_servers();
    servers.iter().for_each(|server| add(server, "1-1"));
    let lb = Balancer::start(&servers.each_ref());
    wait_for_up(&lb, &servers.each_ref());
    let (mut client, first) = follower(&lb, &servers);
    servers[first].freeze();
    let others = |except: &[usize]| (0..3).filter(|at| !except.contains(at)).collect::<Vec<_>>();
    let mut second = None;
    wait_until("it waits at another server", || {
        second = others(&[first]).into_iter().find(|at| blocked(&servers[*at]) == 1);
        second.is_some()
    });
    let second = second.expect("a server");
    // It has come where the client does not wait, and belongs to the time since its read.
    let third = others(&[first, second])[0];
    add(&servers[third], "2-1");
    assert!(!client.has_reply_within(MOMENT));
    servers[second].kill();
    assert_eq!(text(client.reply()), entry("2-1"));
    servers[first].thaw();
}

#[test]
fn so_many_clients_may_wait_and_reads_go_on() {
    let server = RedisServer::start();
    add(&server, "1-1");
    let lb = Balancer::start_with(&[&server], &["--backend-connections", "4"]);
    let mut waiting = [(); 2].map(|()| RespClient::connect(lb.port()));
    for client in &mut waiting {
        client.send(&["XREAD", "BLOCK", "0", "STREAMS", "events", "$"]);
    }
    wait_until("both wait", || blocked(&server) == 2);
    let mut third = RespClient::connect(lb.port());
    assert_eq!(
        third.call("XREAD BLOCK 0 STREAMS events $"),
        "-ERR too many clients wait in XREAD BLOCK: try again later\r\n"
    );
    assert_eq!(third.call("XLEN events"), ":1\r\n");
    assert_eq!(third.call("WATCH events"), "+OK\r\n");
    add(&server, "2-1");
    waiting.iter_mut().for_each(|client| assert_eq!(text(client.reply()), entry("2-1")));
    assert_eq!(third.call("XREAD BLOCK 1 STREAMS events $"), "*-1\r\n");
}

#[test]
fn the_end_of_the_process_ends_the_wait() {
    let servers = [RedisServer::start()];
    let mut lb = Balancer::start(&servers.each_ref());
    let (mut client, _) = follower(&lb, &servers);
    lb.signal("-TERM");
    assert!(lb.wait().success());
    assert!(client.is_closed());
}

#[test]
fn a_subscriber_does_not_wait_for_streams() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut client = RespClient::connect(lb.port());
    client.call("HELLO 3");
    client.call("SUBSCRIBE news");
    let refused = client.call("XREAD BLOCK 0 STREAMS events $");
    assert!(refused.contains("use another connection"), "{refused}");
    assert_eq!(client.call("XREAD STREAMS events $"), "_\r\n");
}

#[test]
fn clients_that_follow_a_stream_see_each_entry_once_while_servers_fail() {
    let mut servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    wait_for_up(&lb, &servers.each_ref());
    let port = lb.port();
    let followers: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut client = RespClient::connect(port);
                let (mut last, mut seen) = ("0".to_owned(), Vec::new());
                while last != "9-1" {
                    let block = ["XREAD", "COUNT", "1", "BLOCK", "200", "STREAMS", "events", &last];
                    let reply = text(client.command(&block));
                    if reply != "*-1\r\n" {
                        last = reply.lines().nth(7).expect("an ID").to_owned();
                        seen.push(last.clone());
                    }
                }
                seen
            })
        })
        .collect();
    for number in 1..10 {
        if number == 4 {
            servers[0].kill();
        } else if number == 6 {
            servers[1].freeze();
        }
        let left = match number {
            ..4 => &servers[..],
            4 | 5 => &servers[1..],
            _ => &servers[2..],
        };
        left.iter().for_each(|server| add(server, &format!("{number}-1")));
        thread::sleep(Duration::from_millis(100));
    }
    let expected: Vec<String> = (1..10).map(|number| format!("{number}-1")).collect();
    for follower in followers {
        assert_eq!(follower.join().expect("no panic"), expected);
    }
    servers[1].thaw();
}
