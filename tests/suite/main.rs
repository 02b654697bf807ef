//! The whole system, tested with real `redis-server` processes and the real binaries.

mod access_log;
mod activation;
mod admin;
mod balancing;
mod chaos;
mod check;
mod clients;
mod command_line;
mod cursors;
mod data_browser;
#[cfg(unix)]
mod demo;
mod detection;
mod differential;
mod failover;
mod faults;
mod health;
mod http;
mod isolation;
mod large;
mod listing;
mod malformed;
mod malformed_commands;
mod metrics;
mod policy;
mod resp_failover;
mod resp_limits;
mod rights;
mod seed;
mod sessions;
mod shutdown;
mod startup;
mod status;
mod subscriptions;
mod support;
mod values;
