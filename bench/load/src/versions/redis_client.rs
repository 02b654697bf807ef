//! Clients that read over the Redis protocol.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::backends::{Connection, OWN_NUMBER};
use super::check::{Checker, Failure, Reply, Seen, Source};
use super::history::Content;
use super::keys::{self, KEYS, SWAPPED_DATABASE, VERSIONED};
use super::writer::wall_ms;
use super::{READS_PER_COLD_ONE, choose_key, repeat, seen};
use crate::soak::Random;
use crate::wire;

/// Average number of rounds in a session; one of so many sessions reads the databases that are swapped.
const ROUNDS_PER_SESSION: usize = 200;
const SESSIONS_PER_SWAPPED: usize = 10;

/// Most groups of reads between two questions for the server's number, and most reads of a group.
const MAX_GROUPS: usize = 4;
const MAX_PIPELINE: usize = 32;
const MAX_IN_MULTI: usize = 6;
const MAX_ONE_BY_ONE: usize = 6;

/// One of this many reads is of a key that expires, and one is of several keys.
const READS_PER_EXPIRING: usize = 10;
const READS_PER_MGET: usize = 12;

/// More than there are forms of reads.
const FORMS: usize = 64;

/// After a longer wait another server may have answered.
const LONG_WAIT: Duration = Duration::from_millis(100);

struct Read {
    /// Keys with versions; none if the key is one that expires.
    keys: Vec<usize>,
    bytes: Vec<u8>,
}

/// What is judged as soon as the server is known that answered.
struct Unjudged {
    source: Source,
    key: usize,
    content: Content,
    sent: Instant,
    /// Place in [`Client::requests`].
    request: usize,
}

struct Client<'a> {
    checker: &'a Checker,
    seen: Seen,
    random: Random,
    is_resp3: bool,
    is_swapped: bool,
    unjudged: Vec<Unjudged>,
    requests: Vec<Vec<u8>>,
    has_waited_long: bool,
}

pub fn run(lb: u16, checker: &Checker, is_over: &AtomicBool) {
    let mut client = Client {
        checker,
        seen: seen(checker),
        random: Random::new(),
        is_resp3: false,
        is_swapped: false,
        unjudged: Vec::new(),
        requests: Vec::new(),
        has_waited_long: false,
    };
    repeat(checker, is_over, || client.session(lb, is_over));
}

impl Client<'_> {
    fn session(&mut self, lb: u16, is_over: &AtomicBool) -> io::Result<()> {
        let mut connection = Connection::open(lb)?;
        self.seen.clear();
        self.is_resp3 = self.random.below(2) == 0;
        self.is_swapped = self.random.below(SESSIONS_PER_SWAPPED) == 0;
        if self.is_resp3 {
            connection.command(&["HELLO", "3"])?;
        }
        if self.is_swapped {
            connection.command(&["SELECT", SWAPPED_DATABASE])?;
        }
        while !is_over.load(Ordering::Relaxed) && self.random.below(ROUNDS_PER_SESSION) > 0 {
            self.round(&mut connection)?;
        }
        Ok(())
    }

    /// Reads between two questions for the server's number: if both have the same answer, it was that server.
    fn round(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.unjudged.clear();
        self.requests.clear();
        self.has_waited_long = false;
        let first = own_number(connection)?;
        for _ in 0..1 + self.random.below(MAX_GROUPS) {
            match self.random.below(3) {
                0 => self.one_by_one(connection)?,
                1 => self.in_multi(connection)?,
                _ => self.pipeline(connection)?,
            }
        }
        let last = own_number(connection)?;
        let is_certain = first == last && !(self.checker.with_faults && self.has_waited_long);
        let backend = first.filter(|&number| is_certain && number < self.checker.backends.len());
        for Unjudged { source, key, content, sent, request } in self.unjudged.drain(..) {
            let request = &self.requests[request];
            self.checker
                .check(&mut self.seen, &Reply { source, backend, key, content, sent, request });
        }
        Ok(())
    }

    fn one_by_one(&mut self, connection: &mut Connection) -> io::Result<()> {
        let source = if self.is_resp3 { Source::Resp3 } else { Source::Resp2 };
        for _ in 0..1 + self.random.below(MAX_ONE_BY_ONE) {
            let read = self.choose();
            let (sent, sent_ms) = (Instant::now(), wall_ms());
            let replies = connection.ask(&read.bytes, 1)?;
            self.note(source, vec![read], &replies, (sent, sent_ms));
        }
        Ok(())
    }

    fn pipeline(&mut self, connection: &mut Connection) -> io::Result<()> {
        let source = if self.is_resp3 { Source::Pipeline3 } else { Source::Pipeline2 };
        let count = 2 + self.random.below(MAX_PIPELINE - 1);
        let reads: Vec<Read> = (0..count).map(|_| self.choose()).collect();
        let bytes: Vec<u8> = reads.iter().flat_map(|read| &read.bytes).copied().collect();
        let sent = (Instant::now(), wall_ms());
        let replies = connection.ask(&bytes, count)?;
        self.note(source, reads, &replies, sent);
        Ok(())
    }

    fn in_multi(&mut self, connection: &mut Connection) -> io::Result<()> {
        let count = 1 + self.random.below(MAX_IN_MULTI);
        let reads: Vec<Read> = (0..count).map(|_| self.choose()).collect();
        let [multi, exec] = ["MULTI", "EXEC"].map(|word| wire::command(&[word]));
        let queued: Vec<u8> = reads.iter().flat_map(|read| &read.bytes).copied().collect();
        let sent = (Instant::now(), wall_ms());
        let replies = connection.ask(&[multi, queued, exec].concat(), count + 2)?;
        let replies = elements(&replies[count + 1])?;
        self.note(Source::Transaction, reads, &replies, sent);
        Ok(())
    }

    fn choose(&mut self) -> Read {
        let form = self.random.below(FORMS);
        let random = &mut self.random;
        if self.is_swapped {
            let key = VERSIONED + random.below(KEYS - VERSIONED);
            return Read { keys: vec![key], bytes: keys::read(&keys::name(key), false, form) };
        }
        if random.below(READS_PER_EXPIRING) == 0 {
            let number = random.below(keys::EXPIRING);
            let name = keys::expiring_name(number);
            return Read { keys: Vec::new(), bytes: keys::read(&name, number % 2 == 1, form) };
        }
        if random.below(READS_PER_MGET) == 0 {
            let keys: Vec<usize> = (0..2 + form % 4)
                .map(|_| choose_key(random, VERSIONED, READS_PER_COLD_ONE) & !1)
                .collect();
            let names: Vec<String> = keys.iter().map(|&key| keys::name(key)).collect();
            let words: Vec<&str> =
                std::iter::once("MGET").chain(names.iter().map(String::as_str)).collect();
            return Read { keys, bytes: wire::command(&words) };
        }
        let key = choose_key(random, VERSIONED, READS_PER_COLD_ONE);
        Read { keys: vec![key], bytes: keys::read(&keys::name(key), keys::is_hash(key), form) }
    }

    /// Keeps replies until the server is known that sent them.
    fn note(
        &mut self,
        source: Source,
        reads: Vec<Read>,
        replies: &[Vec<u8>],
        (sent, sent_ms): (Instant, u64),
    ) {
        self.has_waited_long |= sent.elapsed() > LONG_WAIT;
        let source = if self.is_swapped { Source::Swapped } else { source };
        for (read, reply) in reads.into_iter().zip(replies) {
            if reply.starts_with(b"-") {
                let text = format!("{} to {}", reply.escape_ascii(), read.bytes.escape_ascii());
                self.checker.fail(Failure::ErrorReply, &text);
                continue;
            }
            if read.keys.is_empty() {
                self.checker.check_expiring(sent_ms, reply, &read.bytes);
                continue;
            }
            let parts = match read.keys.len() {
                1 => vec![reply.clone()],
                _ => elements(reply).unwrap_or_default(),
            };
            let request = self.requests.len();
            self.requests.push(read.bytes);
            if parts.len() != read.keys.len() {
                let text = format!("{} elements", parts.len());
                self.checker.fail(Failure::Impossible, &text);
            }
            for (&key, part) in read.keys.iter().zip(&parts) {
                match content(part) {
                    Ok(content) => {
                        self.unjudged.push(Unjudged { source, key, content, sent, request });
                    }
                    Err(text) => {
                        let request = self.requests[request].escape_ascii();
                        self.checker.fail(Failure::Impossible, &format!("{text}; {request}"));
                    }
                }
            }
        }
    }
}

/// Which server the session reads from; `None` just after a flush.
fn own_number(connection: &mut Connection) -> io::Result<Option<usize>> {
    let reply = connection.command(&["GET", OWN_NUMBER])?;
    let text = String::from_utf8_lossy(&reply);
    Ok(text.lines().nth(1).and_then(|number| number.parse().ok()))
}

/// What a reply says of its key.
fn content(reply: &[u8]) -> Result<Content, String> {
    let number = keys::number_after(b"g=", reply)?;
    Ok(match (number, reply.first()) {
        (Some(state), _) => Content::Written(state),
        (None, Some(b':' | b'+')) if keys::says_present(reply) => Content::Present,
        _ => Content::Absent,
    })
}

/// The replies in an array.
fn elements(reply: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let end = reply.iter().position(|&byte| byte == b'\n').unwrap_or(reply.len() - 1);
    let (head, mut rest) = reply.split_at(end + 1);
    if !head.starts_with(b"*") {
        return Err(io::Error::other(format!("no array: {}", reply.escape_ascii())));
    }
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let mut element = Vec::new();
        wire::read_value(&mut rest, &mut element)?;
        elements.push(element);
    }
    Ok(elements)
}
