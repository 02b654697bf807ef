//! Users over the Redis protocol: logins, what each may read, reloads, guesses, limits.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::clients::installed;
use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::observe::transcript;
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};
use crate::users_http::basic;

/// Users as Redis has them: names and rules.
const USERS: &[(&str, &str)] = &[
    ("default", "on >main ~* &* +@all"),
    ("app", "on >secret ~app:* &news* +@read +@connection +@transaction +@pubsub -strlen"),
    ("off", "off >secret ~* &* +@all"),
];

/// Reloads under load. `RELOADS=100` makes it a hundred.
const RELOADS: usize = 20;

/// Files of the test's own.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that only its owner may read.
    pub fn write(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.path(name), text).expect("a file");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("a mode");
        self.path(name).to_str().expect("text").to_owned()
    }
}

pub fn acl_file(users: &[(&str, &str)]) -> String {
    users.iter().map(|(name, rules)| format!("user {name} {rules}\n")).collect()
}

pub fn tables(users: &[(&str, &str)]) -> String {
    let table = |(name, more): &(&str, &str)| format!("[[user]]\nname = \"{name}\"\n{more}\n");
    users.iter().map(table).collect()
}

pub fn command(file: &Path, servers: &[&RedisServer]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--config"]).arg(file);
    servers.iter().for_each(|server| _ = command.args(["--backend", &server.address()]));
    command
}

/// Has the configuration read again, which the control of the process tells in its log.
pub fn reload(lb: &Balancer) {
    let count = |lb: &Balancer| {
        let log = lb.log();
        log.matches("reload: taken over").count() + log.matches("reload: nothing has").count()
    };
    let before = count(lb);
    lb.signal("-HUP");
    wait_until("it is read again", || count(lb) > before);
}

/// Errors as Redis 7.2 words them; Redis 7.0 has other words for the same.
fn as_by_redis_7_2(said: &str) -> String {
    said.replace("this user has no permissions to run", "User app has no permissions to run")
        .replace(
            "this user has no permissions to access one of the keys used as arguments",
            "No permissions to access a key",
        )
        .replace(
            "this user has no permissions to access one of the channels used as arguments",
            "No permissions to access a channel",
        )
        .replace("the HELLO AUTH <user>", "the HELLO <proto> AUTH <user>")
}

/// How many logins over the Redis protocol have failed.
fn failed_logins(lb: &Balancer, login: &str) -> u64 {
    let answer = lb.request("GET", "/-/metrics", &[&basic(login)]);
    let text = String::from_utf8(answer.body).expect("text");
    let mut lines = text.lines();
    let count = lines
        .find_map(|line| line.strip_prefix("redis_lb_failed_logins_total{protocol=\"resp\"} "));
    count.and_then(|count| count.parse().ok()).expect(&text)
}

#[test]
fn clients_log_in_and_are_refused_as_by_a_redis_with_the_same_users() {
    let arguments: Vec<String> = USERS
        .iter()
        .flat_map(|(name, rules)| {
            let rules = rules.split(' ').map(str::to_owned);
            ["--user".to_owned(), (*name).to_owned()].into_iter().chain(rules)
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (redis, server, files) =
        (RedisServer::start_with(&arguments), RedisServer::start(), Files::new());
    let path = files.write("users.acl", &acl_file(USERS));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    let app = "AUTH app secret";
    for conversation in [
        // Before a login.
        &["GET a", "PING", "MULTI", "ACL WHOAMI", "SUBSCRIBE x", "NOSUCH", "GET", "CLIENT ID"][..],
        &["HELLO", "HELLO 3", "HELLO 4", "HELLO x", "HELLO 3 AUTH app", "HELLO 3 AUTH app wrong"],
        &["AUTH", "AUTH wrong", "AUTH app wrong", "AUTH nobody secret", "AUTH off secret"],
        &["AUTH a b c", "AUTH default main", "ACL WHOAMI", "GET a"],
        &[
            "AUTH main",
            "ACL WHOAMI",
            "AUTH main",
            "AUTH app wrong",
            "ACL WHOAMI",
            app,
            "ACL WHOAMI",
        ],
        &[app, "RESET", "GET app:1", "ACL WHOAMI", app, "GET app:1"],
        // What the user may.
        &[app, "GET app:1", "GET other", "MGET app:1 other", "STRLEN app:1", "SET app:1 x"],
        &[app, "INFO", "DBSIZE", "get app:1", "NOSUCH", "GET", "CONFIG GET save", "TIME"],
        &[app, "OBJECT ENCODING app:1", "OBJECT ENCODING other", "MEMORY USAGE other"],
        &[
            app,
            "SUBSCRIBE news",
            "UNSUBSCRIBE",
            "SUBSCRIBE other",
            "PSUBSCRIBE *",
            "PSUBSCRIBE news*",
        ],
        // Within a transaction.
        &[app, "MULTI", "GET app:1", "GET other", "GET app:1", "EXEC", "GET app:1"],
        &[app, "MULTI", "STRLEN app:1", "EXEC", "MULTI", "GET app:1", "EXEC"],
        &[app, "MULTI", "GET other", "DISCARD", "WATCH other", "WATCH app:1", "UNWATCH"],
    ] {
        let (ours, theirs) =
            (transcript(lb.port(), conversation), transcript(redis.port(), conversation));
        assert_eq!(ours, as_by_redis_7_2(&theirs), "{conversation:?}");
    }
    let greeting = RespClient::connect(lb.port()).call("HELLO 3 AUTH app secret SETNAME me");
    assert!(greeting.starts_with("%7\r\n"), "{greeting}");
    let mut client = RespClient::connect(lb.port());
    assert_eq!(client.call(app), "+OK\r\n");
    assert!(client.call("CLIENT INFO").contains(" user=app "));
}

#[test]
fn a_client_that_has_to_log_in_may_send_no_more_than_that_takes() {
    let arguments = ["--requirepass", "secret"];
    let (redis, server) = (RedisServer::start_with(&arguments), RedisServer::start());
    let files = Files::new();
    let path = files.write("password", "secret\n");
    let lb = Balancer::start_with(&[&server], &["--require-password-file", &path]);
    let long = "x".repeat(16 * 1024 + 1);
    for sent in [
        encode(&["AUTH", &long[1..]]),
        encode(&["AUTH", &long]),
        encode(&["MGET", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
        encode(&["MGET", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]),
        [encode(&["AUTH", "secret"]), encode(&["ECHO", &long])].concat(),
    ] {
        let [ours, theirs] = [lb.port(), redis.port()].map(|port| {
            let mut client = RespClient::connect(port);
            client.send_raw(&sent);
            String::from_utf8_lossy(&client.rest()).into_owned()
        });
        let begin = sent.escape_ascii().to_string();
        assert!(ours == theirs, "{}: {ours}, not {theirs}", &begin[..begin.len().min(80)]);
    }
}

#[test]
fn without_users_everybody_is_default_as_in_a_redis_without_any() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let conversation = [
        "ACL WHOAMI",
        "AUTH x",
        "AUTH default x",
        "AUTH app x",
        "HELLO 2 AUTH app x",
        "AUTH a b c",
        "GET a",
    ];
    assert_eq!(transcript(lb.port(), &conversation), transcript(server.port(), &conversation));
}

#[test]
fn a_password_from_the_environment_or_a_file_is_asked_for_and_shown_nowhere() {
    let (server, files) = (RedisServer::start(), Files::new());
    let file = files.write("lb.toml", &tables(&[("app", "rules = \"on >hunter2 ~* +@all\"")]));
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(arguments).args(["--config", &file]).envs(environment.iter().copied());
        let output = command.output().expect("lb runs");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"))
    };
    let [shown, _] = run(&["config"], &[("LB_REQUIRE_PASSWORD", "hunter2")]);
    assert!(shown.contains("require-password = \"…\"") && shown.contains("[[user]]"), "{shown}");
    assert!(shown.contains("rules = \"on #… ~* +@all\""), "{shown}");
    let [_, error] = run(&["--require-password", "", "config"], &[]);
    assert!(error.contains("empty"), "{error}");
    assert!(!format!("{shown}{error}").contains("hunter2"), "{shown}{error}");
    let mut command = command(Path::new(&file), &[&server]);
    command.env("LB_REQUIRE_PASSWORD", "hunter2").env("LB_LOG_LEVEL", "debug");
    let lb = Balancer::spawn(command);
    let said = transcript(lb.port(), &["GET a", "AUTH wrong-password", "AUTH hunter2", "GET a"]);
    assert!(said.starts_with("-NOAUTH ") && said.ends_with("+OK\n$-1\n+OK\n"), "{said}");
    wait_until("it is logged", || lb.log().contains("failed to log in as 'default'"));
    let log = lb.log();
    assert!(!log.contains("hunter2") && !log.contains("wrong-password"), "{log}");
    assert_eq!(failed_logins(&lb, "default:hunter2"), 1);
}

#[test]
fn places_that_contradict_each_other_are_named() {
    let files = Files::new();
    let users = files.write("users.acl", "user app on nopass ~* +@all\n");
    let password = files.write("password", "secret\n");
    let app = tables(&[("app", "rules = \"on nopass ~* +@all\"")]);
    let default = tables(&[("default", "rules = \"on nopass ~* +@all\"")]);
    for (text, arguments, why) in [
        (&app, &["--users-file", &users][..], "has the user app, and so has [[user]]"),
        (
            &default,
            &["--require-password-file", &password],
            "sets the password of the user default",
        ),
        (&app, &["--require-password-file", &password, "--require-password", "x"], "two passwords"),
        (&app, &["--users-file", "/nowhere"], "can't be read"),
        (&format!("{app}{app}"), &[], "user app is on line 1 too"),
        (&"[[user]]\nname = \"a\"\n".to_owned(), &[], ":1: this user has no rules"),
        (&app.replace("name", "nmae"), &[], "a user has no key nmae; did you mean name?"),
        (&app.replace("rules =", "max-clients = 0\nrules ="), &[], "max-clients must be a number"),
        (&app.replace("+@all", "+@all nonsense"), &[], ":3: user app: rule 5"),
    ] {
        let file = files.write("lb.toml", text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(["--config", &file]).args(arguments).arg("config");
        let output = command.output().expect("lb runs");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{text} {arguments:?}: {error}");
        assert!(error.contains(why), "{text} {arguments:?}: {error}");
    }
}

#[test]
fn the_usual_libraries_log_in() {
    let (server, files) = (RedisServer::start(), Files::new());
    server.command(&["SET", "app:1", "hello"]);
    let path = files.write("users.acl", &acl_file(USERS));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    let port = lb.port().to_string();
    let said = |command: &mut Command| {
        let output = command.output().expect("a program");
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).trim().to_owned()
    };
    let cli = |arguments: &[&str]| {
        let mut command = Command::new("redis-cli");
        said(command.args(["-p", &port, "--no-auth-warning"]).args(arguments))
    };
    assert_eq!(cli(&["--user", "app", "--pass", "secret", "GET", "app:1"]), "hello");
    assert_eq!(cli(&["-3", "--user", "app", "--pass", "secret", "GET", "app:1"]), "hello");
    assert!(cli(&["GET", "app:1"]).contains("NOAUTH Authentication required."));
    assert!(cli(&["--user", "app", "--pass", "secret", "GET", "other"]).contains("NOPERM "));
    let python = format!(
        "import redis\n\
         for protocol in (2, 3):\n    \
             r = redis.Redis(port={port}, username='app', password='secret', protocol=protocol)\n    \
             assert r.get('app:1') == b'hello'\n    \
             assert list(r.scan_iter()) == [b'app:1']\n\
         try:\n    redis.Redis(port={port}, username='app', password='x').ping()\n\
         except redis.AuthenticationError as error: print(error)"
    );
    let wrong = said(Command::new(installed("venv/bin/python")).args(["-c", &python]));
    assert_eq!(wrong, "invalid username-password pair or user is disabled.");
    let node = format!(
        "const Redis = require('ioredis');\n\
         const r = new Redis({{port: {port}, username: 'app', password: 'secret', enableReadyCheck: false}});\n\
         r.get('app:1').then((text) => {{ console.log(text); r.disconnect(); }});"
    );
    let mut command = Command::new(installed("node"));
    command.env("NODE_PATH", installed("node_modules")).args(["-e", &node]);
    assert_eq!(said(&mut command), "hello");
}

#[test]
fn scans_and_slow_reads_show_only_keys_that_the_user_may_read() {
    let (server, files) = (RedisServer::start(), Files::new());
    let mut pipe = redis::pipe();
    for number in 0..500 {
        pipe.set(format!("app:{number}"), number).set(format!("hidden:{number}"), number);
    }
    pipe.exec(&mut server.connect()).expect("loaded");
    let path = files.write("users.acl", &acl_file(USERS));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path, "--allow-keys"]);
    let mut client = RespClient::connect(lb.port());
    assert_eq!(client.call("AUTH app secret"), "+OK\r\n");
    for options in ["", " COUNT 10", " COUNT 1000", " MATCH *:1*", " MATCH hidden:*"] {
        let (mut cursor, mut keys, mut steps) = ("0".to_owned(), BTreeSet::new(), 0);
        loop {
            let reply = client.call(&format!("SCAN {cursor}{options}"));
            let lines: Vec<&str> = reply.split("\r\n").collect();
            cursor = lines[2].to_owned();
            keys.extend(
                lines.iter().filter(|line| line.contains(':')).map(|key| (*key).to_owned()),
            );
            steps += 1;
            if cursor == "0" {
                break;
            }
        }
        keys.retain(|key| !key.starts_with(':'));
        assert!(keys.iter().all(|key| key.starts_with("app:")), "{options}: {keys:?}");
        let expected = match options {
            " MATCH *:1*" => 111,
            " MATCH hidden:*" => 0,
            _ => 500,
        };
        assert_eq!(keys.len(), expected, "{options}, {steps} steps");
    }
    for refused in [
        "KEYS *",
        "RANDOMKEY",
        "PSUBSCRIBE *",
        "PSUBSCRIBE __key*__:*",
        "SUBSCRIBE __keyspace@0__:hidden:1",
    ] {
        let reply = client.call(refused);
        assert!(reply.starts_with("-NOPERM "), "{refused}: {reply}");
    }
}

#[test]
fn running_sessions_follow_their_users_when_these_change() {
    let (server, files) = (RedisServer::start(), Files::new());
    server.command(&["SET", "a", "1"]);
    let users = |rules: &[(&str, &str)]| {
        let rules: Vec<_> =
            rules.iter().map(|(name, rules)| (*name, format!("rules = \"{rules}\""))).collect();
        let rules: Vec<_> = rules.iter().map(|(name, rules)| (*name, rules.as_str())).collect();
        files.write("lb.toml", &tables(&rules))
    };
    let all = "on >x ~* &* +@all";
    let names = ["stays", "gone", "off", "less"];
    let file = users(&[("stays", all), ("gone", all), ("off", all), ("less", all)]);
    let lb = Balancer::spawn(command(Path::new(&file), &[&server]));
    let [mut stays, mut gone, mut off, mut less] = names.map(|name| {
        let mut client = RespClient::connect(lb.port());
        assert_eq!(client.call(&format!("AUTH {name} x")), "+OK\r\n");
        assert_eq!(client.call("GET a"), "$1\r\n1\r\n");
        client
    });
    let mut listener = RespClient::connect(lb.port());
    assert_eq!(listener.call("AUTH less x"), "+OK\r\n");
    assert!(listener.call("SUBSCRIBE news").starts_with('*'));
    assert_eq!(less.call("MULTI"), "+OK\r\n");
    assert_eq!(less.call("GET a"), "+QUEUED\r\n");
    users(&[
        ("stays", "on >another ~* &* +@all"),
        ("off", "off >x ~* &* +@all"),
        ("less", "on >x ~b resetchannels +@read +@transaction"),
    ]);
    reload(&lb);
    assert_eq!(stays.call("GET a"), "$1\r\n1\r\n");
    assert!(less.call("EXEC").starts_with("-EXECABORT "));
    assert!(less.call("GET a").starts_with("-NOPERM "));
    assert_eq!(less.call("GET b"), "$-1\r\n");
    for client in [&mut gone, &mut off] {
        client.send(&["GET", "a"]);
        assert!(client.is_closed());
    }
    assert!(listener.is_closed());
    wait_until("the reasons are logged", || {
        let log = lb.log();
        ["user gone is gone or off", "user off is gone or off", "may not have its subscriptions"]
            .iter()
            .all(|reason| log.contains(reason))
    });
    assert!(RespClient::connect(lb.port()).call("AUTH stays x").starts_with("-WRONGPASS "));
    // From users to none, and back.
    files.write("lb.toml", "");
    reload(&lb);
    let mut anonymous = RespClient::connect(lb.port());
    assert_eq!(anonymous.call("GET a"), "$1\r\n1\r\n");
    users(&[("stays", all)]);
    reload(&lb);
    assert_eq!(anonymous.call("GET a"), "-NOAUTH Authentication required.\r\n");
}

#[test]
fn users_are_reloaded_under_load_and_no_read_of_one_that_stays_fails() {
    let servers = [(); 3].map(|()| RedisServer::start());
    let seed = seed();
    let data = Arc::new(Data::new());
    servers.iter().for_each(|server| data.load(server));
    let count = std::env::var("RELOADS").map_or(RELOADS, |text| text.parse().expect("a number"));
    let files = Files::new();
    let users = |number: usize| {
        let rules = format!("rules = \"on >{number} ~app:{number}:* +@read\"");
        // Clients that do not log in are restricted by a pattern that lets all of their keys pass.
        let open = "rules = \"on nopass ~* &* +@all\"";
        files.write("lb.toml", &tables(&[("default", open), ("app", &rules)]))
    };
    let file = users(0);
    let lb = Balancer::spawn(command(Path::new(&file), &servers.each_ref()));
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed);
    for number in 1..=count {
        users(number);
        reload(&lb);
        let mut client = RespClient::connect(lb.port());
        assert_eq!(client.call(&format!("AUTH app {number}")), "+OK\r\n");
    }
    let report = crowd.finish();
    assert!(report.is_clean(), "seed {seed}: {report}");
}

#[test]
fn an_address_that_goes_on_guessing_is_slowed_and_others_are_served() {
    let (server, files) = (RedisServer::start(), Files::new());
    let password = files.write("password", "secret\n");
    let lb = Balancer::start_with(&[&server], &["--require-password-file", &password]);
    let mut guesser = RespClient::connect(lb.port());
    for number in 0..10 {
        assert!(guesser.call(&format!("AUTH {number}")).starts_with("-WRONGPASS "));
    }
    let began = Instant::now();
    assert!(guesser.call("AUTH 11").starts_with("-WRONGPASS "));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    // A right password is told from a wrong one no sooner.
    let began = Instant::now();
    assert_eq!(guesser.call("AUTH secret"), "+OK\r\n");
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let mut there = RespClient::connect(lb.port());
    let mut many: Vec<_> = (0..20).map(|_| RespClient::connect(lb.port())).collect();
    many.iter_mut().for_each(|client| client.send(&["AUTH", "x"]));
    // What was right from this address before is right at once, whoever guesses there.
    assert_eq!(there.call("AUTH secret"), "+OK\r\n");
    assert_eq!(there.call("GET a"), "$-1\r\n");
    let refused =
        many.iter_mut().map(RespClient::reply).filter(|reply| reply.starts_with(b"-ERR "));
    assert!(refused.count() >= 4);
    assert!(failed_logins(&lb, "default:secret") >= 31);
    assert!(lb.log().matches("failed to log in").count() <= 10, "{}", lb.log());
}

#[test]
fn clients_that_have_to_log_in_make_room_whatever_they_send() {
    let (server, files) = (RedisServer::start(), Files::new());
    let password = files.write("password", "secret\n");
    let flags = ["--require-password-file", &password, "--max-clients", "20"];
    let lb = Balancer::start_with(&[&server], &flags);
    let mut crowd: Vec<_> = (0..20)
        .map(|_| {
            let mut client = RespClient::connect(lb.port());
            client.send_raw(b"PING\r\n*2\r\n$4\r\nAUTH\r\n");
            assert!(client.reply().starts_with(b"-NOAUTH "));
            client
        })
        .collect();
    wait_until("a newcomer logs in", || {
        let mut client = RespClient::connect(lb.port());
        client.call("AUTH secret") == "+OK\r\n" && client.call("GET a") == "$-1\r\n"
    });
    crowd.clear();
}

#[test]
fn keyspace_channels_are_not_listed_for_a_user_who_may_not_read_all_keys() {
    let (server, files) = (RedisServer::start(), Files::new());
    let users = [("app", "on >x ~app:* &* +@all"), ("all", "on >x ~* &* +@all")];
    let path = files.write("users.acl", &acl_file(&users));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    let mut client = RespClient::connect(lb.port());
    assert_eq!(client.call("AUTH app x"), "+OK\r\n");
    for (command, expected) in [
        ("PUBSUB CHANNELS", "-NOPERM "),
        ("PUBSUB channels __key*", "-NOPERM "),
        ("PUBSUB CHANNELS news*", "*0\r\n"),
    ] {
        assert!(client.call(command).starts_with(expected), "{command}");
    }
    assert_eq!(client.call("AUTH all x"), "+OK\r\n");
    assert_eq!(client.call("PUBSUB CHANNELS"), "*0\r\n");
}

#[test]
fn a_user_over_a_limit_waits_and_then_gets_an_error() {
    let (server, files) = (RedisServer::start(), Files::new());
    server.command(&["SET", "long", &"x".repeat(10_000)]);
    let rules = "rules = \"on >x ~* &* +@all\"\n";
    let user = |limits: &str| format!("{rules}{limits}");
    let users = [
        ("default", user("max-requests-per-second = 20").replace(">x", "nopass")),
        ("bytes", user("max-bytes-per-second = \"50kB\"")),
        ("clients", user("max-clients = 2")),
        ("free", user("")),
    ];
    let users: Vec<_> = users.iter().map(|(name, more)| (*name, more.as_str())).collect();
    let file = files.write("lb.toml", &tables(&users));
    let lb = Balancer::spawn(command(Path::new(&file), &[&server]));
    let mut client = RespClient::connect(lb.port());
    // A second's worth at once, a second's worth that waits, and the rest is refused.
    for _ in 0..100 {
        client.send(&["GET", "a"]);
    }
    let began = Instant::now();
    let replies: Vec<_> = (0..100).map(|_| client.reply()).collect();
    let refused =
        replies.iter().filter(|reply| reply.starts_with(b"-ERR user default is over its limit"));
    assert!(refused.count() > 0 || began.elapsed() > Duration::from_secs(3));
    let answered = replies.iter().filter(|reply| *reply == b"$-1\r\n").count();
    assert!(answered >= 40, "{answered}");
    let logged_in = |name: &str| {
        let mut client = RespClient::connect(lb.port());
        let said = client.call(&format!("AUTH {name} x"));
        (client, said)
    };
    let (mut free, _) = logged_in("free");
    let began = Instant::now();
    (0..200).for_each(|_| assert_eq!(free.call("GET a"), "$-1\r\n"));
    assert!(began.elapsed() < Duration::from_secs(5));
    let (mut bytes, _) = logged_in("bytes");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(bytes.command(&["GET", "long"]).len(), 10_000 + 10);
    }
    assert!(began.elapsed() >= Duration::from_millis(2500), "{:?}", began.elapsed());
    let (one, other) = (logged_in("clients"), logged_in("clients"));
    assert_eq!([&one.1, &other.1], ["+OK\r\n"; 2]);
    assert_eq!(logged_in("clients").1, "-ERR user clients has as many clients as it may have\r\n");
    drop(one);
    wait_until("its place is free", || logged_in("clients").1 == "+OK\r\n");
    let metrics = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    assert!(metrics.contains("redis_lb_user_clients{user=\"free\"} 1"), "{metrics}");
    assert!(
        metrics.contains("redis_lb_user_throttled_requests_total{user=\"bytes\"}"),
        "{metrics}"
    );
}
