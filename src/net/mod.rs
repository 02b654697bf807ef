//! Connections: a client's stream, a backend's, and the detection of a client's protocol.
//!
//! Every byte from and to clients and backends goes through
//! [`ClientStream`](client_stream::ClientStream) and [`BackendStream`](backend_stream::BackendStream). No
//! other code knows what carries the bytes, so another transport changes these two types alone.

pub mod backend_stream;
pub mod client_stream;
pub mod protocol;
pub mod proxy_protocol;
pub mod tls;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

/// Number of bits of an IPv6 address that are one client's network: a customer has at least so much (RFC 6177), and
/// chooses the others at will.
const IPV6_NETWORK_BITS: u32 = 64;

/// Returns the part of an address that counts as one client's.
pub(crate) fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let host_bits = u128::BITS - IPV6_NETWORK_BITS;
            Ipv6Addr::from_bits(ip.to_bits() >> host_bits << host_bits).into()
        }
        ip => ip,
    }
}

/// Waits until one of `polled` is ready, for `timeout` at most. A signal may end the wait early.
pub(crate) fn poll(polled: &mut [PollFd], timeout: Duration) -> io::Result<()> {
    let timeout =
        Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 });
    match rustix::event::poll(polled, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
