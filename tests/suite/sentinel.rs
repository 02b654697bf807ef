//! Backends that Sentinels name: real Sentinels fail over while clients read.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::observe::{reads_of, wait_for_up};
use crate::support::redis::{RedisServer, replica_of};
use crate::support::resp::RespClient;
use crate::support::sentinel::{NAME, Sentinel};
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

/// Longest time that a read may take on a quiet machine, in the rounds of `FAILOVERS`. One that finds its server dead,
/// frozen or demoted is sent elsewhere by then.
const LONGEST_STALL: Duration = Duration::from_millis(1300);

/// A primary fills its replicas without a delay for others that may come.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// A primary with replicas, three Sentinels that watch them, and the balancer that asks these.
struct Scene {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
    lb: Balancer,
}

impl Scene {
    fn start(data: &Data, replicas: usize, query: &str, arguments: &[&str]) -> Self {
        Self::start_with(RedisServer::start_with(&AT_ONCE), data, replicas, "", query, arguments)
    }

    /// With this primary, and more lines in the configuration of Sentinels.
    fn start_with(
        primary: RedisServer,
        data: &Data,
        replicas: usize,
        lines: &str,
        query: &str,
        arguments: &[&str],
    ) -> Self {
        data.load(&primary);
        let mut servers = vec![primary];
        for _ in 0..replicas {
            servers.push(replica_of(&servers[0], &AT_ONCE));
        }
        let sentinels = start_sentinels_with(&servers[0], servers.len(), lines);
        let url = url(&sentinels, query);
        let lb = Balancer::start_at(&[url], arguments);
        let scene = Self { servers, sentinels, lb };
        scene.wait_for_all();
        scene
    }

    /// Number of the primary among the servers, as all Sentinels know it.
    fn primary(&self) -> usize {
        let ports: Vec<u16> = self.sentinels.iter().map(Sentinel::primary_port).collect();
        let index = self.servers.iter().position(|server| server.port() == ports[0]);
        match ports.iter().all(|port| *port == ports[0]) {
            true => index.unwrap_or(usize::MAX),
            false => usize::MAX,
        }
    }

    /// Waits until all Sentinels agree on a primary other than this one, whose replicas follow it.
    fn wait_for_another_primary(&self, old: usize) -> usize {
        wait_until("there is another primary", || ![old, usize::MAX].contains(&self.primary()));
        self.primary()
    }

    /// Waits until all servers, and no others, are backends that are up.
    fn wait_for_all(&self) {
        wait_for_up(&self.lb, &self.servers.iter().collect::<Vec<_>>());
    }

    /// Waits until all others follow the primary, and all are up.
    fn wait_for_replicas(&self, primary: usize) {
        let port = format!("\nmaster_port:{}\r", self.servers[primary].port());
        let follows = |server: &RedisServer| {
            // A Sentinel disconnects the clients of a server that it has follow another.
            let asked = redis::Client::open(server.plain_url())
                .and_then(|client| client.get_connection())
                .and_then(|mut server| redis::cmd("INFO").arg("replication").query(&mut server));
            asked.is_ok_and(|info: String| {
                info.contains(&port) && info.contains("\nmaster_link_status:up\r")
            })
        };
        wait_until("all follow the primary", || {
            let others = self.servers.iter().enumerate().filter(|(index, _)| *index != primary);
            others.map(|(_, server)| server).all(follows)
        });
        self.wait_for_all();
    }

    /// The primary dies, another takes its place, and it returns as a replica of that, without data.
    fn kill_primary(&mut self) {
        let old = self.primary();
        self.servers[old].kill();
        let new = self.wait_for_another_primary(old);
        let port = self.servers[new].port().to_string();
        self.servers[old].restart_with(&["--replicaof", "127.0.0.1", &port]);
        self.wait_for_replicas(new);
    }

    /// An operator has a replica take the primary's place.
    fn promote(&self) {
        let old = self.primary();
        // A Sentinel that has just begun, or that has just failed over, refuses for a moment.
        wait_until("a Sentinel fails over", || {
            self.sentinels.iter().any(|sentinel| sentinel.ask(&["FAILOVER", NAME]).is_ok())
        });
        let new = self.wait_for_another_primary(old);
        self.wait_for_replicas(new);
    }

    /// All Sentinels end, and others at other addresses take their place.
    fn move_sentinels(&mut self) {
        let primary = self.primary();
        self.sentinels.clear();
        // A failover that they had begun is never ended: who moves Sentinels has all follow one primary.
        let port = self.servers[primary].port().to_string();
        for (number, server) in self.servers.iter().enumerate() {
            if number != primary {
                server.command(&["REPLICAOF", "127.0.0.1", &port]);
            }
        }
        self.wait_for_replicas(primary);
        self.sentinels = start_sentinels(&self.servers[primary], self.servers.len());
    }

    /// A replica joins.
    fn add_replica(&mut self) {
        let replica = replica_of(&self.servers[self.primary()], &AT_ONCE);
        self.servers.push(replica);
        self.wait_for_all();
    }

    /// A replica leaves for good: Sentinels forget it only when they are told to.
    fn remove_replica(&mut self) {
        let primary = self.primary();
        let last = self.servers.len() - 1;
        let mut gone = self.servers.remove(if last == primary { last - 1 } else { last });
        gone.kill();
        self.wait_for_all();
    }
}

/// Three Sentinels that know each other and all servers.
fn start_sentinels(primary: &RedisServer, servers: usize) -> Vec<Sentinel> {
    start_sentinels_with(primary, servers, "")
}

fn start_sentinels_with(primary: &RedisServer, servers: usize, lines: &str) -> Vec<Sentinel> {
    // What is tested is what the balancer makes of what Sentinels know: where they don't find all replicas and each other,
    // others take their place.
    for _ in 0..3 {
        let sentinels: Vec<_> = (0..3).map(|_| Sentinel::start_with(primary, 2, lines)).collect();
        let deadline = Instant::now() + Duration::from_secs(40);
        while Instant::now() < deadline {
            if sentinels.iter().all(|sentinel| knows_all(sentinel, servers)) {
                return sentinels;
            }
            thread::sleep(Duration::from_millis(50));
        }
        for sentinel in &sentinels {
            let (replicas, others) = (sentinel.list("REPLICAS"), sentinel.list("SENTINELS"));
            println!("not all is known to {}: {replicas:#?} {others:#?}", sentinel.address());
            println!("{}", sentinel.log());
        }
    }
    panic!("the Sentinels don't know all");
}

/// Whether a Sentinel knows all replicas as such, and both others.
fn knows_all(sentinel: &Sentinel, servers: usize) -> bool {
    let is_good = |replica: &HashMap<String, String>| {
        replica["flags"] == "slave" && replica["master-link-status"] == "ok"
    };
    let replicas = sentinel.list("REPLICAS");
    replicas.iter().filter(|replica| is_good(replica)).count() == servers - 1
        && sentinel.list("SENTINELS").len() == 2
}

fn url(sentinels: &[Sentinel], query: &str) -> String {
    let addresses: Vec<String> = sentinels.iter().map(Sentinel::address).collect();
    format!("sentinel://{}/{NAME}{query}", addresses.join(","))
}

#[test]
fn failovers_and_moves_fail_no_read() {
    let asked = std::env::var("FAILOVERS").ok().map(|text| text.parse().expect("a number"));
    let rounds: usize = asked.unwrap_or(4);
    let data = Arc::new(Data::new());
    let mut scene = Scene::start(&data, 3, "", &[]);
    let crowd = Crowd::start(scene.lb.port(), &data, &KINDS, Habits::default(), seed());
    for round in 0..rounds {
        match round % 4 {
            0 => scene.kill_primary(),
            1 => scene.move_sentinels(),
            2 => scene.promote(),
            _ => {
                scene.add_replica();
                scene.remove_replica();
            }
        }
        let report = crowd.report();
        assert!(report.is_clean(), "round {round}: {report}\n{}", scene.lb.log());
    }
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}\n{}", scene.lb.log());
    let is_quick = report.longest_stall() < LONGEST_STALL;
    assert!(asked.is_none() || is_quick, "{report}\n{}", scene.lb.log());
}

/// The primary restarts without its data before a Sentinel notices, and its replicas take them over.
#[test]
fn replicas_that_an_empty_primary_empties_are_not_read_from() {
    let data = Arc::new(Data::new());
    // Redis' own default is 5 s.
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "1"]);
    let lines = format!("sentinel down-after-milliseconds {NAME} 30000");
    let mut scene = Scene::start_with(primary, &data, 2, &lines, "", &[]);
    let crowd = Crowd::start(scene.lb.port(), &data, &KINDS, Habits::default(), seed());
    scene.servers[0].kill();
    scene.servers[0].restart();
    let is_empty = |server: &RedisServer| server.command(&["DBSIZE"]) == redis::Value::Int(0);
    wait_until("all are empty", || scene.servers.iter().all(is_empty));
    // When all have been empty for 5 s, that is what there is.
    let mut client = RespClient::connect(scene.lb.port());
    let reply = client.call("GET string:5:1");
    assert!(reply.starts_with("-ERR no backend could answer"), "{reply}");
    let report = crowd.finish();
    assert!(report.wrong == 0 && report.right > 100, "{report}\n{}", scene.lb.log());
}

#[test]
fn a_login_and_a_role_are_kept_and_the_last_list_holds_while_no_sentinel_answers() {
    let data = Arc::new(Data::new());
    let login = "requirepass s3cret\nsentinel sentinel-pass s3cret";
    let query = "?read=replicas&sentinel-password=s3cret";
    let primary = RedisServer::start_with(&AT_ONCE);
    let mut scene = Scene::start_with(primary, &data, 2, login, query, &[]);
    let before = reads_of(&scene.servers[0]);
    let crowd = Crowd::start(scene.lb.port(), &data, &KINDS, Habits::default(), seed());
    scene.sentinels[0].freeze();
    scene.servers.push(replica_of(&scene.servers[0], &[]));
    scene.wait_for_all();
    scene.sentinels.clear();
    let source = || scene.lb.get("/-/status.json").json()["sources"][0].clone();
    wait_until("nobody answers", || source()["error"].is_string());
    assert_eq!(source()["servers"].as_array().expect("a list").len(), 4);
    let read = crowd.report().right;
    wait_until("they read on", || crowd.report().right > read + 500);
    // The newest one gets its share slowly.
    let is_read_from = |server: &RedisServer| reads_of(server) > 10;
    wait_until("each replica is read from", || scene.servers[1..].iter().all(is_read_from));
    let report = crowd.finish();
    assert!(report.is_clean(), "{report}\n{}", scene.lb.log());
    assert_eq!(reads_of(&scene.servers[0]), before, "the primary is not read from");
    let status = scene.lb.get("/-/status.json").json();
    let backends = status["backends"].as_array().expect("a list");
    let is_it = |backend: &&serde_json::Value| backend["never_read"] == true;
    let names: Vec<_> = backends.iter().filter(is_it).map(|backend| &backend["name"]).collect();
    assert_eq!(names, [&scene.servers[0].address()]);
    assert!(!scene.lb.log().contains("s3cret"));
    let metrics = String::from_utf8(scene.lb.get("/-/metrics").body).expect("text");
    assert!(metrics.contains("redis_lb_source_up{") && !metrics.contains("s3cret"));
}

/// One of three watches another server by the same name.
#[test]
fn a_sentinel_that_names_another_primary_than_the_others_is_not_believed() {
    let data = Arc::new(Data::new());
    let mut scene = Scene::start(&data, 1, "", &[]);
    let stranger = RedisServer::start();
    let wrong = Sentinel::start_with(&stranger, 1, "");
    let mut asked = vec![wrong];
    asked.append(&mut scene.sentinels);
    let lb = Balancer::start_at(&[url(&asked, "")], &[]);
    wait_for_up(&lb, &scene.servers.iter().collect::<Vec<_>>());
    asked[1].freeze();
    asked.truncate(2);
    // It is the only one that answers now, and still wrong.
    wait_until("the others are gone", || {
        let source = &lb.get("/-/status.json").json()["sources"][0];
        source["error"].as_str().is_some_and(|error| error.contains(&stranger.address()))
    });
    wait_for_up(&lb, &scene.servers.iter().collect::<Vec<_>>());
}

/// Goes over from a list of servers at this host to their Sentinels, and back, while clients read. Returns the log.
fn reload_to_sentinels(host: &str, query: &str) -> String {
    let data = Arc::new(Data::new());
    let primary = RedisServer::start_with(&AT_ONCE);
    data.load(&primary);
    let replicas = [(); 2].map(|()| replica_of(&primary, &AT_ONCE));
    let all = [&primary, &replicas[0], &replicas[1]];
    wait_until("the replicas have the data", || replicas.iter().all(|one| data.is_in(one)));
    let sentinels = start_sentinels(&primary, 3);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("redis-lb.toml");
    let list = all.map(|server| format!("{host}:{}", server.port()));
    let write = |backends: &[String]| {
        std::fs::write(&file, format!("backend = {backends:?}\n")).expect("a file");
    };
    write(&list);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--config"]).arg(&file);
    let lb = Balancer::spawn(command);
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed());
    let reload = |backends: &[String], names: &[String]| {
        write(backends);
        lb.signal("-HUP");
        wait_until("it is taken over", || {
            let status = lb.get("/-/status.json").json();
            let backends = status["backends"].as_array().expect("a list");
            let is_there = |name: &String| {
                backends.iter().any(|one| one["name"] == **name && one["state"] == "up")
            };
            backends.len() == names.len() && names.iter().all(is_there)
        });
    };
    for _ in 0..2 {
        reload(&[url(&sentinels, query)], &all.map(RedisServer::address));
        reload(&list, &list);
    }
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 20, "{report}\n{}", lb.log());
    lb.log()
}

#[test]
fn a_reload_goes_over_from_a_list_to_sentinels_and_no_read_fails() {
    let log = reload_to_sentinels("127.0.0.1", "");
    assert!(!log.contains("is removed"), "each server stays what it was: {log}");
}

/// All servers are new then, and the one that is up first is not to be read from.
#[test]
fn a_reload_from_host_names_to_replicas_alone_waits_for_one_of_these() {
    reload_to_sentinels("localhost", "?read=replicas");
}
