use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// Runs a program at a terminal, and passes on what is shown there until that has the word, or the
/// program ends.
const AT_TERMINAL: &str = r#"
import os, pty, select, signal, sys
word, arguments = sys.argv[1].encode(), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(arguments[0], arguments)
shown = b""
while not word or word not in shown:
    if not select.select([terminal], [], [], 10)[0]:
        break
    try:
        piece = os.read(terminal, 65536)
    except OSError:
        break
    if not piece:
        break
    shown += piece
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
sys.stdout.buffer.write(shown)
"#;

/// What a program shows at a terminal until that has `word`, or, where there is none, until it ends.
pub fn shown(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    word: &str,
) -> String {
    let output = Command::new("python3")
        .args(["-c", AT_TERMINAL, word, program])
        .args(arguments)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .output()
        .expect("python3: is it installed?");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A program that draws at a terminal of its own; it ends when this is dropped.
pub struct Screen {
    process: Child,
    answers: BufReader<ChildStdout>,
}

/// How a program at a terminal has ended.
#[derive(Debug)]
pub struct End {
    /// The exit code, or minus the number of the signal.
    pub code: Option<i64>,
    /// Whether the terminal is as it was before.
    pub is_restored: bool,
    /// All that the program has written.
    pub written: String,
}

impl Screen {
    /// Starts a program in a window of so many columns and rows.
    pub fn start(
        size: (u16, u16),
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut process = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/screen.py"))
            .args([size.0.to_string(), size.1.to_string()])
            .arg(program)
            .args(arguments)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3: is it installed?");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, answers }
    }

    fn step(&mut self, step: Value) -> Value {
        let input = self.process.stdin.as_mut().expect("a pipe");
        writeln!(input, "{step}").expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// The lines that are shown.
    pub fn lines(&mut self) -> Vec<String> {
        let lines = self.step(json!(["screen"]));
        let lines = lines.as_array().expect("lines").iter();
        lines.filter_map(|line| line.as_str().map(str::to_owned)).collect()
    }

    /// Waits until a line has this text; returns that line.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let mut found = None;
        super::wait_until(text, || {
            found = self.lines().into_iter().find(|line| line.contains(text));
            found.is_some()
        });
        found.unwrap_or_default()
    }

    pub fn type_text(&mut self, text: &str) {
        self.step(json!(["type", text]));
    }

    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.step(json!(["resize", [columns, rows]]));
    }

    pub fn signal(&mut self, number: i32) {
        self.step(json!(["signal", number]));
    }

    /// Waits until the program is stopped. Returns whether the terminal is as it was before.
    pub fn is_restored_while_stopped(&mut self) -> bool {
        self.step(json!(["stopped"])) == true
    }

    /// Closes the window. Returns how the program ends: its exit code, or minus the number of the signal.
    pub fn close(&mut self) -> Option<i64> {
        self.step(json!(["hangup"])).as_i64()
    }

    /// Wipes the screen, without the program's knowledge.
    pub fn wipe(&mut self) {
        self.step(json!(["forget"]));
    }

    /// Waits until the program ends.
    pub fn wait(&mut self) -> End {
        let end = self.step(json!(["wait"]));
        End {
            code: end["code"].as_i64(),
            is_restored: end["is_restored"] == true,
            written: end["written"].as_str().expect("text").to_owned(),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It ends the program when its input ends.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
