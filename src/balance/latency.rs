//! Which backends are slow: how long their short reads take, compared with those of the others.
//!
//! A server that swaps, a busy neighbour, or a long way round in the network makes a backend slow and fails no check.
//! Clients of that backend would wait for each reply, while those of the others do not. So once a second the medians of
//! the last five seconds are compared. A backend that is an order of magnitude slower than its peers is `slow` and
//! gets a tenth of the leases ([`SLOW_WEIGHT`](super::rows::SLOW_WEIGHT)).
//!
//! What is compared are reads that should take as long everywhere: those on shared connections, and health checks,
//! which a backend gets even if it has no lease. Seconds in which a slow read ran on a backend say nothing about it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::Balancer;
use crate::backend::BackendId;
use crate::health::backoff::{Backoff, ejection_time};
use crate::health::{BackendState, Member};
use crate::metrics::Times;

/// Seconds from which a median is made.
const WINDOW_SECONDS: usize = 5;

/// Short reads and checks that a median is made from, at least. One that was late by chance is no reason.
const MIN_READS: u64 = 3;

/// A backend becomes slow when its median is so many times that of its peers: an order of magnitude. Below that,
/// servers on other hardware or in another zone would count as slow.
const SLOW_FACTOR: u32 = 10;

/// A backend becomes slow when its median is by so much more than that of its peers. Less is not worth moving clients
/// for.
const SLOW_BY: Duration = Duration::from_millis(50);

/// A slow backend is up again when its median is below this part of either bound (hysteresis).
const RECOVERED_PART: u32 = 2;

/// Ejections that a backend is ahead of when it becomes slow for the first time: it stays so for 4 s at least, then for
/// 8 s, up to 60 s. If its checks are quick, it seems to recover as soon as no client reads from it.
const HEAD_START: u32 = 3;

/// Returns whether a backend is slow from now on, given its median, and that of its peers.
fn is_slow(was_slow: bool, own: Duration, peers: Duration) -> bool {
    let part = if was_slow { RECOVERED_PART } else { 1 };
    own >= peers * SLOW_FACTOR / part && own.saturating_sub(peers) >= SLOW_BY / part
}

/// Returns the median of the peers' medians, given all of them, sorted, and one's own among them; of two in the middle,
/// the lesser. A single peer that is quick, or slow, does not decide for many.
fn median_of_peers(sorted: &[Duration], own: Duration) -> Option<Duration> {
    let own_at = sorted.partition_point(|median| *median < own);
    let middle = sorted.len().checked_sub(2)? / 2;
    // Those after one's own move up by one place without it.
    sorted.get(middle + usize::from(middle >= own_at)).copied()
}

/// The latencies of all backends in the last seconds.
#[derive(Debug, Default)]
pub struct Latencies(HashMap<BackendId, Window>);

/// The short reads of one backend in the last seconds.
#[derive(Debug, Default)]
struct Window {
    /// All that were counted before.
    last: Times,
    /// Those of each second, the newest last; none for a second in which a slow read ran.
    seconds: VecDeque<Times>,
    /// How often it became slow: each time it is so for longer at least.
    backoff: Backoff,
    slow_since: Option<Instant>,
}

impl Window {
    fn add(&mut self, times: Times, was_busy: bool) {
        let new = if was_busy { Times::default() } else { times.since(&self.last) };
        self.last = times;
        if self.seconds.len() == WINDOW_SECONDS {
            self.seconds.pop_front();
        }
        self.seconds.push_back(new);
    }

    fn median(&self) -> Option<Duration> {
        let all = self.seconds.iter().fold(Times::default(), Times::with);
        (all.count() >= MIN_READS).then(|| all.percentile(0.5)).flatten()
    }

    /// Judges it at this moment; returns whether it is slow.
    fn judge(&mut self, was_slow: bool, own: Duration, peers: Duration, now: Instant) -> bool {
        let time = ejection_time(HEAD_START + self.backoff.count(now));
        let may_recover =
            self.slow_since.is_none_or(|since| now.saturating_duration_since(since) >= time);
        let is_slow = is_slow(was_slow, own, peers) || (was_slow && !may_recover);
        match (was_slow, is_slow) {
            (false, true) => {
                self.backoff.failed(now);
                self.slow_since = Some(now);
            }
            (true, false) => self.backoff.returned(now),
            _ => {}
        }
        is_slow
    }
}

impl Latencies {
    /// Takes note of another second, and says which backends are slow. Call it once a second.
    pub fn judge(&mut self, balancer: &Balancer, now: Instant) {
        let members = balancer.backends();
        let ids: HashSet<_> = members.iter().map(|member| member.id).collect();
        self.0.retain(|id, _| ids.contains(id));
        for member in members.iter() {
            let window = self.0.entry(member.id).or_default();
            window.add(member.metrics.short_reads.times(), balancer.table.take_was_busy(member.id));
        }
        let up = members.iter().filter(|member| member.health.state() == BackendState::Up);
        let medians: Vec<_> =
            up.filter_map(|member| Some((member, self.0.get(&member.id)?.median()?))).collect();
        let mut sorted: Vec<_> = medians.iter().map(|(_, median)| *median).collect();
        sorted.sort_unstable();
        for (member, own) in &medians {
            match median_of_peers(&sorted, *own) {
                Some(peers) => self.judge_one(member, *own, peers, now),
                // There is nothing to compare it with.
                None => member.health.set_slow(false, "there is no other to compare it with", now),
            }
        }
    }

    fn judge_one(&mut self, member: &Member, own: Duration, peers: Duration, now: Instant) {
        let Some(window) = self.0.get_mut(&member.id) else { return };
        let is_slow = window.judge(member.health.is_slow(), own, peers, now);
        let gets = if is_slow { ": it gets fewer leases" } else { "" };
        let why = format!(
            "its short reads take {own:.1?} at the median of {WINDOW_SECONDS} s, those of its peers \
             {peers:.1?}{gets}"
        );
        member.health.set_slow(is_slow, &why, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    fn millis(millis: f64) -> Duration {
        Duration::from_secs_f64(millis / 1000.0)
    }

    #[test]
    fn each_row_of_the_rule() {
        for (was_slow, own, peers, expected) in [
            // Both bounds count.
            (false, 100.0, 0.1, true),
            (false, 50.1, 0.1, true),
            (false, 49.0, 0.1, false),
            (false, 99.0, 10.0, false),
            (false, 100.0, 10.0, true),
            (false, 500.0, 60.0, false),
            (false, 100.0, 100.0, false),
            (false, 0.1, 100.0, false),
            // It recovers at half of either bound.
            (true, 49.0, 0.1, true),
            (true, 24.0, 0.1, false),
            (true, 60.0, 10.0, true),
            (true, 49.0, 10.0, false),
            (true, 100.0, 100.0, false),
            (true, 0.1, 0.1, false),
        ] {
            let found = is_slow(was_slow, millis(own), millis(peers));
            assert_eq!(found, expected, "{was_slow} {own} {peers}");
        }
    }

    #[test]
    fn the_peers_median_is_that_of_most_of_them() {
        for (peers, expected) in [
            (&[][..], None),
            (&[7.0], Some(7.0)),
            (&[100.0, 0.1], Some(0.1)),
            (&[100.0, 0.1, 100.0], Some(100.0)),
            (&[0.1, 0.1, 100.0, 0.2], Some(0.1)),
        ] {
            for own in [0.01, 0.1, 0.15, 7.0, 1000.0] {
                let mut all: Vec<_> = peers.iter().copied().chain([own]).map(millis).collect();
                all.sort_unstable();
                let found = median_of_peers(&all, millis(own));
                assert_eq!(found, expected.map(millis), "{peers:?} {own}");
            }
        }
    }

    #[test]
    fn a_median_is_that_of_five_seconds_without_those_in_which_a_slow_read_ran() {
        let (reads, mut window) = (Histogram::default(), Window::default());
        let mut second = |count, time, was_busy| {
            reads.add(millis(time), count);
            window.add(reads.times(), was_busy);
            window.median().map(|median| median.as_millis())
        };
        assert_eq!(second(2, 100.0, false), None, "too few");
        assert_eq!(second(100, 900.0, true), None);
        assert_eq!(second(1, 100.0, false), Some(100));
        assert_eq!(second(2, 1.0, false), Some(100));
        assert_eq!(second(2, 1.0, false), Some(1));
        assert_eq!(second(0, 0.0, false), Some(1), "the first second is over");
    }

    #[test]
    fn one_that_is_slow_again_and_again_stays_so_for_longer() {
        let (began, mut window) = (Instant::now(), Window::default());
        let mut now = began;
        let mut slow_for = || {
            assert!(window.judge(false, millis(100.0), millis(0.1), now));
            let since = now;
            while window.judge(true, millis(0.1), millis(0.1), now) {
                now += Duration::from_secs(1);
            }
            (now - since).as_secs()
        };
        assert_eq!([(); 6].map(|()| slow_for()), [4, 8, 16, 32, 60, 60]);
    }
}
