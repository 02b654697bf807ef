//! How long backends take over each Redis command, and over each kind of HTTP request.
//!
//! Replies are counted by the threads that read from backends, and by those of sessions. All of them meet the same
//! few commands, so each thread counts in one of several shards. Memory is bounded: at most [`MAX_COMMANDS`] are told
//! apart, and a shard has a small histogram for each that it has met.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::histogram::{CoarseHistogram, CoarseTimes};
use super::octaves::OctaveTimes;
use super::striped::thread_number;
use crate::sync::{Mutex, lock};

/// Commands that are timed, each by itself; those beyond are timed together. Redis with its usual modules has fewer
/// that read.
const MAX_COMMANDS: usize = 512;

/// Name under which the commands beyond are timed.
const OTHERS: &str = "(other)";

/// Number of shards.
const SHARDS: usize = 8;

/// Number of a command whose replies are timed. That of no command, the default, is not timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandId(u16);

impl CommandId {
    /// HTTP requests for keys, which are timed as commands are.
    pub const HTTP_KEYS: Self = Self(MAX_COMMANDS as u16 + 2);
    /// HTTP requests for listings.
    pub const HTTP_LISTINGS: Self = Self(MAX_COMMANDS as u16 + 3);
}

/// The kinds of HTTP requests for data, with their names.
pub const HTTP_KINDS: [(CommandId, &str); 2] =
    [(CommandId::HTTP_KEYS, "GET /KEY"), (CommandId::HTTP_LISTINGS, "GET / (listing)")];

/// Commands of one client that were sent together, in order.
#[derive(Debug)]
pub enum SentCommands {
    /// They are all the same command.
    Alike(CommandId),
    /// They are several.
    Mixed(Box<[CommandId]>),
}

impl SentCommands {
    /// Takes note of these commands.
    pub fn of(commands: impl Iterator<Item = CommandId> + Clone) -> Self {
        let first = commands.clone().next().unwrap_or_default();
        match commands.clone().all(|command| command == first) {
            true => Self::Alike(first),
            false => Self::Mixed(commands.collect()),
        }
    }
}

/// The times of all commands, and kinds of HTTP requests.
#[derive(Debug, Default)]
pub struct CommandTimes {
    numbers: Mutex<FxHashMap<Arc<str>, CommandId>>,
    shards: [Shard; SHARDS],
}

/// The histograms of some threads, by the number of the command.
#[derive(Debug)]
struct Shard(Box<[OnceLock<CoarseHistogram>]>);

impl Default for Shard {
    fn default() -> Self {
        // Two more: for what is not timed, and for the others.
        Self((0..MAX_COMMANDS + 2 + HTTP_KINDS.len()).map(|_| OnceLock::new()).collect())
    }
}

impl CommandTimes {
    /// Returns the number of the command with this name, which stays the same.
    pub fn number(&self, name: &str) -> CommandId {
        let mut numbers = lock(&self.numbers);
        if let Some(known) = numbers.get(name) {
            return *known;
        }
        let (name, number) = match numbers.len() {
            known if known < MAX_COMMANDS => (name, known + 1),
            _ => (OTHERS, MAX_COMMANDS + 1),
        };
        let id = CommandId(number as u16);
        numbers.insert(name.into(), id);
        id
    }

    /// Counts replies to a command that took this time.
    pub fn add(&self, command: CommandId, time: Duration, count: u64) {
        let shard = &self.shards[thread_number() % SHARDS].0;
        if command != CommandId::default()
            && let Some(histogram) = shard.get(usize::from(command.0))
        {
            histogram.get_or_init(CoarseHistogram::default).add(time, count);
        }
    }

    /// Counts the replies to the next `answered` of the commands that were sent, of which `left` had no reply yet.
    pub fn add_sent(&self, sent: &SentCommands, left: usize, answered: usize, time: Duration) {
        match sent {
            SentCommands::Alike(command) => self.add(*command, time, answered as u64),
            SentCommands::Mixed(commands) => {
                let rest = &commands[commands.len().saturating_sub(left)..];
                rest.iter().take(answered).for_each(|command| self.add(*command, time, 1));
            }
        }
    }

    /// Returns the names and times of all commands that had replies, in no order.
    pub fn all(&self) -> Vec<(Arc<str>, CoarseTimes)> {
        let numbers = lock(&self.numbers).clone();
        let kinds = HTTP_KINDS.map(|(number, name)| (Arc::from(name), number));
        let all = numbers.into_iter().chain(kinds);
        let times = all.map(|(name, number)| (name, self.times(number)));
        times.filter(|(_, times)| times.count() > 0).collect()
    }

    /// Returns the names and times of the commands that had most replies, at most `max`, sorted by name.
    pub fn busiest(&self, max: usize) -> Vec<(String, OctaveTimes)> {
        let mut all = self.all();
        all.sort_by_cached_key(|(name, times)| (Reverse(times.count()), Arc::clone(name)));
        all.truncate(max);
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter().map(|(name, times)| (name.to_string(), times.octaves())).collect()
    }

    fn times(&self, command: CommandId) -> CoarseTimes {
        let histograms = self.shards.iter().filter_map(|shard| shard.0.get(command.0 as usize));
        let histograms = histograms.filter_map(OnceLock::get);
        histograms.fold(CoarseTimes::default(), |times, more| times.with(&more.times()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(1);

    fn counts(times: &CommandTimes, max: usize) -> Vec<(String, u64)> {
        times.busiest(max).into_iter().map(|(name, times)| (name, times.count())).collect()
    }

    #[test]
    fn the_busiest_commands_are_told_whichever_thread_counts() {
        let times = CommandTimes::default();
        let [get, mget, info] = ["get", "mget", "info"].map(|name| times.number(name));
        assert_eq!(times.number("get"), get);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    times.add(get, TIME, 2);
                    times.add(mget, TIME, 1);
                });
            }
        });
        times.add(info, TIME, 1);
        times.add(CommandId::default(), TIME, 1);
        times.number("never sent");
        let named = |name: &str, count| (name.to_owned(), count);
        assert_eq!(counts(&times, 2), [named("get", 40), named("mget", 20)]);
        assert_eq!(counts(&times, 9).len(), 3);
        assert_eq!(times.busiest(1)[0].1.sum(), TIME * 40);
    }

    #[test]
    fn what_was_sent_together_counts_in_order_and_once() {
        let times = CommandTimes::default();
        let [a, b] = ["a", "b"].map(|name| times.number(name));
        let mixed = SentCommands::of([a, b, b, a].into_iter());
        assert!(
            matches!(SentCommands::of([a, a].into_iter()), SentCommands::Alike(one) if one == a)
        );
        times.add_sent(&mixed, 4, 1, TIME);
        assert_eq!(counts(&times, 9), [("a".to_owned(), 1)]);
        times.add_sent(&mixed, 3, 3, TIME);
        assert_eq!(counts(&times, 9), [("a".to_owned(), 2), ("b".to_owned(), 2)]);
        times.add_sent(&SentCommands::Alike(a), 5, 5, TIME);
        assert_eq!(counts(&times, 1), [("a".to_owned(), 7)]);
    }

    #[test]
    fn commands_beyond_the_limit_are_timed_together() {
        let times = CommandTimes::default();
        for n in 0..MAX_COMMANDS + 50 {
            times.add(times.number(&format!("command{n}")), TIME, 1);
        }
        let counts = counts(&times, usize::MAX);
        assert_eq!(counts.len(), MAX_COMMANDS + 1);
        assert_eq!(counts[0], (OTHERS.to_owned(), 50));
        assert!(lock(&times.numbers).len() <= MAX_COMMANDS + 1);
        times.add(CommandId::HTTP_KEYS, TIME, 7);
        times.add(CommandId::HTTP_LISTINGS, TIME, 8);
        let all = self::counts(&times, usize::MAX);
        for (name, count) in [("GET /KEY", 7), ("GET / (listing)", 8), (OTHERS, 50)] {
            assert!(all.contains(&(name.to_owned(), count)), "{name}");
        }
    }
}
