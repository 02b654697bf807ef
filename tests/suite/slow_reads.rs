//! Reads that keep a server busy: they are answered, and nobody else is kept from a server by them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::SetOnDrop;
use crate::support::balancer::Balancer;
use crate::support::observe::{leases, metric};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Silence of half of this is slow.
const TIMEOUT: &[&str] = &["--backend-timeout", "200ms", "--allow-scripts"];

/// A read that keeps its server busy for so many milliseconds; another of its kind with each number.
fn busy_for(millis: u32, number: usize) -> Vec<String> {
    let script = format!(
        "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end \
         local finish = now() + {millis} while now() < finish do end return tonumber(ARGV[1])"
    );
    ["EVAL_RO", &script, "0", &number.to_string()].map(str::to_owned).to_vec()
}

fn servers() -> [RedisServer; 3] {
    [(); 3].map(|()| {
        let server = RedisServer::start();
        let mut pipe = redis::pipe();
        (0..50).for_each(|number| _ = pipe.set(format!("key:{number}"), number));
        pipe.exec(&mut server.connect()).expect("the server takes them");
        server
    })
}

/// Reads that are quick, compared, by both protocols until it is over; returns how many.
fn read_on(lb: &Balancer, is_over: &AtomicBool) -> usize {
    let mut session = RespClient::connect(lb.port());
    let mut reads = 0;
    while !is_over.load(Ordering::Relaxed) {
        let number = reads % 50;
        let reply = session.call(&format!("GET key:{number}"));
        let value = number.to_string();
        assert_eq!(reply, format!("${}\r\n{value}\r\n", value.len()));
        assert_eq!(lb.get(&format!("/key:{number}")).json(), value);
        reads += 1;
    }
    reads
}

fn status(lb: &Balancer) -> serde_json::Value {
    lb.get("/-/status.json").json()
}

/// The calls of scripts that a server has counted.
fn scripts_of(server: &RedisServer) -> usize {
    let info: String =
        redis::from_redis_value(server.command(&["INFO", "commandstats"])).expect("text");
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_eval_ro:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn slow_reads_of_three_clients_are_answered_one_after_the_other_and_take_no_server_away() {
    let servers = servers();
    let lb = Balancer::start_with(&servers.each_ref(), TIMEOUT);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read_on(&lb, &is_over))).collect();
        let observer = scope.spawn(|| {
            let mut most_away = 0;
            while !is_over.load(Ordering::Relaxed) {
                let status = status(&lb);
                let backends = status["backends"].as_array().expect("a list");
                let away = backends.iter().filter(|backend| backend["state"] != "up").count();
                most_away = most_away.max(away);
            }
            most_away
        });
        let _ends = SetOnDrop(&is_over);
        let slow: Vec<_> = (0..3)
            .map(|client| {
                let lb = &lb;
                scope.spawn(move || {
                    let mut session = RespClient::connect(lb.port());
                    for round in 0..3 {
                        let number = 10 * client + round;
                        assert_eq!(
                            session.command(&busy_for(300, number)),
                            format!(":{number}\r\n").as_bytes()
                        );
                    }
                })
            })
            .collect();
        slow.into_iter().for_each(|client| client.join().expect("each is answered"));
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| assert!(reader.join().expect("no error") > 0));
        let log = lb.log();
        let is_news = |line: &&str| [" is ", "slow read"].iter().any(|what| line.contains(what));
        let news: Vec<_> = log.lines().filter(is_news).collect();
        assert!(observer.join().expect("a status") < 2, "two were not up: {news:#?}");
    });
    let calls: usize = servers.iter().map(scripts_of).sum();
    assert_eq!(calls, 9, "none was sent twice");
    assert_eq!(status(&lb)["slow_reads"]["ended"], 9);
    assert_eq!(metric(&lb, "redis_lb_backend_slow_reads_total"), 9.0);
    wait_until("the log names them", || {
        lb.log().matches("slow read answered: EVAL_RO ").count() == 9
    });
    wait_until("no lease is left", || leases(&lb).iter().sum::<usize>() <= 1);
}

#[test]
fn clients_that_ask_the_same_slow_read_share_its_answer() {
    let servers = servers();
    servers.iter().for_each(|server| {
        let elements = redis::cmd("EVAL")
            .arg("for i = 1, 300000 do redis.call('RPUSH', 'big', i * 7919 % 300007) end")
            .arg(0)
            .to_owned();
        elements.exec(&mut server.connect()).expect("a list");
    });
    // However fast this computer is.
    let lb = Balancer::start_with(&servers.each_ref(), &["--backend-timeout", "20ms"]);
    let sort = "SORT_RO big ALPHA LIMIT 0 1";
    let mut first = RespClient::connect(lb.port());
    let answer = first.call(sort);
    assert!(answer.starts_with("*1\r\n"), "{answer}");
    let sorts = || {
        let calls = |server: &RedisServer| {
            let info: String =
                redis::from_redis_value(server.command(&["INFO", "commandstats"])).expect("text");
            let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_sort_ro:calls="));
            line.and_then(|line| line.split(',').next()?.parse::<usize>().ok()).unwrap_or(0)
        };
        servers.iter().map(calls).sum::<usize>()
    };
    let before = sorts();
    thread::scope(|scope| {
        let ask = || {
            let mut session = RespClient::connect(lb.port());
            assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
            for _ in 0..3 {
                assert_eq!(session.call(sort), answer);
                assert_eq!(session.call("GET key:2"), "$1\r\n2\r\n");
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().for_each(|client| client.join().expect("each is answered"));
    });
    let sent = sorts() - before;
    assert!(sent < 20, "{sent} of 24 were sent");
}

#[test]
fn a_slow_read_whose_client_has_left_before_its_turn_is_not_sent() {
    let servers = servers();
    let lb = Balancer::start_with(&servers.each_ref(), TIMEOUT);
    // That this one is slow is known from now on.
    let mut session = RespClient::connect(lb.port());
    assert_eq!(session.command(&busy_for(300, 1)), b":1\r\n");
    session.send(&busy_for(2000, 2));
    let waits = |count| {
        wait_until("reads wait", || status(&lb)["slow_reads"]["waiting"] == count);
    };
    wait_until("it runs", || status(&lb)["slow_reads"]["running"] != serde_json::json!([]));
    let mut leaving = RespClient::connect(lb.port());
    leaving.send(&busy_for(300, 1));
    waits(1);
    drop(leaving);
    waits(0);
    assert_eq!(session.reply(), b":2\r\n");
    assert_eq!(servers.iter().map(scripts_of).sum::<usize>(), 2);
}

#[test]
fn while_a_slow_read_runs_its_server_has_no_other_sessions() {
    let servers = servers();
    let lb = Balancer::start_with(&servers.each_ref(), TIMEOUT);
    let mut sessions: Vec<_> = (0..9).map(|_| RespClient::connect(lb.port())).collect();
    sessions.iter_mut().for_each(|session| assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n"));
    let mut slow = RespClient::connect(lb.port());
    slow.send(&busy_for(3000, 1));
    let busy = || {
        let running = status(&lb)["slow_reads"]["running"].clone();
        running[0]["backend"].as_str().map(str::to_owned)
    };
    wait_until("it is known to be slow", || busy().is_some());
    let busy = busy().expect("it still runs");
    for session in &mut sessions {
        assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
    }
    let at = servers.iter().position(|server| server.address() == busy).expect("one of them");
    assert!(leases(&lb)[at] <= 1, "the slow one's own: {:?}", leases(&lb));
    assert_eq!(slow.reply(), b":1\r\n");
    wait_until("it is up again", || status(&lb)["backends"][at]["state"] == "up");
}

#[test]
fn with_two_servers_quick_reads_leave_the_one_that_works_on_a_slow_read() {
    let [one, other, _] = servers();
    let lb = Balancer::start_with(&[&one, &other], TIMEOUT);
    let mut sessions: Vec<_> = (0..6).map(|_| RespClient::connect(lb.port())).collect();
    sessions.iter_mut().for_each(|session| assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n"));
    let mut slow = RespClient::connect(lb.port());
    slow.send(&busy_for(4000, 1));
    wait_until("it is sent", || {
        [&one, &other].into_iter().any(|server| {
            // One that runs a script answers nobody.
            let mut direct = RespClient::connect(server.port());
            direct.send(&["PING"]);
            !direct.has_reply_within(Duration::from_millis(50))
        })
    });
    // Half of them are on the busy server.
    sessions.iter_mut().for_each(|session| session.send(&["GET", "key:2"]));
    sessions.iter_mut().for_each(|session| assert_eq!(session.reply(), b"$1\r\n2\r\n"));
    assert!(!slow.has_reply_within(Duration::from_millis(1)), "they waited for the slow read");
    assert_eq!(slow.reply(), b":1\r\n");
    assert!(!lb.log().contains(" is down: "), "{}", lb.log());
}

#[test]
fn a_transaction_that_watches_and_kills_its_server_is_refused_afterwards() {
    let mut servers = servers();
    let lb = Balancer::start_with(&servers.each_ref(), TIMEOUT);
    let mut session = RespClient::connect(lb.port());
    let begin = |session: &mut RespClient| {
        assert_eq!(session.call("WATCH key:1"), "+OK\r\n");
        assert_eq!(session.call("MULTI"), "+OK\r\n");
        assert_eq!(session.command(&busy_for(10_000, 1)), b"+QUEUED\r\n");
        session.send(&["EXEC"]);
    };
    begin(&mut session);
    let running = || status(&lb)["slow_reads"]["running"][0].clone();
    wait_until("it runs", || running()["seconds"].as_f64().is_some_and(|time| time > 0.05));
    let name = running()["backend"].as_str().expect("a name").to_owned();
    let killed = servers.iter_mut().find(|server| server.address() == name);
    killed.expect("one of them").kill();
    assert_eq!(session.reply(), b"*-1\r\n", "what it watched may have changed");
    begin(&mut session);
    let reply = String::from_utf8_lossy(&session.reply()).into_owned();
    assert!(reply.starts_with("-ERR this read has killed servers"), "{reply}");
    assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
}

#[test]
fn a_read_that_kills_its_server_kills_no_third_one_and_is_refused_afterwards() {
    let mut servers = servers();
    let lb = Balancer::start_with(&servers.each_ref(), TIMEOUT);
    let addresses = servers.each_ref().map(RedisServer::address);
    let killed = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_on(&lb, &is_over));
        let _ends = SetOnDrop(&is_over);
        // A server that runs it dies.
        let killer = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let running = status(&lb)["slow_reads"]["running"].clone();
                let is_at_work = running[0]["seconds"].as_f64().is_some_and(|time| time > 0.05);
                if let Some(name) = running[0]["backend"].as_str()
                    && is_at_work
                    && let Some(at) = addresses.iter().position(|address| address == name)
                {
                    servers[at].kill();
                    killed.fetch_add(1, Ordering::Relaxed);
                    wait_until("that is noticed", || {
                        let running = status(&lb)["slow_reads"]["running"].clone();
                        running[0]["backend"].as_str() != Some(name)
                    });
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut session = RespClient::connect(lb.port());
        let reply = session.command(&busy_for(10_000, 1));
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(reply.starts_with("-ERR this read is not sent to another server: "), "{reply}");
        wait_until("two have died", || killed.load(Ordering::Relaxed) == 2);
        let again = session.command(&busy_for(10_000, 1));
        let again = String::from_utf8_lossy(&again).into_owned();
        assert!(again.starts_with("-ERR this read has killed servers"), "{again}");
        assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
        is_over.store(true, Ordering::Relaxed);
        killer.join().expect("no panic");
        assert_eq!(killed.load(Ordering::Relaxed), 2);
        assert!(reader.join().expect("no error for the others") > 0);
    });
}

#[test]
fn a_script_whose_time_is_up_is_ended() {
    let servers = servers();
    let arguments = [TIMEOUT, &["--read-timeout", "1s"]].concat();
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let mut session = RespClient::connect(lb.port());
    let reply = session.command(&["EVAL_RO", "while true do end", "0"]);
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert!(reply.starts_with("-ERR "), "{reply}");
    wait_until("the log says so", || lb.log().contains("ended a script on "));
    wait_until("all are up", || {
        let status = status(&lb);
        let backends = status["backends"].as_array().expect("a list");
        backends.iter().all(|backend| backend["state"] == "up")
    });
}

#[test]
fn with_all_servers_frozen_a_pipeline_fails_as_fast_as_one_command() {
    let servers = servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--check-interval", "200ms"]);
    let mut session = RespClient::connect(lb.port());
    assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
    servers.iter().for_each(RedisServer::freeze);
    wait_until("all are down", || {
        let status = status(&lb);
        let backends = status["backends"].as_array().expect("a list");
        backends.iter().all(|backend| backend["state"] == "down")
    });
    let began = std::time::Instant::now();
    let one = session.call("GET key:1");
    assert!(one.starts_with("-ERR no backend could answer"), "{one}");
    let time_of_one = began.elapsed();
    // Far from the one before, so that it shares nothing with it.
    thread::sleep(Duration::from_millis(1100));
    let began = std::time::Instant::now();
    let mut many = RespClient::connect(lb.port());
    let commands: Vec<u8> =
        (0..2000).flat_map(|_| crate::support::resp::encode(&["GET", "key:1"])).collect();
    many.send_raw(commands);
    for _ in 0..2000 {
        assert!(many.reply().starts_with(b"-ERR no backend could answer"));
    }
    let time_of_many = began.elapsed();
    assert!(time_of_many < 3 * time_of_one, "{time_of_many:?} against {time_of_one:?}");
    servers.iter().for_each(RedisServer::thaw);
}
