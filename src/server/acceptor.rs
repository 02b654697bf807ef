//! Accepts clients, and gives each a thread.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rustix::event::{PollFd, PollFlags};

use super::drain::{Clients, drain};
use super::limits::Shares;
use super::listener::{BACKLOG, Listeners};
use super::turn_away::TurnAway;
use super::workers::Workers;
use crate::balance::{Balancer, Phase};
use crate::net::client_stream::ClientStream;
use crate::net::poll;
use crate::session::{self, ClientSocket, Endpoint};

/// Longest wait for a client, before a look whether the process is to end.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

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
    let Listeners { public, admin, .. } = listeners;
    ClientStream::prepare(&public)?;
    let turn_away = TurnAway::start(shares.turned_away)?;
    if let Some(admin) = admin {
        ClientStream::prepare(&admin)?;
        let max = shares.admin_clients;
        let acceptor = Acceptor::new(admin, Endpoint::Admin, max, balancer, turn_away.clone());
        let accept = move || acceptor.accept_while(|| true);
        thread::Builder::new().name("admin".to_owned()).spawn(accept)?;
    }
    let max = shares.clients;
    let acceptor = Acceptor::new(public, Endpoint::Public, max, balancer, turn_away);
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

/// Accepts the clients of one address.
struct Acceptor {
    listener: TcpListener,
    endpoint: Endpoint,
    max_clients: usize,
    balancer: Arc<Balancer>,
    clients: Arc<Clients>,
    workers: Arc<Workers>,
    turn_away: TurnAway,
}

impl Acceptor {
    fn new(
        listener: TcpListener,
        endpoint: Endpoint,
        max_clients: usize,
        balancer: &Arc<Balancer>,
        turn_away: TurnAway,
    ) -> Self {
        let (balancer, clients, workers) = (Arc::clone(balancer), Arc::default(), Arc::default());
        Self { listener, endpoint, max_clients, balancer, clients, workers, turn_away }
    }

    fn accept_while(&self, mut goes_on: impl FnMut() -> bool) {
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
        match ClientStream::accept(&self.listener) {
            Ok((stream, address)) => self.admit(stream, address).map(|()| true),
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
        poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], LONGEST_WAIT)
    }

    /// Gives the client a thread, or turns it away.
    fn admit(&self, stream: ClientStream, address: SocketAddr) -> io::Result<()> {
        let socket = Arc::new(ClientSocket::new(stream));
        let Some(registration) = self.clients.register(&socket, self.max_clients) else {
            debug!("{address} turned away: {} clients", self.max_clients);
            self.turn_away(socket);
            return Ok(());
        };
        let (endpoint, balancer) = (self.endpoint, Arc::clone(&self.balancer));
        let serve = move || session::serve(&registration.socket, address, endpoint, &balancer);
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
            self.turn_away.turn_away(socket.stream);
        }
    }
}
