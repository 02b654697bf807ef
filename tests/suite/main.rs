//! The whole system, tested with real `redis-server` processes and the real binaries.

mod balancing;
mod failover;
mod listing;
mod support;
mod values;
