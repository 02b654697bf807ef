//! Takes the readings that the history is made from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Balancer;
use super::history::{BackendReading, CommandReading, Reading};
use crate::health::Member;
use crate::metrics::HTTP_KINDS;

impl Balancer {
    /// All counts as they are now, with those of these backends.
    pub fn reading(&self, backends: &[Arc<Member>]) -> Reading {
        let reading = |backend: &Arc<Member>| BackendReading {
            id: backend.id,
            state: backend.health.shown_state(),
            leases: self.table.leases(backend.id),
            counts: backend.metrics.counts(),
            times: backend.metrics.times(),
        };
        Reading {
            at: Instant::now(),
            counts: self.metrics.counts(),
            commands: self.command_readings(),
            backends: backends.iter().map(reading).collect(),
        }
    }

    /// Each command, and each kind of HTTP request, that clients have sent.
    fn command_readings(&self) -> Vec<CommandReading> {
        let mut sent = self.policy().1.counts();
        let http = [self.metrics.http_keys.get(), self.metrics.http_listings.get()];
        sent.extend(
            HTTP_KINDS.into_iter().zip(http).map(|((_, name), count)| (name.to_owned(), count)),
        );
        let mut times: HashMap<_, _> = self.metrics.command_times.all().into_iter().collect();
        let reading = |(name, sent): (String, u64)| CommandReading {
            times: times.remove(name.as_str()).unwrap_or_default(),
            name: name.into(),
            sent,
        };
        sent.into_iter().filter(|(_, count)| *count > 0).map(reading).collect()
    }
}
