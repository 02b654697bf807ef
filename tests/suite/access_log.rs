//! The lines of requests and sessions in the log, in both forms, whatever clients send.

use std::process::Command;

use serde_json::Value;

use crate::support::balancer::Balancer;
use crate::support::certificates::Certificates;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Keys that would end a line, forge another, colour the terminal, or reverse the text.
const HOSTILE: [&str; 5] =
    ["/%0a[forged]", "/a\u{202e}b\u{2028}c", "/\"}\\%22%7d", "/\u{9b}2J%1b[2J", "/ключ"];

/// Each line of the log as JSON, once there is one of this kind for each of `count` requests.
fn json_lines(lb: &Balancer, kind: &str, count: usize) -> Vec<Value> {
    let lines = || -> Vec<Value> {
        let log = lb.log();
        let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let of_kind = || lines().iter().filter(|line| line["kind"] == kind).count();
    wait_until("they are logged", || of_kind() == count);
    lines()
}

fn start(arguments: &[&str]) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], arguments);
    (server, lb)
}

#[test]
fn a_request_is_one_json_object_however_hostile_its_key() {
    let (server, lb) = start(&["--log-format", "json", "--log-leases"]);
    let long = format!("/{}", "é".repeat(4000));
    HOSTILE.iter().for_each(|path| _ = lb.get(path));
    lb.get(&long);
    let lines = json_lines(&lb, "request", HOSTILE.len() + 1);
    assert!(lb.log().is_ascii());
    let requests: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "request").collect();
    for (path, line) in HOSTILE.iter().zip(&requests) {
        assert_eq!(line["target"], *path);
        assert_eq!((&line["status"], &line["method"]), (&404.into(), &"GET".into()));
        assert_eq!(line["backend"], server.address());
        assert_eq!(line["leases"][server.address()], 0);
        assert!(line["ms"].is_number() && line["bytes"].as_u64() > Some(100), "{line}");
        assert!(line["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")));
    }
    let cut = requests[HOSTILE.len()]["target"].as_str().expect("text");
    assert_eq!((cut.chars().count(), cut.chars().last()), (257, Some('…')));
}

#[test]
fn messages_sessions_and_refusals_are_json_as_well() {
    let (_server, lb) = start(&["--log-format", "json"]);
    let mut client = RespClient::connect(lb.port());
    client.call("GET none");
    client.call("SET a b");
    drop(client);
    lb.talk(b"GET /\x1b[2J HTTP/9\r\n\r\n");
    lb.talk(b"*1\r\n\x1b[2J\r\n");
    let lines = json_lines(&lb, "session", 2);
    let of_kind = |kind: &str| lines.iter().find(|line| line["kind"] == kind).expect("one");
    let session = lines.iter().find(|line| line["kind"] == "session" && line["commands"] == 2);
    let session = session.expect("that of two commands");
    assert_eq!((&session["errors"], &session["ended"]), (&1.into(), &"left".into()));
    assert_eq!(of_kind("refused")["status"], 400);
    assert!(of_kind("reads")["backend"].is_string());
    lb.signal("-TERM");
    let lines = json_lines(&lb, "message", 2);
    let last = lines.last().expect("one");
    assert_eq!((&last["level"], &last["message"]), (&"INFO".into(), &"ended".into()));
}

#[test]
fn leases_are_in_the_lines_of_requests_and_sessions_only_if_that_is_wanted() {
    for (arguments, are_there) in
        [(&[][..], false), (&["--log-leases"], true), (&["--demo-delay", "10ms"], true)]
    {
        let (server, lb) = start(arguments);
        lb.get("/none");
        let mut client = RespClient::connect(lb.port());
        client.call("GET none");
        drop(client);
        wait_until("all is logged", || lb.log().contains(" session "));
        let leases = format!(" leases {}=", server.address());
        for what in [" GET /none 404 ", " reads from ", " session "] {
            let log = lb.log();
            let line = log.lines().find(|line| line.contains(what)).expect(what);
            assert_eq!(line.contains(&leases), are_there, "{arguments:?}: {line}");
        }
        let log = lb.log();
        let held = log.lines().find(|line| line.contains("held for"));
        assert_eq!(held.is_some(), arguments.contains(&"--demo-delay"), "{log}");
        assert!(held.is_none_or(|held| held.contains(&leases)), "{log}");
    }
    let (_server, lb) = start(&["--log-format", "json"]);
    lb.get("/none");
    let lines = json_lines(&lb, "request", 1);
    assert!(lines.last().is_some_and(|line| line.get("leases").is_none()), "{lines:?}");
}

/// Two servers with a key each.
fn two_servers() -> [RedisServer; 2] {
    [(); 2].map(|()| {
        let server = RedisServer::start();
        server.command(&["SET", "a", "1"]);
        server
    })
}

#[test]
fn a_change_of_state_has_fields_and_the_leases_of_that_moment() {
    let [mut gone, stays] = two_servers();
    // Quiet: these lines are about backends.
    let lb = Balancer::start_with(&[&gone, &stays], &["--log-format", "json", "--quiet"]);
    let mut clients: Vec<RespClient> = (0..4).map(|_| RespClient::connect(lb.port())).collect();
    clients.iter_mut().for_each(|client| _ = client.call("GET a"));
    let lines = json_lines(&lb, "state", 2);
    for line in lines.iter().filter(|line| line["kind"] == "state") {
        assert_eq!((&line["state"], &line["before"]), (&"up".into(), &"down".into()), "{line}");
        assert_eq!((&line["keys"], &line["level"]), (&1.into(), &"INFO".into()), "{line}");
        assert_eq!(line["leases"].as_object().expect("leases").len(), 2, "{line}");
    }
    gone.kill();
    let is_of = |line: &Value, state: &str| {
        line["kind"] == "state" && line["backend"] == gone.address() && line["state"] == state
    };
    let find = |state: &str| {
        let log = lb.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| is_of(line, state))
    };
    wait_until("it is down", || find("down").is_some());
    let suspect = find("suspect").expect("first it is suspect");
    assert_eq!((&suspect["before"], &suspect["level"]), (&"up".into(), &"WARN".into()));
    assert!(suspect["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{suspect}");
    assert_eq!(suspect["leases"][stays.address()], 2, "{suspect}");
    assert_eq!(find("down").expect("a line")["before"], "suspect");
    assert!(lb.log().is_ascii());
}

#[test]
fn a_change_of_state_is_a_sentence_for_people_with_the_leases_after_it() {
    let [mut gone, stays] = two_servers();
    let lb = Balancer::start(&[&gone, &stays]);
    gone.kill();
    lb.get("/a");
    lb.get("/a");
    let begins = format!(" WARN  {} is suspect: ", gone.address());
    wait_until("it is suspect", || lb.log().contains(&begins));
    let log = lb.log();
    let line = log.lines().find(|line| line.contains(&begins)).expect("a line");
    assert!(line.contains(&format!("; leases {}=", gone.address())), "{line}");
    assert!(line.contains(&format!(" {}=", stays.address())), "{line}");
}

#[test]
fn the_log_says_once_that_no_backend_is_left_and_once_that_one_is_back() {
    let [mut one, mut other] = two_servers();
    let lb = Balancer::start_with(&[&one, &other], &["--check-interval", "100ms"]);
    let count = |text: &str| lb.log().matches(text).count();
    let (none_left, back) = ("ERROR no backend is left", " is back: reads are answered again");
    one.kill();
    wait_until("one is down", || count(" is down: ") == 1);
    lb.get("/a");
    assert_eq!((count(none_left), count(back)), (0, 0), "the other one is left");
    other.kill();
    wait_until("none is left", || count(none_left) == 1);
    for _ in 0..5 {
        assert_eq!(lb.get("/a").status, 503);
    }
    wait_until("probes say so", || lb.get("/-/ready").status == 503);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!((count(none_left), count(back)), (1, 0), "{}", lb.log());
    for server in [&mut one, &mut other] {
        server.restart();
        server.command(&["SET", "a", "1"]);
    }
    wait_until("both are up", || count(" is up: ") == 4);
    assert_eq!((count(none_left), count(back)), (1, 1), "{}", lb.log());
    // It can happen again.
    one.kill();
    other.kill();
    wait_until("none is left again", || count(none_left) == 2);
}

#[test]
fn an_outage_from_the_start_on_has_its_lines_as_well() {
    let mut server = RedisServer::start();
    server.kill();
    let lb = Balancer::start_with(&[&server], &["--log-format", "json"]);
    let outage = &json_lines(&lb, "outage", 1);
    let outage = outage.iter().find(|line| line["kind"] == "outage").expect("one");
    assert_eq!(outage["level"], "ERROR");
    assert!(outage["message"].as_str().is_some_and(|text| text.contains("no backend answers")));
    server.restart();
    server.command(&["SET", "a", "1"]);
    let lines = json_lines(&lb, "recovery", 1);
    let recovery = lines.iter().find(|line| line["kind"] == "recovery").expect("one");
    assert_eq!(
        (&recovery["backend"], &recovery["level"]),
        (&server.address().into(), &"INFO".into())
    );
    assert!(recovery["seconds"].as_f64() > Some(0.0), "{recovery}");
}

#[test]
fn quiet_leaves_requests_and_sessions_out_but_not_what_happens_to_backends() {
    let (mut server, lb) = start(&["--quiet"]);
    lb.get("/none");
    RespClient::connect(lb.port()).call("GET none");
    server.kill();
    wait_until("the failure is logged", || lb.log().contains("is suspect"));
    let log = lb.log();
    assert!(
        !log.contains("GET") && !log.contains("session") && !log.contains("reads from"),
        "{log}"
    );
}

#[test]
fn a_rust_log_that_is_empty_or_makes_no_sense_does_not_silence_the_log() {
    let server = RedisServer::start();
    for (rust_log, is_told) in [("", false), ("infos", false), ("a=b=c", true)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(["--listen", "127.0.0.1:0", "--backend", &server.address()]);
        let lb = Balancer::spawn({
            command.env("RUST_LOG", rust_log);
            command
        });
        lb.get("/none");
        wait_until("the request is logged", || lb.log().contains("GET /none 404"));
        assert_eq!(lb.log().contains("is not understood"), is_told, "{rust_log:?}");
    }
}

#[test]
fn the_status_page_and_probes_leave_no_lines() {
    let (_server, lb) = start(&[]);
    for path in ["/-/", "/-/status.json", "/-/metrics", "/-/ready"] {
        assert_eq!(lb.get(path).status, 200, "{path}");
    }
    lb.get("/none");
    wait_until("the read is logged", || lb.log().contains("GET /none 404"));
    assert!(!lb.log().contains("/-/"), "{}", lb.log());
}

/// Checks of proxies and orchestrators, of each kind twice.
fn probe(lb: &Balancer) {
    for _ in 0..2 {
        drop(lb.connect());
        let idle = lb.connect();
        // Some end the connection with a reset.
        socket2::SockRef::from(&idle)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("an option");
        drop(idle);
        assert_eq!(lb.talk(b"PING\r\nQUIT\r\n"), b"+PONG\r\n+OK\r\n");
        let mut client = RespClient::connect(lb.port());
        assert_eq!(client.call("PING"), "+PONG\r\n");
        drop(client);
        for path in ["/-/health", "/-/ready", "/-/metrics"] {
            assert_eq!(lb.get(path).status, 200, "{path}");
            assert_eq!(lb.request("HEAD", path, &[]).status, 200, "{path}");
        }
        lb.request("OPTIONS", "/-/health", &[]);
    }
}

/// The lines of the log but those that are there whoever connects, once the balancer has ended.
fn lines_of_clients(lb: &Balancer) -> Vec<String> {
    lb.signal("-TERM");
    wait_until("it ends", || lb.log().ends_with(" ended\n"));
    let usual = [" is up: ", " holds a private key", " no new clients; ", " ended"];
    let is_of_client = |line: &&str| !usual.iter().any(|text| line.contains(text));
    lb.log().lines().filter(is_of_client).map(str::to_owned).collect()
}

#[test]
fn probes_and_bare_connections_leave_no_line() {
    let (_server, lb) = start(&[]);
    probe(&lb);
    assert_eq!(lines_of_clients(&lb), Vec::<String>::new());
    // Whoever looks for them finds them.
    let (_server, lb) = start(&["--log-level", "debug"]);
    probe(&lb);
    wait_until("they are there", || {
        let log = lb.log();
        log.matches("GET /-/ready 200").count() == 2
            && log.matches(" session - 1 command").count() == 2
    });
}

#[test]
fn bare_connections_leave_no_line_where_tls_or_a_header_is_asked_for() {
    let certificates = Certificates::new("ca");
    let tls = certificates.server().flags();
    let tls: Vec<&str> = tls.iter().map(String::as_str).chain(["--tls-only"]).collect();
    for arguments in [&tls[..], &["--proxy-protocol"]] {
        let (_server, lb) = start(arguments);
        for _ in 0..3 {
            drop(lb.connect());
            let end = lb.connect();
            end.shutdown(std::net::Shutdown::Write).expect("a connection");
            drop(end);
        }
        if arguments.len() > 1 {
            // A check that leaves within the handshake.
            use std::io::Write;
            let mut half = lb.connect();
            half.write_all(b"\x16\x03\x01\x02\x00\x01").expect("lb reads");
            drop(half);
        }
        assert_eq!(lines_of_clients(&lb), Vec::<String>::new());
    }
}

#[test]
fn a_log_that_nobody_reads_holds_no_client_up_and_what_is_lost_is_counted() {
    let server = RedisServer::start();
    // Its end of the pipe is kept open and never read.
    let (_unread, pipe) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 2<&0 </dev/null; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lb")])
        .args(["--listen", "127.0.0.1:0", "--backend", &server.address()])
        .stdin(pipe);
    let lb = Balancer::spawn(command);
    let mut client = lb.client();
    // A client that is held up fails: it waits for an answer for 20 s at most.
    let requests = 30_000;
    for _ in 0..requests / 100 {
        client.send("GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100));
        (0..100).for_each(|_| assert_eq!(client.answer().expect("an answer").status, 404));
    }
    let status = lb.get("/-/status.json").json();
    assert_eq!(status["requests"]["http"], requests);
    assert!(status["log_lines_dropped"].as_u64() > Some(10_000), "{status}");
}
