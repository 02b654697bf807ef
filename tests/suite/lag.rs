//! Replicas whose data are old: bounds for all reads, and bounds that a request asks for.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::{Answer, Balancer};
use crate::support::observe::metric;
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::RespClient;
use crate::support::{SetOnDrop, wait_until};

/// A link that is slower than the writer, over which something comes all the time.
const TRICKLE: Fault = Fault::Bandwidth(20_000);

fn primary() -> RedisServer {
    // After a long lag the rest is passed on, and nothing is filled anew.
    let backlog = ["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"];
    RedisServer::start_with(&[&backlog[..], &["--repl-ping-replica-period", "1"]].concat())
}

/// A replica whose link leads through a relay.
fn replica_of(primary: &RedisServer) -> (RedisServer, Relay) {
    let (replica, relay) = (RedisServer::start(), Relay::start(primary));
    follow(&replica, &relay.address());
    (replica, relay)
}

fn follow(replica: &RedisServer, address: &str) {
    let (host, port) = address.split_once(':').expect("HOST:PORT");
    replica.command(&["REPLICAOF", host, port]);
    wait_until("its link is up", || {
        let info = replica.command(&["INFO", "replication"]);
        let info: String = redis::from_redis_value(info).expect("text");
        info.contains("master_link_status:up")
    });
}

/// The link works again.
fn heal(relay: &Relay) {
    relay.clear();
    relay.reset_all();
}

fn read(lb: &Balancer, path: &str, max_staleness: &str) -> Answer {
    lb.request("GET", path, &[&format!("Max-Staleness: {max_staleness}")])
}

/// Waits until such a read is answered by this server.
fn wait_for_answer_of(server: &RedisServer, lb: &Balancer, max_staleness: &str) {
    wait_until(&format!("{} answers", server.address()), || {
        let answer = read(lb, "/stamp", max_staleness);
        answer.status == 200 && answer.served_by() == server.address()
    });
}

/// What `lb check` says of these servers.
fn check(servers: &[&RedisServer], arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.arg("check").args(arguments);
    servers.iter().for_each(|server| _ = command.args(["--backend", &server.address()]));
    String::from_utf8(command.output().expect("it runs").stdout).expect("text")
}

fn error(answer: &Answer) -> String {
    answer.json()["error"].as_str().expect("an error").to_owned()
}

/// A writer that writes rising numbers, and when each was acknowledged.
#[derive(Default)]
struct Written(Mutex<Vec<Instant>>);

impl Written {
    /// Writes until it is told to end. Each value is long, so that a slow link lags.
    fn write(&self, primary: &RedisServer, is_over: &AtomicBool) {
        let (mut connection, padding) = (primary.connect(), "x".repeat(2000));
        for number in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let value = format!("{number} {padding}");
            redis::cmd("SET").arg("stamp").arg(value).exec(&mut connection).expect("a write");
            self.0.lock().expect("no panic").push(Instant::now());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// How long the value with this number had been replaced at that time.
    fn age(&self, number: usize, at: Instant) -> Duration {
        let written = self.0.lock().expect("no panic");
        written.get(number + 1).map_or(Duration::ZERO, |then| at.saturating_duration_since(*then))
    }
}

/// The last answers to a reader: who answered, or the error.
type Last = Mutex<BTreeMap<&'static str, String>>;

/// Reads with this bound until it is told to end, and compares each answer with what was written.
fn read_on(
    lb: &Balancer,
    bound: &'static str,
    written: &Written,
    last: &Last,
    is_over: &AtomicBool,
) {
    let mut client = lb.client();
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().expect("seconds"));
    while !is_over.load(Ordering::Relaxed) {
        let asked_at = Instant::now();
        client.send(format!(
            "GET /stamp HTTP/1.1\r\nHost: localhost\r\nMax-Staleness: {bound}\r\n\r\n"
        ));
        let answer = client.answer().expect("an answer");
        let said = match answer.status {
            200 => {
                let text = answer.json().as_str().expect("a text").to_owned();
                let number = text.split(' ').next().expect("a number").parse();
                let age = written.age(number.expect("a number"), asked_at);
                let said = seconds(answer.header("x-staleness").expect("its age"));
                assert!(said <= seconds(bound), "{said:?} for {bound}");
                assert!(age <= said, "{age:?}, said to be {said:?}: {}", answer.served_by());
                answer.served_by().to_owned()
            }
            503 | 504 => {
                assert_eq!(answer.header("retry-after"), Some("1"));
                error(&answer)
            }
            other => panic!("{other}: {answer:?}"),
        };
        last.lock().expect("no panic").insert(bound, said);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nobody_gets_older_data_than_asked_for_while_links_trickle_or_stall() {
    let primary = primary();
    let links = [replica_of(&primary), replica_of(&primary)];
    let backends = [format!("{}?weight=0", primary.address())].into_iter();
    let backends: Vec<_> = backends.chain(links.iter().map(|(one, _)| one.address())).collect();
    let (written, last, is_over) = (Written::default(), Last::default(), AtomicBool::new(false));
    primary.command(&["SET", "stamp", "0"]);
    let lb = Balancer::start_at(&backends, &[]);
    thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        scope.spawn(|| written.write(&primary, &is_over));
        wait_until("the first is written", || !written.0.lock().expect("no panic").is_empty());
        for bound in ["0.6", "1.5"] {
            scope.spawn(|| read_on(&lb, bound, &written, &last, &is_over));
        }
        let wait_for_all = |what: &str, is_it: &dyn Fn(&str) -> bool| {
            last.lock().expect("no panic").clear();
            wait_until(what, || {
                let last = last.lock().expect("no panic");
                last.len() == 2 && last.values().all(|said| is_it(said))
            });
        };
        let is_replica = |said: &str| links.iter().any(|(one, _)| one.address() == said);
        wait_for_all("replicas answer, as they are fresh", &is_replica);
        links[0].1.add(&Rule::new(TRICKLE));
        wait_for_all("the other one answers", &|said| said == links[1].0.address());
        links[1].1.add(&Rule::new(Fault::Silence));
        wait_for_all("the primary answers", &|said| said == primary.address());
        primary.freeze();
        wait_for_all("nobody is fresh", &|said| {
            said.contains("(Max-Staleness)") || said.contains("no backend can")
        });
        primary.thaw();
        links.iter().for_each(|(_, relay)| heal(relay));
        wait_for_all("replicas answer again", &is_replica);
    });
}

#[test]
fn a_replica_that_lacks_too_much_is_left_for_another_and_comes_back_when_it_has_caught_up() {
    for (bound, why) in [
        (["--max-lag-bytes", "100KiB"], "MiB of its primary's writes (--max-lag-bytes 100 KiB)"),
        (["--max-lag", "1s"], "s old (--max-lag 1s)"),
    ] {
        let mut primary = primary();
        let (replica, relay) = replica_of(&primary);
        primary.command(&["SET", "stamp", "0"]);
        let arguments = [&bound[..], &["--slow-start", "0s"]].concat();
        let lb = Balancer::start_with(&[&primary, &replica], &arguments);
        let servers = || -> Vec<String> {
            (0..10).map(|_| lb.get("/stamp").served_by().to_owned()).collect()
        };
        let info = || RespClient::connect(lb.port()).call("INFO balancer");
        let lag = || lb.get("/-/status.json").json()["backends"][1]["lag_bytes"].as_u64();
        let write_much = || {
            let value = "x".repeat(1000);
            let mut pipe = redis::pipe();
            (0..2000).for_each(|_| _ = pipe.set("much", &value).ignore());
            pipe.exec(&mut primary.connect()).expect("the primary takes it");
        };
        wait_until("both are known and read from", || {
            lag() == Some(0) && servers().contains(&replica.address())
        });
        relay.add(&Rule::new(TRICKLE));
        write_much();
        wait_until("it is stale", || info().contains(why));
        assert!(servers().iter().all(|server| *server == primary.address()), "{bound:?}");
        let checked = check(&[&primary, &replica], &bound);
        assert!(checked.contains(", link up, lacks ") && checked.contains("MiB"), "{checked}");
        assert!(lag() > Some(1 << 20) && metric(&lb, "redis_lb_backend_lag_bytes") > 1e6);
        assert!(metric(&lb, "redis_lb_backend_staleness_seconds") > 0.1);
        heal(&relay);
        wait_until("it has caught up", || {
            lag() == Some(0) && servers().contains(&replica.address())
        });
        relay.add(&Rule::new(TRICKLE));
        write_much();
        wait_until("it is stale again", || info().contains(why));
        primary.kill();
        wait_until("it is better than nothing", || {
            let answer = lb.get("/stamp");
            answer.status == 200 && answer.served_by() == replica.address()
        });
    }
}

#[test]
fn after_a_failover_the_promoted_replica_is_what_others_are_measured_by() {
    let mut primary = primary();
    primary.command(&["SET", "stamp", "0"]);
    let [(first, _first_link), (second, _second_link)] = [(); 2].map(|()| replica_of(&primary));
    let lb = Balancer::start_with(&[&primary, &first, &second], &[]);
    wait_for_answer_of(&primary, &lb, "0");
    wait_for_answer_of(&second, &lb, "1");
    primary.kill();
    wait_until("nobody is fresh", || {
        let answer = read(&lb, "/stamp", "1");
        answer.status == 503 && error(&answer).contains("the freshest may be ")
    });
    first.command(&["REPLICAOF", "NO", "ONE"]);
    wait_for_answer_of(&first, &lb, "0");
    follow(&second, &first.address());
    wait_for_answer_of(&second, &lb, "1");
}

#[test]
fn a_primary_that_was_replaced_while_it_was_frozen_answers_nobody_who_asks_for_fresh_data() {
    let primary = primary();
    primary.command(&["SET", "stamp", "old"]);
    let [(first, _first_link), (second, _second_link)] = [(); 2].map(|()| replica_of(&primary));
    let lb = Balancer::start_with(&[&primary, &first, &second], &["--check-timeout", "200ms"]);
    wait_for_answer_of(&primary, &lb, "0");
    primary.freeze();
    first.command(&["REPLICAOF", "NO", "ONE"]);
    follow(&second, &first.address());
    first.command(&["SET", "stamp", "new"]);
    wait_for_answer_of(&first, &lb, "0");
    wait_for_answer_of(&second, &lb, "1");
    primary.thaw();
    // It takes itself for the primary: nobody knows which of the two is right.
    wait_until("they are in doubt", || {
        let answer = read(&lb, "/stamp", "1");
        assert!(answer.status != 200 || answer.json() == "new", "{answer:?}");
        answer.status == 503
    });
    follow(&primary, &first.address());
    wait_until("the doubt is over", || {
        let answer = read(&lb, "/stamp", "1");
        assert!(answer.status != 200 || answer.json() == "new", "{answer:?}");
        answer.status == 200 && answer.served_by() == primary.address()
    });
}

#[test]
fn each_form_of_a_read_can_ask_for_fresh_data_and_is_told_how_old_they_are() {
    let primary = primary();
    primary.command(&["HSET", "actor:1", "name", "Mara"]);
    primary.command(&["SET", "stamp", "0"]);
    // So many that a page does not hold them all.
    (0..50).for_each(|number| _ = primary.command(&["SET", &format!("key:{number}"), "1"]));
    let (replica, _relay) = replica_of(&primary);
    let lb = Balancer::start_with(&[&primary, &replica], &[]);
    let paths = ["/stamp", "/stamp", "/", "/actor:1?field=name", "/actor:1?format=html", "/none"];
    for path in paths {
        for _ in 0..4 {
            let answer = read(&lb, path, "0");
            assert_eq!(answer.served_by(), primary.address(), "{path}");
            assert_eq!(answer.header("x-staleness"), Some("0.000"), "{path}");
        }
        assert_eq!(lb.get(path).header("x-staleness"), None, "{path}");
    }
    let wrong = read(&lb, "/stamp", "soon");
    assert_eq!(wrong.status, 400);
    assert!(error(&wrong).contains("Max-Staleness must be a number of seconds"), "{wrong:?}");
    let alone = Balancer::start_with(&[&replica], &[]);
    let next = alone.get("/?limit=1").json()["next"].as_str().expect("more").to_owned();
    for path in paths.into_iter().chain([&next[..]]).filter(|path| !path.contains("html")) {
        let answer = read(&alone, path, "60");
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert!(error(&answer).contains("at most 60 s old (Max-Staleness)"), "{path}: {answer:?}");
        let why = "how old its data are is not known";
        assert_eq!(answer.json()["backends"][0]["error"], why, "{path}: {answer:?}");
    }
    let page = read(&alone, "/stamp?format=html", "60");
    assert!(page.status == 503 && String::from_utf8_lossy(&page.body).contains("Max-Staleness"));
}
