//! Lines of the log that each address may cause once.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::logging::throttle::Throttle;
use crate::net::client_network;
use crate::sync::{Mutex, lock};

/// Most addresses that are remembered. The one that came first is forgotten for a newcomer.
const MAX_ADDRESSES: usize = 1024;

/// The addresses that have caused a line.
#[derive(Debug)]
pub(super) struct OnceEach {
    addresses: Mutex<Option<Addresses>>,
    /// Holds lines back while more addresses cause them than are remembered.
    of_many: Throttle,
}

#[derive(Debug, Default)]
struct Addresses {
    known: HashSet<IpAddr>,
    order: VecDeque<IpAddr>,
}

impl OnceEach {
    /// Of lines that have not come yet.
    pub const fn new() -> Self {
        Self { addresses: Mutex::new(None), of_many: Throttle::new() }
    }

    /// Returns whether an address may cause a line now, its first: the end of the line's text, which tells how many were
    /// held back.
    pub fn pass(&self, address: IpAddr, now: Instant) -> Option<String> {
        match self.is_first(address) {
            (_, true) => self.of_many.pass(now),
            (is_first, false) => is_first.then(String::new),
        }
    }

    /// Returns whether an address causes its first line; an IPv6 network of 64 bits counts as one address. The second
    /// value says that others were forgotten for it, so that many come: the line should be held back by other means.
    fn is_first(&self, address: IpAddr) -> (bool, bool) {
        let network = client_network(address);
        let mut addresses = lock(&self.addresses);
        let Addresses { known, order } = addresses.get_or_insert_default();
        if !known.insert(network) {
            return (false, false);
        }
        order.push_back(network);
        let forgotten = (order.len() > MAX_ADDRESSES).then(|| order.pop_front()).flatten();
        forgotten.iter().for_each(|address| _ = known.remove(address));
        (true, forgotten.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_address_is_first_once_and_the_memory_has_a_limit() {
        let lines = OnceEach::new();
        let ip = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        assert_eq!(lines.is_first(ip(1)), (true, false));
        assert_eq!(lines.is_first(ip(1)), (false, false));
        let mapped = Ipv4Addr::from_bits(1).to_ipv6_mapped();
        assert_eq!(lines.is_first(mapped.into()), (false, false), "the same address");
        for number in 2..=MAX_ADDRESSES as u32 {
            assert_eq!(lines.is_first(ip(number)), (true, false));
        }
        assert_eq!(lines.is_first(Ipv6Addr::from_bits(1).into()), (true, true));
        assert_eq!(lines.is_first(Ipv6Addr::from_bits(2).into()), (false, false), "one network");
        assert_eq!(lines.is_first(ip(1)), (true, true), "it was forgotten");
    }
}
