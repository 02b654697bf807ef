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
    assert!(session.call("EVAL return(1) 0").contains("a script may write"));
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
    other.call("MULTI");
    assert!(other.call("EVAL_RO return(501) 0").starts_with("-ERR too many"));
    assert!(other.call("EXEC").starts_with("-EXECABORT"));
    assert_eq!(session.command(&["EVAL_RO", &script(7, 1000), "0"]), b":7\r\n", "it is known");
    assert!(
        session.call("EVALSHA_RO 0000000000000000000000000000000000000000 0").contains("NOSCRIPT")
    );
    assert_eq!(cached(&server), 500);
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
