use std::process::Command;

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
