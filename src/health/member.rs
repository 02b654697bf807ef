//! A backend together with what is known of its health.

use std::ops::Deref;
use std::sync::Arc;

use super::Health;
use crate::backend::Backend;

/// A backend that is balanced, and its health.
#[derive(Debug)]
pub struct Member {
    backend: Arc<Backend>,
    /// Its state, and what that rests on.
    pub health: Arc<Health>,
}

impl Member {
    /// This backend, judged by `health`.
    pub fn new(backend: Arc<Backend>, health: Arc<Health>) -> Self {
        Self { backend, health }
    }

    /// The backend, for those who keep it.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Whether the database of its URL may be read from it, without a lock.
    pub fn serves_own(&self) -> bool {
        self.health.serves(self.backend.own_mode().database)
    }
}

impl Deref for Member {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}
