//! The health of each backend: its state, and the rule which backends may be read from.
//!
//! A backend that is `up` is read from. A `suspect` one has just failed: it is read from when none is up, and
//! one good check clears it. A backend is `down` after `fall` failed checks: it is read from when there is nothing
//! better, and `rise` good checks bring it back. A `syncing` one answers but may lack data: nothing is read
//! from it before it has proved, in `rise` checks in a row, that it has the data of the others.
//!
//! Three parties report to [`Health`]: the backend's [`checker`], reads that fail, and each new connection, which
//! asks whether the `run_id` that it met is an accepted one ([`Health::admit`]). `rule::judge` decides what a
//! check means. It is a pure function of the check's report, of the memory of this server and of the
//! others ([`Known`]), of the databases that clients read, and of the time. [`Health`] applies its verdict, and
//! `rule_tests.rs` is the table of its scenes. The decisions in it:
//!
//! - An accepted process has nothing to prove, as clients may delete what they like. Its identity is the
//!   `run_id`, and for a replica the replication history. A replica whose history breaks off was filled anew by
//!   its primary. It is compared at once, and serves on if it is complete.
//! - Databases are compared one by one. A server that lacks database N is read from in the others: `unproven`
//!   holds the databases in which a server has not proved itself. The databases that clients read only
//!   decide whether a server counts as `syncing` as a whole.
//! - A count is never compared with an older one while all is well. Keys that clients add make the judged
//!   server look fuller, not emptier. Keys that they delete may delay a proof until the other server is
//!   checked again, and never end an accepted server's service.
//! - While a server serves a database, servers that are away don't count there. When none serves it, each server
//!   stands for a number of keys: those that it has, if its process and history are the accepted ones or its
//!   numbers have not changed for 5 s; else those that it had, until `--forget-after`.
//! - A server with most of its keys is read from as a last resort after 1 s of unchanged numbers, when no server
//!   that has more is up: an older snapshot is better than ten minutes without service.
//! - A server that is being loaded has all of one database before it has any of the next. So a server of which
//!   some databases are complete serves these once the others have got no more keys in ten checks.
//! - Numbers don't say which keys they count. So some keys of a server that has to prove itself, chosen at random, are looked
//!   for on one that serves, and the other way round (`other_keys.rs`).
//! - Stale replicas and last resorts are a second choice: they are read from while no first choice is up. A replica
//!   is stale after a long silence of its primary, or when it lacks too much of its primary's writes (`lag.rs`).
//! - Reads that fail while checks pass are counted. A backend whose count is more than one above the best of the
//!   others that are up is ejected: it stays `suspect`, each time for longer (`backoff.rs`).
//! - Replicas are checked every 100 ms while their link is down, or another backend has just gone, because
//!   they may be emptied then.

pub(crate) mod backoff;
pub mod checker;
mod danger;
mod known;
mod lag;
mod operator;
mod other_keys;
mod questions;
mod record;
mod replication;
mod rule;
#[cfg(test)]
mod rule_tests;
mod settings;
mod state;
mod state_machine;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

pub use self::known::Known;
pub(crate) use self::known::{Databases, DatabasesInUse};
pub(crate) use self::lag::{Lag, is_fresh_enough};
pub use self::replication::Replication;
pub(crate) use self::replication::sample_interval;
pub use self::settings::{Overrides, Settings};
pub use self::state::{Admin, BackendState};
pub(crate) use self::state::{Change, LastCheck, Progress, ShownState, StateListener, Summary};
pub use self::state_machine::Health;
use crate::backend::Backend;

/// A backend that is balanced, and its health.
#[derive(Debug)]
pub struct Member {
    /// The backend. A member is used in its place where that is not kept.
    pub(crate) backend: Arc<Backend>,
    /// Its state, and the reasons for it.
    pub(crate) health: Arc<Health>,
    /// How much is read from it.
    pub(crate) settings: Settings,
}

impl Member {
    /// Returns whether the database of its URL may be read from it. Takes no lock.
    pub fn serves_own(&self) -> bool {
        self.serves_in(None)
    }

    /// As [`serves_own`](Self::serves_own), for this database if it is not `None`.
    pub fn serves_in(&self, database: Option<i64>) -> bool {
        self.health.serves(self.backend.mode_in(database).database)
    }
}

impl Deref for Member {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}
