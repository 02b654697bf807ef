//! Accepts clients, gives each a thread, and sees them off at the end.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use socket2::{Domain, Socket, Type};

use crate::balancer::Balancer;
use crate::lock::lock;
use crate::session::{self, WireProtocol};

/// Connections that the kernel holds until they are accepted; std's 128 overflow when thousands
/// come at once.
const BACKLOG: i32 = 4096;

/// A client's stack. Only pages that are touched take memory.
const STACK_BYTES: usize = 256 * 1024;

/// The wait behind a failed `accept` or `spawn`; it doubles up to the longest.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Clients over the limit that may wait to be told so; more are told at once, which a client that
/// is still sending may miss.
const TURNED_AWAY_QUEUE: usize = 64;

/// How long one client over the limit may take to be told so.
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

/// Asks [`serve`] to end.
#[derive(Debug)]
pub struct Stop {
    balancer: Arc<Balancer>,
    listener: Weak<TcpListener>,
}

impl Stop {
    /// For this listener.
    pub fn new(balancer: &Arc<Balancer>, listener: &Arc<TcpListener>) -> Self {
        Self { balancer: Arc::clone(balancer), listener: Arc::downgrade(listener) }
    }

    /// From now on no client is accepted, and those that are served get to the end of what they
    /// asked for.
    pub fn request(&self) {
        self.balancer.start_draining();
        let Some(listener) = self.listener.upgrade() else { return };
        // On Linux this ends the wait for a client. Elsewhere one has to come, and this is one.
        if socket2::SockRef::from(&*listener).shutdown(Shutdown::Both).is_ok() {
            return;
        }
        let Ok(mut address) = listener.local_addr() else { return };
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    }
}

/// Serves clients until [`Stop::request`]; returns when all are gone or the drain timeout is over.
pub fn serve(listener: Arc<TcpListener>, balancer: &Arc<Balancer>) -> io::Result<()> {
    let clients = Arc::new(Clients::default());
    let (turned_away, queue) = sync_channel(TURNED_AWAY_QUEUE);
    thread::Builder::new().name("full".to_owned()).spawn(move || turn_all_away(&queue))?;
    let mut back_off = SHORTEST_BACK_OFF;
    loop {
        let accepted = listener.accept();
        if balancer.is_draining() {
            break;
        }
        let admitted = match accepted {
            Ok((socket, address)) => admit(socket, address, balancer, &clients, &turned_away),
            // This client left before it was accepted; the next may be there already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
            Err(error) => Err(error),
        };
        match admitted {
            Ok(()) => back_off = SHORTEST_BACK_OFF,
            Err(error) => {
                warn!("can't take a client: {error}; next try in {} ms", back_off.as_millis());
                thread::sleep(back_off);
                back_off = (back_off * 2).min(LONGEST_BACK_OFF);
            }
        }
    }
    drop(listener);
    drain(&clients, balancer.config.drain_timeout);
    Ok(())
}

/// Gives the client a thread, or turns it away.
fn admit(
    socket: TcpStream,
    address: SocketAddr,
    balancer: &Arc<Balancer>,
    clients: &Arc<Clients>,
    turned_away: &SyncSender<TcpStream>,
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let Some(registration) = clients.register(&socket, balancer.config.max_clients) else {
        debug!("{address} turned away: {} clients", balancer.config.max_clients);
        if let Some(socket) = Arc::into_inner(socket) {
            turn_away(socket, turned_away);
        }
        return Ok(());
    };
    let balancer = Arc::clone(balancer);
    let spawned =
        thread::Builder::new().name("client".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            if let Err(error) = session::serve(&registration.socket, address, &balancer) {
                debug!("{address}: {error}");
            }
        });
    // Without a thread the registration is gone, and the socket ours alone again.
    if let (Err(_), Some(socket)) = (&spawned, Arc::into_inner(socket)) {
        turn_away(socket, turned_away);
    }
    spawned.map(|_thread| ())
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

fn tell_full(socket: &mut TcpStream) -> io::Result<()> {
    let deadline = Instant::now() + TURN_AWAY_TIME;
    let mut begun = [0; 1024];
    // Who says nothing is told as well.
    let length = socket.read(&mut begun).unwrap_or(0);
    socket.write_all(match WireProtocol::detect(&begun[..length]) {
        Some(WireProtocol::Resp) => RESP_FULL,
        _ => HTTP_FULL,
    })?;
    // Closed with unread bytes, the socket would be reset and the answer lost.
    socket.shutdown(Shutdown::Write)?;
    while Instant::now() < deadline && matches!(socket.read(&mut begun), Ok(1..)) {}
    Ok(())
}

/// Waits for the clients to be done, then cuts off those that are not.
fn drain(clients: &Clients, timeout: Duration) {
    let waiting = clients.len();
    info!(
        "no new clients; those here ({waiting}) may finish within {}",
        humantime::format_duration(timeout)
    );
    // An idle client wakes and finds the end; what a busy one has sent is still read.
    clients.shut_down(Shutdown::Read);
    let left = clients.wait_until_gone(timeout);
    if left > 0 {
        error!("cut off, as they were not done in time: {left} clients");
        clients.shut_down(Shutdown::Both);
    }
}

/// The clients that are being served: how many, and a handle to wake each.
#[derive(Debug, Default)]
struct Clients {
    open: Mutex<Open>,
    one_left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    sockets: HashMap<u64, Arc<TcpStream>>,
    next_id: u64,
}

impl Clients {
    /// `None` when there are `max` clients already.
    fn register(self: &Arc<Self>, socket: &Arc<TcpStream>, max: usize) -> Option<Registration> {
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

    fn shut_down(&self, how: Shutdown) {
        for socket in lock(&self.open).sockets.values() {
            // A client that is gone already needs no end.
            let _ = socket.shutdown(how);
        }
    }

    /// Returns how many are left.
    fn wait_until_gone(&self, timeout: Duration) -> usize {
        let is_open = |open: &mut Open| !open.sockets.is_empty();
        let (open, _) = self
            .one_left
            .wait_timeout_while(lock(&self.open), timeout, is_open)
            .unwrap_or_else(PoisonError::into_inner);
        open.sockets.len()
    }
}

/// One client's place among those that are served; free again when it is dropped.
struct Registration {
    clients: Arc<Clients>,
    socket: Arc<TcpStream>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.clients.open).sockets.remove(&self.id);
        self.clients.one_left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_answer_has_the_length_that_it_names() {
        let text = std::str::from_utf8(HTTP_FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    }
}
