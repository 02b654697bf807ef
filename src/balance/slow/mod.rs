//! The slow lane: how reads that keep a server busy are told from others, and where they run.
//!
//! Redis works on one command at a time. While it sorts a million elements it answers nobody, not even a
//! health check, and looks dead. If such a read were sent on after each timeout, it would take all servers
//! out of service in turn. So a read that is known to be slow, or not yet known to be quick, stays where it
//! is, and one server is always kept free of both.
//!
//! # The way of a read that is not quick
//!
//! 1. [`Kinds`] says of each read, before it is sent, whether it is quick, slow, or of unknown class. It
//!    has learned that from how long reads of the same kind took. `Balancer::profile` asks it for a Redis
//!    command, `Balancer::profile_of` for an HTTP read. A read that is not quick does not go over a shared
//!    connection. In a Redis session a slow read is sent alone; others may be sent together, and are then
//!    judged as one.
//! 2. [`Failover::begin`](super::failover::Failover::begin) asks the lane where the read may be sent, and waits
//!    until it may ([`SlowLane::begin`]). Slow reads run one at a time, where the last one ran, so that the
//!    other servers' clients stay where they are. A read of unknown class goes to its session's own backend if it
//!    may. It may not go to a server that runs a slow read, nor run beside the first read of its own kind,
//!    nor take the last server that is free of such reads. With one server that serves there is nothing to
//!    keep free. The result is an [`OpenRead`], which counts as unanswered on that backend.
//! 3. While a slow read runs, `ConnectionTable::set_busy` lets quick reads go elsewhere, and `Health::set_busy`
//!    makes silent checks count as a doubt, not as a failure. Before a slow read is sent, up to 10 ms are
//!    waited for replies that are due on the shared connections (`Backend::await_quiet`).
//! 4. The backend has to answer a PING first, so that the read is not blamed for what came before it. Then
//!    the read is sent, and its time begins. Its time ends when the reply begins (`OpenRead::reply_began`),
//!    however slowly the client takes the reply.
//! 5. After half of `--backend-timeout` it is overdue (`OpenRead::note_silence`), and quick reads leave its
//!    server. If no other read that is not quick was there, its kind is slow from then on; otherwise all of
//!    those are measured alone next time.
//! 6. Silence ends by one rule, [`decide`], for quick and slow reads and for both protocols.
//! 7. A reply that answers other clients' equal reads as well is left for those that wait, if they asked
//!    before it was sent (`OpenRead::share`): they get [`LaneOutcome::Answered`].
//! 8. A script whose time is up is ended with `SCRIPT KILL` or `FUNCTION KILL` on a connection of its own. That
//!    is after 5.5 s at the earliest: had it waited for another client's script, it would have been answered
//!    `-BUSY` by then.
//! 9. A read that its session gave up (`OpenRead::leave`) stays on its server's list until the server answers
//!    a check, is down, or four read timeouts have passed.
//!
//! A quick read that leaves a silent server is of unknown class from then on, so it takes this way to the
//! next one. A read that has killed two servers is refused for a minute ([`Poison`]).

mod kinds;
mod lane;
mod lane_state;
mod open_read;
mod poison;
mod silence;

pub use self::kinds::{Kinds, MAX_FAST_ARGUMENTS, ReadKey, ReadProfile, shown, without_key};
pub use self::lane::{LaneOutcome, SlowLane, Snapshot};
pub use self::lane_state::{LaneError, ReadInfo, RunningRead, SharedAnswer};
pub use self::open_read::OpenRead;
pub use self::poison::{Poison, Poisoned};
pub use self::silence::{Decision, Situation, TimeLimits, decide, is_suspicious};
