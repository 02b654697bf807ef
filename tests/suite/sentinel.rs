//! Backends that Sentinels name: real Sentinels fail over while clients read.

use std::sync::Arc;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::sentinel::{NAME, Sentinel};
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

/// Longest time that a read may take. One that finds its server dead, frozen or demoted is sent elsewhere by then.
const LONGEST_STALL: Duration = Duration::from_millis(1300);

/// A primary with replicas, three Sentinels that watch them, and the balancer that asks these.
struct Scene {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
    lb: Balancer,
}

impl Scene {
    fn start(data: &Data, replicas: usize, query: &str, arguments: &[&str]) -> Self {
        Self::start_with(RedisServer::start(), data, replicas, "", query, arguments)
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
            servers.push(replica_of(servers[0].port()));
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

    /// Name, state and role of each backend.
    fn backends(&self) -> Vec<(String, String, String)> {
        let status = self.lb.get("/-/status.json").json();
        let backends = status["backends"].as_array().expect("a list").clone();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let row = |backend: &serde_json::Value| {
            (text(&backend["name"]), text(&backend["state"]), text(&backend["role"]))
        };
        backends.iter().map(row).collect()
    }

    /// Waits until these servers, and no others, are backends that are up.
    fn wait_for(&self, servers: &[&RedisServer]) {
        wait_until("all of them are up", || {
            let backends = self.backends();
            let is_up = |server: &&RedisServer| {
                let (name, up) = (server.address(), "up".to_owned());
                backends.iter().any(|backend| (&backend.0, &backend.1) == (&name, &up))
            };
            backends.len() == servers.len() && servers.iter().all(is_up)
        });
    }

    fn wait_for_all(&self) {
        self.wait_for(&self.servers.iter().collect::<Vec<_>>());
    }

    /// The primary dies, another takes its place, and it returns as a replica of that, without data.
    fn kill_primary(&mut self) {
        let old = self.primary();
        self.servers[old].kill();
        let new = self.wait_for_another_primary(old);
        let port = self.servers[new].port().to_string();
        self.servers[old].restart_with(&["--replicaof", "127.0.0.1", &port]);
        self.wait_for_all();
    }

    /// An operator has a replica take the primary's place.
    fn promote(&self) {
        let old = self.primary();
        // A Sentinel that has just begun, or that has just failed over, refuses for a moment.
        wait_until("a Sentinel fails over", || {
            self.sentinels.iter().any(|sentinel| sentinel.ask(&["FAILOVER", NAME]).is_ok())
        });
        self.wait_for_another_primary(old);
        self.wait_for_all();
    }

    /// All Sentinels end, and others at other addresses take their place.
    fn move_sentinels(&mut self) {
        let primary = self.primary();
        self.sentinels.clear();
        self.sentinels = start_sentinels(&self.servers[primary], self.servers.len());
    }

    /// A replica joins.
    fn add_replica(&mut self) {
        let port = self.servers[self.primary()].port();
        self.servers.push(replica_of(port));
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

fn replica_of(port: u16) -> RedisServer {
    RedisServer::start_with(&["--replicaof", "127.0.0.1", &port.to_string()])
}

/// Three Sentinels that know each other and all servers.
fn start_sentinels(primary: &RedisServer, servers: usize) -> Vec<Sentinel> {
    start_sentinels_with(primary, servers, "")
}

fn start_sentinels_with(primary: &RedisServer, servers: usize, lines: &str) -> Vec<Sentinel> {
    let sentinels: Vec<_> = (0..3).map(|_| Sentinel::start_with(primary, 2, lines)).collect();
    wait_until("the Sentinels know all", || {
        sentinels.iter().all(|sentinel| {
            let is_good = |replica: &std::collections::HashMap<String, String>| {
                replica["flags"] == "slave" && replica["master-link-status"] == "ok"
            };
            let replicas = sentinel.list("REPLICAS");
            replicas.iter().filter(|replica| is_good(replica)).count() == servers - 1
                && sentinel.list("SENTINELS").len() == 2
        })
    });
    sentinels
}

fn url(sentinels: &[Sentinel], query: &str) -> String {
    let addresses: Vec<String> = sentinels.iter().map(Sentinel::address).collect();
    format!("sentinel://{}/{NAME}{query}", addresses.join(","))
}

#[test]
fn failovers_and_moves_fail_no_read() {
    let rounds: usize =
        std::env::var("FAILOVERS").map_or(4, |text| text.parse().expect("a number"));
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
    assert!(report.longest_stall() < LONGEST_STALL, "{report}\n{}", scene.lb.log());
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
    let mut client = RespClient::connect(scene.lb.port());
    for _ in 0..200 {
        let reply = client.call("GET string:5:1");
        assert!(reply.starts_with("-ERR no backend could answer"), "{reply}");
    }
    let report = crowd.finish();
    assert!(report.wrong == 0 && report.right > 100, "{report}\n{}", scene.lb.log());
}
