//! What happens to tracking connections at random.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::backends::Connection;
use super::check::Checker;
use super::relay::{Fate, Relay};
use crate::soak::Random;

/// Longest pause between two faults, and longest time that one lasts, in milliseconds. Longer than the cache waits for a
/// tracking connection, and than health checks take.
const MAX_PAUSE_MS: usize = 1500;
const MAX_TIME_MS: usize = 3000;

/// Runs until the end; says what there was.
pub fn run(checker: &Checker, relays: &[Relay], is_over: &AtomicBool) -> String {
    let mut random = Random::new();
    let (mut killed, mut frozen, mut held, mut lost, mut failed) = (0, 0, 0, 0, 0);
    while !is_over.load(Ordering::Relaxed) {
        pause(&mut random, MAX_PAUSE_MS);
        let number = random.below(checker.backends.len());
        let server = checker.backends[number].port;
        match random.below(4) {
            0 => match kill_tracking(server) {
                Ok(count) => killed += count,
                Err(_) => failed += 1,
            },
            1 => match process(server).and_then(|process| freeze(process, &mut random)) {
                Ok(()) => frozen += 1,
                Err(_) => failed += 1,
            },
            2 => {
                held += relays.get(number).map_or(0, |relay| relay.set(Fate::Held));
                pause(&mut random, MAX_TIME_MS);
                relays.get(number).map(|relay| relay.set(Fate::Passed));
            }
            _ => lost += relays.get(number).map_or(0, |relay| relay.set(Fate::Lost)),
        }
    }
    format!(
        "{killed} tracking connections killed, {held} held up, {lost} black-holed; servers frozen \
         {frozen} times; {failed} faults failed"
    )
}

fn pause(random: &mut Random, most: usize) {
    thread::sleep(Duration::from_millis(1 + random.below(most) as u64));
}

fn kill_tracking(server: u16) -> io::Result<usize> {
    let mut connection = Connection::open(server)?;
    let list = connection.command(&["CLIENT", "LIST"])?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let field = |line: &str, name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)).map(str::to_owned)
    };
    let mut killed = 0;
    for line in list.lines() {
        let is_tracking = field(line, "flags=").is_some_and(|flags| flags.contains('t'));
        let Some(id) = field(line, "id=").or_else(|| field(line, "$id=")).filter(|_| is_tracking)
        else {
            continue;
        };
        // It may have ended meanwhile.
        killed += usize::from(connection.command(&["CLIENT", "KILL", "ID", &id]).is_ok());
    }
    Ok(killed)
}

fn process(server: u16) -> io::Result<Pid> {
    let info = Connection::open(server)?.command(&["INFO", "server"])?;
    let info = String::from_utf8_lossy(&info).into_owned();
    let id = info.lines().find_map(|line| line.strip_prefix("process_id:"));
    let id = id.and_then(|id| id.trim().parse().ok()).and_then(Pid::from_raw);
    id.ok_or_else(|| io::Error::other("no process_id"))
}

fn freeze(process: Pid, random: &mut Random) -> io::Result<()> {
    kill_process(process, Signal::STOP)?;
    pause(random, MAX_TIME_MS);
    kill_process(process, Signal::CONT)?;
    Ok(())
}
