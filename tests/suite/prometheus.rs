//! A real Prometheus, its `promtool`, and the files for them in `contrib`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::balancer::Balancer;
use crate::support::prometheus::{Prometheus, contrib, promtool};
use crate::support::redis::{RedisServer, three_servers};
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Runs `promtool`; panics with what it says if it is not content.
fn check(folder: &Path, arguments: &[&str], input: &str) {
    let output = promtool(folder, arguments, input);
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_is_content_with_the_classic_form() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--cache", "1MiB", "--zone", "a"]);
    lb.get("/actor:1");
    RespClient::connect(lb.port()).call("HGETALL actor:1");
    let text = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    assert!(text.contains("redis_lb_command_duration_seconds_bucket"), "{text}");
    check(Path::new("."), &["check", "metrics"], &text);
}

#[test]
fn the_rules_and_their_tests_are_good() {
    let folder = contrib();
    check(&folder, &["check", "rules", "alerts.yml"], "");
    check(&folder, &["check", "config", "scrape.yml"], "");
    check(&folder, &["test", "rules", "alerts_test.yml"], "");
    // Each alert has a test in which it fires, and is silent where all is well.
    let [rules, tests] = ["alerts.yml", "alerts_test.yml"]
        .map(|name| fs::read_to_string(folder.join(name)).expect("the file"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - ");
        assert!(tests.contains(&fires), "no test has {alert} fire");
        let is_silent = format!("{{ eval_time: 20m, alertname: {alert}, exp_alerts: [] }}");
        assert!(tests.contains(&is_silent), "{alert} is not tried where all is well");
    }
}

#[test]
fn prometheus_scrapes_openmetrics_and_evaluates_the_rules() {
    let mut server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start_with(&[&server], &["--check-interval", "100ms"]);
    let mut client = RespClient::connect(lb.port());
    for _ in 0..20 {
        assert_eq!(client.call("GET a"), "$1\r\n1\r\n");
        assert_eq!(lb.get("/a").status, 200);
    }
    let prometheus = Prometheus::start(&lb);
    prometheus.wait_for("up{job=\"redis-lb\"}", 1.0);
    prometheus.wait_for("redis_lb_ready", 1.0);
    for (expression, expected) in [
        ("redis_lb_command_duration_seconds_count{command=\"get\"}", 20.0),
        ("sum(redis_lb_requests_total{protocol=\"http\"})", 20.0),
        ("redis_lb_http_responses_total{class=\"2xx\"}", 20.0),
        ("redis_lb_command_duration_seconds_bucket{command=\"get\",le=\"+Inf\"}", 20.0),
        ("sum(redis_lb_backend_state{state=\"up\"})", 1.0),
        ("count(redis_lb_build_info{version!=\"\"})", 1.0),
    ] {
        prometheus.wait_for(expression, expected);
    }
    // In the classic form, it would be a gauge.
    let kinds = prometheus.api("metadata", &[]);
    assert_eq!(kinds["redis_lb_build"][0]["type"], "info", "{kinds}");
    let rules = || {
        let groups = prometheus.api("rules", &[])["groups"].clone();
        groups[0]["rules"].as_array().cloned().unwrap_or_default()
    };
    wait_until("each rule was evaluated", || {
        let rules = rules();
        rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok")
    });
    assert_eq!(prometheus.query("ALERTS"), Vec::<Value>::new());
    server.kill();
    let pending = "count(ALERTS{alertname=\"RedisLbNoBackend\",alertstate=\"pending\"})";
    prometheus.wait_for(pending, 1.0);
    prometheus.wait_for("count(ALERTS{alertname=\"RedisLbBackendDown\"})", 1.0);
}

/// The queries of the dashboard, with what Grafana puts in.
fn queries() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/grafana/redis-lb.json");
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(path).expect("the file")).expect("JSON");
    let mut queries = Vec::new();
    collect_queries(&dashboard, &mut queries);
    let filled = queries.into_iter().map(|query| {
        query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
    });
    filled.collect()
}

fn collect_queries(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            queries.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect_queries(value, queries));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_queries(value, queries)),
        _ => {}
    }
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("redis_lb_") || word.starts_with("process_")).collect()
}

#[test]
fn the_dashboard_and_the_rules_name_metrics_that_there_are() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    lb.get("/none");
    RespClient::connect(lb.port()).call("GET none");
    let text = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let there: BTreeSet<String> = families
        .flat_map(|(name, kind)| match kind {
            "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
            _ => vec![name.to_owned()],
        })
        .collect();
    let rules = fs::read_to_string(contrib().join("alerts.yml")).expect("the file");
    let rules: Vec<&str> = rules.lines().filter(|line| !line.contains("description:")).collect();
    let queries = queries();
    assert!(queries.len() > 40, "{}", queries.len());
    for text in queries.iter().map(String::as_str).chain(rules) {
        for name in named(text) {
            assert!(there.contains(name), "there is no {name}, which is in: {text}");
        }
    }
}

/// Parts of the queries for what has not happened in the test: a restart, a change of state, a refusal, and a user's limit.
const MAY_BE_EMPTY: [&str; 4] = [
    "changes(process_start_time_seconds",
    "redis_lb_backend_state_changes_total",
    "sum by (reason) (rate(redis_lb_refusals_total",
    "redis_lb_user_refused_clients_total",
];

#[test]
fn prometheus_understands_each_query_of_the_dashboard() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--cache", "1MiB"]);
    let prometheus = Prometheus::start(&lb);
    prometheus.wait_for("up{job=\"redis-lb\"}", 1.0);
    let mut client = RespClient::connect(lb.port());
    wait_until("there are rates", || {
        client.call("HGETALL actor:1");
        client.call("GET none");
        lb.get("/actor:1");
        let rates = [
            "sum(rate(redis_lb_requests_total[1m])) > 0",
            "sum(rate(redis_lb_command_duration_seconds_count[1m]))",
        ];
        rates.iter().all(|rate| prometheus.value(rate).is_some())
    });
    let may_be_empty = |query: &str| MAY_BE_EMPTY.iter().any(|part| query.contains(part));
    let mut empty = queries();
    empty.retain(|query| !may_be_empty(query) && prometheus.query(query).is_empty());
    assert_eq!(empty, Vec::<String>::new());
}
