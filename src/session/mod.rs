//! One client's conversation, on a thread of its own.

mod exchange;
mod http;
mod page;
mod read;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::balance::ConnectionTable;
use crate::config::Config;

/// What a client that speaks the Redis protocol is told: it is not served yet.
const RESP_REFUSAL: &[u8] = b"-ERR this port serves HTTP only: try curl http://HOST:PORT/KEY\r\n";

/// How long a connection lingers behind a refusal, so that the client gets to read it.
const LINGER: Duration = Duration::from_secs(1);

/// How much a lingering connection still reads.
const LINGER_BYTES: usize = 256 * 1024;

/// What all clients share.
#[derive(Debug)]
pub struct Balancer {
    /// The checked configuration.
    pub config: Config,
    /// The backends, in the order of the configuration.
    pub backends: Vec<Arc<Backend>>,
    /// How many leases each of them has.
    pub table: Arc<ConnectionTable>,
    draining: AtomicBool,
    log_order: Mutex<()>,
}

impl Balancer {
    /// Nothing is connected yet.
    pub fn new(config: Config) -> Arc<Self> {
        let backends: Vec<Arc<Backend>> = config
            .backends
            .iter()
            .map(|address| Arc::new(Backend::new(address.clone(), config.backend_timeout)))
            .collect();
        let table = ConnectionTable::new(backends.len());
        Arc::new(Self {
            config,
            backends,
            table,
            draining: AtomicBool::new(false),
            log_order: Mutex::new(()),
        })
    }

    /// From now on each connection closes behind the answer that it waits for.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the end of the process has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Held while [`counts`](Self::counts) are read and logged, so that no line overtakes another.
    fn log_order(&self) -> MutexGuard<'_, ()> {
        self.log_order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection table for the log: `127.0.0.1:1111=1 127.0.0.1:2222=0`.
    pub fn counts(&self) -> String {
        let counts = self.table.counts();
        let shown: Vec<String> = self
            .backends
            .iter()
            .zip(counts)
            .map(|(backend, count)| format!("{}={count}", backend.name()))
            .collect();
        shown.join(" ")
    }
}

/// Talks to one client until it or we have had enough.
///
/// # Errors
/// When the client's socket can't be set up; whatever happens later only ends the conversation.
pub fn serve(socket: &TcpStream, address: SocketAddr, balancer: &Balancer) -> io::Result<()> {
    let mut client = Client::new(socket, address, balancer.config.client_timeout)?;
    let mut begun = Vec::new();
    match client.read_more(&mut begun) {
        Ok(0) | Err(_) => {}
        // HTTP never begins with an asterisk, a Redis command as clients send it always does.
        Ok(_) if begun.starts_with(b"*") => {
            let _ = client.write_all(RESP_REFUSAL);
            client.linger();
        }
        Ok(_) => http::converse(client, begun, balancer),
    }
    Ok(())
}

/// A client's socket, with its timeouts.
struct Client<'a> {
    socket: &'a TcpStream,
    address: SocketAddr,
    idle_timeout: Duration,
    read_timeout: Duration,
}

impl<'a> Client<'a> {
    fn new(socket: &'a TcpStream, address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(timeout))?;
        socket.set_read_timeout(Some(timeout))?;
        socket2::SockRef::from(socket).set_keepalive(true)?;
        Ok(Self { socket, address, idle_timeout: timeout, read_timeout: timeout })
    }

    /// Reads what is there, or waits for it as long as a client may be idle; 0 at the end.
    fn read_more(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.read_within(self.idle_timeout, buffer)
    }

    /// The same, until `deadline`.
    fn read_until(&mut self, deadline: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.read_within(left.max(Duration::from_millis(1)), buffer)
    }

    fn read_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        // Setting it costs a system call: most reads want what the one before them wanted.
        if self.read_timeout != timeout {
            self.socket.set_read_timeout(Some(timeout))?;
            self.read_timeout = timeout;
        }
        let mut piece = [0; 4096];
        let length = self.socket.read(&mut piece)?;
        buffer.extend_from_slice(&piece[..length]);
        Ok(length)
    }

    /// Ends our side and reads on for a moment: a socket that is closed with unread bytes is reset,
    /// and the answer that is still on its way is lost.
    fn linger(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let (mut total, mut scrap) = (0, Vec::new());
        while let Ok(length @ 1..) = self.read_until(deadline, &mut scrap) {
            total += length;
            scrap.clear();
            if total > LINGER_BYTES {
                break;
            }
        }
    }

    /// Makes the end of the connection an error for the client, where it would look like the end of
    /// the answer.
    fn reset_on_close(&self) {
        // If it can't be set, the client is gone already.
        let _ = socket2::SockRef::from(self.socket).set_linger(Some(Duration::ZERO));
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
