//! What there is: pages of keys with their values, and the way from one page to the next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use redis::Value as Reply;
use serde_json::{Value, json};

use crate::support::SetOnDrop;
use crate::support::balancer::{Answer, Balancer};
use crate::support::forms::{Sample, TYPES, encoded, shown};
use crate::support::redis::RedisServer;

fn page(lb: &Balancer, path: &str) -> Value {
    let answer = lb.get(path);
    assert!(
        answer.status == 200 && answer.is_whole,
        "{path}: {} {:?}",
        answer.status,
        answer.headers
    );
    answer.json()
}

/// The keys of a page, in its order.
fn keys(page: &Answer) -> Vec<String> {
    let text = String::from_utf8_lossy(&page.body);
    let names = text.lines().filter_map(|line| line.strip_prefix("    \"")?.split_once("\": "));
    names.map(|(name, _)| name.to_owned()).collect()
}

fn set_each(server: &RedisServer, keys: &[&[u8]]) {
    for key in keys {
        server.command(&[b"SET", *key, b"v"]);
    }
}

/// Follows `next` from `path` to the end; returns each page's answer.
fn walk(lb: &Balancer, path: &str) -> Vec<Answer> {
    let mut answers = vec![lb.get(path)];
    loop {
        let last = answers.last().expect("one at least");
        assert!(last.status == 200 && last.is_whole, "{last:?}");
        let Some(next) = last.json()["next"].as_str().map(str::to_owned) else { return answers };
        // `//` would begin the name of a host.
        assert!(next.starts_with('/') && !next.starts_with("//"), "{next}");
        assert!(answers.len() < 10_000, "no end: {next}");
        answers.push(lb.get(&next));
    }
}

/// The entries of all pages, as key and value; panics when a key comes twice.
fn entries(answers: &[Answer]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for answer in answers {
        let page = answer.json();
        let count = page["count"].as_u64().expect("a number") as usize;
        let found: Vec<(String, Value)> = match &page["data"] {
            Value::Object(object) => {
                object.iter().map(|(key, value)| (json!(key).to_string(), value.clone())).collect()
            }
            Value::Array(array) => array
                .iter()
                .map(|entry| (entry["key"].to_string(), entry["value"].clone()))
                .collect(),
            other => panic!("{other}"),
        };
        assert_eq!(found.len(), count);
        for (key, value) in found {
            assert!(all.insert(key.clone(), value).is_none(), "{key} comes twice");
        }
    }
    all
}

#[test]
fn an_empty_database_is_an_empty_page() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for path in ["/", "/actor:", "/?match=*", "/?limit=1"] {
        let answer = lb.get(path);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let is_all = ["/", "/?limit=1"].contains(&path);
        let total = if is_all { "  \"total\": 0,\n" } else { "" };
        let expected =
            format!("{{\n  \"data\": {{}},\n  \"count\": 0,\n{total}  \"next\": null\n}}\n");
        assert_eq!(text, expected, "{path}");
        assert_eq!(answer.served_by(), server.address());
    }
}

#[test]
fn keys_are_in_natural_order_with_values_of_every_type() {
    let server = RedisServer::start();
    for key in ["actor:10", "actor:2", "actor:1", "actor:02", "actor:1:b", "b", "B", "", "é", "a 9"]
    {
        server.command(&["SET", key, key]);
    }
    for kind in TYPES {
        server.command(&["DEL", kind]);
        Sample::new(kind, ["x", "y"])
            .write(kind.as_bytes())
            .exec(&mut server.connect())
            .expect("it");
    }
    let lb = Balancer::start(&[&server]);
    let answer = lb.get("/");
    let order = ["", "B", "a 9", "actor:1", "actor:1:b", "actor:02", "actor:2", "actor:10", "b"];
    let types = ["hash", "list", "set", "stream", "string", "zset"];
    let expected: Vec<&str> = order.into_iter().chain(types).chain(["é"]).collect();
    assert_eq!(keys(&answer), expected);
    let page = answer.json();
    assert_eq!((&page["count"], &page["next"]), (&json!(expected.len()), &Value::Null));
    assert_eq!(page["data"]["actor:10"], "actor:10");
    for kind in TYPES {
        assert!(Sample::new(kind, ["x", "y"]).is(&page["data"][kind]), "{page}");
    }
    for (name, value) in [
        ("content-type", "application/json; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("vary", "Accept, Accept-Encoding"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
}

#[test]
fn a_prefix_lists_its_keys_unless_it_is_a_key_itself() {
    let server = RedisServer::start();
    server.command(&["HSET", "actor:1", "name", "Mara"]);
    server.command(&["SET", "actors", "no"]);
    server.command(&["SET", "film:1", "no"]);
    let lb = Balancer::start(&[&server]);
    let listed = json!({"data": {"actor:1": {"name": "Mara"}}, "count": 1, "next": null});
    for path in ["/actor:", "/actor%3A", "/actor:?match=*", "/actor:?match=%3F&limit=5"] {
        assert_eq!(page(&lb, path), listed, "{path}");
    }
    assert_eq!(page(&lb, "/nothing:")["count"], 0);
    for path in ["/?key=actor:", "/actor:?field=name", "/actor:?format=raw"] {
        assert_eq!(lb.get(path).status, 404, "{path}");
    }
    server.command(&["SET", "actor:", "itself"]);
    assert_eq!(page(&lb, "/actor:"), "itself");
    assert_eq!(page(&lb, "/?match=actor:*")["count"], 2);
    server.command(&["DEL", "actor:"]);
    assert_eq!(page(&lb, "/actor:"), listed);
}

#[test]
fn what_is_a_wildcard_in_a_glob_is_none_in_a_prefix() {
    let server = RedisServer::start();
    let prefixes: [&[u8]; 12] = [
        b"a*:", b"a?:", b"[ab]:", b"[^a]:", b"a-b:", b"\\:", b"a\\*:", b"\xff*:", b"a b:", b"/x:",
        b"../x:", b":",
    ];
    for prefix in prefixes {
        set_each(&server, &[&[prefix, b"1"].concat(), &[prefix, b"*x"].concat()]);
    }
    set_each(&server, &[b"ab:1", b"aa:1", b"a:1", b"b:1", b"\xffx:1", b"A*:1"]);
    let lb = Balancer::start(&[&server]);
    for prefix in prefixes {
        let path = format!("/{}", encoded(prefix));
        let found = entries(&[lb.get(&path)]);
        let expected = [b"1".as_slice(), b"*x"].map(|rest| shown(&[prefix, rest].concat()));
        let mut expected = expected.map(|key| key.to_string());
        expected.sort_unstable();
        assert!(found.keys().eq(&expected), "{path}: {found:?}");
        let matched = entries(&[lb.get(&format!("{path}?match=%5C*?"))]);
        assert_eq!(matched.len(), 1, "{path}: {matched:?}");
    }
}

#[test]
fn a_glob_selects_keys() {
    let server = RedisServer::start();
    set_each(&server, &[b"a1", b"a2", b"b1", b"a*", b"a b", b"", b"a\n", b"p:a1", b"p:b1"]);
    let lb = Balancer::start(&[&server]);
    for (path, expected) in [
        ("/?match=a?", &["a\\n", "a*", "a1", "a2"][..]),
        ("/?match=[ab]1", &["a1", "b1"]),
        ("/?match=%5Ba%5D1", &["a1"]),
        ("/?match=a%5C*", &["a*"]),
        ("/?match=a+b", &["a b"]),
        ("/?match=a%20*", &["a b"]),
        ("/?match=", &[""]),
        ("/?match=nothing*", &[]),
        ("/p:?match=a*", &["p:a1"]),
        ("/p:?match=", &[]),
        ("/p:?match=*1", &["p:a1", "p:b1"]),
    ] {
        assert_eq!(keys(&lb.get(path)), expected, "{path}");
    }
}

/// Fills each server with the same 3,300 keys of all types, in another order; returns what a walk
/// must find.
fn fill(servers: &[RedisServer]) -> BTreeMap<String, Value> {
    let samples: Vec<(String, Sample)> = (0..3300)
        .map(|i| {
            let strings = [format!("x{i}"), format!("y{i}")];
            let strings = strings.into_iter().take(if i % 6 == 3 { 1 } else { 2 });
            (format!("key:{i}"), Sample::new(TYPES[i % 6], strings))
        })
        .collect();
    for (seed, server) in servers.iter().enumerate() {
        let mut order: Vec<&(String, Sample)> = samples.iter().collect();
        fastrand::Rng::with_seed(seed as u64).shuffle(&mut order);
        let mut commands = redis::pipe();
        for (key, sample) in order {
            commands.add_command(sample.write(key.as_bytes()));
        }
        commands.exec(&mut server.connect()).expect("the data is written");
    }
    samples.into_iter().map(|(key, sample)| (json!(key).to_string(), sample.json())).collect()
}

#[test]
fn a_walk_finds_every_key_once_and_stays_with_the_backend_that_began_it() {
    let servers = [(); 3].map(|()| RedisServer::start());
    let expected = fill(&servers);
    let lb = Balancer::start(&servers.each_ref());
    let mut starts = Vec::new();
    for path in ["/?limit=50", "/key:?limit=37", "/?match=key:*&limit=400"] {
        let answers = walk(&lb, path);
        assert!(answers.len() > 3300 / 450, "{path}: {} pages", answers.len());
        assert!(answers.iter().all(|answer| answer.served_by() == answers[0].served_by()));
        assert!(entries(&answers) == expected, "{path}");
        starts.push(answers[0].served_by().to_owned());
    }
    starts.sort_unstable();
    starts.dedup();
    assert!(starts.len() > 1, "walks begin at any backend");
    assert!(entries(&walk(&lb, "/")) == expected);
}

#[test]
fn next_works_as_it_stands_whatever_bytes_are_in_prefix_and_match() {
    let server = RedisServer::start();
    let prefixes: [&[u8]; 8] =
        [b"", b"p:", b"/p:", b"//p:", b"../p:", b"-/p:", b"a b&c=d+%#\n:", b"\xff*\x00:"];
    for prefix in prefixes {
        for i in 0..60 {
            set_each(&server, &[&[prefix, b"+&%\xfe ", i.to_string().as_bytes()].concat()]);
        }
    }
    let lb = Balancer::start(&[&server]);
    for prefix in prefixes {
        let path = format!("/{}?limit=7", encoded(prefix));
        let count = if prefix.is_empty() { 60 * prefixes.len() } else { 60 };
        assert_eq!(entries(&walk(&lb, &path)).len(), count, "{path}");
        let matching = format!("{path}&match={}*", encoded(b"+&%\xfe "));
        let answers = walk(&lb, &matching);
        assert!(answers.len() > 1 && entries(&answers).len() == 60, "{matching}");
    }
}

#[test]
fn a_small_page_of_rare_keys_takes_few_steps() {
    let server = RedisServer::start();
    server.command(&["DEBUG", "POPULATE", "50000"]);
    server.command(&["SET", "rare:1", "v"]);
    let lb = Balancer::start(&[&server]);
    for path in ["/rare:?limit=10", "/?match=rare:*&limit=1"] {
        server.command(&["CONFIG", "RESETSTAT"]);
        let answers = walk(&lb, path);
        assert_eq!(entries(&answers).len(), 1);
        let statistics = server.command(&["INFO", "commandstats"]);
        let Reply::BulkString(statistics) = statistics else { panic!("{statistics:?}") };
        let statistics = String::from_utf8(statistics).expect("text");
        let scans = statistics.split("cmdstat_scan:calls=").nth(1).expect("SCAN was called");
        let scans: usize = scans.split(',').next().and_then(|n| n.parse().ok()).expect("a number");
        assert!(scans < 120, "{path}: {scans} calls of SCAN");
    }
}

#[test]
fn a_page_may_exceed_its_limit_by_one_step_only() {
    let server = RedisServer::start();
    server.command(&["DEBUG", "POPULATE", "5000"]);
    let lb = Balancer::start(&[&server]);
    for limit in [1, 10, 1000, 4000, 5000] {
        let count = page(&lb, &format!("/?limit={limit}"))["count"].as_u64().expect("a number");
        assert!((limit..=2 * limit + 20).contains(&count), "{limit}: {count}");
    }
    assert_eq!(page(&lb, "/?limit=100000")["count"], 5000);
}

#[test]
fn a_cursor_whose_backend_is_gone_or_restarted_is_gone() {
    let mut servers = [(); 3].map(|()| RedisServer::start());
    fill(&servers);
    let lb = Balancer::start(&servers.each_ref());
    let first = lb.get("/key:?limit=100");
    let next = first.json()["next"].as_str().expect("a further page").to_owned();
    let at = servers.iter().position(|server| server.address() == first.served_by());
    let at = at.expect("one of the three");
    assert_eq!(lb.get(&next).served_by(), servers[at].address());
    servers[at].kill();
    assert_is_gone(&lb, &next);
    servers[at].restart();
    assert_is_gone(&lb, &next);
    assert_is_gone(&lb, &format!("/?cursor={}-17", "0123456789abcdef".repeat(2)));
    assert!(walk(&lb, "/key:?limit=1000").len() > 1);
}

fn assert_is_gone(lb: &Balancer, path: &str) {
    let answer = lb.get(path);
    assert_eq!(answer.status, 410, "{path}");
    assert!(answer.json()["error"].as_str().expect("text").contains("start again"));
    assert_eq!(answer.header("etag"), None);
}

#[test]
fn keys_that_are_no_text_make_the_page_an_array() {
    let server = RedisServer::start();
    set_each(&server, &[b"k10", b"k2", b"\xff", b""]);
    server.command(&[b"HSET".as_slice(), b"\xfe", b"\xff", b"1"]);
    let lb = Balancer::start(&[&server]);
    let expected = json!({
        "data": [
            {"key": "", "value": "v"},
            {"key": "k2", "value": "v"},
            {"key": "k10", "value": "v"},
            {"key": {"base64": "/g=="}, "value": [{"field": {"base64": "/w=="}, "value": "1"}]},
            {"key": {"base64": "/w=="}, "value": "v"},
        ],
        "count": 5,
        "total": 5,
        "next": null
    });
    assert_eq!(page(&lb, "/"), expected);
    assert_eq!(page(&lb, "/?match=k*")["data"], json!({"k2": "v", "k10": "v"}));
}

#[test]
fn long_values_among_short_ones_keep_their_places() {
    let server = RedisServer::start();
    let mut expected = Vec::new();
    let mut connection = server.connect();
    for i in 0..400 {
        let kind = TYPES[i / 7 % 6];
        let long = match i % 7 {
            0 => 70_000,
            1 => 1_500_000 * usize::from(i % 49 == 1),
            2 => 60_000 * usize::from(i % 4 == 2),
            _ => 5,
        };
        let end: &[u8] = if i % 2 == 0 { b"\xff" } else { b"" };
        let strings: Vec<Vec<u8>> = match (i % 3, kind) {
            // Of many short strings, or of two of which one is long.
            (0, "list" | "set" | "zset" | "hash" | "stream") => (0..2 * long.div_ceil(40).max(1))
                .map(|n| [format!("{n:020}").as_bytes(), end].concat())
                .collect(),
            _ => vec![[&b"x".repeat(long)[..], end].concat(), b"other".to_vec()],
        };
        let sample = Sample::new(kind, strings);
        let key = format!("k{i}");
        sample.write(key.as_bytes()).exec(&mut connection).expect("a sample");
        expected.push((key, sample));
    }
    let lb = Balancer::start(&[&server]);
    let answer = lb.get("/");
    assert!(answer.is_whole && answer.header("transfer-encoding") == Some("chunked"));
    let page = answer.json();
    assert_eq!(page["count"], 400);
    for (key, sample) in &expected {
        assert!(sample.is(&page["data"][key]), "{key} {}", sample.kind);
    }
    let order: Vec<String> = keys(&answer).into_iter().filter(|key| key.starts_with('k')).collect();
    assert!(order.iter().eq(expected.iter().map(|(key, _)| key)), "{order:?}");
}

#[test]
fn keys_that_expire_or_change_their_type_meanwhile_leave_a_page_that_agrees_with_itself() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let samples: Vec<Sample> = TYPES
        .into_iter()
        .flat_map(|kind| [vec!["a", "b"], vec!["c", "d"]].map(|strings| Sample::new(kind, strings)))
        .collect();
    for i in 0..200 {
        server.command(&["SET", &format!("stays:{i}"), "a"]);
    }
    let done = AtomicBool::new(false);
    let mut seen = 0;
    thread::scope(|scope| {
        scope.spawn(|| change_until(&done, &server, &samples));
        let _end = SetOnDrop(&done);
        for _ in 0..300 {
            let answer = lb.get("/");
            assert!(
                answer.status == 200 && answer.is_whole,
                "{} {:?}",
                answer.status,
                answer.headers
            );
            let found = entries(&[answer]);
            let (stays, comes) =
                found.iter().partition::<Vec<_>, _>(|(key, _)| key.contains("stays:"));
            assert_eq!(stays.len(), 200);
            for (key, value) in &comes {
                assert!(samples.iter().any(|sample| sample.is(value)), "{key}: {value}");
            }
            seen += comes.len();
        }
    });
    assert!(seen > 100, "only {seen} of the keys that come and go were ever seen");
}

fn change_until(done: &AtomicBool, server: &RedisServer, samples: &[Sample]) {
    let mut random = fastrand::Rng::with_seed(3);
    let mut connection = server.connect();
    while !done.load(Ordering::Relaxed) {
        let key = format!("comes:{}", random.u8(..20));
        let mut commands = redis::pipe();
        commands.atomic().cmd("DEL").arg(&key);
        commands.add_command(samples[random.usize(..samples.len())].write(key.as_bytes()));
        commands.cmd("PEXPIRE").arg(&key).arg(random.u8(1..5));
        commands.exec(&mut connection).expect("a change");
    }
}

#[test]
fn parameters_that_make_no_sense_are_refused_by_name() {
    let server = RedisServer::start();
    set_each(&server, &[b"a", b"p:1"]);
    let lb = Balancer::start(&[&server]);
    for (path, named) in [
        ("/?limit=0", "limit"),
        ("/?limit=-1", "limit"),
        ("/?limit=", "limit"),
        ("/?limit=1e3", "limit"),
        ("/?limit=100001", "limit"),
        ("/?limit=99999999999999999999", "limit"),
        ("/p:?limit=x", "limit"),
        ("/?cursor=", "cursor"),
        ("/?cursor=17", "cursor"),
        ("/?cursor=abc-", "cursor"),
        ("/?cursor=abc-18446744073709551616", "cursor"),
        ("/?cursor=%FF-1", "cursor"),
        ("/?page=2", "page"),
        ("/?field=a", "field"),
        ("/?format=raw", "format"),
        ("/p:?format=csv", "format"),
        ("/?limit=1&limit=2", "limit"),
        ("/a?limit=1", "limit"),
        ("/a?key=b", "key"),
        ("/?key=a&match=*", "match"),
        ("/?key=a&cursor=abc-1", "cursor"),
        ("/?match=%", "%25"),
    ] {
        let answer = lb.get(path);
        assert_eq!(answer.status, 400, "{path}");
        let error = answer.json()["error"].as_str().expect("text").to_owned();
        assert!(error.contains(named), "{path}: {error}");
    }
    for path in ["/?limit=1", "/?limit=100000", "/p:?limit=100000&match=*"] {
        assert_eq!(lb.get(path).status, 200, "{path}");
    }
}

#[test]
fn only_the_database_of_the_address_is_read() {
    let server = RedisServer::start();
    set_each(&server, &[b"zero", b"both"]);
    let mut third = redis::Client::open(format!("redis://{}/3", server.address()))
        .and_then(|client| client.get_connection())
        .expect("a connection");
    redis::cmd("MSET").arg(&["three", "3", "both", "3"]).exec(&mut third).expect("MSET");
    let lb = Balancer::start_at(&[format!("redis://{}/3", server.address())], &[]);
    assert_eq!(page(&lb, "/")["data"], json!({"both": "3", "three": "3"}));
    assert_eq!(lb.get("/zero").status, 404);
    assert_eq!(entries(&walk(&lb, "/?limit=1")).len(), 2);
}
