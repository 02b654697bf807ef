//! `dns://` and `dns+srv://`: the records of a name.

use std::time::Instant;

use super::source::{DiscoveryError, Found, KnownServers, ServiceDiscovery};
use crate::config::source::SourceConfig;

/// A name in DNS.
pub(super) struct Dns {
    source: SourceConfig,
}

impl Dns {
    pub fn new(source: &SourceConfig) -> Self {
        Self { source: source.clone() }
    }
}

impl ServiceDiscovery for Dns {
    fn discover(
        &mut self,
        _known: &dyn KnownServers,
        _deadline: Instant,
    ) -> Result<Found, DiscoveryError> {
        Err(DiscoveryError::NoAnswer(format!("{} can't be asked", self.source.name())))
    }
}
