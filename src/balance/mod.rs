//! Which backend a client reads from: the connection table, failing over, the slow lane.

mod balancer;
pub mod cursor;
pub mod failover;
pub mod retry_budget;
pub mod slow;
mod table;

pub use self::balancer::{Balancer, Phase};
pub use self::table::{BackendState, ConnectionTable, Lease};
