//! Programs as people write them, with the usual client libraries, and Redis's own tools.
//!
//! `tests/clients/install.sh` installs the libraries; `make test` runs it.

use std::collections::BTreeSet;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Commands, Connection, ErrorKind, ServerErrorKind, Value};

use crate::support::balancer::Balancer;
use crate::support::certificates::Certificates;
use crate::support::redis::RedisServer;

/// No program takes a tenth of this.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A balancer in front of three servers with the data that the programs expect.
struct Site {
    servers: [RedisServer; 3],
    balancer: Balancer,
    /// Whom programs trust that speak TLS.
    certificates: Option<Certificates>,
}

impl Site {
    fn start() -> Self {
        Self::start_with(None)
    }

    /// A balancer that serves TLS alone.
    fn start_tls() -> Self {
        Self::start_with(Some(Certificates::new("ca")))
    }

    fn start_with(certificates: Option<Certificates>) -> Self {
        let servers = [(); 3].map(|()| RedisServer::start());
        servers.iter().for_each(load);
        let mut flags = vec!["--allow-scripts".to_owned()];
        if let Some(certificates) = &certificates {
            flags.extend(certificates.server().flags());
            flags.push("--tls-only".to_owned());
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let balancer = Balancer::start_with(&servers.each_ref(), &flags);
        Self { servers, balancer, certificates }
    }

    /// Runs a program that takes the port, the backends and the protocol, over both protocols.
    fn run(&self, program: impl Fn() -> Command) {
        for protocol in ["2", "3"] {
            let mut command = program();
            command.args([&self.port(), &self.backends(), protocol]);
            if let Some(certificates) = &self.certificates {
                command.env("LB_TEST_CA", certificates.ca());
            }
            run(&mut command, "");
        }
    }

    fn port(&self) -> String {
        self.balancer.port().to_string()
    }

    /// The servers' ports, separated by commas.
    fn backends(&self) -> String {
        self.servers.each_ref().map(|server| server.port().to_string()).join(",")
    }

    fn redis_cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port()]).args(arguments);
        command
    }
}

fn load(server: &RedisServer) {
    let mut commands = redis::pipe();
    commands.set("greeting", "hello").set("number", 42).set("binary", b"\0\xff\r\n$-1\r\n");
    commands.hset("hash", "name", "Ada").hset("hash", "role", "engineer");
    commands.rpush("list", &["a", "b", "c"]).sadd("set", &["x", "y", "z"]);
    commands.zadd("zset", "one", 1).zadd("zset", "two", 2.5);
    commands.cmd("XADD").arg(&["stream", "1-1", "event", "begin"]);
    commands.cmd("XADD").arg(&["stream", "2-1", "event", "end"]);
    for number in 0..1000 {
        let name = format!("m{number}");
        commands.set(format!("key:{number}"), number);
        commands.hset("long:hash", &name, number);
        commands.sadd("long:set", &name);
        commands.zadd("long:zset", &name, number);
    }
    commands.cmd("SELECT").arg(3).set("greeting", "hello from 3");
    commands.exec(&mut server.connect()).expect("loaded");
}

/// All keys of database 0.
fn keys() -> BTreeSet<String> {
    let some = "greeting number binary hash list set zset stream long:hash long:set long:zset";
    let many = (0..1000).map(|number| format!("key:{number}"));
    some.split(' ').map(str::to_owned).chain(many).collect()
}

#[test]
fn a_program_with_redis_py_works() {
    Site::start().run(|| python("redis_py.py"));
}

#[test]
fn a_program_with_ioredis_works() {
    Site::start().run(|| node("ioredis.js"));
}

#[test]
fn a_program_that_follows_a_stream_with_ioredis_works() {
    Site::start().run(|| node("follow.js"));
}

#[test]
fn a_program_with_node_redis_works() {
    Site::start().run(|| node("node_redis.js"));
}

#[test]
fn a_program_that_reads_a_queue_of_bullmq_works() {
    let site = Site::start();
    run(node("bullmq.js").args([&site.port(), &site.backends(), "2"]), "");
}

#[test]
fn programs_that_speak_tls_work() {
    let site = Site::start_tls();
    site.run(|| python("redis_py.py"));
    site.run(|| node("ioredis.js"));
}

#[test]
fn a_program_with_redis_rs_works() {
    let site = Site::start();
    for protocol in ["resp2", "resp3"] {
        let connect = |database| {
            let url = format!("redis://127.0.0.1:{}/{database}?protocol={protocol}", site.port());
            redis::Client::open(url).and_then(|client| client.get_connection()).expect("connected")
        };
        read_every_type(&mut connect(0)).expect("reads");
        read_at_once(&mut connect(0)).expect("a pipeline and a transaction");
        walk(&mut connect(0)).expect("cursors");
        assert_eq!(connect(3).get("greeting"), Ok("hello from 3".to_owned()));
        let refused = connect(0).set::<_, _, ()>("greeting", "bye").expect_err("a write");
        assert_eq!(refused.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly), "{refused}");
        hear_messages(&mut connect(0), &site).expect("messages");
    }
}

fn read_every_type(redis: &mut Connection) -> redis::RedisResult<()> {
    let text = |text: &str| text.to_owned();
    assert_eq!(redis.get("greeting"), Ok(text("hello")));
    assert_eq!(redis.get("nothing"), Ok(None::<String>));
    assert_eq!(redis.get("binary"), Ok(b"\0\xff\r\n$-1\r\n".to_vec()));
    let hash: Vec<(String, String)> = redis.hgetall("hash")?;
    assert_eq!(hash, [(text("name"), text("Ada")), (text("role"), text("engineer"))]);
    assert_eq!(redis.lrange("list", 0, -1), Ok(["a", "b", "c"].map(text).to_vec()));
    assert_eq!(redis.smembers("set"), Ok(BTreeSet::from(["x", "y", "z"].map(text))));
    assert_eq!(redis.zscore("zset", "two"), Ok(2.5));
    let entries: Value = redis::cmd("XRANGE").arg(&["stream", "-", "+"]).query(redis)?;
    assert!(format!("{entries:?}").contains("begin"), "{entries:?}");
    let info: String = redis::cmd("INFO").query(redis)?;
    assert!(info.contains("redis_version:"), "{info}");
    redis::cmd("CLIENT").arg(&["SETNAME", "reader"]).exec(redis)?;
    assert_eq!(redis::cmd("CLIENT").arg("GETNAME").query(redis), Ok(text("reader")));
    let script = "return redis.call('GET', KEYS[1])";
    assert_eq!(redis::cmd("EVAL_RO").arg(&[script, "1", "number"]).query(redis), Ok(42));
    Ok(())
}

fn read_at_once(redis: &mut Connection) -> redis::RedisResult<()> {
    let mut pipe = redis::pipe();
    for number in 0..500 {
        pipe.get(format!("key:{number}")).llen("list");
    }
    let found: Vec<(u32, u32)> = pipe.query::<Vec<u32>>(redis)?.chunks(2).map(pair).collect();
    assert_eq!(found, (0..500).map(|number| (number, 3)).collect::<Vec<_>>());
    let both = redis::pipe().atomic().get("greeting").scard("set").query(redis);
    assert_eq!(both, Ok(("hello".to_owned(), 3)));
    redis::cmd("WATCH").arg("greeting").exec(redis)?;
    assert_eq!(redis::pipe().atomic().get("number").query(redis), Ok((42,)));
    let write = redis::pipe().atomic().get("number").set("number", 43).exec(redis);
    assert!(write.is_err());
    assert_eq!(redis.get("number"), Ok(42));
    Ok(())
}

fn pair(both: &[u32]) -> (u32, u32) {
    (both[0], both[1])
}

fn walk(redis: &mut Connection) -> redis::RedisResult<()> {
    let found: redis::RedisResult<BTreeSet<String>> = redis.scan()?.collect();
    assert_eq!(found?, keys().into_iter().collect());
    let names: BTreeSet<String> = (0..1000).map(|number| format!("m{number}")).collect();
    let members: redis::RedisResult<BTreeSet<String>> = redis.sscan("long:set")?.collect();
    assert_eq!(members?, names);
    let fields: redis::RedisResult<Vec<(String, u32)>> = redis.hscan("long:hash")?.collect();
    assert_eq!(fields?.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), names);
    let scores: redis::RedisResult<Vec<(String, f64)>> = redis.zscan("long:zset")?.collect();
    assert_eq!(scores?.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), names);
    Ok(())
}

fn hear_messages(redis: &mut Connection, site: &Site) -> redis::RedisResult<()> {
    let publish = |message| {
        site.servers.iter().for_each(|to| drop(to.command(&["PUBLISH", "news", message])))
    };
    redis.set_read_timeout(Some(TIMEOUT))?;
    let mut subscriber = redis.as_pubsub();
    subscriber.subscribe("news")?;
    publish("first");
    assert_eq!(subscriber.get_message()?.get_payload(), Ok("first".to_owned()));
    subscriber.unsubscribe("news")?;
    subscriber.psubscribe("ne?s")?;
    publish("second");
    let message = subscriber.get_message()?;
    assert_eq!(message.get_pattern(), Ok("ne?s".to_owned()));
    assert_eq!(message.get_payload(), Ok("second".to_owned()));
    subscriber.punsubscribe("ne?s")?;
    drop(subscriber);
    assert_eq!(redis.get("greeting"), Ok("hello".to_owned()));
    Ok(())
}

#[test]
fn redis_cli_finds_all_keys() {
    let site = Site::start();
    let listed = run(&mut site.redis_cli(&["--scan"]), "");
    assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), keys());
    let listed = run(&mut site.redis_cli(&["--scan", "--pattern", "long:*"]), "");
    assert_eq!(listed.lines().count(), 3);
    let sizes = run(&mut site.redis_cli(&["--bigkeys"]), "");
    assert!(sizes.contains("Sampled 1011 keys"), "{sizes}");
    assert!(sizes.contains("found '\"long:hash\"' has 1000 fields"), "{sizes}");
    let sizes = run(&mut site.redis_cli(&["--memkeys"]), "");
    assert!(sizes.contains("Sampled 1011 keys"), "{sizes}");
}

#[test]
fn redis_cli_takes_commands_from_arguments_and_pipes() {
    let site = Site::start();
    let run_cli = |arguments: &[&str], input| run(&mut site.redis_cli(arguments), input);
    assert_eq!(run_cli(&["GET", "greeting"], ""), "hello\n");
    assert_eq!(run_cli(&["-n", "3", "GET", "greeting"], ""), "hello from 3\n");
    let replies = run_cli(&[], "GET greeting\nSELECT 3\nGET greeting\nSET greeting bye\n");
    let expected = "hello\nOK\nhello from 3\nREADONLY You can't write against a read only replica.";
    assert_eq!(replies.trim_end(), expected);
    let replies = run_cli(&[], "MULTI\nGET greeting\nLLEN list\nEXEC\n");
    assert_eq!(replies, "OK\nQUEUED\nQUEUED\nhello\n3\n");
    let map = run_cli(&["-3", "--no-raw", "HGETALL", "hash"], "");
    assert_eq!(map, "1# \"name\" => \"Ada\"\n2# \"role\" => \"engineer\"\n");
    let docs = run_cli(&["COMMAND", "DOCS", "GET"], "");
    assert!(docs.contains("value of a key"), "{docs}");
    let end = run_cli(&["--pipe"], &"*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n".repeat(1000));
    assert!(end.contains("errors: 0, replies: 1000"), "{end}");
}

#[test]
fn redis_cli_completes_commands_and_shows_statistics_at_a_terminal() {
    let site = Site::start();
    run(python("terminal.py").arg(site.port()), "");
}

#[test]
fn redis_benchmark_runs() {
    let site = Site::start();
    for more in [&["-t", "ping,get"][..], &["-t", "ping,get", "-3"], &["HGETALL", "hash"]] {
        for depth in ["1", "16"] {
            let mut benchmark = Command::new("redis-benchmark");
            benchmark.args(["-p", &site.port(), "-n", "2000", "-c", "20", "-q", "-P", depth]);
            let report = run(benchmark.args(more), "");
            assert!(report.contains("requests per second"), "{report}");
            assert!(!report.contains("rror from server"), "{report}");
        }
    }
}

fn python(program: &str) -> Command {
    program_of("venv/bin/python", program)
}

fn node(program: &str) -> Command {
    let mut command = program_of("node", program);
    command.env("NODE_PATH", installed("node_modules"));
    command
}

fn program_of(interpreter: &str, program: &str) -> Command {
    let mut command = Command::new(installed(interpreter));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(program));
    command
}

/// What `tests/clients/install.sh` has installed.
pub fn installed(what: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-clients").join(what);
    assert!(path.exists(), "no {}; bash tests/clients/install.sh makes it", path.display());
    path
}

/// Runs a program with this input, to its end; returns what it says. Panics if it fails.
pub fn run(command: &mut Command, input: &str) -> String {
    let mut output = tempfile::tempfile().expect("a file");
    let copy = || output.try_clone().expect("a file");
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(copy())
        .stderr(copy())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A program that does not read its input shows that by what it says.
    let _ = process.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        match process.try_wait().expect("the program's state") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        process.kill().and_then(|()| process.wait()).expect("the program's end");
    }
    let mut said = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut said)).expect("what it said");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(status.is_some_and(|status| status.success()), "{command:?}: {status:?}\n{said}");
    said
}
