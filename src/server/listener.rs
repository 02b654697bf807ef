//! Accepts clients, gives each a thread, and sees them off at the end.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::balance::{Balancer, Phase};
use crate::net::protocol::WireProtocol;
use crate::server::workers::Workers;
use crate::session::{self, ClientSocket, Endpoint, IDLE_GRACE};
use crate::sync::lock;

/// Connections that the kernel holds until they are accepted; std's 128 overflow when thousands
/// come at once.
const BACKLOG: i32 = 4096;

/// How long to wait for a client before looking whether the process is to end: 100 ms.
const LONGEST_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The wait behind a failed `accept` or `spawn`; it doubles up to the longest.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Clients over the limit that may wait to be told so; more are told at once if they have said
/// already what they speak, which a client that is still sending may miss, and closed else.
pub const TURNED_AWAY_QUEUE: usize = 64;

/// Clients of the admin address at a time. They do not count as clients: probes get through when
/// there are too many of those.
pub const MAX_ADMIN_CLIENTS: usize = 64;

/// How long one client over the limit may take to say what it speaks and to be told so.
const TURN_AWAY_TIME: Duration = Duration::from_millis(20);

const HTTP_FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Content-Length: 51\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\r\n\
    {\n  \"error\": \"too many clients: try again later\"\n}\n";
const RESP_FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// Binds the listening socket.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    // On Windows this option would let two processes share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The listening socket that the process which started us has passed on (systemd's socket
/// activation), if there is one. It changes the environment: only before there is another thread.
///
/// # Errors
/// When what was passed on is not one TCP socket that listens.
pub fn inherited() -> io::Result<Option<TcpListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 1 {
        return Err(io::Error::other(format!("{} were passed on, one is served", passed.len())));
    }
    let Some(listener) = passed.take_tcp_listener(0)? else { return Ok(None) };
    // Apple's systems don't say.
    #[cfg(not(target_vendor = "apple"))]
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(io::Error::other("it does not listen"));
    }
    Ok(Some(listener))
}

/// Serves clients until the balancer's [`Phase`] is `Leaving`, and for the drain delay behind that;
/// returns when all are gone or the drain timeout is over. Those of the `admin` address are served
/// as long as the process lives, `max_admin_clients` at a time. So many clients as `turned_away` wait at
/// most to be told that they are too many.
pub fn serve(
    listener: TcpListener,
    admin: Option<TcpListener>,
    max_admin_clients: usize,
    turned_away: usize,
    balancer: &Arc<Balancer>,
) -> io::Result<()> {
    // Other processes may have the same socket, and this holds for all of them. That suits those
    // that accept: one that was woken for a client that another has taken must not wait for it.
    listener.set_nonblocking(true)?;
    session::set_options(&listener)?;
    let (turned_away, queue) = sync_channel(turned_away);
    thread::Builder::new().name("full".to_owned()).spawn(move || turn_all_away(&queue))?;
    if let Some(admin) = admin {
        admin.set_nonblocking(true)?;
        session::set_options(&admin)?;
        let mut acceptor =
            Acceptor::new(admin, Endpoint::Admin, max_admin_clients, balancer, turned_away.clone());
        let accept = move || acceptor.accept_while(|| true);
        thread::Builder::new().name("admin".to_owned()).spawn(accept)?;
    }
    let mut acceptor = Acceptor::new(
        listener,
        Endpoint::Public,
        balancer.config.max_clients,
        balancer,
        turned_away,
    );
    let mut draining_at = None;
    acceptor.accept_while(|| !is_time_to_drain(balancer, &mut draining_at));
    balancer.enter(Phase::Draining);
    acceptor.accept_who_is_there();
    let clients = Arc::clone(&acceptor.clients);
    drop(acceptor);
    drain(&clients, balancer);
    Ok(())
}

fn is_time_to_drain(balancer: &Balancer, draining_at: &mut Option<Instant>) -> bool {
    if !balancer.has_reached(Phase::Leaving) {
        return false;
    }
    let now = Instant::now();
    let delay = balancer.config.drain_delay;
    if draining_at.is_none() && !delay.is_zero() {
        info!("not ready any more; serves on for {}", humantime::format_duration(delay));
    }
    now >= *draining_at.get_or_insert(now + delay)
}

/// Where clients come in.
struct Acceptor {
    listener: TcpListener,
    endpoint: Endpoint,
    max_clients: usize,
    balancer: Arc<Balancer>,
    clients: Arc<Clients>,
    workers: Arc<Workers>,
    turned_away: SyncSender<TcpStream>,
}

impl Acceptor {
    fn new(
        listener: TcpListener,
        endpoint: Endpoint,
        max_clients: usize,
        balancer: &Arc<Balancer>,
        turned_away: SyncSender<TcpStream>,
    ) -> Self {
        let (balancer, clients, workers) = (Arc::clone(balancer), Arc::default(), Arc::default());
        Self { listener, endpoint, max_clients, balancer, clients, workers, turned_away }
    }

    fn accept_while(&mut self, mut goes_on: impl FnMut() -> bool) {
        let mut back_off = SHORTEST_BACK_OFF;
        while goes_on() {
            let accepted = match self.accept() {
                Ok(false) => self.wait_for_client(),
                accepted => accepted.map(|_| ()),
            };
            match accepted {
                Ok(()) => back_off = SHORTEST_BACK_OFF,
                Err(error) => {
                    warn!("can't take a client: {error}; next try in {} ms", back_off.as_millis());
                    thread::sleep(back_off);
                    back_off = (back_off * 2).min(LONGEST_BACK_OFF);
                }
            }
        }
    }

    /// Those whom the kernel has accepted for us count on being served. More than fit into its queue
    /// have come later.
    fn accept_who_is_there(&mut self) {
        for _ in 0..BACKLOG {
            match self.accept() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return warn!("can't take those who still wait: {error}"),
            }
        }
    }

    /// Takes the next client; false when none is there.
    fn accept(&mut self) -> io::Result<bool> {
        match self.listener.accept() {
            Ok((socket, address)) => {
                // On other systems it is as the listener is.
                if cfg!(not(target_os = "linux")) {
                    socket.set_nonblocking(false)?;
                }
                self.admit(socket, address)?;
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(false),
                // This client left before it was accepted; the next may be there already.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Waits for a client, and for a moment at most: the end of the process wakes nobody here.
    fn wait_for_client(&self) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut polled, Some(&LONGEST_WAIT)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the client a thread, or turns it away.
    fn admit(&self, socket: TcpStream, address: SocketAddr) -> io::Result<()> {
        let socket = Arc::new(ClientSocket::new(socket));
        let Some(registration) = self.clients.register(&socket, self.max_clients) else {
            debug!("{address} turned away: {} clients", self.max_clients);
            self.turn_away(socket);
            return Ok(());
        };
        let (endpoint, balancer) = (self.endpoint, Arc::clone(&self.balancer));
        let serve = move || {
            if let Err(error) = session::serve(&registration.socket, address, endpoint, &balancer) {
                debug!("{address}: {error}");
            }
        };
        let begun = self.workers.run(Box::new(serve));
        if begun.is_err() {
            // Without a thread the registration is gone, and the socket ours alone again.
            self.turn_away(socket);
        }
        begun
    }

    fn turn_away(&self, socket: Arc<ClientSocket>) {
        if self.endpoint == Endpoint::Public {
            self.balancer.metrics.turned_away.add_one();
        }
        if let Some(socket) = Arc::into_inner(socket) {
            turn_away(socket.stream, &self.turned_away);
        }
    }
}

/// Leaves a client to the thread that has a moment for it or, when too many wait there, tells it
/// without waiting for anything.
fn turn_away(socket: TcpStream, queue: &SyncSender<TcpStream>) {
    if let Err(TrySendError::Full(mut socket)) = queue.try_send(socket) {
        let _ = socket.set_nonblocking(true).and_then(|()| tell_full(&mut socket));
    }
}

/// Tells clients over the limit that they are too many, one after the other, briefly.
fn turn_all_away(queue: &Receiver<TcpStream>) {
    for mut socket in queue {
        let timeouts = socket
            .set_read_timeout(Some(TURN_AWAY_TIME))
            .and_then(|()| socket.set_write_timeout(Some(TURN_AWAY_TIME)));
        // Whatever fails here, the client is closed, which it will understand.
        let _ = timeouts.and_then(|()| tell_full(&mut socket));
    }
}

/// Tells a client over the limit so, in the protocol that it speaks. A client that has not said
/// within [`TURN_AWAY_TIME`] what that is gets no answer: one in the wrong protocol would be an error
/// of its own, where the end of the connection is understood by all.
fn tell_full(socket: &mut TcpStream) -> io::Result<()> {
    let deadline = Instant::now() + TURN_AWAY_TIME;
    let Some(answer) = full_answer(socket, deadline) else { return Ok(()) };
    socket.write_all(answer)?;
    // Closed with unread bytes, the socket would be reset and the answer lost.
    socket.shutdown(Shutdown::Write)?;
    let mut rest = [0; 1024];
    while Instant::now() < deadline && matches!(socket.read(&mut rest), Ok(1..)) {}
    Ok(())
}

/// What a client over the limit is told, by its first bytes; `None` when these do not tell the
/// protocol before `deadline`, or before a read fails.
fn full_answer(client: &mut impl Read, deadline: Instant) -> Option<&'static [u8]> {
    let mut begun = [0; 1024];
    let mut length = 0;
    while length < begun.len() {
        match client.read(&mut begun[length..]) {
            Ok(more @ 1..) => length += more,
            _ => return None,
        }
        match WireProtocol::detect(&begun[..length]) {
            Some(WireProtocol::Resp) => return Some(RESP_FULL),
            Some(WireProtocol::Http) => return Some(HTTP_FULL),
            None if Instant::now() >= deadline => return None,
            None => {}
        }
    }
    None
}

/// Waits for the clients to be done, then cuts off those that are not.
fn drain(clients: &Clients, balancer: &Balancer) {
    let timeout = balancer.config.drain_timeout;
    let waiting = clients.len();
    info!(
        "no new clients; those here ({waiting}) may finish within {}",
        humantime::format_duration(timeout)
    );
    let deadline = Instant::now() + timeout;
    // Whoever asks for something now gets an answer, which says that it is the last …
    clients.wait_until_gone(deadline.min(Instant::now() + IDLE_GRACE));
    // … then each session ends at its next boundary …
    balancer.enter(Phase::Closing);
    clients.wait_until_gone(deadline.min(Instant::now() + IDLE_GRACE));
    // … and who still asks for nothing is not waited for.
    clients.for_each(ClientSocket::end_if_idle);
    let left = clients.wait_until_gone(deadline);
    if left > 0 {
        error!("cut off, as they were not done in time: {left} clients");
        // A client that is gone already needs no end.
        clients.for_each(|client| _ = client.stream.shutdown(Shutdown::Both));
    }
}

/// The clients that are being served: how many, and a handle to wake each.
#[derive(Debug, Default)]
struct Clients {
    open: Mutex<Open>,
    all_left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    sockets: HashMap<u64, Arc<ClientSocket>>,
    next_id: u64,
}

impl Clients {
    /// `None` when there are `max` clients already.
    fn register(self: &Arc<Self>, socket: &Arc<ClientSocket>, max: usize) -> Option<Registration> {
        let mut open = lock(&self.open);
        if open.sockets.len() >= max {
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        open.sockets.insert(id, Arc::clone(socket));
        Some(Registration { clients: Arc::clone(self), socket: Arc::clone(socket), id })
    }

    fn len(&self) -> usize {
        lock(&self.open).sockets.len()
    }

    fn for_each(&self, act: impl Fn(&ClientSocket)) {
        lock(&self.open).sockets.values().for_each(|socket| act(socket));
    }

    /// Returns how many are left.
    fn wait_until_gone(&self, deadline: Instant) -> usize {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let is_open = |open: &mut Open| !open.sockets.is_empty();
        let (open, _) = self
            .all_left
            .wait_timeout_while(lock(&self.open), timeout, is_open)
            .unwrap_or_else(PoisonError::into_inner);
        open.sockets.len()
    }
}

/// One client's place among those that are served; free again when it is dropped.
struct Registration {
    clients: Arc<Clients>,
    socket: Arc<ClientSocket>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = lock(&self.clients.open);
        open.sockets.remove(&self.id);
        // That costs a system call, also when nobody waits.
        if open.sockets.is_empty() {
            self.clients.all_left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Brings one piece a read, then nothing more.
    struct Pieces(&'static [&'static str]);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((piece, rest)) = self.0.split_first() else {
                return Err(io::ErrorKind::WouldBlock.into());
            };
            self.0 = rest;
            buffer[..piece.len()].copy_from_slice(piece.as_bytes());
            Ok(piece.len())
        }
    }

    #[test]
    fn a_client_over_the_limit_is_answered_in_its_protocol_or_not_at_all() {
        let later = Instant::now() + Duration::from_secs(60);
        let cases: [(&[&str], Option<&[u8]>); 9] = [
            (&["GET / HTTP/1.1\r\n"], Some(HTTP_FULL)),
            (&["GE", "T ", "/"], Some(HTTP_FULL)),
            (&["*1\r\n$4\r\nPING\r\n"], Some(RESP_FULL)),
            (&["*"], Some(RESP_FULL)),
            (&["GET", " key\r\n"], Some(RESP_FULL)),
            (&[], None),
            (&["GET"], None),
            (&["\r\n"], None),
            (&["", "*1\r\n"], None),
        ];
        for (pieces, answer) in cases {
            assert_eq!(full_answer(&mut Pieces(pieces), later), answer, "{pieces:?}");
        }
        assert_eq!(full_answer(&mut Pieces(&["GET", " /"]), Instant::now()), None, "too late");
    }

    #[test]
    fn the_fixed_answer_has_the_length_that_it_names() {
        let text = std::str::from_utf8(HTTP_FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    }
}
