//! Accepts clients, gives each a thread, and lets them finish when the process ends.

pub mod acceptor;
mod drain;
pub mod listener;
pub mod start;
mod turn_away;
mod workers;
