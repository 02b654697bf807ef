//! `--role`: what clients are told that they are connected to.

use clap::ValueEnum;

/// The role of a Redis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A primary without replicas.
    Master,
    /// A replica.
    Replica,
}
