//! Accepts clients, gives each a thread, and lets them finish when the process ends.

mod acceptor;
mod banner;
mod limits;
mod listener;
mod places;
mod reload;
mod signals;
mod turn_away;
mod workers;

pub use acceptor::serve;
pub use banner::introduce;
pub use limits::raise_limits;
pub use listener::{Listeners, PassedOn};
pub use reload::reload;
pub use signals::{notify, start_signals};
pub use workers::schedule_in_batches;
