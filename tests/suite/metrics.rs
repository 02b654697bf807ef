//! What is counted, and that it is what clients have counted themselves.

use std::collections::HashMap;
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use crate::support::balancer::Balancer;
use crate::support::redis::{RedisServer, three_servers};
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

/// Each sample of a scrape, by its name and labels as they stand there.
struct Scrape(HashMap<String, f64>);

impl Scrape {
    fn of(lb: &Balancer) -> Self {
        let answer = lb.get("/-/metrics");
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).expect("text");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0.keys()))
    }

    fn requests(&self, protocol: &str, backend: &str) -> f64 {
        let labels = format!("protocol=\"{protocol}\",backend=\"{backend}\"");
        let count = self.get(&format!("redis_lb_requests_total{{{labels}}}"));
        if backend != "none" {
            let timed = format!("redis_lb_request_duration_seconds_count{{{labels}}}");
            assert_eq!(self.get(&timed), count);
        }
        count
    }

    fn all_requests(&self, protocol: &str, servers: &[RedisServer]) -> f64 {
        let by_servers = servers.iter().map(|server| self.requests(protocol, &server.address()));
        by_servers.sum::<f64>() + self.requests(protocol, "none")
    }

    fn refusals(&self, protocol: &str, reason: &str) -> f64 {
        let labels = format!("protocol=\"{protocol}\",reason=\"{reason}\"");
        self.get(&format!("redis_lb_refusals_total{{{labels}}}"))
    }
}

#[test]
fn http_requests_are_counted_to_the_unit_by_the_backend_that_served_them() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let paths = ["/actor:1", "/actor:2?field=last_name", "/none", "/actor:", "/actor:1?nonsense=1"];
    let mut counted: HashMap<String, f64> = HashMap::new();
    let answers: Vec<_> = thread::scope(|scope| {
        let one = || {
            let client = |n: usize| lb.get(paths[n % paths.len()]);
            (0..40).map(client).collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("answers")).collect()
    });
    for answer in answers {
        let by = answer.header("x-served-by").unwrap_or("none").to_owned();
        *counted.entry(by).or_default() += 1.0;
    }
    lb.request("DELETE", "/actor:1", &[]);
    lb.talk(b"GET / HTTP/9.9\r\n\r\n");
    lb.get("/-/ping");
    lb.request("POST", "/-/ping", &[]);
    lb.get("/-/status.json?since=nonsense");
    let scrape = Scrape::of(&lb);
    for server in &servers {
        assert_eq!(scrape.requests("http", &server.address()), counted[&server.address()]);
    }
    assert_eq!(scrape.requests("http", "none"), counted["none"] + 2.0, "405, 400; not /-/ping");
    assert_eq!(scrape.refusals("http", "write"), 1.0);
    assert_eq!(scrape.refusals("http", "bad_request"), counted["none"] + 1.0);
}

#[test]
fn commands_are_counted_to_the_unit_whatever_becomes_of_them() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--allow-scripts"]);
    let commands = [
        "GET none",
        "HGETALL actor:1",
        "PING",
        "SET a b",
        "NOSUCH x",
        "DEBUG SLEEP 0",
        "GET actor:1",
        "SELECT 0",
        "SCAN 0",
        "MULTI",
        "GET none",
        "EXEC",
        "INFO server",
        "EVAL_RO return(1) 0",
        "WATCH none",
        "MULTI",
        "GET none",
        "INFO",
        "DISCARD",
        "WATCH none",
        "MULTI",
        "GET actor:1",
        "EXEC",
        "HSCAN actor:1 0",
        "SUBSCRIBE a",
        "UNSUBSCRIBE a",
    ];
    let rounds = 50;
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = RespClient::connect(lb.port());
                for _ in 0..rounds {
                    let words = commands.map(|command| command.split(' ').collect::<Vec<_>>());
                    client
                        .send_raw(words.iter().flat_map(|words| encode(words)).collect::<Vec<_>>());
                    commands.iter().for_each(|_| _ = client.reply());
                }
            });
        }
    });
    let scrape = Scrape::of(&lb);
    let sent = 6.0 * f64::from(rounds);
    assert_eq!(scrape.all_requests("resp", &servers), sent * commands.len() as f64);
    // PING, SET, NOSUCH, DEBUG, MULTI, what is queued or refused after it, DISCARD need no backend;
    // UNSUBSCRIBE is the subscription's.
    assert_eq!(scrape.requests("resp", "none"), sent * 13.0);
    assert_eq!(scrape.refusals("resp", "write"), sent);
    assert_eq!(scrape.refusals("resp", "unknown_command"), sent);
    assert_eq!(scrape.refusals("resp", "not_served"), sent * 2.0);
    assert_eq!(scrape.get("redis_lb_commands_total{command=\"get\"}"), sent * 5.0);
    assert_eq!(scrape.get("redis_lb_commands_total{command=\"(unknown)\"}"), sent);
    let errors = |server: &RedisServer| {
        scrape.get(&format!(
            "redis_lb_backend_error_replies_total{{backend=\"{}\"}}",
            server.address()
        ))
    };
    assert_eq!(servers.iter().map(errors).sum::<f64>(), sent, "WRONGTYPE");
    assert_eq!(scrape.get("redis_lb_connections_total{protocol=\"resp\"}"), 6.0);
}

#[test]
fn a_read_that_is_retried_is_counted_once_where_it_was_answered() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--check-interval", "60s"]);
    let mut client = RespClient::connect(lb.port());
    client.call("GET none");
    let first = servers
        .iter()
        .position(|server| Scrape::of(&lb).requests("resp", &server.address()) == 1.0);
    let first = &servers[first.expect("one has answered")];
    // It is silent, so that the read finds out and not a check.
    first.freeze();
    client.call("GET none");
    let scrape = Scrape::of(&lb);
    let of = |what: &str| {
        scrape.get(&format!("redis_lb_backend_{what}_total{{backend=\"{}\"}}", first.address()))
    };
    assert_eq!((of("errors"), of("retries")), (1.0, 1.0));
    assert_eq!(scrape.all_requests("resp", &servers), 2.0);
    assert_eq!(scrape.requests("resp", &first.address()), 1.0);
    first.thaw();
}

#[test]
fn what_no_backend_could_answer_is_counted() {
    let mut server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut client = RespClient::connect(lb.port());
    client.call("GET none");
    server.kill();
    wait_until("it fails", || lb.get("/none").status == 503);
    client.call("GET none");
    let scrape = Scrape::of(&lb);
    assert!(scrape.refusals("http", "unanswered") >= 1.0);
    assert_eq!(scrape.refusals("resp", "unanswered"), 1.0);
    let up = format!("redis_lb_backend_state{{backend=\"{}\",state=\"up\"}}", server.address());
    assert_eq!(scrape.get(&up), 0.0);
}

#[test]
fn no_label_grows_with_what_clients_say() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    RespClient::connect(lb.port()).call("GET none");
    lb.get("/none");
    let series = |scrape: Scrape| scrape.0.len();
    RespClient::connect(lb.port()).call("FIRST-UNKNOWN x");
    let before = series(Scrape::of(&lb));
    let mut client = RespClient::connect(lb.port());
    for n in 0..300 {
        client.call(&format!("UNKNOWN{n} key{n}"));
        lb.get(&format!("/key{n}?field={n}"));
    }
    assert_eq!(series(Scrape::of(&lb)), before);
}

#[test]
fn a_scrape_is_cheap_however_many_clients_there_are() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let clients: Vec<TcpStream> = (0..1000).map(|_| lb.connect()).collect();
    wait_until("all are served", || {
        Scrape::of(&lb).get("redis_lb_clients{protocol=\"new\"}") == clients.len() as f64
    });
    let cpu_seconds = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", lb.pid())).expect("Linux");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split(' ').collect();
        // User and system time, in ticks of 10 ms.
        fields[12..14].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>()
            / 100.0
    };
    let (scrapes, before) = (50, cpu_seconds());
    (0..scrapes).for_each(|_| _ = Scrape::of(&lb));
    let millis = (cpu_seconds() - before) * 1000.0 / f64::from(scrapes);
    // Ten times what it takes: this is to notice work that grows with the clients, not to measure.
    assert!(millis < 5.0, "{millis} ms a scrape");
}

#[test]
fn prometheus_own_checker_finds_nothing_wrong() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    lb.get("/none");
    // The reference parser of the format, in Python.
    let python = crate::clients::installed("venv/bin/python");
    let script = "import sys, prometheus_client.openmetrics.parser as p\n\
        families = list(p.text_string_to_metric_families(sys.argv[1]))\n\
        print(len(families))";
    let text = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    let output = Command::new(python).args(["-c", script, &text]).output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.trim().parse::<usize>().expect("a count") > 20, "{said}");
}
