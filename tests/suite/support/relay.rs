use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::redis::{RedisServer, free_port};
use super::{seed, wait_until};

/// Neither within a reply nor at its end can these be: there is no CR, and a line's end without one
/// is an error at once.
pub const GARBAGE: [u8; 4] = [0xff, b'?', b'!', b'\n'];

/// What is done to replies from some byte on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Each piece of them comes so much later.
    Latency(Duration),
    /// So many bytes a second.
    Bandwidth(usize),
    /// The next so many bytes come one by one.
    Slices(usize),
    /// The connection is reset.
    Reset,
    /// The connection ends in good order.
    Close,
    /// Nothing comes any more, and nothing is passed on; the connection stays.
    Silence,
    /// Pieces of more than so many bytes are lost, and with them all that comes after them on the
    /// connection: a network that loses large packets.
    LoseLarge(usize),
    /// Bytes that are no reply come instead.
    Garbage,
    /// These bytes come in between, with those around them.
    Extra(&'static [u8]),
    /// A new connection is accepted and closed at once; for [`Rule::asked`] and [`Rule::after`] it
    /// is too early then.
    Refuse,
}

impl Fault {
    /// Whether it happens as soon as the bytes before it were there, not with the next.
    fn follows_at_once(self) -> bool {
        matches!(self, Self::Reset | Self::Close | Self::Extra(_))
    }
}

/// A fault, with where and how often it happens. Clones share the count of how often it did: so the
/// same rule may be given to several relays.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    word: Option<String>,
    positions: Vec<Range<usize>>,
    connection: Option<usize>,
    probability: f64,
    most: usize,
    happened: Arc<AtomicUsize>,
}

impl Rule {
    /// On all connections, those that are there and those to come, from the next byte on.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            word: None,
            positions: Vec::new(),
            connection: None,
            probability: 1.0,
            most: usize::MAX,
            happened: Arc::default(),
        }
    }

    /// Only where `word` was asked: the bytes of the replies to that, and to what was sent with it,
    /// are counted. The setup of a connection and health checks are left alone, or hit, by choice
    /// of the word.
    pub fn asked(mut self, word: impl Into<String>) -> Self {
        self.word = Some(word.into());
        self
    }

    /// Behind so many bytes of replies. Called again it says where the fault happens the next time;
    /// the last stays.
    pub fn after(self, bytes: usize) -> Self {
        self.within(bytes..bytes + 1)
    }

    /// Like [`after`](Self::after), at random.
    pub fn within(mut self, bytes: Range<usize>) -> Self {
        self.positions.push(bytes);
        self
    }

    /// Only on the connection with this number, counted from 1 when the relay was given the rule.
    pub fn on_connection(mut self, number: usize) -> Self {
        self.connection = Some(number);
        self
    }

    /// Each time that the word is asked; or, without a word, for each connection.
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Not more often than this.
    pub fn times(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// How often it has happened.
    pub fn happened(&self) -> usize {
        self.happened.load(Ordering::SeqCst)
    }

    fn is_used_up(&self) -> bool {
        self.happened() >= self.most
    }

    /// Counts that it happens now; false when it has happened often enough.
    fn claim(&self) -> bool {
        let more = |happened| (happened < self.most).then_some(happened + 1);
        self.happened.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.happened, &other.happened)
    }

    fn is_asked_by(&self, bytes: &[u8]) -> bool {
        let word = self.word.as_deref().unwrap_or_default().as_bytes();
        bytes.windows(word.len()).any(|window| window == word)
    }

    fn position(&self, random: &mut fastrand::Rng) -> usize {
        let next = self.happened().min(self.positions.len().saturating_sub(1));
        self.positions.get(next).map_or(0, |position| random.usize(position.clone()))
    }
}

/// Stands before a real server, passes on what is asked and replied, and has faults.
pub struct Relay {
    port: u16,
    state: Arc<State>,
    /// The thread that accepts, while new connections are not refused.
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Relay {
    /// Without a fault.
    pub fn start(server: &RedisServer) -> Self {
        let rules =
            Rules { version: 0, list: Vec::new(), random: fastrand::Rng::with_seed(seed()) };
        let state = State {
            server: server.port(),
            rules: Mutex::new(rules),
            connections: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
            is_refusing: AtomicBool::new(false),
            links: Mutex::default(),
        };
        // Not one of the ports that the system gives to connections: it must stay ours while nothing
        // listens there.
        let listener = (0..10).find_map(|_| TcpListener::bind(("127.0.0.1", free_port())).ok());
        let listener = listener.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let relay = Self { port, state: Arc::new(state), accepting: Mutex::default() };
        relay.accept(listener);
        relay
    }

    /// Starts a relay with a rule.
    pub fn with(server: &RedisServer, rule: &Rule) -> Self {
        let relay = Self::start(server);
        relay.add(rule);
        relay
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on this rule holds too. Of several that a question matches, the first counts.
    pub fn add(&self, rule: &Rule) {
        let since = self.connections();
        let mut rules = lock(&self.state.rules);
        rules.version += 1;
        rules.list.push((rule.clone(), since));
    }

    /// No rule holds any more. What a fault has made of a connection stays so.
    pub fn clear(&self) {
        let mut rules = lock(&self.state.rules);
        rules.version += 1;
        rules.list.clear();
    }

    /// New connections are refused, as nothing listens any more; those that are there go on.
    pub fn refuse(&self) {
        let Some(accepting) = lock(&self.accepting).take() else { return };
        self.state.is_refusing.store(true, Ordering::SeqCst);
        // What it waits for. It may have ended for another reason.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        accepting.join().expect("no panic while it accepts");
    }

    /// New connections are accepted again.
    pub fn listen(&self) {
        if lock(&self.accepting).is_some() {
            return;
        }
        self.state.is_refusing.store(false, Ordering::SeqCst);
        let mut listener = None;
        wait_until("the relay's port is free", || {
            listener = TcpListener::bind(("127.0.0.1", self.port)).ok();
            listener.is_some()
        });
        self.accept(listener.expect("a listener"));
    }

    /// Resets all connections that are there.
    pub fn reset_all(&self) {
        let links = std::mem::take(&mut *lock(&self.state.links));
        links.iter().filter_map(Weak::upgrade).for_each(|link| link.reset());
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many faults there were: on each connection, one for each time that a rule came to hold.
    pub fn faults(&self) -> usize {
        self.state.faults.load(Ordering::SeqCst)
    }

    fn accept(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let accepting = thread::spawn(move || {
            for client in listener.incoming() {
                if state.is_refusing.load(Ordering::SeqCst) {
                    return;
                }
                // One that is gone already, or whose server is, is closed.
                let _ = client.and_then(|client| state.connect(client));
            }
        });
        *lock(&self.accepting) = Some(accepting);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.refuse();
        self.reset_all();
    }
}

struct State {
    server: u16,
    rules: Mutex<Rules>,
    connections: AtomicUsize,
    faults: AtomicUsize,
    is_refusing: AtomicBool,
    links: Mutex<Vec<Weak<Link>>>,
}

struct Rules {
    /// Counts their changes.
    version: u64,
    /// Each with the number of connections that there had been before it.
    list: Vec<(Rule, usize)>,
    random: fastrand::Rng,
}

impl State {
    fn connect(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        if self.refuses(number) {
            self.faults.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let server = TcpStream::connect(("127.0.0.1", self.server))?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        let link = Arc::new(Link {
            state: Arc::clone(self),
            number,
            client,
            server,
            progress: Mutex::default(),
            is_silent: AtomicBool::new(false),
            is_reset: AtomicBool::new(false),
        });
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        drop(links);
        let replies = Arc::clone(&link);
        thread::spawn(move || replies.pass_replies());
        thread::spawn(move || link.pass_questions());
        Ok(())
    }

    fn refuses(&self, number: usize) -> bool {
        let Rules { list, random, .. } = &mut *lock(&self.rules);
        let mut refusing = list.iter().filter(|(rule, _)| rule.fault == Fault::Refuse);
        refusing.any(|(rule, since)| {
            rule.connection.is_none_or(|wanted| since + wanted == number)
                && random.f64() < rule.probability
                && rule.claim()
        })
    }
}

/// One connection to the relay, and the relay's own to the server. Both are closed when the two
/// threads that pass bytes on have ended.
struct Link {
    state: Arc<State>,
    number: usize,
    client: TcpStream,
    server: TcpStream,
    progress: Mutex<Progress>,
    is_silent: AtomicBool,
    is_reset: AtomicBool,
}

/// How far a connection is on its way to a fault.
#[derive(Default)]
struct Progress {
    /// The version of the rules that it knows.
    version: u64,
    armed: Option<Armed>,
}

/// A rule that holds now.
struct Armed {
    rule: Rule,
    fault: Fault,
    /// So many bytes of replies are passed on before.
    left: usize,
    has_happened: bool,
}

impl Armed {
    /// Whether the connection is of no use any more.
    fn lasts(&self) -> bool {
        self.has_happened && matches!(self.fault, Fault::Silence | Fault::Garbage)
    }
}

impl Link {
    fn pass_questions(&self) {
        let mut piece = [0; 64 * 1024];
        while let Ok(length @ 1..) = (&self.client).read(&mut piece) {
            self.arm(Some(&piece[..length]));
            if !self.is_silent.load(Ordering::SeqCst) {
                // When the server is gone, the client hears so from the other thread.
                let _ = (&self.server).write_all(&piece[..length]);
            }
        }
        // It may be gone already.
        let _ = self.server.shutdown(Shutdown::Both);
    }

    fn pass_replies(&self) {
        let mut piece = [0; 16 * 1024];
        while let Ok(length @ 1..) = (&self.server).read(&mut piece) {
            self.arm(None);
            let (untouched, fault) = self.advance(length);
            if let Some(Fault::Extra(extra)) = fault {
                // In one write, so that they come together.
                let all = [&piece[..untouched], extra, &piece[untouched..length]].concat();
                match (&self.client).write_all(&all) {
                    Ok(()) => continue,
                    Err(_) => break,
                }
            }
            let (before, rest) = piece[..length].split_at_mut(untouched);
            let passed = (&self.client).write_all(before);
            if passed.and_then(|()| self.pass(rest, fault)).is_err() {
                break;
            }
        }
        if !self.is_reset.load(Ordering::SeqCst) {
            // With a reset the balancer could lose what it was sent.
            let _ = self.client.shutdown(Shutdown::Write);
        }
    }

    /// Lets rules come to hold for what was asked; or, within a reply, those that ask for no word.
    fn arm(&self, asked: Option<&[u8]>) {
        let Rules { version, list, random } = &mut *lock(&self.state.rules);
        let mut progress = lock(&self.progress);
        let is_news = progress.version != *version;
        progress.version = *version;
        if progress.armed.as_ref().is_some_and(Armed::lasts) {
            return;
        }
        let armed = progress.armed.take();
        progress.armed = armed.filter(|armed| list.iter().any(|(rule, _)| rule.is(&armed.rule)));
        for (rule, since) in list {
            let is_meant = match (&rule.word, asked) {
                (None, _) => is_news,
                (Some(_), Some(asked)) => rule.is_asked_by(asked),
                (Some(_), None) => false,
            };
            let is_mine = rule.connection.is_none_or(|wanted| *since + wanted == self.number);
            if !is_meant || !is_mine || rule.fault == Fault::Refuse {
                continue;
            }
            if progress.armed.as_ref().is_some_and(|armed| armed.rule.is(rule)) {
                return;
            }
            if !rule.is_used_up() && random.f64() < rule.probability {
                progress.armed = Some(Armed {
                    fault: rule.fault,
                    left: rule.position(random),
                    has_happened: false,
                    rule: rule.clone(),
                });
                return;
            }
        }
    }

    /// How many of the next `length` bytes pass untouched, and what is done to the rest.
    ///
    /// They are counted before they are passed on: as soon as they are, more may be asked.
    fn advance(&self, length: usize) -> (usize, Option<Fault>) {
        let mut progress = lock(&self.progress);
        let Some(armed) = &mut progress.armed else { return (length, None) };
        let untouched = armed.left.min(length);
        let is_reached =
            armed.left < length || (armed.left == length && armed.fault.follows_at_once());
        armed.left -= untouched;
        if !is_reached {
            return (length, None);
        }
        if !armed.has_happened {
            if !armed.rule.claim() {
                progress.armed = None;
                return (length, None);
            }
            armed.has_happened = true;
            self.state.faults.fetch_add(1, Ordering::SeqCst);
        }
        let fault = armed.fault;
        if let Fault::Slices(left) = &mut armed.fault {
            *left = left.saturating_sub(length - untouched);
        }
        if let Fault::Extra(_) = fault {
            // Once each time.
            progress.armed = None;
        }
        (untouched, Some(fault))
    }

    /// Passes on what comes after the place where a fault happens; an error when nothing follows it.
    fn pass(&self, rest: &mut [u8], fault: Option<Fault>) -> std::io::Result<()> {
        let mut client = &self.client;
        match fault {
            None | Some(Fault::Refuse | Fault::Extra(_)) => client.write_all(rest),
            Some(Fault::Latency(time)) => {
                thread::sleep(time);
                client.write_all(rest)
            }
            Some(Fault::Bandwidth(bytes_a_second)) => {
                rest.chunks((bytes_a_second / 200).max(1)).try_for_each(|chunk| {
                    let seconds = chunk.len() as f64 / bytes_a_second as f64;
                    thread::sleep(Duration::from_secs_f64(seconds));
                    client.write_all(chunk)
                })
            }
            Some(Fault::Slices(count)) => {
                let (slices, rest) = rest.split_at(count.min(rest.len()));
                for byte in slices {
                    client.write_all(&[*byte])?;
                    thread::yield_now();
                }
                client.write_all(rest)
            }
            Some(Fault::Reset) => {
                self.reset();
                Err(ErrorKind::ConnectionReset.into())
            }
            Some(Fault::Close) => Err(ErrorKind::UnexpectedEof.into()),
            Some(Fault::Silence) => {
                self.is_silent.store(true, Ordering::SeqCst);
                Ok(())
            }
            Some(Fault::LoseLarge(most)) => {
                if rest.len() > most {
                    self.is_silent.store(true, Ordering::SeqCst);
                }
                match self.is_silent.load(Ordering::SeqCst) {
                    true => Ok(()),
                    false => client.write_all(rest),
                }
            }
            Some(Fault::Garbage) => {
                rest.iter_mut().zip(GARBAGE.iter().cycle()).for_each(|(byte, bad)| *byte = *bad);
                client.write_all(rest)?;
                // So that the end of a line comes, and nobody has to wait for it.
                client.write_all(&GARBAGE)
            }
        }
    }

    /// Lets both threads end; the client's socket, when it is closed then, is reset.
    fn reset(&self) {
        self.is_reset.store(true, Ordering::SeqCst);
        // Whatever is gone already needs none of it.
        let _ = socket2::SockRef::from(&self.client).set_linger(Some(Duration::ZERO));
        let _ = self.client.shutdown(Shutdown::Read);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}

#[test]
fn each_fault_is_what_it_says_and_where_it_says() {
    let server = RedisServer::start();
    let value = "0123456789".repeat(1000);
    server.command(&["SET", "value", &value]);
    let reply = format!("${}\r\n{value}\r\n", value.len()).into_bytes();
    let relay = Relay::start(&server);
    let ask = |fault| {
        relay.clear();
        let rule = Rule::new(fault).asked("value").after(5000).times(1);
        relay.add(&rule);
        let mut client = TcpStream::connect(relay.address()).expect("it accepts");
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        client.write_all(b"PING\r\n").expect("it reads");
        client.read_exact(&mut [0; 7]).expect("PONG");
        client.write_all(b"GET value\r\n").expect("it reads");
        let mut came = Vec::new();
        let ended = loop {
            let mut piece = [0; 4096];
            match client.read(&mut piece) {
                Ok(length @ 1..) => came.extend_from_slice(&piece[..length]),
                ended => break ended.map_err(|error| error.kind()),
            }
        };
        assert_eq!(rule.happened(), 1, "{fault:?}");
        (came, ended)
    };
    let timed_out = Err(ErrorKind::WouldBlock);
    let before = reply[..5000].to_vec();
    assert_eq!(ask(Fault::Close), (before.clone(), Ok(0)));
    let (came, ended) = ask(Fault::Reset);
    assert!(before.starts_with(&came) && ended == Err(ErrorKind::ConnectionReset), "{ended:?}");
    assert_eq!(ask(Fault::Silence), (before.clone(), timed_out));
    assert_eq!(ask(Fault::LoseLarge(4000)), (before.clone(), timed_out));
    let (came, ended) = ask(Fault::Garbage);
    assert!(came.starts_with(&before) && came.len() > reply.len() && ended == timed_out);
    assert!(!came[5000..].contains(&b'\r') && !came[5000..].contains(&b'0'));
    let slow = [Fault::Latency(Duration::from_millis(50)), Fault::Bandwidth(50_000)];
    for fault in slow.into_iter().chain([Fault::Slices(5000)]) {
        let began = Instant::now();
        assert_eq!(ask(fault), (reply.clone(), timed_out), "{fault:?}");
        let is_late = began.elapsed() >= Duration::from_millis(250);
        assert!(is_late || matches!(fault, Fault::Slices(_)), "{fault:?}");
    }
    assert_eq!(relay.faults(), 8);
}

#[test]
fn a_relay_refuses_resets_and_chooses_connections_while_it_runs() {
    let server = RedisServer::start();
    let relay = Relay::start(&server);
    let connect = || TcpStream::connect(relay.address());
    let pings = |mut client: &TcpStream| {
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        client.write_all(b"PING\r\n")?;
        client.read_exact(&mut [0; 7])
    };
    let first = connect().expect("it accepts");
    pings(&first).expect("PONG");
    relay.refuse();
    assert_eq!(connect().expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    pings(&first).expect("it is still there");
    relay.listen();
    relay.add(&Rule::new(Fault::Refuse).on_connection(2));
    let later = [(); 3].map(|()| pings(&connect().expect("it accepts")).is_ok());
    assert_eq!(later, [true, false, true]);
    relay.clear();
    relay.reset_all();
    assert_eq!(pings(&first).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    relay.add(&Rule::new(Fault::Close).asked("PING").with_probability(0.5).times(20));
    wait_until("it has closed 20", || {
        pings(&connect().expect("it accepts")).is_ok() && relay.faults() == 21
    });
    assert!(relay.connections() > 30, "half of them went well: {}", relay.connections());
}
