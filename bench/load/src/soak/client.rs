//! One client of the soak test: sends, compares, and disconnects at the worst moments.

use std::fmt;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::batch::{Batch, Session};
use super::http::Http;
use super::socket::Socket;
use super::{Random, Soak, add};
use crate::wire;

const BUFFER_BYTES: usize = 32 * 1024;

/// Longer than the balancer may take for a read.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between a failure and the next connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// One of this many sessions speaks HTTP.
const SESSIONS_PER_HTTP: usize = 4;

/// Average number of pipelines or requests in a session.
const PIPELINES_PER_SESSION: usize = 100;

/// How many bytes of a wrong reply are printed, and how many before the first wrong one.
const SHOWN_BYTES: usize = 120;
const SHOWN_BEFORE: usize = 20;

/// How a client ends a session.
#[derive(Clone, Copy)]
pub enum Leave {
    Idle,
    Unread,
    HalfSent,
    Reset,
}

impl Leave {
    pub const ALL: [Leave; 4] = [Leave::Idle, Leave::Unread, Leave::HalfSent, Leave::Reset];
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leave::Idle => "between replies",
            Leave::Unread => "with replies unread",
            Leave::HalfSent => "in the middle of a command",
            Leave::Reset => "with a reset, replies unread",
        })
    }
}

/// An outcome that fails the soak test.
pub enum Failure {
    Wrong(String),
    /// The balancer closed a session without cause.
    Dropped(std::io::Error),
    ConnectFailed(std::io::Error),
    TimedOut,
}

impl Failure {
    pub const KINDS: [&str; 4] =
        ["wrong reply", "dropped by the balancer", "failed to connect", "timed out"];

    /// An index into [`Self::KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Failure::Wrong(_) => 0,
            Failure::Dropped(_) => 1,
            Failure::ConnectFailed(_) => 2,
            Failure::TimedOut => 3,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::TimedOut,
            _ => Failure::Dropped(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Failure::KINDS[self.kind()])?;
        match self {
            Failure::Wrong(what) => write!(f, ": {what}"),
            Failure::Dropped(error) | Failure::ConnectFailed(error) => write!(f, ": {error}"),
            Failure::TimedOut => Ok(()),
        }
    }
}

pub struct Client<'a> {
    soak: &'a Soak,
    random: Random,
    session: Session,
    batch: Batch<'a>,
    inbox: Inbox,
}

impl<'a> Client<'a> {
    pub fn new(soak: &'a Soak, number: usize, random: Random) -> Client<'a> {
        Client {
            soak,
            random,
            session: Session { client: number, database: 0, is_resp3: false, tokens: 0 },
            batch: Batch::default(),
            inbox: Inbox { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0 },
        }
    }

    pub fn run(mut self) {
        while !self.is_over() {
            if let Err(failure) = self.run_session() {
                self.soak.note(self.session.client, &failure);
                thread::sleep(RECONNECT_PAUSE);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.soak.is_over.load(Ordering::Relaxed)
    }

    /// Runs one session.
    fn run_session(&mut self) -> Result<(), Failure> {
        if self.random.below(SESSIONS_PER_HTTP) == 0 {
            return self.run_http_session();
        }
        let socket = self.connect()?;
        while !self.is_over() {
            self.batch.refill(&self.soak.tables, &mut self.session, &mut self.random);
            if self.random.below(PIPELINES_PER_SESSION) == 0 {
                return self.leave(&socket);
            }
            self.send(&socket)?;
            self.receive(&socket, self.batch.len())?;
            if self.inbox.start < self.inbox.end {
                let more = shown(&self.inbox.bytes[self.inbox.start..self.inbox.end], 0);
                return Err(Failure::Wrong(format!("more bytes than expected: {more}")));
            }
        }
        Ok(())
    }

    fn run_http_session(&mut self) -> Result<(), Failure> {
        let socket = self.dial()?;
        let mut http = Http::new(&socket);
        while !self.is_over() {
            let item = self.random.pick(&self.soak.http_items);
            if self.random.below(PIPELINES_PER_SESSION) == 0 {
                let way = *self.random.pick(&Leave::ALL);
                http.leave(way, item, &mut self.random)?;
                return self.end(&socket, way);
            }
            http.ask(item)?;
            add(&self.soak.verified, 1);
        }
        Ok(())
    }

    fn dial(&self) -> Result<Socket, Failure> {
        let socket = wire::connect(self.soak.lb).map_err(Failure::ConnectFailed)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        let socket = Socket::new(socket, self.soak.tls.as_ref()).map_err(Failure::ConnectFailed)?;
        add(&self.soak.connections, 1);
        Ok(socket)
    }

    fn connect(&mut self) -> Result<Socket, Failure> {
        let socket = self.dial()?;
        (self.inbox.start, self.inbox.end) = (0, 0);
        self.session.database = 0;
        self.session.is_resp3 = self.random.below(4) == 0;
        if self.session.is_resp3 {
            // This reply can't be compared: it contains the id of the connection.
            (&socket).write_all(&wire::command(&["HELLO", "3"]))?;
            let mut reply = Vec::new();
            wire::read_value(&mut BufReader::new(&socket), &mut reply)?;
            if !reply.starts_with(b"%") {
                return Err(Failure::Wrong(format!("reply to HELLO 3: {}", shown(&reply, 0))));
            }
        }
        Ok(socket)
    }

    /// Sends the batch in one write, or sometimes in two with the last command cut between them.
    fn send(&mut self, mut socket: &Socket) -> Result<(), Failure> {
        let cut = if self.random.below(16) == 0 { self.batch.cut(&mut self.random) } else { 0 };
        let (first, second) = self.batch.requests.split_at(cut);
        socket.write_all(first)?;
        socket.write_all(second)?;
        socket.flush()?;
        Ok(())
    }

    /// Compares the first `count` replies.
    fn receive(&mut self, socket: &Socket, count: usize) -> Result<(), Failure> {
        for index in 0..count {
            if let Err(mut failure) = self.inbox.expect(socket, self.batch.reply(index)) {
                add(&self.soak.verified, index as u64);
                if let Failure::Wrong(what) = &mut failure {
                    let request = shown(self.batch.request(index), 0);
                    *what = format!("reply to {request}, number {index} of its pipeline: {what}");
                }
                return Err(failure);
            }
        }
        add(&self.soak.verified, count as u64);
        Ok(())
    }

    fn leave(&mut self, mut socket: &Socket) -> Result<(), Failure> {
        let way = *self.random.pick(&Leave::ALL);
        let answered = self.batch.len() - 1;
        match way {
            Leave::Idle => {}
            Leave::Unread | Leave::Reset => socket.write_all(&self.batch.requests)?,
            Leave::HalfSent => {
                let cut = self.batch.cut(&mut self.random);
                socket.write_all(&self.batch.requests[..cut])?;
            }
        }
        if !matches!(way, Leave::Idle) {
            let count = self.random.below(answered + 1);
            self.receive(socket, count)?;
        }
        self.end(socket, way)
    }

    fn end(&self, socket: &Socket, way: Leave) -> Result<(), Failure> {
        if matches!(way, Leave::Reset) {
            let reset =
                |tcp: &_| rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO));
            socket.with_tcp(reset).map_err(std::io::Error::from)?;
        }
        add(&self.soak.left[way as usize], 1);
        Ok(())
    }
}

/// Bytes that have arrived and are not compared yet.
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn expect(&mut self, mut socket: &Socket, reply: &[u8]) -> Result<(), Failure> {
        let mut done = 0;
        while done < reply.len() {
            if self.start == self.end {
                (self.start, self.end) = (0, socket.read(&mut self.bytes)?);
                if self.end == 0 {
                    return Err(Failure::Dropped(ErrorKind::UnexpectedEof.into()));
                }
            }
            let received = &self.bytes[self.start..self.end];
            let wanted = &reply[done..];
            let length = received.len().min(wanted.len());
            if received[..length] != wanted[..length] {
                let equal =
                    received.iter().zip(wanted).take_while(|(one, other)| one == other).count();
                return Err(Failure::Wrong(format!(
                    "differs from byte {}; expected {}, got {}",
                    done + equal,
                    shown(wanted, equal),
                    shown(received, equal),
                )));
            }
            self.start += length;
            done += length;
        }
        Ok(())
    }
}

/// Formats some bytes around `place`, escaped.
pub fn shown(bytes: &[u8], place: usize) -> String {
    let bytes = &bytes[place.saturating_sub(SHOWN_BEFORE)..];
    format!("\"{}\"", bytes[..bytes.len().min(SHOWN_BYTES)].escape_ascii())
}
