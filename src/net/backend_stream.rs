//! A connection to a backend: connects, reads and writes with timeouts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::poll;

/// Length of a silence after which the kernel probes a connection.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// Time between two probes of the kernel.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of unanswered probes after which the kernel gives a connection up.
const KEEPALIVE_PROBES: u32 = 3;

/// Number of timeouts after which bytes that are sent and not acknowledged have not reached the server.
/// It is more than one, as networks lose packets.
#[cfg(target_os = "linux")]
const UNREACHABLE_TIMEOUTS: u32 = 2;

/// A connection that we have made to a backend, over TCP or a Unix socket.
///
/// Any thread may write, or end it, while one thread reads.
#[derive(Debug)]
pub struct BackendStream(Socket);

impl BackendStream {
    /// Connects to an address within `wait`. Each later operation may take `timeout`.
    pub(crate) fn connect(
        address: SocketAddr,
        wait: Duration,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = connected(Domain::for_address(address), &address.into(), wait, timeout)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_TIME)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_PROBES),
        )?;
        // The kernel of a server that is busy acknowledges what we send. A server that can't be
        // reached has no kernel that does.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(timeout * UNREACHABLE_TIMEOUTS))?;
        Ok(Self(socket))
    }

    /// Connects to a Unix socket within `wait`. Each later operation may take `timeout`.
    pub(crate) fn connect_unix(path: &Path, wait: Duration, timeout: Duration) -> io::Result<Self> {
        connected(Domain::UNIX, &SockAddr::unix(path)?, wait, timeout).map(Self)
    }

    /// Sets how long a read may wait.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(timeout))
    }

    /// Returns whether bytes have arrived, or the end.
    pub(crate) fn has_input(&self) -> bool {
        let peeked = recv(&self.0, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Err(Errno::AGAIN))
    }

    /// Waits for `timeout` at most until bytes arrive, or the end; returns whether they have.
    pub(crate) fn wait_for_input(&self, timeout: Duration) -> bool {
        let mut polled = [self.input()];
        poll(&mut polled, timeout).is_ok() && !polled[0].revents().is_empty()
    }

    /// Ends the connection for all threads that use it.
    pub(crate) fn shutdown(&self) {
        // It fails where the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Returns the event of `poll` that tells that there is something to read.
    pub(super) fn input(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }
}

/// Returns a connected socket with timeouts.
fn connected(
    domain: Domain,
    address: &SockAddr,
    wait: Duration,
    timeout: Duration,
) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    // A Unix socket's plain connect would wait for as long as the server's backlog is full.
    socket.connect_timeout(address, wait)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket)
}

impl Read for &BackendStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Write for &BackendStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(10);

    /// What holds whatever carries the bytes.
    fn try_out(stream: &BackendStream, mut server: impl Read + Write) {
        assert!(!stream.has_input() && !stream.wait_for_input(SHORT));
        stream.set_read_timeout(SHORT).expect("a timeout");
        let mut buffer = [0; 4];
        assert!((&*stream).read(&mut buffer).is_err(), "nothing has come");
        (&*stream).write_all(b"ping").expect("room");
        server.read_exact(&mut buffer).expect("bytes");
        server.write_all(&buffer).expect("room");
        assert!(stream.wait_for_input(LONG) && stream.has_input());
        assert_eq!((&*stream).read(&mut buffer).expect("bytes"), 4);
        assert_eq!(&buffer, b"ping");
        stream.shutdown();
        assert_eq!(server.read(&mut buffer).expect("the end"), 0);
        assert!(stream.wait_for_input(LONG) && stream.has_input(), "the end");
    }

    #[test]
    fn bytes_go_both_ways_over_tcp_and_over_a_path() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let stream = BackendStream::connect(address, LONG, LONG).expect("a connection");
        try_out(&stream, listener.accept().expect("a connection").0);

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("redis.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let stream = BackendStream::connect_unix(&path, LONG, LONG).expect("a connection");
        try_out(&stream, listener.accept().expect("a connection").0);
    }
}
