//! Addresses from which logins have failed: one that goes on guessing is slowed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::net::client_network as origin;
use crate::sync::{Mutex, lock};

/// Number of failed logins after which an address is slowed. People who mistype a password stay below it.
const MAX_FAILURES: u32 = 10;

/// Time without a failed login after which those of an address are forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// Delay of each login from an address that is slowed. With [`MAX_WAITING`], an address tries 8 passwords a second.
const DELAY: Duration = Duration::from_secs(1);

/// Most logins of one address that wait at a time. Each holds a thread and a client's place, so more are refused.
const MAX_WAITING: u32 = 8;

/// Most addresses that are remembered. The one that has failed longest ago makes room for another.
const MAX_ORIGINS: usize = 4096;

/// Most logins that are remembered as right. Only who has a right password adds one; when there are too many, all are
/// forgotten, and are slowed as others until they are right again.
const MAX_PROVEN: usize = 16 * 1024;

/// Decision about a login before its password is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    AtOnce,
    /// After the delay. It has to be told when that is over.
    Delayed,
    Refused,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    failed_at: Instant,
    waiting: u32,
}

impl Record {
    fn is_over(&self, now: Instant) -> bool {
        self.waiting == 0 && now.saturating_duration_since(self.failed_at) >= MEMORY
    }
}

/// The addresses, as a value without a clock.
#[derive(Debug, Default)]
struct Origins(HashMap<IpAddr, Record>);

impl Origins {
    fn begin(&mut self, origin: IpAddr, now: Instant) -> Admission {
        let Some(record) = self.0.get_mut(&origin) else { return Admission::AtOnce };
        if record.is_over(now) {
            self.0.remove(&origin);
            return Admission::AtOnce;
        }
        match record.failures >= MAX_FAILURES {
            false => Admission::AtOnce,
            true if record.waiting >= MAX_WAITING => Admission::Refused,
            true => {
                record.waiting += 1;
                Admission::Delayed
            }
        }
    }

    fn waited(&mut self, origin: IpAddr) {
        if let Some(record) = self.0.get_mut(&origin) {
            record.waiting = record.waiting.saturating_sub(1);
        }
    }

    fn failed(&mut self, origin: IpAddr, now: Instant) {
        if !self.0.contains_key(&origin) && self.0.len() >= MAX_ORIGINS {
            self.make_room(now);
        }
        let new = || Record { failures: 0, failed_at: now, waiting: 0 };
        let record = self.0.entry(origin).or_insert_with(new);
        if record.is_over(now) {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.failed_at = now;
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, record| !record.is_over(now));
        let oldest = self.0.iter().min_by_key(|(_, record)| record.failed_at);
        if let Some(origin) = oldest.map(|(origin, _)| *origin)
            && self.0.len() >= MAX_ORIGINS
        {
            self.0.remove(&origin);
        }
    }
}

/// The addresses from which logins have failed.
#[derive(Debug, Default)]
pub struct Guesses {
    origins: Mutex<Origins>,
    /// How many addresses are remembered: while there are none, nobody takes the lock.
    known: AtomicUsize,
    /// Addresses with the digests of the logins that were right there: they are not slowed by somebody else who guesses
    /// from the address. That tells nothing to one who guesses.
    proven: Mutex<HashSet<(IpAddr, [u8; 32])>>,
}

/// Error of a login from an address that has too many logins waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyGuesses;

impl Guesses {
    /// Waits before a password from this address is looked at, if the address is slowed, and this login was not right there
    /// before. A right password waits as long: otherwise a quick answer would tell it from a wrong one.
    pub fn wait(&self, address: IpAddr, login: [u8; 32]) -> Result<(), TooManyGuesses> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let origin = origin(address);
        if lock(&self.proven).contains(&(origin, login)) {
            return Ok(());
        }
        match self.change(|origins| origins.begin(origin, Instant::now())) {
            Admission::AtOnce => Ok(()),
            Admission::Refused => Err(TooManyGuesses),
            Admission::Delayed => {
                std::thread::sleep(DELAY);
                self.change(|origins| origins.waited(origin));
                Ok(())
            }
        }
    }

    /// Counts a failed login.
    pub fn failed(&self, address: IpAddr, login: [u8; 32]) {
        lock(&self.proven).remove(&(origin(address), login));
        self.change(|origins| origins.failed(origin(address), Instant::now()));
    }

    /// Remembers a login that was right.
    pub fn succeeded(&self, address: IpAddr, login: [u8; 32]) {
        let mut proven = lock(&self.proven);
        if proven.len() >= MAX_PROVEN {
            proven.clear();
        }
        proven.insert((origin(address), login));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Origins) -> T) -> T {
        let mut origins = lock(&self.origins);
        let changed = change(&mut origins);
        self.known.store(origins.0.len(), Ordering::Relaxed);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        origin(text.parse().expect("an address"))
    }

    #[test]
    fn an_address_is_slowed_after_ten_failures_and_forgotten_after_a_minute_without() {
        let (began, mut origins) = (Instant::now(), Origins::default());
        let (one, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
        for failures in 0..MAX_FAILURES {
            assert_eq!(origins.begin(one, began), Admission::AtOnce, "after {failures}");
            origins.failed(one, began);
        }
        for waiting in 0..MAX_WAITING {
            assert_eq!(origins.begin(one, began), Admission::Delayed, "beside {waiting}");
        }
        assert_eq!(origins.begin(one, began), Admission::Refused);
        assert_eq!(origins.begin(other, began), Admission::AtOnce);
        origins.waited(one);
        assert_eq!(origins.begin(one, began + MEMORY / 2), Admission::Delayed);
        (0..MAX_WAITING).for_each(|_| origins.waited(one));
        assert_eq!(origins.begin(one, began + MEMORY), Admission::AtOnce);
        assert!(origins.0.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_makes_room() {
        let (began, mut origins) = (Instant::now(), Origins::default());
        for number in 0..MAX_ORIGINS as u32 + 100 {
            let address = IpAddr::from(number.to_be_bytes());
            origins.failed(address, began + Duration::from_millis(number.into()));
        }
        assert_eq!(origins.0.len(), MAX_ORIGINS);
        assert!(!origins.0.contains_key(&IpAddr::from([0, 0, 0, 99])));
        assert!(origins.0.contains_key(&IpAddr::from([0, 0, 0, 100])));
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin_and_a_mapped_address_is_ipv4() {
        assert_eq!(ip("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2::1"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    }
}
