//! Control at run time: `lb ctl`, HTTP over the control socket, and who may use it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::balancer::{Answer, Balancer};
use crate::support::data::Data;
use crate::support::observe::clients_of;
use crate::support::redis::{RedisServer, three_servers};
use crate::support::resp::RespClient;
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

const LB: &str = env!("CARGO_BIN_EXE_lb");

/// A user who is nobody else.
const NOBODY: &str = "65534";

/// A balancer with a control socket in a folder of its own.
struct Setup {
    folder: TempDir,
    lb: Balancer,
}

/// What a run of `lb ctl` has printed, and its exit code.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Setup {
    fn start(servers: &[&RedisServer], arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let lb = start_in(&folder, servers, arguments);
        Self { folder, lb }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn run(&self, arguments: &[&str]) -> Run {
        ctl(&self.socket(), arguments, "")
    }

    /// Runs `lb ctl`, which has to succeed; returns what it prints.
    #[track_caller]
    fn ctl(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
        run.out
    }

    fn http(&self, method: &str, target: &str) -> Answer {
        http(&self.socket(), format!("{method} {target} HTTP/1.1\r\nHost: lb\r\n\r\n").as_bytes())
    }

    fn status(&self) -> Value {
        self.http("GET", "/status").json()
    }

    /// What the status says of a server; null if it is not listed.
    fn backend(&self, server: &RedisServer) -> Value {
        let status = self.status();
        let backends = status["backends"].as_array().expect("a list");
        let found = backends.iter().find(|backend| backend["name"] == server.address());
        found.cloned().unwrap_or_default()
    }

    fn wait_for(&self, server: &RedisServer, state: &str) {
        wait_until(state, || self.backend(server)["state"] == state);
    }

    /// The client with this name, as the list has it.
    fn client(&self, name: &str) -> Value {
        let clients = self.http("GET", "/clients").json();
        let mut clients = clients["clients"].as_array().expect("a list").iter();
        clients.find(|client| client["name"] == name).cloned().unwrap_or_default()
    }

    /// A Redis client with this name.
    fn connect(&self, name: &str) -> RespClient {
        let mut client = RespClient::connect(self.lb.port());
        assert_eq!(client.call(&format!("CLIENT SETNAME {name}")), "+OK\r\n");
        client
    }
}

fn start_in(folder: &TempDir, servers: &[&RedisServer], arguments: &[&str]) -> Balancer {
    let control = folder.path().join("control");
    let usual = ["--check-interval=200ms", "--slow-start=200ms", "--control"];
    let control = control.to_str().expect("UTF-8");
    Balancer::start_with(servers, &[&usual[..], &[control], arguments].concat())
}

/// Runs `lb ctl` with this standard input.
fn ctl(socket: &Path, arguments: &[&str], input: &str) -> Run {
    let mut command = Command::new(LB);
    command.arg("ctl").arg("--control").arg(socket).args(arguments);
    run(command, input)
}

fn run(mut command: Command, input: &str) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    // It may have ended without reading.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("lb listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Sends bytes to the control socket; returns the answer.
fn http(socket: &Path, request: &[u8]) -> Answer {
    let mut stream = connect(socket);
    stream.write_all(request).expect("lb reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer and an end");
    Answer::parse(&bytes)
}

#[test]
fn each_change_is_made_by_lb_ctl_and_shown_to_people_and_programs() {
    let servers = three_servers();
    let [a, b, c] = servers.each_ref();
    let setup = Setup::start(&[a, b], &[]);
    let (one, other, third) = (a.address(), b.address(), c.address());
    assert!(setup.ctl(&["drain", &one]).starts_with(&format!("{one} is draining")));
    setup.wait_for(a, "draining");
    setup.ctl(&["weight", &other, "7"]);
    assert_eq!(setup.backend(b)["weight"], 7);
    assert_eq!(setup.backend(b)["overrides"]["weight"], 7);
    let shown = setup.ctl(&["status"]);
    let row =
        |name: &str| shown.lines().find(|line| line.starts_with(name)).expect("a row").to_owned();
    assert!(row(&one).contains(" draining ") && row(&one).contains(" drain "), "{shown}");
    assert!(row(&other).contains(" up ") && row(&other).contains(" weight "), "{shown}");
    setup.ctl(&["maint", &one]);
    setup.wait_for(a, "maint");
    setup.ctl(&["ready", &one]);
    setup.ctl(&["ready", &other]);
    setup.wait_for(a, "up");
    assert_eq!(setup.backend(b)["weight"], 1);
    setup.ctl(&["add", &format!("redis://{third}?weight=3")]);
    setup.wait_for(c, "up");
    assert_eq!(setup.backend(c)["overrides"]["added"], true);
    assert_eq!(setup.backend(c)["weight"], 3);
    setup.ctl(&["remove", &one]);
    assert_eq!(
        (setup.backend(a), &setup.status()["removed_backends"][0]),
        (Value::Null, &one.into())
    );
    assert!(setup.ctl(&["status"]).contains(&format!("removed at run time: {}", a.address())));
    let left: Vec<String> =
        serde_json::from_slice(&setup.http("GET", "/overrides").body).expect("a list");
    assert_eq!(left, [format!("{third}: added"), format!("{}: removed", a.address())]);
    assert_eq!(
        setup.lb.get("/-/status.json").json()["removed_backends"],
        setup.status()["removed_backends"]
    );
    setup.ctl(&["ready", &a.address()]);
    setup.wait_for(a, "up");
    setup.ctl(&["remove", &third]);
    assert_eq!(setup.backend(c), Value::Null);
    assert_eq!(setup.http("GET", "/overrides").json(), serde_json::json!([]));
    // The probe is logged from the level debug on.
    setup.ctl(&["log", "debug"]);
    setup.lb.get("/-/ready");
    wait_until("it is logged", || setup.lb.log().contains("GET /-/ready"));
    assert_eq!(setup.ctl(&["log", "default"]), "the log has the level info\n");
    let json: Value = serde_json::from_str(&setup.ctl(&["--json", "status"])).expect("JSON");
    assert_eq!(json["backends"].as_array().map(Vec::len), Some(2));
    let json: Value =
        serde_json::from_str(&setup.ctl(&["drain", &a.address(), "--json"])).expect("JSON");
    assert!(json["done"].as_str().is_some_and(|done| done.contains("is draining")));
    wait_until("each change is logged with its user", || {
        setup.lb.log().contains(": add ") && setup.lb.log().contains("control: user ")
    });
}

#[test]
fn a_reload_leaves_what_was_set_at_run_time_and_says_so() {
    let servers = three_servers();
    let [a, b, c] = servers.each_ref();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, socket) = (folder.path().join("lb.toml"), folder.path().join("control"));
    let write = |servers: &[&RedisServer], more: &str| {
        let urls: Vec<String> = servers.iter().map(|server| server.address()).collect();
        let text = format!(
            "listen = \"127.0.0.1:0\"\ncontrol = \"{}\"\n{more}\nbackend = {urls:?}\n",
            socket.display()
        );
        fs::write(&file, text).expect("a file");
    };
    write(&[a, b], "check-interval = \"200ms\"");
    let mut command = Command::new(LB);
    command.arg("--config").arg(&file);
    let setup = Setup { lb: Balancer::spawn(command), folder };
    let (one, other, third) = (a.address(), b.address(), c.address());
    setup.ctl(&["weight", &one, "5"]);
    setup.ctl(&["remove", &other]);
    setup.ctl(&["add", &third]);
    setup.ctl(&["log", "debug"]);
    write(&[a, b], "max-clients = 77\nlog-level = \"warn\"");
    let done = setup.ctl(&["reload"]);
    for line in [
        format!("{one} stays as it was set at run time: weight 5"),
        format!("{other} stays as it was set at run time: removed"),
        format!("{third} stays as it was set at run time: added"),
        "the log's level stays as it was set at run time: debug".to_owned(),
    ] {
        assert!(done.lines().any(|said| said == line), "{line} is not in\n{done}");
    }
    let status = setup.status();
    assert_eq!(status["clients"]["max"], 77);
    let names = status["backends"].as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|backend| backend["name"].as_str()).collect();
    assert_eq!(names, [Some(&*one), Some(&*third)]);
    // What the file has by now is no longer set at run time.
    write(&[b, c], "");
    setup.ctl(&["reload"]);
    setup.ctl(&["ready", &other]);
    wait_until("the list is that of the file", || {
        setup.backend(a) == Value::Null && setup.backend(b)["state"] == "up"
    });
    assert_eq!(setup.backend(c)["overrides"]["added"], false);
    write(&[b, c], "control-owner = \"root\"");
    let refused = setup.run(&["reload"]);
    assert!(refused.code == Some(1) && refused.err.contains("control-owner"), "{refused:?}");
    write(&[b, c], "no-such-key = 1");
    let refused = setup.run(&["reload"]);
    assert!(refused.code == Some(1) && refused.err.contains("no-such-key"), "{refused:?}");
    setup.ctl(&["log", "default"]);
}

#[test]
fn curl_does_what_lb_ctl_does() {
    let servers = three_servers();
    let [a, b, c] = servers.each_ref();
    let setup = Setup::start(&[a, b], &[]);
    let socket = setup.socket();
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-s", "--max-time", "20", "--unix-socket"]).arg(&socket).args(arguments);
        serde_json::from_str::<Value>(&run(command, "").out).expect("JSON")
    };
    assert!(curl(&["http://lb/"])["GET /status?since=N"].is_string());
    assert_eq!(curl(&["http://lb/backends"])["backends"][0]["name"], a.address());
    curl(&["-X", "POST", &format!("http://lb/backends/{}/drain", a.address())]);
    setup.wait_for(a, "draining");
    curl(&["-X", "PUT", &format!("http://lb/backends/{}/weight?value=9", b.address())]);
    assert_eq!(setup.backend(b)["weight"], 9);
    let url = format!("url=redis://{}", c.address());
    curl(&["-G", "-X", "POST", "--data-urlencode", &url, "http://lb/backends"]);
    setup.wait_for(c, "up");
    curl(&["-X", "DELETE", &format!("http://lb/backends/{}", a.address())]);
    assert_eq!(setup.backend(a), Value::Null);
    let error = curl(&["-d", "a=b", "http://lb/log"]);
    assert!(error["error"].as_str().is_some_and(|error| error.contains("--data-urlencode")));
}

#[test]
fn what_is_wrong_is_refused_with_a_reason() {
    let servers = three_servers();
    let [a, b, c] = servers.each_ref();
    let setup = Setup::start(&[a], &[]);
    let (one, none) = (a.address(), format!("127.0.0.1:{}", u32::from(a.port()) + 1));
    for (arguments, code, said) in [
        (&["drain", &none][..], 1, &*format!("there are {one}")),
        (&["ready", "x"], 1, "there is no backend x"),
        (&["remove", &one], 1, "is the only backend"),
        (&["add", &one], 1, "is there already"),
        (&["kill", "9999999"], 1, "there is no such client"),
        (&["reload"], 1, "there is no file to read again"),
        (&["add", "h"], 2, "it has no port"),
        (&["add", "-"], 2, "write HOST:PORT"),
        (&["weight", &one, "257"], 2, "from 0 to 256"),
        (&["weight", &one], 2, "<WEIGHT>"),
        (&["log", "trace"], 2, "possible values"),
        (&["fly"], 2, "unrecognized subcommand"),
        (&[], 2, "Usage"),
    ] {
        let run = setup.run(arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {run:?}");
        assert!(run.err.contains(said), "{arguments:?}: {run:?}");
    }
    assert_eq!(setup.status()["configuration"]["failed_reloads"], 0, "there was none to refuse");
    let removed = Setup::start(&[a, b], &[]);
    removed.ctl(&["remove", &one]);
    for arguments in [&["drain", &one][..], &["weight", &one, "2"], &["add", &one]] {
        let run = removed.run(arguments);
        assert!(run.code == Some(1) && run.err.contains("was removed at run time"), "{run:?}");
    }
    for (request, status) in [
        ("GET /x HTTP/1.1\r\nHost: lb\r\n\r\n", 404),
        ("GET /reload HTTP/1.1\r\nHost: lb\r\n\r\n", 405),
        ("POST /log?level=x HTTP/1.1\r\nHost: lb\r\n\r\n", 400),
        ("POST /status HTTP/1.1\r\nHost: lb\r\n\r\n", 405),
        ("*1\r\n$4\r\nPING\r\n", 400),
        ("GET /status HTTP/1.1\r\n\r\n", 400),
        (&format!("GET /{} HTTP/1.1\r\n", "x".repeat(70_000)), 414),
    ] {
        let answer = http(&setup.socket(), request.as_bytes());
        assert_eq!(answer.status, status, "{request:.40}");
        assert!(answer.json()["error"].is_string(), "{answer:?}");
        assert_eq!(answer.header("allow").is_some(), status == 405);
    }
    let answer = setup.http("POST", &format!("/backends/{none}/drain"));
    assert_eq!((answer.status, &answer.json()["backends"][0]), (404, &one.clone().into()));
    // A backend that is alone and up stays until the new one is up.
    setup.ctl(&["add", &format!("127.0.0.1:{}", crate::support::redis::free_port())]);
    let answer = setup.http("DELETE", &format!("/backends/{one}"));
    assert_eq!(answer.status, 202);
    assert_eq!(setup.lb.get("/actor:1").status, 200);
    setup.ctl(&["add", &c.address()]);
    wait_until("it is gone", || setup.backend(a) == Value::Null);
    assert_eq!(setup.lb.get("/actor:1").served_by(), c.address());
}

#[test]
fn many_at_once_are_served_beside_some_that_hang() {
    let servers = three_servers();
    let [a, b, _] = servers.each_ref();
    let setup = Setup::start(&[a, b], &[]);
    let mut hung: Vec<UnixStream> = (0..4).map(|_| connect(&setup.socket())).collect();
    hung[0].write_all(b"GET /status HT").expect("lb reads");
    thread::scope(|scope| {
        for server in [a, b] {
            let setup = &setup;
            scope.spawn(move || {
                for weight in 1..=20 {
                    let name = server.address();
                    let answer =
                        setup.http("POST", &format!("/backends/{name}/weight?value={weight}"));
                    assert_eq!(answer.status, 200);
                    assert_eq!(setup.backend(server)["weight"], weight);
                }
            });
        }
    });
    let mut answer = Vec::new();
    hung[0].read_to_end(&mut answer).expect("an end");
    assert_eq!(Answer::parse(&answer).status, 408);
    drop(hung);
    // Where all places are taken, the next waits until one that hangs is closed.
    let _crowd: Vec<UnixStream> = (0..8).map(|_| connect(&setup.socket())).collect();
    setup.ctl(&["status"]);
}

/// A copy of the program that every user may run, beside the socket.
fn for_all_users(setup: &Setup) -> PathBuf {
    let program = setup.folder.path().join("lb");
    fs::copy(LB, &program).expect("a copy");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, open.clone()).expect("its mode");
    fs::set_permissions(setup.folder.path(), open).expect("its mode");
    program
}

/// `lb ctl status` as another user; `None` if these tests don't run as root.
fn status_as_nobody(setup: &Setup, more: &[&str]) -> Option<Run> {
    if fs::metadata("/proc/self").expect("Linux").uid() != 0 {
        eprintln!("SKIPPED: only root can run a program as another user");
        return None;
    }
    let program = for_all_users(setup);
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={NOBODY}"), "--clear-groups"]).args(more).arg(program);
    command.args(["ctl", "--control"]).arg(setup.socket()).arg("status");
    Some(run(command, ""))
}

#[test]
fn only_the_owner_may_use_the_socket_and_a_group_that_is_named() {
    let server = RedisServer::start();
    let setup = Setup::start(&[&server], &[]);
    let file = fs::symlink_metadata(setup.socket()).expect("a socket");
    assert_eq!((file.mode() & 0o7777, file.file_type().is_socket()), (0o600, true));
    let Some(run) = status_as_nobody(&setup, &[]) else { return };
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("only root may use it (mode 600)"), "{run:?}");
    let setup = Setup::start(&[&server], &[&format!("--control-owner={NOBODY}")]);
    let file = fs::symlink_metadata(setup.socket()).expect("a socket");
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, 65534));
    let run = status_as_nobody(&setup, &[]).expect("root");
    assert_eq!(run.code, Some(0), "{run:?}");
    let setup = Setup::start(&[&server], &["--control-owner=:65534"]);
    let file = fs::symlink_metadata(setup.socket()).expect("a socket");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o660, 0, 65534));
    let run = status_as_nobody(&setup, &["--regid=65534"]).expect("root");
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn the_socket_lives_as_long_as_lb_and_replaces_nothing_that_is_in_use() {
    let server = RedisServer::start();
    let mut setup = Setup::start(&[&server], &[]);
    let socket = setup.socket();
    let mut second = Command::new(LB);
    second.args(["--listen=127.0.0.1:0", "--backend", &server.address(), "--control"]).arg(&socket);
    let refused = |command: Command, said: &str| {
        let run = run(command, "");
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.err.contains(said), "{run:?}");
    };
    refused(second, "is the control socket of another process that runs");
    setup.ctl(&["status"]);
    setup.lb.signal("-KILL");
    setup.lb.wait();
    let left = setup.run(&["status"]);
    assert!(left.code == Some(1) && left.err.contains("nobody listens at"), "{left:?}");
    setup.lb = start_in(&setup.folder, &[&server], &[]);
    setup.ctl(&["status"]);
    setup.lb.signal("-TERM");
    assert!(setup.lb.wait().success());
    assert!(!socket.exists());
    let gone = setup.run(&["status"]);
    assert!(gone.code == Some(1) && gone.err.contains("there is no socket"), "{gone:?}");
    let files = fs::read_dir(setup.folder.path()).expect("a folder").count();
    assert_eq!(files, 0, "nothing is left");
    let start = |path: &Path, more: &[&str]| {
        let mut command = Command::new(LB);
        command.args(["--listen=127.0.0.1:0", "--backend", &server.address(), "--control"]);
        command.arg(path).args(more);
        command
    };
    fs::write(&socket, "precious").expect("a file");
    refused(start(&socket, &[]), "is no socket, and is left as it is");
    assert_eq!(fs::read_to_string(&socket).expect("a file"), "precious");
    let no_socket = setup.run(&["status"]);
    assert!(no_socket.err.contains("is no socket"), "{no_socket:?}");
    refused(start(Path::new("/no/such/folder/control"), &[]), "can't make the control socket /no/");
    let nobody = ["--control-owner=no-such-user"];
    refused(start(&socket, &nobody), "there is no user no-such-user (--control-owner)");
    let wrong = run(start(&socket, &["--control-owner=a:b:c"]), "");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn drain_and_maintenance_by_the_socket_fail_no_read() {
    let data = Arc::new(Data::new());
    let servers = [(); 3].map(|()| RedisServer::start());
    servers.iter().for_each(|server| data.load(server));
    let [a, b, c] = servers.each_ref();
    let setup = Setup::start(&[a, b, c], &["--quiet"]);
    let crowd = Crowd::start(setup.lb.port(), &data, &KINDS, Habits::default(), seed());
    let mut idle = setup.connect("idle");
    idle.call("GET none");
    for server in [a, b, c] {
        let name = server.address();
        setup.ctl(&["drain", &name]);
        wait_until("it has no lease", || setup.backend(server)["leases"] == 0);
        assert_ne!(setup.client("idle")["backend"], name.as_str(), "it has moved");
        setup.ctl(&["ready", &name]);
        wait_until("it has leases again", || setup.backend(server)["leases"] != 0);
        setup.ctl(&["maint", &name]);
        wait_until("nobody is connected to it", || clients_of(server) == 0);
        setup.ctl(&["ready", &name]);
        setup.wait_for(server, "up");
    }
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}");
}

#[test]
fn backends_are_added_and_removed_under_load_and_fail_no_read() {
    let data = Arc::new(Data::new());
    let servers = [(); 3].map(|()| RedisServer::start());
    servers.iter().for_each(|server| data.load(server));
    let [a, b, c] = servers.each_ref();
    let setup = Setup::start(&[a, b], &["--quiet"]);
    let crowd = Crowd::start(setup.lb.port(), &data, &KINDS, Habits::default(), seed());
    for (added, removed) in [(c, a), (a, b), (b, c)] {
        let verb = if setup.status()["removed_backends"][0].is_null() { "add" } else { "ready" };
        let verb = if added.address() == c.address() { "add" } else { verb };
        setup.ctl(&[verb, &added.address()]);
        setup.wait_for(added, "up");
        wait_until("it is read from", || setup.backend(added)["leases"] != 0);
        setup.ctl(&["remove", &removed.address()]);
        wait_until("it is gone", || setup.backend(removed) == Value::Null);
    }
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 500, "{report}");
    assert_eq!(setup.http("GET", "/overrides").json(), serde_json::json!([]));
}

#[test]
fn the_list_of_clients_says_who_does_what_and_one_can_be_closed() {
    let servers = three_servers();
    let setup = Setup::start(&servers.each_ref(), &[]);
    let mut idle = setup.connect("idle");
    idle.call("HGETALL actor:1");
    let mut transaction = setup.connect("transaction");
    transaction.call("MULTI");
    let mut subscriber = setup.connect("subscriber");
    subscriber.call("SUBSCRIBE news");
    let mut busy = setup.connect("busy");
    let mut web = setup.lb.client();
    assert_eq!(web.get("/actor:1").status, 200);
    for server in &servers {
        server.freeze();
    }
    busy.send(&["GET", "none"]);
    wait_until("it is busy", || setup.client("busy")["command"] == "get");
    assert_eq!(setup.client("busy")["doing"], "busy");
    servers.iter().for_each(RedisServer::thaw);
    busy.reply();
    wait_until("all wait", || {
        ["idle", "busy"].iter().all(|name| setup.client(name)["doing"] == "idle")
            && setup.client("transaction")["doing"] == "transaction"
            && setup.client("subscriber")["doing"] == "subscribed"
    });
    let one = setup.client("idle");
    assert_eq!((&one["command"], &one["protocol"]), (&"hgetall".into(), &"resp".into()));
    let names: Vec<String> = servers.iter().map(RedisServer::address).collect();
    assert!(names.iter().any(|name| one["backend"] == name.as_str()), "{one}");
    assert!(one["idle_seconds"].as_f64() <= one["connected_seconds"].as_f64(), "{one}");
    assert_eq!(idle.call("CLIENT ID"), format!(":{}\r\n", one["id"]));
    let all = setup.http("GET", "/clients").json();
    assert_eq!((&all["total"], all["clients"].as_array().map(Vec::len)), (&5.into(), Some(5)));
    let http = all["clients"].as_array().expect("a list").iter();
    let http: Vec<_> = http.filter(|client| client["protocol"] == "http").collect();
    assert_eq!(
        (http.len(), &http[0]["doing"], &http[0]["backend"]),
        (1, &"idle".into(), &Value::Null)
    );
    assert!(
        setup
            .ctl(&["clients", "--limit", "2"])
            .ends_with("\n2 of 5 clients; --limit 5 shows all\n")
    );
    assert!(setup.ctl(&["clients"]).contains("subscriber"));
    // By its number, by its address, and one that speaks HTTP.
    let number = setup.client("subscriber")["id"].to_string();
    let address = setup.client("transaction")["address"].as_str().expect("an address").to_owned();
    let web_number = http[0]["id"].to_string();
    for client in [&number, &address, &web_number] {
        assert!(setup.ctl(&["kill", client]).ends_with("is closed\n"));
    }
    assert!(subscriber.is_closed() && transaction.is_closed() && web.is_at_end());
    assert_eq!(idle.call("PING"), "+PONG\r\n");
    wait_until("two are left", || setup.http("GET", "/clients").json()["total"] == 2);
    wait_until("the reason is logged", || {
        let log = setup.lb.log();
        log.contains(&format!("kill {number}")) && log.contains("closed: an operator has ended it")
    });
    assert_eq!(setup.run(&["kill", &number]).code, Some(1));
}

#[test]
fn nothing_is_controlled_by_the_ports_where_clients_connect() {
    let server = RedisServer::start();
    let admin = crate::support::redis::free_port();
    let setup = Setup::start(&[&server], &["--admin-listen", &format!("127.0.0.1:{admin}")]);
    let name = server.address();
    for (method, path) in [
        ("POST", "/reload".to_owned()),
        ("POST", format!("/backends/{name}/maint")),
        ("POST", format!("/-/backends/{name}/maint")),
        ("DELETE", "/clients/1".to_owned()),
    ] {
        assert_eq!(setup.lb.request(method, &path, &[]).status, 405, "{method} {path}");
        let url = format!("http://127.0.0.1:{admin}{path}");
        let request =
            ureq::http::Request::builder().method(method).uri(url).body(()).expect("right");
        let refused = ureq::run(request).expect_err("it is refused");
        assert!(matches!(refused, ureq::Error::StatusCode(405)), "{method} {path}: {refused}");
    }
    assert_eq!(setup.lb.get("/clients").status, 404);
    assert_eq!(setup.lb.get("/-/clients").status, 404);
    assert_eq!(setup.backend(&server)["admin"], "ready");
}

#[test]
fn the_socket_is_found_by_the_environment_and_by_a_file_that_may_be_wrong_otherwise() {
    let server = RedisServer::start();
    let setup = Setup::start(&[&server], &[]);
    let file = setup.folder.path().join("lb.toml");
    let text = format!("control = \"{}\"\nno-such-key = 1\n", setup.socket().display());
    fs::write(&file, text).expect("a file");
    let lb = || {
        let mut command = Command::new(LB);
        command.env_clear().arg("ctl");
        command
    };
    let mut by_file = lb();
    by_file.args(["status", "--config"]).arg(&file);
    let mut by_environment = lb();
    by_environment.arg("status").env("LB_CONTROL", setup.socket()).env("LB_CONFIG", "/none");
    for command in [by_file, by_environment] {
        let run = run(command, "");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.out.contains(&server.address()), "{run:?}");
    }
    let mut nowhere = lb();
    nowhere.arg("status");
    let run = run(nowhere, "");
    assert!(run.code == Some(2) && run.err.contains("--control PATH"), "{run:?}");
}

#[test]
fn a_password_of_an_added_backend_shows_nowhere() {
    let server = RedisServer::start();
    let secret = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let setup = Setup::start(&[&server], &["--log-level=debug"]);
    let url = format!("redis://:hunter2@{}", secret.address());
    let typed = setup.run(&["add", &url]);
    assert_eq!(typed.code, Some(0), "{typed:?}");
    assert!(typed.err.starts_with("warning: all users of this machine can see"), "{typed:?}");
    setup.wait_for(&secret, "up");
    setup.ctl(&["remove", &secret.address()]);
    let piped = ctl(&setup.socket(), &["add", "-"], &format!("{url}\n"));
    assert_eq!((piped.code, piped.err.as_str()), (Some(0), ""), "{piped:?}");
    setup.wait_for(&secret, "up");
    let again = ctl(&setup.socket(), &["add", "-"], &url);
    assert_eq!(again.code, Some(1));
    let wrong = setup.http("POST", "/backends?url=redis://:hunter2@h:99999");
    assert_eq!(wrong.status, 400);
    let wrong = String::from_utf8(wrong.body).expect("text");
    let shown = [typed.out, typed.err, piped.out, again.err, wrong, setup.lb.log()];
    let shown = shown.into_iter().chain([setup.ctl(&["status"]), setup.ctl(&["--json", "status"])]);
    for text in shown {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
