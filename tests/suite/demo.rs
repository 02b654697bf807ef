//! `load_data.sh`, as `make demo` runs it, but on free ports and without building the loader.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::redis::free_port;

/// A copy of the script in a folder of its own; what it started ends when this is dropped.
struct Demo {
    folder: tempfile::TempDir,
    ports: [u16; 3],
}

impl Demo {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::Builder::new().prefix("load data").tempdir().expect("a folder");
        let ports = [free_port(), free_port(), free_port()];
        let script = fs::read_to_string(root.join("load_data.sh")).expect("the script");
        let script = ["1111", "2222", "3333"]
            .iter()
            .zip(ports)
            .fold(script, |text, (usual, port)| text.replace(usual, &port.to_string()));
        fs::write(folder.path().join("load_data.sh"), script).expect("a copy");
        let cargo = folder.path().join("cargo");
        fs::write(&cargo, "#!/bin/sh\necho \"cargo $*, into ${LB_BACKENDS:-its servers}\"\n")
            .expect("a stand-in");
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("executable");
        Self { folder, ports }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("bash")
            .arg(self.folder.path().join("load_data.sh"))
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            // Those of somebody's production.
            .env("LB_BACKENDS", "10.0.0.9:6379")
            .output()
            .expect("bash")
    }

    fn redis(&self, port: u16, command: &str) -> String {
        redis::Client::open(format!("redis://127.0.0.1:{port}"))
            .and_then(|client| client.get_connection())
            .and_then(|mut connection| redis::cmd(command).query(&mut connection))
            .map(|value: redis::Value| format!("{value:?}"))
            .expect("an answer")
    }

    fn running(&self) -> usize {
        self.ports.iter().filter(|&&port| TcpStream::connect(("127.0.0.1", port)).is_ok()).count()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.run(&["--stop"]);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn three_servers_start_once_load_each_time_and_stop() {
    let demo = Demo::new();
    let first = text(&demo.run(&[]));
    assert_eq!(first.matches(" started").count(), 3, "{first}");
    let seeds = "cargo run --quiet --release --locked --bin seed --, into its servers";
    assert!(first.contains(seeds), "{first}");
    let second = text(&demo.run(&["--", "--batch", "7"]));
    assert_eq!(second.matches(" already running").count(), 3, "{second}");
    assert!(second.contains("--bin seed -- --batch 7"), "{second}");
    assert_eq!(demo.running(), 3);
    let stopped = demo.run(&["--stop"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert_eq!(demo.running(), 0);
    assert!(demo.run(&["--stop"]).status.success());
}

#[test]
fn a_port_that_another_program_holds_is_named_and_nothing_is_started() {
    let demo = Demo::new();
    let _other = TcpListener::bind(("127.0.0.1", demo.ports[1])).expect("the port is free");
    let output = demo.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&format!("port {} is in use", demo.ports[1])));
    assert_eq!(demo.running(), 1, "only the other program's port is open");
}

#[test]
fn replicas_follow_the_first_server_until_told_otherwise() {
    let demo = Demo::new();
    assert!(demo.run(&["--replicas"]).status.success());
    let [primary, one, two] = demo.ports;
    assert!(demo.redis(primary, "ROLE").contains("master"));
    for replica in [one, two] {
        let role = demo.redis(replica, "ROLE");
        assert!(role.contains("slave") && role.contains(&primary.to_string()), "{role}");
    }
    assert!(demo.run(&[]).status.success());
    assert!(demo.redis(one, "ROLE").contains("master"));
}

#[test]
fn a_wrong_option_is_named() {
    let demo = Demo::new();
    for arguments in [&["--frobnicate"][..], &["--stop", "--replicas"], &["--stop", "--install"]] {
        let output = demo.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(arguments[0]), "{arguments:?}");
    }
}
