//! What each server had, and when.

use std::collections::VecDeque;
use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::keys;
use crate::wire;

/// Key in which each server has its own number. Replicas are writable, and no primary sends it.
pub const OWN_NUMBER: &str = "whoami";

/// Key that the writer sets to the number of the state, in the same transaction as the write.
pub const STATE: &str = "clock";

/// Time between two looks at a server's state: so much too young a reply may seem.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Looks that are kept: at one a write and at most 500 a second, those of more than three minutes.
const KEPT_LOOKS: usize = 100_000;

/// Writes the server's number into the databases that are read. It is not sent to replicas.
const SAY_NUMBER: &str = "redis.set_repl(redis.REPL_NONE)
    for _, database in ipairs({ARGV[2], ARGV[3], '0'}) do
        redis.call('SELECT', database) redis.call('SET', KEYS[1], ARGV[1])
    end";

/// A server that the balancer reads from.
pub struct Backend {
    /// Its name in X-Served-By.
    pub name: String,
    /// Its own port.
    pub port: u16,
    /// When it was seen in a state for the first time.
    looks: Mutex<VecDeque<(Instant, u64)>>,
}

impl Backend {
    pub fn new(name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port, looks: Mutex::default() }
    }

    /// When the server had this state or a later one; `None` if it was not seen so yet.
    pub fn had(&self, state: u64) -> Option<Instant> {
        let looks = self.looks();
        let place = looks.partition_point(|(_, seen)| *seen < state);
        looks.get(place).map(|(at, _)| *at)
    }

    pub fn state(&self) -> u64 {
        self.looks().back().map_or(0, |(_, state)| *state)
    }

    /// Looks at the server's state until the end, and sees to its number.
    pub fn watch(&self, number: usize, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            if self.watch_connected(number, is_over).is_err() {
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn watch_connected(&self, number: usize, is_over: &AtomicBool) -> io::Result<()> {
        let mut socket = Connection::open(self.port)?;
        let looks = [wire::command(&["GET", STATE]), wire::command(&["GET", OWN_NUMBER])].concat();
        while !is_over.load(Ordering::Relaxed) {
            let [state, own] =
                socket.ask(&looks, 2)?.try_into().map_err(|_| io::ErrorKind::Other)?;
            let now = Instant::now();
            // No state is there before the first write.
            let state = keys::number_after(b"g=", &state).map_err(io::Error::other)?.unwrap_or(0);
            self.look(now, state);
            if own.starts_with(b"$-1") {
                let databases = [keys::SWAPPED_DATABASE, keys::OTHER_DATABASE];
                let number = number.to_string();
                let words =
                    ["EVAL", SAY_NUMBER, "1", OWN_NUMBER, &number, databases[0], databases[1]];
                socket.ask(&wire::command(&words), 1)?;
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn look(&self, at: Instant, state: u64) {
        let mut looks = self.looks();
        if looks.back().is_none_or(|(_, last)| *last < state) {
            looks.push_back((at, state));
        }
        if looks.len() > KEPT_LOOKS {
            looks.pop_front();
        }
    }

    fn looks(&self) -> MutexGuard<'_, VecDeque<(Instant, u64)>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that reads as many replies as it is told to.
pub struct Connection {
    socket: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(port: u16) -> io::Result<Self> {
        let socket = wire::connect_with_timeout(port)?;
        Ok(Self { replies: BufReader::new(socket.try_clone()?), socket })
    }

    /// Sends these bytes, and returns so many replies; errors are replies, too.
    pub fn ask(&mut self, bytes: &[u8], replies: usize) -> io::Result<Vec<Vec<u8>>> {
        self.socket.write_all(bytes)?;
        let read = |_| {
            let mut reply = Vec::new();
            wire::read_value(&mut self.replies, &mut reply)?;
            Ok(reply)
        };
        (0..replies).map(read).collect()
    }

    /// Sends one command; an error reply is an error.
    pub fn command(&mut self, words: &[&str]) -> io::Result<Vec<u8>> {
        let reply = self.ask(&wire::command(words), 1)?.remove(0);
        match reply.first() {
            Some(b'-') => Err(io::Error::other(String::from_utf8_lossy(&reply).into_owned())),
            _ => Ok(reply),
        }
    }
}
