//! Waits for a replica to get what was written to its primary.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use super::REPLICA_TIMEOUT;
use super::connection::{Replication, SeedConnection};
use super::error::SeedError;

/// How often a replica is asked how far it is.
const REPLICA_POLL: Duration = Duration::from_millis(100);

/// How far each primary was written, by replication id; `None` if it failed.
pub(super) type Primaries = HashMap<String, Option<u64>>;

/// Waits until a replica has everything that was written to its primary; returns its state then.
pub(super) fn wait_for_replica(
    connection: &mut SeedConnection,
    primaries: &Primaries,
) -> Result<Replication, SeedError> {
    let mut furthest = (0, 0);
    let mut deadline = Instant::now() + REPLICA_TIMEOUT;
    loop {
        let replication = connection.replication()?;
        match primaries.get(&replication.id) {
            Some(None) => return Err(SeedError::Primary(replication.primary)),
            Some(Some(offset)) if replication.link_up && replication.offset >= *offset => {
                return Ok(replication);
            }
            // We wrote nothing to its primary, so we wait only for the link.
            None if replication.link_up => return Ok(replication),
            _ => {}
        }
        // Only new maxima are progress: a copy that fails and begins anew is none.
        let reached =
            (furthest.0.max(replication.offset), furthest.1.max(replication.copied_bytes));
        if reached != furthest {
            furthest = reached;
            deadline = Instant::now() + REPLICA_TIMEOUT;
        }
        if Instant::now() >= deadline {
            let state = match replication.link_up {
                true => "it lags behind its primary",
                false => "no link to its primary",
            };
            return Err(SeedError::Stuck { primary: replication.primary, state });
        }
        thread::sleep(REPLICA_POLL);
    }
}
