//! Whatever writes a key, the near cache does not keep what the key was.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::balancer::Balancer;
use crate::support::near_cache::{cache_info, hits, wait_for_reply, warm, with_cache};
use crate::support::redis::{RedisServer, replica_of};
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// A time in which no test's server is silent.
const LONG: &str = "60s";
const CACHE: [&str; 4] = ["--cache", "16MiB", "--cache-max-silence", LONG];

/// Writes of `key`, each with what comes before it, a read, and the reply after it. Words of a command are separated by
/// spaces, commands by semicolons.
const WRITES: [(&str, &str, &str, &str); 24] = [
    ("SET key old", "GET key", "SET key new", "$3\r\nnew\r\n"),
    ("", "GET key", "SET key new", "$3\r\nnew\r\n"),
    ("", "EXISTS key", "HSET key a 1", ":1\r\n"),
    ("SET key old", "GET key", "APPEND key er", "$5\r\nolder\r\n"),
    ("SET key 1", "GET key", "INCR key", "$1\r\n2\r\n"),
    ("SET key old", "GET key", "DEL key", "$-1\r\n"),
    ("SET key old", "EXISTS key", "UNLINK key", ":0\r\n"),
    ("SET key old", "GET key", "GETDEL key", "$-1\r\n"),
    ("SET key old", "GET key", "EXPIRE key 0", "$-1\r\n"),
    ("SET key old", "GET key", "PEXPIRE key 1", "$-1\r\n"),
    ("SET key old;SET other new", "GET key", "RENAME other key", "$3\r\nnew\r\n"),
    ("SET key old", "GET key", "RENAME key other", "$-1\r\n"),
    ("SET key old;SET other new", "GET key", "COPY other key REPLACE", "$3\r\nnew\r\n"),
    ("SET key old", "GET key", "SORT list STORE key", "$-1\r\n"),
    ("SET key old", "STRLEN key", "SETRANGE key 3 er", ":5\r\n"),
    ("SET key old", "GET key", "MOVE key 5", "$-1\r\n"),
    ("SELECT 6;SET key new;SELECT 0", "GET key", "SELECT 6;MOVE key 0", "$3\r\nnew\r\n"),
    ("SET key old", "TYPE key", "DEL key;ZADD key 1 a", "+zset\r\n"),
    ("HSET key a 1", "HGET key a", "HSET key a 2", "$1\r\n2\r\n"),
    ("HSET key a 1", "HLEN key", "HDEL key a", ":0\r\n"),
    ("RPUSH key a", "LRANGE key 0 -1", "LPUSH key b", "*2\r\n$1\r\nb\r\n$1\r\na\r\n"),
    ("ZADD key 1 a", "ZSCORE key a", "ZADD key 2 a", "$1\r\n2\r\n"),
    ("SET key old", "GET key", "EVAL redis.call('SET',KEYS[1],'new') 1 key", "$3\r\nnew\r\n"),
    ("SET key old", "GET key", "MULTI;SET key new;EXEC", "$3\r\nnew\r\n"),
];

fn run(client: &mut RespClient, commands: &str) {
    for words in commands.split(';').filter(|words| !words.is_empty()) {
        let reply = client.call(words);
        assert!(!reply.starts_with('-'), "{words}: {reply}");
    }
}

#[test]
fn each_way_to_write_a_key_ends_what_is_kept_of_it_and_nothing_else() {
    let server = RedisServer::start();
    server.command(&["SET", "untouched", "value"]);
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    warm(&lb, &mut client, "GET untouched");
    for (before, read, write, after) in WRITES {
        let mut writer = RespClient::connect(server.port());
        run(&mut writer, "DEL key other");
        run(&mut writer, before);
        let expected = RespClient::connect(server.port()).call(read);
        wait_for_reply(&mut client, read, &expected);
        assert_eq!(warm(&lb, &mut client, read), expected, "{read}");
        run(&mut writer, write);
        wait_for_reply(&mut client, read, after);
    }
    assert_eq!(cache_info(&lb, "cache_flushes"), 0);
    let before = hits(&lb);
    assert_eq!(client.call("GET untouched"), "$5\r\nvalue\r\n");
    assert_eq!(hits(&lb), before + 1);
}

#[test]
fn a_value_that_is_restored_and_one_of_another_database_end_what_is_kept() {
    let server = RedisServer::start();
    let lb = with_cache(&[&server], LONG, &[]);
    let mut client = RespClient::connect(lb.port());
    server.command(&["SET", "other", "new"]);
    server.command(&["SET", "key", "old"]);
    warm(&lb, &mut client, "GET key");
    let dump: Vec<u8> = redis::from_redis_value(server.command(&["DUMP", "other"])).expect("bytes");
    server.command(&[&b"RESTORE"[..], b"key", b"0", &dump, b"REPLACE"]);
    wait_for_reply(&mut client, "GET key", "$3\r\nnew\r\n");
    // Each database is read and written by a connection of its own.
    client.call("SELECT 1");
    assert_eq!(warm(&lb, &mut client, "GET key"), "$-1\r\n");
    let mut writer = RespClient::connect(server.port());
    run(&mut writer, "SELECT 1;SET key first");
    wait_for_reply(&mut client, "GET key", "$5\r\nfirst\r\n");
    warm(&lb, &mut client, "GET key");
    run(&mut writer, "SELECT 0;COPY other key DB 1 REPLACE");
    wait_for_reply(&mut client, "GET key", "$3\r\nnew\r\n");
}

#[test]
fn flushes_and_swaps_of_databases_end_all_that_is_kept() {
    let server = RedisServer::start();
    let lb = with_cache(&[&server], "200ms", &[]);
    let (mut client, mut writer) =
        (RespClient::connect(lb.port()), RespClient::connect(server.port()));
    for flush in ["FLUSHALL", "FLUSHDB", "FLUSHDB ASYNC"] {
        run(&mut writer, "SET key old");
        wait_for_reply(&mut client, "GET key", "$3\r\nold\r\n");
        warm(&lb, &mut client, "GET key");
        // The server is never empty.
        run(&mut writer, &format!("MULTI;{flush};SET filler x;EXEC"));
        wait_for_reply(&mut client, "GET key", "$-1\r\n");
    }
    assert!(cache_info(&lb, "cache_flushes") > 0);
    run(&mut writer, "SELECT 1;SET key swapped;SELECT 0;SET key old");
    wait_for_reply(&mut client, "GET key", "$3\r\nold\r\n");
    warm(&lb, &mut client, "GET key");
    run(&mut writer, "SWAPDB 0 1");
    wait_for_reply(&mut client, "GET key", "$7\r\nswapped\r\n");
    warm(&lb, &mut client, "GET key");
    // Swaps are not seen by their number alone.
    run(&mut writer, "CONFIG RESETSTAT;SWAPDB 0 1");
    wait_for_reply(&mut client, "GET key", "$3\r\nold\r\n");
}

fn wall_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis()
}

#[test]
fn a_key_of_a_replica_is_not_alive_after_its_end() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    // Replicas hear of the end of a key from their primary alone, and this one never tells.
    primary.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let replica = replica_of(&primary, &[]);
    let lb = with_cache(&[&replica], LONG, &[]);
    let (mut client, mut http) = (RespClient::connect(lb.port()), lb.client());
    let mut alive = 0;
    for life_ms in [900, 1500] {
        let end = wall_ms() + life_ms;
        let at = end.to_string();
        primary.command(&["SET", "key", &at, "PXAT", &at]);
        primary.command(&["SET", "path", &at, "PXAT", &at]);
        let hits_before = hits(&lb);
        let mut is_alive = true;
        while is_alive {
            let sent = wall_ms();
            let replies = [client.call("GET key"), format!("{:?}", http.get("/path").body)];
            is_alive = replies[0].contains(&at) || sent < end;
            alive += u32::from(replies[0].contains(&at));
            let path = String::from_utf8_lossy(&http.get("/path").body).into_owned();
            let is_late = sent > end + 5;
            assert!(!is_late || !replies[0].contains(&at), "{} ms late", sent - end);
            assert!(!is_late || !path.contains(&at), "{} ms late over HTTP", sent - end);
        }
        assert!(hits(&lb) > hits_before, "nothing was read from the cache");
    }
    assert!(alive > 10);
}

#[test]
fn a_session_sees_nothing_older_than_what_it_has_seen_by_another_connection() {
    let server = RedisServer::start();
    let relay = Relay::start(&server);
    // Invalidations come late.
    relay.add(&Rule::new(Fault::Latency(Duration::from_millis(25))).asked("TRACKING"));
    let cache = ["--cache", "16MiB", "--cache-max-silence", "2s"];
    let lb = Balancer::start_at(&[relay.address()], &cache);
    let [mut client, mut other] = [(); 2].map(|()| RespClient::connect(lb.port()));
    server.command(&["SET", "key", "0"]);
    let mut others_saw_old = 0;
    for round in 1..=40 {
        let (old, new) = ((round - 1).to_string(), round.to_string());
        let [old, new] = [old, new].map(|text| format!("${}\r\n{text}\r\n", text.len()));
        for client in [&mut client, &mut other] {
            wait_for_reply(client, "GET key", &old);
            warm(&lb, client, "GET key");
        }
        server.command(&["SET", "key", &round.to_string()]);
        others_saw_old += usize::from(other.call("GET key") == old);
        assert_eq!(client.call("MULTI"), "+OK\r\n");
        client.call("GET key");
        assert_eq!(client.call("EXEC"), format!("*1\r\n{new}"));
        for _ in 0..3 {
            assert_eq!(client.call("GET key"), new, "time ran backwards");
        }
        if others_saw_old >= 2 {
            return;
        }
    }
    panic!("invalidations were never late");
}

#[test]
fn a_time_to_live_that_is_set_while_the_value_is_fetched_counts() {
    let primary = RedisServer::start();
    primary.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let between = Between::start(&primary);
    primary.command(&["SET", "key", "value"]);
    let lb = Balancer::start_at(&[format!("127.0.0.1:{}", between.port)], &CACHE);
    let mut client = RespClient::connect(lb.port());
    wait_until("its time is set between the two replies", || {
        client.call("GET key");
        between.happened.load(Ordering::SeqCst)
    });
    wait_until("it ends", || client.call("GET key") == "$-1\r\n");
}

/// Passes bytes on to a server, and gives `key` a time to live between PTTL and the read that was sent with it, once.
struct Between {
    port: u16,
    happened: Arc<AtomicBool>,
}

impl Between {
    fn start(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (server, happened) = (server.port(), Arc::<AtomicBool>::default());
        let is_done = Arc::clone(&happened);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(to) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for socket in [&client, &to] {
                    socket.set_nodelay(true).expect("a socket");
                }
                let (mut replies, mut back) = (clone(&to), clone(&client));
                thread::spawn(move || {
                    // However it ends, the balancer sees the end.
                    let _ = io::copy(&mut replies, &mut back);
                    let _ = back.shutdown(Shutdown::Both);
                });
                let is_done = Arc::clone(&is_done);
                thread::spawn(move || {
                    let _ = pass_commands(client, &to, server, &is_done);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, happened }
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket")
}

fn pass_commands(
    mut from: TcpStream,
    mut to: &TcpStream,
    server: u16,
    is_done: &AtomicBool,
) -> io::Result<()> {
    const PTTL: &[u8] = b"PTTL\r\n$3\r\nkey\r\n";
    let mut piece = [0; 16 * 1024];
    while let length @ 1.. = from.read(&mut piece)? {
        let mut bytes = &piece[..length];
        let place = bytes.windows(PTTL.len()).position(|word| word == PTTL);
        let end = place.map_or(length, |place| place + PTTL.len());
        if end < length && !is_done.load(Ordering::SeqCst) {
            let mut straight = RespClient::connect(server);
            let mut asked = || straight.call("INFO commandstats").contains("cmdstat_pttl:");
            to.write_all(&bytes[..end])?;
            wait_until("PTTL is answered", &mut asked);
            assert_eq!(straight.call("PEXPIRE key 300"), ":1\r\n");
            is_done.store(true, Ordering::SeqCst);
            bytes = &bytes[end..];
        }
        to.write_all(bytes)?;
    }
    Ok(())
}
