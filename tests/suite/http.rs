//! What HTTP clients of all versions rely on.

use std::io::{ErrorKind, Read, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::{Answer, Balancer};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

const MARA: &str = "{\n  \"first_name\": \"Mara\",\n  \"last_name\": \"Ellingworth\"\n}\n";

/// Longer than what is sent in one piece, and than what the kernel takes off our hands.
const LONG: usize = 32 * 1024 * 1024;

fn start_server() -> RedisServer {
    let server = RedisServer::start();
    server.command(&["HSET", "actor:1", "first_name", "Mara", "last_name", "Ellingworth"]);
    server
}

fn start_with(arguments: &[&str]) -> (RedisServer, Balancer) {
    let server = start_server();
    let lb = Balancer::start_with(&[&server], arguments);
    (server, lb)
}

fn start() -> (RedisServer, Balancer) {
    start_with(&[])
}

fn set_long(server: &RedisServer) {
    server.command(&["SET", "long", &"x".repeat(LONG)]);
}

/// `GET /key:N`, numbered, so that answers can be told apart.
fn numbered(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("GET /key:{n} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect()
}

fn is_number(answer: &Answer, n: usize) -> bool {
    (answer.status, answer.json()["key"].as_str()) == (404, Some(&format!("key:{n}")))
}

/// Without what may differ from one moment to the next.
fn lasting(answer: &Answer) -> Vec<(String, String)> {
    let lasts = |name: &str| !["date", "server-timing"].contains(&name);
    answer.headers.iter().filter(|(name, _)| lasts(name)).cloned().collect()
}

#[test]
fn many_requests_go_over_one_connection() {
    let (_server, lb) = start();
    let mut client = lb.client();
    for n in 0..200 {
        assert_eq!(client.get("/actor:1").body, MARA.as_bytes());
        assert!(is_number(&client.get(&format!("/key:{n}")), n));
    }
}

#[test]
fn requests_sent_without_waiting_are_answered_in_their_order() {
    let (_server, lb) = start();
    let mut client = lb.client();
    client.send(numbered(0..300));
    client.end();
    for n in 0..300 {
        let answer = client.answer().expect("an answer to each");
        assert!(is_number(&answer, n), "{n}: {answer:?}");
    }
    assert!(client.is_at_end());
}

#[test]
fn it_does_not_matter_where_the_network_splits_requests() {
    let (_server, lb) = start();
    let mut client = lb.client();
    let two = numbered(0..2);
    for at in 0..=two.len() {
        client.send(&two[..at]);
        // Gives the first part a head start; right answers do not depend on it.
        thread::sleep(Duration::from_millis(1));
        client.send(&two[at..]);
        for n in 0..2 {
            assert!(is_number(&client.answer().expect("an answer"), n), "split at {at}");
        }
    }
}

#[test]
fn http_1_0_closes_unless_asked_to_go_on() {
    let (_server, lb) = start();
    let mut client = lb.client();
    client.send("GET /actor:1 HTTP/1.0\r\n\r\n");
    let answer = client.answer().expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(client.is_at_end());

    let mut client = lb.client();
    for _ in 0..3 {
        client.send("GET /actor:1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.body, MARA.as_bytes());
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    client.send("GET /actor:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().expect("an answer").header("connection"), Some("close"));
    assert!(client.is_at_end());
}

#[test]
fn http_1_0_gets_a_long_value_without_chunks() {
    let (server, lb) = start();
    set_long(&server);
    let mut client = lb.client();
    client.send("GET /long?format=raw HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.body.len(), LONG);
    assert!(client.is_at_end());
}

#[test]
fn http_0_9_gets_the_bare_body_and_the_end() {
    let (_server, lb) = start();
    for line in ["GET /actor:1\r\n", "GET /actor:1\n", "\r\nGET /actor:1\r\n"] {
        assert_eq!(lb.talk(line.as_bytes()), MARA.as_bytes(), "{line:?}");
    }
    let error = lb.talk(b"GET /none\r\n");
    assert!(error.starts_with(b"{\n  \"error\": \"no such key\""), "{error:?}");
}

#[test]
fn curl_gets_a_value_with_each_version_that_it_speaks() {
    let (_server, lb) = start();
    for version in ["--http0.9", "--http1.0", "--http1.1", "--http2"] {
        let url = lb.url("/actor:1");
        let curl = Command::new("curl").args(["-sSf", version, &url]).output().expect("curl");
        assert_eq!(curl.stdout, MARA.as_bytes(), "{version}: {curl:?}");
    }
}

#[test]
fn head_says_what_get_says_without_the_body() {
    let (server, lb) = start();
    set_long(&server);
    let mut client = lb.client();
    for (path, status) in [
        ("/actor:1", 200),
        ("/long", 200),
        ("/long?format=raw", 200),
        ("/", 200),
        ("/none", 404),
        ("/actor:1?format=raw", 415),
        ("/?limit=0", 400),
        ("/-/ping", 200),
        ("/-/else", 404),
        ("/favicon.ico", 204),
    ] {
        let got = client.get(path);
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.head().expect("an answer");
        assert_eq!((got.status, head.status), (status, status), "{path}");
        assert_eq!(lasting(&got), lasting(&head), "{path}");
    }
    assert_eq!(client.get("/actor:1").status, 200, "no body was taken for an answer");
}

#[test]
fn each_answer_has_the_headers_that_it_needs_and_an_error_is_json() {
    let (_server, lb) = start();
    let too_long = format!("/{}", "a".repeat(64 * 1024));
    let too_large = format!("X: {}", "a".repeat(16 * 1024));
    let from_redis = [("/actor:1", 200), ("/", 200), ("/none", 404), ("/actor:1?format=raw", 415)];
    for (path, status) in from_redis {
        let answer = lb.get(path);
        assert_eq!((answer.status, answer.served_by().contains(':')), (status, true));
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(answer.header("vary"), Some("Accept, Accept-Encoding"), "{path}");
    }
    for (method, path, header, status) in [
        ("GET", "/actor:1", "", 200),
        ("GET", "/none", "", 404),
        ("GET", "/actor:1?format=raw", "", 415),
        ("GET", "/-/ping", "", 200),
        ("GET", "/-/else", "", 404),
        ("GET", "/favicon.ico", "", 204),
        ("GET", "/actor:1", "If-None-Match: *", 304),
        ("GET", "/%", "", 400),
        ("GET", "/?cursor=none-1", "", 410),
        ("GET", "/", "no colon", 400),
        ("PUT", "/actor:1", "", 405),
        ("GET", "http://example.org/", "", 421),
        ("GET", &too_long, "", 414),
        ("GET", "/", &too_large, 431),
    ] {
        let headers: Vec<&str> = Some(header).filter(|text| !text.is_empty()).into_iter().collect();
        let answer = lb.request(method, path, &headers);
        let about = format!("{method} {path:.40}: {:?}", answer.headers);
        assert_eq!(answer.status, status, "{about}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{about}");
        assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{about}");
        if status >= 400 {
            assert!(answer.json()["error"].is_string(), "{about}");
            assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
        }
        let has_length = answer.header("content-length").is_some();
        assert_eq!(has_length, ![204, 304].contains(&status), "{about}");
    }
}

#[test]
fn a_value_that_the_client_has_is_not_sent_again_until_it_changes() {
    let (server, lb) = start();
    let mut client = lb.client();
    let etag = client.get("/actor:1").header("etag").expect("an ETag").to_owned();
    let mut ask = |tags: &str| {
        client.send(format!(
            "GET /actor:1 HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tags}\r\n\r\n"
        ));
        client.answer().expect("an answer")
    };
    for tags in [etag.clone(), "*".to_owned(), format!("\"x\", {etag}"), etag.replace("W/", "")] {
        let answer = ask(&tags);
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{tags}");
        assert_eq!(answer.header("etag"), Some(&*etag));
    }
    assert_eq!(ask("\"x\"").status, 200);
    server.command(&["HSET", "actor:1", "first_name", "Nora"]);
    let answer = ask(&etag);
    assert_eq!((answer.status, &answer.json()["first_name"]), (200, &"Nora".into()));
}

#[test]
fn what_would_write_is_refused_with_what_is_allowed() {
    let (_server, lb) = start();
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FLUSHALL"] {
        let answer = lb.request(method, "/actor:1", &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // Methods are case-sensitive. (At the beginning of a connection this would be Redis.)
    let mut client = lb.client();
    assert_eq!(client.get("/actor:1").status, 200);
    client.send("get /actor:1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().expect("an answer").status, 405);
    assert_eq!(lb.get("/actor:1").body, MARA.as_bytes());
}

#[test]
fn on_loopback_only_local_and_allowed_names_are_served() {
    let (_server, lb) = start_with(&["--allow-host", "Cats.example,[2001:db8::1]"]);
    let status = |line: &str, host: &str| {
        let mut client = lb.client();
        client.send(format!("GET {line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer().expect("an answer").status
    };
    for (host, expected) in [
        ("localhost", 200),
        ("127.0.0.1:1310", 200),
        ("[::1]:1310", 200),
        ("lb.localhost", 200),
        ("cats.example", 200),
        ("CATS.example:80", 200),
        ("[2001:db8::1]:80", 200),
        ("dogs.example", 421),
        ("cats.example.org", 421),
        ("127.0.0.1.example", 421),
        ("localhost.example", 421),
        ("10.0.0.1", 421),
        ("[2001:db8::2]", 421),
    ] {
        assert_eq!(status("/actor:1", host), expected, "{host}");
        let absolute = format!("http://{host}/actor:1");
        assert_eq!(status(&absolute, "localhost"), expected, "{absolute}");
        assert_eq!(status(&absolute, "dogs.example"), expected, "{absolute} goes before Host");
    }
    assert_eq!(lb.talk(b"GET /actor:1 HTTP/1.0\r\n\r\n").get(9..12), Some(&b"200"[..]));
    // Probes come by the address of a pod, a container, or a load balancer.
    for path in ["/-/health", "/-/ready", "/-/ready?from=kubelet", "/-/ping"] {
        assert_eq!(status(path, "10.0.0.1:1310"), 200, "{path}");
        assert_eq!(status(&format!("http://10.0.0.1{path}"), "dogs.example"), 200, "{path}");
    }
    for path in ["/-/", "/-/metrics", "/-/status.json", "/-/else"] {
        assert_eq!(status(path, "10.0.0.1:1310"), 421, "{path}");
    }
}

#[test]
fn a_long_request_line_is_served_whatever_pieces_it_comes_in() {
    let (server, lb) = start();
    let key = "é".repeat(10_000);
    server.command(&["SET", &key, "v"]);
    let path: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(lb.get(&format!("/{path}{path}")).status, 414);
    let head = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut client = lb.client();
    for piece in [1000, 7777, 100_000] {
        for part in head.as_bytes().chunks(piece) {
            client.send(part);
        }
        let answer = client.answer().expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"\"v\"\n"[..]), "{piece}");
    }
    client.send(numbered(0..3));
    for n in 0..3 {
        assert!(is_number(&client.answer().expect("an answer"), n), "{n}");
    }
}

#[test]
fn a_listener_that_others_can_reach_serves_any_name() {
    let server = start_server();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "0.0.0.0:0", "--backend", &server.address()]);
    let lb = Balancer::spawn(command);
    let mut client = lb.client();
    client.send("GET /actor:1 HTTP/1.1\r\nHost: cats.example\r\n\r\n");
    assert_eq!(client.answer().expect("an answer").status, 200);
}

#[test]
fn clients_over_the_limit_are_told_to_come_back_and_served_when_one_has_left() {
    let (_server, lb) = start_with(&["--max-clients", "2"]);
    // Idle HTTP clients would make room.
    let mut held = [(); 2].map(|()| RespClient::connect(lb.port()));
    held.iter_mut().for_each(|client| assert_eq!(client.call("PING"), "+PONG\r\n"));
    for _ in 0..3 {
        let answer = lb.get("/actor:1");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.json()["error"].as_str().expect("text").contains("too many"));
    }
    assert_eq!(lb.talk(b"").escape_ascii().to_string(), "", "whoever says nothing is only closed");
    assert_eq!(held[0].call("PING"), "+PONG\r\n", "who is served stays served");
    let [_stays, leaves] = held;
    drop(leaves);
    wait_until("there is room", || lb.get("/actor:1").status == 200);
}

#[test]
fn a_head_that_takes_longer_than_ten_seconds_is_cut_off() {
    let (_server, lb) = start();
    let began = Instant::now();
    let mut silent = lb.client();
    silent.send("GET /actor:1 HT");
    let mut dripping = lb.client();
    dripping.send("GET /actor:1 HTTP/1.1\r\n");
    // Each line would keep a timeout of single reads from running out.
    for n in 0.. {
        if began.elapsed() > Duration::from_secs(7) {
            break;
        }
        dripping.send(format!("X-{n}: y\r\n"));
        thread::sleep(Duration::from_millis(500));
    }
    for mut client in [silent, dripping] {
        let answer = client.answer().expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert!(client.is_at_end());
    }
    let took = began.elapsed().as_secs_f32();
    // Ten seconds after the last line would be 17.
    assert!((9.9..16.5).contains(&took), "{took} s");
}

#[test]
fn an_idle_client_is_closed_and_its_place_is_free() {
    let (_server, lb) = start_with(&["--client-timeout", "1s", "--max-clients", "2"]);
    let mut silent = lb.client();
    let mut idle = lb.client();
    assert_eq!(idle.get("/actor:1").status, 200);
    assert!(silent.is_at_end() && idle.is_at_end());
    assert_eq!(lb.get("/actor:1").status, 200);
}

#[test]
fn a_client_that_ends_its_side_gets_the_answers_that_it_asked_for() {
    let (_server, lb) = start_with(&["--demo-delay", "100ms"]);
    let mut client = lb.client();
    client.send(numbered(0..3));
    client.end();
    for n in 0..3 {
        assert!(is_number(&client.answer().expect("an answer"), n));
    }
    assert!(client.is_at_end());
}

#[test]
fn a_client_that_says_more_than_is_answered_gets_its_answer_to_the_end() {
    let (server, lb) = start();
    set_long(&server);
    let mut client = lb.client();
    client.send("GET /long HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(!client.is_at_end(), "the answer begins");
    client.send("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50));
    let answer = client.answer().expect("an answer");
    assert!(answer.is_whole && answer.body.len() > LONG);
    assert!(client.is_at_end());
    assert!(!lb.log().contains("/never"));
}

#[test]
fn a_client_that_disappears_leaves_no_lease_behind() {
    let (server, lb) = start_with(&["--log-leases"]);
    set_long(&server);
    for path in ["/long", "/long?format=raw"] {
        let mut stream = lb.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("lb reads");
        stream.read_exact(&mut [0; 1000]).expect("the answer's begin");
        drop(stream);
    }
    wait_until("both answers are given up", || lb.log().matches(" cut: ").count() == 2);
    assert_eq!(lb.get("/long?format=raw").body.len(), LONG);
    let none_leased = format!("{}=0", server.address());
    wait_until("nothing is leased", || lb.log().trim_end().ends_with(&none_leased));
}

#[test]
fn a_client_that_does_not_read_is_given_up_after_the_timeout() {
    let (server, lb) = start_with(&["--client-timeout", "500ms", "--log-leases"]);
    set_long(&server);
    let mut client = lb.client();
    client.send("GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let given_up = format!("{}=0 cut: ", server.address());
    wait_until("it is given up", || lb.log().contains(&given_up));
}

#[test]
fn half_an_answer_never_looks_whole() {
    let mut server = start_server();
    set_long(&server);
    for (request, cut) in [
        ("GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n", ErrorKind::UnexpectedEof),
        ("GET /long HTTP/1.0\r\n\r\n", ErrorKind::ConnectionReset),
        ("GET /long\r\n", ErrorKind::ConnectionReset),
        // Bytes after the request must not turn the reset into an orderly end.
        ("GET /long HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", ErrorKind::ConnectionReset),
        ("GET /long HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n", ErrorKind::ConnectionReset),
    ] {
        let lb = Balancer::start(&[&server]);
        let mut stream = lb.connect();
        stream.write_all(request.as_bytes()).expect("lb reads");
        let mut bytes = vec![0; 1000];
        stream.read_exact(&mut bytes).expect("the answer's begin");
        server.kill();
        let end = stream.read_to_end(&mut bytes);
        match cut {
            ErrorKind::UnexpectedEof => assert!(!Answer::parse(&bytes).is_whole),
            _ => assert_eq!(end.map_err(|error| error.kind()), Err(cut), "{request:?}"),
        }
        server.restart();
        set_long(&server);
    }
}
