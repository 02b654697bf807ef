//! The memory that clients make us hold: one budget for all of them, an account for each.
//!
//! Whatever grows at a client's will is counted in a [`Share`] of its account: what it sends, the replies
//! that it does not take, what it has queued or subscribed to, the keys of a listing. When all accounts together are
//! over the budget, the client that holds most is closed, as Redis does with `maxmemory-clients`, and a client
//! that makes the budget grow waits for what that frees. A part of the budget is a reserve for clients that hold
//! little: they are served while others are being closed.

mod system;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use log::warn;

pub(crate) use self::system::{available_bytes, default_bytes};
use crate::metrics::Counter;
use crate::sync::{Condvar, Mutex, lock, wait};
use crate::text::figures::size;

/// Bytes of a share that count for nothing: a client's usual buffers. A client has a few shares at most, so what
/// is not counted stays below 32 KiB a client.
const FREE_BYTES: usize = 8 * 1024;

/// Step in which shares grow, so that most commands change no account.
const STEP_BYTES: usize = 4 * 1024;

/// Bytes up to which a client is served from the reserve: what a request of 64 KiB takes, with its index, its copy,
/// and its reply.
const SMALL_BYTES: usize = 256 * 1024;

/// Bytes up to which a client is always served: those of a usual request.
const USUAL_BYTES: usize = 32 * 1024;

/// Part of the budget, as its denominator, that is the reserve for clients which hold little.
const RESERVE_PART: usize = 8;

/// Largest reserve: by twice as much, clients that hold little may be over the budget while others leave.
const MAX_RESERVE_BYTES: usize = 32 * 1024 * 1024;

/// Longest time that a client waits for memory which others are to give back. Closing a connection takes some
/// milliseconds; a client that waits for a backend takes longer.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Time between two looks for what was given back.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// Smallest budget: less would not hold one longest argument of the default size.
pub(crate) const MIN_BYTES: u64 = 16 * 1024 * 1024;

/// Error for a client that would need more memory than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: it holds {}, and all clients together may hold {}", size(*.held as u64), size(*.max as u64))]
pub(crate) struct OutOfMemory {
    held: usize,
    max: usize,
}

impl From<OutOfMemory> for std::io::Error {
    fn from(error: OutOfMemory) -> Self {
        Self::other(error)
    }
}

/// What one client holds.
#[derive(Debug, Default)]
pub(crate) struct Account {
    bytes: AtomicUsize,
    /// Whether it is, or was, among those that may be closed.
    is_listed: AtomicBool,
    /// Whether its client was closed for what it held.
    is_closed: AtomicBool,
}

/// A client with an account.
pub(crate) trait Holder: Send + Sync {
    /// Its account.
    fn account(&self) -> &Account;
    /// Its name for the log.
    fn name(&self) -> String;
    /// Ends its connection, which makes its session give everything back soon.
    fn close(&self);
}

/// The memory that all clients together may make us hold.
#[derive(Debug)]
pub struct MemoryBudget {
    max_bytes: AtomicUsize,
    held: AtomicUsize,
    /// The clients that have held anything that counts.
    holders: Mutex<Vec<Weak<dyn Holder>>>,
    freed: Condvar,
    /// Number of clients that were closed for what they held.
    pub(crate) closed: Counter,
}

impl std::fmt::Debug for dyn Holder {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str(&self.name())
    }
}

/// The state of the budget, as it is decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    /// Bytes that the client which asks holds, with what it asks for.
    own: usize,
    /// Bytes that all hold.
    held: usize,
    /// Bytes of those that are being closed.
    leaving: usize,
    /// Bytes of the client that holds most and is not being closed.
    largest: usize,
    max: usize,
}

impl Need {
    fn reserve(&self) -> usize {
        (self.max / RESERVE_PART).min(MAX_RESERVE_BYTES)
    }

    /// Whether all together are over the budget by no more than twice the reserve.
    fn is_within_margin(&self) -> bool {
        self.held <= self.max + 2 * self.reserve()
    }
}

/// What follows from the state of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// There is room.
    Enough,
    /// There will be room when those that are being closed have left.
    Wait,
    /// The client that holds most is closed.
    CloseLargest,
    /// The client that asks is closed: no other holds as much.
    CloseSelf,
}

fn decide(need: Need) -> Decision {
    let is_small = need.own <= SMALL_BYTES;
    let max = if is_small { need.max } else { need.max - need.reserve() };
    if need.held <= max || need.own <= USUAL_BYTES {
        Decision::Enough
    } else if need.held - need.leaving.min(need.held) <= max {
        Decision::Wait
    } else if need.largest > need.own {
        Decision::CloseLargest
    } else {
        Decision::CloseSelf
    }
}

impl Account {
    /// Returns whether its client was closed for what it held.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Returns how many bytes count for its client.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl MemoryBudget {
    /// Creates a budget of this many bytes.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let (holders, closed) = (Mutex::new(Vec::new()), Counter::default());
        let (max_bytes, held) = (AtomicUsize::new(max_bytes), AtomicUsize::new(0));
        Self { max_bytes, held, holders, freed: Condvar::new(), closed }
    }

    /// Returns the budget in bytes.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Changes the budget. If all hold more than that, the next that grows makes room.
    pub(crate) fn set_max_bytes(&self, max_bytes: usize) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Returns how many bytes all clients hold.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts memory that no single client holds. Whoever adds to it has a bound of its own.
    pub(crate) fn add_common(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes note that memory which no single client held was given back.
    pub(crate) fn give_back_common(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes room for what `holder` has grown by, or finds that there is none.
    #[cold]
    fn make_room(&self, holder: &dyn Holder) -> Result<(), OutOfMemory> {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let mut holders = lock(&self.holders);
            let (need, largest) = self.need(holder, &mut holders);
            match decide(need) {
                Decision::Enough => return Ok(()),
                Decision::CloseLargest => {
                    drop(holders);
                    largest.iter().for_each(|largest| self.close(&**largest));
                }
                Decision::Wait if Instant::now() < deadline => {
                    drop(wait(&self.freed, holders, WAIT_STEP));
                }
                // A client that holds little is served even so, but not any number of them.
                Decision::Wait if need.own <= SMALL_BYTES && need.is_within_margin() => {
                    return Ok(());
                }
                _ => {
                    drop(holders);
                    self.close(holder);
                    return Err(OutOfMemory { held: need.own, max: self.max_bytes() });
                }
            }
        }
    }

    /// Returns the state of the budget, and the client that holds most; forgets clients that have left.
    fn need(
        &self,
        holder: &dyn Holder,
        holders: &mut Vec<Weak<dyn Holder>>,
    ) -> (Need, Option<Arc<dyn Holder>>) {
        let (mut leaving, mut largest, mut bytes) = (0, None, 0);
        holders.retain(|weak| {
            let Some(other) = weak.upgrade() else { return false };
            let account = other.account();
            let held = account.bytes.load(Ordering::Relaxed);
            if account.is_closed() {
                leaving += held;
            } else if held > bytes {
                (largest, bytes) = (Some(other), held);
            }
            true
        });
        let own = holder.account().bytes.load(Ordering::Relaxed);
        let held = self.held_bytes();
        (Need { own, held, leaving, largest: bytes, max: self.max_bytes() }, largest)
    }

    fn close(&self, holder: &dyn Holder) {
        let account = holder.account();
        if account.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.closed.add_one();
        let held = size(account.bytes.load(Ordering::Relaxed) as u64);
        let max = size(self.max_bytes() as u64);
        warn!(
            "closed {}: it held {held} of memory, the most of all clients, which together may hold {max} \
             (--max-memory)",
            holder.name()
        );
        holder.close();
    }

    fn list(&self, holder: &Arc<dyn Holder>) {
        if !holder.account().is_listed.swap(true, Ordering::Relaxed) {
            let mut holders = lock(&self.holders);
            if holders.len() == holders.capacity() {
                holders.retain(|weak| weak.strong_count() > 0);
            }
            holders.push(Arc::downgrade(holder));
        }
    }
}

/// A part of what one client holds, for as long as this lives.
pub(crate) struct Share<'a> {
    budget: &'a MemoryBudget,
    holder: Arc<dyn Holder>,
    bytes: usize,
}

impl<'a> Share<'a> {
    /// Creates a share of nothing.
    pub fn new(budget: &'a MemoryBudget, holder: Arc<dyn Holder>) -> Self {
        Self { budget, holder, bytes: 0 }
    }

    /// Makes it this many bytes; may wait for a moment until others have given memory back.
    ///
    /// # Errors
    /// When all clients together hold too much, and this one the most. Its connection is closed then.
    pub fn set(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        let bytes = if bytes <= FREE_BYTES { 0 } else { bytes.div_ceil(STEP_BYTES) * STEP_BYTES };
        if bytes == self.bytes {
            return Ok(());
        }
        let is_more = bytes > self.bytes;
        let (account, budget) = (self.holder.account(), self.budget);
        let added = bytes.wrapping_sub(self.bytes);
        // Numbers that wrap around: what is taken away is added as its complement.
        let own = account.bytes.fetch_add(added, Ordering::Relaxed).wrapping_add(added);
        let held = budget.held.fetch_add(added, Ordering::Relaxed).wrapping_add(added);
        self.bytes = bytes;
        if !is_more {
            budget.freed.notify_one();
            return Ok(());
        }
        budget.list(&self.holder);
        let max = budget.max_bytes();
        match decide(Need { own, held, leaving: 0, largest: 0, max }) {
            Decision::Enough => Ok(()),
            _ => budget.make_room(&*self.holder),
        }
    }

    /// Gives all of it back.
    pub fn clear(&mut self) {
        // Less is never refused.
        let _ = self.set(0);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
