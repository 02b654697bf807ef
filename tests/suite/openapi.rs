//! The OpenAPI file: what is there, and that no answer is another than it says.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::clients::installed;
use crate::support::balancer::{Answer, Balancer};
use crate::support::forms::{Sample, TYPES};
use crate::support::redis::RedisServer;

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json")
}

fn file() -> Value {
    serde_json::from_slice(&fs::read(path()).expect("the file")).expect("JSON")
}

/// Keys of each type, some of which a generated request may hit.
fn start() -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    for kind in TYPES {
        Sample::new(kind, ["x", "y"])
            .write(kind.as_bytes())
            .exec(&mut server.connect())
            .expect("written");
    }
    for key in ["0", "00", "a:1", "actor:1", "actor:2", "long"] {
        server.command(&["SET", key, &"v".repeat(key.len() * key.len() * 1000)]);
    }
    server.command(&[&b"HSET"[..], b"bytes", b"\xff", b"\xfe"]);
    let lb = Balancer::start(&[&server]);
    (server, lb)
}

#[test]
fn the_description_is_served_and_names_what_there_is() {
    let (_server, lb) = start();
    let answer = lb.get("/-/openapi.json");
    let described = answer.json();
    assert_eq!((answer.status, &described), (200, &file()));
    assert_eq!(described["openapi"], "3.1.0");
    assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    let paths = described["paths"].as_object().expect("paths");
    for path in paths.keys().filter(|path| !path.contains('{')) {
        assert!([200, 204].contains(&lb.get(path).status), "{path}");
    }
    let document = fs::read_to_string(path().with_file_name("HTTP.md")).expect("HTTP.md");
    for path in document.split('`').filter(|text| text.starts_with("/-/") && text.len() > 3) {
        assert!(paths.contains_key(path) || path.contains('…'), "{path} is in HTTP.md alone");
    }
    let parameters = described["components"]["parameters"].as_object().expect("parameters");
    let names: Vec<&str> = parameters.values().filter_map(|one| one["name"].as_str()).collect();
    for name in ["key", "keys", "from", "since", "Max-Staleness"] {
        assert!(names.contains(&name), "{name}");
    }
    let error = lb.get("/?nonsense=1").json()["error"].as_str().expect("why").to_owned();
    let (_, taken) = error.split_once(" takes: ").expect("what there is instead");
    let taken: Vec<&str> = taken.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    assert!(taken.len() > 20, "{error}");
    for name in taken.into_iter().filter(|word| !WORDS.contains(word)) {
        assert!(names.contains(&name), "{name} is a parameter in an error alone: {error}");
    }
}

/// The words of the error about a parameter that are none.
const WORDS: [&str; 10] =
    ["a", "key", "takes", "and", "several", "keys", "listing", "each", "of", "them"];

/// Headers that any answer may have.
const USUAL: [&str; 6] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
    "x-content-type-options",
];

#[test]
fn each_header_of_an_answer_is_in_the_description() {
    let (server, _) = start();
    let lb = Balancer::start_with(
        &[&server],
        &["--cors-origin", "https://app.example", "--cache", "1MiB"],
    );
    let file = file();
    let (page, other) = ("Origin: https://app.example", "Origin: https://evil.example");
    let usual = [page, "Accept-Encoding: gzip"];
    for (path, described, headers) in [
        ("/actor:1", "/{key}", &[][..]),
        ("/actor:1", "/{key}", &["Max-Staleness: 60"]),
        ("/actor:1", "/{key}", &["If-None-Match: *"]),
        ("/actor:1", "/{key}", &["Max-Staleness: soon"]),
        ("/actor:1?format=html", "/{key}", &[]),
        ("/actor:1?db=99", "/{key}", &[]),
        ("/long", "/{key}", &[]),
        ("/none", "/{key}", &["Max-Staleness: 60"]),
        ("/none?format=html", "/{key}", &[]),
        ("/set?format=raw", "/{key}", &["Max-Staleness: 60"]),
        ("/", "/", &[]),
        ("/?limit=3", "/", &["If-None-Match: *"]),
        ("/?format=html", "/", &[]),
        ("/?limit=x", "/", &[]),
        ("/?cursor=none-1", "/", &[]),
        ("/?keys=actor:1,none", "/", &[]),
        ("/favicon.ico", "/favicon.ico", &[]),
        ("/-/", "/-/", &[]),
        ("/-/status.json", "/-/status.json", &[]),
        ("/-/status.json?since=x", "/-/status.json", &[]),
        ("/-/metrics", "/-/metrics", &[]),
        ("/-/openapi.json", "/-/openapi.json", &[]),
        ("/-/ping", "/-/ping", &[]),
        ("/-/ready", "/-/ready", &[]),
    ] {
        // The second time, the near cache may answer.
        for method in ["GET", "HEAD", "GET"] {
            check_headers(
                &file,
                described,
                method,
                &lb.request(method, path, &[&usual[..], headers].concat()),
            );
        }
    }
    for path in ["/", "/actor:1"] {
        let described = if path == "/" { "/" } else { "/{key}" };
        for origin in [page, other] {
            check_headers(&file, described, "OPTIONS", &lb.request("OPTIONS", path, &[origin]));
        }
    }
}

/// Checks that the file has this answer to a request for a path, and all of its headers.
fn check_headers(file: &Value, path: &str, method: &str, answer: &Answer) {
    let responses = &file["paths"][path][method.to_lowercase()]["responses"];
    let response = &responses[answer.status.to_string()];
    let referred = response["$ref"].as_str().and_then(|to| file.pointer(&to[1..]));
    let response = referred.unwrap_or(response);
    assert!(response["description"].is_string(), "{method} {path}: {answer:?}");
    let described = response["headers"].as_object().into_iter().flatten();
    let described: Vec<String> = described.map(|(name, _)| name.to_lowercase()).collect();
    for (name, _) in answer.headers.iter().filter(|(name, _)| !USUAL.contains(&&**name)) {
        assert!(
            described.contains(name),
            "{method} {path} {}: {name} is in no description",
            answer.status
        );
    }
}

#[test]
fn no_answer_is_another_than_the_description_says() {
    let (_server, lb) = start();
    let output = Command::new(installed("venv/bin/schemathesis"))
        .arg("--no-color")
        .arg("run")
        .arg(path())
        .args(["--url", &lb.url("")])
        .args(["--max-examples", "40", "--seed", "7", "--continue-on-failure"])
        .args(["--suppress-health-check", "all", "--request-timeout", "20"])
        .args(["--checks", CHECKS])
        .current_dir(installed("venv"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// What is checked of each answer. Requests that the description does not allow may be answered all the same: a browser
/// adds headers, and a key may be any text.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,unsupported_method";
