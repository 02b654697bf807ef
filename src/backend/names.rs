//! The name in a backend's address, and the addresses that it stands for.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::Ordering;

use redis::ConnectionAddr;

use super::Backend;
use crate::sync::lock;

impl Backend {
    /// Whether its address holds a name, which may come to mean something else.
    pub fn has_name(&self) -> bool {
        matches!(self.address.endpoint(), ConnectionAddr::Tcp(host, _) if host.parse::<IpAddr>().is_err())
    }

    /// Looks its name up. May take as long as the system's resolver likes: never call it for a
    /// client. When it fails, the last good addresses stay.
    pub fn resolve(&self) {
        let ConnectionAddr::Tcp(host, port) = self.address.endpoint() else { return };
        let found = (host.as_str(), *port).to_socket_addrs();
        let mut resolved = lock(&self.resolved);
        match found {
            Ok(addresses) => {
                let mut addresses: Vec<SocketAddr> = addresses.collect();
                // Some name servers turn them round with each answer.
                addresses.sort();
                let addresses = Ok(addresses);
                let has_moved = *resolved != addresses;
                *resolved = addresses;
                drop(resolved);
                if has_moved {
                    self.has_moved.store(true, Ordering::Release);
                    self.close_all();
                }
            }
            Err(error) if resolved.is_err() => *resolved = Err(error.to_string()),
            Err(_) => {}
        }
    }
}
