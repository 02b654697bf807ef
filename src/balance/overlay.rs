//! What an operator has set at run time for the balancer as a whole. What was set of one backend is with that backend.

use log::LevelFilter;

use crate::config::backend::BackendConfig;

/// What an operator has set at run time. It lasts until the process ends; a reload leaves it as it is.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Overlay {
    /// Backends that were added to those of the configuration.
    pub added: Vec<BackendConfig>,
    /// Names of backends of the configuration that were removed.
    pub removed: Vec<String>,
    /// The level of the log in place of the configured one.
    pub log_level: Option<LevelFilter>,
}

impl Overlay {
    /// Returns whether a backend of this name was added.
    pub fn has_added(&self, name: &str) -> bool {
        self.added.iter().any(|backend| backend.name() == name)
    }

    /// Returns whether a backend of this name was removed.
    pub fn has_removed(&self, name: &str) -> bool {
        self.removed.iter().any(|removed| removed == name)
    }
}
