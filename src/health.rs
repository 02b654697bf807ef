//! What is found out about backends apart from any client's request: for now, what their names mean
//! and whether they answer at start.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::warn;

use crate::backend::{Backend, BackendError};
use crate::session::Balancer;

/// How often a backend's name is looked up again, so that one that moves is found.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);

/// Looks at each backend in a thread of its own, then keeps the names among them resolved. A
/// warning names what does not answer; nothing waits for that.
pub fn start(balancer: &Arc<Balancer>) {
    let balancer = Arc::clone(balancer);
    let checking = thread::Builder::new().name("health".to_owned()).spawn(move || {
        let answering = thread::scope(|scope| {
            let checks: Vec<_> =
                balancer.backends.iter().map(|b| scope.spawn(|| answers_at_start(b))).collect();
            checks.into_iter().filter_map(|check| check.join().ok()).filter(|&ok| ok).count()
        });
        if answering == 0 {
            warn!("no backend answers: requests get 503 until one does");
        }
        let named: Vec<_> = balancer.backends.iter().filter(|backend| backend.has_name()).collect();
        while !named.is_empty() {
            thread::sleep(RESOLVE_INTERVAL);
            named.iter().for_each(|backend| backend.resolve());
        }
    });
    if let Err(error) = checking {
        warn!("the backends are not looked at: no thread for it: {error}");
    }
}

fn answers_at_start(backend: &Backend) -> bool {
    backend.resolve();
    match ping(backend) {
        Ok(()) => true,
        Err(error) => {
            backend.set_failing(true);
            warn!("{} does not answer yet: {error}", backend.name());
            false
        }
    }
}

fn ping(backend: &Backend) -> Result<(), BackendError> {
    let mut connection = backend.request(&redis::cmd("PING").get_packed_command())?;
    crate::resp::reply::simple(connection.replies())?;
    backend.keep(connection);
    Ok(())
}
