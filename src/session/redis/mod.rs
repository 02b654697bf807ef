//! The conversation with a client of the Redis protocol: commands in, replies out, in order.

mod backlog;
mod batch;
mod blocking_read;
mod client;
mod config_get;
mod exec;
mod forward;
mod in_flight;
mod info;
mod local_commands;
mod login;
mod names;
mod near_cache;
mod replies;
mod reply_writer;
mod role;
mod scan;
mod scripts;
mod search;
mod session;
#[cfg(test)]
mod session_tests;
mod subscribe;
mod subscription;
mod transaction;
mod upstream;

pub use self::session::converse;
