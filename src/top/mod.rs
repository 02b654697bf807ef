//! `lb top`: what a balancer that runs does, live, in a terminal.
//!
//! A thread asks for the [status JSON](crate::observe) once a second; the main thread draws what it told, and takes keys.
//! What is shown and how (`state`, `view`) knows neither terminal nor clock.

mod document;
mod fetch;
mod fitted;
mod palette;
mod state;
mod table;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use self::document::Document;
use self::state::{State, Wish};
use crate::config::Config;
use crate::config::top::StatusSource;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest time until an answer, or a signal, is noticed.
const NOTICE_TIME: Duration = Duration::from_millis(100);

/// Signals that end it; the terminal is restored first.
const SIGNALS: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The output is no terminal, or a poor one.
    #[error("lb top needs a terminal; `lb ctl status` prints the same once")]
    NoTerminal,
    /// There is no status at the start.
    #[error(
        "{place}: {reason}; name the balancer: lb top http://HOST:PORT, or lb top --control PATH"
    )]
    NoBalancer {
        /// Where it was looked for.
        place: String,
        /// What was found.
        reason: String,
    },
    /// The terminal fails.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
}

impl TopError {
    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// Why it has ended.
enum End {
    /// A key.
    Key,
    /// A signal.
    Signal(i32),
}

/// Shows the balancer that the command line names, until a key or a signal ends it.
///
/// # Errors
/// The command line is wrong, there is no terminal, or no balancer answers at the start.
pub fn run(config: &Config) -> Result<(), TopError> {
    let source = config.status_source().map_err(TopError::Usage)?;
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if is_dumb || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    let name = source.to_string();
    let first = fetch::fetch(&source)
        .map_err(|error| TopError::NoBalancer { place: name.clone(), reason: error.to_string() })?;
    let is_coloured = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut state = State::new(&name, first, is_coloured);
    let signal = Arc::new(AtomicUsize::new(0));
    for number in SIGNALS {
        flag::register_usize(number, Arc::clone(&signal), number as usize)?;
    }
    let answers = ask(source)?;
    // A panic restores it, too.
    let ended =
        ratatui::try_init().and_then(|terminal| watch(terminal, &mut state, &answers, &signal));
    let restored = ratatui::try_restore();
    if let End::Signal(number) = ended? {
        // Whoever waits for the process sees that the signal has ended it.
        low_level::emulate_default_handler(number)?;
    }
    Ok(restored?)
}

/// Starts a thread that asks again and again, until nobody takes its answers.
fn ask(source: StatusSource) -> io::Result<Receiver<Result<Document, String>>> {
    let (sender, receiver) = sync_channel(1);
    let ask = move || {
        loop {
            thread::sleep(INTERVAL);
            let answer = fetch::fetch(&source).map_err(|error| error.to_string());
            if sender.send(answer).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("top".to_owned()).spawn(ask)?;
    Ok(receiver)
}

/// Draws, and takes answers, keys and signals.
fn watch(
    mut terminal: DefaultTerminal,
    state: &mut State,
    answers: &Receiver<Result<Document, String>>,
    signal: &AtomicUsize,
) -> io::Result<End> {
    loop {
        terminal.draw(|frame| view::draw(frame, state, Instant::now()))?;
        let is_waiting = || -> io::Result<bool> { Ok(!event::poll(NOTICE_TIME)?) };
        while is_waiting()? {
            let number = signal.load(Ordering::Relaxed);
            if number != 0 {
                return Ok(End::Signal(number as i32));
            }
            match answers.try_recv() {
                Ok(answer) => {
                    state.take(answer, Instant::now());
                    break;
                }
                Err(TryRecvError::Empty) if state.failure.is_some() => break,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err(io::Error::other("no more answers")),
            }
        }
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && state.press(key) == Wish::End
            {
                return Ok(End::Key);
            }
        }
    }
}
