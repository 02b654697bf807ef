//! Reads that keep a server busy: how they are told from others, and the one lane they share.
//!
//! Redis works on one command at a time: while it sorts a million elements it answers nobody, not
//! even a health check. Sent from server to server after each timeout, one such read takes all of them
//! out of service. So a read that is known to be slow, or not yet known to be quick, stays where it is,
//! and one server is always kept free of both.

mod kinds;
mod lane;
mod lane_state;
mod open_read;
mod poison;
mod wait_policy;

pub use self::kinds::{Kinds, MAX_FAST_ARGUMENTS, ReadKey, ReadTraits, shown};
pub use self::lane::{Begun, LaneError, ReadInfo, RunningRead, SharedAnswer, SlowLane, Snapshot};
pub use self::open_read::OpenRead;
pub use self::poison::{Poison, Poisoned};
pub use self::wait_policy::{Decision, Situation, TimeLimits, decide, is_suspicious};
