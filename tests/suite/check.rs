//! `lb check`: its text about the servers, and its exit code.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::redis::{RedisServer, free_port};
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::{SetOnDrop, terminal, wait_until};

const LB: &str = env!("CARGO_BIN_EXE_lb");

struct Run {
    code: Option<i32>,
    said: String,
}

/// Runs `lb check` on these addresses.
fn check<S: AsRef<str>>(backends: &[S], arguments: &[&str]) -> Run {
    let backends = backends.iter().flat_map(|url| ["--backend", url.as_ref()]);
    let all: Vec<&str> =
        ["check"].into_iter().chain(backends).chain(arguments.iter().copied()).collect();
    lb(&all)
}

fn lb(arguments: &[&str]) -> Run {
    let output = Command::new(LB).args(arguments).env_remove("LB_BACKENDS").output().expect("lb");
    let said = [output.stdout, output.stderr].concat();
    Run { code: output.status.code(), said: String::from_utf8(said).expect("text") }
}

impl Run {
    #[track_caller]
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.said);
        self
    }

    /// Expects all of these texts.
    #[track_caller]
    fn says(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.said.contains(text), "{text:?} is not in\n{}", self.said);
        }
    }

    /// Counts the lines that begin so.
    fn lines(&self, begin: &str) -> usize {
        self.said.lines().filter(|line| line.starts_with(begin)).count()
    }

    /// The last column of a server's line.
    fn data(&self, backend: &str) -> &str {
        let mut lines = self.said.lines().filter(|line| line.starts_with(backend));
        let line = lines.next().unwrap_or_else(|| panic!("{backend} is not in\n{}", self.said));
        line.split_whitespace().last().expect("words")
    }
}

/// Starts a server with a hundred strings, and a value of each other type; `order` shifts the order in
/// which elements are added.
fn server(order: usize) -> RedisServer {
    let server = RedisServer::start();
    fill(&server, order);
    server
}

fn fill(server: &RedisServer, order: usize) {
    let mut elements: Vec<String> = (0..50).map(|n| format!("element {n}")).collect();
    elements.rotate_left(order);
    let mut all = redis::Pipeline::new();
    for n in 0..100 {
        all.cmd("SET").arg(format!("string:{n}")).arg(n);
    }
    for element in &elements {
        all.cmd("HSET").arg("hash").arg(element).arg(1);
        all.cmd("SADD").arg("set").arg(element);
        all.cmd("ZADD").arg("zset").arg(1.5).arg(element);
    }
    all.cmd("RPUSH").arg("list").arg(&["a", "b"]);
    all.cmd("XADD").arg("stream").arg("1-1").arg(&["field", "value"]);
    all.cmd("SELECT").arg(3).cmd("SET").arg("other").arg("database");
    all.exec(&mut server.connect()).expect("it takes them");
}

fn set_all(server: &RedisServer, value: &str) {
    let mut all = redis::Pipeline::new();
    (0..100).for_each(|n| _ = all.cmd("SET").arg(format!("string:{n}")).arg(value));
    all.exec(&mut server.connect()).expect("it takes them");
}

#[test]
fn servers_with_the_same_data_are_good_in_whatever_order_they_keep_it() {
    let servers = [server(0), server(7), server(30)];
    let addresses = servers.each_ref().map(RedisServer::address);
    let run = check(&addresses, &[]).expect_code(0);
    run.says(&["good: 3 servers with 106 keys each; ", "sampled keys are equal", "primary", " ms"]);
    assert!(addresses.iter().all(|address| run.data(address) == "same"), "{}", run.said);
    assert!(!run.said.contains('\u{1b}'), "colours in a pipe: {:?}", run.said);
    assert_eq!(run.lines("wrong:") + run.lines("note:"), 0, "{}", run.said);
    // From the environment, and with flags on either side.
    let output = Command::new(LB).arg("check").env("LB_BACKENDS", addresses.join(",")).output();
    assert_eq!(output.expect("lb").status.code(), Some(0));
    let [one, other, _] = &addresses;
    lb(&["--backend", one, "check", "--backend", other]).expect_code(0).says(&["good: 2 servers"]);
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let server = server(0);
    let arguments = ["check", "--backend", &server.address()];
    let coloured = terminal::shown(LB, &arguments, &[], "");
    assert!(coloured.contains("\u{1b}[32myes"), "{coloured:?}");
    let plain = terminal::shown(LB, &arguments, &[("NO_COLOR", "1")], "");
    assert!(plain.contains("yes") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn a_server_that_cannot_be_read_from_is_named_with_the_reason_and_without_its_password() {
    let good = server(0);
    let dead = format!("127.0.0.1:{}", free_port());
    let locked = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let login = format!("redis://:hunter2@{}", locked.address());
    let client = redis::Client::open(login.as_str()).expect("a URL");
    redis::cmd("SET")
        .arg("a")
        .arg("b")
        .exec(&mut client.get_connection().expect("a login"))
        .expect("a key");
    let without = RedisServer::start_with(&["--rename-command", "AUTH", ""]);
    let [good, locked, without] = [&good, &locked, &without].map(RedisServer::address);
    for (url, why) in [
        (dead.clone(), "Connection refused (os error 111). Does Redis run there"),
        (locked.clone(), "NOAUTH Authentication required. It wants a password"),
        (format!("redis://:hunter3@{locked}"), "WRONGPASS"),
        (format!("redis://:hunter3@{without}"), "unknown command 'AUTH'"),
        (format!("redis://:hunter3@{good}/0"), "It has no password: leave it out"),
        ("redis://no-such-host.invalid:1".to_owned(), "its name does not resolve"),
    ] {
        let other = server(1);
        let run = check(&[&other.address(), &url], &[]).expect_code(1);
        run.says(&["wrong: ", "cannot be read from", why]);
        assert!(!run.said.contains("hunter"), "{}", run.said);
        assert_eq!(run.lines("wrong:"), 1, "{}", run.said);
    }
    check(&[&format!("redis://:hunter2@{locked}")], &[]).expect_code(0);
}

#[test]
fn a_silent_or_slow_server_does_not_hold_it_up() {
    let (good, silent, behind) = (server(0), server(1), server(2));
    silent.freeze();
    let slow = Relay::start(&behind);
    slow.add(&Rule::new(Fault::Bandwidth(1000)));
    let began = Instant::now();
    let addresses = [good.address(), silent.address(), slow.address()];
    let run = check(&addresses, &["--check-timeout", "300ms"]).expect_code(1);
    // All replies of the slow one would take minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    run.says(&["no answer to PING. Is that a Redis server? If so, is it frozen"]);
    run.says(&["300ms (--check-timeout)"]);
    assert_eq!(run.lines("wrong:"), 2, "{}", run.said);
    assert_eq!(run.said.matches(" yes ").count(), 1, "{}", run.said);
}

#[test]
fn what_falls_silent_or_breaks_while_keys_are_compared_is_named() {
    let (good, behind) = (server(0), server(1));
    for (fault, why) in [(Fault::Silence, "timed out"), (Fault::Reset, "connection lost")] {
        let relay = Relay::start(&behind);
        // PTTL is sent only when keys are compared.
        relay.add(&Rule::new(fault).asked("PTTL"));
        let began = Instant::now();
        let run = check(&[good.address(), relay.address()], &["--check-timeout", "300ms"]);
        // The silence never ends.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let run = run.expect_code(1);
        run.says(&[&format!("wrong: {} failed while keys were compared: {why}", relay.address())]);
        assert_eq!((run.lines("wrong:"), run.data(&relay.address())), (1, "-"), "{}", run.said);
    }
}

#[test]
fn a_server_that_is_loading_its_data_is_not_ready() {
    let mut loading = server(0);
    let mut more = redis::Pipeline::new();
    (0..20_000).for_each(|n| _ = more.cmd("SET").arg(format!("more:{n}")).arg(1));
    more.cmd("SAVE").exec(&mut loading.connect()).expect("it takes them");
    loading.kill();
    loading.restart_slowly();
    let other = server(1);
    let run = check(&[loading.address(), other.address()], &[]).expect_code(1);
    run.says(&[&format!("wrong: {} is not ready: ", loading.address()), "oading"]);
    assert_eq!(run.lines("wrong:"), 1, "{}", run.said);
}

#[test]
fn other_values_in_as_many_keys_are_found() {
    let servers = [server(0), server(1), server(2)];
    set_all(&servers[1], "other");
    servers[1].command(&["DEL", "string:1", "string:2"]);
    servers[1].command(&["MSET", "alien:1", "1", "alien:2", "2"]);
    let addresses = servers.each_ref().map(RedisServer::address);
    let run = check(&addresses, &[]).expect_code(1);
    run.says(&[&format!("wrong: {} holds other data than the others", addresses[1])]);
    run.says(&["with 106 keys each"]);
    assert_eq!(addresses.each_ref().map(|a| run.data(a)), ["same", "differs", "same"]);
    let run = check(&[&addresses[0], &addresses[1]], &[]).expect_code(1);
    run.says(&["hold different data"]);
    assert_eq!(run.lines("wrong:"), 1, "{}", run.said);
}

#[test]
fn a_server_with_fewer_keys_is_found_and_not_the_complete_one_blamed() {
    let (complete, short) = (server(0), RedisServer::start());
    let run = check(&[&complete.address(), &short.address()], &[]).expect_code(1);
    run.says(&[&format!("wrong: {} lacks keys: 0 there, 106 elsewhere", short.address())]);
    assert_eq!((run.data(&complete.address()), run.data(&short.address())), ("same", "differs"));
    assert_eq!(run.lines("wrong:"), 1, "{}", run.said);
    fill(&short, 3);
    check(&[&complete.address(), &short.address()], &[]).expect_code(0);
    // The totals are equal, but not those of each database.
    redis::pipe()
        .cmd("SELECT")
        .arg(3)
        .cmd("DEL")
        .arg("other")
        .cmd("SELECT")
        .arg(0)
        .cmd("SET")
        .arg("string:100")
        .arg(1)
        .exec(&mut short.connect())
        .expect("it takes them");
    check(&[&complete.address(), &short.address()], &[]).expect_code(1).says(&["lacks keys"]);
}

#[test]
fn keys_that_expire_or_are_being_written_are_no_difference() {
    let servers = [server(0), server(1)];
    let mut expiring = redis::Pipeline::new();
    (0..40).for_each(|n| {
        _ = expiring.cmd("SET").arg(format!("short:{n}")).arg(1).arg(&["EX", "1000"])
    });
    expiring.exec(&mut servers[0].connect()).expect("it takes them");
    servers[0].command(&["EXPIRE", "string:1", "1000"]);
    servers[1].command(&["EXPIRE", "string:1", "2000"]);
    let addresses = servers.each_ref().map(RedisServer::address);
    let run = check(&addresses, &[]).expect_code(0);
    run.says(&["note: ", "keys that expire may be why", "expired on some"]);
    servers[0].command(&["FLUSHALL"]);
    servers[1].command(&["FLUSHALL"]);
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetOnDrop(is_over);
        for server in &servers {
            let mut connection = server.connect();
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    redis::cmd("INCR").arg("counter").exec(&mut connection).expect("a number");
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let is_there =
            |server: &RedisServer| server.command(&["EXISTS", "counter"]) == redis::Value::Int(1);
        wait_until("it is written", || servers.iter().all(is_there));
        // If both happen to have the same number, they count as equal.
        check(&addresses, &[]).expect_code(0).says(&["1 sampled key"]);
    });
}

#[test]
fn large_values_are_compared_by_their_type_and_it_says_so() {
    let servers = [RedisServer::start(), RedisServer::start()];
    for (server, letter) in servers.iter().zip(["a", "b"]) {
        server.command(&["SET", "large", &letter.repeat(1 << 20)]);
        server.command(&["SET", &"name".repeat(2000), letter]);
    }
    let addresses = servers.each_ref().map(RedisServer::address);
    let run = check(&addresses, &[]).expect_code(0);
    run.says(&["1 of 1 sampled keys are equal, 1 compared by type only"]);
    servers[1].command(&["DEL", "large"]);
    servers[1].command(&["RPUSH", "large", "a"]);
    check(&addresses, &[]).expect_code(1).says(&["different data"]);
}

#[test]
fn two_addresses_of_one_server_are_named() {
    let (one, other) = (server(0), server(1));
    let again = format!("localhost:{}", one.port());
    let run = check(&[&one.address(), &again, &other.address()], &[]).expect_code(1);
    run.says(&[&format!("wrong: {} and {again} are the same server", one.address())]);
    run.says(&["2 servers with 106 keys each"]);
    assert_eq!(run.lines("wrong:"), 1, "{}", run.said);
}

#[test]
fn a_replica_is_as_good_as_its_primary_until_it_has_lost_it() {
    let mut primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    fill(&primary, 0);
    let port = primary.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    wait_until("the replica has its data", || {
        replica.command(&["EXISTS", "stream"]) == redis::Value::Int(1)
    });
    let addresses = [primary.address(), replica.address()];
    let run = check(&addresses, &[]).expect_code(0);
    run.says(&[&format!("replica of {}, link up", primary.address())]);
    primary.kill();
    wait_until("the replica has lost it", || {
        let info: String =
            redis::from_redis_value(replica.command(&["INFO", "replication"])).expect("text");
        info.contains("master_link_status:down")
    });
    let run = check(&[&replica.address()], &[]).expect_code(1);
    run.says(&["link down", &format!("a replica whose link to {} is down", primary.address())]);
}

#[test]
fn rights_that_are_missing_are_named() {
    let server = server(0);
    for (rights, code, lacks) in [
        ("+@all ~*", 0, "good: "),
        ("+@read +info +ping +select ~*", 0, "Redis clients need +command +echo +time too"),
        ("+@read +info +ping ~*", 1, "lb needs +select there"),
        ("+@read +ping +select ~*", 1, "lb needs +info there"),
        ("+info +ping +select ~*", 1, "lb needs +@read there"),
        ("+@read +info +ping +select ~string:*", 1, "lb needs ~* there"),
        ("", 1, "lb needs "),
    ] {
        let rule = format!("ACL SETUSER reader reset on >hunter2 {rights}");
        server.command(&rule.split_whitespace().collect::<Vec<_>>());
        let url = format!("redis://reader:hunter2@{}", server.address());
        let run = check(&[&url], &[]).expect_code(code);
        run.says(&[lacks]);
        assert!(!run.said.contains("hunter2"), "{}", run.said);
    }
}

#[test]
fn a_database_that_a_server_does_not_have_is_named() {
    let server = server(0);
    let run = check(&[&format!("redis://{}/99", server.address())], &[]).expect_code(1);
    run.says(&["has no database 99"]);
}

#[test]
fn servers_without_keys_where_clients_read_and_urls_of_different_databases_are_named() {
    let (server, empty) = (server(0), RedisServer::start());
    let other_database = format!("redis://{}/15", server.address());
    let run = check(&[&other_database], &[]).expect_code(1);
    run.says(&["has no keys in database 15"]);
    check(&[&empty.address()], &[]).expect_code(1).says(&["there are no keys at all"]);
    empty.command(&["SET", "a", "b"]);
    let run = check(&[&other_database, &empty.address()], &[]).expect_code(1);
    run.says(&["the URLs name different databases"]);
}

#[test]
fn what_was_typed_wrong_is_exit_code_2() {
    for (arguments, why) in [
        (&["check", "--backend", "localhost"][..], "HOST:PORT"),
        (&["check", "redis://:hunter2@h:1"], "unexpected argument"),
        (&["check", "--backend", "a:1,a:1"], "a:1 is in the list twice"),
        (&["--backend", "a:1", "check", "--backend", "a:1"], "a:1 is in the list twice"),
        (&["check", "--check-timeout", "1"], "such as 500ms"),
        (&["check", "--max-clients", "1"], "--max-clients"),
        (&["chekc"], "check"),
    ] {
        let run = lb(arguments).expect_code(2);
        run.says(&[why]);
        assert!(!run.said.contains("hunter2"), "{}", run.said);
    }
    lb(&["check", "--help"]).expect_code(0).says(&["Exit code:", "+@read", "LB_BACKENDS"]);
}
