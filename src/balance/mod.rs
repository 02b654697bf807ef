//! Which backend a client reads from: the connection table, failing over, the slow lane.

mod balancer;
mod client_addresses;
pub mod cursor;
pub(crate) mod discovered;
pub(crate) mod failover;
mod gone;
pub(crate) mod history;
mod last_minute;
pub(crate) mod latency;
mod lease;
mod long_replies;
mod operation;
mod outages;
mod overlay;
mod rate;
mod reading;
mod rebalance;
mod refusals;
mod registry;
pub(crate) mod reloads;
pub(crate) mod retry_budget;
mod rows;
mod shares;
pub(crate) mod slow;
mod subscribers;
mod supervisor;
mod table;

pub use self::balancer::{Balancer, Phase};
pub use self::client_addresses::AddressPlace;
pub(crate) use self::gone::MAX_SHOWN_CHANGES;
pub(crate) use self::lease::Lease;
pub use self::overlay::Overlay;
pub use self::rebalance::start_rebalancing;
pub(crate) use self::registry::Backends;
pub(crate) use self::subscribers::why_outranked;
pub(crate) use self::table::ConnectionTable;
