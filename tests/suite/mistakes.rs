//! Mistakes in the set-up, as a new user makes them: each is named, with what to type next.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::startup::{lb, start, warnings};
use crate::support::balancer::Balancer;
use crate::support::certificates::Certificates;
use crate::support::redis::{RedisServer, free_port};
use crate::support::resp::RespClient;
use crate::support::sentinel::Sentinel;
use crate::support::wait_until;

const LB: &str = env!("CARGO_BIN_EXE_lb");
const SEED: &str = env!("CARGO_BIN_EXE_seed");

/// A server that is no Redis: it says this to each client, first if `speaks_first`, else once it was asked, and then
/// closes the connection or, with `None`, says nothing for ever. Its thread ends with the process.
fn stranger(answer: Option<&'static [u8]>, speaks_first: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            let Some(answer) = answer else {
                open.push(client);
                continue;
            };
            // The client may be gone already. What it asks is read before the end, which would else be a reset.
            let mut asked = [0; 512];
            if speaks_first {
                let _ = client.write_all(answer);
            }
            let _ = client.read(&mut asked);
            if !speaks_first {
                let _ = client.write_all(answer);
            }
        }
    });
    address
}

/// What a program says, standard output first, and its exit code.
fn run(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

/// `lb` with these arguments and these variables alone.
fn lb_with(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    // One that notices no mistake would serve.
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["20", LB]).args(arguments).env_clear().envs(variables.iter().copied());
    run(command)
}

fn redis_with_tls() -> (RedisServer, Certificates) {
    let certificates = Certificates::new("ca");
    let server = RedisServer::start_tls(&certificates.server(), &certificates.ca(), &[]);
    (server, certificates)
}

#[test]
fn whatever_is_no_redis_is_named_at_the_start_and_by_the_check_with_what_to_do() {
    let good = RedisServer::start();
    good.command(&["SET", "key", "value"]);
    let locked = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let (tls, _certificates) = redis_with_tls();
    let tls = format!("127.0.0.1:{}", tls.balanced_port());
    let http = stranger(Some(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), false);
    let password = format!("redis://:PASSWORD@{}", locked.address());
    for (address, what, advice) in [
        (http.clone(), "it speaks HTTP there", "Is that a web server's port?"),
        (format!("redis://:hunter2@{http}"), "it speaks HTTP there", "a web server's port?"),
        (
            stranger(Some(b"<!DOCTYPE HTML>\n<html>"), false),
            "it speaks HTTP",
            "a web server's port?",
        ),
        (
            stranger(Some(b"\x15\x03\x01\0\x02\x02\x28"), false),
            "it speaks TLS there",
            "rediss://127.0.0.1:",
        ),
        (tls.clone(), "connection lost", "Is that a TLS port? Then write rediss://127.0.0.1:"),
        (stranger(Some(b"SSH-2.0-OpenSSH_9.2\r\n"), true), "it speaks SSH", "usually 6379"),
        (stranger(Some(b"220 mail.example ESMTP\r\n"), true), "it speaks SMTP", "usually 6379"),
        (stranger(Some(b"+OK POP3 ready\r\n"), true), "it speaks POP3", "usually 6379"),
        (stranger(Some(b"hello\x1b[2J\r\n"), true), "no Redis reply: 'hello?[2J'", "usually 6379"),
        (stranger(None, false), "no answer to PING", "Is that a Redis server?"),
        (
            format!("redis://:hunter2@{}", stranger(None, false)),
            "no answer to AUTH",
            "a Redis server?",
        ),
        (locked.address(), "NOAUTH", &password),
    ] {
        let name = address.rsplit('@').next().expect("an address");
        let (said, log) = start(lb(&[&good.address(), &address], &["--check-timeout", "300ms"]));
        assert_eq!(warnings(&log, &[name, what, advice]), 1, "{what}: {log}");
        assert!(said.contains(what) && !said.contains("not checked yet"), "{what}: {said}");
        assert!(!log.contains("hunter2") && !log.contains('\u{1b}'), "{log}");
        let arguments = [
            "check",
            "--check-timeout",
            "300ms",
            "--backend",
            &good.address(),
            "--backend",
            &address,
        ];
        let (code, said) = lb_with(&[], &arguments);
        assert_eq!(code, Some(1), "{said}");
        let line = said.lines().find(|line| line.starts_with("wrong: ")).expect("a problem");
        assert!([name, what, advice].iter().all(|text| line.contains(text)), "{what}: {line}");
        assert!(!said.contains("hunter2") && !said.contains('\u{1b}'), "{said}");
    }
}

#[test]
fn a_sentinel_in_place_of_a_server_is_named_with_the_url_of_sentinels() {
    let primary = RedisServer::start();
    let sentinel = Sentinel::start_with(&primary, 1, "");
    let (_, log) = start(lb(&[&sentinel.address()], &[]));
    assert_eq!(warnings(&log, &["it is a Sentinel", "sentinel://HOST:PORT/NAME"]), 1, "{log}");
}

#[test]
fn a_balancer_serves_behind_another_one() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let inner = Balancer::start(&[&server]);
    let outer = Balancer::start_at(&[format!("127.0.0.1:{}", inner.port())], &[]);
    assert_eq!(RespClient::connect(outer.port()).call("GET key"), "$5\r\nvalue\r\n");
    assert_eq!(outer.get("/key").json(), "value");
    assert_eq!(warnings(&outer.log(), &["does not answer"]), 0, "{}", outer.log());
    let (code, said) =
        lb_with(&[], &["check", "--backend", &format!("127.0.0.1:{}", inner.port())]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn variables_that_are_wrong_are_named_with_what_they_take() {
    for (name, value, expected) in [
        ("LB_BACKENDS", "", "LB_BACKENDS is set and empty"),
        ("LB_BACKENDS", "a:1 b:2", "commas separate backends"),
        ("LB_BACKENDS", "a:1;b:2", "commas separate backends"),
        ("LB_BACKENDS", "a:1,", "is there a comma too many?"),
        ("LB_BACKENDS", "\"a:1\"", "take them away"),
        ("LB_BACKENDS", "a:1,a:1", "in the list twice"),
        ("LB_QUIET", "maybe", "which takes true or false"),
        ("LB_USERS_FILE", "", "LB_USERS_FILE is set and empty: give it FILE"),
        ("LB_REQUIRE_PASSWORD", "", "LB_REQUIRE_PASSWORD is set and empty"),
        ("LB_LISTEN", "1310", "write ADDRESS:PORT, such as 127.0.0.1:1310"),
        ("LB_MAX_CLIENTS", "many", "a whole number, such as 4096"),
        ("LB_CHECK_TIMEOUT", "5", "such as 500ms"),
        ("LB_ROLE", "king", "master, replica"),
        ("LB_CONFIG", "/no/such/file.toml", "/no/such/file.toml: can't be read"),
    ] {
        let (code, said) = lb_with(&[(name, value)], &[]);
        assert_eq!(code, Some(2), "{name}={value}: {said}");
        assert!(said.contains(expected), "{name}={value}: {said}");
        let names_it = said.contains(name) || name == "LB_CONFIG";
        assert!(names_it, "{name}={value}: {said}");
    }
    // A flag goes before its variable.
    let free = format!("127.0.0.1:{}", free_port());
    let (code, said) = lb_with(&[("LB_BACKENDS", "")], &["check", "--backend", &free]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn an_empty_variable_counts_as_unset_but_for_those_that_say_who_may_read_what() {
    let empty = [("LB_LISTEN", ""), ("LB_QUIET", ""), ("LB_CACHE", ""), ("LB_NO_CACHE", "")];
    let (code, said) = lb_with(&empty, &["config"]);
    assert_eq!(code, Some(0), "{said}");
    let defaults = lb_with(&[], &["config"]).1;
    assert_eq!(said, defaults, "empty variables change nothing");
    let (code, help) = lb_with(&empty, &["--help"]);
    assert_eq!(code, Some(0), "{help}");
    let all = [("LB_BACKENDS", ""), ("LB_QUIET", ""), ("LB_REQUIRE_PASSWORD_FILE", "")];
    let (code, said) = lb_with(&all, &["config"]);
    assert_eq!(code, Some(2), "{said}");
    let named = ["LB_BACKENDS is set and empty", "LB_REQUIRE_PASSWORD_FILE is set and empty"];
    assert!(named.iter().all(|text| said.contains(text)), "both are named: {said}");
    assert!(!said.contains("LB_QUIET"), "{said}");
}

#[test]
fn a_user_who_may_not_read_is_warned_of_at_the_start() {
    let server = RedisServer::start();
    let url = |name: &str| format!("redis://{name}:x@{}", server.address());
    server.command(&["ACL", "SETUSER", "unread", "on", ">x", "~*", "+ping", "+select", "+info"]);
    server.command(&[
        "ACL", "SETUSER", "mute", "on", ">x", "~*", "+@read", "+ping", "+select", "+info",
    ]);
    server.command(&["ACL", "SETUSER", "mute", "-command"]);
    server.command(&["ACL", "SETUSER", "some", "on", ">x", "~app:*", "+@all"]);
    for (name, expected) in [("unread", "give it +@read"), ("mute", "lacks the right +command")] {
        let (_, log) = start(lb(&[&url(name)], &[]));
        assert_eq!(warnings(&log, &[&server.address(), expected]), 1, "{name}: {log}");
    }
    let (_, log) = start(lb(&[&url("some")], &[]));
    assert_eq!(warnings(&log, &["its user"]), 0, "{log}");
}

#[test]
fn a_flag_that_has_no_effect_beside_the_others_is_warned_of() {
    let backend = format!("127.0.0.1:{}", free_port());
    let (_, log) = start(lb(&[&backend], &["--zone", "eu", "--no-cache", "a*"]));
    assert_eq!(warnings(&log, &["--zone has no effect", "no backend is in this zone"]), 1, "{log}");
    assert_eq!(warnings(&log, &["--no-cache has no effect", "--cache SIZE"]), 1, "{log}");
    let variables = [("LB_BACKEND_TLS_SERVER_NAME", "a"), ("LB_BACKENDS", &*backend)];
    let (_, said) = lb_with(&variables, &["check"]);
    assert!(said.contains("warning: LB_BACKEND_TLS_SERVER_NAME has no effect: no"), "{said}");
}

#[test]
fn a_source_that_names_no_servers_at_the_start_is_told_with_what_to_do() {
    let primary = RedisServer::start();
    let sentinel = Sentinel::start_with(&primary, 1, "");
    for (url, what, advice) in [
        (format!("sentinel://{}/nobody", sentinel.address()), "No such master", "SENTINEL MASTERS"),
        (format!("sentinel://{}/name", primary.address()), "unknown command", "no Sentinel"),
        (format!("primary://{}", sentinel.address()), "does not say its role", "sentinel://"),
    ] {
        let (_, log) = start(lb(&[&url], &[]));
        assert_eq!(warnings(&log, &["names no servers yet", what, advice]), 1, "{url}: {log}");
        assert!(!log.contains("the last list holds on"), "there was none: {log}");
        assert!(!log.contains("leases"), "nobody has any: {log}");
        let (_, said) = lb_with(&[], &["check", "--backend", &url]);
        assert!(said.contains(what) && said.contains(advice), "{url}: {said}");
    }
}

#[test]
fn variables_that_lb_does_not_have_are_warned_of_but_for_those_of_kubernetes() {
    let variables =
        [("LB_BACKEND", "a:1"), ("LB_SERVICE_HOST", "a"), ("LB_PORT_1_TCP", "tcp://a:1")];
    let (code, said) = lb_with(&variables, &["config"]);
    assert_eq!(code, Some(0), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{said}");
    assert!(warnings[0].contains("LB_BACKEND is no variable of lb"), "{said}");
    assert!(warnings[0].contains("did you mean LB_BACKENDS?"), "{said}");
}

#[test]
fn what_is_typed_wrong_is_told_with_what_to_type() {
    for (arguments, expected) in [
        // Servers.
        (&["--backend", "::1:6379"][..], "as in [::1]:6379"),
        (&["--backend", "http://127.0.0.1:6379"], "write HOST:PORT of a Redis server"),
        (&["--backend", "tcp://127.0.0.1:6379"], "write HOST:PORT without tcp://"),
        (&["--backend", "localhost"], "as in localhost:6379"),
        (&["--backend", "6379"], "as in 127.0.0.1:6379"),
        (&["--backend", "127.0.0.1:70000"], "from 1 to 65535"),
        (&["--backend", "redis://host:6379/abc"], "the number of a database"),
        (&["--backend", "/run/redis.sock"], "redis+unix:///PATH"),
        (&["--backend", "redis://host:6379/1?db=2"], "two databases are named"),
        (&["--backend", "redis://host:6379?user=u&pass=hunter2"], "USER:PASSWORD@HOST:PORT"),
        (&["--backend", "redis://host:6379#3"], "a database comes after a /"),
        (&["--backend", "a:1,"], "is there a comma too many?"),
        (&["--backend", "a:1", "--backend", "a:1"], "name each one once"),
        (&["--backend", "127.0.0.1:1310"], "is where lb itself listens"),
        (
            &["--listen", "0.0.0.0:7000", "--backend", "localhost:7000"],
            "is where lb itself listens",
        ),
        (
            &["--listen", "127.0.0.1:7000", "--admin-listen", "127.0.0.1:7000"],
            "--admin-listen 127.0.0.1:7000 is where clients connect",
        ),
        (&["--backend"], "--backend"),
        // Words.
        (&["127.0.0.1:6379"], "lb --backend 127.0.0.1:6379"),
        (&["--backend", "a:1", "b:2"], "lb --backend b:2"),
        (&["check", "127.0.0.1:6379"], "--backend 127.0.0.1:6379"),
        (&["redis-lb.toml"], "--config redis-lb.toml"),
        (&["serve"], "lb without a command serves"),
        (&["reload"], "lb ctl"),
        // Flags.
        (&["-p", "1310"], "--listen 127.0.0.1:1310"),
        (&["--port", "1310"], "--listen 127.0.0.1:1310"),
        (&["--bind", "0.0.0.0"], "--listen ADDRESS:PORT"),
        (&["--host", "127.0.0.1"], "--listen ADDRESS:PORT"),
        (&["--backends", "a:1"], "--backend HOST:PORT"),
        (&["--workers", "4"], "--max-clients NUMBER"),
        (&["--password", "hunter2"], "redis://USER:PASSWORD@HOST:PORT"),
        (&["-listen", "127.0.0.1:1"], "write --listen, with two hyphens"),
        (&["—listen", "127.0.0.1:1"], "write --listen"),
        (&["--daemonize"], "systemd"),
        (&["-c", "a.toml"], "--config FILE"),
        (&["check", "--max-clients", "1"], "before check"),
        (&["--quiet", "true"], "has no value"),
        // Values.
        (&["--listen", "1310"], "write ADDRESS:PORT, such as 127.0.0.1:1310"),
        (&["--listen", ":1310"], "0.0.0.0:1310"),
        (&["--listen", "127.0.0.1:70000"], "from 0 to 65535"),
        (&["--max-clients", "many"], "a whole number, such as 4096"),
        (&["--allow-host", "*.example"], "there is no wildcard"),
        (&["--allow-host", "http://x.example"], "a name has no scheme"),
        (&["--config", "/no/such/file.toml"], "lb config > FILE writes one"),
        (&["--config", "/"], "is a directory"),
    ] {
        let (code, said) = lb_with(&[], arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    for (arguments, expected) in [
        (&["help"][..], "Usage: lb"),
        (&["version"], concat!("lb ", env!("CARGO_PKG_VERSION"))),
        (&["help", "check"], "Usage: lb check"),
        (&["check", "help"], "Usage: lb check"),
    ] {
        let (code, said) = lb_with(&[], arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn an_address_that_can_not_be_listened_on_is_told_with_the_reason() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let held = held.local_addr().map(|address| (address.to_string(), held)).expect("its address");
    let backend = format!("127.0.0.1:{}", free_port());
    for (listen, expected) in [
        (held.0.as_str(), "another program does so"),
        ("192.0.2.1:1310", "no network interface of this machine has it"),
    ] {
        let (code, said) = lb_with(&[], &["--listen", listen, "--backend", &backend]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected) && said.contains("--listen"), "{said}");
    }
}

/// The first bytes of a hello that `openssl` sends.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// Sends a hello from this address; returns the answer and how long it took to come.
fn say_hello(lb: &Balancer, from: Ipv4Addr) -> (Vec<u8>, Duration) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of this machine");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, lb.port()));
    socket.connect(&to.into()).expect("lb accepts");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let began = Instant::now();
    stream.write_all(HELLO).expect("lb reads");
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).expect("an alert");
    (alert.to_vec(), began.elapsed())
}

#[cfg(target_os = "linux")]
#[test]
fn tls_on_a_port_of_plain_text_is_answered_at_once_and_logged_once_for_each_address() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let addresses = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
    for _ in 0..2 {
        for address in addresses {
            let (alert, time) = say_hello(&lb, address);
            assert_eq!(alert, b"\x15\x03\x01\0\x02\x02\x28", "{}", alert.escape_ascii());
            // Nothing is waited for; the time of a request's head is ten.
            assert!(time < Duration::from_secs(5), "it took {time:?}");
        }
    }
    let lines =
        |address: &Ipv4Addr| lb.log().matches(&format!("{address} wants to speak TLS")).count();
    wait_until("the log tells", || addresses.iter().all(|address| lines(address) > 0));
    assert!(addresses.iter().all(|address| lines(address) == 1), "{}", lb.log());
    assert!(lb.log().contains("begins with http:// or redis://"), "{}", lb.log());
}

/// `seed` with these arguments in a folder with the file `rows.csv`, which gets `input` on standard input.
fn seed(content: &[u8], input: &[u8], arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("rows.csv"), content).expect("a file");
    seed_in(folder.path(), input, arguments)
}

fn seed_in(folder: &Path, input: &[u8], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(SEED);
    command.current_dir(folder).env_remove("LB_BACKENDS").args(arguments);
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("seed");
    // It may have ended without reading.
    let _ = process.stdin.take().expect("a pipe").write_all(input);
    let output = process.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn quotes_and_columns_that_are_wrong_are_an_error_with_their_line() {
    let server = RedisServer::start();
    for (content, expected) in [
        ("id,name\n1,\"a\"b\n", "rows.csv:2: there is text after the quote that ends a value"),
        ("id,name\r\n1,a\r\n2,\"a\" \r\n", "rows.csv:3: there is text after the quote"),
        ("id,name\n1,\"two\nlines\"x\n", "rows.csv:3: there is text after the quote"),
        ("id,\"na\"me\n1,a\n", "rows.csv:1: there is text after the quote"),
        ("id,name\n1, \"a\"\n", "rows.csv:2: there is a space before the quote"),
        ("id,,name\n1,a,b\n", "rows.csv:1: column 2 has no name"),
        ("id,name,\n1,a,\n", "rows.csv:1: column 3 has no name"),
        ("id, ,name\n1,a,b\n", "rows.csv:1: column 2 has no name"),
        (
            "id, name\n1, a\n",
            "rows.csv:1: the name of column 2, \" name\", begins or ends with a space",
        ),
        ("id,name\n1,a\n 2,b\n", "rows.csv:3: the id \" 2\" begins or ends with a space"),
        ("ID,name\n1,a\n", "rows.csv:1: no column \"id\", but \"ID\": write --id ID"),
        ("[{\"id\": 1}]", "rows.csv: is JSON"),
        ("id,name\n1,a,b\n2,\"c\"d\n", "rows.csv:2: the row has 3 columns"),
        (
            "id;name\n1;a;b\n",
            "rows.csv:2: the row has 3 columns, the header 2; look for a missing or extra semicolon",
        ),
    ] {
        let (code, said) =
            seed(content.as_bytes(), b"", &["rows.csv", "--backend", &server.address()]);
        assert_eq!(code, Some(2), "{content:?}: {said}");
        assert!(said.contains(expected), "{content:?}: {said}");
    }
    assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(0), "nothing was written");
    let fair = "id,name\n1,\"a \"\"b\"\"\"\n2,5\" disc\n3,\"\"\n";
    let (code, said) = seed(fair.as_bytes(), b"", &["rows.csv", "--backend", &server.address()]);
    assert_eq!(code, Some(0), "{said}");
    let name = |key: &str| {
        let value = server.command(&["HGET", key, "name"]);
        redis::from_redis_value::<String>(value).expect("text")
    };
    assert_eq!([name("actor:1"), name("actor:2"), name("actor:3")], ["a \"b\"", "5\" disc", ""]);
}

#[test]
fn other_delimiters_are_recognised_and_named_or_given() {
    let server = RedisServer::start();
    let name = || {
        let value = server.command(&["HGET", "actor:1", "name"]);
        redis::from_redis_value::<String>(value).expect("text")
    };
    for (content, arguments, expected, value) in [
        ("id,name\n1,a;b\n", &[][..], "1 row, all well-formed", "a;b"),
        ("id;name\n1;a,b\n", &[], "1 row, separated by semicolons, all well-formed", "a,b"),
        ("id\tname\n1\ta,b\n", &[], "separated by tabs", "a,b"),
        ("id|name\n1|a,b\n", &[], "separated by pipes", "a,b"),
        ("id^name\n1^a,b\n", &["--delimiter", "^"], "separated by '^'", "a,b"),
        ("id\tname\n1\ta\n", &["--delimiter", "tab"], "separated by tabs", "a"),
        ("id\tname\n1\ta\n", &["--delimiter", "\\t"], "separated by tabs", "a"),
    ] {
        let address = server.address();
        let arguments = [&["rows.csv", "--backend", &address], arguments].concat();
        let (code, said) = seed(content.as_bytes(), b"", &arguments);
        assert_eq!(code, Some(0), "{content:?}: {said}");
        assert!(said.contains(expected), "{content:?}: {said}");
        assert_eq!(name(), value, "{content:?}");
    }
    for (delimiter, expected) in
        [("ab", "write one character"), ("\"", "a quote"), ("", "write one character")]
    {
        let (code, said) = seed(b"id,name\n1,a\n", b"", &["rows.csv", "--delimiter", delimiter]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{delimiter:?}: {said}");
    }
}

#[test]
fn rows_may_come_from_standard_input() {
    let server = RedisServer::start();
    let rows: String = (1..=5000).map(|id| format!("{id};name {id}\n")).collect();
    let input = format!("id;name\n{rows}");
    let (code, said) = seed(b"", input.as_bytes(), &["-", "--backend", &server.address()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("standard input: 5000 rows, separated by semicolons"), "{said}");
    assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(5000));
    let (code, said) = seed(b"", b"id,name\n1,\"a\"b\n", &["-", "--backend", &server.address()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("standard input:2: there is text after the quote"), "{said}");
    let (code, said) = seed(b"", b"", &["-", "--backend", &server.address()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("standard input: is empty"), "{said}");
}

#[test]
fn seed_waits_for_a_server_that_is_loading_its_data() {
    let mut loading = RedisServer::start();
    let mut more = redis::Pipeline::new();
    (0..20_000).for_each(|n| _ = more.cmd("SET").arg(format!("more:{n}")).arg(1));
    more.cmd("SAVE").exec(&mut loading.connect()).expect("it takes them");
    loading.kill();
    loading.restart_slowly();
    let arguments = ["rows.csv", "--backend", &loading.address()];
    let (code, said) = seed(b"id,name\n1,a\n", b"", &arguments);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("waiting until its data are loaded"), "{said}");
    assert_eq!(loading.command(&["DBSIZE"]), redis::Value::Int(20_001));
}

#[test]
fn seed_says_that_a_server_is_no_redis_and_what_to_do() {
    let locked = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let (secured, _certificates) = redis_with_tls();
    let tls = format!("127.0.0.1:{}", secured.balanced_port());
    let behind = RedisServer::start();
    let lb = Balancer::start(&[&behind]);
    let sentinel = Sentinel::start_with(&behind, 1, "");
    let limited = RedisServer::start();
    limited.command(&["ACL", "SETUSER", "default", "-multi"]);
    let full = RedisServer::start_with(&["--maxmemory", "1"]);
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    for (address, expected) in [
        (stranger(Some(http), false), "it is no Redis server: it speaks HTTP there"),
        (stranger(Some(b"SSH-2.0-OpenSSH_9.2\r\n"), true), "it is no Redis server: it speaks SSH"),
        (stranger(None, false), "no reply within 5 s; is that a Redis server?"),
        (tls, "Is that a TLS port? Then write rediss://127.0.0.1:"),
        (locked.address(), "It wants a password: write redis://:PASSWORD@127.0.0.1:"),
        ("no-such-host.invalid:1".to_owned(), "its name does not resolve"),
        (format!("127.0.0.1:{}", free_port()), "Does Redis run there"),
        (sentinel.address(), "it is a Sentinel, which has no data"),
        (limited.address(), "Give its user what seed needs (ACL SETUSER)"),
        (full.address(), "Raise its maxmemory"),
        (format!("127.0.0.1:{}", lb.port()), "Name the servers behind it by --backend"),
    ] {
        let (code, said) = seed(b"id,name\n1,a\n", b"", &["rows.csv", "--backend", &address]);
        assert_eq!(code, Some(1), "{address}: {said}");
        assert!(said.contains(&format!("seed: {address} failed: ")), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for (url, expected) in [
        (format!("redis://{}/99", behind.address()), "name another in its URL"),
        (format!("rediss://{}", behind.address()), "If not, write redis://"),
        (
            format!("rediss://localhost:{}", secured.balanced_port()),
            "its certificate is signed by no CA that we trust",
        ),
    ] {
        let (code, said) = seed(b"id,name\n1,a\n", b"", &["rows.csv", "--backend", &url]);
        assert_eq!(code, Some(1), "{url}: {said}");
        assert!(said.contains(expected), "{url}: {said}");
    }
}

#[test]
fn what_seed_reads_of_a_url_is_what_it_writes_to() {
    let server = RedisServer::start();
    let url = format!("redis://{}?db=3", server.address());
    let (code, said) = seed(b"id,name\n1,a\n", b"", &["rows.csv", "--backend", &url]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(0), "database 0 has nothing");
    let lb = Balancer::start_at(&[url], &[]);
    assert_eq!(lb.get("/actor:1?field=name").json(), "a");
    let arguments =
        ["rows.csv", "--backend", &server.address(), "--backend-tls-ca", "/no/such/file"];
    let (code, said) = seed(b"id,name\n1,a\n", b"", &arguments);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--backend-tls-ca"), "{said}");
}

#[test]
fn what_is_typed_wrong_for_seed_is_told_with_what_to_type() {
    for (arguments, expected) in [
        (&["rows.csv", "127.0.0.1:6379"][..], "seed --backend 127.0.0.1:6379"),
        (&["127.0.0.1:6379"], "seed FILE --backend HOST:PORT"),
        (&["other.csv"], "check the name"),
        (&["rows.csv", "more.csv"], "one file at a time"),
        (&["rows.csv", "-p", "6379"], "--backend 127.0.0.1:6379"),
        (&["rows.csv", "--host", "a"], "--backend HOST:PORT"),
        (&["--file", "rows.csv"], "seed FILE"),
        (&["rows.csv", "--separator", ";"], "--delimiter"),
        (&["rows.csv", "--backend", "localhost"], "as in localhost:6379"),
        (&["rows.csv", "--backend", "sentinel://a:1/name"], "the address of each server"),
        (&["rows.csv", "--batch", "many"], "a whole number, such as 500"),
    ] {
        let (code, said) = seed(b"id,name\n1,a\n", b"", arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    for (word, expected) in [("help", "Usage: seed"), ("version", "seed 0")] {
        let (code, said) = seed(b"", b"", &[word]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let mut command = Command::new(SEED);
    command.env_clear().env("LB_BACKENDS", "");
    let (code, said) = run(command);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("LB_BACKENDS is set and empty"), "{said}");
}
