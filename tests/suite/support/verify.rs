//! Clients of every kind that read all the time, know what each reply must be, and count what was
//! not so.

use std::fmt::{Display, Formatter, Result as FmtResult};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use redis::{Value, parse_redis_value};

use super::client::Client;
use super::data::{Data, LONG, Read, Reads, Verdict};
use super::resp::{RespClient, encode};

/// Longer than any reply should take: a client that has waited so long counts its connection as lost.
const PATIENCE: Duration = Duration::from_secs(6);

/// As many texts and stalls of each sort as a report keeps.
const KEPT: usize = 6;

/// What a client is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Of Redis: so many commands a batch, RESP2 or RESP3, a database.
    Redis { batch: usize, protocol: u8, database: usize },
    /// MULTI, so many reads, EXEC.
    Transaction { reads: usize },
    /// So many requests pipelined; over one connection, or over a new one each time.
    Http { batch: usize, keep_alive: bool },
}

/// One of each.
pub const KINDS: [Kind; 9] = [
    Kind::Redis { batch: 1, protocol: 2, database: 0 },
    Kind::Redis { batch: 4, protocol: 2, database: 0 },
    Kind::Redis { batch: 100, protocol: 2, database: 0 },
    Kind::Redis { batch: 4, protocol: 3, database: 0 },
    Kind::Redis { batch: 4, protocol: 2, database: 1 },
    Kind::Transaction { reads: 4 },
    Kind::Http { batch: 1, keep_alive: true },
    Kind::Http { batch: 4, keep_alive: true },
    Kind::Http { batch: 1, keep_alive: false },
];

/// How all clients of a crowd read.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Whether some replies are longer than what the balancer holds until it is whole.
    pub long_replies: bool,
    /// The longest pause between two batches.
    pub pause: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self { long_replies: false, pause: Duration::from_millis(10) }
    }
}

/// What clients have seen.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Replies that were right.
    pub right: u64,
    /// Connections that were refused, ended, or silent for [`PATIENCE`].
    pub dropped: u64,
    /// Connections that ended while a long reply was due, which is allowed.
    pub cut: u64,
    pub errors: u64,
    pub wrong: u64,
    /// The right replies of each client.
    pub of_each: Vec<u64>,
    /// The longest, first.
    pub stalls: Vec<Stall>,
    /// The longest stalls where a long reply was due.
    pub long_stalls: Vec<Stall>,
    /// The first of each that went wrong.
    pub texts: Vec<String>,
}

/// How long one batch took, from the moment when it was sent to its last reply.
#[derive(Debug, Clone)]
pub struct Stall {
    pub took: Duration,
    /// Since the crowd began.
    pub sent_at: Duration,
    pub client: String,
}

impl Report {
    /// The longest that did not wait for a long reply.
    pub fn longest_stall(&self) -> Duration {
        self.stalls.first().map_or(Duration::ZERO, |stall| stall.took)
    }

    /// Nothing dropped, no error, nothing wrong.
    pub fn is_clean(&self) -> bool {
        (self.dropped, self.errors, self.wrong) == (0, 0, 0)
    }

    fn keep_text(&mut self, what: &str, at: Duration, client: &str, text: &str) {
        let same = self.texts.iter().filter(|text| text.starts_with(what)).count();
        if same < KEPT {
            self.texts.push(format!("{what} at {at:.3?} {client}: {text:.500}"));
        }
    }
}

impl Display for Report {
    fn fmt(&self, to: &mut Formatter) -> FmtResult {
        let Self { right, dropped, cut, errors, wrong, .. } = self;
        let longest = self.longest_stall();
        write!(
            to,
            "{right} right, {dropped} dropped, {cut} cut, {errors} errors, {wrong} wrong, \
             longest stall {longest:.3?}"
        )?;
        let stalls = [("stall", &self.stalls), ("stall of a long reply", &self.long_stalls)];
        for (name, stalls) in stalls {
            for Stall { took, sent_at, client } in stalls.iter().take(3) {
                write!(to, "\n  {name} {took:.3?} from {sent_at:.3?} {client}")?;
            }
        }
        self.texts.iter().try_for_each(|text| write!(to, "\n  {text}"))
    }
}

/// Clients that read until [`finish`](Self::finish), or until this is dropped.
pub struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    data: Arc<Data>,
    port: u16,
    habits: Habits,
    began: Instant,
    is_over: AtomicBool,
    report: Mutex<Report>,
}

impl Crowd {
    /// A client for each of `kinds`, of a balancer or (if none is HTTP) straight of a server.
    pub fn start(port: u16, data: &Arc<Data>, kinds: &[Kind], habits: Habits, seed: u64) -> Self {
        let report = Report { of_each: vec![0; kinds.len()], ..Report::default() };
        let shared = Arc::new(Shared {
            data: Arc::clone(data),
            port,
            habits,
            began: Instant::now(),
            is_over: AtomicBool::new(false),
            report: Mutex::new(report),
        });
        let threads = kinds.iter().enumerate().map(|(number, &kind)| {
            let shared = Arc::clone(&shared);
            let rng = Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(number as u64));
            thread::spawn(move || shared.read_on(number, kind, rng))
        });
        Self { threads: threads.collect(), shared }
    }

    /// What they have seen so far.
    pub fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// Ends them, and tells what they have seen.
    pub fn finish(mut self) -> Report {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic in a client");
        }
        self.report()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().expect("no panic while it is held")
    }

    /// What one client does.
    fn read_on(&self, number: usize, kind: Kind, mut rng: Rng) {
        let name = format!("client {number} {kind:?}");
        let mut kept = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let batch = self.choose(kind, &mut rng);
            let sent_at = self.began.elapsed();
            let mut seen = Seen::default();
            let ended = self.exchange(kind, &mut kept, &batch, &mut seen);
            let took = self.began.elapsed() - sent_at;
            let is_long = |read: &&Read| read.reply_bytes > LONG;
            let mut report = self.report();
            report.right += seen.right;
            report.of_each[number] += seen.right;
            report.errors += seen.errors.len() as u64;
            report.wrong += seen.wrong.len() as u64;
            for (what, texts) in [("error", seen.errors), ("wrong", seen.wrong)] {
                texts.iter().for_each(|text| report.keep_text(what, sent_at + took, &name, text));
            }
            if let Err(error) = &ended {
                kept = None;
                let due = batch.get(seen.replies);
                let what = if due.is_some_and(is_long) { "cut" } else { "dropped" };
                *(if what == "cut" { &mut report.cut } else { &mut report.dropped }) += 1;
                let due = due.map_or("the end", |read| &read.shown);
                let text = format!("{error}, sent at {sent_at:.3?}, due: {due}");
                report.keep_text(what, sent_at + took, &name, &text);
            }
            let has_long = batch.iter().any(is_long);
            let stalls = if has_long { &mut report.long_stalls } else { &mut report.stalls };
            let place = stalls.partition_point(|stall| stall.took > took);
            if place < KEPT {
                stalls.insert(place, Stall { took, sent_at, client: name.clone() });
                stalls.truncate(KEPT);
            }
            drop(report);
            let pause = self.habits.pause.mul_f64(rng.f64());
            // One that can't connect does not do nothing else.
            thread::sleep(pause.max(Duration::from_millis(if ended.is_err() { 5 } else { 0 })));
        }
    }

    fn choose(&self, kind: Kind, rng: &mut Rng) -> Vec<&Read> {
        let (reads, count): (&Reads, usize) = match kind {
            Kind::Redis { batch, database, .. } => (self.data.commands(database), batch),
            Kind::Transaction { reads } => (self.data.commands(0), reads),
            Kind::Http { batch, .. } => (self.data.requests(), batch),
        };
        let at_most = match kind {
            // Its replies are one reply.
            Kind::Transaction { reads } => LONG / reads,
            _ if self.habits.long_replies => usize::MAX,
            _ => LONG,
        };
        (0..count).map(|_| reads.choose(rng, at_most)).collect()
    }

    /// Sends a batch and sees to its replies; connects first where no connection is `kept`.
    fn exchange(
        &self,
        kind: Kind,
        kept: &mut Option<Connection>,
        batch: &[&Read],
        seen: &mut Seen,
    ) -> io::Result<()> {
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(self.connect(kind, seen)?),
        };
        match (kind, connection) {
            (Kind::Redis { .. }, Connection::Redis(client)) => {
                client.try_send_raw(requests(batch, b""))?;
                for read in batch {
                    seen.reply(read, parsed(client)?);
                }
            }
            (Kind::Transaction { .. }, Connection::Redis(client)) => {
                let commands = [encode(&["MULTI"]), requests(batch, b""), encode(&["EXEC"])];
                client.try_send_raw(commands.concat())?;
                seen.transaction(batch, client)?;
            }
            (Kind::Http { keep_alive, .. }, Connection::Http(client)) => {
                let end: &[u8] = if keep_alive { b"\r\n" } else { b"Connection: close\r\n\r\n" };
                client.try_send(requests(batch, end))?;
                for read in batch {
                    let answer = client.try_answer()?.ok_or(ErrorKind::UnexpectedEof)?;
                    seen.judged(read.judge_answer(&answer));
                }
                if !keep_alive {
                    *kept = None;
                }
            }
            _ => unreachable!("a connection of the client's own kind"),
        }
        Ok(())
    }

    fn connect(&self, kind: Kind, seen: &mut Seen) -> io::Result<Connection> {
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        let (protocol, database) = match kind {
            Kind::Redis { protocol, database, .. } => (protocol, database),
            Kind::Transaction { .. } => (2, 0),
            Kind::Http { .. } => {
                set_timeouts(&stream)?;
                return Ok(Connection::Http(Client::new(stream)));
            }
        };
        let mut client = RespClient::new(stream);
        set_timeouts(client.stream())?;
        let protocol = (protocol == 3).then(|| encode(&["HELLO", "3"]));
        let database = (database != 0).then(|| encode(&["SELECT", &database.to_string()]));
        for command in protocol.into_iter().chain(database) {
            client.try_send_raw(command)?;
            if let Value::ServerError(error) = parsed(&mut client)? {
                seen.errors.push(format!("when it connected: {error:?}"));
                // Without it the replies would be those of another database or protocol.
                return Err(io::Error::other("it was not let in"));
            }
        }
        Ok(Connection::Redis(client))
    }
}

fn set_timeouts(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

enum Connection {
    Redis(RespClient),
    Http(Client),
}

/// What came of one batch.
#[derive(Default)]
struct Seen {
    /// Replies to reads, of whatever kind.
    replies: usize,
    right: u64,
    errors: Vec<String>,
    wrong: Vec<String>,
}

impl Seen {
    fn judged(&mut self, verdict: Verdict) {
        self.replies += 1;
        match verdict {
            Verdict::Right => self.right += 1,
            Verdict::Error(text) => self.errors.push(text),
            Verdict::Wrong(text) => self.wrong.push(text),
        }
    }

    fn reply(&mut self, read: &Read, reply: Value) {
        self.judged(read.judge(reply));
    }

    /// The replies to MULTI, to what is queued, and to EXEC.
    fn transaction(&mut self, batch: &[&Read], client: &mut RespClient) -> io::Result<()> {
        for expected in ["OK"].into_iter().chain(batch.iter().map(|_| "QUEUED")) {
            match parsed(client)? {
                Value::Okay if expected == "OK" => {}
                Value::SimpleString(text) if text == expected => {}
                Value::ServerError(error) => self.errors.push(format!("{expected}: {error:?}")),
                other => self.wrong.push(format!("{other:?} instead of {expected}")),
            }
        }
        match parsed(client)? {
            Value::Array(replies) if replies.len() == batch.len() => {
                batch.iter().zip(replies).for_each(|(read, reply)| self.reply(read, reply));
            }
            Value::ServerError(error) => self.errors.push(format!("EXEC: {error:?}")),
            other => self.wrong.push(format!("EXEC: {other:?}")),
        }
        Ok(())
    }
}

fn requests(batch: &[&Read], end: &[u8]) -> Vec<u8> {
    batch.iter().flat_map(|read| [&read.request, end].concat()).collect()
}

fn parsed(client: &mut RespClient) -> io::Result<Value> {
    let frame = client.try_reply()?;
    parse_redis_value(&frame).map_err(io::Error::other)
}
