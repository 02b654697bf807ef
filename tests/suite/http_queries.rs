//! What the query of an HTTP request can ask for beside one value: several keys, another shape, another database.

use serde_json::{Value, json};

use crate::support::balancer::{Answer, Balancer};
use crate::support::forms::{Sample, TYPES};
use crate::support::near_cache::{hits, warm_http, with_cache};
use crate::support::redis::{RedisServer, three_servers};
use crate::support::wait_until;
use crate::users::{Files, acl_file};
use crate::users_http::basic;

fn start() -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    (server, lb)
}

fn ok(lb: &Balancer, path: &str) -> Value {
    let answer = lb.get(path);
    assert!(answer.status == 200 && answer.is_whole, "{path:.100}: {answer:.300?}");
    answer.json()
}

fn error(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    answer.json()["error"].as_str().expect("an error").to_owned()
}

/// The names in `data`, in the order of the text.
fn names(answer: &Answer) -> Vec<String> {
    let text = String::from_utf8_lossy(&answer.body);
    let lines = text.lines().filter_map(|line| line.strip_prefix("    \"")?.split_once("\": "));
    lines.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn several_keys_are_one_answer_in_the_order_asked_for() {
    let (server, lb) = start();
    for kind in TYPES {
        Sample::new(kind, ["x", "y"])
            .write(kind.as_bytes())
            .exec(&mut server.connect())
            .expect("written");
    }
    server.command(&["SET", "a,b", "comma"]);
    server.command(&["SET", "", "empty"]);
    for path in [
        "/?keys=zset,hash,missing,string,list,set,stream",
        "/?key=zset&key=hash&key=missing&key=string&key=list&key=set&key=stream",
    ] {
        let answer = lb.get(path);
        assert_eq!(
            names(&answer),
            ["zset", "hash", "missing", "string", "list", "set", "stream"],
            "{path}"
        );
        let page = answer.json();
        for kind in TYPES {
            assert!(Sample::new(kind, ["x", "y"]).is(&page["data"][kind]), "{page}");
        }
        assert_eq!((&page["data"]["missing"], &page["count"]), (&Value::Null, &json!(7)));
        assert_eq!(page["next"], Value::Null);
        assert_eq!(answer.served_by(), server.address());
    }
    let page = ok(&lb, "/?keys=a%2Cb,,a");
    assert_eq!(page["data"], json!({"a,b": "comma", "": "empty", "a": null}));
    assert_eq!(ok(&lb, "/?keys=string")["count"], 1, "a list of one is a list");
    assert_eq!(ok(&lb, "/?keys=string,string")["count"], 1, "each key comes once");
    assert_eq!(ok(&lb, "/?keys=none")["data"], json!({"none": null}));
    server.command(&[&b"SET"[..], b"\xff", b"bytes"]);
    let expected =
        json!([{"key": {"base64": "/w=="}, "value": "bytes"}, {"key": "none", "value": null}]);
    assert_eq!(ok(&lb, "/?keys=%ff,none")["data"], expected);
}

#[test]
fn what_can_t_be_asked_of_several_keys_is_named() {
    let (_server, lb) = start();
    for (path, why) in [
        ("/?keys=a,b&format=raw", "JSON"),
        ("/?keys=a,b&format=html", "JSON"),
        ("/?key=a&key=b&field=f", "field"),
        ("/?keys=", "keys=A,B"),
        ("/actor:?keys=a,b", "\"keys\""),
        (&format!("/?keys={}", vec!["k"; 1001].join(",")), "at most 1000 keys"),
    ] {
        assert!(lb.get(path).status == 400, "{path:.100}");
        let answer = lb.request("GET", path, &["Accept: application/json"]);
        if !path.contains("html") {
            assert!(error(&answer, 400).contains(why), "{path:.100}: {answer:?}");
        }
    }
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";
    let answer = lb.request("GET", "/?keys=a,b", &[browser]);
    assert_eq!(answer.json()["count"], 2, "they are data, also for a browser");
}

#[test]
fn many_keys_of_all_lengths_come_from_one_server() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    for server in &servers {
        let mut pipe = redis::pipe();
        for number in 0..1000 {
            pipe.set(format!("k{number}"), server.address());
        }
        pipe.set("k500", "long".repeat(100_000)).exec(&mut server.connect()).expect("loaded");
    }
    let keys: Vec<String> = (0..1000).rev().map(|number| format!("k{number}")).collect();
    for _ in 0..6 {
        let answer = lb.get(&format!("/?keys={}", keys.join(",")));
        assert_eq!(names(&answer), keys);
        let (page, from) = (answer.json(), answer.served_by().to_owned());
        assert_eq!(page["count"], 1000);
        for key in &keys {
            match &**key {
                "k500" => assert_eq!(page["data"][key], "long".repeat(100_000)),
                _ => assert_eq!(page["data"][key], *from, "{key}"),
            }
        }
    }
}

#[test]
fn an_answer_of_several_keys_has_an_etag_that_changes_with_them() {
    let (server, lb) = start();
    server.command(&["SET", "a", "1"]);
    let etag = |path: &str| lb.get(path).header("etag").expect("an ETag").to_owned();
    let first = etag("/?keys=a,b");
    assert_eq!(etag("/?keys=a,b"), first);
    let same = format!("If-None-Match: {first}");
    assert_eq!(lb.request("GET", "/?keys=a,b", &[&same]).status, 304);
    server.command(&["SET", "b", "2"]);
    assert_ne!(etag("/?keys=a,b"), first);
}

#[test]
fn a_user_gets_several_keys_if_each_of_them_is_its_own() {
    let (server, files) = (RedisServer::start(), Files::new());
    let mut pipe = redis::pipe();
    pipe.set("app:1", "one").hset("app:2", "name", "Ada").rpush("app:3", &["a"]).set("other", "x");
    pipe.exec(&mut server.connect()).expect("loaded");
    let users = [("app", "on >secret ~app:* +get +hgetall +type"), ("all", "on >secret ~* +@all")];
    let path = files.write("users.acl", &acl_file(&users));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    let get = |path: &str, login: &str| lb.request("GET", path, &[&basic(login)]);
    let page = get("/?keys=app:2,app:1,app:none", "app:secret").json();
    assert_eq!(page["data"], json!({"app:2": {"name": "Ada"}, "app:1": "one", "app:none": null}));
    for path in ["/?keys=app:1,other", "/?keys=other,none", "/?key=app:1&key=app:3"] {
        let answer = get(path, "app:secret");
        assert!(error(&answer, 403).contains("NOPERM"), "{path}: {answer:?}");
        assert_eq!(get(path, "all:secret").status, 200, "{path}");
        assert_eq!(lb.get(path).status, 401, "{path}");
    }
}

#[test]
fn with_shape_array_data_is_always_an_array() {
    let (server, lb) = start();
    assert_eq!(ok(&lb, "/?shape=array"), json!({"data": [], "count": 0, "total": 0, "next": null}));
    for number in 0..300 {
        server.command(&["SET", &format!("a:{number}"), &number.to_string()]);
    }
    let entry = |number: usize| json!({"key": format!("a:{number}"), "value": number.to_string()});
    let all: Vec<Value> = (0..300).map(entry).collect();
    for path in ["/?shape=array", "/a:?shape=array", "/?shape=array&match=a*&format=json"] {
        let page = ok(&lb, path);
        assert_eq!((&page["data"], &page["count"]), (&json!(all), &json!(300)), "{path}");
    }
    let (mut found, mut path) = (Vec::new(), "/?shape=array&limit=20".to_owned());
    loop {
        let page = ok(&lb, &path);
        let entries = page["data"].as_array().expect("an array").clone();
        assert_eq!(page["count"], entries.len());
        found.extend(entries);
        let Some(next) = page["next"].as_str() else { break };
        path = next.to_owned();
    }
    found.sort_by_key(|entry| entry["value"].as_str().and_then(|text| text.parse::<u64>().ok()));
    assert_eq!(found, all);
    let values = json!([{"key": "x", "value": null}, {"key": "a:7", "value": "7"}]);
    assert_eq!(ok(&lb, "/?keys=x,a:7&shape=array")["data"], values);
    server.command(&[&b"SET"[..], b"\xff", b"bytes"]);
    assert_eq!(ok(&lb, "/?shape=array&search=%ff")["data"], ok(&lb, "/?search=%ff")["data"]);
    for (path, why) in [
        ("/?shape=object", "shape is array"),
        ("/a:?shape=", "shape is array"),
        ("/?key=a:1&shape=array", "\"shape\""),
        ("/a?shape=array", "\"shape\""),
    ] {
        assert!(error(&lb.get(path), 400).contains(why), "{path}");
    }
    let page = lb.get("/?shape=array&format=html");
    assert!(page.status == 400 && String::from_utf8_lossy(&page.body).contains("format=json"));
}

#[test]
fn a_listing_of_all_keys_says_how_many_there_are() {
    let (server, lb) = start();
    for number in 0..50 {
        server.command(&["SET", &format!("k{number}"), "v"]);
    }
    let page = ok(&lb, "/?limit=5");
    assert_eq!(page["total"], 50);
    assert!(page["count"].as_u64().expect("a number") < 50);
    assert_eq!(ok(&lb, page["next"].as_str().expect("a next page"))["total"], 50);
    for path in ["/?match=k*", "/k:", "/?search=k", "/?keys=k1,k2"] {
        assert_eq!(ok(&lb, path).get("total"), None, "{path}");
    }
    let tag = format!("If-None-Match: {}", lb.get("/?match=k1").header("etag").expect("a tag"));
    assert_eq!(lb.request("GET", "/?match=k1", &[&tag]).status, 304);
    let files = Files::new();
    let users = [
        ("some", "on >secret ~k1* +@read +info +dbsize"),
        ("uncounted", "on >secret ~* +@read -dbsize"),
        ("all", "on >secret ~* +@all"),
    ];
    let path = files.write("users.acl", &acl_file(&users));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    for (login, total) in [("some", None), ("uncounted", None), ("all", Some(50))] {
        let answer = lb.request("GET", "/", &[&basic(&format!("{login}:secret"))]);
        assert_eq!(answer.json().get("total").cloned(), total.map(Value::from), "{login}");
    }
}

/// `k:1` to `k:9` are strings in database 0, and hashes in database 3.
fn with_databases() -> RedisServer {
    let server = RedisServer::start();
    let mut pipe = redis::pipe();
    for number in 1..10 {
        pipe.set(format!("k:{number}"), format!("zero {number}"));
    }
    pipe.cmd("SELECT").arg(3);
    for number in 1..10 {
        pipe.hset(format!("k:{number}"), "name", format!("three {number}"));
    }
    pipe.set("only", "here").exec(&mut server.connect()).expect("loaded");
    server
}

#[test]
fn a_database_can_be_named_in_the_query() {
    let server = with_databases();
    let own = Balancer::start(&[&server]);
    let third = Balancer::start_at(&[format!("redis://{}:{}/3", "127.0.0.1", server.port())], &[]);
    let mut client = own.client();
    for round in 0..5 {
        for number in 1..10 {
            let (zero, three) =
                (json!(format!("zero {number}")), json!({"name": format!("three {number}")}));
            let mut read = |query: &str| client.get(&format!("/k:{number}{query}")).json();
            assert_eq!(read(""), zero, "{round}");
            assert_eq!(read("?db=3"), three, "{round}");
            assert_eq!(read("?db=0"), zero, "{round}");
            assert_eq!(read("?db=3&field=name"), three["name"], "{round}");
            assert_eq!(ok(&third, &format!("/k:{number}")), three);
            assert_eq!(ok(&third, &format!("/k:{number}?db=0")), zero);
        }
    }
    assert_eq!(own.get("/only").status, 404);
    assert_eq!(own.get("/only?db=3&format=raw").body, b"here");
    assert_eq!(ok(&own, "/?keys=only,k:1&db=3")["data"]["k:1"]["name"], "three 1");
    assert_eq!(ok(&own, "/?db=3")["total"], 10);
    assert_eq!(ok(&own, "/?db=5"), json!({"data": {}, "count": 0, "total": 0, "next": null}));
    let (mut count, mut path) = (0, "/k:?db=3&limit=2".to_owned());
    loop {
        let page = ok(&own, &path);
        for value in page["data"].as_object().expect("an object").values() {
            assert!(value["name"].is_string(), "{page}");
            count += 1;
        }
        let Some(next) = page["next"].as_str() else { break };
        path = next.to_owned();
    }
    assert_eq!(count, 9);
}

#[test]
fn a_database_that_there_is_not_is_named() {
    let server = with_databases();
    let lb = Balancer::start(&[&server]);
    for path in [
        "/k:1?db=16",
        "/?db=16",
        "/?keys=a,b&db=16",
        "/k:1?db=16&format=raw",
        "/?key=a&db=2147483647",
    ] {
        for _ in 0..3 {
            let why = error(&lb.get(path), 400);
            assert!(why.contains("no such database") && why.contains(&server.address()), "{why}");
        }
    }
    for path in ["/k:1?db=x", "/k:1?db=-1", "/?db=", "/?db=1.5", "/?db=2147483648"] {
        assert!(error(&lb.get(path), 400).contains("db is a number from 0"), "{path}");
    }
    assert_eq!(lb.get("/k:1?db=3").status, 200, "the server has not failed");
    assert_eq!(crate::support::observe::states(&lb), ["up"]);
}

#[test]
fn links_of_the_data_browser_stay_in_their_database() {
    let server = with_databases();
    let lb = Balancer::start(&[&server]);
    let html = |path: &str| {
        let page = lb.request("GET", path, &["Accept: text/html"]);
        assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        String::from_utf8(page.body).expect("text").replace("&amp;", "&")
    };
    let (mut seen, mut left) = (Vec::new(), vec!["/?db=3&limit=4".to_owned()]);
    while let Some(path) = left.pop() {
        let page = html(&path);
        assert!(page.contains("<input type=\"hidden\" name=\"db\" value=\"3\">"), "{path}");
        for link in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            // The other database is named, too.
            let leaves = ["/-/", "/?db=0"].contains(&link);
            if leaves || link.starts_with('#') || link.starts_with("data:") {
                continue;
            }
            assert!(link.contains("db=3"), "{path}: {link}");
            if !link.contains("format=") && !seen.contains(&link.to_owned()) {
                seen.push(link.to_owned());
                left.push(link.to_owned());
            }
        }
    }
    assert!(seen.len() > 11, "{seen:?}");
    for path in ["/none?db=3", "/?db=3&search=none", "/?db=3&limit=x"] {
        assert!(html(path).contains("href=\"/?db=3\""), "{path}");
    }
    assert!(!html("/").replace("href=\"/?db=3\"", "").contains("db="));
}

#[test]
fn the_near_cache_tells_databases_apart() {
    let server = with_databases();
    let lb = with_cache(&[&server], "1s", &[]);
    let mut client = lb.client();
    for path in ["/k:1", "/k:1?db=3"] {
        warm_http(&mut client, path);
    }
    for _ in 0..50 {
        assert_eq!(client.get("/k:1").json(), "zero 1");
        assert_eq!(client.get("/k:1?db=3").json()["name"], "three 1");
        assert_eq!(client.get("/k:1?db=16").status, 400);
    }
    assert!(hits(&lb) > 0);
    let mut connection = server.connect();
    redis::cmd("SELECT").arg(3).exec(&mut connection).expect("it");
    redis::cmd("HSET").arg(&["k:1", "name", "new"]).exec(&mut connection).expect("it");
    wait_until("the change shows", || client.get("/k:1?db=3").json()["name"] == "new");
    assert_eq!(client.get("/k:1").json(), "zero 1");
}

#[test]
fn a_user_may_read_a_database_that_it_may_select() {
    let (server, files) = (with_databases(), Files::new());
    let users = [("three", "on >secret ~* +@read +select|3"), ("own", "on >secret ~* +@read")];
    let path = files.write("users.acl", &acl_file(&users));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    let status = |path: &str, user: &str| {
        lb.request("GET", path, &[&basic(&format!("{user}:secret"))]).status
    };
    for path in ["/k:1", "/?keys=k:1", "/"] {
        let with =
            |number: u8| format!("{path}{}db={number}", if path.contains('?') { '&' } else { '?' });
        assert_eq!((status(path, "three"), status(path, "own")), (200, 200), "{path}");
        assert_eq!((status(&with(3), "three"), status(&with(3), "own")), (200, 403), "{path}");
        assert_eq!((status(&with(1), "three"), status(&with(1), "own")), (403, 403), "{path}");
    }
}
