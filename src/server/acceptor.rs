//! Accepts clients, gives each a thread, and sees them off at the end.
//!
//! A signal only sets the [`Phase`]. The listening socket may be shared with other processes, so it is
//! never shut down: the acceptor looks at the phase every 100 ms.
//!
//! - `Leaving`: the balancer says that it is not ready, and goes on with everything for the drain delay.
//! - `Draining`: the clients that wait in the kernel's queue are accepted, then the listening socket is
//!   closed. Each HTTP response says that it is the last on its connection.
//! - `Closing`, [`IDLE_GRACE`] later: a Redis session ends once it has answered what had arrived.
//!
//! After another [`IDLE_GRACE`] the reading side of each idle client's socket is shut down, which wakes its
//! thread. This is done to idle clients alone: the kernel resets a connection that gets more bytes after
//! that, and replies that are still on their way would be lost.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use super::limits::Shares;
use super::listener::{BACKLOG, Listeners};
use super::places::Clients;
use super::turn_away::TurnAway;
use super::workers::Workers;
use crate::balance::{Balancer, Phase};
use crate::net::client_stream::ClientStream;
use crate::net::poll;
use crate::session::{self, ClientSocket, Denial, Endpoint, IDLE_GRACE};

/// Longest wait for a client, before a look whether the process is to end.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Shortest time between two lines of the log that idle clients are closed to make room.
const CLOSED_IDLE_LOG_PAUSE: Duration = Duration::from_secs(10);

/// The wait after a failed `accept` or `spawn`. It doubles up to the longest.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Serves clients until the balancer's [`Phase`] is `Leaving`, and for the drain delay after that.
///
/// Returns when all clients are gone, or the drain timeout is over. Those of the admin address are served
/// as long as the process lives.
///
/// # Errors
/// When there can be no thread, or the system refuses an option.
pub fn serve(listeners: Listeners, shares: Shares, balancer: &Arc<Balancer>) -> io::Result<()> {
    let Listeners { public, admin, clients, .. } = listeners;
    let acceptor = |listener, endpoint, clients, turned_away| {
        Ok::<_, io::Error>(Acceptor {
            listener,
            endpoint,
            balancer: Arc::clone(balancer),
            clients,
            workers: Arc::default(),
            turn_away: TurnAway::start(endpoint, balancer, turned_away)?,
            keepalive: Cell::new(balancer.config().client_keepalive),
            closed_idle: Cell::default(),
        })
    };
    if let Some(admin) = admin {
        let (places, turned_away) = shares.of_admin_address();
        let clients = Clients::new(Endpoint::Admin, places);
        let acceptor = acceptor(admin, Endpoint::Admin, clients, turned_away)?;
        let accept = move || acceptor.accept_while(|| true);
        thread::Builder::new().name("admin".to_owned()).spawn(accept)?;
    }
    let acceptor = acceptor(public, Endpoint::Public, clients, shares.turned_away)?;
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
    let delay = balancer.config().drain_delay;
    if draining_at.is_none() && !delay.is_zero() {
        info!("not ready any more; serves on for {}", humantime::format_duration(delay));
    }
    now >= *draining_at.get_or_insert(now + delay)
}

/// Accepts the clients of one address.
struct Acceptor {
    listener: TcpListener,
    endpoint: Endpoint,
    balancer: Arc<Balancer>,
    clients: Arc<Clients>,
    workers: Arc<Workers>,
    turn_away: TurnAway,
    /// `--client-keepalive`, as the listener has it.
    keepalive: Cell<Duration>,
    /// Idle clients that were closed to make room, and when the log has last told of them.
    closed_idle: Cell<(u64, Option<Instant>)>,
}

impl Acceptor {
    fn accept_while(&self, mut goes_on: impl FnMut() -> bool) {
        let mut back_off = SHORTEST_BACK_OFF;
        while goes_on() {
            let accepted = match self.accept() {
                Ok(false) => self.wait_for_client().and_then(|()| self.follow_configuration()),
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

    /// Accepts the clients that the kernel has accepted for us: they count on being served. More than
    /// fit into its queue have come later.
    fn accept_who_is_there(&self) {
        for _ in 0..BACKLOG {
            match self.accept() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return warn!("can't take those who still wait: {error}"),
            }
        }
    }

    /// Takes the next client; false when none is there.
    fn accept(&self) -> io::Result<bool> {
        match ClientStream::accept(&self.listener, self.keepalive.get()) {
            Ok((stream, address)) => self.admit(stream, address).map(|()| true),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(false),
                // This client left before it was accepted; the next may be there already.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Takes over what has changed in the configuration.
    fn follow_configuration(&self) -> io::Result<()> {
        let config = self.balancer.config();
        if self.endpoint == Endpoint::Public {
            self.clients.set_max(config.max_clients);
        }
        if self.keepalive.replace(config.client_keepalive) != config.client_keepalive {
            ClientStream::prepare(SockRef::from(&self.listener), config.client_keepalive)?;
        }
        Ok(())
    }

    /// Waits for a client, and for a moment at most: the end of the process and a reload wake nobody here.
    fn wait_for_client(&self) -> io::Result<()> {
        poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], LONGEST_WAIT)
    }

    /// Gives the client a thread, or turns it away.
    fn admit(&self, stream: ClientStream, address: SocketAddr) -> io::Result<()> {
        let socket = Arc::new(ClientSocket::new(stream, address));
        // Behind a proxy the address becomes known later.
        let is_known = self.endpoint == Endpoint::Public && !self.balancer.config().proxy_protocol;
        if is_known && !session::take_address_place(&socket, &self.balancer) {
            self.turn_away(socket, Denial::AddressFull);
            return Ok(());
        }
        let (registration, closed) = self.clients.admit(&socket);
        if closed > 0 {
            self.note_closed(closed as u64);
        }
        let Some(registration) = registration else {
            debug!("{address} turned away: {} clients", self.clients.max());
            self.turn_away(socket, Denial::Full);
            return Ok(());
        };
        let (endpoint, balancer) = (self.endpoint, Arc::clone(&self.balancer));
        let serve = move || session::serve(&registration.socket, endpoint, &balancer);
        let begun = self.workers.run(Box::new(serve));
        if begun.is_err() {
            // Without a thread the registration is gone, and the socket ours alone again.
            self.turn_away(socket, Denial::Full);
        }
        begun
    }

    /// Counts idle clients that were closed to make room, and tells the log of them now and then.
    fn note_closed(&self, closed: u64) {
        if self.endpoint == Endpoint::Public {
            self.balancer.metrics.closed_idle.add(closed);
        }
        let (before, told_at) = self.closed_idle.get();
        let is_due = told_at.is_none_or(|at| at.elapsed() >= CLOSED_IDLE_LOG_PAUSE);
        self.closed_idle
            .set((before + closed, if is_due { Some(Instant::now()) } else { told_at }));
        if is_due {
            let (address, limit) = match self.endpoint {
                Endpoint::Public => ("", " (--max-clients)"),
                Endpoint::Admin => (" at the admin address", ""),
            };
            warn!(
                "nearly all places for {} clients{limit}{address} are taken: idle HTTP clients are \
                 closed to make room, {} so far",
                self.clients.max(),
                before + closed
            );
        }
    }

    fn turn_away(&self, socket: Arc<ClientSocket>, why: Denial) {
        if let Some(socket) = Arc::into_inner(socket) {
            self.turn_away.turn_away(socket.stream, why);
        }
    }
}

/// Waits for the clients to be done, then cuts off those that are not.
fn drain(clients: &Clients, balancer: &Balancer) {
    let timeout = balancer.config().drain_timeout;
    let waiting = clients.len();
    info!(
        "no new clients; those here ({waiting}) may finish within {}",
        humantime::format_duration(timeout)
    );
    let deadline = Instant::now() + timeout;
    clients.wait_until_gone(deadline.min(Instant::now() + IDLE_GRACE));
    balancer.enter(Phase::Closing);
    clients.wait_until_gone(deadline.min(Instant::now() + IDLE_GRACE));
    clients.for_each(ClientSocket::end_if_idle);
    let left = clients.wait_until_gone(deadline);
    if left > 0 {
        error!("cut off, as they were not done in time: {left} clients");
        clients.for_each(|client| client.stream.shutdown());
    }
}
