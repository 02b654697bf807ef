//! One TLS connection, of which any thread may write while one thread reads.
//!
//! rustls keeps both directions in one value, behind one lock here. The lock is held to encrypt, to decrypt, and for
//! what the socket takes at once; it is never held while a socket is waited for. The thread that reads takes
//! ciphertext from the socket without the lock.
//!
//! What is encrypted has to be sent, and in order. So a sender whose bytes the socket has taken in part has to offer
//! the rest again, before any others, as with a plain socket: some of it may be encrypted already, and is sent from
//! there.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use rustls::{Connection, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;

use super::error::TlsError;
use crate::net::poll;
use crate::sync::{Mutex, lock};

/// Most bytes that are encrypted before the socket is asked to take them, or received at a time: four records of TLS.
const CHUNK_BYTES: usize = 64 * 1024;

/// Room for bytes of a handshake at a time.
const HANDSHAKE_READ_BYTES: usize = 4096;

/// Most memory that an empty buffer for plain text keeps.
const KEPT_CAPACITY_BYTES: usize = 4096;

/// A TLS connection beside its socket.
#[derive(Debug)]
pub struct TlsSession {
    state: Mutex<TlsState>,
}

#[derive(Debug)]
struct TlsState {
    connection: Connection,
    /// Plain text that was decrypted and not read, from `start` on.
    plain: Vec<u8>,
    start: usize,
    /// Number of bytes that were encrypted and are not reported as sent: the sender offers them again.
    owed: usize,
    /// Whether the other end sends no more.
    has_ended: bool,
}

/// What is known of a TLS connection after its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSummary {
    /// The version, as OpenSSL writes it.
    pub version: &'static str,
    /// Whether it goes on with the keys of an earlier connection.
    pub is_resumed: bool,
    /// The certificate that the other end has shown, in DER.
    pub peer_certificate: Option<CertificateDer<'static>>,
}

/// How a read waits for bytes of its socket.
#[derive(Debug, Clone, Copy)]
pub enum ReadWait {
    /// Not at all.
    Now,
    /// As long as the socket's own timeout says, which is this.
    SocketTimeout(Duration),
}

impl TlsSession {
    /// Begins a session, and handshakes until `deadline`. `received` was read from the socket already.
    pub fn handshake(
        socket: impl AsFd,
        connection: impl Into<Connection>,
        received: &[u8],
        deadline: Instant,
    ) -> Result<Self, TlsError> {
        let mut state = TlsState {
            connection: connection.into(),
            plain: Vec::new(),
            start: 0,
            owed: 0,
            has_ended: false,
        };
        let socket = socket.as_fd();
        let done = state.handshake(socket, received, deadline);
        if done.is_err() {
            // The alert that tells the other end. It may be gone.
            let _ = state.flush(socket);
        }
        done.map(|()| Self { state: Mutex::new(state) })
    }

    /// What the handshake has come to.
    pub fn summary(&self) -> TlsSummary {
        let state = lock(&self.state);
        let connection = &state.connection;
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        TlsSummary {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "unknown",
            },
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            peer_certificate: certificate.map(|certificate| certificate.clone().into_owned()),
        }
    }

    /// Sends without waiting; returns how many of `bytes` are sent. The others have to be offered again, before any
    /// other bytes.
    pub fn send_now(&self, socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
        let (socket, mut state) = (socket.as_fd(), lock(&self.state));
        let mut sent = 0;
        while state.flush(socket)? {
            sent += std::mem::take(&mut state.owed);
            // More is owed than was offered only if the sender has broken the rule.
            let Some(rest @ [_, ..]) = bytes.get(sent..) else { break };
            let chunk = &rest[..rest.len().min(CHUNK_BYTES)];
            state.owed = state.connection.writer().write(chunk)?;
            if state.owed == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(sent.min(bytes.len()))
    }

    /// Reads plain text into the spare capacity of `buffer`; 0 at the end.
    ///
    /// # Errors
    /// With `WouldBlock` when none has come in time, with [`TlsError`] when what has come is no TLS.
    pub fn read(
        &self,
        socket: impl AsFd,
        buffer: &mut Vec<u8>,
        wait: ReadWait,
    ) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        self.read_with(socket, room, wait, |plain| buffer.extend_from_slice(plain))
    }

    /// Like [`read`](Self::read), into a slice.
    pub fn read_slice(
        &self,
        socket: impl AsFd,
        buffer: &mut [u8],
        wait: ReadWait,
    ) -> io::Result<usize> {
        let room = buffer.len();
        self.read_with(socket, room, wait, |plain| buffer[..plain.len()].copy_from_slice(plain))
    }

    fn read_with(
        &self,
        socket: impl AsFd,
        room: usize,
        wait: ReadWait,
        take: impl FnOnce(&[u8]),
    ) -> io::Result<usize> {
        let socket = socket.as_fd();
        let (flags, timeout) = match wait {
            ReadWait::Now => (RecvFlags::DONTWAIT, Duration::ZERO),
            ReadWait::SocketTimeout(timeout) => (RecvFlags::empty(), timeout),
        };
        let mut began = None;
        let mut state = lock(&self.state);
        loop {
            if state.has_input() {
                return Ok(state.take_plain(room, take));
            }
            // Bytes that trickle must not prolong the wait.
            let began = *began.get_or_insert_with(Instant::now);
            drop(state);
            let received = receive(socket, room, flags)?;
            state = lock(&self.state);
            state.feed(&received)?;
            // What is to be said to it may wait until the next bytes are sent, and so may an error of that: what has
            // come is read first.
            let flushed = state.flush(socket);
            if !state.has_input() {
                flushed?;
            }
            if !state.has_input() && !timeout.is_zero() && began.elapsed() >= timeout {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Takes in what has arrived, and returns whether there is plain text to read, or the end. What breaks
    /// the rules of TLS is the end, too.
    pub fn has_input(&self, socket: impl AsFd) -> bool {
        if lock(&self.state).has_input() {
            return true;
        }
        let socket = socket.as_fd();
        let received = match receive(socket, HANDSHAKE_READ_BYTES, RecvFlags::DONTWAIT) {
            Ok(received) => received,
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        };
        let mut state = lock(&self.state);
        // After an error the next read finds the end.
        let is_fed = state.feed(&received).is_ok() && state.flush(socket).is_ok();
        !is_fed || state.has_input()
    }

    /// Returns how many bytes are decrypted and not read.
    pub fn plain_bytes(&self) -> usize {
        lock(&self.state).plain_bytes()
    }

    /// Says that we send no more. It is lost if the socket takes nothing now.
    pub fn close(&self, socket: impl AsFd) {
        let mut state = lock(&self.state);
        state.connection.send_close_notify();
        let _ = state.flush(socket.as_fd());
    }
}

impl TlsState {
    fn handshake(
        &mut self,
        socket: BorrowedFd,
        received: &[u8],
        deadline: Instant,
    ) -> Result<(), TlsError> {
        if !received.is_empty() {
            self.feed(received)?;
        }
        loop {
            let is_flushed = self.flush(socket).map_err(TlsError::Io)?;
            if is_flushed && !self.connection.is_handshaking() {
                return Ok(());
            }
            let events = if is_flushed { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TlsError::TimedOut);
            }
            poll(&mut [PollFd::new(&socket, events)], left).map_err(TlsError::Io)?;
            match receive(socket, HANDSHAKE_READ_BYTES, RecvFlags::DONTWAIT) {
                Ok(received) if received.is_empty() => return Err(TlsError::Ended),
                Ok(received) => self.feed(&received)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(TlsError::Io(error)),
            }
        }
    }

    /// Decrypts what was received; nothing is the end, and nothing is read after an error.
    fn feed(&mut self, received: &[u8]) -> Result<(), TlsError> {
        let decrypted = self.decrypt(received);
        self.has_ended |= received.is_empty() || decrypted.is_err();
        decrypted
    }

    fn decrypt(&mut self, mut received: &[u8]) -> Result<(), TlsError> {
        while !received.is_empty() && !self.has_ended {
            self.connection.read_tls(&mut received).map_err(TlsError::Io)?;
            let state = self.connection.process_new_packets()?;
            let (begin, length) = (self.plain.len(), state.plaintext_bytes_to_read());
            self.plain.resize(begin + length, 0);
            self.connection.reader().read_exact(&mut self.plain[begin..]).map_err(TlsError::Io)?;
            self.has_ended = state.peer_has_closed();
        }
        Ok(())
    }

    /// Gives the socket what it takes of the ciphertext; returns whether that is all.
    fn flush(&mut self, socket: BorrowedFd) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut NowWriter(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn plain_bytes(&self) -> usize {
        self.plain.len() - self.start
    }

    fn has_input(&self) -> bool {
        self.has_ended || self.plain_bytes() > 0
    }

    fn take_plain(&mut self, room: usize, take: impl FnOnce(&[u8])) -> usize {
        let length = self.plain_bytes().min(room);
        take(&self.plain[self.start..self.start + length]);
        self.start += length;
        if self.plain_bytes() == 0 {
            self.start = 0;
            self.plain.clear();
            self.plain.shrink_to(KEPT_CAPACITY_BYTES);
        }
        length
    }
}

/// Receives about `room` bytes, [`CHUNK_BYTES`] at most, which is a record's overhead more than the plain text in them.
fn receive(socket: BorrowedFd, room: usize, flags: RecvFlags) -> io::Result<Vec<u8>> {
    let mut received = Vec::with_capacity(room.clamp(HANDSHAKE_READ_BYTES, CHUNK_BYTES));
    loop {
        match recv(socket, spare_capacity(&mut received), flags) {
            Err(Errno::INTR) => {}
            result => {
                result?;
                return Ok(received);
            }
        }
    }
}

/// Writes what a socket takes without waiting.
struct NowWriter<'a>(BorrowedFd<'a>);

impl Write for NowWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(self.0, parts, &mut SendAncillaryBuffer::default(), flags) {
            Err(Errno::INTR) => Err(ErrorKind::WouldBlock.into()),
            sent => Ok(sent?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
