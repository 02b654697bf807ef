//! The writers: one raises versions in every way that Redis has, one lets keys expire.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::backends::{Connection, STATE};
use super::history::History;
use super::keys::{self, KEYS, OTHER_DATABASE, SWAPPED, SWAPPED_DATABASE, VERSIONED};
use crate::soak::Random;
use crate::wire;

/// Pause after each write of either writer.
const PAUSE: Duration = Duration::from_millis(1);

/// How often all keys, or those of database 0, are flushed.
const FLUSH_INTERVAL: Duration = Duration::from_secs(4);

/// How often two databases are swapped. The cache forgets all that it has of a server then.
const SWAP_INTERVAL: Duration = Duration::from_secs(7);

/// Time to live of keys, in milliseconds: from so much, doubled so many times.
const SHORTEST_LIFE_MS: u64 = 10;
const LIFE_DOUBLINGS: usize = 8;

const SCRIPT: &str =
    "for index = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[index], ARGV[1]) end
    if #ARGV == 1 then redis.call('SET', KEYS[1], ARGV[1]) end";

#[derive(Clone, Copy)]
pub enum Way {
    Set,
    SetAndExpireLater,
    Script,
    Rename,
    Copy,
    Restore,
    Move,
    Delete,
    Unlink,
    Expire,
    RenameAway,
    MoveAway,
    Flush,
    FlushAll,
    Swap,
}

/// Ways to write one key; those that leave a value are more frequent.
const WAYS: [Way; 16] = [
    Way::Set,
    Way::Set,
    Way::Set,
    Way::SetAndExpireLater,
    Way::Script,
    Way::Script,
    Way::Rename,
    Way::Copy,
    Way::Restore,
    Way::Move,
    Way::Move,
    Way::Delete,
    Way::Unlink,
    Way::Expire,
    Way::RenameAway,
    Way::MoveAway,
];

pub struct Writer<'a> {
    history: &'a History,
    primary: Connection,
    random: Random,
    state: u64,
}

impl<'a> Writer<'a> {
    pub fn new(history: &'a History, primary: u16) -> io::Result<Self> {
        let mut primary = Connection::open(primary)?;
        primary.command(&["FLUSHALL"])?;
        Ok(Self { history, primary, random: Random::new(), state: 0 })
    }

    /// Writes each key once.
    pub fn fill(&mut self) -> io::Result<()> {
        (0..KEYS).try_for_each(|key| self.write(Way::Set, key))
    }

    /// Writes until the end; returns how many writes there were.
    pub fn run(&mut self, is_over: &AtomicBool) -> io::Result<u64> {
        let (mut flushed, mut swapped) = (Instant::now(), Instant::now());
        while !is_over.load(Ordering::Relaxed) {
            let mut way = *self.random.pick(&WAYS);
            if flushed.elapsed() >= FLUSH_INTERVAL {
                flushed = Instant::now();
                way = if self.random.below(2) == 0 { Way::Flush } else { Way::FlushAll };
            } else if swapped.elapsed() >= SWAP_INTERVAL {
                swapped = Instant::now();
                way = Way::Swap;
            }
            let key = super::choose_key(&mut self.random, KEYS, super::WRITES_PER_COLD_ONE);
            self.write(way, key)?;
            thread::sleep(PAUSE);
        }
        Ok(self.state)
    }

    fn write(&mut self, way: Way, key: usize) -> io::Result<()> {
        self.state += 1;
        let (is_hash, name, value) =
            (keys::is_hash(key), &keys::name(key)[..], keys::version(self.state));
        let in_temporary = || keys::create("temporary", is_hash, &value);
        let one = |words: &[&str]| vec![wire::command(words)];
        let with = |mut commands: Vec<Vec<u8>>, words: &[&str]| {
            commands.push(wire::command(words));
            commands
        };
        let mut commands = match way {
            // Keys that are swapped are written in one way alone, for they are in another database.
            _ if key >= VERSIONED && !matches!(way, Way::Flush | Way::FlushAll | Way::Swap) => {
                return self.write_in_database(key, name, &value);
            }
            Way::Set => keys::create(name, is_hash, &value),
            Way::SetAndExpireLater => {
                with(keys::create(name, is_hash, &value), &["EXPIRE", name, "10000"])
            }
            Way::Script if is_hash => with(
                one(&["DEL", name]),
                &["EVAL", SCRIPT, "1", name, &value, "a", "", "b", "", "c"],
            ),
            Way::Script => one(&["EVAL", SCRIPT, "1", name, &value]),
            Way::Rename => with(in_temporary(), &["RENAME", "temporary", name]),
            Way::Copy => with(in_temporary(), &["COPY", "temporary", name, "REPLACE"]),
            Way::Restore => vec![self.restore(name, is_hash, &value)?],
            Way::Move => {
                let mut commands = one(&["DEL", name]);
                commands.push(wire::command(&["SELECT", "1"]));
                commands.extend(keys::create(name, is_hash, &value));
                let commands = with(commands, &["MOVE", name, "0"]);
                with(commands, &["SELECT", "0"])
            }
            Way::Delete => one(&["DEL", name]),
            Way::Unlink => one(&["UNLINK", name]),
            Way::Expire => one(&["EXPIRE", name, "0"]),
            Way::RenameAway => one(&["RENAME", name, "away"]),
            Way::MoveAway => {
                let commands = with(one(&["SELECT", "1"]), &["DEL", name]);
                with(with(commands, &["SELECT", "0"]), &["MOVE", name, "1"])
            }
            Way::Flush => one(&["FLUSHDB"]),
            Way::FlushAll => one(&["FLUSHALL"]),
            Way::Swap => self.swap(&value),
        };
        let is_gone = matches!(
            way,
            Way::Delete
                | Way::Unlink
                | Way::Expire
                | Way::RenameAway
                | Way::MoveAway
                | Way::Flush
                | Way::FlushAll
        );
        let is_there = !is_gone;
        let written = match way {
            Way::Flush => 0..VERSIONED,
            Way::FlushAll => 0..KEYS,
            Way::Swap => VERSIONED..KEYS,
            _ => key..key + 1,
        };
        written.for_each(|key| self.history.note(key, self.state, is_there));
        if matches!(way, Way::Flush | Way::FlushAll) {
            // The balancer never sees a server without keys.
            commands.push(wire::command(&["SET", "filler", "x"]));
        }
        self.transaction(&commands, matches!(way, Way::RenameAway))
    }

    /// Writes a key of the databases that are swapped.
    fn write_in_database(&mut self, key: usize, name: &str, value: &str) -> io::Result<()> {
        self.history.note(key, self.state, true);
        let commands = [
            wire::command(&["SELECT", SWAPPED_DATABASE]),
            wire::command(&["SET", name, value]),
            wire::command(&["SELECT", "0"]),
        ];
        self.transaction(&commands, false)
    }

    /// The commands that write all keys of the other database, and swap the two.
    fn swap(&self, value: &str) -> Vec<Vec<u8>> {
        let mut commands = vec![wire::command(&["SELECT", OTHER_DATABASE])];
        let names = (VERSIONED..VERSIONED + SWAPPED).map(keys::name);
        commands.extend(names.map(|name| wire::command(&["SET", &name, value])));
        commands.push(wire::command(&["SWAPDB", SWAPPED_DATABASE, OTHER_DATABASE]));
        commands.push(wire::command(&["SELECT", "0"]));
        commands
    }

    /// RESTORE of a value that is made elsewhere first.
    fn restore(&mut self, name: &str, is_hash: bool, value: &str) -> io::Result<Vec<u8>> {
        for command in keys::create("temporary", is_hash, value) {
            self.primary.ask(&command, 1)?;
        }
        let dumped = self.primary.command(&["DUMP", "temporary"])?;
        let begin = dumped.iter().position(|&byte| byte == b'\n').map_or(0, |place| place + 1);
        let payload = &dumped[begin..dumped.len() - 2];
        let mut command = format!(
            "*5\r\n$7\r\nRESTORE\r\n${}\r\n{name}\r\n$1\r\n0\r\n${}\r\n",
            name.len(),
            payload.len()
        )
        .into_bytes();
        command.extend(payload);
        command.extend(b"\r\n$7\r\nREPLACE\r\n");
        Ok(command)
    }

    /// Runs commands that make the next state together.
    fn transaction(&mut self, commands: &[Vec<u8>], may_fail: bool) -> io::Result<()> {
        let state = wire::command(&["SET", STATE, &keys::version(self.state)]);
        let [multi, exec] = ["MULTI", "EXEC"].map(|word| wire::command(&[word]));
        let bytes = [multi, commands.concat(), state, exec].concat();
        let replies = self.primary.ask(&bytes, commands.len() + 3)?;
        let last = replies.last().map(Vec::as_slice).unwrap_or_default();
        let has_error = last.windows(3).any(|bytes| bytes == b"\r\n-" && !may_fail);
        if !last.starts_with(b"*") || has_error {
            let replies = replies.concat();
            return Err(io::Error::other(format!(
                "the writer was told {}",
                replies.escape_ascii()
            )));
        }
        Ok(())
    }
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Writes keys that expire, each with the time of its end as its value, until the end.
pub fn let_expire(primary: u16, is_over: &AtomicBool) -> io::Result<u64> {
    let (mut primary, mut random, mut written) = (Connection::open(primary)?, Random::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let number = random.below(keys::EXPIRING);
        let name = keys::expiring_name(number);
        let life = SHORTEST_LIFE_MS << random.below(LIFE_DOUBLINGS + 1);
        let end = wall_ms() + life + random.below(life as usize / 4) as u64;
        let at = end.to_string();
        let value = keys::end(end);
        let commands = match number % 2 {
            0 => vec![wire::command(&["SET", &name, &value, "PXAT", &at])],
            _ => {
                [keys::create(&name, true, &value), vec![wire::command(&["PEXPIREAT", &name, &at])]]
                    .concat()
            }
        };
        let [multi, exec] = ["MULTI", "EXEC"].map(|word| wire::command(&[word]));
        primary.ask(&[multi, commands.concat(), exec].concat(), commands.len() + 2)?;
        written += 1;
        thread::sleep(PAUSE);
    }
    Ok(written)
}
