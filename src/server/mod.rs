//! Accepts clients, gives each a thread, and lets them finish when the process ends.

pub mod acceptor;
pub mod banner;
mod drain;
pub mod limits;
pub mod listener;
pub mod scheduling;
mod turn_away;
mod workers;
