//! One client's conversation, on a thread of its own.

mod exchange;
mod http;
mod page;
mod read;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::balancer::Balancer;

/// What a client that speaks the Redis protocol is told: it is not served yet.
const RESP_REFUSAL: &[u8] = b"-ERR this port serves HTTP only: try curl http://HOST:PORT/KEY\r\n";

/// A client that takes less than this of an answer, on average, is cut off once it has had the
/// client timeout: it holds a thread, a lease, and a reply in a backend's memory.
const MIN_BYTES_A_SECOND: f64 = 1024.0;

/// How long a connection lingers behind a refusal, so that the client gets to read it.
const LINGER: Duration = Duration::from_secs(1);

/// How much a lingering connection still reads.
const LINGER_BYTES: usize = 256 * 1024;

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
    /// When the answer that is being written began, and how much of it is written.
    answer_began: Instant,
    answer_bytes: u64,
}

impl<'a> Client<'a> {
    fn new(socket: &'a TcpStream, address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(timeout))?;
        socket.set_read_timeout(Some(timeout))?;
        socket2::SockRef::from(socket).set_keepalive(true)?;
        Ok(Self {
            socket,
            address,
            idle_timeout: timeout,
            read_timeout: timeout,
            answer_began: Instant::now(),
            answer_bytes: 0,
        })
    }

    /// From now on the bytes of another answer are counted.
    fn begin_answer(&mut self) {
        self.answer_began = Instant::now();
        self.answer_bytes = 0;
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

    /// Whether the end of the connection, whatever brings it about, is an error to the client. It
    /// must be where it would else look like the end of the answer.
    fn reset_on_close(&self, reset: bool) {
        // If it can't be set, the client is gone already.
        let _ = socket2::SockRef::from(self.socket).set_linger(reset.then_some(Duration::ZERO));
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let seconds = self.answer_began.elapsed().as_secs_f64();
        let is_slow = (self.answer_bytes as f64) < seconds * MIN_BYTES_A_SECOND;
        // The first bytes may have taken a backend long; that is not the client's fault.
        if is_slow && self.answer_bytes > 0 && seconds > self.idle_timeout.as_secs_f64() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "reads too slowly"));
        }
        let written = self.socket.write(bytes)?;
        if self.answer_bytes == 0 {
            self.answer_began = Instant::now();
        }
        self.answer_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
