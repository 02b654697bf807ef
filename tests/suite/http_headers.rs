//! Headers that say how long an answer took, let web pages read, name the client behind a proxy, and ask for compression.

use std::process::Command;

use crate::support::balancer::{Answer, Balancer};
use crate::support::near_cache::{warm_http, with_cache};
use crate::support::redis::RedisServer;
use crate::support::wait_until;
use crate::users::{Files, acl_file};

fn start(arguments: &[&str]) -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    let mut pipe = redis::pipe();
    pipe.set("key:1", "v")
        .set("long", "x".repeat(1_000_000))
        .exec(&mut server.connect())
        .expect("it");
    let lb = Balancer::start_with(&[&server], arguments);
    (server, lb)
}

/// The times in `Server-Timing`, in milliseconds, and the backend that it names.
fn times(answer: &Answer) -> (f64, f64, String) {
    let header = answer.header("server-timing").unwrap_or_else(|| panic!("no times: {answer:?}"));
    let (redis, total) = header.split_once(", total;dur=").expect(header);
    let redis = redis.strip_prefix("redis;dur=").expect(header);
    let (redis, name) = redis.split_once(";desc=\"").expect(header);
    let number = |text: &str| text.parse::<f64>().expect(header);
    (number(redis), number(total), name.strip_suffix('"').expect(header).to_owned())
}

#[test]
fn an_answer_says_how_long_the_server_and_the_whole_took() {
    let (server, lb) = start(&[]);
    for path in [
        "/key:1",
        "/key:1",
        "/none",
        "/",
        "/?keys=key:1,b",
        "/key:1?format=html",
        "/long",
        "/key:1?format=raw",
    ] {
        let (redis, total, name) = times(&lb.get(path));
        assert!(redis <= total && total < 10_000.0, "{path}: {redis} {total}");
        assert_eq!(name, server.address(), "{path}");
    }
    for path in ["/-/health", "/favicon.ico", "/?limit=x"] {
        assert_eq!(lb.get(path).header("server-timing"), None, "{path}");
    }
    let (_server, slow) = start(&["--demo-delay", "300ms"]);
    let (redis, total, _) = times(&slow.get("/key:1"));
    assert!(total >= 300.0 && redis <= total - 300.0, "{redis} {total}");
}

#[test]
fn an_answer_from_the_near_cache_asked_no_server() {
    let server = RedisServer::start();
    server.command(&["SET", "key:1", "v"]);
    let lb = with_cache(&[&server], "1s", &[]);
    let answer = warm_http(&mut lb.client(), "/key:1");
    assert_eq!(answer.header("server-timing"), None, "{answer:?}");
}

const PAGE: &str = "Origin: https://app.example";

#[test]
fn pages_of_an_origin_that_is_named_may_read_and_no_others() {
    let (_server, lb) = start(&["--cors-origin", "https://app.example,http://localhost:5173"]);
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    for path in ["/key:1", "/none", "/", "/?limit=x", "/favicon.ico"] {
        let answer = lb.request("GET", path, &[PAGE]);
        assert_eq!(allowed(&answer).as_deref(), Some("https://app.example"), "{path}");
        assert!(varies_by_origin(&answer), "{path}: {answer:?}");
        let exposed = answer.header("access-control-expose-headers").expect("those to be seen");
        assert!(exposed.contains("X-Served-By") && exposed.contains("ETag"), "{exposed}");
        for other in ["Origin: https://evil.example", "Origin: null", "Accept: */*"] {
            let answer = lb.request("GET", path, &[other]);
            assert_eq!(
                (allowed(&answer), varies_by_origin(&answer)),
                (None, true),
                "{path} {other}"
            );
        }
    }
    let (_server, open) = start(&["--cors-origin", "*"]);
    let answer = open.request("GET", "/key:1", &["Origin: https://any.example"]);
    assert_eq!((allowed(&answer).as_deref(), varies_by_origin(&answer)), (Some("*"), false));
    // What the balancer says of itself is for no page.
    for path in ["/-/status.json", "/-/metrics", "/-/health", "/-/none"] {
        let answer = open.request("GET", path, &[PAGE]);
        assert_eq!(
            (allowed(&answer), answer.header("access-control-expose-headers")),
            (None, None),
            "{path}"
        );
        let question = open.request("OPTIONS", path, &[PAGE]);
        assert_eq!((question.status, allowed(&question)), (403, None), "{path}");
    }
    wait_until("it warns", || open.log().contains("any web page can read everything here"));
    assert!(!lb.log().contains("any web page"), "{}", lb.log());
    // A proxy may have added one: no page names two.
    let two = [PAGE, "Origin: http://localhost:5173"];
    let answer = lb.request("GET", "/key:1", &two);
    assert_eq!((answer.status, allowed(&answer)), (200, None));
    let (_server, closed) = start(&[]);
    assert_eq!(closed.request("GET", "/key:1", &[PAGE, PAGE]).status, 200);
    let answer = closed.request("GET", "/key:1", &[PAGE]);
    assert_eq!(
        (allowed(&answer), varies_by_origin(&answer)),
        (None, false),
        "off unless asked for"
    );
}

fn varies_by_origin(answer: &Answer) -> bool {
    answer.headers.iter().any(|(name, value)| name == "vary" && value.contains("Origin"))
}

#[test]
fn a_browser_that_asks_first_is_told_what_a_page_may_send() {
    let server = RedisServer::start();
    let files = Files::new();
    let path = files.write("users.acl", &acl_file(&[("app", "on >secret ~* +@read")]));
    let arguments = ["--cors-origin", "https://app.example", "--users-file", &path];
    let lb = Balancer::start_with(&[&server], &arguments);
    let question =
        ["Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization"];
    let mut client = lb.client();
    for path in ["/key:1", "/", "*"] {
        let lines = [&[PAGE][..], &question, &["Host: localhost"]].concat().join("\r\n");
        client.send(format!("OPTIONS {path} HTTP/1.1\r\n{lines}\r\n\r\n"));
        let answer = client.answer().expect("an answer, without a login, on the same connection");
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}: {answer:?}");
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-methods", "GET, HEAD"),
            ("access-control-allow-headers", "Authorization, If-None-Match, Max-Staleness"),
            ("access-control-max-age", "7200"),
            ("allow", "GET, HEAD, OPTIONS"),
            ("vary", "Origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {name}");
        }
    }
    let refused = lb.request("OPTIONS", "/key:1", &["Origin: https://evil.example", question[0]]);
    assert_eq!((refused.status, refused.header("access-control-allow-methods")), (403, None));
    assert!(refused.json()["error"].as_str().expect("why").contains("--cors-origin"));
    assert_eq!(lb.request("OPTIONS", "/key:1", &[]).status, 204);
    assert_eq!(lb.request("GET", "/key:1", &[PAGE]).status, 401);
    assert_eq!(lb.request("PUT", "/key:1", &[PAGE]).status, 405);
}

#[test]
fn the_log_names_the_client_that_a_trusted_proxy_names() {
    let forwarded = "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.7";
    let trust = ["--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"];
    let (_server, lb) = start(&trust);
    lb.request("GET", "/key:1", &[forwarded]);
    lb.get("/none");
    wait_until("both are logged", || lb.log().contains("GET /none 404"));
    let log = lb.log();
    assert!(log.contains(" for=203.0.113.9 GET /key:1 200"), "{log}");
    assert_eq!(log.matches(" for=").count(), 1, "{log}");
    let (_server, json) = start(&[&trust[..], &["--log-format", "json"]].concat());
    json.request("GET", "/key:1", &[forwarded]);
    wait_until("it is logged", || json.log().contains("\"forwarded_for\":\"203.0.113.9\""));
    let (_server, others) = start(&["--trusted-proxy", "10.0.0.0/8"]);
    others.request("GET", "/key:1", &[forwarded]);
    wait_until("it is logged", || others.log().contains("GET /key:1 200"));
    assert!(!others.log().contains("203.0.113.9"), "this proxy is not trusted");
}

fn decoded(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    match answer.header("content-encoding") {
        Some("gzip") => {
            let mut from = flate2::read::GzDecoder::new(&answer.body[..]);
            std::io::copy(&mut from, &mut plain).expect("gzip");
        }
        Some("zstd") => plain = zstd::stream::decode_all(&answer.body[..]).expect("zstd"),
        None => plain.clone_from(&answer.body),
        Some(other) => panic!("{other}"),
    }
    plain
}

/// Values of all lengths: `text:LENGTH`, and `noise:LENGTH`, which nothing makes shorter.
fn with_lengths() -> RedisServer {
    let server = RedisServer::start();
    let (mut pipe, mut state) = (redis::pipe(), 1_u64);
    for length in [10, 1500, 5_000, 20_000, 100_000, 3_000_000] {
        let text: String = (0..length / 10).map(|number| format!("{number:09} ")).collect();
        pipe.set(format!("text:{length}"), &text);
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..length).map(|_| random()).collect();
        pipe.set(format!("noise:{length}"), noise);
    }
    // Six times as long as JSON, and so too long to be held.
    pipe.set("escapes", "\u{1}".repeat(40_000));
    pipe.exec(&mut server.connect()).expect("loaded");
    server
}

#[test]
fn a_long_answer_is_compressed_for_whoever_asks_for_it() {
    let server = with_lengths();
    let lb = Balancer::start(&[&server]);
    let mut paths: Vec<(String, bool)> = Vec::new();
    for length in [10, 1500, 5_000, 20_000, 100_000, 3_000_000] {
        let is_long = length > 1024;
        paths.push((format!("/text:{length}"), is_long));
        paths.push((format!("/text:{length}?format=raw"), is_long));
        paths.push((format!("/noise:{length}?format=raw"), false));
    }
    for path in [
        "/?match=text:*",
        "/?keys=text:1500,text:20000",
        "/?format=html",
        "/-/",
        "/text:5000?format=html",
        "/escapes",
    ] {
        paths.push((path.to_owned(), true));
    }
    for (path, is_compressed) in paths {
        let plain = lb.get(&path);
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        for round in 0..3 {
            for (asked, encoding) in [
                ("gzip, deflate, br", Some("gzip")),
                ("zstd", Some("zstd")),
                ("gzip;q=0.5, zstd;q=0.9", Some("zstd")),
                ("gzip;q=0, identity", None),
                ("br", None),
            ] {
                let header = format!("Accept-Encoding: {asked}");
                let answer = lb.request("GET", &path, &[&header]);
                let expected = encoding.filter(|_| is_compressed);
                assert_eq!(answer.header("content-encoding"), expected, "{path} {asked} {round}");
                assert!(answer.is_whole && decoded(&answer) == plain.body, "{path} {asked}");
                assert!(
                    expected.is_none() || answer.body.len() < plain.body.len(),
                    "{path} {asked}"
                );
                let vary = answer.header("vary").expect("Vary");
                assert!(vary.contains("Accept-Encoding"), "{path}: {vary}");
            }
        }
    }
}

#[test]
fn each_encoding_of_a_value_has_its_own_etag() {
    let server = with_lengths();
    let lb = Balancer::start(&[&server]);
    for path in ["/text:1500", "/text:20000", "/?keys=text:1500"] {
        let ask = |encoding: &str, tag: &str| {
            let lines = [format!("Accept-Encoding: {encoding}"), format!("If-None-Match: {tag}")];
            lb.request("GET", path, &[&lines[0], &lines[1]])
        };
        let tags = ["identity", "gzip", "zstd"].map(|encoding| {
            let answer = ask(encoding, "\"none\"");
            assert_eq!(answer.status, 200);
            answer.header("etag").expect("an ETag").to_owned()
        });
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
        for (encoding, tag) in ["identity", "gzip", "zstd"].into_iter().zip(&tags) {
            let answer = ask(encoding, tag);
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{path} {encoding}");
            assert_eq!(answer.header("etag"), Some(&**tag), "{path} {encoding}");
            assert_eq!(answer.header("content-encoding"), None, "{path} {encoding}");
        }
        assert_eq!(ask("gzip", &tags[0]).status, 200, "{path}");
    }
}

#[test]
fn compression_can_be_turned_off_and_curl_undoes_it() {
    let server = with_lengths();
    let lb = Balancer::start_with(&[&server], &["--no-compression"]);
    let answer = lb.request("GET", "/text:20000", &["Accept-Encoding: gzip"]);
    assert_eq!(answer.header("content-encoding"), None);
    let lb = Balancer::start(&[&server]);
    for path in ["/text:20000", "/text:3000000", "/?match=text:*"] {
        let url = lb.url(path);
        let curl =
            Command::new("curl").args(["-sSf", "--compressed", &url]).output().expect("curl");
        assert!(curl.stdout == lb.get(path).body, "{path}");
    }
    let mut client = lb.client();
    for path in ["/text:1500", "/text:5000", "/text:20000", "/?keys=text:5000"] {
        let whole = lb.request("GET", path, &["Accept-Encoding: gzip"]);
        client.send(format!(
            "HEAD {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
        ));
        let head = client.head().expect("a head");
        assert_eq!((head.status, head.header("content-encoding")), (200, Some("gzip")), "{path}");
        for name in ["content-length", "etag"] {
            assert!(head.header(name).is_some(), "{path} {name}");
            assert_eq!(head.header(name), whole.header(name), "{path} {name}");
        }
    }
}
