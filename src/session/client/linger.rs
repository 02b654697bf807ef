//! How a connection ends: the client gets what was sent before, whatever it still sends.

use std::io;
use std::time::{Duration, Instant};

use super::{Activity, Client, MAX_STALL_STEP, make_room, now, too_slow};
use crate::backend::is_timeout;
use crate::balance::Phase;
use crate::memory::Holder;

/// Longest time for which a connection lingers after all was sent.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// Number of bytes that are read from a lingering connection, at most: as many as the longest usual command has.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Number of bytes that reach any client without its taking them: the kernel of a client has so much room for them.
const SURELY_SENT_BYTES: u64 = 2 * 1024;

/// Number of bytes that are read at a time, to be thrown away.
const SCRAP_BYTES: usize = 64 * 1024;

impl Client<'_> {
    /// Ends our side once the client has been sent all, and reads on for a moment. Each connection ends so after a last
    /// answer, and after the part of one that is cut.
    ///
    /// The kernel resets a connection that is closed with unread bytes: what it has not sent yet is lost, and the
    /// client's kernel may throw away what the client has not read yet. So after an answer that does not wait
    /// for the end of the request (an error amid a long body, say), we announce that we send no more,
    /// and throw away what the client still sends, until it closes as well. A client that takes too long, or sends
    /// too much, is reset after all. `waits` says whether it may take as long as while it is served: a client that is cut
    /// off because it does not read may not.
    pub fn linger(&mut self, waits: bool) {
        // One that was closed for the memory that it held gives that back at once.
        if self.socket.account().is_closed() {
            return;
        }
        // Others need its place more.
        self.socket.activity.set(Activity::Spare(now()));
        let mut thrown_away = 0;
        let max_wait = if waits { self.idle_timeout } else { LINGER_TIME };
        if self.sent_bytes > SURELY_SENT_BYTES
            && self.wait_until_sent(max_wait, &mut thrown_away).is_err()
        {
            return;
        }
        if self.stream().end_output().is_err() {
            return;
        }
        let (deadline, mut scrap) = (Instant::now() + LINGER_TIME, Vec::new());
        while thrown_away <= LINGER_BYTES
            && let Ok(length @ 1..) = self.read_until(deadline, &mut scrap)
        {
            scrap.clear();
            make_room(&mut scrap, SCRAP_BYTES);
            thrown_away += length;
        }
    }

    /// Waits until the kernel has sent all to the client, for `max_wait` at most. What it sends is thrown away.
    fn wait_until_sent(&self, max_wait: Duration, thrown_away: &mut usize) -> io::Result<()> {
        let (began, mut scrap) = (Instant::now(), Vec::with_capacity(SCRAP_BYTES));
        loop {
            if self.stream().wait_for_all_sent_or_input(MAX_STALL_STEP)? {
                return Ok(());
            }
            match self.stream().read_now(&mut scrap) {
                // Nothing more comes that could be unread.
                Ok(0) => return Ok(()),
                Ok(length) => *thrown_away += length,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
            scrap.clear();
            let is_closing = self.balancer.has_reached(Phase::Closing);
            let limit = if is_closing { LINGER_TIME } else { max_wait };
            if began.elapsed() >= limit || *thrown_away > LINGER_BYTES {
                return Err(too_slow());
            }
        }
    }
}
