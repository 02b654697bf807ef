//! What keeps clients from reading where data are missing must not itself take service away.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::observe::{leases, states};
use crate::support::redis::{RedisServer, free_port};
use crate::support::resp::RespClient;
use crate::support::wait_until;

const KEYS: usize = 1000;

/// So often a server is checked in these tests.
const OFTEN: [&str; 2] = ["--check-interval", "50ms"];

fn fill(server: &RedisServer, keys: std::ops::Range<usize>) {
    let mut pipe = redis::pipe();
    keys.for_each(|number| _ = pipe.set(format!("key:{number}"), number).ignore());
    pipe.exec(&mut server.connect()).expect("the server takes them");
}

fn filled() -> RedisServer {
    let server = RedisServer::start();
    fill(&server, 0..KEYS);
    server
}

fn keys(server: &RedisServer) -> i64 {
    redis::from_redis_value(server.command(&["DBSIZE"])).expect("a number")
}

fn replica_of(primary: &RedisServer, arguments: &[&str]) -> RedisServer {
    let replica = RedisServer::start_with(arguments);
    replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_until("the replica has its keys", || keys(&replica) == keys(primary));
    replica
}

fn wait_for(lb: &Balancer, wanted: &[&str]) {
    wait_until(&format!("the states are {wanted:?}"), || states(lb) == wanted);
}

fn info(lb: &Balancer) -> String {
    RespClient::connect(lb.port()).call("INFO balancer")
}

/// How often a server was asked for a key by GET, by its own account.
fn gets(server: &RedisServer) -> usize {
    let stats = server.command(&["INFO", "commandstats"]);
    let stats: String = redis::from_redis_value(stats).expect("text");
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    line.map_or(0, |line| line.split(',').next().and_then(|n| n.parse().ok()).expect("a count"))
}

/// Threads that go on until this is dropped.
struct Crowd {
    is_over: Arc<AtomicBool>,
    errors: Arc<std::sync::Mutex<Vec<String>>>,
    reads: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new() -> Self {
        Self {
            is_over: Arc::default(),
            errors: Arc::default(),
            reads: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Writes a new key to each of these every 15 ms.
    fn write(&mut self, servers: &[&RedisServer]) {
        for server in servers {
            let (mut connection, is_over) = (server.connect(), Arc::clone(&self.is_over));
            self.threads.push(thread::spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    redis::cmd("SET")
                        .arg(format!("steady:{number}"))
                        .arg(number)
                        .exec(&mut connection)
                        .expect("the server takes it");
                    thread::sleep(Duration::from_millis(15));
                }
            }));
        }
    }

    /// Reads by both protocols, and notes each error.
    fn read(&mut self, lb: &Balancer) {
        let spawn = |mut read: Box<dyn FnMut() -> Option<String> + Send>| {
            let (is_over, errors) = (Arc::clone(&self.is_over), Arc::clone(&self.errors));
            let reads = Arc::clone(&self.reads);
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    if let Some(error) = read() {
                        errors.lock().expect("no panic").push(error);
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let mut threads = Vec::new();
        for _ in 0..3 {
            let mut session = RespClient::connect(lb.port());
            threads.push(spawn(Box::new(move || {
                let reply = session.call("GET key:1");
                reply.starts_with('-').then_some(reply)
            })));
        }
        let mut client = lb.client();
        threads.push(spawn(Box::new(move || {
            let status = client.get("/key:2").status;
            (![200, 404].contains(&status)).then(|| format!("HTTP {status}"))
        })));
        self.threads.extend(threads);
    }

    /// Returns once there were so many reads more.
    fn wait_for_reads(&self, count: usize) {
        let wanted = self.reads.load(Ordering::Relaxed) + count;
        wait_until("there were reads", || self.reads.load(Ordering::Relaxed) >= wanted);
    }

    fn finish(mut self) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
        std::mem::take(&mut self.errors.lock().expect("no panic"))
    }
}

/// Lets most keys go in three ways, while others are written, and nobody notices. The first so many are
/// written to; `join` makes the third a replica again, where it was one.
fn lose_keys(servers: &mut [RedisServer; 3], writable: usize, join: impl Fn(&[RedisServer; 3])) {
    for (is_one_away, way) in [false, true]
        .into_iter()
        .flat_map(|is_one_away| ["FLUSHALL", "expiry", "delete"].map(|way| (is_one_away, way)))
    {
        for server in &servers[..writable] {
            server.command(&["FLUSHALL"]);
            fill(server, 0..KEYS);
        }
        join(servers);
        wait_until("all have their keys", || {
            servers.iter().all(|server| keys(server) == KEYS as i64)
        });
        let lb = Balancer::start_with(&servers.each_ref(), &OFTEN);
        wait_for(&lb, &["up"; 3]);
        let third = if is_one_away { "down" } else { "up" };
        if is_one_away {
            servers[2].kill();
        }
        wait_for(&lb, &["up", "up", third]);
        let written = writable.min(if is_one_away { 2 } else { 3 });
        let written: Vec<&RedisServer> = servers[..written].iter().collect();
        let mut crowd = Crowd::new();
        crowd.read(&lb);
        crowd.write(&written);
        crowd.wait_for_reads(100);
        for server in &written {
            let mut pipe = redis::pipe();
            match way {
                "FLUSHALL" => _ = pipe.cmd("FLUSHALL"),
                "expiry" => (0..KEYS).for_each(|key| _ = pipe.pexpire(format!("key:{key}"), 50)),
                _ => (0..KEYS).for_each(|key| _ = pipe.del(format!("key:{key}"))),
            }
            pipe.exec(&mut server.connect()).expect("the server takes them");
        }
        wait_until("the keys are gone", || keys(written[0]) < KEYS as i64 / 2);
        // Many checks see that they are gone, and others come.
        for _ in 0..10 {
            crowd.wait_for_reads(50);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(states(&lb), ["up", "up", third], "{way}: {}", info(&lb));
        }
        let errors = crowd.finish();
        assert!(errors.is_empty(), "{way}, one away: {is_one_away}: {errors:?}");
        assert!(!lb.log().contains("is syncing"), "{}", lb.log());
        if is_one_away {
            servers[2].restart();
        }
    }
}

#[test]
fn keys_that_go_on_a_primary_with_replicas_take_no_service_away() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replicas = [(); 2].map(|()| replica_of(&primary, &[]));
    let [one, other] = replicas;
    lose_keys(&mut [primary, one, other], 1, |[primary, _, third]| {
        third.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    });
}

#[test]
fn keys_that_go_on_independent_servers_take_no_service_away() {
    lose_keys(&mut [(); 3].map(|()| RedisServer::start()), 3, |_| ());
}

#[test]
fn a_replica_that_is_restarted_after_flushall_is_soon_complete_while_clients_write() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    fill(&primary, 0..KEYS);
    let port = primary.port().to_string();
    let mut replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    wait_until("the replica has its keys", || keys(&replica) == KEYS as i64);
    let lb = Balancer::start(&[&primary, &replica]);
    wait_for(&lb, &["up", "up"]);
    primary.command(&["FLUSHALL"]);
    let mut crowd = Crowd::new();
    crowd.write(&[&primary]);
    crowd.read(&lb);
    replica.kill();
    wait_for(&lb, &["up", "down"]);
    replica.restart();
    wait_for(&lb, &["up", "up"]);
    let errors = crowd.finish();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn servers_that_were_all_restarted_empty_are_believed_while_clients_write() {
    let mut servers = [filled(), filled()];
    let lb = Balancer::start(&servers.each_ref());
    wait_for(&lb, &["up", "up"]);
    servers.iter_mut().for_each(RedisServer::kill);
    wait_for(&lb, &["down", "down"]);
    servers.iter_mut().for_each(RedisServer::restart);
    let mut crowd = Crowd::new();
    crowd.write(&servers.each_ref());
    wait_for(&lb, &["syncing", "syncing"]);
    wait_for(&lb, &["up", "up"]);
    assert!(crowd.finish().is_empty());
    assert_eq!(RespClient::connect(lb.port()).call("GET steady:1"), "$1\r\n1\r\n");
}

/// One of two servers is restarted with so many keys: it is not read from while the other is up, nor
/// until that is forgotten.
fn restart_with_fewer(left: usize) {
    let (mut full, mut other) = (filled(), filled());
    let lb = Balancer::start_with(&[&full, &other], &["--forget-after", "3s"]);
    wait_for(&lb, &["up", "up"]);
    let mut pipe = redis::pipe();
    (left..KEYS).for_each(|number| _ = pipe.del(format!("key:{number}")));
    pipe.exec(&mut other.connect()).expect("the server takes them");
    other.save();
    other.kill();
    other.restart();
    wait_for(&lb, &["up", "syncing"]);
    let mut session = RespClient::connect(lb.port());
    for _ in 0..50 {
        assert_eq!(session.call("GET key:999"), "$3\r\n999\r\n");
    }
    full.kill();
    wait_for(&lb, &["down", "syncing"]);
    assert!(info(&lb).contains(&format!("it has {left} of 1000 keys")), "{}", info(&lb));
    let error = session.call("GET key:1");
    assert!(error.starts_with("-ERR no backend could answer"), "{error}");
    assert_eq!(gets(&other), 0);
    wait_for(&lb, &["down", "up"]);
    let expected = if left > 0 { "$1\r\n1\r\n" } else { "$-1\r\n" };
    assert_eq!(session.call("GET key:1"), expected);
    assert_eq!(gets(&other), 1);
}

#[test]
fn a_restart_with_half_of_the_keys_is_not_read_from_until_what_had_more_is_forgotten() {
    restart_with_fewer(KEYS / 2);
}

#[test]
fn an_empty_restart_is_not_read_from_until_what_had_more_is_forgotten() {
    restart_with_fewer(0);
}

#[test]
fn after_a_power_failure_a_snapshot_with_most_of_the_keys_is_read_as_a_last_resort() {
    let mut servers = [(); 3].map(|()| RedisServer::start());
    let lb = {
        for server in &servers {
            fill(server, 0..KEYS * 97 / 100);
            server.save();
            fill(server, 0..KEYS);
        }
        Balancer::start(&servers.each_ref())
    };
    wait_for(&lb, &["up", "up", "up"]);
    servers.iter_mut().for_each(RedisServer::kill);
    wait_for(&lb, &["down", "down", "down"]);
    servers[..2].iter_mut().for_each(RedisServer::restart);
    wait_until("there is service", || states(&lb)[..2].iter().all(|state| state == "up"));
    let mut session = RespClient::connect(lb.port());
    assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
    let errors = || lb.log().lines().filter(|line| line.contains("ERROR")).count();
    // With the one that no backend was left.
    wait_until("the log says so", || errors() == 3);
    assert!(lb.log().contains("as a last resort: its database 0 has 970 of 1000 keys"));
    // One with all keys is there.
    servers[2].restart();
    fill(&servers[2], 0..KEYS);
    wait_for(&lb, &["syncing", "syncing", "up"]);
    assert_eq!(session.call("GET key:999"), "$3\r\n999\r\n");
    assert_eq!(errors(), 3, "{}", lb.log());
}

#[test]
fn a_stray_key_in_a_database_of_one_server_does_not_keep_others_from_serving() {
    let mut servers = [(); 3].map(|()| filled());
    let lb = Balancer::start(&servers.each_ref());
    wait_for(&lb, &["up", "up", "up"]);
    let select = |database: u32| {
        let mut session = RespClient::connect(lb.port());
        assert_eq!(session.call(&format!("SELECT {database}")), "+OK\r\n");
        session
    };
    redis::pipe()
        .cmd("SELECT")
        .arg(7)
        .set("stray", 1)
        .exec(&mut servers[0].connect())
        .expect("the server takes it");
    wait_until("it is counted", || info(&lb).contains("keys=1001"));
    for index in [1, 2] {
        servers[index].shut_down();
        wait_until("it is noticed", || states(&lb)[index] != "up");
        servers[index].restart();
        wait_for(&lb, &["up", "up", "up"]);
    }
    // There it is read from the one that has it.
    for _ in 0..6 {
        assert_eq!(select(7).call("GET stray"), "$1\r\n1\r\n");
    }
    assert_eq!(gets(&servers[1]) + gets(&servers[2]), 0);
    servers[0].kill();
    wait_for(&lb, &["down", "up", "up"]);
    for _ in 0..6 {
        assert_eq!(select(0).call("GET key:1"), "$1\r\n1\r\n");
    }
    let error = select(7).call("GET stray");
    assert!(error.contains("database 7 is incomplete: it has 0 of 1 keys"), "{error}");
    assert_eq!(lb.get("/key:1").status, 200);
    assert_eq!(states(&lb), ["down", "up", "up"]);
}

#[test]
fn keys_of_another_application_on_one_server_leave_the_others_in_service() {
    let mut servers = [(); 3].map(|()| filled());
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(5);
    (0..5 * KEYS).for_each(|number| _ = pipe.set(number, number));
    pipe.exec(&mut servers[2].connect()).expect("the server takes them");
    let lb = Balancer::start(&servers.each_ref());
    wait_for(&lb, &["up", "up", "up"]);
    wait_until("the log says so", || lb.log().contains("database 5 (it has 0 of 5000 keys)"));
    let mut sessions = [(); 3].map(|()| RespClient::connect(lb.port()));
    sessions.iter_mut().for_each(|session| assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n"));
    assert_eq!(leases(&lb), [1, 1, 1]);
    for session in &mut sessions {
        assert_eq!(session.call("SELECT 5"), "+OK\r\n");
        assert_eq!(session.call("GET 7"), "$1\r\n7\r\n");
    }
    servers[2].kill();
    wait_for(&lb, &["up", "up", "down"]);
    assert_eq!(RespClient::connect(lb.port()).call("GET key:1"), "$1\r\n1\r\n");
    assert!(sessions[0].call("GET 7").starts_with("-ERR no backend could answer"));
    assert_eq!(sessions[0].call("SELECT 0"), "+OK\r\n");
    assert_eq!(sessions[0].call("GET key:1"), "$1\r\n1\r\n");
}

#[test]
fn over_http_a_database_that_is_incomplete_on_one_server_is_read_from_the_others() {
    let servers = [filled(), filled()];
    let mut full = filled();
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(5).set("there", "1");
    pipe.exec(&mut full.connect()).expect("the server takes it");
    let urls: Vec<String> = servers
        .iter()
        .chain([&full])
        .map(|server| format!("redis://{}/5", server.address()))
        .collect();
    let lb = Balancer::start_at(&urls, &[]);
    // Nothing of what HTTP clients read is in the others; Redis clients may read database 0 there.
    wait_until("the one is up", || states(&lb)[2] == "up");
    for _ in 0..6 {
        let answer = lb.get("/there");
        assert_eq!((answer.status, answer.served_by()), (200, full.address().as_str()));
    }
    for _ in 0..6 {
        assert_eq!(RespClient::connect(lb.port()).call("GET key:1"), "$1\r\n1\r\n");
    }
    full.kill();
    wait_until("it is down", || states(&lb)[2] == "down");
    let answer = lb.get("/there");
    assert_eq!(answer.status, 503);
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(said.contains("it has 0 of 1 keys"), "{said}");
}

#[test]
fn a_replica_that_its_primary_has_emptied_is_not_read_from_while_another_is_full() {
    let mut primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    fill(&primary, 0..KEYS);
    let replica = replica_of(&primary, &[]);
    let full = filled();
    let lb = Balancer::start(&[&primary, &replica, &full]);
    wait_for(&lb, &["up", "up", "up"]);
    primary.kill();
    primary.restart();
    wait_until("it is emptied", || keys(&replica) == 0);
    wait_for(&lb, &["syncing", "syncing", "up"]);
    // A check may also have come while it was filled.
    wait_until("both lack their keys", || {
        let states = info(&lb);
        let lacking = states.lines().filter(|line| line.contains("it has 0 of 1000 keys"));
        lacking.filter(|line| line.starts_with("lb_backend")).count() == 2
    });
    let before = gets(&replica);
    let mut session = RespClient::connect(lb.port());
    for _ in 0..50 {
        assert_eq!(session.call("GET key:999"), "$3\r\n999\r\n");
    }
    assert_eq!((gets(&primary), gets(&replica)), (0, before));
    fill(&primary, 0..KEYS);
    wait_for(&lb, &["up", "up", "up"]);
}

#[test]
fn a_stale_replica_is_left_for_a_fresher_server_and_read_from_where_there_is_none() {
    let mut primary = RedisServer::start_with(&["--repl-ping-replica-period", "1"]);
    fill(&primary, 0..KEYS);
    let replica = replica_of(&primary, &[]);
    let lb = Balancer::start_with(&[&primary, &replica], &["--max-lag", "3s"]);
    wait_for(&lb, &["up", "up"]);
    let mut sessions = [(); 4].map(|()| RespClient::connect(lb.port()));
    sessions.iter_mut().for_each(|session| _ = session.call("GET key:1"));
    let mut subscribers = [(); 4].map(|()| RespClient::connect(lb.port()));
    for subscriber in &mut subscribers {
        assert!(subscriber.call("SUBSCRIBE news").starts_with("*3\r\n"));
    }
    assert_eq!(leases(&lb), [4, 4]);
    replica.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    wait_until("everybody has moved", || {
        sessions.iter_mut().for_each(|session| _ = session.call("GET key:1"));
        leases(&lb) == [8, 0]
    });
    assert_eq!(states(&lb), ["up", "up"], "it has its data");
    assert!(info(&lb).contains("--max-lag 3s") || info(&lb).contains("not reached its primary"));
    for subscriber in &mut subscribers {
        wait_until("it is at the primary", || {
            primary.command(&["PUBLISH", "news", "now"]);
            subscriber.has_reply_within(Duration::from_millis(20))
        });
        assert!(String::from_utf8_lossy(&subscriber.reply()).contains("news"));
    }
    let new: Vec<RespClient> = (0..4)
        .map(|_| {
            let mut session = RespClient::connect(lb.port());
            assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
            session
        })
        .collect();
    assert_eq!(leases(&lb), [12, 0]);
    primary.kill();
    for session in sessions.iter_mut() {
        assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
    }
    drop(new);
}

#[test]
fn scan_without_the_right_to_info_names_it_and_blames_nobody() {
    let server = filled();
    let rule = "ACL SETUSER reader reset on >secret +@read +ping +select +command +hello ~*";
    server.command(&rule.split(' ').collect::<Vec<_>>());
    let lb = Balancer::start_at(&[format!("redis://reader:secret@{}", server.address())], &[]);
    wait_for(&lb, &["up"]);
    wait_until("the start says so", || lb.log().contains("lacks the right +info"));
    let mut session = RespClient::connect(lb.port());
    for _ in 0..3 {
        let error = session.call("SCAN 0");
        assert!(
            error.starts_with("-ERR a cursor can't go on") && error.contains("+info"),
            "{error}"
        );
        assert_eq!(session.call("GET key:1"), "$1\r\n1\r\n");
        assert_eq!(session.call("SCAN 0 COUNT 5000 MATCH none"), "*2\r\n$1\r\n0\r\n*0\r\n");
    }
    assert_eq!(states(&lb), ["up"]);
    assert!(!lb.log().contains("is suspect"), "{}", lb.log());
}

/// A node of a Cluster of its own, and the port of its bus.
fn cluster_node() -> (RedisServer, u16) {
    // Its bus would else have a port that another test may have.
    let bus = free_port();
    let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
    (RedisServer::start_with(&arguments), bus)
}

fn cluster_state(server: &RedisServer) -> String {
    redis::from_redis_value(server.command(&["CLUSTER", "INFO"])).expect("text")
}

fn meet(one: &RedisServer, (other, bus): &(RedisServer, u16)) {
    let (port, bus) = (other.port().to_string(), bus.to_string());
    one.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
}

#[test]
fn replicas_of_a_cluster_of_one_shard_are_read_from_and_of_two_none_is() {
    let [(one, _), second] = [(); 2].map(|()| cluster_node());
    one.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    meet(&one, &second);
    let (other, _) = second;
    let id: String = redis::from_redis_value(one.command(&["CLUSTER", "MYID"])).expect("text");
    wait_until("they have met", || {
        let nodes = other.command(&["CLUSTER", "NODES"]);
        redis::from_redis_value::<String>(nodes).expect("text").contains(&id)
    });
    other.command(&["CLUSTER", "REPLICATE", &id]);
    wait_until("all is well", || {
        [&one, &other].iter().all(|server| cluster_state(server).contains("cluster_state:ok"))
    });
    fill(&one, 0..KEYS);
    wait_until("the replica has its keys", || keys(&other) == KEYS as i64);
    let lb = Balancer::start(&[&one, &other]);
    wait_for(&lb, &["up", "up"]);
    for _ in 0..4 {
        assert_eq!(RespClient::connect(lb.port()).call("GET key:1"), "$1\r\n1\r\n");
        assert_eq!(lb.get("/key:2").json(), "2");
    }
    assert!(gets(&other) > 0);
    // A second shard.
    let third = cluster_node();
    one.command(&["CLUSTER", "DELSLOTSRANGE", "16000", "16383"]);
    third.0.command(&["CLUSTER", "ADDSLOTSRANGE", "16000", "16383"]);
    third.0.command(&["CLUSTER", "BUMPEPOCH"]);
    meet(&one, &third);
    wait_for(&lb, &["down", "down"]);
    assert!(info(&lb).contains("a Redis Cluster of 2 shards"), "{}", info(&lb));
    let error = RespClient::connect(lb.port()).call("GET key:1");
    assert!(error.starts_with("-ERR no backend") && error.contains("2 shards"), "{error}");
    let at_start = Balancer::start(&[&one]);
    assert_eq!(states(&at_start), ["down"]);
    wait_until("the log says so", || at_start.log().contains("a Redis Cluster of 2 shards"));
    let check = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["check", "--backend", &one.address()])
        .output()
        .expect("lb runs");
    let said = [check.stdout, check.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!check.status.success() && said.contains("of 2 shards"), "{said}");
}

#[test]
fn a_cluster_node_whose_user_may_not_ask_for_reads_is_served_and_the_missing_right_named() {
    let (server, _) = cluster_node();
    server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    wait_until("all is well", || cluster_state(&server).contains("cluster_state:ok"));
    server.command(&["SET", "key:1", "1"]);
    let rule = "ACL SETUSER reader reset on >secret +@read +info +ping +select +command ~* \
        -readonly -cluster";
    server.command(&rule.split_whitespace().collect::<Vec<_>>());
    let lb = Balancer::start_at(&[format!("redis://reader:secret@{}", server.address())], &[]);
    wait_for(&lb, &["up"]);
    for right in ["+readonly", "+cluster|info"] {
        wait_until("the start says so", || lb.log().contains(&format!("the right {right}:")));
    }
    assert_eq!(RespClient::connect(lb.port()).call("GET key:1"), "$1\r\n1\r\n");
}

/// Ends with the test.
struct Sentinel(Child);

impl Drop for Sentinel {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_sentinel_is_down_and_said_to_be_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("sentinel.conf");
    let port = free_port();
    std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n")).expect("a file");
    let process = Command::new("redis-server")
        .arg(&file)
        .arg("--sentinel")
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server");
    let _sentinel = Sentinel(process);
    wait_until("it accepts", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let server = filled();
    let lb = Balancer::start_at(&[server.address(), format!("127.0.0.1:{port}")], &[]);
    assert_eq!(states(&lb), ["up", "down"]);
    wait_until("the log says so", || lb.log().contains("is a Sentinel"));
    for _ in 0..4 {
        assert_eq!(RespClient::connect(lb.port()).call("GET key:1"), "$1\r\n1\r\n");
    }
    assert!(info(&lb).contains("is a Sentinel"), "{}", info(&lb));
}
