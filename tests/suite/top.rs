//! `lb top`, at a real terminal.

use std::process::{Command, Stdio};

use crate::support::balancer::Balancer;
use crate::support::redis::three_servers;
use crate::support::resp::RespClient;
use crate::support::terminal::{End, Screen};

const LB: &str = env!("CARGO_BIN_EXE_lb");

/// Leaves the screen that was drawn on, and shows the cursor.
const RESTORED: [&str; 2] = ["\x1b[?1049l", "\x1b[?25h"];

#[track_caller]
fn assert_restored(end: &End) {
    assert!(end.is_restored, "{end:?}");
    let (_, after) = end.written.rsplit_once(RESTORED[0]).expect("the screen is left");
    assert!(end.written.contains(RESTORED[1]) && !after.contains("\x1b[?1049h"), "{end:?}");
}

#[test]
fn it_shows_who_is_down_at_any_size_and_leaves_the_terminal_as_it_was() {
    let mut servers = three_servers();
    let lb =
        Balancer::start_with(&servers.each_ref(), &["--check-interval", "200ms", "--fall", "1"]);
    let mut client = RespClient::connect(lb.port());
    client.call("GET none");
    let mut top = Screen::start((120, 24), LB, &["top", &lb.url("")], &[]);
    top.wait_for("3 of 3 up");
    top.wait_for(", 1 redis, ");
    servers[1].kill();
    let down = servers[1].address();
    let verdict = top.wait_for("2 of 3 up");
    assert!(verdict.contains(&format!("{down} ")), "{verdict}");
    top.wait_for(&format!("{down} down for"));
    let lines = top.lines();
    let head = lines.iter().position(|line| line.starts_with("backend")).expect("a table");
    assert!(lines[head + 1].starts_with(&down), "what fails is first: {lines:?}");

    top.resize(40, 10);
    top.wait_for("2 of 3 up");
    assert!(top.lines().iter().all(|line| line.chars().count() <= 40));
    top.resize(120, 24);
    top.type_text("s");
    top.wait_for("s order: requests/s");
    top.type_text("?");
    top.wait_for("any other key closes it");
    top.type_text("x");
    top.wait_for("s order: requests/s");
    top.type_text("q");
    let end = top.wait();
    assert_eq!(end.code, Some(0), "{end:?}");
    assert!(end.written.contains("\x1b[38;5;"), "it is coloured");
    assert_restored(&end);
}

/// Runs `lb top` at a terminal that does not control it, and closes that once it is drawn on. Prints how `lb top` ends.
const CLOSED_TERMINAL: &str = r#"
import os, pty, subprocess, sys
terminal, other = pty.openpty()
top = subprocess.Popen(sys.argv[1:], stdin=other, stdout=other, stderr=other, start_new_session=True)
os.close(other)
shown = b""
while b"\x1b[?1049h" not in shown:
    shown += os.read(terminal, 65536)
os.close(terminal)
try:
    print(top.wait(10))
except subprocess.TimeoutExpired:
    top.kill()
    print("it goes on without a terminal")
"#;

#[test]
fn it_ends_with_its_terminal_also_where_no_signal_says_so() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let output = Command::new("python3")
        .args(["-c", CLOSED_TERMINAL, LB, "top", &lb.url("")])
        .env("TERM", "xterm")
        .output()
        .expect("python3: is it installed?");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "-1\n", "{output:?}");
}

#[test]
fn a_balancer_that_is_gone_is_missed_and_found_again() {
    let servers = three_servers();
    let mut lb = Balancer::start(&servers.each_ref());
    let listen = format!("127.0.0.1:{}", lb.port());
    let mut top = Screen::start((100, 20), LB, &["top", &listen], &[("NO_COLOR", "1")]);
    top.wait_for("3 of 3 up");
    lb.signal("-KILL");
    lb.wait();
    top.wait_for("no status for");
    let line = top.wait_for("Connection refused");
    assert!(line.contains("last seen at") && line.contains("UTC"), "{line}");
    top.wait_for("3 of 3 up");
    let mut again = Command::new(LB);
    again.args(["--listen", &listen]);
    servers.iter().for_each(|server| _ = again.args(["--backend", &server.url()]));
    let _lb = Balancer::spawn(again);
    crate::support::wait_until("it is back", || {
        !top.lines().iter().any(|line| line.contains("no answer"))
    });
    top.wait_for("3 of 3 up");
    top.signal(15);
    let end = top.wait();
    assert_eq!(end.code, Some(-15), "{end:?}");
    assert!(!end.written.contains("\x1b[38;5;"), "NO_COLOR");
    assert_restored(&end);
}

#[test]
fn it_keeps_up_while_a_key_is_held_and_can_be_stopped_and_drawn_again() {
    let mut servers = three_servers();
    let lb =
        Balancer::start_with(&servers.each_ref(), &["--check-interval", "200ms", "--fall", "1"]);
    let mut top = Screen::start((100, 20), LB, &["top", &lb.url("")], &[]);
    top.wait_for("3 of 3 up");
    servers[1].kill();
    crate::support::wait_until("it is shown while a key is held", || {
        top.type_text("j");
        top.lines().iter().any(|line| line.contains("2 of 3 up"))
    });

    top.signal(20);
    assert!(top.is_restored_while_stopped());
    top.wipe();
    top.signal(18);
    top.wait_for("2 of 3 up");
    top.wipe();
    top.type_text("\x0c");
    top.wait_for("2 of 3 up");

    top.signal(3);
    let end = top.wait();
    assert_eq!(end.code, Some(-3), "{end:?}");
    assert_restored(&end);

    let mut closed = Screen::start((100, 20), LB, &["top", &lb.url("")], &[]);
    closed.wait_for("2 of 3 up");
    assert_eq!(closed.close(), Some(-1), "it ends with its window");
}

#[test]
fn it_finds_the_balancer_by_its_socket_and_says_what_to_do_where_it_can_not_run() {
    let servers = three_servers();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    let socket = socket.to_str().expect("UTF-8");
    let arguments = ["--control", socket, "--require-password", "secret"];
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let mut top = Screen::start((100, 20), LB, &["top"], &[("LB_CONTROL", socket)]);
    top.wait_for("3 of 3 up");
    top.type_text("\x03");
    assert_eq!(top.wait().code, Some(0));

    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").expect("a file");
    let url = format!("http://default@127.0.0.1:{}", lb.port());
    let password = password.to_str().expect("UTF-8");
    let mut top = Screen::start((100, 20), LB, &["top", &url, "--password-file", password], &[]);
    top.wait_for("3 of 3 up");

    let mut stranger = Screen::start((100, 20), LB, &["top", &lb.url("")], &[]);
    let end = stranger.wait();
    assert_eq!(end.code, Some(1));
    assert!(end.written.contains("--password-file FILE"), "{end:?}");
    let mut nobody = Screen::start((100, 20), LB, &["top", "http://127.0.0.1:1"], &[]);
    let end = nobody.wait();
    assert_eq!(end.code, Some(1));
    assert!(end.written.contains("refused") && end.written.contains("lb top http://"), "{end:?}");
    for (arguments, code, expected) in [
        (&["top"][..], 1, "lb ctl status"),
        (&["top", "redis://u:hunter2@h:1"], 2, "write http://HOST:PORT"),
        (&["top", "--ca", "ca.pem"], 2, "<URL>"),
    ] {
        let output = Command::new(LB).args(arguments).stdin(Stdio::null()).output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(expected) && !text.contains("hunter2"), "{text}");
    }
}
