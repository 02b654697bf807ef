//! A client's connection: accepts, reads and writes with timeouts.

use std::io::{self, PipeReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;

use super::backend_stream::BackendStream;
use super::poll;

/// Flags of a last `send`: the bytes and the end of our side go in one packet, where the system can do
/// that.
#[cfg(target_os = "linux")]
const BEFORE_END: SendFlags = SendFlags::MORE;
#[cfg(not(target_os = "linux"))]
const BEFORE_END: SendFlags = SendFlags::empty();

/// The event by which `poll` reports that the other end sends no more.
#[cfg(target_os = "linux")]
const PEER_END: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const PEER_END: PollFlags = PollFlags::HUP;

/// A connection that a client has made to us.
///
/// Any thread may write, end it, or look at its state, while one thread reads. Bytes from several
/// threads go out in the order of their calls, so the threads agree on that order among themselves.
#[derive(Debug)]
pub struct ClientStream {
    socket: TcpStream,
    read_timeout: LastTimeout,
    write_timeout: LastTimeout,
}

/// The timeout that a socket has. It is remembered, as to set it costs a system call.
#[derive(Debug, Default)]
struct LastTimeout(AtomicU64);

impl LastTimeout {
    /// Calls `set` if the socket has another timeout.
    fn change(
        &self,
        timeout: Duration,
        set: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        let nanoseconds = timeout.as_nanos() as u64;
        if self.0.load(Ordering::Relaxed) != nanoseconds {
            set(Some(timeout))?;
            self.0.store(nanoseconds, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl ClientStream {
    /// Prepares a listening socket so that [`accept`](Self::accept) never waits.
    ///
    /// # Errors
    /// When the system refuses an option.
    pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
        // Other processes may have this socket, and the flag holds for all of them. They need it: a
        // process that was woken for a client that another has accepted must not wait for the next.
        listener.set_nonblocking(true)?;
        // On Linux each accepted socket inherits the options.
        set_options(SockRef::from(listener))
    }

    /// Accepts the next client; returns its stream and its address.
    ///
    /// # Errors
    /// With `WouldBlock` when no client waits, or as `accept` fails.
    pub(crate) fn accept(listener: &TcpListener) -> io::Result<(Self, SocketAddr)> {
        let (socket, address) = listener.accept()?;
        if cfg!(not(target_os = "linux")) {
            socket.set_nonblocking(false)?;
            // It fails where the client has left already, which the first read finds.
            let _ = set_options(SockRef::from(&socket));
        }
        let (read_timeout, write_timeout) = Default::default();
        Ok((Self { socket, read_timeout, write_timeout }, address))
    }

    /// Returns our address that the client has connected to.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Reads into the spare capacity of `buffer` the bytes that come within `timeout`; 0 at the end.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>, timeout: Duration) -> io::Result<usize> {
        self.read_timeout.change(timeout, |timeout| self.socket.set_read_timeout(timeout))?;
        loop {
            match recv(&self.socket, spare_capacity(buffer), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                read => return Ok(read?.1),
            }
        }
    }

    /// Reads into the spare capacity of `buffer` the bytes that have arrived; 0 at the end.
    ///
    /// # Errors
    /// With `WouldBlock` when nothing has arrived.
    pub(crate) fn read_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        Ok(recv(&self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT)?.1)
    }

    /// Returns how many bytes have arrived and are not read.
    pub(crate) fn arrived_bytes(&self) -> usize {
        rustix::io::ioctl_fionread(&self.socket).map_or(0, |length| length as usize)
    }

    /// Writes some of `bytes`; waits for `timeout` at most until the client takes any.
    pub(crate) fn write(&self, bytes: &[u8], timeout: Duration) -> io::Result<usize> {
        self.write_timeout.change(timeout, |timeout| self.socket.set_write_timeout(timeout))?;
        (&self.socket).write(bytes)
    }

    /// Sends without waiting; returns how many of `bytes` the client has taken.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, SendFlags::empty())
    }

    /// Sends without waiting, and ends our side if the client has taken all.
    pub(crate) fn send_last(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.send(bytes, BEFORE_END)?;
        if sent == bytes.len() {
            // It fails where the client is gone already.
            let _ = self.end_output();
        }
        Ok(sent)
    }

    fn send(&self, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
        match send(&self.socket, bytes, SendFlags::DONTWAIT | flags) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Waits for `timeout` at most until the client takes more.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> io::Result<()> {
        self.wait(PollFlags::OUT, timeout).map(|_| ())
    }

    /// Waits for `timeout` at most until the client takes more, or sends; returns whether it has sent.
    pub(crate) fn wait_for_room_or_input(&self, timeout: Duration) -> io::Result<bool> {
        let ready = self.wait(PollFlags::OUT | PollFlags::IN, timeout)?;
        Ok(ready.contains(PollFlags::IN))
    }

    fn wait(&self, events: PollFlags, timeout: Duration) -> io::Result<PollFlags> {
        let mut polled = [PollFd::new(&self.socket, events)];
        poll(&mut polled, timeout)?;
        Ok(polled[0].revents())
    }

    /// Waits for `timeout` at most until the client sends, or the pipe is closed or written to; returns
    /// whether there is something to read from the client.
    pub(crate) fn wait_for_input_or_pipe(
        &self,
        pipe: &PipeReader,
        timeout: Duration,
    ) -> io::Result<bool> {
        Ok(self.wait_beside(PollFd::new(pipe, PollFlags::IN), timeout)?.0)
    }

    /// Waits for `timeout` at most until the client or the backend sends; returns which of them has
    /// something to read.
    pub(crate) fn wait_for_input_or_backend(
        &self,
        backend: &BackendStream,
        timeout: Duration,
    ) -> io::Result<(bool, bool)> {
        self.wait_beside(backend.input(), timeout)
    }

    fn wait_beside(&self, other: PollFd, timeout: Duration) -> io::Result<(bool, bool)> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN), other];
        poll(&mut polled, timeout)?;
        Ok((!polled[0].revents().is_empty(), !polled[1].revents().is_empty()))
    }

    /// Returns whether the client has left, or at least sends no more.
    pub(crate) fn is_gone(&self) -> bool {
        let ready = self.wait(PEER_END, Duration::ZERO);
        ready.is_ok_and(|ready| ready.intersects(PEER_END | PollFlags::HUP | PollFlags::ERR))
    }

    /// Sets whether the client sees the end of the connection as an error, whatever the reason.
    pub(crate) fn reset_on_close(&self, reset: bool) {
        // It fails where the client is gone already.
        let _ = SockRef::from(&self.socket).set_linger(reset.then_some(Duration::ZERO));
    }

    /// Ends the reading side, which wakes the thread that reads. Bytes that have arrived are still read.
    pub(crate) fn end_input(&self) {
        // It fails where the client is gone already.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Ends our side: the client reads the bytes that were sent, then the end.
    pub(crate) fn end_output(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Ends the connection at once, for all threads that use it.
    pub(crate) fn shutdown(&self) {
        // It fails where the client is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Sets the options of each client's socket.
fn set_options(socket: SockRef) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)
}
