//! How many clients each address has, so that one can't take the places of all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use crate::net::client_network;
use crate::sync::{Mutex, lock};

/// The clients of each address. An address without clients is not remembered, so there are no more of them than
/// clients.
#[derive(Debug, Default)]
pub struct ClientAddresses(Mutex<HashMap<IpAddr, usize>>);

/// The place of one client among those of its address; free again when it is dropped.
#[derive(Debug)]
pub struct AddressPlace {
    addresses: Arc<ClientAddresses>,
    network: IpAddr,
}

impl ClientAddresses {
    /// Counts a client of this address, unless there are `max` of them already; 0 means no limit.
    pub fn admit(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<AddressPlace> {
        let network = client_network(address);
        let mut addresses = lock(&self.0);
        let count = addresses.get(&network).copied().unwrap_or(0);
        if max > 0 && count >= max {
            return None;
        }
        addresses.insert(network, count + 1);
        Some(AddressPlace { addresses: Arc::clone(self), network })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut addresses = lock(&self.addresses.0);
        if let Entry::Occupied(mut count) = addresses.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_its_places_and_those_of_the_others_stay_free() {
        let addresses: Arc<ClientAddresses> = Arc::default();
        let admit = |text| addresses.admit(ip(text), 2);
        let first = admit("10.0.0.1").expect("free");
        let second = admit("::ffff:10.0.0.1").expect("free");
        assert!(admit("10.0.0.1").is_none());
        let other = admit("10.0.0.2").expect("free");
        drop(first);
        let third = admit("10.0.0.1").expect("free again");
        assert!(admit("10.0.0.1").is_none());
        // Without a limit clients count all the same: it may come.
        let more = addresses.admit(ip("10.0.0.1"), 0).expect("no limit");
        drop((second, third));
        assert!(addresses.admit(ip("10.0.0.1"), 1).is_none());
        drop((more, other));
        assert!(lock(&addresses.0).is_empty(), "nobody is remembered");
    }

    #[test]
    fn an_ipv6_network_of_64_bits_counts_as_one_address() {
        for (one, other, is_same) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::1", "::2", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
        ] {
            assert_eq!(
                client_network(ip(one)) == client_network(ip(other)),
                is_same,
                "{one} {other}"
            );
        }
    }
}
