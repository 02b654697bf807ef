//! `lb top`: what a balancer that runs does, live, in a terminal.
//!
//! A thread asks for the [status JSON](crate::observe) once a second; the main thread draws what it told, and takes keys.
//! What is shown and how (`state`, `view`) knows neither terminal nor clock.

mod document;
mod fetch;
mod fitted;
mod palette;
mod screen;
mod state;
mod table;
mod view;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};

use self::document::Document;
use self::fetch::FetchError;
use self::screen::Screen;
use self::state::{State, Wish};
use crate::config::Config;
use crate::config::top::StatusSource;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time until the next question after it was refused: many failed logins slow down all that come from an address.
const REFUSED_INTERVAL: Duration = Duration::from_secs(30);

/// Longest time until an answer is noticed.
const NOTICE_TIME: Duration = Duration::from_millis(100);

/// Most events that are taken before it is drawn again and looks for answers: a key that is held down, or a text that is
/// pasted, holds up neither.
const MAX_EVENTS: usize = 64;

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
    let mut state = State::new(&name, first, is_coloured, Instant::now());
    let answers = ask(source)?;
    Ok(screen::with_screen(|screen| watch(screen, &mut state, &answers))?)
}

/// Starts a thread that asks again and again, until nobody takes its answers.
fn ask(source: StatusSource) -> io::Result<Receiver<Result<Document, String>>> {
    let (sender, receiver) = sync_channel(1);
    let mut pause = INTERVAL;
    let ask = move || {
        loop {
            thread::sleep(pause);
            let answer = fetch::fetch(&source);
            let is_refused =
                matches!(answer, Err(FetchError::NotLoggedIn | FetchError::NotPermitted));
            pause = if is_refused { REFUSED_INTERVAL } else { INTERVAL };
            if sender.send(answer.map_err(|error| error.to_string())).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("top".to_owned()).spawn(ask)?;
    Ok(receiver)
}

/// Draws, and takes answers and keys, until one of these ends it.
fn watch(
    screen: &mut Screen,
    state: &mut State,
    answers: &Receiver<Result<Document, String>>,
) -> io::Result<()> {
    let mut is_drawn = false;
    loop {
        if !is_drawn {
            screen.draw(|frame| view::draw(frame, state, Instant::now()))?;
        }
        is_drawn = !event::poll(NOTICE_TIME)?;
        if !is_drawn && take_keys(screen, state)? {
            return Ok(());
        }
        is_drawn &= !screen.is_wiped()?;
        match answers.try_recv() {
            Ok(answer) => {
                state.take(answer, Instant::now());
                is_drawn = false;
            }
            // The time without an answer grows.
            Err(TryRecvError::Empty) => is_drawn &= state.failure.is_none(),
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("no more answers")),
        }
    }
}

/// Takes the keys that were pressed. Returns whether one of them ends it.
fn take_keys(screen: &mut Screen, state: &mut State) -> io::Result<bool> {
    for _ in 0..MAX_EVENTS {
        if !event::poll(Duration::ZERO)? {
            break;
        }
        let Event::Key(key) = event::read()? else { continue };
        match state.press(key) {
            Wish::GoOn => {}
            Wish::Draw => screen.clear()?,
            Wish::Stop => screen::stop_job()?,
            Wish::End => return Ok(true),
        }
    }
    Ok(false)
}
