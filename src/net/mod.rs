//! Connections: a client's stream, a backend's, and which protocol a client speaks.
//!
//! All that is read from and written to the sockets of clients and backends goes through
//! [`ClientStream`](client_stream::ClientStream) and [`BackendStream`](backend_stream::BackendStream), so
//! that nobody else knows what carries the bytes.

pub mod backend_stream;
pub mod client_stream;
pub mod protocol;

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

/// Waits until one of `polled` is ready, for `timeout` at most. A signal may end the wait early.
pub(crate) fn poll(polled: &mut [PollFd], timeout: Duration) -> io::Result<()> {
    let timeout =
        Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 });
    match rustix::event::poll(polled, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
