//! The near cache: what is answered from it, and what is not.

use std::sync::Barrier;
use std::thread;

use crate::support::balancer::Balancer;
use crate::support::near_cache::{
    cache_info, calls, hits, info_number, tracking_clients, warm, with_cache,
};
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;
use crate::users::{Files, acl_file};

/// A time in which no test's server is silent.
const LONG: &str = "60s";

#[test]
fn what_is_read_again_needs_no_server_in_either_protocol() {
    let server = RedisServer::start();
    for words in [
        &["SET", "string", "value"][..],
        &["HSET", "hash", "a", "1"],
        &["ZADD", "zset", "1.5", "one"],
        &["SADD", "set", "member"],
        &["RPUSH", "list", "element"],
    ] {
        server.command(words);
    }
    let lb = with_cache(&[&server], LONG, &[]);
    let (mut resp2, mut resp3) = (RespClient::connect(lb.port()), RespClient::connect(lb.port()));
    let mut direct3 = RespClient::connect(server.port());
    let mut direct2 = RespClient::connect(server.port());
    for client in [&mut resp3, &mut direct3] {
        assert!(client.call("HELLO 3").starts_with('%'));
    }
    for words in [
        "GET string",
        "GET missing",
        "STRLEN string",
        "GETRANGE string 1 2",
        "EXISTS string",
        "EXISTS missing",
        "TYPE zset",
        "HGETALL hash",
        "HGETALL missing",
        "HGET hash a",
        "HGET hash b",
        "HMGET hash a b",
        "ZRANGE zset 0 -1 WITHSCORES",
        "ZSCORE zset one",
        "ZSCORE zset two",
        "SMEMBERS set",
        "LRANGE list 0 -1",
    ] {
        let expected = [direct2.call(words), direct3.call(words)];
        warm(&lb, &mut resp2, words);
        let command = words.split(' ').next().expect("a word").to_lowercase();
        let (before, hits_before) = (calls(&server, &command), hits(&lb));
        for _ in 0..5 {
            assert_eq!([resp2.call(words), resp3.call(words)], expected, "{words}");
        }
        assert_eq!(calls(&server, &command), before, "{words}");
        assert_eq!(hits(&lb), hits_before + 10, "{words}");
    }
    // Pipelines, too.
    let (before, pipeline) = (calls(&server, "get"), encode(&["GET", "string"]).repeat(50));
    resp2.send_raw(&pipeline);
    assert!((0..50).all(|_| resp2.reply() == b"$5\r\nvalue\r\n"));
    assert_eq!(calls(&server, "get"), before);
}

#[test]
fn reads_of_many_keys_are_answered_when_all_are_kept() {
    let server = RedisServer::start();
    server.command(&["MSET", "a", "1", "b", "2"]);
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    for words in ["GET a", "GET b", "GET missing", "EXISTS a", "EXISTS missing"] {
        warm(&lb, &mut client, words);
    }
    let (before, hits_before) = (calls(&server, "mget") + calls(&server, "exists"), hits(&lb));
    assert_eq!(client.call("MGET a missing b a"), "*4\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n$1\r\n1\r\n");
    assert_eq!(client.call("EXISTS a missing a"), ":2\r\n");
    assert!(hits(&lb) > hits_before);
    assert_eq!(calls(&server, "mget") + calls(&server, "exists"), before);
    server.command(&["SET", "b", "new"]);
    wait_until("the new value is read", || {
        client.call("MGET a b other") == "*3\r\n$1\r\n1\r\n$3\r\nnew\r\n$-1\r\n"
    });
    assert!(client.call("HELLO 3").starts_with('%'));
    assert_eq!(client.call("MGET missing a"), "*2\r\n_\r\n$1\r\n1\r\n");
}

#[test]
fn a_scan_of_many_keys_fills_neither_the_cache_nor_the_servers_table() {
    let server = RedisServer::start();
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    server.command(&["SET", "hot", "value"]);
    warm(&lb, &mut client, "GET hot");
    let keys = 20_000;
    for begin in (0..keys).step_by(1000) {
        let pipeline: Vec<u8> = (begin..begin + 1000)
            .flat_map(|number| encode(&["GET", &format!("scanned:{number}")]))
            .collect();
        client.send_raw(&pipeline);
        assert!((0..1000).all(|_| client.reply() == b"$-1\r\n"));
    }
    let one_by_one = 2000;
    for number in 0..one_by_one {
        assert_eq!(client.call(&format!("EXISTS single:{number}")), ":0\r\n");
    }
    // Some may have been taken for others that were read before.
    let few = one_by_one / 4;
    assert!(cache_info(&lb, "cache_entries") < few);
    assert!(info_number(&server, "stats", "tracking_total_keys:") < few);
}

#[test]
fn what_is_too_long_an_error_or_no_plain_read_is_asked_of_the_server_each_time() {
    let server = RedisServer::start();
    server.command(&["SET", "long", &"x".repeat(100 * 1024)]);
    server.command(&["SET", "short", "value"]);
    server.command(&["SADD", "set", "a", "b"]);
    let lb = with_cache(&[&server], LONG, &["--allow-scripts", "--no-cache", "private:*"]);
    let mut client = RespClient::connect(lb.port());
    warm(&lb, &mut client, "GET short");
    let hits_before = hits(&lb);
    for (words, command) in [
        ("GET long", "get"),
        ("GET set", "get"),
        ("GET private:1", "get"),
        ("SRANDMEMBER set", "srandmember"),
        ("TTL short", "ttl"),
        ("OBJECT ENCODING short", "object|encoding"),
        ("EVAL_RO return{redis.call('GET',KEYS[1])} 1 short", "eval_ro"),
    ] {
        let before = calls(&server, command);
        let replies: Vec<String> = (0..6).map(|_| client.call(words)).collect();
        assert!(words.starts_with('S') || replies.iter().all(|reply| *reply == replies[0]));
        // The cache may have tried to keep it, once.
        assert!(calls(&server, command) >= before + 6, "{words}");
    }
    assert_eq!(hits(&lb), hits_before);
    // An error is not kept either: the next read is right at once.
    server.command(&["DEL", "set"]);
    assert_eq!(client.call("GET set"), "$-1\r\n");
}

#[test]
fn transactions_and_watched_reads_are_answered_by_the_server() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    warm(&lb, &mut client, "GET key");
    let (before, hits_before) = (calls(&server, "get"), hits(&lb));
    assert_eq!(client.call("WATCH key"), "+OK\r\n");
    assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
    assert_eq!(client.call("MULTI"), "+OK\r\n");
    assert_eq!(client.call("GET key"), "+QUEUED\r\n");
    assert_eq!(client.call("EXEC"), "*1\r\n$5\r\nvalue\r\n");
    assert_eq!((calls(&server, "get"), hits(&lb)), (before + 2, hits_before));
    // The watched read of a value that has changed since ends the transaction.
    client.call("WATCH key");
    client.call("GET key");
    server.command(&["SET", "key", "new"]);
    client.call("MULTI");
    client.call("GET key");
    assert_eq!(client.call("EXEC"), "*-1\r\n");
    assert_eq!(warm(&lb, &mut client, "GET key"), "$3\r\nnew\r\n");
}

#[test]
fn reads_that_miss_at_once_are_asked_for_once() {
    const CLIENTS: usize = 16;
    let server = RedisServer::start();
    let lb = with_cache(&[&server], LONG, &[]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| RespClient::connect(lb.port())).collect();
    server.command(&["SET", "key", "0"]);
    clients.iter_mut().for_each(|client| _ = warm(&lb, client, "GET key"));
    let (mut fewest, mut good) = (u64::MAX, 0);
    // On a busy machine some come late.
    for round in 1..=100 {
        let invalidated = cache_info(&lb, "cache_invalidations");
        server.command(&["SET", "key", &round.to_string()]);
        wait_until("the old value is gone", || {
            cache_info(&lb, "cache_invalidations") > invalidated
        });
        let before = calls(&server, "get");
        let (barrier, sleeper) = (Barrier::new(CLIENTS), server.connect());
        sleep_for_a_moment(sleeper);
        thread::scope(|scope| {
            for client in &mut clients {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    client.call("GET key")
                });
            }
        });
        let asked = calls(&server, "get") - before;
        fewest = fewest.min(asked);
        good += u32::from(asked <= 2);
        if good >= 3 {
            return;
        }
    }
    panic!("{fewest} reads of {CLIENTS} reached the server");
}

/// Keeps a server busy for less time than readers wait for a fill.
fn sleep_for_a_moment(mut sleeper: redis::Connection) {
    let sleep = redis::cmd("DEBUG").arg("SLEEP").arg("0.025").get_packed_command();
    sleeper.send_packed_command(&sleep).expect("it is sent");
    // Its reply is not waited for.
    thread::spawn(move || _ = sleeper.recv_response());
}

#[test]
fn each_database_has_its_own_entries() {
    let server = RedisServer::start();
    let mut writer = RespClient::connect(server.port());
    for database in 0..2 {
        writer.call(&format!("SELECT {database}"));
        writer.call(&format!("SET key in{database}"));
    }
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    assert_eq!(warm(&lb, &mut client, "GET key"), "$3\r\nin0\r\n");
    client.call("SELECT 1");
    assert_eq!(warm(&lb, &mut client, "GET key"), "$3\r\nin1\r\n");
    client.call("SELECT 2");
    assert_eq!(warm(&lb, &mut client, "GET key"), "$-1\r\n");
    let before = calls(&server, "get");
    for (words, expected) in [("SELECT 0", "in0"), ("SELECT 1", "in1"), ("RESET", "in0")] {
        client.call(words);
        assert_eq!(client.call("GET key"), format!("$3\r\n{expected}\r\n"), "after {words}");
    }
    assert_eq!(calls(&server, "get"), before);
}

#[test]
fn each_session_is_answered_from_what_its_own_backend_holds() {
    let servers = [(); 2].map(|()| RedisServer::start());
    for server in &servers {
        server.command(&["SET", "key", &server.address()]);
    }
    let lb = with_cache(&servers.each_ref(), LONG, &[]);
    let mut clients: Vec<_> = (0..6).map(|_| RespClient::connect(lb.port())).collect();
    let first: Vec<String> = clients.iter_mut().map(|client| client.call("GET key")).collect();
    assert!(first.iter().any(|reply| *reply != first[0]), "{first:?}");
    for (client, reply) in clients.iter_mut().zip(&first) {
        assert_eq!(&warm(&lb, client, "GET key"), reply);
    }
    let hits_before = hits(&lb);
    for _ in 0..10 {
        for (client, reply) in clients.iter_mut().zip(&first) {
            assert_eq!(&client.call("GET key"), reply);
        }
    }
    assert_eq!(hits(&lb), hits_before + 60);
}

#[test]
fn nobody_gets_keys_of_others_from_the_cache() {
    let (server, files) = (RedisServer::start(), Files::new());
    server.command(&["MSET", "a:1", "one", "b:1", "two"]);
    let users = [("default", "on nopass ~* &* +@all"), ("a", "on >secret ~a:* &* +@all")];
    let path = files.write("users.acl", &acl_file(&users));
    let lb = with_cache(&[&server], LONG, &["--users-file", &path]);
    let mut all = RespClient::connect(lb.port());
    for words in ["GET a:1", "GET b:1"] {
        warm(&lb, &mut all, words);
    }
    let mut some = RespClient::connect(lb.port());
    assert_eq!(some.call("AUTH a secret"), "+OK\r\n");
    assert_eq!(warm(&lb, &mut some, "GET a:1"), "$3\r\none\r\n");
    for words in ["GET b:1", "MGET a:1 b:1"] {
        let reply = some.call(words);
        assert!(reply.starts_with("-NOPERM"), "{words}: {reply}");
    }
}

#[test]
fn the_cache_keeps_within_its_size_when_everything_is_hot() {
    let server = RedisServer::start();
    let value = "v".repeat(4000);
    let count = 1000;
    for number in 0..count {
        server.command(&["SET", &format!("key:{number}"), &format!("{number}:{value}")]);
    }
    let lb = Balancer::start_with(&[&server], &["--cache", "1MiB", "--cache-max-silence", LONG]);
    let mut client = RespClient::connect(lb.port());
    for _ in 0..4 {
        for number in 0..count {
            let reply = client.call(&format!("GET key:{number}"));
            assert!(reply.contains(&format!("\n{number}:{value}\r")), "{number}");
        }
    }
    let (bytes, most) = (cache_info(&lb, "cache_bytes"), cache_info(&lb, "cache_max_bytes"));
    assert_eq!(most, 1024 * 1024);
    assert!(bytes <= most && bytes > most / 4, "{bytes}");
    assert!(cache_info(&lb, "cache_entries") <= most / 4000);
    assert!(cache_info(&lb, "cache_evictions") > 0);
}

#[test]
fn without_a_cache_no_key_is_tracked() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let lb = Balancer::start_with(&[&server], &["--cache", "0B"]);
    let (mut client, mut http) = (RespClient::connect(lb.port()), lb.client());
    for _ in 0..20 {
        assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
        assert_eq!(http.get("/key").header("x-cache"), None);
    }
    assert_eq!(tracking_clients(&server), Vec::<String>::new());
    assert_eq!(info_number(&server, "stats", "tracking_total_keys:"), 0);
}

#[test]
fn a_server_that_refuses_tracking_is_read_without_the_cache_and_that_is_said_once() {
    let (refuses, tracks) = (RedisServer::start(), RedisServer::start());
    for server in [&refuses, &tracks] {
        server.command(&["SET", "key", "value"]);
    }
    refuses.command(&["ACL", "SETUSER", "default", "-client|tracking"]);
    let lb = with_cache(&[&refuses, &tracks], "200ms", &[]);
    let mut clients: Vec<_> = (0..4).map(|_| RespClient::connect(lb.port())).collect();
    let mut read_all = || {
        for client in &mut clients {
            assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
        }
    };
    let said = || {
        let address = refuses.address();
        let is_it = |line: &&str| line.contains(&address) && line.contains("cache");
        lb.log().lines().filter(is_it).count()
    };
    let backends = || lb.get("/-/status.json").json()["backends"].clone();
    wait_until("it is said, and the other is cached", || {
        read_all();
        said() > 0 && hits(&lb) > 0 && backends()[0]["cache_refused"].is_string()
    });
    let before = calls(&refuses, "get");
    (0..200).for_each(|_| read_all());
    assert_eq!(said(), 1, "{}", lb.log());
    assert!(calls(&refuses, "get") >= before + 200);
    assert!(backends()[1]["cache_refused"].is_null());
    assert_eq!(backends()[0]["cache_hits"], 0);
}
