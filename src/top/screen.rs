//! The terminal while it is drawn on. It is restored at the end, after a panic, by signals that end the process, and while
//! the process is stopped.

use std::io::{self, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ratatui::backend::Backend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, getsid, kill_current_process_group};
use signal_hook::consts::{
    SIGABRT, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, raise};

/// Signals that end the process, stop it, or let it go on.
const SIGNALS: [i32; 9] =
    [SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGUSR1, SIGUSR2, SIGTERM, SIGTSTP, SIGCONT];

/// The terminal.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Set once all that was drawn is gone, because the process was stopped.
    is_wiped: Arc<AtomicBool>,
}

/// Takes the terminal, and restores it when `show` has returned or panicked, or when a signal ends the process.
///
/// # Errors
/// The terminal fails, or `show` does.
pub(super) fn with_screen<T>(show: impl FnOnce(&mut Screen) -> io::Result<T>) -> io::Result<T> {
    let mut signals = Signals::new(SIGNALS)?;
    let is_wiped = Arc::new(AtomicBool::new(false));
    let wiped = Arc::clone(&is_wiped);
    // It installs a panic hook that restores the terminal before the message is printed.
    let shown = ratatui::try_init().and_then(|terminal| {
        // In a thread of its own, because `crossterm` does not return from a terminal that has been closed.
        let heed = move || signals.forever().for_each(|number| heed(number, &wiped));
        thread::Builder::new().name("signals".to_owned()).spawn(heed)?;
        thread::Builder::new().name("hangup".to_owned()).spawn(end_with_terminal)?;
        show(&mut Screen { terminal, is_wiped })
    });
    let restored = ratatui::try_restore();
    let shown = shown?;
    restored.map(|()| shown)
}

/// Does what a signal does by default, with the terminal restored before and set up after it.
fn heed(number: i32, is_wiped: &AtomicBool) {
    // Nothing is drawn meanwhile.
    let mut stdout = stdout().lock();
    // The terminal may be gone: the signal counts all the same.
    let _ = disable_raw_mode();
    if number != SIGCONT {
        let _ = execute!(stdout, LeaveAlternateScreen, Show);
        let _ = emulate_default_handler(number);
    }
    let _ = enable_raw_mode();
    let _ = execute!(stdout, EnterAlternateScreen);
    is_wiped.store(true, Ordering::Relaxed);
}

/// Ends the process once the terminal is gone, as the signal does that a process gets from a terminal that controls it.
fn end_with_terminal() {
    let stdout = stdout();
    // Nothing but an error or a hang-up is waited for.
    let mut terminal = [PollFd::new(&stdout, PollFlags::empty())];
    loop {
        match poll(&mut terminal, None) {
            Err(Errno::INTR) => {}
            Ok(_) => return drop(raise(SIGHUP)),
            Err(_) => return,
        }
    }
}

impl Screen {
    /// Draws what has changed.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// Forgets what was drawn, so that all of it is drawn again: another program may have written over it.
    pub fn clear(&mut self) -> io::Result<()> {
        // `Terminal::clear` would ask the terminal where its cursor is, and fail where that does not answer.
        self.terminal.swap_buffers();
        self.terminal.backend_mut().clear()
    }

    /// Returns whether all has to be drawn again, because the process was stopped.
    pub fn is_wiped(&mut self) -> io::Result<bool> {
        let is_wiped = self.is_wiped.swap(false, Ordering::Relaxed);
        if is_wiped {
            self.clear()?;
        }
        Ok(is_wiped)
    }
}

/// Stops the processes of the job, as Ctrl-Z does where the terminal takes that key. Where there is no shell that could
/// continue it, nothing happens, as there.
pub(super) fn stop_job() -> io::Result<()> {
    if getsid(None)? == getpid() {
        return Ok(());
    }
    Ok(kill_current_process_group(Signal::TSTP)?)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the process that panics.
    const PANICS: &str = "LB_TEST_PANICS";

    #[test]
    fn after_a_panic_the_terminal_is_as_it_was() {
        if env::var_os(PANICS).is_some() {
            let _ = with_screen(|screen| -> io::Result<()> {
                screen.draw(|frame| frame.render_widget("drawn", frame.area()))?;
                panic!("on purpose");
            });
        }
        let folder = env!("CARGO_MANIFEST_DIR");
        let mut process = Command::new("python3")
            .args([&format!("{folder}/tests/clients/screen.py"), "80", "24"])
            .arg(env::current_exe().expect("this test"))
            .args(["after_a_panic_the_terminal_is_as_it_was", "--nocapture"])
            .env(PANICS, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3: is it installed?");
        let steps = process.stdin.as_mut().expect("a pipe");
        steps.write_all(b"[\"wait\"]\n").expect("it reads");
        let output = process.wait_with_output().expect("it ends");
        let end: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let written = end["written"].as_str().expect("a text");
        let (drawn, after) = written.split_once("\u{1b}[?1049l").expect("the screen is left");
        assert!(drawn.contains("drawn") && after.contains("on purpose"), "{written:?}");
        assert_eq!((&end["is_restored"], &end["code"]), (&true.into(), &101.into()), "{end}");
    }
}
