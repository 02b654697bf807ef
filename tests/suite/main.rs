//! The whole system, tested with real `redis-server` processes and the real binaries.

mod balancing;
#[cfg(unix)]
mod demo;
mod failover;
mod large;
mod seed;
mod support;
