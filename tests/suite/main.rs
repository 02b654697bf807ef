//! The whole system, tested with real `redis-server` processes and the real binaries.

mod balancing;
mod command_line;
#[cfg(unix)]
mod demo;
mod detection;
mod failover;
mod http;
mod large;
mod listing;
mod malformed;
mod seed;
mod shutdown;
mod support;
mod values;
