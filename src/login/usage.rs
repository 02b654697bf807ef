//! What the clients of one user use, and its limits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::bucket::TokenBucket;
use crate::config::users::UserLimits;
use crate::metrics::Counter;
use crate::sync::{Mutex, lock};

/// Longest time for which a request over a user's limit waits. A client that is a little too fast notices nothing
/// but that; clients with a usual timeout of a few seconds are never taken for lost.
pub const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the clients of one user use, and its limits. It stays the same one when the configuration is read again.
#[derive(Debug)]
pub struct UserUsage {
    clients: AtomicUsize,
    max_clients: AtomicUsize,
    /// Whether there is a limit of requests or of bytes.
    has_rates: AtomicBool,
    rates: Mutex<Rates>,
    /// Requests that had to wait, or were refused, because of a limit.
    pub throttled: Counter,
    /// Clients that were refused because of the limit of clients.
    pub refused_clients: Counter,
}

#[derive(Debug, Default)]
struct Rates {
    limits: UserLimits,
    requests: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

/// Error of a request that would have to wait for too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("user {user} is over its limit of {limit} {what} a second")]
pub struct Throttled {
    user: String,
    limit: u64,
    what: &'static str,
    /// Time after which the request may be made again.
    pub retry_after: Duration,
}

impl UserUsage {
    /// No client of the user is there yet.
    pub fn new(limits: UserLimits) -> Self {
        let usage = Self {
            clients: AtomicUsize::new(0),
            max_clients: AtomicUsize::new(usize::MAX),
            has_rates: AtomicBool::new(false),
            rates: Mutex::default(),
            throttled: Counter::default(),
            refused_clients: Counter::default(),
        };
        usage.set_limits(limits, Instant::now());
        usage
    }

    /// Takes over other limits. A bucket whose limit stays is as full as before.
    pub fn set_limits(&self, limits: UserLimits, now: Instant) {
        let mut rates = lock(&self.rates);
        let old = std::mem::replace(&mut rates.limits, limits);
        let bucket = |limit: Option<u64>| limit.map(|limit| TokenBucket::new(limit, now));
        if old.max_requests_per_second != limits.max_requests_per_second {
            rates.requests = bucket(limits.max_requests_per_second);
        }
        if old.max_bytes_per_second != limits.max_bytes_per_second {
            rates.bytes = bucket(limits.max_bytes_per_second);
        }
        self.has_rates.store(rates.requests.is_some() || rates.bytes.is_some(), Ordering::Relaxed);
        self.max_clients.store(limits.max_clients.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// How many clients are logged in.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Counts a client; false if there is no place for it.
    pub(super) fn enter(&self) -> bool {
        let max = self.max_clients.load(Ordering::Relaxed);
        let is_in = self.clients.fetch_add(1, Ordering::Relaxed) < max;
        if !is_in {
            self.leave();
            self.refused_clients.add_one();
        }
        is_in
    }

    pub(super) fn leave(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether requests have to be [admitted](Self::admit).
    pub fn has_rates(&self) -> bool {
        self.has_rates.load(Ordering::Relaxed)
    }

    /// Whether replies have a limit of bytes.
    pub fn has_byte_limit(&self) -> bool {
        lock(&self.rates).bytes.is_some()
    }

    /// Counts a request of this user; returns how long it has to wait.
    ///
    /// # Errors
    /// It would have to wait for longer than `max_wait`.
    pub fn admit(
        &self,
        user: &str,
        max_wait: Duration,
        now: Instant,
    ) -> Result<Duration, Throttled> {
        let mut rates = lock(&self.rates);
        let Rates { limits, requests, bytes } = &mut *rates;
        let throttled = |limit: Option<u64>, what, retry_after| Throttled {
            user: user.to_owned(),
            limit: limit.unwrap_or_default(),
            what,
            retry_after,
        };
        let take = |bucket: &mut Option<TokenBucket>, wanted| {
            bucket.as_mut().map_or(Ok(Duration::ZERO), |bucket| bucket.take(wanted, max_wait, now))
        };
        let for_requests = take(requests, 1)
            .map_err(|after| throttled(limits.max_requests_per_second, "requests", after));
        // How long the reply will be is not known before it has come: it is charged then.
        let admitted = for_requests.and_then(|wait| match take(bytes, 0) {
            Ok(for_bytes) => Ok(wait.max(for_bytes)),
            Err(after) => {
                requests.iter_mut().for_each(|bucket| bucket.give_back(1));
                Err(throttled(limits.max_bytes_per_second, "bytes", after))
            }
        });
        if admitted.as_ref().map_or(true, |wait| !wait.is_zero()) {
            self.throttled.add_one();
        }
        admitted
    }

    /// Counts bytes that were sent to a client.
    pub fn charge(&self, bytes: u64, now: Instant) {
        if bytes > 0
            && let Some(bucket) = &mut lock(&self.rates).bytes
        {
            bucket.charge(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_the_limit_that_is_further_off_and_is_refused_by_either() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let limits = UserLimits {
            max_requests_per_second: Some(2),
            max_bytes_per_second: Some(1000),
            max_clients: None,
        };
        let usage = UserUsage::new(limits);
        let now = now + second;
        assert_eq!(usage.admit("a", second, now), Ok(Duration::ZERO));
        usage.charge(1800, now);
        assert_eq!(usage.admit("a", second, now), Ok(second * 4 / 5));
        assert_eq!(usage.admit("a", second, now), Ok(second * 4 / 5));
        assert_eq!(usage.admit("a", second, now), Ok(second));
        let error = usage.admit("a", second, now).expect_err("too many");
        assert_eq!(error.to_string(), "user a is over its limit of 2 requests a second");
        usage.charge(10_000, now);
        let later = now + 2 * second;
        let error = usage.admit("a", second, later).expect_err("too long");
        assert_eq!(error.to_string(), "user a is over its limit of 1000 bytes a second");
        assert_eq!(usage.throttled.get(), 5);
        // The refused requests have used nothing.
        usage.set_limits(UserLimits { max_bytes_per_second: None, ..limits }, later);
        assert_eq!(usage.admit("a", second, later), Ok(Duration::ZERO));
        usage.set_limits(UserLimits::default(), later);
        assert!(!usage.has_rates());
    }

    #[test]
    fn clients_are_counted_up_to_their_limit() {
        let usage = UserUsage::new(UserLimits { max_clients: Some(2), ..UserLimits::default() });
        assert_eq!([usage.enter(), usage.enter(), usage.enter()], [true, true, false]);
        usage.leave();
        assert!(usage.enter());
        assert_eq!((usage.clients(), usage.refused_clients.get()), (2, 1));
    }
}
