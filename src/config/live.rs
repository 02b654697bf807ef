//! The configuration that is in effect, which a reload replaces.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Config;

/// The configuration as all parts of the process share it. What a part reads once, and keeps, stays as it was.
#[derive(Debug, Clone)]
pub struct LiveConfig(Arc<ArcSwap<Config>>);

impl LiveConfig {
    /// Shares a configuration.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// Shares the configuration of these flags.
    #[cfg(test)]
    pub fn of(flags: &[&str]) -> Self {
        let arguments = ["lb"].iter().chain(flags);
        Self::new(Config::from_arguments(arguments).expect("a configuration"))
    }

    /// Returns the configuration as it is now.
    pub fn get(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// Replaces it for all who share it.
    pub fn replace(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}
