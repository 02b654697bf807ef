//! Subscribers that are behind: one thread gives them what they take, and cuts off those that take too little.
//!
//! The thread that reads a connection gives each subscriber what its socket takes at once, and waits for nobody. What is
//! left is this thread's. It lives as long as somebody is behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::subscriber::Subscriber;
use super::subscribers::Subscribers;
use crate::net::client_stream::wait_for_any_room;
use crate::sync::{Mutex, lock};

/// Longest time between two looks at those who are behind: the time until one that has just fallen behind is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Shortest time between two looks, in which sockets get room for more than a few bytes.
const PAUSE: Duration = Duration::from_millis(1);

/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 256 * 1024;

/// Reason why those who are most behind are cut off while all have left too much.
const OVER_BUDGET: &str = "it was most behind, and messages that subscribers have not taken may take a quarter of --max-memory";

/// Subscribers that are behind, until the thread takes them.
#[derive(Debug, Default)]
pub struct SlowList(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    new: Vec<Arc<Subscriber>>,
    is_running: bool,
}

impl Subscribers {
    /// Takes note of a subscriber that is behind.
    pub(super) fn add_slow(self: &Arc<Self>, subscriber: Arc<Subscriber>) {
        let mut list = lock(&self.slow.0);
        list.new.push(subscriber);
        if !list.is_running {
            let this = Arc::clone(self);
            let thread = thread::Builder::new().name("slow".to_owned()).stack_size(STACK_BYTES);
            // Without a thread, the next who falls behind tries again.
            list.is_running = thread.spawn(move || this.serve_slow()).is_ok();
        }
    }

    fn serve_slow(self: &Arc<Self>) {
        let mut behind = Vec::new();
        loop {
            // One subscriber's trouble is no other's.
            let round = AssertUnwindSafe(|| self.serve_round(&mut behind));
            if let Ok(false) = catch_unwind(round) {
                return;
            }
        }
    }

    /// Gives those who are behind what they take, once; returns false when nobody is.
    fn serve_round(&self, behind: &mut Vec<Arc<Subscriber>>) -> bool {
        {
            let mut list = lock(&self.slow.0);
            behind.append(&mut list.new);
            if behind.is_empty() {
                list.is_running = false;
                return false;
            }
        }
        thread::sleep(PAUSE);
        let streams = behind.iter().map(|subscriber| subscriber.stream()).collect();
        let mut has_room = wait_for_any_room(streams, LOOK_INTERVAL).into_iter();
        let (now, mut piece) = (Instant::now(), Vec::new());
        behind.retain(|subscriber| {
            let has_room = has_room.next().unwrap_or(false);
            subscriber.is_still_behind(has_room, &mut piece, now)
        });
        self.cut_off_most_behind(behind);
        true
    }

    /// Cuts off those who are most behind, until no more is kept than may be.
    fn cut_off_most_behind(&self, behind: &mut Vec<Arc<Subscriber>>) {
        if self.excess_bytes() == 0 {
            return;
        }
        behind.sort_by_cached_key(|subscriber| subscriber.queued_bytes());
        while self.excess_bytes() > 0
            && let Some(most) = behind.pop()
        {
            most.cut_off(OVER_BUDGET);
        }
    }
}
