//! What a value looks like, whatever its type, its bytes and its size.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::SetOnDrop;
use crate::support::balancer::{Answer, Balancer};
use crate::support::forms::{Sample, TYPES, encoded, shown};
use crate::support::redis::RedisServer;
use crate::support::wait_until;

/// How much of an answer is held before it is streamed.
const HELD: usize = 64 * 1024;

/// A string longer than this is looked at piece by piece.
const SHORT_STRING: usize = 16 * 1024;

fn write(server: &RedisServer, key: &[u8], sample: &Sample) {
    let mut commands = redis::pipe();
    commands.cmd("DEL").arg(key);
    commands.add_command(sample.write(key));
    commands.exec(&mut server.connect()).expect("the sample is written");
}

/// GET of any key.
fn get(lb: &Balancer, key: &[u8]) -> Answer {
    lb.get(&format!("/?key={}", encoded(key)))
}

/// Checks that `key` comes back as `sample`, whole.
fn check(lb: &Balancer, key: &[u8], sample: &Sample) -> Answer {
    let answer = get(lb, key);
    let Answer { status, headers, is_whole, .. } = &answer;
    assert!(*status == 200 && *is_whole, "{} {status} {headers:?}", sample.kind);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    let json = answer.json();
    assert!(sample.is(&json), "{} {:.500}", sample.kind, json.to_string());
    answer
}

fn is_streamed(answer: &Answer) -> bool {
    let (length, etag) = (answer.header("content-length"), answer.header("etag"));
    assert_eq!(length.is_some(), etag.is_some(), "{:?}", answer.headers);
    assert_eq!(length.is_none(), answer.header("transfer-encoding") == Some("chunked"));
    length.is_none()
}

#[test]
fn every_byte_comes_through_in_fields_members_and_values_of_every_type() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let every: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    for kind in TYPES {
        let doubled: Vec<Vec<u8>> = every.iter().flat_map(|b| [b.clone(), b.clone()]).collect();
        let sample = match kind {
            "string" => Sample::new(kind, [(0..=255).collect::<Vec<u8>>()]),
            "hash" | "stream" => Sample::new(kind, doubled),
            _ => Sample::new(kind, every.clone()),
        };
        write(&server, b"every", &sample);
        check(&lb, b"every", &sample);
    }
}

#[test]
fn every_byte_comes_through_in_keys_by_path_and_by_parameter() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for byte in 0..=255_u8 {
        let sample =
            Sample::new(TYPES[usize::from(byte) % 6], [vec![byte], vec![b'x', byte, b'x']]);
        for key in [vec![byte], vec![byte, b'k', byte]] {
            write(&server, &key, &sample);
            let by_parameter = check(&lb, &key, &sample);
            let by_path = lb.get(&format!("/{}", encoded(&key)));
            assert_eq!((by_path.status, by_path.body), (200, by_parameter.body), "{key:?}");
        }
    }
}

#[test]
fn awkward_keys_are_reached_in_every_way_to_write_them() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let keys: [(&[u8], &[&str]); 14] = [
        (b"", &["/?key=", "/?key", "/?key=&format=json"]),
        (b"/", &["//", "/%2F", "/?key=/"]),
        (b"a/b//c/", &["/a/b//c/", "/a%2fb%2F/c/", "/?key=a/b//c/"]),
        (b"..", &["/..", "/%2E%2e", "/?key=.."]),
        (b"a/../b", &["/a/../b", "/?key=a/../b"]),
        (b"what?", &["/what%3F", "/?key=what?"]),
        (b"100%", &["/100%25", "/?key=100%25"]),
        (b"a b+c", &["/a%20b+c", "/?key=a+b%2Bc", "/?key=a%20b%2bc"]),
        (b"two\nlines\r\n", &["/two%0Alines%0d%0A"]),
        (b"a=b&c=d", &["/a=b&c=d", "/?key=a=b%26c=d"]),
        (b"favicon.ico", &["/%66avicon.ico", "/?key=favicon.ico"]),
        (b"-/ping", &["/%2D/ping", "/-%2Fping", "/?key=-/ping"]),
        ("ключ 😀".as_bytes(), &["/%D0%BA%D0%BB%D1%8E%D1%87%20%F0%9F%98%80"]),
        (b"a:", &["/a:", "/a%3A", "/?key=a:"]),
    ];
    for (key, _) in keys {
        server.command(&[b"SET", key, key]);
    }
    for (key, paths) in keys {
        for path in paths {
            let answer = lb.get(path);
            assert_eq!((answer.status, answer.json()), (200, shown(key)), "{path}");
        }
    }
}

#[test]
fn empty_keys_strings_fields_and_members_are_values_like_any_other() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for kind in TYPES {
        let sample = Sample::new(kind, ["", ""]);
        write(&server, b"", &sample);
        let answer = get(&lb, b"");
        let expected = match kind {
            "string" => "\"\"",
            "hash" => r#"{"":""}"#,
            "list" => r#"["",""]"#,
            "set" => r#"[""]"#,
            "zset" => r#"[{"member":"","score":1}]"#,
            _ => r#"[{"fields":[["",""]],"id":"1-1"}]"#,
        };
        assert_eq!(answer.json().to_string(), expected);
        if kind == "hash" {
            assert_eq!(lb.get("/?key=&field=").json(), json!(""));
            let raw = lb.get("/?key=&field=&format=raw");
            assert_eq!((raw.body.len(), raw.header("content-length")), (0, Some("0")));
        }
    }
}

#[test]
fn json_is_indented_by_two_and_ends_with_a_line() {
    let server = RedisServer::start();
    server.command(&["XADD", "s", "1-1", "f", "\"\u{1}\u{7f}\u{2028}"]);
    let lb = Balancer::start(&[&server]);
    let expected = "[\n  {\n    \"id\": \"1-1\",\n    \"fields\": [\n      [\n        \"f\",\n        \
                    \"\\\"\\u0001\u{7f}\u{2028}\"\n      ]\n    ]\n  }\n]\n";
    let answer = lb.get("/s");
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    for (name, value) in [
        ("x-served-by", server.address().as_str()),
        ("cache-control", "no-cache"),
        ("vary", "Accept, Accept-Encoding"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
}

#[test]
fn fields_raw_bytes_missing_keys_and_wrong_types_each_have_their_answer() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for kind in TYPES {
        write(&server, kind.as_bytes(), &Sample::new(kind, [&b"f"[..], b"\xff\r\n\0"]));
    }
    server.command(&[b"SET", &b"binary"[..], b"\xff\r\n\0"]);
    let not_here = |why: &str, more: Value| {
        let mut json = json!({"error": why});
        json.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("one"));
        json
    };
    let only_hash =
        |key: &str| not_here("only a hash has fields", json!({"key": key, "type": key}));
    let only_string = |key: &str| {
        let why = "format=raw serves a string, or a field of a hash";
        not_here(why, json!({"key": key, "type": key}))
    };
    let cases = [
        ("/hash?field=f", 200, shown(b"\xff\r\n\0")),
        ("/?key=hash&field=%66", 200, shown(b"\xff\r\n\0")),
        ("/string?format=json", 200, json!("f")),
        ("/nowhere", 404, not_here("no such key", json!({"key": "nowhere"}))),
        ("/%FF%00", 404, not_here("no such key", json!({"key": {"base64": "/wA="}}))),
        ("/nowhere?format=raw", 404, not_here("no such key", json!({"key": "nowhere"}))),
        (
            "/nowhere?field=%FE",
            404,
            not_here("no such key", json!({"key": "nowhere", "field": {"base64": "/g=="}})),
        ),
        ("/hash?field=g", 404, not_here("no such field", json!({"key": "hash", "field": "g"}))),
        (
            "/hash?field=g&format=raw",
            404,
            not_here("no such field", json!({"key": "hash", "field": "g"})),
        ),
        ("/string?field=f", 415, only_hash("string")),
        ("/list?field=f&format=raw", 415, only_hash("list")),
        ("/set?field=f", 415, only_hash("set")),
        ("/zset?field=f", 415, only_hash("zset")),
        ("/stream?field=f", 415, only_hash("stream")),
        ("/hash?format=raw", 415, only_string("hash")),
        ("/list?format=raw", 415, only_string("list")),
        ("/stream?format=raw", 415, only_string("stream")),
    ];
    for (path, status, json) in cases {
        let answer = lb.get(path);
        assert_eq!((answer.status, answer.json()), (status, json), "{path}");
        assert_eq!(answer.served_by(), server.address(), "{path}");
        let types = answer.headers.iter().filter(|(name, _)| name == "content-type").count();
        assert_eq!(types, 1, "{path}");
    }
    for path in ["/hash?field=f&format=raw", "/binary?format=raw", "/?key=binary&format=raw"] {
        let answer = lb.get(path);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"\xff\r\n\0"[..]), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    }
}

/// Three servers with the same data, written in another order to each.
fn shuffled_servers() -> [RedisServer; 3] {
    let servers = [(); 3].map(|()| RedisServer::start());
    for (seed, server) in servers.iter().enumerate() {
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut names: Vec<String> = (0..700).map(|i| format!("name {i}")).collect();
        random.shuffle(&mut names);
        let doubled: Vec<&String> = names.iter().flat_map(|name| [name, name]).collect();
        let mut commands = redis::pipe();
        commands.cmd("SADD").arg("set").arg(&names);
        commands.cmd("HSET").arg("hash").arg(&doubled);
        commands.cmd("SET").arg("string").arg("some text");
        commands.cmd("ZADD").arg("zset").arg(&[1, 1, 1, 2]);
        commands.cmd("RPUSH").arg("list").arg(&[3, 1, 2]);
        commands.cmd("XADD").arg(&["stream", "1-1", "f", "1"]);
        commands.exec(&mut server.connect()).expect("the data is written");
    }
    servers
}

#[test]
fn tags_are_those_of_the_value_whichever_server_answers_and_change_with_it() {
    let servers = shuffled_servers();
    let lb = Balancer::start(&servers.each_ref());
    let changes: [(&str, &[&str]); 10] = [
        ("/set", &["SMOVE", "set", "elsewhere", "name 7"]),
        ("/hash", &["HSET", "hash", "name 7", "name 8"]),
        ("/string", &["SET", "string", "some tixt"]),
        ("/zset", &["ZADD", "zset", "3", "1"]),
        ("/list", &["LSET", "list", "0", "4"]),
        ("/stream", &["XADD", "stream", "1-2", "f", "1"]),
        ("/hash?field=name+9", &["HSET", "hash", "name 9", "name 8"]),
        ("/string?format=raw", &["SET", "string", "some tuxt"]),
        ("/hash?field=name+10&format=raw", &["HSET", "hash", "name 10", "name 11"]),
        ("/?match=[^e]*", &["SET", "string", "some txxt"]),
    ];
    for (path, change) in changes {
        let (before, orders) = tag_of_all(&lb, path);
        assert!(before.starts_with("W/\""), "{before}");
        // The test would show nothing if all servers gave one order.
        assert_eq!(orders > 1, ["/set", "/hash", "/?match=[^e]*"].contains(&path), "{path}");
        for header in [&before, "*", &format!("\"other\", {}", before.trim_start_matches("W/"))] {
            let answer = lb.request("GET", path, &[&format!("If-None-Match: {header}")]);
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{path} {header}");
            assert_eq!(answer.header("etag"), Some(before.as_str()));
        }
        for server in &servers {
            server.command(change);
        }
        let answer = lb.request("GET", path, &[&format!("If-None-Match: {before}")]);
        assert_eq!(answer.status, 200, "{path}");
        assert_ne!(tag_of_all(&lb, path).0, before, "{path}");
    }
}

/// The one tag that all three servers give, and in how many different orders they write the value.
fn tag_of_all(lb: &Balancer, path: &str) -> (String, usize) {
    let answers = [(); 3].map(|()| lb.get(path));
    let mut backends = answers.each_ref().map(Answer::served_by);
    backends.sort_unstable();
    assert!(backends[0] < backends[1] && backends[1] < backends[2], "{backends:?}");
    let tags = answers.each_ref().map(|answer| answer.header("etag").expect("a tag"));
    assert!(tags[0] == tags[1] && tags[1] == tags[2], "{path}: {tags:?}");
    let mut bodies = answers.each_ref().map(|answer| &answer.body).to_vec();
    bodies.sort_unstable();
    bodies.dedup();
    (tags[0].to_owned(), bodies.len())
}

#[test]
fn head_says_what_get_says_without_the_body() {
    let server = RedisServer::start();
    server.command(&["SET", "short", "abc"]);
    server.command(&["SET", "long", &"x".repeat(2 * HELD)]);
    let lb = Balancer::start(&[&server]);
    for path in ["/short", "/short?format=raw", "/", "/nowhere", "/long", "/long?format=raw"] {
        let (get, head) = (lb.get(path), lb.request("HEAD", path, &[]));
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        let comparable = |answer: &Answer| {
            let is_kept =
                |(name, _): &&(String, String)| !["date", "server-timing"].contains(&&**name);
            answer.headers.iter().filter(is_kept).cloned().collect::<Vec<_>>()
        };
        assert_eq!(comparable(&head), comparable(&get), "{path}");
    }
}

/// A sample of about `bytes` bytes in strings of about 500; the last is `pad` bytes longer.
fn sample_of(kind: &'static str, bytes: usize, pad: usize) -> Sample {
    let count = if kind == "string" { 1 } else { bytes / 1000 * 2 };
    let mut strings: Vec<String> =
        (0..count).map(|i| format!("{i:06}{}", "é\n".repeat(bytes / count / 3))).collect();
    let last = strings.last_mut().expect("one at least");
    last.push_str(&"p".repeat(pad));
    Sample::new(kind, strings)
}

fn json_bytes(sample: &Sample) -> usize {
    serde_json::to_string_pretty(&sample.json()).expect("JSON").len() + 1
}

/// The length of the reply from which it is made.
fn reply_bytes(sample: &Sample) -> usize {
    let bulk = |length: usize| 1 + length.to_string().len() + 2 + length + 2;
    let array = |length: usize| 1 + length.to_string().len() + 2;
    let strings: usize = sample.strings.iter().map(|string| bulk(string.len())).sum();
    let count = sample.strings.len();
    match sample.kind {
        "string" => strings,
        "zset" => strings + count * bulk(1) + array(2 * count),
        "stream" => strings + array(count) + bulk(3) + array(2) + array(1),
        _ => strings + array(count),
    }
}

#[test]
fn an_answer_is_right_on_both_sides_of_the_length_up_to_which_it_is_held() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let measures: [fn(&Sample) -> usize; 2] = [json_bytes, reply_bytes];
    for kind in TYPES {
        for measure in measures {
            for target in [HELD - 1, HELD, HELD + 1, HELD + SHORT_STRING + 1] {
                let base = sample_of(kind, HELD / 2, 0);
                let sample = sample_of(kind, HELD / 2, target - measure(&base) - 5);
                let sample = (0..=9)
                    .map(|more| with_longer_end(&sample, more))
                    .find(|sample| measure(sample) == target)
                    .expect("each byte more counts once, and a digit of the length a few times");
                write(&server, b"edge", &sample);
                let answer = check(&lb, b"edge", &sample);
                assert_eq!(is_streamed(&answer), json_bytes(&sample) > HELD, "{kind} {target}");
            }
        }
    }
}

fn with_longer_end(sample: &Sample, more: usize) -> Sample {
    let mut sample = sample.clone();
    sample.strings.last_mut().expect("one at least").extend(b"p".repeat(more));
    sample
}

#[test]
fn an_answer_shorter_than_its_reply_is_held_like_any_other() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    // In a reply each string costs its length and two line ends, in JSON quotes and a comma.
    let strings = (0..4000).map(|i| format!("{i:010}"));
    let names = (0..4500).map(|i| char::from_u32(0x4e00 + i).expect("a character").to_string());
    let hash = Sample::new("hash", names.flat_map(|name| [name, String::new()]));
    for sample in [Sample::new("list", strings), hash] {
        write(&server, b"dense", &sample);
        assert!(reply_bytes(&sample) > HELD && json_bytes(&sample) <= HELD);
        let answer = check(&lb, b"dense", &sample);
        assert!(!is_streamed(&answer));
    }
}

#[test]
fn raw_bytes_are_right_on_both_sides_of_the_length_up_to_which_they_are_held() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for length in [HELD - 9, HELD - 1, HELD, HELD + 1, HELD + 9, 5 * HELD, 20 * HELD] {
        let bytes: Vec<u8> = (0..length).map(|i| (i * i / 7) as u8).collect();
        server.command(&[b"SET", &b"string"[..], &bytes]);
        server.command(&[b"HSET", &b"hash"[..], b"f", &bytes]);
        for path in ["/string?format=raw", "/hash?field=f&format=raw"] {
            let answer = lb.get(path);
            assert!(answer.is_whole && answer.body == bytes, "{path} {length}");
            assert_eq!(is_streamed(&answer), length > HELD, "{path} {length}");
        }
    }
}

#[test]
fn long_strings_are_text_or_base64_by_their_last_byte_wherever_they_stand() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut random = fastrand::Rng::with_seed(7);
    for length in [SHORT_STRING - 1, SHORT_STRING + 1, 3 * HELD] {
        let text: Vec<u8> = "aé€😀\n\"\\\u{1}".repeat(length / 12).into_bytes();
        let strings = [
            text.clone(),
            [&text[..], b"\xff"].concat(),
            [&text[..], "😀".as_bytes().split_at(3).0].concat(),
            [b"\x80", &text[..]].concat(),
            // As surrogates are written by some: no UTF-8.
            [&text[..], b"\xed\xa0\x80", &text[..]].concat(),
            (0..length).map(|_| random.u8(..)).collect(),
            b"a".repeat(length),
        ];
        for kind in TYPES {
            for string in &strings {
                check_among_short_ones(&server, &lb, kind, string);
            }
            check_all_at_once(&server, &lb, kind, &strings);
        }
    }
}

fn check_among_short_ones(server: &RedisServer, lb: &Balancer, kind: &'static str, long: &[u8]) {
    let sample = match kind {
        "string" => Sample::new(kind, [long]),
        _ => Sample::new(kind, [b"a", long, b"b", b"\xff"]),
    };
    write(server, b"long", &sample);
    check(lb, b"long", &sample);
}

fn check_all_at_once(server: &RedisServer, lb: &Balancer, kind: &'static str, long: &[Vec<u8>]) {
    let names = long.iter().enumerate().map(|(i, long)| [&[b'0' + i as u8], &long[..]].concat());
    let names_and_values = Sample::new(kind, names.zip(long).flat_map(|(a, b)| [a, b.clone()]));
    write(server, b"long", &names_and_values);
    check(lb, b"long", &names_and_values);
}

#[test]
fn one_name_of_a_hundred_thousand_decides_the_form_of_a_hash() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let fields = (0..100_000).flat_map(|i| [format!("field {i}"), format!("é {i}")]);
    let mut sample = Sample::new("hash", fields);
    write(&server, b"h", &sample);
    assert!(is_streamed(&check(&lb, b"h", &sample)));
    sample.strings.extend([b"late \xff".to_vec(), b"value".to_vec()]);
    write(&server, b"h", &sample);
    let answer = check(&lb, b"h", &sample);
    assert_eq!(answer.json().as_array().map(Vec::len), Some(100_001));
    assert_eq!(lb.get("/h?field=late+%FF").json(), "value");
}

#[test]
fn scores_are_the_digits_of_redis() {
    let scores = [
        "0",
        "-0",
        "1",
        "-1",
        "0.1",
        "-0.1",
        "1.5",
        "1e20",
        "-1e20",
        "1e21",
        "1e300",
        "1e-300",
        "4.9e-324",
        "1.7976931348623157e308",
        "3.14159265358979312",
        "0.3333333333333333",
        "123456789.12345679",
        "9007199254740992",
        "9007199254740993",
        "-9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "1e15",
        "1e16",
        "1e17",
        "1e18",
        "1e19",
        "100000000000000000000",
        "inf",
        "-inf",
    ];
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for score in scores {
        server.command(&["ZADD", "alone", score, "m"]);
        server.command(&["ZADD", "all", score, score]);
        let redis::Value::BulkString(digits) = server.command(&["ZSCORE", "alone", "m"]) else {
            panic!("{score} has no score");
        };
        let digits = String::from_utf8(digits).expect("digits");
        let shown = if score.contains("inf") { format!("\"{digits}\"") } else { digits };
        let expected =
            format!("[\n  {{\n    \"member\": \"m\",\n    \"score\": {shown}\n  }}\n]\n");
        let answer = lb.get("/alone");
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
        answer.json();
    }
    let all = lb.get("/all").json();
    let members = all.as_array().expect("an array");
    assert_eq!(members.len(), scores.len());
    assert_eq!(
        (&members[0]["score"], &members[scores.len() - 1]["score"]),
        (&json!("-inf"), &json!("inf"))
    );
}

#[test]
fn streams_keep_repeated_fields_in_order_and_may_be_empty() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    server.command(&["XADD", "s", "5-0", "f", "1", "f", "2", "g", "", "f", "1"]);
    server.command(&["XADD", "s", "5-1", "", "x"]);
    server.command(&["XADD", "s", "18446744073709551615-18446744073709551615", "f", "last"]);
    let expected = json!([
        {"id": "5-0", "fields": [["f", "1"], ["f", "2"], ["g", ""], ["f", "1"]]},
        {"id": "5-1", "fields": [["", "x"]]},
        {"id": "18446744073709551615-18446744073709551615", "fields": [["f", "last"]]},
    ]);
    assert_eq!(lb.get("/s").json(), expected);
    server.command(&["XTRIM", "s", "MAXLEN", "1"]);
    server.command(&["XDEL", "s", "18446744073709551615-18446744073709551615"]);
    let answer = lb.get("/s");
    assert_eq!((answer.status, answer.json()), (200, json!([])));
    assert_eq!(lb.get("/").json()["data"], json!({"s": []}));
    server.command(&["DEL", "s"]);
    assert_eq!(lb.get("/s").status, 404);
}

#[test]
fn a_value_that_is_replaced_over_and_over_is_always_one_of_those_that_were_written() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut samples = Vec::new();
    for kind in TYPES {
        for bytes in [2_000, HELD, 3 * HELD] {
            samples.push(sample_of(kind, bytes, 0));
            let mut binary = sample_of(kind, bytes, 0);
            binary.strings[0].push(0xff);
            binary.strings.last_mut().expect("one at least").push(0xff);
            samples.push(binary);
        }
    }
    write(&server, b"x", &samples[0]);
    let done = AtomicBool::new(false);
    let (mut whole, mut cut) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| replace_until(&done, &server, &samples));
        let _end = SetOnDrop(&done);
        for _ in 0..500 {
            let answer = lb.get("/x");
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            if !answer.is_whole {
                assert!(is_streamed(&answer));
                cut += 1;
                continue;
            }
            whole += 1;
            let json = answer.json();
            let known = samples.iter().any(|sample| sample.is(&json));
            assert!(known, "{:.500}", json.to_string());
        }
    });
    assert!(whole > 400, "{whole} whole, {cut} cut");
    assert!(!lb.log().contains("panicked"));
}

fn replace_until(done: &AtomicBool, server: &RedisServer, samples: &[Sample]) {
    let mut random = fastrand::Rng::with_seed(11);
    let mut connection = server.connect();
    while !done.load(Ordering::Relaxed) {
        let mut commands = redis::pipe();
        commands.atomic().cmd("DEL").arg("x");
        commands.add_command(samples[random.usize(..samples.len())].write(b"x"));
        commands.exec(&mut connection).expect("a replacement");
    }
}

#[test]
fn a_value_that_comes_and_goes_is_whole_or_missing_and_never_empty() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for kind in ["hash", "set", "stream", "string"] {
        let sample = sample_of(kind, 3 * HELD, 0);
        let done = AtomicBool::new(false);
        let [mut whole, mut missing] = [0, 0];
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut connection = server.connect();
                while !done.load(Ordering::Relaxed) {
                    sample.write(b"x").exec(&mut connection).expect("it comes");
                    for _ in 0..50 {
                        redis::cmd("PING").exec(&mut connection).expect("it stays a while");
                    }
                    redis::cmd("DEL").arg("x").exec(&mut connection).expect("it goes");
                }
            });
            let _end = SetOnDrop(&done);
            for _ in 0..150 {
                let answer = lb.get("/x");
                match (answer.status, answer.is_whole) {
                    (200, true) => assert!(sample.is(&answer.json()), "{kind}"),
                    (200, false) => assert!(is_streamed(&answer), "{kind}"),
                    (404, true) => missing += 1,
                    other => panic!("{kind} {other:?}"),
                }
                whole += usize::from(answer.status == 200);
            }
        });
        assert!(whole > 0 && missing > 0, "{kind}: {whole} whole, {missing} missing");
    }
}

#[test]
fn a_backend_that_dies_within_a_long_answer_leaves_it_visibly_incomplete() {
    for (version, path) in [
        ("1.1", "/list"),
        ("1.1", "/string?format=raw"),
        ("1.0", "/list"),
        ("1.0", "/string?format=raw"),
        ("0.9", "/list"),
    ] {
        let mut server = RedisServer::start();
        let piece = "x".repeat(1024 * 1024);
        server.command(&["SETRANGE", "string", "50331647", "x"]);
        server.command(&[&["RPUSH", "list"][..], &[piece.as_str(); 48]].concat());
        let lb = Balancer::start_with(&[&server], &["--log-leases"]);
        let mut client = lb.connect();
        let request = match version {
            "0.9" => format!("GET {path}\r\n"),
            _ => format!("GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n"),
        };
        client.write_all(request.as_bytes()).expect("the request is sent");
        let mut received = vec![0; 100_000];
        client.read_exact(&mut received).expect("the answer's beginning");
        server.kill();
        let end = client.read_to_end(&mut received);
        if version == "1.1" {
            end.expect("an orderly end");
            let answer = Answer::parse(&received);
            assert!(answer.status == 200 && !answer.is_whole, "{path}");
        } else {
            assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        }
        assert!(received.len() < 48 * 1024 * 1024);
        let freed = format!("{}=0 cut: connection lost", server.address());
        wait_until("the log says so", || lb.log().contains(&freed));
    }
}

/// A browser that goes from one balancer to another keeps what it has, also while one is newer.
#[test]
fn two_balancers_give_a_value_the_same_tag_whatever_their_build() {
    let server = RedisServer::start();
    server.command(&["HSET", "actor:1", "first_name", "Mara", "last_name", "Ellingworth"]);
    let tags = [(); 2].map(|()| {
        let lb = Balancer::start(&[&server]);
        // One by way of the pool, one on a shared connection.
        let tags = [(); 2].map(|()| lb.get("/actor:1").header("etag").expect("a tag").to_owned());
        assert_eq!(tags[0], tags[1]);
        tags[0].clone()
    });
    assert_eq!(tags[0], tags[1]);
    assert_eq!(
        tags[0], "W/\"95108d3f11d1e579-39\"",
        "it has changed: caches of all clients are void"
    );
}

#[test]
fn a_request_with_very_many_parameters_is_refused_and_said_to_have_too_many() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let lb = Balancer::start(&[&server]);
    let many: String = (0..33).map(|number| format!("p{number}=1&")).collect();
    let answer = lb.get(&format!("/key?{many}"));
    assert_eq!(answer.status, 400);
    let error = answer.json()["error"].as_str().expect("text").to_owned();
    assert!(error.contains("more than 32 parameters"), "{error}");
    assert_eq!(lb.get("/key?format=json").json(), "value");
    assert_eq!(lb.get(&format!("/-/health?{many}")).status, 200);
}
