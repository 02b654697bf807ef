//! What `lb` says when it starts: what it serves, from where, and what will hurt.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::redis::{RedisServer, free_port};
use crate::support::{terminal, wait_until};

const LB: &str = env!("CARGO_BIN_EXE_lb");

/// The last words on standard output.
const LAST: &str = "randomkey";

/// What it says in the time that it takes to have said all that has to be said: standard output,
/// then the log.
pub(crate) fn start(mut command: Command) -> (String, String) {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = piped.spawn().expect("lb starts");
    let log = Arc::new(Mutex::new(String::new()));
    let errors = BufReader::new(process.stderr.take().expect("a pipe"));
    let collected = Arc::clone(&log);
    let collecting = thread::spawn(move || {
        for line in errors.lines().map_while(Result::ok) {
            *collected.lock().expect("no panic while it is held") += &format!("{line}\n");
        }
    });
    let mut said = String::new();
    for line in BufReader::new(process.stdout.take().expect("a pipe")).lines() {
        said += &format!("{}\n", line.expect("text"));
        if said.contains(LAST) {
            break;
        }
    }
    // The address is warned of last of what is said of every start; then come the backends. When it
    // ends in good order, all has been said.
    let kill = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
    assert!(kill.expect("kill").success());
    wait_until("lb ends", || process.try_wait().expect("its state").is_some());
    collecting.join().expect("no panic");
    let log = log.lock().expect("no panic while it is held").clone();
    (said, log)
}

pub(crate) fn lb(backends: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(LB);
    command.args(["--listen", "127.0.0.1:0"]).env_remove("LB_BACKENDS");
    // Those of the suite, which lb would warn of.
    for name in ["LB_TLS", "LB_TEST_CA", "LB_TEST_SEED", "LB_CHAOS_SECONDS"] {
        command.env_remove(name);
    }
    backends.iter().for_each(|backend| _ = command.args(["--backend", backend]));
    command.args(arguments);
    command
}

/// How many warnings contain all of these.
pub(crate) fn warnings(log: &str, words: &[&str]) -> usize {
    let is_one =
        |line: &&str| line.contains("WARN") && words.iter().all(|word| line.contains(word));
    log.lines().filter(is_one).count()
}

#[test]
fn the_start_says_where_it_listens_from_what_it_reads_and_what_can_be_tried() {
    let (full, empty) = (RedisServer::start(), RedisServer::start());
    full.command(&["MSET", "a", "1", "b", "2"]);
    let dead = format!("127.0.0.1:{}", free_port());
    let (full, empty) = (full.address(), empty.address());
    let (said, log) = start(lb(&[&full, &empty, &dead], &[]));
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).collect();
    let url = lines[0].last().expect("an address");
    assert!(said.starts_with("redis-lb ") && url.starts_with("http://127.0.0.1:"), "{said}");
    let line = |name: &str| {
        let mut of_it = lines.iter().filter(|words| words.first() == Some(&name));
        of_it.next().unwrap_or_else(|| panic!("{name} is not in\n{said}")).join(" ")
    };
    assert_eq!(line(&full), format!("{full} up primary, 2 keys"));
    assert!(line(&empty).starts_with(&format!("{empty} syncing ")), "{said}");
    assert!(line(&dead).contains(" down cannot connect: Connection refused"), "{said}");
    let port = url.trim_end_matches('/').rsplit(':').next().expect("a port");
    for to_try in
        [format!("{url}-/"), format!("curl '{url}?limit=10'"), format!("redis-cli -p {port} ")]
    {
        assert!(said.contains(&to_try), "{to_try} is not in\n{said}");
    }
    assert!(!said.contains('\u{1b}') && !said.contains("passed on"), "{said:?}");
    assert_eq!(warnings(&log, &[&dead, "does not answer"]), 1, "{log}");
    assert_eq!(warnings(&log, &["same server"]) + warnings(&log, &["can't be read"]), 0, "{log}");
}

#[test]
fn its_states_are_coloured_at_a_terminal_alone() {
    let server = RedisServer::start();
    let arguments = ["--listen", "127.0.0.1:0", "--backend", &server.address()];
    let coloured = terminal::shown(LB, &arguments, &[], LAST);
    assert!(coloured.contains("\u{1b}[32mup"), "{coloured:?}");
    let plain = terminal::shown(LB, &arguments, &[("NO_COLOR", "1")], LAST);
    assert!(plain.contains(" up ") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn two_addresses_of_one_server_and_a_database_that_is_not_there_are_warned_of() {
    let (doubled, other) = (RedisServer::start(), RedisServer::start());
    let (one, again) = (doubled.address(), format!("localhost:{}", doubled.port()));
    let wrong = format!("redis://{}/99", other.address());
    let (_, log) = start(lb(&[&one, &again, &wrong], &[]));
    assert_eq!(warnings(&log, &["same server", &one, &again]), 1, "{log}");
    assert_eq!(warnings(&log, &["database 99", &other.address()]), 1, "{log}");
    assert_eq!(warnings(&log, &["different databases"]), 1, "{log}");
    assert_eq!(warnings(&log, &["WARN"]), 3, "{log}");
}

#[test]
fn a_limit_of_threads_or_files_below_the_limit_of_clients_is_warned_of() {
    let server = RedisServer::start();
    let limited = |limits: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), LB]);
        command.args(["--listen", "127.0.0.1:0", "--backend", &server.address()]);
        command.args(["--max-clients", "4000"]);
        start(command).1
    };
    let log = limited("ulimit -u 1000 && ulimit -n 2000");
    assert_eq!(warnings(&log, &["1000 threads", "clients"]), 1, "{log}");
    assert_eq!(
        warnings(&log, &["2000 open files", "--max-clients 4000", "there may be 1790 clients"]),
        1,
        "{log}"
    );
}

#[test]
fn sockets_for_another_process_are_said_to_be_ignored() {
    let server = RedisServer::start();
    let mut command = lb(&[&server.address()], &[]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let (said, log) = start(command);
    assert!(!said.contains("passed on"), "{said}");
    assert_eq!(warnings(&log, &["LISTEN_FDS=1 is ignored", "LISTEN_PID=\"1\""]), 1, "{log}");
}

#[test]
fn a_socket_that_was_passed_on_is_named_at_the_start() {
    let server = RedisServer::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"", LB])
        .args(["--listen", "127.0.0.1:1", "--backend", &server.address()])
        .env("LISTEN_FDS", "1")
        .stdin(Stdio::from(OwnedFd::from(listener)));
    let (said, log) = start(command);
    assert!(said.contains(&format!("http://127.0.0.1:{port}/\n")), "{said}");
    assert!(said.contains("passed on to it; not on --listen"), "{said}");
    assert_eq!(warnings(&log, &["LISTEN_FDS"]), 0, "{log}");
}

#[test]
fn yes_and_no_are_understood_in_the_environment() {
    let run = |value: &str| {
        let mut command = Command::new(LB);
        command.args(["check", "--backend", "127.0.0.1:1"]);
        let output = command.env("LB_ALLOW_KEYS", value).env("LB_NO_REBALANCE", value).output();
        output.expect("lb").status.code()
    };
    for value in ["true", "false", "1", "0", "yes", "no", "on", "off"] {
        assert_eq!(run(value), Some(1), "{value}: nothing listens there, so the check fails");
    }
    assert_eq!(run("perhaps"), Some(2));
}
