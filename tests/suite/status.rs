//! `/-/status.json`: what it says of backends, and how soon.

use serde_json::Value;

use crate::support::balancer::Balancer;
use crate::support::redis::{RedisServer, three_servers};
use crate::support::resp::RespClient;
use crate::support::wait_until;

fn status(lb: &Balancer) -> Value {
    lb.get("/-/status.json").json()
}

#[test]
fn a_backend_that_is_killed_shows_before_its_next_check_and_so_does_its_return() {
    let mut servers = three_servers();
    // No check is due while this test runs: what shows was noticed at once.
    let lb = Balancer::start_with(&servers.each_ref(), &["--check-interval", "60s"]);
    let mut sessions: Vec<RespClient> = (0..6).map(|_| RespClient::connect(lb.port())).collect();
    sessions.iter_mut().for_each(|session| _ = session.call("GET none"));
    let leases = |status: &Value| status["backends"][1]["leases"].as_u64().expect("a count");
    assert_eq!(leases(&status(&lb)), 2);
    servers[1].kill();
    wait_until("it shows", || {
        let now = status(&lb);
        now["backends"][1]["state"] != "up" && leases(&now) == 0
    });
    wait_until("it is down", || status(&lb)["backends"][1]["state"] == "down");
    let down = &status(&lb)["backends"][1];
    assert_eq!((&down["times_down"], &down["last_check"]["answered"]), (&1.into(), &false.into()));
    let change = &status(&lb)["changes"][0];
    assert_eq!(change["backend"], servers[1].address());
    assert!(change["reason"].as_str().is_some_and(|why| !why.is_empty()));
    servers[1].restart();
    servers[1].command(&["HSET", "actor:1", "first_name", "Mara", "last_name", "Ellingworth"]);
    wait_until("it is back", || status(&lb)["backends"][1]["state"] == "up");
    let now = status(&lb);
    assert_eq!(now["changes"][0]["state"], "up");
    let back = &now["backends"][1];
    assert_eq!((&back["times_down"], &back["last_check"]["answered"]), (&1.into(), &true.into()));
    let [then, seconds] = [down, back].map(|of| of["down_seconds"].as_f64().expect("a number"));
    assert!(seconds >= then && seconds < 60.0, "{then} {seconds}");
    assert_eq!(now["backends"][0]["times_down"], 0);
    drop(sessions);
}

#[test]
fn the_history_has_a_sample_a_second_and_only_those_that_are_new() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let mut client = RespClient::connect(lb.port());
    (0..30).for_each(|_| _ = client.call("GET none"));
    wait_until("there are samples", || status(&lb)["history"]["last"].as_u64() >= Some(2));
    let whole = status(&lb);
    let last = whole["history"]["last"].as_u64().expect("a number");
    let of = |status: &Value, what: &str| -> Vec<Value> {
        let backends = status["history"]["backends"].as_array().expect("backends").iter();
        backends.flat_map(|backend| backend[what].as_array().expect("samples").clone()).collect()
    };
    assert_eq!(of(&whole, "leases").len() as u64, 3 * last);
    for what in ["requests", "errors", "p99_ms", "state"] {
        assert_eq!(of(&whole, what).len(), of(&whole, "leases").len(), "{what}");
    }
    assert_eq!(of(&whole, "requests").iter().filter_map(Value::as_u64).sum::<u64>(), 30);
    let shares: f64 = whole["backends"]
        .as_array()
        .expect("three")
        .iter()
        .filter_map(|backend| backend["share"].as_f64())
        .sum();
    assert_eq!(shares, 1.0);
    let newer = lb.get(&format!("/-/status.json?since={last}")).json();
    let newer_last = newer["history"]["last"].as_u64().expect("a number");
    assert_eq!(of(&newer, "leases").len() as u64, 3 * (newer_last - last));
    assert_eq!(lb.get("/-/status.json?since=x").status, 400);
}

#[test]
fn a_replica_shows_its_role_and_its_lag() {
    let primary = RedisServer::start();
    let port = primary.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let lb = Balancer::start(&[&primary, &replica]);
    wait_until("both are known", || {
        let backends = &status(&lb)["backends"];
        backends[0]["role"] == "primary"
            && backends[0]["lag_seconds"].is_null()
            && backends[1]["role"] == "replica"
            && backends[1]["lag_seconds"].is_number()
    });
}

#[test]
fn every_field_that_is_documented_is_there_and_no_other() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--cache", "1MiB"]);
    lb.get("/actor:1");
    wait_until("there is a sample", || status(&lb)["history"]["last"].as_u64() >= Some(1));
    let documents = include_str!("../../docs/MONITORING.md");
    let (_, documented) = documents.split_once("\n## Status JSON\n").expect("its section");
    let mut names = Vec::new();
    collect_names(&status(&lb), &mut names);
    for name in &names {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/MONITORING.md");
    }
    let tables = documented.lines().filter(|line| line.starts_with("| `"));
    for field in tables.filter_map(|line| line.split('|').nth(1)) {
        for name in field.split(',').map(|name| name.trim().trim_matches('`')) {
            assert!(names.iter().any(|there| there == name), "{name} is documented and not there");
        }
    }
}

fn collect_names(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            names.push(name.clone());
            collect_names(value, names);
        }),
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        _ => {}
    }
}

#[test]
fn reads_over_http_have_their_latency_beside_the_commands() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "1"]);
    let lb = Balancer::start(&[&server]);
    // The first goes by a connection of its own, the others by a shared one.
    for path in ["/key", "/key", "/key", "/none", "/"] {
        lb.get(path);
    }
    let commands = status(&lb)["commands"].clone();
    let metrics = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    for (name, count) in [("GET /KEY", 4), ("GET / (listing)", 1)] {
        let mut all = commands.as_array().expect("a list").iter();
        let minute = &all.find(|one| one["name"] == name).expect("it is there")["last_minute"];
        assert_eq!((&minute["count"], &minute["answered"]), (&count.into(), &count.into()));
        assert!(minute["latency_ms"]["p50"].is_number(), "{minute}");
        let timed =
            format!("redis_lb_command_duration_seconds_count{{command=\"{name}\"}} {count}");
        assert!(metrics.contains(&timed), "{timed}");
    }
}
