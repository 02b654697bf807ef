//! What the sources of backends have found.

use std::time::Instant;

use serde::Serialize;

use crate::balance::Balancer;
use crate::balance::discovered::SourceState;

#[derive(Debug, Serialize)]
pub(super) struct SourceStatus {
    pub name: String,
    /// Names of the servers of its last good answer.
    pub servers: Vec<String>,
    /// Time since that.
    answered_seconds: Option<f64>,
    /// Reason why it gives no list now.
    pub error: Option<String>,
}

impl SourceStatus {
    /// The sources as they are now, in the order of the configuration.
    pub fn all(balancer: &Balancer) -> Vec<Self> {
        let now = Instant::now();
        let status = |state: SourceState| Self {
            name: state.source.name().to_owned(),
            answered_seconds: state.age(now).map(|age| age.as_secs_f64()),
            servers: state.servers.iter().flatten().map(|one| one.name().to_owned()).collect(),
            error: state.error,
        };
        balancer.discovered.states().into_iter().map(status).collect()
    }
}
