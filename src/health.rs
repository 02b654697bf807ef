//! What is found out about backends apart from any client's request: for now, what their names mean
//! and whether they answer at start.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use log::warn;

use crate::backend::Backend;
use crate::balancer::Balancer;

/// How often a backend's name is looked up again, so that one that moves is found.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);

/// Looks at each backend in a thread of its own, which then keeps its name resolved. A warning
/// names what does not answer; no client waits for that.
pub fn start(balancer: &Balancer) {
    let (answers, answered) = channel();
    for backend in &balancer.backends {
        let (backend, answers) = (Arc::clone(backend), answers.clone());
        spawn("health", move || watch(&backend, answers));
    }
    drop(answers);
    spawn("health", move || {
        if !answered.iter().any(|answers| answers) {
            warn!("no backend answers: requests get 503 until one does");
        }
    });
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        warn!("not every backend is looked at: no thread for it: {error}");
    }
}

fn watch(backend: &Backend, answers: Sender<bool>) {
    backend.resolve();
    let at_start = backend.ping();
    if let Err(error) = &at_start {
        backend.set_failing(true);
        warn!("{} does not answer yet: {error}", backend.name());
    }
    // Whoever counts the answers may have seen enough.
    let _ = answers.send(at_start.is_ok());
    drop(answers);
    while backend.has_name() {
        thread::sleep(RESOLVE_INTERVAL);
        backend.resolve();
    }
}
