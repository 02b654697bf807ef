//! The configuration file is read again while clients are served.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::observe::{leases, metric, states};
use crate::support::redis::{RedisServer, free_port, three_servers};
use crate::support::resp::RespClient;
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

/// Reloads under load. `RELOADS=100` makes it a hundred.
const RELOADS: usize = 15;

/// Threads that clients have had and that wait for a moment for others, and one for each shared connection.
const SPARE_THREADS: u64 = 24;

/// A configuration file of the test's own.
struct File {
    folder: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { folder: TempDir::new().expect("a folder") };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("redis-lb.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("the file");
    }
}

/// The tables of backends, each with a line of settings.
fn backends(servers: &[(&RedisServer, &str)]) -> String {
    let table = |(server, settings): &(&RedisServer, &str)| {
        format!("[[backend]]\nurl = \"{}\"\n{settings}\n", server.url())
    };
    servers.iter().map(table).collect()
}

fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--check-interval", "200ms", "--config"]).arg(file);
    command
}

fn start(file: &File) -> Balancer {
    Balancer::spawn(command(&file.path()))
}

fn status(lb: &Balancer) -> Value {
    serde_json::from_slice(&lb.get("/-/status.json").body).expect("JSON")
}

/// How many reloads were taken over, and how many were not.
fn reloads(lb: &Balancer) -> (u64, u64) {
    let configuration = &status(lb)["configuration"];
    let count = |name: &str| configuration[name].as_u64().expect("a number");
    (count("reloads"), count("failed_reloads"))
}

/// Has the file read again, and waits for the result.
fn reload(lb: &Balancer) {
    let before = reloads(lb);
    lb.signal("-HUP");
    wait_until("it is read again", || reloads(lb) != before);
}

fn names(lb: &Balancer) -> Vec<String> {
    let status = status(lb);
    let backends = status["backends"].as_array().expect("a list");
    backends.iter().map(|backend| backend["name"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn backends_limits_and_what_is_allowed_change_for_sessions_that_are_there() {
    let [a, b, c] = &three_servers();
    let file = File::new(&("quiet = true\n".to_owned() + &backends(&[(a, ""), (b, "")])));
    let lb = start(&file);
    let mut session = RespClient::connect(lb.port());
    assert!(session.command(&["KEYS", "*"]).starts_with(b"-"));
    file.write(
        &("max-clients = 77\nmax-memory = \"99MiB\"\nallow-keys = true\nlog-level = \"debug\"\n"
            .to_owned()
            + &backends(&[(b, "weight = 3"), (c, "")])),
    );
    reload(&lb);
    assert_eq!(names(&lb), [b.address(), c.address()]);
    wait_until("the new one is up", || states(&lb) == ["up", "up"]);
    let status = status(&lb);
    assert_eq!(status["clients"]["max"], 77);
    assert_eq!(status["memory"]["max_bytes"], 99 * 1024 * 1024);
    assert_eq!(status["backends"][0]["weight"], 3);
    assert_eq!(session.command(&["KEYS", "*"]), b"*1\r\n$7\r\nactor:1\r\n");
    drop(session);
    wait_until("sessions are logged", || lb.log().contains(" session "));
    let log = lb.log();
    let taken_over = "reload: taken over: max-clients, max-memory, allow-keys";
    assert!(log.contains("DEBUG") && log.contains(taken_over), "{log}");
    assert!(log.contains(&format!("added {}", c.address())), "{log}");
    assert_eq!(metric(&lb, "redis_lb_config_last_reload_successful"), 1.0);
}

#[test]
fn a_wrong_file_changes_nothing_and_the_page_and_the_log_say_why() {
    let [a, b, _] = &three_servers();
    let good = backends(&[(a, "")]);
    let file = File::new(&good);
    let lb = start(&file);
    for (text, reason) in [
        ("max-cleints = 5\n", ":1: there is no key max-cleints; did you mean max-clients?"),
        ("max-clients = 5\nrise = 0\n", ":2: "),
        ("listen = \"127.0.0.1:1\"\n", "overrides"),
        ("log-format = \"json\"\n", ":1: log-format can't change without a restart"),
        ("= 3\n", ":1: "),
    ] {
        file.write(&(text.to_owned() + &backends(&[(a, ""), (b, "")])));
        reload(&lb);
        if reason == "overrides" {
            wait_until("it is taken over", || names(&lb).len() == 2);
            let overridden = "listen has no effect, because --listen overrides it";
            wait_until("it is said", || lb.log().contains(overridden));
            file.write(&good);
            reload(&lb);
            continue;
        }
        let status = status(&lb);
        let refused = status["configuration"]["refused"]["reason"].as_str().expect("a reason");
        assert!(refused.contains(reason), "{text}: {refused}");
        wait_until("it is logged", || lb.log().contains(refused));
        assert_eq!(names(&lb), [a.address()], "{text}");
        assert_eq!(metric(&lb, "redis_lb_config_last_reload_successful"), 0.0);
    }
    fs::remove_file(file.path()).expect("it was there");
    reload(&lb);
    assert_eq!(names(&lb), [a.address()]);
    file.write(&good);
    reload(&lb);
    assert!(status(&lb)["configuration"]["refused"].is_null());
}

/// A file at random: some of the servers with some weights and other settings, or a broken one.
fn random_file(rng: &mut Rng, servers: &[RedisServer]) -> String {
    if rng.u8(..5) == 0 {
        return "[[backend]]\nurl = \"".to_owned();
    }
    let first = rng.usize(..servers.len());
    let mut chosen = Vec::new();
    for (at, server) in servers.iter().enumerate() {
        if at == first || rng.bool() {
            chosen.push((server, format!("weight = {}", rng.u8(1..=9))));
        }
    }
    let chosen: Vec<_> = chosen.iter().map(|(server, text)| (*server, text.as_str())).collect();
    let general = format!(
        "backend-timeout = \"{}ms\"\nmax-clients = {}\nbackend-connections = {}\nslow-start = \"{}s\"\n",
        rng.u16(900..2000),
        rng.u16(500..4000),
        rng.u16(40..200),
        rng.u8(..3),
    );
    general + &backends(&chosen)
}

#[test]
fn no_read_fails_and_no_session_ends_while_the_file_is_read_again_and_again() {
    let count = std::env::var("RELOADS").map_or(RELOADS, |text| text.parse().expect("a number"));
    let data = Arc::new(Data::new());
    let servers = [(); 3].map(|()| RedisServer::start());
    servers.iter().for_each(|server| data.load(server));
    let all: Vec<_> = servers.iter().map(|server| (server, "")).collect();
    let file = File::new(&backends(&all));
    let lb = start(&file);
    wait_until("all are up", || states(&lb) == ["up"; 3]);
    let threads_before = status(&lb)["process"]["threads"].as_u64().expect("a number");
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed);
    for _ in 0..count {
        file.write(&random_file(&mut rng, &servers));
        reload(&lb);
        std::thread::sleep(Duration::from_millis(rng.u64(..300)));
    }
    file.write(&backends(&all));
    reload(&lb);
    wait_until("all are up", || states(&lb) == ["up"; 3]);
    let report = crowd.finish();
    assert!(report.is_clean(), "seed {seed}: {report}");
    assert!(report.longest_stall() < Duration::from_secs(2), "seed {seed}: {report}");
    wait_until("all leases end", || leases(&lb).iter().sum::<usize>() == 0);
    wait_until("the threads of removed backends end", || {
        let threads = status(&lb)["process"]["threads"].as_u64().expect("a number");
        threads <= threads_before + SPARE_THREADS
    });
}

#[test]
fn a_server_that_is_replaced_by_none_that_answers_stays_even_if_it_fails_for_a_moment() {
    let [a, b, _] = &three_servers();
    let file = File::new(&backends(&[(a, "")]));
    let lb = start(&file);
    file.write(&format!("backend = [\"127.0.0.1:{}\"]\n", free_port()));
    reload(&lb);
    let left = format!("still read from, until a backend that is listed is up: {}", a.address());
    wait_until("it is said", || lb.log().contains(&left));
    wait_until("so is why", || lb.log().contains(" does not answer yet: "));
    a.freeze();
    wait_until("it is noticed", || states(&lb)[0] != "up");
    a.thaw();
    wait_until("it is up again", || states(&lb)[0] == "up");
    assert_eq!(lb.get("/actor:1").status, 200);
    // Without a backend, as an editor may leave it for a moment.
    file.write("");
    reload(&lb);
    assert_eq!(reloads(&lb), (1, 1));
    file.write(&backends(&[(b, "")]));
    reload(&lb);
    wait_until("it is corrected", || names(&lb) == [b.address()]);
    assert_eq!(lb.get("/actor:1").status, 200);
}

#[test]
fn without_a_file_a_hangup_is_ignored_and_said() {
    let server = RedisServer::start();
    let mut lb = Balancer::start(&[&server]);
    lb.signal("-HUP");
    wait_until("it is said", || lb.log().contains("SIGHUP is ignored"));
    assert!(lb.is_running());
}

#[test]
fn without_a_file_the_end_of_its_terminal_ends_it() {
    let server = RedisServer::start();
    let script = r#"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
while b"try http" not in shown:
    shown += os.read(terminal, 65536)
os.kill(pid, signal.SIGHUP)
try:
    while piece := os.read(terminal, 65536):
        shown += piece
except OSError:
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let output = Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_lb"), "--listen", "127.0.0.1:0"])
        .args(["--backend", &server.address()])
        .output()
        .expect("python3: is it installed?");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("the terminal was closed, so lb ends"), "{shown}");
}

#[test]
fn systemd_is_told_of_the_start_each_reload_and_the_end() {
    let server = RedisServer::start();
    let file = File::new(&backends(&[(&server, "")]));
    let path = file.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut command = command(&file.path());
    command.env("NOTIFY_SOCKET", &path);
    let mut lb = Balancer::spawn(command);
    let told = || {
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(told().trim_end(), "READY=1");
    lb.signal("-HUP");
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told().trim_end(), "READY=1");
    lb.signal("-TERM");
    assert_eq!(told().trim_end(), "STOPPING=1");
    assert!(lb.wait().success());
}
