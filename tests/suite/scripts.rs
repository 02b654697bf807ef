//! Scripts of clients: off, bounded, and ended where they keep a server busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis_lb::backend::BackendError;
use redis_lb::balance;
use redis_lb::config::Config;
use redis_lb::health::Member;

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

#[test]
fn scripts_and_functions_are_off_unless_they_are_allowed() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    for command in ["EVAL_RO return(1) 0", "EVALSHA_RO abc 0", "FCALL_RO none 0"] {
        let reply = session.call(command);
        let name = command.split(' ').next().expect("a name");
        let begin = format!("-ERR {name} is not served by redis-lb: ");
        assert!(reply.starts_with(&begin) && reply.contains("--allow-scripts"), "{reply}");
        session.call("MULTI");
        assert!(session.call(command).contains("--allow-scripts"));
        assert!(session.call("EXEC").starts_with("-EXECABORT"));
    }
    assert_eq!(session.call("SCRIPT EXISTS abc"), "*1\r\n:0\r\n");
    assert!(session.call("EVAL return(1) 0").contains("--allow-scripts"));
    let stats = format!("{:?}", server.command(&["INFO", "commandstats"]));
    assert!(!stats.contains("cmdstat_eval"), "{stats}");
    let allowed = Balancer::start_with(&[&server], &["--allow-scripts"]);
    assert_eq!(RespClient::connect(allowed.port()).call("EVAL_RO return(1) 0"), ":1\r\n");
}

/// How many scripts a server has kept.
fn cached(server: &RedisServer) -> usize {
    let info: String = redis::from_redis_value(server.command(&["INFO", "memory"])).expect("text");
    let count = info.lines().find_map(|line| line.strip_prefix("number_of_cached_scripts:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a number")
}

#[test]
fn no_client_fills_a_servers_memory_with_scripts() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--allow-scripts"]);
    let mut session = RespClient::connect(lb.port());
    let script = |number: usize, length: usize| {
        let begin = format!("return {number} --");
        format!("{begin}{}", "x".repeat(length - begin.len()))
    };
    let longest = 64 * 1024;
    let reply = session.command(&["EVAL_RO", &script(0, longest + 1), "0"]);
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert!(reply.starts_with("-ERR ") && reply.contains("at most 64 KiB"), "{reply}");
    assert_eq!(cached(&server), 0);
    // They count whether sent alone or queued, and whichever client sends them.
    for number in 0..250 {
        let reply = session.command(&["EVAL_RO", &script(number, 1000), "0"]);
        assert_eq!(reply, format!(":{number}\r\n").as_bytes());
    }
    let mut other = RespClient::connect(lb.port());
    other.call("MULTI");
    for number in 250..500 {
        assert_eq!(other.command(&["EVAL_RO", &script(number, 1000), "0"]), b"+QUEUED\r\n");
    }
    assert!(other.call("EXEC").starts_with("*250\r\n"));
    for session in [&mut session, &mut other] {
        let reply = session.command(&["EVAL_RO", &script(500, 1000), "0"]);
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(reply.starts_with("-ERR too many different scripts: at most 500"), "{reply}");
    }
    for command in [&["EVAL", "return 501", "0"][..], &["SCRIPT", "LOAD", "return 501"]] {
        let reply = String::from_utf8_lossy(&session.command(command)).into_owned();
        assert!(reply.starts_with("-ERR too many different scripts"), "{reply}");
    }
    other.call("MULTI");
    assert!(other.call("EVAL_RO return(501) 0").starts_with("-ERR too many"));
    assert!(other.call("EXEC").starts_with("-EXECABORT"));
    assert_eq!(session.command(&["EVAL_RO", &script(7, 1000), "0"]), b":7\r\n", "it is known");
    assert!(
        session.call("EVALSHA_RO 0000000000000000000000000000000000000000 0").contains("NOSCRIPT")
    );
    assert_eq!(cached(&server), 500);
}

const READ: &str = "return redis.call('GET', KEYS[1])";
const WRITE: &str = "return redis.call('SET', KEYS[1], 'changed')";

/// Functions that may and may not write.
const LIBRARY: &str = "#!lua name=both
    redis.register_function{function_name='reader', flags={'no-writes'},
        callback=function(keys) return redis.call('GET', keys[1]) end}
    redis.register_function('writer', function(keys) return redis.call('SET', keys[1], 'changed') end)";

/// Digests of what no server has.
const NOBODYS: &str = "0000000000000000000000000000000000000000";
const NOSCRIPT: &[u8] = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";

/// Three servers with a key.
fn three() -> [RedisServer; 3] {
    [(); 3].map(|()| {
        let server = RedisServer::start();
        server.command(&["SET", "a", "1"]);
        server
    })
}

fn text(value: redis::Value) -> String {
    redis::from_redis_value(value).expect("text")
}

/// Whether a server itself has a script.
fn has(server: &RedisServer, digest: &str) -> bool {
    redis::from_redis_value::<Vec<bool>>(server.command(&["SCRIPT", "EXISTS", digest]))
        .expect("a list")[0]
}

#[test]
fn scripts_that_may_write_are_sent_so_that_they_only_read() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    server.command(&["FUNCTION", "LOAD", LIBRARY]);
    let lb = Balancer::start_with(&[&server], &["--allow-scripts"]);
    let mut session = RespClient::connect(lb.port());
    let shebang = |flags: &str| format!("#!lua {flags}\n{READ}");
    for command in [
        &["EVAL", READ, "1", "a"][..],
        &["eval", &shebang("flags=no-writes"), "1", "a"],
        &["FCALL", "reader", "1", "a"],
        &["FCALL_RO", "reader", "1", "a"],
    ] {
        assert_eq!(session.command(command), b"$1\r\n1\r\n", "{command:?}");
    }
    let by_write = "ERR Write commands are not allowed from read-only scripts";
    let by_flags = "ERR Can not execute a script with write flag using *_ro command";
    for (command, expected) in [
        (&["EVAL", WRITE, "1", "a"][..], by_write),
        (&["EVAL_RO", WRITE, "1", "a"], by_write),
        (&["EVAL", &shebang(""), "1", "a"], by_flags),
        (&["FCALL", "writer", "1", "a"], by_flags),
    ] {
        let reply = String::from_utf8_lossy(&session.command(command)).into_owned();
        assert!(reply.starts_with(&format!("-{expected}")), "{command:?}: {reply}");
    }
    assert_eq!(text(server.command(&["GET", "a"])), "1");
    let stats = text(server.command(&["INFO", "commandstats"]));
    assert!(!stats.contains("cmdstat_eval:") && !stats.contains("cmdstat_fcall:"), "{stats}");
    for refused in ["SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION FLUSH", "FUNCTION LOAD x"] {
        assert!(session.call(refused).starts_with('-'), "{refused}");
    }
}

#[test]
fn a_script_that_was_loaded_is_known_at_every_server_also_at_those_that_come_later() {
    let mut servers = three();
    let lb = Balancer::start_with(&servers.each_ref(), &["--allow-scripts"]);
    let mut session = RespClient::connect(lb.port());
    let loaded = String::from_utf8(session.command(&["SCRIPT", "LOAD", READ])).expect("text");
    let digest = loaded.split("\r\n").nth(1).expect("a digest").to_owned();
    assert_eq!(
        loaded,
        format!("$40\r\n{}\r\n", text(servers[0].command(&["SCRIPT", "LOAD", READ])))
    );
    assert!(servers.iter().all(|server| has(server, &digest)));
    // A server that has lost it gets it again when it is asked for there.
    servers.iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
    let exists = format!("SCRIPT EXISTS {digest} {NOBODYS}");
    assert_eq!(session.call(&exists), "*2\r\n:1\r\n:0\r\n");
    let mut sessions = [(); 6].map(|()| RespClient::connect(lb.port()));
    for session in &mut sessions {
        for name in ["EVALSHA", "evalsha_ro"] {
            assert_eq!(session.call(&format!("{name} {digest} 1 a")), "$1\r\n1\r\n");
        }
    }
    assert!(servers.iter().any(|server| has(server, &digest)));
    // One that has begun anew gets it when it is met.
    servers[1].kill();
    servers[1].restart();
    servers[1].command(&["SET", "a", "1"]);
    wait_until("it has the script", || has(&servers[1], &digest));
    let broken = session.command(&["SCRIPT", "LOAD", "return ("]);
    assert!(broken.starts_with(b"-ERR Error compiling script"), "{}", broken.escape_ascii());
}

#[test]
fn a_script_that_one_server_lacks_is_looked_for_at_the_others() {
    let servers = three();
    let digest = text(servers[2].command(&["SCRIPT", "LOAD", READ]));
    let lb = Balancer::start_with(&servers.each_ref(), &["--allow-scripts"]);
    for _ in 0..6 {
        let mut session = RespClient::connect(lb.port());
        assert_eq!(session.call(&format!("EVALSHA {digest} 1 a")), "$1\r\n1\r\n");
        assert_eq!(session.command(&["EVALSHA", NOBODYS, "0"]), NOSCRIPT);
        assert_eq!(session.command(&["EVALSHA", "short", "0"]), NOSCRIPT);
        assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
    }
    assert!(!has(&servers[0], &digest), "nobody has sent its source");
    let status = lb.get("/-/status.json").json();
    let backends = status["backends"].as_array().expect("a list");
    for backend in backends {
        assert_eq!((&backend["errors"], &backend["retries"]), (&0.into(), &0.into()), "{backend}");
    }
    // Where keys are watched, no other server can be asked.
    let mut session = RespClient::connect(lb.port());
    assert_eq!(session.call("WATCH a"), "+OK\r\n");
    assert_eq!(session.command(&["EVALSHA", NOBODYS, "0"]), NOSCRIPT);
    assert_eq!(session.call("MULTI"), "+OK\r\n");
    assert_eq!(session.call("GET a"), "+QUEUED\r\n");
    assert_eq!(session.call("EXEC"), "*1\r\n$1\r\n1\r\n");
}

#[test]
fn scripts_in_pipelines_and_transactions_are_answered_in_order() {
    let servers = three();
    let lb = Balancer::start_with(&servers.each_ref(), &["--allow-scripts"]);
    let mut session = RespClient::connect(lb.port());
    let digest = text(servers[0].command(&["SCRIPT", "LOAD", READ]));
    servers[0].command(&["SCRIPT", "FLUSH"]);
    let (get, read) = (encode(&["GET", "a"]), encode(&["EVALSHA", &digest, "1", "a"]));
    let commands = [
        get.clone(),
        read.clone(),
        get.clone(),
        encode(&["EVAL", READ, "1", "a"]),
        read.clone(),
        encode(&["EVAL", WRITE, "1", "a"]),
        encode(&["SCRIPT", "LOAD", "return 7"]),
        encode(&["SCRIPT", "EXISTS", &digest]),
        get.clone(),
    ];
    session.send_raw(commands.concat());
    let one = b"$1\r\n1\r\n";
    assert_eq!(session.reply(), one);
    assert_eq!(session.reply(), NOSCRIPT);
    (0..3).for_each(|_| assert_eq!(session.reply(), one));
    assert!(session.reply().starts_with(b"-ERR Write commands"));
    assert!(session.reply().starts_with(b"$40\r\n"));
    assert_eq!(session.reply(), b"*1\r\n:1\r\n");
    assert_eq!(session.reply(), one);
    // Whatever the servers have of it.
    servers.iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
    let by_write = encode(&["EVAL", WRITE, "1", "a"]);
    for queued in [&[&read, &get, &read][..], &[&by_write, &read], &[&get]] {
        session.call("MULTI");
        for command in queued {
            session.send_raw(command);
            assert_eq!(session.reply(), b"+QUEUED\r\n");
        }
        let reply = String::from_utf8(session.command(&["EXEC"])).expect("text");
        let (count, errors) =
            (reply.matches("$1\r\n1\r\n").count(), reply.matches("-ERR Write").count());
        let writes = queued.iter().filter(|command| ***command == by_write).count();
        assert_eq!((count, errors), (queued.len() - writes, writes), "{reply}");
    }
    assert!(servers.iter().all(|server| text(server.command(&["GET", "a"])) == "1"));
}

#[test]
fn users_may_run_scripts_by_their_rules_for_the_name_that_they_send() {
    let servers = three();
    let users = tempfile::NamedTempFile::new().expect("a file");
    let rules = "user default on nopass ~* &* +@all\n\
        user evals on nopass ~* +eval +get -eval_ro\n\
        user reads on nopass ~* +eval_ro -eval\n\
        user some on nopass ~a +@all\n\
        user nowrite on nopass %R~* +@all\n";
    std::fs::write(users.path(), rules).expect("a file");
    let path = users.path().to_str().expect("a path");
    let lb = Balancer::start_with(&servers.each_ref(), &["--allow-scripts", "--users-file", path]);
    for (user, command, begin) in [
        ("evals", &["EVAL", READ, "1", "a"][..], "$1"),
        (
            "evals",
            &["EVAL_RO", READ, "1", "a"],
            "-NOPERM User evals has no permissions to run the 'eval_ro'",
        ),
        (
            "evals",
            &["SCRIPT", "LOAD", READ],
            "-NOPERM User evals has no permissions to run the 'script|load'",
        ),
        (
            "reads",
            &["EVAL", READ, "1", "a"],
            "-NOPERM User reads has no permissions to run the 'eval'",
        ),
        ("reads", &["EVAL_RO", READ, "1", "a"], "$1"),
        // Its source may name any key.
        ("some", &["EVAL", READ, "1", "a"], "-NOPERM "),
        ("some", &["EVAL", READ, "0"], "-NOPERM "),
        // As in Redis: a script may write the keys that it is given.
        ("nowrite", &["EVAL", READ, "1", "a"], "-NOPERM No permissions to access a key"),
        ("nowrite", &["EVAL", "return 7", "0"], ":7"),
        ("nowrite", &["EVAL_RO", READ, "1", "a"], "$1"),
    ] {
        let mut session = RespClient::connect(lb.port());
        assert_eq!(session.call(&format!("AUTH {user} x")), "+OK\r\n");
        let reply = String::from_utf8_lossy(&session.command(command)).into_owned();
        assert!(reply.starts_with(begin), "{user}: {command:?}: {reply}");
    }
}

fn backend(server: &RedisServer) -> Arc<Member> {
    let address = server.address();
    let args = ["lb", "--backend-timeout=10s", "--read-timeout=10s", "--backend", &address];
    let balancer = balance::Balancer::new(Config::from_arguments(args).expect("a configuration"));
    balancer.add_all(balancer.config().servers());
    balancer.backends().iter().next().cloned().expect("one backend")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A server that says soon that it is busy.
fn impatient_server() -> RedisServer {
    RedisServer::start_with(&["--busy-reply-threshold", "50"])
}

fn wait_until_busy(server: &RedisServer) {
    wait_until("the server is busy", || {
        RespClient::connect(server.port()).call("PING").starts_with("-BUSY")
    });
}

#[test]
fn a_script_that_keeps_its_server_busy_is_ended() {
    let server = impatient_server();
    let backend = backend(&server);
    let mut spinning = RespClient::connect(server.port());
    spinning.send(&["EVAL_RO", "while true do end", "0"]);
    wait_until_busy(&server);
    let wrong_kind = backend.kill_script(true, soon());
    assert!(matches!(&wrong_kind, Err(BackendError::Redis(text)) if text.starts_with("BUSY")));
    backend.kill_script(false, soon()).expect("it is ended");
    let reply = String::from_utf8_lossy(&spinning.reply()).into_owned();
    assert!(reply.starts_with('-') && reply.contains("killed"), "{reply}");
    assert_eq!(spinning.call("PING"), "+PONG\r\n");
}

#[test]
fn a_function_that_keeps_its_server_busy_is_ended() {
    let server = impatient_server();
    let library = "#!lua name=spinning\n redis.register_function{function_name='spin', \
        callback=function() while true do end end, flags={'no-writes'}}";
    server.command(&["FUNCTION", "LOAD", library]);
    let backend = backend(&server);
    let mut spinning = RespClient::connect(server.port());
    spinning.send(&["FCALL_RO", "spin", "0"]);
    wait_until_busy(&server);
    backend.kill_script(true, soon()).expect("it is ended");
    assert!(spinning.reply().starts_with(b"-"));
}

#[test]
fn nothing_is_ended_where_no_script_keeps_the_server_busy() {
    let server = RedisServer::start();
    let refusal = backend(&server).kill_script(false, soon());
    assert!(matches!(&refusal, Err(BackendError::Redis(text)) if text.starts_with("NOTBUSY")));
    let stats = format!("{:?}", server.command(&["INFO", "commandstats"]));
    assert!(!stats.contains("kill"), "{stats}");
    assert!(backend(&server).missing_kill_rights(soon()).expect("it answers").is_empty());
}

/// A script that has run for less than `busy-reply-threshold` may be a stranger's: the server does not
/// answer, and no kill stays in its queue.
#[test]
fn a_script_is_not_ended_before_its_server_says_that_it_is_busy() {
    let server = RedisServer::start();
    let backend = backend(&server);
    let mut script = RespClient::connect(server.port());
    let spin = "local function now() local t = redis.call('TIME') return t[1] * 1e6 + t[2] end
        local began = now() repeat until now() > began + 1500000 return 1";
    script.send(&["EVAL_RO", spin, "0"]);
    let refusal = backend.kill_script(false, Instant::now() + Duration::from_millis(300));
    assert!(matches!(&refusal, Err(BackendError::TimedOut)), "{refusal:?}");
    assert!(backend.missing_kill_rights(Instant::now() + Duration::from_millis(300)).is_err());
    assert_eq!(script.reply(), b":1\r\n");
}

#[test]
fn a_frozen_server_is_not_waited_for_beyond_the_deadline() {
    let server = RedisServer::start();
    server.freeze();
    let began = Instant::now();
    let failure = backend(&server).kill_script(false, began + Duration::from_millis(200));
    assert!(matches!(&failure, Err(BackendError::TimedOut)), "{failure:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_script_in_a_pipeline_that_is_refused_leaves_the_replies_in_order() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let get = encode(&["GET", "a"]);
    session.send_raw([&get[..], &encode(&["EVAL_RO", "return 1", "0"]), &get].concat());
    assert_eq!(session.reply(), b"$1\r\n1\r\n");
    assert!(session.reply().starts_with(b"-ERR EVAL_RO is not served"));
    assert_eq!(session.reply(), b"$1\r\n1\r\n");
}

#[test]
fn what_no_server_takes_or_runs_takes_no_place_of_a_script() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--allow-scripts"]);
    let mut session = RespClient::connect(lb.port());
    let mut subscriber = RespClient::connect(lb.port());
    subscriber.call("SUBSCRIBE news");
    for number in 0..500 {
        let reply = session.command(&["SCRIPT", "LOAD", &format!("return {number} +")]);
        assert!(reply.starts_with(b"-ERR Error compiling script"), "{reply:?}");
        let reply = subscriber.command(&["EVAL", &format!("return {number}"), "0"]);
        assert!(reply.starts_with(b"-ERR Can't execute 'eval'"), "{reply:?}");
    }
    let reply = session.command(&["EVAL", "return 'there is room'", "0"]);
    assert_eq!(reply, b"$13\r\nthere is room\r\n");
}
