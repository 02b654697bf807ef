//! The lines of requests and sessions in the log, in both forms, whatever clients send.

use std::process::Command;

use serde_json::Value;

use crate::support::balancer::Balancer;
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
    let (server, lb) = start(&["--log-format", "json"]);
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
    assert_eq!(of_kind("message")["level"], "INFO");
    assert!(of_kind("reads")["backend"].is_string());
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
