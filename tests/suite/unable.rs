//! Errors that say that a server can't answer, now or for us: another is asked, over either protocol,
//! and what is nobody's fault takes no server away.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::observe::states;
use crate::support::redis::{RedisServer, free_port, three_servers};
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

const RIGHTS: &str = "+@all ~* &*";

/// So many sessions have one on each server.
const SESSIONS: usize = 6;

/// In front of servers as a user who may do all, until that changes.
fn start_as_reader(servers: &[RedisServer]) -> Balancer {
    for server in servers {
        set_user(server, &format!("reset on >secret {RIGHTS}"));
        server.command(&["SET", "a", "1"]);
    }
    let address = |server: &RedisServer| format!("redis://reader:secret@{}", server.address());
    let backends = servers.iter().map(address).collect::<Vec<_>>();
    Balancer::start_at(&backends, &["--allow-scripts"])
}

fn set_user(server: &RedisServer, rules: &str) {
    let rule = format!("ACL SETUSER reader {rules}");
    server.command(&rule.split_whitespace().collect::<Vec<_>>());
}

fn sessions(lb: &Balancer) -> Vec<RespClient> {
    (0..SESSIONS).map(|_| RespClient::connect(lb.port())).collect()
}

/// From the second time on by shared connections.
fn read_thrice(sessions: &mut [RespClient]) {
    for _ in 0..3 {
        for session in &mut *sessions {
            assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
        }
    }
}

fn all_up(lb: &Balancer) -> bool {
    states(lb).iter().all(|state| state == "up")
}

/// How many lines of the log are warnings that contain all of these.
fn warnings(lb: &Balancer, words: &[&str]) -> usize {
    let is_one =
        |line: &&str| line.contains("WARN") && words.iter().all(|word| line.contains(word));
    lb.log().lines().filter(is_one).count()
}

#[test]
fn what_one_server_does_not_permit_another_answers() {
    let servers = three_servers();
    let lb = start_as_reader(&servers);
    let mut sessions = sessions(&lb);
    read_thrice(&mut sessions);
    assert_eq!((0..SESSIONS).map(|_| lb.get("/a").status).max(), Some(200));
    set_user(&servers[0], "-get");
    for round in 0..20 {
        for session in &mut sessions {
            assert_eq!(session.call("GET a"), "$1\r\n1\r\n", "in round {round}");
            session.send_raw(encode(&["GET", "a"]).repeat(5));
            for _ in 0..5 {
                assert_eq!(session.reply(), b"$1\r\n1\r\n", "in round {round}");
            }
        }
        let mut newcomer = RespClient::connect(lb.port());
        assert_eq!(newcomer.call("MULTI"), "+OK\r\n");
        assert_eq!(newcomer.call("GET a"), "+QUEUED\r\n");
        assert_eq!(newcomer.call("EXEC"), "*1\r\n$1\r\n1\r\n", "in round {round}");
        let answer = lb.get("/a");
        assert_eq!((answer.status, answer.json()), (200, "1".into()), "in round {round}");
        assert!(all_up(&lb), "{:?}", states(&lb));
    }
    let name = servers[0].address();
    assert_eq!(warnings(&lb, &[&name, "NOPERM", "'get'", "others are asked"]), 1, "{}", lb.log());
    assert!(!lb.log().contains("is suspect"), "{}", lb.log());
}

#[test]
fn what_no_server_permits_is_the_clients_answer_and_takes_no_server_away() {
    let servers = three_servers();
    let lb = start_as_reader(&servers);
    let mut sessions = sessions(&lb);
    read_thrice(&mut sessions);
    servers.iter().for_each(|server| set_user(server, "-get"));
    for session in &mut sessions {
        session.send_raw([encode(&["GET", "a"]), encode(&["STRLEN", "a"])].concat().repeat(500));
        for _ in 0..500 {
            let refusal = String::from_utf8_lossy(&session.reply()).into_owned();
            assert!(refusal.starts_with("-NOPERM ") && refusal.contains("'get'"), "{refusal}");
            assert_eq!(session.reply(), b":1\r\n");
        }
        assert_eq!(session.call("MULTI"), "+OK\r\n");
        assert_eq!(session.call("GET a"), "+QUEUED\r\n");
        let aborted = session.call("EXEC");
        assert!(aborted.starts_with("-EXECABORT ") && aborted.contains("NOPERM"), "{aborted}");
        assert_eq!(session.call("STRLEN a"), ":1\r\n");
    }
    let answer = lb.get("/a");
    assert_eq!(answer.status, 403);
    let error = answer.json()["error"].as_str().expect("an error").to_owned();
    assert!(error.starts_with("NOPERM ") && error.contains("'get'"), "{error}");
    assert!(all_up(&lb), "{:?}", states(&lb));
    assert!(!lb.log().contains("is suspect"), "{}", lb.log());
    // Nobody was asked more often than need be.
    for server in &servers {
        let stats: String =
            redis::from_redis_value(server.command(&["INFO", "commandstats"])).expect("text");
        let line = stats.lines().find(|line| line.starts_with("cmdstat_get:")).expect("GET");
        let rejected = line.split("rejected_calls=").nth(1).and_then(|rest| rest.split(',').next());
        let rejected: usize = rejected.and_then(|count| count.parse().ok()).expect("a count");
        assert!(rejected <= 2 * 500 * SESSIONS, "{line}");
    }
}

/// A server that is a cluster of its own.
fn cluster_of_one() -> RedisServer {
    // Its bus has a port of its own, which another test's server may have else.
    let bus = free_port().to_string();
    let server = RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    wait_until("the cluster is up", || {
        let info: String =
            redis::from_redis_value(server.command(&["CLUSTER", "INFO"])).expect("text");
        info.contains("cluster_state:ok")
    });
    server.command(&["SET", "a", "1"]);
    server
}

#[test]
fn a_server_whose_cluster_is_down_is_left_and_shown() {
    let servers = [cluster_of_one(), RedisServer::start()];
    servers[1].command(&["SET", "a", "1"]);
    let lb = Balancer::start(&servers.iter().collect::<Vec<_>>());
    let mut sessions = sessions(&lb);
    let read_all = |sessions: &mut Vec<RespClient>| {
        for session in sessions {
            assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
        }
        let answer = lb.get("/a");
        assert_eq!((answer.status, answer.json()), (200, "1".into()));
    };
    (0..3).for_each(|_| read_all(&mut sessions));
    servers[0].command(&["CLUSTER", "DELSLOTS", "16383"]);
    let began = Instant::now();
    let mut changes = 0;
    while began.elapsed() < Duration::from_secs(3) {
        read_all(&mut sessions);
        changes = lb.log().matches("is suspect: answered: CLUSTERDOWN").count();
    }
    // It stays so although it answers its checks.
    assert_eq!(changes, 1, "{}", lb.log());
    assert_eq!(states(&lb), ["suspect", "up"]);
    servers[0].command(&["CLUSTER", "ADDSLOTS", "16383"]);
    wait_until("it is up again", || all_up(&lb));
    read_all(&mut sessions);
}

#[test]
fn a_slot_that_one_server_does_not_have_is_read_from_another() {
    let servers = [cluster_of_one(), RedisServer::start()];
    servers[1].command(&["SET", "a", "1"]);
    servers[0].command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    let lb = Balancer::start(&servers.iter().collect::<Vec<_>>());
    // That of "a".
    servers[0].command(&["CLUSTER", "DELSLOTS", "15495"]);
    for mut session in sessions(&lb) {
        (0..3).for_each(|_| assert_eq!(session.call("GET a"), "$1\r\n1\r\n"));
        assert_eq!(lb.get("/a").json(), "1");
    }
    assert!(all_up(&lb), "{:?}", states(&lb));
    assert!(warnings(&lb, &[&servers[0].address(), "Hash slot not served"]) <= 1, "{}", lb.log());
}

#[test]
fn what_a_script_makes_up_blames_nobody_and_reaches_the_client() {
    let servers = three_servers();
    let lb = start_as_reader(&servers);
    for error in [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "NOPERM User reader has no permissions to run the 'eval_ro' command",
        "CLUSTERDOWN The cluster is down",
        "MOVED 1 127.0.0.1:1",
    ] {
        let script = format!("return redis.error_reply(\"{error}\")");
        let mut session = RespClient::connect(lb.port());
        let call = ["EVAL_RO", &script, "1", "a", "b"];
        let expected = format!("-{error}\r\n");
        assert_eq!(String::from_utf8_lossy(&session.command(&call)), expected);
        assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
        // What the client wants no reply to is none the less read.
        session.send(&["CLIENT", "REPLY", "SKIP"]);
        session.send(&call);
        assert_eq!(session.call("GET a"), "$1\r\n1\r\n");
        assert_eq!(session.call("MULTI"), "+OK\r\n");
        assert_eq!(session.command(&call), b"+QUEUED\r\n");
        let exec = String::from_utf8_lossy(&session.command(&["EXEC"])).into_owned();
        assert_eq!(exec, format!("*1\r\n{expected}"));
        let thrown = session.command(&["EVAL_RO", &format!("error({{err=\"{error}\"}})"), "0"]);
        assert!(thrown.starts_with(format!("-{}", &error[..4]).as_bytes()), "{thrown:?}");
    }
    assert!(all_up(&lb), "{:?}", states(&lb));
    assert!(!lb.log().contains("is suspect"), "{}", lb.log());
    assert_eq!(warnings(&lb, &["NOPERM"]), 0, "{}", lb.log());
}

#[test]
fn what_a_server_itself_says_to_a_script_is_no_answer() {
    let slow = ["--lua-time-limit", "20"];
    let servers = [(); 2].map(|()| RedisServer::start_with(&slow));
    let lb = start_as_reader(&servers);
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    for server in &servers {
        server.command(&["SCRIPT", "LOAD", "return 1"]);
    }
    let ask = |sessions: &mut Vec<RespClient>| {
        for session in sessions {
            assert_eq!(
                session.command(&["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "a"]),
                b"$1\r\n1\r\n"
            );
            assert_eq!(session.command(&["EVALSHA_RO", sha, "0"]), b":1\r\n");
        }
    };
    let mut sessions = sessions(&lb);
    ask(&mut sessions);
    set_user(&servers[0], "-eval_ro -evalsha_ro");
    (0..3).for_each(|_| ask(&mut sessions));
    assert!(all_up(&lb), "{:?}", states(&lb));
    set_user(&servers[0], RIGHTS);
    thread::scope(|scope| {
        let busy = &servers[0];
        scope.spawn(|| {
            let mut command = redis::cmd("EVAL");
            command.arg("while true do end").arg(0);
            // It is killed.
            let _ = redis::ConnectionLike::req_command(&mut busy.connect(), &command);
        });
        let mut direct = RespClient::connect(busy.port());
        wait_until("it is busy", || direct.call("PING").starts_with("-BUSY"));
        (0..10).for_each(|_| ask(&mut sessions));
        assert_eq!(direct.call("SCRIPT KILL"), "+OK\r\n");
    });
    (0..3).for_each(|_| ask(&mut sessions));
    wait_until("both are up", || all_up(&lb));
}

#[test]
fn a_server_that_can_not_save_serves_reads() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    // Where its file should be there is a folder.
    let dir: Vec<String> =
        redis::from_redis_value(server.command(&["CONFIG", "GET", "dir"])).expect("text");
    std::fs::create_dir(std::path::Path::new(&dir[1]).join("dump.rdb")).expect("a folder");
    server.command(&["CONFIG", "SET", "save", "3600 1000000"]);
    server.command(&["BGSAVE"]);
    let mut direct = RespClient::connect(server.port());
    wait_until("it can't save", || direct.call("PING").starts_with("-MISCONF"));
    let lb = Balancer::start_with(&[&server], &["--check-interval", "100ms"]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(states(&lb), ["up"], "{}", lb.log());
        assert_eq!(lb.get("/a").json(), "1");
        assert_eq!(RespClient::connect(lb.port()).call("GET a"), "$1\r\n1\r\n");
    }
}
