//! Which backend a client reads from: the connection table, failing over, the slow lane.

mod balancer;
pub mod cursor;
pub mod failover;
pub mod history;
mod lease;
mod rebalance;
mod refusals;
mod registry;
pub mod retry_budget;
mod rows;
pub mod slow;
mod supervisor;
mod table;

pub use self::balancer::{Balancer, Phase};
pub use self::lease::Lease;
pub use self::rebalance::start_rebalancing;
pub use self::registry::Backends;
pub use self::table::ConnectionTable;
