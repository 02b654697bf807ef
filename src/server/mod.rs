//! Accepts clients, gives each a thread, and lets them finish when the process ends.

pub mod listener;
pub mod start;
mod workers;
