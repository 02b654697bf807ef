//! Control at run time: a Unix socket that speaks HTTP and JSON, and `lb ctl`, its client.
//!
//! The socket is made before anything is served, with its final rights from the first moment on ([`ControlSocket`]). A
//! thread accepts, and each connection has a thread of its own for one request. There are few at a time, and every wait
//! for them has a limit: whoever connects and says nothing does not hold up the next.

mod clients;
pub mod ctl;
mod operations;
mod routes;
mod serve;
mod shown;
mod socket;

use std::sync::Arc;

pub use self::socket::{ControlError, ControlSocket};
use crate::balance::Balancer;
use crate::session::ClientList;

/// Reads the configuration again and takes it over. Returns what that has changed, or why it has changed nothing, in
/// lines for people.
pub type Reload = Box<dyn Fn() -> Result<Vec<String>, Vec<String>> + Send + Sync>;

/// What the socket gives control over.
struct Control {
    balancer: Arc<Balancer>,
    clients: Arc<dyn ClientList>,
    reload: Reload,
    places: serve::Places,
}
