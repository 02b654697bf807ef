//! `seed`: all servers get the same data, or a clear error says which did not and why.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::redis::{RedisServer, free_port};
use crate::support::wait_until;

type Hash = HashMap<Vec<u8>, Vec<u8>>;

/// A CSV file in a folder of its own, and the ways to load it.
struct Csv {
    folder: tempfile::TempDir,
}

impl Csv {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let csv = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        csv.write(content);
        csv
    }

    /// `rows` rows with the ids from 1 on and one value of `value_bytes` bytes each.
    fn with_rows(rows: usize, value_bytes: usize) -> Self {
        let value = "x".repeat(value_bytes);
        let lines = (1..=rows).map(|id| format!("{id},{id} {value}\n"));
        Self::new(format!("id,name\n{}", lines.collect::<String>()))
    }

    fn write(&self, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join("rows.csv"), content).expect("the file");
    }

    /// `seed rows.csv ARGS` in the file's folder.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seed"));
        command.current_dir(self.folder.path()).env_remove("LB_BACKENDS");
        command.arg("rows.csv").args(args);
        command
    }

    fn load(&self, backends: &[&str], args: &[&str]) -> Run {
        let backends = backends.iter().flat_map(|url| ["--backend", url]);
        let args: Vec<&str> = args.iter().copied().chain(backends).collect();
        Run::from(self.command(&args).output().expect("seed"))
    }
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Run {
    #[track_caller]
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }

    /// The words of the table's line about `backend`: the role is number 1, the keys number 2, and,
    /// after two times with their units, whether they were verified number 7.
    fn row(&self, backend: &str) -> Vec<&str> {
        let mut lines = self.stdout.lines().map(|line| line.split_whitespace().collect());
        lines.find(|words: &Vec<&str>| words[0] == backend).expect("a line of the table")
    }
}

/// A `seed` that runs in the background, with its stderr line by line.
struct Running {
    process: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = piped.spawn().expect("seed");
        let stderr = BufReader::new(process.stderr.take().expect("its stderr"));
        Self { process, stderr }
    }

    /// Reads stderr up to a line with `text`.
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let length = self.stderr.read_line(&mut line).expect("a line of text");
            assert!(length > 0, "seed ended without a word about {text:?}");
        }
    }

    fn finish(mut self) -> Run {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).expect("text");
        let mut run = Run::from(self.process.wait_with_output().expect("the end of seed"));
        run.stderr = stderr;
        run
    }
}

fn hash(server: &RedisServer, key: &str) -> Hash {
    redis::from_redis_value(server.command(&["HGETALL", key])).expect("a hash")
}

fn keys(server: &RedisServer) -> u64 {
    redis::from_redis_value(server.command(&["DBSIZE"])).expect("a number")
}

fn fields<const N: usize>(pairs: [(&str, &str); N]) -> Hash {
    pairs.map(|(name, value)| (name.into(), value.into())).into()
}

#[test]
fn three_servers_hold_the_file_byte_for_byte() {
    let csv = Csv::new(
        "\u{feff}name,\"no, or number\",née,text\r\n\
         \"Ana \"\"A\"\" B\",1,Łódź,\"two\r\nlines, one comma\"\r\n\
         \r\n\
         ,2,, spaces \r\n\
         日本,x y,🎬,\"tab\there\"",
    );
    let servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let addresses = servers.each_ref().map(RedisServer::address);
    let run = csv
        .load(
            &addresses.each_ref().map(String::as_str),
            &["--id", "no, or number", "--prefix", "f:g"],
        )
        .expect_code(0);
    for (server, address) in servers.iter().zip(&addresses) {
        assert_eq!(keys(server), 3);
        let first =
            fields([("name", "Ana \"A\" B"), ("née", "Łódź"), ("text", "two\r\nlines, one comma")]);
        assert_eq!(hash(server, "f:g:1"), first);
        let second = fields([("name", ""), ("née", ""), ("text", " spaces ")]);
        assert_eq!(hash(server, "f:g:2"), second);
        let third = fields([("name", "日本"), ("née", "🎬"), ("text", "tab\there")]);
        assert_eq!(hash(server, "f:g:x y"), third);
        let row = run.row(address);
        assert_eq!((row[1], row[2], row[7]), ("primary", "3", "yes"));
    }
}

#[test]
fn old_keys_are_replaced_whatever_they_held() {
    let server = RedisServer::start();
    server.command(&["HSET", "actor:1", "stale", "field", "name", "old"]);
    server.command(&["SET", "actor:2", "text"]);
    server.command(&["LPUSH", "actor:3", "element"]);
    server.command(&["SET", "other", "untouched"]);
    let csv = Csv::new("id,name\n1,a\n2,b\n3,c\n");
    for _first_and_again in 0..2 {
        csv.load(&[&server.address()], &[]).expect_code(0);
        assert_eq!(keys(&server), 4);
        for (key, name) in [("actor:1", "a"), ("actor:2", "b"), ("actor:3", "c")] {
            assert_eq!(hash(&server, key), fields([("name", name)]));
        }
    }
}

#[test]
fn no_row_is_lost_where_one_batch_ends_and_the_next_begins() {
    let server = RedisServer::start();
    for rows in [1, 3, 4, 5, 8, 9] {
        server.command(&["FLUSHALL"]);
        Csv::with_rows(rows, 10).load(&[&server.address()], &["--batch", "4"]).expect_code(0);
        assert_eq!(keys(&server), rows as u64);
    }
    server.command(&["FLUSHALL"]);
    // One batch has room for all of these rows, but not for all of their bytes.
    Csv::with_rows(12, 1 << 20).load(&[&server.address()], &["--batch", "10000"]).expect_code(0);
    assert_eq!(keys(&server), 12);
}

#[test]
fn a_bad_file_is_refused_before_any_connection_is_made() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "rows.csv: is empty"),
        (b"\xef\xbb\xbf", "rows.csv: is empty"),
        (b"\r\n\r\n", "rows.csv: is empty"),
        (b"id,name\r\n", "rows.csv: has a header but no rows"),
        (
            b"\n\nnumber,name\n1,a\n",
            "rows.csv:3: no column \"id\"; the columns are \"number\", \"name\"",
        ),
        (b"id,a,b,a\n1,2,3,4\n", "rows.csv:1: there are two columns \"a\""),
        (b"id\n1\n", "rows.csv:1: there is no column besides \"id\""),
        (b"id,name\n1,a\n,b\n", "rows.csv:3: the id (column \"id\") is empty"),
        (
            b"id,name\r\n1,\"two\r\nlines\"\r\n\r\n1,b\r\n",
            "rows.csv:5: the id \"1\" was in an earlier row",
        ),
        (b"id,name\n1,a\n2\n", "rows.csv:3: the row has 1 columns, the header 2"),
        (b"id,name\r\n1,a\r\n2,b,c\r\n", "rows.csv:3: the row has 3 columns, the header 2"),
        (b"id,name\n1,\"a\nb\"\n2,\xff\n", "rows.csv:4: column 2 is not valid UTF-8"),
        (b"id,na\xffme\n1,a\n", "rows.csv:1: column 2 is not valid UTF-8"),
        (
            b"id,name\n1,a\n2,\"b\n3,c\n",
            "rows.csv:3: a quote is opened in this row and never closed",
        ),
        (b"id,name\n1,a\n2,\"", "rows.csv:3: a quote is opened in this row and never closed"),
        (b"id,\"name\n1,a\n", "rows.csv:1: a quote is opened in this row and never closed"),
    ];
    for (content, message) in cases {
        expect_refusal(&Csv::new(content), &[], message);
    }
    let csv = Csv::new("id,name\n1,a\n");
    std::fs::remove_file(csv.folder.path().join("rows.csv")).expect("a file");
    expect_refusal(&csv, &[], "rows.csv: cannot be read (No such file");
    std::fs::create_dir(csv.folder.path().join("rows.csv")).expect("a folder");
    expect_refusal(&csv, &[], "rows.csv: is a directory");
}

/// Loads into a listener that counts as a backend and must not see a connection.
#[track_caller]
fn expect_refusal(csv: &Csv, args: &[&str], message: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    let run = csv.load(&[&address], args).expect_code(2);
    assert!(run.stderr.contains(message), "{message:?} is not in {:?}", run.stderr);
    listener.set_nonblocking(true).expect("the listener");
    assert!(listener.accept().is_err(), "a connection was made");
}

#[test]
fn a_row_without_end_is_refused_without_collecting_it() {
    let csv = Csv::new("id,name\n1,\"");
    let file = std::fs::File::options().append(true).open(csv.folder.path().join("rows.csv"));
    file.and_then(|file| file.set_len(1 << 34)).expect("a sparse file of 16 GiB");
    expect_refusal(&csv, &[], "rows.csv:2: the row is longer than 64 MiB");
}

#[test]
fn a_wrong_option_is_refused_and_no_password_repeated() {
    let csv = Csv::new("id,name\n1,a\n");
    expect_refusal(&csv, &["--batch", "0"], "0 is not in 1..=10000");
    expect_refusal(&csv, &["--batch", "10001"], "10001 is not in 1..=10000");
    let twice = ["--backend", "127.0.0.1:1", "--backend", "redis://:hunter2@127.0.0.1:1"];
    expect_refusal(&csv, &twice, "backend 127.0.0.1:1 is in the list twice");
    let wrong = Run::from(
        csv.command(&[]).env("LB_BACKENDS", "h:1,redis://:hunter2@h:0").output().expect("seed"),
    )
    .expect_code(2);
    assert!(wrong.stderr.contains("backend number 2 of the list: port 0"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("hunter2"), "{}", wrong.stderr);
    let help = csv.command(&["--help"]).env("LB_BACKENDS", "redis://:hunter2@h:1").output();
    let help = Run::from(help.expect("seed")).expect_code(0);
    assert!(
        help.stdout.contains("Examples:") && !help.stdout.contains("hunter2"),
        "{}",
        help.stdout
    );
}

#[test]
fn a_dead_backend_is_named_and_the_others_are_complete() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let dead = format!("127.0.0.1:{}", free_port());
    let csv = Csv::with_rows(1000, 10);
    let run = csv.load(&[&servers[0].address(), &dead, &servers[1].address()], &[]).expect_code(1);
    assert!(
        run.stderr.contains(&format!("seed: {dead} failed: cannot connect: Connection refused"))
    );
    assert_eq!(run.row(&dead)[7], "FAILED");
    for server in &servers {
        assert_eq!(keys(server), 1000);
        assert_eq!(run.row(&server.address())[7], "yes");
    }
}

#[test]
fn a_backend_that_dies_while_loading_is_named() {
    let mut server = RedisServer::start();
    // Frozen, so that it dies while it is being loaded.
    server.freeze();
    let csv = Csv::with_rows(1000, 10);
    let mut running = Running::start(csv.command(&["--backend", &server.address()]));
    running.wait_for("1000 rows");
    server.kill();
    let run = running.finish().expect_code(1);
    assert!(run.stderr.contains(&format!("seed: {} failed: ", server.address())), "{}", run.stderr);
}

#[test]
fn a_backend_that_refuses_writes_gives_its_reason() {
    let full = RedisServer::start_with(&["--maxmemory", "1"]);
    let run = Csv::with_rows(1000, 10).load(&[&full.address()], &[]).expect_code(1);
    assert!(run.stderr.contains("failed: OOM command not allowed"), "{}", run.stderr);
    assert_eq!(keys(&full), 0);
}

#[test]
fn a_backend_that_loses_rows_is_found_out() {
    let forgetful =
        RedisServer::start_with(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-random"]);
    let run = Csv::with_rows(20_000, 500).load(&[&forgetful.address()], &[]).expect_code(1);
    assert!(run.stderr.contains("is missing after loading"), "{}", run.stderr);
    assert_eq!(run.row(&forgetful.address())[7], "FAILED");
}

#[test]
fn a_file_that_changes_meanwhile_fails_the_backend() {
    let server = RedisServer::start();
    server.freeze();
    let csv = Csv::with_rows(1000, 10);
    let mut running = Running::start(csv.command(&["--backend", &server.address()]));
    running.wait_for("1000 rows");
    csv.write("id,name\n1,other\n");
    server.thaw();
    let run = running.finish().expect_code(1);
    assert!(run.stderr.contains("rows.csv: was changed while it was being read"), "{}", run.stderr);
}

#[test]
fn a_replica_is_waited_for_and_verified() {
    let primary =
        RedisServer::start_with(&["--requirepass", "hunter2", "--repl-diskless-sync-delay", "0"]);
    let port = primary.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let url = format!("redis://:hunter2@{}", primary.address());
    let csv = Csv::with_rows(1000, 10);
    let mut running =
        Running::start(csv.command(&["--backend", &replica.address(), "--backend", &url]));
    running.wait_for("done"); // the primary: the replica is not let in without a password
    assert_eq!(keys(&replica), 0);
    replica.command(&["CONFIG", "SET", "masterauth", "hunter2"]);
    let run = running.finish().expect_code(0);
    assert_eq!(keys(&replica), 1000);
    let row = run.row(&replica.address());
    assert_eq!((row[1], row[2], row[7]), ("replica", "1000", "yes"));
}

#[test]
fn a_replica_is_never_written_to() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let port = primary.port().to_string();
    let replica =
        RedisServer::start_with(&["--replica-read-only", "no", "--replicaof", "127.0.0.1", &port]);
    let run = Csv::with_rows(10, 10).load(&[&replica.address()], &[]).expect_code(1);
    assert_eq!(keys(&replica), 0);
    let reason =
        format!("this is a replica of {}: is that one among the backends", primary.address());
    assert!(run.stderr.contains(&reason), "{}", run.stderr);
}

#[test]
fn logs_in_without_showing_the_password() {
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let csv = Csv::with_rows(10, 10);
    let right = format!("redis://:hunter2@{}", server.address());
    let wrong = format!("redis://:hunter3@{}", server.address());
    let runs = [
        csv.load(&[&right], &[]).expect_code(0),
        csv.load(&[&wrong], &[]).expect_code(1),
        csv.load(&[&server.address()], &[]).expect_code(1),
    ];
    for run in &runs {
        assert!(!run.stdout.contains("hunter") && !run.stderr.contains("hunter"), "{}", run.stderr);
    }
    assert!(runs[1].stderr.contains("the login was refused"), "{}", runs[1].stderr);
    assert!(runs[2].stderr.contains("NOAUTH"), "{}", runs[2].stderr);
}

#[test]
fn a_unix_socket_and_another_database_will_do() {
    let server = RedisServer::start();
    let url = format!("redis+unix://{}?db=3", server.socket().display());
    Csv::with_rows(10, 10).load(&[&url], &[]).expect_code(0);
    assert_eq!(keys(&server), 0);
    let mut connection = server.connect();
    redis::cmd("SELECT").arg(3).exec(&mut connection).expect("database 3");
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut connection), Ok(10));
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_file() {
    let server = RedisServer::start();
    let csv = Csv::with_rows(100_000, 500); // 50 MB
    let mut process = csv
        .command(&["--backend", &server.address()])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("seed");
    let mut peak_kib = 0;
    wait_until("seed is done", || {
        peak_kib = peak_memory(process.id()).unwrap_or(peak_kib);
        process.try_wait().expect("the state of seed").is_some()
    });
    assert!(process.wait().expect("the end of seed").success());
    assert_eq!(keys(&server), 100_000);
    assert!((1..32_768).contains(&peak_kib), "{peak_kib} KiB");
}

/// The most memory that a process has had so far, in KiB; `None` once it has ended.
#[cfg(target_os = "linux")]
fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
