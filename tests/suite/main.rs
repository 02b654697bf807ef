//! The whole system, tested with real `redis-server` processes and the real binaries.

mod balancing;
mod failover;
mod http;
mod malformed;
mod shutdown;
mod support;
