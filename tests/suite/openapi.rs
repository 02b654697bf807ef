//! The OpenAPI file: what is there, and that no answer is another than it says.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::clients::installed;
use crate::support::balancer::Balancer;
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
    for name in [
        "key",
        "keys",
        "field",
        "format",
        "match",
        "search",
        "limit",
        "cursor",
        "shape",
        "db",
        "from",
        "since",
        "Max-Staleness",
    ] {
        assert!(names.contains(&name), "{name}");
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
