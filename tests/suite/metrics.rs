//! What is counted, and that it is what clients have counted themselves.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::balancer::{Answer, Balancer};
use crate::support::redis::{RedisServer, replica_of, three_servers};
use crate::support::resp::{RespClient, encode};
use crate::support::wait_until;

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Asks for OpenMetrics.
const ACCEPT: &str = "Accept: application/openmetrics-text; version=1.0.0";

/// Each sample of a scrape, by its name and labels as they stand there.
struct Scrape(HashMap<String, f64>);

impl Scrape {
    fn of(lb: &Balancer) -> Self {
        let answer = lb.get("/-/metrics");
        assert_eq!(answer.header("content-type"), Some(CLASSIC));
        Self::from_answer(answer)
    }

    fn from_answer(answer: Answer) -> Self {
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).expect("text");
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

    /// The sum of all samples of this name, whatever their labels.
    fn sum(&self, name: &str) -> f64 {
        let is_its = |sample: &str| sample.split('{').next() == Some(name);
        self.0.iter().filter(|(sample, _)| is_its(sample)).map(|(_, value)| value).sum()
    }

    /// How many commands of this name backends have answered.
    fn timed(&self, command: &str) -> f64 {
        let name = format!("redis_lb_command_duration_seconds_count{{command=\"{command}\"}}");
        self.0.get(&name).copied().unwrap_or(0.0)
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
    let counted_statuses =
        |class: u16| answers.iter().filter(|answer| answer.status / 100 == class).count() as f64;
    for answer in &answers {
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
    // Of eight clients with 40 requests each: the keys that are there, those that are not, what is malformed.
    let class =
        |name: &str| scrape.get(&format!("redis_lb_http_responses_total{{class=\"{name}\"}}"));
    assert_eq!(class("2xx"), counted_statuses(2));
    assert_eq!(class("4xx"), counted_statuses(4) + 2.0);
    assert_eq!(class("5xx") + class("3xx"), 0.0);
    let requests = scrape.all_requests("http", &servers);
    assert_eq!(scrape.sum("redis_lb_http_responses_total"), requests);
}

#[test]
fn answers_are_counted_by_the_class_of_the_status_that_the_client_gets() {
    let mut server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start(&[&server]);
    // Twice: a read goes another way once the type is known.
    for _ in 0..2 {
        let etag = lb.get("/a").header("etag").expect("a tag").to_owned();
        let header = format!("If-None-Match: {etag}");
        assert_eq!(lb.request("GET", "/a", &[&header]).status, 304);
        assert_eq!(lb.request("HEAD", "/a", &[]).status, 200);
    }
    server.kill();
    let failed = lb.get("/a").status;
    assert!(failed == 503 || failed == 504, "{failed}");
    let scrape = Scrape::of(&lb);
    let class =
        |name: &str| scrape.get(&format!("redis_lb_http_responses_total{{class=\"{name}\"}}"));
    assert_eq!(["2xx", "3xx", "4xx", "5xx"].map(class), [4.0, 2.0, 0.0, 1.0]);
}

#[test]
fn bytes_are_those_that_clients_have_sent_and_got() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start(&[&server]);
    let bytes = |direction: &str, protocol: &str| {
        Scrape::of(&lb).get(&format!("redis_lb_{direction}_bytes_total{{protocol=\"{protocol}\"}}"))
    };
    let mut sent = 0;
    let mut got = 0;
    // In pieces, of which the first does not tell the protocol; by a shared connection and by one of its own.
    for pieces in
        [&[&b"*2\r\n$3\r\nGET"[..], b"\r\n$1\r\na\r\nPING\r\n", b"GET a\r\nQUIT\r\n"][..]; 3]
    {
        let mut client = lb.connect();
        for piece in pieces {
            client.write_all(piece).expect("lb reads");
            sent += piece.len();
            thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).expect("an end");
        assert_eq!(replies, b"$1\r\n1\r\n+PONG\r\n$1\r\n1\r\n+OK\r\n");
        got += replies.len();
    }
    wait_until("all bytes are counted", || {
        bytes("received", "resp") == sent as f64 && bytes("sent", "resp") == got as f64
    });
    let before = ["received", "sent"].map(|direction| bytes(direction, "http"));
    let request = b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = lb.talk(request);
    let scrape = b"GET /-/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".len();
    // That of the scrape in which it shows is counted as well, and so is each before that.
    wait_until("they are counted", || {
        let received = bytes("received", "http") - before[0];
        received >= (request.len() + scrape) as f64
            && (received - request.len() as f64) % scrape as f64 == 0.0
            && bytes("sent", "http") - before[1] > answer.len() as f64
    });
}

#[test]
fn commands_that_were_sent_together_are_timed_under_their_own_names() {
    let server = RedisServer::start();
    server.command(&["RPUSH", "list", "a", "b"]);
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start(&[&server]);
    let mut client = RespClient::connect(lb.port());
    let rounds: usize = 40;
    for round in 0..rounds {
        let words =
            ["GET a", "STRLEN a", "GET a", "LRANGE list 0 -1", "OBJECT ENCODING a", "GET list"];
        // Reads that are not known to be quick go by a connection of their own.
        let count = if round % 2 == 0 { words.len() } else { 3 };
        let sent =
            words[..count].iter().flat_map(|words| encode(&words.split(' ').collect::<Vec<_>>()));
        client.send_raw(sent.collect::<Vec<_>>());
        (0..count).for_each(|_| _ = client.reply());
    }
    let scrape = Scrape::of(&lb);
    let (all, half) = (rounds as f64, rounds as f64 / 2.0);
    for (command, count) in
        [("get", 2.0 * all + half), ("strlen", all), ("lrange", half), ("object|encoding", half)]
    {
        assert_eq!(scrape.timed(command), count, "{command}");
        let sum = format!("redis_lb_command_duration_seconds_sum{{command=\"{command}\"}}");
        assert!(scrape.get(&sum) > 0.0, "{command}");
    }
    let answered = scrape.requests("resp", &server.address());
    assert_eq!(scrape.sum("redis_lb_command_duration_seconds_count"), answered);
}

#[test]
fn checks_that_fail_and_changes_of_state_are_counted() {
    let mut servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--check-interval", "100ms"]);
    let gone = servers[1].address();
    let checks = |backend: &str, result: &str| {
        let labels = format!("backend=\"{backend}\",result=\"{result}\"");
        Scrape::of(&lb).get(&format!("redis_lb_backend_checks_total{{{labels}}}"))
    };
    let changes = |backend: &str, state: &str| {
        let labels = format!("backend=\"{backend}\",state=\"{state}\"");
        Scrape::of(&lb).get(&format!("redis_lb_backend_state_changes_total{{{labels}}}"))
    };
    wait_until("checks are answered", || checks(&gone, "answered") >= 2.0);
    assert_eq!((checks(&gone, "failed"), changes(&gone, "up")), (0.0, 1.0));
    servers[1].kill();
    wait_until("it is down", || changes(&gone, "down") == 1.0);
    assert!(checks(&gone, "failed") >= 3.0);
    assert_eq!(changes(&gone, "suspect"), 1.0);
    servers[1].restart();
    servers[1].command(&["HSET", "actor:1", "first_name", "Mara", "last_name", "Ellingworth"]);
    wait_until("it is back", || changes(&gone, "up") == 2.0);
    for other in [&servers[0], &servers[2]] {
        assert_eq!(checks(&other.address(), "failed"), 0.0);
        assert_eq!(changes(&other.address(), "up"), 1.0);
    }
}

#[test]
fn the_process_tells_when_it_began_and_how_many_files_are_open() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs_f64();
    let before = now();
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let began = Scrape::of(&lb).get("process_start_time_seconds");
    assert!((before..=now()).contains(&began), "{before} {began}");
    let open = Scrape::of(&lb).get("process_open_fds");
    let clients: Vec<TcpStream> = (0..50).map(|_| lb.connect()).collect();
    wait_until("their files show", || Scrape::of(&lb).get("process_open_fds") >= open + 50.0);
    let listed = std::fs::read_dir(format!("/proc/{}/fd", lb.pid())).expect("Linux").count();
    let shown = Scrape::of(&lb).get("process_open_fds");
    assert!((shown - listed as f64).abs() <= 3.0, "{shown} {listed}");
    assert!(Scrape::of(&lb).get("process_max_fds") > shown);
    drop(clients);
    assert_eq!(Scrape::of(&lb).get("process_start_time_seconds"), began);
}

#[test]
fn what_is_slow_to_arrive_is_not_malformed_and_what_would_not_write_is_no_write() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut late: Vec<TcpStream> = (0..2).map(|_| lb.connect()).collect();
    late[0].write_all(b"GET /a HT").expect("lb reads");
    late[1].write_all(b"*2\r\n$3\r\nGET\r\n").expect("lb reads");
    for method in ["OPTIONS", "TRACE", "PROPFIND"] {
        assert_eq!(lb.request(method, "/a", &[]).status, 405, "{method}");
    }
    assert_eq!(lb.request("FROBNICATE", "/a", &[]).status, 405);
    for method in ["POST", "PUT", "DELETE", "PATCH", "MKCOL"] {
        assert_eq!(lb.request(method, "/a", &[]).status, 405, "{method}");
    }
    let elsewhere = b"GET /a HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n";
    assert_eq!(Answer::parse(&lb.talk(elsewhere)).status, 421);
    let refused = |protocol: &str| {
        let reasons = ["write", "bad_request", "too_slow", "unknown_command", "not_served"];
        let scrape = Scrape::of(&lb);
        reasons.map(|reason| scrape.refusals(protocol, reason))
    };
    assert_eq!(refused("http"), [5.0, 0.0, 0.0, 1.0, 4.0]);
    for client in &mut late {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("an end");
        assert!(answer.starts_with(b"HTTP/1.1 408") || answer.starts_with(b"-ERR Protocol error"));
    }
    assert_eq!(refused("http"), [5.0, 0.0, 1.0, 1.0, 4.0]);
    assert_eq!(refused("resp"), [0.0, 0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn the_form_is_the_classic_one_unless_openmetrics_is_asked_for() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    lb.get("/none");
    let of_prometheus = "Accept: application/openmetrics-text;version=1.0.0,\
        application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (headers, expected) in [
        (&[][..], CLASSIC),
        (&["Accept: */*"], CLASSIC),
        (&["Accept: text/html,application/xhtml+xml,*/*;q=0.8"], CLASSIC),
        (&["Accept: application/openmetrics-text;q=0.3, text/plain;q=0.4"], CLASSIC),
        (&["Accept: text/plain;q=0.3", "Accept: application/openmetrics-text;q=0.4"], OPEN_METRICS),
        (&[ACCEPT], OPEN_METRICS),
        (&[of_prometheus], OPEN_METRICS),
    ] {
        let answer = lb.request("GET", "/-/metrics", headers);
        assert_eq!(answer.header("content-type"), Some(expected), "{headers:?}");
        assert!(answer.header("vary").is_some_and(|vary| vary.contains("Accept")), "{headers:?}");
        let text = String::from_utf8(answer.body).expect("text");
        assert_eq!(text.ends_with("# EOF\n"), expected == OPEN_METRICS, "{headers:?}");
        let counter = if expected == CLASSIC { "requests_total" } else { "requests" };
        assert!(text.contains(&format!("# TYPE redis_lb_{counter} counter\n")), "{headers:?}");
    }
    let classic = Scrape::of(&lb);
    let open = Scrape::from_answer(lb.request("GET", "/-/metrics", &[ACCEPT]));
    // Labels are in another order.
    let names = |scrape: &Scrape| -> BTreeSet<String> {
        scrape.0.keys().filter_map(|sample| sample.split('{').next()).map(str::to_owned).collect()
    };
    assert_eq!(names(&classic), names(&open));
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
    // Each command that a backend has answered is timed under its name.
    let timed = scrape.sum("redis_lb_command_duration_seconds_count");
    assert_eq!(timed, sent * (commands.len() - 13) as f64);
    for (command, count) in [
        ("get", 2.0),
        ("hgetall", 1.0),
        ("scan", 1.0),
        ("hscan", 1.0),
        ("exec", 2.0),
        ("info", 1.0),
    ] {
        assert_eq!(scrape.timed(command), sent * count, "{command}");
    }
    assert_eq!(scrape.timed("set") + scrape.timed("ping"), 0.0);
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
    let answer = lb.request("GET", "/-/metrics", &[ACCEPT]);
    let text = String::from_utf8(answer.body).expect("text");
    let output = Command::new(python).args(["-c", script, &text]).output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.trim().parse::<usize>().expect("a count") > 20, "{said}");
}

#[test]
fn what_clients_ask_wrongly_is_not_counted_as_unanswered() {
    let primary = RedisServer::start();
    primary.command(&["SET", "a", "1"]);
    let replica = replica_of(&primary, &[]);
    let lb = Balancer::start(&[&replica]);
    wait_until("it has its data", || lb.get("/a").status == 200);
    let before = Scrape::of(&lb);
    assert_eq!(lb.get("/?cursor=none-1").status, 410);
    // Its primary is not among the backends, so how old its data are is not known.
    assert_eq!(lb.request("GET", "/a", &["Max-Staleness: 0"]).status, 503);
    let scrape = Scrape::of(&lb);
    let refused = |reason| scrape.refusals("http", reason) - before.refusals("http", reason);
    assert_eq!(["bad_request", "too_stale", "unanswered"].map(refused), [1.0, 1.0, 0.0]);
    assert_eq!(lb.get("/-/status.json").json()["refused"]["too_stale"], 1);
}
