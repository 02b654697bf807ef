//! What is known of how a backend is: its one owner, asked and told by whoever deals with it.
//!
//! `up` serves. `suspect` has just failed, and serves when none is up; one good check clears it.
//! `down` has failed `fall` checks, and serves when there is nothing better; `rise` good ones bring
//! it back. `syncing` answers, but may lack data: nothing is ever read from it before it has proved,
//! in `rise` checks running, that it has what the others have.
//!
//! [`rule::judge`] decides what a check means; this module applies the verdict.

pub mod checker;
mod health;
mod in_use;
mod known;
mod member;
mod questions;
mod record;
pub mod rule;
#[cfg(test)]
mod rule_tests;
mod state;
mod summary;
#[cfg(test)]
mod tests;

pub use self::health::{Health, HealthSettings};
pub use self::in_use::DatabasesInUse;
pub use self::known::{Databases, Known};
pub use self::member::Member;
pub use self::state::{BackendState, StateListener};
pub use self::summary::{Change, Summary};
