//! The whole system, tested with real `redis-server` processes and the real binaries.

mod balancing;
mod clients;
mod command_line;
#[cfg(unix)]
mod demo;
mod detection;
mod differential;
mod failover;
mod http;
mod large;
mod listing;
mod malformed;
mod policy;
mod seed;
mod shutdown;
mod support;
mod values;
