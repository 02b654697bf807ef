//! What all clients share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::backend::Backend;
use crate::balance::ConnectionTable;
use crate::config::Config;
use crate::lock::lock;

/// The configuration, the backends, and how many leases each has.
#[derive(Debug)]
pub struct Balancer {
    /// The checked configuration.
    pub config: Config,
    /// The backends, in the order of the configuration.
    pub backends: Vec<Arc<Backend>>,
    /// How many leases each of them has.
    pub table: Arc<ConnectionTable>,
    draining: AtomicBool,
    log_order: Mutex<()>,
}

impl Balancer {
    /// Nothing is connected yet.
    pub fn new(config: Config) -> Arc<Self> {
        let backends: Vec<Arc<Backend>> = config
            .backends
            .iter()
            .map(|address| Arc::new(Backend::new(address.clone(), config.backend_timeout)))
            .collect();
        let table = ConnectionTable::new(backends.len());
        Arc::new(Self {
            config,
            backends,
            table,
            draining: AtomicBool::new(false),
            log_order: Mutex::new(()),
        })
    }

    /// From now on each connection closes behind the answer that it waits for.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the end of the process has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Held while [`counts`](Self::counts) are read and logged, so that no line overtakes another.
    pub fn log_order(&self) -> MutexGuard<'_, ()> {
        lock(&self.log_order)
    }

    /// The connection table for the log: `127.0.0.1:1111=1 127.0.0.1:2222=0`.
    pub fn counts(&self) -> String {
        let counts = self.table.counts();
        let shown: Vec<String> = self
            .backends
            .iter()
            .zip(counts)
            .map(|(backend, count)| format!("{}={count}", backend.name()))
            .collect();
        shown.join(" ")
    }
}
