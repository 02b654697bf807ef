//! Takes the readings that the history is made from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Balancer;
use super::gone::BackendTotals;
use super::history::{BackendReading, CommandReading, Reading};
use crate::backend::BackendId;
use crate::health::Member;
use crate::metrics::{CoarseTimes, HTTP_KINDS};

impl Balancer {
    /// All counts as they are now, with those of each of these backends.
    pub fn reading(&self, backends: &[Arc<Member>]) -> Reading {
        let at = Instant::now();
        let reading = |backend: &Arc<Member>| BackendReading {
            id: backend.id,
            state: backend.health.shown_state(),
            leases: self.table.leases(backend.id),
            counts: backend.metrics.counts(),
            times: backend.metrics.times(),
        };
        let backends: Vec<_> = backends.iter().map(reading).collect();
        Reading {
            at,
            counts: self.metrics.counts(),
            commands: self.command_readings(),
            of_backends: self.totals(&backends),
            backends,
        }
    }

    /// The counts of all backends that there have ever been, some of which were just read.
    fn totals(&self, read: &[BackendReading]) -> BackendTotals {
        let read: HashMap<BackendId, _> =
            read.iter().map(|reading| (reading.id, reading)).collect();
        // Taken after the readings: one of those that is forgotten meanwhile is among those that are gone.
        let all = self.backends();
        let mut totals = all.gone().totals.clone();
        for member in all.known() {
            match read.get(&member.id) {
                Some(reading) => totals.add(&reading.counts, &reading.times),
                None => totals.add(&member.metrics.counts(), &member.metrics.times()),
            }
        }
        totals
    }

    /// Each command, and each kind of HTTP request, that clients have sent.
    fn command_readings(&self) -> Vec<CommandReading> {
        let mut sent = self.policy().1.counts();
        let http = [self.metrics.http_keys.get(), self.metrics.http_listings.get()];
        sent.extend(
            HTTP_KINDS.into_iter().zip(http).map(|((_, name), count)| (name.to_owned(), count)),
        );
        let mut times: HashMap<_, _> = self.metrics.command_times.all().into_iter().collect();
        let reading = |(name, sent): (String, u64)| {
            // The name is shared with those who time it, if any do.
            let timed = times.remove_entry(name.as_str());
            let (name, times) = timed.unwrap_or_else(|| (name.into(), CoarseTimes::default()));
            CommandReading { name, sent, times }
        };
        sent.into_iter().filter(|(_, count)| *count > 0).map(reading).collect()
    }
}
